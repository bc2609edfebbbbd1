//! Measures models at their full shape: time to load, memory, seconds a generator step and seconds a judgement.
//!
//! `cargo run --release --example measure --all-features -- --model-dir out/show-o --tokenizer-dir out/magvit \
//! --judge-dir out/judge --judge-format q4_0 --candidates 4 --steps 2`
//!
//! The models may be those that `synthetic` writes: prompts go through a tokenizer that takes any word. With `--parm` a
//! whole search runs, cut to so many steps; its judge is really asked, its verdicts may be those of a script. A line a
//! measurement, and all of them as JSON in the last line.

mod report;
mod script;
mod timed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use maquette::generator::{Needs, Views};
use maquette::model::weights::Precision;
use maquette::reward::{Ask, ViewKey};
use maquette::rng::{Stream, philox};
use maquette::search::{Parm, SearchStrategy};
use maquette::{
    CandidateId, Event, Flow, Generator, ImageBatch, ImageSize, Judgement, Prompt, RewardModel,
    Verdict,
};
use report::{Report, weights_gb};
use script::{QUESTIONS, Script, Scripted};
use support::measured;
use support::measured::{Drawing, Model, Res};
use support::open;
use support::open::device::{Choice, Device};
use support::precision::{Arithmetic, Kv, precision};
use support::weights::Weights;
use timed::{Spent, Timed};

/// Measures models at their full shape.
#[derive(Debug, Parser)]
struct Cli {
    /// The generator; or another model, to be loaded and, if it judges, asked.
    #[arg(long)]
    model_dir: PathBuf,
    /// Image tokenizer of a generator that has it apart.
    #[arg(long)]
    tokenizer_dir: Option<PathBuf>,
    /// Text encoder of LlamaGen; without one its features are random.
    #[arg(long)]
    text_dir: Option<PathBuf>,
    /// The judge; without one Janus judges itself.
    #[arg(long)]
    judge_dir: Option<PathBuf>,
    /// How large matrices are kept.
    #[arg(long, value_enum, default_value_t = Weights::Q8)]
    format: Weights,
    /// The same for the judge, if it differs.
    #[arg(long, value_enum)]
    judge_format: Option<Weights>,
    #[arg(long, value_enum, default_value_t = Arithmetic::F32)]
    activations: Arithmetic,
    /// Guidance scale; at 1 a candidate is one row instead of two. [default: the model's own]
    #[arg(long)]
    guidance: Option<f32>,
    /// How the generator keeps keys and values.
    #[arg(long, value_enum, default_value_t = Kv::F32)]
    kv: Kv,
    /// How the judge keeps them.
    #[arg(long, value_enum, default_value_t = Kv::F32)]
    judge_kv: Kv,
    /// Steps that are taken.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps of a whole picture, for Show-o.
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u32).range(1..))]
    whole_steps: u32,
    /// Codes of a step, for models that draw them one by one. [default: a row of the grid]
    #[arg(long)]
    tokens_per_step: Option<usize>,
    /// Candidates, a guided pair each unless guidance is off.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    candidates: u32,
    /// Candidates that go through the generator at once: memory grows with them.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Views that go through the judge at once: memory grows with them.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    views: u32,
    /// Rows of random features that stand for a prompt without a text encoder.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    features: u32,
    /// The prompt; a number for a class.
    #[arg(long, default_value = "a photo of a red car and a blue book")]
    prompt: String,
    /// Runs a whole search with all questions.
    #[arg(long)]
    parm: bool,
    /// First step of the search whose clarity is asked about.
    #[arg(long, requires = "parm", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    min_clarity_step: u32,
    /// Runs the search once before the one that is timed: the first on a GPU makes its kernels ready.
    #[arg(long)]
    warm: bool,
    /// Verdicts of the search.
    #[arg(long, value_enum, default_value_t = Script::None)]
    script: Script,
    /// `cpu`, `cuda`, `cuda:N`, `cublaslt` (`cuda` with large products in BF16 through that library) or `auto`.
    #[arg(long, default_value = "cpu")]
    device: Choice,
    /// Threads on the CPU. [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    open::ended(run(&Cli::parse()))
}

/// A model's name in the report, its folder and its precision.
type Source<'a> = (&'static str, &'a Path, Precision);

/// Loads a model, and reports it.
fn load(report: &mut Report, device: &Device, (name, path, precision): Source<'_>) -> Res<Model> {
    report.begin(name);
    report.put("folder", path.display().to_string());
    report.put("format", precision.format.name());
    report.put("activations", precision.activations.name());
    let begin = Instant::now();
    let model = measured::load(device, path, precision)?;
    let (seconds, gb) = (begin.elapsed().as_secs_f64(), weights_gb(path));
    report.put("file_gb", gb);
    report.put("load_seconds", seconds);
    report.memory();
    Ok(model)
}

/// Models and their sessions.
struct Made {
    generator: Option<Box<dyn Generator>>,
    judge: Option<Box<dyn RewardModel>>,
    /// Whether the generator's pictures can be looked at.
    seen: bool,
    /// Those that no session uses are there, too.
    _models: Vec<Model>,
}

