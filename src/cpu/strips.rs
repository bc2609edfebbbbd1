//! Blocks of weights as the kernels read them.
//!
//! A strip is 16 outputs. Its block is 16 scales in half precision (of Q4_K also 16 scales of the offsets, and the 6-bit
//! scales and offsets in 12 lines of 16 bytes), then quads: four neighbouring k of output 0, of output 1, and so on, as
//! the instructions that multiply bytes and add fours want them. Nibbles stand 32 k after 32 k, the second 16 in the high
//! halves, whatever the canonical block has. It takes as many bytes as 16 canonical blocks, and a strip is read in one
//! stream.

use super::simd::{Dots, Lanes};
use crate::quant::{
    A8_BLOCK, Q4_BLOCK_BYTES, Q4G_BLOCK_BYTES, Q4K_BLOCK_BYTES, Q8_BLOCK_BYTES, q4_k_level,
    q4_k_part,
};

/// Outputs of a strip; a panel's width is a multiple of it.
pub(super) const STRIP: usize = 16;
/// Bytes of the scales of a strip's block.
const SCALES: usize = 2 * STRIP;
/// Bytes of a quad of all outputs of a strip.
const QUAD: usize = 4 * STRIP;
/// Bytes of the nibbles of 32 k.
const NIBBLES: usize = A8_BLOCK / 2 * STRIP;
/// Bytes of a strip's block of Q8_0. Its integers are stored with 128 added.
pub(super) const Q8_STRIP: usize = STRIP * Q8_BLOCK_BYTES;
/// Bytes of a strip's block of Q4_0. Its nibbles are integers with 8 added.
pub(super) const Q4_STRIP: usize = STRIP * Q4_BLOCK_BYTES;
/// Bytes of a strip's block of Q4_G128. Its nibbles are integers with 8 added.
pub(super) const Q4G_STRIP: usize = STRIP * Q4G_BLOCK_BYTES;
/// Bytes of a strip's block of Q4_K. Line s of the 6-bit numbers holds the scales of its 32 k number s and, in the two
/// bits above, the upper bits of the offsets; line 8 + s the lower four bits of the offsets s and s + 4.
pub(super) const Q4K_STRIP: usize = STRIP * Q4K_BLOCK_BYTES;
/// Where the 6-bit numbers of [`Q4K_STRIP`] are, and where its nibbles.
const Q4K_LINES: usize = 2 * SCALES;
const Q4K_NIBBLES: usize = Q4K_LINES + 12 * STRIP;

/// A strip's block: `PARTS` times 32 along k.
///
/// No closure stands around a vector below: compiled for itself it would lack the instruction set.
pub(super) trait StripBlock {
    /// Bytes of the canonical block of one output.
    const BYTES: usize;
    /// Blocks of activations that it meets.
    const PARTS: usize;
    /// Whether products with a part's integers lack its offset.
    const OFFSETS: bool = false;
    /// Scales of a part, from output `c` of the strip on.
    fn scales<V: Lanes>(&self, part: usize, c: usize) -> V;
    /// What is subtracted from a part's scaled integers, from output `c` of the strip on; zeros without `OFFSETS`.
    #[inline(always)]
    fn offsets<V: Lanes>(&self, _part: usize, _c: usize) -> V {
        V::splat(0.0)
    }
    /// Adds a part's integers' products with the activations of R rows, from output `c` of the strip on.
    fn dots<D: Dots, const R: usize>(&self, part: usize, c: usize, x: &[u32], sums: &mut [D; R]);
    /// Writes a part's floats in 32 lines of `width`.
    fn floats<V: Lanes>(&self, part: usize, width: usize, out: &mut [f32]);
    /// Writes the floats of one output.
    fn row(&self, c: usize, out: &mut [f32]);
    /// Takes the canonical block of one output.
    fn put(&mut self, c: usize, block: &[u8]);
}

fn half(block: &[u8], c: usize) -> f32 {
    half::f16::from_le_bytes([block[2 * c], block[2 * c + 1]]).to_f32()
}

impl StripBlock for [u8; Q8_STRIP] {
    const BYTES: usize = Q8_BLOCK_BYTES;
    const PARTS: usize = 1;

    #[inline(always)]
    fn scales<V: Lanes>(&self, _part: usize, c: usize) -> V {
        V::load_f16(&self[2 * c..])
    }

