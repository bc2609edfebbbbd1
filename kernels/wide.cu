// Products of a weight matrix with rows of BF16, on tensor cores: y[m, n] (+)= x[m, k] wT + bias. For many rows: prompts,
// masked steps, pictures.
//
// Rows and weights are rounded to BF16 and multiplied as such; the sums are floats, 16 inputs an instruction, from the first
// inputs to the last in every instance. Nothing knows of other rows, so a row has the same bits in each batch. They are not
// those of ops::gemm: inside an instruction the order is the tensor core's.
//
// Weights lie as gemv.cu says. Which input stands at which place of an instruction is free as long as both sides agree:
// lane 4 g + t takes the inputs 4 t to 4 t + 3 of a block of 32 in the first of two instructions and 16 + 4 t to 16 + 4 t + 3
// in the second, which is a word of 4 bits' or two of 8 bits' levels. Rows lie in tiles of 8 to match, 16 bytes a lane:
//   halves[tile][block][4 g + t]: inputs 4 t ... and 16 + 4 t ... of row g
//
// A block of 4 warps owns 128 outputs and 16 P rows, 64 inputs (a stage) at a time. Everything comes by asynchronous copies.
// A warp turns the levels of one strip of 32 outputs into BF16, as the lanes need them, for all of the block; and owns 64
// outputs and 8 P rows of the product. It does both at once, the levels of the stage that comes next:
//
//   copy s + 2  |  levels of s + 1 -> halves  |  multiply s  |  barrier
//
// Bound: the instructions that multiply, 16 P a warp and stage beside some 250 for the levels. Compute capability 8.0.
#include "bf16.cuh"
#include "inputs.cuh"

#define TURN 2
#define STRIPS 4

// d += a b: BF16 of 16 x 16 and 16 x 8, to floats.
DEVICE void multiply(f32 (&d)[4], uint4 a, u32 b0, u32 b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

template <class W, u32 P>
DEVICE void wide(f32* y, const u8* halves, const u8* w, const u8* scales, const f32* bias, u32 m, u32 n, u32 k,
                 u32 has_bias, u32 accumulate)
{
    enum : u32 {
        PACKED = W::SCALE_BYTES > 0,
        TILES = 2 * P,
        W_BYTES = W::PIECES * 512,
        SCALES = 32 * W::SCALE_BYTES,
        // A stage's weights of a strip, its scales behind them.
        OWN = TURN * W_BYTES + (TURN + W::SHARE - 1) / W::SHARE * SCALES,
        // What is packed is read a stage before the rows that it meets.
        W_SLOTS = PACKED ? 2 : 3,
        X_SLOTS = 3,
        W_SLOT = STRIPS * OWN,
        X_SLOT = TILES * TURN * 512,
        X_AT = W_SLOTS * W_SLOT,
        A_AT = X_AT + X_SLOTS * X_SLOT,
        A_SLOT = STRIPS * TURN * 2048
    };
    static_assert(W::SHARE % TURN == 0 || TURN % W::SHARE == 0, "a stage begins where a scale does, or lies within one");
    extern __shared__ __align__(16) u8 memory[];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = (k + 31) / 32, stages = (blocks + TURN - 1) / TURN;
    const u32 all_strips = (n + 31) / 32, all_tiles = (m + 7) / 8;
    const u32 first_strip = blockIdx.y * STRIPS, first_tile = blockIdx.x * TILES;
    const u32 strip = warp % 2 * 2, tile = warp / 2 * P;
    // Strips and tiles past the last are the last once more, and not written; so is the weights' block behind an odd one,
    // which meets zeros.
    const u64 own_strip = (u64)min(first_strip + warp, all_strips - 1) * blocks;
    const auto copy = [&](u32 stage) {
        if (stage < stages) {
            u8* const own_w = memory + stage % W_SLOTS * W_SLOT + warp * OWN;
            u8* const own_x = memory + X_AT + stage % X_SLOTS * X_SLOT;
#pragma unroll
            for (u32 b = 0; b < TURN; b++) {
                const u64 block = own_strip + min(stage * TURN + b, blocks - 1);
#pragma unroll
                for (u32 i = 0; i < W::PIECES; i++)
                    copy_async<16, false>(own_w + b * W_BYTES + (i * 32 + lane) * 16, w + block * W_BYTES + (i * 32 + lane) * 16);
                if (PACKED && b % W::SHARE == 0 && lane < SCALES / 16)
                    copy_async<16, false>(own_w + TURN * W_BYTES + b / W::SHARE * SCALES + lane * 16,
                                          scales + block / W::SHARE * SCALES + lane * 16);
            }
#pragma unroll
            for (u32 i = 0; i < TILES / 4; i++) {
                const u32 p = warp + 4 * i;
                const u64 from = (u64)min(first_tile + p, all_tiles - 1) * (stages * TURN) + stage * TURN;
#pragma unroll
                for (u32 b = 0; b < TURN; b++)
                    copy_async<16, true>(own_x + (p * TURN + b) * 512 + lane * 16, halves + (from + b) * 512 + lane * 16);
            }
        }
        copy_commit();
    };
    // The levels of this warp's strip as BF16, for all: [strip][block][half of the strip][instruction][lane] of 16 bytes.
    const auto unpack = [&](u32 stage) {
        if constexpr (PACKED) {
            if (stage >= stages)
                return;
            const u8* const own = memory + stage % W_SLOTS * W_SLOT + warp * OWN;
            uint4* const to = (uint4*)(memory + A_AT + stage % 2 * A_SLOT) + warp * TURN * 128 + lane;
#pragma unroll
            for (u32 b = 0; b < TURN; b++) {
                const u8* const scales_of = own + TURN * W_BYTES + b / W::SHARE * SCALES;
                const typename W::Scale* const scale = (const typename W::Scale*)scales_of;
#pragma unroll
                for (u32 h = 0; h < 2; h++) {
                    const u32 row = h * 16 + g;
                    const u8* const upper = own + b * W_BYTES + row * 16;
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        const uint2 up = weights<W>(W::word(upper, t, i), scale[row]);
                        const uint2 low = weights<W>(W::word(upper + 128, t, i), scale[row + 8]);
                        to[b * 128 + h * 64 + i * 32] = make_uint4(up.x, low.x, up.y, low.y);
                    }
                }
            }
        }
    };
    f32 total[4][P][4];
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 p = 0; p < P; p++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                total[i][p][e] = 0.0f;
    copy(0);
    copy(1);
    if (PACKED) {
        copy_wait<1>();
        __syncwarp();
        unpack(0);
    }
#pragma unroll 1
    for (u32 stage = 0; stage < stages; stage++) {
        copy_wait<0>();
        __syncthreads();
        copy(stage + 2);
        unpack(stage + 1);
        const u8* const raw = memory + stage % W_SLOTS * W_SLOT;
        const uint4* const from = (const uint4*)(memory + A_AT + stage % 2 * A_SLOT) + lane;
        const u8* const rows = memory + X_AT + stage % X_SLOTS * X_SLOT + lane * 16;
#pragma unroll
        for (u32 b = 0; b < TURN; b++) {
            uint4 x[P];
#pragma unroll
            for (u32 p = 0; p < P; p++)
                x[p] = *(const uint4*)(rows + ((tile + p) * TURN + b) * 512);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 at = (strip + i / 2) * TURN + b;
                uint4 a[2];
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    if constexpr (PACKED) {
                        a[half] = from[at * 128 + i % 2 * 64 + half * 32];
                    } else {
                        const u8* const row = raw + at * W_BYTES + (2 * half + t / 2) * 512 + (i % 2 * 16 + g) * 16 + t % 2 * 8;
                        const uint2 up = *(const uint2*)row, low = *(const uint2*)(row + 128);
                        a[half] = make_uint4(up.x, low.x, up.y, low.y);
                    }
                }
#pragma unroll
                for (u32 p = 0; p < P; p++)
                    multiply(total[i][p], a[0], x[p].x, x[p].y);
#pragma unroll
                for (u32 p = 0; p < P; p++)
                    multiply(total[i][p], a[1], x[p].z, x[p].w);
            }
        }
    }
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
    extern "C" __global__ void __launch_bounds__(128, 2) NAME(                                                         \
        f32* __restrict__ y,            /* [m, n] */                                                                   \
        const u8* __restrict__ halves,  /* [m / 8, k / 64 · 2, 32] of 16 bytes */                                      \
        const u8* __restrict__ w,       /* [n / 32, k / 32, pieces, 32] of 16 bytes */                                 \
        const u8* __restrict__ scales,  /* [n / 32, k / 32 / SHARE, 32]; unused where W has none */                    \
        const f32* __restrict__ bias,   /* [n], where has_bias */                                                      \
        u32 m, u32 n, u32 k, u32 has_bias, u32 accumulate)                                                             \
    {                                                                                                                  \
        wide<W, P>(y, halves, w, scales, bias, m, n, k, has_bias, accumulate);                                         \
    }

