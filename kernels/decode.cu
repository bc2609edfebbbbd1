// Attention of single query rows, as a step of a picture has it, with the bits of the kernels in attention.cu, so that it may
// change with the batch which of them runs.
//
// A block takes one head of one query row: 64 threads for heads up to 64 wide, 128 for those up to 128. Tiles of ROWS rows
// pass through a ring of STAGES in shared memory, first the keys, then the values: a thread owns one or two rows while scores
// are made, and a column while values are summed up, whose sum goes over all rows in their order. Scores of the first rows
// stay in shared memory. In 8 bits a warp has the 32 columns of one block of a row, and first multiplies its rows' weights
// with that block's scales. Where there are no more blocks than multiprocessors (attention_few_*) a block has as many threads
// once more, which copy: a warp alone on its scheduler waits for each of its own instructions.
// Bound: keys and values once a query head. Compute capability 8.0.
#include "attention.cuh"

// How the lanes of a warp share the copies of up to 32 rows, `pieces` each, which lie some bytes apart in shared memory: a
// lane begins with piece `piece` of row `row`, and goes on by `pieces_on` and `rows_on`.
struct Turns {
    u32 pieces, row, piece, rows_on, pieces_on;
    DEVICE Turns(u32 pieces)
        : pieces(pieces), row(threadIdx.x % 32 / pieces), piece(threadIdx.x % 32 % pieces), rows_on(32 / pieces),
          pieces_on(32 % pieces)
    {
    }
};

// Copies the first `here` rows, of which each lane names its own, in pieces of BYTES to rows PITCH bytes apart.
template <u32 BYTES, u32 PITCH>
DEVICE void copy_rows(u32 to, const u8* from, u32 own, u32 here, u32 stride, const Turns& turns)
{
    u32 row = turns.row, at = turns.piece * BYTES;
    const u32 end = turns.pieces * BYTES, on = turns.pieces_on * BYTES;
    to += row * PITCH + at;
#pragma unroll 1
    for (u32 left = here * turns.pieces; left > 0; left -= min(left, 32u)) {
        const u32 other = __shfl_sync(ALL, own, row);
        if (row < here)
            copy_shared<BYTES, BYTES < 16>(to, from + (u64)other * stride + at);
        const bool wraps = at + on >= end;
        row += turns.rows_on + wraps;
        at += on - (wraps ? end : 0);
        to += turns.rows_on * PITCH + on + (wraps ? PITCH - end : 0);
    }
}

