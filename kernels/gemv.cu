// Products of a weight matrix with a few rows of floats: y[m, n] (+)= x[m, k] wT + bias; and the weights' layout, which
// gemm.cu (rows in 8 bits) shares.
//
// Layout of the weights: outputs stand in strips of 32, one a lane; inputs in blocks of 32. A lane's block is one to
// eight pieces of 16 bytes, and the same piece of a strip's 32 lanes is 512 bytes in a row:
//   w[strip][block][piece][lane] of 16 bytes, scales[strip][block][lane] of half precision.
// Q4_K has two floats there, the scale and the offset of 32 inputs; Q4_G128 has one scale for four blocks.
// So every load of a warp is 512 bytes without a gap, and what a thread gets is its own output's next weights. Missing
// outputs and inputs are zeros. Pieces of a block: 8 for F32, 4 for BF16, 2 for Q8_0, 1 for nibbles.
//
// A block of threads owns one strip and R rows. A warp takes 256 inputs, the length of a sum from zero upwards, and the
// sums of 8 warps are added in the order of the inputs. That order does not know the other rows, so a row's bits do not
// depend on its batch, and they are those of ops::gemm.
//
// Bound: the weights, read once for every R rows: 4, 2, 1.06, 0.56, 0.52 (Q4_G128) or 0.75 (Q4_K) bytes each. Compute
// capability 8.0.
#include "weights.cuh"

#define WARPS 8
#define SUM_BLOCK 256

template <class W, u32 R>
DEVICE void product(f32* y, const f32* x, const uint4* w, const u16* scales, const f32* bias, u32 m, u32 n, u32 k,
                    u32 has_bias, u32 accumulate)
{
    // The row count bounds the shared memory: 8 KB a row.
    __shared__ __align__(16) f32 inputs[WARPS][R][SUM_BLOCK];
    __shared__ f32 parts[WARPS][R][32];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 blocks = (k + 31) / 32, sums = (k + SUM_BLOCK - 1) / SUM_BLOCK, first = blockIdx.x * R;
    f32 total = 0.0f;
    for (u32 base = 0; base < sums; base += WARPS) {
        const u32 own = base + warp;
        if (own < sums) {
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                const f32* row = x + (u64)(first + r < m ? first + r : m - 1) * k;
                for (u32 i = lane; i < SUM_BLOCK; i += 32) {
                    const u32 t = own * SUM_BLOCK + i;
                    inputs[warp][r][i] = t < k ? row[t] : 0.0f;
                }
            }
            __syncwarp();
            f32 part[R];
#pragma unroll
            for (u32 r = 0; r < R; r++)
                part[r] = 0.0f;
            const u32 end = min(blocks - own * (SUM_BLOCK / 32), SUM_BLOCK / 32);
            for (u32 b = 0; b < end; b++) {
                const u64 at = (u64)blockIdx.y * blocks + own * (SUM_BLOCK / 32) + b;
                f32 v[32];
                W::load(w + at * W::PIECES * 32 + lane, scales + (at / W::SHARE * 32 + lane) * W::SCALE, v);
#pragma unroll
                for (u32 r = 0; r < R; r++) {
                    const float4* in = (const float4*)&inputs[warp][r][b * 32];
#pragma unroll
                    for (u32 q = 0; q < 8; q++) {
                        const float4 four = in[q];
                        part[r] += four.x * v[4 * q];
                        part[r] += four.y * v[4 * q + 1];
                        part[r] += four.z * v[4 * q + 2];
                        part[r] += four.w * v[4 * q + 3];
                    }
                }
            }
#pragma unroll
            for (u32 r = 0; r < R; r++)
                parts[warp][r][lane] = part[r];
        }
        __syncthreads();
        if (warp < R)
            for (u32 p = 0; p < min(sums - base, WARPS); p++)
                total += parts[p][warp][lane];
        __syncthreads();
    }
    const u32 j = blockIdx.y * 32 + lane, row = first + warp;
    if (warp < R && row < m && j < n)
        finish(y, bias, has_bias, accumulate, (u64)row * n + j, j, total);
}

