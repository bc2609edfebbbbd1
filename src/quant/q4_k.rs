//! Q4_K: 256 elements of 4 bits, with a 6-bit scale and a 6-bit offset for every 32.
//!
//! Element i is (d · s) · q − (e · o), where d and e are the block's half-precision scales, s and o the scale and the offset
//! of its 32 neighbours, and q its nibble. Both products in brackets are exact in single precision.

use super::{half, put_half};

/// Elements of a [`Format::Q4K`](super::Format::Q4K) block.
pub(super) const Q4K_BLOCK: usize = 256;
/// Bytes of a [`Format::Q4K`](super::Format::Q4K) block: scale, scale of the offsets, 12 bytes of scales and offsets, and
/// nibbles, of each 64 elements the first 32 in the low halves of 32 bytes.
pub(crate) const Q4K_BLOCK_BYTES: usize = 16 + Q4K_BLOCK / 2;

/// Neighbours that share a scale and an offset.
const PART: usize = 32;
const PARTS: usize = Q4K_BLOCK / PART;
/// The largest scale and offset, and the largest level.
const MOST: u8 = 63;
const TOP: f32 = 15.0;

/// Scale and offset of part `s`: four of each lie whole in twelve bytes, the other four in halves.
pub(crate) fn part(block: &[u8], s: usize) -> [u8; 2] {
    let packed = &block[4..16];
    if s < 4 {
        [packed[s] & 63, packed[s + 4] & 63]
    } else {
        let low = packed[s + 4];
        [
            low & 15 | packed[s - 4] >> 6 << 4,
            low >> 4 | packed[s] >> 6 << 4,
        ]
    }
}

/// Writes what [`part`] reads.
fn put_parts(parts: [[u8; 2]; PARTS], packed: &mut [u8]) {
    for s in 0..4 {
        let ([scale, offset], [other_scale, other_offset]) = (parts[s], parts[s + 4]);
        packed[s] = scale | other_scale >> 4 << 6;
        packed[s + 4] = offset | other_offset >> 4 << 6;
        packed[s + 8] = other_scale & 15 | other_offset << 4;
    }
}

