//! Block formats of GGUF files, bytes and values bit for bit, and one of this crate's own.
//!
//! Every value is a product of numbers that come from half precision, or such a product and a sum, in the order below
//! and without fused multiply-add.

use super::k;
use super::{
    dequantise_q4_0, dequantise_q4_g128, dequantise_q4_k, dequantise_q8_0, half, put_half,
    quantise_q4_0, quantise_q4_g128, quantise_q4_k, quantise_q8_0,
};
use crate::error::{Error, Result};

/// A block format: some elements that share their scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Block {
    /// 32 elements of 8 bits and a scale.
    Q8_0,
    /// 32 elements of 4 bits and a scale.
    Q4_0,
    /// 32 elements of 4 bits, a scale and a smallest value.
    Q4_1,
    /// 32 elements of 5 bits and a scale.
    Q5_0,
    /// 32 elements of 5 bits, a scale and a smallest value.
    Q5_1,
    /// 32 indices into a table of 16 values, and a scale.
    Iq4Nl,
    /// 256 elements of 2 bits, with 4-bit scales and offsets for every 16.
    Q2K,
    /// 256 elements of 3 bits, with 6-bit scales for every 16.
    Q3K,
    /// 256 elements of 4 bits, with 6-bit scales and offsets for every 32.
    Q4K,
    /// 256 elements of 5 bits, with 6-bit scales and offsets for every 32.
    Q5K,
    /// 256 elements of 6 bits, with 8-bit scales for every 16.
    Q6K,
    /// 128 elements of 4 bits and a scale. No GGUF file has it.
    Q4G128,
}

impl Block {
    /// All block formats.
    pub const ALL: &[Self] = &[
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Iq4Nl,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q4G128,
    ];

    /// The name that GGUF tools give it; they have none for `Q4_G128`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Iq4Nl => "IQ4_NL",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Q4G128 => "Q4_G128",
        }
    }

    /// Elements of a block.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub const fn len(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
            Self::Q4G128 => 128,
            _ => 32,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q4G128 => 66,
        }
    }

    /// Reads blocks as floats. Only whole blocks are read: the rest of `out` stays as it is.
    ///
    /// ```
    /// use maquette::quant::Block;
    /// // A scale of one half, and nibbles 0 and 15: −8/2 and 7/2.
    /// let mut block = [0; 18];
    /// block[..3].copy_from_slice(&[0x00, 0x38, 0xf0]);
    /// let mut out = [0.0; 32];
    /// Block::Q4_0.dequantise(&block, &mut out);
    /// assert_eq!((out[0], out[16]), (-4.0, 3.5));
    /// ```
    pub fn dequantise(self, blocks: &[u8], out: &mut [f32]) {
        let one: fn(&[u8], &mut [f32]) = match self {
            Self::Q8_0 => return dequantise_q8_0(blocks, out),
            Self::Q4_0 => return dequantise_q4_0(blocks, out),
            Self::Q4K => return dequantise_q4_k(blocks, out),
            Self::Q4G128 => return dequantise_q4_g128(blocks, out),
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Iq4Nl => iq4_nl,
            Self::Q2K => k::q2,
            Self::Q3K => k::q3,
            Self::Q5K => k::q5,
            Self::Q6K => k::q6,
        };
        for (block, out) in blocks
            .chunks_exact(self.bytes())
            .zip(out.chunks_exact_mut(self.len()))
        {
            one(block, out);
        }
    }

    /// Writes floats as blocks. Only whole blocks are written: the rest of `x` and `out` stays as it is. Elements that
    /// are not finite give blocks that mean nothing; callers who must not have that check first.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a format that is only read: IQ4_NL, Q2_K, Q3_K, Q5_K and Q6_K.
    pub fn quantise(self, x: &[f32], out: &mut [u8]) -> Result<()> {
        let one: fn(&[f32], &mut [u8]) = match self {
            Self::Q8_0 => quantise_q8_0,
            Self::Q4_0 => quantise_q4_0,
            Self::Q4K => quantise_q4_k,
            Self::Q4G128 => quantise_q4_g128,
            Self::Q4_1 => to_q4_1,
            Self::Q5_0 => to_q5_0,
            Self::Q5_1 => to_q5_1,
            _ => {
                return Err(Error::Unsupported {
                    what: "quantising to this block format",
                });
            }
        };
        for (x, block) in x
            .chunks_exact(self.len())
            .zip(out.chunks_exact_mut(self.bytes()))
        {
            one(x, block);
        }
        Ok(())
    }
}

