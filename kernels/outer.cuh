// Sums of outer products: what gradients of weights, keys and values are.
#pragma once
#include "common.cuh"

// Sides of a block's square of sums, and terms that lie in shared memory at once.
#define SIDE 64
#define DEPTH 16

// sum[p][q] += left(i, y + p) right(i, x + 16 q) for i from `from` to `to`, one after the other, by a block of 256 threads: a
// thread owns 4 x 4 sums of 64 x 64, at y = 4 (thread / 16) and x = thread % 16, so that a half warp's columns are one run.
// Where seen(i, y + p) is false there is no term.
template <class L, class R, class S>
DEVICE void outer(f32 (&sum)[4][4], u32 from, u32 to, L left, R right, S seen)
{
    __shared__ __align__(16) f32 lefts[DEPTH][SIDE], rights[DEPTH][SIDE];
    const u32 y = threadIdx.x / 16 * 4, x = threadIdx.x % 16;
    for (u32 base = from; base < to; base += DEPTH) {
#pragma unroll
        for (u32 step = 0; step < DEPTH * SIDE / 256; step++) {
            const u32 i = step * (256 / SIDE) + threadIdx.x / SIDE, c = threadIdx.x % SIDE;
            const bool there = base + i < to;
            lefts[i][c] = there ? left(base + i, c) : 0.0f;
            rights[i][c] = there ? right(base + i, c) : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (u32 i = 0; i < DEPTH; i++) {
            const float4 four = *(const float4*)&lefts[i][y];
            const f32 ours[4] = {four.x, four.y, four.z, four.w};
            f32 theirs[4];
#pragma unroll
            for (u32 q = 0; q < 4; q++)
                theirs[q] = rights[i][x + 16 * q];
#pragma unroll
            for (u32 p = 0; p < 4; p++)
                if (seen(base + i, y + p)) {
#pragma unroll
                    for (u32 q = 0; q < 4; q++)
                        sum[p][q] += ours[p] * theirs[q];
                }
        }
        __syncthreads();
    }
}
