//! Makes training sets: draws pictures of prompts, has them labelled, and writes pairs of better and worse ones and the
//! questions that judges are trained on. Codes are written, not pixels. Goes on after a kill with the same bytes.
//!
//! `cargo run --release --example demo --all-features -- prompts --count 600 --out out/train.jsonl`
//! `cargo run --release --example annotate --all-features -- --prompts out/train.jsonl --out out/round-1.jsonl`
//!
//! Prompts of the evaluation are left out. Several processes share the prompts by their ranks, as for `geneval`, and
//! `--merge` makes one file of theirs and its sets.

mod sets;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use maquette::align::annotation::{draw, rollouts};
use maquette::{Generator, Prompt};
use serde_json::{Value, json};

use sets::{Recipe, Set};
use support::open::{Models, Settings, picture_seed};
use support::results::{Lines, Results};
use support::rules::Request;
use support::say;
use support::scorer::{Eye, Marker, Scorer};
use support::shard::Shard;
use support::{open, requests, results, score, scorer, shard};

/// Draw and label pictures, and make training sets of them.
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Cli {
    /// GenEval records of prompts to train on, one a line.
    #[arg(long, required_unless_present = "merge")]
    prompts: Option<PathBuf>,
    /// Records of the evaluation: prompts with the same words are left out.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/eval_prompts.jsonl"))]
    evaluation: PathBuf,
    /// Pictures of each prompt.
    #[arg(long, default_value_t = 8)]
    images: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only so many prompts, spread evenly over the set.
    #[arg(long)]
    limit: Option<usize>,
    /// Who labels.
    #[arg(long, value_enum, default_value_t = Scorer::Rules)]
    scorer: Scorer,
    /// What is written beside the pictures.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "pairs,outcome"
    )]
    sets: Vec<Set>,
    /// Pairs of a prompt at most.
    #[arg(long, default_value_t = 1)]
    pairs: usize,
    /// Pairs of pictures with this reward or more and those with less, where the fewer come again until all have a
    /// partner. [default: the best with the worst and so on, each once]
    #[arg(long)]
    across: Option<f64>,
    /// Rewards of a pair are no less apart.
    #[arg(long, default_value_t = 0.0)]
    margin: f64,
    /// Steps of a picture that each question of PARM is asked about.
    #[arg(long, default_value_t = 1)]
    looks: usize,
    /// Ways on from each step for the process labels.
    #[arg(long, default_value_t = 4)]
    rollouts: u32,
    /// Prompts drawn at the same time; changes no result. [default: all cores, shared with other ranks of this machine; 1
    /// on a GPU]
    #[arg(long)]
    jobs: Option<usize>,
    /// File of the pictures; an unfinished one of the same settings is gone on with. The sets stand beside it.
    #[arg(long, default_value = "out/annotate.jsonl")]
    out: PathBuf,
    /// Draw every so many-th prompt alone: rank of this process. [default: as launchers tell it, see `geneval`]
    #[arg(long, requires = "world")]
    rank: Option<u64>,
    /// Number of processes.
    #[arg(long, requires = "rank")]
    world: Option<u64>,
    /// Make one file of those that all ranks wrote, and the sets, and draw nothing.
    #[arg(long)]
    merge: bool,
    /// Say nothing but the tables.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    settings: Settings,
}

/// The pictures of one prompt that are missing.
struct Task<'a> {
    prompt: usize,
    images: Vec<u32>,
    request: &'a Request,
}

/// What jobs share.
struct Shared<'a> {
    cli: &'a Cli,
    models: &'a Models,
    eye: Option<&'a Eye>,
    todo: &'a [Task<'a>],
    next: AtomicUsize,
}