/// The nibble of element `i`.
pub(crate) fn level(block: &[u8], i: usize) -> u8 {
    block[16 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

/// Reads Q4_K blocks as floats.
pub(super) fn dequantise_q4_k(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<Q4K_BLOCK_BYTES>().0.iter();
    for (block, out) in blocks.zip(out.as_chunks_mut::<Q4K_BLOCK>().0) {
        let (scale, offset) = (half(block, 0), half(block, 2));
        for (s, out) in out.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
            let [own, least] = part(block, s).map(f32::from);
            let (scale, offset) = (scale * own, offset * least);
            for (v, byte) in out.iter_mut().zip(&block[16 + s / 2 * 32..]) {
                let q = byte >> (s % 2 * 4) & 15;
                *v = scale * f32::from(q) - offset;
            }
        }
    }
}

/// Writes floats as Q4_K blocks.
///
/// Every 32 elements look for the scale and the offset that err least in squares: some grids about the one that spans
/// them, each moved to its best place by a least-squares fit. Then the scales and offsets are rounded to 6 bits, again
/// by the error that each choice leaves.
///
/// As [`quantise_q8_0`](super::symmetric::quantise_q8_0) for elements that are not finite and for incomplete blocks.
pub(super) fn quantise_q4_k(x: &[f32], out: &mut [u8]) {
    let blocks = x.as_chunks::<Q4K_BLOCK>().0.iter();
    for (x, block) in blocks.zip(out.as_chunks_mut::<Q4K_BLOCK_BYTES>().0) {
        let x = x.as_chunks::<PART>().0;
        let mut grids = [[Grid::default(); 2]; PARTS];
        for (grids, x) in grids.iter_mut().zip(x) {
            *grids = Grid::of(x);
        }
        let (mut scale, mut offset) = (0.0_f32, 0.0_f32);
        for [_, grid] in &grids {
            scale = if grid.scale > scale {
                grid.scale
            } else {
                scale
            };
            offset = if grid.offset > offset {
                grid.offset
            } else {
                offset
            };
        }
        let most = f32::from(MOST);
        put_half(scale / most, &mut block[..2]);
        put_half(offset / most, &mut block[2..4]);
        let shared = [half(block, 0), half(block, 2)];
        let mut parts = [[0; 2]; PARTS];
        block[16..].fill(0);
        for (s, (x, grids)) in x.iter().zip(grids).enumerate() {
            let (part, levels) = rounded(x, grids, shared);
            parts[s] = part;
            for (byte, q) in block[16 + s / 2 * 32..].iter_mut().zip(levels) {
                *byte |= whole(q) << (s % 2 * 4);
            }
        }
        put_parts(parts, &mut block[4..16]);
    }
}

/// Sixteen levels, scale · q − offset.
#[derive(Debug, Clone, Copy, Default)]
struct Grid {
    scale: f32,
    offset: f32,
}

impl Grid {
    /// The grid that spans some numbers and zero, and the best one that was found.
    fn of(x: &[f32; PART]) -> [Self; 2] {
        /// Steps of the grids that are tried, beside the spanning one's 15.
        const STEPS: [f32; 8] = [14.1, 14.4, 14.7, 15.0, 15.3, 15.6, 15.9, 13.8];
        let (mut least, mut most) = (0.0_f32, 0.0_f32);
        for v in x {
            least = if *v < least { *v } else { least };
            most = if *v > most { *v } else { most };
        }
        let span = most - least;
        let plain = Self {
            scale: span / TOP,
            offset: -least,
        };
        let (mut best, mut error) = (plain, plain.error(x, &plain.levels(x)));
        for steps in STEPS {
            let scale = span / steps;
            let levels = Self { scale, ..plain }.levels(x);
            if let Some(grid) = Self::fit(x, &levels) {
                let own = grid.error(x, &levels);
                if own < error {
                    (best, error) = (grid, own);
                }
            }
        }
        [plain, best]
    }

    /// The grid whose levels come nearest, its offset not below zero.
    fn fit(x: &[f32; PART], levels: &[f32; PART]) -> Option<Self> {
        let n = PART as f32;
        let (q, qq) = (sum(levels, &[1.0; PART]), sum(levels, levels));
        let (v, vq) = (sum(x, &[1.0; PART]), sum(x, levels));
        let det = n * qq - q * q;
        if det <= 0.0 {
            return None;
        }
        let (mut scale, mut least) = ((n * vq - v * q) / det, (qq * v - q * vq) / det);
        if least > 0.0 {
            (scale, least) = (vq / qq, 0.0);
        }
        (scale > 0.0).then_some(Self {
            scale,
            offset: -least,
        })
    }

    /// The nearest levels.
    fn levels(self, x: &[f32; PART]) -> [f32; PART] {
        /// Added to a float below 2^22 and taken away again, it leaves the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        let inverse = if self.scale > 0.0 {
            1.0 / self.scale
        } else {
            0.0
        };
        let mut out = [0.0; PART];
        for (q, v) in out.iter_mut().zip(x) {
            let at = (v + self.offset) * inverse;
            let at = if at > 0.0 { at } else { 0.0 };
            let at = if at < TOP { at } else { TOP };
            *q = at + ROUND - ROUND;
        }
        out
    }

    /// The sum of squares between numbers and levels.
    fn error(self, x: &[f32; PART], levels: &[f32; PART]) -> f32 {
        let mut off = [0.0; PART];
        for ((off, v), q) in off.iter_mut().zip(x).zip(levels) {
            *off = v - (self.scale * q - self.offset);
        }
        sum(&off, &off)
    }
}

