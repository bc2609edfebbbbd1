// Products of a quantised weight matrix with up to 8 rows of 8-bit activations, on tensor cores: y[m, n] (+)= x[m, k] wT +
// bias. gemm.cuh says how all lie and what is summed in which order.
//
// one: a block owns one strip and up to four rows, which its warps round for themselves while their weights come. A warp
// takes TURN blocks of inputs and has its own ring of STAGES turns; terms go through shared memory to warps that add them.
// few: the same with up to 8 rows that round_a8 has rounded, added up by the warps that made the terms.
//
// Bound: the weights, read once. Compute capability 8.0.
#include "gemm.cuh"

// One warp copies `count` pieces of BYTES that lie in a row.
template <u32 BYTES, bool KEEP> DEVICE void copy_run(u8* to, const void* from, u32 count, u32 lane)
{
#pragma unroll 1
    for (u32 i = lane; i < count; i += 32)
        copy_async<BYTES, KEEP>(to + i * BYTES, (const u8*)from + (u64)i * BYTES);
}

// A warp copies TURN blocks of a strip, of which `left` are there, and behind them their scales, whose pieces of 16 bytes
// change places within a row of 32: piece q of row r is at q ^ SPREAD * (r / EVERY).
template <class W, u32 TURN, u32 SPREAD, u32 EVERY>
DEVICE void copy_turn(u32 to, const Product& s, u64 at, u32 left, u32 lane)
{
    enum : u32 {
        W_BYTES = Sizes<W>::W_BYTES,
        SCALE_BYTES = Sizes<W>::SCALE_BYTES,
        PIECES = SCALE_BYTES / 16,
        COUNT = Sizes<W>::template scales<TURN>() / 16
    };
    const u8 *const w = s.w + at * W_BYTES + lane * 16, *const scales = s.scales + at / W::SHARE * SCALE_BYTES + lane * 16;
#pragma unroll
    for (u32 r = 0; r < TURN * W::PIECES; r++)
        copy_or_zero<false>(to + r * 512 + lane * 16, w + r * 512, r / W::PIECES < left);
#pragma unroll
    for (u32 i = 0; i < COUNT; i += 32) {
        const u32 row = (i + lane) / PIECES, place = (i + lane) ^ SPREAD * (row / EVERY);
        if (i + lane < COUNT)
            copy_or_zero<false>(to + TURN * W_BYTES + place * 16, scales + i * 16, row * W::SHARE < left);
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
        STAGE = TURN * W_BYTES + Sizes<W>::template scales<TURN>(),
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
                const u32 r = (2 * t + c) / ROWS / W::SHARE;
                const u8* const scales = from + TURN * W_BYTES + r * SCALE_BYTES;
                if (2 * t + c < TURN * ROWS)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        const u32 at = (8 * i + g) * sizeof(Stored) ^ SPREAD * (r / EVERY) * 16;
                        const Stored side = *(const Stored*)(scales + at);
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
        W_BYTES = Sizes<W>::W_BYTES
    };
    extern __shared__ __align__(16) u8 memory[];
    const u32 m = s.m, lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const u32 blocks = s.k / 32, strip = blockIdx.y;
    const u32 levels_at = TURN * W_BYTES + Sizes<W>::template scales<TURN>(), scales_at = levels_at + TURN * m * 32;
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
                    const Stored side = own_scales[b / W::SHARE * 32 + (2 * half + i) * 8];
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

// BLOCKS: what a multiprocessor of compute capability 9.0 holds at once. Three of fewer stages have as much on their way as
// two, and end one after the other.
#define ONE(NAME, W, ROWS, TURN, PARTS, STAGES, BLOCKS)                                                                \
    extern "C" __global__ void __launch_bounds__((PARTS + ROWS) * 32, BLOCKS) NAME(PARAMETERS)                         \
    {                                                                                                                  \
        one<W, ROWS, TURN, PARTS, STAGES>({y, x, 0, 0, 0, w, scales, bias, m, n, k, has_bias, accumulate});            \
    }

ONE(gemm_q8_one, Q8, 1, 4, 8, 2, 2)
ONE(gemm_q8_two, Q8, 2, 4, 8, 2, 2)
ONE(gemm_q8_four, Q8, 4, 2, 8, 4, 2)
ONE(gemm_q4_one, Q4, 1, 8, 8, 2, 2)
ONE(gemm_q4_two, Q4, 2, 4, 8, 3, 3)
ONE(gemm_q4_four, Q4, 4, 2, 8, 6, 2)
ONE(gemm_q4g_one, Q4G, 1, 8, 8, 2, 2)
ONE(gemm_q4g_two, Q4G, 2, 4, 8, 3, 3)
ONE(gemm_q4g_four, Q4G, 4, 2, 8, 6, 2)
ONE(gemm_q4k_one, Q4K, 1, 4, 8, 3, 2)
ONE(gemm_q4k_two, Q4K, 2, 4, 8, 3, 2)
ONE(gemm_q4k_four, Q4K, 4, 2, 8, 6, 2)

#define FEW(NAME, W, STAGES)                                                                                           \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) NAME(PARAMETERS, ROUNDED)                              \
    {                                                                                                                  \
        few<W, 2, STAGES>({y, x, levels, scales_x, turned, w, scales, bias, m, n, k, has_bias, accumulate});           \
    }

FEW(gemm_q8_few, Q8, 3)
FEW(gemm_q4_few, Q4, 4)
FEW(gemm_q4g_few, Q4G, 4)
FEW(gemm_q4k_few, Q4K, 3)
