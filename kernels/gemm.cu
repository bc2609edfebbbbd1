// Products of a quantised weight matrix with rows of 8-bit activations, on tensor cores: y[m, n] (+)= x[m, k] wT + bias.
//
// ops::gemm with A8: a sum runs over the blocks of 32 inputs, (dot * scale of w [- sum * offset of w]) * scale of x, block
// after block from zero upwards, where dot is the exact integer product. One instruction multiplies a block of 16 outputs
// with 8 rows, so a lane's words of its result are such dots, and no order inside a block matters. Every instance adds
// the blocks in their order: a row has the same bits in each, and they are the reference's.
//
// Weights lie as gemv.cu says: of a strip of 32 outputs and a block of 32 inputs 512 bytes in a row for each piece, 16 of
// an output's inputs a lane (32 in nibbles). They come by asynchronous copies of 16 bytes a lane; read as four matrices
// of 8 rows, they are in the lanes as the instruction wants them: two tiles of 16 outputs.
// Rows lie in tiles of R = min(m, 8), the missing ones of the last tile as zeros:
//   levels[tile][block][row][32]: word w of the 8 is inputs 4 (w / 2) + 16 (w % 2) to + 3, lane w / 2 takes two at once
//   sides[tile][block][row]: the scale's bits and the sum of the levels
//
// few: a block of 8 warps owns one strip and all rows, 8 at most. A warp takes TURN blocks of inputs and has its own ring
// of STAGES turns; 8 warps' terms go through shared memory, where the blocks are added up.
// many: a block owns some strips and tiles, a warp one strip and P of the tiles, over all inputs; a ring of turns for all.
//
// Bound: the weights, read once for 64 rows: 1.06, 0.56 or (Q4_K) 0.75 bytes each. Compute capability 8.0.
#include "common.cuh"

#define WARPS 8
#define STAGES 3

// What stands for an output's block beside its levels.
struct Half {
    typedef u16 Stored;
    f32 scale;
    DEVICE void load(Stored s) { scale = from_f16(s); }
    DEVICE f32 term(i32 dot, i32) const { return (f32)dot * scale; }
};

struct Pair {
    typedef float2 Stored;
    f32 scale, offset;
    DEVICE void load(Stored s) { scale = s.x, offset = s.y; }
    DEVICE f32 term(i32 dot, i32 sum) const { return (f32)dot * scale + (f32)-sum * offset; }
};

struct Q8 {
    typedef Half Scale;
    enum : u32 { PIECES = 2 };
    static DEVICE i32 start(i32) { return 0; }
    static DEVICE void fragments(u32 (&a)[2][4], const u8* w, u32 lane)
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
};

struct Q4 {
    typedef Half Scale;
    enum : u32 { PIECES = 1 };
    // Nibbles are 8 too large.
    static DEVICE i32 start(i32 sum) { return sum * -8; }
    static DEVICE void fragments(u32 (&a)[2][4], const u8* w, u32 lane)
    {
        u32 both[4];
        load_matrices(both, w + lane * 16);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            a[i / 2][i % 2] = both[i] & 0x0f0f0f0fu;
            a[i / 2][i % 2 + 2] = both[i] >> 4 & 0x0f0f0f0fu;
        }
    }
};

struct Q4K {
    typedef Pair Scale;
    enum : u32 { PIECES = 1 };
    static DEVICE i32 start(i32) { return 0; }
    static DEVICE void fragments(u32 (&a)[2][4], const u8* w, u32 lane) { Q4::fragments(a, w, lane); }
};

// A lane's terms of one block, of the outputs g + 8 i and the rows 2 t and 2 t + 1 (COLUMNS of them): those of output i at
// COLUMNS i.
template <class W, u32 COLUMNS>
DEVICE void terms(f32 (&out)[4 * COLUMNS], const u32 (&a)[2][4], const typename W::Scale (&scale)[4], uint2 x,
                  const uint2 (&side)[2])
{
    const i32 start[2] = {W::start((i32)side[0].y), W::start((i32)side[1].y)};
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        i32 dot[4];
        multiply(dot, a[half], x, start);
#pragma unroll
        for (u32 i = 0; i < 2; i++)
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++)
                out[(2 * half + i) * COLUMNS + c] =
                    scale[2 * half + i].term(dot[2 * i + c], (i32)side[c].y) * __uint_as_float(side[c].x);
    }
}

// One warp copies `count` pieces of BYTES that lie in a row.
template <u32 BYTES, bool KEEP> DEVICE void copy_run(u8* to, const void* from, u32 count, u32 lane)
{
#pragma unroll 1
    for (u32 i = lane; i < count; i += 32)
        copy_async<BYTES, KEEP>(to + i * BYTES, (const u8*)from + (u64)i * BYTES);
}

