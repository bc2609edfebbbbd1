// Group norm over NHWC pictures, in five launches: sums of parts, their total, the same of squares, and the pixels.
//
// The sum of a group is that of ops::norm: of each channel 64 pixels, then the next 64; then the channels from first to
// last. group_parts gives each of those parts of 64 to a thread, neighbouring channels to neighbouring lanes;
// group_totals gives a group to a block, which adds the parts up in order, a thread a channel. group_apply: a thread 4
// channels, or one where they do not part evenly. Bound: pixels read three times (twice out of the second cache where they
// fit it) and written once. Compute capability 8.0.
#include "common.cuh"

// Pixels of a part.
#define PIXELS 64
// Parts in shared memory, and channels that are added up side by side.
#define PARTS 4096
#define CHANNELS 256

// Of x, or of (x - mean)^2.
template <bool SQUARES>
DEVICE void parts_of(f32* parts, const f32* x, const f32* statistics, u32 images, u32 pixels, u32 channels, u32 groups)
{
    const u32 blocks = (pixels + PIXELS - 1) / PIXELS, i = element();
    const u32 c = i % channels, part = i / channels, image = part / blocks;
    if (image >= images)
        return;
    const u32 first = part % blocks * PIXELS, count = min(pixels - first, PIXELS);
    const f32 mean = SQUARES ? statistics[(image * groups + c / (channels / groups)) * 2] : 0.0f;
    x += ((u64)image * pixels + first) * channels + c;
    f32 sum = 0.0f;
    u32 p = 0;
    for (; p + 16 <= count; p += 16) {
        f32 some[16];
#pragma unroll
        for (u32 j = 0; j < 16; j++)
            some[j] = x[(u64)(p + j) * channels];
#pragma unroll
        for (u32 j = 0; j < 16; j++) {
            const f32 off = some[j] - mean;
            sum += SQUARES ? off * off : some[j];
        }
    }
    for (; p < count; p++) {
        const f32 v = x[(u64)p * channels], off = v - mean;
        sum += SQUARES ? off * off : v;
    }
    parts[i] = sum;
}

#define PARTS_OF(NAME, SQUARES)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128) NAME(                                                            \
        f32* __restrict__ parts,            /* [images, parts, channels] */                                            \
        const f32* __restrict__ x,          /* [images, pixels, channels] */                                           \
        const f32* __restrict__ statistics, /* [images, groups, 2]: mean, scale */                                     \
        u32 images, u32 pixels, u32 channels, u32 groups)                                                              \
    {                                                                                                                  \
        parts_of<SQUARES>(parts, x, statistics, images, pixels, channels, groups);                                     \
    }

PARTS_OF(group_parts, false)
PARTS_OF(group_squares, true)

extern "C" __global__ void __launch_bounds__(256) group_totals(
    f32* __restrict__ statistics,   // [images, groups, 2]: the mean, or the scale out of the mean of squares
    const f32* __restrict__ parts,  // [images, parts, channels]
    u32 pixels, u32 channels, u32 groups, f32 eps, u32 squares)
{
    __shared__ f32 tile[PARTS];
    const u32 blocks = (pixels + PIXELS - 1) / PIXELS, width = channels / groups;
    const u32 group = blockIdx.x % groups;
    parts += (u64)(blockIdx.x / groups) * blocks * channels + group * width;
    f32 total = 0.0f;
    for (u32 from = 0; from < width; from += CHANNELS) {
        const u32 side = min(width - from, CHANNELS), together = PARTS / side;
        f32 sum = 0.0f;
        for (u32 base = 0; base < blocks; base += together) {
            const u32 now = min(blocks - base, together);
            for (u32 i = threadIdx.x; i < now * side; i += blockDim.x)
                tile[i] = parts[(u64)(base + i / side) * channels + from + i % side];
            __syncthreads();
            if (threadIdx.x < side) {
                u32 b = 0;
                for (; b + 16 <= now; b += 16) {
                    f32 some[16];
#pragma unroll
                    for (u32 j = 0; j < 16; j++)
                        some[j] = tile[(b + j) * side + threadIdx.x];
#pragma unroll
                    for (u32 j = 0; j < 16; j++)
                        sum += some[j];
                }
                for (; b < now; b++)
                    sum += tile[b * side + threadIdx.x];
            }
            __syncthreads();
        }
        if (threadIdx.x < side)
            tile[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x == 0)
            for (u32 c = 0; c < side; c++)
                total += tile[c];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        const f32 mean = total / (f32)(pixels * width);
        statistics[blockIdx.x * 2 + squares] = squares ? scale_of(mean, eps) : mean;
    }
}

// EACH neighbouring channels; they lie in one group.
template <u32 EACH> struct Vector;
template <> struct Vector<1> {
    typedef f32 Type;
};
template <> struct Vector<4> {
    typedef float4 Type;
};

template <u32 EACH>
DEVICE void apply(f32* y, const f32* x, const f32* weight, const f32* bias, const f32* statistics, u32 pixels,
                  u32 channels, u32 groups, u32 swish)
{
    typedef typename Vector<EACH>::Type Type;
    const u32 i = element() * EACH, c = i % channels;
    if (i / channels >= pixels)
        return;
    const float2 own = ((const float2*)statistics)[blockIdx.y * groups + c / (channels / groups)];
    const u64 at = (u64)blockIdx.y * pixels * channels + i;
    f32 v[EACH], w[EACH], b[EACH];
    *(Type*)v = *(const Type*)(x + at);
    *(Type*)w = *(const Type*)(weight + c);
    *(Type*)b = *(const Type*)(bias + c);
#pragma unroll
    for (u32 e = 0; e < EACH; e++) {
        const f32 n = (v[e] - own.x) * own.y * w[e] + b[e];
        v[e] = swish ? silu(n) : n;
    }
    *(Type*)(y + at) = *(Type*)v;
}

#define APPLY(NAME, EACH)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                            \
        f32* __restrict__ y,                /* [images, pixels, channels] */                                           \
        const f32* __restrict__ x,          /* [images, pixels, channels] */                                           \
        const f32* __restrict__ weight,     /* [channels] */                                                           \
        const f32* __restrict__ bias,       /* [channels] */                                                           \
        const f32* __restrict__ statistics, /* [images, groups, 2] */                                                  \
        u32 pixels, u32 channels, u32 groups, u32 swish)                                                               \
    {                                                                                                                  \
        apply<EACH>(y, x, weight, bias, statistics, pixels, channels, groups, swish);                                  \
    }

APPLY(group_apply, 1)
APPLY(group_apply_4, 4)
