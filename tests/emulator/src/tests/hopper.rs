//! Single instructions of compute capability 9.0.

use super::{fault, kernel, numbers, run};
use crate::{Launch, Memory, Module, Order, launch};

#[test]
fn labels_belong_to_their_braces() {
    let again = |to: &str| {
        format!(
            "{{
            .reg .pred p;
            setp.ge.u32 p, %r3, {to};
            @p bra done;
            add.s32 %r3, %r3, 1;
            bra done;
            add.s32 %r3, %r3, 100;
            done:
            }}"
        )
    };
    let lines = format!(
        "mov.u32 %r3, 0; {} {} {} st.global.u32 [%rd1], %r3;",
        again("1"),
        again("2"),
        again("2")
    );
    assert_eq!(run(&lines, &[0]).unwrap(), [2]);
}

#[test]
fn halves_of_words_are_read_and_become_floats() {
    let lines = ".reg .b16 %rs<3>;
        st.shared.u32 [%rd3], 3221241856;
        ld.shared.u16 %rs1, [%rd3];
        ld.shared.u16 %rs2, [%rd3+2];
        cvt.f32.f16 %f1, %rs1;
        cvt.f32.f16 %f2, %rs2;
        sub.rn.f32 %f1, %f1, %f2;
        mov.b32 %r3, %f1;
        st.global.u32 [%rd1], %r3;";
    // 1.0 less -2.0.
    let lines = lines.replace("3221241856", &0xc000_3c00_u32.to_string());
    assert_eq!(run(&lines, &numbers(40)).unwrap(), [3_f32.to_bits(); 40]);
}

/// The last thread of each warp passes its word on to the next warp, which waits for it.
const CHAIN: &str = "mov.u64 %rd8, s;
    cvt.u32.u64 %r9, %rd8;
    setp.ne.s32 %p1, %r1, 0;
    @%p1 bra $begun;
    mbarrier.init.shared::cta.b64 [%r9+192], 32;
    mbarrier.init.shared::cta.b64 [%r9+200], 32;
    $begun:
    bar.sync 0;
    shr.u32 %r4, %r1, 5;
    shl.b32 %r5, %r4, 3;
    add.s32 %r5, %r5, %r9;
    setp.eq.s32 %p2, %r4, 0;
    @!%p2 bra $wait;
    add.s32 %r6, %r1, 7;
    shl.b32 %r7, %r1, 2;
    add.s32 %r7, %r7, %r9;
    st.shared.u32 [%r7], %r6;
    bra.uni $arrive;
    $wait:
    mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r5+184], 0;
    @!%p3 bra $wait;
    $arrive:
    setp.eq.s32 %p4, %r4, 2;
    @%p4 bra $read;
    mbarrier.arrive.shared::cta.b64 _, [%r5+192];
    mov.u32 %r3, 0;
    bra.uni $done;
    $read:
    ld.shared.u32 %r3, [%r9+124];
    $done:
    st.global.u32 [%rd1], %r3;";

#[test]
fn who_waits_knows_what_those_knew_who_arrived() {
    let mut want = vec![0; 64];
    want.extend([38; 32]);
    assert_eq!(run(CHAIN, &numbers(96)).unwrap(), want);
    // The third warp waits for nobody, or for a barrier at which the second arrives before it has waited.
    let wait = "@!%p3 bra $wait;";
    let reads = CHAIN.replace(wait, "");
    assert!(fault(&reads, 96).contains("shared memory"), "{reads}");
    let early = CHAIN.replace(
        "$wait:",
        "$wait:\n    setp.eq.s32 %p5, %r4, 1;\n    @%p5 bra $arrive;\n    $again:",
    );
    let early = early.replace(wait, "@!%p3 bra $again;");
    let error = fault(&early, 96);
    assert!(
        error.contains("race in shared memory: thread 64 reads byte 1164, which thread 31 wrote")
            || error.contains("never written"),
        "{error}"
    );
    // One lane arrives for all: it knows of its own word alone.
    let one = CHAIN.replace("192], 32", "192], 1");
    let first = "setp.eq.s32 %p6, %r4, 0;
        and.b32 %r8, %r1, 31;
        setp.ne.s32 %p7, %r8, 0;
        and.pred %p6, %p6, %p7;
        @%p6 bra $told;
        mbarrier.arrive.shared::cta.b64 _, [%r5+192];
        $told:";
    let one = one.replace("mbarrier.arrive.shared::cta.b64 _, [%r5+192];", first);
    let error = fault(&one, 96);
    assert!(error.contains("which thread 31 wrote"), "{error}");
    let told = one.replace("setp.eq.s32 %p6", "bar.warp.sync -1;\nsetp.eq.s32 %p6");
    assert_eq!(run(&told, &numbers(96)).unwrap(), want);
    // A barrier of the block tells everybody.
    let all = "bar.sync 0;\n ld.shared.u32 %r3, [%r9+124];\n st.global.u32 [%rd1], %r3;";
    let lines = format!("{CHAIN}\n{all}");
    assert_eq!(run(&lines, &numbers(96)).unwrap(), [38; 96]);
}

