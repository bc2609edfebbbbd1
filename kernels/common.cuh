// What every kernel shares: types, the crate's elementary functions bit for bit, sums in the crate's order.
//
// The files are compiled with --fmad=false: a product and a sum round one after the other, as they do on the CPU, so
// that an F32 instance gives the bits of its reference loop. Functions that have an instruction of their own (square
// root, division) are the correctly rounded ones.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#define DEVICE __device__ __forceinline__
#define ALL 0xffffffffu

DEVICE f32 infinity() { return __int_as_float(0x7f800000); }

DEVICE bool finite(f32 x) { return (__float_as_uint(x) & 0x7fffffffu) < 0x7f800000u; }

DEVICE f32 from_bf16(u32 bits) { return __uint_as_float(bits << 16); }

// Half precision as a float: one instruction, which NVRTC has no name for without its half-precision header.
DEVICE f32 from_f16(u16 bits)
{
    f32 x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

DEVICE f32 root(f32 x) { return __fsqrt_rn(x); }

DEVICE f32 power_of_two(i32 n) { return __int_as_float((n + 127) << 23); }

// The element that a thread takes. Launches of a thread an element have fewer than 2^32 of them, so that a division by a
// row's width is one of 32 bits.
DEVICE u32 element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// math::exp.
DEVICE f32 exponential(f32 x)
{
    const f32 ROUND = 12582912.0f;
    f32 c = x > 88.8f ? 88.8f : x;
    c = c < -88.0f ? -88.0f : c;
    const f32 n = (c * 1.44269504f + ROUND) - ROUND;
    const f32 r = (c - n * 0.693359375f) - n * -2.12194440e-4f;
    f32 p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5e-1f;
    p = (p * r) * r + r + 1.0f;
    const i32 whole = __float_as_int(n + ROUND) - __float_as_int(ROUND);
    const i32 half = whole / 2;
    const f32 y = p * power_of_two(half) * power_of_two(whole - half);
    return x < -87.3f ? 0.0f : y;
}

// math::ln, of a positive normal number.
DEVICE f32 logarithm(f32 x)
{
    const i32 bits = __float_as_int(x);
    const i32 whole = (bits - 0x3f3504f3) >> 23;
    const f32 m = __int_as_float(bits - (whole << 23)) - 1.0f;
    const f32 z = m * m;
    f32 p = 7.0376836e-2f;
    p = p * m - 1.151461e-1f;
    p = p * m + 1.1676999e-1f;
    p = p * m - 1.2420141e-1f;
    p = p * m + 1.4249323e-1f;
    p = p * m - 1.6668057e-1f;
    p = p * m + 2.0000715e-1f;
    p = p * m - 2.4999994e-1f;
    p = p * m + 3.333333e-1f;
    const f32 e = (f32)whole;
    const f32 tail = p * m * z + e * -2.12194440e-4f - 0.5f * z;
    return m + tail + e * 0.693359375f;
}

DEVICE f32 silu(f32 x) { return x * (1.0f / (1.0f + exponential(-x))); }

DEVICE f32 hyperbolic_tangent(f32 x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

// The first of 16 lanes plus the second, and so on to the last: the same for all of them.
DEVICE f32 lanes_total(f32 lane_sum)
{
    f32 total = __shfl_sync(ALL, lane_sum, 0, 16);
#pragma unroll
    for (u32 l = 1; l < 16; l++)
        total += __shfl_sync(ALL, lane_sum, l, 16);
    return total;
}

// The sum of f(i) over i < width in the reference's order, by the 16 lanes of a half warp.
template <class F> DEVICE f32 lane_sum(u32 width, F f)
{
    f32 sum = 0.0f;
    for (u32 i = threadIdx.x & 15; i < width; i += 16)
        sum += f(i);
    return lanes_total(sum);
}

// Terms of a wide row that lie in shared memory at once, and what they come to.
#define STAGED 4096

struct Stage {
    f32 terms[STAGED];
    f32 result;
};

// The same sum by a block of 256 threads, for all of them: they make the terms, 16 lanes read many at a time. Only the
// additions wait for each other, not the loads.
template <class F> DEVICE f32 block_lane_sum(Stage& stage, u32 width, F f)
{
    f32 lane = 0.0f;
    for (u32 base = 0; base < width; base += STAGED) {
        const u32 count = min(width - base, (u32)STAGED);
#pragma unroll 8
        for (u32 i = threadIdx.x; i < count; i += 256)
            stage.terms[i] = f(base + i);
        __syncthreads();
        if (threadIdx.x < 16)
#pragma unroll 16
            for (u32 i = threadIdx.x; i < count; i += 16)
                lane += stage.terms[i];
        __syncthreads();
    }
    if (threadIdx.x < 32) {
        const f32 total = lanes_total(lane);
        if (threadIdx.x == 0)
            stage.result = total;
    }
    __syncthreads();
    return stage.result;
}

// The row of this half warp, of 16 a block; callers take the last one again where there are fewer, so that all lanes meet
// at every shuffle.
DEVICE u64 own_row() { return (u64)blockIdx.x * 16 + threadIdx.x / 16; }

// What a row is multiplied by to have the variance 1.
DEVICE f32 scale_of(f32 variance, f32 eps) { return 1.0f / root(variance + eps); }

// The largest number of a block of 256 threads that is no NaN, for all of them.
DEVICE f32 block_max(f32 x)
{
    __shared__ f32 warps[8];
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        const f32 other = __shfl_xor_sync(ALL, x, step);
        x = other > x ? other : x;
    }
    if ((threadIdx.x & 31) == 0)
        warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warps[0];
#pragma unroll
    for (u32 w = 1; w < 8; w++)
        x = warps[w] > x ? warps[w] : x;
    __syncthreads();
    return x;
}

// y = sum + bias, or y + (sum + bias).
DEVICE void finish(f32* y, const f32* bias, u32 has_bias, u32 accumulate, u64 at, u32 j, f32 sum)
{
    sum += has_bias ? bias[j] : 0.0f;
    y[at] = accumulate ? y[at] + sum : sum;
}

// Where a pointer into shared memory points, as the instructions below take it.
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// A copy from global to shared memory that lands when the thread waits for its group. KEEP: the first cache keeps it.
template <u32 BYTES, bool KEEP> DEVICE void copy_shared(u32 to, const void* from)
{
    if (KEEP)
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES) : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES) : "memory");
}

