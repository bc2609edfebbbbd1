// The heads of judges: hidden rows pooled to one, and P(yes) and P(no) by the softmax over a whole row.
//
// Pooling: a thread takes one output and goes over the rows of its view, as ops::reward_head sums them; its head's other
// threads read the same scores at the same time. Bound: every element read once, the scores twice.
// Answer: one block of 256 threads takes one row; its exponentials are summed in 16 lanes, as in ops::reward_head. Bound: the
// additions of a lane, one after the other. A head of two columns costs nothing. Compute capability 8.0.
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
    __shared__ Stage stage;
    const f32 total = block_lane_sum(stage, width, [=](u32 i) { return exponential(x[i] - largest); });
    if (threadIdx.x < 2)
        out[(u64)blockIdx.x * 2 + threadIdx.x] = exponential(x[threadIdx.x ? no : yes] - largest) / total;
}

// out[v, h, i] = sum over r of softmax_r(x[v, r, h]) x[v, r, heads + h head_dim + i]
extern "C" __global__ void __launch_bounds__(256) pool_rows(
    f32* __restrict__ out,      // [views, heads, head_dim]
    u32* bad,                   // [1]: the lowest view with a score that is not finite
    const f32* __restrict__ x,  // [views, rows, heads + heads * head_dim]
    u32 views, u32 rows, u32 heads, u32 head_dim)
{
    const u64 at = (u64)blockIdx.x * 256 + threadIdx.x;
    const u32 pooled = heads * head_dim, width = heads + pooled;
    if (at >= (u64)views * pooled)
        return;
    const u32 view = (u32)(at / pooled), own = (u32)(at % pooled);
    x += (u64)view * rows * width;
    const f32* scores = x + own / head_dim;
    const f32* values = x + heads + own;
    u32 wrong = 0;
    f32 largest = -infinity();
    for (u64 r = 0; r < rows; r++) {
        const f32 score = scores[r * width];
        wrong |= !finite(score);
        largest = score > largest ? score : largest;
    }
    if (wrong) {
        atomicMin(bad, view);
        return;
    }
    f32 total = 0.0f, sum = 0.0f;
    for (u64 r = 0; r < rows; r++) {
        const f32 weight = exponential(scores[r * width] - largest);
        total += weight;
        sum += weight * values[r * width];
    }
    out[at] = sum / total;
}
