// Products of a quantised weight matrix with nine and more rows of 8-bit activations, on tensor cores: y[m, n] (+)=
// x[m, k] wT + bias; and the rounding of the rows. gemm.cuh says how all lie and what is summed in which order.
//
// narrow: a block owns one strip and 2, 4, 6 or 8 tiles, a warp 16 outputs and half of the tiles, over all inputs.
// broad: a block owns two strips and 3, 5 or 8 tiles, a warp 16 outputs of one and all tiles.
// large: a block owns 4 strips and 8 tiles, a warp one of the strips and all tiles.
// Both have a ring of stages for all warps. What is missing in a block's last stage, strip or tile comes as zeros, which
// add nothing.
//
// Bound: the weights, read once; the rows, read once a block; and the floats behind the dots, three instructions each.
// Compute capability 8.0.
#include "gemm.cuh"

// Sums that lie in shared memory, `rows` of 32 from row r and output j on, go out side by side: every STEP-th row from
// `first` on by this warp.
#define ROW 36
template <class W, u32 STEP> DEVICE void put_rows(const Product& s, const f32* sums, u32 first, u32 rows, u32 r, u32 j)
{
    const u32 lane = threadIdx.x % 32;
    if (j + lane >= s.n)
        return;
#pragma unroll 4
    for (u32 row = first; row < rows; row += STEP) {
        if (r + row >= s.m)
            break;
        const f32 sum = sums[row * ROW + lane];
        s.put(r + row, j + lane, sum == sum ? sum : plain_sum<W>(s, r + row, j + lane));
    }
}

