//! Autoregressive image generation that verifies before it delivers.
//!
//! A [`Generator`] draws candidates step by step, a [`RewardModel`] looks at what emerges, a [`SearchStrategy`]
//! decides which candidates live. See the README for a complete example.
#![no_std]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod codes;
#[cfg(feature = "alloc")]
pub mod combine;
#[cfg(feature = "alloc")]
pub mod cpu;
pub mod error;
pub mod generator;
pub mod image;
pub mod math;
#[cfg(feature = "alloc")]
pub mod model;
pub mod ops;
pub mod prompt;
pub mod quant;
pub mod reward;
pub mod rng;
pub mod search;
#[cfg(feature = "testing")]
pub mod testing;

pub use codes::{Code, CodeGrid};
pub use error::{Error, Result};
pub use generator::{CandidateId, Generator};
pub use image::{ImageBatch, ImageSize};
pub use prompt::Prompt;
pub use reward::{Judgement, RewardModel, Verdict};
pub use search::{Cost, Decision, Event, Flow, SearchStrategy};
