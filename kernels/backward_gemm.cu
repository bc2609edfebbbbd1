// Gradients of products: dx[m, k] (+)= dy[m, n] w, over weights in any format, and dw[n, k] += dyT x.
//
// dx: a block of 256 threads owns 16 rows and 64 inputs, two blocks of the weights' layout (gemv.cu). It goes over the
// outputs by 128: each warp turns one square of 32 outputs and 32 inputs into floats in shared memory, where a lane has the
// next output's weight of its own input; then a warp takes 4 rows and 32 inputs. A sum runs over the outputs, 256 of them
// from zero upwards, block after block, as in ops::backward::gemm: a row's bits do not depend on its batch.
// Bound: the weights, turned into floats once for 16 rows; a shared load for 4 multiplications and additions.
//
// dw: a block owns 64 outputs and 64 inputs, a thread 4 x 4 of them; a sum runs over the rows in blocks of 256.
// Bound: multiplications and additions, 16 of each for a shared load of 16 bytes and four of 4. Compute capability 8.0.
#include "outer.cuh"
#include "weights.cuh"

#define SUM_BLOCK 256
// Outputs whose weights lie in shared memory at once, rows of a block of threads, and rows of a warp.
#define OUTPUTS 128
#define ROWS 16
#define OWN 4

template <class W>
DEVICE void product_dx(f32* dx, const f32* dy, const uint4* w, const u16* scales, u32 m, u32 n, u32 k, u32 accumulate)
{
    // A column more, so that lanes of one input and of one output both meet all banks.
    __shared__ f32 weights[2][OUTPUTS][33];
    __shared__ __align__(16) f32 rows[ROWS][OUTPUTS];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, side = warp % 2, part_of = warp / 2;
    const u32 blocks = (k + 31) / 32, block = blockIdx.y * 2 + side, first = blockIdx.x * ROWS;
    f32 total[OWN], part[OWN];
#pragma unroll
    for (u32 r = 0; r < OWN; r++)
        total[r] = part[r] = 0.0f;
    for (u32 base = 0; base < n; base += OUTPUTS) {
        const u32 strip = base / 32 + part_of, end = min(n - base, (u32)OUTPUTS);
        if (block < blocks && strip * 32 < n) {
            const u64 at = (u64)strip * blocks + block;
            f32 v[32];
            W::load(w + at * W::PIECES * 32 + lane, scales + (at / W::SHARE * 32 + lane) * W::SCALE, v);
#pragma unroll
            for (u32 t = 0; t < 32; t++)
                weights[side][part_of * 32 + lane][t] = v[t];
        }
#pragma unroll
        for (u32 step = 0; step < ROWS * OUTPUTS / 256; step++) {
            const u32 r = step * (256 / OUTPUTS) + threadIdx.x / OUTPUTS, j = threadIdx.x % OUTPUTS;
            rows[r][j] = first + r < m && j < end ? dy[(u64)(first + r) * n + base + j] : 0.0f;
        }
        __syncthreads();
        // Outputs from `end` to a multiple of 4 are zeros in the layout and here.
        if (block < blocks)
#pragma unroll 2
            for (u32 j = 0; j < end; j += 4) {
                f32 v[4];
#pragma unroll
                for (u32 i = 0; i < 4; i++)
                    v[i] = weights[side][j + i][lane];
#pragma unroll
                for (u32 r = 0; r < OWN; r++) {
                    const float4 four = *(const float4*)&rows[part_of * OWN + r][j];
                    part[r] += four.x * v[0];
                    part[r] += four.y * v[1];
                    part[r] += four.z * v[2];
                    part[r] += four.w * v[3];
                }
            }
        if (base % SUM_BLOCK != 0 || base + OUTPUTS >= n)
#pragma unroll
            for (u32 r = 0; r < OWN; r++) {
                total[r] += part[r];
                part[r] = 0.0f;
            }
        __syncthreads();
    }
    const u32 t = block * 32 + lane;
    if (t < k)
#pragma unroll
        for (u32 r = 0; r < OWN; r++) {
            const u32 row = first + part_of * OWN + r;
            if (row < m) {
                f32* const to = dx + (u64)row * k + t;
                *to = accumulate ? *to + total[r] : total[r];
            }
        }
}

#define PRODUCT_DX(NAME, W)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256, 3) NAME(                                                         \
        f32* __restrict__ dx,           /* [m, k] */                                                                   \
        const f32* __restrict__ dy,     /* [m, n] */                                                                   \
        const uint4* __restrict__ w,    /* [n / 32, k / 32, pieces, 32] of 16 bytes */                                 \
        const u16* __restrict__ scales, /* [n / 32, k / 32 / SHARE, 32]; unused where W has none */                    \
        u32 m, u32 n, u32 k, u32 accumulate)                                                                           \
    {                                                                                                                  \
        product_dx<W>(dx, dy, w, scales, m, n, k, accumulate);                                                         \
    }

PRODUCT_DX(gemm_dx_f32, F32)
PRODUCT_DX(gemm_dx_bf16, Bf16)
PRODUCT_DX(gemm_dx_q8, Q8)
PRODUCT_DX(gemm_dx_q4, Q4)
PRODUCT_DX(gemm_dx_q4g, Q4G)
PRODUCT_DX(gemm_dx_q4k, Q4K)

extern "C" __global__ void __launch_bounds__(256, 3) gemm_dw(
    f32* __restrict__ dw,        // [n, k]
    const f32* __restrict__ dy,  // [m, n]
    const f32* __restrict__ x,   // [m, k]
    u32 m, u32 n, u32 k)
{
    const u32 first_j = blockIdx.y * SIDE, first_t = blockIdx.x * SIDE;
    f32 total[4][4] = {};
    for (u32 from = 0; from < m; from += SUM_BLOCK) {
        f32 part[4][4] = {};
        outer(
            part, from, min(m, from + SUM_BLOCK),
            [=](u32 i, u32 c) { return first_j + c < n ? dy[(u64)i * n + first_j + c] : 0.0f; },
            [=](u32 i, u32 c) { return first_t + c < k ? x[(u64)i * k + first_t + c] : 0.0f; },
            [](u32, u32) { return true; });
#pragma unroll
        for (u32 p = 0; p < 4; p++)
#pragma unroll
            for (u32 q = 0; q < 4; q++)
                total[p][q] += part[p][q];
    }
#pragma unroll
    for (u32 p = 0; p < 4; p++)
#pragma unroll
        for (u32 q = 0; q < 4; q++) {
            const u32 j = first_j + threadIdx.x / 16 * 4 + p, t = first_t + threadIdx.x % 16 + 16 * q;
            if (j < n && t < k)
                dw[(u64)j * k + t] += total[p][q];
        }
}