// Nine rows and more. A block has one strip and 2 T tiles or (STRIPS_OF 2) two strips and T tiles, each of its four warps 16
// outputs and T tiles. TURN blocks of inputs are a stage, RING of them the ring.
template <class W, u32 STRIPS_OF, u32 T, u32 TURN, u32 RING> DEVICE void many(const Product& s)
{
    typedef typename W::Stored Stored;
    enum : u32 {
        GROUPS = 2 / STRIPS_OF,
        TILES_OF = GROUPS * T,
        W_BYTES = Sizes<W>::W_BYTES,
        SCALE_BYTES = Sizes<W>::SCALE_BYTES,
        SCALES = Sizes<W>::template scales<TURN>(),
        SCALES_AT = STRIPS_OF * TURN * W_BYTES,
        LEVELS_AT = SCALES_AT + STRIPS_OF * SCALES,
        TIMES_AT = LEVELS_AT + TILES_OF * TURN * 256,
        TURNED_AT = TIMES_AT + TILES_OF * TURN * 32,
        STAGE = TURNED_AT + (W::OFFSET ? TILES_OF * TURN * 32 : 0),
        // Copies of 512 bytes of a strip's weights and of a tile's levels in a stage, those of them that a warp makes, and
        // pieces of 16 bytes of their scales.
        STRIP_WARPS = 4 / STRIPS_OF,
        W_COPIES = TURN * W::PIECES,
        W_OWN = W_COPIES / STRIP_WARPS,
        X_COPIES = TURN / 2,
        X_OWN = (TILES_OF * X_COPIES + 3) / 4,
        W_SCALES = SCALES / 16,
        X_SCALES = TURN * 2,
        SIDES = TILES_OF * X_SCALES
    };
    static_assert(W_COPIES % STRIP_WARPS == 0, "a strip's warps share its copies");
    static_assert(TURN % W::SHARE == 0, "a stage has scales of its own");
    static_assert(W_SCALES <= STRIP_WARPS * 32 && SIDES <= 128, "a thread copies one piece of scales");
    extern __shared__ __align__(16) u8 memory[];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, half = warp % 2;
    const u32 strip = STRIPS_OF == 1 ? 0 : warp / 2, group = STRIPS_OF == 1 ? warp / 2 : 0;
    const u32 blocks = s.k / 32, stages = (blocks + TURN - 1) / TURN;
    // What a thread copies, in 16 bytes: of its strip, shared by the strip's warps; of all tiles, shared by all warps.
    const u32 whole_strip = blockIdx.y * STRIPS_OF + strip, first_tile = blockIdx.x * TILES_OF, all_tiles = (s.m + 7) / 8;
    const bool strip_there = whole_strip < (s.n + 31) / 32;
    const u32 strip_warp = STRIPS_OF == 1 ? warp : half, scale = (STRIP_WARPS - 1 - strip_warp) * 32 + lane;
    const uint4* w = (const uint4*)s.w + (u64)whole_strip * blocks * (W_BYTES / 16) + strip_warp * 32 + lane;
    const uint4* scales = (const uint4*)s.scales + (u64)whole_strip * blocks / W::SHARE * (SCALE_BYTES / 16) + scale;
    u32 levels[X_OWN], x_left[X_OWN];
#pragma unroll
    for (u32 i = 0; i < X_OWN; i++) {
        const u32 r = warp + i * 4, tile = first_tile + r / X_COPIES, part = r % X_COPIES;
        levels[i] = tile * blocks * 16 + part * 32 + lane;
        x_left[i] = tile < all_tiles ? part * 2 + lane / 16 : ~0u;
    }
    const u32 side = threadIdx.x, side_tile = first_tile + side / X_SCALES;
    const u32 side_left = side_tile < all_tiles ? side % X_SCALES / 2 : ~0u;
    u32 times = side_tile * blocks * 2 + side % X_SCALES;
    const u32 memory_at = shared_address(memory);
    u32 slot = 0, left = blocks;
    const auto copy = [&]() {
        if (left > 0) {
            const u32 to = memory_at + slot, own = to + lane * 16;
#pragma unroll
            for (u32 i = 0; i < W_OWN; i++) {
                const u32 r = strip_warp + i * STRIP_WARPS;
                copy_or_zero<false>(own + strip * TURN * W_BYTES + r * 512, w + i * STRIP_WARPS * 32,
                                    strip_there && r / W::PIECES < left);
            }
            if (scale < W_SCALES)
                copy_or_zero<false>(to + SCALES_AT + strip * SCALES + scale * 16, scales,
                                    strip_there && scale / (SCALE_BYTES / 16) * W::SHARE < left);
#pragma unroll
            for (u32 i = 0; i < X_OWN; i++) {
                if (warp + i * 4 < TILES_OF * X_COPIES)
                    copy_or_zero<true>(own + LEVELS_AT + (warp + i * 4) * 512, (const uint4*)s.levels + levels[i],
                                       x_left[i] < left);
                levels[i] += TURN * 16;
            }
            if (side < SIDES) {
                copy_or_zero<true>(to + TIMES_AT + side * 16, (const uint4*)s.scales_x + times, side_left < left);
                if (W::OFFSET)
                    copy_or_zero<true>(to + TURNED_AT + side * 16, (const uint4*)s.turned + times, side_left < left);
            }
            w += TURN * (W_BYTES / 16);
            scales += SCALES / 16;
            times += TURN * 2;
            left -= min(left, TURN);
            slot = slot == (RING - 1) * STAGE ? 0 : slot + STAGE;
        }
        copy_commit();
    };
    f32 total[T][4];
#pragma unroll
    for (u32 p = 0; p < T; p++)
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            total[p][i] = 0.0f;
#pragma unroll
    for (u32 stage = 0; stage < RING - 1; stage++)
        copy();
    const u8* const own_w = memory + strip * TURN * W_BYTES + half * 256;
    const u8* const own_scales = memory + SCALES_AT + strip * SCALES + (16 * half + g) * sizeof(Stored);
    const u8* const own_levels = memory + LEVELS_AT + group * T * TURN * 256 + lane * 8;
    const u8* const own_times = memory + TIMES_AT + group * T * TURN * 32 + t * 8;
    u32 at = 0;
#pragma unroll 1
    for (u32 stage = 0; stage < stages; stage++) {
        copy_wait<RING - 2>();
        __syncthreads();
        copy();
        f32 scale[2], start[2], offset[2];
#pragma unroll
        for (u32 pair = 0; pair < TURN; pair += 2) {
            u32 a[2][4];
            W::half(a, own_w + at + pair * W_BYTES, lane);
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                const u32 b = pair + c;
#pragma unroll
                for (u32 i = 0; i < 2 && b % W::SHARE == 0; i++) {
                    const Stored side = *(const Stored*)(own_scales + at + b / W::SHARE * SCALE_BYTES + 8 * i * sizeof(Stored));
                    scale[i] = W::scale(side);
                    start[i] = scale[i] * -MAGIC;
                    offset[i] = W::offset(side);
                }
                // The additions alone wait for each other.
#pragma unroll
                for (u32 p = 0; p < T; p++) {
                    const uint2 x = *(const uint2*)(own_levels + at + (p * TURN + b) * 256);
                    const float2 by = *(const float2*)(own_times + at + (p * TURN + b) * 32);
                    float2 sums = make_float2(0.0f, 0.0f);
                    if (W::OFFSET)
                        sums = *(const float2*)(own_times + (TURNED_AT - TIMES_AT) + at + (p * TURN + b) * 32);
                    i32 dot[4];
                    multiply(dot, a[c], x, MAGIC_BITS);
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        total[p][2 * i] += part<W>(dot[2 * i], scale[i], start[i], sums.x, offset[i]) * by.x;
                        total[p][2 * i + 1] += part<W>(dot[2 * i + 1], scale[i], start[i], sums.y, offset[i]) * by.y;
                    }
                }
            }
        }
        at = at == (RING - 1) * STAGE ? 0 : at + STAGE;
    }
    copy_wait<0>();
    // The two halves of a strip meet. A row's 32 outputs and 4 more: two rows on, lanes use the next 8 banks.
    f32* const sums_of = (f32*)memory + warp / 2 * (T * 8 * ROW);
    __syncthreads();