/// Element `i` of 32 nibbles: the low ones first, then the high ones.
fn nibble(nibbles: &[u8], i: usize) -> u8 {
    nibbles[i % 16] >> (i / 16 * 4) & 15
}

/// Bit `i` of 32.
fn fifth(bits: &[u8], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block, 0), half(block, 2));
    for (i, v) in out.iter_mut().enumerate() {
        *v = scale * f32::from(nibble(&block[4..], i)) + least;
    }
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for (i, v) in out.iter_mut().enumerate() {
        let q = nibble(&block[6..], i) | fifth(&block[2..6], i);
        *v = scale * (f32::from(q) - 16.0);
    }
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block, 0), half(block, 2));
    for (i, v) in out.iter_mut().enumerate() {
        let q = nibble(&block[8..], i) | fifth(&block[4..8], i);
        *v = scale * f32::from(q) + least;
    }
}

/// Values of IQ4_NL's indices.
const LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

fn iq4_nl(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for (i, v) in out.iter_mut().enumerate() {
        *v = scale * f32::from(LEVELS[usize::from(nibble(&block[2..], i))]);
    }
}

/// x as one of `levels` whole numbers from zero on.
fn level(x: f32, levels: u8) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast truncates and saturates, which is what the format asks for"
    )]
    let q = x as u8;
    q.min(levels - 1)
}

/// The element of largest magnitude, the first of equals.
pub(super) fn largest(x: &[f32]) -> f32 {
    x.iter()
        .fold(0.0_f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// Nearest levels of x / scale + zero, for a scale that spans them.
pub(super) fn levels<'a>(
    x: &'a [f32],
    least: f32,
    scale: f32,
    zero: f32,
    levels: u8,
) -> impl Fn(usize) -> u8 + 'a {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    move |i| level((x[i] - least) * inverse + (zero + 0.5), levels)
}

/// Writes the low four bits of 32 elements.
pub(super) fn put_nibbles(q: impl Fn(usize) -> u8, out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = q(i) & 15 | q(i + 16) << 4;
    }
}

fn put_fifths(q: impl Fn(usize) -> u8, out: &mut [u8]) {
    for (b, byte) in out.iter_mut().enumerate() {
        *byte = (0..8).fold(0, |bits, i| bits | (q(b * 8 + i) >> 4) << i);
    }
}

fn span(x: &[f32]) -> (f32, f32) {
    x.iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), &v| {
            (
                if v < least { v } else { least },
                if v > most { v } else { most },
            )
        })
}

fn to_q4_1(x: &[f32], block: &mut [u8]) {
    let (least, most) = span(x);
    let scale = (most - least) / 15.0;
    put_half(scale, &mut block[..2]);
    put_half(least, &mut block[2..4]);
    put_nibbles(levels(x, least, scale, 0.0, 16), &mut block[4..]);
}

fn to_q5_0(x: &[f32], block: &mut [u8]) {
    let scale = largest(x) / -16.0;
    let q = levels(x, 0.0, scale, 16.0, 32);
    put_half(scale, &mut block[..2]);
    put_fifths(&q, &mut block[2..6]);
    put_nibbles(&q, &mut block[6..]);
}

fn to_q5_1(x: &[f32], block: &mut [u8]) {
    let (least, most) = span(x);
    let scale = (most - least) / 31.0;
    let q = levels(x, least, scale, 0.0, 32);
    put_half(scale, &mut block[..2]);
    put_half(least, &mut block[2..4]);
    put_fifths(&q, &mut block[4..8]);
    put_nibbles(&q, &mut block[8..]);
}
