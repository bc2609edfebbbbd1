//! Weight formats: canonical blocks, bit-compatible with GGUF where GGUF has them.
//!
//! # Numbers that are not ordinary
//! Reading a block is arithmetic on floats as IEEE 754 has it: scales that are denormal in half precision are exact, and a
//! scale that is infinite or no number gives elements that are (of an infinite one, level zero is no number). Writing
//! never fails: a scale too small for half precision gives zeros, one too large an infinity. Numbers that are not finite
//! give blocks that are not finite or mean nothing. The loader refuses both, so that no model holds them.

mod activations;
mod blocks;
mod k;
mod matrix;
mod q4_k;
mod symmetric;

use core::fmt;
use core::str::FromStr;

use half::{bf16, f16};

pub use self::activations::{A8_BLOCK, quantise_a8};
pub use self::blocks::Block;
pub use self::matrix::{QuantData, QuantMatrix};
pub(crate) use self::q4_k::Q4K_BLOCK_BYTES;
use self::q4_k::{Q4K_BLOCK, dequantise_q4_k, quantise_q4_k};
#[cfg(feature = "alloc")]
pub(crate) use self::q4_k::{level as q4_k_level, part as q4_k_part};
use self::symmetric::{
    Q4_BLOCK, Q4G_BLOCK, Q8_BLOCK, dequantise_q4_0, dequantise_q4_g128, dequantise_q8_0,
    quantise_q4_0, quantise_q4_g128, quantise_q8_0,
};
pub(crate) use self::symmetric::{Q4_BLOCK_BYTES, Q4G_BLOCK_BYTES, Q8_BLOCK_BYTES};
use crate::error::{Error, Result, product};

/// How the elements of a weight matrix are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Format {
    /// 32-bit floats.
    #[default]
    F32,
    /// The upper halves of 32-bit floats, rounded to nearest even.
    Bf16,
    /// Blocks of 32 along k: one half-precision scale and 32 signed bytes, 34 bytes in all.
    Q8_0,
    /// Blocks of 32 along k: one half-precision scale and 32 nibbles, 18 bytes in all.
    Q4_0,
    /// Blocks of 256 along k: two half-precision scales, a 6-bit scale and offset for every 32, and 256 nibbles, 144 bytes
    /// in all.
    Q4K,
    /// Blocks of 128 along k: one half-precision scale and 128 nibbles, 66 bytes in all. GGUF has no such blocks.
    Q4G128,
}

impl Format {
    /// All formats.
    pub const ALL: &[Self] = &[
        Self::F32,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4K,
        Self::Q4G128,
    ];

