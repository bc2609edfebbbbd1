//! Draws pictures of a prompt, verified step by step: picture, contact sheet and trace.
//!
//! `cargo run --release --example generate --all-features -- "a photo of a red car and a blue book"`
//!
//! With other models, as they are downloaded: `--model-dir Janus-Pro-1B`; the README has a line for each kind.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use maquette::generator::{Needs, Views};
use maquette::parts::Inspector;
use maquette::rng::Stream;
use maquette::search::{Budget, Cost, Decision, SearchStrategy};
use maquette::{Flow, Generator, Prompt, RewardModel};
use serde_json::{Value, json};

use support::choice::{Effort, Strategy};
use support::open::{Models, Settings, picture_seed};
use support::parts::Parts;
use support::png_file::{Picture, writable_folder, write_whole};
use support::record::{Counts, Record};
use support::say;
use support::{open, person, record, report, sheet};

/// Draw pictures of a prompt, verified step by step.
#[derive(Debug, Parser)]
struct Cli {
    /// What the pictures should show; the bundled family knows the words in its vocab.txt. For a class-conditional
    /// LlamaGen the number of a class, or its label.
    #[arg(default_value = "a photo of a red car and a blue book")]
    prompt: String,
    #[arg(long, value_enum, default_value_t = Strategy::Parm)]
    strategy: Strategy,
    #[command(flatten)]
    effort: Effort,
    /// Seconds of a search at most; then its best candidate is finished.
    #[arg(long)]
    max_seconds: Option<f64>,
    /// Judge yourself: the views of each question lie in `ask.png`, and the numbers of those to keep are read here.
    #[arg(long)]
    person: bool,
    /// Have a judge without words say what is wrong with a picture that is going to be corrected, by asking it about the
    /// parts of the prompt.
    #[arg(long, requires = "reflections")]
    reasons: bool,
    /// Pictures, each from a search of its own.
    #[arg(long, default_value_t = 4)]
    images: u32,
    #[arg(long, default_value_t = 1234)]
    seed: u64,
    /// Folder for pictures, sheets and trace.
    #[arg(long, default_value = "out")]
    out: PathBuf,
    /// Also one page about all of it for a browser: candidates step by step, verdicts, cost over time.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Say nothing but errors.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    open::ended(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    writable_folder(&cli.out)?;
    if let Some(folder) = cli.report.as_deref().and_then(Path::parent) {
        writable_folder(if folder == Path::new("") {
            Path::new(".")
        } else {
            folder
        })?;
    }
    let asks = cli.effort.asks(cli.strategy);
    let alive = cli.effort.alive(cli.strategy);
    let models = Models::load_for(&cli.settings, asks && !cli.person, alive)?;
    let mut generator = models.generator(alive)?;
    let mut reward = if cli.person {
        person::at_terminal(cli.out.join("ask.png"))
    } else {
        models.judge(alive)?
    };
    if cli.reasons {
        reward = Box::new(Inspector::new(reward, Parts));
    }
    let mut strategy = cli
        .effort
        .build(cli.strategy, generator.steps(), models.is_raster())?;
    if let Some(seconds) = cli.max_seconds {
        let limit = Duration::try_from_secs_f64(seconds)
            .map_err(|_| "--max-seconds is a number of zero or more")?;
        let begun = Instant::now();
        strategy = Box::new(Budget::new(strategy).with_time(limit, move || begun.elapsed()));
    }
    let started = Instant::now();
    let mut total = Cost::default();
    let (mut usual, mut runs, mut shown) = (Counts::default(), Vec::new(), Vec::new());
    let mut told = Vec::new();
    // The released code has no rungs, rounds or budgets.
    let mut effort = cli.effort.describe();
    if let Some(seconds) = cli.max_seconds {
        // A picture that time bounds may be another one the next time.
        effort["max_seconds"] = seconds.into();
    }
    let released = cli.strategy != Strategy::Halving && effort.is_null();
    for image in 0..cli.images {
        let run = one_picture(&cli, image, &mut *generator, &mut *reward, &mut *strategy)?;
        total += run.decision.cost;
        let steps = u64::from(generator.steps());
        let n = u64::from(cli.effort.candidates);
        let would =
            released.then(|| record::one_by_one(cli.strategy.name(), n, steps, &run.decision.cost));
        if let Some(would) = would {
            usual.steps += would.steps;
            usual.decodes += would.decodes;
            usual.questions += would.questions;
        }
        if cli.report.is_some() {
            told.push(report::picture(&report::Shown {
                record: &run.record,
                pixels: &run.pixels,
                label: &run.label,
                seconds: run.seconds,
                one_by_one: would,
            })?);
        }
        runs.push(run.trace);
        shown.push((run.pixels, run.label));
    }
    let size = generator.image_size();
    let page = sheet::winners(
        [size.height as usize, size.width as usize],
        &cli.prompt,
        &shown,
    );
    page.save(&cli.out.join("sheet.png"))?;
    let trace = json!({
        "prompt": cli.prompt, "strategy": cli.strategy.name(), "candidates": cli.effort.candidates, "effort": effort, "images": cli.images,
        "seed": cli.seed, "models": models.describe(), "device": models.device(), "cost": record::cost(&total), "pictures": runs,
    });
    write_whole(
        &cli.out.join("trace.json"),
        &serde_json::to_vec_pretty(&trace)?,
    )?;
    if let Some(file) = &cli.report {
        let run = json!({
            "prompt": cli.prompt, "strategy": cli.strategy.name(), "candidates": cli.effort.candidates, "seed": cli.seed,
            "models": models.describe(), "device": models.device(), "steps": generator.steps(),
        });
        write_whole(file, report::page(run, told).as_bytes())?;
    }
    if !cli.quiet {
        let seconds = started.elapsed().as_secs_f64();
        say!(
            "{} pictures of \"{}\" in {seconds:.2} s -> {}",
            cli.images,
            cli.prompt,
            cli.out.display()
        );
        let row = |name: &str, c: Counts| {
            say!(
                "  {name:<22} {:>7} steps {:>7} decodes {:>7} questions",
                c.steps,
                c.decodes,
                c.questions
            );
        };
        let spent = Counts {
            steps: total.steps,
            decodes: total.decodes,
            questions: total.judged(),
            rejected: 0,
        };
        row("spent", spent);
        let work = total.multiply_adds;
        if let (Some(all), Some(generator), Some(decoder), Some(judge)) =
            (work.total(), work.generator, work.decoder, work.judge)
        {
            let [all, generator, decoder, judge] =
                [all, generator, decoder, judge].map(|n| n as f64 / 1e9);
            say!(
                "  10^9 multiply-adds: {all:.2}, generator {generator:.2}, decoder {decoder:.2}, judge {judge:.2}"
            );
        }
        if released {
            row("one by one, as released", usual);
        }
    }
    Ok(())
}

