//! Guidance, filters, the categorical draw, and the re-masking of masked generators.
//!
//! ```
//! use maquette::ops::sample::{Draw, DrawShape, Filter, draw, filter};
//! let (mut logits, mut order) = ([1.0, 3.0, 2.0], [0; 3]);
//! filter(Filter::default().with_top_k(1), &mut logits, &mut order)?;
//! // With one entry left it is drawn whatever the noise says.
//! let (mut code, mut p) = ([0], [0.0]);
//! draw(DrawShape { rows: 1, width: 3 }, &mut logits, &Draw::Given(&[0.1, 2.0, 0.1]), &mut code, &mut p)?;
//! assert_eq!((code, p), ([1], [1.0]));
//! # Ok::<(), maquette::Error>(())
//! ```

mod filter;

#[cfg(feature = "alloc")]
pub(crate) use filter::filter_row;
pub use filter::{Filter, FilterShape, filter, filter_rows};

use crate::codes::{Code, UNKNOWN};
use crate::error::{Error, Result, covers, product};
use crate::math;
use crate::ops::norm::{lane_max, lane_sum, nonzero};
use crate::rng::{self, Purpose};

/// Rows of logits in two halves: `rows` conditional ones, then `rows` unconditional ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuideShape {
    /// Rows of each half.
    pub rows: usize,
    /// Columns of a row.
    pub width: usize,
    /// Guidance scale s of uncond + s · (cond − uncond).
    pub scale: f32,
}

impl GuideShape {
    /// Checks the length of the logits.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, logits: usize) -> Result<()> {
        nonzero("guide", "width", self.width)?;
        covers(
            "guide",
            "logits",
            logits,
            product("guide", &[2, self.rows, self.width])?,
        )
    }
}

/// Guided logits into the first half: s · cond − (s − 1) · uncond, the form of the released Show-o with s = 1 + w.
///
/// # Errors
/// See [`GuideShape::check`].
///
/// # Source
/// Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.
pub fn guide(s: GuideShape, logits: &mut [f32]) -> Result<()> {
    s.check(logits.len())?;
    let (cond, uncond) = logits.split_at_mut(s.rows * s.width);
    let w = s.scale - 1.0;
    for (c, u) in cond.iter_mut().zip(uncond) {
        *c = s.scale * *c - w * *u;
    }
    Ok(())
}

/// Rows from which one code each is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrawShape {
    /// Number of rows.
    pub rows: usize,
    /// Columns of a row: entries of the codebook.
    pub width: usize,
}

/// Where the exponential noise of a draw comes from.
#[derive(Debug, Clone, Copy)]
pub enum Draw<K, E> {
    /// Derived from `[rows, 4]` words: seed (low, high), step, slot.
    Keyed(K),
    /// Given: `[rows, width]`.
    Given(E),
}

/// Words of one row in [`Draw::Keyed`].
pub const DRAW_WORDS: usize = 4;

impl DrawShape {
    /// Checks the lengths of logits, keys or noise, codes and p.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(
        &self,
        logits: usize,
        draw: &Draw<usize, usize>,
        codes: usize,
        p: usize,
    ) -> Result<()> {
        const OP: &str = "draw";
        nonzero(OP, "width", self.width)?;
        let all = product(OP, &[self.rows, self.width])?;
        covers(OP, "logits", logits, all)?;
        match *draw {
            Draw::Keyed(keys) => covers(OP, "keys", keys, product(OP, &[self.rows, DRAW_WORDS])?)?,
            Draw::Given(noise) => covers(OP, "noise", noise, all)?,
        }
        covers(OP, "codes", codes, self.rows)?;
        covers(OP, "p", p, self.rows)
    }
}

/// Turns one row of logits into probabilities; false if one of them is NaN or +∞, or all are −∞.
#[inline(always)]
#[must_use]
pub fn softmax_row(x: &mut [f32]) -> bool {
    let largest = lane_max(x);
    if !largest.is_finite() {
        return false;
    }
    for v in x.iter_mut() {
        *v = math::exp(*v - largest);
    }
    let total = lane_sum(x, |v| v);
    let inverse = 1.0 / total;
    for v in x.iter_mut() {
        *v *= inverse;
    }
    // A NaN among the logits stays a NaN and reaches the total.
    total.is_finite()
}

