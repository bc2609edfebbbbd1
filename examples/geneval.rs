//! A set of prompts through a strategy, scored by the evaluating detector with GenEval's rules. Goes on after a kill.
//!
//! `cargo run --release --example geneval --all-features -- --strategy parm --out out/parm.jsonl`
//! `cargo run --release --example geneval --all-features -- --compare out/plain.jsonl out/parm.jsonl`
//!
//! Other models are named as `generate` names them. The detector reads the bundled world's pictures alone: those of another
//! size are drawn for the official scorer (`--pictures`) and not scored here.

#[path = "support/choice.rs"]
mod choice;
#[path = "demo/detector.rs"]
mod detector;
#[path = "support/open/mod.rs"]
mod open;
#[path = "support/png_file.rs"]
mod png_file;
#[path = "support/results.rs"]
mod results;
#[path = "demo/rules.rs"]
mod rules;
#[path = "support/score.rs"]
mod score;
#[expect(
    dead_code,
    reason = "the detector needs only the world's names and size"
)]
#[path = "demo/world.rs"]
mod world;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Views};
use maquette::rng::Stream;
use maquette::search::SearchStrategy;
use maquette::{Flow, Generator, Prompt, RewardModel};
use serde_json::{Value, json};

use choice::Strategy;
use detector::Detector;
use open::{Models, Settings, picture_seed};
use png_file::{Picture, writable_folder, write_whole};
use results::Results;
use rules::{Request, Rules};

/// Score a strategy on a set of prompts.
#[derive(Debug, Parser)]
struct Cli {
    /// GenEval records, one a line.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/eval_prompts.jsonl"))]
    prompts: PathBuf,
    #[arg(long, value_enum, default_value_t = Strategy::Plain)]
    strategy: Strategy,
    /// Candidates of a search.
    #[arg(short = 'n', long, default_value_t = 20)]
    candidates: u32,
    /// Pictures of each prompt.
    #[arg(long, default_value_t = 4)]
    images: u32,
    #[arg(long, default_value_t = 1234)]
    seed: u64,
    /// Only so many prompts, spread evenly over the set.
    #[arg(long)]
    limit: Option<usize>,
    /// Pictures drawn at the same time; changes no result. [default: all cores]
    #[arg(long)]
    jobs: Option<usize>,
    /// Result file; an unfinished one of the same settings is gone on with.
    #[arg(long, default_value = "out/geneval.jsonl")]
    out: PathBuf,
    /// Also write the pictures here, as the official scorer reads them.
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Compare two result files, second minus first, prompt by prompt, and draw nothing.
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"])]
    compare: Option<Vec<PathBuf>>,
    /// Say nothing but the table.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    settings: Settings,
}

/// One picture to draw.
struct Task<'a> {
    prompt: usize,
    image: u32,
    request: &'a Request,
    raw: &'a str,
}

