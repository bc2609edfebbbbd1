//! Asynchronous copies and matrices of a warp.

use super::{LOAD, counted, fault, kernel, numbers, run};
use crate::Module;

/// Each thread's word goes to shared memory and half a warp on, from where the thread reads it again.
const COPY: &str = "cp.async.ca.shared.global [%rd3], [%rd2], 4;
    cp.async.commit_group;
    add.s64 %rd8, %rd3, 128;
    cp.async.ca.shared.global [%rd8+0], [%rd2], 4;
    cp.async.commit_group;
    cp.async.wait_group 1;
    ld.shared.u32 %r3, [%rd3];
    cp.async.wait_group 0;
    ld.shared.u32 %r4, [%rd8];
    add.s32 %r3, %r3, %r4;
    st.global.u32 [%rd1], %r3;";

#[test]
fn copies_land_when_they_are_waited_for() {
    let (got, counters) = counted(COPY, &numbers(32)).unwrap();
    assert_eq!(got, numbers(32).iter().map(|n| 2 * n).collect::<Vec<_>>());
    // Both groups of 32 words are on their way at once.
    assert_eq!(counters.flight_bytes, 256);
    assert_eq!(counters.block_shared_bytes, 256);
    assert_eq!(counters.block_threads, 32);
    assert_eq!(counters.shared_conflicts, 0);
    assert_eq!(
        (counters.useful_bytes, counters.sector_bytes),
        (3 * 128, 3 * 128)
    );
    let all = COPY.replace("cp.async.wait_group 0;", "cp.async.wait_all;");
    assert!(run(&all, &numbers(32)).is_ok());
    // Waiting for all takes copies that no commit followed.
    let second = all.rfind("cp.async.commit_group;").unwrap();
    let mut open = all.clone();
    open.replace_range(second..second + 22, "");
    let open = open.replace("cp.async.wait_group 1;", "cp.async.wait_group 0;");
    assert!(run(&open, &numbers(32)).is_ok());
    let one_way = all
        .replace("cp.async.commit_group;", "")
        .replace("cp.async.wait_group 1;", "cp.async.wait_all;");
    assert_eq!(counted(&one_way, &numbers(32)).unwrap().1.flight_bytes, 256);
}

#[test]
fn copies_that_are_used_too_early_are_found() {
    let early = "before its copy was waited for";
    for (bug, with, message) in [
        ("cp.async.wait_group 1;", "", early),
        ("cp.async.wait_group 0;", "", early),
        ("cp.async.wait_group 1;", "cp.async.wait_group 2;", early),
        ("cp.async.wait_group 0;", "cp.async.wait_group 1;", early),
        // Without its own commit the first copy is in the second group, which is the one that may stay.
        (
            "[%rd2], 4;\n    cp.async.commit_group;",
            "[%rd2], 4;",
            early,
        ),
        (
            "cp.async.wait_group 1;",
            "st.shared.u32 [%rd3], %r1;",
            early,
        ),
        (
            "cp.async.wait_group 1;",
            "cp.async.ca.shared.global [%rd3], [%rd2], 4;",
            early,
        ),
        ("[%rd3], [%rd2], 4", "[%rd3+2], [%rd2], 4", "misaligned"),
        ("[%rd3], [%rd2], 4", "[%rd3], [%rd2+2], 4", "misaligned"),
        ("[%rd3], [%rd2], 4", "[%rd3], [%rd1], 4", "never written"),
        (
            "[%rd3], [%rd2], 4",
            "[%rd3], [%rd2+4], 4",
            "of an allocation",
        ),
        (
            "[%rd3], [%rd2], 4",
            "[%rd3+-4], [%rd2], 4",
            "of shared memory",
        ),
        // What another lane copied needs a warp's barrier behind the wait.
        (
            "ld.shared.u32 %r4, [%rd8]",
            "ld.shared.u32 %r4, [%rd7]",
            "race",
        ),
        // All lanes to one word.
        ("[%rd3], [%rd2], 4", "[%rd7], [%rd2], 4", "written before"),
    ] {
        let lines = COPY.replacen(bug, with, 1);
        assert_ne!(lines, COPY);
        let error = fault(&lines, 32);
        assert!(error.contains(message), "{with}: {error}");
    }
    let error = fault("cp.async.ca.shared.global [%rd3], [%rd2], 4;", 32);
    assert!(error.contains("leaves before its copies"), "{error}");
    // A word that another thread read since the last barrier may not be copied to.
    let over = "st.shared.u32 [%rd3], %r1;
        bar.warp.sync -1;
        ld.shared.u32 %r3, [%rd7];
        bar.warp.sync -1;
        cp.async.ca.shared.global [%rd3], [%rd2], 4;
        cp.async.wait_all;";
    assert!(run(over, &numbers(32)).is_ok());
    let error = fault(
        &over.replacen(
            "ld.shared.u32 %r3, [%rd7];\n        bar.warp.sync -1;",
            "ld.shared.u32 %r3, [%rd7];",
            1,
        ),
        32,
    );
    assert!(error.contains("race in shared memory"), "{error}");
}

