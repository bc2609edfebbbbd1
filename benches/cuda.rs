//! Every kind of kernel on a GPU, by the device's own clock, in the shapes of the example `kernel_report`:
//! `cargo bench -p maquette-benches --bench cuda`. Without a GPU it fails.

use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use criterion::{BenchmarkId, Criterion, Throughput};
use maquette::Result;
use maquette::cpu::Roof;
use maquette::cuda::Device;
use maquette_benches::run;
use support::kernels::{Case, Op};

/// MiB of weights that are rotated through: more than caches hold.
const COLD: usize = 256;

/// Times a case: all calls of a measurement between two of the device's marks.
fn time(c: &mut Criterion, gpu: &Device, op: Op, case: Case<'_>) -> Result<()> {
    let (name, roof, amount, mut call) = case;
    // Its kernels are loaded.
    call(0)?;
    gpu.synchronise()?;
    let mut group = c.benchmark_group(op.name());
    group.throughput(match roof {
        Roof::Read => Throughput::Bytes(amount as u64),
        _ => Throughput::Elements(amount as u64),
    });
    let mut result = Ok(());
    group.bench_function(BenchmarkId::from_parameter(name), |b| {
        b.iter_custom(|times| {
            let timed = gpu.timed(|| (0..times as usize).try_for_each(&mut call));
            let ms = timed.unwrap_or_else(|error| {
                result = Err(error);
                f32::MIN_POSITIVE
            });
            Duration::from_secs_f64(f64::from(ms) / 1e3)
        });
    });
    group.finish();
    result
}

fn kernels(c: &mut Criterion, gpu: &Device) -> Result<()> {
    let (major, minor) = gpu.capability();
    println!("{}, compute capability {major}.{minor}", gpu.name());
    for &op in Op::value_variants() {
        for shape in op.shapes() {
            for case in op.cases(gpu, COLD, &shape, None)? {
                time(c, gpu, op, case)?;
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    run(|c| kernels(c, &Device::new(0)?))
}