fn main() -> ExitCode {
    open::ended(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut cli = Cli::parse();
    if let Some([a, b]) = cli.compare.as_deref() {
        return compare(a, b);
    }
    let jobs = cli
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
        .max(1);
    // The jobs share the cores already.
    cli.settings.threads = cli.settings.threads.or(Some(1));
    let text = fs::read_to_string(&cli.prompts)
        .map_err(|e| format!("cannot read {}: {e}", cli.prompts.display()))?;
    let mut requests = Vec::new();
    for (i, line) in text.lines().filter(|l| !l.trim().is_empty()).enumerate() {
        let request: Request = serde_json::from_str(line)
            .map_err(|e| format!("{} line {}: {e}", cli.prompts.display(), i + 1))?;
        requests.push((i, request, line));
    }
    let all = requests.len();
    let keep = cli.limit.unwrap_or(all).min(all);
    let tasks: Vec<Task<'_>> = (0..keep)
        .filter_map(|i| requests.get(i * all / keep))
        .flat_map(|(prompt, request, raw)| {
            (0..cli.images).map(move |image| Task {
                prompt: *prompt,
                image,
                request,
                raw,
            })
        })
        .collect();
    if tasks.is_empty() {
        return Err("nothing to draw: no prompts or no images".into());
    }

    if let Some(folder) = &cli.pictures {
        writable_folder(folder)?;
    }
    let models = Models::load(&cli.settings, cli.strategy.asks())?;
    let eye = detector(&cli, &models)?;
    let header = json!({
        "strategy": cli.strategy.name(), "candidates": cli.candidates, "images": cli.images, "seed": cli.seed,
        "prompts": cli.prompts.file_name().map(|n| n.to_string_lossy()), "limit": cli.limit,
        "models": models.describe(), "scored": eye.is_some(),
    });
    let mut results = Results::open(&cli.out, &header)?;
    let todo: Vec<&Task<'_>> = tasks
        .iter()
        .filter(|t| {
            !results
                .lines
                .contains_key(&(t.prompt as u64, u64::from(t.image)))
        })
        .collect();

    let bar = ProgressBar::new(tasks.len() as u64);
    if cli.quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} pictures  {msg}  {eta} left",
    )?);
    bar.set_position((tasks.len() - todo.len()) as u64);
    bar.reset_eta();
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let (send, receive) = mpsc::channel();
        for _ in 0..jobs.min(todo.len()) {
            let (send, cli, models, eye, todo, next) =
                (send.clone(), &cli, &models, eye.as_ref(), &todo, &next);
            scope.spawn(move || {
                if let Err(e) = work(cli, models, eye, todo, next, &send) {
                    // Nobody listens any more once another job has failed.
                    let _ = send.send(Err(e.to_string()));
                }
            });
        }
        drop(send);
        for line in receive {
            results.add(line.inspect_err(|_| next.store(usize::MAX / 2, Ordering::Relaxed))?)?;
            bar.inc(1);
            let right = results
                .lines
                .values()
                .filter(|l| l["correct"] == true)
                .count();
            bar.set_message(format!("{right} right"));
        }
        Ok(())
    })?;
    bar.abandon();
    results.finish()?;
    report(&cli, &results, todo.len(), started.elapsed().as_secs_f64());
    if !cli.quiet {
        println!("  {jobs} jobs, {}", models.device());
    }
    Ok(())
}

/// The evaluating detector, if it can read the pictures.
fn detector(cli: &Cli, models: &Models) -> Result<Option<Detector<Cpu>>, Box<dyn Error>> {
    let size = models.generator(1)?.image_size();
    if [size.height, size.width].map(|n| n as usize) == [world::SIDE; 2] {
        let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/detectors");
        return Ok(Some(Detector::load(Cpu::new(), &weights, "eval")?));
    }
    if cli.pictures.is_some() {
        return Ok(None);
    }
    let (height, width, side) = (size.height, size.width, world::SIDE);
    Err(format!(
        "the detector reads {side}x{side} pictures, these have {width}x{height}: \
         name a folder for the official scorer with --pictures"
    )
    .into())
}

/// Draws pictures until none is left.
fn work(
    cli: &Cli,
    models: &Models,
    eye: Option<&Detector<Cpu>>,
    todo: &[&Task<'_>],
    next: &AtomicUsize,
    send: &mpsc::Sender<Result<Value, String>>,
) -> Result<(), Box<dyn Error>> {
    let (mut generator, mut reward) = (
        models.generator(cli.strategy.alive(cli.candidates))?,
        models.judge(cli.candidates)?,
    );
    let mut strategy = cli.strategy.build(cli.candidates);
    while let Some(task) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
        let line = one_picture(
            cli,
            eye,
            task,
            &mut *generator,
            &mut *reward,
            &mut *strategy,
        )
        .map_err(|e| format!("\"{}\", image {}: {e}", task.request.prompt, task.image))?;
        send.send(Ok(line))?;
    }
    Ok(())
}

