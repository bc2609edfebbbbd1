//! Gradients: against finite differences in F64, the reference's and a GPU's; and the CPU's against the reference's, bit for
//! bit. More of a GPU's: `tests/cuda/backward.rs`.

use std::sync::OnceLock;

use maquette::cpu::Cpu;
use maquette::ops::{Backend, Element};
use maquette::quant::{Format, QuantMatrix};
use maquette::rng;

mod agree;
mod differences;
#[cfg(feature = "cuda")]
#[path = "../gpu/mod.rs"]
mod gpu;

fn cpus() -> &'static [Cpu] {
    static CPUS: OnceLock<Vec<Cpu>> = OnceLock::new();
    CPUS.get_or_init(|| [1, 2, 3].map(|n| Cpu::with_threads(n).unwrap()).into())
}

/// Numbers between −2 and 2.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| rng::philox([seed, 0], [u32::try_from(i).unwrap(), 0, 0, 0])[0];
    (0..len)
        .map(|i| rng::open_unit(word(i)) * 4.0 - 2.0)
        .collect()
}

fn buffer<B: Backend, T: Element>(b: &B, data: &[T]) -> B::Buffer<T> {
    let mut buffer = b.zeros(data.len()).unwrap();
    b.write(&mut buffer, 0, data).unwrap();
    buffer
}

fn floats<B: Backend>(b: &B, buffer: &B::Buffer<f32>) -> Vec<f32> {
    let mut out = vec![0.0; b.len(buffer)];
    b.read(buffer, 0, &mut out).unwrap();
    out
}

/// A matrix `[n, k]` of a format, and the floats that it stands for.
fn matrix<B: Backend>(
    b: &B,
    format: Format,
    [n, k]: [usize; 2],
    seed: u32,
) -> (B::Matrix, Vec<f32>) {
    let data = numbers(n * k, seed);
    if format == Format::F32 {
        let view = QuantMatrix::f32(n, k, &data).unwrap();
        return (b.pack(&view).unwrap(), data);
    }
    let mut bytes = vec![0; format.bytes(n, k).unwrap()];
    format.quantise(&data, &mut bytes);
    let mut stored = vec![0.0; n * k];
    format.dequantise(&bytes, &mut stored);
    let view = QuantMatrix::from_bytes(format, n, k, &bytes).unwrap();
    (b.pack(&view).unwrap(), stored)
}
