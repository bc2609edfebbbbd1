// What the products of rows in 8 bits share (gemm.cu: up to 8 rows, gemm_many.cu: more): formats, roundings, parameters.
//
// ops::gemm with A8: a sum runs over the blocks of 32 inputs, (dot * scale of w [- sum * offset of w]) * scale of x, block
// after block from zero upwards, where dot is the exact integer product. One instruction multiplies a block of 16 outputs
// with 8 rows, so a lane's words of its result are such dots, and no order inside a block matters. Every instance adds
// the blocks in their order: a row has the same bits in each, and they are the reference's.
//
// A dot times a scale of w is one instruction: the dots begin at the bits of MAGIC, so that as a float one is MAGIC + dot,
// and (MAGIC + dot) * scale - MAGIC * scale, fused, is rounded once; the scale has so few digits that its product with
// MAGIC is exact. A dot of zero may get the other sign of zero, which no sum keeps. A scale of infinity makes no number
// out of it: sums that come out as no number are made anew in the plain way (`plain_sum`).
//
// Weights lie as gemv.cu says: of a strip of 32 outputs and a block of 32 inputs 512 bytes in a row for each piece, 16 of
// an output's inputs a lane (32 in nibbles). They come by asynchronous copies of 16 bytes a lane; read as four matrices
// of 8 rows, they are in the lanes as the instruction wants them.
// Rows lie in tiles of R = min(m, 8), the missing ones of the last tile as zeros:
//   levels[tile][block][row][32]: word w of the 8 is inputs 4 (w / 2) + 16 (w % 2) to + 3, lane w / 2 takes two at once
//   scales[tile][block][row], and the sums of the levels with their sign turned, as floats, in the same order
#pragma once
#include "common.cuh"

#define MAGIC 12582912.0f
#define MAGIC_BITS 0x4b400000

struct Q8 {
    typedef u16 Stored;
    enum : u32 { PIECES = 2, SHARE = 1 };
    enum : bool { OFFSET = false };
    static DEVICE f32 scale(u16 s) { return from_f16(s); }
    static DEVICE f32 offset(u16) { return 0.0f; }
    // Both tiles of a strip's block.
    static DEVICE void strip(u32 (&a)[2][4], const u8* w, u32 lane)
    {
        u32 low[4], high[4];
        load_matrices(low, w + lane * 16);
        load_matrices(high, w + 512 + lane * 16);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            a[i / 2][i % 2] = low[i];
            a[i / 2][i % 2 + 2] = high[i];
        }
    }
    // The same tile of two blocks that follow each other.
    static DEVICE void half(u32 (&a)[2][4], const u8* w, u32 lane)
    {
        load_matrices(a[0], w + lane / 16 * 512 + lane % 16 * 16);
        load_matrices(a[1], w + 1024 + lane / 16 * 512 + lane % 16 * 16);
    }
    static DEVICE i32 level(const u8* w, u32 i) { return ((const i8*)(w + i / 16 * 512))[i % 16]; }
};

// What formats of nibbles share. UNPACK makes the bytes of the inputs 0 to 15 and 16 to 31 of a word.
template <class UNPACK> struct Nibbles {
    enum : u32 { PIECES = 1, SHARE = 1 };
    static DEVICE void strip(u32 (&a)[2][4], const u8* w, u32 lane) { load(a, w + lane * 16); }
    static DEVICE void half(u32 (&a)[2][4], const u8* w, u32 lane)
    {
        load(a, w + lane / 16 * 512 + lane % 16 * 16);
    }
    // Of two tiles, or of one tile in two blocks: a lane points to a row of four matrices.
    static DEVICE void load(u32 (&a)[2][4], const u8* row)
    {
        u32 both[4];
        load_matrices(both, row);
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            UNPACK::unpack(a[i / 2][i % 2], a[i / 2][i % 2 + 2], both[i]);
    }
};

// Nibbles are 8 too large: with its highest bit turned one is a signed number of 4 bits, and in the upper half of a byte
// 16 times that. The scale makes up for it.
struct SignedUnpack {
    static DEVICE void unpack(u32& low, u32& high, u32 word)
    {
        low = pick_turned(word << 4, 0xf0f0f0f0u, 0x80808080u);
        high = pick_turned(word, 0xf0f0f0f0u, 0x80808080u);
    }
};

struct Q4 : Nibbles<SignedUnpack> {
    typedef u16 Stored;
    enum : bool { OFFSET = false };
    static DEVICE f32 scale(u16 s) { return from_f16(s) * 0.0625f; }
    static DEVICE f32 offset(u16) { return 0.0f; }
    static DEVICE i32 level(const u8* w, u32 i) { return ((i32)(w[i % 16] >> (i / 16 * 4) & 15) - 8) * 16; }
};

// SHARE blocks have one scale.
struct Q4G : Q4 {
    enum : u32 { SHARE = 4 };
};

struct PlainUnpack {
    static DEVICE void unpack(u32& low, u32& high, u32 word)
    {
        low = word & 0x0f0f0f0fu;
        high = word >> 4 & 0x0f0f0f0fu;
    }
};

struct Q4K : Nibbles<PlainUnpack> {
    typedef float2 Stored;
    enum : bool { OFFSET = true };
    static DEVICE f32 scale(float2 s) { return s.x; }
    static DEVICE f32 offset(float2 s) { return s.y; }
    static DEVICE i32 level(const u8* w, u32 i) { return w[i % 16] >> (i / 16 * 4) & 15; }
};

