//! Who may touch what a launch has written in device memory.

use super::*;

/// Threads write the input's words, wait, and read them from the last to the first.
const REVERSED: &str = "st.global.u32 [%rd2], %r1;
    bar.sync 0;
    sub.s32 %r4, 63, %r1;
    mul.wide.u32 %rd8, %r4, 4;
    add.s64 %rd8, %rd5, %rd8;
    ld.global.u32 %r3, [%rd8];
    st.global.u32 [%rd1], %r3;";

fn races(lines: &str, threads: u32) {
    let error = fault(lines, threads);
    assert!(error.contains("race in device memory"), "{error}");
}

#[test]
fn threads_of_a_block_meet_at_its_barriers() {
    let got = run(REVERSED, &numbers(64)).unwrap();
    assert_eq!(got, numbers(64).into_iter().rev().collect::<Vec<_>>());
    races(&REVERSED.replace("bar.sync 0;", ""), 64);
    races(&REVERSED.replace("bar.sync 0;", "bar.warp.sync -1;"), 64);
    // Within one warp its own barrier is enough.
    let one = REVERSED.replace("bar.sync 0;", "bar.warp.sync -1;");
    let one = one.replace("63", "31");
    assert!(run(&one, &numbers(32)).is_ok());
    races(&one.replace("bar.warp.sync -1;", ""), 32);
    // All lanes at once read what one of them wrote.
    races(
        &one.replace("ld.global.u32 %r3, [%rd8]", "ld.global.u32 %r3, [%rd5]")
            .replace("bar.warp.sync -1;", ""),
        32,
    );
    // Nobody may write what others have read: another warp, or lanes of the same one.
    races(
        &format!("{LOAD} add.s64 %rd8, %rd5, 128; st.global.u32 [%rd8], %r2; {REVERSED}"),
        64,
    );
    let after = "sub.s32 %r4, 31, %r1;
        mul.wide.u32 %rd8, %r4, 4;
        add.s64 %rd8, %rd5, %rd8;
        ld.global.u32 %r3, [%rd8];
        bar.warp.sync -1;
        st.global.u32 [%rd2], %r1;
        st.global.u32 [%rd1], %r3;";
    assert!(run(after, &numbers(32)).is_ok());
    let after = after.replace("bar.warp.sync -1;", "");
    races(&after, 32);
    races(&after.replace("[%rd8];", "[%rd5];"), 32);
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
    races(&halves.replace("bar.sync 0;", ""), 64);
    races(
        &halves.replace("bar.sync 0;", "bar.sync 0; st.global.u16 [%rd5], %r1;"),
        64,
    );
}

#[test]
fn blocks_never_meet() {
    let own = "mov.u32 %r5, %ctaid.x;
        mad.lo.s32 %r5, %r5, 4, %r1;
        mul.wide.u32 %rd8, %r5, 4;
        add.s64 %rd9, %rd4, %rd8;
        add.s64 %rd8, %rd5, %rd8;
        st.global.u32 [%rd8], %r5;
        ld.global.u32 %r3, [%rd8];
        st.global.u32 [%rd9], %r3;";
    let blocks = |lines: &str| launched(lines, &numbers(12), 3).map(|(words, _)| words);
    assert_eq!(blocks(own).unwrap(), numbers(12));
    let raced = |lines: &str| {
        let error = blocks(lines).expect_err("the planted bug was not found");
        assert!(error.contains("race in device memory"), "{error}");
    };
    // Another block's word is written, or read, a barrier of the block or not.
    raced(&own.replace("[%rd8], %r5", "[%rd2], %r5"));
    raced(&own.replace(
        "ld.global.u32 %r3, [%rd8]",
        "bar.sync 0; ld.global.u32 %r3, [%rd5+44]",
    ));
    // Atomic operations of all may meet, and nothing else may meet them.
    let all = own.replace(
        "st.global.u32 [%rd8], %r5;",
        "red.global.add.u32 [%rd5+4], 0;",
    );
    let all = all.replace("[%rd5+4], 0;", "[%rd5+4], %r1;");
    assert_eq!(
        blocks(&all.replace("ld.global.u32 %r3, [%rd8]", "mov.u32 %r3, 7")).unwrap(),
        [7; 12]
    );
    raced(&all.replace("[%rd8]", "[%rd5+4]"));
    raced(&all.replace("red.global", "st.global.u32 [%rd5+4], %r1; red.global"));
}

#[test]
fn what_is_read_as_constant_is_not_written() {
    let constant = "ld.global.nc.u32 %r2, [%rd2]; mov.u32 %r3, %r2; st.global.u32 [%rd1], %r3;";
    assert_eq!(run(constant, &numbers(40)).unwrap(), numbers(40));
    let error = fault(&format!("st.global.u32 [%rd2], %r1; {constant}"), 40);
    assert!(error.contains("as what is never written"), "{error}");
}
