// The products of wide.cu on Hopper, by its own instructions: y[m, n] (+)= x[m, k] wT + bias, rows and weights in BF16, k a
// multiple of 128, n of two. Compute capability 9.0 alone; wide.cu is the twin for every other GPU.
//
// Rows and weights are rounded as there, and summed in floats, 16 inputs an instruction, from the first inputs to the last.
// Nothing knows of other rows, so a row has the same bits in each batch. Inside an instruction the order is the tensor
// core's, so that the last bits may be other ones than the twin's.
//
// An instruction of a warpgroup (four warps) multiplies 64 outputs, which lie in its registers, with up to 256 rows, which
// lie in shared memory. Weights go from their levels into the registers as the instruction wants them: they are never
// written as BF16. Lane 4 g + t of an instruction's warp holds of two outputs the inputs 4 t to 4 t + 3 of the
// instruction's 16; so the rows lie as matrices of 8 rows and 16 bytes to match, two an instruction,
//   halves[stage of 64 inputs][tile of 8 rows][instruction][c][row]: inputs 4 t + 2 c and 4 t + 2 c + 1 for t = 0 to 3
// and what a block reads of a stage is one run of bytes.
//
// A block owns ROWS rows and 64 outputs for each of one to three warpgroups, and goes from one such part of y to another until
// there is none. Up to four warps copy: for each stage one run of rows, and of each strip of 32 outputs a run of levels and
// one of scales (gemv.cu says how they lie). They go on while sums are written. A warpgroup:
//
//   wait for stage s  |  levels -> registers, while the tensor cores work on s - 1  |  begin s  |  wait for s - 1, give it back
//
// Bound: the tensor cores; levels take some 30 instructions a warp for 16 inputs. With few rows it is the way of a stage from
// its barrier to its products, some 400 cycles.
#include "bf16.cuh"
#include "inputs.cuh"

#define TURN 2
#define STAGE_INPUTS 64
// Row tiles that follow each other before the next outputs: what so many blocks read stays in the second cache.
#define GROUP 12

// d += a b: BF16 of 64 x 16 in registers and 16 x 256 in shared memory, to floats; then of fewer rows.
DEVICE void multiply(f32 (&d)[128], const u32 (&a)[4], u64 b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "{%128, %129, %130, %131}, %132, 1, 1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
          "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
          "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
          "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

DEVICE void multiply(f32 (&d)[96], const u32 (&a)[4], u64 b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
        "{%96, %97, %98, %99}, %100, 1, 1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

DEVICE void multiply(f32 (&d)[88], const u32 (&a)[4], u64 b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87}, "
        "{%88, %89, %90, %91}, %92, 1, 1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

DEVICE void multiply(f32 (&d)[68], const u32 (&a)[4], u64 b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n136k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67}, "
        "{%68, %69, %70, %71}, %72, 1, 1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

DEVICE void multiply(f32 (&d)[64], const u32 (&a)[4], u64 b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

DEVICE void multiply(f32 (&d)[32], const u32 (&a)[4], u64 b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

DEVICE void multiply(f32 (&d)[8], const u32 (&a)[4], u64 b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7}, "
        "{%8, %9, %10, %11}, %12, 1, 1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// Registers that instructions read are written; what follows may begin.
DEVICE void multiply_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All groups but the youngest REST are done.
template <u32 REST> DEVICE void multiply_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(REST) : "memory"); }

// Barriers of shared memory that count arrivals, and bytes that are copied.
DEVICE void barrier_init(u32 at, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count)); }
DEVICE void barrier_arrive(u32 at) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory"); }
DEVICE void barrier_expect(u32 at, u32 bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
DEVICE void barrier_wait(u32 at, u32 parity)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n"
                 "}" ::"r"(at), "r"(parity) : "memory");
}

