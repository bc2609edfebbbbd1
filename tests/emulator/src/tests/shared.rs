//! What threads share: barriers, accesses to memory, who may race with whom.

use super::*;

#[test]
fn barriers_bring_warps_together() {
    let reversed = "st.shared.u32 [%rd3], %r1;
        bar.sync 0;
        sub.s32 %r4, 63, %r1;
        mul.wide.u32 %rd8, %r4, 4;
        add.s64 %rd8, %rd7, %rd8;
        ld.shared.u32 %r3, [%rd8];
        st.global.u32 [%rd1], %r3;";
    let got = run(reversed, &numbers(64)).unwrap();
    assert_eq!(got, numbers(64).into_iter().rev().collect::<Vec<_>>());
    // Wherever in the code each of them comes to it.
    let parted = "setp.lt.u32 %p1, %r1, 32;
        @%p1 bra $a;
        bar.sync 0;
        bra.uni $b;
        $a: bar.sync 0;
        $b: mov.u32 %r3, 0;";
    let got = run(&reversed.replace("bar.sync 0;", parted), &numbers(64)).unwrap();
    assert_eq!(got, numbers(64).into_iter().rev().collect::<Vec<_>>());
    // The same without the barrier: a race, or a word that nobody wrote yet.
    let error = fault(&reversed.replace("bar.sync 0;", ""), 64);
    assert!(error.contains("shared memory"), "{error}");
    // A warp's own barrier does not reach the other warp.
    let error = fault(&reversed.replace("bar.sync 0;", "bar.warp.sync -1;"), 64);
    assert!(error.contains("shared memory"), "{error}");
    // Within one warp it does.
    let one = reversed
        .replace("bar.sync 0;", "bar.warp.sync -1;")
        .replace("63", "31");
    assert!(run(&one, &numbers(32)).is_ok());
    let error = fault(&one.replace("bar.warp.sync -1;", ""), 32);
    assert!(error.contains("race in shared memory"), "{error}");
}

#[test]
fn parts_of_words_have_owners_of_their_own() {
    let reversed = "mul.wide.u32 %rd8, %r1, 2;
        add.s64 %rd8, %rd7, %rd8;
        st.shared.u16 [%rd8], %r1;
        bar.sync 0;
        sub.s32 %r4, 63, %r1;
        mul.wide.u32 %rd9, %r4, 2;
        add.s64 %rd9, %rd7, %rd9;
        ld.shared.u16 %r3, [%rd9];
        st.global.u32 [%rd1], %r3;";
    let got = run(reversed, &numbers(64)).unwrap();
    assert_eq!(got, (0..64).rev().collect::<Vec<u32>>());
    let races = |lines: &str| {
        let error = fault(lines, 64);
        assert!(error.contains("race in shared memory"), "{error}");
    };
    // Another thread's half, and a word of two of them.
    let write = "bar.sync 0; st.shared.u16 [%rd8], %r1;";
    races(&reversed.replace("bar.sync 0;", write));
    let (again, word) = (
        reversed.replace("bar.sync 0;", write),
        "ld.shared.u32 %r3, [%rd7];",
    );
    races(&again.replace("ld.shared.u16 %r3, [%rd9];", word));
    // A half that others have read, alone or with its word.
    let later = "st.shared.u16 [%rd8], %r1; st.global.u32";
    races(&reversed.replace("st.global.u32", later));
    let whole = reversed.replace("ld.shared.u16 %r3, [%rd9];", word);
    races(&whole.replace("st.global.u32", later));
    // The same half twice.
    races(&reversed.replace("bar.sync 0;", "bar.sync 0; st.shared.u16 [%rd7], %r1;"));
}

#[test]
fn copies_take_along_what_was_never_written() {
    let mut memory = Memory::default();
    let (from, to) = (memory.allocate(12).unwrap(), memory.allocate(12).unwrap());
    memory.write(from, &[1; 8]).unwrap();
    memory.write(to, &[2; 12]).unwrap();
    memory.copy(from + 4, to + 2, 8).unwrap();
    let (index, offset) = memory.find(to, 12).unwrap();
    let written = |at, len| memory.allocation(index).was_written(offset + at, len);
    assert!(written(0, 6) && written(10, 2) && !written(6, 1) && !written(9, 1));
}

#[test]
fn accesses_are_checked() {
    let copy = format!("{LOAD} mov.u32 %r3, %r2; {STORE}");
    assert_eq!(run(&copy, &numbers(40)).unwrap(), numbers(40));
    for (bug, with, message) in [
        ("[%rd2]", "[%rd2+4]", "of an allocation"),
        ("[%rd2]", "[%rd2+-4]", "allocation"),
        ("[%rd2]", "[%rd2+2]", "misaligned"),
        ("[%rd2]", "[%rd1]", "never written"),
        ("[%rd1], %r3", "[%rd1+4], %r3", "of an allocation"),
        (
            "ld.global.u32 	%r2, [%rd2]",
            "ld.shared.u32 %r2, [%rd3]",
            "never written",
        ),
        (
            "ld.global.u32 	%r2, [%rd2]",
            "ld.shared.u32 %r2, [%rd3+256]",
            "bytes of shared memory",
        ),
        (
            "ld.global.u32 	%r2, [%rd2]",
            "st.shared.u32 [%rd7], %r1",
            "race in shared memory",
        ),
    ] {
        let error = fault(&copy.replace(bug, with), 40);
        assert!(error.contains(message), "{with}: {error}");
    }
}

#[test]
fn threads_that_never_come_are_named() {
    let some = "setp.lt.u32 %p1, %r1, 16;";
    for (lines, message) in [
        (
            format!("{some} @%p1 bar.sync 0;"),
            "a barrier for some lanes",
        ),
        (
            format!("{some} @%p1 bra $a; bar.sync 0; $a: bar.sync 0;"),
            "different barriers",
        ),
        (format!("{some} @%p1 ret; bar.sync 0;"), "which have left"),
        (
            "setp.lt.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0;".to_owned(),
            "warps part",
        ),
        (
            format!(
                "{some} @%p1 bra $a; shfl.sync.idx.b32 %r3|%p2, %r1, 0, 31, -1; $a: mov.u32 %r3, 0;"
            ),
            "never come",
        ),
        (
            format!("{some} @%p1 ret; shfl.sync.idx.b32 %r3|%p2, %r1, 0, 31, -1;"),
            "are left",
        ),
        ("$a: bra.uni $a;".to_owned(), "without an end"),
    ] {
        let error = fault(&lines, 64);
        assert!(error.contains(message), "{lines}: {error}");
    }
}

#[test]
fn atomics_add_up_and_reads_beside_them_race() {
    let count = "setp.ne.s32 %p1, %r1, 0;
        @!%p1 st.shared.u32 [%rd7], 0;
        bar.sync 0;
        red.shared.add.u32 [%rd7], 1;
        bar.sync 0;
        ld.shared.u32 %r3, [%rd7];
        st.global.u32 [%rd1], %r3;";
    let count = count.replace("[%rd7], 0;", "[%rd7], %r1;");
    assert_eq!(run(&count, &numbers(64)).unwrap(), vec![64; 64]);
    let last = count.rfind("bar.sync 0;").unwrap();
    let mut racing = count.clone();
    racing.replace_range(last..last + 11, "");
    assert!(fault(&racing, 64).contains("race in shared memory"));
}
