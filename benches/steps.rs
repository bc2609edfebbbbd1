//! Whole steps of generators of the published widths, cut to a few layers, with random weights in Q4_0 and 8-bit activations;
//! on a GPU where there is one, else on the CPU, or where the variable `DEVICE` says, as in `DEVICE=cuda`:
//! `cargo bench -p maquette-benches --bench steps`. A step ends where its codes
//! have been read, so the host's clock sees all of it. `measure` runs models with all their layers.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use maquette::{CandidateId, Generator, Prompt};
use maquette_benches::run;
use support::measured::{Drawing, Res, load};
use support::open::device::{Choice, Device};
use support::open::told;
use support::precision::{Arithmetic, Kv, precision};
use support::weights::Weights;
use support::{layouts, random_file};

/// Layers that are kept.
const LAYERS: usize = 2;
/// Candidates, a guided pair each: on the CPU, and on a GPU.
const CANDIDATES: [[usize; 2]; 2] = [[1, 4], [1, 20]];

/// Candidates that are stepped, and begun anew when they have taken all their steps.
struct Drawn {
    generator: Box<dyn Generator>,
    ids: Vec<CandidateId>,
    left: u32,
}

impl Drawn {
    /// The time of so many steps.
    fn steps(&mut self, times: u64) -> Res<Duration> {
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            if self.left == 0 {
                self.generator.prune(&self.ids)?;
                self.start()?;
            }
            let begin = Instant::now();
            self.generator.step(&self.ids)?;
            spent += begin.elapsed();
            self.left -= 1;
        }
        Ok(spent)
    }

    fn start(&mut self) -> Res<()> {
        let seeds: Vec<u64> = (0..self.ids.len() as u64).collect();
        let prompt = Prompt::new("a photo of a red car");
        self.generator.start(&prompt, &seeds, &mut self.ids)?;
        self.left = self.generator.steps();
        Ok(())
    }
}

/// Times a model at each number of candidates.
fn model(
    c: &mut Criterion,
    device: &Device,
    home: &Path,
    name: &str,
    tokens: Option<usize>,
) -> Res<()> {
    let all = layouts::models();
    let layout = all
        .iter()
        .find(|(of, _)| *of == name)
        .ok_or("no such model")?
        .1;
    let folder = home.join(name);
    random_file::write(&layout(LAYERS), Some(Weights::Q4.format()), 0, &folder)?;
    let model = load(device, &folder, precision(Weights::Q4, Arithmetic::A8))?;
    for candidates in CANDIDATES[usize::from(matches!(device, Device::Cuda(_)))] {
        let drawing = Drawing {
            steps: 18,
            tokens_per_step: tokens,
            candidates,
            batch: candidates,
            guidance: None,
            kv: Kv::Q8.format(),
            features: 20,
        };
        let generator = model.generator(None, None, &drawing)?;
        let mut drawn = Drawn {
            generator: generator.ok_or("it does not draw")?,
            ids: vec![CandidateId::default(); candidates],
            left: 0,
        };
        // Kernels are made ready, and passes recorded.
        drawn.start()?;
        drawn.steps(3)?;
        let mut group = c.benchmark_group("step");
        group
            .sample_size(10)
            .throughput(Throughput::Elements(candidates as u64));
        let mut result = Ok(());
        let id = BenchmarkId::new(name, format!("n{candidates}_l{LAYERS}"));
        group.bench_function(id, |b| {
            b.iter_custom(|times| {
                drawn.steps(times).unwrap_or_else(|error| {
                    result = Err(error);
                    Duration::from_nanos(1)
                })
            });
        });
        group.finish();
        result?;
    }
    Ok(())
}

fn models(c: &mut Criterion) -> Res<()> {
    let choice = std::env::var("DEVICE").map_or(Ok(Choice::Auto), |name| name.parse())?;
    let (device, told) = choice.open(None)?;
    println!("{told}");
    let home = std::env::temp_dir().join(format!("maquette-steps-{}", std::process::id()));
    let done = [("show-o-256", None), ("janus-pro-1b", Some(1))]
        .into_iter()
        .try_for_each(|(name, tokens)| model(c, &device, &home, name, tokens));
    let removed = std::fs::remove_dir_all(&home);
    // Where a model failed, its error is the one to tell.
    done?;
    Ok(removed?)
}

fn main() -> ExitCode {
    run(|c| models(c).map_err(|error| told(&*error)))
}
