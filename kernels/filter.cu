// Temperature, top-k and top-p.
//
// A block of 256 to 1024 threads takes a row and keeps it in registers, 16 numbers a thread (KEPT); a wider row is read
// from memory in every pass. Top-k looks for a number's rank in a histogram between the least and the largest number,
// then in one of the place that the rank falls into, until that holds few. Top-p sorts, and sums as ops::sample does:
// one after the other from the largest on. `bad` is one word, all ones at first: the lowest row whose logits are no
// numbers. Bound: one multiprocessor's instructions, some 60 a number; with top-p a chain of two additions for each
// number that top-k left. Compute capability 8.0.
#include "common.cuh"

// Numbers of a thread.
#define HELD 16
// Places of the histogram.
#define BINS 2048
// Numbers that are ranked one against the other.
#define FEW 256
// What a kernel sorts in shared memory: keys, and the entries that they belong to.
template <bool KEPT> struct Sorted {
    typedef u16 Entry;
    enum { most = 16384 };
};
template <> struct Sorted<false> {
    typedef u32 Entry;
    enum { most = 8192 };
};

// Bits that rise with the float, as f32::total_cmp orders them, and back.
DEVICE u32 rising(f32 x)
{
    const u32 bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

DEVICE f32 number(u32 key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// A row, a thread's numbers of it blockDim.x apart.
template <bool KEPT> struct Row {
    f32* x;
    u32 width;
    f32 held[KEPT ? HELD : 1];

    DEVICE f32 get(u32 m, u32 i) const { return KEPT ? held[m] : x[i]; }
    DEVICE void set(u32 m, u32 i, f32 v)
    {
        if (KEPT)
            held[m] = v;
        else
            x[i] = v;
    }
};

// Turn m of a thread, and the entry i that it takes there.
#define EACH(m, i, width)                                                                                              \
    _Pragma("unroll") for (u32 m = 0, i = threadIdx.x; KEPT ? m < HELD : i < (width); m++, i += blockDim.x)            \
        if (!KEPT || i < (width))

// What the threads of a block tell each other.
struct Shared {
    u32 warps[32];
    u32 low, high;
    u32 bin, rank, count, taken;
    u32 list[FEW];
    f32 total;
    u32 cut;
};

// The sum of `own` over the threads before this one; `total` over all of them.
DEVICE u32 sum_before(u32 own, Shared& s, u32& total)
{
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    u32 sum = own;
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
        const u32 other = __shfl_up_sync(ALL, sum, step);
        sum += lane >= step ? other : 0;
    }
    if (lane == 31)
        s.warps[warp] = sum;
    __syncthreads();
    u32 warps = lane < blockDim.x / 32 ? s.warps[lane] : 0;
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
        const u32 other = __shfl_up_sync(ALL, warps, step);
        warps += lane >= step ? other : 0;
    }
    total = __shfl_sync(ALL, warps, 31);
    const u32 before = __shfl_sync(ALL, warps, (warp + 31) & 31);
    __syncthreads();
    return (warp > 0 ? before : 0) + sum - own;
}

// The least and the largest of the threads' keys, for all of them.
DEVICE void bounds(u32& low, u32& high, Shared& s)
{
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        low = min(low, __shfl_xor_sync(ALL, low, step));
        high = max(high, __shfl_xor_sync(ALL, high, step));
    }
    if (threadIdx.x == 0) {
        s.low = ALL;
        s.high = 0;
    }
    __syncthreads();
    if ((threadIdx.x & 31) == 0) {
        atomicMin(&s.low, low);
        atomicMax(&s.high, high);
    }
    __syncthreads();
    low = s.low;
    high = s.high;
    __syncthreads();
}

// Places of keys from `low` to `high`: even parts of the numbers' range, or of the keys' where that is no number or
// nothing. They rise with the key, and are at least two.
struct Places {
    u32 low, high, shift;
    f32 least, scale;
    bool even;

    DEVICE Places(u32 low, u32 high) : low(low), high(high), shift(0), least(number(low))
    {
        const f32 range = number(high) - least;
        scale = (f32)(BINS - 1) / range;
        even = range > 0.0f && finite(range) && finite(scale);
        while ((high - low) >> shift >= BINS)
            shift++;
    }
    DEVICE bool has(u32 key) const { return key >= low && key <= high; }
    // Rounded by an addition, to the place in the last bits: the largest product is below BINS - 0.5.
    DEVICE u32 of(f32 x, u32 key) const
    {
        return even ? __float_as_uint((x - least) * scale + 8388608.0f) & (2 * BINS - 1) : (key - low) >> shift;
    }
};

