// The nearest code of latents up to 8 wide, in three launches.
//
// prepare: a thread an entry, or a latent. It brings latents to their length, and writes both as 8 floats, the missing
//   ones zeros: as they are, and each as a sum of two of BF16, in the order in which lanes of a matrix product take them.
// screen: a warp takes 128 latents and 512 entries. Tensor cores make an approximation A of |e|^2 - 2 y e for each pair,
//   out of all four products of the short floats, two an instruction; what is kept is the least A of every 128 entries
//   (those of a lane). The warps of a block take the same entries.
// finish: a warp takes a latent. Entries whose 128 may hold the nearest one are looked at again, with the floats and in
//   the order of ops::vq: what comes out is the entry that a search through all of them finds, the first of equals.
//
// Which 128 those are. Let y be the latent as ops::vq scales it, D = |y - e|^2, u = 2^-24, M the largest |e| and
//   S = |y| + M. The first short float of a number leaves 2^-9 of it, the second 2^-18. So the terms of 2 y e are off by
//   2^-16 |y| M <= 2^-18 S^2 together. Each of the two sums, of 17 terms in single precision, is taken to be off by no more
//   than 2^-18 of the sum of their sizes, which is at most S^2 (cutting each term off at 2^-23 of the largest gives less),
//   and |e|^2 by 8 u. So A is off from D - |y|^2 by E <= (2^-18 + 2 * 2^-18 + 2^-21) S^2 < 2^-16 S^2. The distance of
//   ops::vq is off from D by at most 12 u D. If it prefers entry j to k, which has the least A, then
//   D(j) <= D(k) (1 + 25 u), and A(j) <= A(k) + 2 E + 25 u D(k), where D(k) <= S^2: no more than
//   A(k) + (2^-15 + 2^-19) S^2. The kernel allows 2^-14 S^2, the roundings of this very sum included, and 1e-35 (1 + S) for
//   numbers too small to be normal. Where that is no number, all entries are looked at again. An entry that is itself no
//   number or infinite has no distance below infinity; it is as far from everything here.
//
// Bound: screen by two products for 128 pairs of a lane's four, and an instruction for each pair's minimum; finish by what
// the caches give. Compute capability 8.0.
#include "bf16.cuh"

#define WIDTH 8
#define LATENTS 128
#define TILES (LATENTS / 16)
#define GROUP 512
// Entries of a matrix product, and products whose entries are read ahead.
#define COLUMNS 8
#define AHEAD 2
#define WARPS 4

// 8 floats as the lanes take them: lane t of four the numbers 2 t and 2 t + 1, then what is left of them.
DEVICE void put(uint2* to, const f32 (&x)[WIDTH], f32 factor)
{
#pragma unroll
    for (u32 t = 0; t < 4; t++) {
        const f32 one = factor * x[2 * t], other = factor * x[2 * t + 1];
        const u32 first = pair(one, other);
        to[t] = make_uint2(first, pair(one - from_bf16(first & 0xffff), other - from_bf16(first >> 16)));
    }
}

extern "C" __global__ void __launch_bounds__(256) nearest_prepare(
    f32* __restrict__ exact,         // [padded, 8]
    uint2* __restrict__ table,       // [padded, 4], short
    f32* __restrict__ side,          // [padded]: |e|^2; of latents |y|
    u32* most,                       // [1], zero at first: bits of the largest |e|^2; of latents not written
    const f32* __restrict__ source,  // [rows, width]
    u32 rows, u32 width, u32 padded, u32 latents, u32 normalise)
{
    const u32 r = element();
    if (r >= padded)
        return;
    f32 x[WIDTH];
#pragma unroll
    for (u32 d = 0; d < WIDTH; d++)
        x[d] = r < rows && d < width ? source[(u64)r * width + d] : 0.0f;
    if (normalise) {
        f32 sum = 0.0f;
#pragma unroll
        for (u32 d = 0; d < WIDTH; d++)
            sum += x[d] * x[d];
        const f32 scale = sum < infinity() ? 1.0f / fmaxf(root(sum), 1e-12f) : __uint_as_float(0x7fc00000u);
#pragma unroll
        for (u32 d = 0; d < WIDTH; d++)
            x[d] = x[d] * scale;
    }
    ((float4*)exact)[r * 2] = make_float4(x[0], x[1], x[2], x[3]);
    ((float4*)exact)[r * 2 + 1] = make_float4(x[4], x[5], x[6], x[7]);
    bool all = true;
    f32 squares = 0.0f;
#pragma unroll
    for (u32 d = 0; d < WIDTH; d++) {
        all = all && finite(x[d]);
        squares += x[d] * x[d];
    }
    if (latents) {
        put(table + r * 4, x, -2.0f);
        side[r] = root(squares);
        return;
    }
    const bool near = all && r < rows;
    if (!near) {
#pragma unroll
        for (u32 d = 0; d < WIDTH; d++)
            x[d] = 0.0f;
    }
    put(table + r * 4, x, 1.0f);
    side[r] = near ? squares : infinity();
    u32 bits = near ? __float_as_uint(squares) : 0;
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2)
        bits = max(bits, __shfl_xor_sync(ALL, bits, step));
    if ((threadIdx.x & 31) == 0)
        atomicMax(most, bits);
}

