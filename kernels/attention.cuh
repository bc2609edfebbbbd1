// What the kernels of attention share: rotated rows on their way into a cache, rows in 8 bits, and which rows of a cache a
// query sees.
#pragma once
#include "common.cuh"

// A block of up to 32 elements in 8 bits, see quant::quantise_a8, by eight lanes side by side: the scale, and this lane's
// word of four levels. What is missing is zero. All lanes of a warp take part.
DEVICE f32 round_block(const f32* x, u32 len, u32& word)
{
    const u32 first = threadIdx.x % 8 * 4;
    f32 four[4];
    u32 largest = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        four[i] = first + i < len ? x[first + i] : 0.0f;
        largest = max(largest, __float_as_uint(four[i]) & 0x7fffffffu);
    }
#pragma unroll
    for (u32 step = 1; step < 8; step *= 2)
        largest = max(largest, __shfl_xor_sync(ALL, largest, step));
    const f32 most = __uint_as_float(largest), scale = most / 127.0f;
    const bool bad = largest >= 0x7f800000u, zero = scale < 1.17549435e-38f;
    const f32 inverse = 127.0f / most;
    word = 0;
    if (!bad && !zero)
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            word |= (__float_as_uint(four[i] * inverse + 12582912.0f) & 255) << (i * 8);
    return bad ? __uint_as_float(0x7fc00000u) : zero ? 0.0f : scale;
}

// A query of `blocks` blocks by the block's threads: eight words each, then a scale each.
DEVICE void round_query(u32* to, const f32* q, u32 head_dim, u32 blocks, u32 threads)
{
    for (u32 base = 0; base < blocks; base += threads / 8) {
        const u32 b = base + threadIdx.x / 8, at = min(b, blocks - 1) * 32;
        u32 word;
        const f32 scale = round_block(q + at, min(head_dim - at, 32u), word);
        if (b < blocks) {
            to[b * 8 + threadIdx.x % 8] = word;
            if (threadIdx.x % 8 == 0)
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
        const u32 seen = causal ? own(span[3], i, queries) : span[3];
        first = span[0];
        prefix = cut(first, repeated_prefix ? min(span[1], 1u) : span[1], kv_rows);
        second = span[2];
        rest = cut(second, seen, kv_rows);
        first_weight = repeated_prefix && prefix == 1 ? (f32)span[1] : 1.0f;
    }
    // How many of `all` own rows a causal query sees.
    DEVICE static u32 own(u32 all, u32 i, u32 queries)
    {
        const u64 end = (u64)all + i + 1;
        return min(all, (u32)(end > queries ? end - queries : 0));
    }
    DEVICE u64 row(u32 n) const { return n < prefix ? first + n : second + (n - prefix); }
};

// Rows of a page, see ops::attention::PAGE_ROWS.
#define PAGE_ROWS 32

// The same of a sequence whose own rows lie in `pages` pages, where there are any: their first rows follow its span.
struct Paged : Visible {
    const u32* list;  // none where rows lie together; else `second` is a page's last place
    DEVICE Paged(const u32* spans, u64 sequence, u32 i, u32 queries, u32 kv_rows, u32 causal, u32 repeated_prefix, u32 pages)
        : Visible(spans + sequence * (4 + pages), i, queries, kv_rows, causal, repeated_prefix)
    {
        list = pages > 0 ? spans + sequence * (4 + pages) + 4 : nullptr;
        if (list) {
            second = kv_rows - PAGE_ROWS;
            rest = min(causal ? own(list[-1], i, queries) : list[-1], (u32)min((u64)pages * PAGE_ROWS, (u64)kv_rows));
        }
    }
    DEVICE u64 row(u32 n) const
    {
        if (n < prefix || !list)
            return Visible::row(n);
        const u32 own = n - prefix;
        return min(list[own / PAGE_ROWS], second) + own % PAGE_ROWS;
    }
};

// Layer norm of a head in place by a warp, whose two halves make the same sums.
DEVICE void normalise_head(f32* own, const f32* weight, const f32* bias, u32 head_dim, f32 eps)
{
    const f32 mean = lane_sum(head_dim, [=](u32 i) { return own[i]; }) / (f32)head_dim;
    const f32 variance = lane_sum(head_dim, [=](u32 i) { return (own[i] - mean) * (own[i] - mean); }) / (f32)head_dim;
    const f32 scale = scale_of(variance, eps);
    // Other lanes have read them, and will read what comes.
    __syncwarp();
    for (u32 i = threadIdx.x % 32; i < head_dim; i += 32)
        own[i] = (own[i] - mean) * scale * weight[i] + bias[i];
    __syncwarp();
}

// Rows of q, k and v side by side, a warp a head: queries and keys are normalised and rotated in place, keys and values put
// into their caches by PUT(cache, row of a head in the cache, head's numbers).
template <class T, class PUT>
DEVICE void keep_heads(
    T* keys, T* values, f32* x, const u32* positions, const f32* table, const u32* places, u32 rows, u32 q_heads,
    u32 kv_heads, u32 head_dim, u32 rotary_dim, u32 table_rows, u32 cache_rows, const f32* q_weight, const f32* q_bias,
    const f32* k_weight, const f32* k_bias, u32 normalise, f32 eps, PUT put)
{
    const u32 unit = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 heads = q_heads + 2 * kv_heads, rotated = q_heads + kv_heads, row = unit / heads, h = unit % heads;
    if (row >= rows)
        return;
    f32* const own = x + ((u64)row * heads + h) * head_dim;
    if (normalise && h < rotated)
        normalise_head(own, h < q_heads ? q_weight : k_weight, h < q_heads ? q_bias : k_bias, head_dim, eps);
    if (rotary_dim > 0 && h < rotated) {
        const u32 half = rotary_dim / 2, p = positions[row];
        const f32* const angles = table + (u64)p * rotary_dim;
        if (p < table_rows)
            for (u32 j = lane; j < half; j += 32) {
                const f32 c = angles[j], s = angles[half + j], a = own[j], b = own[half + j];
                own[j] = a * c - b * s;
                own[half + j] = b * c + a * s;
            }
        // Other lanes read them.
        __syncwarp();
    }
    const u32 place = places[row];
    if (h < q_heads || place >= cache_rows)
        return;
    const bool value = h >= rotated;
    put(value ? values : keys, (u64)(h - (value ? rotated : q_heads)) * cache_rows + place, own);
}

#define KEEP_PARAMETERS(T)                                                                                             \
    T *__restrict__ keys,                       /* [kv_heads, cache_rows, words of a head] */                          \
        T *__restrict__ values,                 /* the same */                                                         \
        f32 *x,                                 /* [rows, q_heads + 2 kv_heads, head_dim], in place */                 \
        const u32 *__restrict__ positions,      /* [rows] */                                                           \
        const f32 *__restrict__ table,          /* [table_rows, rotary_dim]: cosines, sines */                         \
        const u32 *__restrict__ places,         /* [rows]: rows of the cache; one outside is skipped */                \
        u32 rows, u32 q_heads, u32 kv_heads, u32 head_dim, u32 rotary_dim, u32 table_rows, u32 cache_rows,             \
        const f32 *__restrict__ q_weight,           /* [head_dim], where heads are normalised */                       \
        const f32 *__restrict__ q_bias,             /* the same */                                                     \
        const f32 *__restrict__ k_weight,           /* the same */                                                     \
        const f32 *__restrict__ k_bias,             /* the same */                                                     \
        u32 normalise, f32 eps