/// Loads the models and makes their sessions.
fn make(cli: &Cli, load: &mut dyn FnMut(Source<'_>) -> Res<Model>) -> Res<Made> {
    let mut open = |name, path: Option<&PathBuf>, format| {
        let precision = precision(format, cli.activations);
        path.map(|path| load((name, path, precision))).transpose()
    };
    let model = open("model", Some(&cli.model_dir), cli.format)?.ok_or("no model")?;
    let pixels = open("tokenizer", cli.tokenizer_dir.as_ref(), cli.format)?;
    let text = open("text_encoder", cli.text_dir.as_ref(), cli.format)?;
    let judge_dir = cli.judge_dir.as_ref().filter(|dir| **dir != cli.model_dir);
    let judge = open("judge", judge_dir, cli.judge_format.unwrap_or(cli.format))?;
    let drawing = Drawing {
        steps: cli.whole_steps,
        tokens_per_step: cli.tokens_per_step,
        candidates: cli.candidates as usize,
        batch: cli.batch as usize,
        guidance: cli.guidance,
        kv: cli.kv.format(),
        features: cli.features as usize,
    };
    let judging = judge.as_ref().unwrap_or(&model);
    Ok(Made {
        generator: model.generator(pixels.as_ref(), text.as_ref(), &drawing)?,
        judge: judging.judge(
            cli.views as usize,
            cli.candidates as usize,
            cli.judge_kv.format(),
        )?,
        seen: model.sees(pixels.as_ref()),
        _models: [Some(model), pixels, text, judge]
            .into_iter()
            .flatten()
            .collect(),
    })
}

fn run(cli: &Cli) -> Res<()> {
    let (device, told) = cli.device.open(cli.threads)?;
    let mut report = Report::default();
    report.begin("before");
    report.put("device", told);
    report.memory();
    let planned = device.plan(|planner| {
        make(cli, &mut |(_, path, precision)| {
            measured::load(planner, path, precision)
        })
    })?;
    if let Some(plan) = planned {
        report.begin("plan");
        for (key, bytes) in [
            ("matrices_gb", plan.matrices),
            ("keys_and_values_gb", plan.caches),
            ("all_else_gb", plan.buffers),
        ] {
            report.put(key, bytes as f64 / 1e9);
        }
    }
    let made = make(cli, &mut |source| load(&mut report, &device, source))?;
    let seen = made.seen;
    let mut generator = made.generator.map(|g| Timed::new(g, cli.steps));
    let mut judge = made.judge.map(|judge| Scripted::new(judge, cli.script));
    report.begin("sessions");
    report.memory();
    match (&mut generator, &mut judge) {
        (Some(generator), Some(judge)) if cli.parm => {
            search(&mut report, generator, judge, cli)?;
        }
        _ if cli.parm => return Err("a search needs a generator and a judge".into()),
        (None, None) => {}
        (generator, judge) => {
            let pictures = match generator {
                Some(generator) => draw(&mut report, generator, cli, seen)?,
                None => None,
            };
            if let Some(judge) = judge {
                ask(&mut report, judge, cli, pictures)?;
            }
        }
    }
    report.begin("after");
    report.memory();
    report.end();
    Ok(())
}

/// Pictures, their size, and what names them.
type Pictures = (ImageSize, Vec<u8>, Vec<ViewKey>);

/// Some steps of some candidates, which are then decoded if they can be.
fn draw(
    report: &mut Report,
    generator: &mut Timed,
    cli: &Cli,
    seen: bool,
) -> Res<Option<Pictures>> {
    report.begin("generator");
    report.put("candidates", cli.candidates);
    report.put("kv", cli.kv.format().name());
    let seeds: Vec<u64> = (0..u64::from(cli.candidates)).collect();
    let mut ids = vec![CandidateId::default(); seeds.len()];
    generator.start(&Prompt::new(&cli.prompt), &seeds, &mut ids)?;
    report.put("start_seconds", generator.start.seconds);
    for _ in 0..generator.steps() {
        generator.step(&ids)?;
    }
    let seconds: Vec<f64> = generator.steps.iter().map(|step| step.seconds).collect();
    report.put("step_seconds", seconds);
    report.put("steps_of_a_picture", generator.whole());
    let pictures = seen.then(|| {
        let size = generator.image_size();
        let mut pixels = vec![0; ids.len() * size.len_bytes()];
        generator.observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
        let step = generator.steps();
        let key = |&candidate| ViewKey { candidate, step };
        Ok::<_, maquette::Error>((size, pixels, ids.iter().map(key).collect()))
    });
    let pictures = pictures.transpose()?;
    report.put_some("decode_seconds_each", generator.decode.each());
    let one = generator.later_step().map(|each| {
        let first = generator.steps.first().map_or(0.0, |step| step.seconds);
        let later = f64::from(generator.whole() - 1) * f64::from(cli.candidates) * each;
        generator.start.seconds + first + later
    });
    report.put_some("whole_seconds_extrapolated", one);
    report.memory();
    Ok(pictures)
}

/// Every question about some pictures: those that were drawn, else noise.
fn ask(
    report: &mut Report,
    judge: &mut Scripted,
    cli: &Cli,
    pictures: Option<Pictures>,
) -> Res<()> {
    report.begin("judgements");
    let (size, pixels, keys) = pictures.unwrap_or_else(|| {
        let (size, n) = (ImageSize::new(256, 256), u64::from(cli.candidates));
        let bytes =
            (0..).flat_map(|i| philox([7, 7], [i, 0, 0, 0]).map(|word| word.to_le_bytes()[0]));
        let pixels = bytes
            .take(cli.candidates as usize * size.len_bytes())
            .collect();
        let key = |i| ViewKey {
            candidate: CandidateId(i),
            step: 1,
        };
        (size, pixels, (0..n).map(key).collect())
    });
    report.put("views", keys.len());
    let prompt = Prompt::new(&cli.prompt);
    let mut verdicts = vec![Verdict::malformed(); keys.len()];
    for judgement in QUESTIONS {
        // Potential goes on where clarity ended; the others begin anew.
        if judgement != Judgement::Potential {
            judge.forget(&keys);
        }
        let shown = ImageBatch::new(keys.len(), size, &pixels)?;
        let ask = Ask::new(judgement, &prompt, &keys).with_pixels(shown);
        judge.judge(&ask, &mut verdicts)?;
        let each = judge.of(judgement).each();
        report.put_some(&format!("{judgement}_seconds_each"), each);
    }
    report.memory();
    Ok(())
}

/// A whole search, and what it would take with all steps of a picture.
fn search(report: &mut Report, generator: &mut Timed, judge: &mut Scripted, cli: &Cli) -> Res<()> {
    let prompt = Prompt::new(&cli.prompt);
    let mut parm = Parm::new(cli.candidates).with_min_clarity_step(cli.min_clarity_step);
    if cli.warm {
        let mut unheard = |_: Event<'_>| Flow::Continue;
        let mut rng = Stream::new(1);
        let found = parm.search(generator, judge, &prompt, &mut rng, &mut unheard)?;
        generator.prune(&[found.winner])?;
        generator.begin();
        judge.begin();
    }
    report.begin("search");
    report.put("candidates", cli.candidates);
    report.put("steps", generator.steps());
    let begin = Instant::now();
    let (mut alive, mut resumed) = (0_u32, 0_u32);
    let mut on_event = |event: Event<'_>| {
        match event {
            Event::Started { ids, .. } => alive += u32::try_from(ids.len()).unwrap_or(u32::MAX),
            Event::Rejected { .. } => alive = alive.saturating_sub(1),
            Event::Resumed { .. } => resumed += 1,
            Event::Stepped { ids, step } => {
                let seconds = begin.elapsed().as_secs_f64();
                eprintln!(
                    "step {step} of {} candidates after {seconds:.0} s",
                    ids.len()
                );
            }
            _ => {}
        }
        Flow::Continue
    };
    let found = parm.search(
        generator,
        judge,
        &prompt,
        &mut Stream::new(1),
        &mut on_event,
    )?;
    let seconds = begin.elapsed().as_secs_f64();
    report.put("seconds", seconds);
    report.put("fallback", found.fallback);
    report.put("resumed", resumed);
    report.put("candidate_steps", found.cost.steps);
    report.put(
        "step_seconds",
        generator.steps.iter().map(|s| s.seconds).sum::<f64>(),
    );
    report.put("start_seconds", generator.start.seconds);
    report.put("decoded", generator.decode.items);
    report.put("decode_seconds", generator.decode.seconds);
    for (judgement, spent) in QUESTIONS.iter().zip(&judge.spent) {
        report.put(&format!("{judgement}_asked"), spent.items);
        report.put(&format!("{judgement}_seconds"), spent.seconds);
    }
    report.memory();

    report.begin("extrapolated");
    report.put("steps_of_a_picture", generator.whole());
    let Some(step) = generator.later_step() else {
        return Ok(());
    };
    let left = f64::from(generator.whole() - generator.steps());
    // Nobody that survives is asked again before the end; without survivors one goes on.
    let survivors = f64::from(if found.fallback { 1 } else { alive });
    report.put("seconds_as_decided", seconds + left * survivors * step);
    // Everybody unclear until the last step, and then with potential.
    let each = |spent: Spent| spent.each().unwrap_or(0.0);
    let (n, whole) = (f64::from(cli.candidates), f64::from(generator.whole()));
    let first = generator.steps.first().map_or(0.0, |step| step.seconds);
    let looks = each(generator.decode) + each(judge.of(Judgement::Clarity));
    let ends = each(judge.of(Judgement::Potential)) + each(judge.of(Judgement::Outcome));
    let most = generator.start.seconds + first + n * ((whole - 1.0) * step + whole * looks + ends);
    let outcome = judge.of(Judgement::Outcome).items > 0;
    report.put_some("seconds_at_most", outcome.then_some(most));
    Ok(())
}
