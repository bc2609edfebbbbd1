//! Products of integers: 8-bit activations with blocks of weights, see [`Activations::A8`].
//!
//! Bound: for one row the reading of the weights, in the order in which they lie; for many rows the instruction that
//! multiplies quads of bytes. It wants one side unsigned: weights are stored with 128 or 8 added, and a row's sums start
//! at what that adds too much. Q4_K's are unsigned as they are, and have offsets: what comes off is the offset times the
//! sum of the activations, a product of its own. Sums over a block are exact, so that any order gives their bits.
//!
//! [`Activations::A8`]: crate::ops::gemm::Activations::A8

mod conv;

use super::Cpu;
use super::gemm::{Sums, finish, split};
use super::packed::{PANEL, Strips, panel_width};
use super::simd::{Dots, DotsJob, Lanes};
use super::strips::{Q4_STRIP, Q4G_STRIP, Q4K_STRIP, Q8_STRIP, STRIP, StripBlock};
use super::tiles::{ROWS, Tile, Tiles};
use crate::error::{Result, product};
use crate::ops::gemm::GemmShape;
use crate::quant::{A8_BLOCK, quantise_a8};

/// Words of a block of activations: eight quads, the scale, and where its sums start or, if weights have offsets, minus
/// the sum of the activations as a float.
const WORDS: usize = A8_BLOCK / 4 + 2;

/// Most rows of a group; smaller groups divide it or end a tile.
const GROUP: usize = 12;

/// Rows of the first group of so many: rows of a group stand block by block beside each other.
#[inline(always)]
fn group<D: Dots>(rows: usize) -> usize {
    [GROUP, 8, 4, 2]
        .into_iter()
        .find(|&r| r <= D::ROWS && r <= rows)
        .unwrap_or(1)
}

/// Rounds some rows of activations.
struct Round<'a> {
    x: &'a [f32],
    k: usize,
    /// What was added to the weights, which then have no offsets.
    added: Option<i32>,
    /// Whether rows stand in groups, or alone.
    grouped: bool,
    out: &'a mut [u32],
}

impl DotsJob for Round<'_> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dots>(self) {
        let row = self.k / A8_BLOCK * WORDS;
        let (mut x, mut out) = (self.x, self.out);
        while !out.is_empty() {
            let rows = if self.grouped {
                group::<D>(out.len() / row)
            } else {
                1
            };
            let (these, rest) = out.split_at_mut(rows * row);
            let (values, others) = x.split_at(rows * self.k);
            (x, out) = (others, rest);
            for (r, values) in values.chunks_exact(self.k).enumerate() {
                let blocks = values.as_chunks::<A8_BLOCK>().0;
                for (values, out) in blocks.iter().zip(these.chunks_exact_mut(rows * WORDS)) {
                    let (scale, levels) = quantise_a8(values);
                    let sum: i32 = levels.iter().map(|&q| i32::from(q)).sum();
                    let quads = levels.as_chunks::<4>().0;
                    for (out, quad) in out[r * (A8_BLOCK / 4)..].iter_mut().zip(quads) {
                        *out = word(*quad);
                    }
                    let rest = &mut out[rows * (A8_BLOCK / 4)..];
                    rest[r] = scale.to_bits();
                    rest[rows + r] = match self.added {
                        Some(added) => (-added * sum).cast_unsigned(),
                        None => sum_as_float(-sum).to_bits(),
                    };
                }
            }
        }
    }
}

/// Four levels in a word, the first lowest.
#[inline(always)]
pub(super) fn word([a, b, c, d]: [i8; 4]) -> u32 {
    // Not `map`: where the compiler leaves its closure alone, rounding takes longer than the products.
    u32::from_le_bytes([
        a.cast_unsigned(),
        b.cast_unsigned(),
        c.cast_unsigned(),
        d.cast_unsigned(),
    ])
}

#[inline(always)]
#[expect(
    clippy::cast_precision_loss,
    reason = "a sum of 32 bytes is below 2^24"
)]
fn sum_as_float(sum: i32) -> f32 {
    sum as f32
}

/// One tile of the output.
struct Task<'a> {
    s: GemmShape,
    x: &'a [u32],
    w: Strips<'a>,
    bias: Option<&'a [f32]>,
    tile: Tile<'a>,
}

impl DotsJob for Task<'_> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dots>(mut self) {
        let (s, columns) = (self.s, self.tile.columns());
        let blocks = s.k / A8_BLOCK;
        let x = &self.x[self.tile.row * blocks * WORDS..][..self.tile.len * blocks * WORDS];
        for offset in (0..columns).step_by(PANEL) {
            let mut sums = [[0.0; PANEL]; ROWS];
            let column = self.tile.column + offset;
            column_sums::<D>(x, self.w, [s.n, s.k], column, &mut sums);
            let end = columns.min(offset + PANEL);
            let bias = self.bias.map(|b| &b[column..]);
            for (sums, y) in sums.iter().zip(self.tile.rows()) {
                finish(sums, bias, s.accumulate, &mut y[offset..end]);
            }
        }
    }
}

