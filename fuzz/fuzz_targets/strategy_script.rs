//! Any verdicts, failures and interruptions: a search ends and frees everything.
#![no_main]

#[expect(dead_code, reason = "each target reads some kinds of number")]
#[path = "../../tests/naive/bytes.rs"]
mod bytes;
#[path = "../../tests/naive/searches.rs"]
mod searches;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    searches::searches(bytes);
});
