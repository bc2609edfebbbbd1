// Products of a weight matrix with rows of BF16, on tensor cores: y[m, n] (+)= x[m, k] wT + bias. For many rows: prompts,
// masked steps, pictures.
//
// Rows are rounded to BF16 first. Levels of 4 and 8 bits are BF16 as they are, so weights are exact: of a block of 32
// inputs the tensor core sums level * x in floats, and the total is fmaf(scale, sum, total), block after block from zero
// upwards, in every instance; for Q4_K then fmaf(-offset, sum of x, total). Nothing knows of other rows, so a row has the
// same bits in each batch. They are not those of ops::gemm: inside a block the order is the tensor core's.
//
// Weights lie as gemv.cu says. Which input stands at which place of an instruction is free as long as both sides agree:
// lane 4 g + t takes the inputs 4 t to 4 t + 3 of a block in the first of two instructions and 16 + 4 t to 16 + 4 t + 3 in
// the second, which is a word of 4 bits' or two of 8 bits' levels. Rows lie in tiles of 8 to match, 16 bytes a lane:
//   halves[tile][block][4 g + t]: inputs 4 t ... and 16 + 4 t ... of row g;  sums[tile][block][g]: of the block's inputs
//
// A block of 8 warps owns 128 outputs and 32 P rows; a warp 64 outputs and 8 P rows, as 4 tiles of 16 outputs times P tiles
// of rows. Both come by asynchronous copies into a ring of 3 stages of 2 blocks of inputs; an odd block at the end is
// followed by zeros. Bound: the instructions that multiply, and those that scale the sums: two for every product of 16 x 16
// x 8. Compute capability 8.0.
#include "common.cuh"

#define STAGES 3
#define TURN 2
#define STRIPS 4

// Two bytes of levels with 0x43 over each: 128 and the level, as BF16; less 136 or 128. Exact.
DEVICE u32 less(u32 halves, u32 minus)
{
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(halves), "r"(0x3f803f80u), "r"(minus));
    return d;
}

// Signed bytes 0 and 1 of a word as two BF16, by way of floats. SELECT: of which pair.
template <u32 PAIR> DEVICE u32 signed_pair(u32 turned)
{
    // A byte that was moved up by 128 under the exponent of 2^23.
    const f32 low = __uint_as_float(__byte_perm(turned, 0x4b000000u, 0x7540 + 2 * PAIR)) - 8388736.0f;
    const f32 high = __uint_as_float(__byte_perm(turned, 0x4b000000u, 0x7541 + 2 * PAIR)) - 8388736.0f;
    return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}

struct Bf16 {
    enum : u32 { PIECES = 4, SCALE_BYTES = 0, OFFSETS = 0 };
    // A tile of 16 outputs and 32 inputs: words of the rows g and g + 8 for both instructions.
    static DEVICE void load(u32 (&a)[2][4], const u8* w, u32 g, u32 t)
    {
#pragma unroll
        for (u32 i = 0; i < 2; i++)
#pragma unroll
            for (u32 row = 0; row < 2; row++) {
                const uint2 v = *(const uint2*)(w + (2 * i + t / 2) * 512 + (g + 8 * row) * 16 + t % 2 * 8);
                a[i][row] = v.x;
                a[i][row + 2] = v.y;
            }
    }
};

struct Q8 {
    enum : u32 { PIECES = 2, SCALE_BYTES = 2, OFFSETS = 0 };
    static DEVICE void load(u32 (&a)[2][4], const u8* w, u32 g, u32 t)
    {
#pragma unroll
        for (u32 i = 0; i < 2; i++)
#pragma unroll
            for (u32 row = 0; row < 2; row++) {
                const u32 v = *(const u32*)(w + i * 512 + (g + 8 * row) * 16 + t * 4) ^ 0x80808080u;
                a[i][row] = signed_pair<0>(v);
                a[i][row + 2] = signed_pair<1>(v);
            }
    }
};

template <u32 MINUS, u32 BYTES> struct Nibbles {
    enum : u32 { PIECES = 1, SCALE_BYTES = BYTES, OFFSETS = BYTES == 8 };
    static DEVICE void load(u32 (&a)[2][4], const u8* w, u32 g, u32 t)
    {
#pragma unroll
        for (u32 row = 0; row < 2; row++) {
            const u32 v = *(const u32*)(w + (g + 8 * row) * 16 + t * 4);
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                const u32 levels = v >> (4 * i) & 0x0f0f0f0fu;
                a[i][row] = less(__byte_perm(levels, 0x43434343u, 0x4140), MINUS);
                a[i][row + 2] = less(__byte_perm(levels, 0x43434343u, 0x4342), MINUS);
            }
        }
    }
};