// One to eight rows.
template <class W, u32 COLUMNS, u32 TURN>
DEVICE void few(f32* y, const u8* levels, const uint2* sides, const u8* w, const u8* scales, const f32* bias, u32 rows_m,
                u32 n, u32 k, u32 has_bias, u32 accumulate)
{
    const u32 m = COLUMNS == 1 ? 1 : rows_m;
    typedef typename W::Scale Scale;
    typedef typename Scale::Stored Stored;
    // Terms of a round, twice: a warp may begin the next round while others add up this one.
    // One row: [block][output]. More: [block][term][lane], as the lanes have them.
    enum : u32 {
        ROUND = WARPS * TURN,
        TERMS = COLUMNS == 1 ? 32 : 8 * 32,
        W_BYTES = W::PIECES * 512,
        SCALE_BYTES = 32 * sizeof(Stored)
    };
    extern __shared__ __align__(16) u8 memory[];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = k / 32, strip = blockIdx.y;
    const u32 levels_at = TURN * (W_BYTES + SCALE_BYTES), sides_at = levels_at + TURN * m * 32;
    const u32 stage_bytes = sides_at + TURN * m * 8;
    f32* const all_terms = (f32*)memory;
    u8* const ring = memory + 2 * ROUND * TERMS * 4 + warp * STAGES * stage_bytes;
    // Rows that are missing are the last one once more; nobody takes their terms.
    const u32 row = min(g, m - 1), rows[2] = {min(2 * t, m - 1), min(2 * t + 1, m - 1)};
    const auto copy = [&](u32 round) {
        const u32 own = round * ROUND + warp * TURN;
        if (own < blocks) {
            const u32 turn = min(blocks - own, TURN);
            u8* const to = ring + round % STAGES * stage_bytes;
            const u64 at = (u64)strip * blocks + own;
            copy_run<16, false>(to, w + at * W_BYTES, turn * (W_BYTES / 16), lane);
            copy_run<16, false>(to + TURN * W_BYTES, scales + at * SCALE_BYTES, turn * (SCALE_BYTES / 16), lane);
            copy_run<16, true>(to + levels_at, levels + (u64)own * m * 32, turn * m * 2, lane);
            copy_run<8, true>(to + sides_at, sides + (u64)own * m, turn * m, lane);
        }
        copy_commit();
    };
    const u32 rounds = (blocks + ROUND - 1) / ROUND;
    f32 total = 0.0f;
    for (u32 next = 0; next < rounds + STAGES - 1; next++) {
        // The first copies only fill the ring; from then on the oldest of it is due.
        if (next >= STAGES - 1) {
            copy_wait<STAGES - 2>();
            __syncwarp();
        }
        copy(next);
        if (next < STAGES - 1)
            continue;
        const u32 round = next - (STAGES - 1);
        const u32 base = round * ROUND, own = base + warp * TURN;
        f32* const round_terms = all_terms + round % 2 * (ROUND * TERMS);
        const u8* const from = ring + round % STAGES * stage_bytes;
        const Stored* const own_scales = (const Stored*)(from + TURN * W_BYTES) + g;
        const uint2* const x = (const uint2*)(from + levels_at) + row * 4 + t;
        const uint2* const side = (const uint2*)(from + sides_at);
        f32* const to = round_terms + warp * TURN * TERMS + (COLUMNS == 1 ? g : lane);
#pragma unroll
        for (u32 b = 0; b < TURN; b++) {
            if (own + b >= blocks)
                break;
            u32 a[2][4];
            W::fragments(a, from + b * W_BYTES, lane);
            Scale scale[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                scale[i].load(own_scales[b * 32 + 8 * i]);
            const uint2 first = side[b * m + rows[0]];
            const uint2 both[2] = {first, COLUMNS == 1 ? first : side[b * m + rows[1]]};
            f32 out[4 * COLUMNS];
            terms<W, COLUMNS>(out, a, scale, x[b * m * 4], both);
            if (COLUMNS > 1 || t == 0)
#pragma unroll
                for (u32 i = 0; i < 4 * COLUMNS; i++)
                    to[b * TERMS + i * (COLUMNS == 1 ? 8 : 32)] = out[i];
        }
        __syncthreads();
        if (warp < TERMS / 32) {
            const f32* term = round_terms + warp * 32 + lane;
#pragma unroll 8
            for (u32 b = min(blocks - base, ROUND); b > 0; b--, term += TERMS)
                total += *term;
        }
    }
    if (COLUMNS == 1) {
        const u32 j = strip * 32 + lane;
        if (warp == 0 && j < n)
            finish(y, bias, has_bias, accumulate, j, j, total);
    } else {
        const u32 j = strip * 32 + warp / 2 * 8 + g, i = 2 * t + warp % 2;
        if (i < m && j < n)
            finish(y, bias, has_bias, accumulate, (u64)i * n + j, j, total);
    }
}

// Nine rows and more. Of `strips` and `tiles` a block has those that are there; `turn` blocks of inputs are a stage.
template <class W, u32 P>
DEVICE void many(f32* y, const u8* levels, const uint2* sides, const u8* w, const u8* scales, const f32* bias, u32 m,
                 u32 n, u32 k, u32 strips, u32 tiles, u32 turn, u32 has_bias, u32 accumulate)
{
    typedef typename W::Scale Scale;
    typedef typename Scale::Stored Stored;
    enum : u32 { RING = 4, W_BYTES = W::PIECES * 512, SCALE_BYTES = 32 * sizeof(Stored) };
    extern __shared__ __align__(16) u8 memory[];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = k / 32, first_strip = blockIdx.y * strips, first_tile = blockIdx.x * tiles;
    const u32 own_strips = min(strips, (n + 31) / 32 - first_strip), own_tiles = min(tiles, (m + 7) / 8 - first_tile);
    const u32 scales_at = strips * turn * W_BYTES, levels_at = scales_at + strips * turn * SCALE_BYTES;
    const u32 sides_at = levels_at + tiles * turn * 256, stage_bytes = sides_at + tiles * turn * 64;
    const u32 groups = (tiles + P - 1) / P, strip = warp / groups, tile = warp % groups * P;
    const auto copy = [&](u32 stage) {
        const u32 at = stage * turn;
        if (at < blocks) {
            const u32 count = min(blocks - at, turn);
            u8* const to = memory + stage % RING * stage_bytes;
            for (u32 s = warp; s < own_strips; s += warps) {
                const u64 from = (u64)(first_strip + s) * blocks + at;
                copy_run<16, false>(to + s * turn * W_BYTES, w + from * W_BYTES, count * (W_BYTES / 16), lane);
                copy_run<16, false>(to + scales_at + s * turn * SCALE_BYTES, scales + from * SCALE_BYTES,
                                    count * (SCALE_BYTES / 16), lane);
            }
            for (u32 p = warp; p < own_tiles; p += warps) {
                const u64 from = ((u64)(first_tile + p) * blocks + at) * 8;
                copy_run<16, true>(to + levels_at + p * turn * 256, levels + from * 32, count * 16, lane);
                copy_run<16, true>(to + sides_at + p * turn * 64, sides + from, count * 4, lane);
            }
        }
        copy_commit();
    };
    f32 total[P][8];
#pragma unroll
    for (u32 p = 0; p < P; p++)
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            total[p][i] = 0.0f;
    const bool works = strip < own_strips && tile < own_tiles;
    const u32 stages = (blocks + turn - 1) / turn;
    for (u32 next = 0; next < stages + RING - 1; next++) {
        if (next >= RING - 1) {
            copy_wait<RING - 2>();
            __syncthreads();
        }
        copy(next);
        if (next < RING - 1)
            continue;
        const u32 stage = next - (RING - 1), at = stage * turn;
        const u8* const from = memory + stage % RING * stage_bytes;
        const u8* weights = from + strip * turn * W_BYTES;
        const Stored* own_scales = (const Stored*)(from + scales_at + strip * turn * SCALE_BYTES) + g;
        const uint2* x = (const uint2*)(from + levels_at + tile * turn * 256) + lane;
        const uint4* side = (const uint4*)(from + sides_at + tile * turn * 64) + t;
#pragma unroll 1
        for (u32 left = works ? min(blocks - at, turn) : 0; left > 0; left--) {
            u32 a[2][4];
            W::fragments(a, weights, lane);
            Scale scale[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                scale[i].load(own_scales[8 * i]);
#pragma unroll
            for (u32 p = 0; p < P; p++) {
                if (p > 0 && tile + p >= own_tiles)
                    break;
                const uint4 two = side[p * turn * 4];
                const uint2 both[2] = {make_uint2(two.x, two.y), make_uint2(two.z, two.w)};
                f32 out[8];
                terms<W, 2>(out, a, scale, x[p * turn * 32], both);
#pragma unroll
                for (u32 i = 0; i < 8; i++)
                    total[p][i] += out[i];
            }
            weights += W_BYTES;
            own_scales += 32;
            x += 32;
            side += 4;
        }
    }
    if (!works)
        return;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 j = (first_strip + strip) * 32 + i * 8 + g;
        if (j >= n)
            return;
        const f32 b = has_bias ? bias[j] : 0.0f;
#pragma unroll
        for (u32 p = 0; p < P; p++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                const u32 r = (first_tile + tile + p) * 8 + 2 * t + c;
                if (tile + p >= own_tiles || r >= m)
                    continue;
                const f32 sum = total[p][2 * i + c] + b;
                f32* const to = y + (u64)r * n + j;
                *to = accumulate ? *to + sum : sum;
            }
    }
}

#define FEW(NAME, W, COLUMNS, TURN)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                            \
        f32* __restrict__ y,              /* [m, n] */                                                                 \
        const u8* __restrict__ levels,    /* [k / 32, m, 32] signed bytes */                                           \
        const uint2* __restrict__ sides,  /* [k / 32, m]: scale, sum of the bytes */                                   \
        const u8* __restrict__ w,         /* [n / 32, k / 32, pieces, 32] of 16 bytes */                               \
        const u8* __restrict__ scales,    /* [n / 32, k / 32, 32] */                                                   \
        const f32* __restrict__ bias,     /* [n], where has_bias */                                                    \
        u32 m, u32 n, u32 k, u32 has_bias, u32 accumulate)                                                             \
    {                                                                                                                  \
        few<W, COLUMNS, TURN>(y, levels, sides, w, scales, bias, m, n, k, has_bias, accumulate);                       \
    }

