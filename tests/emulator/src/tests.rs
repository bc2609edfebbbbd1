//! The interpreter against numbers worked by hand, and against planted bugs.

mod hopper;
mod matrices;
mod pipeline;
mod shared;
mod written;

use crate::program::Space;
use crate::{Counters, Launch, Memory, Module, Order, changed, launch, mutants};

/// The shipped modules, by their files' names.
fn shipped() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels/ptx");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let modules = files.filter(|path| path.extension().is_some_and(|kind| kind == "ptx"));
    let of = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    modules.map(of).collect()
}

#[test]
fn every_shipped_instruction_is_known() {
    let all = shipped();
    assert!(all.len() > 20, "{} modules", all.len());
    for (name, text) in all {
        let module = Module::new(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!module.kernels.is_empty(), "{name}");
    }
}

/// A kernel around some lines: `%rd1` is where the thread's word of the output is, `%rd2` where that of the input is,
/// `%r1` the thread's number; `s` is shared memory of 64 words and `%rd3` the thread's word in it.
fn kernel(lines: &str) -> String {
    format!(
        ".version 8.4
.target sm_80
.address_size 64

.visible .entry k(
	.param .u64 k_param_0,
	.param .u64 k_param_1
)
.maxntid 256, 1, 1
{{
	.reg .pred 	%p<9>;
	.reg .f32 	%f<9>;
	.reg .b32 	%r<19>;
	.reg .b64 	%rd<19>;
	.shared .align 16 .b8 s[256];
	ld.param.u64 	%rd4, [k_param_0];
	ld.param.u64 	%rd5, [k_param_1];
	cvta.to.global.u64 	%rd4, %rd4;
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd6, %r1, 4;
	add.s64 	%rd1, %rd4, %rd6;
	add.s64 	%rd2, %rd5, %rd6;
	mov.u64 	%rd7, s;
	add.s64 	%rd3, %rd7, %rd6;
	{lines}
	ret;
}}
"
    )
}

/// Runs a kernel with as many threads as there are words, in both orders, which must agree.
fn run(lines: &str, input: &[u32]) -> Result<Vec<u32>, String> {
    Ok(counted(lines, input)?.0)
}

/// See `run`; and what was counted.
fn counted(lines: &str, input: &[u32]) -> Result<(Vec<u32>, Counters), String> {
    launched(lines, input, 1)
}

/// The same with threads in so many blocks.
fn launched(lines: &str, input: &[u32], blocks: u32) -> Result<(Vec<u32>, Counters), String> {
    let first = ordered(lines, input, blocks, Order::Ascending)?;
    let last = ordered(lines, input, blocks, Order::Descending)?;
    assert_eq!(first.0, last.0);
    // How often a phase is asked for is the order's.
    assert!(lines.contains("try_wait") || first.1 == last.1);
    Ok(first)
}

/// The same in one order.
fn ordered(
    lines: &str,
    input: &[u32],
    blocks: u32,
    order: Order,
) -> Result<(Vec<u32>, Counters), String> {
    let module = Module::new(&kernel(lines))?;
    let mut memory = Memory::default();
    let bytes: Vec<u8> = input.iter().flat_map(|w| w.to_le_bytes()).collect();
    let [out, from] = [(); 2].map(|()| memory.allocate(bytes.len()).unwrap());
    memory.write(from, &bytes)?;
    let mut params = out.to_le_bytes().to_vec();
    params.extend(from.to_le_bytes());
    let request = Launch {
        grid: [blocks, 1, 1],
        block: [u32::try_from(input.len()).unwrap() / blocks, 1, 1],
        dynamic: 0,
        params,
        order,
        budget: 100_000,
        count: true,
    };
    let counters = launch(&module.kernels["k"], &memory, &request)?;
    let mut back = vec![0; bytes.len()];
    memory.read(out, &mut back)?;
    let words = back.chunks_exact(4);
    let words = words.map(|b| u32::from_le_bytes(b.try_into().unwrap()));
    Ok((words.collect(), counters))
}

fn numbers(len: u32) -> Vec<u32> {
    (0..len).collect()
}

/// The message against some lines.
fn fault(lines: &str, threads: u32) -> String {
    run(lines, &numbers(threads)).expect_err("the planted bug was not found")
}

const LOAD: &str = "ld.global.u32 	%r2, [%rd2];";
const STORE: &str = "st.global.u32 	[%rd1], %r3;";

/// What one instruction makes of `%r2`, the thread's input, in `%r3`.
fn one(line: &str, input: u32) -> u32 {
    run(&format!("{LOAD} {line} {STORE}"), &[input]).unwrap()[0]
}

