// Guidance, and the categorical draw.
//
// A draw: a block of 256 to 1024 threads takes a row. Its numbers lie in shared memory, 16 side by side as the 16 lanes
// of the sum take them; while one warp sums them up, the others make the noise. Of a row that top-k has left little of
// each lane keeps what is not ruled out, in order: a zero changes no sum of numbers that are none below it, and wins no
// race. A row wider than 16 numbers a thread goes through shared memory in tiles. `bad` is one word, all ones at first:
// the lowest row whose logits are no numbers. Bound: a chain of width / 16 additions beside some 100 instructions a
// number; both fall with the numbers that are left. Compute capability 8.0.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) guide(
    f32* logits,  // [2, len]: conditional, in place; unconditional
    u64 len, f32 scale)
{
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len)
        logits[i] = scale * logits[i] - (scale - 1.0f) * logits[len + i];
}

// Numbers of a thread, and threads of a block.
#define HELD 16
#define THREADS 1024
// Numbers of a tile of a wide row.
#define TILE 8192

// Where a number lies: after 256 of them the banks of 16 are left out, so that both halves of a warp, which stand some
// multiple of 256 apart, meet no conflict.
DEVICE u32 place(u32 i) { return i + (i >> 8) * 16; }

// This lane's sum over `rows` rows of 16 numbers, added to `sum` one after the other.
DEVICE f32 chain(f32 sum, const f32* numbers, u32 rows)
{
    const u32 l = threadIdx.x & 15;
    u32 j = 0;
    for (; j + 16 <= rows; j += 16) {
        f32 some[16];
#pragma unroll
        for (u32 i = 0; i < 16; i++)
            some[i] = numbers[17 * j + 16 * i + l];
#pragma unroll
        for (u32 i = 0; i < 16; i++)
            sum += some[i];
    }
    for (; j < rows; j++)
        sum += numbers[place(16 * j + l)];
    return sum;
}

// A word of noise as an exponential number: -ln of the middle of one of 2^23 parts of (0, 1).
DEVICE f32 exponential_noise(u32 word)
{
    // The upper 23 bits as a float, exactly.
    const f32 part = __uint_as_float(0x4b000000u | word >> 9) - 8388608.0f;
    return -logarithm((part + 0.5f) * (1.0f / 8388608.0f));
}

// An entry in the race.
struct Best {
    f32 score, p;
    u32 at;

    DEVICE Best() : score(-infinity()), p(0.0f), at(ALL) {}
    // The first of equals.
    DEVICE void meet(f32 other, f32 its_p, u32 its_at)
    {
        if (other > score || (other == score && its_at < at)) {
            score = other;
            p = its_p;
            at = its_at;
        }
    }
    DEVICE void reduce(u32 lanes)
    {
        for (u32 step = lanes / 2; step > 0; step /= 2) {
            const f32 other = __shfl_xor_sync(ALL, score, step), its_p = __shfl_xor_sync(ALL, p, step);
            meet(other, its_p, __shfl_xor_sync(ALL, at, step));
        }
    }
};

// What the threads of a block tell each other.
struct Shared {
    f32 largest[THREADS / 32];
    f32 inverse;
    u32 counts[THREADS / 16 * 17];
    u32 totals[16];
    f32 scores[THREADS / 32];
    f32 p[THREADS / 32];
    u32 entries[THREADS / 32];
};

DEVICE f32 row_largest(f32 x, Shared& s)
{
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        const f32 other = __shfl_xor_sync(ALL, x, step);
        x = other > x ? other : x;
    }
    if (lane == 0)
        s.largest[threadIdx.x / 32] = x;
    __syncthreads();
    x = lane < blockDim.x / 32 ? s.largest[lane] : -infinity();
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        const f32 other = __shfl_xor_sync(ALL, x, step);
        x = other > x ? other : x;
    }
    return x;
}

