//! Products of a weight matrix with activation rows: y\[m, n\] (+)= x\[m, k\] · w\[n, k\]ᵀ + bias\[n\].
//!
//! ```
//! use maquette::ops::gemm::{GemmShape, gemm};
//! use maquette::quant::QuantMatrix;
//! let w = QuantMatrix::f32(2, 2, &[1.0, 0.0, 0.0, 2.0])?;
//! let mut y = [0.0; 2];
//! gemm(GemmShape::new(1, 2, 2), &[3.0, 4.0], &w, Some(&[0.5, 0.5]), &mut y)?;
//! assert_eq!(y, [3.5, 8.5]);
//! # Ok::<(), maquette::Error>(())
//! ```

use core::fmt;
use core::str::FromStr;

use crate::error::{Error, Result, covers, product};
use crate::ops::counted;
use crate::quant::{A8_BLOCK, QuantData, QuantMatrix, quantise_a8};

/// What a product does with its activations: its arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Activations {
    /// As they are: floats times the floats that weights stand for.
    #[default]
    F32,
    /// Rounded to 8 bits in blocks of 32 along k, and multiplied as integers. Matrices that have no blocks of their own
    /// (F32, BF16) are multiplied as with `F32`.
    A8,
    /// Rounded to BF16, as weights are, too, and multiplied as floats: for many rows on a GPU's tensor cores. The sums are the
    /// device's own, since those have no order that could be told; a row's is the same in every batch. A device without
    /// such cores may leave the weights as they are kept. Matrices in F32 are multiplied as with `F32`.
    Bf16,
}

impl Activations {
    /// All of them.
    pub const ALL: &[Self] = &[Self::F32, Self::A8, Self::Bf16];

    /// Its name, as [`Display`](fmt::Display) writes it; [`FromStr`] reads it in capital and in small letters.
    ///
    /// ```
    /// use maquette::ops::gemm::Activations;
    /// assert_eq!(Activations::Bf16.to_string(), "BF16");
    /// assert_eq!("a8".parse::<Activations>()?, Activations::A8);
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::A8 => "A8",
            Self::Bf16 => "BF16",
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Activations {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let mut known = Self::ALL.iter().copied();
        known
            .find(|activations| activations.name().eq_ignore_ascii_case(name))
            .ok_or(Error::Config {
                key: "activations",
                problem: "is none of F32, A8 and BF16",
            })
    }
}

/// The nearest BF16, as a float.
#[inline(always)]
pub(crate) fn to_half(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// A sum of floats over `k` runs in blocks of so many terms: each from zero upwards, then block after block. It bounds
/// the error of long sums and lets a device keep a block of weights in its cache; every path sums in this order.
pub const SUM_BLOCK: usize = 256;

/// Shape of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmShape {
    /// Rows of activations.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Whether the product is added to what `y` holds (after the bias).
    pub accumulate: bool,
    /// The arithmetic.
    pub activations: Activations,
}

impl GemmShape {
    /// A product in floats, not added to anything.
    #[must_use]
    pub const fn new(m: usize, n: usize, k: usize) -> Self {
        Self {
            m,
            n,
            k,
            accumulate: false,
            activations: Activations::F32,
        }
    }

    /// Checks the lengths of x, bias and y; a zero `m` is an empty product.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, bias: Option<usize>, y: usize) -> Result<()> {
        const OP: &str = "gemm";
        for (arg, size) in [("n", self.n), ("k", self.k)] {
            if size == 0 {
                return Err(Error::Range {
                    op: OP,
                    arg,
                    got: 0,
                    min: 1,
                    max: u64::from(u32::MAX),
                });
            }
        }
        covers(OP, "x", x, product(OP, &[self.m, self.k])?)?;
        covers(OP, "y", y, product(OP, &[self.m, self.n])?)?;
        covers(OP, "bias", bias.unwrap_or(self.n), self.n)
    }

    /// Multiply-adds of the product.
    #[must_use]
    pub fn multiply_adds(&self) -> u64 {
        counted(&[self.m, self.n, self.k])
    }

    /// Checks that a matrix has this shape.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check_matrix(&self, n: usize, k: usize) -> Result<()> {
        covers("gemm", "w", n, self.n)?;
        covers("gemm", "w", self.n, n)?;
        covers("gemm", "w", k, self.k)?;
        covers("gemm", "w", self.k, k)
    }
}

