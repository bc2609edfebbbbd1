//! Gradients of products, with the kernel of [`gemm`](crate::cpu::gemm): blocks of weights, and of what comes back, are
//! turned first. Where there are many rows and columns, a turned block serves all rows.

use alloc::vec::Vec;

use super::transpose;
use crate::cpu::Cpu;
use crate::cpu::gemm::{Rows, Sums, block, finish, split};
use crate::cpu::packed::{PANEL, Packed, Panel, panel, panel_scratch, panel_width};
use crate::cpu::simd::{Job, Lanes};
use crate::cpu::tiles::{ROWS, Tile, Tiles};
use crate::error::{Error, Result, product};
use crate::ops::gemm::{GemmShape, SUM_BLOCK};

/// One tile of dx: some rows, some columns.
struct Dx<'a> {
    s: GemmShape,
    dy: &'a [f32],
    w: &'a Packed,
    scratch: &'a mut [f32],
    tile: Tile<'a>,
}

impl Job for Dx<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let (s, columns) = (self.s, self.tile.columns());
        let dy = &self.dy[self.tile.row * s.n..];
        let (turned, raw) = self.scratch.split_at_mut(SUM_BLOCK * PANEL);
        for offset in (0..columns).step_by(PANEL) {
            let (column, end) = (self.tile.column + offset, columns.min(offset + PANEL));
            let (k, width) = (end - offset, panel_width(columns, offset));
            let mut sums: Sums = [[0.0; PANEL]; ROWS];
            for from in (0..s.n).step_by(SUM_BLOCK) {
                let len = SUM_BLOCK.min(s.n - from);
                let out = (&mut *turned, width);
                turn::<V>(self.w, (from, len), (column, k), raw, out);
                let w = Panel {
                    w: &turned[..len * width],
                    width,
                    k: len,
                };
                let x = Rows {
                    x: &dy[from..],
                    stride: s.n,
                    len: self.tile.len,
                };
                block::<V>(x, w, &mut sums);
            }
            for (sums, dx) in sums.iter().zip(self.tile.rows()) {
                finish(sums, None, s.accumulate, &mut dx[offset..end]);
            }
        }
    }
}

/// Turns the weights of outputs `from .. from + len` and some columns to lines of outputs.
#[inline(always)]
fn turn<V: Lanes>(
    w: &Packed,
    (from, len): (usize, usize),
    (column, k): (usize, usize),
    raw: &mut [f32],
    (turned, width): (&mut [f32], usize),
) {
    for at in (0..len).step_by(PANEL) {
        let piece = panel::<V>(w, from + at, column, k, raw);
        let outputs = PANEL.min(len - at);
        transpose::<V>(
            [k, outputs],
            (piece.w, piece.width),
            (&mut turned[at * width..], width),
        );
    }
}

/// A panel of columns of dx, of all rows; sums in groups of [`ROWS`] rows.
struct Strip<'a> {
    s: GemmShape,
    dy: &'a [f32],
    w: &'a Packed,
    column: usize,
    scratch: &'a mut [f32],
    sums: &'a mut [[f32; PANEL]],
}

impl Job for Strip<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let s = self.s;
        let (turned, raw) = self.scratch.split_at_mut(SUM_BLOCK * PANEL);
        let width = panel_width(s.k, self.column);
        let k = PANEL.min(s.k - self.column);
        for from in (0..s.n).step_by(SUM_BLOCK) {
            let len = SUM_BLOCK.min(s.n - from);
            let out = (&mut *turned, width);
            turn::<V>(self.w, (from, len), (self.column, k), raw, out);
            let w = Panel {
                w: &turned[..len * width],
                width,
                k: len,
            };
            let groups = self.sums.as_chunks_mut::<ROWS>().0;
            for (i, sums) in groups.iter_mut().enumerate() {
                let x = Rows {
                    x: &self.dy[i * ROWS * s.n + from..],
                    stride: s.n,
                    len: ROWS.min(s.m - i * ROWS),
                };
                block::<V>(x, w, sums);
            }
        }
    }
}

/// One tile of dw: some outputs, some inputs.
struct Dw<'a> {
    s: GemmShape,
    dy: &'a [f32],
    x: &'a [f32],
    scratch: &'a mut [f32],
    tile: Tile<'a>,
}