/// sums\[r, c\] of all rows and the outputs of the panel at `column`.
#[inline(always)]
fn column_sums<D: Dots>(
    x: &[u32],
    w: Strips<'_>,
    [n, k]: [usize; 2],
    column: usize,
    sums: &mut Sums,
) {
    for at in (0..panel_width(n, column)).step_by(STRIP) {
        let number = (column + at) / STRIP;
        match w {
            Strips::Q8_0(w) => strip::<D, _>(x, w.as_chunks::<Q8_STRIP>().0, [number, k], at, sums),
            Strips::Q4_0(w) => strip::<D, _>(x, w.as_chunks::<Q4_STRIP>().0, [number, k], at, sums),
            Strips::Q4K(w) => strip::<D, _>(x, w.as_chunks::<Q4K_STRIP>().0, [number, k], at, sums),
            Strips::Q4G128(w) => {
                strip::<D, _>(x, w.as_chunks::<Q4G_STRIP>().0, [number, k], at, sums)
            }
        }
    }
}

/// sums\[r, at + c\] of all rows and the outputs c of strip `number`.
#[inline(always)]
fn strip<D: Dots, B: StripBlock>(
    x: &[u32],
    w: &[B],
    [number, k]: [usize; 2],
    at: usize,
    sums: &mut Sums,
) {
    let blocks = k / (B::PARTS * A8_BLOCK);
    let (w, row) = (&w[number * blocks..][..blocks], k / A8_BLOCK * WORDS);
    let (mut r, rows) = (0, x.len() / row);
    while r < rows {
        let (x, sums) = (&x[r * row..], &mut sums[r..]);
        r += match group::<D>(rows - r) {
            12 => tile::<D, B, 12>(x, w, at, sums),
            8 => tile::<D, B, 8>(x, w, at, sums),
            4 => tile::<D, B, 4>(x, w, at, sums),
            2 => tile::<D, B, 2>(x, w, at, sums),
            _ => tile::<D, B, 1>(x, w, at, sums),
        };
    }
}

/// R rows × one strip in registers; returns R.
#[inline(always)]
fn tile<D: Dots, B: StripBlock, const R: usize>(
    x: &[u32],
    w: &[B],
    at: usize,
    sums: &mut [[f32; PANEL]],
) -> usize {
    for c in (0..STRIP).step_by(D::N) {
        let mut all = [D::Floats::splat(0.0); R];
        for (w, x) in w.iter().zip(x.chunks_exact(B::PARTS * R * WORDS)) {
            for (part, x) in x.chunks_exact(R * WORDS).enumerate() {
                let (quads, rest) = x.split_at(8 * R);
                let (scales, starts) = rest.split_at(R);
                let mut dots = [D::splat(0); R];
                if !B::OFFSETS {
                    for (dot, start) in dots.iter_mut().zip(starts) {
                        *dot = D::splat(start.cast_signed());
                    }
                }
                w.dots(part, c, quads, &mut dots);
                let w_scale = w.scales::<D::Floats>(part, c);
                let w_offset = w.offsets::<D::Floats>(part, c);
                for r in 0..R {
                    let scale = D::Floats::splat(f32::from_bits(scales[r]));
                    let mut part = dots[r].floats().mul(w_scale);
                    if B::OFFSETS {
                        let turned = D::Floats::splat(f32::from_bits(starts[r]));
                        part = part.add(turned.mul(w_offset));
                    }
                    all[r] = all[r].add(part.mul(scale));
                }
            }
        }
        for (all, sums) in all.into_iter().zip(&mut *sums) {
            all.store(&mut sums[at + c..]);
        }
    }
    R
}

impl Cpu {
    /// The product with rounded activations.
    pub(super) fn integer_product(
        &self,
        s: GemmShape,
        x: &[f32],
        w: Strips<'_>,
        bias: Option<&[f32]>,
        y: &mut [f32],
    ) -> Result<()> {
        let isa = self.isa;
        let len = product("gemm", &[s.m, s.k / A8_BLOCK, WORDS])?;
        self.pool.with_words(len, |words| {
            rounded_words(self, [s.m, s.k], x, w.added(), true, words);
            let (words, work) = (&*words, s.m.saturating_mul(s.n).saturating_mul(s.k) / 64);
            let tiles = Tiles::new(&mut y[..s.m * s.n], s.n, s.m, split(&self.pool, s.m, s.n));
            self.pool.each(work, tiles, |tile| {
                isa.run_dots(Task {
                    s,
                    x: words,
                    w,
                    bias,
                    tile,
                });
            });
        })
    }
}

/// Rounds `rows` rows of `k` activations.
fn rounded_words(
    cpu: &Cpu,
    [rows, k]: [usize; 2],
    x: &[f32],
    added: Option<i32>,
    grouped: bool,
    words: &mut [u32],
) {
    // Tiles begin with whole groups.
    let tiles = x
        .chunks(GROUP * k)
        .zip(words.chunks_mut(GROUP * (k / A8_BLOCK * WORDS)));
    cpu.pool.each(rows * k, tiles, |(x, out)| {
        cpu.isa.run_dots(Round {
            x,
            k,
            added,
            grouped,
            out,
        });
    });
}