// Of a strip: bytes of a block's weights, of scales that belong together, and of the scales of so many blocks.
template <class W> struct Sizes {
    enum : u32 { W_BYTES = W::PIECES * 512, SCALE_BYTES = 32 * sizeof(typename W::Stored) };
    template <u32 BLOCKS> static DEVICE constexpr u32 scales()
    {
        static_assert(BLOCKS % W::SHARE == 0 || W::SHARE % BLOCKS == 0, "blocks begin where a scale does, or lie within one");
        return (BLOCKS + W::SHARE - 1) / W::SHARE * SCALE_BYTES;
    }
};

// The parameters of a product.
struct Product {
    f32* y;
    const float4* x;
    const u8* levels;
    const f32 *scales_x, *turned;
    const u8 *w, *scales;
    const f32* bias;
    u32 m, n, k, has_bias, accumulate;
    DEVICE void put(u32 r, u32 j, f32 sum) const { finish(y, bias, has_bias, accumulate, (u64)r * n + j, j, sum); }
};

// A dot, as the float whose bits it is, times the scale of w.
template <class W> DEVICE f32 part(i32 dot, f32 scale, f32 start, f32 turned, f32 offset)
{
    const f32 part = __fmaf_rn(__int_as_float(dot), scale, start);
    return W::OFFSET ? part + turned * offset : part;
}

// 8 / WORDS lanes round 32 inputs of a row, see quant::quantise_a8: a lane's as words of 4 signed bytes, and for all of them
// the scale and (where SUM) the sum with its sign turned.
template <u32 WORDS, bool SUM>
DEVICE void round_inputs(u32 (&words)[WORDS], const float4 (&v)[WORDS], f32& scale, f32& turned)
{
    u32 largest = 0;
#pragma unroll
    for (u32 i = 0; i < WORDS; i++) {
        const f32 all[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            largest = max(largest, __float_as_uint(all[j]) & 0x7fffffffu);
    }
#pragma unroll
    for (u32 step = 4 / WORDS; step > 0; step /= 2)
        largest = max(largest, __shfl_xor_sync(ALL, largest, step));
    const f32 most = __uint_as_float(largest), one = most / 127.0f;
    const bool bad = largest >= 0x7f800000u, zero = one < 1.17549435e-38f;
    const f32 times = 127.0f / most;
    scale = bad ? __uint_as_float(0x7fc00000u) : zero ? 0.0f : one;
    i32 sum = 0;
#pragma unroll
    for (u32 i = 0; i < WORDS; i++) {
        const f32 all[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
        u32 bits[4];
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            bits[j] = __float_as_uint(all[j] * times + MAGIC);
        // The low bytes.
        const u32 word = __byte_perm(__byte_perm(bits[0], bits[1], 0x0040), __byte_perm(bits[2], bits[3], 0x0040), 0x5410);
        words[i] = bad || zero ? 0 : word;
        if (SUM)
            sum = __dp4a((i32)words[i], 0x01010101, sum);
    }
    if (SUM) {
#pragma unroll
        for (u32 step = 4 / WORDS; step > 0; step /= 2)
            sum += __shfl_xor_sync(ALL, sum, step);
        turned = (f32)-sum;
    }
}

// A sum as the reference has it, by one thread: for those whose scales are no ordinary numbers.
template <class W> DEVICE f32 plain_sum(const Product& s, u32 r, u32 j)
{
    const u32 blocks = s.k / 32;
    f32 sum = 0.0f;
#pragma unroll 1
    for (u32 b = 0; b < blocks; b++) {
        const f32* const x = (const f32*)(s.x + ((u64)r * blocks + b) * 8);
        const u64 at = (u64)(j / 32) * blocks + b;
        const u8* const w = s.w + at * Sizes<W>::W_BYTES + j % 32 * 16;
        const typename W::Stored side = ((const typename W::Stored*)s.scales)[at / W::SHARE * 32 + j % 32];
        u32 largest = 0;
#pragma unroll 1
        for (u32 i = 0; i < 32; i++)
            largest = max(largest, __float_as_uint(x[i]) & 0x7fffffffu);
        const f32 most = __uint_as_float(largest), one = most / 127.0f;
        // The sum stays what it is now.
        if (largest >= 0x7f800000u)
            return __uint_as_float(0x7fc00000u);
        const bool zero = one < 1.17549435e-38f;
        const f32 times = zero ? 0.0f : 127.0f / most;
        i32 dot = 0, turned = 0;
#pragma unroll 1
        for (u32 i = 0; i < 32; i++) {
            const i32 level = (i32)(__float_as_uint(x[i] * times + MAGIC) << 24) >> 24;
            dot += level * W::level(w, i);
            turned -= level;
        }
        f32 part = (f32)dot * W::scale(side);
        if (W::OFFSET)
            part += (f32)turned * W::offset(side);
        sum += part * (zero ? 0.0f : one);
    }
    return sum;
}

#define PARAMETERS                                                                                                     \
    f32 *__restrict__ y,              /* [m, n] */                                                                     \
        const float4 *__restrict__ x, /* [m, k] */                                                                     \
        const u8 *__restrict__ w,     /* [n / 32, k / 32, pieces, 32] of 16 bytes */                                   \
        const u8 *__restrict__ scales, /* [n / 32, k / 32 / SHARE, 32] */                                              \
        const f32 *__restrict__ bias, /* [n], where has_bias */                                                        \
        u32 m, u32 n, u32 k, u32 has_bias, u32 accumulate

// Of R = min(m, 8) rows a tile.
#define ROUNDED                                                                                                        \
    const u8 *__restrict__ levels,        /* [m / R, k / 32, R, 32] signed bytes */                                    \
        const f32 *__restrict__ scales_x, /* [m / R, k / 32, R] */                                                     \
        const f32 *__restrict__ turned    /* the same: sums of the bytes with their sign turned */
