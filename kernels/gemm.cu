// Products of a quantised weight matrix with rows of 8-bit activations, on tensor cores: y[m, n] (+)= x[m, k] wT + bias.
//
// ops::gemm with A8: a sum runs over the blocks of 32 inputs, (dot * scale of w [- sum * offset of w]) * scale of x, block
// after block from zero upwards, where dot is the exact integer product. One instruction multiplies a block of 16 outputs
// with 8 rows, so a lane's words of its result are such dots, and no order inside a block matters. Every instance adds
// the blocks in their order: a row has the same bits in each, and they are the reference's.
//
// A dot times a scale of w is one instruction: the dots begin at the bits of MAGIC, so that as a float one is MAGIC + dot,
// and (MAGIC + dot) * scale - MAGIC * scale, fused, is rounded once; the scale has so few digits that its product with
// MAGIC is exact. A dot of zero may get the other sign of zero, which no sum keeps. A scale of infinity makes no number
// out of it: sums that come out as no number are made anew in the plain way (`plain_sum`).
//
// Weights lie as gemv.cu says: of a strip of 32 outputs and a block of 32 inputs 512 bytes in a row for each piece, 16 of
// an output's inputs a lane (32 in nibbles). They come by asynchronous copies of 16 bytes a lane; read as four matrices
// of 8 rows, they are in the lanes as the instruction wants them: two tiles of 16 outputs.
// Rows lie in tiles of R = min(m, 8), the missing ones of the last tile as zeros:
//   levels[tile][block][row][32]: word w of the 8 is inputs 4 (w / 2) + 16 (w % 2) to + 3, lane w / 2 takes two at once
//   scales[tile][block][row], and the sums of the levels with their sign turned, as floats, in the same order
//
// one: a block owns one strip and up to four rows, which its warps round for themselves while their weights come. A warp
// takes TURN blocks of inputs and has its own ring of STAGES turns; terms go through shared memory to warps that add them.
// few: the same with up to 8 rows that round_a8 has rounded, added up by the warps that made the terms.
// many: a block owns some strips and tiles, a warp one of each, over all inputs; a ring of stages for all.
// large: a block owns 4 strips and 8 tiles, a warp one of the strips and all tiles.
//
// Bound: the weights, read once, and from some hundred rows on the floats behind the dots: three instructions each.
// Compute capability 8.0.
#include "common.cuh"

#define MAGIC 12582912.0f
#define MAGIC_BITS 0x4b400000

struct Q8 {
    typedef u16 Stored;
    enum : u32 { PIECES = 2 };
    enum : bool { OFFSET = false };
    static DEVICE f32 scale(u16 s) { return from_f16(s); }
    static DEVICE f32 offset(u16) { return 0.0f; }
    // Both tiles of a strip's block.
    static DEVICE void strip(u32 (&a)[2][4], const u8* w, u32 lane)
    {
        u32 low[4], high[4];
        load_matrices(low, w + lane * 16);
        load_matrices(high, w + 512 + lane * 16);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            a[i / 2][i % 2] = low[i];
            a[i / 2][i % 2 + 2] = high[i];
        }
    }
    static DEVICE i32 level(const u8* w, u32 i) { return ((const i8*)(w + i / 16 * 512))[i % 16]; }
};

// What formats of nibbles share. UNPACK makes the bytes of the inputs 0 to 15 and 16 to 31 of a word.
template <class UNPACK> struct Nibbles {
    enum : u32 { PIECES = 1 };
    static DEVICE void strip(u32 (&a)[2][4], const u8* w, u32 lane)
    {
        u32 both[4];
        load_matrices(both, w + lane * 16);
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            UNPACK::unpack(a[i / 2][i % 2], a[i / 2][i % 2 + 2], both[i]);
    }
};

// Nibbles are 8 too large: with its highest bit turned one is a signed number of 4 bits, and in the upper half of a byte
// 16 times that. The scale makes up for it.
struct SignedUnpack {
    static DEVICE void unpack(u32& low, u32& high, u32 word)
    {
        low = pick_turned(word << 4, 0xf0f0f0f0u, 0x80808080u);
        high = pick_turned(word, 0xf0f0f0f0u, 0x80808080u);
    }
};

struct Q4 : Nibbles<SignedUnpack> {
    typedef u16 Stored;
    enum : bool { OFFSET = false };
    static DEVICE f32 scale(u16 s) { return from_f16(s) * 0.0625f; }
    static DEVICE f32 offset(u16) { return 0.0f; }
    static DEVICE i32 level(const u8* w, u32 i) { return ((i32)(w[i % 16] >> (i / 16 * 4) & 15) - 8) * 16; }
};

