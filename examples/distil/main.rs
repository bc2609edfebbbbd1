//! Teaches a latent head what a judge says: draws pictures, has the judge look at them on their way, and trains a head
//! that answers from the generator's own hidden rows and codes. Goes on after a kill.
//!
//! `cargo run --release --example demo --all-features -- prompts --count 1200 --out out/train.jsonl`
//! `cargo run --release --example distil --all-features -- draw --prompts out/train.jsonl --looks out/looks`
//! `cargo run --release --example distil --all-features -- train --looks out/looks --out out/latent`
//! `cargo run --release --example geneval --all-features -- --strategy parm --latent=out/latent`

mod looks;
mod measure;
mod train;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use maquette::Prompt;
use serde_json::{Value, json};
use support::open::{Models, Settings, picture_seed};
use support::{open, requests, settings};

use looks::{Looks, Plan};

#[derive(Debug, Parser)]
#[command(about = "Teach a latent head what a judge says")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw pictures of prompts and have the judge look at them.
    Draw(Box<Draw>),
    /// Train a head on what was seen.
    Train(train::Train),
    /// Compare a head with the judge on what was seen of other prompts.
    Measure(train::Measure),
}

#[derive(Debug, Args)]
struct Draw {
    /// GenEval records of prompts to train on, one a line.
    #[arg(long)]
    prompts: PathBuf,
    /// Records of the evaluation: prompts with the same words are left out.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/eval_prompts.jsonl"))]
    evaluation: PathBuf,
    /// Folder of what is seen, a file a prompt; an unfinished one of the same settings is gone on with. [default: out/looks,
    /// out/looks-held-out for the prompts of the evaluation]
    #[arg(long)]
    looks: Option<PathBuf>,
    /// Pictures of each prompt.
    #[arg(long, default_value_t = 4)]
    images: u32,
    /// Every so many-th step of a picture is looked at, and the last one.
    #[arg(long, default_value_t = 2)]
    every: u32,
    /// The judge is asked at every so many-th of these, and at the last one.
    #[arg(long, default_value_t = 4)]
    asked: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw the prompts of the evaluation themselves, to measure a head and never to train one.
    #[arg(long)]
    held_out: bool,
    /// Prompts drawn at the same time; changes no result. [default: all cores; 1 on a GPU]
    #[arg(long)]
    jobs: Option<usize>,
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    open::ended(match Cli::parse().command {
        Command::Draw(cli) => draw(*cli),
        Command::Train(cli) => train::train(&cli),
        Command::Measure(cli) => train::measure(&cli),
    })
}

/// Begins a folder or goes on with it: what lies there was made with the same settings.
fn begin(folder: &Path, begun: bool, settings: &Value) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let path = folder.join("run.json");
    if begun && !path.exists() {
        let folder = folder.display();
        return Err(format!(
            "{folder}: begun with settings that nobody knows; take another folder"
        )
        .into());
    }
    settings::same(&path, settings)
}

fn draw(mut cli: Draw) -> Result<(), Box<dyn Error>> {
    let all = requests::read(&cli.prompts)?;
    let kept: Vec<(usize, String)> = if cli.held_out {
        all.into_iter().map(|r| r.prompt).enumerate().collect()
    } else {
        let clean = requests::clean(all, &requests::read(&cli.evaluation)?);
        clean
            .kept
            .into_iter()
            .map(|(at, r)| (at, r.prompt))
            .collect()
    };
    let folder = cli.looks.clone().unwrap_or_else(|| {
        let name = if cli.held_out {
            "out/looks-held-out"
        } else {
            "out/looks"
        };
        name.into()
    });
    let jobs = cli.jobs.unwrap_or_else(|| cli.settings.jobs(1));
    // The jobs share the cores already.
    cli.settings.threads = cli.settings.threads.or(Some(1));
    let models = Models::load(&cli.settings, true)?;
    let file = |at: usize| folder.join(format!("{at:05}.safetensors"));
    let todo: Vec<&(usize, String)> = kept.iter().filter(|(at, _)| !file(*at).exists()).collect();
    let settings = json!({
        "prompts": cli.prompts.file_name().map(|name| name.to_string_lossy()), "prompts_digest": requests::digest(&kept)?,
        "held_out": cli.held_out, "images": cli.images, "every": cli.every, "asked": cli.asked, "seed": cli.seed,
        "models": models.describe(),
    });
    begin(&folder, todo.len() < kept.len(), &settings)?;
    let bar = ProgressBar::new(kept.len() as u64);
    if cli.quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} prompts  {eta} left",
    )?);
    bar.set_position((kept.len() - todo.len()) as u64);
    bar.reset_eta();
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), String> {
        let told = |e: Box<dyn Error>| open::told(&*e);
        let mut generator = models.open_generator(cli.images).map_err(told)?;
        let mut judge = models.judge(cli.images).map_err(told)?;
        while let Some((at, text)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
            let place = u32::try_from(*at).map_err(|e| told(e.into()))?;
            let seeds: Vec<u64> = (0..cli.images)
                .map(|image| picture_seed(cli.seed, place, image))
                .collect();
            let plan = Plan {
                seeds: &seeds,
                every: cli.every,
                asked: cli.asked,
            };
            let looks = Looks::draw(&mut *generator, &mut *judge, &Prompt::new(text), plan);
            let looks = looks.map_err(|e| format!("\"{text}\": {}", told(e)))?;
            looks.write(&file(*at)).map_err(told)?;
            bar.inc(1);
        }
        Ok(())
    };
    // Once one has failed, the others end with the prompt that they are at.
    let job = || work().inspect_err(|_| next.store(usize::MAX / 2, Ordering::Relaxed));
    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let all: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(job)).collect();
        for job in all {
            job.join().map_err(|_| "a job broke off")??;
        }
        Ok(())
    })?;
    bar.abandon();
    Ok(())
}