// -136: nibbles are 8 too large; -128.
typedef Nibbles<0xc308c308u, 2> Q4;
typedef Nibbles<0xc300c300u, 8> Q4K;

// d += a b: BF16 of 16 x 16 and 16 x 8, to floats.
DEVICE void multiply(f32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <class W, u32 P>
DEVICE void wide(f32* y, const u8* halves, const u8* sums, const u8* w, const u8* scales, const f32* bias, u32 m, u32 n,
                 u32 k, u32 has_bias, u32 accumulate)
{
    enum : u32 {
        TILES = 4 * P,
        W_BYTES = W::PIECES * 512,
        SCALES = 32 * W::SCALE_BYTES,
        SCALES_AT = STRIPS * TURN * W_BYTES,
        HALVES_AT = SCALES_AT + STRIPS * TURN * SCALES,
        SUMS_AT = HALVES_AT + TILES * TURN * 512,
        STAGE_BYTES = SUMS_AT + (W::OFFSETS ? TILES * TURN * 32 : 0)
    };
    extern __shared__ __align__(16) u8 memory[];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = (k + 31) / 32, stages = (blocks + TURN - 1) / TURN;
    const u32 all_strips = (n + 31) / 32, all_tiles = (m + 7) / 8;
    const u32 first_strip = blockIdx.y * STRIPS, first_tile = blockIdx.x * TILES;
    const u32 strip = warp % 2 * 2, tile = warp / 2 * P;
    // Strips and tiles past the last are the last once more, and not written; so is the weights' block behind an odd one,
    // which meets zeros. Two warps copy a strip, a block of inputs each.
    const u32 own_strip = min(first_strip + warp / 2, all_strips - 1), own_block = warp % 2;
    const auto copy = [&](u32 stage) {
        if (stage < stages) {
            u8* const to = memory + stage % STAGES * STAGE_BYTES;
            const u64 block = (u64)own_strip * blocks + min(stage * TURN + own_block, blocks - 1);
#pragma unroll
            for (u32 i = 0; i < W::PIECES; i++)
                copy_async<16, false>(to + warp * W_BYTES + (i * 32 + lane) * 16, w + block * W_BYTES + (i * 32 + lane) * 16);
            if (SCALES > 0 && lane < SCALES / 16)
                copy_async<16, false>(to + SCALES_AT + warp * SCALES + lane * 16, scales + block * SCALES + lane * 16);
#pragma unroll
            for (u32 i = 0; i < (TILES + 7) / 8; i++) {
                const u32 p = warp + 8 * i;
                if (TILES % 8 != 0 && p >= TILES)
                    break;
                const u64 from = (u64)min(first_tile + p, all_tiles - 1) * (stages * TURN) + stage * TURN;
#pragma unroll
                for (u32 b = 0; b < TURN; b++)
                    copy_async<16, true>(to + HALVES_AT + (p * TURN + b) * 512 + lane * 16, halves + (from + b) * 512 + lane * 16);
                if (W::OFFSETS && lane < TURN * 2)
                    copy_async<16, true>(to + SUMS_AT + p * TURN * 32 + lane * 16, sums + from * 32 + lane * 16);
            }
        }
        copy_commit();
    };
    f32 total[4][P][4];
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 p = 0; p < P; p++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                total[i][p][e] = 0.0f;
#pragma unroll
    for (u32 stage = 0; stage < STAGES - 1; stage++)
        copy(stage);
#pragma unroll 1
    for (u32 stage = 0; stage < stages; stage++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        copy(stage + STAGES - 1);
        const u8* const from = memory + stage % STAGES * STAGE_BYTES;
#pragma unroll
        for (u32 b = 0; b < TURN; b++) {
            uint4 x[P];
            float2 sum[P];
#pragma unroll
            for (u32 p = 0; p < P; p++) {
                x[p] = *(const uint4*)(from + HALVES_AT + ((tile + p) * TURN + b) * 512 + lane * 16);
                if (W::OFFSETS)
                    sum[p] = *(const float2*)(from + SUMS_AT + ((tile + p) * TURN + b) * 32 + t * 8);
            }
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 at = (strip + i / 2) * TURN + b, row = i % 2 * 16;
                u32 a[2][4];
                W::load(a, from + at * W_BYTES + row * 16, g, t);
                f32 scale[2], offset[2];
                const u8* const own = from + SCALES_AT + at * SCALES;
#pragma unroll
                for (u32 h = 0; h < 2; h++)
                    if (W::OFFSETS) {
                        const float2 both = ((const float2*)own)[row + g + 8 * h];
                        scale[h] = both.x;
                        offset[h] = -both.y;
                    } else if (SCALES > 0) {
                        scale[h] = from_f16(((const u16*)own)[row + g + 8 * h]);
                    }
#pragma unroll
                for (u32 p = 0; p < P; p++) {
                    f32(&to)[4] = total[i][p];
                    if (SCALES == 0) {
                        multiply(to, a[0], x[p].x, x[p].y);
                        multiply(to, a[1], x[p].z, x[p].w);
                        continue;
                    }
                    f32 d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                    multiply(d, a[0], x[p].x, x[p].y);
                    multiply(d, a[1], x[p].z, x[p].w);
#pragma unroll
                    for (u32 e = 0; e < 4; e++) {
                        to[e] = __fmaf_rn(scale[e / 2], d[e], to[e]);
                        if (W::OFFSETS)
                            to[e] = __fmaf_rn(offset[e / 2], e % 2 ? sum[p].y : sum[p].x, to[e]);
                    }
                }
            }
        }
    }
    copy_wait<0>();
    const u32 first = (first_strip + strip) * 32 + g;
    f32 more[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        more[i] = has_bias && first + 8 * i < n ? bias[first + 8 * i] : 0.0f;
#pragma unroll
    for (u32 p = 0; p < P; p++)
#pragma unroll
        for (u32 c = 0; c < 2; c++) {
            const u32 r = (first_tile + tile + p) * 8 + 2 * t + c;
            if (r >= m)
                break;
            f32* const to = y + (u64)r * n + first;
#pragma unroll
            for (u32 i = 0; i < 8; i++)
                if (first + 8 * i < n)
                    to[8 * i] = (accumulate ? to[8 * i] : 0.0f) + (total[i / 2][p][i % 2 * 2 + c] + more[i]);
        }
}

#define WIDE(NAME, W, P)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME(                                                         \
        f32* __restrict__ y,            /* [m, n] */                                                                   \
        const u8* __restrict__ halves,  /* [m / 8, k / 64 · 2, 32] of 16 bytes */                                      \
        const u8* __restrict__ sums,    /* [m / 8, k / 64 · 2, 8] floats, where W has offsets */                       \
        const u8* __restrict__ w,       /* [n / 32, k / 32, pieces, 32] of 16 bytes */                                 \
        const u8* __restrict__ scales,  /* [n / 32, k / 32, 32]; unused where W has none */                            \
        const f32* __restrict__ bias,   /* [n], where has_bias */                                                      \
        u32 m, u32 n, u32 k, u32 has_bias, u32 accumulate)                                                             \
    {                                                                                                                  \
        wide<W, P>(y, halves, sums, w, scales, bias, m, n, k, has_bias, accumulate);                                   \
    }

