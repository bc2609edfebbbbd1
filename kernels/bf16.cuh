// Levels of each format as weights in BF16, out of the layout that gemv.cu draws.
#pragma once
#include "common.cuh"

// Two floats as BF16, the first in the lower half; of equally near ones the even one.
DEVICE u32 pair(f32 low, f32 high)
{
    u32 d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

// Byte B of a word, less MORE, as a float: under the exponent of 2^23 first.
template <u32 B, u32 MORE> DEVICE f32 level(u32 word)
{
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7540 + B)) - (f32)(8388608 + MORE);
}

// Four levels as weights.
template <class W> DEVICE uint2 weights(u32 word, typename W::Scale scale)
{
    return make_uint2(pair(W::weight(level<0, W::MORE>(word), scale), W::weight(level<1, W::MORE>(word), scale)),
                      pair(W::weight(level<2, W::MORE>(word), scale), W::weight(level<3, W::MORE>(word), scale)));
}

// Of a row of a strip's block: the four inputs of lane t of each instruction, where a scale lies, and what it makes of levels.
// SHARE blocks have one scale.
struct Q8 {
    typedef u16 Scale;
    // Signed bytes, moved up.
    enum : u32 { PIECES = 2, SCALE_BYTES = 2, MORE = 128, SHARE = 1 };
    static DEVICE u32 word(const u8* row, u32 t, u32 i) { return *(const u32*)(row + i * 512 + t * 4) ^ 0x80808080u; }
    static DEVICE f32 weight(f32 level, u16 scale) { return from_f16(scale) * level; }
};

struct Q4 {
    typedef u16 Scale;
    enum : u32 { PIECES = 1, SCALE_BYTES = 2, MORE = 8, SHARE = 1 };
    static DEVICE u32 word(const u8* row, u32 t, u32 i) { return *(const u32*)(row + t * 4) >> (4 * i) & 0x0f0f0f0fu; }
    static DEVICE f32 weight(f32 level, u16 scale) { return from_f16(scale) * level; }
};

struct Q4G : Q4 {
    enum : u32 { SHARE = 4 };
};

struct Q4K {
    typedef float2 Scale;
    enum : u32 { PIECES = 1, SCALE_BYTES = 8, MORE = 0, SHARE = 1 };
    static DEVICE u32 word(const u8* row, u32 t, u32 i) { return Q4::word(row, t, i); }
    static DEVICE f32 weight(f32 level, float2 scale) { return scale.x * level - scale.y; }
};

// These are BF16 already, and stay where they are.
struct Bf16 {
    typedef u16 Scale;
    enum : u32 { PIECES = 4, SCALE_BYTES = 0, SHARE = 1 };
};
