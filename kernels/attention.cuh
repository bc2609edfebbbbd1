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

// A block of up to 32 elements in 8 bits by 8 lanes, see quant::quantise_a8: this lane's word of 4 levels, and the scale
// for all of them. What is missing is zero. All lanes of a warp take part.
DEVICE u32 round_word(const f32* x, u32 len, f32& scale)
{
    const u32 first = threadIdx.x % 8 * 4;
    f32 own[4];
    u32 largest = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        own[i] = first + i < len ? x[first + i] : 0.0f;
        largest = max(largest, __float_as_uint(own[i]) & 0x7fffffffu);
    }
#pragma unroll
    for (u32 step = 4; step > 0; step /= 2)
        largest = max(largest, __shfl_xor_sync(ALL, largest, step));
    const f32 most = __uint_as_float(largest), exact = most / 127.0f;
    const bool bad = largest >= 0x7f800000u, zero = exact < 1.17549435e-38f;
    u32 word = 0;
    if (!bad && !zero) {
        const f32 inverse = 127.0f / most;
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            word |= (__float_as_uint(own[i] * inverse + 12582912.0f) & 255) << (i * 8);
    }
    scale = bad ? __uint_as_float(0x7fc00000u) : zero ? 0.0f : exact;
    return word;
}

// A query of `blocks` blocks by all of the block's threads, a multiple of 32: eight words each, then a scale each.
DEVICE void round_query(u32* to, const f32* q, u32 head_dim, u32 blocks, u32 threads)
{
    for (u32 base = 0; base < blocks * 8; base += threads) {
        const u32 i = base + threadIdx.x, b = i / 8;
        f32 scale;
        const u32 word = round_word(q + (b < blocks ? b * 32 : 0), b < blocks ? min(head_dim - b * 32, 32u) : 0, scale);
        if (b < blocks) {
            to[i] = word;
            if (i % 8 == 0)
                to[blocks * 8 + b] = __float_as_uint(scale);
        }
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
