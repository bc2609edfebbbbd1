//! Norms, gates and activations: the reference's row functions, compiled for each instruction set, rows shared out.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::Cpu;
use super::simd::{Job, Lanes};
use crate::error::{Error, Result, covers};
use crate::ops::norm::{
    Activation, GateShape, GroupNormShape, HeadNormShape, NormShape, activate_all, gate_row,
    group_normalise, group_statistics, head_norm_row, layer_norm_row, rms_norm_row,
};
use crate::ops::reward_head::{PoolShape, pool_view};

/// Elements of a task.
const TASK: usize = 1 << 13;

/// Rows of a task: about [`TASK`] elements.
pub(super) fn task_rows(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// A closure as a job: it is inlined into the function of each instruction set, and vectorised there.
struct Vectorised<F>(F);

impl<F: FnOnce()> Job for Vectorised<F> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        (self.0)();
    }
}

impl Cpu {
    /// Runs a closure with this machine's instructions.
    #[inline(always)]
    pub(super) fn vectorised(&self, f: impl FnOnce()) {
        self.isa.run(Vectorised(f));
    }

    pub(super) fn norm_layer(
        &self,
        s: NormShape,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        s.check("layer_norm", x.len(), weight.len(), bias.len(), y.len())?;
        let (len, piece) = (s.rows * s.width, task_rows(s.width) * s.width);
        let (weight, bias) = (&weight[..s.width], &bias[..s.width]);
        self.pool.each(
            len,
            x[..len].chunks(piece).zip(y[..len].chunks_mut(piece)),
            |(x, y)| {
                self.vectorised(
                    #[inline(always)]
                    || {
                        for (x, y) in x.chunks_exact(s.width).zip(y.chunks_exact_mut(s.width)) {
                            layer_norm_row(s.eps, x, weight, bias, y);
                        }
                    },
                );
            },
        );
        Ok(())
    }

    pub(super) fn norm_rms(
        &self,
        s: NormShape,
        x: &[f32],
        weight: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        s.check("rms_norm", x.len(), weight.len(), s.width, y.len())?;
        let (len, piece) = (s.rows * s.width, task_rows(s.width) * s.width);
        let weight = &weight[..s.width];
        self.pool.each(
            len,
            x[..len].chunks(piece).zip(y[..len].chunks_mut(piece)),
            |(x, y)| {
                self.vectorised(
                    #[inline(always)]
                    || {
                        for (x, y) in x.chunks_exact(s.width).zip(y.chunks_exact_mut(s.width)) {
                            rms_norm_row(s.eps, x, weight, y);
                        }
                    },
                );
            },
        );
        Ok(())
    }

    pub(super) fn norm_heads(
        &self,
        s: HeadNormShape,
        x: &mut [f32],
        weight: &[f32],
        bias: &[f32],
    ) -> Result<()> {
        s.check(x.len(), weight.len(), bias.len())?;
        if s.stride == 0 {
            return Ok(());
        }
        let piece = task_rows(s.stride) * s.stride;
        let x = &mut x[..s.rows * s.stride];
        self.pool.each(x.len(), x.chunks_mut(piece), |x| {
            self.vectorised(
                #[inline(always)]
                || {
                    for row in x.chunks_exact_mut(s.stride) {
                        head_norm_row(&s, row, weight, bias);
                    }
                },
            );
        });
        Ok(())
    }

    pub(super) fn norm_groups(
        &self,
        s: GroupNormShape,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        s.check(x.len(), weight.len(), bias.len(), y.len())?;
        let (image, together) = (s.pixels * s.channels, s.together());
        let rows = task_rows(s.channels);
        let images = x.chunks_exact(image).zip(y.chunks_exact_mut(image));
        self.pool.with_words(2 * s.groups, |words| {
            let statistics: &mut [f32] = bytemuck::cast_slice_mut(words);
            let statistics = statistics.as_chunks_mut::<2>().0;
            for (x, y) in images.take(s.images) {
                let groups = statistics.chunks_mut(together).enumerate();
                self.pool.each(image, groups, |(i, statistics)| {
                    self.vectorised(
                        #[inline(always)]
                        || group_statistics(&s, x, i * together, statistics),
                    );
                });
                let pixels = x
                    .chunks(rows * s.channels)
                    .zip(y.chunks_mut(rows * s.channels));
                let statistics = &*statistics;
                self.pool.each(image, pixels, |(x, y)| {
                    self.vectorised(
                        #[inline(always)]
                        || {
                            for (i, statistics) in statistics.chunks(together).enumerate() {
                                let groups = (i * together, statistics);
                                group_normalise(&s, groups, x, [weight, bias], y);
                            }
                        },
                    );
                });
            }
        })
    }

    pub(super) fn apply(&self, activation: Activation, len: usize, x: &mut [f32]) -> Result<()> {
        covers("activate", "x", x.len(), len)?;
        self.pool.each(len, x[..len].chunks_mut(TASK), |x| {
            self.vectorised(
                #[inline(always)]
                || activate_all(activation, x),
            );
        });
        Ok(())
    }

    pub(super) fn pooled(&self, s: PoolShape, x: &[f32], out: &mut [f32]) -> Result<()> {
        s.check(x.len(), out.len())?;
        let [view, pooled] = s.view();
        let wrong = AtomicUsize::new(usize::MAX);
        let views = x.chunks_exact(view).zip(out.chunks_exact_mut(pooled));
        let tasks = views.take(s.views).enumerate();
        self.pool.each(s.views * view, tasks, |(row, (x, out))| {
            let mut finite = true;
            self.vectorised(
                #[inline(always)]
                || finite = pool_view(&s, x, out),
            );
            if !finite {
                wrong.fetch_min(row, Ordering::Relaxed);
            }
        });
        match wrong.into_inner() {
            usize::MAX => Ok(()),
            row => Err(Error::NotFinite {
                op: "pool_rows",
                arg: "scores",
                row,
            }),
        }
    }

    pub(super) fn gated(&self, s: GateShape, x: &[f32], y: &mut [f32]) -> Result<()> {
        s.check(x.len(), y.len())?;
        let rows = task_rows(s.width);
        let (x, y) = (&x[..2 * s.rows * s.width], &mut y[..s.rows * s.width]);
        let tasks = x
            .chunks(2 * rows * s.width)
            .zip(y.chunks_mut(rows * s.width));
        self.pool.each(s.rows * s.width, tasks, |(x, y)| {
            self.vectorised(
                #[inline(always)]
                || {
                    for (x, y) in x.chunks_exact(2 * s.width).zip(y.chunks_exact_mut(s.width)) {
                        gate_row(s.activation, x, y);
                    }
                },
            );
        });
        Ok(())
    }
}
