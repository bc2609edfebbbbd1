//! How keys and values are kept.

use core::fmt;
use core::str::FromStr;

use crate::error::{Error, Result};
use crate::quant::A8_BLOCK;

/// How a cache keeps keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KvFormat {
    /// 32-bit floats.
    #[default]
    F32,
    /// Upper halves of floats, rounded to nearest, of equals to the even one: two a word, the first in the lower half. An
    /// odd head is filled up with a zero.
    Bf16,
    /// Blocks of 32 along a head: 32 signed bytes and a scale, as [`quantise_a8`](crate::quant::quantise_a8) makes them. The
    /// last block of a head that is no multiple of 32 is filled up with zeros. A row is the levels of its blocks, four a
    /// word, the first in the lowest bits, and behind them the scales as the bits of floats.
    Q8,
}

impl KvFormat {
    /// All formats.
    pub const ALL: &[Self] = &[Self::F32, Self::Bf16, Self::Q8];

    /// Its name, as [`Display`](fmt::Display) writes it; [`FromStr`] reads it in capital and in small letters.
    ///
    /// ```
    /// use maquette::ops::attention::KvFormat;
    /// assert_eq!(KvFormat::Q8.to_string(), "Q8");
    /// assert_eq!("bf16".parse::<KvFormat>()?, KvFormat::Bf16);
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::Q8 => "Q8",
        }
    }

    /// Words of 32 bits that a row of one head takes.
    #[must_use]
    pub const fn words(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => head_dim,
            Self::Bf16 => head_dim.div_ceil(2),
            Self::Q8 => head_dim.div_ceil(A8_BLOCK).saturating_mul(A8_BLOCK / 4 + 1),
        }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let mut known = Self::ALL.iter().copied();
        known
            .find(|format| format.name().eq_ignore_ascii_case(name))
            .ok_or(Error::Config {
                key: "kv",
                problem: "is none of F32, BF16 and Q8",
            })
    }
}
