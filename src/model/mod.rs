//! Models over a [`Backend`](crate::ops::Backend): what a checkpoint must provide, and what is built from it.

#[cfg(feature = "safetensors")]
pub mod files;
pub mod linear;
pub mod magvit;
pub mod show_o;
pub mod transformer;
pub mod weights;
pub mod words;