#[test]
fn instructions_give_the_numbers_of_the_manual() {
    for (line, input, want) in [
        ("add.s32 %r3, %r2, -3;", 2, u32::MAX),
        ("mul.lo.s32 %r3, %r2, %r2;", 0x10001, 0x20001),
        ("mul.hi.u32 %r3, %r2, 16;", 0xf000_0001, 0xf),
        ("div.u32 %r3, %r2, 7;", 50, 7),
        (
            "rem.s32 %r3, %r2, 7;",
            (-50_i32).cast_unsigned(),
            (-1_i32).cast_unsigned(),
        ),
        ("shl.b32 %r3, %r2, 32;", 1, 0),
        ("shr.s32 %r3, %r2, 40;", 1 << 31, u32::MAX),
        ("prmt.b32 %r3, %r2, 255, 8452;", 0x4433_2211, 0x3322_11ff),
        ("bfi.b32 %r3, %r2, 0, 8, 4;", 0xff, 0xf00),
        ("lop3.b32 %r3, %r2, 0x0ff0, 0xff, 0x6a;", 0xabcd, 0x0b3f),
        (
            "lop3.b32 %r3, %r2, 0x0ff0, 0xff, 0x01;",
            0xabcd,
            0xffff_5000,
        ),
        ("dp4a.s32.s32 %r3, %r2, 0x01010101, 5;", 0xff01_02fe, 5),
        ("cvt.f32.f16 %r3, %r2;", 0xc100, (-2.5_f32).to_bits()),
        (
            "cvt.f32.f16 %r3, %r2;",
            0x0001,
            (1.0_f32 / 16_777_216.0).to_bits(),
        ),
        (
            "cvt.rn.f32.s32 %r3, %r2;",
            16_777_217,
            16_777_216_f32.to_bits(),
        ),
        ("cvt.rzi.u32.f32 %r3, %r2;", (-2.5_f32).to_bits(), 0),
        ("cvt.s32.s8 %r3, %r2;", 0x1ff, u32::MAX),
        (
            "max.f32 %r3, %r2, 0f3F800000;",
            f32::NAN.to_bits(),
            1_f32.to_bits(),
        ),
        (
            "sqrt.rn.f32 %r3, %r2;",
            2_f32.to_bits(),
            2_f32.sqrt().to_bits(),
        ),
        (
            "setp.geu.f32 %p1, %r2, 0f3F800000; selp.b32 %r3, 1, 2, %p1;",
            f32::NAN.to_bits(),
            1,
        ),
        (
            "setp.lt.s32 %p1, %r2, 0; selp.b32 %r3, 1, 2, %p1;",
            u32::MAX,
            1,
        ),
        ("mov.pred %p1, 0; selp.b32 %r3, 1, 2, %p1;", 0, 2),
        ("mov.pred %p1, -1; selp.b32 %r3, 1, 2, %p1;", 0, 1),
        (
            "setp.lo.u32 %p1, %r2, 9; selp.b32 %r3, 1, 2, %p1;",
            u32::MAX,
            2,
        ),
        (
            "mov.b64 %rd8, {%r2, %r2}; mov.b64 {%r4, %r3}, %rd8;",
            77,
            77,
        ),
    ] {
        assert_eq!(one(line, input), want, "{line}");
    }
}

#[test]
fn a_name_declared_in_braces_hides_the_one_outside() {
    let lines = "mov.u32 %r3, 5;
        {
        .reg .b32 %r3;
        mov.u32 %r3, 6;
        }
        st.global.u32 [%rd1], %r3;";
    assert_eq!(run(lines, &[0]).unwrap(), [5]);
}

#[test]
fn lanes_part_and_come_together() {
    // Odd threads go round a loop as often as their number says; then all take their neighbour's.
    let got = run(
        "mov.u32 %r3, 0;
        and.b32 %r4, %r1, 1;
        setp.eq.s32 %p1, %r4, 0;
        @%p1 bra $even;
        mov.u32 %r5, 0;
        $loop:
        add.s32 %r3, %r3, 2;
        add.s32 %r5, %r5, 1;
        setp.lt.u32 %p2, %r5, %r1;
        @%p2 bra $loop;
        bra.uni $done;
        $even:
        mov.u32 %r3, 100;
        $done:
        shfl.sync.bfly.b32 %r3|%p3, %r3, 1, 31, -1;
        st.global.u32 [%rd1], %r3;",
        &numbers(32),
    )
    .unwrap();
    for (t, got) in (0..).zip(got) {
        assert_eq!(got, if t % 2 == 1 { 100 } else { 2 * (t + 1) });
    }
}

#[test]
fn what_is_not_known_is_refused_with_its_line() {
    for line in [
        "ex2.approx.f32 %f1, %f1;",
        "cvt.rn.relu.bf16x2.f32 %r1, %f1, %f1;",
        "cvt.rni.f32.f32 %f1, %f1;",
        "add.ftz.f32 %f1, %f1, %f1;",
        "ld.local.u32 %r1, [%rd1];",
    ] {
        let error = Module::new(&kernel(line)).unwrap_err();
        assert!(
            error.starts_with("line ") && error.contains(&line[..8]),
            "{error}"
        );
    }
}

#[test]
fn launches_outside_the_limits_are_refused() {
    assert!(fault("", 257).contains("at most 256"));
    let mut memory = Memory::default();
    let at = memory.allocate(8).unwrap();
    assert!(memory.free(at) && !memory.free(at));
    assert!(memory.write(at, &[0]).is_err());
}

