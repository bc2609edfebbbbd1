// Norms, gates and activations over rows.
//
// A row is summed by 16 lanes side by side over the row, then the lanes from first to last, which is the order of
// ops::norm. Whole rows: a block of 256 threads takes one and puts its terms into shared memory, where 16 lanes add them;
// the additions, which alone wait for each other, are what bounds a single row: a quarter of a cycle an element. Rows of up
// to 4096 elements are read once and stay with the threads. Heads are short: half a warp takes one. Bound: every element
// read once (longer rows two to three times, then from the caches) and written once. Compute capability 8.0.
#include "activation.cuh"

// Between two lanes' terms: of the 4096 elements of a row that a block holds, and some more so that lanes use other banks.
#define PITCH 260

// What a block holds of a row: its terms, those of a lane one after the other, and what they come to.
struct Held {
    f32 terms[16 * PITCH];
    f32 result;
};

// Terms i to i + 3, i a multiple of 4.
DEVICE void put(Held& held, u32 i, float4 v)
{
    f32* const to = held.terms + i % 16 * PITCH + i / 16;
    to[0] = v.x;
    to[PITCH] = v.y;
    to[2 * PITCH] = v.z;
    to[3 * PITCH] = v.w;
}

// The sum of `count` terms, a multiple of 256 of which the last may be zeros, in the reference's order, for all threads. A
// lane's additions wait for each other, so the terms come sixteen at a time, before those in hand are added.
DEVICE f32 held_sum(Held& held, u32 count)
{
    __syncthreads();
    if (threadIdx.x < 32) {
        const float4* const own = (const float4*)(held.terms + threadIdx.x % 16 * PITCH);
        float4 next[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            next[i] = own[i];
        f32 lane = 0.0f;
#pragma unroll 1
        for (u32 at = 4; at <= count / 64; at += 4) {
            float4 now[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                now[i] = next[i];
                // Behind the last terms come four that are not added.
                next[i] = own[at < count / 64 ? at + i : i];
            }
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                lane += now[i].x;
                lane += now[i].y;
                lane += now[i].z;
                lane += now[i].w;
            }
        }
        const f32 total = lanes_total(lane);
        if (threadIdx.x == 0)
            held.result = total;
    }
    __syncthreads();
    return held.result;
}

// Calls f(r, i) for the fours of a row that a thread holds: r counts them, i is the first element.
template <u32 FOURS, class F> DEVICE void each_held(F f)
{
#pragma unroll
    for (u32 r = 0; r < FOURS; r++)
        f(r, 4 * (threadIdx.x + 256 * r));
}