    #[inline(always)]
    fn dots<D: Dots, const R: usize>(&self, _part: usize, c: usize, x: &[u32], sums: &mut [D; R]) {
        for g in 0..8 {
            let w = D::load_quads(&self[SCALES + g * QUAD + 4 * c..]);
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = sum.dot(w, x[8 * r + g]);
            }
        }
    }

    #[inline(always)]
    fn floats<V: Lanes>(&self, _part: usize, width: usize, out: &mut [f32]) {
        for g in 0..8 {
            for c in (0..STRIP).step_by(V::N) {
                let quads = V::load_quads(&self[SCALES + g * QUAD + 4 * c..]);
                let scale = self.scales::<V>(0, c);
                let out = &mut out[4 * g * width + c..];
                for (i, line) in quads.into_iter().enumerate() {
                    scale.mul(line).store(&mut out[i * width..]);
                }
            }
        }
    }

    fn row(&self, c: usize, out: &mut [f32]) {
        let scale = half(self, c);
        for (k, out) in out.iter_mut().enumerate() {
            let byte = self[SCALES + k / 4 * QUAD + 4 * c + k % 4] ^ 0x80;
            *out = scale * f32::from(byte.cast_signed());
        }
    }

    fn put(&mut self, c: usize, block: &[u8]) {
        let (scales, quads) = self.split_at_mut(SCALES);
        scales[2 * c..][..2].copy_from_slice(&block[..2]);
        for (quad, out) in quads_of(&block[2..], quads) {
            // Adding 128 is turning the highest bit.
            let quad = u32::from_ne_bytes(*quad) ^ u32::from_ne_bytes([0x80; 4]);
            out[4 * c..][..4].copy_from_slice(&quad.to_ne_bytes());
        }
    }
}

/// Blocks of one scale for nibbles with 8 added.
macro_rules! symmetric_nibbles {
    ($strip:expr, $bytes:expr) => {
        impl StripBlock for [u8; $strip] {
            const BYTES: usize = $bytes;
            const PARTS: usize = ($strip - SCALES) / NIBBLES;

            #[inline(always)]
            fn scales<V: Lanes>(&self, _part: usize, c: usize) -> V {
                V::load_f16(&self[2 * c..])
            }

            #[inline(always)]
            fn dots<D: Dots, const R: usize>(
                &self,
                part: usize,
                c: usize,
                x: &[u32],
                sums: &mut [D; R],
            ) {
                dots_of_nibbles(&self[SCALES + part * NIBBLES..], c, x, sums);
            }

            #[inline(always)]
            fn floats<V: Lanes>(&self, part: usize, width: usize, out: &mut [f32]) {
                let nibbles = &self[SCALES + part * NIBBLES..];
                for c in (0..STRIP).step_by(V::N) {
                    let own = [self.scales::<V>(part, c), V::splat(-0.0)];
                    floats_of_nibbles::<V, 8>(nibbles, c, own, width, &mut out[c..]);
                }
            }

            fn row(&self, c: usize, out: &mut [f32]) {
                let scale = half(self, c);
                for (k, out) in out.iter_mut().enumerate() {
                    *out = scale * (f32::from(nibble(&self[SCALES..], c, k)) - 8.0);
                }
            }

            fn put(&mut self, c: usize, block: &[u8]) {
                let (scales, quads) = self.split_at_mut(SCALES);
                scales[2 * c..][..2].copy_from_slice(&block[..2]);
                for (quad, out) in quads_of(&block[2..], quads) {
                    out[4 * c..][..4].copy_from_slice(quad);
                }
            }
        }
    };
}

symmetric_nibbles!(Q4_STRIP, Q4_BLOCK_BYTES);
symmetric_nibbles!(Q4G_STRIP, Q4G_BLOCK_BYTES);

impl StripBlock for [u8; Q4K_STRIP] {
    const BYTES: usize = Q4K_BLOCK_BYTES;
    const PARTS: usize = 8;
    const OFFSETS: bool = true;

    #[inline(always)]
    fn scales<V: Lanes>(&self, part: usize, c: usize) -> V {
        V::load_f16(&self[2 * c..]).mul(V::load_low_six(&self[Q4K_LINES + part * STRIP + c..]))
    }

    #[inline(always)]
    fn offsets<V: Lanes>(&self, part: usize, c: usize) -> V {
        let upper = &self[Q4K_LINES + part * STRIP + c..];
        let lower = &self[Q4K_LINES + (8 + part % 4) * STRIP + c..];
        let own = if part < 4 {
            V::load_split_six::<0>(upper, lower)
        } else {
            V::load_split_six::<4>(upper, lower)
        };
        V::load_f16(&self[SCALES + 2 * c..]).mul(own)
    }

