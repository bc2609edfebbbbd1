//! Folders to models, models to sessions.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use maquette::cpu::Cpu;
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession, TemperaturePolicy};
use maquette::model::weights::WeightSource;
use maquette::model::words::Words;
use maquette::quant::Format;
use maquette::rng::philox;
use serde_json::{Value, json};

const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/weights");

/// How large matrices are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Weights {
    /// 32-bit floats.
    F32,
    /// Their upper halves.
    Bf16,
    /// 8-bit blocks of 32.
    #[value(name = "q8_0")]
    Q8,
    /// 4-bit blocks of 32.
    #[value(name = "q4_0")]
    Q4,
}

/// Which candidates choose their masks with noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// Every candidate anneals by the cumulative product.
    Reset,
    /// Only the first candidate anneals, as the released scripts do.
    Upstream,
    /// Every candidate anneals linearly.
    Linear,
}

/// Which models, and how they run.
#[derive(Debug, Args)]
pub struct Settings {
    /// Generator steps of a picture.
    #[arg(long, default_value_t = 18)]
    steps: u32,
    /// Guidance scale s of uncond + s · (cond − uncond); Show-o quotes w = s − 1.
    #[arg(long, default_value_t = GUIDANCE)]
    guidance: f32,
    /// Threads of one search. [default: all cores]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Folder of the generator: config.json, vocab.txt and weights (safetensors, torch.save or GGUF; shards too).
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/weights/show-o"))]
    generator: PathBuf,
    /// Folder of the image tokenizer: config.json and weights.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/weights/magvitv2"))]
    tokenizer: PathBuf,
    /// Folder of the judge: config.json, vocab.txt and weights.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/weights/judge"))]
    judge: PathBuf,
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    format: Weights,
    #[arg(long, value_enum, default_value_t = Policy::Reset)]
    temperature_policy: Policy,
}

/// The guidance that the bundled generator was tuned for: w = 2.
const GUIDANCE: f32 = 3.0;

/// Loaded models; sessions share them.
#[derive(Debug)]
pub struct Models {
    show_o: Arc<ShowO<Cpu>>,
    pixels: Arc<Magvit<Cpu>>,
    llava: Arc<Llava<Cpu>>,
    generator_words: Words,
    judge_words: Arc<Words>,
    options: ShowOOptions,
    settings: Value,
    threads: usize,
}

/// What can go wrong in a program.
pub type Res<T> = Result<T, Box<dyn Error>>;

fn read_text(path: &Path) -> Res<String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()).into())
}

/// Says in which folder a model failed.
fn within<T>(folder: &Path, result: maquette::Result<T>) -> Res<T> {
    result.map_err(|e| format!("{}: {e}", folder.display()).into())
}

/// Maps a folder that must be of this model.
fn open(path: &Path, want: ModelType) -> Res<ModelFolder> {
    let folder = within(path, ModelFolder::open(path))?;
    if folder.model != want {
        return Err(format!("{}: a {:?}, not a {want:?}", path.display(), folder.model).into());
    }
    Ok(folder)
}

