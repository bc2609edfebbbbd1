// Attention of single query rows, as a step of a picture has it, with the bits of the kernels in attention.cu, so that it may
// change with the batch which of them runs.
//
// A block a head (attention_row_*): 64 threads take one head of one query row, first its keys, a thread a row, then its
// values, a thread one or two columns; tiles of 64 rows lie in shared memory, the next one on its way, and the scores beside
// them.
// Few rows over long caches (attention_scores, attention_values): two launches that together have as many blocks as fill a
// GPU. Scores: a block of 64 threads takes 64 visible rows of one head of one query row at a time. Their keys come into
// shared memory by asynchronous copies, all at once; then a thread owns a row. The blocks of a query row and head, `splits`
// of them, take such tiles in turns. Values: a warp takes 32 columns of one head of one query row, a lane each, and all rows
// in their order, through a ring of 6 stages of 32 rows; no lane waits for another warp.
// Bound: keys and values once a query head. Compute capability 8.0.
#include "attention.cuh"

#define KEYS 64
#define ROWS 32
#define STAGES 6

// Words between the rows of a tile: an odd number of 16 bytes, so that lanes that read one each meet in no bank.
DEVICE u32 pitch_of(u32 words) { return ((words + 3) / 4 | 1) * 4; }

// Words of rows from `base` on to a tile, by 64 threads in pieces of W words.
template <u32 W>
DEVICE void copy_rows(u32* tile, const u32* from, const Paged& sees, u32 base, u32 here, u32 kv_stride, u32 words)
{
    const u32 pieces = words / W, pitch = pitch_of(words);
    u32 n = threadIdx.x / pieces, piece = threadIdx.x % pieces;
    while (n < here) {
        copy_async<4 * W, W < 4>(tile + n * pitch + piece * W, from + sees.row(base + n) * kv_stride + piece * W);
        n += KEYS / pieces;
        piece += KEYS % pieces;
        if (piece >= pieces) {
            piece -= pieces;
            n++;
        }
    }
}

// Rows of floats, the head's width a multiple of 4.
struct Floats {
    // Words between the rows of a stage.
    enum : u32 { PITCH = 32 };
    u32 head_dim;
    DEVICE u32 words() const { return head_dim; }
    DEVICE u32 query_words() const { return head_dim; }
    DEVICE void query(u32* to, const f32* q) const
    {
        for (u32 d = threadIdx.x; d < head_dim; d += KEYS)
            to[d] = __float_as_uint(q[d]);
    }
    DEVICE void tile(u32* to, const u32* from, const Paged& sees, u32 base, u32 here, u32 kv_stride) const
    {
        copy_rows<4>(to, from, sees, base, here, kv_stride, head_dim);
    }
    DEVICE f32 score(const u32* key, const u32* query) const
    {
        f32 sum = 0.0f;
#pragma unroll 4
        for (u32 d = 0; d < head_dim; d += 4) {
            const float4 k = *(const float4*)(key + d), q = *(const float4*)(query + d);
            sum += q.x * k.x;
            sum += q.y * k.y;
            sum += q.z * k.z;
            sum += q.w * k.w;
        }
        return sum;
    }
    // What a row of weight p adds to a column.
    DEVICE f32 term(f32 p, const u32* row, u32 column) const { return p * __uint_as_float(row[column]); }
    // Four of a row's 32 columns.
    DEVICE void copy(u32* to, const u32* row, u32 slice, u32 piece) const
    {
        const u32 column = slice * 32 + piece * 4;
        if (column < head_dim)
            copy_async<16, false>(to + piece * 4, row + column);
    }
    DEVICE f32 share(f32 p, const u32*) const { return p; }
    DEVICE f32 value(const u32* row, u32 column) const { return __uint_as_float(row[column]); }
};