#pragma unroll
    for (u32 p = 0; p < T; p++)
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            sums_of[(p * 8 + 2 * t + i % 2) * ROW + half * 16 + i / 2 * 8 + g] = total[p][i];
    __syncthreads();
    put_rows<W, 2>(s, sums_of, half, T * 8, (first_tile + group * T) * 8, whole_strip * 32);
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
        SCALES = Sizes<W>::template scales<TURN>(),
        SCALES_OF = SCALES / SCALE_BYTES,
        SCALES_AT = STRIPS * TURN * W_BYTES,
        LEVELS_AT = SCALES_AT + STRIPS * SCALES,
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
    u32 w = strip * blocks * (W_BYTES / 16) + lane, scales = strip * blocks / W::SHARE * (SCALE_BYTES / 16) + lane;
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
            if (lane < SCALES / 16)
                copy_or_zero<false>(to + slot + SCALES_AT + warp * SCALES, (const uint4*)s.scales + scales,
                                    strip_there && lane / (SCALE_BYTES / 16) * W::SHARE < left);
#pragma unroll
            for (u32 h = 0; h < 2; h++)
                copy_or_zero<true>(to + slot + LEVELS_AT + (warp + h * 4) * TURN * 256,
                                   (const uint4*)s.levels + levels + h * 4 * blocks * 16,
                                   tile + 4 * h < all_tiles && lane / 16 < left);
            if (lane < (W::OFFSET ? 16 : 8))
                copy_or_zero<true>(shared_address(memory) + slot + to_times, (const uint4*)all_times + times,
                                   side_tile < all_tiles && lane % 4 / 2 < left);
            w += TURN * (W_BYTES / 16);
            // Where several stages share scales, the last of them goes on.
            if (W::SHARE <= TURN || left % W::SHARE == TURN)
                scales += SCALES / 16;
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
                const u8* const scales_of = from + SCALES_AT + (warp * SCALES_OF + b / W::SHARE) * SCALE_BYTES;
                const Stored side = ((const Stored*)scales_of)[g + 8 * i];
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
    f32* const sums_of = (f32*)memory + warp * (TILES * 8 * ROW);
    __syncthreads();