struct PlainUnpack {
    static DEVICE void unpack(u32& low, u32& high, u32 word)
    {
        low = word & 0x0f0f0f0fu;
        high = word >> 4 & 0x0f0f0f0fu;
    }
};

struct Q4K : Nibbles<PlainUnpack> {
    typedef float2 Stored;
    enum : bool { OFFSET = true };
    static DEVICE f32 scale(float2 s) { return s.x; }
    static DEVICE f32 offset(float2 s) { return s.y; }
    static DEVICE i32 level(const u8* w, u32 i) { return w[i % 16] >> (i / 16 * 4) & 15; }
};

template <class W> struct Sizes {
    enum : u32 { W_BYTES = W::PIECES * 512, SCALE_BYTES = 32 * sizeof(typename W::Stored) };
};

// The parameters of a product.
struct Product {
    f32* y;
    const float4* x;
    const u8* levels;
    const f32 *scales_x, *turned;
    const u8 *w, *scales;
    const f32* bias;
    u32 m, n, k, has_bias, accumulate;
    DEVICE void put(u32 r, u32 j, f32 sum) const { finish(y, bias, has_bias, accumulate, (u64)r * n + j, j, sum); }
};

// A dot, as the float whose bits it is, times the scale of w.
template <class W> DEVICE f32 part(i32 dot, f32 scale, f32 start, f32 turned, f32 offset)
{
    const f32 part = __fmaf_rn(__int_as_float(dot), scale, start);
    return W::OFFSET ? part + turned * offset : part;
}

