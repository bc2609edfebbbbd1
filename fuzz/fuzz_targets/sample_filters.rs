//! Any logits through any filter and a draw are an error, or what the plain model says.
#![no_main]

#[expect(dead_code, reason = "each target reads some kinds of number")]
#[path = "../../tests/naive/bytes.rs"]
mod bytes;
#[path = "../../tests/naive/sampling.rs"]
mod sampling;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sampling::sampling(bytes);
});
