//! Precisions as command lines name them.

#[path = "weights.rs"]
mod weights;

use clap::ValueEnum;
use maquette::model::weights::Precision;
use maquette::ops::gemm::Activations;

pub use weights::Weights;

/// What products with blocks do with activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arithmetic {
    /// Multiply them as they are.
    F32,
    /// Round them to 8 bits in blocks of 32: faster.
    A8,
}

/// Both.
pub fn precision(weights: Weights, arithmetic: Arithmetic) -> Precision {
    Precision::from(weights.format()).with_activations(match arithmetic {
        Arithmetic::F32 => Activations::F32,
        Arithmetic::A8 => Activations::A8,
    })
}
