//! Any bytes go through every block format, as numbers and as blocks.
#![no_main]

#[expect(dead_code, reason = "each target uses one body")]
#[path = "../../tests/checkpoints/naive.rs"]
mod naive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    naive::quant(bytes);
});
