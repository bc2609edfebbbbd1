// Keys and values in upper halves of floats: append, and attention by tensor cores.
//
// A warp takes 16 rows, a row being a head of a query: heads that share keys stand beside each other, so that one query
// of 7 heads is 7 rows of one matrix. Keys come in tiles of 64, counted from the first row that a sequence sees; their
// scores, softened against the largest so far, are rounded to halves where they lie and multiplied with the tile's values.
// Sums move with the largest score. Two or three stages in a ring: while a tile is multiplied, the next is on its way.
//
//   flash_*_many   a block of 4 warps: 64 rows, all of them over the same tiles
//   flash_*_few    a block of 4 warps and one matrix of 16 rows: a warp makes the scores of 16 keys of each tile, all
//                  meet in shared memory, then a warp sums up its own columns of the values
//
// The bits of a row: a tile's scores are products over the head in order; its largest score is exact; exponentials are
// summed by 4 lanes, tile after tile; a column's sum goes over 4 times 16 keys of a tile, tile after tile. A tile that a
// row does not see adds zeros and multiplies by one. So neither the block's other rows nor its kind are in the bits.
//
// Bound: matrix products, 2 to 4 blocks a multiprocessor by registers; few rows: the reading of keys and values. Compute
// capability 8.0.
#include "flash.cuh"

extern "C" __global__ void __launch_bounds__(256) append_bf16(
    u32* __restrict__ cache,         // [heads, cache_rows, words]
    const f32* __restrict__ x,       // [rows, stride]
    const u32* __restrict__ places,  // [rows]: rows of the cache; one outside is skipped
    u32 rows, u32 heads, u32 head_dim, u32 stride, u32 offset, u32 cache_rows)
{
    const u32 words = (head_dim + 1) / 2;
    const u32 i = element(), w = i % words, h = i / words % heads, row = i / words / heads;
    if (row >= rows || places[row] >= cache_rows)
        return;
    const f32* from = x + (u64)row * stride + offset + h * head_dim + 2 * w;
    const u32 high = 2 * w + 1 < head_dim ? upper_half(from[1]) : 0;
    cache[((u64)h * cache_rows + places[row]) * words + w] = upper_half(from[0]) | high << 16;
}

extern "C" __global__ void __launch_bounds__(256) keep_bf16(KEEP_PARAMETERS(u32))
{
    keep_heads(keys, values, x, positions, table, places, rows, q_heads, kv_heads, head_dim, rotary_dim, table_rows,
               cache_rows, q_weight, q_bias, k_weight, k_bias, normalise, eps, [=](u32* cache, u64 at, const f32* own) {
                   const u32 words = (head_dim + 1) / 2;
                   for (u32 w = threadIdx.x % 32; w < words; w += 32) {
                       const u32 high = 2 * w + 1 < head_dim ? upper_half(own[2 * w + 1]) : 0;
                       cache[at * words + w] = upper_half(own[2 * w]) | high << 16;
                   }
               });
}

#define TILE 128

// The largest number of a block of 128 threads that is no NaN, for all of them.
DEVICE f32 largest_of(f32 x)
{
    __shared__ f32 warps[4];
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL, x, step));
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = x;
    __syncthreads();
    return fmaxf(fmaxf(warps[0], warps[1]), fmaxf(warps[2], warps[3]));
}