    /// Its name, as [`Display`](fmt::Display) writes it; [`FromStr`] reads it in capital and in small letters.
    ///
    /// ```
    /// use maquette::quant::Format;
    /// assert_eq!(Format::Q4K.to_string(), "Q4_K");
    /// assert_eq!("q8_0".parse::<Format>()?, Format::Q8_0);
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4K => "Q4_K",
            Self::Q4G128 => "Q4_G128",
        }
    }

    /// Elements of a block along k; 1 where elements stand alone.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 => 1,
            Self::Q8_0 => Q8_BLOCK,
            Self::Q4_0 => Q4_BLOCK,
            Self::Q4K => Q4K_BLOCK,
            Self::Q4G128 => Q4G_BLOCK,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Q8_0 => Q8_BLOCK_BYTES,
            Self::Q4_0 => Q4_BLOCK_BYTES,
            Self::Q4K => Q4K_BLOCK_BYTES,
            Self::Q4G128 => Q4G_BLOCK_BYTES,
        }
    }

    /// This format where rows of `k` elements are whole blocks, else Q4_0 in place of other formats of 4 bits where they
    /// are whole blocks of that, else F32.
    ///
    /// ```
    /// use maquette::quant::Format;
    /// let fitting = [512, 1152, 24].map(|k| Format::Q4K.fitting(k));
    /// assert_eq!(fitting, [Format::Q4K, Format::Q4_0, Format::F32]);
    /// ```
    #[must_use]
    pub const fn fitting(self, k: usize) -> Self {
        match self {
            _ if k.is_multiple_of(self.block()) => self,
            Self::Q4K | Self::Q4G128 => Self::Q4_0.fitting(k),
            _ => Self::F32,
        }
    }

    /// The kind of block that its elements stand in; nothing where they stand alone.
    #[must_use]
    pub const fn as_block(self) -> Option<Block> {
        match self {
            Self::F32 | Self::Bf16 => None,
            Self::Q8_0 => Some(Block::Q8_0),
            Self::Q4_0 => Some(Block::Q4_0),
            Self::Q4K => Some(Block::Q4K),
            Self::Q4G128 => Some(Block::Q4G128),
        }
    }

    /// Canonical bytes of a matrix `[n, k]`.
    ///
    /// # Errors
    /// A product that overflows, or `k` no multiple of the block.
    pub fn bytes(self, n: usize, k: usize) -> Result<usize> {
        if !k.is_multiple_of(self.block()) {
            return Err(Error::Config {
                key: "k",
                problem: "is no multiple of the block's elements",
            });
        }
        product("matrix", &[n, k / self.block(), self.block_bytes()])
    }

    /// Writes floats as canonical bytes. Only whole blocks are written: the rest of `x` and `out` stays as it is.
    ///
    /// The scale of a Q8_0 block is the largest magnitude over 127, that of Q4_0 the element of largest magnitude over −8, so
    /// that this element is met; Q4_G128 takes of some scales about that one the one that errs least in squares, and Q4_K
    /// looks for the scale and the offset of every 32 elements that do.
    ///
    /// Elements that are not finite give a block that is not finite either, or means nothing; callers who must not have
    /// that check first. The same numbers give the same bytes on every machine.
    pub fn quantise(self, x: &[f32], out: &mut [u8]) {
        match self {
            Self::F32 => {
                for (v, out) in x.iter().zip(out.as_chunks_mut::<4>().0) {
                    *out = v.to_le_bytes();
                }
            }
            Self::Bf16 => {
                for (v, out) in x.iter().zip(out.as_chunks_mut::<2>().0) {
                    *out = bf16::from_f32(*v).to_le_bytes();
                }
            }
            Self::Q8_0 => quantise_q8_0(x, out),
            Self::Q4_0 => quantise_q4_0(x, out),
            Self::Q4K => quantise_q4_k(x, out),
            Self::Q4G128 => quantise_q4_g128(x, out),
        }
    }

    /// Reads canonical bytes as floats. Only whole blocks are read: the rest of `out` stays as it is.
    pub fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                for (v, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *v = f32::from_le_bytes(*bytes);
                }
            }
            Self::Bf16 => {
                for (v, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *v = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Self::Q8_0 => dequantise_q8_0(bytes, out),
            Self::Q4_0 => dequantise_q4_0(bytes, out),
            Self::Q4K => dequantise_q4_k(bytes, out),
            Self::Q4G128 => dequantise_q4_g128(bytes, out),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let mut known = Self::ALL.iter().copied();
        known
            .find(|format| format.name().eq_ignore_ascii_case(name))
            .ok_or(Error::Config {
                key: "format",
                problem: "is none of F32, BF16, Q8_0, Q4_0, Q4_K and Q4_G128",
            })
    }
}

/// The half-precision number at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// A number in half precision.
fn put_half(value: f32, out: &mut [u8]) {
    out.copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_by_the_names_that_they_write() {
        for &format in Format::ALL {
            assert_eq!(format.name().parse::<Format>().unwrap(), format);
            let small = format.name().to_ascii_lowercase();
            assert_eq!(small.parse::<Format>().unwrap(), format);
        }
        assert!("Q5_0".parse::<Format>().is_err() && "".parse::<Format>().is_err());
    }

    #[test]
    fn half_floats_round_to_even() {
        let mut bytes = [0; 6];
        Format::Bf16.quantise(&[1.0, 1.003_906_3, 1.011_718_8], &mut bytes);
        assert_eq!(bytes, [0x80, 0x3f, 0x80, 0x3f, 0x82, 0x3f]);
    }
}