#[test]
fn what_is_not_known_beside_barriers_that_count_is_refused() {
    for (line, message) in [
        ("red.shared.add.u32 [%rd3], 1;", "atomic operations beside"),
        (
            "cp.async.ca.shared.global [%rd3], [%rd2], 4;",
            "copies of lanes beside",
        ),
    ] {
        let lines = CHAIN.replace("bar.sync 0;", &format!("bar.sync 0; {line}"));
        let error = fault(&lines, 96);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn other_forms_are_refused() {
    let sums = "{%f1, %f2, %f3, %f4, %f5, %f6, %f7, %f8}";
    let product = format!(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {sums}, {{%r1, %r2, %r3, %r4}}, %rd1, 1, 1, 1, 0;"
    );
    assert!(Module::new(&kernel(&product)).is_ok());
    for line in [
        &product.replace("1, 1, 1, 0", "0, 1, 1, 0"),
        &product.replace("1, 1, 1, 0", "1, -1, 1, 0"),
        &product.replace("1, 1, 1, 0", "1, 1, 1, 1"),
        &product.replace("n16k16", "n24k16"),
        &product.replace("n16k16", "n64k16"),
        &product.replace("bf16.bf16", "f16.f16"),
        &product.replace("{%r1, %r2, %r3, %r4}", "%rd2"),
        "setmaxnreg.inc.sync.aligned.u32 20;",
        "setmaxnreg.inc.sync.aligned.u32 36;",
        "setmaxnreg.inc.sync.aligned.u32 264;",
        "mbarrier.init.shared::cluster.b64 [%r1], 1;",
        "mbarrier.inval.shared::cta.b64 [%r1];",
        "mbarrier.arrive.shared::cta.b64 %rd1, [%r1];",
        "mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r1], 0;",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%rd1], 16, [%r2], %r3;",
        "fence.proxy.async;",
        "wgmma.wait_group.sync.aligned;",
    ] {
        let error = Module::new(&kernel(line)).unwrap_err();
        assert!(error.starts_with("line "), "{error}");
    }
}

/// One product of every shape: a barrier, a copy of all rows, words out of the thread's number.
#[test]
fn products_of_four_warps_are_those_of_the_manual() {
    for columns in [16_usize, 64, 128, 136, 176, 192, 256] {
        let names: Vec<String> = (0..columns / 2).map(|i| format!("%s{i}")).collect();
        let mut lines = format!(".reg .f32 %s<{}>;\n", columns / 2);
        for name in &names {
            lines += &format!("cvt.rn.f32.u32 {name}, %r1;\n");
        }
        lines += &format!(
            "mov.u32 %r4, s; mov.u32 %r5, big;
            setp.ne.s32 %p1, %r1, 0;
            @%p1 bra $begun;
            mbarrier.init.shared::cta.b64 [%r4], 1;
            fence.mbarrier_init.release.cluster;
            mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], {bytes};
            cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%rd5], {bytes}, [%r4];
            $begun:
            bar.sync 0;
            $wait:
            mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r4], 0;
            @!%p2 bra $wait;
            cvt.rn.f32.u32 %f1, %r1;
            add.rn.f32 %f2, %f1, %f1;
            cvt.rn.bf16x2.f32 %r6, %f2, %f1;
            cvt.rn.bf16x2.f32 %r7, %f1, %f2;
            shr.u32 %r8, %r5, 4;
            cvt.u64.u32 %rd8, %r8;
            or.b64 %rd8, %rd8, 68720001024;
            wgmma.fence.sync.aligned;
            wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{all}}}, {{%r6, %r7, %r7, %r6}}, %rd8, 1, 1, 1, 0;
            wgmma.commit_group.sync.aligned;
            wgmma.wait_group.sync.aligned 0;
            mul.wide.u32 %rd9, %r1, {row};
            add.s64 %rd9, %rd4, %rd9;
            ",
            bytes = columns * 32,
            row = columns * 2,
            all = names.join(", "),
        );
        for (i, name) in names.iter().enumerate() {
            lines += &format!("st.global.f32 [%rd9+{}], {name};\n", 4 * i);
        }
        let text = kernel(&lines).replace(
            ".shared .align 16 .b8 s[256];",
            ".shared .align 16 .b8 s[256];\n.shared .align 128 .b8 big[8192];",
        );
        let module = Module::new(&text).unwrap();
        let value = |column: usize, k: usize| ((column * 3 + k * 5) % 11) as f32 - 5.0;
        let mut bytes = Vec::new();
        for (column, k) in (0..columns / 4).flat_map(|matrix| {
            (0..64).map(move |i| (matrix / 2 * 8 + i / 8, matrix % 2 * 8 + i % 8))
        }) {
            bytes.extend(((value(column, k).to_bits() >> 16) as u16).to_le_bytes());
        }
        for order in [Order::Ascending, Order::Descending] {
            let mut memory = Memory::default();
            let out = memory.allocate(128 * columns * 2).unwrap();
            let from = memory.allocate(bytes.len()).unwrap();
            memory.write(from, &bytes).unwrap();
            let request = Launch {
                grid: [1; 3],
                block: [128, 1, 1],
                dynamic: 0,
                params: [out.to_le_bytes(), from.to_le_bytes()].concat(),
                order,
                budget: 100_000,
                count: false,
            };
            launch(&module.kernels["k"], &memory, &request).unwrap();
            let mut back = vec![0; 128 * columns * 2];
            memory.read(out, &mut back).unwrap();
            let back: Vec<f32> = back
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            for (thread, sums) in back.chunks_exact(columns / 2).enumerate() {
                let (first, t) = (thread - thread % 4, thread % 4);
                for (i, got) in sums.iter().enumerate() {
                    let (lower, column) = (i / 2 % 2 == 1, i / 4 * 8 + 2 * t + i % 2);
                    let dot: f32 = (0..16)
                        .map(|k| {
                            // The lane that holds the input, once or twice its number.
                            let lane = (first + k % 8 / 2) as f32;
                            let twice = (k % 2 == 1) != (lower != (k >= 8));
                            lane * if twice { 2.0 } else { 1.0 } * value(column, k)
                        })
                        .sum();
                    assert_eq!(
                        *got,
                        thread as f32 + dot,
                        "{columns}: thread {thread}, sum {i}"
                    );
                }
            }
        }
    }
}
