// Attention of many query rows with wide heads, as decoders of pictures have it: 512 columns of one head. A block for 64
// rows would be a few blocks, each with a long way to go; so the two products are parted further, and three launches
// follow each other.
//
// Scores: a block of 128 threads takes 64 query rows of a head and 32 keys at a time, 64 columns of both in shared memory,
// the next 64 on their way. Weights: a warp takes a row, the largest of its scores, exponentials in their place, and the
// sum of those in 16 lanes. Values: a block takes 64 rows and 32 columns, tiles of 32 weights and values.
// A score is one thread's sum over the head, a column one thread's sum over the rows: orders are those of ops::attention.
// Bound: the floating-point units. Compute capability 8.0.
#include "tiles.cuh"

#define KEYS 32
#define WIDTH 64

// The query rows of a block: `tile` counts 64 of a sequence's at a time, and heads fastest.
struct Place {
    u32 sequence, first, last, h;
    DEVICE Place(u32 tile, u32 queries, u32 heads)
    {
        const u32 parts = (queries + ROWS - 1) / ROWS, at = tile / heads;
        h = tile % heads;
        sequence = at / parts;
        first = at % parts * ROWS;
        last = min(first + ROWS, queries) - 1;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 3) wide_scores(
    f32* __restrict__ scores,        // [tiles, ROWS, width]: of each visible row
    const f32* __restrict__ q,       // [sequences, queries, q_stride]
    const u32* __restrict__ keys,    // row j of head h at j * kv_stride + h * kv_head_stride: floats
    const u32* __restrict__ spans,   // [sequences, 4]: first row and length of the prefix, then of the own rows
    u32 queries, u32 n_heads, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride,
    u32 kv_head_stride, u32 causal, u32 repeated_prefix, u32 first_tile, u32 width)
{
    using P = Plan<WIDTH, KEYS, false>;
    const u32 STAGE = (ROWS + KEYS) * P::PITCH;
    extern __shared__ uint4 shared[];  // [2, ROWS + KEYS, PITCH]
    u32* ring = (u32*)shared;
    const Place at(first_tile + blockIdx.y, queries, n_heads);
    const Visible sees(spans + (u64)at.sequence * 4, at.last, queries, kv_rows, causal, repeated_prefix);
    const u32 count = sees.prefix + sees.rest, chunks = (head_dim + WIDTH - 1) / WIDTH;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 line = (lane & 1) | lane >> 4 << 1, column = lane >> 1 & 7, row = warp * 16 + line;
    q += (u64)at.sequence * queries * q_stride + q_offset + (u64)at.h * head_dim;
    keys += (u64)(at.h / group) * kv_head_stride;
    scores += (u64)blockIdx.y * ROWS * width;
    const f32 scale = 1.0f / root((f32)head_dim);
    const u32 piece = threadIdx.x % 16 * 4;
    for (u32 base = blockIdx.x * KEYS; base < count; base += gridDim.x * KEYS) {
        // Rows past the last one are the last one again.
        const auto fetch = [&](u32 chunk) {
            u32* to = ring + chunk % 2 * STAGE + piece;
            const u32 d = chunk * WIDTH + piece;
            if (d < head_dim) {
#pragma unroll 4
                for (u32 n = threadIdx.x / 16; n < ROWS; n += THREADS / 16)
                    copy_async<16, true>(to + n * P::PITCH, q + (u64)min(at.first + n, at.last) * q_stride + d);
#pragma unroll
                for (u32 n = threadIdx.x / 16; n < KEYS; n += THREADS / 16)
                    copy_async<16, false>(to + (ROWS + n) * P::PITCH, keys + sees.row(min(base + n, count - 1)) * kv_stride + d);
            }
            copy_commit();
        };
        f32 s[4][P::EACH];
#pragma unroll
        for (u32 i = 0; i < 4; i++)
#pragma unroll
            for (u32 j = 0; j < P::EACH; j++)
                s[i][j] = 0.0f;
        fetch(0);
        for (u32 chunk = 0; chunk < chunks; chunk++) {
            copy_wait<0>();
            // All copies have landed, and all threads are done with the columns before.
            __syncthreads();
            if (chunk + 1 < chunks)
                fetch(chunk + 1);
            const u32* stage = ring + chunk % 2 * STAGE;
            add_products<P>(
                s, stage + row * P::PITCH, stage + (ROWS + column) * P::PITCH, min(head_dim - chunk * WIDTH, (u32)WIDTH));
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++)
#pragma unroll
            for (u32 j = 0; j < P::EACH; j++)
                if (base + column + 8 * j < count)
                    scores[(u64)(row + 4 * i) * width + base + column + 8 * j] = s[i][j] * scale;
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) wide_weights(
    f32* __restrict__ scores,        // [tiles, ROWS, width]: in place
    f32* __restrict__ totals,        // [tiles, ROWS]: of a row's weights
    const u32* __restrict__ spans,   // [sequences, 4]
    u32 queries, u32 n_heads, u32 kv_rows, u32 causal, u32 repeated_prefix, u32 first_tile, u32 width)
{
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x * 4 + warp;
    const Place at(first_tile + blockIdx.y, queries, n_heads);
    const u32 own = min(at.first + row, at.last);
    const Visible sees(spans + (u64)at.sequence * 4, own, queries, kv_rows, causal, repeated_prefix);
    const Visible most(spans + (u64)at.sequence * 4, at.last, queries, kv_rows, causal, repeated_prefix);
    const u32 count = sees.prefix + sees.rest, whole = (most.prefix + most.rest + KEYS - 1) / KEYS * KEYS;
    scores += ((u64)blockIdx.y * ROWS + row) * width;
    f32 largest = -infinity();
#pragma unroll 4
    for (u32 n = lane; n < count; n += 32) {
        const f32 s = scores[n];
        largest = s > largest ? s : largest;
    }
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        const f32 other = __shfl_xor_sync(ALL, largest, step);
        largest = other > largest ? other : largest;
    }
    f32 sum = 0.0f;
#pragma unroll 4
    for (u32 base = 0; base < whole; base += 32) {
        const u32 n = base + lane;
        const f32 p = n < count ? exponential(scores[n] - largest) * (n == 0 ? sees.first_weight : 1.0f) : 0.0f;
        scores[n] = p;
        // Lane l sums the weights of rows l, l + 16 and so on: the upper half does the same.
        sum += __shfl_sync(ALL, p, lane & 15);
        sum += __shfl_sync(ALL, p, (lane & 15) + 16);
    }
    const f32 total = lanes_total(sum);
    if (lane == 0)
        totals[(u64)blockIdx.y * ROWS + row] = total;
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) wide_values(
    f32* __restrict__ out,            // [sequences, queries, n_heads, head_dim]
    const f32* __restrict__ weights,  // [tiles, ROWS, width]
    const f32* __restrict__ totals,   // [tiles, ROWS]
    const u32* __restrict__ values,   // row j of head h at j * kv_stride + h * kv_head_stride: floats
    const u32* __restrict__ spans,    // [sequences, 4]
    u32 queries, u32 n_heads, u32 group, u32 head_dim, u32 kv_rows, u32 kv_stride, u32 kv_head_stride, u32 causal,
    u32 repeated_prefix, u32 first_tile, u32 width)
{
    using P = Plan<32, KEYS, false>;
    __shared__ uint4 shared[2 * (ROWS * KEYS + KEYS * P::PITCH) / 4];  // [2]: weights [ROWS, KEYS], values [KEYS, PITCH]
    const u32 STAGE = ROWS * KEYS + KEYS * P::PITCH;
    u32* ring = (u32*)shared;
    const Place at(first_tile + blockIdx.y, queries, n_heads);
    const auto seen = [&](u32 i) {
        const Visible v(spans + (u64)at.sequence * 4, min(i, at.last), queries, kv_rows, causal, repeated_prefix);
        return v.prefix + v.rest;
    };
    const Visible sees(spans + (u64)at.sequence * 4, at.last, queries, kv_rows, causal, repeated_prefix);
    const u32 count = sees.prefix + sees.rest, slice = blockIdx.x * 32;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 line = (lane & 1) | lane >> 4 << 1, column = lane >> 1 & 7, row = warp * 16 + line;
    const u32 least = seen(at.first + warp * 16), most = seen(at.first + warp * 16 + 15);
    u32 limits[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        limits[i] = seen(at.first + row + 4 * i);
    weights += (u64)blockIdx.y * ROWS * width;
    values += (u64)(at.h / group) * kv_head_stride + slice;
    const u32 piece = threadIdx.x % 8 * 4;
    const auto fetch = [&](u32 base, u32 stage) {
        u32* to = ring + stage * STAGE;
#pragma unroll
        for (u32 n = threadIdx.x / 8; n < ROWS; n += THREADS / 8)
            copy_async<16, false>(to + n * KEYS + (piece ^ n % 4 * 8), weights + (u64)n * width + base + piece);
        to += ROWS * KEYS + piece;
#pragma unroll
        for (u32 n = threadIdx.x / 8; n < KEYS; n += THREADS / 8)
            if (base + n < count && slice + piece < head_dim)
                copy_async<16, false>(to + n * P::PITCH, values + sees.row(base + n) * kv_stride + piece);
            else
                *(uint4*)(to + n * P::PITCH) = make_uint4(0, 0, 0, 0);
        copy_commit();
    };
    f32 sums[4][P::COLUMNS];
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 c = 0; c < P::COLUMNS; c++)
            sums[i][c] = 0.0f;
    if (count > 0)
        fetch(0, 0);
    for (u32 base = 0; base < count; base += KEYS) {
        const u32* stage = ring + base / KEYS % 2 * STAGE;
        copy_wait<0>();
        // All copies have landed, and all threads are done with the tile before.
        __syncthreads();
        if (base + KEYS < count)
            fetch(base + KEYS, (base / KEYS + 1) % 2);
        if (base >= most)
            continue;
        const f32 *own = (const f32*)stage + row * KEYS, *tile = (const f32*)(stage + ROWS * KEYS);
        const u32 end = min(base + KEYS, most), whole = (end + 3) / 4 * 4;
        if (least < end || (whole > end && end < count))
            add_seen_rows<P, 32, KEYS, false>(sums, own, line * 8, tile, stage, column, end - base, limits, base);
        else
            add_rows<P, 32, KEYS, false>(sums, own, line * 8, tile, stage, column, whole - base);
    }
    if (slice + 4 * column >= head_dim)
        return;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = at.first + row + 4 * i;
        if (r > at.last)
            continue;
        const f32 total = totals[(u64)blockIdx.y * ROWS + row + 4 * i], inverse = 1.0f / total;
#pragma unroll
        for (u32 c = 0; c < 4; c++)
            sums[i][c] = total > 0.0f ? sums[i][c] * inverse : sums[i][c];
        *(float4*)(out + (((u64)at.sequence * queries + r) * n_heads + at.h) * head_dim + slice + 4 * column) =
            make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    }
}
