//! Trains adapters of a Show-o on pairs of pictures of which one is better. Stop it at any moment, even by pulling the
//! plug, and start it again: the result has the same bytes.
//!
//! `cargo run --release --features align,mmap,threads --example align -- --pairs pairs.jsonl --out out/align`
//!
//! A line of the pairs is `{"prompt": "a photo of a red car", "chosen": [codes], "rejected": [codes]}`.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use maquette::align::dpo::{self, DpoConfig, DpoReport, ScoredPair};
use maquette::align::lora::{adapter_config, write_adapters};
use maquette::align::masked::{Masks, PairConfig, Preference};
use maquette::align::{
    AdamWConfig, Engine, Limits, LoraConfig, Schedule, Trained, Trainer, TrainerConfig,
};
use maquette::cpu::Cpu;
use maquette::model::files::map::ModelFolder;
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOLearner};
use maquette::model::words::Words;
use maquette::prompt::Tokenize;
use serde::Deserialize;

use support::weights::Weights;

type Res<T> = Result<T, Box<dyn Error>>;

/// Trains adapters of a Show-o on preferences.
#[derive(Debug, Parser)]
struct Args {
    /// Pairs, one a line.
    #[arg(long)]
    pairs: PathBuf,
    /// Folder that takes the run and, at its end, the adapters.
    #[arg(long)]
    out: PathBuf,
    /// Folder of the model, with vocab.txt.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/weights/show-o"))]
    model_dir: PathBuf,
    /// What the frozen weights are kept in.
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    format: Weights,
    /// Steps. [default: once through the pairs]
    #[arg(long)]
    steps: Option<u64>,
    /// Pairs of a step.
    #[arg(long, default_value_t = 10)]
    batch: usize,
    /// Largest rate; the first tenth of the steps leads up to it.
    #[arg(long, default_value_t = 1e-4)]
    rate: f64,
    /// How much a difference of scores counts.
    #[arg(long, default_value_t = 0.1)]
    beta: f64,
    /// Factor of the cross-entropy of the chosen pictures.
    #[arg(long, default_value_t = 0.0)]
    supervised: f64,
    /// Longest gradient.
    #[arg(long, default_value_t = 1.0)]
    clip: f64,
    /// Rank of the adapters; they count twice their product over the rank.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Ends of the names of the layers that get adapters.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "q_proj,k_proj,v_proj,dense,fc1,fc2"
    )]
    targets: Vec<String>,
    /// Whether both pictures of a pair are masked alike.
    #[arg(long, value_enum, default_value_t = MaskKind::Own)]
    masks: MaskKind,
    /// Of all draws.
    #[arg(long, default_value_t = 10086)]
    seed: u64,
    /// Steps between two checkpoints.
    #[arg(long, default_value_t = 10)]
    save_every: u64,
    /// Threads. [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Print nothing but errors.
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MaskKind {
    /// As in the released code.
    Own,
    /// Less noise in the difference.
    Shared,
}

/// A line of the pairs.
#[derive(Debug, Deserialize)]
struct Line {
    prompt: String,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
}

fn pairs(path: &Path, config: &ShowOConfig, words: &Words) -> Res<Vec<Preference>> {
    let at = |line: usize, e: String| format!("{}, line {}: {e}", path.display(), line + 1);
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty());
    let mut out = Vec::new();
    for (i, line) in lines {
        let line: Line = serde_json::from_str(line).map_err(|e| at(i, e.to_string()))?;
        let mut tokens = Vec::new();
        words
            .encode(&line.prompt, &mut |id| tokens.push(id))
            .map_err(|e| at(i, e.to_string()))?;
        let pair = Preference {
            text: config.text_tokens(&tokens),
            chosen: line.chosen,
            rejected: line.rejected,
        };
        // What is wrong with a pair is said before any work.
        config
            .preference(&PairConfig::default(), out.len(), &pair)
            .map_err(|e| at(i, e.to_string()))?;
        out.push(pair);
    }
    if out.is_empty() {
        return Err(format!("{}: there are no pairs", path.display()).into());
    }
    Ok(out)
}