// 8 / WORDS lanes round 32 inputs of a row, see quant::quantise_a8: a lane's as words of 4 signed bytes, and for all of them
// the scale and (where SUM) the sum with its sign turned.
template <u32 WORDS, bool SUM>
DEVICE void round_inputs(u32 (&words)[WORDS], const float4 (&v)[WORDS], f32& scale, f32& turned)
{
    u32 largest = 0;
#pragma unroll
    for (u32 i = 0; i < WORDS; i++) {
        const f32 all[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            largest = max(largest, __float_as_uint(all[j]) & 0x7fffffffu);
    }
#pragma unroll
    for (u32 step = 4 / WORDS; step > 0; step /= 2)
        largest = max(largest, __shfl_xor_sync(ALL, largest, step));
    const f32 most = __uint_as_float(largest), one = most / 127.0f;
    const bool bad = largest >= 0x7f800000u, zero = one < 1.17549435e-38f;
    const f32 times = 127.0f / most;
    scale = bad ? __uint_as_float(0x7fc00000u) : zero ? 0.0f : one;
    i32 sum = 0;
#pragma unroll
    for (u32 i = 0; i < WORDS; i++) {
        const f32 all[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
        u32 bits[4];
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            bits[j] = __float_as_uint(all[j] * times + MAGIC);
        // The low bytes.
        const u32 word = __byte_perm(__byte_perm(bits[0], bits[1], 0x0040), __byte_perm(bits[2], bits[3], 0x0040), 0x5410);
        words[i] = bad || zero ? 0 : word;
        if (SUM)
            sum = __dp4a((i32)words[i], 0x01010101, sum);
    }
    if (SUM) {
#pragma unroll
        for (u32 step = 4 / WORDS; step > 0; step /= 2)
            sum += __shfl_xor_sync(ALL, sum, step);
        turned = (f32)-sum;
    }
}

// A sum as the reference has it, by one thread: for those whose scales are no ordinary numbers.
template <class W> DEVICE f32 plain_sum(const Product& s, u32 r, u32 j)
{
    const u32 blocks = s.k / 32;
    f32 sum = 0.0f;
#pragma unroll 1
    for (u32 b = 0; b < blocks; b++) {
        const f32* const x = (const f32*)(s.x + ((u64)r * blocks + b) * 8);
        const u64 at = (u64)(j / 32) * blocks + b;
        const u8* const w = s.w + at * Sizes<W>::W_BYTES + j % 32 * 16;
        const typename W::Stored side = ((const typename W::Stored*)s.scales)[at * 32 + j % 32];
        u32 largest = 0;
#pragma unroll 1
        for (u32 i = 0; i < 32; i++)
            largest = max(largest, __float_as_uint(x[i]) & 0x7fffffffu);
        const f32 most = __uint_as_float(largest), one = most / 127.0f;
        // The sum stays what it is now.
        if (largest >= 0x7f800000u)
            return __uint_as_float(0x7fc00000u);
        const bool zero = one < 1.17549435e-38f;
        const f32 times = zero ? 0.0f : 127.0f / most;
        i32 dot = 0, turned = 0;
#pragma unroll 1
        for (u32 i = 0; i < 32; i++) {
            const i32 level = (i32)(__float_as_uint(x[i] * times + MAGIC) << 24) >> 24;
            dot += level * W::level(w, i);
            turned -= level;
        }
        f32 part = (f32)dot * W::scale(side);
        if (W::OFFSET)
            part += (f32)turned * W::offset(side);
        sum += part * (zero ? 0.0f : one);
    }
    return sum;
}

// A warp's sums of P tiles of rows, from r on, and 32 outputs from j on go through its part of shared memory, so that the
// outputs of a row leave side by side. A lane has of outputs 8 i + g and tile p those of two rows at 2 i.
template <class W, u32 P> DEVICE void put_all(const Product& s, const f32 (&total)[P][8], u32 r, u32 j)
{
    // A row's 32 outputs and 4 more: two rows on, lanes use the next 8 banks.
    enum : u32 { ROW = 36, SIZE = P * 8 * ROW };
    extern __shared__ __align__(16) u8 memory[];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    f32* const own = (f32*)memory + warp * SIZE;
    __syncthreads();
#pragma unroll
    for (u32 p = 0; p < P; p++)
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            own[(p * 8 + 2 * t + i % 2) * ROW + i / 2 * 8 + g] = total[p][i];
    __syncwarp();
    if (j + lane >= s.n)
        return;
#pragma unroll 4
    for (u32 row = 0; row < P * 8; row++) {
        if (r + row >= s.m)
            break;
        const f32 sum = own[row * ROW + lane];
        s.put(r + row, j + lane, sum == sum ? sum : plain_sum<W>(s, r + row, j + lane));
    }
}

// One warp copies `count` pieces of BYTES that lie in a row.
template <u32 BYTES, bool KEEP> DEVICE void copy_run(u8* to, const void* from, u32 count, u32 lane)
{
#pragma unroll 1
    for (u32 i = lane; i < count; i += 32)
        copy_async<BYTES, KEEP>(to + i * BYTES, (const u8*)from + (u64)i * BYTES);
}

// A warp copies TURN blocks of a strip, of which `left` are there, and behind them their scales, whose pieces of 16 bytes
// change places within a block: piece q of block b is at q ^ SPREAD * (b / EVERY).
template <class W, u32 TURN, u32 SPREAD, u32 EVERY>
DEVICE void copy_turn(u32 to, const Product& s, u64 at, u32 left, u32 lane)
{
    enum : u32 { W_BYTES = Sizes<W>::W_BYTES, SCALE_BYTES = Sizes<W>::SCALE_BYTES, PIECES = SCALE_BYTES / 16 };
    const u8 *const w = s.w + at * W_BYTES + lane * 16, *const scales = s.scales + at * SCALE_BYTES + lane * 16;
#pragma unroll
    for (u32 r = 0; r < TURN * W::PIECES; r++)
        copy_or_zero<false>(to + r * 512 + lane * 16, w + r * 512, r / W::PIECES < left);
#pragma unroll
    for (u32 r = 0; r < TURN * PIECES; r += 32) {
        const u32 b = (r + lane) / PIECES, place = (r + lane) ^ SPREAD * (b / EVERY);
        if (r + lane < TURN * PIECES)
            copy_or_zero<false>(to + TURN * W_BYTES + place * 16, scales + r * 16, b < left);
    }
}

// One to four rows, in floats. The columns of the tensor cores' tiles are ROWS rows of TURN blocks of inputs, 8 at most:
// each block's weights are multiplied with a matrix whose other columns are zeros, all onto the same dots. So a lane has
// terms of two columns, and its share of the rounding is what it multiplies with.
template <class W, u32 ROWS, u32 TURN, u32 PARTS, u32 STAGES> DEVICE void one(const Product& s)
{
    typedef typename W::Stored Stored;
    // Terms of a round, twice: [block][row][output], a row 4 longer so that lanes of other columns use other banks. Warps
    // begin the next round while others add up this one.
    enum : u32 {
        ROUND = PARTS * TURN,
        ROW = 36,
        W_BYTES = Sizes<W>::W_BYTES,
        SCALE_BYTES = Sizes<W>::SCALE_BYTES,
        STAGE = TURN * (W_BYTES + SCALE_BYTES),
        SPREAD = sizeof(Stored) / 4 + (sizeof(Stored) < 4),
        EVERY = sizeof(Stored) < 4 || ROWS == 1 ? 2 : 1
    };
    extern __shared__ __align__(16) u8 memory[];
    f32* const all_terms = (f32*)memory;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = s.k / 32, strip = blockIdx.y, rounds = (blocks + ROUND - 1) / ROUND;
    if (warp >= PARTS) {
        const u32 row = warp - PARTS;
        f32 total = 0.0f;
#pragma unroll 1
        for (u32 round = 0; round < rounds; round++) {
            __syncthreads();
            const f32* term = all_terms + round % 2 * (ROUND * ROWS * ROW) + row * ROW + lane;
#pragma unroll 16
            for (u32 b = min(blocks - round * ROUND, ROUND); b > 0; b--, term += ROWS * ROW)
                total += *term;
        }
        const u32 j = strip * 32 + lane;
        if (row < s.m && j < s.n)
            s.put(row, j, total == total ? total : plain_sum<W>(s, row, j));
        return;
    }
    const u32 ring = 2 * ROUND * ROWS * ROW * 4 + warp * STAGES * STAGE;
    u32 fresh = 0, due = 0;
    const auto copy = [&](u32 round) {
        const u32 own = round * ROUND + warp * TURN;
        if (own < blocks)
            copy_turn<W, TURN, SPREAD, EVERY>(shared_address(memory) + ring + fresh, s, (u64)strip * blocks + own,
                                              blocks - own, lane);
        fresh = fresh == (STAGES - 1) * STAGE ? 0 : fresh + STAGE;
        copy_commit();
    };
    // Column g is a row of a block: lanes 4 g to 4 g + 3 round it, of each half of its 32 inputs 4 a lane.
    const u32 in_row = g % ROWS, in_block = g / ROWS;
    const auto inputs = [&](u32 round, float4 (&v)[2]) {
        const u32 b = round * ROUND + warp * TURN + in_block;
        const bool there = b < blocks && in_block < TURN && in_row < s.m;
        const float4* const x = s.x + ((u64)in_row * blocks + b) * 8 + t;
        v[0] = there ? x[0] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        v[1] = there ? x[4] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    };
#pragma unroll
    for (u32 round = 0; round < STAGES - 1; round++)
        copy(round);
    float4 next[2];
    inputs(0, next);
#pragma unroll 1
    for (u32 round = 0; round < rounds; round++) {
        const u32 own = round * ROUND + warp * TURN;
        copy(round + STAGES - 1);
        u32 words[2];
        f32 scale_x, sum_x;
        round_inputs<2, W::OFFSET>(words, next, scale_x, sum_x);
        inputs(round + 1, next);
        copy_wait<STAGES - 1>();
        __syncwarp();
        if (own < blocks) {
            const u8* const from = memory + ring + due;
            i32 dot[2][4];
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                dot[0][i] = dot[1][i] = MAGIC_BITS;
#pragma unroll
            for (u32 b = 0; b < TURN; b++) {
                u32 a[2][4];
                W::strip(a, from + b * W_BYTES, lane);
                const uint2 x = in_block == b ? make_uint2(words[0], words[1]) : make_uint2(0, 0);
                multiply_add(dot[0], a[0], x);
                multiply_add(dot[1], a[1], x);
            }
            f32* const to = all_terms + round % 2 * (ROUND * ROWS * ROW) + (warp * TURN * ROWS + 2 * t) * ROW + g;
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                const f32 times = __shfl_sync(ALL, scale_x, 8 * t + 4 * c);
                const f32 turned = W::OFFSET ? __shfl_sync(ALL, sum_x, 8 * t + 4 * c) : 0.0f;
                const u32 b = (2 * t + c) / ROWS;
                const u8* const block = from + TURN * W_BYTES + b * SCALE_BYTES;
                if (2 * t + c < TURN * ROWS)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        const u32 at = (8 * i + g) * sizeof(Stored) ^ SPREAD * (b / EVERY) * 16;
                        const Stored side = *(const Stored*)(block + at);
                        const f32 scale = W::scale(side);
                        to[c * ROW + i * 8] = part<W>(dot[i / 2][i % 2 * 2 + c], scale, scale * -MAGIC, turned,
                                                      W::offset(side)) *
                                              times;
                    }
            }
        }
        due = due == (STAGES - 1) * STAGE ? 0 : due + STAGE;
        __syncthreads();
    }
}

