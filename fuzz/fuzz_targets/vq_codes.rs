//! Any codes and latents are looked up without reading beyond the codebook.
#![no_main]

#[expect(dead_code, reason = "each target reads some kinds of number")]
#[path = "../../tests/naive/bytes.rs"]
mod bytes;
#[path = "../../tests/naive/codebooks.rs"]
mod codebooks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    codebooks::codebooks(bytes);
});
