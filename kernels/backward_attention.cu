// Gradients of attention over a whole sequence: ops::backward::attention.
//
// Two launches, over some rows and over one head of each group that shares keys and values:
// attention_dx_rows: a block of 128 threads takes 4 query rows of a head. A thread owns a key while products over the head
//   are made, whose rows come through shared memory 32 columns at a time; scores and dy v stay in device memory, a row's
//   sums of 16 lanes are those of 16 threads. It leaves the probabilities p and ds, and writes the gradient of q, a sum over
//   the keys in their order.
// attention_dx_keys: a block of 256 threads owns 64 keys and 64 columns of k or of v, a thread 4 x 4 of them, and adds up ds q
//   or p dy over the rows in their order. Heads of a group and portions of rows follow each other and go on where the ones
//   before stopped, so that no sum knows of the portions.
// Bound: keys and values read once for 4 query rows, out of the caches. Compute capability 8.0.
#include "outer.cuh"

#define TILE 128
#define ROWS 4
#define STEP 32

// out[r] = sum over d of rows[d][r] x[base + thread, d] in the order of d, for keys below `end`; x's rows are `stride` apart.
DEVICE void products(f32 (&out)[ROWS], const float4* rows, const f32* x, u64 stride, u32 base, u32 end, u32 head_dim)
{
    __shared__ f32 tile[TILE][STEP + 1];
    const u32 lane = threadIdx.x % 32, count = min(end - base, (u32)TILE);
#pragma unroll
    for (u32 r = 0; r < ROWS; r++)
        out[r] = 0.0f;
    for (u32 from = 0; from < head_dim; from += STEP) {
        const u32 width = min(head_dim - from, (u32)STEP);
        for (u32 n = threadIdx.x / 32; n < count; n += TILE / 32)
            if (lane < width)
                tile[n][lane] = x[(base + n) * stride + from + lane];
        __syncthreads();
        if (threadIdx.x < count)
#pragma unroll 4
            for (u32 d = 0; d < width; d++) {
                const float4 four = rows[from + d];
                const f32 v = tile[threadIdx.x][d];
                out[0] += four.x * v;
                out[1] += four.y * v;
                out[2] += four.z * v;
                out[3] += four.w * v;
            }
        __syncthreads();
    }
}

// The largest number of each row of a block of 128 threads that is no NaN, for all of them.
DEVICE void largest_of(f32 (&x)[ROWS])
{
    __shared__ f32 warps[ROWS][4];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
        for (u32 step = 16; step > 0; step /= 2) {
            const f32 other = __shfl_xor_sync(ALL, x[r], step);
            x[r] = other > x[r] ? other : x[r];
        }
        if (threadIdx.x % 32 == 0)
            warps[r][threadIdx.x / 32] = x[r];
    }
    __syncthreads();
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        x[r] = warps[r][0];
#pragma unroll
        for (u32 w = 1; w < 4; w++)
            x[r] = warps[r][w] > x[r] ? warps[r][w] : x[r];
    }
}