// Rows in blocks of 8 bits: levels, then scales.
struct Blocks {
    enum : u32 { PITCH = 9 };
    // `whole`: rows lie at multiples of so many words.
    u32 head_dim, blocks, whole;
    DEVICE u32 words() const { return blocks * 9; }
    DEVICE u32 query_words() const { return (blocks * 9 + 3) / 4 * 4; }
    DEVICE void query(u32* to, const f32* q) const { round_query(to, q, head_dim, blocks, KEYS); }
    DEVICE void tile(u32* to, const u32* from, const Paged& sees, u32 base, u32 here, u32 kv_stride) const
    {
        if (whole == 4)
            copy_rows<4>(to, from, sees, base, here, kv_stride, words());
        else if (whole == 2)
            copy_rows<2>(to, from, sees, base, here, kv_stride, words());
        else
            copy_rows<1>(to, from, sees, base, here, kv_stride, words());
    }
    DEVICE f32 score(const u32* key, const u32* query) const
    {
        f32 sum = 0.0f;
        for (u32 b = 0; b < blocks; b++) {
            i32 dot = 0;
#pragma unroll
            for (u32 w = 0; w < 8; w += 4) {
                const uint4 q = *(const uint4*)(query + b * 8 + w), k = *(const uint4*)(key + b * 8 + w);
                dot = __dp4a((i32)q.x, (i32)k.x, dot);
                dot = __dp4a((i32)q.y, (i32)k.y, dot);
                dot = __dp4a((i32)q.z, (i32)k.z, dot);
                dot = __dp4a((i32)q.w, (i32)k.w, dot);
            }
            sum += (f32)dot * __uint_as_float(key[blocks * 8 + b]) * __uint_as_float(query[blocks * 8 + b]);
        }
        return sum;
    }
    DEVICE f32 term(f32 p, const u32* row, u32 column) const
    {
        return p * __uint_as_float(row[blocks * 8 + column / 32]) * value(row, column);
    }
    // Four of a row's 32 columns, and once their scale.
    DEVICE void copy(u32* to, const u32* row, u32 slice, u32 piece) const
    {
        copy_async<4, true>(to + piece, row + slice * 8 + piece);
        if (piece == 0)
            copy_async<4, true>(to + 8, row + blocks * 8 + slice);
    }
    DEVICE f32 share(f32 p, const u32* row) const { return p * __uint_as_float(row[8]); }
    DEVICE f32 value(const u32* row, u32 column) const
    {
        return (f32)((i32)(row[column / 4] << (24 - column % 4 * 8)) >> 24);
    }
};

// scores[n] of the visible rows n of tiles split, split + splits and so on.
template <class R>
DEVICE void score_tiles(
    f32* scores, const f32* q, const u32* keys, const Paged& sees, u32 kv_stride, u32 split, u32 splits, const R rows)
{
    extern __shared__ uint4 shared[];  // the query, then [KEYS, pitch]
    u32 *query = (u32*)shared, *tile = query + rows.query_words();
    rows.query(query, q);
    const f32 scale = 1.0f / root((f32)rows.head_dim);
    const u32 count = sees.prefix + sees.rest, pitch = pitch_of(rows.words());
    for (u32 base = split * KEYS; base < count; base += splits * KEYS) {
        const u32 here = min(count - base, (u32)KEYS);
        rows.tile(tile, keys, sees, base, here, kv_stride);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        if (threadIdx.x < here)
            scores[base + threadIdx.x] = rows.score(tile + threadIdx.x * pitch, query) * scale;
        __syncthreads();
    }
}

// out[d] of the 32 columns d of a slice.
template <class R>
DEVICE void weigh_rows(
    f32* out, const f32* scores, const u32* values, const Paged& sees, u32 kv_stride, u32 slice, const R rows)
{
    extern __shared__ uint4 shared[];  // [STAGES, ROWS, PITCH]
    const u32 lane = threadIdx.x, count = sees.prefix + sees.rest;
    const auto fetch = [&](u32 base, u32* stage) {
        for (u32 i = lane / 8; i < ROWS && base + i < count; i += 4)
            rows.copy(stage + i * R::PITCH, values + sees.row(base + i) * kv_stride, slice, lane % 8);
        copy_commit();
    };
    u32 *ring = (u32*)shared, *stage = ring, *last = ring + (STAGES - 1) * ROWS * R::PITCH;
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++)
        fetch(s * ROWS, ring + s * ROWS * R::PITCH);
    f32 largest = -infinity();
    for (u32 n = lane; n < count; n += 32) {
        const f32 s = scores[n];
        largest = s > largest ? s : largest;
    }
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        const f32 other = __shfl_xor_sync(ALL, largest, step);
        largest = other > largest ? other : largest;
    }
    const u32 column = min(lane, min(rows.head_dim - slice * 32, 32u) - 1);
    f32 sum = 0.0f, exponentials = 0.0f, score = lane < count ? scores[lane] : 0.0f;
    for (u32 base = 0; base < count; base += ROWS) {
        const u32 n = base + lane, here = min(count - base, (u32)ROWS);
        const f32 next = n + ROWS < count ? scores[n + ROWS] : 0.0f;
        copy_wait<STAGES - 2>();
        // All lanes' copies have landed, and all have read the stage that is filled again.
        __syncwarp();
        fetch(base + (STAGES - 1) * ROWS, stage == ring ? last : stage - ROWS * R::PITCH);
        const f32 p = n < count ? exponential(score - largest) * (n == 0 ? sees.first_weight : 1.0f) : 0.0f;
        const f32 share = n < count ? rows.share(p, stage + lane * R::PITCH) : 0.0f;
        // Lane l sums the exponentials of rows l, l + 16 and so on: the upper half does the same.
        exponentials += __shfl_sync(ALL, p, lane & 15);
        exponentials += __shfl_sync(ALL, p, (lane & 15) + 16);
        if (here == ROWS) {
#pragma unroll
            for (u32 i = 0; i < ROWS; i++)
                sum += __shfl_sync(ALL, share, i) * rows.value(stage + i * R::PITCH, column);
        } else
            for (u32 i = 0; i < here; i++)
                sum += __shfl_sync(ALL, share, i) * rows.value(stage + i * R::PITCH, column);
        score = next;
        stage = stage == last ? ring : stage + ROWS * R::PITCH;
    }
    const f32 total = lanes_total(exponentials), inverse = 1.0f / total;
    if (slice * 32 + lane < rows.head_dim)
        out[slice * 32 + lane] = total > 0.0f ? sum * inverse : sum;
}

