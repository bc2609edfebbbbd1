//! Blocks of weights as the kernels read them.
//!
//! A strip is 16 outputs. Its block is 16 scales in half precision, then quads: four neighbouring k of output 0, of
//! output 1, and so on, as the instructions that multiply bytes and add fours want them. It takes as many bytes as 16
//! canonical blocks, and a strip is read in one stream.

use super::simd::{Dots, Lanes};
use crate::quant::{Q4_BLOCK_BYTES, Q8_BLOCK, Q8_BLOCK_BYTES};

/// Outputs of a strip; a panel's width is a multiple of it.
pub(super) const STRIP: usize = 16;
/// Bytes of the scales of a strip's block.
pub(super) const SCALES: usize = 2 * STRIP;
/// Bytes of a quad of all outputs of a strip.
pub(super) const QUAD: usize = 4 * STRIP;
/// Bytes of a strip's block of Q8_0. Its integers are stored with 128 added.
pub(super) const Q8_STRIP: usize = STRIP * Q8_BLOCK_BYTES;
/// Bytes of a strip's block of Q4_0. Each byte holds two integers with 8 added, the higher one 16 further along k.
pub(super) const Q4_STRIP: usize = STRIP * Q4_BLOCK_BYTES;

/// A strip's block.
///
/// No closure stands around a vector below: compiled for itself it would lack the instruction set.
pub(super) trait StripBlock {
    /// Scales from output `c` of the strip on.
    fn scales<V: Lanes>(&self, c: usize) -> V;
    /// Adds the integers' products with the activations of R rows, from output `c` of the strip on.
    fn dots<D: Dots, const R: usize>(&self, c: usize, x: &[u32], sums: &mut [D; R]);
    /// Writes the floats of k in lines of `width`.
    fn floats<V: Lanes>(&self, width: usize, out: &mut [f32]);
    /// Writes the floats of one output.
    fn row(&self, c: usize, out: &mut [f32; Q8_BLOCK]);
}

fn scale(block: &[u8], c: usize) -> f32 {
    half::f16::from_le_bytes([block[2 * c], block[2 * c + 1]]).to_f32()
}

impl StripBlock for [u8; Q8_STRIP] {
    #[inline(always)]
    fn scales<V: Lanes>(&self, c: usize) -> V {
        V::load_f16(&self[2 * c..])
    }

    #[inline(always)]
    fn dots<D: Dots, const R: usize>(&self, c: usize, x: &[u32], sums: &mut [D; R]) {
        for g in 0..8 {
            let w = D::load_quads(&self[SCALES + g * QUAD + 4 * c..]);
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = sum.dot(w, x[8 * r + g]);
            }
        }
    }

    #[inline(always)]
    fn floats<V: Lanes>(&self, width: usize, out: &mut [f32]) {
        for g in 0..8 {
            for c in (0..STRIP).step_by(V::N) {
                let quads = V::load_quads(&self[SCALES + g * QUAD + 4 * c..]);
                write_lines(
                    self.scales::<V>(c),
                    quads,
                    width,
                    &mut out[4 * g * width + c..],
                );
            }
        }
    }

    fn row(&self, c: usize, out: &mut [f32; Q8_BLOCK]) {
        let scale = scale(self, c);
        for (k, out) in out.iter_mut().enumerate() {
            let byte = self[SCALES + k / 4 * QUAD + 4 * c + k % 4] ^ 0x80;
            *out = scale * f32::from(byte.cast_signed());
        }
    }
}

impl StripBlock for [u8; Q4_STRIP] {
    #[inline(always)]
    fn scales<V: Lanes>(&self, c: usize) -> V {
        V::load_f16(&self[2 * c..])
    }

    #[inline(always)]
    fn dots<D: Dots, const R: usize>(&self, c: usize, x: &[u32], sums: &mut [D; R]) {
        for g in 0..4 {
            let [low, high] = D::load_nibbles(&self[SCALES + g * QUAD + 4 * c..]);
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = sum.dot(low, x[8 * r + g]).dot(high, x[8 * r + g + 4]);
            }
        }
    }

    #[inline(always)]
    fn floats<V: Lanes>(&self, width: usize, out: &mut [f32]) {
        for g in 0..4 {
            for c in (0..STRIP).step_by(V::N) {
                let [low, high] = V::load_nibble_quads(&self[SCALES + g * QUAD + 4 * c..]);
                let scale = self.scales::<V>(c);
                write_lines(scale, low, width, &mut out[4 * g * width + c..]);
                write_lines(scale, high, width, &mut out[(16 + 4 * g) * width + c..]);
            }
        }
    }

    fn row(&self, c: usize, out: &mut [f32; Q8_BLOCK]) {
        let scale = scale(self, c);
        for (k, out) in out.iter_mut().enumerate() {
            let byte = self[SCALES + k % 16 / 4 * QUAD + 4 * c + k % 4];
            *out = scale * (f32::from(byte >> (k / 16 * 4) & 15) - 8.0);
        }
    }
}

/// Four lines of scaled integers.
#[inline(always)]
fn write_lines<V: Lanes>(scale: V, lines: [V; 4], width: usize, out: &mut [f32]) {
    for (i, line) in lines.into_iter().enumerate() {
        scale.mul(line).store(&mut out[i * width..]);
    }
}
