//! The bundled files, for tests that need real weights.

use std::fs;
use std::path::PathBuf;

/// Bytes of a bundled file.
pub fn bytes(name: &str) -> Vec<u8> {
    fs::read(
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("examples/demo/weights")
            .join(name),
    )
    .unwrap()
}

/// Text of a bundled file.
pub fn text(name: &str) -> String {
    String::from_utf8(bytes(name)).unwrap()
}
