//! The heads of judges: hidden rows pooled to one, and the answer yes or no.
//!
//! ```
//! use maquette::ops::reward_head::{AnswerShape, answer};
//! let s = AnswerShape { rows: 1, width: 3, yes: 0, no: 2 };
//! let mut p = [0.0; 2];
//! answer(s, &[1.0, 1.0, 1.0], &mut p)?;
//! assert!((p[0] - 1.0 / 3.0).abs() < 1e-6 && p[0] == p[1]);
//! # Ok::<(), maquette::Error>(())
//! ```

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

/// Rows of some views, pooled by heads. Of a row the scores of all heads come first, then the values of the first head,
/// and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Number of views.
    pub views: usize,
    /// Rows of a view.
    pub rows: usize,
    /// Heads.
    pub heads: usize,
    /// Values of a head.
    pub head_dim: usize,
}

impl PoolShape {
    const OP: &'static str = "pool_rows";

    /// Width of a row.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn width(&self) -> Result<usize> {
        product(Self::OP, &[self.heads, self.head_dim.saturating_add(1)])
    }

    /// Checks the lengths of x and out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, out: usize) -> Result<()> {
        nonzero(Self::OP, "rows", self.rows)?;
        nonzero(Self::OP, "heads", self.heads)?;
        nonzero(Self::OP, "head_dim", self.head_dim)?;
        let view = product(Self::OP, &[self.rows, self.width()?])?;
        let len = product(Self::OP, &[self.views, view])?;
        covers(Self::OP, "x", x, len)?;
        let pooled = product(Self::OP, &[self.views, self.heads, self.head_dim])?;
        covers(Self::OP, "out", out, pooled)
    }

    /// Elements of x and of out that belong to one view, of a shape that was checked.
    pub(crate) const fn view(&self) -> [usize; 2] {
        let out = self.heads * self.head_dim;
        [self.rows * (self.heads + out), out]
    }
}

/// out\[v, h, :\] = Σ_r softmax_r(x\[v, r, h\]) · x\[v, r, H + h · d ..\], with H heads of d values.
///
/// # Errors
/// See [`PoolShape::check`]; [`Error::NotFinite`] with the view for scores that are not finite.
pub fn pool_rows(s: PoolShape, x: &[f32], out: &mut [f32]) -> Result<()> {
    s.check(x.len(), out.len())?;
    let [view, pooled] = s.view();
    let views = x.chunks_exact(view).zip(out.chunks_exact_mut(pooled));
    for (row, (x, out)) in views.take(s.views).enumerate() {
        if !pool_view(&s, x, out) {
            return Err(Error::NotFinite {
                op: PoolShape::OP,
                arg: "scores",
                row,
            });
        }
    }
    Ok(())
}

/// Pools one view, unless it has a score that is not finite.
#[inline(always)]
pub(crate) fn pool_view(s: &PoolShape, x: &[f32], out: &mut [f32]) -> bool {
    let (d, width) = (s.head_dim, s.heads * (1 + s.head_dim));
    let scores = x.chunks_exact(width).flat_map(|row| &row[..s.heads]);
    if scores.copied().any(|score| !score.is_finite()) {
        return false;
    }
    for (h, out) in out.chunks_exact_mut(d).enumerate() {
        let largest = largest_score(x, width, h);
        let mut total = 0.0;
        out.fill(0.0);
        for row in x.chunks_exact(width) {
            let weight = math::exp(row[h] - largest);
            total += weight;
            for (out, value) in out.iter_mut().zip(&row[s.heads + h * d..]) {
                *out += weight * value;
            }
        }
        for out in out {
            *out /= total;
        }
    }
    true
}

/// The largest score of a head.
#[inline(always)]
pub(crate) fn largest_score(x: &[f32], width: usize, head: usize) -> f32 {
    x.chunks_exact(width).fold(
        f32::NEG_INFINITY,
        |a, row| {
            if row[head] > a { row[head] } else { a }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_pool_their_own_values_by_their_own_scores() {
        let s = PoolShape {
            views: 2,
            rows: 2,
            heads: 2,
            head_dim: 1,
        };
        // Scores of two heads, then a value of each; of the second view all scores are equal.
        let far = 40.0;
        let x = [
            [far, 0.0, 1.0, 10.0],
            [0.0, far, 2.0, 20.0],
            [3.0, -1.0, 1.0, 10.0],
            [3.0, -1.0, 2.0, 20.0],
        ];
        let mut out = [0.0; 4];
        pool_rows(s, x.as_flattened(), &mut out).unwrap();
        for (got, want) in out.into_iter().zip([1.0, 20.0, 1.5, 15.0]) {
            assert!((got - want).abs() < 1e-5, "{out:?}");
        }
        let mut wrong = x;
        wrong[3][1] = f32::INFINITY;
        assert!(matches!(
            pool_rows(s, wrong.as_flattened(), &mut out),
            Err(Error::NotFinite { row: 1, .. })
        ));
        assert!(pool_rows(s, &x.as_flattened()[1..], &mut out).is_err());
    }

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