#[test]
fn copies_that_read_nothing_fill_zeros() {
    let fill = "and.b32 %r4, %r1, 4;
        cp.async.ca.shared.global [%rd3], [%rd2], 4, %r4;
        cp.async.commit_group;
        cp.async.wait_group 0;
        ld.shared.u32 %r3, [%rd3];
        st.global.u32 [%rd1], %r3;";
    let (got, counters) = counted(fill, &numbers(32)).unwrap();
    let want = |n: &u32| if n & 4 > 0 { *n } else { 0 };
    assert_eq!(got, numbers(32).iter().map(want).collect::<Vec<_>>());
    assert_eq!(counters.flight_bytes, 64);
    // Whoever reads nothing may point anywhere.
    let wild = fill
        .replacen("[%rd2], 4", "[%rd8], 4", 1)
        .replacen("%r1, 4", "%r1, 0", 1);
    let wild = format!("add.s64 %rd8, %rd2, 4096;\n{wild}");
    assert_eq!(run(&wild, &numbers(32)).unwrap(), [0; 32]);
    let error = fault(&fill.replace("%r1, 4", "%r1, 2"), 32);
    assert!(error.contains("a part of 4 bytes"), "{error}");
}

/// 16 rows of 4 words in shared memory, read as two matrices by each of two warps.
const MATRICES: &str = "st.shared.u32 [%rd3], %r1;
    bar.sync 0;
    and.b32 %r4, %r1, 15;
    mul.wide.u32 %rd8, %r4, 16;
    add.s64 %rd8, %rd7, %rd8;
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r5, %r6}, [%rd8];
    mad.lo.s32 %r3, %r5, 100, %r6;
    st.global.u32 [%rd1], %r3;";

#[test]
fn a_lane_gets_its_part_of_every_matrix() {
    let want: Vec<u32> = (0..64).map(|t| t % 32 * 100 + t % 32 + 32).collect();
    let (got, counters) = counted(MATRICES, &numbers(64)).unwrap();
    assert_eq!(got, want);
    assert_eq!(counters.shared_conflicts, 0);
    let four = MATRICES.replace(
        "x2.shared.b16 {%r5, %r6}",
        "x4.shared.b16 {%r7, %r8, %r5, %r6}",
    );
    assert_eq!(run(&four, &numbers(64)).unwrap(), want);
    let one = MATRICES.replace("x2.shared.b16 {%r5, %r6}", "x1.shared.b16 {%r5}");
    let one = one.replace("100, %r6", "1, 7");
    let want: Vec<u32> = (0..64).map(|t| t % 32 + 7).collect();
    assert_eq!(run(&one, &numbers(64)).unwrap(), want);
    // Rows 32 bytes apart meet in the same banks.
    let apart = MATRICES
        .replace("15;", "7;")
        .replace("%r4, 16;", "%r4, 32;");
    assert_eq!(counted(&apart, &numbers(64)).unwrap().1.shared_conflicts, 4);
    for (bug, with, message) in [
        ("bar.sync 0;", "", "shared memory"),
        ("[%rd8]", "[%rd8+8]", "misaligned"),
        ("[%rd8]", "[%rd8+16]", "of shared memory"),
        (
            "ldmatrix",
            "setp.lt.u32 %p1, %r4, 8; @%p1 ldmatrix",
            "at a warp's operation",
        ),
    ] {
        let error = fault(&MATRICES.replacen(bug, with, 1), 64);
        assert!(error.contains(message), "{with}: {error}");
    }
    let error = fault(&MATRICES.replace("bar.sync 0;", ""), 16);
    assert!(error.contains("alone have no matrices"), "{error}");
}

