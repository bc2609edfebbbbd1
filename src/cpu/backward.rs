//! Gradients: what dominates has kernels of its own, the rest are the reference's row functions, compiled for each
//! instruction set and shared among the threads.

mod attention;
mod gemm;

use super::norm::task_rows;
use super::packed::Packed;
use super::simd::Lanes;
use super::{Buffer, Cpu};
use crate::error::{Result, covers, product};
use crate::ops::Reference;
use crate::ops::attention::RotaryShape;
use crate::ops::backward::Backward;
use crate::ops::backward::attention::SelfAttentionShape;
use crate::ops::backward::labels::{LabelShape, log_probs_row, log_probs_row_dx};
use crate::ops::backward::norm::{activate_all_dx, gate_row_dx, head_norm_row_dx, norm_row_dx};
use crate::ops::backward::pool::pool_view_dx;
use crate::ops::gemm::GemmShape;
use crate::ops::norm::{Activation, GateShape, HeadNormShape, NormShape};
use crate::ops::reward_head::PoolShape;
use crate::ops::vq::GatherShape;

/// out\[c, r\] = x\[r, c\] for `[rows, columns]`, both with a distance between their rows.
#[inline(always)]
fn transpose<V: Lanes>(
    [rows, columns]: [usize; 2],
    (x, stride): (&[f32], usize),
    (out, out_stride): (&mut [f32], usize),
) {
    let (whole_rows, whole_columns) = (rows / 16 * 16, columns / 16 * 16);
    for r in (0..whole_rows).step_by(16) {
        for c in (0..whole_columns).step_by(16) {
            let mut lines: [&[f32]; 16] = [&[]; 16];
            for (i, line) in lines.iter_mut().enumerate() {
                *line = &x[(r + i) * stride + c..][..16];
            }
            V::turn(lines, out_stride, &mut out[c * out_stride + r..]);
        }
    }
    for r in 0..rows {
        let from = if r < whole_rows { whole_columns } else { 0 };
        for c in from..columns {
            out[c * out_stride + r] = x[r * stride + c];
        }
    }
}

impl Cpu {
    fn norm_rows_dx(
        &self,
        (s, centred): (NormShape, bool),
        x: &[f32],
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) -> Result<()> {
        const OP: &str = "norm_dx";
        s.check(OP, x.len(), weight.len(), s.width, dy.len())?;
        covers(OP, "dx", dx.len(), product(OP, &[s.rows, s.width])?)?;
        let (len, piece) = (s.rows * s.width, task_rows(s.width) * s.width);
        let weight = &weight[..s.width];
        let rows = x[..len].chunks(piece).zip(dy[..len].chunks(piece));
        let tasks = rows.zip(dx[..len].chunks_mut(piece));
        self.pool.each(len, tasks, |((x, dy), dx)| {
            self.vectorised(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(s.width).zip(dy.chunks_exact(s.width));
                    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(s.width)) {
                        norm_row_dx((s.eps, centred), x, weight, dy, dx);
                    }
                },
            );
        });
        Ok(())
    }

    fn pooled_dx(&self, s: PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
        s.check_dx(x.len(), dy.len(), dx.len())?;
        let [view, pooled] = s.view();
        let views = x.chunks_exact(view).zip(dy.chunks_exact(pooled));
        let tasks = views.zip(dx.chunks_exact_mut(view)).take(s.views);
        self.pool.each(s.views * view, tasks, |((x, dy), dx)| {
            self.vectorised(
                #[inline(always)]
                || pool_view_dx(&s, x, dy, dx),
            );
        });
        Ok(())
    }

    fn norm_heads_dx(
        &self,
        s: HeadNormShape,
        x: &[f32],
        weight: &[f32],
        d: &mut [f32],
    ) -> Result<()> {
        s.check(x.len(), weight.len(), s.head_dim)?;
        s.check(d.len(), weight.len(), s.head_dim)?;
        if s.stride == 0 {
            return Ok(());
        }
        let (len, piece) = (s.rows * s.stride, task_rows(s.stride) * s.stride);
        let weight = &weight[..s.head_dim];
        let tasks = x[..len].chunks(piece).zip(d[..len].chunks_mut(piece));
        self.pool.each(len, tasks, |(x, d)| {
            self.vectorised(
                #[inline(always)]
                || {
                    for (x, d) in x.chunks_exact(s.stride).zip(d.chunks_exact_mut(s.stride)) {
                        head_norm_row_dx(&s, x, weight, d);
                    }
                },
            );
        });
        Ok(())
    }

    fn apply_dx(&self, activation: Activation, len: usize, x: &[f32], d: &mut [f32]) -> Result<()> {
        covers("activate_dx", "x", x.len(), len)?;
        covers("activate_dx", "d", d.len(), len)?;
        let piece = task_rows(1);
        let tasks = x[..len].chunks(piece).zip(d[..len].chunks_mut(piece));
        self.pool.each(len, tasks, |(x, d)| {
            self.vectorised(
                #[inline(always)]
                || activate_all_dx(activation, x, d),
            );
        });
        Ok(())
    }

    fn gated_dx(&self, s: GateShape, x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
        s.check(x.len(), dy.len())?;
        s.check(dx.len(), dy.len())?;
        let (len, rows) = (s.rows * s.width, task_rows(s.width));
        let (piece, wide) = (rows * s.width, 2 * rows * s.width);
        let tasks = x[..2 * len].chunks(wide).zip(dy[..len].chunks(piece));
        let tasks = tasks.zip(dx[..2 * len].chunks_mut(wide));
        self.pool.each(len, tasks, |((x, dy), dx)| {
            self.vectorised(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(2 * s.width).zip(dy.chunks_exact(s.width));
                    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(2 * s.width)) {
                        gate_row_dx(s.activation, x, dy, dx);
                    }
                },
            );
        });
        Ok(())
    }

    fn label_log_probs(
        &self,
        s: LabelShape,
        logits: &[f32],
        labels: &[u32],
        out: &mut [f32],
    ) -> Result<()> {
        s.check(logits.len(), labels.len(), out.len())?;
        let rows = logits.chunks_exact(s.width).zip(labels);
        let tasks = rows.zip(out).take(s.rows);
        self.pool
            .each(s.rows * s.width, tasks, |((logits, label), out)| {
                self.vectorised(
                    #[inline(always)]
                    || *out = log_probs_row(logits, *label),
                );
            });
        Ok(())
    }

    fn label_log_probs_dx(
        &self,
        s: LabelShape,
        labels: &[u32],
        weights: &[f32],
        logits: &mut [f32],
    ) -> Result<()> {
        s.check(logits.len(), labels.len(), weights.len())?;
        let rows = logits.chunks_exact_mut(s.width).zip(labels);
        let tasks = rows.zip(weights).take(s.rows);
        self.pool
            .each(s.rows * s.width, tasks, |((logits, label), weight)| {
                self.vectorised(
                    #[inline(always)]
                    || log_probs_row_dx(*label, *weight, logits),
                );
            });
        Ok(())
    }
}

