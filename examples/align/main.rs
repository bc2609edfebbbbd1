//! Trains adapters of a Show-o or a Janus: on pairs of pictures of which one is better, on rewards of what they draw, or on
//! both; and those of a judge, on questions about drawn pictures. Stop it at any moment, even by pulling the plug, and start it again: the result has the same bytes.
//!
//! `cargo run --release --example align --all-features -- --pairs pairs.jsonl --out out/align`
//!
//! A line of the pairs is `{"prompt": "a photo of a red car", "chosen": [codes], "rejected": [codes]}`, as `annotate` writes
//! them. A judge is trained by `--objective judge --items round.outcome.jsonl`. With `--merge`, `OUT/merged` is a model folder for `annotate` and for the next round.

mod check;
mod curves;
mod data;
mod family;
mod judge;
mod online;
mod options;
mod run;
mod training;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::ops::Backward;
use support::open;
use support::open::device::Device;

use family::{Home, JanusFamily, ShowOFamily};
use options::{Args, Objective};

type Res<T> = Result<T, Box<dyn Error>>;

fn run(args: &Args) -> Res<()> {
    args.check()?;
    match args.device.open(args.threads)?.0 {
        Device::Cpu(cpu) => on(cpu, args),
        Device::Cuda(gpu) => on(gpu, args),
    }
}

fn on<B: Backward + 'static>(device: Arc<B>, args: &Args) -> Res<()> {
    let judge = args.objective == Objective::Judge;
    let path = args.model_dir.clone();
    let path = path.unwrap_or_else(|| open::bundled(if judge { "judge" } else { "show-o" }));
    let home = Home {
        folder: ModelFolder::open(&path)?,
        words: family::words(&path)?,
        device,
        format: args.format.format(),
        guidance: args.guidance.or(open::guidance(&path)),
        path,
    };
    match home.folder.model {
        ModelType::Llava if judge => judge::train(args, &home),
        _ if judge => Err(format!("{}: this is no LLaVA-OneVision", home.path.display()).into()),
        ModelType::ShowO => run::train(
            args,
            ShowOFamily::open(home, args.tokenizer_dir.as_deref())?,
        ),
        ModelType::Janus => run::train(args, JanusFamily::open(home, args.plan)?),
        _ => Err(format!("{}: this is no Show-o and no Janus", home.path.display()).into()),
    }
}

fn main() -> ExitCode {
    open::ended(run(&Args::parse()))
}
