// The head of a yes/no judge: P(yes) and P(no) by the softmax over a whole row.
//
// One block of 256 threads takes one row; its exponentials are summed in 16 lanes, as in ops::reward_head. Bound: the
// row, read three times out of the caches. A head of two columns costs nothing. Compute capability 8.0.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) answer(
    f32* __restrict__ out,           // [rows, 2]
    u32* bad,                        // [1]: the lowest row with a number that is not finite
    const f32* __restrict__ logits,  // [rows, width]
    u32 width, u32 yes, u32 no)
{
    const f32* x = logits + (u64)blockIdx.x * width;
    u32 wrong = 0;
    f32 largest = -infinity();
    for (u32 i = threadIdx.x; i < width; i += 256) {
        const f32 v = x[i];
        wrong |= !finite(v);
        largest = v > largest ? v : largest;
    }
    if (__syncthreads_or(wrong)) {
        if (threadIdx.x == 0)
            atomicMin(bad, blockIdx.x);
        return;
    }
    largest = block_max(largest);
    if (threadIdx.x >= 32)
        return;
    const f32 total = lane_sum(width, [=](u32 i) { return exponential(x[i] - largest); });
    if (threadIdx.x < 2)
        out[(u64)blockIdx.x * 2 + threadIdx.x] = exponential(x[threadIdx.x ? no : yes] - largest) / total;
}
