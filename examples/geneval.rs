//! A set of prompts through a strategy, scored by the evaluating detector with GenEval's rules. Goes on after a kill.
//!
//! `cargo run --release --example geneval --all-features -- --strategy parm --out out/parm.jsonl`
//! `cargo run --release --example geneval --all-features -- --compare out/plain.jsonl out/parm.jsonl`
//!
//! Other models are named as `generate` names them. The detector reads the bundled world's pictures alone: those of another
//! size are drawn for the official scorer (`--pictures`) and not scored here. Its results come back with `--table`, the
//! detections of any other detector with `--score`. Several processes share the prompts by their ranks, as the files in
//! `examples/jobs` show, and `--merge` makes one result of theirs.

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
use maquette::{Flow, Generator, Prompt, RewardModel};
use serde_json::{Value, json};

use support::choice::{Effort, Search, Strategy};
use support::detections::RuleArgs;
use support::open::{Models, Settings, picture_seed};
use support::png_file::{Picture, writable_folder, write_whole};
use support::results::{Lines, Results};
use support::rules::{Request, Rules};
use support::shard::Shard;
use support::world::detector::Detector;
use support::{detections, layout, open, results, score, shard, world};

/// Score a strategy on a set of prompts.
#[derive(Debug, Parser)]
struct Cli {
    /// GenEval records, one a line.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/eval_prompts.jsonl"))]
    prompts: PathBuf,
    #[arg(long, value_enum, default_value_t = Strategy::Plain)]
    strategy: Strategy,
    #[command(flatten)]
    effort: Effort,
    /// Pictures of each prompt.
    #[arg(long, default_value_t = 4)]
    images: u32,
    #[arg(long, default_value_t = 1234)]
    seed: u64,
    /// Only so many prompts, spread evenly over the set.
    #[arg(long)]
    limit: Option<usize>,
    /// Pictures drawn at the same time; changes no result. [default: all cores, shared with other ranks of this machine]
    #[arg(long)]
    jobs: Option<usize>,
    /// Result file; an unfinished one of the same settings is gone on with. [default: out/geneval.jsonl]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also write the pictures here, as the official scorer reads them.
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Compare two result files, second minus first, prompt by prompt, and draw nothing.
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"])]
    compare: Option<Vec<PathBuf>>,
    /// Print the table of a result file, of this program or of the official scorer, and draw nothing.
    #[arg(long, value_name = "RESULTS")]
    table: Option<PathBuf>,
    /// Mark what another detector saw, write the results to `--out`, if it is given, as
    /// the official scorer does, and draw nothing.
    #[arg(long, value_name = "DETECTIONS")]
    score: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
    /// Draw every so many-th prompt alone: rank of this process. [default: as torchrun, mpirun, srun, Kubernetes indexed
    /// jobs and GNU parallel tell it]
    #[arg(long, requires = "world")]
    rank: Option<u64>,
    /// Number of processes.
    #[arg(long, requires = "rank")]
    world: Option<u64>,
    /// Make one result file of those that all ranks wrote, and draw nothing.
    #[arg(long)]
    merge: bool,
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
    if let Some(path) = &cli.table {
        table(&path.display().to_string(), &results::read(path)?);
        return Ok(());
    }
    let default = PathBuf::from("out/geneval.jsonl");
    let out = cli.out.clone().unwrap_or(default);
    if cli.merge {
        let lines = results::merge(&shard::files(&out)?, &out)?;
        report(&out.display().to_string(), &lines);
        return Ok(());
    }
    let text = fs::read_to_string(&cli.prompts)
        .map_err(|e| format!("cannot read {}: {e}", cli.prompts.display()))?;
    let mut requests = Vec::new();
    for (i, line) in text.lines().filter(|l| !l.trim().is_empty()).enumerate() {
        let request: Request = serde_json::from_str(line)
            .map_err(|e| format!("{} line {}: {e}", cli.prompts.display(), i + 1))?;
        requests.push((i, request, line));
    }
    if let Some(path) = &cli.score {
        let lines = detections::score(path, &cli.rules.rules(), &requests)?;
        if let Some(out) = &cli.out {
            let text: String = lines.values().map(|line| format!("{line}\n")).collect();
            write_whole(out, text.as_bytes())?;
        }
        table(&path.display().to_string(), &lines);
        return Ok(());
    }
    let given = cli.rank.zip(cli.world);
    let shard = Shard::find(given, |name| std::env::var(name).ok())?;
    let jobs = cli.jobs.unwrap_or_else(|| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        cores / shard.local
    });
    let jobs = jobs.max(1);
    // The jobs share the cores already.
    cli.settings.threads = cli.settings.threads.or(Some(1));
    let all = requests.len();
    let keep = cli.limit.unwrap_or(all).min(all);
    let kept: Vec<_> = (0..keep)
        .filter_map(|i| requests.get(i * all / keep))
        .collect();
    if kept.is_empty() || cli.images == 0 {
        return Err("nothing to draw: no prompts or no images".into());
    }
    let own = kept.iter().enumerate().filter(|(i, _)| shard.has(*i));
    let tasks: Vec<Task<'_>> = own
        .flat_map(|(_, (prompt, request, raw))| {
            (0..cli.images).map(move |image| Task {
                prompt: *prompt,
                image,
                request,
                raw,
            })
        })
        .collect();
    if shard.world > 1 && !cli.quiet {
        let (rank, world, told_by) = (shard.rank, shard.world, shard.told_by);
        eprintln!("rank {rank} of {world}, says {told_by}");
    }

    if let Some(folder) = &cli.pictures {
        writable_folder(folder)?;
    }
    let models = Models::load(&cli.settings, cli.effort.asks(cli.strategy))?;
    let known = kept.iter().all(|(_, request, _)| in_the_world(request));
    let eye = detector(&cli, &models, known)?;
    let header = json!({
        "strategy": cli.strategy.name(), "candidates": cli.effort.candidates, "effort": cli.effort.describe(),
        "images": cli.images, "seed": cli.seed, "pictures": kept.len() * cli.images as usize, "prompts": cli.prompts.file_name().map(|n| n.to_string_lossy()), "limit": cli.limit,
        "models": models.describe(), "scored": eye.is_some(),
    });
    let mut results = Results::open(&shard.file(&out), &header)?;
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
    if let Some(folder) = &cli.pictures {
        for task in tasks.iter().filter(|task| task.image == 0) {
            let touched = todo.iter().any(|other| other.prompt == task.prompt);
            if touched || !layout::has_grid(folder, task.prompt) {
                layout::grid(folder, task.prompt, cli.images)?;
            }
        }
    }
    results.finish()?;
    report(cli.strategy.name(), &results.lines);
    if !todo.is_empty() {
        let (n, seconds) = (todo.len(), started.elapsed().as_secs_f64());
        let each = seconds / n as f64;
        println!("  {n} pictures drawn now in {seconds:.1} s, {each:.3} s each");
    }
    if !cli.quiet {
        println!("  {jobs} jobs, {}", models.device());
    }
    Ok(())
}

