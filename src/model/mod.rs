//! Models over a [`Backend`](crate::ops::Backend): what a checkpoint must provide, and what is built from it.

pub mod files;
pub mod linear;
pub mod llava;
pub mod magvit;
pub mod resize;
pub mod show_o;
pub mod transformer;
pub mod vision;
pub mod weights;
pub mod words;
