//! Filters and the categorical draw: one row at a time, its noise and its exponentials vectorised.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::Cpu;
use crate::error::{Error, Result};
use crate::ops::sample::{
    DRAW_WORDS, Draw, DrawShape, FilterShape, draw_given, draw_keyed, filter_row, softmax_row,
};

impl Cpu {
    pub(super) fn filtered(
        &self,
        s: FilterShape,
        logits: &mut [f32],
        order: &mut [u32],
    ) -> Result<()> {
        s.check(logits.len(), order.len())?;
        let bad = AtomicUsize::new(usize::MAX);
        let rows = logits.chunks_exact_mut(s.width);
        let tasks = rows.zip(order.chunks_exact_mut(s.width)).enumerate();
        self.pool.each(
            s.rows.saturating_mul(s.width) * 4,
            tasks.take(s.rows),
            |(row, (logits, order))| {
                if !filter_row(s.filter, logits, order) {
                    bad.fetch_min(row, Ordering::Relaxed);
                }
            },
        );
        match bad.into_inner() {
            usize::MAX => Ok(()),
            row => Err(Error::NotFinite {
                op: "filter",
                arg: "logits",
                row,
            }),
        }
    }

    pub(super) fn drawn(
        &self,
        s: DrawShape,
        logits: &mut [f32],
        draw: &Draw<&[u32], &[f32]>,
        codes: &mut [u32],
        p: &mut [f32],
    ) -> Result<()> {
        let lens = match draw {
            Draw::Keyed(keys) => Draw::Keyed(keys.len()),
            Draw::Given(noise) => Draw::Given(noise.len()),
        };
        s.check(logits.len(), &lens, codes.len(), p.len())?;
        let bad = AtomicUsize::new(usize::MAX);
        let rows = logits[..s.rows * s.width].chunks_exact_mut(s.width);
        let tasks = rows.zip(codes.iter_mut().zip(p)).enumerate();
        self.pool.each(
            s.rows.saturating_mul(s.width) * 8,
            tasks,
            |(r, (row, (code, p)))| {
                self.vectorised(
                    #[inline(always)]
                    || {
                        if !softmax_row(row) {
                            bad.fetch_min(r, Ordering::Relaxed);
                            return;
                        }
                        let at = match draw {
                            Draw::Keyed(keys) => {
                                draw_keyed(&keys[r * DRAW_WORDS..][..DRAW_WORDS], row)
                            }
                            Draw::Given(noise) => draw_given(&noise[r * s.width..][..s.width], row),
                        };
                        #[expect(
                            clippy::cast_possible_truncation,
                            reason = "a codebook has fewer than 2^32 entries"
                        )]
                        let index = at as u32;
                        (*code, *p) = (index, row[at]);
                    },
                );
            },
        );
        match bad.into_inner() {
            usize::MAX => Ok(()),
            row => Err(Error::NotFinite {
                op: "draw",
                arg: "logits",
                row,
            }),
        }
    }
}