/// Whether the detector knows everything that a prompt asks for.
fn in_the_world(request: &Request) -> bool {
    request.include.iter().chain(&request.exclude).all(|want| {
        let colour = want.color.as_deref();
        world::KINDS.contains(&want.class.as_str())
            && colour.is_none_or(|colour| world::COLOURS.contains(&colour))
    })
}

/// The evaluating detector, if it can read the pictures and knows what they should show.
fn detector(
    cli: &Cli,
    models: &Models,
    known: bool,
) -> Result<Option<Detector<Cpu>>, Box<dyn Error>> {
    let size = models.generator(1)?.image_size();
    let fits = [size.height, size.width].map(|n| n as usize) == [world::SIDE; 2];
    if fits && known {
        let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/detectors");
        return Ok(Some(Detector::load(Cpu::new(), &weights, "eval")?));
    }
    if cli.pictures.is_some() {
        return Ok(None);
    }
    let (height, width, side) = (size.height, size.width, world::SIDE);
    let why = if fits {
        "the detector does not know all objects and colours of these prompts".into()
    } else {
        format!("the detector reads {side}x{side} pictures, these have {width}x{height}")
    };
    Err(format!("{why}: name a folder for the official scorer with --pictures").into())
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
    let alive = cli.effort.alive(cli.strategy);
    let (mut generator, mut reward) = (models.generator(alive)?, models.judge(alive)?);
    let mut strategy = cli.effort.build(cli.strategy, generator.steps())?;
    while let Some(task) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
        let line = one_picture(cli, eye, task, &mut *generator, &mut *reward, &mut strategy)
            .map_err(|e| format!("\"{}\", image {}: {e}", task.request.prompt, task.image))?;
        send.send(Ok(line))?;
    }
    Ok(())
}

fn one_picture<G: Generator + ?Sized + 'static, R: RewardModel + ?Sized + 'static>(
    cli: &Cli,
    eye: Option<&Detector<Cpu>>,
    task: &Task<'_>,
    generator: &mut G,
    reward: &mut R,
    strategy: &mut Search<G, R>,
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
        let picture = Picture {
            width: size.width as usize,
            height: size.height as usize,
            pixels: &pixels,
        };
        let place = [task.prompt, task.image as usize];
        layout::write(folder, place, task.raw, &picture)?;
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

/// Prints the table and what a picture cost.
fn report(name: &str, lines: &Lines) {
    table(name, lines);
    let mean = |key: &str| {
        lines.values().filter_map(|l| l[key].as_f64()).sum::<f64>() / lines.len().max(1) as f64
    };
    let (steps, decodes, questions) = (mean("steps"), mean("decodes"), mean("questions"));
    println!("  per picture: {steps:.1} steps, {decodes:.1} decodes, {questions:.1} questions");
}

fn table(name: &str, lines: &Lines) {
    let n = lines.len();
    if lines.values().any(|line| line["correct"].is_null()) {
        println!("{name} over {n} pictures, not scored");
        return;
    }
    println!("{name} over {n} pictures (share correct, 95 % interval over prompts)");
    for line in score::lines(&results::shares(lines)) {
        println!("{line}");
    }
    let [pictures, prompts] = results::summary(lines);
    println!(
        "  of all pictures {pictures:.3} are correct, of all prompts {prompts:.3} in at least one"
    );
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
