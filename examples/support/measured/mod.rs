//! Model folders as generators and judges, without tokenizers.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use maquette::cpu::Cpu;
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
use maquette::ops::attention::KvFormat;
use maquette::{Generator, RewardModel};

mod words;

use words::{AnyWords, RandomFeatures};

/// What can go wrong.
pub type Res<T> = Result<T, Box<dyn Error>>;

/// A loaded model.
pub enum Model {
    ShowO(Arc<ShowO<Cpu>>),
    Magvit(Arc<Magvit<Cpu>>),
    LlamaGen(Arc<LlamaGen<Cpu>>),
    Vq(Arc<Vq<Cpu>>),
    T5(Arc<T5<Cpu>>),
    Janus(Arc<Janus<Cpu>>),
    Llava(Arc<Llava<Cpu>>),
}

/// Reads a folder.
pub fn load(cpu: &Arc<Cpu>, path: &Path, precision: Precision) -> Res<Model> {
    let within = |e: maquette::Error| format!("{}: {e}", path.display());
    let folder = ModelFolder::open(path).map_err(within)?;
    read(cpu, &folder, precision).map_err(|e| format!("{}: {e}", path.display()).into())
}

fn read(cpu: &Arc<Cpu>, folder: &ModelFolder, precision: Precision) -> Res<Model> {
    let (cpu, config, weights) = (Arc::clone(cpu), &folder.config, &folder.weights);
    Ok(match folder.model {
        ModelType::ShowO => {
            let config = ShowOConfig::from_json(config)?;
            let model = weights.read(|source| ShowO::load(cpu, config, source, precision))?;
            Model::ShowO(Arc::new(model))
        }
        ModelType::Magvit => {
            let config = MagvitConfig::from_json(config)?;
            let model = weights.read(|source| Magvit::load(cpu, config, source, precision))?;
            Model::Magvit(Arc::new(model))
        }
        ModelType::LlamaGen => {
            let config = LlamaGenConfig::from_json(config)?;
            let model = weights.read(|source| LlamaGen::load(cpu, config, source, precision))?;
            Model::LlamaGen(Arc::new(model))
        }
        ModelType::LlamaGenVq => {
            let config = VqConfig::from_json(config)?;
            let model = weights.read(|source| Vq::load(cpu, config, source, precision))?;
            Model::Vq(Arc::new(model))
        }
        ModelType::T5 => {
            let config = T5Config::from_json(config)?;
            let model = weights.read(|source| T5::load(cpu, config, source, precision))?;
            Model::T5(Arc::new(model))
        }
        ModelType::Janus => {
            let config = JanusConfig::from_json(config)?;
            let words = AnyWords::new(config.text.vocab)?;
            let config = config.with_tokenizer(&words);
            let model = weights.read(|source| Janus::load(cpu, config, source, precision))?;
            Model::Janus(Arc::new(model))
        }
        ModelType::Llava => {
            let config = LlavaConfig::from_json(config)?;
            let model = weights.read(|source| Llava::load(cpu, config, source, precision))?;
            Model::Llava(Arc::new(model))
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
    /// How a raster model keeps keys and values.
    pub kv: KvFormat,
    /// Rows of random features that stand for a prompt.
    pub features: usize,
}

/// The model as a generator, with an image tokenizer and a text encoder if it needs them and they are there.
pub fn generator(
    model: &Model,
    pixels: Option<&Model>,
    text: Option<&Model>,
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
        Model::ShowO(model) => {
            let pixels = match pixels {
                Some(Model::Magvit(pixels)) => Some(Arc::clone(pixels)),
                None => None,
                Some(_) => return Err("Show-o draws through MAGVIT-v2 alone".into()),
            };
            let mut o = ShowOOptions::default();
            o.steps = d.steps;
            o.guidance_scale = d.guidance.unwrap_or(o.guidance_scale);
            o.candidates = d.candidates;
            o.batch = d.batch.min(d.candidates);
            o.prompts = 1;
            let words = AnyWords::new(model.config().llm_vocab_size)?;
            Box::new(ShowOSession::new(Arc::clone(model), pixels, words, o)?)
        }
        Model::LlamaGen(model) => {
            let pixels = match pixels {
                Some(Model::Vq(pixels)) => Some(Arc::clone(pixels)),
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
                (_, Some(Model::T5(encoder))) => {
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
        Model::Janus(model) => {
            let words = AnyWords::new(model.config().text.vocab)?;
            Box::new(model.draw(words, raster(model.config().options()))?)
        }
        _ => return Ok(None),
    }))
}

/// The model as a judge that takes `views` at a time and remembers `remembered`.
pub fn judge(model: &Model, views: usize, remembered: usize) -> Res<Option<Box<dyn RewardModel>>> {
    let mut o = JudgeOptions::default().with_views(views);
    o.remembered = remembered.max(views);
    Ok(Some(match model {
        Model::Llava(model) => {
            let words = Arc::new(AnyWords::new(model.config().text.vocab)?);
            Box::new(LlavaSession::new(Arc::clone(model), words, o)?)
        }
        Model::Janus(model) => {
            let words = Arc::new(AnyWords::new(model.config().text.vocab)?);
            Box::new(model.judge(words, o)?)
        }
        _ => return Ok(None),
    }))
}

/// Whether the generator's pictures can be looked at.
pub fn sees(model: &Model, pixels: Option<&Model>) -> bool {
    matches!(model, Model::Janus(_)) || pixels.is_some()
}
