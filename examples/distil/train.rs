//! Training a head, and asking it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use maquette::align::{AdamWConfig, LatentBatch, LatentTrainer, Schedule, TrainerConfig};
use maquette::cpu::Cpu;
use maquette::model::latent::LatentConfig;
use maquette::model::latent::backward::LatentViews;
use maquette::rng::philox;
use serde_json::{Value, json};
use support::png_file::write_whole;
use support::{requests, say};

use crate::begin;
use crate::looks::{ANSWERS, Looks, QUESTIONS};
use crate::measure::{Said, table};

/// The shape of a head.
#[derive(Debug, Clone, Args)]
pub struct Shape {
    /// Codes of the generator's codebook; 0 for a head that reads hidden rows alone.
    #[arg(long, default_value_t = 1024)]
    codebook: usize,
    /// Width of the head's rows.
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// Heads that pool rows.
    #[arg(long, default_value_t = 8)]
    heads: usize,
    /// Values of each of them.
    #[arg(long, default_value_t = 16)]
    head_dim: usize,
    /// Inner width of the MLP.
    #[arg(long, default_value_t = 64)]
    mlp: usize,
}

#[derive(Debug, Args)]
pub struct Train {
    /// Folders of what was seen, several apart by commas.
    #[arg(long, value_delimiter = ',', default_value = "out/looks")]
    looks: Vec<PathBuf>,
    /// Folder of the head; an unfinished run of the same settings is gone on with.
    #[arg(long, default_value = "out/latent")]
    out: PathBuf,
    /// Times that every look is learnt from.
    #[arg(long, default_value_t = 8)]
    epochs: u64,
    /// Looks of a step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
    #[arg(long, default_value_t = 0.1)]
    decay: f64,
    /// Every so many-th prompt is kept apart and measured at the end; 0 for none.
    #[arg(long, default_value_t = 5)]
    held: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    shape: Shape,
    /// Threads. [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub struct Measure {
    /// Folder of what was seen of prompts that the head was not taught.
    #[arg(long, default_value = "out/looks-held-out")]
    looks: PathBuf,
    /// Folder of the head.
    #[arg(long, default_value = "out/latent")]
    head: PathBuf,
}

impl Train {
    /// Everything that decides what is learnt from these looks.
    fn describe(&self, all: &[(usize, Looks)]) -> Res<Value> {
        let bits = |looks: &Looks| looks.answers.iter().map(|p| p.to_bits()).collect();
        let seen: Vec<(usize, Vec<u32>)> =
            all.iter().map(|(at, looks)| (*at, bits(looks))).collect();
        let shape = &self.shape;
        Ok(json!({
            "looks": self.looks, "seen": requests::digest(&seen)?, "prompts": all.len(), "epochs": self.epochs,
            "batch": self.batch, "rate": self.rate, "decay": self.decay, "held": self.held, "seed": self.seed,
            "codebook": shape.codebook, "width": shape.width, "heads": shape.heads, "head_dim": shape.head_dim,
            "mlp": shape.mlp,
        }))
    }
}

type Res<T> = Result<T, Box<dyn Error>>;

/// Prompts of a folder at most.
const PROMPTS: usize = 100_000;

/// Everything in some folders, by the places of the prompts; a folder's follow those of the one before.
fn read_all(folders: &[PathBuf]) -> Res<Vec<(usize, Looks)>> {
    let mut all = Vec::new();
    for (i, folder) in folders.iter().enumerate() {
        let looks = read(folder)?.into_iter();
        all.extend(looks.map(|(at, looks)| (i * PROMPTS + at % PROMPTS, looks)));
    }
    let size = all.first().map(|(_, looks)| looks.size);
    if all.iter().any(|(_, looks)| Some(looks.size) != size) {
        return Err("--looks: folders of different generators".into());
    }
    Ok(all)
}

/// Everything in a folder, by the places of the prompts.
fn read(folder: &Path) -> Res<Vec<(usize, Looks)>> {
    let told = |e: std::io::Error| format!("cannot read {}: {e}", folder.display());
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let at = stem.and_then(|stem| stem.parse().ok());
        let at = at.ok_or_else(|| format!("{}: its name is no number", path.display()))?;
        all.push((at, Looks::read(&path)?));
    }
    let Some((_, first)) = all.first() else {
        return Err(format!("{}: nothing was seen yet", folder.display()).into());
    };
    if all.iter().any(|(_, looks)| looks.size != first.size) {
        return Err(format!("{}: files of different generators", folder.display()).into());
    }
    Ok(all)
}

