//! Blocks of one scale and signed integers: Q8_0, Q4_0, and Q4 in groups of 128.

use half::f16;

use super::blocks::{largest, levels, put_nibbles};
use super::{half, put_half};

/// Elements of a [`Format::Q8_0`](super::Format::Q8_0) block.
pub(super) const Q8_BLOCK: usize = 32;
/// Bytes of a [`Format::Q8_0`](super::Format::Q8_0) block: the scale, then the elements.
pub(crate) const Q8_BLOCK_BYTES: usize = 2 + Q8_BLOCK;
/// Elements of a [`Format::Q4_0`](super::Format::Q4_0) block.
pub(super) const Q4_BLOCK: usize = 32;
/// Bytes of a [`Format::Q4_0`](super::Format::Q4_0) block: the scale, then two elements a byte, `j` in the low and `j + 16` in the high half.
pub(crate) const Q4_BLOCK_BYTES: usize = 2 + Q4_BLOCK / 2;
/// Elements of a [`Format::Q4G128`](super::Format::Q4G128) block.
pub(super) const Q4G_BLOCK: usize = 128;
/// Bytes of a [`Format::Q4G128`](super::Format::Q4G128) block: the scale, then the nibbles of four
/// [`Format::Q4_0`](super::Format::Q4_0) blocks.
pub(crate) const Q4G_BLOCK_BYTES: usize = 2 + Q4G_BLOCK / 2;

/// Writes floats as Q8_0 blocks: the scale is the largest magnitude over 127, rounded to half precision.
///
/// Elements that are not finite give a block that is not finite either; callers who must not have that check first.
/// Only whole blocks are written: the rest of `x` and `out` stays as it is.
pub(super) fn quantise_q8_0(x: &[f32], out: &mut [u8]) {
    for (x, block) in x
        .chunks_exact(Q8_BLOCK)
        .zip(out.chunks_exact_mut(Q8_BLOCK_BYTES))
    {
        let largest = x
            .iter()
            .fold(0.0_f32, |m, v| if v.abs() > m { v.abs() } else { m });
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        for (v, byte) in x.iter().zip(&mut block[2..]) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "lies in -127..=127 by the choice of scale"
            )]
            let q = libm::roundf(v * inverse) as i8;
            *byte = q.cast_unsigned();
        }
    }
}

/// Reads Q8_0 blocks as floats.
pub(super) fn dequantise_q8_0(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in blocks
        .chunks_exact(Q8_BLOCK_BYTES)
        .zip(out.chunks_exact_mut(Q8_BLOCK))
    {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (q, v) in block[2..].iter().zip(out) {
            *v = scale * f32::from(q.cast_signed());
        }
    }
}

/// Writes floats as Q4_0 blocks: the scale is the element of largest magnitude over −8, so that this element is met.
///
/// As [`quantise_q8_0`] for elements that are not finite and for incomplete blocks.
pub(super) fn quantise_q4_0(x: &[f32], out: &mut [u8]) {
    for (x, block) in x
        .chunks_exact(Q4_BLOCK)
        .zip(out.chunks_exact_mut(Q4_BLOCK_BYTES))
    {
        let scale = largest(x) / -8.0;
        put_half(scale, &mut block[..2]);
        put_nibbles(levels(x, 0.0, scale, 8.0, 16), &mut block[2..]);
    }
}

/// Reads Q4_0 blocks as floats.
pub(super) fn dequantise_q4_0(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in blocks
        .chunks_exact(Q4_BLOCK_BYTES)
        .zip(out.chunks_exact_mut(Q4_BLOCK))
    {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = out.split_at_mut(Q4_BLOCK / 2);
        for ((byte, low), high) in block[2..].iter().zip(low).zip(high) {
            *low = scale * (f32::from(byte & 15) - 8.0);
            *high = scale * (f32::from(byte >> 4) - 8.0);
        }
    }
}

/// Writes floats as blocks of 128 nibbles: of some scales about the one that meets the element of largest magnitude with
/// −8, the one that errs least in squares.
///
/// As [`quantise_q8_0`] for elements that are not finite and for incomplete blocks.
pub(super) fn quantise_q4_g128(x: &[f32], out: &mut [u8]) {
    // The first one is the plain one. All meet the largest element with −8, so that blocks come back as they were.
    const ENDS: [f32; 8] = [8.0, 8.4, 8.2, 7.9, 7.8, 7.7, 7.6, 7.55];
    let blocks = x.as_chunks::<Q4G_BLOCK>().0.iter();
    for (x, block) in blocks.zip(out.as_chunks_mut::<Q4G_BLOCK_BYTES>().0) {
        let most = largest(x);
        let (mut best, mut least) = ([0.0; Q4G_BLOCK], f32::INFINITY);
        for (i, end) in ENDS.into_iter().enumerate() {
            let scale = f16::from_f32(most / -end);
            let (levels, error) = group(x, scale.to_f32());
            if i == 0 || error < least {
                (best, least) = (levels, error);
                block[..2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        let outs = block[2..].as_chunks_mut::<{ Q4_BLOCK / 2 }>().0;
        for (levels, out) in best.as_chunks::<Q4_BLOCK>().0.iter().zip(outs) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole numbers from 0 to 15"
            )]
            put_nibbles(|i| (levels[i] + 8.0) as u8, out);
        }
    }
}

