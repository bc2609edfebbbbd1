//! Weight formats: canonical blocks, bit-compatible with GGUF.

mod activations;
mod blocks;
mod k;

use half::{bf16, f16};

pub use self::activations::{A8_BLOCK, quantise_a8};
pub use self::blocks::Block;
use crate::error::{Error, Result, covers, product};

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
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Q8_0, Self::Q4_0];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
        }
    }

    /// Elements of a block along k; 1 where elements stand alone.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 => 1,
            Self::Q8_0 => Q8_BLOCK,
            Self::Q4_0 => Q4_BLOCK,
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
        }
    }

    /// This format where rows of `k` elements are whole blocks, else F32.
    #[must_use]
    pub const fn or_f32(self, k: usize) -> Self {
        if k.is_multiple_of(self.block()) {
            self
        } else {
            Self::F32
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
                problem: "is no multiple of 32, which blocks need",
            });
        }
        product("matrix", &[n, k / self.block(), self.block_bytes()])
    }

    /// Writes floats as canonical bytes. Only whole blocks are written: the rest of `x` and `out` stays as it is.
    ///
    /// Elements that are not finite give a block that is not finite either, or means nothing; callers who must not have
    /// that check first.
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
        }
    }
}

/// Elements of a [`Format::Q8_0`] block.
pub const Q8_BLOCK: usize = 32;
/// Bytes of a [`Format::Q8_0`] block: the scale, then the elements.
pub const Q8_BLOCK_BYTES: usize = 2 + Q8_BLOCK;
/// Elements of a [`Format::Q4_0`] block.
pub const Q4_BLOCK: usize = 32;
/// Bytes of a [`Format::Q4_0`] block: the scale, then two elements a byte, `j` in the low and `j + 16` in the high half.
pub const Q4_BLOCK_BYTES: usize = 2 + Q4_BLOCK / 2;

/// A canonical weight matrix `[n, k]`, borrowed, row after row.
#[derive(Debug, Clone, Copy)]
pub struct QuantMatrix<'a> {
    n: usize,
    k: usize,
    data: QuantData<'a>,
}

