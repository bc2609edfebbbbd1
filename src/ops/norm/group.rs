//! Group norm.

use super::nonzero;
use crate::error::{Error, Result, covers, product};
use crate::math;

/// Images in NHWC whose channels are normalised group by group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNormShape {
    /// Number of images.
    pub images: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Channels of a pixel.
    pub channels: usize,
    /// Groups of neighbouring channels; divides `channels`.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub swish: bool,
}

impl GroupNormShape {
    /// Checks the lengths of x, weight, bias and y.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, weight: usize, bias: usize, y: usize) -> Result<()> {
        const OP: &str = "group_norm";
        nonzero(OP, "groups", self.groups)?;
        nonzero(OP, "channels", self.channels)?;
        nonzero(OP, "pixels", self.pixels)?;
        if !self.channels.is_multiple_of(self.groups) {
            return Err(Error::Config {
                key: "norm_groups",
                problem: "does not divide the channels",
            });
        }
        // Apart: where there is no image, the size of one is multiplied all the same.
        let image = product(OP, &[self.pixels, self.channels])?;
        let want = product(OP, &[self.images, image])?;
        covers(OP, "x", x, want)?;
        covers(OP, "y", y, want)?;
        covers(OP, "weight", weight, self.channels)?;
        covers(OP, "bias", bias, self.channels)
    }
}

/// Channels whose sums are taken side by side, and pixels of one partial sum.
const SLAB: usize = 64;

/// Sums over pixels of the channels `from .. from + len`, at most [`SLAB`] of them: 64 pixels, then the next 64.
#[inline(always)]
fn channel_sums(
    s: &GroupNormShape,
    x: &[f32],
    from: usize,
    len: usize,
    f: impl Fn(usize, f32) -> f32,
) -> [f32; SLAB] {
    let mut sums = [0.0; SLAB];
    for block in x.chunks(SLAB * s.channels) {
        let mut part = [0.0; SLAB];
        for pixel in block.chunks_exact(s.channels) {
            for (c, (part, &v)) in part.iter_mut().zip(&pixel[from..from + len]).enumerate() {
                *part += f(c, v);
            }
        }
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum += part;
        }
    }
    sums
}

impl GroupNormShape {
    /// Neighbouring groups that fit a slab and go together; a wider group goes alone, slab by slab.
    pub(crate) fn together(&self) -> usize {
        (SLAB * self.groups / self.channels).clamp(1, self.groups.min(SLAB))
    }

    /// First channel and width of each slab of some groups.
    fn slabs(&self, first: usize, groups: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let width = self.channels / self.groups;
        let end = (first + groups) * width;
        (first * width..end)
            .step_by(SLAB)
            .map(move |from| (from, SLAB.min(end - from)))
    }
}

/// Mean and 1 / √(variance + eps) of some neighbouring groups of an image, from group `first` on. A sum runs over the
/// pixels of each channel in blocks of 64, then over the group's channels from first to last.
#[inline(always)]
pub(crate) fn group_statistics(
    s: &GroupNormShape,
    x: &[f32],
    first: usize,
    statistics: &mut [[f32; 2]],
) {
    let width = s.channels / s.groups;
    let count = (s.pixels * width) as f32;
    let groups = statistics.len();
    statistics.fill([0.0; 2]);
    for (from, len) in s.slabs(first, groups) {
        let sums = channel_sums(s, x, from, len, |_, v| v);
        for (c, sum) in sums.iter().enumerate().take(len) {
            statistics[(from + c) / width - first][0] += sum;
        }
    }
    for [mean, _] in &mut *statistics {
        *mean /= count;
    }
    for (from, len) in s.slabs(first, groups) {
        let means: [f32; SLAB] =
            core::array::from_fn(|c| statistics[(from + c.min(len - 1)) / width - first][0]);
        let sums = channel_sums(s, x, from, len, |c, v| (v - means[c]) * (v - means[c]));
        for (c, sum) in sums.iter().enumerate().take(len) {
            statistics[(from + c) / width - first][1] += sum;
        }
    }
    for [_, scale] in statistics {
        *scale = 1.0 / math::sqrt(*scale / count + s.eps);
    }
}

/// Normalises the channels of some groups in some pixels.
#[inline(always)]
pub(crate) fn group_normalise(
    s: &GroupNormShape,
    (first, statistics): (usize, &[[f32; 2]]),
    x: &[f32],
    [weight, bias]: [&[f32]; 2],
    y: &mut [f32],
) {
    let width = s.channels / s.groups;
    for (from, len) in s.slabs(first, statistics.len()) {
        let of = |c: usize| statistics[(from + c.min(len - 1)) / width - first];
        let means: [f32; SLAB] = core::array::from_fn(|c| of(c)[0]);
        let scales: [f32; SLAB] = core::array::from_fn(|c| of(c)[1]);
        let (weight, bias) = (&weight[from..from + len], &bias[from..from + len]);
        for (pixel, out) in x
            .chunks_exact(s.channels)
            .zip(y.chunks_exact_mut(s.channels))
        {
            let (pixel, out) = (&pixel[from..from + len], &mut out[from..from + len]);
            for (((((y, x), mean), scale), w), b) in out
                .iter_mut()
                .zip(pixel)
                .zip(&means)
                .zip(&scales)
                .zip(weight)
                .zip(bias)
            {
                let v = (x - mean) * scale * w + b;
                *y = if s.swish { math::silu(v) } else { v };
            }
        }
    }
}

/// y = (x − mean) / √(variance + eps) · weight + bias over each group of each image, then SiLU if asked.
///
/// # Errors
/// See [`GroupNormShape::check`].
pub fn group_norm(
    s: GroupNormShape,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
) -> Result<()> {
    s.check(x.len(), weight.len(), bias.len(), y.len())?;
    let len = s.pixels * s.channels;
    for (x, y) in x
        .chunks_exact(len)
        .zip(y.chunks_exact_mut(len))
        .take(s.images)
    {
        let together = s.together();
        for first in (0..s.groups).step_by(together) {
            let mut statistics = [[0.0; 2]; SLAB];
            let statistics = &mut statistics[..together.min(s.groups - first)];
            group_statistics(&s, x, first, statistics);
            group_normalise(&s, (first, statistics), x, [weight, bias], y);
        }
    }
    Ok(())
}
