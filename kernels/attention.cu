// Rotary embedding, cache append, both of them, attention.
//
// Attention: one block of 128 threads takes one head of one query row. It goes over the visible rows twice in tiles of
// 128: once for the largest score, once for the exponentials and the sum of values. A thread owns a row while scores
// are made and one or more columns while values are summed, so that every sum runs in the order of ops::attention:
// scores over the head, values over the rows from the first of the prefix to the last own one, exponentials in 16
// lanes. Bound: keys twice and values once a query head, out of the caches where heads share them. Compute
// capability 8.0. What most models ask for runs elsewhere: see tiles.cu, heads.cu and decode.cu.
#include "attention.cuh"

extern "C" __global__ void __launch_bounds__(256) rotary(
    f32* x,                            // [rows, stride], in place
    const u32* __restrict__ positions, // [rows]
    const f32* __restrict__ table,     // [table_rows, rotary_dim]: cosines, sines
    u32 rows, u32 heads, u32 head_dim, u32 rotary_dim, u32 stride, u32 offset, u32 table_rows)
{
    const u32 half = rotary_dim / 2;
    const u32 i = element(), head = i / half, row = head / heads;
    if (row >= rows)
        return;
    const u32 p = positions[row], j = i % half;
    if (p >= table_rows)
        return;
    f32* at = x + (u64)row * stride + offset + head % heads * head_dim + j;
    const f32 c = table[(u64)p * rotary_dim + j], s = table[(u64)p * rotary_dim + half + j];
    const f32 a = at[0], b = at[half];
    at[0] = a * c - b * s;
    at[half] = b * c + a * s;
}

extern "C" __global__ void __launch_bounds__(256) append(
    f32* __restrict__ cache,         // [heads, cache_rows, head_dim]
    const f32* __restrict__ x,       // [rows, stride]
    const u32* __restrict__ places,  // [rows]: rows of the cache; one outside is skipped
    u32 rows, u32 heads, u32 head_dim, u32 stride, u32 offset, u32 cache_rows)
{
    const u32 width = heads * head_dim;
    const u32 i = element(), row = i / width;
    if (row >= rows)
        return;
    const u32 place = places[row], c = i % width;
    if (place < cache_rows)
        cache[((u64)(c / head_dim) * cache_rows + place) * head_dim + c % head_dim] = x[(u64)row * stride + offset + c];
}

// As append, in blocks of 8 bits: eight lanes round one block. A row of a head is the levels of its blocks, then scales.
extern "C" __global__ void __launch_bounds__(256) append_q8(
    u32* __restrict__ cache,         // [heads, cache_rows, blocks * 9]
    const f32* __restrict__ x,       // [rows, stride]
    const u32* __restrict__ places,  // [rows]: rows of the cache; one outside is skipped
    u32 rows, u32 heads, u32 head_dim, u32 stride, u32 offset, u32 cache_rows)
{
    const u32 blocks = (head_dim + 31) / 32, i = element(), group = i / 8;
    const u32 b = group % blocks, h = group / blocks % heads, row = group / blocks / heads;
    const bool there = row < rows;
    u32 word;
    const f32* from = x + (there ? (u64)row * stride + offset + h * head_dim + b * 32 : 0);
    const f32 scale = round_block(from, there ? min(head_dim - b * 32, 32u) : 0, word);
    const u32 place = there ? places[row] : cache_rows;
    if (place >= cache_rows)
        return;
    u32* to = cache + ((u64)h * cache_rows + place) * (blocks * 9);
    to[b * 8 + i % 8] = word;
    if (i % 8 == 0)
        to[blocks * 8 + b] = __float_as_uint(scale);
}

extern "C" __global__ void __launch_bounds__(256) keep(KEEP_PARAMETERS(f32))
{
    keep_heads(keys, values, x, positions, table, places, rows, q_heads, kv_heads, head_dim, rotary_dim, table_rows,
               cache_rows, q_weight, q_bias, k_weight, k_bias, normalise, eps, [=](f32* cache, u64 at, const f32* own) {
                   for (u32 d = threadIdx.x % 32; d < head_dim; d += 32)
                       cache[at * head_dim + d] = own[d];
               });
}

