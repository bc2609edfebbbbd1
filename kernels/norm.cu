// Norms, gates and activations over rows.
//
// A row is summed by 16 lanes side by side over the row, then the lanes from first to last, which is the order of
// ops::norm. Whole rows: a block of 256 threads takes one and puts its terms into shared memory, where 16 lanes read them
// many at a time; the additions, which alone wait for each other, are what bounds a single row. Heads are short: half a
// warp takes one. Group norm: a block takes one group of one picture. Bound: every element read two to three times (once
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

// Pixels of one partial sum of group norm, and channels that are summed side by side here.
#define PIXELS 64
#define PARTS 1024

// The sum of f over the group's channels and a picture's pixels: for each channel 64 pixels, then the next 64; then
// the channels from first to last. `from` is the group's first channel.
template <class F> DEVICE f32 group_sum(u32 pixels, u32 width, F f)
{
    __shared__ f32 parts[PARTS];
    __shared__ f32 result;
    const u32 blocks = (pixels + PIXELS - 1) / PIXELS;
    f32 total = 0.0f;
    for (u32 from = 0; from < width; from += 256) {
        const u32 channels = min(width - from, 256u), together = PARTS / channels;
        f32 sum = 0.0f;
        for (u32 base = 0; base < blocks; base += together) {
            const u32 now = min(blocks - base, together);
            for (u32 i = threadIdx.x; i < now * channels; i += blockDim.x) {
                const u32 c = from + i % channels, first = (base + i / channels) * PIXELS;
                const u32 end = min(pixels, first + PIXELS);
                f32 part = 0.0f;
                for (u32 p = first; p < end; p++)
                    part += f(p, c);
                parts[i] = part;
            }
            __syncthreads();
            if (threadIdx.x < channels)
                for (u32 b = 0; b < now; b++)
                    sum += parts[b * channels + threadIdx.x];
            __syncthreads();
        }
        if (threadIdx.x < channels)
            parts[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x == 0)
            for (u32 c = 0; c < channels; c++)
                total += parts[c];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        result = total;
    __syncthreads();
    total = result;
    __syncthreads();
    return total;
}

extern "C" __global__ void __launch_bounds__(256) group_norm(
    f32* __restrict__ y,             // [images, pixels, channels]
    const f32* __restrict__ x,       // [images, pixels, channels]
    const f32* __restrict__ weight,  // [channels]
    const f32* __restrict__ bias,    // [channels]
    u32 pixels, u32 channels, u32 groups, f32 eps, u32 swish)
{
    const u32 width = channels / groups, first = blockIdx.x % groups * width;
    const u64 at = (u64)(blockIdx.x / groups) * pixels * channels + first;
    x += at;
    y += at;
    const f32 count = (f32)(pixels * width);
    const f32 mean = group_sum(pixels, width, [=](u32 p, u32 c) { return x[(u64)p * channels + c]; }) / count;
    const f32 squares = group_sum(pixels, width, [=](u32 p, u32 c) {
        const f32 off = x[(u64)p * channels + c] - mean;
        return off * off;
    });
    const f32 scale = scale_of(squares / count, eps);
    for (u32 i = threadIdx.x; i < pixels * width; i += blockDim.x) {
        const u32 c = i % width;
        const u64 to = (u64)(i / width) * channels + c;
        const f32 v = (x[to] - mean) * scale * weight[first + c] + bias[first + c];
        y[to] = swish ? silu(v) : v;
    }
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
