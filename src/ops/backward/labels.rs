//! Log-probabilities of labels: what every objective is made of.

use crate::error::{Result, covers, product};
use crate::math;
use crate::ops::norm::{lane_max, lane_sum, nonzero};

/// Rows of logits with one label each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelShape {
    /// Number of rows.
    pub rows: usize,
    /// Labels there are: width of a row.
    pub width: usize,
}

impl LabelShape {
    /// Checks the lengths of logits, labels and one number a row.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub fn check(&self, logits: usize, labels: usize, numbers: usize) -> Result<()> {
        const OP: &str = "log_probs";
        nonzero(OP, "width", self.width)?;
        covers(OP, "logits", logits, product(OP, &[self.rows, self.width])?)?;
        covers(OP, "labels", labels, self.rows)?;
        covers(OP, "numbers", numbers, self.rows)
    }
}

/// Log-probability of a label in one row; 0 for a label outside the row.
#[inline(always)]
pub(crate) fn log_probs_row(logits: &[f32], label: u32) -> f32 {
    let Some(own) = logits.get(label as usize) else {
        return 0.0;
    };
    let largest = lane_max(logits);
    let total = lane_sum(logits, |v| math::exp(v - largest));
    // The logarithm is one of numbers: it would make a number of a NaN.
    let total = if total.is_finite() {
        math::ln(total)
    } else {
        f32::NAN
    };
    own - largest - total
}

/// logits\[c\] = weight · ((c is the label) − softmax(logits)\[c\]), for one row; zeros for a label outside it.
#[inline(always)]
pub(crate) fn log_probs_row_dx(label: u32, weight: f32, logits: &mut [f32]) {
    if label as usize >= logits.len() {
        return logits.fill(0.0);
    }
    let largest = lane_max(logits);
    for v in &mut *logits {
        *v = math::exp(*v - largest);
    }
    let share = -weight / lane_sum(logits, |v| v);
    for v in &mut *logits {
        *v *= share;
    }
    logits[label as usize] += weight;
}

/// out\[r\] = log softmax(logits\[r\])\[labels\[r\]\]; 0 for a label outside the row, NaN where a logit is NaN or +∞.
///
/// # Errors
/// See [`LabelShape::check`].
pub fn log_probs(s: LabelShape, logits: &[f32], labels: &[u32], out: &mut [f32]) -> Result<()> {
    s.check(logits.len(), labels.len(), out.len())?;
    let rows = logits.chunks_exact(s.width).zip(labels);
    for ((logits, label), out) in rows.zip(out).take(s.rows) {
        *out = log_probs_row(logits, *label);
    }
    Ok(())
}

/// The gradient of the logits in their place, where `weights` holds that of each row's log-probability.
///
/// # Errors
/// See [`LabelShape::check`].
pub fn log_probs_dx(
    s: LabelShape,
    labels: &[u32],
    weights: &[f32],
    logits: &mut [f32],
) -> Result<()> {
    s.check(logits.len(), labels.len(), weights.len())?;
    let rows = logits.chunks_exact_mut(s.width).zip(labels);
    for ((logits, label), weight) in rows.zip(weights).take(s.rows) {
        log_probs_row_dx(*label, *weight, logits);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_share_the_probability() {
        let s = LabelShape { rows: 2, width: 4 };
        let mut out = [9.0; 2];
        log_probs(s, &[3.0; 8], &[2, 4], &mut out).unwrap();
        assert!((out[0] + 4.0_f32.ln()).abs() < 1e-6 && out[1].to_bits() == 0);
        let mut logits = [3.0; 8];
        log_probs_dx(s, &[2, 4], &[2.0, 1.0], &mut logits).unwrap();
        let want = [-0.5, -0.5, 1.5, -0.5, 0.0, 0.0, 0.0, 0.0];
        assert!(logits.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn a_logit_that_is_no_number_is_not_hidden() {
        let s = LabelShape { rows: 1, width: 3 };
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut out = [9.0];
            log_probs(s, &[1.0, wrong, 2.0], &[0], &mut out).unwrap();
            assert!(out[0].is_nan());
            let mut logits = [1.0, wrong, 2.0];
            log_probs_dx(s, &[0], &[1.0], &mut logits).unwrap();
            assert!(logits.iter().any(|v| v.is_nan()));
        }
    }

    #[test]
    fn short_buffers_are_errors() {
        let s = LabelShape { rows: 2, width: 3 };
        assert!(log_probs(s, &[0.0; 5], &[0; 2], &mut [0.0; 2]).is_err());
        assert!(log_probs(s, &[0.0; 6], &[0; 1], &mut [0.0; 2]).is_err());
        assert!(log_probs(s, &[0.0; 6], &[0; 2], &mut [0.0; 1]).is_err());
        assert!(log_probs_dx(LabelShape { rows: 1, width: 0 }, &[0], &[0.0], &mut []).is_err());
    }
}
