// Guidance, temperature, top-k and top-p, and the categorical draw.
//
// One block of 256 threads takes one row of logits. Elements are independent but for the sums, which run in the order
// of ops::sample: 16 lanes side by side for the softmax, one after the other from the largest on for top-p. `bad` is
// one word, all ones at first: the lowest row whose logits are no numbers. Bound: a row read three to four times out of
// the caches; top-p sorts, width · log² width. Compute capability 8.0.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) guide(
    f32* logits,  // [2, len]: conditional, in place; unconditional
    u64 len, f32 scale)
{
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len)
        logits[i] = scale * logits[i] - (scale - 1.0f) * logits[len + i];
}

// Bits that rise with the float, as f32::total_cmp orders them.
DEVICE u32 rising(f32 x)
{
    const u32 bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The number that has `rank` others before it when the row falls: its bits in rising order.
DEVICE u32 select(const f32* x, u32 width, u32 rank)
{
    __shared__ u32 counts[256];
    __shared__ u32 chosen[2];
    u32 known = 0;
    for (u32 shift = 24;; shift -= 8) {
        counts[threadIdx.x] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < width; i += 256) {
            const u32 key = rising(x[i]);
            if (shift == 24 || key >> (shift + 8) == known)
                atomicAdd(&counts[key >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u32 byte = 255;
            while (byte > 0 && rank >= counts[byte])
                rank -= counts[byte--];
            chosen[0] = known << 8 | byte;
            chosen[1] = rank;
        }
        __syncthreads();
        known = chosen[0];
        rank = chosen[1];
        __syncthreads();
        if (shift == 0)
            return known;
    }
}

// Whether entry a comes before entry b: the larger first, of equals the first.
DEVICE bool before(const f32* x, u32 a, u32 b)
{
    const u32 ka = rising(x[a]), kb = rising(x[b]);
    return ka > kb || (ka == kb && a < b);
}

// Sorts `order` by `before`, for any width: the missing entries of the next power of two would come last.
DEVICE void sort(const f32* x, u32* order, u32 width)
{
    u32 size = 1;
    while (size < width)
        size *= 2;
    for (u32 run = 2; run <= size && run > 0; run *= 2) {
        for (u32 step = run / 2; step > 0; step /= 2) {
            for (u32 i = threadIdx.x; i < size / 2; i += 256) {
                // The first merge step of a run compares it with its mirror image: all comparisons point one way.
                const u32 low = i / step * 2 * step + i % step;
                const u32 high = step == run / 2 ? i / step * 2 * step + (2 * step - 1 - i % step) : low + step;
                if (high < width && before(x, order[high], order[low])) {
                    const u32 kept = order[low];
                    order[low] = order[high];
                    order[high] = kept;
                }
            }
            __syncthreads();
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) filter(
    f32* logits,  // [rows, width], in place
    u32* order,   // [rows, width], scratch
    u32* bad,     // [1]
    u32 width, f32 temperature, u32 top_k, f32 top_p, u32 idle)
{
    __shared__ f32 tile[256];
    __shared__ u32 count;
    f32* x = logits + (u64)blockIdx.x * width;
    order += (u64)blockIdx.x * width;
    u32 nan = 0;
    for (u32 i = threadIdx.x; i < width; i += 256) {
        const f32 v = x[i];
        nan |= v != v;
        if (!idle)
            x[i] = v / temperature;
        order[i] = i;
    }
    nan = __syncthreads_or(nan);
    if (nan) {
        if (threadIdx.x == 0)
            atomicMin(bad, blockIdx.x);
        return;
    }
    if (idle)
        return;
    u32 kept = width;
    if (top_k > 0 && top_k < width) {
        const u32 key = select(x, width, top_k - 1);
        const f32 least = __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
        if (threadIdx.x == 0)
            count = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < width; i += 256) {
            if (x[i] < least)
                x[i] = -infinity();
            else
                atomicAdd(&count, 1u);
        }
        __syncthreads();
        kept = count;
    }
    if (!(top_p < 1.0f))
        return;
    __syncthreads();
    // What top-k removed is below everything that it kept.
    sort(x, order, width);
    const f32 largest = x[order[0]];
    f32 total = 0.0f;
    for (u32 base = 0; base < kept; base += 256) {
        const u32 rank = base + threadIdx.x;
        if (rank < kept)
            tile[threadIdx.x] = exponential(x[order[rank]] - largest);
        __syncthreads();
        if (threadIdx.x == 0)
            for (u32 i = 0; i < min(kept - base, 256u); i++)
                total += tile[i];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        tile[0] = total;
    __syncthreads();
    total = tile[0];
    __syncthreads();
    f32 mass = 0.0f;
    for (u32 base = 0; base < kept; base += 256) {
        const u32 rank = base + threadIdx.x;
        if (rank < kept)
            tile[threadIdx.x] = exponential(x[order[rank]] - largest) / total;
        __syncthreads();
        if (threadIdx.x == 0)
            for (u32 i = 0; i < min(kept - base, 256u); i++) {
                // In place: a probability becomes the mass before it.
                const f32 p = tile[i];
                tile[i] = mass;
                mass += p;
            }
        __syncthreads();
        if (rank < kept && rank > 0 && tile[threadIdx.x] > top_p)
            x[order[rank]] = -infinity();
        __syncthreads();
    }
}

// Softmax of a row, and the entry with the largest probability over noise, the first of equals.
template <bool KEYED>
DEVICE void draw(f32* logits, u32* codes, f32* p, u32* bad, const u32* keys, const f32* noise, u32 width)
{
    __shared__ f32 scores[256];
    __shared__ u32 entries[256];
    __shared__ f32 inverse;
    const u32 row = blockIdx.x, t = threadIdx.x;
    f32* x = logits + (u64)row * width;
    f32 largest = -infinity();
    for (u32 i = t; i < width; i += 256)
        largest = x[i] > largest ? x[i] : largest;
    largest = block_max(largest);
    if (!finite(largest)) {
        if (t == 0)
            atomicMin(bad, row);
        return;
    }
    for (u32 i = t; i < width; i += 256)
        x[i] = exponential(x[i] - largest);
    __syncthreads();
    if (t < 32) {
        const f32 total = lane_sum(width, [=](u32 i) { return x[i]; });
        if (t == 0) {
            inverse = 1.0f / total;
            if (!finite(total))
                atomicMin(bad, row);
        }
    }
    __syncthreads();
    const f32 factor = inverse;
    f32 best = -infinity();
    u32 at = 0;
    if (KEYED) {
        const u32* key = keys + (u64)row * 4;
        const u32 k0 = key[0], k1 = key[1], step = key[2], slot = key[3];
        for (u32 b = t; b * 4 < width; b += 256) {
            const uint4 four = philox(k0, k1, make_uint4(b, slot, step, 0));
            const u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                const u32 i = 4 * b + e;
                if (i < width) {
                    const f32 unit = ((f32)(words[e] >> 9) + 0.5f) * (1.0f / 8388608.0f);
                    x[i] *= factor;
                    const f32 score = x[i] / -logarithm(unit);
                    if (score > best) {
                        best = score;
                        at = i;
                    }
                }
            }
        }
    } else {
        for (u32 i = t; i < width; i += 256) {
            x[i] *= factor;
            const f32 score = x[i] / noise[(u64)row * width + i];
            if (score > best) {
                best = score;
                at = i;
            }
        }
    }
    scores[t] = best;
    entries[t] = at;
    __syncthreads();
    if (t == 0) {
        for (u32 o = 1; o < 256; o++)
            if (scores[o] > best || (scores[o] == best && best > -infinity() && entries[o] < at)) {
                best = scores[o];
                at = entries[o];
            }
        codes[row] = at;
        p[row] = x[at];
    }
}

extern "C" __global__ void __launch_bounds__(256) draw_keyed(
    f32* logits,                   // [rows, width], in place
    u32* __restrict__ codes,       // [rows]
    f32* __restrict__ p,           // [rows]
    u32* bad,                      // [1]
    const u32* __restrict__ keys,  // [rows, 4]: seed (low, high), step, slot
    u32 width)
{
    draw<true>(logits, codes, p, bad, keys, nullptr, width);
}

extern "C" __global__ void __launch_bounds__(256) draw_given(
    f32* logits,                    // [rows, width], in place
    u32* __restrict__ codes,        // [rows]
    f32* __restrict__ p,            // [rows]
    u32* bad,                       // [1]
    const f32* __restrict__ noise,  // [rows, width]
    u32 width)
{
    draw<false>(logits, codes, p, bad, nullptr, noise, width);
}