fn main() -> ExitCode {
    open::ended(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut cli = Cli::parse();
    cli.sets.sort_unstable();
    cli.sets.dedup();
    if cli.merge {
        let lines = results::merge(&shard::files(&cli.out)?, &cli.out)?;
        return finish(&cli, &lines);
    }
    check(&cli)?;
    let path = cli.prompts.clone().unwrap_or_default();
    let all = requests::read(&path)?;
    let clean = requests::clean(all, &requests::read(&cli.evaluation)?);
    if !cli.quiet {
        let (n, leaked, repeated) = (clean.kept.len(), clean.leaked, clean.repeated);
        say!("{n} prompts; {leaked} of the evaluation and {repeated} repeated ones are left out");
    }
    let all = clean.kept.len();
    let keep = cli.limit.unwrap_or(all).min(all);
    let kept: Vec<&(usize, Request)> = (0..keep)
        .filter_map(|i| clean.kept.get(i * all / keep))
        .collect();
    if kept.is_empty() || cli.images == 0 {
        return Err(format!(
            "nothing to draw: {} has no prompt that is not of the evaluation, or no images are wanted",
            path.display()
        )
        .into());
    }
    let shard = Shard::find(cli.rank.zip(cli.world), |name| std::env::var(name).ok())?;
    let jobs = cli.jobs.unwrap_or_else(|| cli.settings.jobs(shard.local));
    let jobs = jobs.max(1);
    // The jobs share the cores already.
    cli.settings.threads = cli.settings.threads.or(Some(1));
    if shard.world > 1 && !cli.quiet {
        let (rank, world, told_by) = (shard.rank, shard.world, shard.told_by);
        eprintln!("rank {rank} of {world}, says {told_by}");
    }

    let models = Models::load(&cli.settings, cli.scorer.has_judge())?;
    let size = models.generator(1)?.image_size();
    let asked: Vec<&Request> = kept.iter().map(|(_, request)| request).collect();
    let eye = cli
        .scorer
        .has_rules()
        .then(|| scorer::eye(size, &asked))
        .transpose()?;
    let names: Vec<&str> = cli.sets.iter().map(|set| set.name()).collect();
    let header = json!({
        "scorer": cli.scorer.name(), "images": cli.images, "seed": cli.seed,
        "pictures": kept.len() * cli.images as usize, "prompts": path.file_name().map(|n| n.to_string_lossy()),
        "prompts_digest": requests::digest(&kept)?, "limit": cli.limit, "leaked": clean.leaked, "repeated": clean.repeated, "sets": names, "pairs": cli.pairs,
        "across": cli.across, "margin": cli.margin, "looks": cli.looks, "rollouts": cli.rollouts, "models": models.describe(),
    });
    let mut results = Results::open(&shard.file(&cli.out), &header)?;
    let own = kept.iter().enumerate().filter(|(i, _)| shard.has(*i));
    let tasks = own.map(|(_, (prompt, request))| Task {
        prompt: *prompt,
        images: (0..cli.images)
            .filter(|&image| {
                let key = (*prompt as u64, u64::from(image));
                !results.lines.contains_key(&key)
            })
            .collect(),
        request,
    });
    let todo: Vec<Task<'_>> = tasks.filter(|task| !task.images.is_empty()).collect();
    let missing: usize = todo.iter().map(|task| task.images.len()).sum();
    let bar = bar(cli.quiet, results.lines.len(), missing)?;
    let shared = Shared {
        cli: &cli,
        models: &models,
        eye: eye.as_ref(),
        todo: &todo,
        next: AtomicUsize::new(0),
    };
    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let (send, receive) = mpsc::channel();
        for _ in 0..jobs.min(todo.len()) {
            let (send, shared) = (send.clone(), &shared);
            scope.spawn(move || {
                if let Err(e) = work(shared, &send) {
                    // Nobody listens any more once another job has failed.
                    let _ = send.send(Err(open::told(&*e)));
                }
            });
        }
        drop(send);
        for line in receive {
            let stop = |_: &String| shared.next.store(usize::MAX / 2, Ordering::Relaxed);
            results.add(line.inspect_err(stop)?)?;
            bar.inc(1);
        }
        Ok(())
    })?;
    bar.abandon();
    results.finish()?;
    if !cli.quiet {
        say!("{jobs} jobs, {}", models.device());
    }
    if shard.world > 1 {
        return Ok(());
    }
    finish(&cli, &results.lines)
}

fn check(cli: &Cli) -> Result<(), Box<dyn Error>> {
    if cli.sets.contains(&Set::Reflection) && cli.scorer == Scorer::Judge {
        return Err("--sets reflection: only the rules say what is wrong".into());
    }
    if !(0.0..f64::INFINITY).contains(&cli.margin) {
        return Err(format!("--margin {}: not a distance of rewards", cli.margin).into());
    }
    for (name, zero) in [
        ("pairs", cli.pairs == 0),
        ("looks", cli.looks == 0),
        ("rollouts", cli.rollouts == 0),
    ] {
        if zero {
            return Err(format!("--{name} begins at 1").into());
        }
    }
    Ok(())
}

fn bar(quiet: bool, done: usize, missing: usize) -> Result<ProgressBar, Box<dyn Error>> {
    let bar = ProgressBar::new((done + missing) as u64);
    if quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} pictures  {eta} left",
    )?);
    bar.set_position(done as u64);
    bar.reset_eta();
    Ok(bar)
}