#pragma unroll
    for (u32 p = 0; p < TILES; p++)
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            sums_of[(p * 8 + 2 * t + i % 2) * ROW + i / 2 * 8 + g] = total[p][i];
    __syncwarp();
    put_rows<W, 1>(s, sums_of, 0, TILES * 8, first_tile * 8, strip * 32);
}

// The last number is the tiles of a block.
#define MANY(NAME, W, STRIPS_OF, T, TURN, RING)                                                                        \
    extern "C" __global__ void __launch_bounds__(128, 4) NAME(PARAMETERS, ROUNDED)                                     \
    {                                                                                                                  \
        many<W, STRIPS_OF, T, TURN, RING>({y, x, levels, scales_x, turned, w, scales, bias, m, n, k, has_bias, accumulate}); \
    }

MANY(gemm_q8_narrow_2, Q8, 1, 1, 8, 3)
MANY(gemm_q8_narrow_4, Q8, 1, 2, 8, 3)
MANY(gemm_q8_narrow_6, Q8, 1, 3, 8, 3)
MANY(gemm_q8_narrow_8, Q8, 1, 4, 4, 6)
MANY(gemm_q8_broad_3, Q8, 2, 3, 4, 4)
MANY(gemm_q8_broad_5, Q8, 2, 5, 4, 4)
MANY(gemm_q8_broad_8, Q8, 2, 8, 4, 4)
MANY(gemm_q4_narrow_2, Q4, 1, 1, 8, 3)
MANY(gemm_q4_narrow_4, Q4, 1, 2, 8, 3)
MANY(gemm_q4_narrow_6, Q4, 1, 3, 8, 3)
MANY(gemm_q4_narrow_8, Q4, 1, 4, 4, 6)
MANY(gemm_q4_broad_3, Q4, 2, 3, 4, 4)
MANY(gemm_q4_broad_5, Q4, 2, 5, 4, 4)
MANY(gemm_q4_broad_8, Q4, 2, 8, 4, 4)
MANY(gemm_q4g_narrow_2, Q4G, 1, 1, 8, 3)
MANY(gemm_q4g_narrow_4, Q4G, 1, 2, 8, 3)
MANY(gemm_q4g_narrow_6, Q4G, 1, 3, 8, 3)
MANY(gemm_q4g_narrow_8, Q4G, 1, 4, 4, 6)
MANY(gemm_q4g_broad_3, Q4G, 2, 3, 4, 4)
MANY(gemm_q4g_broad_5, Q4G, 2, 5, 4, 4)
MANY(gemm_q4g_broad_8, Q4G, 2, 8, 4, 4)
MANY(gemm_q4k_narrow_2, Q4K, 1, 1, 8, 3)
MANY(gemm_q4k_narrow_4, Q4K, 1, 2, 8, 3)
MANY(gemm_q4k_narrow_6, Q4K, 1, 3, 8, 3)
MANY(gemm_q4k_narrow_8, Q4K, 1, 4, 4, 6)
MANY(gemm_q4k_broad_3, Q4K, 2, 3, 4, 4)
MANY(gemm_q4k_broad_5, Q4K, 2, 5, 4, 4)
MANY(gemm_q4k_broad_8, Q4K, 2, 8, 4, 4)

#define LARGE(NAME, W, AT_ONCE)                                                                                        \
    extern "C" __global__ void __launch_bounds__(STRIPS * 32, AT_ONCE) NAME(PARAMETERS, ROUNDED)                       \
    {                                                                                                                  \
        large<W>({y, x, levels, scales_x, turned, w, scales, bias, m, n, k, has_bias, accumulate});                    \
    }

LARGE(gemm_q8_large, Q8, 3)
LARGE(gemm_q4_large, Q4, 3)
LARGE(gemm_q4g_large, Q4G, 3)
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