// One head of one query row by 64 threads, EACH columns each: scores of all rows, which stay in shared memory, `kept` tiles
// of 64; then exponentials and values. Scores of later tiles are computed again.
template <class R, u32 EACH>
DEVICE void attend_row(
    f32* out, const f32* q, const u32* keys, const u32* values, const Paged& sees, u32 kv_stride, u32 most, const R rows)
{
    extern __shared__ uint4 shared[];  // the query, [2, KEYS, pitch], scores [most + 1, KEYS]
    __shared__ f32 parts[2], lanes[16];
    const u32 thread = threadIdx.x, count = sees.prefix + sees.rest, pitch = pitch_of(rows.words());
    u32 *query = (u32*)shared, *ring = query + rows.query_words();
    f32* scores = (f32*)(ring + 2 * KEYS * pitch);
    // Steps: keys of all tiles, values of those whose scores were kept, then keys and values of each of the rest.
    const u32 tiles = (count + KEYS - 1) / KEYS, kept = min(most, tiles), steps = tiles + kept + 2 * (tiles - kept);
    const auto of_keys = [&](u32 step) { return step < tiles || (step >= tiles + kept && (step - tiles - kept) % 2 == 0); };
    const auto tile_of = [&](u32 step) {
        return step < tiles ? step : step < tiles + kept ? step - tiles : kept + (step - tiles - kept) / 2;
    };
    const auto fetch = [&](u32 step) {
        const u32 base = tile_of(step) * KEYS;
        rows.tile(
            ring + step % 2 * KEYS * pitch, of_keys(step) ? keys : values, sees, base, min(count - base, (u32)KEYS), kv_stride);
        copy_commit();
    };
    rows.query(query, q);
    if (steps > 0)
        fetch(0);
    const f32 scale = 1.0f / root((f32)rows.head_dim);
    f32 largest = -infinity(), lane = 0.0f, sums[EACH];
    u32 columns[EACH];
#pragma unroll
    for (u32 e = 0; e < EACH; e++) {
        sums[e] = 0.0f;
        columns[e] = min(thread + e * KEYS, rows.head_dim - 1);
    }
    const auto weigh = [&](f32 score, u32 n) { return exponential(score - largest) * (n == 0 ? sees.first_weight : 1.0f); };
    for (u32 step = 0; step < steps; step++) {
        const u32 t = tile_of(step), base = t * KEYS, here = min(count - base, (u32)KEYS);
        const u32* stage = ring + step % 2 * KEYS * pitch;
        f32* p = scores + min(t, kept) * KEYS;
        copy_wait<0>();
        // All copies have landed, and all threads are done with the tile before.
        __syncthreads();
        if (step + 1 < steps)
            fetch(step + 1);
        if (of_keys(step)) {
            if (thread < here) {
                const f32 s = rows.score(stage + thread * pitch, query) * scale;
                if (step < tiles) {
                    largest = s > largest ? s : largest;
                    if (t < kept)
                        p[thread] = s;
                } else
                    p[thread] = weigh(s, base + thread);
            }
            if (step + 1 == tiles) {
#pragma unroll
                for (u32 bit = 16; bit > 0; bit /= 2) {
                    const f32 other = __shfl_xor_sync(ALL, largest, bit);
                    largest = other > largest ? other : largest;
                }
                if (thread % 32 == 0)
                    parts[thread / 32] = largest;
                __syncthreads();
                largest = parts[1] > parts[0] ? parts[1] : parts[0];
                for (u32 n = thread; n < min(kept * KEYS, count); n += KEYS)
                    scores[n] = weigh(scores[n], n);
            }
            continue;
        }
        if (thread < 16)
            for (u32 i = thread; i < here; i += 16)
                lane += p[i];
        u32 i = 0;
#pragma unroll 2
        for (; i + 4 <= here; i += 4) {
            const float4 four = *(const float4*)(p + i);
            const u32* row = stage + i * pitch;
#pragma unroll
            for (u32 e = 0; e < EACH; e++) {
                sums[e] += rows.term(four.x, row, columns[e]);
                sums[e] += rows.term(four.y, row + pitch, columns[e]);
                sums[e] += rows.term(four.z, row + 2 * pitch, columns[e]);
                sums[e] += rows.term(four.w, row + 3 * pitch, columns[e]);
            }
        }
        for (; i < here; i++)
#pragma unroll
            for (u32 e = 0; e < EACH; e++)
                sums[e] += rows.term(p[i], stage + i * pitch, columns[e]);
    }
    if (thread < 16)
        lanes[thread] = lane;
    __syncthreads();
    f32 total = lanes[0];
#pragma unroll
    for (u32 l = 1; l < 16; l++)
        total += lanes[l];
    const f32 inverse = 1.0f / total;
#pragma unroll
    for (u32 e = 0; e < EACH; e++)
        if (thread + e * KEYS < rows.head_dim)
            out[thread + e * KEYS] = total > 0.0f ? sums[e] * inverse : sums[e];
}