/// The elements of a [`QuantMatrix`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum QuantData<'a> {
    /// `[n, k]` floats.
    F32(&'a [f32]),
    /// `[n, k]` upper halves of floats, two bytes each, little-endian.
    Bf16(&'a [u8]),
    /// `[n, k / 32]` blocks of 34 bytes.
    Q8_0(&'a [u8]),
    /// `[n, k / 32]` blocks of 18 bytes.
    Q4_0(&'a [u8]),
}

impl<'a> QuantMatrix<'a> {
    /// A matrix of floats.
    ///
    /// # Errors
    /// Another number of elements than `n · k`, or a size of zero.
    pub fn f32(n: usize, k: usize, data: &'a [f32]) -> Result<Self> {
        exactly(data.len(), product("matrix", &[n, k])?)?;
        Ok(Self {
            n,
            k,
            data: QuantData::F32(data),
        })
    }

    /// A matrix of the upper halves of floats.
    ///
    /// # Errors
    /// Another number of bytes than `2 · n · k`, or a size of zero.
    pub fn bf16(n: usize, k: usize, bytes: &'a [u8]) -> Result<Self> {
        exactly(bytes.len(), Format::Bf16.bytes(n, k)?)?;
        Ok(Self {
            n,
            k,
            data: QuantData::Bf16(bytes),
        })
    }

    /// A matrix of 8-bit blocks.
    ///
    /// # Errors
    /// Another number of bytes than the shape has, a size of zero, or `k` no multiple of 32.
    pub fn q8_0(n: usize, k: usize, blocks: &'a [u8]) -> Result<Self> {
        exactly(blocks.len(), Format::Q8_0.bytes(n, k)?)?;
        Ok(Self {
            n,
            k,
            data: QuantData::Q8_0(blocks),
        })
    }

    /// A matrix of 4-bit blocks.
    ///
    /// # Errors
    /// As [`q8_0`](Self::q8_0).
    pub fn q4_0(n: usize, k: usize, blocks: &'a [u8]) -> Result<Self> {
        exactly(blocks.len(), Format::Q4_0.bytes(n, k)?)?;
        Ok(Self {
            n,
            k,
            data: QuantData::Q4_0(blocks),
        })
    }

    /// A matrix of canonical bytes of any format but F32, whose elements are floats and not bytes.
    ///
    /// # Errors
    /// As [`q8_0`](Self::q8_0), and F32.
    pub fn from_bytes(format: Format, n: usize, k: usize, bytes: &'a [u8]) -> Result<Self> {
        match format {
            Format::F32 => Err(Error::Unsupported {
                what: "a matrix of floats from bytes",
            }),
            Format::Bf16 => Self::bf16(n, k, bytes),
            Format::Q8_0 => Self::q8_0(n, k, bytes),
            Format::Q4_0 => Self::q4_0(n, k, bytes),
        }
    }

    /// Outputs: rows of the matrix.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Inputs: columns of the matrix.
    #[must_use]
    pub const fn k(&self) -> usize {
        self.k
    }

    /// The elements.
    #[must_use]
    pub const fn data(&self) -> QuantData<'a> {
        self.data
    }

    /// The format of the elements.
    #[must_use]
    pub const fn format(&self) -> Format {
        match self.data {
            QuantData::F32(_) => Format::F32,
            QuantData::Bf16(_) => Format::Bf16,
            QuantData::Q8_0(_) => Format::Q8_0,
            QuantData::Q4_0(_) => Format::Q4_0,
        }
    }

    /// The rows that these ones take from row `at` on in a matrix of a format and size.
    ///
    /// # Errors
    /// Another format or width, or rows past the end.
    #[cfg(feature = "alloc")]
    pub(crate) fn place(
        &self,
        at: usize,
        format: Format,
        size: [usize; 2],
    ) -> Result<core::ops::Range<usize>> {
        const OP: &str = "put";
        if self.format() != format || self.k != size[1] {
            return Err(Error::Unsupported {
                what: "putting rows of another format or width into a matrix",
            });
        }
        let end = at.checked_add(self.n).ok_or(Error::Overflow { op: OP })?;
        covers(OP, "matrix", size[0], end)?;
        Ok(at..end)
    }

    /// Writes row `row` as floats.
    ///
    /// # Errors
    /// A row outside the matrix, or `out` shorter than `k`.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        covers("matrix row", "out", out.len(), self.k)?;
        covers("matrix row", "row", self.n, row.saturating_add(1))?;
        let out = &mut out[..self.k];
        match self.data {
            QuantData::F32(data) => out.copy_from_slice(&data[row * self.k..][..self.k]),
            QuantData::Bf16(bytes) | QuantData::Q8_0(bytes) | QuantData::Q4_0(bytes) => {
                let format = self.format();
                let row_bytes = self.k / format.block() * format.block_bytes();
                format.dequantise(&bytes[row * row_bytes..][..row_bytes], out);
            }
        }
        Ok(())
    }

    /// Scale and integers of block `block` in row `row`; nothing if elements stand alone.
    pub(crate) fn levels(&self, row: usize, block: usize) -> Option<(f32, [i8; Q8_BLOCK])> {
        let format = self.format();
        let (QuantData::Q8_0(bytes) | QuantData::Q4_0(bytes)) = self.data else {
            return None;
        };
        let size = format.block_bytes();
        let bytes = &bytes[(row * (self.k / format.block()) + block) * size..][..size];
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let levels = core::array::from_fn(|i| match format {
            Format::Q8_0 => bytes[2 + i].cast_signed(),
            _ => ((bytes[2 + i % 16] >> (i / 16 * 4)) & 15).cast_signed() - 8,
        });
        Some((scale, levels))
    }

    /// One element as a float.
    pub(crate) fn element(&self, row: usize, col: usize) -> f32 {
        match self.data {
            QuantData::F32(data) => data[row * self.k + col],
            QuantData::Bf16(bytes) | QuantData::Q8_0(bytes) | QuantData::Q4_0(bytes) => {
                let (format, mut block) = (self.format(), [0.0; Q8_BLOCK]);
                let (len, size) = (format.block(), format.block_bytes());
                let at = (row * self.k + col) / len * size;
                format.dequantise(&bytes[at..][..size], &mut block[..len]);
                block[col % len]
            }
        }
    }
}

fn exactly(got: usize, want: usize) -> Result<()> {
    if want == 0 {
        return Err(Error::Range {
            op: "matrix",
            arg: "n · k",
            got: 0,
            min: 1,
            max: u64::MAX,
        });
    }
    if got != want {
        return Err(Error::Length {
            op: "matrix",
            arg: "data",
            got,
            want,
        });
    }
    Ok(())
}

/// Writes floats as Q8_0 blocks: the scale is the largest magnitude over 127, rounded to half precision.
///
/// Elements that are not finite give a block that is not finite either; callers who must not have that check first.
/// Only whole blocks are written: the rest of `x` and `out` stays as it is.
pub fn quantise_q8_0(x: &[f32], out: &mut [u8]) {
    for (x, block) in x
        .chunks_exact(Q8_BLOCK)
        .zip(out.chunks_exact_mut(Q8_BLOCK_BYTES))
    {
        let largest = x
            .iter()
            .fold(0.0_f32, |m, v| if v.abs() > m { v.abs() } else { m });
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        for (v, byte) in x.iter().zip(&mut block[2..]) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "lies in -127..=127 by the choice of scale"
            )]
            let q = libm::roundf(v * inverse) as i8;
            *byte = q.cast_unsigned();
        }
    }
}

