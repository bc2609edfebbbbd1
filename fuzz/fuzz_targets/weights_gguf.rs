//! Any bytes as a GGUF file are an error, or what the naive reader reads.
#![no_main]

#[expect(dead_code, reason = "each target uses one reader")]
#[path = "../../tests/checkpoints/naive.rs"]
mod naive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    naive::gguf(bytes);
});