/// y\[i, j\] (+)= Σ_k x\[i, k\] · w\[j, k\] + bias\[j\].
///
/// With [`Activations::F32`] summed in blocks of [`SUM_BLOCK`], and so are activations that [`Activations::Bf16`] has rounded;
/// but there a device may sum in another order. With [`Activations::A8`] and a matrix of blocks, the
/// activations are rounded by [`quantise_a8`], and a sum runs over the blocks b of 32: Σ_b (q_b · d_w) · d_x, where q_b
/// is the exact integer product of the two blocks and d_w, d_x are their scales. Weights with an offset o_w (Q4_K) have
/// Σ_b (q_b · d_w + t_b · o_w) · d_x, where t_b is the exact sum of the block's rounded activations with its sign turned.
///
/// # Numbers that are not ordinary
/// All of it is arithmetic of floats as IEEE 754 has it, no step fused with another and denormal numbers as they are. So
/// with `F32` an infinity or NaN on either side goes where the formula takes it, also through products with zero. With
/// `A8` a block of activations that holds one is NaN, and so is the sum; a block whose scale would be denormal is all
/// zeros, which a weight's scale that is infinite or NaN makes NaN. Denormal scales of weights are exact. Which of many
/// NaN comes out is not defined; whether one does is the same on every path.
///
/// # Errors
/// See [`GemmShape::check`].
pub fn gemm(
    s: GemmShape,
    x: &[f32],
    w: &QuantMatrix<'_>,
    bias: Option<&[f32]>,
    y: &mut [f32],
) -> Result<()> {
    s.check(x.len(), bias.map(<[f32]>::len), y.len())?;
    s.check_matrix(w.n(), w.k())?;
    for i in 0..s.m {
        let row = &x[i * s.k..][..s.k];
        for j in 0..s.n {
            let mut sum = match s.activations {
                Activations::A8 => integer_sum(row, w, j),
                Activations::Bf16 if !matches!(w.data(), QuantData::F32(_)) => {
                    Some(float_sum(row, to_half, w, j))
                }
                Activations::F32 | Activations::Bf16 => None,
            }
            .unwrap_or_else(|| float_sum(row, |x| x, w, j));
            sum += bias.map_or(0.0, |b| b[j]);
            let y = &mut y[i * s.n + j];
            *y = if s.accumulate { *y + sum } else { sum };
        }
    }
    Ok(())
}

/// Σ_k round(x\[k\]) · w\[j, k\] in floats.
fn float_sum(x: &[f32], round: impl Fn(f32) -> f32, w: &QuantMatrix<'_>, j: usize) -> f32 {
    let mut sum = 0.0;
    for (b, x) in x.chunks(SUM_BLOCK).enumerate() {
        let mut part = 0.0;
        for (t, x) in x.iter().enumerate() {
            part += round(*x) * w.element(j, b * SUM_BLOCK + t);
        }
        sum += part;
    }
    sum
}

/// Σ_k x\[k\] · w\[j, k\] in integers, block by block; nothing if the matrix has no blocks.
fn integer_sum(x: &[f32], w: &QuantMatrix<'_>, j: usize) -> Option<f32> {
    // Asked of the format: a row that is shorter than a block has no part to ask.
    w.format().as_block()?;
    let mut sum = 0.0;
    for (b, x) in x.as_chunks::<A8_BLOCK>().0.iter().enumerate() {
        let w = w.part(j, b)?;
        let (x_scale, x) = quantise_a8(x);
        let dot: i32 = x
            .iter()
            .zip(w.levels)
            .map(|(&x, w)| i32::from(x) * i32::from(w))
            .sum();
        let turned: i32 = x.iter().map(|&x| -i32::from(x)).sum();
        #[expect(
            clippy::cast_precision_loss,
            reason = "below 2^24: 32 products of two bytes"
        )]
        let (dot, turned) = (dot as f32, turned as f32);
        let mut part = dot * w.scale;
        if let Some(offset) = w.offset {
            part += turned * offset;
        }
        sum += part * x_scale;
    }
    Some(sum)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;
    use crate::quant::Format;

    #[test]
    fn a_product_worked_by_hand() {
        let s = GemmShape::new(2, 2, 3);
        let w = QuantMatrix::f32(2, 3, &[1.0, 0.0, 2.0, -1.0, 1.0, 0.5]).unwrap();
        let mut y = [0.0; 4];
        gemm(
            s,
            &[1.0, 2.0, 3.0, 0.0, 1.0, 4.0],
            &w,
            Some(&[10.0, 20.0]),
            &mut y,
        )
        .unwrap();
        assert_eq!(y, [17.0, 22.5, 18.0, 23.0]);
        gemm(
            GemmShape {
                accumulate: true,
                ..s
            },
            &[1.0, 2.0, 3.0, 0.0, 1.0, 4.0],
            &w,
            None,
            &mut y,
        )
        .unwrap();
        assert_eq!(y, [24.0, 25.0, 26.0, 26.0]);
    }

    #[test]
    fn rows_shorter_than_a_block_are_multiplied_in_floats() {
        let s = GemmShape {
            activations: Activations::A8,
            ..GemmShape::new(1, 1, 2)
        };
        let mut y = [0.0; 1];
        let w = QuantMatrix::f32(1, 2, &[3.0, 4.0]).unwrap();
        gemm(s, &[1.0, 2.0], &w, Some(&[0.5]), &mut y).unwrap();
        assert_eq!(y, [11.5]);
        let mut bytes = [0; 4];
        Format::Bf16.quantise(&[3.0, 4.0], &mut bytes);
        let w = QuantMatrix::from_bytes(Format::Bf16, 1, 2, &bytes).unwrap();
        gemm(s, &[1.0, 2.0], &w, None, &mut y).unwrap();
        assert_eq!(y, [11.0]);
    }

    #[test]
    fn wrong_lengths_are_named() {
        let s = GemmShape::new(2, 2, 3);
        assert!(matches!(
            s.check(5, None, 4),
            Err(Error::Length {
                arg: "x",
                got: 5,
                want: 6,
                ..
            })
        ));
        assert!(matches!(
            s.check(6, Some(1), 4),
            Err(Error::Length { arg: "bias", .. })
        ));
        assert!(matches!(
            s.check_matrix(2, 4),
            Err(Error::Length { arg: "w", .. })
        ));
        assert!(GemmShape { m: usize::MAX, ..s }.check(6, None, 4).is_err());
        assert!(GemmShape { k: 0, ..s }.check(6, None, 4).is_err());
    }
}
