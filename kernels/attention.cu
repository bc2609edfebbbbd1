// Rotary embedding, cache append, attention.
//
// Attention: one block of 128 threads takes one head of one query row. It goes over the visible rows twice in tiles of
// 128: once for the largest score, once for the exponentials and the sum of values. A thread owns a row while scores
// are made and one or more columns while values are summed, so that every sum runs in the order of ops::attention:
// scores over the head, values over the rows from the first of the prefix to the last own one, exponentials in 16
// lanes. Bound: keys twice and values once a query head, out of the caches where heads share them. Compute
// capability 8.0.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) rotary(
    f32* x,                            // [rows, stride], in place
    const u32* __restrict__ positions, // [rows]
    const f32* __restrict__ table,     // [table_rows, rotary_dim]: cosines, sines
    u32 rows, u32 heads, u32 head_dim, u32 rotary_dim, u32 stride, u32 offset, u32 table_rows)
{
    const u32 half = rotary_dim / 2;
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u64 head = i / half, row = head / heads;
    if (row >= rows)
        return;
    const u32 p = positions[row], j = (u32)(i % half);
    if (p >= table_rows)
        return;
    f32* at = x + row * stride + offset + head % heads * head_dim + j;
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
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u64 row = i / width;
    if (row >= rows)
        return;
    const u32 place = places[row], c = (u32)(i % width);
    if (place < cache_rows)
        cache[((u64)(c / head_dim) * cache_rows + place) * head_dim + c % head_dim] = x[row * stride + offset + c];
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

// out[d] = sum over n < count of softmax(score(n)) * value(n)[d], the first exponential times `first_weight`.
template <class S, class V>
DEVICE void attend(f32* out, const f32* query, u32 head_dim, u32 count, f32 first_weight, S score, V value)
{
    extern __shared__ f32 shared[];  // [2, head_dim]: query, sums of values
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
                sum += weights[i] * value(base + i)[d];
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

// Rows from `from` on, cut to the cache.
DEVICE u32 cut(u32 from, u32 len, u32 kv_rows) { return from < kv_rows ? min(len, kv_rows - from) : 0; }

extern "C" __global__ void __launch_bounds__(128, 8) attention(
    f32* __restrict__ out,            // [sequences, queries, n_heads, head_dim]
    const f32* __restrict__ q,        // [sequences, queries, q_stride]
    const f32* __restrict__ keys,     // row j of head h at j * kv_stride + h * kv_head_stride
    const f32* __restrict__ values,   // the same
    const u32* __restrict__ spans,    // [sequences, 4]: first row and length of the prefix, then of the own rows
    u32 queries, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride, u32 kv_head_stride,
    u32 causal, u32 repeated_prefix)
{
    const u32 row = blockIdx.x, h = blockIdx.y;
    const u32 *span = spans + (u64)(row / queries) * 4, i = row % queries;
    const u32 prefix_rows = repeated_prefix ? min(span[1], 1u) : span[1], own = span[3];
    u32 seen = own;
    if (causal) {
        const u64 end = (u64)own + i + 1;
        seen = min(own, (u32)(end > queries ? end - queries : 0));
    }
    const u32 prefix = cut(span[0], prefix_rows, kv_rows), rest = cut(span[2], seen, kv_rows);
    const f32 first_weight = repeated_prefix && prefix == 1 ? (f32)span[1] : 1.0f;
    const u32 first = span[0], second = span[2];
    keys += (u64)(h / group) * kv_head_stride;
    values += (u64)(h / group) * kv_head_stride;
    const f32 scale = 1.0f / root((f32)head_dim);
    const auto at = [=](u32 n) { return (u64)(n < prefix ? first + n : second + (n - prefix)) * kv_stride; };
    attend(
        out + ((u64)row * gridDim.y + h) * head_dim, q + (u64)row * q_stride + q_offset + (u64)h * head_dim, head_dim,
        prefix + rest, first_weight, [=](const f32* q, u32 n) { return dot(q, keys + at(n), head_dim) * scale; },
        [=](u32 n) { return values + at(n); });
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
        [=](u32 n) { return qkv + (3 * (u64)n + 2) * width; });
}