/// The noise of entry `entry` in the row with these key words.
#[inline(always)]
pub(crate) fn keyed_bits(key: &[u32], block: u32) -> [u32; 4] {
    rng::block(
        u64::from(key[0]) | u64::from(key[1]) << 32,
        Purpose::Draw,
        key[2],
        key[3],
        block,
    )
}

/// Entries whose noise is drawn together.
const NOISE: usize = 64;

/// Draws one entry of a row of probabilities.
#[inline(always)]
pub(crate) fn draw_keyed(key: &[u32], p: &[f32]) -> usize {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    let mut noise = [0.0_f32; NOISE];
    for (g, group) in p.chunks(NOISE).enumerate() {
        // Words first, logarithms after: both loops vectorise.
        let mut words = [[0_u32; NOISE / 4]; 4];
        for b in 0..NOISE / 4 {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a codebook has fewer than 2^32 entries"
            )]
            let four = keyed_bits(key, (g * (NOISE / 4) + b) as u32);
            for (words, word) in words.iter_mut().zip(four) {
                words[b] = word;
            }
        }
        for (i, n) in noise.iter_mut().enumerate() {
            *n = rng::open_unit(words[i % 4][i / 4]);
        }
        for n in &mut noise {
            *n = -math::ln(*n);
        }
        race_group(g * NOISE, group, &noise, &mut best, &mut at);
    }
    at
}

/// Draws one entry with given noise: [`rng::race`].
#[inline(always)]
pub(crate) fn draw_given(noise: &[f32], p: &[f32]) -> usize {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (g, (group, noise)) in p.chunks(NOISE).zip(noise.chunks(NOISE)).enumerate() {
        race_group(g * NOISE, group, noise, &mut best, &mut at);
    }
    at
}

/// Some entries of a race. The first pass has no order and vectorises; few groups hold a new best and need the second.
#[inline(always)]
fn race_group(first: usize, p: &[f32], noise: &[f32], best: &mut f32, at: &mut usize) {
    let mut scores = [f32::NEG_INFINITY; NOISE];
    for ((score, p), e) in scores.iter_mut().zip(p).zip(noise) {
        *score = p / e;
    }
    if scores
        .iter()
        .fold(false, |any, &score| any | (score > *best))
    {
        for (i, &score) in scores.iter().enumerate() {
            if score > *best {
                (*best, *at) = (score, first + i);
            }
        }
    }
}

/// Softmax of each row (left in `logits`), then codes\[r\] = argmax of p / ε and p\[r\] its probability.
///
/// # Errors
/// See [`DrawShape::check`]; [`Error::NotFinite`] for a row with a logit that is NaN or +∞, or of nothing but −∞.
pub fn draw(
    s: DrawShape,
    logits: &mut [f32],
    draw: &Draw<&[u32], &[f32]>,
    codes: &mut [u32],
    p: &mut [f32],
) -> Result<()> {
    let lens = match draw {
        Draw::Keyed(keys) => Draw::Keyed(keys.len()),
        Draw::Given(noise) => Draw::Given(noise.len()),
    };
    s.check(logits.len(), &lens, codes.len(), p.len())?;
    for (r, row) in logits.chunks_exact_mut(s.width).take(s.rows).enumerate() {
        if !softmax_row(row) {
            return Err(Error::NotFinite {
                op: "draw",
                arg: "logits",
                row: r,
            });
        }
        let at = match draw {
            Draw::Keyed(keys) => draw_keyed(&keys[r * DRAW_WORDS..][..DRAW_WORDS], row),
            Draw::Given(noise) => draw_given(&noise[r * s.width..][..s.width], row),
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a codebook has fewer than 2^32 entries"
        )]
        let code = at as u32;
        (codes[r], p[r]) = (code, row[at]);
    }
    Ok(())
}

/// How the share of masked places falls over the steps of a masked generator.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Schedule {
    /// cos(π r / 2).
    #[default]
    Cosine,
    /// 1 − r.
    Linear,
    /// 1 − r^K.
    Power(f32),
    /// A falling logistic curve from −3 to 3.
    Sigmoid,
}