// The key that has `rank` others before it when the row falls; all keys lie from `low` to `high`.
template <bool KEPT> DEVICE u32 select(const Row<KEPT>& row, u32 rank, u32 low, u32 high, u32* counts, Shared& s)
{
    while (low != high) {
        const Places places(low, high);
        for (u32 b = threadIdx.x; b < BINS; b += blockDim.x)
            counts[b] = 0;
        if (threadIdx.x == 0)
            s.taken = 0;
        __syncthreads();
        EACH(m, i, row.width)
        {
            const f32 x = row.get(m, i);
            const u32 key = rising(x);
            if (places.has(key))
                atomicAdd(&counts[places.of(x, key)], 1u);
        }
        __syncthreads();
        const u32 own = BINS / blockDim.x, first = BINS - 1 - threadIdx.x * own;
        u32 sum = 0, all;
        for (u32 b = 0; b < own; b++)
            sum += counts[first - b];
        u32 before = sum_before(sum, s, all);
        if (before <= rank && rank - before < sum) {
            u32 bin = first;
            while (rank - before >= counts[bin])
                before += counts[bin--];
            s.bin = bin;
            s.rank = rank - before;
            s.count = counts[bin];
        }
        __syncthreads();
        const u32 bin = s.bin, count = s.count;
        rank = s.rank;
        if (count <= FEW) {
            EACH(m, i, row.width)
            {
                const f32 x = row.get(m, i);
                const u32 key = rising(x);
                if (places.has(key) && places.of(x, key) == bin)
                    s.list[atomicAdd(&s.taken, 1u)] = key;
            }
            __syncthreads();
            for (u32 t = threadIdx.x; t < count; t += blockDim.x) {
                const u32 key = s.list[t];
                u32 ahead = 0;
                for (u32 o = 0; o < count; o++)
                    ahead += s.list[o] > key || (s.list[o] == key && o < t);
                if (ahead == rank)
                    s.low = key;
            }
            __syncthreads();
            low = high = s.low;
        } else {
            low = ALL;
            high = 0;
            EACH(m, i, row.width)
            {
                const f32 x = row.get(m, i);
                const u32 key = rising(x);
                if (places.has(key) && places.of(x, key) == bin) {
                    low = min(low, key);
                    high = max(high, key);
                }
            }
            bounds(low, high, s);
        }
    }
    return low;
}

// The pairs that a step of a sort compares: `low` gets what comes first. The first step of a run compares it with its
// mirror image, so that all comparisons point one way and missing entries of the next power of two would come last.
#define SORT(size, width, low, high)                                                                                   \
    for (u32 run = 2; run <= (size) && run > 0; run *= 2)                                                              \
        for (u32 step = run / 2; step > 0; step /= 2, __syncthreads())                                                 \
            for (u32 pair = threadIdx.x; pair < (size) / 2; pair += blockDim.x)                                        \
                if (const u32 base = (pair & ~(step - 1)) * 2, low = base + (pair & (step - 1)),                       \
                    high = step == run / 2 ? base + 2 * step - 1 - (pair & (step - 1)) : low + step;                   \
                    high < (width))

// Sorts entries by falling keys, of equals the first first.
template <class Entry> DEVICE void sort(u32* keys, Entry* entries, u32 width)
{
    u32 size = 1;
    while (size < width)
        size *= 2;
    SORT(size, width, low, high)
    {
        const u32 a = keys[low], b = keys[high];
        const Entry i = entries[low], j = entries[high];
        if (b > a || (b == a && j < i)) {
            keys[low] = b;
            keys[high] = a;
            entries[low] = j;
            entries[high] = i;
        }
    }
}

// The same of a row that stays in memory.
DEVICE void sort_order(const f32* x, u32* order, u32 width)
{
    u32 size = 1;
    while (size < width)
        size *= 2;
    SORT(size, width, low, high)
    {
        const u32 i = order[low], j = order[high], a = rising(x[i]), b = rising(x[j]);
        if (b > a || (b == a && j < i)) {
            order[low] = j;
            order[high] = i;
        }
    }
}

// total + x[0] + x[1] and so on.
DEVICE f32 sum_from(f32 total, const f32* x, u32 width)
{
    u32 r = 0;
    for (; r + 16 <= width; r += 16) {
        f32 some[16];
#pragma unroll
        for (u32 i = 0; i < 16; i++)
            some[i] = x[r + i];
#pragma unroll
        for (u32 i = 0; i < 16; i++)
            total += some[i];
    }
    for (; r < width; r++)
        total += x[r];
    return total;
}

// How many of the sorted numbers stay: all that have no more than `top_p` before them. `mass` is that of those before
// x[0], and then of all up to the first that goes.
DEVICE u32 staying(f32& mass, const f32* x, u32 width, f32 top_p)
{
    u32 r = 0;
    for (; r + 16 <= width; r += 16) {
        f32 some[16];
#pragma unroll
        for (u32 i = 0; i < 16; i++)
            some[i] = x[r + i];
        f32 all = mass;
#pragma unroll
        for (u32 i = 0; i < 16; i++)
            all += some[i];
        // None is below zero: what the last one exceeds the others need not.
        if (all > top_p)
            break;
        mass = all;
    }
    for (; r < width && !(mass > top_p); r++)
        mass += x[r];
    return r;
}

