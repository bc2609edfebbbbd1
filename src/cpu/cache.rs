//! What surrounds attention in a block: rotation, rows into the cache, sums of rows. Rows or heads are shared out.

use super::Cpu;
use super::norm::task_rows;
use crate::error::{Result, covers};
use crate::ops::attention::{AppendShape, KvFormat, RotaryShape, pair, rotate_row, round_row};

/// Elements of a task of a sum.
const TASK: usize = 1 << 13;

impl Cpu {
    pub(super) fn added(&self, len: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
        covers("add", "x", x.len(), len)?;
        covers("add", "y", y.len(), len)?;
        let tasks = x[..len].chunks(TASK).zip(y[..len].chunks_mut(TASK));
        self.pool.each(len / 4, tasks, |(x, y)| {
            self.vectorised(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y += x;
                    }
                },
            );
        });
        Ok(())
    }

    pub(super) fn rotated(
        &self,
        s: RotaryShape,
        x: &mut [f32],
        positions: &[u32],
        table: &[f32],
    ) -> Result<()> {
        s.check(x.len(), positions.len(), table.len())?;
        if s.stride == 0 {
            return Ok(());
        }
        let rows = task_rows(s.stride);
        let x = &mut x[..s.rows * s.stride];
        let work = s.rows.saturating_mul(s.heads).saturating_mul(s.rotary_dim);
        let tasks = x.chunks_mut(rows * s.stride).zip(positions.chunks(rows));
        self.pool.each(work, tasks, |(x, positions)| {
            self.vectorised(
                #[inline(always)]
                || {
                    for (row, &position) in x.chunks_exact_mut(s.stride).zip(positions) {
                        rotate_row(&s, row, position, table);
                    }
                },
            );
        });
        Ok(())
    }

    pub(super) fn appended(
        &self,
        s: AppendShape,
        x: &[f32],
        places: &[u32],
        cache: &mut [f32],
    ) -> Result<()> {
        s.check(x.len(), places.len(), cache.len())?;
        let d = s.head_dim;
        self.each_head(s, d, cache, |h, cache| {
            for (row, &place) in x.chunks_exact(s.stride).zip(places).take(s.rows) {
                if (place as usize) < s.cache_rows {
                    let head = &row[s.offset + h * d..][..d];
                    cache[place as usize * d..][..d].copy_from_slice(head);
                }
            }
        });
        Ok(())
    }

    /// Into a cache of [`KvFormat::Bf16`] or [`KvFormat::Q8`].
    pub(super) fn appended_as(
        &self,
        (kv, s): (KvFormat, AppendShape),
        x: &[f32],
        places: &[u32],
        cache: &mut [u32],
    ) -> Result<()> {
        s.check_as(kv, x.len(), places.len(), cache.len())?;
        let (d, words) = (s.head_dim, kv.words(s.head_dim));
        self.each_head(s, words, cache, |h, cache| {
            self.vectorised(
                #[inline(always)]
                || {
                    for (row, &place) in x.chunks_exact(s.stride).zip(places).take(s.rows) {
                        if (place as usize) < s.cache_rows {
                            let head = &row[s.offset + h * d..][..d];
                            let row = &mut cache[place as usize * words..][..words];
                            if kv == KvFormat::Q8 {
                                round_row(head, row);
                            } else {
                                for (word, two) in row.iter_mut().zip(head.chunks(2)) {
                                    *word = pair(two);
                                }
                            }
                        }
                    }
                },
            );
        });
        Ok(())
    }

    /// Calls `f` with every head and its rows of the cache.
    fn each_head<T: Send>(
        &self,
        s: AppendShape,
        words: usize,
        cache: &mut [T],
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let len = s.cache_rows * words;
        if len == 0 {
            return;
        }
        let heads = cache.chunks_exact_mut(len).take(s.heads).enumerate();
        // Its lines are read before they are written.
        let work = s.rows.saturating_mul(s.heads).saturating_mul(s.head_dim);
        self.pool.each(work, heads, |(h, cache)| f(h, cache));
    }
}