/// One finished picture.
struct Run {
    decision: Decision,
    pixels: Vec<u8>,
    label: String,
    trace: Value,
    record: Record,
    seconds: f64,
}

fn one_picture<G: Generator + ?Sized, R: RewardModel + ?Sized>(
    cli: &Cli,
    image: u32,
    generator: &mut G,
    reward: &mut R,
    strategy: &mut dyn SearchStrategy<G, R>,
) -> Result<Run, Box<dyn Error>> {
    let started = Instant::now();
    let steps = generator.steps();
    let mut record = Record::new(generator.image_size(), generator.grid());
    let n = if !cli.effort.asks(cli.strategy) {
        1
    } else {
        u64::from(cli.effort.candidates)
    };
    let bar = ProgressBar::new(n * u64::from(steps));
    if cli.quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(ProgressStyle::with_template(
        "{prefix} {bar:32} {pos:>4}/{len} steps  {msg}",
    )?);
    bar.set_prefix(format!("picture {}/{}", image + 1, cli.images));
    let seed = picture_seed(cli.seed, 0, image);
    let prompt = Prompt::new(&cli.prompt);
    let decision = strategy.search(
        generator,
        reward,
        &prompt,
        &mut Stream::new(seed),
        &mut |event| {
            record.hear(&event);
            let c = record.counts;
            bar.set_position(c.steps);
            bar.set_message(format!(
                "{} looks, {} questions, {} dropped",
                c.decodes, c.questions, c.rejected
            ));
            Flow::Continue
        },
    )?;
    bar.abandon();

    let mut pixels = vec![0; generator.image_size().len_bytes()];
    let mut codes = vec![0; generator.grid().len()];
    generator.observe(
        &[decision.winner],
        Needs::PIXELS,
        &mut Views::pixels(&mut pixels),
    )?;
    generator.save(decision.winner, &mut codes)?;
    generator.prune(&[decision.winner])?;
    record.finish(&decision, steps, &pixels);

    let size = generator.image_size();
    let picture = Picture {
        width: size.width as usize,
        height: size.height as usize,
        pixels: &pixels,
    };
    write_whole(
        &cli.out.join(format!("picture-{image}.png")),
        &picture.png()?,
    )?;
    let label = match &decision.verdict {
        Some(v) => {
            let none = if decision.fallback { ", none left" } else { "" };
            format!("{} {:.0}%{none}", record.last_question(), v.p_yes * 100.0)
        }
        None => "not judged".into(),
    };
    let cost = decision.cost;
    let summary = [
        format!(
            "{}, {n} candidates, seed {}, picture {image}",
            cli.strategy.name(),
            cli.seed
        ),
        format!(
            "{} steps, {} decodes, {} questions, {} dropped",
            cost.steps,
            cost.decodes,
            cost.judged(),
            record.counts.rejected
        ),
        format!("chosen: {label}"),
    ];
    sheet::sheet(&record, &cli.prompt, &summary)
        .save(&cli.out.join(format!("sheet-{image}.png")))?;
    let seconds = started.elapsed().as_secs_f64();
    let trace = json!({
        "image": image, "seed": seed, "winner": decision.winner.0, "codes": codes, "fallback": decision.fallback,
        "verdict": decision.verdict.as_ref().map(record::verdict), "cost": record::cost(&cost),
        "seconds": seconds, "events": record.events,
    });
    Ok(Run {
        decision,
        pixels,
        label,
        trace,
        record,
        seconds,
    })
}
