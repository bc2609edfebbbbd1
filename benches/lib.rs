//! What the benches share: numbers, buffers of the CPU, and one timed call.

use std::fmt::Display;
use std::hint::black_box;
use std::process::ExitCode;

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
///
/// # Errors
/// What the call said.
pub fn time(
    c: &mut Criterion,
    name: &str,
    amount: Throughput,
    mut call: impl FnMut() -> Result<()>,
) -> Result<()> {
    let (family, rest) = name.split_once('/').unwrap_or((name, ""));
    let mut group = c.benchmark_group(family);
    group.throughput(amount);
    let mut result = Ok(());
    group.bench_function(BenchmarkId::from_parameter(rest), |b| {
        b.iter(|| {
            if let Err(error) = black_box(call()) {
                result = Err(error);
            }
        });
    });
    group.finish();
    result
}

/// A bench's `main`: what failed is told, and is a failure to whoever started it.
pub fn run<E: Display>(
    benches: impl FnOnce(&mut Criterion) -> core::result::Result<(), E>,
) -> ExitCode {
    let mut c = Criterion::default().configure_from_args();
    match benches(&mut c) {
        Ok(()) => {
            c.final_summary();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