// The sum of the row out of the sums of a warp's lanes.
DEVICE void finish_sum(f32 sum, u32* bad, Shared& s)
{
    const f32 total = lanes_total(sum);
    if (threadIdx.x == 0) {
        s.inverse = 1.0f / total;
        if (!finite(total))
            atomicMin(bad, blockIdx.x);
    }
}

DEVICE void finish_race(Best best, const f32* x, u32* codes, f32* p, Shared& s)
{
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    best.reduce(32);
    if (lane == 0) {
        s.scores[warp] = best.score;
        s.p[warp] = best.p;
        s.entries[warp] = best.at;
    }
    __syncthreads();
    if (warp > 0)
        return;
    best = Best();
    if (lane < blockDim.x / 32) {
        best.score = s.scores[lane];
        best.p = s.p[lane];
        best.at = s.entries[lane];
    }
    best.reduce(32);
    if (lane == 0) {
        // Nobody wins where no score is a number.
        codes[blockIdx.x] = best.at == ALL ? 0 : best.at;
        p[blockIdx.x] = best.at == ALL ? x[0] : best.p;
    }
}

// The noise of four neighbouring entries.
template <bool KEYED> DEVICE void noise_of(f32 (&noise)[4], const void* source, u32 block, u32 width)
{
    if (KEYED) {
        const uint4 key = ((const uint4*)source)[blockIdx.x];
        const uint4 four = philox(key.x, key.y, make_uint4(block, key.w, key.z, 0));
        const u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            noise[e] = exponential_noise(words[e]);
    } else {
        const f32* given = (const f32*)source + (u64)blockIdx.x * width;
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            noise[e] = 4 * block + e < width ? given[4 * block + e] : 1.0f;
    }
}

// Of few numbers: lists in shared memory, in which lane l's k-th lies at 16 k + l. `own` are 16 numbers of lane t % 16,
// from entry `first` on 16 apart, k of them the number of those that other threads have before.
DEVICE Best draw_few(f32* x, const f32 (&own)[HELD], u32 first, u32 turns, u32 k, f32 largest, u32 limit, uint4 key,
                     u32* bad, f32* list, u32 width, Shared& s)
{
    const u32 t = threadIdx.x, l = t & 15;
    u32* entries = (u32*)list + place(16 * limit);
    f32* noise = (f32*)entries + place(16 * limit);
    const u32 before = k;
    // One bit for each that is kept, the upper 16 of them.
    u32 mask = 0;
#pragma unroll
    for (u32 m = 0; m < HELD; m++)
        if (own[m] != -infinity()) {
            list[place(16 * k + l)] = own[m];
            entries[place(16 * k + l)] = first + 16 * m;
            mask |= 0x10000u << m;
            k++;
        }
    u32 most = s.totals[l];
#pragma unroll
    for (u32 step = 8; step > 0; step /= 2)
        most = max(most, __shfl_xor_sync(ALL, most, step));
    __syncthreads();
    for (u32 q = t; q < 16 * most; q += blockDim.x)
        list[place(q)] = q / 16 < s.totals[l] ? exponential(list[place(q)] - largest) : 0.0f;
    __syncthreads();
    if (t < 32) {
        finish_sum(chain(0.0f, list, most), bad, s);
    } else {
        for (u32 q = t - 32; q < 16 * most; q += blockDim.x - 32)
            if (q / 16 < s.totals[l]) {
                const u32 i = entries[place(q)];
                const uint4 four = philox(key.x, key.y, make_uint4(i / 4, key.w, key.z, 0));
                const u32 low = i & 1 ? four.y : four.x, high = i & 1 ? four.w : four.z;
                noise[place(q)] = exponential_noise(i & 2 ? high : low);
            }
    }
    __syncthreads();
    const f32 factor = s.inverse;
    Best best;
    for (u32 q = t; q < 16 * most; q += blockDim.x)
        if (q / 16 < s.totals[l]) {
            const f32 p = list[place(q)] * factor, score = p / noise[place(q)];
            list[place(q)] = p;
            if (score > -infinity())
                best.meet(score, p, entries[place(q)]);
        }
    __syncthreads();
    k = before;
#pragma unroll
    for (u32 m = 0; m < HELD; m++) {
        const u32 i = first + 16 * m;
        const bool kept = mask & 0x10000u << m;
        if (m < turns && i < width)
            x[i] = kept ? list[place(16 * k + l)] : 0.0f;
        k += kept;
    }
    return best;
}