impl Backward for Cpu {
    fn gemm_dx(
        &self,
        s: GemmShape,
        dy: &Buffer<f32>,
        w: &Packed,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.product_dx(s, dy.as_slice(), w, dx.as_mut_slice())
    }

    fn gemm_dw(
        &self,
        s: GemmShape,
        dy: &Buffer<f32>,
        x: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        self.product_dw(s, dy.as_slice(), x.as_slice(), dw.as_mut_slice())
    }

    fn sum_rows(&self, size: [usize; 2], dy: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        Reference.sum_rows(size, dy, out)
    }

    fn layer_norm_dx(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_rows_dx(
            (s, true),
            x.as_slice(),
            weight.as_slice(),
            dy.as_slice(),
            dx.as_mut_slice(),
        )
    }

    fn layer_norm_dw(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        Reference.layer_norm_dw(s, x, dy, dw)
    }

    fn rms_norm_dx(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_rows_dx(
            (s, false),
            x.as_slice(),
            weight.as_slice(),
            dy.as_slice(),
            dx.as_mut_slice(),
        )
    }

    fn rms_norm_dw(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        Reference.rms_norm_dw(s, x, dy, dw)
    }

    fn head_norm_dx(
        &self,
        s: HeadNormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        d: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_heads_dx(s, x.as_slice(), weight.as_slice(), d.as_mut_slice())
    }

    fn head_norm_dw(
        &self,
        s: HeadNormShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        Reference.head_norm_dw(s, x, dy, dw)
    }

    fn activate_dx(
        &self,
        activation: Activation,
        len: usize,
        x: &Buffer<f32>,
        d: &mut Buffer<f32>,
    ) -> Result<()> {
        self.apply_dx(activation, len, x.as_slice(), d.as_mut_slice())
    }

    fn gate_dx(
        &self,
        s: GateShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.gated_dx(s, x.as_slice(), dy.as_slice(), dx.as_mut_slice())
    }

    fn rotary_dx(
        &self,
        s: RotaryShape,
        d: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        table: &Buffer<f32>,
    ) -> Result<()> {
        Reference.rotary_dx(s, d, positions, table)
    }

    fn attention_dx(
        &self,
        s: SelfAttentionShape,
        qkv: &Buffer<f32>,
        dy: &Buffer<f32>,
        dqkv: &mut Buffer<f32>,
    ) -> Result<()> {
        self.attend_dx(s, qkv.as_slice(), dy.as_slice(), dqkv.as_mut_slice())
    }

    fn gather_dw(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        Reference.gather_dw(s, index, dy, dw)
    }

    fn pool_rows_dx(
        &self,
        s: PoolShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.pooled_dx(s, x.as_slice(), dy.as_slice(), dx.as_mut_slice())
    }

    fn log_probs(
        &self,
        s: LabelShape,
        logits: &Buffer<f32>,
        labels: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.label_log_probs(s, logits.as_slice(), labels.as_slice(), out.as_mut_slice())
    }

    fn log_probs_dx(
        &self,
        s: LabelShape,
        labels: &Buffer<u32>,
        weights: &Buffer<f32>,
        logits: &mut Buffer<f32>,
    ) -> Result<()> {
        self.label_log_probs_dx(
            s,
            labels.as_slice(),
            weights.as_slice(),
            logits.as_mut_slice(),
        )
    }
}

#[cfg(test)]
mod tests;