// The last argument bounds the registers: 256 threads, and how many blocks a multiprocessor holds at least.
#define PRODUCT(NAME, W, R, ...)                                                                                       \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) NAME(                                                    \
        f32* __restrict__ y,            /* [m, n] */                                                                   \
        const f32* __restrict__ x,      /* [m, k] */                                                                   \
        const uint4* __restrict__ w,    /* [n / 32, k / 32, pieces, 32] of 16 bytes */                                 \
        const u16* __restrict__ scales, /* [n / 32, k / 32 / SHARE, 32] half precision; unused where W has none */     \
        const f32* __restrict__ bias,   /* [n], where has_bias */                                                      \
        u32 m, u32 n, u32 k, u32 has_bias, u32 accumulate)                                                             \
    {                                                                                                                  \
        product<W, R>(y, x, w, scales, bias, m, n, k, has_bias, accumulate);                                           \
    }

PRODUCT(product_f32_1, F32, 1, 256)
PRODUCT(product_f32_4, F32, 4, 256)
PRODUCT(product_bf16_1, Bf16, 1, 256)
PRODUCT(product_bf16_4, Bf16, 4, 256)
PRODUCT(product_q8_1, Q8, 1, 256)
PRODUCT(product_q8_4, Q8, 4, 256)
PRODUCT(product_q4_1, Q4, 1, 256)
PRODUCT(product_q4_4, Q4, 4, 256)
PRODUCT(product_q4g_1, Q4G, 1, 256)
PRODUCT(product_q4g_4, Q4G, 4, 256)
PRODUCT(product_q4k_1, Q4K, 1, 256)
PRODUCT(product_q4k_4, Q4K, 4, 256, 2)

// Canonical rows into the layout: a thread makes one piece of 16 bytes of one row's block.
template <u32 PIECES> DEVICE bool place(u32 at, u32 rows, u32 k, u32& r, u32& b, u32& p, u64& to)
{
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u32 blocks = (k + 31) / 32;
    const u64 block = i / PIECES;
    p = (u32)(i % PIECES);
    r = (u32)(block / blocks);
    b = (u32)(block % blocks);
    if (r >= rows)
        return false;
    to = ((u64)((at + r) / 32) * blocks + b) * 32;
    return true;
}

extern "C" __global__ void __launch_bounds__(256) pack_f32(
    uint4* __restrict__ w,           // the layout above
    const u32* __restrict__ source,  // [rows, k] bits of floats
    u32 at, u32 rows, u32 k)
{
    u32 r, b, p;
    u64 to;
    if (!place<8>(at, rows, k, r, b, p, to))
        return;
    u32 v[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 t = b * 32 + p * 4 + i;
        v[i] = t < k ? source[(u64)r * k + t] : 0;
    }
    w[to * 8 + p * 32 + (at + r) % 32] = make_uint4(v[0], v[1], v[2], v[3]);
}

extern "C" __global__ void __launch_bounds__(256) pack_bf16(
    uint4* __restrict__ w,           // the layout above
    const u16* __restrict__ source,  // [rows, k] upper halves of floats
    u32 at, u32 rows, u32 k)
{
    u32 r, b, p;
    u64 to;
    if (!place<4>(at, rows, k, r, b, p, to))
        return;
    u32 v[4] = {0, 0, 0, 0};
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u32 t = b * 32 + p * 8 + i;
        v[i / 2] |= (t < k ? (u32)source[(u64)r * k + t] : 0) << (i % 2 * 16);
    }
    w[to * 4 + p * 32 + (at + r) % 32] = make_uint4(v[0], v[1], v[2], v[3]);
}

// Blocks are an even number of bytes with the scale in the first two, and PARTS times 32 inputs behind it.
template <u32 PIECES, u32 PARTS>
DEVICE void pack_blocks(uint4* w, u16* scales, const u16* source, u32 at, u32 rows, u32 k)
{
    u32 r, b, p;
    u64 to;
    if (!place<PIECES>(at, rows, k, r, b, p, to))
        return;
    const u16* block = source + ((u64)r * (k / 32 / PARTS) + b / PARTS) * (1 + PARTS * PIECES * 8);
    u32 v[4] = {0, 0, 0, 0};
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        v[i / 2] |= (u32)block[1 + (b % PARTS * PIECES + p) * 8 + i] << (i % 2 * 16);
    w[to * PIECES + p * 32 + (at + r) % 32] = make_uint4(v[0], v[1], v[2], v[3]);
    if (p == 0 && b % PARTS == 0)
        scales[to / PARTS + (at + r) % 32] = block[0];
}

