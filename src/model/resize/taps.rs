//! The weights of a bicubic resize along one axis, in fixed point.

use alloc::vec::Vec;

use crate::error::{Result, room};

/// Fraction bits of a weight.
pub(super) const BITS: u32 = 22;

/// The weights of every output along one axis.
#[derive(Debug, Default)]
pub(super) struct Taps {
    sizes: (u32, u32),
    /// First input and number of inputs of each output.
    spans: Vec<(usize, usize)>,
    /// Weights of all outputs, one after the other.
    weights: Vec<i32>,
    /// Room for one output's weights before they are normalised.
    real: Vec<f64>,
}

/// Cubic convolution kernel with a = −1/2.
fn bicubic_kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

impl Taps {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes are at most 2^14 and weights at most 2^23; the truncation is part of the definition"
    )]
    pub(super) fn plan(&mut self, from: u32, to: u32) -> Result<()> {
        if self.sizes == (from, to) {
            return Ok(());
        }
        self.sizes = (0, 0);
        self.spans.clear();
        self.weights.clear();
        let scale = f64::from(from) / f64::from(to);
        let stretch = if scale < 1.0 { 1.0 } else { scale };
        let support = 2.0 * stretch;
        let inverse = 1.0 / stretch;
        // Inputs of an output at most: those nearer than `support`, on both sides.
        let most = (2.0 * support) as usize + 2;
        room("resize", &mut self.real, most)?;
        room("resize", &mut self.spans, to as usize)?;
        for i in 0..to {
            let centre = (f64::from(i) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as i64).clamp(0, i64::from(from)) as usize;
            self.real.clear();
            self.real
                .extend((first..end).map(|x| bicubic_kernel((x as f64 - centre + 0.5) * inverse)));
            let total: f64 = self.real.iter().sum();
            self.spans.push((first, self.real.len()));
            room("resize", &mut self.weights, self.real.len())?;
            self.weights.extend(self.real.iter().map(|&w| {
                let w = if total == 0.0 { w } else { w / total } * f64::from(1_u32 << BITS);
                if w < 0.0 {
                    (w - 0.5) as i32
                } else {
                    (w + 0.5) as i32
                }
            }));
        }
        self.sizes = (from, to);
        Ok(())
    }

    /// The outputs in order: first input and weights.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut at = 0;
        self.spans.iter().map(move |&(first, len)| {
            let weights = &self.weights[at..at + len];
            at += len;
            (first, weights)
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=255"
)]
pub(super) const fn clip(sum: i32) -> u8 {
    let v = sum >> BITS;
    if v < 0 {
        0
    } else if v > 255 {
        255
    } else {
        v as u8
    }
}
