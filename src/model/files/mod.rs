//! Readers of checkpoint files.

pub mod config;
pub mod safetensors;