extern "C" __global__ void __launch_bounds__(256) keep_q8(KEEP_PARAMETERS(u32))
{
    keep_heads(keys, values, x, positions, table, places, rows, q_heads, kv_heads, head_dim, rotary_dim, table_rows,
               cache_rows, q_weight, q_bias, k_weight, k_bias, normalise, eps, [=](u32* cache, u64 at, const f32* own) {
                   const u32 blocks = (head_dim + 31) / 32, eighth = threadIdx.x % 8;
                   u32* const to = cache + at * (blocks * 9);
                   for (u32 base = 0; base < blocks; base += 4) {
                       const u32 b = base + threadIdx.x / 8 % 4;
                       u32 word;
                       const u32 len = b < blocks ? min(head_dim - b * 32, 32u) : 0;
                       const f32 scale = round_block(own + (len > 0 ? b * 32 : 0), len, word);
                       if (len > 0)
                           to[b * 8 + eighth] = word;
                       if (len > 0 && eighth == 0)
                           to[blocks * 8 + b] = __float_as_uint(scale);
                   }
               });
}

#define TILE 128

// The largest number of a block of 128 threads that is no NaN, for all of them.
DEVICE f32 tile_max(f32 x)
{
    __shared__ f32 warps[4];
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        const f32 other = __shfl_xor_sync(ALL, x, step);
        x = other > x ? other : x;
    }
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warps[0];
#pragma unroll
    for (u32 w = 1; w < 4; w++)
        x = warps[w] > x ? warps[w] : x;
    __syncthreads();
    return x;
}

// out[d] = sum over n < count of softmax(score(n)) * value(n)[d], the first exponential times `first_weight`;
// value(p, n, d) is such a product.
template <class S, class V>
DEVICE void attend(f32* out, const f32* query, u32 head_dim, u32 count, f32 first_weight, S score, V value)
{
    extern __shared__ f32 shared[];  // [2, head_dim]: query, sums of values; behind them what score needs
    __shared__ f32 weights[TILE];
    __shared__ f32 lanes[16];
    f32 *q = shared, *sums = shared + head_dim;
    for (u32 d = threadIdx.x; d < head_dim; d += TILE) {
        q[d] = query[d];
        sums[d] = 0.0f;
    }
    __syncthreads();
    f32 largest = -infinity();
    for (u32 n = threadIdx.x; n < count; n += TILE) {
        const f32 s = score(q, n);
        largest = s > largest ? s : largest;
    }
    largest = tile_max(largest);
    f32 lane = 0.0f;
    for (u32 base = 0; base < count; base += TILE) {
        const u32 n = base + threadIdx.x, rows = min(count - base, (u32)TILE);
        if (n < count)
            weights[threadIdx.x] = exponential(score(q, n) - largest) * (n == 0 ? first_weight : 1.0f);
        __syncthreads();
        if (threadIdx.x < 16)
            for (u32 i = threadIdx.x; i < rows; i += 16)
                lane += weights[i];
        for (u32 d = threadIdx.x; d < head_dim; d += TILE) {
            f32 sum = sums[d];
            for (u32 i = 0; i < rows; i++)
                sum += value(weights[i], base + i, d);
            sums[d] = sum;
        }
        __syncthreads();
    }
    if (threadIdx.x < 16)
        lanes[threadIdx.x] = lane;
    __syncthreads();
    f32 total = lanes[0];
#pragma unroll
    for (u32 l = 1; l < 16; l++)
        total += lanes[l];
    const f32 inverse = 1.0f / total;
    for (u32 d = threadIdx.x; d < head_dim; d += TILE)
        out[d] = total > 0.0f ? sums[d] * inverse : sums[d];
}

DEVICE f32 dot(const f32* q, const f32* key, u32 head_dim)
{
    f32 sum = 0.0f;
    for (u32 d = 0; d < head_dim; d++)
        sum += q[d] * key[d];
    return sum;
}

