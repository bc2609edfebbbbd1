//! Any script of calls leaves every candidate with its own history.
#![no_main]

#[expect(dead_code, reason = "each target reads some kinds of number")]
#[path = "../../tests/naive/bytes.rs"]
mod bytes;
#[path = "../../tests/naive/sessions.rs"]
mod sessions;
#[path = "../../tests/tiny_janus/mod.rs"]
mod tiny_janus;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sessions::sessions(bytes);
});
