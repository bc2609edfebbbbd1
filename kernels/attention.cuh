// What the kernels of attention share: rows in 8 bits, and which rows of a cache a query sees.
#pragma once
#include "common.cuh"

// A block of up to 32 elements in 8 bits, see quant::quantise_a8: eight words and the scale. What is missing is zero.
DEVICE f32 round_block(const f32* x, u32 len, u32 (&words)[8])
{
    u32 largest = 0;
    for (u32 i = 0; i < len; i++)
        largest = max(largest, __float_as_uint(x[i]) & 0x7fffffffu);
    const f32 most = __uint_as_float(largest), scale = most / 127.0f;
    const bool bad = largest >= 0x7f800000u, zero = scale < 1.17549435e-38f;
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        words[i] = 0;
    if (!bad && !zero) {
        const f32 inverse = 127.0f / most;
#pragma unroll
        for (u32 i = 0; i < 32; i++)
            if (i < len)
                words[i / 4] |= (__float_as_uint(x[i] * inverse + 12582912.0f) & 255) << (i % 4 * 8);
    }
    return bad ? __uint_as_float(0x7fc00000u) : zero ? 0.0f : scale;
}

// A query of `blocks` blocks by the block's threads: eight words each, then a scale each.
DEVICE void round_query(u32* to, const f32* q, u32 head_dim, u32 blocks, u32 threads)
{
    for (u32 b = threadIdx.x; b < blocks; b += threads) {
        u32 words[8];
        const f32 own = round_block(q + b * 32, min(head_dim - b * 32, 32u), words);
#pragma unroll
        for (u32 w = 0; w < 8; w++)
            to[b * 8 + w] = words[w];
        to[blocks * 8 + b] = __float_as_uint(own);
    }
}

// Rows from `from` on, cut to the cache.
DEVICE u32 cut(u32 from, u32 len, u32 kv_rows) { return from < kv_rows ? min(len, kv_rows - from) : 0; }

// The rows that a query sees: `prefix` from `first` on, then `rest` from `second` on.
struct Visible {
    u32 first, prefix, second, rest;
    f32 first_weight;
    DEVICE Visible(const u32* span, u32 i, u32 queries, u32 kv_rows, u32 causal, u32 repeated_prefix)
    {
        u32 seen = span[3];
        if (causal) {
            const u64 end = (u64)seen + i + 1;
            seen = min(seen, (u32)(end > queries ? end - queries : 0));
        }
        first = span[0];
        prefix = cut(first, repeated_prefix ? min(span[1], 1u) : span[1], kv_rows);
        second = span[2];
        rest = cut(second, seen, kv_rows);
        first_weight = repeated_prefix && prefix == 1 ? (f32)span[1] : 1.0f;
    }
    DEVICE u64 row(u32 n) const { return n < prefix ? first + n : second + (n - prefix); }
};