// The same to a pointer.
template <u32 BYTES, bool KEEP> DEVICE void copy_async(void* to, const void* from)
{
    copy_shared<BYTES, KEEP>(shared_address(to), from);
}

// The same of 16 bytes that are read only where `there` is; elsewhere they become zeros, whatever `from` points to.
template <bool KEEP> DEVICE void copy_or_zero(u32 to, const void* from, bool there)
{
    const u32 read = there ? 16 : 0;
    if (KEEP)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(read) : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(read) : "memory");
}

// (x & mask) ^ turn in one instruction: the compiler takes two where both are constants.
DEVICE u32 pick_turned(u32 x, u32 mask, u32 turn)
{
    u32 y;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(y) : "r"(x), "r"(mask), "r"(turn));
    return y;
}

// The thread's copies since the last commit are a group.
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// All of the thread's groups but the youngest REST have landed.
template <u32 REST> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(REST) : "memory"); }

// Four matrices of 8 rows of 16 bytes. A lane points to row lane % 8 of matrix lane / 8, and gets word lane % 4 of row
// lane / 4 of each.
DEVICE void load_matrices(u32 (&r)[4], const void* row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// a b + c, signed bytes of 16 x 32 and 32 x 8, exact; c is the same everywhere. Lane 4 g + t holds of a the rows g and
// g + 8, of b the column g, both at k = 4 t and 16 + 4 t; of the product the columns 2 t and 2 t + 1 of its rows.
DEVICE void multiply(i32 (&d)[4], const u32 (&a)[4], uint2 b, i32 c)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(c));
}

// The same added to d.
DEVICE void multiply_add(i32 (&d)[4], const u32 (&a)[4], uint2 b)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

// Philox4x32-10: four words for one key and counter.
DEVICE uint4 philox(u32 k0, u32 k1, uint4 c)
{
#pragma unroll
    for (u32 round = 0; round < 10; round++) {
        const u32 high_a = __umulhi(0xD2511F53u, c.x), low_a = 0xD2511F53u * c.x;
        const u32 high_b = __umulhi(0xCD9E8D57u, c.z), low_b = 0xCD9E8D57u * c.z;
        c = make_uint4(high_b ^ c.y ^ k0, low_b, high_a ^ c.w ^ k1, low_a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}
