//! Canonical matrices, borrowed.

use half::bf16;

use super::symmetric::nibble;
use super::{A8_BLOCK, Format, Q4K_BLOCK, Q8_BLOCK, half, q4_k};
use crate::error::{Error, Result, covers, product};

/// A canonical weight matrix `[n, k]`, borrowed, row after row.
///
/// ```
/// use maquette::quant::{Format, QuantMatrix};
/// let mut blocks = vec![0; Format::Q8_0.bytes(1, 32)?];
/// Format::Q8_0.quantise(&[0.5; 32], &mut blocks);
/// let matrix = QuantMatrix::from_bytes(Format::Q8_0, 1, 32, &blocks)?;
/// let mut row = [0.0; 32];
/// matrix.row(0, &mut row)?;
/// assert!(row.iter().all(|v| (v - 0.5).abs() < 1e-3));
/// # Ok::<(), maquette::Error>(())
/// ```
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
    /// `[n, k / 256]` blocks of 144 bytes.
    Q4K(&'a [u8]),
    /// `[n, k / 128]` blocks of 66 bytes.
    Q4G128(&'a [u8]),
}

impl<'a> QuantData<'a> {
    /// The canonical bytes of any format but F32.
    #[must_use]
    pub const fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::F32(_) => None,
            Self::Bf16(bytes)
            | Self::Q8_0(bytes)
            | Self::Q4_0(bytes)
            | Self::Q4K(bytes)
            | Self::Q4G128(bytes) => Some(bytes),
        }
    }
}

