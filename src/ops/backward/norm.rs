//! Gradients of norms, activations and gates.

use core::f32::consts::{FRAC_1_SQRT_2, PI};

use crate::error::{Result, covers, product};
use crate::math;
use crate::ops::norm::{Activation, GateShape, HeadNormShape, NormShape, lane_sum};

/// What the gradient of a normalised row needs: x̂ = (x − mean) · scale, the means of dy · w and of dy · w · x̂.
#[derive(Debug, Clone, Copy)]
struct Terms {
    mean: f32,
    scale: f32,
    all: f32,
    along: f32,
}

/// Mean and scale of a row; the mean of a root-mean-square norm is zero.
#[inline(always)]
fn statistics(eps: f32, centred: bool, x: &[f32]) -> [f32; 2] {
    let width = x.len() as f32;
    let mean = if centred {
        lane_sum(x, |v| v) / width
    } else {
        0.0
    };
    let variance = lane_sum(x, |v| (v - mean) * (v - mean)) / width;
    [mean, 1.0 / math::sqrt(variance + eps)]
}

impl Terms {
    /// Sums in 16 lanes side by side, as [`lane_sum`].
    #[inline(always)]
    fn of(eps: f32, centred: bool, x: &[f32], weight: &[f32], dy: &[f32]) -> Self {
        let [mean, scale] = statistics(eps, centred, x);
        let (mut all, mut along) = ([0.0_f32; 16], [0.0_f32; 16]);
        for ((x, dy), w) in x.chunks(16).zip(dy.chunks(16)).zip(weight.chunks(16)) {
            let lanes = all.iter_mut().zip(&mut along);
            for ((((all, along), x), dy), w) in lanes.zip(x).zip(dy).zip(w) {
                *all += dy * w;
                *along += dy * w * ((x - mean) * scale);
            }
        }
        let width = x.len() as f32;
        let all = all.iter().sum::<f32>() / width;
        Self {
            mean,
            scale,
            all: if centred { all } else { 0.0 },
            along: along.iter().sum::<f32>() / width,
        }
    }

    #[inline(always)]
    fn dx(&self, x: f32, w: f32, dy: f32) -> f32 {
        let normed = (x - self.mean) * self.scale;
        self.scale * (dy * w - self.all - normed * self.along)
    }
}

/// dx += scale · (dy · w − mean(dy · w) − x̂ · mean(dy · w · x̂)), for one row; the first mean only if `centred`.
#[inline(always)]
pub(crate) fn norm_row_dx(
    (eps, centred): (f32, bool),
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    let terms = Terms::of(eps, centred, x, weight, dy);
    for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
        *dx += terms.dx(*x, *w, *dy);
    }
}

/// As [`norm_row_dx`] for the heads of a row, each gradient in the place of the one that it comes from.
#[inline(always)]
pub(crate) fn head_norm_row_dx(s: &HeadNormShape, x: &[f32], weight: &[f32], d: &mut [f32]) {
    let x = x[s.offset..].chunks_exact(s.head_dim);
    let d = d[s.offset..].chunks_exact_mut(s.head_dim);
    for (x, d) in x.zip(d).take(s.heads) {
        let terms = Terms::of(s.eps, true, x, weight, d);
        for ((d, x), w) in d.iter_mut().zip(x).zip(weight) {
            *d = terms.dx(*x, *w, *d);
        }
    }
}

/// dw += dy · x̂, and the bias' gradient += dy, for one row.
#[inline(always)]
fn norm_row_dw(eps: f32, centred: bool, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let [mean, scale] = statistics(eps, centred, x);
    let (dw, db) = dw.split_at_mut(x.len());
    for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
        *dw += dy * ((x - mean) * scale);
    }
    for (db, dy) in db.iter_mut().zip(dy) {
        *db += dy;
    }
}

fn rows_dx(s: NormShape, centred: bool, (x, weight): (&[f32], &[f32]), dy: &[f32], dx: &mut [f32]) {
    let rows = x.chunks_exact(s.width).zip(dy.chunks_exact(s.width));
    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(s.width)).take(s.rows) {
        norm_row_dx((s.eps, centred), x, &weight[..s.width], dy, dx);
    }
}

/// dx += the gradient of the rows that [`layer_norm`](crate::ops::norm::layer_norm) reads.
///
/// # Errors
/// See [`NormShape::check`].
pub fn layer_norm_dx(
    s: NormShape,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) -> Result<()> {
    const OP: &str = "layer_norm_dx";
    s.check(OP, x.len(), weight.len(), s.width, dy.len())?;
    covers(OP, "dx", dx.len(), product(OP, &[s.rows, s.width])?)?;
    rows_dx(s, true, (x, weight), dy, dx);
    Ok(())
}

