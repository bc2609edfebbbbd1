//! Writes a random checkpoint of a published model, in its published layout and size or straight in blocks.
//!
//! `cargo run --release --example synthetic --all-features -- show-o-256 --out out/show-o`
//!
//! The same seed gives the same bytes. `--load` reads a folder back into the CPU device and tells time and memory.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use maquette::cpu::Cpu;
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::llamagen::{LlamaGen, LlamaGenConfig};
use maquette::model::llava::{Llava, LlavaConfig};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig};
use maquette::model::t5::{T5, T5Config};
use maquette::model::vq::{Vq, VqConfig};
use maquette::quant::Format;
use support::open::{self, Res};
use support::weights::Weights;
use support::{layouts, random_file, say, status};

/// Random checkpoints in published layouts.
#[derive(Debug, Parser)]
struct Cli {
    /// The model: any other word lists them.
    model: String,
    /// Folder to write, or to read with `--load`.
    #[arg(long)]
    out: PathBuf,
    /// Writes a checkpoint of this crate with its matrices in this format; with `--load`, the format in memory.
    #[arg(long, value_enum)]
    format: Option<Weights>,
    /// Most layers: a smaller model of the same widths.
    #[arg(long, default_value_t = usize::MAX)]
    layers: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Reads the folder instead of writing it.
    #[arg(long)]
    load: bool,
}

fn main() -> ExitCode {
    open::ended(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Res<()> {
    if cli.load {
        return load(cli);
    }
    let models = layouts::models();
    let Some((_, layout)) = models.iter().find(|(name, _)| *name == cli.model) else {
        let names: Vec<_> = models.iter().map(|(name, _)| *name).collect();
        return Err(format!("no model \"{}\"; there are {}", cli.model, names.join(", ")).into());
    };
    let layout = layout(cli.layers);
    let parameters: usize = layout
        .tensors
        .iter()
        .map(|t| t.shape.iter().product::<usize>())
        .sum();
    let begin = Instant::now();
    let format = cli.format.map(Weights::format);
    let bytes = random_file::write(&layout, format, cli.seed, &cli.out)?;
    say!(
        "{} tensors, {parameters} elements, {bytes} bytes in {:.1} s, peak memory {}",
        layout.tensors.len(),
        begin.elapsed().as_secs_f64(),
        memory("VmHWM")
    );
    Ok(())
}

fn load(cli: &Cli) -> Res<()> {
    let begin = Instant::now();
    let folder = ModelFolder::open(&cli.out)?;
    let cpu = Arc::new(Cpu::new());
    let format = cli.format.map_or(Format::F32, Weights::format);
    let (config, weights) = (&folder.config, &folder.weights);
    let model: Box<dyn std::fmt::Debug> = match folder.model {
        ModelType::ShowO => {
            let config = ShowOConfig::from_json(config)?;
            Box::new(weights.read(|source| ShowO::load(cpu, config, source, format))?)
        }
        ModelType::Magvit => {
            let config = MagvitConfig::from_json(config)?;
            Box::new(weights.read(|source| Magvit::load(cpu, config, source, format))?)
        }
        ModelType::Llava => {
            let config = LlavaConfig::from_json(config)?;
            Box::new(weights.read(|source| Llava::load(cpu, config, source, format))?)
        }
        ModelType::LlamaGen => {
            let config = LlamaGenConfig::from_json(config)?;
            Box::new(weights.read(|source| LlamaGen::load(cpu, config, source, format))?)
        }
        ModelType::LlamaGenVq => {
            let config = VqConfig::from_json(config)?;
            Box::new(weights.read(|source| Vq::load(cpu, config, source, format))?)
        }
        ModelType::T5 => {
            let config = T5Config::from_json(config)?;
            Box::new(weights.read(|source| T5::load(cpu, config, source, format))?)
        }
        ModelType::Janus => {
            let config = JanusConfig::from_json(config)?;
            Box::new(weights.read(|source| Janus::load(cpu, config, source, format))?)
        }
        other => return Err(format!("{other:?} is not loaded here").into()),
    };
    let seconds = begin.elapsed().as_secs_f64();
    drop(folder);
    say!(
        "{format:?} in {seconds:.2} s, memory {} at its peak, {} now",
        memory("VmHWM"),
        memory("VmRSS")
    );
    drop(model);
    Ok(())
}

/// Memory of this process.
fn memory(key: &str) -> String {
    status::kib(key).map_or_else(|| "unknown".to_owned(), |kib| format!("{kib} kB"))
}