// Grid: [rows * splits, n_heads]. Shared memory: the query and 64 keys, see src/cuda/decode.rs.
template <class R>
DEVICE void score_block(
    f32* scores, const f32* q, const u32* keys, const u32* spans, u32 queries, u32 group, u32 q_stride, u32 q_offset,
    u32 kv_rows, u32 kv_stride, u32 kv_head_stride, u32 causal, u32 repeated_prefix, u32 pages, u32 splits, u32 width,
    const R rows)
{
    const u32 row = blockIdx.x / splits, h = blockIdx.y;
    const Paged sees(spans, row / queries, row % queries, queries, kv_rows, causal, repeated_prefix, pages);
    score_tiles(
        scores + ((u64)row * gridDim.y + h) * width, q + (u64)row * q_stride + q_offset + (u64)h * rows.head_dim,
        keys + (u64)(h / group) * kv_head_stride, sees, kv_stride, blockIdx.x % splits, splits, rows);
}

// Grid: [rows * slices, n_heads].
template <class R>
DEVICE void value_block(
    f32* out, const f32* scores, const u32* values, const u32* spans, u32 queries, u32 group, u32 kv_rows, u32 kv_stride,
    u32 kv_head_stride, u32 causal, u32 repeated_prefix, u32 pages, u32 slices, u32 width, const R rows)
{
    const u32 row = blockIdx.x / slices, h = blockIdx.y;
    const Paged sees(spans, row / queries, row % queries, queries, kv_rows, causal, repeated_prefix, pages);
    const u64 at = (u64)row * gridDim.y + h;
    weigh_rows(
        out + at * rows.head_dim, scores + at * width, values + (u64)(h / group) * kv_head_stride, sees, kv_stride,
        blockIdx.x % slices, rows);
}

extern "C" __global__ void __launch_bounds__(64, 8) attention_scores(
    f32* __restrict__ scores,       // [sequences, queries, n_heads, width]: of each visible row
    const f32* __restrict__ q,      // [sequences, queries, q_stride]
    const u32* __restrict__ keys,   // row j of head h at j * kv_stride + h * kv_head_stride: floats
    const u32* __restrict__ spans,  // [sequences, 4 + pages]: first row and length of the prefix, then of the own rows, pages
    u32 queries, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride, u32 kv_head_stride,
    u32 causal, u32 repeated_prefix, u32 pages, u32 splits, u32 width, u32)
{
    score_block(
        scores, q, keys, spans, queries, group, q_stride, q_offset, kv_rows, kv_stride, kv_head_stride, causal,
        repeated_prefix, pages, splits, width, Floats{head_dim});
}

