//! Who may touch what a launch has written or read in device memory.

use super::*;

/// Threads write the input's words, wait, and read them from the last to the first.
const REVERSED: &str = "st.global.u32 [%rd2], %r1;
    bar.sync 0;
    sub.s32 %r4, 63, %r1;
    mul.wide.u32 %rd8, %r4, 4;
    add.s64 %rd8, %rd5, %rd8;
    ld.global.u32 %r3, [%rd8];
    st.global.u32 [%rd1], %r3;";

/// Of blocks of four threads: the thread's number among all, and where its words of the input and the output are.
const OF_BLOCKS: &str = "mov.u32 %r5, %ctaid.x;
    mad.lo.s32 %r5, %r5, 4, %r1;
    mul.wide.u32 %rd8, %r5, 4;
    add.s64 %rd9, %rd4, %rd8;
    add.s64 %rd8, %rd5, %rd8;";

fn races(lines: &str, threads: u32, how: &str) {
    raced(run(lines, &numbers(threads)), how);
}

fn raced<T>(outcome: Result<T, String>, how: &str) {
    let error = outcome.err().expect("the planted bug was not found");
    let race = error.contains("race in device memory") && error.contains(how);
    assert!(race, "{error} is not one that {how}");
}

#[test]
fn threads_of_a_block_meet_at_its_barriers() {
    let got = run(REVERSED, &numbers(64)).unwrap();
    assert_eq!(got, numbers(64).into_iter().rev().collect::<Vec<_>>());
    // The first warp reads what the second has yet to write.
    races(&REVERSED.replace("bar.sync 0;", ""), 64, "read");
    races(
        &REVERSED.replace("bar.sync 0;", "bar.warp.sync -1;"),
        64,
        "read",
    );
    // Within one warp its own barrier is enough.
    let one = REVERSED.replace("bar.sync 0;", "bar.warp.sync -1;");
    let one = one.replace("63", "31");
    assert!(run(&one, &numbers(32)).is_ok());
    let one = one.replace("bar.warp.sync -1;", "");
    races(&one, 32, "wrote");
    // All lanes at once read what one of them wrote.
    let all = one.replace("ld.global.u32 %r3, [%rd8]", "ld.global.u32 %r3, [%rd5]");
    races(&all, 32, "wrote");
}

#[test]
fn nobody_writes_what_others_read() {
    // Lanes read words of others before those write them.
    let lanes = "sub.s32 %r4, 31, %r1;
        mul.wide.u32 %rd8, %r4, 4;
        add.s64 %rd8, %rd5, %rd8;
        ld.global.u32 %r3, [%rd8];
        bar.warp.sync -1;
        st.global.u32 [%rd2], %r1;
        st.global.u32 [%rd1], %r3;";
    assert!(run(lanes, &numbers(32)).is_ok());
    let lanes = lanes.replace("bar.warp.sync -1;", "");
    races(&lanes, 32, "read");
    // One word that all lanes read at once, and one that they read in turns.
    let all = lanes.replace("[%rd8];", "[%rd5];");
    races(&all, 32, "which warp 0 of block number 0 read");
    // Two warps read the word that the last thread writes, alone or together with it.
    let warps = "setp.eq.s32 %p1, %r1, 63;
        ld.global.u32 %r3, [%rd5+252];
        bar.sync 0;
        @%p1 st.global.u32 [%rd2], %r1;
        st.global.u32 [%rd1], %r3;";
    assert!(run(warps, &numbers(64)).is_ok());
    let first = Order::Ascending;
    let warps = warps.replace("bar.sync 0;", "");
    raced(ordered(&warps, &numbers(64), 1, first), "several warps");
    // A reader whose warp's barrier lies behind is none of the warp's any more, and still one of the block's.
    let later = warps.replace("@%p1 st", "bar.warp.sync -1; @%p1 st");
    raced(ordered(&later, &numbers(64), 1, first), "several warps");
    let other = warps.replace("ld.global", "setp.eq.s32 %p2, %r1, 0; @%p2 ld.global");
    let other = other.replace("st.global.u32 [%rd1], %r3", "st.global.u32 [%rd1], %r1");
    raced(ordered(&other, &numbers(64), 1, first), "thread 0");
}

