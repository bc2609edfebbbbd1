//! Gradients, by their names. Kernels are `kernels/backward*.cu`, one source for each file here that launches them.

mod attention;
mod gemm;
mod labels;
mod norm;
mod pool;

use cudarc::driver::{CudaFunction, LaunchConfig};

use super::memory::Buffer;
use super::module::Source;
use super::{Device, Matrix, grid, words};
use crate::error::Result;
use crate::ops::Backward;
use crate::ops::attention::RotaryShape;
use crate::ops::backward::attention::SelfAttentionShape;
use crate::ops::backward::labels::LabelShape;
use crate::ops::gemm::GemmShape;
use crate::ops::norm::{Activation, GateShape, HeadNormShape, NormShape};
use crate::ops::reward_head::PoolShape;
use crate::ops::vq::GatherShape;

/// Rows of a block of threads: one for each half warp.
const ROWS: usize = 16;
/// Threads of a block where a thread takes a column: few, so that narrow rows are many blocks.
const COLUMN_THREADS: u32 = 64;

/// A thread for each of `count` columns. Kernels number them in 32 bits, those past the last one included.
fn columns(op: &'static str, count: usize) -> Result<LaunchConfig> {
    let threads = COLUMN_THREADS as usize;
    words(op, [count.saturating_add(threads)])?;
    grid(op, count.div_ceil(threads), 1, COLUMN_THREADS)
}

impl Device {
    fn gradient(&self, source: Source, kernel: &'static str) -> Result<CudaFunction> {
        self.modules.of(&self.context, source, kernel)
    }
}

impl Backward for Device {
    fn gemm_dx(
        &self,
        s: GemmShape,
        dy: &Buffer<f32>,
        w: &Matrix,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.product_dx(s, dy, w, dx))
    }

    fn gemm_dw(
        &self,
        s: GemmShape,
        dy: &Buffer<f32>,
        x: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.product_dw(s, dy, x, dw))
    }

    fn sum_rows(&self, size: [usize; 2], dy: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.rows_summed(size, dy, out))
    }

    fn layer_norm_dx(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_rows_dx((s, true), x, weight, dy, dx))
    }

    fn layer_norm_dw(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_rows_dw((s, true), x, dy, dw))
    }

    fn rms_norm_dx(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_rows_dx((s, false), x, weight, dy, dx))
    }

    fn rms_norm_dw(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_rows_dw((s, false), x, dy, dw))
    }

    fn head_norm_dx(
        &self,
        s: HeadNormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        d: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_heads_dx(s, x, weight, d))
    }

    fn head_norm_dw(
        &self,
        s: HeadNormShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_heads_dw(s, x, dy, dw))
    }

    fn activate_dx(
        &self,
        activation: Activation,
        len: usize,
        x: &Buffer<f32>,
        d: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.apply_dx(activation, len, x, d))
    }

    fn gate_dx(
        &self,
        s: GateShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.gated_dx(s, x, dy, dx))
    }

    fn rotary_dx(
        &self,
        s: RotaryShape,
        d: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        table: &Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.rotate_dx(s, d, positions, table))
    }

    fn attention_dx(
        &self,
        s: SelfAttentionShape,
        qkv: &Buffer<f32>,
        dy: &Buffer<f32>,
        dqkv: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.attend_dx(s, qkv, dy, dqkv))
    }

    fn gather_dw(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.gathered_dw(s, index, dy, dw))
    }

    fn pool_rows_dx(
        &self,
        s: PoolShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.pooled_dx(s, x, dy, dx))
    }

    fn log_probs(
        &self,
        s: LabelShape,
        logits: &Buffer<f32>,
        labels: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.label_log_probs(s, logits, labels, out))
    }

    fn log_probs_dx(
        &self,
        s: LabelShape,
        labels: &Buffer<u32>,
        weights: &Buffer<f32>,
        logits: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.label_log_probs_dx(s, labels, weights, logits))
    }
}