// Of many numbers: all of the row in shared memory, where they lie.
template <bool KEYED>
DEVICE Best draw_many(f32* x, const void* source, u32* bad, f32* numbers, u32 width, Shared& s)
{
    // Four entries a turn, by all warps but the first: they are one more turn than a thread has numbers.
    const u32 TURNS = HELD / 4 + 1, threads = blockDim.x - 32, rows = (width + 15) / 16;
    f32 noise[TURNS][4];
    const u32 first = threadIdx.x - 32;
    if (threadIdx.x < 32) {
        finish_sum(chain(0.0f, numbers, rows), bad, s);
    } else {
#pragma unroll
        for (u32 m = 0; m < TURNS; m++)
            if ((first + m * threads) * 4 < width)
                noise_of<KEYED>(noise[m], source, first + m * threads, width);
    }
    __syncthreads();
    const f32 factor = s.inverse;
    Best best;
    if (threadIdx.x < 32)
        return best;
#pragma unroll
    for (u32 m = 0; m < TURNS; m++) {
        const u32 i = (first + m * threads) * 4;
        if (i < width) {
            const float4 four = *(const float4*)&numbers[place(i)];
            const f32 p[4] = {four.x * factor, four.y * factor, four.z * factor, four.w * factor};
            if (width % 4 == 0)
                *(float4*)&x[i] = make_float4(p[0], p[1], p[2], p[3]);
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                if (i + e < width) {
                    if (width % 4 != 0)
                        x[i + e] = p[e];
                    const f32 score = p[e] / noise[m][e];
                    if (score > best.score) {
                        best.score = score;
                        best.p = p[e];
                        best.at = i + e;
                    }
                }
        }
    }
    return best;
}

// A row that does not fit: it stays in memory, and goes through shared memory on its way to the sum.
template <bool KEYED>
DEVICE Best draw_wide(f32* x, const void* source, f32 largest, u32* bad, f32* numbers, u32 width, Shared& s)
{
    f32 sum = 0.0f;
    for (u32 base = 0; base < width; base += TILE) {
        const u32 now = min(width - base, TILE), rows = (now + 15) / 16;
        for (u32 i = threadIdx.x; i < 16 * rows; i += blockDim.x) {
            const f32 e = i < now ? exponential(x[base + i] - largest) : 0.0f;
            if (i < now)
                x[base + i] = e;
            numbers[place(i)] = e;
        }
        __syncthreads();
        if (threadIdx.x < 32)
            sum = chain(sum, numbers, rows);
        __syncthreads();
    }
    if (threadIdx.x < 32)
        finish_sum(sum, bad, s);
    __syncthreads();
    const f32 factor = s.inverse;
    Best best;
    for (u32 i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x) {
        f32 noise[4];
        noise_of<KEYED>(noise, source, i / 4, width);
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            if (i + e < width) {
                const f32 p = x[i + e] * factor, score = p / noise[e];
                x[i + e] = p;
                if (score > best.score) {
                    best.score = score;
                    best.p = p;
                    best.at = i + e;
                }
            }
    }
    return best;
}