    #[inline(always)]
    fn dots<D: Dots, const R: usize>(&self, part: usize, c: usize, x: &[u32], sums: &mut [D; R]) {
        dots_of_nibbles(&self[Q4K_NIBBLES + part * NIBBLES..], c, x, sums);
    }

    #[inline(always)]
    fn floats<V: Lanes>(&self, part: usize, width: usize, out: &mut [f32]) {
        let nibbles = &self[Q4K_NIBBLES + part * NIBBLES..];
        for c in (0..STRIP).step_by(V::N) {
            let offset = self.offsets::<V>(part, c).mul(V::splat(-1.0));
            let own = [self.scales::<V>(part, c), offset];
            floats_of_nibbles::<V, 0>(nibbles, c, own, width, &mut out[c..]);
        }
    }

    fn row(&self, c: usize, out: &mut [f32]) {
        for (part, out) in out.chunks_mut(A8_BLOCK).enumerate() {
            let line = self[Q4K_LINES + part * STRIP + c];
            let low = self[Q4K_LINES + (8 + part % 4) * STRIP + c] >> (part / 4 * 4) & 15;
            let scale = half(self, c) * f32::from(line & 63);
            let offset = half(&self[SCALES..], c) * f32::from(line >> 6 << 4 | low);
            for (k, out) in out.iter_mut().enumerate() {
                let q = nibble(&self[Q4K_NIBBLES + part * NIBBLES..], c, k);
                *out = scale * f32::from(q) - offset;
            }
        }
    }

    fn put(&mut self, c: usize, block: &[u8]) {
        self[2 * c..][..2].copy_from_slice(&block[..2]);
        self[SCALES + 2 * c..][..2].copy_from_slice(&block[2..4]);
        for part in 0..Self::PARTS {
            let [scale, offset] = q4_k_part(block, part);
            self[Q4K_LINES + part * STRIP + c] = scale | offset >> 4 << 6;
            let low = &mut self[Q4K_LINES + (8 + part % 4) * STRIP + c];
            *low = if part < 4 {
                offset & 15
            } else {
                *low & 15 | offset << 4
            };
            let quads = self[Q4K_NIBBLES + part * NIBBLES..].chunks_exact_mut(QUAD);
            for (g, out) in quads.take(4).enumerate() {
                let first = part * A8_BLOCK + 4 * g;
                for (i, out) in out[4 * c..][..4].iter_mut().enumerate() {
                    let [low, high] = [0, 16].map(|far| q4_k_level(block, first + i + far));
                    *out = low | high << 4;
                }
            }
        }
    }
}

/// The quads of a canonical block, each with its place in the strip's.
fn quads_of<'a>(
    block: &'a [u8],
    quads: &'a mut [u8],
) -> impl Iterator<Item = (&'a [u8; 4], &'a mut [u8])> {
    let out = quads.chunks_exact_mut(QUAD);
    block.as_chunks::<4>().0.iter().zip(out)
}

/// Nibble `k` of output `c`.
fn nibble(quads: &[u8], c: usize, k: usize) -> u8 {
    let (part, far, quad) = (k / A8_BLOCK, k % A8_BLOCK / 16, k % 16 / 4);
    quads[part * NIBBLES + quad * QUAD + 4 * c + k % 4] >> (4 * far) & 15
}

/// Adds the products of 32 nibbles of each output, from output `c` on, with the activations of R rows.
#[inline(always)]
fn dots_of_nibbles<D: Dots, const R: usize>(quads: &[u8], c: usize, x: &[u32], sums: &mut [D; R]) {
    for g in 0..4 {
        let [low, high] = D::load_nibbles(&quads[g * QUAD + 4 * c..]);
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = sum.dot(low, x[8 * r + g]).dot(high, x[8 * r + g + 4]);
        }
    }
}

/// Writes 32 lines of scale · (nibble − LESS) + added, from output `c` on.
#[inline(always)]
fn floats_of_nibbles<V: Lanes, const LESS: i32>(
    quads: &[u8],
    c: usize,
    [scale, added]: [V; 2],
    width: usize,
    out: &mut [f32],
) {
    for g in 0..4 {
        let halves = V::load_nibble_quads::<LESS>(&quads[g * QUAD + 4 * c..]);
        for (far, lines) in halves.into_iter().enumerate() {
            let out = &mut out[(16 * far + 4 * g) * width..];
            for (i, line) in lines.into_iter().enumerate() {
                scale.mul(line).add(added).store(&mut out[i * width..]);
            }
        }
    }
}
