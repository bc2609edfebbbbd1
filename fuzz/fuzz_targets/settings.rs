//! Any text as settings of every model is an error, or sound.
#![no_main]

#[path = "../../tests/naive/settings.rs"]
mod settings;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    settings::settings(bytes);
});