#[test]
fn a_turned_matrix_is_read_down_its_columns() {
    let lines = MATRICES.replace("x2.shared", "x2.trans.shared").replace(
        "mad.lo.s32 %r3, %r5, 100, %r6;",
        "mov.b32 %r3, %r5; @%p1 mov.b32 %r3, %r6;",
    );
    // Halves are twice a word's number, and one more for the upper one.
    let numbered = |lines: &str| {
        lines.replacen("[%rd3], %r1", "[%rd3], %r8", 1).replacen(
            "st.shared",
            "mad.lo.s32 %r8, %r1, 131074, 65536; st.shared",
            1,
        )
    };
    for (second, test) in [
        (0, "setp.ne.s32 %p1, %r1, %r1;"),
        (32, "setp.eq.s32 %p1, %r1, %r1;"),
    ] {
        let got = run(&format!("{test} {}", numbered(&lines)), &numbers(64)).unwrap();
        for (t, word) in got.into_iter().enumerate() {
            let (g, t) = (t as u32 % 32 / 4, t as u32 % 4);
            // Half g of the rows 2 t and 2 t + 1, which are four words long.
            let low = 2 * (second + 2 * t * 4) + g;
            assert_eq!(word, low | (low + 8) << 16, "{g}, {t}");
        }
    }
}

#[test]
fn floats_become_halves_and_powers() {
    let [one, next] = [1.0_f32, -2.5].map(f32::to_bits);
    for (a, b, want) in [
        (one, next, 0x3f80_c020),
        // In the middle between two: the even one.
        (0x3f80_8000, 0x3f81_8000, 0x3f80_3f82),
        (0x3f80_8001, 0x3f81_7fff, 0x3f81_3f81),
        (0x7f80_0000, 0xffc0_0001, 0x7f80_7fff),
        (0x7f7f_ffff, 0x0000_0000, 0x7f80_0000),
        // Below the smallest normal number steps are as wide as just above it.
        (0x0001_c000, 0x0000_8001, 0x0002_0001),
    ] {
        let lines = format!(
            "{LOAD} mov.b32 %f1, {a}; mov.b32 %f2, {b}; cvt.rn.bf16x2.f32 %r3, %f1, %f2; st.global.u32 [%rd1], %r3;"
        );
        assert_eq!(run(&lines, &[0]).unwrap(), [want], "{a:#x}, {b:#x}");
    }
    for (x, want) in [
        (0.0_f32, 1.0_f32),
        (-0.0, 1.0),
        (0.5, std::f32::consts::SQRT_2),
        (-3.0, 0.125),
        (-126.0, f32::MIN_POSITIVE),
        (-126.5, 0.0),
        (f32::NEG_INFINITY, 0.0),
        (200.0, f32::INFINITY),
    ] {
        let lines = format!(
            "{LOAD} mov.b32 %f1, {}; ex2.approx.ftz.f32 %f1, %f1; mov.b32 %r3, %f1; st.global.u32 [%rd1], %r3;",
            x.to_bits()
        );
        assert_eq!(run(&lines, &[0]).unwrap(), [want.to_bits()], "{x}");
    }
}

