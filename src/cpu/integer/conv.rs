//! Convolution of integers: every input pixel is rounded once, and a group of output pixels gathers what it sees.

use super::{Sums, WORDS, column_sums, group, rounded_words};
use crate::cpu::Cpu;
use crate::cpu::gemm::finish;
use crate::cpu::packed::{PANEL, Strips};
use crate::cpu::simd::{Dots, DotsJob};
use crate::cpu::tiles::{ROWS, Tile, Tiles};
use crate::error::{Result, product};
use crate::ops::conv::ConvShape;
use crate::quant::A8_BLOCK;

/// Some output pixels, all channels.
struct Task<'a> {
    s: ConvShape,
    /// Rounded input pixels, each `[c_in / 32][WORDS]`.
    x: &'a [u32],
    w: Strips<'a>,
    bias: &'a [f32],
    scratch: &'a mut [u32],
    tile: Tile<'a>,
}

impl DotsJob for Task<'_> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dots>(mut self) {
        let (s, first, len) = (self.s, self.tile.row, self.tile.len);
        let row = s.k() / A8_BLOCK * WORDS;
        let seen = &mut self.scratch[..len * row];
        let mut at = 0;
        while at < len {
            let rows = group::<D>(len - at);
            let seen = &mut seen[at * row..][..rows * row];
            for r in 0..rows {
                gather(&s, self.x, first + at + r, [r, rows], seen);
            }
            at += rows;
        }
        for column in (0..s.c_out).step_by(PANEL) {
            let mut sums: Sums = [[0.0; PANEL]; ROWS];
            column_sums::<D>(seen, self.w, [s.c_out, s.k()], column, &mut sums);
            let end = s.c_out.min(column + PANEL);
            for (sums, y) in sums.iter().zip(self.tile.rows()) {
                let bias = Some(&self.bias[column..]);
                finish(sums, bias, s.accumulate, &mut y[column..end]);
            }
        }
    }
}

/// What an output pixel sees, as row `r` of a group of `rows`; zeros where there is nothing.
#[inline(always)]
fn gather(s: &ConvShape, x: &[u32], pixel: usize, [r, rows]: [usize; 2], out: &mut [u32]) {
    const QUADS: usize = WORDS - 2;
    let [height, width] = s.output();
    let (image, row, col) = (
        pixel / (height * width),
        pixel / width % height,
        pixel % width,
    );
    let per_pixel = s.c_in / A8_BLOCK * WORDS;
    for (tap, out) in out.chunks_exact_mut(per_pixel * rows).enumerate() {
        let from = s
            .tap(row, tap / s.kernel, s.height)
            .zip(s.tap(col, tap % s.kernel, s.width));
        let pixel = from
            .map(|(h, w)| &x[((image * s.height + h) * s.width + w) * per_pixel..][..per_pixel]);
        for (b, out) in out.chunks_exact_mut(WORDS * rows).enumerate() {
            let (quads, rest) = out.split_at_mut(QUADS * rows);
            let quads = &mut quads[QUADS * r..][..QUADS];
            if let Some(block) = pixel.map(|pixel| &pixel[b * WORDS..][..WORDS]) {
                quads.copy_from_slice(&block[..QUADS]);
                rest[r] = block[QUADS];
                rest[rows + r] = block[QUADS + 1];
            } else {
                quads.fill(0);
                rest[r] = 0;
                rest[rows + r] = 0;
            }
        }
    }
}

impl Cpu {
    /// The convolution with rounded activations; its input channels are whole blocks.
    pub(in crate::cpu) fn integer_convolution(
        &self,
        s: ConvShape,
        x: &[f32],
        w: Strips<'_>,
        bias: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let inputs = product("conv2d", &[s.images, s.height, s.width])?;
        let words = product("conv2d", &[inputs, s.c_in / A8_BLOCK, WORDS])?;
        let scratch = product("conv2d", &[ROWS, s.k() / A8_BLOCK, WORDS])?;
        let [rows, cols] = s.output();
        let pixels = s.images * rows * cols;
        let work = pixels.saturating_mul(s.c_out).saturating_mul(s.k()) / 64;
        let isa = self.isa;
        self.pool.with_words(words, |words| {
            rounded_words(self, [inputs, s.c_in], x, w.added(), false, words);
            let (x, y) = (&*words, &mut y[..pixels * s.c_out]);
            let tiles = Tiles::new(y, s.c_out, pixels, s.c_out);
            self.pool.each_with(work, scratch, tiles, |scratch, tile| {
                isa.run_dots(Task {
                    s,
                    x,
                    w,
                    bias,
                    scratch: bytemuck::cast_slice_mut(scratch),
                    tile,
                });
            })
        })?
    }
}
