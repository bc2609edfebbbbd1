//! Folders to models, models to sessions.

mod adapters;
pub mod device;
mod drawing;
mod folder;
mod judging;
mod latent;
mod options;
mod panel;
mod text;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::Args;
use maquette::ops::Backend;
use maquette::rng::philox;
use maquette::{Generator, RewardModel};
use serde_json::{Value, json};

use crate::precision::{Arithmetic, precision};
use crate::weights::Weights;
use adapters::AdapterFolder;
use device::Choice;
use drawing::{Drawing, Folders};
use folder::Reading;
pub use folder::told;
use judging::{Judging, Nobody};
use latent::Latent;
use options::Options;
use panel::ByRules;
pub use panel::Panel;

const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/weights");

/// Which models, and how they run.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    options: Options,
    /// Where it runs: `cpu`, `cuda` or `cuda:N` for one of several GPUs (the rank's own among those of its machine, if
    /// it is not named), `auto` for a GPU where there is one. The picture is the same everywhere. `cublaslt` is `cuda` with
    /// large products in BF16 through that library: its pictures depend on how many are drawn at once.
    #[arg(long, default_value = "cpu")]
    device: Choice,
    /// Threads of one search on the CPU. [default: all cores; 1 where several pictures or prompts are drawn at the same time]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Folder of the generator as downloaded: Show-o, LlamaGen (its file of weights will do), Janus or Janus-Pro.
    /// [default: the bundled Show-o]
    #[arg(long)]
    model_dir: Option<PathBuf>,
    /// Folder of its image tokenizer: the MAGVIT-v2 of a Show-o, the VQ of a LlamaGen; Janus holds its own. [default for
    /// the bundled Show-o: the bundled one]
    #[arg(long)]
    tokenizer_dir: Option<PathBuf>,
    /// Folder with tokenizer.json or vocab.txt; for a text-conditional LlamaGen the flan-T5 encoder with its tokenizer.
    /// [default: the generator's folder]
    #[arg(long)]
    text_dir: Option<PathBuf>,
    /// Folder of the judge: LLaVA-OneVision, Janus or Janus-Pro. [default: the bundled one for the bundled Show-o, a
    /// Janus judges for itself]
    #[arg(long)]
    judge_dir: Option<PathBuf>,
    /// Folder of adapters that the generator draws with, unmerged: a Show-o's or a Janus's, as `align` and PEFT write them.
    #[arg(long)]
    adapters: Option<PathBuf>,
    #[command(flatten)]
    panel: Panel,
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    format: Weights,
    #[arg(long, value_enum, default_value_t = Arithmetic::F32)]
    activations: Arithmetic,
}

impl Settings {
    /// Searches at the same time, unless a number is given: the cores' share of one of so many processes, or one on a GPU,
    /// which its batches fill.
    #[must_use]
    pub fn jobs(&self, processes: usize) -> usize {
        if self.device.is_gpu() {
            return 1;
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        (cores / processes.max(1)).max(1)
    }

    /// Whether the generator is the bundled Show-o.
    #[must_use]
    pub fn draws_bundled(&self) -> bool {
        self.model_dir.as_deref().is_none_or(is_bundled)
    }

    /// The same with others beside the judge, where they are named.
    #[must_use]
    pub fn with_panel(&self, panel: &Panel) -> Self {
        let mut other = self.clone();
        other.panel = panel.or(&self.panel);
        other
    }

    /// The same with another generator's weights: what belongs to a generator by default stays as it is.
    #[must_use]
    pub fn with_weights(&self, dir: &Path) -> Self {
        let mut other = self.clone();
        let model = self.model_dir.clone().unwrap_or_else(|| bundled("show-o"));
        other.options.guidance = other.options.guidance.or(guidance(&model));
        if is_bundled(&model) {
            for (dir, name) in [
                (&mut other.tokenizer_dir, "magvitv2"),
                (&mut other.judge_dir, "judge"),
            ] {
                dir.get_or_insert_with(|| bundled(name));
            }
        }
        other.text_dir.get_or_insert(model);
        other.model_dir = Some(dir.into());
        other
    }
}

/// Loaded models; sessions share them.
#[derive(Debug)]
pub struct Models {
    loaded: Box<dyn Loaded>,
    settings: Value,
    device: Value,
}

/// Models of any device.
trait Loaded: std::fmt::Debug + Send + Sync {
    fn generator(&self, candidates: usize, hidden: bool) -> Res<Box<dyn Generator>>;
    fn judge(&self, views: usize) -> Res<Box<dyn RewardModel>>;
    fn is_raster(&self) -> bool;
}

/// Models of one device.
#[derive(Debug)]
struct On<B: Backend> {
    drawing: Drawing<B>,
    judging: Option<Judging<B>>,
    latent: Option<Latent<B>>,
    rules: Option<ByRules>,
}

impl<B: Backend + Send + Sync + 'static> Loaded for On<B> {
    fn generator(&self, candidates: usize, hidden: bool) -> Res<Box<dyn Generator>> {
        self.drawing
            .session(candidates, hidden || self.latent.is_some())
    }