// Heads that are wider than 128, which no model has in its caches: one block a head of a query row, in the order of
// ops::attention::attention_bf16.
extern "C" __global__ void __launch_bounds__(128, 8) attention_bf16(
    f32* __restrict__ out,            // [sequences, queries, n_heads, head_dim]
    const f32* __restrict__ q,        // [sequences, queries, q_stride]
    const u32* __restrict__ keys,     // row j of head h at j * kv_stride + h * kv_head_stride: two halves a word
    const u32* __restrict__ values,   // the same
    const u32* __restrict__ spans,    // [sequences, 4 + pages]: first row and length of the prefix, then of the own rows, pages
    u32 queries, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride, u32 kv_head_stride,
    u32 causal, u32 repeated_prefix, u32 pages)
{
    extern __shared__ uint4 room[];  // query, sums of values
    __shared__ f32 weights[TILE], lanes[16];
    f32 *query = (f32*)room, *sums = query + head_dim;
    const u32 row = blockIdx.x, h = blockIdx.y;
    const Paged sees(spans, row / queries, row % queries, queries, kv_rows, causal, repeated_prefix, pages);
    const u32 count = sees.prefix + sees.rest;
    keys += (u64)(h / group) * kv_head_stride;
    values += (u64)(h / group) * kv_head_stride;
    q += (u64)row * q_stride + q_offset + (u64)h * head_dim;
    const f32 scale = 1.0f / root((f32)head_dim);
    for (u32 d = threadIdx.x; d < head_dim; d += TILE) {
        query[d] = from_bf16(upper_half(q[d]));
        sums[d] = 0.0f;
    }
    __syncthreads();
    const auto element_of = [](const u32* row, u32 d) { return from_bf16(row[d / 2] >> d % 2 * 16 & 0xffff); };
    const auto score = [&](u32 n) {
        const u32* key = keys + sees.row(n) * kv_stride;
        f32 sum = 0.0f;
        for (u32 d = 0; d < head_dim; d++)
            sum += query[d] * element_of(key, d);
        return sum * scale;
    };
    f32 largest = -infinity();
    for (u32 n = threadIdx.x; n < count; n += TILE)
        largest = fmaxf(largest, score(n));
    largest = largest_of(largest);
    f32 lane = 0.0f;
    for (u32 base = 0; base < count; base += TILE) {
        const u32 n = base + threadIdx.x, rows = min(count - base, (u32)TILE);
        if (n < count)
            weights[threadIdx.x] = exponential(score(n) - largest) * (n == 0 ? sees.first_weight : 1.0f);
        __syncthreads();
        if (threadIdx.x < 16)
            for (u32 i = threadIdx.x; i < rows; i += 16)
                lane += weights[i];
        for (u32 d = threadIdx.x; d < head_dim; d += TILE) {
            f32 sum = sums[d];
            for (u32 i = 0; i < rows; i++)
                sum += from_bf16(upper_half(weights[i])) * element_of(values + sees.row(base + i) * kv_stride, d);
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
        out[((u64)row * gridDim.y + h) * head_dim + d] = total > 0.0f ? sums[d] * inverse : sums[d];
}

template <u32 D, u32 WARPS, u32 STAGES, bool FEW>
DEVICE void flash(f32* out, const f32* q, const u32* keys, const u32* values, const u32* spans, const Shape& s)
{
    extern __shared__ uint4 room[];  // stages of 64 rows of keys and 64 of values
    __shared__ float4 meeting[FEW ? 8 * 32 : 1];
    constexpr u32 ROWS = Flash<D, WARPS, STAGES, FEW>::ROWS;
    const u32 kv_head = blockIdx.x, sequence = blockIdx.z, n_heads = gridDim.x * s.group;
    // Those that see most begin.
    const u32 rows = s.queries * s.group, first = (gridDim.y - 1 - blockIdx.y) * ROWS, end = min(first + ROWS, rows);
    const u64 before = (u64)sequence * s.queries;
    Flash<D, WARPS, STAGES, FEW> block(
        s, (u32*)room, keys + (u64)kv_head * s.kv_head_stride, values + (u64)kv_head * s.kv_head_stride,
        spans, sequence, first, end);
    block.run(q + before * s.q_stride + s.q_offset + (u64)kv_head * s.group * s.head_dim, first, end, meeting);
    block.finish(out + before * n_heads * s.head_dim, kv_head * s.group, n_heads, first, end);
}

#define FLASH(NAME, D, WARPS, STAGES, FEW, BLOCKS)                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) NAME(                                               \
        f32* __restrict__ out,            /* [sequences, queries, kv_heads * group, head_dim] */                         \
        const f32* __restrict__ q,        /* [sequences, queries, q_stride] */                                           \
        const u32* __restrict__ keys,     /* row j of head h at j * kv_stride + h * kv_head_stride: two halves a word */ \
        const u32* __restrict__ values,   /* the same */                                                                 \
        const u32* __restrict__ spans,    /* [sequences, 4 + pages]: of the prefix, of own rows, pages */                \
        u32 queries, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride,                    \
        u32 kv_head_stride, u32 causal, u32 repeated_prefix, u32 pages, u32 wide)                                        \
    {                                                                                                                    \
        flash<D, WARPS, STAGES, FEW>(                                                                                    \
            out, q, keys, values, spans,                                                                                 \
            {queries, group, head_dim, q_stride, q_offset, kv_rows, kv_stride, kv_head_stride, causal,                   \
             repeated_prefix, pages, wide});                                                                             \
    }

FLASH(flash_64_few, 64, 4, 3, true, 4)
FLASH(flash_80_few, 80, 4, 3, true, 3)
FLASH(flash_128_few, 128, 4, 2, true, 3)
FLASH(flash_64_many, 64, 4, 2, false, 3)
FLASH(flash_80_many, 80, 4, 2, false, 3)
FLASH(flash_128_many, 128, 4, 2, false, 2)