extern "C" __global__ void __launch_bounds__(128, 8) attention(
    f32* __restrict__ out,            // [sequences, queries, n_heads, head_dim]
    const f32* __restrict__ q,        // [sequences, queries, q_stride]
    const f32* __restrict__ keys,     // row j of head h at j * kv_stride + h * kv_head_stride
    const f32* __restrict__ values,   // the same
    const u32* __restrict__ spans,    // [sequences, 4 + pages]: first row and length of the prefix, then of the own rows, pages
    u32 queries, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride, u32 kv_head_stride,
    u32 causal, u32 repeated_prefix, u32 pages)
{
    const u32 row = blockIdx.x, h = blockIdx.y;
    const Paged sees(spans, row / queries, row % queries, queries, kv_rows, causal, repeated_prefix, pages);
    keys += (u64)(h / group) * kv_head_stride;
    values += (u64)(h / group) * kv_head_stride;
    const f32 scale = 1.0f / root((f32)head_dim);
    const auto at = [=](u32 n) { return sees.row(n) * kv_stride; };
    attend(
        out + ((u64)row * gridDim.y + h) * head_dim, q + (u64)row * q_stride + q_offset + (u64)h * head_dim, head_dim,
        sees.prefix + sees.rest, sees.first_weight,
        [=](const f32* q, u32 n) { return dot(q, keys + at(n), head_dim) * scale; },
        [=](f32 p, u32 n, u32 d) { return p * values[at(n) + d]; });
}

// Keys and values in blocks of 8 bits, a query rounded alike: see ops::attention::attention_q8.
extern "C" __global__ void __launch_bounds__(128, 8) attention_q8(
    f32* __restrict__ out,            // [sequences, queries, n_heads, head_dim]
    const f32* __restrict__ q,        // [sequences, queries, q_stride]
    const u32* __restrict__ keys,     // row j of head h at j * kv_stride + h * kv_head_stride: levels, then scales
    const u32* __restrict__ values,   // the same
    const u32* __restrict__ spans,    // [sequences, 4 + pages]: first row and length of the prefix, then of the own rows, pages
    u32 queries, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride, u32 kv_head_stride,
    u32 causal, u32 repeated_prefix, u32 pages)
{
    extern __shared__ f32 shared[];
    const u32 row = blockIdx.x, h = blockIdx.y, blocks = (head_dim + 31) / 32;
    const Paged sees(spans, row / queries, row % queries, queries, kv_rows, causal, repeated_prefix, pages);
    keys += (u64)(h / group) * kv_head_stride;
    values += (u64)(h / group) * kv_head_stride;
    const f32* query = q + (u64)row * q_stride + q_offset + (u64)h * head_dim;
    u32* levels = (u32*)(shared + 2 * head_dim);  // [blocks, 8], then [blocks] scales
    // All threads meet in `attend` before a score reads them.
    round_query(levels, query, head_dim, blocks, TILE);
    const f32 scale = 1.0f / root((f32)head_dim);
    const auto at = [=](u32 n) { return sees.row(n) * kv_stride; };
    attend(
        out + ((u64)row * gridDim.y + h) * head_dim, query, head_dim, sees.prefix + sees.rest, sees.first_weight,
        [=](const f32*, u32 n) {
            const u32* key = keys + at(n);
            f32 sum = 0.0f;
            for (u32 b = 0; b < blocks; b++) {
                i32 dot = 0;
#pragma unroll
                for (u32 w = 0; w < 8; w++)
                    dot = __dp4a((i32)levels[b * 8 + w], (i32)key[b * 8 + w], dot);
                sum += (f32)dot * __uint_as_float(key[blocks * 8 + b]) * __uint_as_float(levels[blocks * 8 + b]);
            }
            return sum * scale;
        },
        [=](f32 p, u32 n, u32 d) {
            const u32* value = values + at(n);
            const i32 level = (i32)(value[d / 4] << (24 - d % 4 * 8)) >> 24;
            return p * __uint_as_float(value[blocks * 8 + d / 32]) * (f32)level;
        });
}

extern "C" __global__ void __launch_bounds__(128, 8) relative_attention(
    f32* __restrict__ out,         // [rows, n_heads, head_dim]
    const f32* __restrict__ qkv,   // [rows, 3, n_heads, head_dim]
    const f32* __restrict__ bias,  // [n_heads, 2 * rows - 1]: of distance j - i + rows - 1
    u32 rows, u32 head_dim, f32 scale)
{
    const u32 i = blockIdx.x, h = blockIdx.y;
    const u64 width = (u64)gridDim.y * head_dim;
    qkv += (u64)h * head_dim;
    bias += (u64)h * (2 * (u64)rows - 1) + (rows - 1 - i);
    attend(
        out + i * width + (u64)h * head_dim, qkv + 3 * i * width, head_dim, rows, 1.0f,
        [=](const f32* q, u32 n) { return dot(q, qkv + (3 * (u64)n + 1) * width, head_dim) * scale + bias[n]; },
        [=](f32 p, u32 n, u32 d) { return p * qkv[(3 * (u64)n + 2) * width + d]; });
}