    fn judge(&self, views: usize) -> Res<Box<dyn RewardModel>> {
        let judge = match &self.judging {
            Some(judging) => judging.session(views)?,
            None => Box::new(Nobody),
        };
        let judge = match &self.rules {
            Some(rules) => rules.beside(judge),
            None => judge,
        };
        match &self.latent {
            Some(latent) => latent.before(judge, views),
            None => Ok(judge),
        }
    }

    fn is_raster(&self) -> bool {
        self.drawing.is_raster()
    }
}

/// What can go wrong in a program.
pub type Res<T> = Result<T, Box<dyn Error>>;

/// The program's end: an error is told in words, with its causes.
pub fn ended(result: Res<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {}", told(&*error));
    ExitCode::FAILURE
}

/// Whether two paths lead to the same folder.
fn same(a: &Path, b: &Path) -> bool {
    a == b || fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// The bundled folder of this name.
pub fn bundled(name: &str) -> PathBuf {
    Path::new(BUNDLED).join(name)
}

/// Whether a folder is that of the bundled Show-o.
fn is_bundled(model: &Path) -> bool {
    same(model, &bundled("show-o"))
}

/// The guidance scale of a folder's generator where it is not its kind's: the bundled Show-o was tuned for w = 2.
pub fn guidance(model: &Path) -> Option<f32> {
    is_bundled(model).then_some(3.0)
}

/// A folder as settings name it.
fn shown(folder: &Path) -> String {
    match folder.strip_prefix(BUNDLED) {
        Ok(part) => format!("bundled {}", part.display()),
        Err(_) => folder.display().to_string(),
    }
}

impl Models {
    /// Reads the generator and whatever it needs, and the judge if one will be asked.
    pub fn load(s: &Settings, judged: bool) -> Res<Self> {
        let (device, told) = s.device.open(s.threads)?;
        Self::on(&device, told, s, judged)
    }

    /// As [`load`](Self::load), for sessions of so many candidates. What they will hold on a GPU is told before anything
    /// is read.
    pub fn load_for(s: &Settings, judged: bool, candidates: u32) -> Res<Self> {
        let (device, told) = s.device.open(s.threads)?;
        let plan = device.plan(|planner| {
            let models = Self::on(planner, Value::Null, s, judged)?;
            let sessions = (models.generator(candidates)?, models.judge(candidates)?);
            Ok((models, sessions))
        })?;
        if let Some(plan) = plan {
            let gb = |bytes: usize| bytes as f64 / 1e9;
            eprintln!(
                "on the GPU: matrices {:.3} GB, keys and values {:.3} GB, all else {:.3} GB",
                gb(plan.matrices),
                gb(plan.caches),
                gb(plan.buffers)
            );
        }
        Self::on(&device, told, s, judged)
    }

    fn on(device: &device::Device, told: Value, s: &Settings, judged: bool) -> Res<Self> {
        let (loaded, settings) = match device {
            device::Device::Cpu(cpu) => on(Arc::clone(cpu), s, judged)?,
            device::Device::Cuda(gpu) => on(Arc::clone(gpu), s, judged)?,
        };
        Ok(Self {
            loaded,
            settings,
            device: told,
        })
    }

    /// A session of the generator in which so many candidates can be alive.
    pub fn generator(&self, candidates: u32) -> Res<Box<dyn Generator>> {
        self.loaded.generator(candidates as usize, false)
    }

    /// The same, of candidates whose hidden rows can be seen.
    pub fn open_generator(&self, candidates: u32) -> Res<Box<dyn Generator>> {
        self.loaded.generator(candidates as usize, true)
    }

    /// Whether the generator draws code by code.
    pub fn is_raster(&self) -> bool {
        self.loaded.is_raster()
    }

    /// A session of the judge for searches over `n` candidates: all their views in one batch, all kept.
    pub fn judge(&self, n: u32) -> Res<Box<dyn RewardModel>> {
        self.loaded.judge(n.clamp(1, 64) as usize)
    }

    /// Who stands in for a judge where nobody is asked.
    pub fn nobody(&self) -> Box<dyn RewardModel> {
        Box::new(Nobody)
    }

    /// Everything that decides what is drawn.
    pub fn describe(&self) -> &Value {
        &self.settings
    }

    /// Everything that decides how fast it is drawn.
    pub fn device(&self) -> &Value {
        &self.device
    }
}

/// The models on a device, and everything that decides what they draw.
fn on<B: Backend + Send + Sync + 'static>(
    device: Arc<B>,
    s: &Settings,
    judged: bool,
) -> Res<(Box<dyn Loaded>, Value)> {
    let precision = precision(s.format, s.activations);
    let reading = Reading { device, precision };
    let model = s.model_dir.clone().unwrap_or_else(|| bundled("show-o"));
    let own = is_bundled(&model);
    let or_bundled = |dir: &Option<PathBuf>, name: &str| {
        let dir = dir.clone();
        dir.or_else(|| own.then(|| bundled(name)))
    };
    let tokenizer = or_bundled(&s.tokenizer_dir, "magvitv2");
    let judge = or_bundled(&s.judge_dir, "judge");
    let mut options = s.options.clone();
    options.guidance = options.guidance.or(guidance(&model));
    let adapters = s.adapters.as_deref();
    let adapters = adapters.map(AdapterFolder::open).transpose()?;
    let folders = Folders {
        model: &model,
        tokenizer: tokenizer.as_deref(),
        text: s.text_dir.as_deref(),
        adapters: adapters.as_ref(),
    };
    let drawing = Drawing::load(&reading, &folders, &options)?;
    let latent = if judged {
        s.panel.latent.load(&reading.device, &bundled("latent"))?
    } else {
        None
    };
    let alone = latent.as_ref().is_some_and(Latent::answers_all);
    let judging = (judged && !alone)
        .then(|| judging(&reading, &drawing, &model, judge.as_deref()))
        .transpose()?;
    let mut settings = json!({
        "generator": shown(&model), "tokenizer": tokenizer.as_deref().map(shown),
        "text": s.text_dir.as_deref().map(shown), "judge": judging.as_ref().map(|(_, dir)| shown(dir)),
        "format": precision.format.name(), "activations": precision.activations.name(),
    });
    if let (Some(all), Value::Object(own)) = (settings.as_object_mut(), drawing.describe()) {
        all.extend(own);
        if let Some(latent) = &latent {
            all.insert("latent".into(), latent.describe());
        }
        s.panel.describe(all);
    }
    if let Some(path) = &s.adapters {
        settings["adapters"] = json!(shown(path));
    }
    let judging = judging.map(|(judging, _)| judging);
    let rules = if judged {
        s.panel.rules(drawing.session(1, false)?.image_size())?
    } else {
        None
    };
    let loaded = On {
        drawing,
        judging,
        latent,
        rules,
    };
    Ok((Box::new(loaded), settings))
}

/// The judge and the folder that it comes from. A Janus that draws judges on the same weights, unless told otherwise.
fn judging<B: Backend + 'static>(
    reading: &Reading<B>,
    drawing: &Drawing<B>,
    model: &Path,
    dir: Option<&Path>,
) -> Res<(Judging<B>, PathBuf)> {
    match (dir, drawing.judging()) {
        (None, Some(own)) => Ok((own, model.into())),
        (Some(dir), Some(own)) if same(dir, model) => Ok((own, dir.into())),
        (Some(dir), _) => Ok((Judging::load(reading, dir)?, dir.into())),
        (None, None) => Err("this strategy asks a judge: name its folder with --judge-dir".into()),
    }
}

/// The seed of one picture: its own function of seed, prompt and image, so that order and company do not matter.
pub fn picture_seed(seed: u64, prompt: u32, image: u32) -> u64 {
    let [low, high, ..] = philox(
        [(seed & 0xFFFF_FFFF) as u32, (seed >> 32) as u32],
        [image, prompt, 1, 3],
    );
    u64::from(low) | u64::from(high) << 32
}
