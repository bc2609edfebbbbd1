//! Every kind of kernel alone, beside what the machine could do in the same run.
//!
//! `cargo run --release --example kernel_report --all-features -- --device cpu --threads 2 --op gemm --shape 20,4096,4096`
//!
//! A row is the median of its calls: time, throughput, and its share of the roof that bounds it (bytes read, operations
//! on floats, operations on bytes). Weights rotate over more memory than caches hold.
//!
//! On a GPU (`--device cuda`) times are those of the device's own clock, and the roof of bytes is what a copy inside its
//! memory moves in the same run; rows that arithmetic bounds have no roof there. Rows of bytes that other caches than
//! those of weights hold may pass it. The stand-in driver of the tests has no clock, and the report says so.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use maquette::cpu::Roof;
use support::kernels::clock::Clocked;
use support::kernels::{Case, Op};
use support::open::device::{Choice, Device};
use support::open::{Res, ended};
use support::say;
use support::weights::Weights;

/// Times kernels.
#[derive(Debug, Parser)]
struct Cli {
    /// Where they run: `cpu`, `cuda`, `cuda:N`, `cublaslt` (`cuda` with large products in BF16 through that library) or `auto`.
    #[arg(long, default_value = "cpu")]
    device: Choice,
    /// Threads on the CPU. [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// One operation alone. [default: all]
    #[arg(long, value_enum)]
    op: Option<Op>,
    /// Its sizes: m,n,k of gemm; size,c_in,c_out of conv2d; sequences,queries,keys,heads,head_dim of attention, then
    /// keys of a prefix that all share, then heads of keys and values, with which queries see no later keys;
    /// n,width,entries of nearest; rows,heads,head_dim of rotary_append; rows,width of the others. [default: some of each]
    #[arg(long, value_delimiter = ',')]
    shape: Vec<usize>,
    /// The format of the weights of products. [default: all]
    #[arg(long, value_enum)]
    format: Option<Weights>,
    /// Seconds for each row.
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    seconds: Duration,
    /// MiB of weights that are rotated through.
    #[arg(long, default_value_t = 256)]
    cold: usize,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|e| format!("{e}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

fn run(cli: &Cli) -> Res<()> {
    match cli.device.open(cli.threads)?.0 {
        Device::Cpu(cpu) => {
            say!("cpu, {} threads, {}", cpu.threads(), cpu.instructions());
            table(&*cpu, cli)?;
        }
        Device::Cuda(gpu) => {
            let (major, minor) = gpu.capability();
            say!("cuda, {}, compute capability {major}.{minor}", gpu.name());
            match gpu.best(Roof::Read)? {
                Some(rate) => say!("a copy moves {:.1} Gbyte/s", rate / 1e9),
                None => say!("stand-in driver, no time"),
            }
            table(&*gpu, cli)?;
        }
    }
    Ok(())
}

fn table<B: Clocked>(device: &B, cli: &Cli) -> Res<()> {
    say!(
        "{:<46} {:>10} {:>12} {:>6}",
        "operation",
        "ms",
        "Gbyte|op/s",
        "roof"
    );
    let ops = cli
        .op
        .map_or_else(|| Op::value_variants().to_vec(), |op| vec![op]);
    let mut rows = 0;
    for op in ops {
        let shapes = match cli.shape.as_slice() {
            [] => op.shapes(),
            shape => vec![shape.to_vec()],
        };
        for shape in shapes {
            for case in op.cases(device, cli.cold, &shape, cli.format.map(Weights::format))? {
                report(device, op, case, cli.seconds)?;
                rows += 1;
            }
        }
    }
    if rows == 0 {
        return Err(
            "no operation has these sizes in this format: --help says what --shape takes".into(),
        );
    }
    Ok(())
}

/// The row of one case; its roof is the better of two measurements around it.
fn report<B: Clocked>(
    device: &B,
    op: Op,
    (shape, roof, amount, mut call): Case<'_>,
    seconds: Duration,
) -> maquette::Result<()> {
    let before = device.best(roof)?;
    call(0)?;
    let (mut times, mut turn, begin) = (Vec::new(), 0, Instant::now());
    while times.len() < 5 || begin.elapsed() < seconds {
        let mut next = || {
            turn += 1;
            call(turn)
        };
        let Some(time) = device.seconds(&mut next)? else {
            break;
        };
        times.push(time);
    }
    let best = before.zip(device.best(roof)?).map(|(a, b)| a.max(b));
    times.sort_by(f64::total_cmp);
    let name = format!("{}/{shape}", op.name());
    let Some(median) = times.get(times.len() / 2) else {
        say!("{name:<46} {:>10} {:>12} {:>6}", "no time", "", "");
        return Ok(());
    };
    let rate = amount / median;
    let share = best.map_or_else(String::new, |best| format!("{:.2}", rate / best));
    say!(
        "{name:<46} {:>10.3} {:>12.1} {share:>6}",
        median * 1e3,
        rate / 1e9,
    );
    Ok(())
}

fn main() -> ExitCode {
    ended(run(&Cli::parse()))
}