const MULTIPLY: &str = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r3, %r4, %r5, %r6}, {%r7, %r8, %r9, %r10}, \
     {%r11, %r12}, {%r13, %r14, %r15, %r16};";

/// A product of registers that are multiples of the thread's input; all four words of a thread.
fn multiplied(input: &[u32], factors: [u32; 10]) -> Vec<[u32; 4]> {
    let mut lines = LOAD.to_owned();
    for (register, factor) in (7..).zip(factors) {
        lines += &format!("mul.lo.s32 %r{register}, %r2, {factor};\n");
    }
    let words = [3, 4, 5, 6].map(|d| {
        let lines = format!("{lines}{MULTIPLY}\nst.global.u32 [%rd1], %r{d};");
        run(&lines, input).unwrap()
    });
    (0..input.len())
        .map(|t| std::array::from_fn(|d| words[d][t]))
        .collect()
}

#[test]
fn products_of_bytes_are_those_of_the_manual() {
    let ones = 0x0101_0101;
    // 32 products of 1 and 2, and 5; the lowest byte with itself; sums that wrap around.
    let got = multiplied(
        &[1; 32],
        [ones, ones, ones, ones, 2 * ones, 2 * ones, 5, 6, 7, 8],
    );
    assert_eq!(got, [[69, 70, 71, 72]; 32]);
    let low = 0x8080_8080;
    let got = multiplied(&[1; 32], [low, low, low, low, low, low, 0, 1, 2, u32::MAX]);
    assert_eq!(got, [[524_288, 524_289, 524_290, 524_287]; 32]);
    let input: Vec<u32> = (0..32_u32)
        .map(|t| (t + 1).wrapping_mul(0x9E37_79B9))
        .collect();
    let factors = [3, 5, 7, 9, 11, 13, 15, 17, 19, 21];
    // Elements by their number among a lane's, as the manual places them.
    let word = |lane: usize, factor: usize| input[lane].wrapping_mul(factors[factor]);
    let byte = |lane: usize, first: usize, i: usize| {
        i64::from(word(lane, first + i / 4).to_le_bytes()[i % 4].cast_signed())
    };
    let (mut a, mut b, mut c) = ([[0; 32]; 16], [[0; 8]; 32], [[0; 8]; 16]);
    let mut places = Vec::new();
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        for i in 0..16 {
            let upper = i < 4 || (8..12).contains(&i);
            let row = if upper { group } else { group + 8 };
            let col = thread * 4 + (i & 3) + if i < 8 { 0 } else { 16 };
            a[row][col] = byte(lane, 0, i);
        }
        for i in 0..8 {
            let row = thread * 4 + (i & 3) + if i < 4 { 0 } else { 16 };
            b[row][group] = byte(lane, 4, i);
        }
        for i in 0..4 {
            let row = if i < 2 { group } else { group + 8 };
            let col = thread * 2 + (i & 1);
            c[row][col] = i64::from(word(lane, 6 + i).cast_signed());
            places.push((row, col));
        }
    }
    let got = multiplied(&input, factors).concat();
    for ((row, col), got) in places.into_iter().zip(got) {
        let dot: i64 = (0..32).map(|k| a[row][k] * b[k][col]).sum();
        let want = (dot + c[row][col]) as u32;
        assert_eq!(got, want, "row {row}, column {col}");
    }
}

/// A BF16 in both halves of a word.
fn twice(x: f32) -> u32 {
    let half = x.to_bits() >> 16;
    half | half << 16
}