/// The nearest levels from −8 to 7, and the sum of squares that they are off.
fn group(x: &[f32; Q4G_BLOCK], scale: f32) -> ([f32; Q4G_BLOCK], f32) {
    /// Added to a float below 2^22 and taken away again, it leaves the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let (mut levels, mut sums) = ([0.0; Q4G_BLOCK], [0.0; 8]);
    for (x, q) in x
        .as_chunks::<8>()
        .0
        .iter()
        .zip(levels.as_chunks_mut::<8>().0)
    {
        for ((x, q), sum) in x.iter().zip(q).zip(&mut sums) {
            let at = x * inverse;
            let at = if at > -8.0 { at } else { -8.0 };
            let at = if at < 7.0 { at } else { 7.0 };
            *q = at + ROUND - ROUND;
            let off = x - scale * *q;
            *sum += off * off;
        }
    }
    (levels, sums.iter().sum())
}

/// Reads blocks of 128 nibbles as floats.
pub(super) fn dequantise_q4_g128(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<Q4G_BLOCK_BYTES>().0.iter();
    for (block, out) in blocks.zip(out.as_chunks_mut::<Q4G_BLOCK>().0) {
        let scale = half(block, 0);
        for (i, v) in out.iter_mut().enumerate() {
            *v = scale * f32::from(nibble(&block[2..], i));
        }
    }
}

/// Element `i` of nibbles that stand as in one Q4_0 block after the other, less eight.
pub(super) fn nibble(nibbles: &[u8], i: usize) -> i8 {
    let byte = nibbles[i / Q4_BLOCK * (Q4_BLOCK / 2) + i % (Q4_BLOCK / 2)];
    (byte >> (i % Q4_BLOCK / (Q4_BLOCK / 2) * 4) & 15).cast_signed() - 8
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_block_worked_by_hand() {
        let mut x = [0.0_f32; 32];
        x[0] = 127.0;
        x[1] = -63.5;
        x[2] = 0.4;
        let mut block = [0_u8; 34];
        quantise_q8_0(&x, &mut block);
        assert_eq!(&block[..5], &[0x00, 0x3c, 127, (-64_i8).cast_unsigned(), 0]);
        let mut back = [9.0_f32; 32];
        dequantise_q8_0(&block, &mut back);
        assert_eq!(&back[..4], &[127.0, -64.0, 0.0, 0.0]);
    }

    #[test]
    fn quantising_twice_changes_nothing() {
        let x: [f32; 64] = core::array::from_fn(|i| (i as f32 * 0.37).sin_like());
        let (mut a, mut b) = ([0_u8; 68], [0_u8; 68]);
        quantise_q8_0(&x, &mut a);
        let mut y = [0.0; 64];
        dequantise_q8_0(&a, &mut y);
        quantise_q8_0(&y, &mut b);
        let mut z = [0.0; 64];
        dequantise_q8_0(&b, &mut z);
        for ((x, y), z) in x.iter().zip(&y).zip(&z) {
            assert!((x - y).abs() < 0.006 && (y - z).abs() < 0.006);
        }
    }

    #[test]
    fn a_block_of_nibbles_worked_by_hand() {
        let mut x = [0.0_f32; 32];
        (x[0], x[1], x[16], x[17]) = (-4.0, 4.0, 1.2, -0.2);
        let mut block = [0_u8; 18];
        quantise_q4_0(&x, &mut block);
        // Scale ½: −8 and 8, of which 7 is the largest there is; 2.4 and −0.4.
        assert_eq!(&block[..5], &[0x00, 0x38, 0xa0, 0x8f, 0x88]);
        let mut back = [9.0_f32; 32];
        dequantise_q4_0(&block, &mut back);
        assert_eq!(
            (back[0], back[1], back[16], back[17]),
            (-4.0, 3.5, 1.0, 0.0)
        );
    }

    #[test]
    fn a_block_of_a_group_worked_by_hand() {
        let mut x = [0.0_f32; 128];
        (x[0], x[16], x[33], x[127]) = (-4.0, 3.5, 1.0, -0.5);
        let mut block = [0_u8; 66];
        quantise_q4_g128(&x, &mut block);
        // Scale ½ meets all of them.
        assert_eq!(block[..2], [0x00, 0x38]);
        assert_eq!((block[2], block[19], block[65]), (0xf0, 0x8a, 0x78));
        let mut back = [9.0_f32; 128];
        dequantise_q4_g128(&block, &mut back);
        assert_eq!(back, x);
    }

    trait SinLike {
        fn sin_like(self) -> f32;
    }
    impl SinLike for f32 {
        fn sin_like(self) -> f32 {
            libm::sinf(self)
        }
    }
}