/// The program's end: an error is told in words, with its causes.
pub fn ended(result: Res<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

impl Models {
    /// Reads all three models.
    pub fn load(s: &Settings) -> Res<Self> {
        let cpu = Arc::new(match s.threads {
            Some(n) => Cpu::with_threads(n)?,
            None => Cpu::new(),
        });
        let format = match s.format {
            Weights::F32 => Format::F32,
            Weights::Bf16 => Format::Bf16,
            Weights::Q8 => Format::Q8_0,
            Weights::Q4 => Format::Q4_0,
        };
        let words =
            |folder: &Path| within(folder, Words::new(&read_text(&folder.join("vocab.txt"))?));
        let (generator, tokenizer, judge) = (&s.generator, &s.tokenizer, &s.judge);

        let folder = open(generator, ModelType::ShowO)?;
        let shape = within(generator, ShowOConfig::from_json(&folder.config))?;
        let load = |source: &dyn WeightSource| ShowO::load(Arc::clone(&cpu), shape, source, format);
        let show_o = within(generator, folder.weights.read(load))?;

        let folder = open(tokenizer, ModelType::Magvit)?;
        let shape = within(tokenizer, MagvitConfig::from_json(&folder.config))?;
        let load =
            |source: &dyn WeightSource| Magvit::load(Arc::clone(&cpu), shape, source, format);
        let pixels = within(tokenizer, folder.weights.read(load))?;

        let folder = open(judge, ModelType::Llava)?;
        let shape = within(judge, LlavaConfig::from_json(&folder.config))?;
        let load = |source: &dyn WeightSource| Llava::load(Arc::clone(&cpu), shape, source, format);
        let llava = within(judge, folder.weights.read(load))?;

        let mut options = ShowOOptions::default();
        options.steps = s.steps;
        options.guidance_scale = s.guidance;
        options.temperature_policy = match s.temperature_policy {
            Policy::Reset => TemperaturePolicy::Reset,
            Policy::Upstream => TemperaturePolicy::Upstream,
            Policy::Linear => TemperaturePolicy::Linear,
        };
        let shown = |folder: &Path| match folder.strip_prefix(BUNDLED) {
            Ok(part) => format!("bundled {}", part.display()),
            Err(_) => folder.display().to_string(),
        };
        let settings = json!({
            "generator": shown(generator), "tokenizer": shown(tokenizer), "judge": shown(judge),
            "steps": s.steps, "guidance_scale": s.guidance, "format": format!("{format:?}"),
            "activations": "F32", "temperature_policy": format!("{:?}", s.temperature_policy).to_lowercase(),
        });
        Ok(Self {
            show_o: Arc::new(show_o),
            pixels: Arc::new(pixels),
            llava: Arc::new(llava),
            generator_words: words(generator)?,
            judge_words: Arc::new(words(judge)?),
            options,
            settings,
            threads: cpu.threads(),
        })
    }

    /// A session of the generator for searches over `n` candidates.
    pub fn generator(&self, n: u32) -> Res<ShowOSession<Cpu, Words>> {
        let mut options = self.options;
        // A step of PRM holds the kept path beside its continuations.
        options.candidates = n as usize * 2 + 2;
        let (model, pixels) = (Arc::clone(&self.show_o), Arc::clone(&self.pixels));
        Ok(ShowOSession::new(
            model,
            pixels,
            self.generator_words.clone(),
            options,
        )?)
    }

    /// A session of the judge for searches over `n` candidates: all their views in one batch, all kept.
    pub fn judge(&self, n: u32) -> Res<LlavaSession<Cpu>> {
        let words = Arc::<Words>::clone(&self.judge_words);
        Ok(LlavaSession::new(
            Arc::clone(&self.llava),
            words,
            JudgeOptions::default().with_views(n.clamp(1, 64) as usize),
        )?)
    }

    /// Everything that decides what is drawn.
    pub fn describe(&self) -> &Value {
        &self.settings
    }

    /// Everything that decides how fast it is drawn.
    pub fn device(&self) -> Value {
        json!({ "backend": "cpu", "threads": self.threads, "instructions": instructions() })
    }
}

/// The widest vectors of this machine that the CPU device uses.
#[cfg(target_arch = "x86_64")]
fn instructions() -> &'static str {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    match (avx512, is_x86_feature_detected!("avx2")) {
        (true, true) => "avx512",
        (false, true) => "avx2",
        _ => "portable",
    }
}

/// The widest vectors of this machine that the CPU device uses.
#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> &'static str {
    "portable"
}

/// The seed of one picture: its own function of seed, prompt and image, so that order and company do not matter.
pub fn picture_seed(seed: u64, prompt: u32, image: u32) -> u64 {
    let [low, high, ..] = philox(
        [(seed & 0xFFFF_FFFF) as u32, (seed >> 32) as u32],
        [image, prompt, 1, 3],
    );
    u64::from(low) | u64::from(high) << 32
}