#define WARPS 8

// Five to eight rows, in 8 bits.
template <class W, u32 TURN, u32 STAGES> DEVICE void few(const Product& s)
{
    typedef typename W::Stored Stored;
    // Terms of a round, twice: [block][term][lane], as the lanes have them.
    enum : u32 {
        ROUND = WARPS * TURN,
        TERMS = 8 * 32,
        W_BYTES = Sizes<W>::W_BYTES,
        SCALE_BYTES = Sizes<W>::SCALE_BYTES
    };
    extern __shared__ __align__(16) u8 memory[];
    const u32 m = s.m, lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = s.k / 32, strip = blockIdx.y;
    const u32 levels_at = TURN * (W_BYTES + SCALE_BYTES), scales_at = levels_at + TURN * m * 32;
    const u32 turned_at = scales_at + TURN * m * 4, stage_bytes = levels_at + TURN * m * 40;
    f32* const all_terms = (f32*)memory;
    u8* const ring = memory + 2 * ROUND * TERMS * 4 + warp * STAGES * stage_bytes;
    // Rows that are missing are the last one once more; nobody takes their terms.
    const u32 row = min(g, m - 1), rows[2] = {min(2 * t, m - 1), min(2 * t + 1, m - 1)};
    u32 fresh = 0, due = 0;
    const auto copy = [&](u32 round) {
        const u32 own = round * ROUND + warp * TURN;
        if (own < blocks) {
            const u32 turn = min(blocks - own, TURN);
            u8* const to = ring + fresh;
            copy_turn<W, TURN, 0, 1>(shared_address(to), s, (u64)strip * blocks + own, blocks - own, lane);
            copy_run<16, true>(to + levels_at, s.levels + (u64)own * m * 32, turn * m * 2, lane);
            copy_run<4, true>(to + scales_at, s.scales_x + (u64)own * m, turn * m, lane);
            if (W::OFFSET)
                copy_run<4, true>(to + turned_at, s.turned + (u64)own * m, turn * m, lane);
        }
        fresh = fresh == (STAGES - 1) * stage_bytes ? 0 : fresh + stage_bytes;
        copy_commit();
    };
    const u32 rounds = (blocks + ROUND - 1) / ROUND;
    f32 total = 0.0f;
    for (u32 next = 0; next < rounds + STAGES - 1; next++) {
        // The first copies only fill the ring; from then on the oldest of it is due.
        if (next >= STAGES - 1) {
            copy_wait<STAGES - 2>();
            __syncwarp();
        }
        copy(next);
        if (next < STAGES - 1)
            continue;
        const u32 round = next - (STAGES - 1);
        const u32 base = round * ROUND, own = base + warp * TURN;
        f32* const round_terms = all_terms + round % 2 * (ROUND * TERMS);
        const u8* const from = ring + due;
        due = due == (STAGES - 1) * stage_bytes ? 0 : due + stage_bytes;
        const Stored* const own_scales = (const Stored*)(from + TURN * W_BYTES) + g;
        const uint2* const x = (const uint2*)(from + levels_at) + row * 4 + t;
        const f32 *const scales_x = (const f32*)(from + scales_at), *const turned = (const f32*)(from + turned_at);
        f32* const to = round_terms + warp * TURN * TERMS + lane;
#pragma unroll
        for (u32 b = 0; b < TURN; b++) {
            if (own + b >= blocks)
                break;
            u32 a[2][4];
            W::strip(a, from + b * W_BYTES, lane);
            f32 times[2], sums[2];
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                times[c] = scales_x[b * m + rows[c]];
                sums[c] = W::OFFSET ? turned[b * m + rows[c]] : 0.0f;
            }
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                i32 dot[4];
                multiply(dot, a[half], x[b * m * 4], MAGIC_BITS);
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const Stored side = own_scales[b * 32 + (2 * half + i) * 8];
                    const f32 scale = W::scale(side);
#pragma unroll
                    for (u32 c = 0; c < 2; c++)
                        to[b * TERMS + ((2 * half + i) * 2 + c) * 32] =
                            part<W>(dot[2 * i + c], scale, scale * -MAGIC, sums[c], W::offset(side)) * times[c];
                }
            }
        }
        __syncthreads();
        const f32* term = round_terms + warp * 32 + lane;
