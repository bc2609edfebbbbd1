// Attention of many query rows: prompts, the rows of a picture that are drawn at once, towers of images.
//
// A block of 128 threads takes 64 query rows of a head, 16 a warp, and goes over the rows that they see twice, in tiles of
// KEYS. First over the keys: scores, of which each thread keeps the largest of its rows and leaves the rest in device
// memory for itself, `kept` tiles of them; those of later tiles are computed again. Then over the values: a thread makes
// exponentials of the scores that it left and hands them to its warp, which multiplies them with the tile.
//
// Both are products of small matrices: of a tile's scores a thread owns 4 rows and KEYS / 8 keys, of the result 4 rows and
// an eighth of the columns. Nothing is split: a score is summed over the head by one thread, a column over the rows by
// one thread, exponentials in 16 lanes of which a thread owns two of each of its rows. So all orders are those of
// ops::attention. Tiles come by asynchronous copies, the next one while one is worked on.
// Bound: the floating-point units, a product and a sum apart; keys and values once for every 64 rows of a head, out of
// the second cache. Compute capability 8.0. Few rows: see decode.cu; other heads: see heads.cu.
#include "tiles.cuh"

struct Task {
    f32* out;
    f32* scores;
    u32* next;
    const f32* q;
    const u32 *keys, *values, *spans;
    u32 queries, heads, group, q_stride, q_offset, kv_rows, kv_stride, kv_head_stride, causal, repeated_prefix;
    f32 scale;
    u32 kept, tiles;
    // What query i of a sequence sees.
    DEVICE Visible sees(u32 sequence, u32 i) const
    {
        return Visible(spans + (u64)sequence * 4, i, queries, kv_rows, causal, repeated_prefix);
    }
    DEVICE u32 count(u32 sequence, u32 i) const
    {
        const Visible v = sees(sequence, i);
        return v.prefix + v.rest;
    }
};