// Each row's sum of term(r, n) over the keys n that it sees, in 16 lanes, for all threads.
template <class F> DEVICE void lane_sums(f32 (&out)[ROWS], const u32 (&seen)[ROWS], u32 end, F term)
{
    // Half a row of banks more, so that two rows' lanes meet all of them.
    __shared__ f32 tile[ROWS][TILE + 16];
    __shared__ f32 totals[ROWS];
    const u32 row = threadIdx.x / 16;
    u32 own = 0;
#pragma unroll
    for (u32 r = 0; r < ROWS; r++)
        own = row == r ? seen[r] : own;
    f32 lane = 0.0f;
    for (u32 base = 0; base < end; base += TILE) {
        const u32 n = base + threadIdx.x;
#pragma unroll
        for (u32 r = 0; r < ROWS; r++)
            if (n < seen[r])
                tile[r][threadIdx.x] = term(r, n);
        __syncthreads();
        if (own > base)
            for (u32 i = threadIdx.x % 16; i < min(own - base, (u32)TILE); i += 16)
                lane += tile[row][i];
        __syncthreads();
    }
    if (threadIdx.x < 16 * ROWS) {
        const f32 total = lanes_total(lane);
        if (threadIdx.x % 16 == 0)
            totals[row] = total;
    }
    __syncthreads();
#pragma unroll
    for (u32 r = 0; r < ROWS; r++)
        out[r] = totals[r];
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(128, 4) attention_dx_rows(
    f32* __restrict__ dqkv,       // [rows, n_heads + 2 n_kv_heads, head_dim]: of q
    f32* __restrict__ p,          // [n_kv_heads, count, rows]
    f32* __restrict__ ds,         // the same
    const f32* __restrict__ qkv,  // [rows, n_heads + 2 n_kv_heads, head_dim]
    const f32* __restrict__ dy,   // [rows, n_heads, head_dim]
    u32 rows, u32 n_heads, u32 n_kv_heads, u32 head_dim, u32 causal,
    u32 member, u32 first, u32 count)  // a head of each group; query rows first to first + count
{
    extern __shared__ __align__(16) f32 shared[];  // [head_dim, 4] queries, the same of dy, [4, head_dim] sums
    f32 *queries = shared, *gradients = shared + ROWS * head_dim, *sums = shared + 2 * ROWS * head_dim;
    // Rows lie apart so that a warp that reads two of them meets two banks.
    __shared__ f32 weights[ROWS][TILE + 8];
    const u32 kv = blockIdx.y, h = kv * (n_heads / n_kv_heads) + member, base_row = blockIdx.x * ROWS;
    const u64 stride = (u64)(n_heads + 2 * n_kv_heads) * head_dim;
    const f32* keys = qkv + (u64)(n_heads + kv) * head_dim;
    const f32* values = keys + (u64)n_kv_heads * head_dim;
    const f32 scale = 1.0f / root((f32)head_dim);
    // Rows that are missing see nothing.
    u32 seen[ROWS], end = 0;
    u64 place[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        const u32 i = first + base_row + r;
        seen[r] = base_row + r >= count ? 0 : i < causal ? i + 1 : rows;
        place[r] = ((u64)kv * count + base_row + r) * rows;
        end = max(end, seen[r]);
    }
    for (u32 e = threadIdx.x; e < ROWS * head_dim; e += TILE) {
        const u32 r = e % ROWS, d = e / ROWS;
        const u64 i = first + base_row + r;
        const bool there = base_row + r < count;
        queries[e] = there ? qkv[i * stride + (u64)h * head_dim + d] : 0.0f;
        gradients[e] = there ? dy[(i * n_heads + h) * head_dim + d] : 0.0f;
        sums[e] = 0.0f;
    }
    __syncthreads();
    f32 largest[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++)
        largest[r] = -infinity();
    for (u32 base = 0; base < end; base += TILE) {
        const u32 n = base + threadIdx.x;
        f32 own[ROWS];
        products(own, (const float4*)queries, keys, stride, base, end, head_dim);
#pragma unroll
        for (u32 r = 0; r < ROWS; r++)
            if (n < seen[r]) {
                const f32 score = own[r] * scale;
                p[place[r] + n] = score;
                largest[r] = score > largest[r] ? score : largest[r];
            }
        products(own, (const float4*)gradients, values, stride, base, end, head_dim);
#pragma unroll
        for (u32 r = 0; r < ROWS; r++)
            if (n < seen[r])
                ds[place[r] + n] = own[r];
    }
    largest_of(largest);
    // What a thread has written above and below, it alone reads again.
    f32 inverse[ROWS], mean[ROWS];
    lane_sums(inverse, seen, end, [&](u32 r, u32 n) {
        return p[place[r] + n] = exponential(p[place[r] + n] - largest[r]);
    });
#pragma unroll
    for (u32 r = 0; r < ROWS; r++)
        inverse[r] = 1.0f / inverse[r];
    lane_sums(mean, seen, end, [&](u32 r, u32 n) {
        const f32 own = p[place[r] + n] * inverse[r];
        p[place[r] + n] = own;
        return own * ds[place[r] + n];
    });
    for (u32 base = 0; base < end; base += TILE) {
        const u32 n = base + threadIdx.x;
#pragma unroll
        for (u32 r = 0; r < ROWS; r++)
            if (n < seen[r]) {
                const f32 own = p[place[r] + n] * (ds[place[r] + n] - mean[r]) * scale;
                ds[place[r] + n] = own;
                weights[r][threadIdx.x] = own;
            }
        __syncthreads();
        // Two rows a thread, so that narrow heads leave fewer threads idle.
        for (u32 e = threadIdx.x; e < 2 * head_dim; e += TILE) {
            const u32 pair = e < head_dim ? 0 : 2, d = e - pair / 2 * head_dim;
            const u32 one = pair ? seen[2] : seen[0], other = pair ? seen[3] : seen[1], most = max(one, other);
            const f32* key = keys + base * stride + d;
            f32 a = sums[pair * head_dim + d], b = sums[(pair + 1) * head_dim + d];
            for (u32 i = 0; i < TILE && base + i < most; i++, key += stride) {
                const f32 k = *key;
                if (base + i < one)
                    a += weights[pair][i] * k;
                if (base + i < other)
                    b += weights[pair + 1][i] * k;
            }
            sums[pair * head_dim + d] = a;
            sums[(pair + 1) * head_dim + d] = b;
        }
        __syncthreads();
    }
    for (u32 e = threadIdx.x; e < ROWS * head_dim; e += TILE) {
        const u32 r = e / head_dim;
        if (base_row + r < count)
            dqkv[(first + base_row + r) * stride + (u64)h * head_dim + e % head_dim] = sums[e];
    }
}

extern "C" __global__ void __launch_bounds__(256, 3) attention_dx_keys(
    f32* __restrict__ dqkv,       // [rows, n_heads + 2 n_kv_heads, head_dim]: of k and v; added to but by the first launch
    const f32* __restrict__ p,    // [n_kv_heads, count, rows]
    const f32* __restrict__ ds,   // the same
    const f32* __restrict__ qkv,  // [rows, n_heads + 2 n_kv_heads, head_dim]
    const f32* __restrict__ dy,   // [rows, n_heads, head_dim]
    u32 rows, u32 n_heads, u32 n_kv_heads, u32 head_dim, u32 causal,
    u32 member, u32 first, u32 count)  // a head of each group; query rows first to first + count
{
    const u32 kv = blockIdx.y / 2, value = blockIdx.y % 2, h = kv * (n_heads / n_kv_heads) + member;
    const u32 tiles = (head_dim + SIDE - 1) / SIDE, key = blockIdx.x / tiles * SIDE, column = blockIdx.x % tiles * SIDE;
    const u64 stride = (u64)(n_heads + 2 * n_kv_heads) * head_dim;
    const f32* weights = (value ? p : ds) + (u64)kv * count * rows + key;
    const f32* others = (value ? dy : qkv) + (u64)h * head_dim + column;
    const u64 step = value ? (u64)n_heads * head_dim : stride;
    f32* const out = dqkv + (u64)(n_heads + value * n_kv_heads + kv) * head_dim;
    const u32 y = threadIdx.x / 16 * 4, x = threadIdx.x % 16;
    const bool begin = member == 0 && first == 0;
    f32 sum[4][4];
#pragma unroll
    for (u32 a = 0; a < 4; a++)
#pragma unroll
        for (u32 b = 0; b < 4; b++) {
            const u32 c = column + x + 16 * b;
            const bool there = key + y + a < rows && c < head_dim;
            sum[a][b] = begin || !there ? 0.0f : out[(key + y + a) * stride + c];
        }
    // Rows from `causal` on see all keys, those before it what stands before them.
    const auto seen = [=](u32 i, u32 c) { return i >= min(key + c, causal); };
    outer(
        sum, max(first, min(key, causal)), first + count,
        [=](u32 i, u32 c) { return key + c < rows && seen(i, c) ? weights[(u64)(i - first) * rows + c] : 0.0f; },
        [=](u32 i, u32 c) { return column + c < head_dim ? others[i * step + c] : 0.0f; }, seen);
#pragma unroll
    for (u32 a = 0; a < 4; a++)
#pragma unroll
        for (u32 b = 0; b < 4; b++) {
            const u32 c = column + x + 16 * b;
            if (key + y + a < rows && c < head_dim)
                out[(key + y + a) * stride + c] = sum[a][b];
        }
}
