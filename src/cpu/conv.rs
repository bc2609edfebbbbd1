//! Convolution as a product: a strip of output pixels gathers its inputs block by block along k, so that each block of
//! inputs is gathered once and meets the panels of all output channels.

use super::Cpu;
use super::gemm::{Rows, block, finish, halves};
use super::packed::{PANEL, Packed, panel, panel_scratch};
use super::simd::{Job, Lanes};
use super::tiles::{ROWS, Tile, Tiles};
use crate::error::Result;
use crate::ops::conv::ConvShape;
use crate::ops::gemm::{Activations, SUM_BLOCK};
use crate::quant::Format;

/// A strip of output pixels.
struct Strip<'a> {
    s: ConvShape,
    x: &'a [f32],
    w: &'a Packed,
    bias: &'a [f32],
    scratch: &'a mut [f32],
    tile: Tile<'a>,
}

impl Job for Strip<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let s = self.s;
        let k_all = s.k();
        let (sums, rest) = self
            .scratch
            .split_at_mut(s.c_out.div_ceil(PANEL) * ROWS * PANEL);
        let (inputs, scratch) = rest.split_at_mut(ROWS * SUM_BLOCK);
        let sums = sums.as_chunks_mut::<PANEL>().0.as_chunks_mut::<ROWS>().0;
        sums.as_flattened_mut().as_flattened_mut().fill(0.0);
        for from in (0..k_all).step_by(SUM_BLOCK) {
            let k = SUM_BLOCK.min(k_all - from);
            for (r, inputs) in inputs.chunks_exact_mut(k).take(self.tile.len).enumerate() {
                gather(&s, self.x, self.tile.row + r, from, inputs);
            }
            for (p, sums) in sums.iter_mut().enumerate() {
                let panel = panel::<V>(self.w, p * PANEL, from, k, scratch);
                block::<V>(
                    Rows {
                        x: inputs,
                        stride: k,
                        len: self.tile.len,
                    },
                    panel,
                    sums,
                );
            }
        }
        for (r, y) in self.tile.rows().enumerate() {
            for ((y, sums), bias) in y.chunks_mut(PANEL).zip(&*sums).zip(self.bias.chunks(PANEL)) {
                finish(&sums[r], Some(bias), s.accumulate, y);
            }
        }
    }
}

/// The inputs `from .. from + out.len()` of one output pixel, zeros where there is none.
#[inline(always)]
fn gather(s: &ConvShape, x: &[f32], pixel: usize, from: usize, mut out: &mut [f32]) {
    let [rows, cols] = s.output();
    let (image, r, c) = (pixel / (rows * cols), pixel / cols % rows, pixel % cols);
    let (mut tap, mut channel) = (from / s.c_in, from % s.c_in);
    while !out.is_empty() {
        let len = (s.c_in - channel).min(out.len());
        let (part, rest) = out.split_at_mut(len);
        out = rest;
        if let (Some(h), Some(w)) = (
            s.tap(r, tap / s.kernel, s.height),
            s.tap(c, tap % s.kernel, s.width),
        ) {
            part.copy_from_slice(
                &x[((image * s.height + h) * s.width + w) * s.c_in + channel..][..len],
            );
        } else {
            part.fill(0.0);
        }
        (tap, channel) = (tap + 1, 0);
    }
}

impl Cpu {
    pub(super) fn convolution(
        &self,
        s: ConvShape,
        x: &[f32],
        w: &Packed,
        bias: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        s.check(x.len(), bias.len(), y.len())?;
        s.product(1).check_matrix(w.n, w.k)?;
        let [rows, cols] = s.output();
        let pixels = s.images * rows * cols;
        if s.kernel == 1 && s.stride == 1 && s.pad_before == 0 && s.pad_after == 0 && !s.upsample {
            return self.product(s.product(pixels), x, w, Some(bias), y);
        }
        if let (Activations::A8, Some(strips)) = (s.product(1).activations, w.strips()) {
            return self.integer_convolution(s, x, strips, bias, y);
        }
        if s.product(1).activations == Activations::Bf16 && w.format() != Format::F32 {
            let x = halves(&x[..s.images * s.height * s.width * s.c_in])?;
            let floats = ConvShape {
                activations: Activations::F32,
                ..s
            };
            return self.convolution(floats, &x, w, bias, y);
        }
        let len = s.c_out.div_ceil(PANEL) * ROWS * PANEL + ROWS * SUM_BLOCK + panel_scratch(w);
        let work = pixels.saturating_mul(s.c_out).saturating_mul(s.k()) / 8;
        let tiles = Tiles::new(&mut y[..pixels * s.c_out], s.c_out, pixels, s.c_out);
        let (isa, bias) = (self.isa, &bias[..s.c_out]);
        self.pool.each_with(work, len, tiles, |scratch, tile| {
            isa.run(Strip {
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
