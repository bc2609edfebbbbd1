//! Elementary functions with the same bits everywhere: with and without std, scalar and vectorised.
//!
//! The ones that stand in inner loops are written here without branches, so that the compiler can vectorise them;
//! the others go through `libm`.
//!
//! ```
//! use maquette::math;
//! assert_eq!((math::exp(0.0), math::sigmoid(0.0)), (1.0, 0.5));
//! ```

pub use libm::{cosf as cos, sinf as sin, sqrtf as sqrt};

const LOG2_E: f32 = core::f32::consts::LOG2_E;
// ln 2 in two parts: the first has few bits, so that n · LN2_HIGH is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// The exponential function, to about 2 units in the last place; 0 below -87.3, infinite above 88.7, NaN for NaN.
#[inline]
#[must_use]
pub fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5·2^23 rounds to the nearest integer without a branch.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 88.8 { 88.8 } else { x };
    let clamped = if clamped < -88.0 { -88.0 } else { clamped };
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let p = (p * r) * r + r + 1.0;
    // 2^n in two factors: n = 128 has no float of its own, and n = -127 no normal one.
    let half = ((n + ROUND).to_bits() as i32 - ROUND.to_bits() as i32) / 2;
    let rest = ((n + ROUND).to_bits() as i32 - ROUND.to_bits() as i32) - half;
    let y = p * power_of_two(half) * power_of_two(rest);
    if x < -87.3 { 0.0 } else { y }
}

#[inline]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23).cast_unsigned())
}

/// The natural logarithm of a positive normal number, to about 2 units in the last place.
#[inline]
#[must_use]
pub fn ln(x: f32) -> f32 {
    let bits = x.to_bits().cast_signed();
    // Exponent such that the mantissa lies in [sqrt(1/2), sqrt(2)).
    let e = (bits - 0x3f35_04f3) >> 23;
    let m = f32::from_bits((bits - (e << 23)).cast_unsigned()) - 1.0;
    let z = m * m;
    let mut p = 7.037_683_6e-2_f32;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_9e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_7e-1;
    p = p * m + 2.000_071_5e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333e-1;
    let e = e as f32;
    let tail = p * m * z + e * LN2_LOW - 0.5 * z;
    m + tail + e * LN2_HIGH
}

/// The hyperbolic tangent, to about 1e-7.
#[inline]
#[must_use]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// The logistic function.
#[inline]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x · σ(x), called SiLU or swish.
#[inline]
#[must_use]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// GELU in its tanh approximation.
#[inline]
#[must_use]
pub fn gelu_tanh(x: f32) -> f32 {
    const ROOT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// The error function, to about 1.5e-7.
#[inline]
#[must_use]
pub fn erf(x: f32) -> f32 {
    // x times a polynomial in x² below 1, else 1 minus a falling exponential times one in 1 / (1 + x / 2); the
    // coefficients interpolate at Chebyshev points. Both are worked out, so that there is no branch.
    let a = x.abs();
    let z = x * x;
    let mut p = 1.058_937_2e-6_f32;
    p = p * z - 1.390_933_6e-5;
    p = p * z + 1.195_656_2e-4;
    p = p * z - 8.542_638e-4;
    p = p * z + 5.223_783_7e-3;
    p = p * z - 2.686_613_2e-2;
    p = p * z + 1.128_379_1e-1;
    p = p * z - 3.761_263_8e-1;
    p = p * z + core::f32::consts::FRAC_2_SQRT_PI;
    let near = x * p;
    let t = 1.0 / (1.0 + 0.5 * a);
    let mut p = 5.639_581_8e-2_f32;
    p = p * t - 1.032_631_4e-1;
    p = p * t - 9.009_489e-2;
    p = p * t + 1.937_434e-1;
    p = p * t + 1.183_131_56e-1;
    p = p * t + 2.632_769e-1;
    p = p * t + 2.796_254_2e-1;
    p = p * t + 2.822_497e-1;
    let far = 1.0 - p * t * exp(-(a * a));
    let far = if x < 0.0 { -far } else { far };
    // No number is on neither side, and stays one that is none.
    if a >= 1.0 { far } else { near }
}

/// GELU by the error function.
#[inline]
#[must_use]
pub fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_stays_close_to_libm() {
        for i in -8700..8870 {
            let x = i as f32 * 0.01;
            let want = libm::exp(f64::from(x));
            let got = f64::from(exp(x));
            assert!(
                (got - want).abs() <= want * 3e-7 + 2e-38,
                "exp({x}) = {got}, not {want}"
            );
        }
        assert_eq!(exp(-100.0).to_bits(), 0);
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert!(exp(100.0).is_infinite());
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
    }

    #[test]
    fn ln_stays_close_to_libm() {
        for i in 1..40000 {
            let x = i as f32 * 1.37e-4;
            let want = libm::log(f64::from(x));
            assert!(
                (f64::from(ln(x)) - want).abs() <= want.abs() * 3e-7 + 1e-7,
                "ln({x})"
            );
        }
        assert!((ln(1.0e-30) + 69.077_55).abs() < 1e-4);
    }

    #[test]
    fn tanh_and_its_users_stay_close_to_libm() {
        for i in -1200..1200 {
            let x = i as f32 * 0.01;
            assert!((tanh(x) - libm::tanhf(x)).abs() < 3e-7, "tanh({x})");
        }
        for i in -1200..1200 {
            let x = i as f32 * 0.01;
            assert!((erf(x) - libm::erff(x)).abs() < 2.5e-7, "erf({x})");
        }
        assert!(erf(f32::NAN).is_nan());
        assert_eq!(erf(f32::NEG_INFINITY).to_bits(), (-1.0_f32).to_bits());
        assert!((gelu_erf(1.0) - 0.841_344_7).abs() < 1e-6);
        assert!((gelu_tanh(1.0) - 0.841_192).abs() < 1e-6);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
    }
}
