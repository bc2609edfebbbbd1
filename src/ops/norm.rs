//! Norms, gates and activations over rows.
//!
//! ```
//! use maquette::ops::norm::{NormShape, rms_norm};
//! let s = NormShape { rows: 1, width: 2, eps: 0.0 };
//! let mut y = [0.0; 2];
//! rms_norm(s, &[1.0, 7.0], &[1.0, 2.0], &mut y)?;
//! assert_eq!(y, [0.2, 2.8]);
//! # Ok::<(), maquette::Error>(())
//! ```

use crate::error::{Error, Result, covers, product};
use crate::math;

/// Rows that are normalised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormShape {
    /// Number of rows.
    pub rows: usize,
    /// Width of a row.
    pub width: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl NormShape {
    /// Checks the lengths of x, weight, bias and y.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(
        &self,
        op: &'static str,
        x: usize,
        weight: usize,
        bias: usize,
        y: usize,
    ) -> Result<()> {
        nonzero(op, "width", self.width)?;
        let want = product(op, &[self.rows, self.width])?;
        covers(op, "x", x, want)?;
        covers(op, "y", y, want)?;
        covers(op, "weight", weight, self.width)?;
        covers(op, "bias", bias, self.width)
    }
}

pub(crate) fn nonzero(op: &'static str, arg: &'static str, size: usize) -> Result<()> {
    if size == 0 {
        return Err(Error::Range {
            op,
            arg,
            got: 0,
            min: 1,
            max: u64::from(u32::MAX),
        });
    }
    Ok(())
}

/// Sum of a row in the order every path uses: 16 lanes side by side, then the lanes from first to last.
#[inline(always)]
pub(crate) fn lane_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let chunks = x.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane += f(v);
    }
    lanes.iter().sum()
}

/// The largest number of a row that is no NaN, or −∞.
#[inline(always)]
pub(crate) fn lane_max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = x.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    let largest = lanes.into_iter().fold(f32::NEG_INFINITY, larger);
    tail.iter().copied().fold(largest, larger)
}

/// y = (x − mean) / √(variance + eps) · weight + bias, for one row.
#[inline(always)]
pub(crate) fn layer_norm_row(eps: f32, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let width = x.len() as f32;
    let mean = lane_sum(x, |v| v) / width;
    let variance = lane_sum(x, |v| (v - mean) * (v - mean)) / width;
    let scale = 1.0 / math::sqrt(variance + eps);
    for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
        *y = (x - mean) * scale * w + b;
    }
}

/// y = (x − mean) / √(variance + eps) · weight + bias, row by row.
///
/// # Errors
/// See [`NormShape::check`].
pub fn layer_norm(
    s: NormShape,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
) -> Result<()> {
    s.check("layer_norm", x.len(), weight.len(), bias.len(), y.len())?;
    for (x, y) in x
        .chunks_exact(s.width)
        .zip(y.chunks_exact_mut(s.width))
        .take(s.rows)
    {
        layer_norm_row(s.eps, x, &weight[..s.width], &bias[..s.width], y);
    }
    Ok(())
}

/// y = x / √(mean of squares + eps) · weight, for one row.
#[inline(always)]
pub(crate) fn rms_norm_row(eps: f32, x: &[f32], weight: &[f32], y: &mut [f32]) {
    let scale = 1.0 / math::sqrt(lane_sum(x, |v| v * v) / x.len() as f32 + eps);
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * w;
    }
}

/// y = x / √(mean of squares + eps) · weight, row by row.
///
/// # Errors
/// See [`NormShape::check`].
pub fn rms_norm(s: NormShape, x: &[f32], weight: &[f32], y: &mut [f32]) -> Result<()> {
    s.check("rms_norm", x.len(), weight.len(), s.width, y.len())?;
    for (x, y) in x
        .chunks_exact(s.width)
        .zip(y.chunks_exact_mut(s.width))
        .take(s.rows)
    {
        rms_norm_row(s.eps, x, &weight[..s.width], y);
    }
    Ok(())
}

/// Heads inside wider rows: head `h` of row `r` starts at `r · stride + offset + h · head_dim`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadNormShape {
    /// Number of rows.
    pub rows: usize,
    /// Heads that are normalised in each row.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of a row.
    pub stride: usize,
    /// First element of the first head in its row.
    pub offset: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl HeadNormShape {
    /// Checks the lengths of x, weight and bias.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, weight: usize, bias: usize) -> Result<()> {
        const OP: &str = "head_norm";
        nonzero(OP, "head_dim", self.head_dim)?;
        let used = product(OP, &[self.heads, self.head_dim])?;
        covers(OP, "stride", self.stride, used.saturating_add(self.offset))?;
        covers(OP, "x", x, product(OP, &[self.rows, self.stride])?)?;
        covers(OP, "weight", weight, self.head_dim)?;
        covers(OP, "bias", bias, self.head_dim)
    }
}