/// dx += the gradient of the rows that [`rms_norm`](crate::ops::norm::rms_norm) reads.
///
/// # Errors
/// See [`NormShape::check`].
pub fn rms_norm_dx(
    s: NormShape,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) -> Result<()> {
    const OP: &str = "rms_norm_dx";
    s.check(OP, x.len(), weight.len(), s.width, dy.len())?;
    covers(OP, "dx", dx.len(), product(OP, &[s.rows, s.width])?)?;
    rows_dx(s, false, (x, weight), dy, dx);
    Ok(())
}

/// dw\[..width\] += the gradient of a layer norm's weight, dw\[width..\] += that of its bias, row after row.
///
/// # Errors
/// See [`NormShape::check`]; `dw` has twice the width.
pub fn layer_norm_dw(s: NormShape, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    const OP: &str = "layer_norm_dw";
    s.check(OP, x.len(), dw.len(), s.width, dy.len())?;
    covers(OP, "dw", dw.len(), product(OP, &[2, s.width])?)?;
    let rows = x.chunks_exact(s.width).zip(dy.chunks_exact(s.width));
    for (x, dy) in rows.take(s.rows) {
        norm_row_dw(s.eps, true, x, dy, &mut dw[..2 * s.width]);
    }
    Ok(())
}

/// dw += the gradient of a root-mean-square norm's weight, row after row.
///
/// # Errors
/// See [`NormShape::check`].
pub fn rms_norm_dw(s: NormShape, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    s.check("rms_norm_dw", x.len(), dw.len(), s.width, dy.len())?;
    let rows = x.chunks_exact(s.width).zip(dy.chunks_exact(s.width));
    for (x, dy) in rows.take(s.rows) {
        norm_row_dw(s.eps, false, x, dy, &mut dw[..s.width]);
    }
    Ok(())
}

/// The gradient of the heads that [`head_norm`](crate::ops::norm::head_norm) reads, in the place of the one of what it
/// writes; `x` holds the rows before the norm.
///
/// # Errors
/// See [`HeadNormShape::check`].
pub fn head_norm_dx(s: HeadNormShape, x: &[f32], weight: &[f32], d: &mut [f32]) -> Result<()> {
    s.check(x.len(), weight.len(), s.head_dim)?;
    s.check(d.len(), weight.len(), s.head_dim)?;
    if s.stride == 0 {
        return Ok(());
    }
    let rows = x.chunks_exact(s.stride).zip(d.chunks_exact_mut(s.stride));
    for (x, d) in rows.take(s.rows) {
        head_norm_row_dx(&s, x, &weight[..s.head_dim], d);
    }
    Ok(())
}

/// dw\[..head_dim\] += the gradient of a head norm's weight, dw\[head_dim..\] += that of its bias, row after row and
/// head after head.
///
/// # Errors
/// See [`HeadNormShape::check`]; `dw` has twice the width of a head.
pub fn head_norm_dw(s: HeadNormShape, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    const OP: &str = "head_norm_dw";
    s.check(x.len(), s.head_dim, s.head_dim)?;
    s.check(dy.len(), s.head_dim, s.head_dim)?;
    covers(OP, "dw", dw.len(), product(OP, &[2, s.head_dim])?)?;
    if s.stride == 0 {
        return Ok(());
    }
    let rows = x.chunks_exact(s.stride).zip(dy.chunks_exact(s.stride));
    for (x, dy) in rows.take(s.rows) {
        let heads = x[s.offset..].chunks_exact(s.head_dim);
        let heads = heads.zip(dy[s.offset..].chunks_exact(s.head_dim));
        for (x, dy) in heads.take(s.heads) {
            norm_row_dw(s.eps, true, x, dy, &mut dw[..2 * s.head_dim]);
        }
    }
    Ok(())
}

impl Activation {
    /// Its slope at one number.
    #[inline(always)]
    #[must_use]
    pub fn slope(self, x: f32) -> f32 {
        match self {
            Self::GeluTanh => {
                const ROOT_2_OVER_PI: f32 = 0.797_884_6;
                let cube = 0.044_715 * x * x;
                let t = math::tanh(ROOT_2_OVER_PI * x * (1.0 + cube));
                let inner = ROOT_2_OVER_PI * (1.0 + 3.0 * cube);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
            }
            Self::GeluErf => {
                let density = math::exp(-0.5 * x * x) / math::sqrt(2.0 * PI);
                0.5 * (1.0 + math::erf(x * FRAC_1_SQRT_2)) + x * density
            }
            Self::Silu => {
                let p = math::sigmoid(x);
                p * (1.0 + x * (1.0 - p))
            }
            Self::Relu => {
                if x > 0.0 {
                    1.0
                } else {
                    0.0
                }
            }
        }
    }
}