#[test]
fn products_of_halves_are_those_of_the_manual() {
    let multiply = MULTIPLY
        .replace("m16n8k32", "m16n8k16")
        .replace("s32.s8.s8.s32", "f32.bf16.bf16.f32");
    // Each lane's words are its own number: rows, columns and places along k are told apart.
    let mut lines = String::from(LOAD);
    for register in 7..13 {
        lines += &format!("mov.b32 %r{register}, %r2;\n");
    }
    let one = 1.0_f32.to_bits();
    for register in 13..17 {
        lines += &format!("mov.b32 %r{register}, {one};\n");
    }
    let number = |lane: usize| (lane as f32 - 9.0) * 0.25;
    let input: Vec<u32> = (0..32).map(|lane| twice(number(lane))).collect();
    for d in 0..4 {
        let got = run(
            &format!("{lines}{multiply}\nst.global.u32 [%rd1], %r{};", 3 + d),
            &input,
        );
        for (lane, got) in got.unwrap().into_iter().enumerate() {
            // Of a: rows g and g + 8 have the same lanes; of b: column 2 t and 2 t + 1.
            let (row, col) = (lane / 4, lane % 4 * 2 + d % 2);
            let dot: f32 = (0..4)
                .map(|t| 4.0 * number(4 * row + t) * number(4 * col + t))
                .sum();
            assert_eq!(f32::from_bits(got), 1.0 + dot, "lane {lane}, word {d}");
        }
    }
    // The places along k: the second word of b meets the third and fourth of a, a low half the low half.
    let mut lines = String::from(LOAD);
    for (register, word) in [
        (7, 1.0_f32.to_bits() >> 16),
        (8, 2.0_f32.to_bits()),
        (9, 4.0_f32.to_bits() >> 16),
        (10, 8.0_f32.to_bits()),
        (11, twice(1.0)),
        (12, twice(16.0)),
        (13, 0),
        (14, 0),
        (15, 0),
        (16, 0),
    ] {
        lines += &format!("mov.b32 %r{register}, {word};\n");
    }
    for (d, want) in [(3, 4.0 + 4.0 * 64.0), (5, 8.0 + 8.0 * 64.0)] {
        let got = run(
            &format!("{lines}{multiply}\nst.global.u32 [%rd1], %r{d};"),
            &[0; 32],
        );
        assert_eq!(got.unwrap(), [f32::to_bits(want); 32]);
    }
}

#[test]
fn lanes_vote_and_are_counted() {
    let votes = format!(
        "{LOAD} setp.lt.u32 %p1, %r2, 5;
        vote.sync.ballot.b32 %r3, %p1, -1;
        popc.b32 %r4, %r3;
        mad.lo.s32 %r3, %r4, 100000, %r3;
        st.global.u32 [%rd1], %r3;"
    );
    let input: Vec<u32> = (0..32).map(|t| t % 9).collect();
    let few = |t: u32| t % 9 < 5;
    let mask = (0..32).filter(|&t| few(t)).fold(0_u32, |m, t| m | 1 << t);
    let want = (mask.count_ones() * 100_000).wrapping_add(mask);
    assert_eq!(run(&votes, &input).unwrap(), [want; 32]);
    // Lanes that never come.
    let error = fault(
        &votes.replace("vote", "setp.lt.u32 %p2, %r1, 7; @%p2 vote"),
        32,
    );
    assert!(error.contains("at a warp's operation"), "{error}");
}

#[test]
fn other_copies_and_products_are_refused() {
    for line in [
        "cp.async.cg.shared.global [%rd3], [%rd2], 8;",
        "cp.async.ca.shared.global [%rd3], [%rd2], 4, %r1, %rd1;",
        "cp.async.ca.shared.global [%rd3], [%rd2], 4, %rd1;",
        "cp.async.ca.shared.global.L2::128B [%rd3], [%rd2], 16;",
        "cp.async.bulk.commit_group;",
        "cp.async.wait_group;",
        "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b8 {%r5, %r6}, [%rd3];",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6}, [%rd3];",
        &MULTIPLY.replace("row.col.s32", "row.col.satfinite.s32"),
        &MULTIPLY.replace("s8.s8", "u8.s8"),
        &MULTIPLY.replace("k32", "k16"),
        &MULTIPLY.replace("s32.s8.s8.s32", "f32.bf16.bf16.f32"),
        &MULTIPLY.replace("{%r11, %r12}", "{%r11}"),
    ] {
        let error = Module::new(&kernel(line)).unwrap_err();
        assert!(error.starts_with("line "), "{error}");
    }
}
