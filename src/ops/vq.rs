//! Codebooks: rows by index, and lookup-free quantisation.
//!
//! ```
//! use maquette::ops::vq::{GatherShape, LfqShape, gather, lfq_lookup};
//! let mut rows = [9.0; 4];
//! let s = GatherShape { rows: 2, width: 2, table_rows: 2 };
//! gather(s, &[1, 7], &[1.0, 2.0, 3.0, 4.0], &mut rows)?;
//! assert_eq!(rows, [3.0, 4.0, 0.0, 0.0]);
//! lfq_lookup(LfqShape { n: 2, bits: 2 }, &[0b10, 0b11], &mut rows)?;
//! assert_eq!(rows, [1.0, -1.0, 1.0, 1.0]);
//! # Ok::<(), maquette::Error>(())
//! ```

use crate::error::{Error, Result, covers, product};
use crate::math;
use crate::ops::counted;
use crate::ops::norm::nonzero;
use crate::quant::QuantMatrix;

/// Rows picked from a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatherShape {
    /// Rows picked.
    pub rows: usize,
    /// Width of a row.
    pub width: usize,
    /// Rows of the table.
    pub table_rows: usize,
}

impl GatherShape {
    /// Checks the lengths of index, table and out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, index: usize, table: usize, out: usize) -> Result<()> {
        const OP: &str = "gather";
        nonzero(OP, "width", self.width)?;
        covers(OP, "index", index, self.rows)?;
        covers(
            OP,
            "table",
            table,
            product(OP, &[self.table_rows, self.width])?,
        )?;
        covers(OP, "out", out, product(OP, &[self.rows, self.width])?)
    }

    /// Checks that a matrix has the table's shape, and the lengths of index and out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check_matrix(&self, index: usize, [n, k]: [usize; 2], out: usize) -> Result<()> {
        const OP: &str = "gather_rows";
        for (got, want) in [(n, self.table_rows), (k, self.width)] {
            covers(OP, "table", got, want)?;
            covers(OP, "table", want, got)?;
        }
        self.check(index, product(OP, &[n, k])?, out)
    }
}

/// out\[r, :\] = table\[index\[r\], :\]; an index outside the table gives zeros.
///
/// # Errors
/// See [`GatherShape::check`].
pub fn gather(s: GatherShape, index: &[u32], table: &[f32], out: &mut [f32]) -> Result<()> {
    s.check(index.len(), table.len(), out.len())?;
    for (row, &i) in out.chunks_exact_mut(s.width).zip(index).take(s.rows) {
        if (i as usize) < s.table_rows {
            row.copy_from_slice(&table[i as usize * s.width..][..s.width]);
        } else {
            row.fill(0.0);
        }
    }
    Ok(())
}

/// As [`gather`], from a table that is kept as a weight matrix.
///
/// # Errors
/// See [`GatherShape::check_matrix`].
pub fn gather_rows(
    s: GatherShape,
    index: &[u32],
    table: &QuantMatrix<'_>,
    out: &mut [f32],
) -> Result<()> {
    s.check_matrix(index.len(), [table.n(), table.k()], out.len())?;
    for (row, &i) in out.chunks_exact_mut(s.width).zip(index).take(s.rows) {
        if (i as usize) < s.table_rows {
            table.row(i as usize, row)?;
        } else {
            row.fill(0.0);
        }
    }
    Ok(())
}

/// Codes of a lookup-free quantiser: channel 0 is the most significant of `bits` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LfqShape {
    /// Number of codes.
    pub n: usize,
    /// Bits of a code, channels of a latent: 1 to 31.
    pub bits: usize,
}

impl LfqShape {
    /// Checks the lengths of codes and latents.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, codes: usize, latents: usize) -> Result<()> {
        const OP: &str = "lfq";
        if !(1..=31).contains(&self.bits) {
            return Err(Error::Range {
                op: OP,
                arg: "bits",
                got: self.bits as u64,
                min: 1,
                max: 31,
            });
        }
        covers(OP, "codes", codes, self.n)?;
        covers(OP, "latents", latents, product(OP, &[self.n, self.bits])?)
    }
}

