//! What quantising may cost: error bounds of every format.

#[cfg(feature = "safetensors")]
#[path = "quant/loaded.rs"]
mod loaded;

use maquette::quant::{Block, Format};
use proptest::prelude::*;

/// Half precision keeps eleven bits of a scale, and its smallest step is 2⁻²⁴.
const HALF: f32 = 1.0 / 2048.0;
const HALF_STEP: f32 = 1.0 / 16_777_216.0;
/// Room for the F32 roundings on the way, in units of the largest number.
const ROUNDING: f32 = 1e-6;

fn back(block: Block, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; x.len() / block.len() * block.bytes()];
    block.quantise(x, &mut bytes).unwrap();
    let mut out = vec![0.0; x.len()];
    block.dequantise(&bytes, &mut out);
    out
}

/// Numbers of one block whose sizes span many orders.
fn numbers() -> impl Strategy<Value = Vec<f32>> {
    (prop::collection::vec(-1.0_f32..1.0, 32), -20..14_i32)
        .prop_map(|(x, e)| x.into_iter().map(|v| v * 2.0_f32.powi(e)).collect())
}

/// Some blocks of them, of different sizes, from 2 to the power of `least` on.
fn wide(len: usize, least: i32) -> impl Strategy<Value = Vec<f32>> {
    let block = (prop::collection::vec(-1.0_f32..1.0, 32), -3..3_i32);
    (prop::collection::vec(block, len / 32), least..10_i32).prop_map(|(blocks, e)| {
        let scaled =
            |(x, own): (Vec<f32>, i32)| x.into_iter().map(move |v| v * 2.0_f32.powi(e + own));
        blocks.into_iter().flat_map(scaled).collect()
    })
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, v| v.abs().max(m))
}

