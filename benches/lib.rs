//! What the benches share: numbers, buffers of the CPU, and one timed call.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use maquette::Result;
use maquette::cpu::Cpu;
use maquette::ops::{Backend, Element};

/// A buffer of the CPU device.
pub type Buffer<T = f32> = <Cpu as Backend>::Buffer<T>;

/// A buffer that holds `data`.
///
/// # Errors
/// No memory.
pub fn buffer<T: Element>(cpu: &Cpu, data: &[T]) -> Result<Buffer<T>> {
    let mut buffer = cpu.zeros(data.len())?;
    cpu.write(&mut buffer, 0, data)?;
    Ok(buffer)
}

/// Numbers in [-1, 1].
#[must_use]
pub fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7).sin()).collect()
}

/// A buffer of such numbers.
///
/// # Errors
/// No memory.
pub fn random(cpu: &Cpu, len: usize) -> Result<Buffer> {
    buffer(cpu, &numbers(len))
}

/// Bytes of so many floats.
#[must_use]
pub fn floats(n: usize) -> Throughput {
    Throughput::Bytes(4 * n as u64)
}

/// Times one call; `amount` is what it must read and write at least, or its multiply-adds.
pub fn time(
    c: &mut Criterion,
    name: &str,
    amount: Throughput,
    mut call: impl FnMut() -> Result<()>,
) {
    let (family, rest) = name.split_once('/').unwrap_or((name, ""));
    let mut group = c.benchmark_group(family);
    group.throughput(amount);
    group.bench_function(BenchmarkId::from_parameter(rest), |b| {
        b.iter(|| black_box(call()))
    });
    group.finish();
}
