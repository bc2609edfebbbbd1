//! Models over a [`Backend`](crate::ops::Backend): what a checkpoint must provide, and what is built from it.

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