WIDE(wide_bf16_1, Bf16, 1)
WIDE(wide_bf16_4, Bf16, 4)
WIDE(wide_q8_1, Q8, 1)
WIDE(wide_q8_4, Q8, 4)
WIDE(wide_q4_1, Q4, 1)
WIDE(wide_q4_4, Q4, 4)
WIDE(wide_q4k_1, Q4K, 1)
WIDE(wide_q4k_4, Q4K, 4)

// The nearest BF16, of equals the even one; NaN stays NaN.
DEVICE u32 half_of(f32 v)
{
    const u32 bits = __float_as_uint(v);
    return v != v ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

// Rows in BF16 as they lie for the kernels above: a lane rounds its 8 inputs of a row's block of 32. Rows and inputs that
// are missing are zeros.
extern "C" __global__ void __launch_bounds__(256) round_halves(
    uint4* __restrict__ halves,   // [m / 8, k / 64 · 2, 32]
    f32* __restrict__ sums,       // [m / 8, k / 64 · 2, 8]: of the rounded inputs of a block
    const f32* __restrict__ x,    // [m, k]
    u32 m, u32 k, u32 columns)    // columns: m / 8 · k / 64 · 2
{
    const u32 column = (blockIdx.x * 256 + threadIdx.x) / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (column >= columns)
        return;
    const u32 blocks = (k + 63) / 64 * TURN, row = column / blocks * 8 + g, first = column % blocks * 32 + 4 * t;
    u32 words[4];
    f32 sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        u32 both[2];
#pragma unroll
        for (u32 e = 0; e < 2; e++) {
            const u32 at = first + i / 2 * 16 + i % 2 * 2 + e;
            both[e] = half_of(row < m && at < k ? x[(u64)row * k + at] : 0.0f);
            sum += __uint_as_float(both[e] << 16);
        }
        words[i] = both[0] | both[1] << 16;
    }
    halves[(u64)column * 32 + lane] = make_uint4(words[0], words[1], words[2], words[3]);
    sum += __shfl_xor_sync(ALL, sum, 1);
    sum += __shfl_xor_sync(ALL, sum, 2);
    if (t == 0)
        sums[(u64)column * 8 + g] = sum;
}
