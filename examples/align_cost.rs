//! Time and memory of a preference step at Show-o's released shape, over random weights in 8 bits:
//! `cargo run --release --example align_cost --all-features`, on a GPU with `-- --device cuda`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use maquette::align::dpo::{self, DpoConfig, ScoredPair};
use maquette::align::masked::{PairConfig, Preference};
use maquette::align::{
    AdamWConfig, Engine, Limits, LoraConfig, Schedule, Trained, Trainer, TrainerConfig,
};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOLearner};
use maquette::model::weights::{DType, Tensor, WeightSource};
use maquette::ops::Backward;
use maquette::quant::Format;
use maquette::rng::{Stream, philox};
use rand_core::Rng;
use support::open::device::{Choice, Device};
use support::open::{self, Res};
use support::{say, status};

/// Counts the cost of a preference step.
#[derive(Debug, Parser)]
struct Args {
    /// Blocks of the stack; the released model has 24.
    #[arg(long, default_value_t = 24)]
    layers: usize,
    /// Pairs of a step.
    #[arg(long, default_value_t = 1)]
    pairs: usize,
    /// Rank of the adapters beside q, k, v, the output layer and both MLP layers.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Keep the rows between the layers of all blocks, and compute no block twice: faster, with more memory.
    #[arg(long)]
    keep: bool,
    /// Steps; the first one of a GPU also loads its kernels.
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// Where it runs: `cpu`, `cuda` or `cuda:N`, `auto` for a GPU where there is one.
    #[arg(long, default_value = "cpu")]
    device: Choice,
    /// Threads on the CPU. [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
}

/// A checkpoint of any tensor: all are slices of the same small random numbers.
struct Anything {
    shapes: ShowOConfig,
    bytes: Vec<u8>,
}

impl Anything {
    fn new(shapes: ShowOConfig) -> Self {
        let len = shapes.vocab_size * shapes.hidden_size;
        let mut bytes = Vec::with_capacity(2 * len);
        for block in 0..len.div_ceil(4) {
            let words = philox([1, 0], [u32::try_from(block).unwrap_or(0), 0, 0, 0]);
            for word in words {
                // A sign, an exponent of 2^-6 or 2^-5, seven bits of fraction.
                bytes.extend((0x3c80 | (word as u16 & 0x80ff)).to_le_bytes());
            }
        }
        Self { shapes, bytes }
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        let c = &self.shapes;
        let (d, inner) = (c.hidden_size, c.intermediate_size);
        let head = d / c.num_attention_heads;
        let weight = name.ends_with(".weight");
        match name {
            _ if name.contains("q_layernorm") || name.contains("k_layernorm") => vec![head],
            _ if name.contains("layernorm") => vec![d],
            _ if name.contains("embed_tokens") => vec![c.vocab_size, d],
            _ if name.contains("lm_head") && weight => vec![c.vocab_size, d],
            _ if name.contains("lm_head") => vec![c.vocab_size],
            _ if name.contains("fc1") && weight => vec![inner, d],
            _ if name.contains("fc1") => vec![inner],
            _ if name.contains("fc2") && weight => vec![d, inner],
            _ if weight => vec![d, d],
            _ => vec![d],
        }
    }
}

impl WeightSource for Anything {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let shape = self.shape(name);
        let len = shape.iter().product::<usize>();
        Some(Tensor {
            dtype: DType::BF16,
            shape,
            bytes: &self.bytes[..2 * len],
        })
    }

    fn names(&self, _: &mut dyn FnMut(&str)) {}
}

fn main() -> ExitCode {
    open::ended(run(&Args::parse()))
}

fn run(args: &Args) -> Res<()> {
    let (device, told) = args.device.open(args.threads)?;
    say!("{told}");
    match device {
        Device::Cpu(cpu) => on(cpu, args),
        Device::Cuda(gpu) => on(gpu, args),
    }
}

fn on<B: Backward>(device: Arc<B>, args: &Args) -> Res<()> {
    let mut config = ShowOConfig::released();
    config.num_hidden_layers = args.layers;
    let learner = {
        let source = Anything::new(config.clone());
        let model = ShowO::load(device, config.clone(), &source, Format::Q8_0)?;
        ShowOLearner::load(Arc::new(model), &source, Format::Q8_0)?
    };
    let targets = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"];
    let engine = Engine::new(
        learner,
        Trained::Adapters(LoraConfig::new(args.rank, 2.0 * args.rank as f32, targets).with_seed(1)),
        Limits {
            rows: config.text_rows() + config.image_rows(),
            labels: config.image_rows(),
        },
    )?;
    let trained: usize = engine.parameters().iter().map(|p| p.values.len()).sum();
    say!("{trained} numbers are trained");
    let mut trainer = Trainer::new(
        engine,
        TrainerConfig::new(AdamWConfig::default(), Schedule::Constant),
    )?;
    let mut stream = Stream::new(7);
    let mut words =
        |n: usize, below: u32| -> Vec<u32> { (0..n).map(|_| stream.next_u32() % below).collect() };
    let engine = trainer.engine();
    let mut kept = if args.keep {
        [engine.kept_whole()?, engine.kept_whole()?]
    } else {
        [engine.kept()?, engine.kept()?]
    };
    let each = |start: Instant| start.elapsed().as_secs_f64() / args.pairs as f64;
    for _ in 0..args.steps {
        let examples: Vec<_> = (0..args.pairs)
            .map(|at| {
                let pair = Preference {
                    text: config.text_tokens(&words(12, 50000)),
                    chosen: words(config.num_vq_tokens, 8192),
                    rejected: words(config.num_vq_tokens, 8192),
                };
                config.preference(&PairConfig::default(), at, &pair)
            })
            .collect::<maquette::Result<_>>()?;
        let rows: usize = examples.iter().flatten().map(|e| e.positions.len()).sum();
        let labels: usize = examples.iter().flatten().map(|e| e.labels.len()).sum();
        say!(
            "{} pairs of {rows} rows and {labels} labels in all",
            args.pairs
        );
        let start = Instant::now();
        let pairs = examples
            .into_iter()
            .map(|pair| ScoredPair::new(trainer.engine_mut(), pair))
            .collect::<maquette::Result<Vec<_>>>()?;
        say!("reference: {:.3} s a pair", each(start));
        let start = Instant::now();
        let report = trainer.step(|engine| {
            Ok(dpo::batch(engine, &pairs, &DpoConfig::default(), &mut kept)?.loss)
        })?;
        say!("step: {:.3} s a pair", each(start));
        say!("loss {:.6}, gradient {:.4}", report.loss, report.gradient);
    }
    match status::kib("VmHWM") {
        Some(kib) => say!("at most {} MiB", kib / 1024),
        None => say!("this system does not tell how much memory was used"),
    }
    Ok(())
}
