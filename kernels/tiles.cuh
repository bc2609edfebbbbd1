// Tiles of query rows against tiles of keys and values: what a thread and a block do of them.
#pragma once
#include "attention.cuh"

#define ROWS 64
#define THREADS 128

// Heads of D in tiles of KEYS rows, of floats or in LEVELS of 8 bits, and how shared memory is parted.
template <u32 D, u32 KEYS, bool LEVELS> struct Plan {
    enum : u32 {
        BLOCKS = (D + 31) / 32,
        WORDS = LEVELS ? BLOCKS * 9 : D,
        // Between rows: an odd number of 16 bytes, so that rows side by side lie in other banks.
        PITCH = ((WORDS + 3) / 4 | 1) * 4,
        // A thread's keys, and its columns: fours, then single ones.
        EACH = KEYS / 8,
        WIDE = D / 32,
        SINGLE = (D % 32 + 7) / 8,
        GROUPS = WIDE + (SINGLE > 0),
        COLUMNS = 4 * WIDE + SINGLE,
        // Queries [ROWS, PITCH], a ring [2, KEYS, PITCH], weights [ROWS, KEYS], in levels values as floats [KEYS, D].
        STAGE = KEYS * PITCH,
        RING = ROWS * PITCH,
        WEIGHTS = RING + 2 * STAGE,
        FLOATS = WEIGHTS + ROWS * KEYS,
        VALUE_PITCH = LEVELS ? D : PITCH,
    };
};

// f(n, i) for a thread's fours i of the rows n of a tile.
template <u32 D, u32 KEYS, class F> DEVICE void each_four(u32 thread, F f)
{
    const u32 FOURS = D / 4;
    // The quotient, in 32 bits.
    u32 n = thread * (65536 / FOURS + 1) >> 16, i = thread - n * FOURS;
#pragma unroll 4
    while (n < KEYS) {
        f(n, i);
        n += THREADS / FOURS;
        i += THREADS % FOURS;
        if (THREADS % FOURS > 0 && i >= FOURS) {
            i -= FOURS;
            n++;
        }
    }
}

// Adds to s[i][j] the products of row 4 i of `query` and row 8 j of `tile`, of `width` floats, fours of them.
template <class P> DEVICE void add_products(f32 (&s)[4][P::EACH], const u32* query, const u32* tile, u32 width)
{
#pragma unroll 2
    for (u32 d = 0; d < width; d += 4) {
        float4 q[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            q[i] = *(const float4*)(query + 4 * i * P::PITCH + d);
#pragma unroll
        for (u32 j = 0; j < P::EACH; j++) {
            const float4 k = *(const float4*)(tile + 8 * j * P::PITCH + d);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                s[i][j] += q[i].x * k.x;
                s[i][j] += q[i].y * k.y;
                s[i][j] += q[i].z * k.z;
                s[i][j] += q[i].w * k.w;
            }
        }
    }
}

// s[i][j] = the sum over the head of row 4 i of `query` and row 8 j of `tile`.
template <class P, u32 D, bool LEVELS> DEVICE void multiply_rows(f32 (&s)[4][P::EACH], const u32* query, const u32* tile)
{
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < P::EACH; j++)
            s[i][j] = 0.0f;
    if constexpr (LEVELS) {
#pragma unroll 1
        for (u32 b = 0; b < P::BLOCKS; b++) {
            // Two rows at a time, which takes fewer registers.
#pragma unroll
            for (u32 first = 0; first < 4; first += 2) {
                const u32* own = query + 4 * first * P::PITCH + b * 8;
                i32 dots[2][P::EACH];
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    uint4 q[2];
#pragma unroll
                    for (u32 i = 0; i < 2; i++)
                        q[i] = *(const uint4*)(own + 4 * i * P::PITCH + half * 4);
#pragma unroll
                    for (u32 j = 0; j < P::EACH; j++) {
                        const uint4 k = *(const uint4*)(tile + 8 * j * P::PITCH + b * 8 + half * 4);
#pragma unroll
                        for (u32 i = 0; i < 2; i++) {
                            i32 dot = __dp4a((i32)q[i].x, (i32)k.x, half == 0 ? 0 : dots[i][j]);
                            dot = __dp4a((i32)q[i].y, (i32)k.y, dot);
                            dot = __dp4a((i32)q[i].z, (i32)k.z, dot);
                            dots[i][j] = __dp4a((i32)q[i].w, (i32)k.w, dot);
                        }
                    }
                }
#pragma unroll
                for (u32 j = 0; j < P::EACH; j++) {
                    const f32 scale = __uint_as_float(tile[8 * j * P::PITCH + P::BLOCKS * 8 + b]);
#pragma unroll
                    for (u32 i = 0; i < 2; i++)
                        s[first + i][j] +=
                            (f32)dots[i][j] * scale * __uint_as_float(query[4 * (first + i) * P::PITCH + P::BLOCKS * 8 + b]);
                }
            }
        }
    } else
        add_products<P>(s, query, tile, D);
}

