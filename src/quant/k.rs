//! Blocks of 256 elements: two levels of scales. Read only; Q4_K, which is written too, has a file of its own.

use super::half;
use super::q4_k;

/// 16 bytes of scale and offset (a nibble each), 64 of elements, scale, offset.
pub(super) fn q2(block: &[u8], out: &mut [f32]) {
    let (scale, offset) = (half(block, 80), half(block, 82));
    for (i, v) in out.iter_mut().enumerate() {
        let part = block[i / 16];
        let (scale, offset) = (scale * f32::from(part & 15), offset * f32::from(part >> 4));
        let q = block[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        *v = scale * f32::from(q) - offset;
    }
}

/// 32 bytes of third bits, 64 of the two lower ones, 12 of scales, scale.
pub(super) fn q3(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 108);
    for (i, v) in out.iter_mut().enumerate() {
        let s = i / 16;
        let low = block[96 + s % 8] >> (s / 8 * 4) & 15;
        let high = block[104 + s % 4] >> (s / 4 * 2) & 3;
        let part = f32::from(low | high << 4) - 32.0;
        let q = block[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        // A third bit that is set means no offset.
        let set = block[i % 32] >> (i / 32) & 1;
        *v = scale * part * (f32::from(q) - if set == 1 { 0.0 } else { 4.0 });
    }
}

/// Scale, offset, 12 bytes of scales and offsets, 32 of fifth bits, 128 of the four lower ones.
pub(super) fn q5(block: &[u8], out: &mut [f32]) {
    let (scale, offset) = (half(block, 0), half(block, 2));
    for (s, out) in out.chunks_exact_mut(32).enumerate() {
        let [own, least] = q4_k::part(block, s).map(f32::from);
        let (scale, offset) = (scale * own, offset * least);
        let bits = &block[16..48];
        for ((v, byte), bits) in out.iter_mut().zip(&block[48 + s / 2 * 32..]).zip(bits) {
            let q = byte >> (s % 2 * 4) & 15 | (bits >> s & 1) << 4;
            *v = scale * f32::from(q) - offset;
        }
    }
}

/// 128 bytes of the four lower bits, 64 of the two upper ones, 16 scales, scale.
pub(super) fn q6(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 208);
    for (i, v) in out.iter_mut().enumerate() {
        let part = f32::from(block[192 + i / 16].cast_signed());
        let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        let high = block[128 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        *v = scale * part * (f32::from(low | high << 4) - 32.0);
    }
}
