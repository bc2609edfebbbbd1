// Codebooks: rows by index, lookup-free codes, the nearest code.
//
// Nearest: one block of 256 threads takes one latent; a thread goes over every 256th entry and keeps its best, so that
// no distance is ever stored. A distance is summed over the channels in order, as in ops::vq. Bound: the codebook, out
// of the caches after the first block. Compute capability 8.0.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) gather(
    f32* __restrict__ out,          // [rows, width]
    const u32* __restrict__ index,  // [rows]; one outside the table gives zeros
    const f32* __restrict__ table,  // [table_rows, width]
    u32 rows, u32 width, u32 table_rows)
{
    const u32 i = element(), r = i / width;
    if (r >= rows)
        return;
    const u32 j = index[r];
    out[i] = j < table_rows ? table[(u64)j * width + i % width] : 0.0f;
}

extern "C" __global__ void __launch_bounds__(256) lfq_lookup(
    f32* __restrict__ out,          // [n, bits]
    const u32* __restrict__ codes,  // [n]; one outside the codebook gives zeros
    u32 n, u32 bits)
{
    const u32 i = element(), r = i / bits;
    if (r >= n)
        return;
    const u32 code = codes[r], bit = bits - 1 - i % bits;
    out[i] = code >> bits ? 0.0f : code >> bit & 1 ? 1.0f : -1.0f;
}

extern "C" __global__ void __launch_bounds__(256) lfq_codes(
    u32* __restrict__ codes,          // [n]
    u32* bad,                         // [1]: the lowest latent with a NaN
    const f32* __restrict__ latents,  // [n, bits]
    u32 n, u32 bits)
{
    const u32 r = element();
    if (r >= n)
        return;
    u32 code = 0;
    bool all = true;
    for (u32 c = 0; c < bits; c++) {
        const f32 v = latents[(u64)r * bits + c];
        all = all && v == v;
        code = code << 1 | (v > 0.0f);
    }
    if (all)
        codes[r] = code;
    else
        atomicMin(bad, r);
}

extern "C" __global__ void __launch_bounds__(256) nearest(
    u32* __restrict__ codes,           // [n]
    u32* bad,                          // [1]: the lowest latent without a nearest code
    const f32* __restrict__ latents,   // [n, width]
    const f32* __restrict__ codebook,  // [entries, width]
    u32 width, u32 entries, u32 normalise)
{
    __shared__ f32 distances[256];
    __shared__ u32 chosen[256];
    const u32 row = blockIdx.x, t = threadIdx.x;
    const f32* z = latents + (u64)row * width;
    f32 scale = 1.0f;
    if (normalise) {
        f32 sum = 0.0f;
        for (u32 d = 0; d < width; d++)
            sum += z[d] * z[d];
        scale = sum < infinity() ? 1.0f / fmaxf(root(sum), 1e-12f) : __uint_as_float(0x7fc00000u);
    }
    f32 best = infinity();
    u32 at = entries;
    for (u32 e = t; e < entries; e += 256) {
        const f32* entry = codebook + (u64)e * width;
        f32 distance = 0.0f;
        for (u32 d = 0; d < width; d++) {
            const f32 off = z[d] * scale - entry[d];
            distance += off * off;
        }
        if (distance < best) {
            best = distance;
            at = e;
        }
    }
    distances[t] = best;
    chosen[t] = at;
    __syncthreads();
    if (t == 0) {
        for (u32 o = 1; o < 256; o++)
            if (distances[o] < best || (distances[o] == best && chosen[o] < at)) {
                best = distances[o];
                at = chosen[o];
            }
        if (at < entries)
            codes[row] = at;
        else
            atomicMin(bad, row);
    }
}
