//! Precisions as command lines name them.

use clap::ValueEnum;
use maquette::model::weights::Precision;
use maquette::ops::attention::KvFormat;
use maquette::ops::gemm::Activations;

use crate::weights::Weights;

/// What products with blocks do with activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arithmetic {
    /// Multiply them as they are.
    F32,
    /// Round them to 8 bits in blocks of 32: faster.
    A8,
    /// Round them to BF16: for many rows on a GPU's tensor cores.
    Bf16,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    /// As they are.
    F32,
    /// In upper halves of floats: half the memory, and tensor cores on a GPU.
    Bf16,
    /// In 8-bit blocks of 32: faster, and a quarter of the memory.
    Q8,
}

impl Kv {
    /// Its name in the library.
    pub fn format(self) -> KvFormat {
        match self {
            Self::F32 => KvFormat::F32,
            Self::Bf16 => KvFormat::Bf16,
            Self::Q8 => KvFormat::Q8,
        }
    }
}

/// Both.
pub fn precision(weights: Weights, arithmetic: Arithmetic) -> Precision {
    Precision::from(weights.format()).with_activations(match arithmetic {
        Arithmetic::F32 => Activations::F32,
        Arithmetic::A8 => Activations::A8,
        Arithmetic::Bf16 => Activations::Bf16,
    })
}