#pragma unroll 16
        for (u32 b = min(blocks - base, ROUND); b > 0; b--, term += TERMS)
            total += *term;
    }
    const u32 j = strip * 32 + warp / 2 * 8 + g, i = 2 * t + warp % 2;
    if (i < m && j < s.n)
        s.put(i, j, total == total ? total : plain_sum<W>(s, i, j));
}

// Nine rows and more. Of `strips` and `tiles` a block has those that are there; `turn` blocks of inputs are a stage.
template <class W> DEVICE void many(const Product& s, u32 strips, u32 tiles, u32 turn)
{
    typedef typename W::Stored Stored;
    enum : u32 { RING = 4, W_BYTES = Sizes<W>::W_BYTES, SCALE_BYTES = Sizes<W>::SCALE_BYTES };
    extern __shared__ __align__(16) u8 memory[];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = s.k / 32, stages = (blocks + turn - 1) / turn;
    const u32 first_strip = blockIdx.y * strips, first_tile = blockIdx.x * tiles;
    const u32 own_strips = min(strips, (s.n + 31) / 32 - first_strip), own_tiles = min(tiles, (s.m + 7) / 8 - first_tile);
    const u32 scales_at = strips * turn * W_BYTES, levels_at = scales_at + strips * turn * SCALE_BYTES;
    const u32 times_at = levels_at + tiles * turn * 256, turned_at = times_at + tiles * turn * 32;
    const u32 stage_bytes = turned_at + (W::OFFSET ? tiles * turn * 32 : 0);
    const u32 strip = warp / tiles, tile = warp % tiles;
    const auto copy = [&](u32 stage) {
        const u32 at = stage * turn;
        if (at < blocks) {
            const u32 count = min(blocks - at, turn);
            u8* const to = memory + stage % RING * stage_bytes;
            for (u32 p = warp; p < own_strips; p += warps) {
                const u64 from = (u64)(first_strip + p) * blocks + at;
                copy_run<16, false>(to + p * turn * W_BYTES, s.w + from * W_BYTES, count * (W_BYTES / 16), lane);
                copy_run<16, false>(to + scales_at + p * turn * SCALE_BYTES, s.scales + from * SCALE_BYTES,
                                    count * (SCALE_BYTES / 16), lane);
            }
            for (u32 p = warp; p < own_tiles; p += warps) {
                const u64 from = ((u64)(first_tile + p) * blocks + at) * 8;
                copy_run<16, true>(to + levels_at + p * turn * 256, s.levels + from * 32, count * 16, lane);
                copy_run<16, true>(to + times_at + p * turn * 32, s.scales_x + from, count * 2, lane);
                if (W::OFFSET)
                    copy_run<16, true>(to + turned_at + p * turn * 32, s.turned + from, count * 2, lane);
            }
        }
        copy_commit();
    };
    f32 total[1][8];
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        total[0][i] = 0.0f;
    const bool works = strip < own_strips && tile < own_tiles;
#pragma unroll 1
    for (u32 stage = 0; stage < RING - 1; stage++)
        copy(stage);
#pragma unroll 1
    for (u32 stage = 0; stage < stages; stage++) {
        copy_wait<RING - 2>();
        __syncthreads();
        copy(stage + RING - 1);
        const u8* const from = memory + stage % RING * stage_bytes;
        const u8* const w = from + strip * turn * W_BYTES;
        const Stored* const own_scales = (const Stored*)(from + scales_at + strip * turn * SCALE_BYTES) + g;
        const uint2* const x = (const uint2*)(from + levels_at + tile * turn * 256) + lane;
        const float2* const times = (const float2*)(from + times_at + tile * turn * 32) + t;
        const float2* const turned = (const float2*)(from + turned_at + tile * turn * 32) + t;
        const u32 count = works ? min(blocks - stage * turn, turn) : 0;
        // The additions alone wait for each other.
#pragma unroll 4
        for (u32 b = 0; b < count; b++) {
            u32 a[2][4];
            W::strip(a, w + b * W_BYTES, lane);
            const float2 by = times[b * 4], sums = W::OFFSET ? turned[b * 4] : make_float2(0.0f, 0.0f);
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                i32 dot[4];
                multiply(dot, a[half], x[b * 32], MAGIC_BITS);
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const Stored side = own_scales[b * 32 + 16 * half + 8 * i];
                    const f32 scale = W::scale(side), offset = W::offset(side), start = scale * -MAGIC;
                    f32* const to = &total[0][4 * half + 2 * i];
                    to[0] += part<W>(dot[2 * i], scale, start, sums.x, offset) * by.x;
                    to[1] += part<W>(dot[2 * i + 1], scale, start, sums.y, offset) * by.y;
                }
            }
        }
    }
    copy_wait<0>();
    put_all<W, 1>(s, total, (first_tile + tile) * 8, (first_strip + strip) * 32);
}