impl Schedule {
    /// Share of masked places after step `step` of `steps`, in single precision in the reference's order of operations,
    /// which decides the integer part.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounding to single precision is the definition"
    )]
    pub fn ratio(self, step: u32, steps: u32) -> f32 {
        let r = ((f64::from(step) + 1.0) / f64::from(steps)) as f32;
        match self {
            Self::Cosine => math::cos(r * core::f32::consts::PI * 0.5),
            Self::Linear => (1.0 - r).clamp(1e-6, 1.0),
            Self::Power(k) => (1.0 - libm::powf(r, k)).clamp(1e-6, 1.0),
            Self::Sigmoid => {
                let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
                let (start, end) = (sigmoid(-3.0) as f32, sigmoid(3.0) as f32);
                let v = 1.0 / (1.0 + libm::expf(-(r * 6.0 + -3.0)));
                ((end - v) / (end - start)).clamp(1e-6, 1.0)
            }
        }
    }

    /// floor(n · ratio) in single precision; may be −1 at the last step.
    #[must_use]
    pub fn floor(self, n: usize, step: u32, steps: u32) -> f32 {
        libm::floorf(n as f32 * self.ratio(step, steps))
    }

    /// Places masked again after a step that began with `unknown` of `n` masked: at least 1, at most unknown − 1.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "lies in 1..unknown"
    )]
    pub fn masked(self, n: usize, unknown: usize, step: u32, steps: u32) -> usize {
        let want = self.floor(n, step, steps).max(0.0) as usize;
        want.min(unknown.saturating_sub(1)).max(1)
    }
}

/// The temperature of the mask choice after each step, by cumulative product: T_k = T_{k−1} · (1 − (k + 1) / steps).
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to single precision is the definition"
)]
pub fn cumulative_temperature(start: f32, step: u32, steps: u32) -> f32 {
    let mut t = f64::from(start);
    for k in 0..=step {
        t *= 1.0 - (f64::from(k) + 1.0) / f64::from(steps);
    }
    t as f32
}

/// One masked generator's choice of places to mask again.
#[derive(Debug, Clone, Copy)]
pub struct Remask<'a> {
    /// Probability of each drawn code, `[n]`; negative where the code was known before.
    pub p: &'a [f32],
    /// Uniform draws in [0, 1), `[n]`.
    pub uniform: &'a [f32],
    /// Index of the cut in ascending confidence.
    pub masked: usize,
    /// Temperature T of the noise.
    pub temperature: f32,
}

/// Writes each place's confidence ln p + T · g, with g = −ln(−ln v), into `confidence`, and masks the places strictly
/// below the `masked`-th smallest: their codes become [`UNKNOWN`]. Known places count as ln of the largest float.
///
/// # Errors
/// Slices of different lengths, or `masked` outside them.
///
/// # Source
/// Chang et al., "MaskGIT", arXiv 2202.04200, in the form of the released Show-o (strict cut: ties mask fewer).
pub fn remask(
    r: &Remask<'_>,
    confidence: &mut [f32],
    sorted: &mut [f32],
    codes: &mut [Code],
) -> Result<()> {
    let n = r.p.len();
    for (arg, len) in [
        ("uniform", r.uniform.len()),
        ("confidence", confidence.len()),
        ("sorted", sorted.len()),
        ("codes", codes.len()),
    ] {
        covers("remask", arg, len, n)?;
        covers("remask", "p", n, len)?;
    }
    if r.masked >= n {
        return Err(Error::Range {
            op: "remask",
            arg: "masked",
            got: r.masked as u64,
            min: 0,
            max: n.saturating_sub(1) as u64,
        });
    }
    let log = |x: f32| libm::logf(if x < 1e-20 { 1e-20 } else { x });
    for ((c, &p), &v) in confidence.iter_mut().zip(r.p).zip(r.uniform) {
        let known = if p < 0.0 { f32::MAX } else { p };
        let gumbel = -log(-log(v));
        *c = log(known) + r.temperature * gumbel;
    }
    sorted.copy_from_slice(confidence);
    let (_, cut, _) = sorted.select_nth_unstable_by(r.masked, f32::total_cmp);
    let cut = *cut;
    for (code, c) in codes.iter_mut().zip(&*confidence) {
        if *c < cut {
            *code = UNKNOWN;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests;