extern "C" __global__ void __launch_bounds__(64, 8) attention_scores_q8(
    f32* __restrict__ scores,       // [sequences, queries, n_heads, width]: of each visible row
    const f32* __restrict__ q,      // [sequences, queries, q_stride]
    const u32* __restrict__ keys,   // row j of head h at j * kv_stride + h * kv_head_stride: levels, then scales
    const u32* __restrict__ spans,  // [sequences, 4 + pages]
    u32 queries, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride, u32 kv_head_stride,
    u32 causal, u32 repeated_prefix, u32 pages, u32 splits, u32 width, u32 whole)
{
    score_block(
        scores, q, keys, spans, queries, group, q_stride, q_offset, kv_rows, kv_stride, kv_head_stride, causal,
        repeated_prefix, pages, splits, width, Blocks{head_dim, (head_dim + 31) / 32, whole});
}

extern "C" __global__ void __launch_bounds__(32) attention_values(
    f32* __restrict__ out,           // [sequences, queries, n_heads, head_dim]
    const f32* __restrict__ scores,  // [sequences, queries, n_heads, width]
    const u32* __restrict__ values,  // row j of head h at j * kv_stride + h * kv_head_stride: floats
    const u32* __restrict__ spans,   // [sequences, 4 + pages]
    u32 queries, u32 group, u32 head_dim, u32 kv_rows, u32 kv_stride, u32 kv_head_stride, u32 causal,
    u32 repeated_prefix, u32 pages, u32 slices, u32 width)
{
    value_block(
        out, scores, values, spans, queries, group, kv_rows, kv_stride, kv_head_stride, causal, repeated_prefix, pages,
        slices, width, Floats{head_dim});
}

extern "C" __global__ void __launch_bounds__(32) attention_values_q8(
    f32* __restrict__ out,           // [sequences, queries, n_heads, head_dim]
    const f32* __restrict__ scores,  // [sequences, queries, n_heads, width]
    const u32* __restrict__ values,  // row j of head h at j * kv_stride + h * kv_head_stride: levels, then scales
    const u32* __restrict__ spans,   // [sequences, 4 + pages]
    u32 queries, u32 group, u32 head_dim, u32 kv_rows, u32 kv_stride, u32 kv_head_stride, u32 causal,
    u32 repeated_prefix, u32 pages, u32 slices, u32 width)
{
    value_block(
        out, scores, values, spans, queries, group, kv_rows, kv_stride, kv_head_stride, causal, repeated_prefix, pages,
        slices, width, Blocks{head_dim, (head_dim + 31) / 32, 1});
}

// Grid: [rows, n_heads].
#define ROW(name, EACH, ROWS_OF)                                                                                          \
    extern "C" __global__ void __launch_bounds__(64, 8) name(                                                             \
        f32* __restrict__ out,           /* [sequences, queries, n_heads, head_dim] */                                    \
        const f32* __restrict__ q,       /* [sequences, queries, q_stride] */                                             \
        const u32* __restrict__ keys,    /* row j of head h at j * kv_stride + h * kv_head_stride */                      \
        const u32* __restrict__ values,  /* the same */                                                                   \
        const u32* __restrict__ spans,   /* [sequences, 4 + pages]: of the prefix, of own rows, pages */                  \
        u32 queries, u32 group, u32 head_dim, u32 q_stride, u32 q_offset, u32 kv_rows, u32 kv_stride, u32 kv_head_stride, \
        u32 causal, u32 repeated_prefix, u32 pages, u32 kept, u32 whole)                                                  \
    {                                                                                                                     \
        const u32 row = blockIdx.x, h = blockIdx.y;                                                                       \
        const Paged sees(spans, row / queries, row % queries, queries, kv_rows, causal, repeated_prefix, pages);          \
        const u64 head = (u64)(h / group) * kv_head_stride;                                                               \
        attend_row<decltype(ROWS_OF), EACH>(                                                                              \
            out + ((u64)row * gridDim.y + h) * head_dim, q + (u64)row * q_stride + q_offset + (u64)h * head_dim,          \
            keys + head, values + head, sees, kv_stride, kept, ROWS_OF);                                                  \
    }

ROW(attention_row_64, 1, (Floats{head_dim}))
ROW(attention_row_128, 2, (Floats{head_dim}))
ROW(attention_row_q8_64, 1, (Blocks{head_dim, (head_dim + 31) / 32, whole}))
ROW(attention_row_q8_128, 2, (Blocks{head_dim, (head_dim + 31) / 32, whole}))