/// out\[i, c\] = +1 where bit `bits − 1 − c` of codes\[i\] is set, else −1; a code outside the codebook gives zeros.
///
/// # Errors
/// See [`LfqShape::check`].
///
/// # Source
/// Yu et al., "Language Model Beats Diffusion", arXiv 2310.05737, section 3.1.
pub fn lfq_lookup(s: LfqShape, codes: &[u32], out: &mut [f32]) -> Result<()> {
    s.check(codes.len(), out.len())?;
    for (row, &code) in out.chunks_exact_mut(s.bits).zip(codes).take(s.n) {
        for (c, v) in row.iter_mut().enumerate() {
            let set = code >> (s.bits - 1 - c) & 1 == 1;
            *v = match code >> s.bits {
                0 if set => 1.0,
                0 => -1.0,
                _ => 0.0,
            };
        }
    }
    Ok(())
}

/// codes\[i\] = Σ_c 2^(bits − 1 − c) · \[latents\[i, c\] > 0\].
///
/// # Errors
/// See [`LfqShape::check`]; [`Error::NotFinite`] for a latent that is NaN: it has no sign.
pub fn lfq_codes(s: LfqShape, latents: &[f32], codes: &mut [u32]) -> Result<()> {
    s.check(codes.len(), latents.len())?;
    let latents = latents.chunks_exact(s.bits).take(s.n);
    for (row, (latent, code)) in latents.zip(codes).enumerate() {
        if latent.iter().any(|v| v.is_nan()) {
            return Err(Error::NotFinite {
                op: "lfq",
                arg: "latents",
                row,
            });
        }
        let bits = latent.iter().map(|&v| u32::from(v > 0.0));
        *code = bits.fold(0, |code, bit| code << 1 | bit);
    }
    Ok(())
}

/// Latents and the codebook that they are looked for in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearestShape {
    /// Number of latents.
    pub n: usize,
    /// Width of a latent, and of an entry.
    pub width: usize,
    /// Entries of the codebook.
    pub entries: usize,
    /// Whether latents are brought to length 1 first; the codebook is taken as it is.
    pub normalise: bool,
}

impl NearestShape {
    /// Multiply-adds of the search: every latent meets every entry.
    #[must_use]
    pub fn multiply_adds(&self) -> u64 {
        counted(&[self.n, self.width, self.entries])
    }

    /// Checks the lengths of latents, codebook and codes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, latents: usize, codebook: usize, codes: usize) -> Result<()> {
        const OP: &str = "nearest";
        nonzero(OP, "width", self.width)?;
        nonzero(OP, "entries", self.entries)?;
        covers(OP, "latents", latents, product(OP, &[self.n, self.width])?)?;
        covers(
            OP,
            "codebook",
            codebook,
            product(OP, &[self.entries, self.width])?,
        )?;
        covers(OP, "codes", codes, self.n)
    }
}

/// What a vector is multiplied with to have length 1: 1 / max(‖x‖, 1e-12). NaN where the length is none, or too large.
#[inline(always)]
#[must_use]
pub(crate) fn unit_scale(x: &[f32]) -> f32 {
    let squares = x.iter().fold(0.0, |sum, v| sum + v * v);
    if squares < f32::INFINITY {
        1.0 / math::sqrt(squares).max(1e-12)
    } else {
        f32::NAN
    }
}

/// The entry at the least squared distance from `scale` · `latent`, the first of equals; none if a number is NaN.
#[inline(always)]
pub(crate) fn nearest_entry(scale: f32, latent: &[f32], codebook: &[f32]) -> Option<u32> {
    let mut best = (f32::INFINITY, None);
    for (i, entry) in (0_u32..).zip(codebook.chunks_exact(latent.len().max(1))) {
        let distance = latent.iter().zip(entry).fold(0.0, |sum, (z, e)| {
            let off = z * scale - e;
            sum + off * off
        });
        if distance < best.0 {
            best = (distance, Some(i));
        }
    }
    best.1
}

