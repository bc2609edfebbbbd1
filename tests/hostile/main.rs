//! Files that mean harm: each ends in an error that says what is wrong, or in what it truly holds, and costs at most
//! 100 MB beside itself.
//!
//! How long each took is printed, not asserted: `cargo test --all-features --test hostile -- --nocapture`.

#[path = "../checkpoints/build.rs"]
mod build;
mod configs;
mod gguf;
mod meter;
mod models;
mod safetensors;
mod texts;
#[cfg(feature = "tokenizers")]
mod tokenizers;
mod torch;

use std::error::Error;

use maquette::Result;

/// What a reader may hold beside the file.
const LIMIT: usize = 100 << 20;

fn ran<T>(name: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let (result, most, time) = meter::measured(call);
    let (ms, kib) = (time.as_millis(), most >> 10);
    if ms > 50 || kib > 10 << 10 {
        println!("{ms:6} ms {kib:8} KiB  {name}");
    }
    assert!(most <= LIMIT, "{name} held {kib} KiB");
    result
}

/// An error with its causes.
fn told(error: &maquette::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Fails unless a reader refuses a file with an error that says `what`.
fn refused<T>(name: &str, what: &str, read: impl FnOnce() -> Result<T>) {
    match ran(name, read) {
        Ok(_) => panic!("{name} was read"),
        Err(error) => {
            let text = told(&error);
            assert!(text.contains(what), "{name}: {text}");
        }
    }
}

/// Fails unless a reader takes a file, which looks odd and is none the worse for it.
fn taken<T>(name: &str, read: impl FnOnce() -> Result<T>) -> T {
    match ran(name, read) {
        Ok(value) => value,
        Err(error) => panic!("{name}: {}", told(&error)),
    }
}
