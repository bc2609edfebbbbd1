// Weights of each format as floats, out of the layout that gemv.cu draws: a lane's block of 32 inputs, or one element. SHARE
// blocks of 32 inputs have one scale.
#pragma once
#include "common.cuh"

struct F32 {
    enum : u32 { PIECES = 8, SCALE = 1, SHARE = 1 };
    static DEVICE void load(const uint4* w, const u16*, f32 (&v)[32])
    {
#pragma unroll
        for (u32 p = 0; p < 8; p++) {
            const uint4 b = w[p * 32];
            v[4 * p] = __uint_as_float(b.x);
            v[4 * p + 1] = __uint_as_float(b.y);
            v[4 * p + 2] = __uint_as_float(b.z);
            v[4 * p + 3] = __uint_as_float(b.w);
        }
    }
    static DEVICE f32 element(const u8* w, const u16*, u32 t)
    {
        return ((const f32*)(w + t / 4 * 512))[t % 4];
    }
};

struct Bf16 {
    enum : u32 { PIECES = 4, SCALE = 1, SHARE = 1 };
    static DEVICE void load(const uint4* w, const u16*, f32 (&v)[32])
    {
#pragma unroll
        for (u32 p = 0; p < 4; p++) {
            const uint4 b = w[p * 32];
            const u32 words[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                v[8 * p + 2 * i] = from_bf16(words[i]);
                v[8 * p + 2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
            }
        }
    }
    static DEVICE f32 element(const u8* w, const u16*, u32 t)
    {
        return from_bf16(((const u16*)(w + t / 8 * 512))[t % 8]);
    }
};

struct Q8 {
    enum : u32 { PIECES = 2, SCALE = 1, SHARE = 1 };
    static DEVICE void load(const uint4* w, const u16* scale, f32 (&v)[32])
    {
        const f32 s = from_f16(*scale);
#pragma unroll
        for (u32 p = 0; p < 2; p++) {
            const uint4 b = w[p * 32];
            const u32 words[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (u32 i = 0; i < 16; i++)
                v[16 * p + i] = s * (f32)((i32)(words[i / 4] << (24 - i % 4 * 8)) >> 24);
        }
    }
    static DEVICE f32 element(const u8* w, const u16* scale, u32 t)
    {
        return from_f16(*scale) * (f32)(i32)((const i8*)(w + t / 16 * 512))[t % 16];
    }
};

struct Q4 {
    enum : u32 { PIECES = 1, SCALE = 1, SHARE = 1 };
    static DEVICE void load(const uint4* w, const u16* scale, f32 (&v)[32])
    {
        const f32 s = from_f16(*scale);
        const uint4 b = *w;
        const u32 words[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (u32 i = 0; i < 32; i++)
            v[i] = s * (f32)((i32)(words[i / 4 % 4] >> (i % 4 * 8 + i / 16 * 4) & 15) - 8);
    }
    static DEVICE f32 element(const u8* w, const u16* scale, u32 t)
    {
        return from_f16(*scale) * (f32)((i32)(w[t % 16] >> (t / 16 * 4) & 15) - 8);
    }
};

struct Q4G : Q4 {
    enum : u32 { SHARE = 4 };
};

// Scale and offset of 32 inputs are two floats.
struct Q4K {
    enum : u32 { PIECES = 1, SCALE = 4, SHARE = 1 };
    static DEVICE void load(const uint4* w, const u16* scale, f32 (&v)[32])
    {
        const float2 own = *(const float2*)scale;
        const uint4 b = *w;
        const u32 words[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (u32 i = 0; i < 32; i++)
            v[i] = own.x * (f32)(i32)(words[i / 4 % 4] >> (i % 4 * 8 + i / 16 * 4) & 15) - own.y;
    }
    static DEVICE f32 element(const u8* w, const u16* scale, u32 t)
    {
        const float2 own = *(const float2*)scale;
        return own.x * (f32)(i32)(w[t % 16] >> (t / 16 * 4) & 15) - own.y;
    }
};