#define STRIPS 4
#define TILES 8

// Rows by 64 and outputs by 128.
template <class W> DEVICE void large(const Product& s)
{
    typedef typename W::Stored Stored;
    enum : u32 {
        RING = 4,
        TURN = 2,
        W_BYTES = Sizes<W>::W_BYTES,
        SCALE_BYTES = Sizes<W>::SCALE_BYTES,
        SCALES_AT = STRIPS * TURN * W_BYTES,
        LEVELS_AT = SCALES_AT + STRIPS * TURN * SCALE_BYTES,
        TIMES_AT = LEVELS_AT + TILES * TURN * 256,
        TURNED_AT = TIMES_AT + TILES * TURN * 32,
        STAGE = TURNED_AT + (W::OFFSET ? TILES * TURN * 32 : 0)
    };
    extern __shared__ __align__(16) u8 memory[];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = s.k / 32, stages = (blocks + TURN - 1) / TURN;
    const u32 strip = blockIdx.y * STRIPS + warp, first_tile = blockIdx.x * TILES;
    // A warp brings its own strip, and a quarter of the tiles. Offsets of what is next, in 16 bytes.
    const bool strip_there = strip < (s.n + 31) / 32;
    const u32 all_tiles = (s.m + 7) / 8, tile = first_tile + warp, side_tile = tile + lane % 8 / 4 * 4;
    u32 w = strip * blocks * (W_BYTES / 16) + lane, scales = strip * blocks * (SCALE_BYTES / 16) + lane;
    // Lanes 0 to 7 bring scales of two tiles, lanes 8 to 15 sums.
    u32 levels = tile * blocks * 16 + lane, times = side_tile * blocks * 2 + lane % 4;
    const f32* const all_times = lane < 8 ? s.scales_x : s.turned;
    const u32 to = shared_address(memory) + lane * 16;
    const u32 to_times = (lane < 8 ? TIMES_AT : TURNED_AT) + (warp + lane % 8 / 4 * 4) * TURN * 32 + lane % 4 * 16;
    u32 slot = 0, left = blocks;
    const auto copy = [&]() {
        if (left > 0) {
#pragma unroll
            for (u32 r = 0; r < TURN * W::PIECES; r++)
                copy_or_zero<false>(to + slot + warp * TURN * W_BYTES + r * 512, (const uint4*)s.w + w + r * 32,
                                    strip_there && r / W::PIECES < left);
            if (lane < TURN * SCALE_BYTES / 16)
                copy_or_zero<false>(to + slot + SCALES_AT + warp * TURN * SCALE_BYTES, (const uint4*)s.scales + scales,
                                    strip_there && lane / (SCALE_BYTES / 16) < left);
#pragma unroll
            for (u32 h = 0; h < 2; h++)
                copy_or_zero<true>(to + slot + LEVELS_AT + (warp + h * 4) * TURN * 256,
                                   (const uint4*)s.levels + levels + h * 4 * blocks * 16,
                                   tile + 4 * h < all_tiles && lane / 16 < left);
            if (lane < (W::OFFSET ? 16 : 8))
                copy_or_zero<true>(shared_address(memory) + slot + to_times, (const uint4*)all_times + times,
                                   side_tile < all_tiles && lane % 4 / 2 < left);
            w += TURN * (W_BYTES / 16);
            scales += TURN * (SCALE_BYTES / 16);
            levels += TURN * 16;
            times += TURN * 2;
            left -= min(left, TURN);
            slot = slot == (RING - 1) * STAGE ? 0 : slot + STAGE;
        }
        copy_commit();
    };
    f32 total[TILES][8];
#pragma unroll
    for (u32 p = 0; p < TILES; p++)
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            total[p][i] = 0.0f;
#pragma unroll
    for (u32 stage = 0; stage < RING - 1; stage++)
        copy();
    u32 at = 0;
#pragma unroll 1
    for (u32 stage = 0; stage < stages; stage++) {
        copy_wait<RING - 2>();
        __syncthreads();
        copy();
        const u8* const from = memory + at;
        at = at == (RING - 1) * STAGE ? 0 : at + STAGE;
#pragma unroll 1
        for (u32 b = 0; b < TURN; b++) {
            u32 a[2][4];
            W::strip(a, from + (warp * TURN + b) * W_BYTES, lane);
            f32 scale[4], start[4], offset[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const Stored side = ((const Stored*)(from + SCALES_AT + (warp * TURN + b) * SCALE_BYTES))[g + 8 * i];
                scale[i] = W::scale(side);
                start[i] = scale[i] * -MAGIC;
                offset[i] = W::offset(side);
            }
#pragma unroll
            for (u32 p = 0; p < TILES; p++) {
                const uint2 x = *(const uint2*)(from + LEVELS_AT + (p * TURN + b) * 256 + lane * 8);
                const float2 by = *(const float2*)(from + TIMES_AT + (p * TURN + b) * 32 + t * 8);
                float2 sums = make_float2(0.0f, 0.0f);
                if (W::OFFSET)
                    sums = *(const float2*)(from + TURNED_AT + (p * TURN + b) * 32 + t * 8);
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    i32 dot[4];
                    multiply(dot, a[half], x, MAGIC_BITS);
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        const u32 o = 2 * half + i;
                        total[p][2 * o] += part<W>(dot[2 * i], scale[o], start[o], sums.x, offset[o]) * by.x;
                        total[p][2 * o + 1] += part<W>(dot[2 * i + 1], scale[o], start[o], sums.y, offset[o]) * by.y;
                    }
                }
            }
        }
    }
    copy_wait<0>();
    put_all<W, TILES>(s, total, first_tile * 8, strip * 32);
}