/// Reads Q8_0 blocks as floats.
pub fn dequantise_q8_0(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in blocks
        .chunks_exact(Q8_BLOCK_BYTES)
        .zip(out.chunks_exact_mut(Q8_BLOCK))
    {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (q, v) in block[2..].iter().zip(out) {
            *v = scale * f32::from(q.cast_signed());
        }
    }
}

/// Writes floats as Q4_0 blocks: the scale is the element of largest magnitude over −8, so that this element is met.
///
/// As [`quantise_q8_0`] for elements that are not finite and for incomplete blocks.
pub fn quantise_q4_0(x: &[f32], out: &mut [u8]) {
    for (x, block) in x
        .chunks_exact(Q4_BLOCK)
        .zip(out.chunks_exact_mut(Q4_BLOCK_BYTES))
    {
        let scale = blocks::largest(x) / -8.0;
        blocks::put_half(scale, &mut block[..2]);
        blocks::put_nibbles(blocks::levels(x, 0.0, scale, 8.0, 16), &mut block[2..]);
    }
}

/// Reads Q4_0 blocks as floats.
pub fn dequantise_q4_0(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in blocks
        .chunks_exact(Q4_BLOCK_BYTES)
        .zip(out.chunks_exact_mut(Q4_BLOCK))
    {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = out.split_at_mut(Q4_BLOCK / 2);
        for ((byte, low), high) in block[2..].iter().zip(low).zip(high) {
            *low = scale * (f32::from(byte & 15) - 8.0);
            *high = scale * (f32::from(byte >> 4) - 8.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_worked_by_hand() {
        let mut x = [0.0_f32; 32];
        x[0] = 127.0;
        x[1] = -63.5;
        x[2] = 0.4;
        let mut block = [0_u8; 34];
        quantise_q8_0(&x, &mut block);
        assert_eq!(&block[..5], &[0x00, 0x3c, 127, (-64_i8).cast_unsigned(), 0]);
        let mut back = [9.0_f32; 32];
        dequantise_q8_0(&block, &mut back);
        assert_eq!(&back[..4], &[127.0, -64.0, 0.0, 0.0]);
    }

    #[test]
    fn quantising_twice_changes_nothing() {
        let x: [f32; 64] = core::array::from_fn(|i| (i as f32 * 0.37).sin_like());
        let (mut a, mut b) = ([0_u8; 68], [0_u8; 68]);
        quantise_q8_0(&x, &mut a);
        let mut y = [0.0; 64];
        dequantise_q8_0(&a, &mut y);
        quantise_q8_0(&y, &mut b);
        let mut z = [0.0; 64];
        dequantise_q8_0(&b, &mut z);
        for ((x, y), z) in x.iter().zip(&y).zip(&z) {
            assert!((x - y).abs() < 0.006 && (y - z).abs() < 0.006);
        }
    }

    #[test]
    fn a_matrix_of_another_size_is_refused() {
        assert!(QuantMatrix::f32(2, 3, &[0.0; 5]).is_err());
        assert!(QuantMatrix::f32(0, 3, &[]).is_err());
        assert!(QuantMatrix::q8_0(1, 33, &[0; 34]).is_err());
        assert!(QuantMatrix::q8_0(usize::MAX, 32, &[0; 34]).is_err());
    }

    #[test]
    fn a_block_of_nibbles_worked_by_hand() {
        let mut x = [0.0_f32; 32];
        (x[0], x[1], x[16], x[17]) = (-4.0, 4.0, 1.2, -0.2);
        let mut block = [0_u8; 18];
        quantise_q4_0(&x, &mut block);
        // Scale ½: −8 and 8, of which 7 is the largest there is; 2.4 and −0.4.
        assert_eq!(&block[..5], &[0x00, 0x38, 0xa0, 0x8f, 0x88]);
        let mut back = [9.0_f32; 32];
        dequantise_q4_0(&block, &mut back);
        assert_eq!(
            (back[0], back[1], back[16], back[17]),
            (-4.0, 3.5, 1.0, 0.0)
        );
    }

    #[test]
    fn half_floats_round_to_even() {
        let mut bytes = [0; 6];
        Format::Bf16.quantise(&[1.0, 1.003_906_3, 1.011_718_8], &mut bytes);
        assert_eq!(bytes, [0x80, 0x3f, 0x80, 0x3f, 0x82, 0x3f]);
    }

    trait SinLike {
        fn sin_like(self) -> f32;
    }
    impl SinLike for f32 {
        fn sin_like(self) -> f32 {
            libm::sinf(self)
        }
    }
}