FEW(gemm_q8_one, Q8, 1, 2)
FEW(gemm_q8_few, Q8, 2, 2)
FEW(gemm_q4_one, Q4, 1, 4)
FEW(gemm_q4_few, Q4, 2, 2)
FEW(gemm_q4k_one, Q4K, 1, 4)
FEW(gemm_q4k_few, Q4K, 2, 2)

#define MANY(NAME, W, P)                                                                                               \
    extern "C" __global__ void __launch_bounds__(512, 1) NAME(                                                         \
        f32* __restrict__ y,              /* [m, n] */                                                                 \
        const u8* __restrict__ levels,    /* [m / 8, k / 32, 8, 32] signed bytes */                                    \
        const uint2* __restrict__ sides,  /* [m / 8, k / 32, 8]: scale, sum of the bytes */                            \
        const u8* __restrict__ w,         /* [n / 32, k / 32, pieces, 32] of 16 bytes */                               \
        const u8* __restrict__ scales,    /* [n / 32, k / 32, 32] */                                                   \
        const f32* __restrict__ bias,     /* [n], where has_bias */                                                    \
        u32 m, u32 n, u32 k, u32 strips, u32 tiles, u32 turn, u32 has_bias, u32 accumulate)                            \
    {                                                                                                                  \
        many<W, P>(y, levels, sides, w, scales, bias, m, n, k, strips, tiles, turn, has_bias, accumulate);             \
    }