#define PARAMETERS                                                                                                     \
    f32 *__restrict__ y,              /* [m, n] */                                                                     \
        const float4 *__restrict__ x, /* [m, k] */                                                                     \
        const u8 *__restrict__ w,     /* [n / 32, k / 32, pieces, 32] of 16 bytes */                                   \
        const u8 *__restrict__ scales, /* [n / 32, k / 32, 32] */                                                      \
        const f32 *__restrict__ bias, /* [n], where has_bias */                                                        \
        u32 m, u32 n, u32 k, u32 has_bias, u32 accumulate

// Of R = min(m, 8) rows a tile.
#define ROUNDED                                                                                                        \
    const u8 *__restrict__ levels,        /* [m / R, k / 32, R, 32] signed bytes */                                    \
        const f32 *__restrict__ scales_x, /* [m / R, k / 32, R] */                                                     \
        const f32 *__restrict__ turned    /* the same: sums of the bytes with their sign turned */

#define ONE(NAME, W, ROWS, TURN, PARTS, STAGES)                                                                        \
    extern "C" __global__ void __launch_bounds__((PARTS + ROWS) * 32, 2) NAME(PARAMETERS)                              \
    {                                                                                                                  \
        one<W, ROWS, TURN, PARTS, STAGES>({y, x, 0, 0, 0, w, scales, bias, m, n, k, has_bias, accumulate});            \
    }

