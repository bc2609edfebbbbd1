//! Any text as lines of an evaluation is an error, or reads back as itself.
#![no_main]

#[path = "../../tests/naive/records.rs"]
mod records;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    records::records(bytes);
});
