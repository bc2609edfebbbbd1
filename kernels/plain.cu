// Weights and rows in BF16 as a library's products take them: row after row, of a multiple of 32 inputs.
//
// Weights are the numbers that wide.cu multiplies, a thread an output's block of 32 inputs: 64 bytes of its row. Rows are
// rounded to BF16, a thread 8 inputs.
//
// Bound: bytes. Compute capability 8.0.
#include "bf16.cuh"

template <class W> DEVICE void unpack(uint4 (&to)[4], const u8* row, const typename W::Scale* scale)
{
#pragma unroll
    for (u32 i = 0; i < 2; i++)
#pragma unroll
        for (u32 t = 0; t < 4; t += 2) {
            const uint2 first = weights<W>(W::word(row, t, i), *scale), second = weights<W>(W::word(row, t + 1, i), *scale);
            to[2 * i + t / 2] = make_uint4(first.x, first.y, second.x, second.y);
        }
}

template <> DEVICE void unpack<Bf16>(uint4 (&to)[4], const u8* row, const u16*)
{
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        to[i] = *(const uint4*)(row + i * 512);
}

#define PLAIN(NAME, W)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                            \
        uint4* __restrict__ rows,       /* [n, k / 32, 4]: 8 inputs each */                                            \
        const u8* __restrict__ w,       /* [n / 32, k / 32, pieces, 32] of 16 bytes */                                 \
        const u8* __restrict__ scales,  /* [n / 32, k / 32 / SHARE, 32]; unused where W has none */                    \
        u32 n, u32 blocks)              /* blocks: k / 32 */                                                           \
    {                                                                                                                  \
        const u32 at = element(), lane = at % 32, block = at / 32 % blocks, strip = at / 32 / blocks;                  \
        const u32 j = strip * 32 + lane;                                                                               \
        if (j >= n)                                                                                                    \
            return;                                                                                                    \
        const u64 from = (u64)strip * blocks + block;                                                                  \
        uint4 all[4];                                                                                                  \
        unpack<W>(all, w + from * (W::PIECES * 512) + lane * 16,                                                       \
                  (const W::Scale*)(scales + from / W::SHARE * 32 * W::SCALE_BYTES) + lane);                           \
        uint4* const to = rows + ((u64)j * blocks + block) * 4;                                                        \
        _Pragma("unroll") for (u32 i = 0; i < 4; i++) to[i] = all[i];                                                  \
    }

PLAIN(plain_bf16, Bf16)
PLAIN(plain_q8, Q8)
PLAIN(plain_q4, Q4)
PLAIN(plain_q4g, Q4G)
PLAIN(plain_q4k, Q4K)

// Rows in BF16; inputs from k on are zeros.
extern "C" __global__ void __launch_bounds__(256) plain_rows(
    uint4* __restrict__ rows,   // [m, pieces]: 8 inputs each
    const f32* __restrict__ x,  // [m, k]
    u32 k, u32 pieces, u32 len) // pieces: k / 8, to a multiple of 4; len: m * pieces
{
    const u32 at = element();
    if (at >= len)
        return;
    const u32 first = at % pieces * 8;
    const f32* const from = x + (u64)(at / pieces) * k + first;
    f32 v[8];
    if (first + 8 <= k && (u64)from % 16 == 0) {
        const float4 low = *(const float4*)from, high = *(const float4*)(from + 4);
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            v[i] = first + i < k ? from[i] : 0.0f;
    }
    rows[at] = make_uint4(pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7]));
}
