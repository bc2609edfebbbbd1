// A block's part of attention by tensor cores, over keys and values in upper halves of floats: a tile's copy, its scores,
// its sums. flash.cu says how all lies and what is summed in which order.
#pragma once
#include "attention.cuh"

#define KEYS 64

// Where the largest score starts: what is not seen is below, and the difference of the two is a number.
#define LOWEST -1e38f

// The upper half of a float, rounded to nearest, of equals to the even one; see ops::attention::bf16.
DEVICE u32 upper_half(f32 x)
{
    const u32 bits = __float_as_uint(x);
    return (bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// The same of two numbers as a word, by an instruction.
DEVICE u32 upper_halves(f32 low, f32 high)
{
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// 2^x to some two units in the last place; 1 at 0, and 0 far below.
DEVICE f32 exponential_of_two(f32 x)
{
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// As load_matrices, by an address in shared memory.
DEVICE void load_halves(u32 (&r)[4], u32 row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// The same of matrices that are turned: a lane gets column lane / 4, rows 2 (lane % 4) and the next.
DEVICE void load_turned(u32 (&r)[4], u32 row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// c += a b, halves of 16 x 16 and 16 x 8. Lane 4 g + t holds of a the rows g and g + 8, of b the column g, both at
// k = 2 t and 2 t + 8 and the next; of c the columns 2 t and 2 t + 1 of its rows.
DEVICE void multiply_add(f32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct Shape {
    u32 queries, group, head_dim, q_stride, q_offset, kv_rows, kv_stride, kv_head_stride, causal, repeated_prefix, pages, wide;
};

// Words between the rows of a tile: eight of them, 16 bytes each, lie in different banks.
template <u32 D> struct Tile {
    enum : u32 { PITCH = D / 2 + 4, STAGE = 2 * KEYS * PITCH };
};

template <bool FIRST, class A, class B> struct Choose {
    typedef A Type;
};
template <class A, class B> struct Choose<false, A, B> {
    typedef B Type;
};

// A block's work: rows of one sequence that share keys.
template <u32 D, u32 WARPS, u32 STAGES, bool FEW> struct Flash {
    enum : u32 { PITCH = Tile<D>::PITCH, THREADS = WARPS * 32, ROWS = FEW ? 16 : WARPS * 16 };
    // Pairs of 8 columns: all of them, and those of a warp.
    enum : u32 { PAIRS = D / 16, OWN = FEW ? (PAIRS + WARPS - 1) / WARPS : PAIRS };

    // Many rows lie together: see src/cuda/flash.rs.
    typedef typename Choose<FEW, Paged, Visible>::Type Sees;

    const Shape& s;
    u32* shared;
    const u32 *keys, *values;
    const Sees sees;  // of the block's last row
    const u32 words, last, lane, warp;
    const f32 unit;  // what scores are multiplied by, for powers of two
    u32 count[2], seen;
    u32 q[D / 16][4];
    f32 o[2 * OWN][4], m[2], l[2];

    DEVICE Flash(
        const Shape& s, u32* shared, const u32* keys, const u32* values, const u32* spans, u32 sequence, u32 first_row,
        u32 end_row)
        : s(s), shared(shared), keys(keys), values(values),
          sees(seen_by(s, spans, sequence, (end_row - 1) / s.group)),
          words((s.head_dim + 1) / 2), last(sees.prefix + sees.rest - 1), lane(threadIdx.x % 32), warp(threadIdx.x / 32),
          unit(1.0f / root((f32)s.head_dim) * 1.44269504f)
    {
        const u32 first = first_row + (FEW ? 0 : warp * 16);
        const auto of = [&](u32 r) {
            const Sees sees = seen_by(s, spans, sequence, r / s.group);
            return sees.prefix + sees.rest;
        };
#pragma unroll
        for (u32 i = 0; i < 2; i++)
            count[i] = first + lane / 4 + 8 * i < end_row ? of(first + lane / 4 + 8 * i) : 0;
        seen = first < end_row ? of(min(first + 16, end_row) - 1) : 0;
    }

    DEVICE static Sees seen_by(const Shape& s, const u32* spans, u64 sequence, u32 i)
    {
        if constexpr (FEW)
            return Paged(spans, sequence, i, s.queries, s.kv_rows, s.causal, s.repeated_prefix, s.pages);
        else
            return Visible(spans + sequence * 4, i, s.queries, s.kv_rows, s.causal, s.repeated_prefix);
    }

    DEVICE u32* keys_of(u32 stage) const { return shared + stage * Tile<D>::STAGE; }
    DEVICE u32* values_of(u32 stage) const { return keys_of(stage) + KEYS * PITCH; }

    // What lies behind the words of a row is zero, and no copy reaches it.
    DEVICE void fill() const
    {
        const u32 rest = D / 2 - words;
        for (u32 i = threadIdx.x; i < rest * STAGES * 2 * KEYS; i += THREADS)
            shared[i / rest * PITCH + words + i % rest] = 0;
    }

    // Pieces of 16 bytes, COUNT of each row from FIRST on.
    template <u32 FIRST, u32 COUNT> DEVICE void copy_pieces(u32 stage, u32 base) const
    {
        u32 *to_keys = keys_of(stage), *to_values = values_of(stage);
#pragma unroll
        for (u32 i = threadIdx.x; i < KEYS * COUNT; i += THREADS) {
            const u32 row = i / COUNT, w = (FIRST + i % COUNT) * 4;
            if (w < words) {
                const u32 at = sees.row(min(base + row, last)) * s.kv_stride + w;
                copy_async<16, false>(to_keys + row * PITCH + w, keys + at);
                copy_async<16, false>(to_values + row * PITCH + w, values + at);
            }
        }
    }

    // Rows `base` to `base + 63` of what is seen; behind the last one it comes again.
    DEVICE void copy(u32 stage, u32 base) const
    {
        if (s.wide) {
            copy_pieces<0, D / 64 * 8>(stage, base);
            if (D % 64 != 0)
                copy_pieces<D / 64 * 8, D % 64 != 0 ? D % 64 / 8 : 1>(stage, base);
        } else {
            u32 *to_keys = keys_of(stage), *to_values = values_of(stage);
#pragma unroll 1
            for (u32 i = threadIdx.x; i < KEYS * words; i += THREADS) {
                const u32 row = i / words, w = i % words;
                const u32 at = sees.row(min(base + row, last)) * s.kv_stride + w;
                copy_async<4, true>(to_keys + row * PITCH + w, keys + at);
                copy_async<4, true>(to_values + row * PITCH + w, values + at);
            }
        }
    }

    // Query rows to halves, through the last stage.
    DEVICE void load_queries(const f32* from, u32 first_row, u32 end_row)
    {
        u32* to = keys_of(STAGES - 1);
        constexpr u32 EACH = ROWS / WARPS, TIMES = (D / 2 + 31) / 32;
        const u32 first = warp * EACH, there = end_row > first_row + first ? end_row - first_row - first : 0;
#pragma unroll
        for (u32 j = 0; j < TIMES; j++) {
            // All are asked for before the first is written. What is not there is the first query once more.
            const u32 w = j * 32 + lane, low = min(2 * w, s.head_dim - 1), high = min(2 * w + 1, s.head_dim - 1);
            u32 query = (first_row + first) / s.group, head = (first_row + first) % s.group;
            f32 a[EACH], b[EACH];
#pragma unroll
            for (u32 i = 0; i < EACH; i++) {
                const f32* x = from + (i < there ? (u64)query * s.q_stride + head * s.head_dim : 0);
                a[i] = x[low];
                b[i] = x[high];
                head = head + 1 < s.group ? head + 1 : 0;
                query += head == 0;
            }
            if (w < words)
#pragma unroll
                for (u32 i = 0; i < EACH; i++)
                    to[(first + i) * PITCH + w] =
                        upper_halves(i < there ? a[i] : 0.0f, i < there && 2 * w + 1 < s.head_dim ? b[i] : 0.0f);
        }
        __syncthreads();
        const u32 row = (FEW ? 0 : warp * 16) + lane % 16;
#pragma unroll
        for (u32 k = 0; k < D / 16; k++)
            load_halves(q[k], shared_address(to + row * PITCH + lane / 16 * 4) + k * 32);
    }

    // Scores of a pair of 8 keys each.
    DEVICE void score(const u32* tile, u32 pair, f32 (&a)[4], f32 (&b)[4]) const
    {
        const u32 row = shared_address(tile + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 4) + pair * 64 * PITCH;
#pragma unroll
        for (u32 k = 0; k < D / 16; k++) {
            u32 both[4];
            load_halves(both, row + k * 32);
            multiply_add(a, q[k], both[0], both[1]);
            multiply_add(b, q[k], both[2], both[3]);
        }
    }

    DEVICE void scores(u32 stage, f32 (&x)[8][4], float4* meeting) const
    {
        if (FEW) {
            f32 own[2][4] = {};
            score(keys_of(stage), warp, own[0], own[1]);
#pragma unroll
            for (u32 j = 0; j < 2; j++)
                meeting[(2 * warp + j) * 32 + lane] = make_float4(own[j][0], own[j][1], own[j][2], own[j][3]);
            __syncthreads();
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                const float4 all = meeting[j * 32 + lane];
                x[j][0] = all.x, x[j][1] = all.y, x[j][2] = all.z, x[j][3] = all.w;
            }
        } else {
#pragma unroll
            for (u32 j = 0; j < 8; j++)
#pragma unroll
                for (u32 c = 0; c < 4; c++)
                    x[j][c] = 0.0f;
#pragma unroll
            for (u32 pair = 0; pair < 4; pair++)
                score(keys_of(stage), pair, x[2 * pair], x[2 * pair + 1]);
        }
    }

    // Scores of a tile to weights in halves, rows of a left side; all sums to the new largest score.
    DEVICE void soften(f32 (&x)[8][4], u32 base, u32 (&p)[4][4])
    {
        if (base + KEYS > min(count[0], count[1]))
#pragma unroll
            for (u32 j = 0; j < 8; j++)
#pragma unroll
                for (u32 c = 0; c < 4; c++)
                    if (base + 8 * j + lane % 4 * 2 + c % 2 >= count[c / 2])
                        x[j][c] = -infinity();
        f32 most[2] = {m[0], m[1]};
#pragma unroll
        for (u32 j = 0; j < 8; j++)
#pragma unroll
            for (u32 c = 0; c < 4; c++)
                most[c / 2] = fmaxf(most[c / 2], x[j][c]);
        f32 start[2], sum[2] = {};
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            most[i] = fmaxf(most[i], __shfl_xor_sync(ALL, most[i], 1));
            most[i] = fmaxf(most[i], __shfl_xor_sync(ALL, most[i], 2));
            const f32 shrink = exponential_of_two((m[i] - most[i]) * unit);
            m[i] = most[i];
            start[i] = most[i] * unit;
            l[i] *= shrink;
#pragma unroll
            for (u32 n = 0; n < 2 * OWN; n++)
                o[n][2 * i] *= shrink, o[n][2 * i + 1] *= shrink;
        }
#pragma unroll
        for (u32 j = 0; j < 8; j++)
#pragma unroll
            for (u32 c = 0; c < 4; c++)
                x[j][c] = exponential_of_two(__fmaf_rn(x[j][c], unit, -start[c / 2]));
        if (base == 0 && lane % 4 == 0)
            x[0][0] *= sees.first_weight, x[0][2] *= sees.first_weight;
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++)
                sum[c / 2] += x[j][c];
            p[j / 2][j % 2 * 2] = upper_halves(x[j][0], x[j][1]);
            p[j / 2][j % 2 * 2 + 1] = upper_halves(x[j][2], x[j][3]);
        }
        l[0] += sum[0];
        l[1] += sum[1];
    }

    // The pair of 8 columns that a warp has in this place; one behind the last is none.
    DEVICE u32 pair_of(u32 n) const { return FEW ? warp + n * WARPS : n; }

    DEVICE void weigh(u32 stage, const u32 (&p)[4][4])
    {
        const u32 row = shared_address(values_of(stage) + (lane / 8 % 2 * 8 + lane % 8) * PITCH + lane / 16 * 4);
#pragma unroll
        for (u32 k = 0; k < KEYS / 16; k++)
#pragma unroll
            for (u32 n = 0; n < OWN; n++)
                if (PAIRS % WARPS == 0 || pair_of(n) < PAIRS) {
                    u32 both[4];
                    load_turned(both, row + k * 64 * PITCH + pair_of(n) * 32);
                    multiply_add(o[2 * n], p[k], both[0], both[1]);
                    multiply_add(o[2 * n + 1], p[k], both[2], both[3]);
                }
    }

    DEVICE void begin()
    {
#pragma unroll
        for (u32 n = 0; n < 2 * OWN; n++)
#pragma unroll
            for (u32 c = 0; c < 4; c++)
                o[n][c] = 0.0f;
        m[0] = m[1] = LOWEST;
        l[0] = l[1] = 0.0f;
    }

    // Values that are no numbers would meet the weight zero of rows that do not see them. So they are taken out of the
    // tile, and added by themselves to the rows that see them.
    DEVICE void set_aside(u32 stage, u32 base, u32* scratch, const u32 (&p)[4][4])
    {
        u32* own = scratch + warp * 16 * 36;
#pragma unroll
        for (u32 k = 0; k < 4; k++)
#pragma unroll
            for (u32 c = 0; c < 4; c++)
                own[(lane / 4 + c % 2 * 8) * 36 + k * 8 + c / 2 * 4 + lane % 4] = p[k][c];
        __syncwarp();
        u32* tile = values_of(stage);
#pragma unroll 1
        for (u32 j = 0; j < KEYS; j++) {
            f32 weight[2];
#pragma unroll
            for (u32 i = 0; i < 2; i++)
                weight[i] = from_bf16(own[(lane / 4 + 8 * i) * 36 + j / 2] >> j % 2 * 16 & 0xffff);
#pragma unroll
            for (u32 n = 0; n < 2 * OWN; n++)
                if (PAIRS % WARPS == 0 || pair_of(n / 2) < PAIRS) {
                    const u32 word = tile[j * PITCH + pair_of(n / 2) * 8 + n % 2 * 4 + lane % 4];
#pragma unroll
                    for (u32 c = 0; c < 4; c++) {
                        const f32 v = from_bf16(word >> c % 2 * 16 & 0xffff);
                        if (!finite(v) && base + j < count[c / 2])
                            o[n][c] += weight[c / 2] * v;
                    }
                }
        }
        __syncthreads();
#pragma unroll 1
        for (u32 j = warp; j < KEYS; j += WARPS)
#pragma unroll 1
            for (u32 w = lane; w < D / 2; w += 32) {
                const u32 word = tile[j * PITCH + w];
                const u32 low = finite(from_bf16(word & 0xffff)) ? word & 0xffff : 0;
                const u32 high = finite(from_bf16(word >> 16)) ? word & 0xffff0000u : 0;
                tile[j * PITCH + w] = low | high;
            }
        __syncthreads();
    }

    // One tile in flight while another is multiplied. With care: one at a time, see set_aside.
    DEVICE void over_tiles(const f32* from, u32 first_row, u32 end_row, float4* meeting, u32 care)
    {
        const u32 tiles = (last + KEYS) / KEYS, ahead = care ? 0 : STAGES - 1;
#pragma unroll 1
        for (u32 n = 0; n < ahead; n++) {
            if (n < tiles)
                copy(n, n * KEYS);
            copy_commit();
        }
        if (!care)
            load_queries(from, first_row, end_row);
        begin();
        u32 stage = 0;
#pragma unroll 1
        for (u32 t = 0; t < tiles; t++) {
            copy_wait<STAGES - 2>();
            // All have come: a tile is there for everyone, and the stage of the one before it is free.
            __syncthreads();
            if (t + ahead < tiles)
                copy(care ? 0 : stage == 0 ? STAGES - 1 : stage - 1, (t + ahead) * KEYS);
            copy_commit();
            if (care) {
                copy_wait<0>();
                __syncthreads();
            }
            if (t * KEYS < seen || care) {
                f32 x[8][4];
                u32 p[4][4];
                scores(stage, x, meeting);
                soften(x, t * KEYS, p);
                if (care)
                    set_aside(stage, t * KEYS, keys_of(1), p);
                weigh(stage, p);
            }
            if (!care)
                stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        copy_wait<0>();
    }

    DEVICE void run(const f32* from, u32 first_row, u32 end_row, float4* meeting)
    {
        fill();
#pragma unroll 1
        for (u32 care = 0;; care = 1) {
            over_tiles(from, first_row, end_row, meeting, care);
            bool odd = false;
#pragma unroll
            for (u32 n = 0; n < 2 * OWN; n++)
#pragma unroll
                for (u32 c = 0; c < 4; c++)
                    odd |= !finite(o[n][c]);
            if (care || !__syncthreads_or(odd))
                return;
        }
    }

    // Sums over their exponentials' sum; `out` is the sequence's first row.
    DEVICE void finish(f32* out, u32 head, u32 n_heads, u32 first_row, u32 end_row)
    {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            f32 total = l[i];
            total += __shfl_xor_sync(ALL, total, 1);
            total += __shfl_xor_sync(ALL, total, 2);
            const u32 r = first_row + (FEW ? 0 : warp * 16) + lane / 4 + 8 * i;
            if (r >= end_row)
                continue;
            // Rows that see only scores of minus infinity are none, rows that see nothing are zero.
            const bool none = count[i] > 0 && m[i] <= LOWEST;
            const f32 inverse = none ? __uint_as_float(0x7fc00000u) : total > 0.0f ? 1.0f / total : 1.0f;
            f32* row = out + ((u64)(r / s.group) * n_heads + head + r % s.group) * s.head_dim;
#pragma unroll
            for (u32 n = 0; n < 2 * OWN; n++) {
                const u32 column = pair_of(n / 2) * 16 + n % 2 * 8 + lane % 4 * 2;
                const f32 a = o[n][2 * i] * inverse, b = o[n][2 * i + 1] * inverse;
                if (column < s.head_dim)
                    row[column] = a;
                if (column + 1 < s.head_dim)
                    row[column + 1] = b;
            }
        }
    }
};
