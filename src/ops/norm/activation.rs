//! Activations, gates and sums.

use super::nonzero;
use crate::error::{Result, covers, product};
use crate::math;
use crate::ops::gemm::GemmShape;

/// An activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// GELU, tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// GELU by the error function.
    GeluErf,
    /// x · σ(x).
    Silu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// The activation of one number.
    #[inline(always)]
    #[must_use]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::GeluTanh => math::gelu_tanh(x),
            Self::GeluErf => math::gelu_erf(x),
            Self::Silu => math::silu(x),
            Self::Relu => {
                if x > 0.0 {
                    x
                } else {
                    0.0
                }
            }
        }
    }
}

/// An activation in place.
///
/// # Errors
/// Fewer than `len` elements.
pub fn activate(activation: Activation, len: usize, x: &mut [f32]) -> Result<()> {
    covers("activate", "x", x.len(), len)?;
    activate_all(activation, &mut x[..len]);
    Ok(())
}

/// An activation in place: one loop each, so that each vectorises.
#[inline(always)]
pub(crate) fn activate_all(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::GeluTanh => x
            .iter_mut()
            .for_each(|v| *v = Activation::GeluTanh.apply(*v)),
        Activation::GeluErf => x
            .iter_mut()
            .for_each(|v| *v = Activation::GeluErf.apply(*v)),
        Activation::Silu => x.iter_mut().for_each(|v| *v = Activation::Silu.apply(*v)),
        Activation::Relu => x.iter_mut().for_each(|v| *v = Activation::Relu.apply(*v)),
    }
}

/// y += x.
///
/// # Errors
/// Fewer than `len` elements.
pub fn add(len: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
    covers("add", "x", x.len(), len)?;
    covers("add", "y", y.len(), len)?;
    for (y, x) in y[..len].iter_mut().zip(x) {
        *y += x;
    }
    Ok(())
}

/// Rows that hold gate and value side by side, and what the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateShape {
    /// Number of rows.
    pub rows: usize,
    /// Width of the gate, and of the value.
    pub width: usize,
    /// What the gate goes through.
    pub activation: Activation,
}

impl GateShape {
    /// Of the rows of a product.
    #[must_use]
    pub const fn of_product(s: GemmShape, activation: Activation) -> Self {
        Self {
            rows: s.m,
            width: s.k,
            activation,
        }
    }

    /// Checks the lengths of x and y.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub fn check(&self, x: usize, y: usize) -> Result<()> {
        nonzero("gate", "width", self.width)?;
        let row = product("gate", &[2, self.width])?;
        covers("gate", "x", x, product("gate", &[self.rows, row])?)?;
        covers("gate", "y", y, product("gate", &[self.rows, self.width])?)
    }
}

/// One row of [`gate`].
#[inline(always)]
pub(crate) fn gate_row(activation: Activation, x: &[f32], y: &mut [f32]) {
    let (gate, value) = x.split_at(y.len());
    y.copy_from_slice(gate);
    activate_all(activation, y);
    for (y, v) in y.iter_mut().zip(value) {
        *y *= v;
    }
}

/// y\[r, i\] = activation(x\[r, i\]) · x\[r, width + i\].
///
/// # Errors
/// See [`GateShape::check`].
pub fn gate(s: GateShape, x: &[f32], y: &mut [f32]) -> Result<()> {
    s.check(x.len(), y.len())?;
    for (x, y) in x
        .chunks_exact(2 * s.width)
        .zip(y.chunks_exact_mut(s.width))
        .take(s.rows)
    {
        gate_row(s.activation, x, y);
    }
    Ok(())
}
