//! Checkpoint files: those that other programs write are read, those that lie are refused with a clear error.

mod build;
mod gguf;
mod mutated;
mod naive;
mod own;
mod safetensors;
mod torch;

use std::path::Path;

use maquette::model::weights::{DType, Tensor, WeightSource};

fn stored(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints/data");
    std::fs::read(folder.join(name)).unwrap()
}

fn names(source: &dyn WeightSource) -> Vec<String> {
    let mut names = Vec::new();
    source.names(&mut |name| names.push(name.to_owned()));
    names
}

fn floats(tensor: &Tensor<'_>) -> Vec<f32> {
    let bytes = tensor.bytes;
    match tensor.dtype {
        DType::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect(),
        DType::F16 => bytes
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32())
            .collect(),
        DType::BF16 => bytes
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32())
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// Eighths from −1 on, as the stored files hold them.
fn eighths(len: u8) -> Vec<f32> {
    (0..len).map(|i| f32::from(i) / 8.0 - 1.0).collect()
}

/// Runs a reader over a hostile file, and fails unless it ends in an error that says `what`.
fn refused<T>(name: &str, what: &str, read: impl FnOnce() -> maquette::Result<T>) {
    match read() {
        Ok(_) => panic!("{name} was read"),
        Err(error) => assert!(error.to_string().contains(what), "{name}: {error}"),
    }
}
