//! Gradients of products and of tables.

use crate::error::{Result, covers, product};
use crate::ops::gemm::{GemmShape, SUM_BLOCK};
use crate::ops::norm::nonzero;
use crate::ops::vq::GatherShape;
use crate::quant::QuantMatrix;

impl GemmShape {
    /// Checks the lengths of x (or its gradient), y's gradient and w's gradient.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub fn check_dw(&self, x: usize, dy: usize, dw: usize) -> Result<()> {
        self.check(x, None, dy)?;
        covers("gemm_dw", "dw", dw, product("gemm_dw", &[self.n, self.k])?)
    }
}

/// dx\[i, t\] (+)= Σ_j dy\[i, j\] · w\[j, t\], summed over j in blocks of [`SUM_BLOCK`].
///
/// Weights count as the floats they stand for, also where the forward product rounds its activations to 8 bits.
///
/// # Errors
/// See [`GemmShape::check`].
pub fn gemm_dx(s: GemmShape, dy: &[f32], w: &QuantMatrix<'_>, dx: &mut [f32]) -> Result<()> {
    s.check(dx.len(), None, dy.len())?;
    s.check_matrix(w.n(), w.k())?;
    for (dy, dx) in dy.chunks_exact(s.n).zip(dx.chunks_exact_mut(s.k)).take(s.m) {
        for (t, dx) in dx.iter_mut().enumerate() {
            let mut sum = 0.0;
            for (b, dy) in dy.chunks(SUM_BLOCK).enumerate() {
                let mut part = 0.0;
                for (j, dy) in dy.iter().enumerate() {
                    part += dy * w.element(b * SUM_BLOCK + j, t);
                }
                sum += part;
            }
            *dx = if s.accumulate { *dx + sum } else { sum };
        }
    }
    Ok(())
}

/// dw\[j, t\] += Σ_i dy\[i, j\] · x\[i, t\], summed over i in blocks of [`SUM_BLOCK`].
///
/// # Errors
/// See [`GemmShape::check_dw`].
pub fn gemm_dw(s: GemmShape, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<()> {
    s.check_dw(x.len(), dy.len(), dw.len())?;
    for (j, dw) in dw.chunks_exact_mut(s.k).take(s.n).enumerate() {
        for (t, dw) in dw.iter_mut().enumerate() {
            let mut sum = 0.0;
            for from in (0..s.m).step_by(SUM_BLOCK) {
                let mut part = 0.0;
                for i in from..s.m.min(from + SUM_BLOCK) {
                    part += dy[i * s.n + j] * x[i * s.k + t];
                }
                sum += part;
            }
            *dw += sum;
        }
    }
    Ok(())
}

/// out\[j\] += dy\[i, j\], row after row, of `[rows, width]`.
///
/// # Errors
/// Buffers shorter than their shapes, or a zero width.
pub fn sum_rows([rows, width]: [usize; 2], dy: &[f32], out: &mut [f32]) -> Result<()> {
    const OP: &str = "sum_rows";
    nonzero(OP, "width", width)?;
    covers(OP, "dy", dy.len(), product(OP, &[rows, width])?)?;
    covers(OP, "out", out.len(), width)?;
    for dy in dy.chunks_exact(width).take(rows) {
        for (out, dy) in out.iter_mut().zip(dy) {
            *out += dy;
        }
    }
    Ok(())
}

/// dw\[index\[r\], :\] += dy\[r, :\], row after row; an index outside the table is passed over.
///
/// # Errors
/// See [`GatherShape::check`].
pub fn gather_dw(s: GatherShape, index: &[u32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    s.check(index.len(), dw.len(), dy.len())?;
    for (dy, &i) in dy.chunks_exact(s.width).zip(index).take(s.rows) {
        if (i as usize) < s.table_rows {
            let row = &mut dw[i as usize * s.width..][..s.width];
            for (dw, dy) in row.iter_mut().zip(dy) {
                *dw += dy;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_a_product_worked_by_hand() {
        let s = GemmShape::new(2, 2, 3);
        let w = QuantMatrix::f32(2, 3, &[1.0, 0.0, 2.0, -1.0, 1.0, 0.5]).unwrap();
        let dy = [1.0, 2.0, 0.0, -4.0];
        let mut dx = [9.0; 6];
        gemm_dx(s, &dy, &w, &mut dx).unwrap();
        assert_eq!(dx, [-1.0, 2.0, 3.0, 4.0, -4.0, -2.0]);
        let added = GemmShape {
            accumulate: true,
            ..s
        };
        gemm_dx(added, &dy, &w, &mut dx).unwrap();
        assert_eq!(dx, [-2.0, 4.0, 6.0, 8.0, -8.0, -4.0]);
        let mut dw = [1.0; 6];
        gemm_dw(s, &dy, &[1.0, 2.0, 3.0, 0.5, 0.0, 1.0], &mut dw).unwrap();
        assert_eq!(dw, [2.0, 3.0, 4.0, 1.0, 5.0, 3.0]);
        let mut sums = [1.0, 1.0];
        sum_rows([2, 2], &dy, &mut sums).unwrap();
        assert_eq!(sums, [2.0, -1.0]);
    }

    #[test]
    fn rows_of_one_index_are_added() {
        let s = GatherShape {
            rows: 3,
            width: 1,
            table_rows: 2,
        };
        let mut dw = [0.5, 0.5];
        gather_dw(s, &[1, 7, 1], &[1.0, 2.0, 4.0], &mut dw).unwrap();
        assert_eq!(dw, [0.5, 5.5]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let s = GemmShape::new(2, 2, 3);
        assert!(s.check_dw(6, 4, 5).is_err());
        assert!(s.check_dw(5, 4, 6).is_err());
        assert!(sum_rows([2, 0], &[], &mut []).is_err());
        assert!(sum_rows([2, 2], &[0.0; 3], &mut [0.0; 2]).is_err());
        let w = QuantMatrix::f32(2, 2, &[0.0; 4]).unwrap();
        assert!(gemm_dx(s, &[0.0; 4], &w, &mut [0.0; 6]).is_err());
    }
}
