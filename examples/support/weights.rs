//! Formats as command lines name them.

use clap::ValueEnum;
use maquette::quant::Format;

/// How large matrices are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// 32-bit floats.
    F32,
    /// Their upper halves.
    Bf16,
    /// 8-bit blocks of 32.
    #[value(name = "q8_0")]
    Q8,
    /// 4-bit blocks of 32.
    #[value(name = "q4_0")]
    Q4,
    /// 4-bit blocks of 256, with scales and offsets for every 32.
    #[value(name = "q4_k")]
    Q4K,
    /// 4-bit blocks of 128.
    #[value(name = "q4_g128")]
    Q4G128,
}

impl Weights {
    /// The format itself.
    pub fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::Bf16 => Format::Bf16,
            Self::Q8 => Format::Q8_0,
            Self::Q4 => Format::Q4_0,
            Self::Q4K => Format::Q4K,
            Self::Q4G128 => Format::Q4G128,
        }
    }
}