/// Draws prompts until none is left.
fn work(
    shared: &Shared<'_>,
    send: &mpsc::Sender<Result<Value, String>>,
) -> Result<(), Box<dyn Error>> {
    let cli = shared.cli;
    let ways = cli.sets.contains(&Set::Process).then_some(cli.rollouts);
    let alive = cli.images + ways.unwrap_or(0);
    let mut generator = shared.models.generator(alive)?;
    let judge = cli.scorer.has_judge();
    let judge = judge.then(|| shared.models.judge(alive)).transpose()?;
    let mut marker = Marker::of(shared.eye, judge).ok_or("nobody marks")?;
    while let Some(task) = shared.todo.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
        let lines = one_prompt(cli, ways, &mut *generator, &mut marker, task)
            .map_err(|e| format!("\"{}\": {}", task.request.prompt, open::told(&*e)))?;
        for line in lines {
            send.send(Ok(line))?;
        }
    }
    Ok(())
}

fn one_prompt<'g>(
    cli: &Cli,
    ways: Option<u32>,
    generator: &mut (dyn Generator + 'g),
    marker: &mut Marker<'_>,
    task: &Task<'_>,
) -> Result<Vec<Value>, Box<dyn Error>> {
    let at = u32::try_from(task.prompt)?;
    let seed = |&image: &u32| picture_seed(cli.seed, at, image);
    let seeds: Vec<u64> = task.images.iter().map(seed).collect();
    let (mut marks, steps) = (Vec::new(), generator.steps());
    let mut process = vec![Vec::new(); seeds.len()];
    let prompt = Prompt::new(&task.request.prompt);
    let drawn = draw(generator, &prompt, &seeds, &mut |generator, ids, step| {
        if step == steps {
            marks = marker.mark(&mut &mut *generator, task.request, ids)?;
            return Ok(());
        }
        let Some(ways) = ways else { return Ok(()) };
        for ((id, seed), labels) in ids.iter().zip(&seeds).zip(&mut process) {
            let seeds: Vec<u64> = (0..ways)
                .map(|way| picture_seed(*seed, step, way))
                .collect();
            let ends = rollouts(generator, *id, &seeds, &mut |generator, ids| {
                let marks = marker.mark(&mut &mut *generator, task.request, ids)?;
                Ok(marks.iter().map(|mark| mark.correct).collect())
            })?;
            labels.push(ends.contains(&true));
        }
        Ok(())
    })?;
    let mut lines = Vec::new();
    for (i, (one, mark)) in drawn.iter().zip(marks).enumerate() {
        let mut line = json!({
            "prompt_index": task.prompt, "image": task.images[i], "seed": seeds[i], "tag": task.request.tag,
            "prompt": task.request.prompt, "correct": mark.correct, "reward": mark.reward, "reason": mark.reason,
            "codes": one.codes(),
        });
        if cli.sets.iter().any(|set| set.needs_previews()) {
            line["previews"] = json!(one.previews);
        }
        if ways.is_some() {
            // After the last step nothing is left to be tried.
            process[i].push(mark.correct);
            line["process"] = json!(process[i]);
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Writes the sets and says what is there.
fn finish(cli: &Cli, lines: &Lines) -> Result<(), Box<dyn Error>> {
    let (sets, recipe) = recipe(&cli.out)?;
    let written = sets::write(lines, &sets, &recipe, &cli.out)?;
    let (file, n) = (cli.out.display(), lines.len());
    say!("{file}: {n} pictures (share labelled right, 95 % interval over prompts)");
    for line in score::lines(&results::shares(lines)) {
        say!("{line}");
    }
    say!("  set          items     yes      no");
    for set in written {
        let (name, items, path) = (set.name, set.items, set.path.display());
        let sides = match set.yes {
            Some(yes) => format!("{yes:>7} {:>7}", items - yes),
            None => format!("{:>7} {:>7}", "", ""),
        };
        say!("  {name:<11} {items:>6} {sides}   {path}");
    }
    Ok(())
}

/// How the pictures of a file become sets: as its header says.
fn recipe(path: &Path) -> Result<(Vec<Set>, Recipe), Box<dyn Error>> {
    let text =
        fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let header: Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
    let told = |name: &str| format!("{}: the header has no \"{name}\"", path.display());
    let number = |name: &str| header[name].as_u64().ok_or_else(|| told(name));
    let names = header["sets"].as_array().ok_or_else(|| told("sets"))?;
    let known = <Set as clap::ValueEnum>::value_variants().iter().copied();
    let sets = known.filter(|set| names.iter().any(|name| name == set.name()));
    let recipe = Recipe {
        pairs: usize::try_from(number("pairs")?)?,
        across: header["across"].as_f64(),
        margin: header["margin"].as_f64().ok_or_else(|| told("margin"))?,
        looks: usize::try_from(number("looks")?)?,
        seed: number("seed")?,
    };
    Ok((sets.collect(), recipe))
}