ONE(gemm_q8_one, Q8, 1, 4, 8, 2)
ONE(gemm_q8_two, Q8, 2, 4, 8, 2)
ONE(gemm_q8_four, Q8, 4, 2, 8, 4)
ONE(gemm_q4_one, Q4, 1, 8, 8, 2)
ONE(gemm_q4_two, Q4, 2, 4, 8, 4)
ONE(gemm_q4_four, Q4, 4, 2, 8, 6)
ONE(gemm_q4k_one, Q4K, 1, 4, 8, 3)
ONE(gemm_q4k_two, Q4K, 2, 4, 8, 3)
ONE(gemm_q4k_four, Q4K, 4, 2, 8, 6)

#define FEW(NAME, W, STAGES)                                                                                           \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) NAME(PARAMETERS, ROUNDED)                              \
    {                                                                                                                  \
        few<W, 2, STAGES>({y, x, levels, scales_x, turned, w, scales, bias, m, n, k, has_bias, accumulate});           \
    }

FEW(gemm_q8_few, Q8, 3)
FEW(gemm_q4_few, Q4, 4)
FEW(gemm_q4k_few, Q4K, 3)

#define MANY(NAME, W)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(512, 1)                                                               \
        NAME(PARAMETERS, ROUNDED, u32 strips, u32 tiles, u32 turn)                                                     \
    {                                                                                                                  \
        many<W>({y, x, levels, scales_x, turned, w, scales, bias, m, n, k, has_bias, accumulate}, strips, tiles, turn);   \
    }

MANY(gemm_q8_many, Q8)
MANY(gemm_q4_many, Q4)
MANY(gemm_q4k_many, Q4K)

#define LARGE(NAME, W, AT_ONCE)                                                                                        \
    extern "C" __global__ void __launch_bounds__(STRIPS * 32, AT_ONCE) NAME(PARAMETERS, ROUNDED)                       \
    {                                                                                                                  \
        large<W>({y, x, levels, scales_x, turned, w, scales, bias, m, n, k, has_bias, accumulate});                    \
    }

LARGE(gemm_q8_large, Q8, 3)
LARGE(gemm_q4_large, Q4, 3)
LARGE(gemm_q4k_large, Q4K, 3)

// Rows in 8 bits, as they lie for the kernels above: R rows a tile. 8 lanes take 32 inputs of a row.
extern "C" __global__ void __launch_bounds__(256) round_a8(
    u32* __restrict__ levels,      // [tiles, k / 32, R, 8] words of signed bytes
    f32* __restrict__ scales,      // [tiles, k / 32, R]
    f32* __restrict__ turned,      // [tiles, k / 32, R]: the sum of the levels with its sign turned
    const float4* __restrict__ x,  // [m, k]
    u32 m, u32 k, u32 R, u64 len)  // len: tiles · k / 32 · R
{
    const u64 unit = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 8;
    const u32 q = threadIdx.x % 8, blocks = k / 32;
    const u64 column = unit / R;
    const u32 row = (u32)(column / blocks) * R + (u32)(unit % R), block = (u32)(column % blocks);
    float4 v[1] = {make_float4(0.0f, 0.0f, 0.0f, 0.0f)};
    if (unit < len && row < m)
        v[0] = x[((u64)row * blocks + block) * 8 + q];
    u32 word[1];
    f32 scale, sum;
    round_inputs<1, true>(word, v, scale, sum);
    if (unit < len) {
        levels[unit * 8 + q % 4 * 2 + q / 4] = word[0];
        if (q == 0) {
            scales[unit] = scale;
            turned[unit] = sum;
        }
    }
}