/// Σ x · y, in an order that vectors like.
fn sum(x: &[f32; PART], y: &[f32; PART]) -> f32 {
    let mut sums = [0.0; 8];
    for (x, y) in x.as_chunks::<8>().0.iter().zip(y.as_chunks::<8>().0) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The scale and the offset in 6 bits, and the levels with them: of the neighbours of the best grid and of the plain grid's
/// rounding, those that err least.
fn rounded(x: &[f32; PART], [plain, best]: [Grid; 2], shared: [f32; 2]) -> ([u8; 2], [f32; PART]) {
    let nearest = |grid: Grid| {
        let near = |v: f32, unit: f32| if unit > 0.0 { whole(v / unit) } else { 0 };
        [near(grid.scale, shared[0]), near(grid.offset, shared[1])]
    };
    let (mut part, mut error) = ([0; 2], f32::INFINITY);
    let mut levels = [0.0; PART];
    let mut with = |tried: [u8; 2], first: bool| {
        let grid = Grid {
            scale: shared[0] * f32::from(tried[0]),
            offset: shared[1] * f32::from(tried[1]),
        };
        let own_levels = grid.levels(x);
        let own = grid.error(x, &own_levels);
        if first || own < error {
            (part, error, levels) = (tried, own, own_levels);
        }
    };
    let [scale, offset] = nearest(best);
    with([scale, offset], true);
    with(nearest(plain), false);
    for s in scale.saturating_sub(1)..=(scale + 1).min(MOST) {
        for o in offset.saturating_sub(1)..=(offset + 1).min(MOST) {
            if [s, o] != [scale, offset] {
                with([s, o], false);
            }
        }
    }
    (part, levels)
}

/// The nearest whole number from 0 to 63.
fn whole(v: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast truncates and saturates, and what is no number becomes zero"
    )]
    let v = (v + 0.5) as u8;
    v.min(MOST)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_block_worked_by_hand() {
        // Part s has scale (63 − 8s)/64 and offset (63 − 9s)/32, and every level twice.
        let x: [f32; 256] = core::array::from_fn(|i| {
            let (s, q) = ((i / 32) as f32, (i % 16) as f32);
            (63.0 - 8.0 * s) / 64.0 * q - (63.0 - 9.0 * s) / 32.0
        });
        let mut block = [0; 144];
        quantise_q4_k(&x, &mut block);
        assert_eq!((half(&block, 0), half(&block, 2)), (1.0 / 64.0, 1.0 / 32.0));
        assert_eq!(
            [0, 3, 7].map(|s| part(&block, s)),
            [[63, 63], [39, 36], [7, 0]]
        );
        // Scale 7 = 0b00_0111 and offset 0 of part 7, their low halves in one byte.
        assert_eq!((block[15], block[7] >> 6, block[11] >> 6), (0x07, 0, 0));
        let mut back = [9.0; 256];
        dequantise_q4_k(&block, &mut back);
        assert_eq!(back, x);
        assert!((0..256).all(|i| usize::from(level(&block, i)) == i % 16));
    }

    #[test]
    fn scales_and_offsets_are_read_as_they_were_written() {
        let mut block = [0; 16];
        for seed in 0..64_u8 {
            let parts: [[u8; 2]; 8] = core::array::from_fn(|s| {
                let s = u8::try_from(s).unwrap();
                let mix = |a: u8, b: u8, c: u8| {
                    let sum = seed.wrapping_mul(a).wrapping_add(s.wrapping_mul(b));
                    sum.wrapping_add(c) & 63
                };
                [mix(5, 11, 0), mix(3, 29, 7)]
            });
            put_parts(parts, &mut block[4..]);
            let back: [[u8; 2]; 8] = core::array::from_fn(|s| part(&block, s));
            assert_eq!(back, parts);
        }
    }

    #[test]
    fn numbers_of_no_use_give_blocks_that_are_read_without_harm() {
        let mut block = [0xaa; 144];
        quantise_q4_k(&[0.0; 256], &mut block);
        assert_eq!(block, [0; 144]);
        for (odd, at) in [(f32::INFINITY, 0), (f32::MAX, 0), (f32::NEG_INFINITY, 2)] {
            let mut x = [1.0; 256];
            x[77] = odd;
            quantise_q4_k(&x, &mut block);
            assert!(!half(&block, at).is_finite(), "{odd}");
        }
        let (mut x, mut back) = ([1.0; 256], [0.0; 256]);
        x[77] = f32::MIN_POSITIVE / 2.0;
        quantise_q4_k(&x, &mut block);
        dequantise_q4_k(&block, &mut back);
        assert!(x.iter().zip(back).all(|(x, y)| (x - y).abs() < 0.05));
    }
}