/// d\[i\] *= activation′(x\[i\]): one loop each, so that each vectorises.
#[inline(always)]
pub(crate) fn activate_all_dx(activation: Activation, x: &[f32], d: &mut [f32]) {
    let both = x.iter().zip(d);
    match activation {
        Activation::GeluTanh => both.for_each(|(x, d)| *d *= Activation::GeluTanh.slope(*x)),
        Activation::GeluErf => both.for_each(|(x, d)| *d *= Activation::GeluErf.slope(*x)),
        Activation::Silu => both.for_each(|(x, d)| *d *= Activation::Silu.slope(*x)),
        Activation::Relu => both.for_each(|(x, d)| *d *= Activation::Relu.slope(*x)),
    }
}

/// d\[i\] *= activation′(x\[i\]), where `x` holds what went into the activation.
///
/// # Errors
/// Fewer than `len` elements.
pub fn activate_dx(activation: Activation, len: usize, x: &[f32], d: &mut [f32]) -> Result<()> {
    covers("activate_dx", "x", x.len(), len)?;
    covers("activate_dx", "d", d.len(), len)?;
    activate_all_dx(activation, &x[..len], &mut d[..len]);
    Ok(())
}

/// One row of [`gate_dx`].
#[inline(always)]
pub(crate) fn gate_row_dx(activation: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (gate, value) = x.split_at(dy.len());
    let (d_gate, d_value) = dx.split_at_mut(dy.len());
    for ((d, v), dy) in d_gate.iter_mut().zip(value).zip(dy) {
        *d = dy * v;
    }
    activate_all_dx(activation, gate, d_gate);
    for ((d, g), dy) in d_value.iter_mut().zip(gate).zip(dy) {
        *d = dy * activation.apply(*g);
    }
}

/// dx\[r, i\] = dy · value · activation′(gate), dx\[r, width + i\] = dy · activation(gate).
///
/// # Errors
/// See [`GateShape::check`].
pub fn gate_dx(s: GateShape, x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    s.check(x.len(), dy.len())?;
    s.check(dx.len(), dy.len())?;
    let rows = x.chunks_exact(2 * s.width).zip(dy.chunks_exact(s.width));
    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(2 * s.width)).take(s.rows) {
        gate_row_dx(s.activation, x, dy, dx);
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_scaled_or_moved_has_no_gradient_along_that() {
        // A layer norm forgets the mean and the scale of its row.
        let s = NormShape {
            rows: 1,
            width: 3,
            eps: 1e-12,
        };
        let (x, weight, dy) = ([1.0, 2.0, 4.0], [1.0; 3], [0.5, -1.0, 2.0]);
        let mut dx = [0.0; 3];
        layer_norm_dx(s, &x, &weight, &dy, &mut dx).unwrap();
        assert!(dx.iter().sum::<f32>().abs() < 1e-6);
        assert!(dx.iter().zip(x).map(|(d, x)| d * x).sum::<f32>().abs() < 1e-6);
        assert!(dx[2].abs() > 1e-3);
        let mut dx = [0.0; 3];
        rms_norm_dx(s, &x, &weight, &dy, &mut dx).unwrap();
        assert!(dx.iter().zip(x).map(|(d, x)| d * x).sum::<f32>().abs() < 1e-6);
        let mut dw = [1.0; 6];
        layer_norm_dw(s, &x, &dy, &mut dw).unwrap();
        assert_eq!(dw[3..], [1.5, 0.0, 3.0]);
    }

    #[test]
    fn a_gate_worked_by_hand() {
        let s = GateShape {
            rows: 1,
            width: 2,
            activation: Activation::Relu,
        };
        let mut dx = [9.0; 4];
        gate_dx(s, &[2.0, -1.0, 5.0, 7.0], &[3.0, 4.0], &mut dx).unwrap();
        assert_eq!(dx, [15.0, 0.0, 6.0, 0.0]);
        let mut d = [3.0, 4.0];
        activate_dx(Activation::Relu, 2, &[2.0, -1.0], &mut d).unwrap();
        assert_eq!(d, [3.0, 0.0]);
    }

    #[test]
    fn short_buffers_are_errors() {
        let s = NormShape {
            rows: 2,
            width: 3,
            eps: 1e-5,
        };
        let row = [0.0; 6];
        assert!(layer_norm_dx(s, &row, &row, &row, &mut [0.0; 5]).is_err());
        assert!(rms_norm_dx(s, &row, &row, &row, &mut [0.0; 5]).is_err());
        assert!(layer_norm_dw(s, &row, &row, &mut [0.0; 5]).is_err());
        assert!(rms_norm_dw(s, &row, &row, &mut [0.0; 2]).is_err());
        assert!(activate_dx(Activation::Silu, 2, &row, &mut [0.0; 1]).is_err());
    }
}