extern "C" __global__ void __launch_bounds__(256) pack_q8(
    uint4* __restrict__ w, u16* __restrict__ scales,  // the layout above
    const u16* __restrict__ source,                   // [rows, k / 32] blocks of 34 bytes
    u32 at, u32 rows, u32 k)
{
    pack_blocks<2, 1>(w, scales, source, at, rows, k);
}

extern "C" __global__ void __launch_bounds__(256) pack_q4(
    uint4* __restrict__ w, u16* __restrict__ scales,  // the layout above
    const u16* __restrict__ source,                   // [rows, k / 32] blocks of 18 bytes
    u32 at, u32 rows, u32 k)
{
    pack_blocks<1, 1>(w, scales, source, at, rows, k);
}

extern "C" __global__ void __launch_bounds__(256) pack_q4g(
    uint4* __restrict__ w, u16* __restrict__ scales,  // the layout above
    const u16* __restrict__ source,                   // [rows, k / 128] blocks of 66 bytes
    u32 at, u32 rows, u32 k)
{
    pack_blocks<1, 4>(w, scales, source, at, rows, k);
}

extern "C" __global__ void __launch_bounds__(256) pack_q4k(
    uint4* __restrict__ w, float2* __restrict__ scales,  // the layout above
    const u32* __restrict__ source,                      // [rows, k / 256] blocks of 144 bytes
    u32 at, u32 rows, u32 k)
{
    u32 r, b, p;
    u64 to;
    if (!place<1>(at, rows, k, r, b, p, to))
        return;
    const u32* block = source + ((u64)r * (k / 256) + b / 8) * 36;
    const auto byte = [=](u32 i) { return block[i / 4] >> (i % 4 * 8) & 255; };
    const u32 part = b % 8, high = part % 2 * 4;
    // Of 64 inputs the first 32 are in the low halves of 32 bytes.
    u32 v[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 at = 4 + part / 2 * 8 + i;
        v[i] = (block[at] >> high & 0x0f0f0f0fu) | (block[at + 4] >> high & 0x0f0f0f0fu) << 4;
    }
    const u32 lane = (at + r) % 32;
    w[to + lane] = make_uint4(v[0], v[1], v[2], v[3]);
    // Scales and offsets of six bits: four of each lie whole in twelve bytes, the other four in halves.
    const u32 s = part % 4, first = byte(4 + s), second = byte(8 + s), third = byte(12 + s);
    const u32 scale = part < 4 ? first & 63 : (third & 15) | first >> 6 << 4;
    const u32 offset = part < 4 ? second & 63 : third >> 4 | second >> 6 << 4;
    const f32 all_scales = from_f16((u16)block[0]), all_offsets = from_f16((u16)(block[0] >> 16));
    scales[to + lane] = make_float2(all_scales * (f32)scale, all_offsets * (f32)offset);
}

// out[r, t] = w[index[r], t]; an index outside the matrix gives zeros. One thread an element.
template <class W>
DEVICE void gather(f32* out, const u32* index, const u8* w, const u16* scales, u32 rows, u32 n, u32 k)
{
    const u32 i = element(), r = i / k;
    if (r >= rows)
        return;
    const u32 t = i % k, j = index[r], blocks = (k + 31) / 32;
    f32 v = 0.0f;
    if (j < n) {
        const u64 at = (u64)(j / 32) * blocks + t / 32;
        v = W::element(w + (at * W::PIECES * 32 + j % 32) * 16, scales + (at / W::SHARE * 32 + j % 32) * W::SCALE, t % 32);
    }
    out[i] = v;
}

#define GATHER(NAME, W)                                                                                                \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                            \
        f32* __restrict__ out,          /* [rows, k] */                                                                \
        const u32* __restrict__ index,  /* [rows] */                                                                   \
        const u8* __restrict__ w,       /* [n, k] in the layout above */                                               \
        const u16* __restrict__ scales, /* its scales; unused where W has none */                                      \
        u32 rows, u32 n, u32 k)                                                                                        \
    {                                                                                                                  \
        gather<W>(out, index, w, scales, rows, n, k);                                                                  \
    }

GATHER(gather_rows_f32, F32)
GATHER(gather_rows_bf16, Bf16)
GATHER(gather_rows_q8, Q8)
GATHER(gather_rows_q4, Q4)
GATHER(gather_rows_q4g, Q4G)
GATHER(gather_rows_q4k, Q4K)
