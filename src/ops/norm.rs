//! Norms, gates and activations over rows.
//!
//! ```
//! use maquette::ops::norm::{NormShape, rms_norm};
//! let s = NormShape { rows: 1, width: 2, eps: 0.0 };
//! let mut y = [0.0; 2];
//! rms_norm(s, &[1.0, 7.0], &[1.0, 2.0], &mut y)?;
//! assert_eq!(y, [0.2, 2.8]);
//! # Ok::<(), maquette::Error>(())
//! ```

mod activation;
mod group;

pub use activation::{Activation, GateShape, activate, add, gate};
#[cfg(feature = "alloc")]
pub(crate) use activation::{activate_all, gate_row};
pub use group::{GroupNormShape, group_norm};
#[cfg(feature = "alloc")]
pub(crate) use group::{group_normalise, group_statistics};

use crate::error::{Error, Result, covers, product};
use crate::math;

/// Rows that are normalised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormShape {
    /// Number of rows.
    pub rows: usize,
    /// Width of a row.
    pub width: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl NormShape {
    /// Checks the lengths of x, weight, bias and y.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(
        &self,
        op: &'static str,
        x: usize,
        weight: usize,
        bias: usize,
        y: usize,
    ) -> Result<()> {
        nonzero(op, "width", self.width)?;
        let want = product(op, &[self.rows, self.width])?;
        covers(op, "x", x, want)?;
        covers(op, "y", y, want)?;
        covers(op, "weight", weight, self.width)?;
        covers(op, "bias", bias, self.width)
    }
}

pub(crate) fn nonzero(op: &'static str, arg: &'static str, size: usize) -> Result<()> {
    if size == 0 {
        return Err(Error::Range {
            op,
            arg,
            got: 0,
            min: 1,
            max: u64::from(u32::MAX),
        });
    }
    Ok(())
}

/// Sum of a row in the order every path uses: 16 lanes side by side, then the lanes from first to last.
#[inline(always)]
pub(crate) fn lane_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let chunks = x.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane += f(v);
    }
    lanes.iter().sum()
}

/// The largest number of a row that is no NaN, or −∞.
#[inline(always)]
pub(crate) fn lane_max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = x.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    let largest = lanes.into_iter().fold(f32::NEG_INFINITY, larger);
    tail.iter().copied().fold(largest, larger)
}

/// y = (x − mean) / √(variance + eps) · weight + bias, for one row.
#[inline(always)]
pub(crate) fn layer_norm_row(eps: f32, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let width = x.len() as f32;
    let mean = lane_sum(x, |v| v) / width;
    let variance = lane_sum(x, |v| (v - mean) * (v - mean)) / width;
    let scale = 1.0 / math::sqrt(variance + eps);
    for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
        *y = (x - mean) * scale * w + b;
    }
}

/// y = (x − mean) / √(variance + eps) · weight + bias, row by row.
///
/// # Errors
/// See [`NormShape::check`].
pub fn layer_norm(
    s: NormShape,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
) -> Result<()> {
    s.check("layer_norm", x.len(), weight.len(), bias.len(), y.len())?;
    for (x, y) in x
        .chunks_exact(s.width)
        .zip(y.chunks_exact_mut(s.width))
        .take(s.rows)
    {
        layer_norm_row(s.eps, x, &weight[..s.width], &bias[..s.width], y);
    }
    Ok(())
}

/// y = x / √(mean of squares + eps) · weight, for one row.
#[inline(always)]
pub(crate) fn rms_norm_row(eps: f32, x: &[f32], weight: &[f32], y: &mut [f32]) {
    let scale = 1.0 / math::sqrt(lane_sum(x, |v| v * v) / x.len() as f32 + eps);
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * w;
    }
}

/// y = x / √(mean of squares + eps) · weight, row by row.
///
/// # Errors
/// See [`NormShape::check`].
pub fn rms_norm(s: NormShape, x: &[f32], weight: &[f32], y: &mut [f32]) -> Result<()> {
    s.check("rms_norm", x.len(), weight.len(), s.width, y.len())?;
    for (x, y) in x
        .chunks_exact(s.width)
        .zip(y.chunks_exact_mut(s.width))
        .take(s.rows)
    {
        rms_norm_row(s.eps, x, &weight[..s.width], y);
    }
    Ok(())
}

/// Heads inside wider rows: head `h` of row `r` starts at `r · stride + offset + h · head_dim`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadNormShape {
    /// Number of rows.
    pub rows: usize,
    /// Heads that are normalised in each row.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of a row.
    pub stride: usize,
    /// First element of the first head in its row.
    pub offset: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl HeadNormShape {
    /// Checks the lengths of x, weight and bias.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, weight: usize, bias: usize) -> Result<()> {
        const OP: &str = "head_norm";
        nonzero(OP, "head_dim", self.head_dim)?;
        let used = product(OP, &[self.heads, self.head_dim])?;
        covers(OP, "stride", self.stride, used.saturating_add(self.offset))?;
        covers(OP, "x", x, product(OP, &[self.rows, self.stride])?)?;
        covers(OP, "weight", weight, self.head_dim)?;
        covers(OP, "bias", bias, self.head_dim)
    }
}

/// Layer norm of the heads of one row, in place.
#[inline(always)]
pub(crate) fn head_norm_row(s: &HeadNormShape, row: &mut [f32], weight: &[f32], bias: &[f32]) {
    for head in row[s.offset..].chunks_exact_mut(s.head_dim).take(s.heads) {
        let mean = lane_sum(head, |v| v) / s.head_dim as f32;
        let variance = lane_sum(head, |v| (v - mean) * (v - mean)) / s.head_dim as f32;
        let scale = 1.0 / math::sqrt(variance + s.eps);
        for ((v, w), b) in head.iter_mut().zip(weight).zip(bias) {
            *v = (*v - mean) * scale * w + b;
        }
    }
}

/// Layer norm of each head in place, with one weight and bias for all heads.
///
/// # Errors
/// See [`HeadNormShape::check`].
pub fn head_norm(s: HeadNormShape, x: &mut [f32], weight: &[f32], bias: &[f32]) -> Result<()> {
    s.check(x.len(), weight.len(), bias.len())?;
    if s.stride == 0 {
        return Ok(());
    }
    for row in x.chunks_exact_mut(s.stride).take(s.rows) {
        head_norm_row(&s, row, weight, bias);
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests;