// A run of bytes, of which a barrier hears when they have come.
DEVICE void copy_run(u32 to, const void* from, u32 bytes, u32 barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

// What a block of ROWS rows and of 64 outputs for each of GROUPS warpgroups takes.
template <class W, u32 GROUPS, u32 ROWS> struct Sizes {
    static_assert(W::SHARE % TURN == 0 || TURN % W::SHARE == 0, "a stage begins where a scale does, or lies within one");
    enum : u32 {
        PACKED = W::SCALE_BYTES > 0,
        WARPS = 4 * GROUPS,
        STRIPS = 2 * GROUPS,
        TILES = ROWS / 8,
        W_BYTES = W::PIECES * 512,
        SCALES = 32 * W::SCALE_BYTES,
        SCALES_OF = (TURN + W::SHARE - 1) / W::SHARE,
        // Of a stage: rows, levels of each strip, SCALES_OF scales of each.
        TILE_BYTES = 8 * STAGE_INPUTS * 2,
        W_AT = TILES * TILE_BYTES,
        SCALES_AT = W_AT + STRIPS * TURN * W_BYTES,
        STAGE = SCALES_AT + STRIPS * SCALES_OF * SCALES,
        FIT = 224 * 1024 / STAGE,
        STAGES = FIT < 8 ? FIT : 8,
        // Warps that copy: one alone would take longer to begin the copies of a stage than its products do.
        COPIERS = STRIPS < 4 ? STRIPS + 1 : 4,
        // Where sums fill the registers, those that copy give theirs away.
        GIVES = GROUPS * ROWS > 400,
        THREADS = 32 * (WARPS + COPIERS)
    };
};

// What a block works on, one after the other: first tile of rows, first strip of outputs. GROUP row tiles of a group take
// turns, and outputs are next.
template <u32 TILES, u32 STRIPS> struct Places {
    u32 columns, outputs;
    DEVICE Places(u32 tiles, u32 strips) : columns((tiles + TILES - 1) / TILES), outputs((strips + STRIPS - 1) / STRIPS) {}
    DEVICE u32 count() const { return columns * outputs; }
    DEVICE uint2 operator[](u32 i) const
    {
        const u32 group = i / (GROUP * outputs), in_group = i % (GROUP * outputs);
        const u32 wide = min(columns - group * GROUP, (u32)GROUP);
        return make_uint2((group * GROUP + in_group % wide) * TILES, in_group / wide * STRIPS);
    }
};

// Writes a lane's sums, or adds them to what stands there: of each tile of 8 rows two rows that follow each other, of two
// outputs, which lie as one. AT is the first; so many rows are there from it on.
template <u32 ROWS> DEVICE void put(f32* at, const f32 (&total)[ROWS / 2], float2 bias, u32 n, u32 left, u32 accumulate)
{
    // What is added to is read some tiles ahead: a load behind a store waits for it.
    enum : u32 { TILES = ROWS / 8, AHEAD = 4, HELD = 2 * AHEAD };
    float2 before[HELD][2];
    const auto read = [&](u32 tile) {
#pragma unroll
        for (u32 c = 0; c < 2; c++) {
            const bool there = accumulate && tile * 8 + c < left;
            before[tile % HELD][c] = there ? *(const float2*)(at + (u64)(tile * 8 + c) * n) : make_float2(0.0f, 0.0f);
        }
    };
#pragma unroll
    for (u32 tile = 0; tile < AHEAD && tile < TILES; tile++)
        read(tile);
#pragma unroll
    for (u32 first = 0; first < TILES; first += AHEAD) {
#pragma unroll
        for (u32 tile = first + AHEAD; tile < first + HELD && tile < TILES; tile++)
            read(tile);
#pragma unroll
        for (u32 tile = first; tile < first + AHEAD && tile < TILES; tile++)
#pragma unroll
            for (u32 c = 0; c < 2; c++)
                if (tile * 8 + c < left) {
                    const float2 old = before[tile % HELD][c];
                    *(float2*)(at + (u64)(tile * 8 + c) * n) = make_float2(
                        old.x + (total[4 * tile + c] + bias.x), old.y + (total[4 * tile + 2 + c] + bias.y));
                }
    }
}

template <class W, u32 GROUPS, u32 ROWS>
DEVICE void wide(f32* y, const u8* halves, const u8* w, const u8* scales, const f32* bias, u32 m, u32 n, u32 k,
                 u32 has_bias, u32 accumulate)
{
    typedef Sizes<W, GROUPS, ROWS> S;
    enum : u32 {
        PACKED = S::PACKED, WARPS = S::WARPS, STRIPS = S::STRIPS, TILES = S::TILES, W_BYTES = S::W_BYTES,
        SCALES = S::SCALES, SCALES_OF = S::SCALES_OF, TILE_BYTES = S::TILE_BYTES, W_AT = S::W_AT,
        SCALES_AT = S::SCALES_AT, STAGE = S::STAGE, STAGES = S::STAGES, COPIERS = S::COPIERS
    };
    extern __shared__ __align__(128) u8 memory[];
    __shared__ __align__(8) u64 barriers[2 * STAGES + 1];
    // By a shuffle the compiler sees that it is the same for all lanes; else it makes products wait for each other.
    const u32 warp = __shfl_sync(ALL, threadIdx.x / 32, 0), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32 blocks = k / 32, stages = k / STAGE_INPUTS, all_strips = (n + 31) / 32, all_tiles = (m + 7) / 8;
    const Places<TILES, STRIPS> places(all_tiles, all_strips);
    const u32 base = shared_address(memory), full = shared_address(barriers), empty = full + 8 * STAGES;
    if (threadIdx.x == 0) {
#pragma unroll
        for (u32 i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, COPIERS);
            barrier_init(empty + 8 * i, WARPS);
        }
        // Nobody waits here: where a first stage gives back what was before it.
        barrier_init(empty + 8 * STAGES, WARPS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (warp >= WARPS) {
        if (S::GIVES)
            asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 40 : 32));
        if (lane > 0)
            return;
        // Strips are shared out; the last one copies the rows as well.
        enum : u32 { MOST = (STRIPS + COPIERS - 1) / COPIERS };
        const u32 copier = warp - WARPS;
        const bool brings_rows = copier == COPIERS - 1;
        u32 slot = 0, parity = 1, own = 0;
#pragma unroll
        for (u32 j = 0; j < MOST; j++)
            own += copier + j * COPIERS < STRIPS ? TURN * W_BYTES + SCALES_OF * SCALES : 0;
#pragma unroll 1
        for (u32 i = blockIdx.x; i < places.count(); i += gridDim.x) {
            const uint2 place = places[i];
            const u32 rows = brings_rows ? min(all_tiles - place.x, (u32)TILES) * TILE_BYTES : 0;
            const u8* of_rows = halves + (u64)place.x * TILE_BYTES;
            u64 block[MOST];
#pragma unroll
            for (u32 j = 0; j < MOST; j++)
                // Strips past the last are the last once more, and not written.
                block[j] = (u64)min(place.y + copier + j * COPIERS, all_strips - 1) * blocks;
#pragma unroll 1
            for (u32 stage = 0; stage < stages; stage++) {
                const u32 to = base + slot * STAGE, barrier = full + 8 * slot;
                barrier_wait(empty + 8 * slot, parity);
                barrier_expect(barrier, rows + own);
                if (brings_rows)
                    copy_run(to, of_rows, rows, barrier);
                of_rows += (u64)all_tiles * TILE_BYTES;
#pragma unroll
                for (u32 j = 0; j < MOST; j++) {
                    const u32 strip = copier + j * COPIERS;
                    if (strip < STRIPS) {
                        copy_run(to + W_AT + strip * TURN * W_BYTES, w + block[j] * W_BYTES, TURN * W_BYTES, barrier);
                        if (PACKED)
                            copy_run(to + SCALES_AT + strip * SCALES_OF * SCALES, scales + block[j] / W::SHARE * SCALES,
                                     SCALES_OF * SCALES, barrier);
                    }
                    block[j] += TURN;
                }
                slot = slot + 1 == STAGES ? 0 : slot + 1;
                parity ^= slot == 0;
            }
        }
        return;
    }
    if (S::GIVES)
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 232 : 160));
    // A lane's two outputs are neighbours: together they are written.
    const u32 strip = warp / 2, row = warp % 2 * 16 + 2 * g;
    f32 total[ROWS / 2];
    u32 slot = 0, parity = 0, due = STAGES;
    const auto step = [&](u32 (&a)[4][4]) {
        barrier_wait(full + 8 * slot, parity);
        const u8* const own = memory + slot * STAGE;
#pragma unroll
        for (u32 b = 0; b < TURN; b++) {
            const u8* const levels = own + W_AT + (strip * TURN + b) * W_BYTES;
            if constexpr (PACKED) {
                typedef typename W::Scale Scale;
                const Scale* const scale = (const Scale*)(own + SCALES_AT + (strip * SCALES_OF + b / W::SHARE) * SCALES);
                const Scale upper = scale[row], lower = scale[row + 1];
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const uint2 up = weights<W>(W::word(levels + row * 16, t, i), upper);
                    const uint2 low = weights<W>(W::word(levels + row * 16 + 16, t, i), lower);
                    a[b * 2 + i][0] = up.x;
                    a[b * 2 + i][1] = low.x;
                    a[b * 2 + i][2] = up.y;
                    a[b * 2 + i][3] = low.y;
                }
            } else {
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const u8* const at = levels + (2 * i + t / 2) * 512 + row * 16 + t % 2 * 8;
                    const uint2 up = *(const uint2*)at, low = *(const uint2*)(at + 16);
                    a[b * 2 + i][0] = up.x;
                    a[b * 2 + i][1] = low.x;
                    a[b * 2 + i][2] = up.y;
                    a[b * 2 + i][3] = low.y;
                }
            }
        }
        // Of rows: matrices of 128 bytes, two an instruction side by side, the next 8 rows a tile further.
        const u64 matrices = (u64)(TILE_BYTES / 16) << 32 | (u64)(128 / 16) << 16;
        const u32 rows = base + slot * STAGE;
        multiply_fence();
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            multiply(total, a[j], matrices | (rows + j * 256) >> 4);
        multiply_commit();
        multiply_wait<1>();
        // All lanes have read their levels.
        __syncwarp();
        if (lane == 0)
            barrier_arrive(empty + 8 * due);
        due = slot;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        parity ^= slot == 0;
    };
    u32 even[4][4], odd[4][4];