// Rows of floats, the head's width a multiple of 4, WIDTH at most.
template <u32 WIDTH> struct Floats {
    // Between the rows of a tile an odd number of 16 bytes, so that lanes that read one each meet in no bank.
    enum : u32 { PITCH = WIDTH + 4, SCALED = 0 };
    u32 head_dim;
    DEVICE void query(u32* to, const f32* q) const
    {
        for (u32 d = threadIdx.x; d < head_dim; d += blockDim.x)
            to[d] = __float_as_uint(q[d]);
    }
    DEVICE u32 pieces() const { return head_dim / 4; }
    DEVICE void copy(u32 to, const u8* from, u32 row, u32 here, u32 stride, const Turns& turns) const
    {
        copy_rows<16, PITCH * 4>(to, from, row, here, stride, turns);
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
    DEVICE f32 value(const u32* row, u32 column) const { return __uint_as_float(row[column]); }
};

// Rows in blocks of 8 bits, BLOCKS of them at most, 2 or 4: levels, then scales.
template <u32 BLOCKS> struct Blocks {
    enum : u32 { PITCH = (BLOCKS * 9 + 3) / 4 * 4, SCALED = 1 };
    // `whole`: rows lie at multiples of so many words.
    u32 head_dim, blocks, whole;
    DEVICE void query(u32* to, const f32* q) const { round_query(to, q, head_dim, blocks, blockDim.x); }
    DEVICE u32 pieces() const { return blocks * 9 / whole; }
    DEVICE void copy(u32 to, const u8* from, u32 row, u32 here, u32 stride, const Turns& turns) const
    {
        if (whole == 4)
            copy_rows<16, PITCH * 4>(to, from, row, here, stride, turns);
        else if (whole == 2)
            copy_rows<8, PITCH * 4>(to, from, row, here, stride, turns);
        else
            copy_rows<4, PITCH * 4>(to, from, row, here, stride, turns);
    }
    DEVICE f32 score(const u32* key, const u32* query) const
    {
        f32 sum = 0.0f, scales[BLOCKS];
        // Scales of whole rows are read at once.
        if (blocks == BLOCKS && BLOCKS == 4)
            *(uint4*)scales = *(const uint4*)(key + BLOCKS * 8);
        else if (blocks == BLOCKS)
            *(uint2*)scales = *(const uint2*)(key + BLOCKS * 8);
        else
#pragma unroll
            for (u32 b = 0; b < BLOCKS; b++)
                scales[b] = b < blocks ? __uint_as_float(key[blocks * 8 + b]) : 0.0f;
#pragma unroll
        for (u32 b = 0; b < BLOCKS; b++) {
            if (b == blocks)
                break;
            i32 dot = 0;
#pragma unroll
            for (u32 w = 0; w < 8; w += 4) {
                const uint4 q = *(const uint4*)(query + b * 8 + w), k = *(const uint4*)(key + b * 8 + w);
                dot = __dp4a((i32)q.x, (i32)k.x, dot);
                dot = __dp4a((i32)q.y, (i32)k.y, dot);
                dot = __dp4a((i32)q.z, (i32)k.z, dot);
                dot = __dp4a((i32)q.w, (i32)k.w, dot);
            }
            sum += (f32)dot * scales[b] * __uint_as_float(query[blocks * 8 + b]);
        }
        return sum;
    }
    // That of the block whose columns this warp has.
    DEVICE f32 scale(const u32* row) const
    {
        return __uint_as_float(row[blocks * 8 + min(threadIdx.x / 32, blocks - 1)]);
    }
    // A level: its byte, turned into one without a sign, in the last place of 2^23.
    DEVICE f32 value(const u32* row, u32 column) const
    {
        const u32 bits = __byte_perm(row[column / 4] ^ 0x80808080u, 0x4b000000u, 0x7440u + column % 4);
        return __uint_as_float(bits) - 8388736.0f;
    }
};

// One head of one query row: scores of all rows, of which those of `most` tiles stay in shared memory; then exponentials and
// values. Scores of later tiles are computed again. COLUMNS threads make scores and sums; with MOVERS as many others copy,
// without them they do it themselves.
template <u32 COLUMNS, bool MOVERS, u32 ROWS, u32 STAGES, class R>
DEVICE void attend_row(
    f32* out, const f32* q, const u32* keys, const u32* values, const Paged& sees, u32 kv_stride, u32 most, const R rows)
{
    // Rows that a warp copies at once.
    enum : u32 { SLAB = ROWS < COLUMNS ? ROWS * 32 / COLUMNS : 32, THREADS = MOVERS ? 2 * COLUMNS : COLUMNS };
    extern __shared__ uint4 shared[];  // the query, [STAGES, ROWS, PITCH], scores [most + 1, ROWS], shares [warps, ROWS]
    __shared__ f32 parts[COLUMNS / 32], lanes[16];
    const u32 thread = threadIdx.x, warp = thread % COLUMNS / 32, count = sees.prefix + sees.rest;
    const bool sums = thread < COLUMNS, moves = !MOVERS || !sums;
    u32 *query = (u32*)shared, *ring = query + R::PITCH;
    f32 *scores = (f32*)(ring + STAGES * ROWS * R::PITCH), *shares = scores + (most + 1) * ROWS + warp * ROWS;
    // Steps: keys of all tiles, values of those whose scores were kept, then keys and values of each of the rest.
    const u32 tiles = (count + ROWS - 1) / ROWS, kept = min(most, tiles), steps = tiles + kept + 2 * (tiles - kept);
    const auto of_keys = [&](u32 step) { return step < tiles || (step >= tiles + kept && (step - tiles - kept) % 2 == 0); };
    const auto tile_of = [&](u32 step) {
        return step < tiles ? step : step < tiles + kept ? step - tiles : kept + (step - tiles - kept) / 2;
    };
    const Turns turns(rows.pieces());
    u32 fresh = 0, due = 0;
    const auto fetch = [&](u32 step) {
        if (step < steps) {
            const u32 base = tile_of(step) * ROWS;
            const u8* from = (const u8*)(of_keys(step) ? keys : values);
#pragma unroll
            for (u32 own = warp * SLAB; own < ROWS; own += COLUMNS / 32 * SLAB) {
                if (base + own < count) {
                    const u32 here = min(count - base - own, (u32)SLAB);
                    const u32 row = (u32)sees.row(base + own + min(thread % 32, here - 1));
                    rows.copy(
                        shared_address(ring) + (fresh * ROWS + own) * R::PITCH * 4, from, row, here, kv_stride * 4, turns);
                }
            }
        }
        fresh = fresh == STAGES - 1 ? 0 : fresh + 1;
        copy_commit();
    };
    if (moves)
#pragma unroll 1
        for (u32 step = 0; step < STAGES - 1; step++)
            fetch(step);
    rows.query(query, q);
    const f32 scale = 1.0f / root((f32)rows.head_dim);
    f32 largest = -infinity(), lane = 0.0f, sum = 0.0f;
    const u32 column = min(thread % COLUMNS, rows.head_dim - 1), sixteenth = MOVERS ? thread - COLUMNS : thread;
    const auto weigh = [&](f32 score, u32 n) { return exponential(score - largest) * (n == 0 ? sees.first_weight : 1.0f); };
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
        const u32 t = tile_of(step), base = t * ROWS, here = min(count - base, (u32)ROWS);
        const u32* const stage = ring + due * ROWS * R::PITCH;
        f32* const p = scores + min(t, kept) * ROWS;
        due = due == STAGES - 1 ? 0 : due + 1;
        if (moves)
            copy_wait<STAGES - 2>();
        // All copies of this tile have landed, and all threads are done with the tile before.
        __syncthreads();
        if (moves)
            fetch(step + STAGES - 1);
        if (of_keys(step)) {
            if (sums)
                for (u32 n = thread; n < here; n += COLUMNS) {
                    const f32 s = rows.score(stage + n * R::PITCH, query) * scale;
                    if (step < tiles) {
                        largest = s > largest ? s : largest;
                        if (t < kept)
                            p[n] = s;
                    } else
                        p[n] = weigh(s, base + n);
                }
            if (step + 1 == tiles) {
#pragma unroll
                for (u32 bit = 16; bit > 0; bit /= 2) {
                    const f32 other = __shfl_xor_sync(ALL, largest, bit);
                    largest = other > largest ? other : largest;
                }
                if (sums && thread % 32 == 0)
                    parts[warp] = largest;
                __syncthreads();
                largest = parts[0];
#pragma unroll
                for (u32 w = 1; w < COLUMNS / 32; w++)
                    largest = parts[w] > largest ? parts[w] : largest;
                for (u32 n = thread; n < min(kept * ROWS, count); n += THREADS)
                    scores[n] = weigh(scores[n], n);
            }
            continue;
        }
        if (sixteenth < 16)
#pragma unroll 4
            for (u32 i = sixteenth; i < here; i += 16)
                lane += p[i];
        if (!sums)
            continue;
        const f32* weights = p;
        if constexpr (R::SCALED) {
            for (u32 i = thread % 32; i < here; i += 32)
                shares[i] = p[i] * rows.scale(stage + i * R::PITCH);
            __syncwarp();
            weights = shares;
        }
        u32 i = 0;
#pragma unroll 2
        for (; i + 8 <= here; i += 8) {
            const float4 low = *(const float4*)(weights + i), high = *(const float4*)(weights + i + 4);
            const u32* const row = stage + i * R::PITCH;
            sum += low.x * rows.value(row, column);
            sum += low.y * rows.value(row + R::PITCH, column);
            sum += low.z * rows.value(row + 2 * R::PITCH, column);
            sum += low.w * rows.value(row + 3 * R::PITCH, column);
            sum += high.x * rows.value(row + 4 * R::PITCH, column);
            sum += high.y * rows.value(row + 5 * R::PITCH, column);
            sum += high.z * rows.value(row + 6 * R::PITCH, column);
            sum += high.w * rows.value(row + 7 * R::PITCH, column);
        }
#pragma unroll 1
        for (; i < here; i++)
            sum += weights[i] * rows.value(stage + i * R::PITCH, column);
    }
    if (sixteenth < 16)
        lanes[sixteenth] = lane;
    __syncthreads();
    f32 total = lanes[0];
#pragma unroll
    for (u32 l = 1; l < 16; l++)
        total += lanes[l];
    const f32 inverse = 1.0f / total;
    if (thread < rows.head_dim)
        out[thread] = total > 0.0f ? sum * inverse : sum;
}

