//! Model folders as generators and judges, without tokenizers.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::cuda;
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::llamagen::{Condition, LlamaGen, LlamaGenConfig, LlamaGenPrompts};
use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::raster::{RasterOptions, RasterSession};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
use maquette::model::t5::{T5, T5Config};
use maquette::model::vq::{Vq, VqConfig};
use maquette::model::weights::Precision;
use maquette::ops::Backend;
use maquette::ops::attention::KvFormat;
use maquette::{Generator, RewardModel};

mod words;

use crate::open::device::Device;
use crate::open::told;
use words::{AnyWords, RandomFeatures};

/// What can go wrong.
pub type Res<T> = Result<T, Box<dyn Error>>;

/// A loaded model.
pub struct Model(Place);

/// A model where it is.
enum Place {
    Cpu(On<Cpu>),
    Cuda(On<cuda::Device>),
}

/// A model that is loaded on a device.
enum On<B: Backend> {
    ShowO(Arc<ShowO<B>>),
    Magvit(Arc<Magvit<B>>),
    LlamaGen(Arc<LlamaGen<B>>),
    Vq(Arc<Vq<B>>),
    T5(Arc<T5<B>>),
    Janus(Arc<Janus<B>>),
    Llava(Arc<Llava<B>>),
}

/// Reads a folder.
pub fn load(device: &Device, path: &Path, precision: Precision) -> Res<Model> {
    let within = |e: &(dyn Error + 'static)| format!("{}: {}", path.display(), told(e));
    let folder = ModelFolder::open(path).map_err(|e| within(&e))?;
    let read = match device {
        Device::Cpu(cpu) => read(cpu, &folder, precision).map(Place::Cpu),
        Device::Cuda(gpu) => read(gpu, &folder, precision).map(Place::Cuda),
    };
    Ok(Model(read.map_err(|e| within(&*e))?))
}

fn read<B: Backend>(device: &Arc<B>, folder: &ModelFolder, precision: Precision) -> Res<On<B>> {
    let (device, config, weights) = (Arc::clone(device), &folder.config, &folder.weights);
    Ok(match folder.model {
        ModelType::ShowO => {
            let config = ShowOConfig::from_json(config)?;
            let model = weights.read(|source| ShowO::load(device, config, source, precision))?;
            On::ShowO(Arc::new(model))
        }
        ModelType::Magvit => {
            let config = MagvitConfig::from_json(config)?;
            let model = weights.read(|source| Magvit::load(device, config, source, precision))?;
            On::Magvit(Arc::new(model))
        }
        ModelType::LlamaGen => {
            let config = LlamaGenConfig::from_json(config)?;
            let model = weights.read(|source| LlamaGen::load(device, config, source, precision))?;
            On::LlamaGen(Arc::new(model))
        }
        ModelType::LlamaGenVq => {
            let config = VqConfig::from_json(config)?;
            let model = weights.read(|source| Vq::load(device, config, source, precision))?;
            On::Vq(Arc::new(model))
        }
        ModelType::T5 => {
            let config = T5Config::from_json(config)?;
            let model = weights.read(|source| T5::load(device, config, source, precision))?;
            On::T5(Arc::new(model))
        }
        ModelType::Janus => {
            let config = JanusConfig::from_json(config)?;
            let words = AnyWords::new(config.text.vocab)?;
            let config = config.with_tokenizer(&words);
            let model = weights.read(|source| Janus::load(device, config, source, precision))?;
            On::Janus(Arc::new(model))
        }
        ModelType::Llava => {
            let config = LlavaConfig::from_json(config)?;
            let model = weights.read(|source| Llava::load(device, config, source, precision))?;
            On::Llava(Arc::new(model))
        }
        other => return Err(format!("a {other:?} is not measured here").into()),
    })
}

/// How a generator runs.
pub struct Drawing {
    /// Steps of a whole picture, where a model has a choice.
    pub steps: u32,
    /// Codes of a step, where a model draws them one by one.
    pub tokens_per_step: Option<usize>,
    pub candidates: usize,
    pub batch: usize,
    /// Guidance scale, if not the model's own.
    pub guidance: Option<f32>,
    /// How it keeps keys and values.
    pub kv: KvFormat,
    /// Rows of random features that stand for a prompt.
    pub features: usize,
}

impl Model {
    /// The model as a generator, with an image tokenizer and a text encoder if it needs them and they are there.
    pub fn generator(
        &self,
        pixels: Option<&Self>,
        text: Option<&Self>,
        d: &Drawing,
    ) -> Res<Option<Box<dyn Generator>>> {
        match &self.0 {
            Place::Cpu(model) => generator(model, cpu(pixels)?, cpu(text)?, d),
            Place::Cuda(model) => generator(model, gpu(pixels)?, gpu(text)?, d),
        }
    }

    /// The model as a judge that takes `views` at a time and remembers `remembered`.
    pub fn judge(
        &self,
        views: usize,
        remembered: usize,
        kv: KvFormat,
    ) -> Res<Option<Box<dyn RewardModel>>> {
        match &self.0 {
            Place::Cpu(model) => judge(model, [views, remembered], kv),
            Place::Cuda(model) => judge(model, [views, remembered], kv),
        }
    }

    /// Whether the generator's pictures can be looked at.
    pub fn sees(&self, pixels: Option<&Self>) -> bool {
        matches!(self.0, Place::Cpu(On::Janus(_)) | Place::Cuda(On::Janus(_))) || pixels.is_some()
    }
}

const APART: &str = "two models of one run are on different devices";

fn cpu(model: Option<&Model>) -> Res<Option<&On<Cpu>>> {
    match model {
        None => Ok(None),
        Some(Model(Place::Cpu(model))) => Ok(Some(model)),
        Some(_) => Err(APART.into()),
    }
}

fn gpu(model: Option<&Model>) -> Res<Option<&On<cuda::Device>>> {
    match model {
        None => Ok(None),
        Some(Model(Place::Cuda(model))) => Ok(Some(model)),
        Some(_) => Err(APART.into()),
    }
}

/// The model as a generator, with an image tokenizer and a text encoder if it needs them and they are there.
fn generator<B: Backend + 'static>(
    model: &On<B>,
    pixels: Option<&On<B>>,
    text: Option<&On<B>>,
    d: &Drawing,
) -> Res<Option<Box<dyn Generator>>> {
    let raster = |o: RasterOptions| {
        let mut o = o;
        o.candidates = d.candidates;
        o.batch = d.batch.min(d.candidates);
        o.tokens_per_step = d.tokens_per_step;
        o.prompts = 1;
        o.kv = d.kv;
        o.guidance_scale = d.guidance.unwrap_or(o.guidance_scale);
        o
    };
    Ok(Some(match model {
        On::ShowO(model) => {
            let pixels = match pixels {
                Some(On::Magvit(pixels)) => Some(Arc::clone(pixels)),
                None => None,
                Some(_) => return Err("Show-o draws through MAGVIT-v2 alone".into()),
            };
            let mut o = ShowOOptions::default();
            o.steps = d.steps;
            o.guidance_scale = d.guidance.unwrap_or(o.guidance_scale);
            o.candidates = d.candidates;
            o.batch = d.batch.min(d.candidates);
            o.prompts = 1;
            o.kv = d.kv;
            let words = AnyWords::new(model.config().llm_vocab_size)?;
            Box::new(ShowOSession::new(Arc::clone(model), pixels, words, o)?)
        }
        On::LlamaGen(model) => {
            let pixels = match pixels {
                Some(On::Vq(pixels)) => Some(Arc::clone(pixels)),
                None => None,
                Some(_) => return Err("LlamaGen draws through VQ-16 or VQ-8 alone".into()),
            };
            let o = raster(model.config().options());
            let model = Arc::clone(model);
            match (model.config().condition, text) {
                (Condition::Text { .. }, None) => {
                    let reader =
                        RandomFeatures::new(Arc::clone(&model), d.features, AnyWords::new(1000)?)?;
                    Box::new(RasterSession::new(model, pixels, reader, o)?)
                }
                (_, Some(On::T5(encoder))) => {
                    let words = AnyWords::new(encoder.config().vocab_size)?;
                    let encoder = Arc::clone(encoder);
                    let reader = LlamaGenPrompts::new(Arc::clone(&model), encoder, words)?;
                    Box::new(RasterSession::new(model, pixels, reader, o)?)
                }
                (_, None) => {
                    let words = AnyWords::new(1000)?;
                    let reader = LlamaGenPrompts::new(Arc::clone(&model), None, words)?;
                    Box::new(RasterSession::new(model, pixels, reader, o)?)
                }
                (_, Some(_)) => return Err("LlamaGen reads through T5 alone".into()),
            }
        }
        On::Janus(model) => {
            let words = AnyWords::new(model.config().text.vocab)?;
            Box::new(model.draw(words, raster(model.config().options()))?)
        }
        _ => return Ok(None),
    }))
}

/// The model as a judge that takes `views` at a time and remembers `remembered`.
fn judge<B: Backend + 'static>(
    model: &On<B>,
    [views, remembered]: [usize; 2],
    kv: KvFormat,
) -> Res<Option<Box<dyn RewardModel>>> {
    let mut o = JudgeOptions::default().with_views(views).with_kv(kv);
    o.remembered = remembered.max(views);
    Ok(Some(match model {
        On::Llava(model) => {
            let words = Arc::new(AnyWords::new(model.config().text.vocab)?);
            Box::new(LlavaSession::new(Arc::clone(model), words, o)?)
        }
        On::Janus(model) => {
            let words = Arc::new(AnyWords::new(model.config().text.vocab)?);
            Box::new(model.judge(words, o)?)
        }
        _ => return Ok(None),
    }))
}