DEVICE float4 four_of(const f32* from, u32 i, u32 width)
{
    return i < width ? *(const float4*)(from + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// A row of up to 1024 * FOURS elements, a multiple of 4, which the threads keep from the first look to the last.
template <u32 FOURS>
DEVICE void held_layer_norm(
    Held& held, f32* y, const f32* x, const f32* weight, const f32* bias, u32 width, f32 eps)
{
    const u32 count = (width + 255) / 256 * 256;
    float4 v[FOURS], w[FOURS], b[FOURS];
    each_held<FOURS>([&](u32 r, u32 i) { v[r] = four_of(x, i, width); });
    each_held<FOURS>([&](u32 r, u32 i) {
        if (i < count)
            put(held, i, v[r]);
    });
    const f32 mean = held_sum(held, count) / (f32)width;
    each_held<FOURS>([&](u32 r, u32 i) {
        v[r] = make_float4(v[r].x - mean, v[r].y - mean, v[r].z - mean, v[r].w - mean);
        const bool there = i < width;
        if (i < count)
            put(held, i, make_float4(there ? v[r].x * v[r].x : 0.0f, there ? v[r].y * v[r].y : 0.0f,
                                     there ? v[r].z * v[r].z : 0.0f, there ? v[r].w * v[r].w : 0.0f));
    });
    const f32 scale = scale_of(held_sum(held, count) / (f32)width, eps);
    each_held<FOURS>([&](u32 r, u32 i) {
        w[r] = four_of(weight, i, width);
        b[r] = four_of(bias, i, width);
    });
    each_held<FOURS>([&](u32 r, u32 i) {
        if (i < width)
            *(float4*)(y + i) = make_float4(v[r].x * scale * w[r].x + b[r].x, v[r].y * scale * w[r].y + b[r].y,
                                            v[r].z * scale * w[r].z + b[r].z, v[r].w * scale * w[r].w + b[r].w);
    });
}

template <u32 FOURS> DEVICE void held_rms_norm(Held& held, f32* y, const f32* x, const f32* weight, u32 width, f32 eps)
{
    const u32 count = (width + 255) / 256 * 256;
    float4 v[FOURS], w[FOURS];
    each_held<FOURS>([&](u32 r, u32 i) { v[r] = four_of(x, i, width); });
    each_held<FOURS>([&](u32 r, u32 i) { w[r] = four_of(weight, i, width); });
    each_held<FOURS>([&](u32 r, u32 i) {
        if (i < count)
            put(held, i, make_float4(v[r].x * v[r].x, v[r].y * v[r].y, v[r].z * v[r].z, v[r].w * v[r].w));
    });
    const f32 scale = scale_of(held_sum(held, count) / (f32)width, eps);
    each_held<FOURS>([&](u32 r, u32 i) {
        if (i < width)
            *(float4*)(y + i) = make_float4(v[r].x * scale * w[r].x, v[r].y * scale * w[r].y, v[r].z * scale * w[r].z,
                                            v[r].w * scale * w[r].w);
    });
}

// What a block needs of shared memory for either kind of row.
union Room {
    Held held;
    Stage stage;
};

extern "C" __global__ void __launch_bounds__(256) layer_norm(
    f32* __restrict__ y,             // [rows, width]
    const f32* __restrict__ x,       // [rows, width]
    const f32* __restrict__ weight,  // [width]
    const f32* __restrict__ bias,    // [width]
    u32 width, f32 eps)
{
    __shared__ __align__(16) Room room;
    const u64 at = (u64)blockIdx.x * width;
    x += at;
    y += at;
    if (width % 4 == 0 && width <= 2048)
        return held_layer_norm<2>(room.held, y, x, weight, bias, width, eps);
    if (width % 4 == 0 && width <= 4096)
        return held_layer_norm<4>(room.held, y, x, weight, bias, width, eps);
    const f32 mean = block_lane_sum(room.stage, width, [=](u32 i) { return x[i]; }) / (f32)width;
    const f32 squares = block_lane_sum(room.stage, width, [=](u32 i) { return (x[i] - mean) * (x[i] - mean); });
    const f32 variance = squares / (f32)width;
    const f32 scale = scale_of(variance, eps);
#pragma unroll 4
    for (u32 i = threadIdx.x; i < width; i += 256)
        y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

extern "C" __global__ void __launch_bounds__(256) rms_norm(
    f32* __restrict__ y,             // [rows, width]
    const f32* __restrict__ x,       // [rows, width]
    const f32* __restrict__ weight,  // [width]
    u32 width, f32 eps)
{
    __shared__ __align__(16) Room room;
    const u64 at = (u64)blockIdx.x * width;
    x += at;
    y += at;
    if (width % 4 == 0 && width <= 2048)
        return held_rms_norm<2>(room.held, y, x, weight, width, eps);
    if (width % 4 == 0 && width <= 4096)
        return held_rms_norm<4>(room.held, y, x, weight, width, eps);
    const f32 squares = block_lane_sum(room.stage, width, [=](u32 i) { return x[i] * x[i]; });
    const f32 scale = scale_of(squares / (f32)width, eps);
#pragma unroll 4
    for (u32 i = threadIdx.x; i < width; i += 256)
        y[i] = x[i] * scale * weight[i];
}

extern "C" __global__ void __launch_bounds__(256) head_norm(
    f32* x,                          // [rows, stride], in place
    const f32* __restrict__ weight,  // [head_dim]
    const f32* __restrict__ bias,    // [head_dim]
    u32 rows, u32 heads, u32 head_dim, u32 stride, u32 offset, f32 eps)
{
    const u64 head = own_row();
    f32* at = x + head / heads * stride + offset + head % heads * head_dim;
    // Lanes without a head touch nothing: another's would be written meanwhile.
    const u32 width = head < (u64)rows * heads ? head_dim : 0;
    const f32 mean = lane_sum(width, [=](u32 i) { return at[i]; }) / (f32)head_dim;
    const f32 variance = lane_sum(width, [=](u32 i) { return (at[i] - mean) * (at[i] - mean); }) / (f32)head_dim;
    const f32 scale = scale_of(variance, eps);
    for (u32 i = threadIdx.x % 16; i < width; i += 16)
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