// Grid: [rows, n_heads]. Shared memory: see src/cuda/decode.rs.
#define ROW(name, COLUMNS, MOVERS, ROWS, STAGES, BLOCKS, ROWS_OF)                                                         \
    extern "C" __global__ void __launch_bounds__(MOVERS ? 2 * COLUMNS : COLUMNS, BLOCKS) name(                            \
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
        attend_row<COLUMNS, MOVERS, ROWS, STAGES>(                                                                        \
            out + ((u64)row * gridDim.y + h) * head_dim, q + (u64)row * q_stride + q_offset + (u64)h * head_dim,          \
            keys + head, values + head, sees, kv_stride, kept, ROWS_OF);                                                  \
    }

ROW(attention_row_64, 64, false, 64, 3, 4, (Floats<64>{head_dim}))
ROW(attention_row_128, 128, false, 64, 2, 3, (Floats<128>{head_dim}))
ROW(attention_row_q8_64, 64, false, 64, 3, 8, (Blocks<2>{head_dim, (head_dim + 31) / 32, whole}))
ROW(attention_row_q8_128, 128, false, 64, 3, 6, (Blocks<4>{head_dim, (head_dim + 31) / 32, whole}))
ROW(attention_few_64, 64, true, 64, 4, 1, (Floats<64>{head_dim}))
ROW(attention_few_128, 128, true, 64, 2, 1, (Floats<128>{head_dim}))
ROW(attention_few_q8_64, 64, true, 128, 4, 1, (Blocks<2>{head_dim, (head_dim + 31) / 32, whole}))
ROW(attention_few_q8_128, 128, true, 128, 4, 1, (Blocks<4>{head_dim, (head_dim + 31) / 32, whole}))