// Tile `tile` of the query rows: its rows are those of one head of one sequence.
template <u32 D, u32 KEYS, bool LEVELS> DEVICE void attend_tile(const Task& task, u32 tile)
{
    using P = Plan<D, KEYS, LEVELS>;
    extern __shared__ uint4 shared[];
    const u32 thread = threadIdx.x;
    const u32 warp = thread / 32, lane = thread % 32;
    // A lane's first row and first key or column. Lanes that read the same lie side by side.
    const u32 line = (lane & 1) | lane >> 4 << 1, column = lane >> 1 & 7, turned = line * 8;
    const u32 parts = (task.queries + ROWS - 1) / ROWS;
    // Later rows of a causal sequence see more: the longest first.
    const u32 part = parts - 1 - tile % parts, h = tile / parts % task.heads, sequence = tile / parts / task.heads;
    const u32 first = part * ROWS, rows = min(task.queries - first, (u32)ROWS), last = first + rows - 1;
    u32 *queries = (u32*)shared, *ring = queries + P::RING;
    f32* weights = (f32*)(queries + P::WEIGHTS) + (warp * 16 + line) * KEYS;
    f32* floats = (f32*)(queries + P::FLOATS);
    const u32* query = queries + (warp * 16 + line) * P::PITCH;
    const f32* q = task.q + (u64)sequence * task.queries * task.q_stride + task.q_offset + (u64)h * D;
    const u32* keys = task.keys + (u64)(h / task.group) * task.kv_head_stride;
    const u32* values = task.values + (u64)(h / task.group) * task.kv_head_stride;

    // How many rows are seen: by any of the block, by the first and the last of the warp's, by each of the lane's.
    const Visible sees = task.sees(sequence, last);
    const u32 count = sees.prefix + sees.rest;
    const bool active = warp * 16 < rows;
    const u32 least = task.count(sequence, min(first + warp * 16, last));
    const u32 most = active ? task.count(sequence, min(first + warp * 16 + 15, last)) : 0;
    u32 limits[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        limits[i] = task.count(sequence, min(first + warp * 16 + line + 4 * i, last));

    if constexpr (LEVELS) {
        // Four blocks of the warp's rows at a time.
        if (active)
#pragma unroll 1
            for (u32 i = lane / 8; i < 16 * P::BLOCKS; i += 4) {
                const u32 b = i / 16, own = warp * 16 + i % 16;
                const f32* from = q + (u64)min(first + own, last) * task.q_stride + b * 32;
                u32 word;
                const f32 scale = round_block(from, min(D - b * 32, 32u), word);
                queries[own * P::PITCH + b * 8 + lane % 8] = word;
                if (lane % 8 == 0)
                    queries[own * P::PITCH + P::BLOCKS * 8 + b] = __float_as_uint(scale);
            }
    } else if (active && count > 0) {
#pragma unroll 4
        for (u32 i = 0; i < 16; i++) {
            const f32* row = q + (u64)min(first + warp * 16 + i, last) * task.q_stride;
#pragma unroll
            for (u32 d = lane; d < D; d += 32)
                copy_async<4, true>(queries + (warp * 16 + i) * P::PITCH + d, row + d);
        }
    }

    // Steps: keys of all tiles, values of those whose scores were kept, then keys and values of each of the rest.
    const u32 tiles = (count + KEYS - 1) / KEYS, kept = min(task.kept, tiles), steps = tiles + kept + 2 * (tiles - kept);
    const auto of_keys = [&](u32 step) { return step < tiles || (step >= tiles + kept && (step - tiles - kept) % 2 == 0); };
    const auto tile_of = [&](u32 step) {
        return step < tiles ? step : step < tiles + kept ? step - tiles : kept + (step - tiles - kept) / 2;
    };
    const auto fetch = [&](u32 step) {
        const u32* from = of_keys(step) ? keys : values;
        const u32 base = tile_of(step) * KEYS;
        u32* to = ring + step % 2 * P::STAGE;
        if constexpr (LEVELS) {
            // A warp a row; what lies between two rows is read along with scales.
#pragma unroll 2
            for (u32 n = warp; n < KEYS; n += THREADS / 32) {
                const bool seen = base + n < count;
                const u32* row = from + (seen ? sees.row(base + n) * task.kv_stride : 0);
#pragma unroll
                for (u32 w = lane; w < P::PITCH; w += 32)
                    if (seen && w < P::WORDS)
                        copy_async<4, true>(to + n * P::PITCH + w, row + w);
                    else
                        to[n * P::PITCH + w] = 0;
            }
        } else {
            each_four<D, KEYS>(thread, [&](u32 n, u32 four) {
                if (base + n < count)
                    copy_async<16, false>(to + n * P::PITCH + four * 4, from + sees.row(base + n) * task.kv_stride + four * 4);
                else
                    *(uint4*)(to + n * P::PITCH + four * 4) = make_uint4(0, 0, 0, 0);
            });
        }
        copy_commit();
    };

    float4* left = (float4*)task.scores + (u64)blockIdx.x * (task.kept + 1) * P::EACH * THREADS + thread;
    f32 largest[4], lanes[4][2], sums[4][P::COLUMNS];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        largest[i] = -infinity();
        lanes[i][0] = lanes[i][1] = 0.0f;
#pragma unroll
        for (u32 c = 0; c < P::COLUMNS; c++)
            sums[i][c] = 0.0f;
    }
    if (steps > 0)
        fetch(0);
    for (u32 step = 0; step < steps; step++) {
        const u32 t = tile_of(step), base = t * KEYS;
        const u32* stage = ring + step % 2 * P::STAGE;
        // The tile's scores, or where they are left; those of tiles that are computed again are left behind the others.
        float4* scores = left + min(t, kept) * P::EACH * THREADS;
        copy_wait<0>();
        // All copies have landed, and all threads are done with the tile before.
        __syncthreads();
        if (step + 1 < steps)
            fetch(step + 1);
        if (of_keys(step)) {
            if (base < most) {
                f32 s[4][P::EACH];
                multiply_rows<P, D, LEVELS>(s, query, stage + column * P::PITCH);
#pragma unroll
                for (u32 j = 0; j < P::EACH; j++) {
                    const u32 n = base + column + 8 * j;
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        s[i][j] *= task.scale;
                        largest[i] = n < limits[i] && s[i][j] > largest[i] ? s[i][j] : largest[i];
                    }
                    if (step < kept || step >= tiles)
                        scores[j * THREADS] = make_float4(s[0][j], s[1][j], s[2][j], s[3][j]);
                }
            }
            if (step + 1 == tiles)
#pragma unroll
                for (u32 bit = 2; bit <= 8; bit *= 2)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        const f32 other = __shfl_xor_sync(ALL, largest[i], bit);
                        largest[i] = other > largest[i] ? other : largest[i];
                    }
            continue;
        }
        const f32* tile = (const f32*)stage;
        if constexpr (LEVELS) {
            each_four<D, KEYS>(thread, [&](u32 n, u32 four) {
                const u32 word = stage[n * P::PITCH + four];
                *(float4*)(floats + n * D + four * 4) = make_float4(
                    (f32)((i32)(word << 24) >> 24), (f32)((i32)(word << 16) >> 24), (f32)((i32)(word << 8) >> 24),
                    (f32)((i32)word >> 24));
            });
            tile = floats;
            __syncthreads();
        }
        if (base >= most)
            continue;
        float4 next[2] = {scores[0], scores[THREADS]};