/// Writes a file that is whole or not there.
fn write(path: &Path, bytes: &[u8]) -> Res<()> {
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(fs::rename(&part, path)?)
}

fn run(args: &Args) -> Res<()> {
    if args.batch == 0 || args.save_every == 0 {
        return Err("--batch and --save-every begin at 1".into());
    }
    let cpu = Arc::new(match args.threads {
        Some(n) => Cpu::with_threads(n)?,
        None => Cpu::new(),
    });
    let folder = ModelFolder::open(&args.model_dir)?;
    let config = ShowOConfig::from_json(&folder.config)?;
    let vocabulary = args.model_dir.join("vocab.txt");
    let lines =
        fs::read_to_string(&vocabulary).map_err(|e| format!("{}: {e}", vocabulary.display()))?;
    let pairs = pairs(&args.pairs, &config, &Words::new(&lines)?)?;
    fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;

    let format = args.format.format();
    let learner = folder.weights.read(|source| {
        let model = ShowO::load(cpu, config.clone(), source, format)?;
        ShowOLearner::load(Arc::new(model), source, format)
    })?;
    let lora = LoraConfig {
        rank: args.rank,
        alpha: 2.0 * args.rank as f32,
        targets: args.targets.clone(),
        seed: args.seed,
    };
    let limits = Limits {
        rows: config.text_rows() + config.image_rows(),
        labels: config.image_rows(),
    };
    let engine = Engine::new(learner, Trained::Adapters(lora.clone()), limits)?;
    let steps = args
        .steps
        .unwrap_or((pairs.len() / args.batch).max(1) as u64);
    let mut trainer = Trainer::new(
        engine,
        TrainerConfig {
            optimiser: AdamWConfig {
                rate: args.rate,
                ..AdamWConfig::default()
            },
            schedule: Schedule::Cosine {
                warm_up: steps / 10,
                steps,
            },
            clip: Some(args.clip),
        },
    )?;
    let checkpoint = args.out.join("run.bin");
    let resumed = trainer.resume_file(&checkpoint)?;
    if resumed && !args.quiet {
        println!("{} of {steps} steps are done", trainer.steps());
    }
    let draws = PairConfig {
        masks: match args.masks {
            MaskKind::Own => Masks::Own,
            MaskKind::Shared => Masks::Shared,
        },
        seed: args.seed,
        ..PairConfig::default()
    };
    let objective = DpoConfig {
        beta: args.beta,
        supervised: args.supervised,
        ..DpoConfig::default()
    };
    let mut kept = [trainer.engine().kept()?, trainer.engine().kept()?];
    while trainer.steps() < steps {
        let first = usize::try_from(trainer.steps())? * args.batch;
        let mut told = DpoReport::default();
        let report = trainer.step(|engine| {
            let batch = (first..first + args.batch)
                .map(|at| {
                    let examples = config.preference(&draws, at, &pairs[at % pairs.len()])?;
                    ScoredPair::new(engine, examples)
                })
                .collect::<maquette::Result<Vec<_>>>()?;
            told = dpo::batch(engine, &batch, &objective, &mut kept)?;
            Ok(told.loss)
        })?;
        if !args.quiet {
            println!(
                "step {}: loss {:.4}, margin {:+.3}, {:.0} % the right way, gradient {:.3}",
                report.step + 1,
                report.loss,
                told.margin,
                100.0 * told.p_right,
                report.gradient
            );
        }
        if trainer.steps() % args.save_every == 0 || trainer.steps() == steps {
            trainer.save(&checkpoint)?;
        }
    }
    let adapters = write_adapters(trainer.engine().parameters())?;
    write(&args.out.join("adapter_model.safetensors"), &adapters)?;
    write(
        &args.out.join("adapter_config.json"),
        adapter_config(&lora).as_bytes(),
    )
}

fn main() -> ExitCode {
    let Err(error) = run(&Args::parse()) else {
        return ExitCode::SUCCESS;
    };
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::FAILURE
}
