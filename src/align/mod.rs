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