fn near(x: &[f32], y: &[f32], bound: impl Fn(f32) -> f32) -> Result<(), TestCaseError> {
    for (&x, &y) in x.iter().zip(y) {
        prop_assert!(
            (x - y).abs() <= bound(x),
            "{x} became {y}, allowed is {}",
            bound(x)
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_f32_is_kept_and_bf16_keeps_eight_bits(x in numbers()) {
        for (format, share) in [(Format::F32, 0.0), (Format::Bf16, 1.0 / 256.0)] {
            let mut bytes = vec![0; format.bytes(1, x.len()).unwrap()];
            let mut y = vec![0.0; x.len()];
            format.quantise(&x, &mut bytes);
            format.dequantise(&bytes, &mut y);
            near(&x, &y, |v| v.abs() * share)?;
        }
    }

    /// From the smallest numbers there are to the largest: BF16 has the range of F32 but for its end, where it rounds up.
    #[test]
    fn prop_f32_and_bf16_hold_numbers_of_any_size(bits in prop::collection::vec(any::<u32>(), 32)) {
        let x: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|v| v.abs() < 3.3e38).collect();
        let least = f32::from_bits(1 << 15);
        for format in [Format::F32, Format::Bf16] {
            let mut bytes = vec![0; format.bytes(1, x.len()).unwrap()];
            let mut y = vec![0.0; x.len()];
            format.quantise(&x, &mut bytes);
            format.dequantise(&bytes, &mut y);
            let exact = format == Format::F32;
            near(&x, &y, |v| if exact { 0.0 } else { (v.abs() / 256.0).max(least) })?;
            prop_assert!(!exact || x.iter().zip(&y).all(|(x, y)| x.to_bits() == y.to_bits()));
        }
    }

    /// Blocks whose scale half precision barely holds, or not at all: below its smallest step all is zero.
    #[test]
    fn prop_blocks_of_tiny_and_huge_numbers_stay_within_their_bound(
        x in prop::collection::vec(-1.0_f32..1.0, 32),
        e in prop_oneof![-149..-20_i32, 14..19_i32],
    ) {
        let x: Vec<f32> = x.into_iter().map(|v| v * 2.0_f32.powi(e)).collect();
        let most = largest(&x);
        let q8 = most / 254.0 + most * (HALF + ROUNDING) + 127.0 * HALF_STEP;
        near(&x, &back(Block::Q8_0, &x), |_| q8)?;
        let q4 = most / 8.0 + most * (HALF + ROUNDING) + 8.0 * HALF_STEP;
        near(&x, &back(Block::Q4_0, &x), |_| q4)?;
        // Fuller blocks of the same numbers.
        let x = x.repeat(8);
        let q4 = q4 + most * 0.06;
        near(&x, &back(Block::Q4G128, &x), |_| q4)?;
        // Scales and offsets are 63 steps of what half precision holds, and there are 15 levels.
        let q4_k = most / 7.0 + 63.0 * 16.0 * HALF_STEP;
        near(&x, &back(Block::Q4K, &x), |_| q4_k)?;
    }

    /// Half a step, and what rounding the scale does to the outermost level.
    #[test]
    fn prop_q8_0_errs_by_half_a_step(x in numbers()) {
        let most = largest(&x);
        let bound = most / 254.0 + most * (HALF + ROUNDING) + 127.0 * HALF_STEP;
        near(&x, &back(Block::Q8_0, &x), |_| bound)?;
    }

    /// The side away from the largest number ends at seven steps of eight.
    #[test]
    fn prop_q4_0_errs_by_half_a_step_or_is_clipped(x in numbers()) {
        let most = largest(&x);
        let step = most / 8.0;
        let scale = most * (HALF + ROUNDING) + 8.0 * HALF_STEP;
        let sign = x.iter().fold(0.0_f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        near(&x, &back(Block::Q4_0, &x), |v| {
            let clipped = if v * sign < 0.0 { (v.abs() - 7.0 * step).max(0.0) } else { 0.0 };
            clipped.max(step / 2.0) + scale
        })?;
    }

    #[test]
    fn prop_q5_0_errs_by_half_a_step_or_is_clipped(x in numbers()) {
        let most = largest(&x);
        let step = most / 16.0;
        let scale = most * (HALF + ROUNDING) + 16.0 * HALF_STEP;
        let sign = x.iter().fold(0.0_f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        near(&x, &back(Block::Q5_0, &x), |v| {
            let clipped = if v * sign < 0.0 { (v.abs() - 15.0 * step).max(0.0) } else { 0.0 };
            clipped.max(step / 2.0) + scale
        })?;
    }

    /// Scale and least value are both rounded.
    #[test]
    fn prop_formats_with_a_least_value_err_by_half_a_step(x in numbers()) {
        let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = x.iter().copied().fold(f32::INFINITY, f32::min);
        for (block, levels) in [(Block::Q4_1, 15.0), (Block::Q5_1, 31.0)] {
            let span = most - least;
            let rounded = (span + least.abs()) * (HALF + ROUNDING) + (levels + 1.0) * HALF_STEP;
            near(&x, &back(block, &x), |_| span / levels / 2.0 + rounded)?;
        }
    }

    /// Half a step of the widest grid that is tried, or what its narrowest one clips.
    #[test]
    fn prop_q4_g128_errs_by_half_a_step_or_is_clipped(x in wide(128, -16)) {
        let most = largest(&x);
        let scale = most * (HALF + ROUNDING) + 8.0 * HALF_STEP;
        let sign = x.iter().fold(0.0_f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        near(&x, &back(Block::Q4G128, &x), |v| {
            let end = if v * sign < 0.0 { 7.0 } else { 8.0 };
            let clipped = (v.abs() - end * most / 8.4).max(0.0);
            clipped.max(most / 7.55 / 2.0) + scale
        })?;
    }

    /// The grid is chosen by its squares, so it is they that have a bound: those of the grid that spans the numbers, its
    /// scale and offset rounded to a 63rd of the largest ones.
    #[test]
    fn prop_q4_k_errs_in_squares_by_half_a_step_and_two_roundings(x in wide(256, -16)) {
        let y = back(Block::Q4K, &x);
        let spans: Vec<[f32; 2]> = x.chunks(32).map(|x| x.iter().fold([0.0, 0.0], |[a, b], v| [v.min(a), v.max(b)])).collect();
        let widest = spans.iter().fold(0.0_f32, |m, [a, b]| m.max(b - a)) / 13.8;
        let lowest = spans.iter().fold(0.0_f32, |m, [a, b]| m.max(-a).max((b - a) * 0.1));
        for ((x, y), [a, b]) in x.chunks(32).zip(y.chunks(32)).zip(spans) {
            let squares: f32 = x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum();
            let rounded = (15.0 * widest + 1.2 * lowest) * (1.0 / 126.0 + 2.0 * HALF) + 63.0 * 16.0 * HALF_STEP;
            let bound = (b - a) / 15.0 / 2.0 + rounded;
            prop_assert!((squares / 32.0).sqrt() <= bound, "{} of {bound}", (squares / 32.0).sqrt());
        }
    }

    /// What was read from blocks goes into blocks unchanged. Q4_K looks for other grids each time.
    #[test]
    fn prop_quantising_twice_is_quantising_once(x in wide(256, -2)) {
        for &format in Format::ALL {
            if format == Format::Q4K {
                continue;
            }
            let mut once = vec![0; format.bytes(1, x.len()).unwrap()];
            let (mut twice, mut y) = (once.clone(), vec![0.0; x.len()]);
            format.quantise(&x, &mut once);
            // A scale that half precision holds in few bits loses its largest level.
            prop_assume!(x.chunks(32).all(|x| largest(x) > 0.01));
            format.dequantise(&once, &mut y);
            format.quantise(&y, &mut twice);
            prop_assert_eq!(&once, &twice, "{}", format.name());
        }
    }
}

/// Root mean square errors on numbers as weights are distributed, in units of their spread.
#[test]
fn formats_of_more_bits_err_less() {
    let word = |i: u32| maquette::rng::philox([i, 1], [0; 4]).map(maquette::rng::open_unit);
    // Sums of four even numbers are nearly normal.
    let x: Vec<f32> = (0..1 << 16)
        .map(|i| word(i).iter().sum::<f32>() - 2.0)
        .collect();
    let square = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>();
    let spread = square(&mut x.iter().copied());
    let share = |format: Format| {
        let mut bytes = vec![0; format.bytes(1, x.len()).unwrap()];
        let mut y = vec![0.0; x.len()];
        format.quantise(&x, &mut bytes);
        format.dequantise(&bytes, &mut y);
        let share = (square(&mut x.iter().zip(&y).map(|(x, y)| x - y)) / spread).sqrt();
        println!("{}: {share:.5}", format.name());
        share
    };
    let [bf16, q8, q4_k, q4_0, q4_g128] = [
        Format::Bf16,
        Format::Q8_0,
        Format::Q4K,
        Format::Q4_0,
        Format::Q4G128,
    ]
    .map(share);
    assert!(
        0.0 < bf16 && bf16 < q8 && q8 < q4_k && q4_k < q4_0 && q4_0 < q4_g128 && q4_g128 < 0.12
    );
}