impl Job for Dw<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let (s, columns) = (self.s, self.tile.columns());
        let (turned, lines) = self.scratch.split_at_mut(SUM_BLOCK * ROWS);
        for offset in (0..columns).step_by(PANEL) {
            let (column, end) = (self.tile.column + offset, columns.min(offset + PANEL));
            let (k, width) = (end - offset, panel_width(columns, offset));
            let mut sums: Sums = [[0.0; PANEL]; ROWS];
            for from in (0..s.m).step_by(SUM_BLOCK) {
                let len = SUM_BLOCK.min(s.m - from);
                transpose::<V>(
                    [len, self.tile.len],
                    (&self.dy[from * s.n + self.tile.row..], s.n),
                    (turned, len),
                );
                let x = self.x[from * s.k..].chunks_exact(s.k);
                for (line, x) in lines.chunks_exact_mut(width).zip(x).take(len) {
                    line[..k].copy_from_slice(&x[column..][..k]);
                    line[k..].fill(0.0);
                }
                let w = Panel {
                    w: &lines[..len * width],
                    width,
                    k: len,
                };
                let dy = Rows {
                    x: turned,
                    stride: len,
                    len: self.tile.len,
                };
                block::<V>(dy, w, &mut sums);
            }
            for (sums, dw) in sums.iter().zip(self.tile.rows()) {
                finish(sums, None, true, &mut dw[offset..end]);
            }
        }
    }
}

impl Cpu {
    pub(super) fn product_dx(
        &self,
        s: GemmShape,
        dy: &[f32],
        w: &Packed,
        dx: &mut [f32],
    ) -> Result<()> {
        s.check(dx.len(), None, dy.len())?;
        s.check_matrix(w.n, w.k)?;
        let work = s.m.saturating_mul(s.n).saturating_mul(s.k) / 8;
        if s.m > ROWS && s.k >= 2 * PANEL * self.threads() {
            return self.strips_dx(s, dy, w, work, dx);
        }
        let tiles = Tiles::new(&mut dx[..s.m * s.k], s.k, s.m, split(&self.pool, s.m, s.k));
        let len = SUM_BLOCK * PANEL + panel_scratch(w);
        let isa = self.isa;
        self.pool.each_with(work, len, tiles, |scratch, tile| {
            isa.run(Dx {
                s,
                dy,
                w,
                scratch,
                tile,
            });
        })
    }

    /// All rows, a panel of columns at a time; the sums of a panel lie together until all are there.
    fn strips_dx(
        &self,
        s: GemmShape,
        dy: &[f32],
        w: &Packed,
        work: usize,
        dx: &mut [f32],
    ) -> Result<()> {
        let rows = s.m.next_multiple_of(ROWS);
        let len = product("gemm_dx", &[s.k.div_ceil(PANEL), rows])?;
        let mut sums: Vec<[f32; PANEL]> = Vec::new();
        sums.try_reserve_exact(len)
            .map_err(|_| Error::OutOfMemory {
                what: "gemm_dx",
                bytes: len.saturating_mul(size_of::<[f32; PANEL]>()),
            })?;
        sums.resize(len, [0.0; PANEL]);
        let scratch = SUM_BLOCK * PANEL + panel_scratch(w);
        let isa = self.isa;
        let strips = sums.chunks_exact_mut(rows).enumerate();
        self.pool
            .each_with(work, scratch, strips, |scratch, (i, sums)| {
                isa.run(Strip {
                    s,
                    dy,
                    w,
                    column: i * PANEL,
                    scratch,
                    sums,
                });
            })?;
        for (r, dx) in dx.chunks_exact_mut(s.k).take(s.m).enumerate() {
            let sums = sums.iter().skip(r).step_by(rows);
            for (dx, sums) in dx.chunks_mut(PANEL).zip(sums) {
                finish(sums, None, s.accumulate, dx);
            }
        }
        Ok(())
    }

    pub(super) fn product_dw(
        &self,
        s: GemmShape,
        dy: &[f32],
        x: &[f32],
        dw: &mut [f32],
    ) -> Result<()> {
        s.check_dw(x.len(), dy.len(), dw.len())?;
        let work = s.m.saturating_mul(s.n).saturating_mul(s.k) / 8;
        let tiles = Tiles::new(&mut dw[..s.n * s.k], s.k, s.n, split(&self.pool, s.n, s.k));
        let len = SUM_BLOCK * (PANEL + ROWS);
        let isa = self.isa;
        self.pool.each_with(work, len, tiles, |scratch, tile| {
            isa.run(Dw {
                s,
                dy,
                x,
                scratch,
                tile,
            });
        })
    }
}
