//! Gradients: the second trait that a device implements, and the shape and reference loop of each of its operations.
//!
//! A gradient operation takes the gradient of a loss with respect to what the forward operation wrote, and gives the
//! one with respect to what it read. Whole sequences, no cache: what a pass needs again is computed again.

pub mod attention;
pub mod gemm;
pub mod labels;
pub mod norm;
pub mod pool;
mod reference;

use self::attention::SelfAttentionShape;
use self::labels::LabelShape;
use super::Backend;
use super::attention::RotaryShape;
use super::gemm::GemmShape;
use super::norm::{Activation, GateShape, HeadNormShape, NormShape};
use super::reward_head::PoolShape;
use super::vq::GatherShape;
use crate::error::Result;

/// A device that can also go backwards. Sealed, as [`Backend`] is.
///
/// Gradients of weights are always added to what their buffers hold, so that a batch may come in parts.
///
/// ```
/// use maquette::ops::{Backend, Backward, Reference, gemm::GemmShape};
/// use maquette::quant::QuantMatrix;
/// let device = Reference;
/// let w = device.pack(&QuantMatrix::f32(1, 2, &[3.0, 4.0])?)?;
/// let (mut dy, mut dx) = (device.zeros(1)?, device.zeros(2)?);
/// device.write(&mut dy, 0, &[10.0])?;
/// device.gemm_dx(GemmShape::new(1, 1, 2), &dy, &w, &mut dx)?;
/// assert_eq!(dx.as_slice(), [30.0, 40.0]);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// As [`Backend`].
pub trait Backward: Backend {
    /// dx\[m, k\] = dy\[m, n\] · w, or dx += … ; see [`gemm_dx`](gemm::gemm_dx).
    fn gemm_dx(
        &self,
        s: GemmShape,
        dy: &Self::Buffer<f32>,
        w: &Self::Matrix,
        dx: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// dw\[n, k\] += dyᵀ · x; see [`gemm_dw`](gemm::gemm_dw).
    fn gemm_dw(
        &self,
        s: GemmShape,
        dy: &Self::Buffer<f32>,
        x: &Self::Buffer<f32>,
        dw: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Sums of columns, the gradient of a bias; see [`sum_rows`](gemm::sum_rows).
    fn sum_rows(
        &self,
        size: [usize; 2],
        dy: &Self::Buffer<f32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;

    /// Gradient of a layer norm's rows, added to `dx`; see [`layer_norm_dx`](norm::layer_norm_dx).
    fn layer_norm_dx(
        &self,
        s: NormShape,
        x: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        dx: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient of a layer norm's weight, then of its bias; see [`layer_norm_dw`](norm::layer_norm_dw).
    fn layer_norm_dw(
        &self,
        s: NormShape,
        x: &Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        dw: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient of a root-mean-square norm's rows, added to `dx`; see [`rms_norm_dx`](norm::rms_norm_dx).
    fn rms_norm_dx(
        &self,
        s: NormShape,
        x: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        dx: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient of a root-mean-square norm's weight; see [`rms_norm_dw`](norm::rms_norm_dw).
    fn rms_norm_dw(
        &self,
        s: NormShape,
        x: &Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        dw: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient of the rows of head norms, in place; see [`head_norm_dx`](norm::head_norm_dx).
    fn head_norm_dx(
        &self,
        s: HeadNormShape,
        x: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        d: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient of a head norm's weight, then of its bias; see [`head_norm_dw`](norm::head_norm_dw).
    fn head_norm_dw(
        &self,
        s: HeadNormShape,
        x: &Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        dw: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient through an activation, in place; see [`activate_dx`](norm::activate_dx).
    fn activate_dx(
        &self,
        activation: Activation,
        len: usize,
        x: &Self::Buffer<f32>,
        d: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient through a gated product; see [`gate_dx`](norm::gate_dx).
    fn gate_dx(
        &self,
        s: GateShape,
        x: &Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        dx: &mut Self::Buffer<f32>,
    ) -> Result<()>;

    /// Rotation backwards, in place; see [`rotary_dx`](attention::rotary_dx).
    fn rotary_dx(
        &self,
        s: RotaryShape,
        d: &mut Self::Buffer<f32>,
        positions: &Self::Buffer<u32>,
        table: &Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient of q, k and v; see [`attention_dx`](attention::attention_dx).
    fn attention_dx(
        &self,
        s: SelfAttentionShape,
        qkv: &Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        dqkv: &mut Self::Buffer<f32>,
    ) -> Result<()>;

    /// Gradient of a table's rows; see [`gather_dw`](gemm::gather_dw).
    fn gather_dw(
        &self,
        s: GatherShape,
        index: &Self::Buffer<u32>,
        dy: &Self::Buffer<f32>,
        dw: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient of pooled rows; see [`pool_rows_dx`](pool::pool_rows_dx).
    fn pool_rows_dx(
        &self,
        s: PoolShape,
        x: &Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        dx: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Log-probability of one label a row; see [`log_probs`](labels::log_probs).
    fn log_probs(
        &self,
        s: LabelShape,
        logits: &Self::Buffer<f32>,
        labels: &Self::Buffer<u32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Gradient of the logits in their place; see [`log_probs_dx`](labels::log_probs_dx).
    fn log_probs_dx(
        &self,
        s: LabelShape,
        labels: &Self::Buffer<u32>,
        weights: &Self::Buffer<f32>,
        logits: &mut Self::Buffer<f32>,
    ) -> Result<()>;
}