WIDE(wide_bf16_2, Bf16, 2)
WIDE(wide_bf16_8, Bf16, 8)
WIDE(wide_q8_2, Q8, 2)
WIDE(wide_q8_8, Q8, 8)
WIDE(wide_q4_2, Q4, 2)
WIDE(wide_q4_8, Q4, 8)
WIDE(wide_q4g_2, Q4G, 2)
WIDE(wide_q4g_8, Q4G, 8)
WIDE(wide_q4k_2, Q4K, 2)
WIDE(wide_q4k_8, Q4K, 8)

// Rows in BF16 as they lie for the kernels above: a lane rounds its 8 inputs of a row's block of 32. Rows and inputs that
// are missing are zeros.
template <class INPUTS> DEVICE void round_rows(uint4* halves, const f32* x, u32 m, u32 k, u32 columns)
{
    const u32 column = (blockIdx.x * 256 + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (column >= columns)
        return;
    const u32 blocks = (k + 63) / 64 * TURN, row = column / blocks * 8 + lane / 4;
    const u32 first = column % blocks * 32 + lane % 4 * 4;
    f32 v[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u32 at = first + i / 4 * 16 + i % 4;
        v[i] = row < m && at < k ? INPUTS::one(x, row, k, at) : 0.0f;
    }
    halves[(u64)column * 32 + lane] = make_uint4(pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7]));
}

#define HALVES(NAME, INPUTS)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                            \
        uint4* __restrict__ halves,  /* [m / 8, k / 64 · 2, 32] */                                                     \
        const f32* __restrict__ x,   /* [m, k], of gates [m, 2, k] */                                                  \
        u32 m, u32 k, u32 columns)   /* columns: m / 8 · k / 64 · 2 */                                                 \
    {                                                                                                                  \
        round_rows<INPUTS>(halves, x, m, k, columns);                                                                  \
    }

EACH_INPUTS(HALVES, round_halves)
