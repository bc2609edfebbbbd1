//! Preference training of the crate's own models, on the weights that they serve.
//!
//! A model ([`Learner`](crate::model::learner::Learner)) gives log-probabilities of labels in whole sequences, and takes
//! back the gradient of a loss with respect to each: that is all an objective needs, and all an [`Engine`] does. What is
//! trained ([`Trained`]) is either low-rank adapters beside frozen weights of any format, or the blocks' own weights.
//!
//! | file | what |
//! |---|---|
//! | [`engine`] | log-probabilities, and their gradients as sums for each parameter |
//! | [`parameters`] | which parameters there are, their names and values |
//! | [`lora`] | adapters: files, merging |
//! | [`adamw`] | the optimiser, the schedule, clipping |
//! | [`trainer`] | steps that are taken whole or not at all, checkpoints |
//! | [`masked`], [`raster`] | examples of the two kinds of generators; those of judges are [`Lesson`](crate::model::llava::Lesson)s |
//! | [`annotation`] | training sets out of drawn pictures: trajectories, rollouts, pairs, balance, leakage |
//! | [`latent`] | a [latent head](crate::model::latent) learns what a judge says |
//! | [`dpo`], [`grpo`], [`entropy`], [`reward`], [`supervised`] | objectives |
//!
//! One step that makes a Show-o likelier to draw a picture:
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use maquette::align::masked::PairConfig;
//! use maquette::align::{AdamWConfig, Engine, Limits, LoraConfig, Schedule, Trained, Trainer, TrainerConfig, supervised};
//! use maquette::cpu::Cpu;
//! use maquette::model::files::map::ModelFolder;
//! use maquette::model::show_o::{ShowO, ShowOConfig, ShowOLearner};
//! use maquette::quant::Format;
//!
//! // The small model of the repository; a published one is opened in the same way.
//! let folder = Path::new("examples/demo/weights/show-o");
//! # if !folder.exists() { return Ok(()); }
//! let folder = ModelFolder::open(folder)?;
//! let config = ShowOConfig::from_json(&folder.config)?;
//! let learner = folder.weights.read(|weights| {
//!     let model = ShowO::load(Arc::new(Cpu::new()), config.clone(), weights, Format::Q8_0)?;
//!     ShowOLearner::load(Arc::new(model), weights, Format::Q8_0)
//! })?;
//! let limits = Limits { rows: config.text_rows() + config.image_rows(), labels: config.image_rows() };
//! let engine = Engine::new(learner, Trained::Adapters(LoraConfig::new(4, 8.0, ["q_proj", "v_proj"])), limits)?;
//! let settings = TrainerConfig::new(AdamWConfig::default().with_rate(1e-3), Schedule::Constant).with_clip(1.0);
//! let mut trainer = Trainer::new(engine, settings)?;
//!
//! // The tokens of a prompt and the codes of a picture, some of them masked.
//! let (text, codes) = (config.text_tokens(&[3, 4]), vec![7; config.num_vq_tokens]);
//! let example = config.picture(&PairConfig::default(), 0, &text, &codes)?;
//! let mut kept = trainer.engine().kept()?;
//! let report = trainer.step(|engine| supervised::batch(engine, &[example], &mut kept))?;
//! assert!(report.loss > 0.0 && trainer.steps() == 1);
//! # Ok::<(), maquette::Error>(())
//! ```

pub mod adamw;
pub mod annotation;
pub mod checkpoint;
pub mod dpo;
pub mod engine;
pub mod entropy;
pub mod grpo;
pub mod latent;
pub mod lora;
pub mod masked;
pub mod parameters;
pub mod raster;
pub mod reward;
pub mod supervised;
pub mod trainer;

pub use adamw::{AdamW, AdamWConfig, Schedule};
pub use engine::{Engine, Kept, Limits};
pub use latent::{LatentBatch, LatentTrainer};
pub use lora::LoraConfig;
pub use parameters::{Parameter, Trained};
pub use trainer::{StepReport, Trainer, TrainerConfig};