#pragma unroll 1
        for (u32 j = 0; j < P::EACH; j += 2) {
            const f32 s[4][2] = {{next[0].x, next[1].x}, {next[0].y, next[1].y}, {next[0].z, next[1].z}, {next[0].w, next[1].w}};
            if (j + 2 < P::EACH) {
                next[0] = scores[(j + 2) * THREADS];
                next[1] = scores[(j + 3) * THREADS];
            }
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                const u32 k = column + 8 * (j + e), n = base + k;
                const f32 weight = n == 0 ? sees.first_weight : 1.0f;
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const f32 p = n < limits[i] ? exponential(s[i][e] - largest[i]) * weight : 0.0f;
                    // Lane n % 16 of the exponentials' sum, and what the warp multiplies.
                    lanes[i][e] += p;
                    weights[4 * i * KEYS + (k ^ turned)] = p;
                }
            }
        }
        __syncwarp();
        const u32 end = min(base + KEYS, most), whole = (end + 3) / 4 * 4;
        const u32* scales = stage + P::BLOCKS * 8;
        if (least < end || (whole > end && end < count))
            add_seen_rows<P, D, KEYS, LEVELS>(sums, weights, turned, tile, scales, column, end - base, limits, base);
        else
            add_rows<P, D, KEYS, LEVELS>(sums, weights, turned, tile, scales, column, whole - base);
        // Weights are written anew behind the next barrier.
    }

    // The sums of a row's 16 lanes meet where its weights lay, and one of the warp's lanes adds them up: row r has the sum of
    // lane l at l ^ r, another bank for each row.
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        weights[4 * i * KEYS + (column ^ line + 4 * i)] = lanes[i][0];
        weights[4 * i * KEYS + (column + 8 ^ line + 4 * i)] = lanes[i][1];
    }
    __syncwarp();
    if (lane < 16) {
        f32* own = (f32*)(queries + P::WEIGHTS) + (warp * 16 + lane) * KEYS;
        f32 total = own[lane];
#pragma unroll 1
        for (u32 l = 1; l < 16; l++)
            total += own[l ^ lane];
        own[16] = total;
    }
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const f32 total = weights[4 * i * KEYS + 16];
        const f32 inverse = 1.0f / total;
        const u32 row = first + warp * 16 + line + 4 * i;
        if (row > last)
            continue;
        f32* out = task.out + (((u64)sequence * task.queries + row) * task.heads + h) * D;
#pragma unroll
        for (u32 c = 0; c < P::COLUMNS; c++)
            sums[i][c] = total > 0.0f ? sums[i][c] * inverse : sums[i][c];
#pragma unroll
        for (u32 a = 0; a < P::WIDE; a++)
            *(float4*)(out + 32 * a + 4 * column) =
                make_float4(sums[i][4 * a], sums[i][4 * a + 1], sums[i][4 * a + 2], sums[i][4 * a + 3]);
#pragma unroll
        for (u32 c = 0; c < P::SINGLE; c++)
            if (32 * P::WIDE + 8 * c + column < D)
                out[32 * P::WIDE + 8 * c + column] = sums[i][4 * P::WIDE + c];
    }
}

// A block a tile; where there are more tiles than blocks, those that are done take the next one.
template <u32 D, u32 KEYS, bool LEVELS> DEVICE void attend_tiles(const Task& task)
{
    __shared__ u32 following;
    u32 tile = blockIdx.x;
    while (tile < task.tiles) {
        attend_tile<D, KEYS, LEVELS>(task, tile);
        if (gridDim.x >= task.tiles)
            break;
        __syncthreads();
        if (threadIdx.x == 0)
            following = gridDim.x + atomicAdd(task.next, 1u);
        __syncthreads();
        tile = following;
    }
}

#define ATTENTION(name, D, KEYS, LEVELS, BLOCKS)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) name(                                                   \
        f32* __restrict__ out,            /* [sequences, queries, n_heads, D] */                                          \
        f32* __restrict__ scores,         /* [blocks, kept + 1, ROWS, KEYS]: each thread's own */                         \
        u32* __restrict__ next,           /* tiles that have been taken behind the first of each block */                 \
        const f32* __restrict__ q,        /* [sequences, queries, q_stride] */                                            \
        const u32* __restrict__ keys,     /* row j of head h at j * kv_stride + h * kv_head_stride */                     \
        const u32* __restrict__ values,   /* the same */                                                                  \
        const u32* __restrict__ spans,    /* [sequences, 4]: first row and length of the prefix, then of the own rows */  \
        u32 queries, u32 n_heads, u32 group, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride, u32 kv_head_stride,  \
        u32 causal, u32 repeated_prefix, u32 kept, u32 tiles)                                                             \
    {                                                                                                                     \
        attend_tiles<D, KEYS, LEVELS>(                                                                                    \
            {out, scores, next, q, keys, values, spans, queries, n_heads, group, q_stride, q_offset, kv_rows,             \
             kv_stride, kv_head_stride, causal, repeated_prefix, 1.0f / root((f32)D), kept, tiles});                      \
    }

ATTENTION(attention_tiles_64, 64, 64, false, 3)
ATTENTION(attention_tiles_72, 72, 64, false, 3)
ATTENTION(attention_tiles_128, 128, 32, false, 3)
ATTENTION(attention_tiles_q8_64, 64, 32, true, 3)
ATTENTION(attention_tiles_q8_128, 128, 32, true, 2)