template <bool KEPT>
DEVICE void filter(f32* logits, u32* order, u32* bad, u32 width, f32 temperature, u32 top_k, f32 top_p, u32 idle)
{
    extern __shared__ u32 memory[];
    __shared__ Shared s;
    Row<KEPT> row;
    row.x = logits + (u64)blockIdx.x * width;
    row.width = width;
    u32 low = ALL, high = 0;
    bool nan = false;
    EACH(m, i, width)
    {
        f32 x = row.x[i];
        nan |= x != x;
        if (!idle && temperature != 1.0f)
            x = x / temperature;
        row.set(m, i, x);
        const u32 key = rising(x);
        low = min(low, key);
        high = max(high, key);
    }
    if (__syncthreads_or(nan)) {
        if (threadIdx.x == 0)
            atomicMin(bad, blockIdx.x);
        return;
    }
    if (idle)
        return;
    f32 least = -infinity();
    if (top_k > 0 && top_k < width) {
        bounds(low, high, s);
        least = number(select(row, top_k - 1, low, high, memory, s));
    }
    u32 own = 0;
    EACH(m, i, width)
    {
        const f32 x = row.get(m, i);
        const bool stays = !(x < least);
        own += stays;
        if (!stays || (KEPT && temperature != 1.0f))
            row.x[i] = stays ? x : -infinity();
    }
    if (!(top_p < 1.0f))
        return;
    // What top-k removed is below everything that it kept.
    u32 kept;
    u32 place = sum_before(own, s, kept);
    if (kept > Sorted<KEPT>::most) {
        // Too many for shared memory: sorted where they stand.
        order += (u64)blockIdx.x * width;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x)
            order[i] = i;
        __syncthreads();
        sort_order(row.x, order, width);
        f32* tile = (f32*)memory;
        const f32 largest = row.x[order[0]];
        f32 total = 0.0f, mass = 0.0f;
        for (u32 base = 0; base < kept; base += BINS) {
            const u32 now = min(kept - base, BINS);
            for (u32 r = threadIdx.x; r < now; r += blockDim.x)
                tile[r] = exponential(row.x[order[base + r]] - largest);
            __syncthreads();
            if (threadIdx.x == 0)
                s.total = total = sum_from(total, tile, now);
            __syncthreads();
        }
        total = s.total;
        u32 cut = kept;
        for (u32 base = 0; base < kept && cut == kept; base += BINS) {
            const u32 now = min(kept - base, BINS);
            for (u32 r = threadIdx.x; r < now; r += blockDim.x)
                tile[r] = exponential(row.x[order[base + r]] - largest) / total;
            __syncthreads();
            if (threadIdx.x == 0) {
                const u32 stay = staying(mass, tile, now, top_p);
                s.cut = stay < now || mass > top_p ? base + stay : kept;
            }
            __syncthreads();
            cut = s.cut;
        }
        // The first always stays.
        for (u32 r = max(cut, 1u) + threadIdx.x; r < kept; r += blockDim.x)
            row.x[order[r]] = -infinity();
        return;
    }
    u32* keys = memory;
    typedef typename Sorted<KEPT>::Entry Entry;
    Entry* entries = (Entry*)(keys + kept);
    EACH(m, i, width)
    {
        const f32 x = row.get(m, i);
        if (!(x < least)) {
            keys[place] = rising(x);
            entries[place++] = (Entry)i;
        }
    }
    __syncthreads();
    sort(keys, entries, kept);
    f32* p = (f32*)keys;
    const f32 largest = number(keys[0]);
    __syncthreads();
    for (u32 r = threadIdx.x; r < kept; r += blockDim.x)
        p[r] = exponential(number(keys[r]) - largest);
    __syncthreads();
    if (threadIdx.x == 0)
        s.total = sum_from(0.0f, p, kept);
    __syncthreads();
    const f32 total = s.total;
    for (u32 r = threadIdx.x; r < kept; r += blockDim.x)
        p[r] = p[r] / total;
    __syncthreads();
    if (threadIdx.x == 0) {
        f32 mass = 0.0f;
        s.cut = staying(mass, p, kept, top_p);
    }
    __syncthreads();
    for (u32 r = max(s.cut, 1u) + threadIdx.x; r < kept; r += blockDim.x)
        row.x[entries[r]] = -infinity();
}

#define FILTER(NAME, KEPT)                                                                                             \
    extern "C" __global__ void __launch_bounds__(1024) NAME(                                                           \
        f32* logits, /* [rows, width], in place */                                                                     \
        u32* order,  /* [rows, width], scratch */                                                                      \
        u32* bad,    /* [1] */                                                                                         \
        u32 width, f32 temperature, u32 top_k, f32 top_p, u32 idle)                                                    \
    {                                                                                                                  \
        filter<KEPT>(logits, order, bad, width, temperature, top_k, top_p, idle);                                      \
    }

FILTER(filter_held, true)
FILTER(filter_wide, false)