/// Some looks as a head reads them.
#[derive(Debug, Default)]
struct Rows {
    hidden: Vec<f32>,
    codes: Vec<u32>,
    p_yes: Vec<f32>,
}

impl Rows {
    fn clear(&mut self) {
        self.hidden.clear();
        self.codes.clear();
        self.p_yes.clear();
    }

    /// Adds a look. The potential is taught by how the picture ended.
    fn add(&mut self, looks: &Looks, at: usize) {
        let [places, width] = looks.size;
        let row = places * width;
        let hidden = &looks.hidden[at * row..][..row];
        self.hidden.extend(hidden.iter().map(|v| v.to_f32()));
        self.codes.extend(&looks.codes[at * places..][..places]);
        let [outcome, process, clarity, _, end] = answers(looks, at);
        self.p_yes.extend([outcome, process, clarity, end]);
    }

    fn views(&self) -> LatentViews<'_> {
        LatentViews::new(&self.hidden, &self.codes)
    }
}

fn answers(looks: &Looks, at: usize) -> [f32; ANSWERS] {
    looks.answers.as_chunks::<ANSWERS>().0[at]
}

/// A number that orders the looks of an epoch.
fn order(seed: u64, epoch: u64, at: usize) -> u32 {
    let [low, high] = [seed, seed >> 32].map(|half| (half & 0xFFFF_FFFF) as u32);
    let at = u32::try_from(at).unwrap_or(u32::MAX);
    philox([low, high], [at, u32::try_from(epoch).unwrap_or(0), 2, 7])[0]
}

fn device(threads: Option<usize>) -> Res<Arc<Cpu>> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Arc::new(Cpu::with_threads(threads.unwrap_or(all))?))
}

pub fn train(cli: &Train) -> Res<()> {
    let all = read_all(&cli.looks)?;
    let [places, width] = all[0].1.size;
    let mut config = LatentConfig::new(places, width).with_codes(cli.shape.codebook);
    (config.width, config.mlp_width) = (cli.shape.width, cli.shape.mlp);
    (config.pool_heads, config.pool_head_dim) = (cli.shape.heads, cli.shape.head_dim);
    let held = |at: usize| cli.held > 0 && at % cli.held == cli.held - 1;
    let (kept_apart, taught): (Vec<_>, Vec<_>) = all.iter().partition(|(at, _)| held(*at));
    let of = |set: &[&(usize, Looks)]| -> Vec<(usize, usize)> {
        let looks = set.iter().enumerate();
        looks
            .flat_map(|(file, (_, looks))| (0..looks.len()).map(move |at| (file, at)))
            .collect()
    };
    let places = of(&taught);
    if places.is_empty() {
        return Err(format!("--held {} keeps every prompt apart", cli.held).into());
    }
    let each = (places.len() / cli.batch.max(1)).max(1);
    let steps = cli.epochs * each as u64;
    let settings = TrainerConfig::new(
        AdamWConfig::default()
            .with_rate(cli.rate)
            .with_weight_decay(cli.decay),
        Schedule::Cosine {
            warm_up: steps.min(100),
            steps,
        },
    )
    .with_clip(1.0);
    let device = device(cli.threads)?;
    let views = cli.batch.clamp(1, places.len());
    let mut trainer = LatentTrainer::new(device, config.clone(), settings, cli.seed, views)?;
    let run = cli.out.join("run.bin");
    begin(&cli.out, run.exists(), &cli.describe(&all)?)?;
    if run.exists() {
        trainer.resume(&fs::read(&run)?)?;
    }
    let bar = ProgressBar::new(steps);
    if cli.quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} steps  {msg}  {eta} left",
    )?);
    bar.set_position(trainer.steps());
    bar.reset_eta();
    let (mut rows, mut shuffled, mut epoch) = (Rows::default(), places.clone(), u64::MAX);
    while trainer.steps() < steps {
        let now = trainer.steps() / each as u64;
        if now != epoch {
            epoch = now;
            let mut keyed: Vec<(u32, usize)> = (0..places.len())
                .map(|at| (order(cli.seed, epoch, at), at))
                .collect();
            keyed.sort_unstable();
            shuffled = keyed.into_iter().map(|(_, at)| places[at]).collect();
        }
        let from = (trainer.steps() % each as u64) as usize * views;
        rows.clear();
        for &(file, at) in &shuffled[from..(from + views).min(shuffled.len())] {
            rows.add(&taught[file].1, at);
        }
        let batch = LatentBatch {
            views: rows.views(),
            p_yes: &rows.p_yes,
        };
        let report = trainer.step(&batch)?;
        bar.set_message(format!("loss {:.3}", report.loss));
        bar.inc(1);
        if trainer.steps() % 500 == 0 {
            write_whole(&run, &trainer.checkpoint()?)?;
        }
    }
    bar.abandon();
    write_whole(&run, &trainer.checkpoint()?)?;
    write_whole(&cli.out.join("model.safetensors"), &trainer.write(true)?)?;
    write_whole(&cli.out.join("config.json"), config.to_json().as_bytes())?;
    let (n, prompts) = (places.len(), taught.len());
    say!("{n} looks of {prompts} prompts, {steps} steps of {views}");
    if kept_apart.is_empty() {
        return Ok(());
    }
    say!(
        "agreement on {} prompts that were kept apart",
        kept_apart.len()
    );
    let mut said = Vec::new();
    for chunk in of(&kept_apart).chunks(views) {
        rows.clear();
        for &(file, at) in chunk {
            rows.add(&kept_apart[file].1, at);
        }
        let mut head = vec![0.0; chunk.len() * QUESTIONS.len()];
        trainer.answers(rows.views(), &mut head)?;
        for (&(file, at), head) in chunk.iter().zip(head.chunks(QUESTIONS.len())) {
            let (prompt, looks) = kept_apart[file];
            said.push(one(*prompt, looks, at, head.into()));
        }
    }
    table(&said);
    Ok(())
}