/// codes\[i\] = argmin_j ‖latents\[i\] − codebook\[j\]‖², the first of equals.
///
/// # Errors
/// See [`NearestShape::check`]; [`Error::NotFinite`] for a latent that is NaN, infinite, or too large for its square.
///
/// # Source
/// van den Oord et al., "Neural Discrete Representation Learning", arXiv 1711.00937; normalised as in Yu et al.,
/// "Vector-quantized Image Modeling with Improved VQGAN", arXiv 2110.04627.
pub fn nearest(
    s: NearestShape,
    latents: &[f32],
    codebook: &[f32],
    codes: &mut [u32],
) -> Result<()> {
    s.check(latents.len(), codebook.len(), codes.len())?;
    let codebook = &codebook[..s.entries * s.width];
    for (row, (latent, code)) in latents
        .chunks_exact(s.width)
        .zip(codes)
        .enumerate()
        .take(s.n)
    {
        let scale = if s.normalise { unit_scale(latent) } else { 1.0 };
        *code = nearest_entry(scale, latent, codebook).ok_or(Error::NotFinite {
            op: "nearest",
            arg: "latents",
            row,
        })?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;

    #[test]
    fn channel_zero_is_the_most_significant_bit() {
        let s = LfqShape { n: 3, bits: 3 };
        let mut out = [0.0; 9];
        lfq_lookup(s, &[0, 1, 4], &mut out).unwrap();
        assert_eq!(out, [-1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0]);
        let mut codes = [0; 3];
        lfq_codes(s, &out, &mut codes).unwrap();
        assert_eq!(codes, [0, 1, 4]);
        lfq_lookup(s, &[8, u32::MAX, 7], &mut out).unwrap();
        assert_eq!(out, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn zero_is_not_above_zero() {
        let mut codes = [9];
        lfq_codes(LfqShape { n: 1, bits: 2 }, &[0.0, -0.0], &mut codes).unwrap();
        assert_eq!(codes, [0]);
    }

    #[test]
    fn an_index_outside_the_table_gives_zeros() {
        let s = GatherShape {
            rows: 2,
            width: 2,
            table_rows: 2,
        };
        let mut out = [9.0; 4];
        gather(s, &[1, 2], &[1.0, 2.0, 3.0, 4.0], &mut out).unwrap();
        assert_eq!(out, [3.0, 4.0, 0.0, 0.0]);
    }

    #[test]
    fn a_row_of_blocks_is_its_scale_times_its_numbers() {
        let s = GatherShape {
            rows: 2,
            width: 32,
            table_rows: 1,
        };
        // Half precision 0.5, then the bytes 0 to 31.
        let mut blocks = [0; 34];
        blocks[..2].copy_from_slice(&[0x00, 0x38]);
        (0..).zip(&mut blocks[2..]).for_each(|(i, b)| *b = i);
        let table = QuantMatrix::q8_0(1, 32, &blocks).unwrap();
        let mut out = [9.0; 64];
        gather_rows(s, &[0, 1], &table, &mut out).unwrap();
        assert_eq!([out[0], out[1], out[31], out[32]], [0.0, 0.5, 15.5, 0.0]);
        let other = GatherShape { table_rows: 2, ..s };
        assert!(gather_rows(other, &[0, 1], &table, &mut out).is_err());
    }

    #[test]
    fn the_nearest_code_is_the_first_of_equals() {
        let s = NearestShape {
            n: 2,
            width: 2,
            entries: 3,
            normalise: false,
        };
        let codebook = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let mut codes = [9; 2];
        nearest(s, &[0.5, 0.5, 0.0, 4.0], &codebook, &mut codes).unwrap();
        assert_eq!(codes, [0, 1]);
        assert!(matches!(
            nearest(s, &[0.5, 0.5, f32::NAN, 4.0], &codebook, &mut codes),
            Err(Error::NotFinite { row: 1, .. })
        ));
    }

    #[test]
    fn normalising_forgets_the_length() {
        let s = NearestShape {
            n: 1,
            width: 1,
            entries: 2,
            normalise: true,
        };
        let mut codes = [9];
        nearest(s, &[0.1], &[0.2, 1.0], &mut codes).unwrap();
        assert_eq!(codes, [1]);
        let plain = NearestShape {
            normalise: false,
            ..s
        };
        nearest(plain, &[0.1], &[0.2, 1.0], &mut codes).unwrap();
        assert_eq!(codes, [0]);
        // A latent of zeros stays one.
        nearest(s, &[0.0], &[0.2, 1.0], &mut codes).unwrap();
        assert_eq!(codes, [0]);
    }
}
