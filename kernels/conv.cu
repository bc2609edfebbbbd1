// Convolution over NHWC as a product, and the way between bytes and numbers.
//
// im2col writes the inputs of some output pixels side by side, ordered (kernel row, kernel column, channel); the
// products of gemv.cu do the rest, so that a pixel is summed as in ops::conv. One thread an element, or, where a tap's
// channels are copied 4 at a time (im2col_4), a warp a pixel: it finds each tap's pixel once. Bound: the elements, written
// once and read once. Compute capability 8.0.
#include "common.cuh"

// The input pixel behind a tap along one axis, or `size` where it is padding.
DEVICE u32 source(u32 output, u32 tap, u32 stride, u32 dilation, u32 pad, u32 upsample, u32 size)
{
    const u32 at = output * stride + tap * dilation;
    if (at < pad)
        return size;
    const u32 from = upsample ? (at - pad) / 2 : at - pad;
    return from < size ? from : size;
}

extern "C" __global__ void __launch_bounds__(256) im2col(
    f32* __restrict__ out,      // [pixels, kernel * kernel * c_in]
    const f32* __restrict__ x,  // [images, height, width, c_in]
    u32 first, u32 pixels,      // which output pixels, counted over all images
    u32 rows, u32 cols,         // of an output image
    u32 height, u32 width, u32 c_in, u32 kernel, u32 stride, u32 dilation, u32 pad, u32 upsample)
{
    const u32 i = element(), k = kernel * kernel * c_in, t = i % k, pixel = i / k;
    if (pixel >= pixels)
        return;
    const u32 at = first + pixel, row = at / cols;
    const u32 tap = t / c_in;
    const u32 h = source(row % rows, tap / kernel, stride, dilation, pad, upsample, height);
    const u32 w = source(at % cols, tap % kernel, stride, dilation, pad, upsample, width);
    out[i] = h < height && w < width ? x[(((u64)(row / rows) * height + h) * width + w) * c_in + t % c_in] : 0.0f;
}

extern "C" __global__ void __launch_bounds__(256) im2col_4(
    float4* __restrict__ out,      // [pixels, kernel * kernel, c_in / 4]
    const float4* __restrict__ x,  // [images, height, width, c_in / 4]
    u32 first, u32 pixels,         // which output pixels, counted over all images
    u32 rows, u32 cols,            // of an output image
    u32 height, u32 width, u32 c_in, u32 kernel, u32 stride, u32 dilation, u32 pad, u32 upsample)
{
    const u32 pixel = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, channels = c_in / 4;
    if (pixel >= pixels)
        return;
    const u32 at = first + pixel, row = at / cols, image = row / rows;
    out += (u64)pixel * kernel * kernel * channels;
    for (u32 i = 0; i < kernel; i++) {
        const u32 h = source(row % rows, i, stride, dilation, pad, upsample, height);
#pragma unroll 3
        for (u32 j = 0; j < kernel; j++, out += channels) {
            const u32 w = source(at % cols, j, stride, dilation, pad, upsample, width);
            const bool inside = h < height && w < width;
            const float4* from = x + (((u64)image * height + h) * width + w) * channels;
            for (u32 c = threadIdx.x & 31; c < channels; c += 32)
                out[c] = inside ? from[c] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) to_bytes(
    u8* __restrict__ out,       // [len]
    u32* bad,                   // [1]: the lowest element that is no number
    const f32* __restrict__ x,  // [len]
    u64 len, u32 rounding)      // 0 truncate, 1 nearest, 2 shift
{
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= len)
        return;
    const f32 v = x[i];
    if (v != v) {
        atomicMin(bad, (u32)min(i, 0xfffffffeull));
        return;
    }
    f32 b;
    if (rounding == 0)
        b = fminf(fmaxf((v + 1.0f) / 2.0f, 0.0f), 1.0f) * 255.0f;
    else if (rounding == 1)
        b = (fminf(fmaxf(v, -1.0f), 1.0f) + 1.0f) / 2.0f * 255.0f + 0.5f;
    else
        b = fminf(fmaxf(127.5f * v + 128.0f, 0.0f), 255.0f);
    out[i] = (u8)(u32)b;
}

extern "C" __global__ void __launch_bounds__(256) patchify(
    f32* __restrict__ out,          // [images, rows, cols, 3, patch, patch]
    const u8* __restrict__ pixels,  // [images, height, width, 3]
    u32 len,                        // elements of out
    u32 height, u32 width, u32 rows, u32 cols, u32 patch)
{
    const u32 i = element();
    if (i >= len)
        return;
    const u32 area = patch * patch, e = i % (3 * area), place = i / (3 * area);
    const u32 inside = place % (rows * cols), image = place / (rows * cols);
    const u64 row = (u64)image * height + inside / cols * patch + e % area / patch;
    const u32 col = inside % cols * patch + e % patch;
    const f32 byte = (f32)((f64)pixels[(row * width + col) * 3 + e / area] * (1.0 / 255.0));
    out[i] = (byte - 0.5f) / 0.5f;
}
