//! Autoregressive image generation that verifies before it delivers.
//!
//! A [`Generator`] draws candidates step by step, a [`RewardModel`] looks at what emerges, a [`SearchStrategy`]
//! decides which candidates live.
//!
//! - [`search`]: the strategies; [`SearchStrategy`] shows one at work
//! - [`model`]: generators and judges; its docs lead from downloaded folders into a search
//! - [`combine`], [`human`]: judges made of judges, and a person as one
//! - [`guide`]: a strategy, a generator, a judge, a model or a kernel of one's own, and the crate in a program without
//!   std; [`testing`] has fakes for them and checks what they promise
//! - [`cpu`], [`cuda`]: the devices behind [`ops`], the operations; [`quant`]: how weights are kept
//! - [`align`]: training of generators and judges on the weights that they serve
#![no_std]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![warn(
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::alloc_instead_of_core,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::float_cmp,
    clippy::cast_possible_truncation
)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

#[cfg(feature = "align")]
pub mod align;
pub mod codes;
#[cfg(feature = "alloc")]
pub mod combine;
#[cfg(feature = "alloc")]
pub mod cpu;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "kernel launches")]
pub mod cuda;
pub mod error;
pub mod generator;
#[cfg(all(any(doc, doctest), feature = "testing"))]
pub mod guide;
pub mod human;
pub mod image;
pub mod math;
#[cfg(feature = "alloc")]
pub mod model;
pub mod ops;
#[cfg(feature = "alloc")]
pub mod parts;
pub mod prompt;
pub mod quant;
pub mod reason;
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

/// The README's example, compiled and run.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct ReadmeExample;