#pragma unroll 1
    for (u32 i = blockIdx.x; i < places.count(); i += gridDim.x) {
        const uint2 place = places[i];
#pragma unroll
        for (u32 e = 0; e < ROWS / 2; e++)
            total[e] = 0.0f;
#pragma unroll 1
        for (u32 stage = 0; stage < stages; stage += 2) {
            step(even);
            step(odd);
        }
        multiply_wait<0>();
        // The last stage's memory: the next rows' first inputs may come while sums are written.
        if (lane == 0)
            barrier_arrive(empty + 8 * due);
        due = STAGES;
        // In a register that this turn alone knows: else the compiler keeps a multiple of it for each row from turn to turn.
        u32 width = n;
        asm volatile("" : "+r"(width));
        const u32 output = (place.y + strip) * 32 + row, first = place.x * 8 + 2 * t;
        if (first < m && output < n) {
            const float2 more = has_bias ? *(const float2*)(bias + output) : make_float2(0.0f, 0.0f);
            put<ROWS>(y + (u64)first * width + output, total, more, width, m - first, accumulate);
        }
    }
}

#define WIDE(NAME, W, GROUPS, ROWS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(Sizes<W, GROUPS, ROWS>::THREADS, 1) NAME(                             \
        f32* __restrict__ y,            /* [m, n] */                                                                   \
        const u8* __restrict__ halves,  /* [k / 64, m / 8, 4, 2, 8] of 16 bytes */                                     \
        const u8* __restrict__ w,       /* [n / 32, k / 32, pieces, 32] of 16 bytes */                                 \
        const u8* __restrict__ scales,  /* [n / 32, k / 32 / SHARE, 32]; unused where W has none */                    \
        const f32* __restrict__ bias,   /* [n], where has_bias */                                                      \
        u32 m, u32 n, u32 k, u32 has_bias, u32 accumulate)                                                             \
    {                                                                                                                  \
        wide<W, GROUPS, ROWS>(y, halves, w, scales, bias, m, n, k, has_bias, accumulate);                              \
    }