#[test]
fn parts_of_words_may_be_of_several_threads() {
    let halves = "mul.wide.u32 %rd8, %r1, 2;
        add.s64 %rd8, %rd5, %rd8;
        st.global.u16 [%rd8], %r1;
        bar.sync 0;
        ld.global.u32 %r3, [%rd5];
        st.global.u32 [%rd1], %r3;";
    assert_eq!(run(halves, &numbers(64)).unwrap(), vec![1 << 16; 64]);
    races(&halves.replace("bar.sync 0;", ""), 64, "wrote");
    let again = "bar.sync 0; st.global.u16 [%rd5], %r1;";
    races(&halves.replace("bar.sync 0;", again), 64, "wrote");
    // A half of a word that others have read.
    let later = "st.global.u16 [%rd8], %r1; st.global.u32 [%rd1]";
    races(&halves.replace("st.global.u32 [%rd1]", later), 64, "read");
}

#[test]
fn blocks_never_meet() {
    let own = format!(
        "{OF_BLOCKS} st.global.u32 [%rd8], %r5; ld.global.u32 %r3, [%rd8]; st.global.u32 [%rd9], %r3;"
    );
    let blocks = |lines: &str| launched(lines, &numbers(12), 3).map(|(words, _)| words);
    assert_eq!(blocks(&own).unwrap(), numbers(12));
    // Another block's word is written, or read, a barrier of the block or not.
    raced(blocks(&own.replace("[%rd8], %r5", "[%rd2], %r5")), "wrote");
    let last = "bar.sync 0; ld.global.u32 %r3, [%rd5+44]";
    let read = own.replace("ld.global.u32 %r3, [%rd8]", last);
    raced(blocks(&read), "read");
    // The first thread of all reads what the last one writes: before, or behind.
    let first = "setp.eq.s32 %p1, %r5, 0; @%p1 ld.global.u32 %r3, [%rd5+44];";
    let read = own.replace(
        "st.global.u32 [%rd8]",
        &format!("{first} st.global.u32 [%rd8]"),
    );
    for (order, how) in [
        (Order::Ascending, "which thread 0 of block number 0 read"),
        (Order::Descending, "which thread 3 of block number 2 wrote"),
    ] {
        raced(ordered(&read, &numbers(12), 3, order), how);
    }
}

#[test]
fn atomic_operations_meet_each_other_alone() {
    let add = format!(
        "{OF_BLOCKS} red.global.add.u32 [%rd5+4], %r1; mov.u32 %r3, 7; st.global.u32 [%rd9], %r3;"
    );
    let blocks = |lines: &str| launched(lines, &numbers(12), 3).map(|(words, _)| words);
    assert_eq!(blocks(&add).unwrap(), [7; 12]);
    let read = "ld.global.u32 %r3, [%rd5+4];";
    raced(blocks(&add.replace("mov.u32 %r3, 7;", read)), "wrote");
    let before = "st.global.u32 [%rd5+4], %r1; red.global";
    raced(blocks(&add.replace("red.global", before)), "wrote");
    // The last of several threads is no more alone than the others; a barrier lies between, or does not.
    let one = "red.global.add.u32 [%rd5+4], %r1;
        bar.sync 0;
        setp.eq.s32 %p1, %r1, 31;
        @%p1 ld.global.u32 %r3, [%rd5+4];
        st.global.u32 [%rd1], %r1;";
    assert!(run(one, &numbers(32)).is_ok());
    races(&one.replace("bar.sync 0;", ""), 32, "wrote");
    // Nor is what a thread wrote itself free for others' operations once it has made one.
    let own = "setp.eq.s32 %p1, %r1, 0;
        @%p1 st.global.u32 [%rd5+4], %r1;
        red.global.add.u32 [%rd5+4], %r1;
        st.global.u32 [%rd1], %r1;";
    races(own, 32, "which thread 0 of block number 0 wrote");
    let read = "ld.global.u32 %r3, [%rd5+4]; red.global";
    races(&one.replace("red.global", read), 32, "read");
}

#[test]
fn what_is_read_as_constant_was_not_written() {
    let constant = "ld.global.nc.u32 %r2, [%rd2]; mov.u32 %r3, %r2; st.global.u32 [%rd1], %r3;";
    let copied = "cp.async.ca.shared.global [%rd3], [%rd2], 4;
        cp.async.commit_group;
        cp.async.wait_group 0;
        ld.shared.u32 %r3, [%rd3];
        st.global.u32 [%rd1], %r3;";
    for lines in [constant, copied] {
        assert_eq!(run(lines, &numbers(40)).unwrap(), numbers(40));
        let error = fault(&format!("st.global.u32 [%rd2], %r1; {lines}"), 40);
        assert!(error.contains("as what is never written"), "{error}");
    }
}