/// Layer norm of the heads of one row, in place.
#[inline(always)]
pub(crate) fn head_norm_row(s: &HeadNormShape, row: &mut [f32], weight: &[f32], bias: &[f32]) {
    for head in row[s.offset..].chunks_exact_mut(s.head_dim).take(s.heads) {
        let mean = lane_sum(head, |v| v) / s.head_dim as f32;
        let variance = lane_sum(head, |v| (v - mean) * (v - mean)) / s.head_dim as f32;
        let scale = 1.0 / math::sqrt(variance + s.eps);
        for ((v, w), b) in head.iter_mut().zip(weight).zip(bias) {
            *v = (*v - mean) * scale * w + b;
        }
    }
}

/// Layer norm of each head in place, with one weight and bias for all heads.
///
/// # Errors
/// See [`HeadNormShape::check`].
pub fn head_norm(s: HeadNormShape, x: &mut [f32], weight: &[f32], bias: &[f32]) -> Result<()> {
    s.check(x.len(), weight.len(), bias.len())?;
    if s.stride == 0 {
        return Ok(());
    }
    for row in x.chunks_exact_mut(s.stride).take(s.rows) {
        head_norm_row(&s, row, weight, bias);
    }
    Ok(())
}

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
        let want = product(OP, &[self.images, self.pixels, self.channels])?;
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

/// An activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// GELU, tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// GELU by the error function.
    GeluErf,
    /// x · σ(x).
    Silu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// The activation of one number.
    #[inline(always)]
    #[must_use]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::GeluTanh => math::gelu_tanh(x),
            Self::GeluErf => math::gelu_erf(x),
            Self::Silu => math::silu(x),
            Self::Relu => {
                if x > 0.0 {
                    x
                } else {
                    0.0
                }
            }
        }
    }
}

/// An activation in place.
///
/// # Errors
/// Fewer than `len` elements.
pub fn activate(activation: Activation, len: usize, x: &mut [f32]) -> Result<()> {
    covers("activate", "x", x.len(), len)?;
    activate_all(activation, &mut x[..len]);
    Ok(())
}

/// An activation in place: one loop each, so that each vectorises.
#[inline(always)]
pub(crate) fn activate_all(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::GeluTanh => x
            .iter_mut()
            .for_each(|v| *v = Activation::GeluTanh.apply(*v)),
        Activation::GeluErf => x
            .iter_mut()
            .for_each(|v| *v = Activation::GeluErf.apply(*v)),
        Activation::Silu => x.iter_mut().for_each(|v| *v = Activation::Silu.apply(*v)),
        Activation::Relu => x.iter_mut().for_each(|v| *v = Activation::Relu.apply(*v)),
    }
}

/// y += x.
///
/// # Errors
/// Fewer than `len` elements.
pub fn add(len: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
    covers("add", "x", x.len(), len)?;
    covers("add", "y", y.len(), len)?;
    for (y, x) in y[..len].iter_mut().zip(x) {
        *y += x;
    }
    Ok(())
}

/// Rows that hold gate and value side by side, and what the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateShape {
    /// Number of rows.
    pub rows: usize,
    /// Width of the gate, and of the value.
    pub width: usize,
    /// What the gate goes through.
    pub activation: Activation,
}

impl GateShape {
    /// Checks the lengths of x and y.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, y: usize) -> Result<()> {
        nonzero("gate", "width", self.width)?;
        covers(
            "gate",
            "x",
            x,
            product("gate", &[self.rows, 2, self.width])?,
        )?;
        covers("gate", "y", y, product("gate", &[self.rows, self.width])?)
    }
}

/// One row of [`gate`].
#[inline(always)]
pub(crate) fn gate_row(activation: Activation, x: &[f32], y: &mut [f32]) {
    let (gate, value) = x.split_at(y.len());
    y.copy_from_slice(gate);
    activate_all(activation, y);
    for (y, v) in y.iter_mut().zip(value) {
        *y *= v;
    }
}

/// y\[r, i\] = activation(x\[r, i\]) · x\[r, width + i\].
///
/// # Errors
/// See [`GateShape::check`].
pub fn gate(s: GateShape, x: &[f32], y: &mut [f32]) -> Result<()> {
    s.check(x.len(), y.len())?;
    for (x, y) in x
        .chunks_exact(2 * s.width)
        .zip(y.chunks_exact_mut(s.width))
        .take(s.rows)
    {
        gate_row(s.activation, x, y);
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests;