#[test]
fn accesses_are_counted_as_a_gpu_serves_them() {
    let count = |space, stride: u64, bytes: usize| {
        let mut counters = Counters::default();
        let at = std::array::from_fn(|l| 4096 + l as u64 * stride);
        counters.access(space, &at, u32::MAX, bytes);
        counters
    };
    // Side by side every byte of a sector is used; 32 bytes apart one word of it.
    for (stride, bytes, useful, sectors) in [
        (4, 4, 128, 128),
        (16, 16, 512, 512),
        (32, 4, 128, 1024),
        (0, 4, 4, 32),
    ] {
        let c = count(Space::Global, stride, bytes);
        assert_eq!((c.useful_bytes, c.sector_bytes), (useful, sectors));
    }
    // A row a lane, in rows of 32 words, is one bank for all; of 33 words a bank each.
    for (stride, bytes, turns, conflicts) in [
        (4, 4, 1, 0),
        (128, 4, 1, 31),
        (132, 4, 1, 0),
        (0, 4, 1, 0),
        (16, 16, 4, 0),
        (8, 4, 1, 1),
    ] {
        let c = count(Space::Shared, stride, bytes);
        assert_eq!(
            (c.shared_turns, c.shared_conflicts),
            (turns, conflicts),
            "{stride}"
        );
    }
}

#[test]
fn planted_faults_change_one_line() {
    let mut all = shipped();
    // The longest file is left out.
    all.retain(|(name, _)| name != "wide_90a");
    for (_, text) in &all {
        for (kernel, faults) in mutants(text) {
            assert!(faults.len() > 8, "{kernel}");
            for fault in faults.iter().step_by(610) {
                let other = changed(text, &kernel, fault.place, &fault.to).unwrap();
                let lines = text.lines().zip(other.lines());
                assert_eq!(lines.filter(|(a, b)| a != b).count(), 1, "{fault}");
            }
        }
    }
    assert!(changed(&all[0].1, "no_such_kernel", 1, "").is_none());
}

#[test]
fn explained_faults_are_still_there() {
    let all = shipped();
    let mut faults = std::collections::BTreeMap::new();
    for row in include_str!("../survivors.tsv").lines().skip(1) {
        let cells: Vec<&str> = row.split('\t').collect();
        let [kernel, place, from, to, reason] = cells[..] else {
            panic!("{row}");
        };
        assert!(!reason.is_empty(), "{row}");
        let head = format!(".entry {kernel}(");
        let (_, text) = all.iter().find(|(_, text)| text.contains(&head)).unwrap();
        let of = faults.entry(text.as_str()).or_insert_with(|| mutants(text));
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let same = |fault: &crate::Mutant| {
            fault.place.to_string() == place
                && words(&fault.from) == words(from)
                && words(&fault.to) == words(to)
        };
        assert!(of[kernel].iter().any(same), "no such line any more: {row}");
    }
}

#[test]
fn a_statements_faults_are_those_that_its_words_allow() {
    let faults = |line: &str| -> Vec<String> {
        let all = mutants(&kernel(line)).remove("k").unwrap();
        let of = |fault: &&crate::Mutant| fault.from == line;
        all.iter()
            .filter(of)
            .map(|fault| fault.to.clone())
            .collect()
    };
    for (line, want) in [
        ("bar.sync 0;", &[""][..]),
        (
            "@%p1 st.global.v2.f32 [%rd1+8], {%f1, %f2};",
            &[
                "st.global.v2.f32 [%rd1+8], {%f1,%f2};",
                "@!%p1 st.global.v2.f32 [%rd1+8], {%f1,%f2};",
                "",
                "@%p1 st.global.v2.f32 [%rd1+16], {%f1,%f2};",
                "@%p1 st.global.v2.f32 [%rd1+0], {%f1,%f2};",
            ],
        ),
        (
            "setp.lt.u32 %p1, %r1, 31;",
            &[
                "setp.ge.u32 %p1, %r1, 31;",
                "setp.le.u32 %p1, %r1, 31;",
                "setp.lt.u32 %p1, %r1, 32;",
            ],
        ),
        (
            "sub.s32 %r1, %r2, -3;",
            &[
                "sub.s32 %r1, -3, %r2;",
                "add.s32 %r1, %r2, -3;",
                "sub.s32 %r1, %r2, -4;",
            ],
        ),
        ("mov.f32 %f1, 0f00000000;", &["mov.f32 %f1, 0f3F800000;"]),
        (
            "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], %r2;",
            &[
                "mov.pred %p1, 1;",
                "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1+8], %r2;",
                "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1+-8], %r2;",
            ],
        ),
        (
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1+8], %r2;",
            &[
                "",
                "mbarrier.arrive.shared::cta.b64 _, [%r1+8];",
                "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1+16], %r2;",
                "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1+0], %r2;",
            ],
        ),
        (
            "wgmma.wait_group.sync.aligned 1;",
            &["", "wgmma.wait_group.sync.aligned 2;"],
        ),
        ("wgmma.fence.sync.aligned;", &[""]),
    ] {
        assert_eq!(faults(line), want);
    }
}