fn one_picture<G: Generator + ?Sized, R: RewardModel + ?Sized>(
    cli: &Cli,
    eye: Option<&Detector<Cpu>>,
    task: &Task<'_>,
    generator: &mut G,
    reward: &mut R,
    strategy: &mut dyn SearchStrategy<G, R>,
) -> Result<Value, Box<dyn Error>> {
    let seed = picture_seed(cli.seed, u32::try_from(task.prompt)?, task.image);
    let prompt = Prompt::new(&task.request.prompt);
    let decision = strategy.search(
        generator,
        reward,
        &prompt,
        &mut Stream::new(seed),
        &mut |_| Flow::Continue,
    )?;
    let size = generator.image_size();
    let mut pixels = vec![0; size.len_bytes()];
    generator.observe(
        &[decision.winner],
        Needs::PIXELS,
        &mut Views::pixels(&mut pixels),
    )?;
    generator.prune(&[decision.winner])?;
    if let Some(folder) = &cli.pictures {
        let folder = folder.join(format!("{:05}", task.prompt));
        let samples = folder.join("samples");
        fs::create_dir_all(&samples)
            .map_err(|e| format!("cannot make {}: {e}", samples.display()))?;
        write_whole(&folder.join("metadata.jsonl"), task.raw.as_bytes())?;
        let picture = Picture {
            width: size.width as usize,
            height: size.height as usize,
            pixels: &pixels,
        };
        write_whole(
            &samples.join(format!("{:04}.png", task.image)),
            &picture.png()?,
        )?;
    }
    let (correct, reason, seen) = match eye {
        Some(eye) => {
            let seen = eye.detect(&pixels)?;
            let verdict = Rules::bundled().decide(task.request, &seen);
            let seen: Vec<Value> = seen
                .iter()
                .map(|d| json!({ "class": d.class, "color": d.color, "bbox": d.bbox, "score": d.score }))
                .collect();
            (
                Some(verdict.is_ok()),
                verdict.err().unwrap_or_default(),
                seen,
            )
        }
        None => (None, "not scored".into(), Vec::new()),
    };
    let c = decision.cost;
    Ok(json!({
        "prompt_index": task.prompt, "image": task.image, "seed": seed, "tag": task.request.tag,
        "prompt": task.request.prompt, "correct": correct, "reason": reason,
        "seen": seen, "p_yes": decision.verdict.map(|v| v.p_yes), "fallback": decision.fallback,
        "steps": c.steps, "decodes": c.decodes, "questions": c.judged(),
    }))
}

fn report(cli: &Cli, results: &Results, drawn: usize, seconds: f64) {
    let lines = &results.lines;
    let (name, drawn_in_all) = (cli.strategy.name(), lines.len());
    if lines.values().any(|line| line["correct"].is_null()) {
        println!("{name} over {drawn_in_all} pictures, not scored");
    } else {
        println!("{name} over {drawn_in_all} pictures (share correct, 95 % interval over prompts)");
        for line in score::lines(&results::shares(lines)) {
            println!("{line}");
        }
    }
    let mean = |key: &str| {
        lines.values().filter_map(|l| l[key].as_f64()).sum::<f64>() / lines.len().max(1) as f64
    };
    let (steps, decodes, questions) = (mean("steps"), mean("decodes"), mean("questions"));
    println!("  per picture: {steps:.1} steps, {decodes:.1} decodes, {questions:.1} questions");
    if drawn > 0 {
        println!(
            "  {drawn} pictures drawn now in {seconds:.1} s, {:.3} s each",
            seconds / drawn as f64
        );
    }
}

/// Prints how much better the second run is.
fn compare(a: &Path, b: &Path) -> Result<(), Box<dyn Error>> {
    let (first, second) = (results::read(a)?, results::read(b)?);
    let both = results::differences(&first, &second)?;
    println!(
        "{} minus {} (difference of shares, 95 % interval over prompts)",
        b.display(),
        a.display()
    );
    for line in score::lines(&both) {
        println!("{line}");
    }
    Ok(())
}
