//! Readers of checkpoint files: tables of tensors over borrowed bytes.
//!
//! A reader checks a file's whole table before it gives out the first tensor: names are unique, every tensor lies
//! inside the file, and none lies over another. Work and memory stay in proportion to the table, not to the numbers it
//! states.

#[cfg(feature = "safetensors")]
pub mod config;
#[cfg(any(feature = "torch", feature = "gguf"))]
mod cursor;
#[cfg(feature = "safetensors")]
pub mod folder;
#[cfg(feature = "gguf")]
pub mod gguf;
#[cfg(feature = "safetensors")]
mod json;
#[cfg(feature = "mmap")]
#[expect(unsafe_code, reason = "mapped files")]
pub mod map;
#[cfg(feature = "safetensors")]
pub mod maquette;
#[cfg(feature = "safetensors")]
pub mod safetensors;
#[cfg(feature = "safetensors")]
pub mod shards;
#[cfg(any(feature = "torch", feature = "gguf", feature = "safetensors"))]
mod table;
#[cfg(feature = "tokenizers")]
pub mod tokenizer;
#[cfg(feature = "torch")]
pub mod torch;