fn one(prompt: usize, looks: &Looks, at: usize, head: Vec<f32>) -> Said {
    Said {
        prompt,
        step: looks.steps[2 * at + 1],
        head,
        judge: answers(looks, at),
    }
}

/// Asks a head that lies in a folder.
pub fn measure(cli: &Measure) -> Res<()> {
    use maquette::model::files::config::JsonConfig;
    use maquette::model::files::safetensors::SafetensorsSource;
    use maquette::model::latent::{LatentHead, LatentSession};
    use maquette::quant::Format;
    use maquette::reward::{Ask, ViewKey};
    use maquette::{CandidateId, Prompt, RewardModel, Verdict};

    let all = read(&cli.looks)?;
    let config = JsonConfig::parse(&fs::read_to_string(cli.head.join("config.json"))?)?;
    let config = LatentConfig::from_json(&config)?;
    let file = fs::read(cli.head.join("model.safetensors"))?;
    let source = SafetensorsSource::new(&file)?;
    let head = LatentHead::load(device(None)?, config, &source, Format::F32)?;
    let mut judge = LatentSession::new(Arc::new(head), 64)?;
    let (mut said, mut rows) = (Vec::new(), Rows::default());
    // The prompt is not read.
    let prompt = Prompt::new("");
    for (place, looks) in &all {
        rows.clear();
        (0..looks.len()).for_each(|at| rows.add(looks, at));
        let keys: Vec<ViewKey> = (0..looks.len())
            .map(|at| ViewKey {
                candidate: CandidateId(at as u64),
                step: looks.steps[2 * at + 1],
            })
            .collect();
        let mut heads = vec![Vec::new(); keys.len()];
        for question in QUESTIONS {
            let mut out = vec![Verdict::malformed(); keys.len()];
            let ask = Ask::new(question, &prompt, &keys)
                .with_hidden(&rows.hidden)
                .with_codes(&rows.codes);
            judge.judge(&ask, &mut out)?;
            for (head, verdict) in heads.iter_mut().zip(out) {
                head.push(verdict.p_yes);
            }
        }
        let heads = heads.into_iter().enumerate();
        said.extend(heads.map(|(at, head)| one(*place, looks, at, head)));
    }
    say!("{} looks of {} prompts", said.len(), all.len());
    table(&said);
    Ok(())
}