// Softmax of a row, and the entry with the largest probability over noise, the first of equals.
template <bool KEYED> DEVICE void draw(f32* logits, u32* codes, f32* p, u32* bad, const void* source, u32 width)
{
    extern __shared__ float4 memory[];
    __shared__ Shared s;
    f32* numbers = (f32*)memory;
    f32* x = logits + (u64)blockIdx.x * width;
    const u32 t = threadIdx.x, l = t & 15, half = t / 16, halves = blockDim.x / 16;
    const bool wide = width > HELD * blockDim.x;
    const u32 turns = (width + blockDim.x - 1) / blockDim.x, first = 16 * turns * half + l;
    f32 own[HELD];
    f32 largest = -infinity();
    if (wide)
        for (u32 i = t; i < width; i += blockDim.x)
            largest = x[i] > largest ? x[i] : largest;
    else
#pragma unroll
        for (u32 m = 0; m < HELD; m++) {
            const u32 i = first + 16 * m;
            own[m] = m < turns && i < width ? x[i] : -infinity();
            largest = own[m] > largest ? own[m] : largest;
        }
    largest = row_largest(largest, s);
    if (!finite(largest)) {
        if (t == 0)
            atomicMin(bad, blockIdx.x);
        return;
    }
    if (wide) {
        finish_race(draw_wide<KEYED>(x, source, largest, bad, numbers, width, s), x, codes, p, s);
        return;
    }
    if (KEYED) {
        // A lane's numbers that are not ruled out, and those before this thread's.
        u32 kept = 0;
#pragma unroll
        for (u32 m = 0; m < HELD; m++)
            kept += own[m] != -infinity();
        s.counts[half * 17 + l] = kept;
        __syncthreads();
        for (u32 c = t / 32; c < 16; c += blockDim.x / 32) {
            const u32 lane = t & 31;
            const u32 a = 2 * lane < halves ? s.counts[2 * lane * 17 + c] : 0;
            const u32 b = 2 * lane + 1 < halves ? s.counts[(2 * lane + 1) * 17 + c] : 0;
            u32 sum = a + b;
#pragma unroll
            for (u32 step = 1; step < 32; step *= 2) {
                const u32 other = __shfl_up_sync(ALL, sum, step);
                sum += lane >= step ? other : 0;
            }
            if (2 * lane < halves)
                s.counts[2 * lane * 17 + c] = sum - a - b;
            if (2 * lane + 1 < halves)
                s.counts[(2 * lane + 1) * 17 + c] = sum - b;
            if (lane == 31)
                s.totals[c] = sum;
        }
        __syncthreads();
        // Three lists have the room of the row.
        const u32 limit = (width + 15) / 16 / 4;
        if (!__syncthreads_or(t < 16 && s.totals[t] > limit)) {
            const uint4 key = ((const uint4*)source)[blockIdx.x];
            const u32 k = s.counts[half * 17 + l];
            const Best best = draw_few(x, own, first, turns, k, largest, limit, key, bad, numbers, width, s);
            finish_race(best, x, codes, p, s);
            return;
        }
    }
#pragma unroll
    for (u32 m = 0; m < HELD; m++) {
        const u32 i = first + 16 * m;
        if (m < turns && i < (width + 15) / 16 * 16)
            numbers[place(i)] = exponential(own[m] - largest);
    }
    __syncthreads();
    finish_race(draw_many<KEYED>(x, source, bad, numbers, width, s), x, codes, p, s);
}

extern "C" __global__ void __launch_bounds__(THREADS) draw_keyed(
    f32* logits,                   // [rows, width], in place
    u32* __restrict__ codes,       // [rows]
    f32* __restrict__ p,           // [rows]
    u32* bad,                      // [1]
    const u32* __restrict__ keys,  // [rows, 4]: seed (low, high), step, slot
    u32 width)
{
    draw<true>(logits, codes, p, bad, keys, width);
}

extern "C" __global__ void __launch_bounds__(THREADS) draw_given(
    f32* logits,                    // [rows, width], in place
    u32* __restrict__ codes,        // [rows]
    f32* __restrict__ p,            // [rows]
    u32* bad,                       // [1]
    const f32* __restrict__ noise,  // [rows, width]
    u32 width)
{
    draw<false>(logits, codes, p, bad, noise, width);
}
