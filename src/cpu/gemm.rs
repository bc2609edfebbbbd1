//! The product of floats; convolution and attention use it too.
//!
//! Weights stand in panels (see [`packed`](super::packed)). A tile of rows × outputs stays in registers while k runs.
//! Bound: for many rows the two multiply and two add pipes; for one row the reading of the weights.

use alloc::vec::Vec;

use super::Cpu;
use super::packed::{PANEL, Packed, Panel, panel, panel_scratch};
use super::pool::Pool;
use super::simd::{Isa, Job, Lanes};
use super::tiles::{ROWS, Tile, Tiles};
use crate::error::{Error, Result};
use crate::ops::gemm::{Activations, GemmShape, SUM_BLOCK, to_half};
use crate::quant::Format;

/// Sums of a task: one row of a panel each.
pub(super) type Sums = [[f32; PANEL]; ROWS];

/// Rows of activations: row `r` starts at `r · stride`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) x: &'a [f32],
    pub(super) stride: usize,
    pub(super) len: usize,
}

/// sums\[r, c\] += Σ_k x\[r, k\] · w\[k, c\], each sum from zero upwards.
#[inline(always)]
pub(super) fn block<V: Lanes>(x: Rows<'_>, w: Panel<'_>, sums: &mut Sums) {
    let mut col = 0;
    while col < w.width {
        let vectors = (w.width - col) / V::N;
        if vectors >= 4 && V::WIDE {
            block_columns::<V, 6, 4>(x, w, col, sums);
            col += 4 * V::N;
        } else if vectors >= 2 {
            if V::WIDE {
                block_columns::<V, 12, 2>(x, w, col, sums);
            } else {
                block_columns::<V, 6, 2>(x, w, col, sums);
            }
            col += 2 * V::N;
        } else {
            block_columns::<V, 12, 1>(x, w, col, sums);
            col += V::N;
        }
    }
}

#[inline(always)]
fn block_columns<V: Lanes, const R: usize, const C: usize>(
    x: Rows<'_>,
    w: Panel<'_>,
    col: usize,
    sums: &mut Sums,
) {
    let mut r = 0;
    while r < x.len {
        let (rows, sums) = (&x.x[r * x.stride..], &mut sums[r..]);
        r += match x.len - r {
            left if left >= R => tile::<V, R, C>(rows, x.stride, w, col, sums),
            left if left >= 4 => tile::<V, 4, C>(rows, x.stride, w, col, sums),
            left if left >= 2 => tile::<V, 2, C>(rows, x.stride, w, col, sums),
            _ => tile::<V, 1, C>(rows, x.stride, w, col, sums),
        };
    }
}

/// R rows × C vectors in registers; returns R.
#[inline(always)]
fn tile<V: Lanes, const R: usize, const C: usize>(
    x: &[f32],
    stride: usize,
    w: Panel<'_>,
    col: usize,
    sums: &mut [[f32; PANEL]],
) -> usize {
    let mut rows: [&[f32]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &x[r * stride..][..w.k];
    }
    let mut acc = [[V::splat(0.0); C]; R];
    #[expect(clippy::needless_range_loop, reason = "the same index in R slices")]
    for t in 0..w.k {
        let w = &w.w[t * w.width + col..][..C * V::N];
        let mut column = [V::splat(0.0); C];
        for c in 0..C {
            column[c] = V::load(&w[c * V::N..]);
        }
        for r in 0..R {
            let x = V::splat(rows[r][t]);
            for c in 0..C {
                acc[r][c] = acc[r][c].add(x.mul(column[c]));
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            let out = &mut sums[r][col + c * V::N..][..V::N];
            V::load(out).add(acc[r][c]).store(out);
        }
    }
    R
}

/// y\[r, c\] = sum + bias, or y + (sum + bias).
#[inline(always)]
pub(super) fn finish(sums: &[f32], bias: Option<&[f32]>, accumulate: bool, y: &mut [f32]) {
    for (c, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
        let sum = sum + bias.map_or(0.0, |b| b[c]);
        *y = if accumulate { *y + sum } else { sum };
    }
}

/// One tile of the output: some rows, some panels.
struct Task<'a> {
    s: GemmShape,
    x: &'a [f32],
    w: &'a Packed,
    bias: Option<&'a [f32]>,
    scratch: &'a mut [f32],
    tile: Tile<'a>,
}

impl Job for Task<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let (s, columns) = (self.s, self.tile.columns());
        let x = &self.x[self.tile.row * s.k..];
        for offset in (0..columns).step_by(PANEL) {
            let mut sums = [[0.0; PANEL]; ROWS];
            let column = self.tile.column + offset;
            for from in (0..s.k).step_by(SUM_BLOCK) {
                let k = SUM_BLOCK.min(s.k - from);
                let panel = panel::<V>(self.w, column, from, k, self.scratch);
                block::<V>(
                    Rows {
                        x: &x[from..],
                        stride: s.k,
                        len: self.tile.len,
                    },
                    panel,
                    &mut sums,
                );
            }
            let end = columns.min(offset + PANEL);
            let bias = self.bias.map(|b| &b[column..]);
            for (sums, y) in sums.iter().zip(self.tile.rows()) {
                finish(sums, bias, s.accumulate, &mut y[offset..end]);
            }
        }
    }
}

impl Cpu {
    pub(super) fn product(
        &self,
        s: GemmShape,
        x: &[f32],
        w: &Packed,
        bias: Option<&[f32]>,
        y: &mut [f32],
    ) -> Result<()> {
        s.check(x.len(), bias.map(<[f32]>::len), y.len())?;
        s.check_matrix(w.n, w.k)?;
        if let (Activations::A8, Some(strips)) = (s.activations, w.strips()) {
            return self.integer_product(s, x, strips, bias, y);
        }
        if s.activations == Activations::Bf16 && w.format() != Format::F32 {
            let floats = GemmShape {
                activations: Activations::F32,
                ..s
            };
            return self.product(floats, &halves(&x[..s.m * s.k])?, w, bias, y);
        }
        let work = s.m.saturating_mul(s.n).saturating_mul(s.k) / 8;
        let columns = split(&self.pool, s.m, s.n);
        let tiles = Tiles::new(&mut y[..s.m * s.n], s.n, s.m, columns);
        let isa: Isa = self.isa;
        self.pool
            .each_with(work, panel_scratch(w), tiles, |scratch, tile| {
                isa.run(Task {
                    s,
                    x,
                    w,
                    bias,
                    scratch,
                    tile,
                });
            })
    }
}

/// Numbers rounded to BF16. A copy of all of them: this arithmetic is one of GPUs, here it serves to be compared with.
pub(super) fn halves(x: &[f32]) -> Result<Vec<f32>> {
    let mut out = Vec::new();
    out.try_reserve_exact(x.len())
        .map_err(|_| Error::OutOfMemory {
            what: "activations",
            bytes: size_of_val(x),
        })?;
    out.extend(x.iter().map(|&x| to_half(x)));
    Ok(out)
}

/// Columns of a task: all of them if the rows alone make enough tasks that the last one is short beside the whole, else
/// whole panels. Few rows are bound by reading, which goes best in long stretches.
pub(super) fn split(pool: &Pool, m: usize, n: usize) -> usize {
    let (rows, panels) = (m.div_ceil(ROWS).max(1), n.div_ceil(PANEL).max(1));
    let tasks = if m < 8 { 8 } else { 32 };
    let groups = if pool.threads() == 1 {
        1
    } else {
        (tasks * pool.threads()).div_ceil(rows).min(panels)
    };
    panels.div_ceil(groups) * PANEL
}