#define SIZES(NAME, W)                                                                                                 \
    WIDE(NAME##_64x16, W, 1, 16)                                                                                       \
    WIDE(NAME##_128x64, W, 2, 64)                                                                                      \
    WIDE(NAME##_64x136, W, 1, 136)                                                                                     \
    WIDE(NAME##_128x128, W, 2, 128)                                                                                    \
    WIDE(NAME##_128x192, W, 2, 192)                                                                                    \
    WIDE(NAME##_192x136, W, 3, 136)                                                                                    \
    WIDE(NAME##_192x176, W, 3, 176)                                                                                    \
    WIDE(NAME##_128x256, W, 2, 256)

SIZES(hopper_bf16, Bf16)
SIZES(hopper_q8, Q8)
SIZES(hopper_q4, Q4)
SIZES(hopper_q4g, Q4G)
SIZES(hopper_q4k, Q4K)

// Rows in BF16 as they lie for the kernels above, 16 bytes a thread. Rows that are missing are zeros.
template <class INPUTS> DEVICE void round_rows(uint4* halves, const f32* x, u32 m, u32 k, u32 pieces)
{
    const u32 piece = element();
    if (piece >= pieces)
        return;
    const u32 tiles = (m + 7) / 8, tile = piece / 64 % tiles, stage = piece / 64 / tiles;
    const u32 row = tile * 8 + piece % 8, first = stage * STAGE_INPUTS + piece / 16 % 4 * 16 + piece / 8 % 2 * 2;
    u32 pairs[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const float2 v = INPUTS::two(x, min(row, m - 1), k, first + 4 * i);
        pairs[i] = row < m ? pair(v.x, v.y) : 0;
    }
    halves[piece] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

#define HALVES(NAME, INPUTS)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                            \
        uint4* __restrict__ halves,   /* [k / 64, m / 8, 4, 2, 8] */                                                   \
        const f32* __restrict__ x,    /* [m, k], of gates [m, 2, k] */                                                 \
        u32 m, u32 k, u32 pieces)     /* pieces: k / 64 · m / 8 · 64 */                                                \
    {                                                                                                                  \
        round_rows<INPUTS>(halves, x, m, k, pieces);                                                                   \
    }

EACH_INPUTS(HALVES, hopper_halves)
