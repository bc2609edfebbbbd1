// Norms, gates and activations over rows.
//
// A row is summed by 16 lanes side by side over the row, then the lanes from first to last, which is the order of
// ops::norm. Whole rows: a block of 256 threads takes one and puts its terms into shared memory, where 16 lanes read them
// many at a time; the additions, which alone wait for each other, are what bounds a single row. Heads are short: half a
// warp takes one. Bound: every element read two to three times (once
// from memory, then from the caches) and written once. Compute capability 8.0.
#include "activation.cuh"

extern "C" __global__ void __launch_bounds__(256) layer_norm(
    f32* __restrict__ y,             // [rows, width]
    const f32* __restrict__ x,       // [rows, width]
    const f32* __restrict__ weight,  // [width]
    const f32* __restrict__ bias,    // [width]
    u32 width, f32 eps)
{
    __shared__ Stage stage;
    const u64 at = (u64)blockIdx.x * width;
    x += at;
    const f32 mean = block_lane_sum(stage, width, [=](u32 i) { return x[i]; }) / (f32)width;
    const f32 squares = block_lane_sum(stage, width, [=](u32 i) { return (x[i] - mean) * (x[i] - mean); });
    const f32 variance = squares / (f32)width;
    const f32 scale = scale_of(variance, eps);
#pragma unroll 4
    for (u32 i = threadIdx.x; i < width; i += 256)
        y[at + i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

extern "C" __global__ void __launch_bounds__(256) rms_norm(
    f32* __restrict__ y,             // [rows, width]
    const f32* __restrict__ x,       // [rows, width]
    const f32* __restrict__ weight,  // [width]
    u32 width, f32 eps)
{
    __shared__ Stage stage;
    const u64 at = (u64)blockIdx.x * width;
    x += at;
    const f32 squares = block_lane_sum(stage, width, [=](u32 i) { return x[i] * x[i]; });
    const f32 scale = scale_of(squares / (f32)width, eps);
#pragma unroll 4
    for (u32 i = threadIdx.x; i < width; i += 256)
        y[at + i] = x[i] * scale * weight[i];
}

extern "C" __global__ void __launch_bounds__(256) head_norm(
    f32* x,                          // [rows, stride], in place
    const f32* __restrict__ weight,  // [head_dim]
    const f32* __restrict__ bias,    // [head_dim]
    u32 rows, u32 heads, u32 head_dim, u32 stride, u32 offset, f32 eps)
{
    const u64 own = own_row(), all = (u64)rows * heads, head = min(own, all - 1);
    f32* at = x + head / heads * stride + offset + head % heads * head_dim;
    const f32 mean = lane_sum(head_dim, [=](u32 i) { return at[i]; }) / (f32)head_dim;
    const f32 variance = lane_sum(head_dim, [=](u32 i) { return (at[i] - mean) * (at[i] - mean); }) / (f32)head_dim;
    const f32 scale = scale_of(variance, eps);
    if (own < all)
        for (u32 i = threadIdx.x % 16; i < head_dim; i += 16)
            at[i] = (at[i] - mean) * scale * weight[i] + bias[i];
}

extern "C" __global__ void __launch_bounds__(256) add(
    f32* __restrict__ y,        // [len], in place
    const f32* __restrict__ x,  // [len]
    u64 len)
{
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len)
        y[i] += x[i];
}

#define ACTIVATION(NAME, KIND)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) activate_##NAME(                                                 \
        f32* x, /* [len], in place */                                                                                  \
        u64 len)                                                                                                       \
    {                                                                                                                  \
        const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;                                                      \
        if (i < len)                                                                                                   \
            x[i] = activation<KIND>(x[i]);                                                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) gate_##NAME(                                                     \
        f32* __restrict__ y,       /* [rows, width]: activation(gate) * value */                                       \
        const f32* __restrict__ x, /* [rows, 2, width]: gate, value */                                                 \
        u32 rows, u32 width)                                                                                           \
    {                                                                                                                  \
        const u32 i = element(), row = i / width;                                                                      \
        if (row < rows) {                                                                                              \
            const u64 gate = (u64)row * width + i;                                                                     \
            y[i] = activation<KIND>(x[gate]) * x[gate + width];                                                        \
        }                                                                                                              \
    }

ACTIVATION(gelu_tanh, 0)
ACTIVATION(gelu_erf, 1)
ACTIVATION(silu, 2)
ACTIVATION(relu, 3)
