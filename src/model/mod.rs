//! Models over a [`Backend`](crate::ops::Backend): what a checkpoint must provide, and what is built from it.
//!
//! Out of folders as they are downloaded, on one device, into a search (these functions are compiled and not called):
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use maquette::Result;
//! use maquette::cpu::Cpu;
//! use maquette::model::files::{map::ModelFolder, tokenizer::Tokenizer};
//! use maquette::model::janus::{Janus, JanusConfig, JanusSession};
//! use maquette::model::llamagen::{LlamaGen, LlamaGenConfig, LlamaGenPrompts, LlamaGenSession};
//! use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
//! use maquette::model::magvit::{Magvit, MagvitConfig};
//! use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
//! use maquette::model::t5::{T5, T5Config};
//! use maquette::model::vq::{Vq, VqConfig};
//! use maquette::quant::Format;
//!
//! /// Show-o, with its image tokenizer out of another folder.
//! fn show_o(cpu: &Arc<Cpu>, model: &Path, pixels: &Path, words: Tokenizer) -> Result<ShowOSession<Cpu, Tokenizer>> {
//!     let (model, pixels) = (ModelFolder::open(model)?, ModelFolder::open(pixels)?);
//!     let config = ShowOConfig::from_json(&model.config)?;
//!     let model = model.weights.read(|weights| ShowO::load(cpu.clone(), config, weights, Format::Q8_0))?;
//!     let config = MagvitConfig::from_json(&pixels.config)?;
//!     let pixels = pixels.weights.read(|weights| Magvit::load(cpu.clone(), config, weights, Format::F32))?;
//!     ShowOSession::new(Arc::new(model), Arc::new(pixels), words, ShowOOptions::default())
//! }
//!
//! /// LlamaGen on captions, its image tokenizer and its text encoder beside it.
//! fn llamagen(cpu: &Arc<Cpu>, [model, pixels, text]: [&Path; 3], words: Tokenizer) -> Result<LlamaGenSession<Cpu, Tokenizer>> {
//!     let (model, pixels, text) = (ModelFolder::open(model)?, ModelFolder::open(pixels)?, ModelFolder::open(text)?);
//!     let config = LlamaGenConfig::from_json(&model.config)?;
//!     let options = config.options();
//!     let model = Arc::new(model.weights.read(|weights| LlamaGen::load(cpu.clone(), config, weights, Format::Q8_0))?);
//!     let config = VqConfig::from_json(&pixels.config)?;
//!     let pixels = pixels.weights.read(|weights| Vq::load(cpu.clone(), config, weights, Format::F32))?;
//!     let config = T5Config::from_json(&text.config)?;
//!     let text = text.weights.read(|weights| T5::load(cpu.clone(), config, weights, Format::Q8_0))?;
//!     let prompts = LlamaGenPrompts::new(model.clone(), Arc::new(text), words)?;
//!     LlamaGenSession::new(model, Arc::new(pixels), prompts, options)
//! }
//!
//! /// Janus, which draws and judges on the same weights.
//! fn janus(cpu: &Arc<Cpu>, folder: &Path, words: Arc<Tokenizer>) -> Result<(JanusSession<Cpu, Arc<Tokenizer>>, LlavaSession<Cpu>)> {
//!     let folder = ModelFolder::open(folder)?;
//!     let config = JanusConfig::from_json(&folder.config)?.with_tokenizer(&words);
//!     let options = config.options();
//!     let model = Arc::new(folder.weights.read(|weights| Janus::load(cpu.clone(), config, weights, Format::Q4_0))?);
//!     Ok((model.draw(words.clone(), options)?, model.judge(words, JudgeOptions::default())?))
//! }
//!
//! /// LLaVA-OneVision, the judge.
//! fn llava(cpu: &Arc<Cpu>, folder: &Path, words: Arc<Tokenizer>) -> Result<LlavaSession<Cpu>> {
//!     let folder = ModelFolder::open(folder)?;
//!     let config = LlavaConfig::from_json(&folder.config)?;
//!     let model = folder.weights.read(|weights| Llava::load(cpu.clone(), config, weights, Format::Q4_0))?;
//!     LlavaSession::new(Arc::new(model), words, JudgeOptions::default())
//! }
//! ```

pub mod files;
pub mod janus;
pub mod latent;
#[cfg(feature = "align")]
pub mod learner;
pub mod linear;
pub mod llamagen;
pub mod llava;
pub mod magvit;
pub mod raster;
pub mod resize;
mod session;
pub mod show_o;
pub mod t5;
mod template;
pub mod transformer;
pub mod vision;
pub mod vq;
pub mod vqgan;
pub mod weights;
pub mod words;
