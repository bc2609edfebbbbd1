//! The head of a yes/no judge.

use crate::error::{Error, Result, covers, product};
use crate::math;
use crate::ops::norm::{lane_sum, nonzero};

/// Rows of logits with the columns of "yes" and "no". A head of two columns has `yes` 0 and `no` 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerShape {
    /// Number of rows.
    pub rows: usize,
    /// Columns of a row.
    pub width: usize,
    /// Column of "yes".
    pub yes: usize,
    /// Column of "no".
    pub no: usize,
}

impl AnswerShape {
    /// Checks the lengths of logits and out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, logits: usize, out: usize) -> Result<()> {
        const OP: &str = "answer";
        nonzero(OP, "width", self.width)?;
        covers(
            OP,
            "width",
            self.width,
            self.yes.max(self.no).saturating_add(1),
        )?;
        covers(OP, "logits", logits, product(OP, &[self.rows, self.width])?)?;
        covers(OP, "out", out, product(OP, &[self.rows, 2])?)
    }
}

/// out\[r\] = (P(yes), P(no)) by the softmax over all columns of row r.
///
/// # Errors
/// See [`AnswerShape::check`]; [`Error::NotFinite`] for logits that are not finite.
pub fn answer(s: AnswerShape, logits: &[f32], out: &mut [f32]) -> Result<()> {
    s.check(logits.len(), out.len())?;
    for (row, (x, out)) in logits
        .chunks_exact(s.width)
        .zip(out.chunks_exact_mut(2))
        .take(s.rows)
        .enumerate()
    {
        if x.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite {
                op: "answer",
                arg: "logits",
                row,
            });
        }
        let largest = x
            .iter()
            .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let total = lane_sum(x, |v| math::exp(v - largest));
        out[0] = math::exp(x[s.yes] - largest) / total;
        out[1] = math::exp(x[s.no] - largest) / total;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_whole_row() {
        let s = AnswerShape {
            rows: 1,
            width: 3,
            yes: 2,
            no: 0,
        };
        let mut out = [0.0; 2];
        answer(s, &[0.0, 0.0, core::f32::consts::LN_2], &mut out).unwrap();
        assert!((out[0] - 0.5).abs() < 1e-6 && (out[1] - 0.25).abs() < 1e-6);
        assert!(matches!(
            answer(s, &[f32::NAN; 3], &mut out),
            Err(Error::NotFinite { row: 0, .. })
        ));
    }
}