// a b + c of 16 x 16 and 16 x 8 short floats, whose columns hold their 8 numbers twice. Lane 4 g + t holds of a the rows g and
// g + 8 at 2 t and 2 t + 1, then both at 8 further; of b column g at 2 t and 2 t + 1; of c and the product the columns 2 t and
// 2 t + 1 of its rows.
DEVICE float4 multiply(u32 a0, u32 a1, u32 a2, u32 a3, u32 b, float4 c)
{
    float4 d;
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %8}, {%9, %10, %11, %12};"
        : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b), "f"(c.x), "f"(c.y), "f"(c.z), "f"(c.w));
    return d;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) nearest_screen(
    f32* __restrict__ least,             // [latents, groups, 4]
    const uint2* __restrict__ latents,   // [latents, 4] short floats, times -2
    const uint2* __restrict__ entries,   // [groups, 512, 4] short floats
    const float2* __restrict__ squares,  // [groups, 256] pairs
    u32 groups, u32 padded)
{
    const u32 lane = threadIdx.x & 31, t = lane & 3, group = blockIdx.y;
    const u32 first = (blockIdx.x * WARPS + threadIdx.x / 32) * LATENTS, row = first + lane / 4;
    if (first >= padded)
        return;
    uint2 upper[TILES], lower[TILES];
    f32 best[TILES][2];
#pragma unroll
    for (u32 m = 0; m < TILES; m++) {
        upper[m] = latents[(row + 16 * m) * 4 + t];
        lower[m] = latents[(row + 16 * m + 8) * 4 + t];
        best[m][0] = best[m][1] = infinity();
    }
    entries += (u64)group * GROUP * 4 + lane;
    squares += (u64)group * (GROUP / 2) + t;
    uint2 b[AHEAD];
    float2 c[AHEAD];
#pragma unroll
    for (u32 i = 0; i < AHEAD; i++) {
        b[i] = entries[i * 32];
        c[i] = squares[i * 4];
    }
    for (u32 tile = 0; tile < GROUP / COLUMNS; tile += AHEAD) {
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const uint2 columns = b[i];
            const float2 sides = c[i];
            const u32 next = min(tile + i + AHEAD, GROUP / COLUMNS - 1);
            b[i] = entries[next * 32];
            c[i] = squares[next * 4];
            // The small terms first.
#pragma unroll
            for (u32 m = 0; m < TILES; m++) {
                const float4 small = multiply(upper[m].x, lower[m].x, upper[m].y, lower[m].y, columns.y,
                                              make_float4(sides.x, sides.y, sides.x, sides.y));
                const float4 d = multiply(upper[m].x, lower[m].x, upper[m].y, lower[m].y, columns.x, small);
                best[m][0] = fminf(fminf(best[m][0], d.x), d.y);
                best[m][1] = fminf(fminf(best[m][1], d.z), d.w);
            }
        }
    }
#pragma unroll
    for (u32 m = 0; m < TILES; m++) {
        least[((u64)(row + 16 * m) * groups + group) * 4 + t] = best[m][0];
        least[((u64)(row + 16 * m + 8) * groups + group) * 4 + t] = best[m][1];
    }
}

extern "C" __global__ void __launch_bounds__(256) nearest_finish(
    u32* __restrict__ codes,             // [n]
    u32* bad,                            // [1]: the lowest latent without a nearest code
    const f32* __restrict__ least,       // [latents, groups, 4]
    const float4* __restrict__ latents,  // [latents, 2]
    const f32* __restrict__ lengths,     // [latents]
    const float4* __restrict__ entries,  // [groups * 512, 2]
    const u32* __restrict__ most,        // [1]
    u32 n, u32 groups, u32 count, u32 first)  // count: entries; first: the first latent's number
{
    const u32 lane = threadIdx.x & 31, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n)
        return;
    least += (u64)row * groups * 4;
    const float4 low = latents[row * 2], high = latents[row * 2 + 1];
    const f32 y[WIDTH] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    f32 limit = infinity();
    for (u32 i = lane; i < groups * 4; i += 32)
        limit = fminf(limit, least[i]);
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2)
        limit = fminf(limit, __shfl_xor_sync(ALL, limit, step));
    const f32 length = lengths[row], largest = root(__uint_as_float(*most)), both = length + largest;
    limit += 6.1035156e-5f * both * both + 1e-35f * (1.0f + both);
    const bool every = !finite(limit);
    f32 best = infinity();
    u32 at = count;
    for (u32 base = 0; base < groups * 4; base += 32) {
        const bool near = base + lane < groups * 4 && (every || least[base + lane] <= limit);
        u32 some = __ballot_sync(ALL, near);
        while (some != 0) {
            // The lowest of them, and the entries of its lane.
            const u32 part = base + __popc((some & (0u - some)) - 1), begin = part / 4 * GROUP + part % 4 * 2;
            some &= some - 1;
#pragma unroll
            for (u32 i = 0; i < GROUP / COLUMNS / 32; i++)
#pragma unroll
                for (u32 odd = 0; odd < 2; odd++) {
                    const u32 e = begin + (32 * i + lane) * COLUMNS + odd;
                    const float4 one = entries[e * 2], two = entries[e * 2 + 1];
                    const f32 x[WIDTH] = {one.x, one.y, one.z, one.w, two.x, two.y, two.z, two.w};
                    f32 distance = 0.0f;
#pragma unroll
                    for (u32 d = 0; d < WIDTH; d++) {
                        const f32 off = y[d] - x[d];
                        distance += off * off;
                    }
                    if (e < count && (distance < best || (distance == best && e < at && at < count))) {
                        best = distance;
                        at = e;
                    }
                }
        }
    }
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        const f32 other = __shfl_xor_sync(ALL, best, step);
        const u32 its = __shfl_xor_sync(ALL, at, step);
        if (other < best || (other == best && its < at)) {
            best = other;
            at = its;
        }
    }
    if (lane == 0) {
        if (at < count)
            codes[first + row] = at;
        else
            atomicMin(bad, first + row);
    }
}