/// What 32 neighbours along k are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// What their integers are multiplied with.
    pub(crate) scale: f32,
    /// What is subtracted from the products, in formats that have it.
    pub(crate) offset: Option<f32>,
    /// The integers.
    pub(crate) levels: [i8; A8_BLOCK],
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

    /// A matrix of 4-bit blocks of 32.
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

    /// A matrix of 4-bit blocks of 256.
    ///
    /// # Errors
    /// As [`q8_0`](Self::q8_0), with 256 for 32.
    pub fn q4_k(n: usize, k: usize, blocks: &'a [u8]) -> Result<Self> {
        exactly(blocks.len(), Format::Q4K.bytes(n, k)?)?;
        Ok(Self {
            n,
            k,
            data: QuantData::Q4K(blocks),
        })
    }

    /// A matrix of 4-bit blocks of 128.
    ///
    /// # Errors
    /// As [`q8_0`](Self::q8_0), with 128 for 32.
    pub fn q4_g128(n: usize, k: usize, blocks: &'a [u8]) -> Result<Self> {
        exactly(blocks.len(), Format::Q4G128.bytes(n, k)?)?;
        Ok(Self {
            n,
            k,
            data: QuantData::Q4G128(blocks),
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
            Format::Q4K => Self::q4_k(n, k, bytes),
            Format::Q4G128 => Self::q4_g128(n, k, bytes),
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
            QuantData::Q4K(_) => Format::Q4K,
            QuantData::Q4G128(_) => Format::Q4G128,
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
        if let QuantData::F32(data) = self.data {
            out.copy_from_slice(&data[row * self.k..][..self.k]);
        } else if let Some(bytes) = self.data.bytes() {
            let format = self.format();
            let row_bytes = self.k / format.block() * format.block_bytes();
            format.dequantise(&bytes[row * row_bytes..][..row_bytes], out);
        }
        Ok(())
    }

    /// The block that element `col` of a row lies in.
    fn block(&self, bytes: &'a [u8], row: usize, col: usize) -> &'a [u8] {
        let format = self.format();
        let size = format.block_bytes();
        &bytes[(row * self.k + col) / format.block() * size..][..size]
    }

    /// Neighbours 32 `part` to 32 `part` + 31 of row `row`; nothing if elements stand alone.
    pub(crate) fn part(&self, row: usize, part: usize) -> Option<Part> {
        let col = part * A8_BLOCK;
        let (block, offset, mut levels) = match self.data {
            QuantData::F32(_) | QuantData::Bf16(_) => return None,
            QuantData::Q8_0(bytes)
            | QuantData::Q4_0(bytes)
            | QuantData::Q4K(bytes)
            | QuantData::Q4G128(bytes) => (self.block(bytes, row, col), None, [0; A8_BLOCK]),
        };
        let scale = half(block, 0);
        let mut part = Part {
            scale,
            offset,
            levels,
        };
        for (i, level) in levels.iter_mut().enumerate() {
            *level = match self.data {
                QuantData::Q8_0(_) => block[2 + i].cast_signed(),
                QuantData::Q4K(_) => q4_k::level(block, col % Q4K_BLOCK + i).cast_signed(),
                _ => nibble(&block[2..], col % self.format().block() + i),
            };
        }
        part.levels = levels;
        if let QuantData::Q4K(_) = self.data {
            let [own, least] = q4_k::part(block, col % Q4K_BLOCK / A8_BLOCK).map(f32::from);
            part.scale = scale * own;
            part.offset = Some(half(block, 2) * least);
        }
        Some(part)
    }

    /// One element as a float.
    pub(crate) fn element(&self, row: usize, col: usize) -> f32 {
        match self.data {
            QuantData::F32(data) => data[row * self.k + col],
            QuantData::Bf16(bytes) => {
                let bytes = self.block(bytes, row, col);
                bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
            }
            QuantData::Q8_0(bytes) => {
                let block = self.block(bytes, row, col);
                half(block, 0) * f32::from(block[2 + col % Q8_BLOCK].cast_signed())
            }
            QuantData::Q4_0(bytes) | QuantData::Q4G128(bytes) => {
                let block = self.block(bytes, row, col);
                half(block, 0) * f32::from(nibble(&block[2..], col % self.format().block()))
            }
            QuantData::Q4K(bytes) => {
                let (block, i) = (self.block(bytes, row, col), col % Q4K_BLOCK);
                let [own, least] = q4_k::part(block, i / A8_BLOCK).map(f32::from);
                let (scale, offset) = (half(block, 0) * own, half(block, 2) * least);
                scale * f32::from(q4_k::level(block, i)) - offset
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_of_another_size_is_refused() {
        assert!(QuantMatrix::f32(2, 3, &[0.0; 5]).is_err());
        assert!(QuantMatrix::f32(0, 3, &[]).is_err());
        assert!(QuantMatrix::q8_0(1, 33, &[0; 34]).is_err());
        assert!(QuantMatrix::q4_k(1, 128, &[0; 72]).is_err());
        assert!(QuantMatrix::q4_g128(1, 128, &[0; 65]).is_err());
        assert!(QuantMatrix::q8_0(usize::MAX, 32, &[0; 34]).is_err());
    }

    #[test]
    fn elements_and_parts_are_the_numbers_of_the_row() {
        const K: usize = 512;
        // No scale among them is infinite or NaN.
        let bytes: [u8; 2 * K] =
            core::array::from_fn(|i| u8::try_from(i * (i + 37) % 0x70).unwrap());
        for format in Format::ALL.iter().copied().skip(1) {
            let bytes = &bytes[..format.bytes(1, K).unwrap()];
            let w = QuantMatrix::from_bytes(format, 1, K, bytes).unwrap();
            let mut row = [0.0; K];
            w.row(0, &mut row).unwrap();
            for (i, v) in row.iter().enumerate() {
                assert_eq!(w.element(0, i).to_bits(), v.to_bits(), "{format:?} {i}");
                if let Some(part) = w.part(0, i / A8_BLOCK) {
                    let level = part.scale * f32::from(part.levels[i % A8_BLOCK]);
                    let same = part.offset.map_or(level, |offset| level - offset);
                    assert_eq!(same.to_bits(), v.to_bits(), "{format:?} {i}");
                }
            }
            assert_eq!(w.part(0, 0).is_some(), format.block() > 1);
        }
    }
}