MANY(gemm_q8_many, Q8, 1)
MANY(gemm_q8_large, Q8, 2)
MANY(gemm_q4_many, Q4, 1)
MANY(gemm_q4_large, Q4, 2)
MANY(gemm_q4k_many, Q4K, 1)
MANY(gemm_q4k_large, Q4K, 2)

// Rows in 8 bits, see quant::quantise_a8, as they lie for the kernels above: R rows a tile. 8 lanes take 32 inputs of a row.
extern "C" __global__ void __launch_bounds__(256) round_a8(
    u32* __restrict__ levels,      // [tiles, k / 32, R, 8] words of signed bytes
    uint2* __restrict__ sides,     // [tiles, k / 32, R]: the scale's bits, and the sum of the levels
    const float4* __restrict__ x,  // [m, k]
    u32 m, u32 k, u32 R, u64 len)  // len: tiles · k / 32 · R
{
    const u64 unit = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 8;
    const u32 q = threadIdx.x % 8, blocks = k / 32;
    const u64 column = unit / R;
    const u32 row = (u32)(column / blocks) * R + (u32)(unit % R), block = (u32)(column % blocks);
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (unit < len && row < m)
        v = x[((u64)row * blocks + block) * 8 + q];
    const f32 all[4] = {v.x, v.y, v.z, v.w};
    u32 largest = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        largest = max(largest, __float_as_uint(all[i]) & 0x7fffffffu);
#pragma unroll
    for (u32 step = 4; step > 0; step /= 2)
        largest = max(largest, __shfl_xor_sync(ALL, largest, step));
    const f32 most = __uint_as_float(largest), scale = most / 127.0f;
    const bool bad = largest >= 0x7f800000u, zero = scale < 1.17549435e-38f;
    u32 word = 0;
    i32 sum = 0;
    if (!bad && !zero) {
        const f32 turned = 127.0f / most;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 bits = __float_as_uint(all[i] * turned + 12582912.0f);
            word |= (bits & 255) << (8 * i);
            sum += (i32)(bits << 24) >> 24;
        }
    }
#pragma unroll
    for (u32 step = 4; step > 0; step /= 2)
        sum += __shfl_xor_sync(ALL, sum, step);
    if (unit < len) {
        levels[unit * 8 + q % 4 * 2 + q / 4] = word;
        if (q == 0)
            sides[unit] = make_uint2(bad ? 0x7fc00000u : zero ? 0u : __float_as_uint(scale), (u32)sum);
    }
}
