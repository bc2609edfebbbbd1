//! Weight formats: canonical blocks, bit-compatible with GGUF.

use half::f16;

use crate::error::{Error, Result, covers, product};

/// How the elements of a weight matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Format {
    /// 32-bit floats.
    #[default]
    F32,
    /// Blocks of 32 along k: one half-precision scale and 32 signed bytes, 34 bytes in all.
    Q8_0,
}

/// Elements of a [`Format::Q8_0`] block.
pub const Q8_BLOCK: usize = 32;
/// Bytes of a [`Format::Q8_0`] block: the scale, then the elements.
pub const Q8_BLOCK_BYTES: usize = 2 + Q8_BLOCK;

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
    /// `[n, k / 32]` blocks of 34 bytes.
    Q8_0(&'a [u8]),
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

    /// A matrix of 8-bit blocks.
    ///
    /// # Errors
    /// Another number of bytes than the shape has, a size of zero, or `k` no multiple of 32.
    pub fn q8_0(n: usize, k: usize, blocks: &'a [u8]) -> Result<Self> {
        if !k.is_multiple_of(Q8_BLOCK) {
            return Err(Error::Config {
                key: "k",
                problem: "is no multiple of 32, which Q8_0 needs",
            });
        }
        exactly(
            blocks.len(),
            product("matrix", &[n, k / Q8_BLOCK, Q8_BLOCK_BYTES])?,
        )?;
        Ok(Self {
            n,
            k,
            data: QuantData::Q8_0(blocks),
        })
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

    /// Writes row `row` as floats.
    ///
    /// # Errors
    /// A row outside the matrix, or `out` shorter than `k`.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        covers("matrix row", "out", out.len(), self.k)?;
        covers("matrix row", "row", self.n, row + 1)?;
        let out = &mut out[..self.k];
        match self.data {
            QuantData::F32(data) => out.copy_from_slice(&data[row * self.k..][..self.k]),
            QuantData::Q8_0(blocks) => {
                let row_bytes = self.k / Q8_BLOCK * Q8_BLOCK_BYTES;
                dequantise_q8_0(&blocks[row * row_bytes..][..row_bytes], out);
            }
        }
        Ok(())
    }

    /// Writes one block of a Q8_0 row as floats; another format leaves `out` as it is.
    pub(crate) fn q8_block(&self, row: usize, block: usize, out: &mut [f32; Q8_BLOCK]) {
        if let QuantData::Q8_0(blocks) = self.data {
            let at = row * (self.k / Q8_BLOCK) + block;
            dequantise_q8_0(&blocks[at * Q8_BLOCK_BYTES..][..Q8_BLOCK_BYTES], out);
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

    trait SinLike {
        fn sin_like(self) -> f32;
    }
    impl SinLike for f32 {
        fn sin_like(self) -> f32 {
            libm::sinf(self)
        }
    }
}
