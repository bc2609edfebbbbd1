//! A small product that is made as Hopper's kernels make theirs, and what is found where a part of it is missing.

use crate::{Counters, Launch, Memory, Module, Order, launch};

/// Stages of 16 inputs, two of which lie in shared memory at a time. Warp 4 copies, the others multiply: 64 rows of words
/// in registers with 16 rows in shared memory.
const STAGES: usize = 5;
const ROWS: usize = 512;
const STAGE: usize = ROWS + 64 * 32;
const THREADS: usize = 128;
const KERNEL: &str = include_str!("pipeline.ptx");

fn half(x: i32) -> [u8; 2] {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let bits = (x as f32).to_bits() >> 16;
    [bits as u8, (bits >> 8) as u8]
}

/// Small whole numbers, by place.
fn number(place: usize) -> i32 {
    i32::try_from(place * 7 % 13).unwrap() - 6
}

/// What lies in device memory, and the sums of every thread.
fn stages() -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut sums) = (Vec::new(), vec![0; THREADS * 8]);
    let row = |stage: usize, column: usize, k: usize| number(stage * 31 + column * 5 + k);
    let word = |stage: usize, line: usize, k: usize| number(stage * 17 + line * 3 + k * 2 + 1);
    for stage in 0..STAGES {
        // Matrices of 8 rows of 16 bytes: the two halves of the inputs, then the next 8 rows.
        for (column, k) in (0..4).flat_map(|matrix| {
            (0..64).map(move |i| (matrix / 2 * 8 + i / 8, matrix % 2 * 8 + i % 8))
        }) {
            bytes.extend(half(row(stage, column, k)));
        }
        for thread in 0..THREADS {
            let (g, t) = (thread / 32 * 16 + thread % 32 / 4, thread % 4);
            for part in 0..8 {
                let line = g + part / 2 % 2 * 8;
                bytes.extend(half(word(stage, line, part / 4 * 8 + 2 * t + part % 2)));
            }
            for sum in 0..8 {
                let (line, column) = (g + sum / 2 % 2 * 8, sum / 4 * 8 + 2 * t + sum % 2);
                let terms = (0..16).map(|k| word(stage, line, k) * row(stage, column, k));
                sums[thread * 8 + sum] += terms.sum::<i32>();
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let sums = sums.into_iter().map(|sum| sum as f32).collect();
    (bytes, sums)
}

fn run(text: &str, order: Order) -> Result<(Vec<f32>, Counters), String> {
    let module = Module::new(text)?;
    let (bytes, sums) = stages();
    let mut memory = Memory::default();
    let out = memory.allocate(sums.len() * 4).unwrap();
    let from = memory.allocate(bytes.len()).unwrap();
    memory.write(from, &bytes)?;
    let request = Launch {
        grid: [1; 3],
        block: [160, 1, 1],
        dynamic: 0,
        params: [out.to_le_bytes(), from.to_le_bytes()].concat(),
        order,
        budget: 100_000,
        count: true,
    };
    let counters = launch(&module.kernels["k"], &memory, &request)?;
    let mut back = vec![0; sums.len() * 4];
    memory.read(out, &mut back)?;
    let words = back.as_chunks().0.iter();
    Ok((words.map(|b| f32::from_le_bytes(*b)).collect(), counters))
}

/// The kernel with some text instead of another, which it has once.
fn with(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(KERNEL.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

/// What is said against a changed kernel when things happen late, and when they happen at once.
fn faults(changes: &[(&str, &str)]) -> [String; 2] {
    let text = with(changes);
    let (_, sums) = stages();
    [Order::Ascending, Order::Descending].map(|order| match run(&text, order) {
        Ok((got, _)) if got == sums => "nothing".into(),
        Ok(_) => "other sums".into(),
        Err(error) => error,
    })
}

#[test]
fn a_pipeline_of_copies_and_products_runs_in_both_orders() {
    let (_, sums) = stages();
    for order in [Order::Ascending, Order::Descending] {
        let (got, counters) = run(KERNEL, order).unwrap();
        assert_eq!(got, sums);
        // Copies that come at once are not on their way together.
        let late = order == Order::Ascending;
        let most = if late { 2 * STAGE } else { STAGE - ROWS };
        assert_eq!(counters.flight_bytes, most as u64);
        let moved = (STAGES * STAGE + THREADS * 32) as u64;
        assert_eq!(counters.useful_bytes, moved);
    }
}

const FULL: &str = "mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r10], %r8;";
const EMPTY: &str = "mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r10+16], %r8;";
const ASK_FULL: &str = "@!%p4 bra $full;";
const ASK_EMPTY: &str = "@!%p4 bra $empty;";
const EXPECT: &str = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], 2560;";
const ARRIVE: &str = "mbarrier.arrive.shared::cta.b64 _, [%r10+16];";
const GROUP_WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
const LANES: &str = "bar.warp.sync -1;";

#[test]
fn waits_that_are_missing_are_found() {
    for (what, changes, late, at_once) in [
        (
            "nobody waits for copies",
            &[(FULL, ""), (ASK_FULL, "")][..],
            "never written",
            "a copy wrote that the barrier at byte",
        ),
        (
            "the answer is not looked at",
            &[(ASK_FULL, "")],
            "read before its copy was waited for",
            "a copy wrote that the barrier at byte",
        ),
        (
            "the phase before is waited for",
            &[("mov.u32 %r8, 0;", "mov.u32 %r8, 1;")],
            "never written",
            "nobody can go on",
        ),
        (
            "nobody waits for readers",
            &[(EMPTY, ""), (ASK_EMPTY, "")],
            "counts 1 arrivals, and this is one more|written before its copy was waited for",
            "begins a copy to byte",
        ),
        (
            "that answer is not looked at",
            &[(ASK_EMPTY, "")],
            "counts 1 arrivals, and this is one more|written before its copy was waited for",
            "begins a copy to byte",
        ),
        (
            "readers' next phase is waited for",
            &[("mov.u32 %r8, 1;", "mov.u32 %r8, 0;")],
            "nobody can go on",
            "nobody can go on",
        ),
        (
            "a slot further",
            &[("[%r11+512]", "[%r11+3072]")],
            "read before its copy was waited for|never written",
            "bytes at|unknown to it|never written",
        ),
        (
            "nobody gives memory back",
            &[(ARRIVE, "")],
            "nobody can go on: warp 0 at k line",
            "lacks 4 arrivals and 0 bytes",
        ),
    ] {
        check(what, changes, [late, at_once]);
    }
}

/// That each order says one of what is wanted of it.
fn check(what: &str, changes: &[(&str, &str)], wanted: [&str; 2]) {
    for (got, wanted) in faults(changes).iter().zip(wanted) {
        assert!(
            wanted.split('|').any(|part| got.contains(part)),
            "{what}: {got}, wanted {wanted}"
        );
    }
}

#[test]
fn memory_that_is_given_back_too_early_is_found() {
    // Before the product was waited for.
    let before = format!("{ARRIVE_ALONE}\n{GROUP_WAIT}");
    let early = [(ARRIVE, ""), (GROUP_WAIT, before.as_str())];
    let product = "which a product of warp";
    check("a product goes on", &early, [product, product]);
    // Before the other lanes have read.
    let lanes = "which threads of warp|which thread";
    check("lanes part", &[(LANES, "")], [lanes, lanes]);
    // The wait is for all but the youngest group.
    let rest = [(GROUP_WAIT, "wgmma.wait_group.sync.aligned 1;")];
    let register = "a register of a product that was not waited for|which a product of warp";
    check("one group stays", &rest, [register, register]);
}

const ARRIVE_ALONE: &str = "setp.eq.s32 %p7, %r3, 0;
	@%p7 mbarrier.arrive.shared::cta.b64 _, [%r10+16];";

#[test]
fn bytes_are_counted() {
    let expect = |bytes: &str| EXPECT.replace("2560", bytes);
    for (bytes, late, at_once) in [
        (
            "2576",
            "lacks 0 arrivals and 16 bytes",
            "lacks 0 arrivals and 16 bytes",
        ),
        ("2544", "gets 16 bytes more", "gets 16 bytes more"),
        // As many as one of the copies has, which comes first: the phase is over, and the other copy is on its way.
        (
            "2048",
            "before its copy was waited for|did not wait for them",
            "gets 512 bytes more",
        ),
        (
            "512",
            "gets 1536 bytes more",
            "a copy wrote that the barrier at byte|gets",
        ),
        (
            "2000000",
            "a barrier for 2000000 bytes",
            "a barrier for 2000000 bytes",
        ),
    ] {
        check(bytes, &[(EXPECT, &expect(bytes))], [late, at_once]);
    }
    let twice = format!("{EXPECT}\nmbarrier.arrive.shared::cta.b64 _, [%r10];");
    let more = "counts 1 arrivals, and this is one more";
    check("two arrive", &[(EXPECT, &twice)], [more, more]);
    let [first, second] = ["[%rd2], 512, [%r10]", "[%rd2+512], 2048, [%r10]"];
    for (from, to) in [
        (first, "[%rd2], 504, [%r10]"),
        (first, "[%rd2+8], 512, [%r10]"),
        (first, "[%rd2], 0, [%r10]"),
        ("[%r11], [%rd2+512]", "[%r11+8], [%rd2+512]"),
    ] {
        let pieces = "not in pieces of 16";
        check(to, &[(from, to)], [pieces, pieces]);
    }
    let outside = "bytes of shared memory";
    let far = ("add.s32 %r11, %r9, 512;", "add.s32 %r11, %r9, 8192;");
    check("outside", &[far], [outside, outside]);
    let over = "of an allocation of";
    check(
        "past the end",
        &[(second, "[%rd2+12800], 2048, [%r10]")],
        [over, over],
    );
    // Nobody waits for the last one.
    let last = "setp.lt.u32 %p6, %r6, 5;\n\t@%p6 bra $stage;";
    let ends = "the block ends before its copy has come";
    let fewer = (last, &*last.replace('5', "4"));
    check("a copy more", &[fewer], [ends, "other sums"]);
}

#[test]
fn barriers_are_begun_before_they_are_used() {
    for (what, changes, late, at_once) in [
        (
            "never",
            &[("mbarrier.init.shared::cta.b64 [%r4+24], 4;", "")][..],
            "no barrier was begun",
            "no barrier was begun",
        ),
        (
            "without a word to the others",
            &[("bar.sync 0;", "")],
            "begun unknown to it|no barrier was begun",
            "no barrier was begun",
        ),
        (
            "without a word to copies",
            &[("fence.mbarrier_init.release.cluster;", "")],
            "no fence tells copies",
            "no fence tells copies",
        ),
        (
            "twice",
            &[("[%r4+8], 1;", "[%r4], 1;")],
            "is a barrier's",
            "is a barrier's",
        ),
        (
            "somewhere else",
            &[("[%r4+8], 1;", "[%r4+4], 1;")],
            "misaligned",
            "misaligned",
        ),
        (
            "for nobody",
            &[("[%r4+8], 1;", "[%r4+8], 0;")],
            "for 0 arrivals",
            "for 0 arrivals",
        ),
        (
            "and overwritten",
            &[(LANES, "bar.warp.sync -1;\nst.shared.u32 [%r4], %r3;")],
            "is a barrier's",
            "is a barrier's",
        ),
        (
            "and asked for a third parity",
            &[(FULL, &FULL.replace("%r8", "2"))],
            "the parity of a phase is 2",
            "the parity of a phase is 2",
        ),
    ] {
        check(what, changes, [late, at_once]);
    }
}

#[test]
fn registers_of_a_product_are_its_own() {
    let touched = "a register of a product that was not waited for";
    let commit = "wgmma.commit_group.sync.aligned;";
    for line in [
        "mov.u32 %r20, 0;",
        "mov.u32 %r24, %r23;",
        "add.rn.f32 %f8, %f8, %f0;",
    ] {
        let before = format!("{commit}\n{line}");
        check(line, &[(commit, &before)], [touched, touched]);
    }
    let fence = "without a fence";
    check(
        "no fence",
        &[("wgmma.fence.sync.aligned;", "")],
        [fence, fence],
    );
    let stays = format!("{touched}|which a product of warp");
    check("no commit", &[(commit, "")], [&stays, &stays]);
    check("no wait", &[(GROUP_WAIT, "")], [&stays, &stays]);
    // Sums between two products of the same shape need neither; those of another shape do.
    let product = "{%r20, %r21, %r22, %r23}, %rd3, 1, 1, 1, 0;";
    let again = format!(
        "{product}\nwgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 \
         {{%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}}, {product}"
    );
    check("twice", &[(product, &again)], ["other sums", "other sums"]);
    let other = again.replace(
        "{%r20, %r21, %r22, %r23}, %rd3, 1, 1, 1, 0;\nw",
        "{%f0, %r21, %r22, %r23}, %rd3, 1, 1, 1, 0;\nw",
    );
    check(
        "sums that are read",
        &[(product, &other)],
        ["another product|without", "another product|without"],
    );
}

#[test]
fn a_warpgroup_stays_together() {
    let part = "the warps of a warpgroup part";
    let fence = "wgmma.fence.sync.aligned;";
    let some = format!("setp.eq.s32 %p7, %r2, 2;\n@!%p7 {fence}\n{fence}");
    check("one more", &[(fence, &some)], [part, part]);
    let lanes = "at a warp's operation";
    let some = "setp.lt.u32 %p7, %r3, 16;\n@%p7 wgmma.fence.sync.aligned;";
    check("some lanes", &[(fence, some)], [lanes, lanes]);
    let registers = "bar.sync 0;\nsetmaxnreg.dec.sync.aligned.u32 40;";
    // The copying warp is alone.
    check("alone", &[("bar.sync 0;", registers)], [part, part]);
    let of_all = "mov.u32 %r8, 0;\nsetmaxnreg.inc.sync.aligned.u32 232;";
    check(
        "all four",
        &[("mov.u32 %r8, 0;", of_all)],
        ["nothing", "nothing"],
    );
    // Rows that are on their way, or written by threads.
    let descriptor = "or.b64 %rd3, %rd3, 68720001024;";
    for (to, message) in [
        (
            "or.b64 %rd3, %rd3, 4611686087146864640;",
            "such a mode is not known",
        ),
        (
            "cvt.u64.u32 %rd5, %r3;\nor.b64 %rd3, %rd3, %rd5;",
            "in different places",
        ),
        (
            "mov.u64 %rd3, 68720001024;\nor.b64 %rd3, %rd3, 16383;",
            "bytes of shared memory",
        ),
    ] {
        check(to, &[(descriptor, to)], [message, message]);
    }
    let store = format!("{LANES}\nst.shared.u32 [%r9], %r3;");
    let races = "race in shared memory";
    check("a store", &[(LANES, &store)], [races, races]);
}
