//! Activations in 8 bits.

/// Neighbours along k that share a scale.
pub const A8_BLOCK: usize = 32;

/// Rounds a block to 8 bits: its scale, and integers from −127 to 127, ties to even.
///
/// The scale is the largest magnitude over 127. A block so small that its scale would not be a normal float is all
/// zeros. A block with an infinity or NaN has the scale NaN and zeros, so that every sum over it is NaN.
///
/// ```
/// let mut x = [0.0; 32];
/// (x[0], x[1]) = (-254.0, 3.0);
/// let (scale, levels) = maquette::quant::quantise_a8(&x);
/// assert_eq!((scale, levels[0], levels[1]), (2.0, -127, 2));
/// ```
#[must_use]
#[inline(always)]
pub fn quantise_a8(x: &[f32; A8_BLOCK]) -> (f32, [i8; A8_BLOCK]) {
    /// Added to a float below 2^22, it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // As bits, magnitudes are in order, infinity and NaN above all others.
    let largest = x
        .iter()
        .fold(0, |largest, v| largest.max(v.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let (scale, inverse) = if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest / 127.0 < f32::MIN_POSITIVE {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    };
    let mut levels = [0; A8_BLOCK];
    if inverse > 0.0 {
        for (level, v) in levels.iter_mut().zip(x) {
            *level = (v * inverse + ROUND).to_bits().to_le_bytes()[0].cast_signed();
        }
    }
    (scale, levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_reach_both_ends_and_ties_go_to_even() {
        let mut x = [0.0; 32];
        for (v, i) in x.iter_mut().zip([-127.0, 127.0, 0.5, 1.5, -2.5, 126.5]) {
            *v = i * 0.25;
        }
        let (scale, levels) = quantise_a8(&x);
        assert_eq!(scale.to_bits(), 0.25_f32.to_bits());
        assert_eq!(levels[..6], [-127, 127, 0, 2, -2, 126]);
    }

    #[test]
    fn what_is_no_normal_number_is_defined() {
        let mut x = [1e-40; 32];
        let zeros = quantise_a8(&x);
        assert_eq!((zeros.0.to_bits(), zeros.1), (0, [0; 32]));
        for bad in [f32::NAN, f32::INFINITY, -f32::INFINITY] {
            x[31] = bad;
            let (scale, levels) = quantise_a8(&x);
            assert!(scale.is_nan());
            assert_eq!(levels, [0; 32]);
        }
        x = [f32::MAX; 32];
        assert_eq!(quantise_a8(&x).1, [127; 32]);
    }
}