// sums[i] += share * v, of the columns of group a: four, or single ones.
template <class P> DEVICE void add_group(f32 (&sums)[P::COLUMNS], u32 a, f32 share, const f32 (&v)[4])
{
#pragma unroll
    for (u32 c = 0; c < 4; c++)
        if (a < P::WIDE || c < P::SINGLE)
            sums[4 * a + c] += share * v[c];
}

// The columns of group a of a value, of which `column` is a thread's first.
template <class P, u32 D> DEVICE void load_group(f32 (&v)[4], const f32* value, u32 a, u32 column)
{
    if (a < P::WIDE) {
        const float4 four = *(const float4*)(value + 32 * a + 4 * column);
        v[0] = four.x;
        v[1] = four.y;
        v[2] = four.z;
        v[3] = four.w;
    } else
#pragma unroll
        for (u32 c = 0; c < P::SINGLE; c++)
            v[c] = value[min(32 * a + 8 * c + column, D - 1)];
}

// Adds the rows n < keys of a tile to a thread's sums, fours of them: of row i weights[4 i][n] times its columns.
template <class P, u32 D, u32 KEYS, bool LEVELS>
DEVICE void add_rows(
    f32 (&sums)[4][P::COLUMNS], const f32* weights, u32 turned, const f32* values, const u32* scales, u32 column, u32 keys)
{
#pragma unroll 1
    for (u32 n = 0; n < keys; n += 4) {
        f32 p[4][4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float4 four = *(const float4*)(weights + 4 * i * KEYS + (n ^ turned));
            p[i][0] = four.x;
            p[i][1] = four.y;
            p[i][2] = four.z;
            p[i][3] = four.w;
        }
#pragma unroll
        for (u32 u = 0; u < 4; u++)
#pragma unroll
            for (u32 a = 0; a < P::GROUPS; a++) {
                f32 v[4];
                load_group<P, D>(v, values + (n + u) * P::VALUE_PITCH, a, column);
                const f32 scale = LEVELS ? __uint_as_float(scales[(n + u) * P::PITCH + a]) : 1.0f;
#pragma unroll
                for (u32 i = 0; i < 4; i++)
                    add_group<P>(sums[i], a, LEVELS ? p[i][u] * scale : p[i][u], v);
            }
    }
}

// The same where row i sees those below limits[i] alone, and the others may be no numbers.
template <class P, u32 D, u32 KEYS, bool LEVELS>
DEVICE void add_seen_rows(
    f32 (&sums)[4][P::COLUMNS], const f32* weights, u32 turned, const f32* values, const u32* scales, u32 column, u32 keys,
    const u32 (&limits)[4], u32 base)
{
#pragma unroll 1
    for (u32 n = 0; n < keys; n++)
#pragma unroll
        for (u32 a = 0; a < P::GROUPS; a++) {
            f32 v[4];
            load_group<P, D>(v, values + n * P::VALUE_PITCH, a, column);
            const f32 scale = LEVELS ? __uint_as_float(scales[n * P::PITCH + a]) : 1.0f;
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                if (base + n < limits[i]) {
                    const f32 p = weights[4 * i * KEYS + (n ^ turned)];
                    add_group<P>(sums[i], a, LEVELS ? p * scale : p, v);
                }
        }
}
