//! The blocks that encoders and decoders are built from. Pictures are NHWC.

use alloc::format;

use super::OP;
use crate::error::{Error, Result, product};
use crate::model::linear::Linear;
use crate::model::weights::{Loader, zeros};
use crate::ops::Backend;
use crate::ops::attention::{AttentionShape, SPAN_WORDS};
use crate::ops::conv::ConvShape;
use crate::ops::gemm::Activations;
use crate::ops::norm::GroupNormShape;

/// Size of what a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planes {
    /// Number of images.
    pub images: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Channels of a pixel.
    pub channels: usize,
}

impl Planes {
    /// Pixels of one image.
    #[must_use]
    pub const fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Elements of all images.
    ///
    /// # Errors
    /// [`Error::Overflow`].
    pub fn elements(&self) -> Result<usize> {
        product(OP, &[self.images, self.height, self.width, self.channels])
    }
}

/// Memory that the blocks work in: the picture, and two buffers of the same size for what comes between.
#[derive(Debug)]
pub struct Work<B: Backend> {
    /// The picture that a block reads and replaces.
    pub x: B::Buffer<f32>,
    pub(in crate::model) a: B::Buffer<f32>,
    pub(in crate::model) b: B::Buffer<f32>,
    spans: B::Buffer<u32>,
    spans_of: (usize, usize),
}

impl<B: Backend> Work<B> {
    /// Buffers of `len` elements, for at most `images` images at a time.
    ///
    /// # Errors
    /// No memory.
    pub fn new(backend: &B, len: usize, images: usize) -> Result<Self> {
        Ok(Self {
            x: backend.zeros(len)?,
            a: backend.zeros(len)?,
            b: backend.zeros(len)?,
            spans: backend.zeros(product(OP, &[images, SPAN_WORDS])?)?,
            spans_of: (0, 0),
        })
    }

    /// Lets every pixel attend to the pixels of its own image.
    fn attend(&mut self, backend: &B, s: &Planes) -> Result<()> {
        let of = (s.images, s.pixels());
        if self.spans_of == of {
            return Ok(());
        }
        let word = |n: usize| u32::try_from(n).map_err(|_| Error::Overflow { op: OP });
        let pixels = word(s.pixels())?;
        for image in 0..s.images {
            let first = word(image * s.pixels())?;
            backend.write(&mut self.spans, image * SPAN_WORDS, &[0, 0, first, pixels])?;
        }
        self.spans_of = of;
        Ok(())
    }
}

/// Settings of a group norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSettings {
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// A group norm.
#[derive(Debug)]
pub struct Norm<B: Backend> {
    weight: B::Buffer<f32>,
    bias: B::Buffer<f32>,
    settings: NormSettings,
}

impl<B: Backend> Norm<B> {
    /// Reads `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn load(
        loader: &Loader<'_, B>,
        name: &str,
        channels: usize,
        settings: NormSettings,
    ) -> Result<Self> {
        Ok(Self {
            weight: loader.buffer(&format!("{name}.weight"), &[channels])?,
            bias: loader.buffer(&format!("{name}.bias"), &[channels])?,
            settings,
        })
    }

    /// The normalised `x` into `y`, through SiLU if `swish`.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply(
        &self,
        backend: &B,
        s: &Planes,
        swish: bool,
        x: &B::Buffer<f32>,
        y: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let NormSettings { groups, eps } = self.settings;
        let shape = GroupNormShape {
            images: s.images,
            pixels: s.pixels(),
            channels: s.channels,
            groups,
            eps,
            swish,
        };
        backend.group_norm(shape, x, &self.weight, &self.bias, y)
    }
}

/// A 3 × 3 convolution.
#[derive(Debug)]
pub struct Conv<B: Backend> {
    matrix: B::Matrix,
    bias: B::Buffer<f32>,
    c_out: usize,
    activations: Activations,
}

const KERNEL: usize = 3;

impl<B: Backend> Conv<B> {
    /// Reads `{name}.weight`, stored `[c_out, c_in, row, column]`, and `{name}.bias`.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn load(loader: &Loader<'_, B>, name: &str, c_in: usize, c_out: usize) -> Result<Self> {
        let tensor = format!("{name}.weight");
        let stored = loader.floats(&tensor, &[c_out, c_in, KERNEL, KERNEL])?;
        let mut weight = zeros(stored.len())?;
        let taps = KERNEL * KERNEL;
        // Channels innermost: the device's images have theirs innermost, too.
        for (to, from) in weight
            .chunks_exact_mut(c_in * taps)
            .zip(stored.chunks_exact(c_in * taps))
        {
            for (c, channel) in from.chunks_exact(taps).enumerate() {
                for (t, &v) in channel.iter().enumerate() {
                    to[t * c_in + c] = v;
                }
            }
        }
        Ok(Self {
            matrix: loader.pack(&tensor, c_out, c_in * taps, &weight)?,
            bias: loader.buffer(&format!("{name}.bias"), &[c_out])?,
            c_out,
            activations: loader.activations(),
        })
    }

    /// The shape that keeps the picture's size.
    #[must_use]
    pub const fn shape(&self, s: &Planes) -> ConvShape {
        ConvShape {
            activations: self.activations,
            ..ConvShape::same(
                s.images,
                [s.height, s.width],
                s.channels,
                self.c_out,
                KERNEL,
            )
        }
    }

    /// The convolution of `x` into `y`, and the size of the result.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply(
        &self,
        backend: &B,
        shape: ConvShape,
        x: &B::Buffer<f32>,
        y: &mut B::Buffer<f32>,
    ) -> Result<Planes> {
        backend.conv2d(shape, x, &self.matrix, &self.bias, y)?;
        let [height, width] = shape.output();
        Ok(Planes {
            images: shape.images,
            height,
            width,
            channels: self.c_out,
        })
    }
}

/// Norm, SiLU, convolution, twice, added to the input.
#[derive(Debug)]
pub struct ResBlock<B: Backend> {
    norm1: Norm<B>,
    conv1: Conv<B>,
    norm2: Norm<B>,
    conv2: Conv<B>,
    shortcut: Option<Linear<B>>,
}

impl<B: Backend> ResBlock<B> {
    /// Reads the tensors below `name`; there is a shortcut where the channels change.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn load(
        loader: &Loader<'_, B>,
        name: &str,
        [c_in, c_out]: [usize; 2],
        norm: NormSettings,
    ) -> Result<Self> {
        let shortcut = || Linear::load(loader, &format!("{name}.nin_shortcut"), c_out, c_in, true);
        Ok(Self {
            norm1: Norm::load(loader, &format!("{name}.norm1"), c_in, norm)?,
            conv1: Conv::load(loader, &format!("{name}.conv1"), c_in, c_out)?,
            norm2: Norm::load(loader, &format!("{name}.norm2"), c_out, norm)?,
            conv2: Conv::load(loader, &format!("{name}.conv2"), c_out, c_out)?,
            shortcut: (c_in != c_out).then(shortcut).transpose()?,
        })
    }

    /// Replaces `work.x`.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply(&self, backend: &B, s: &mut Planes, work: &mut Work<B>) -> Result<()> {
        let Work { x, a, b, .. } = work;
        self.norm1.apply(backend, s, true, x, a)?;
        let out = self.conv1.apply(backend, self.conv1.shape(s), a, b)?;
        self.norm2.apply(backend, &out, true, b, a)?;
        let last = ConvShape {
            accumulate: true,
            ..self.conv2.shape(&out)
        };
        if let Some(shortcut) = &self.shortcut {
            shortcut.apply(backend, s.images * s.pixels(), x, b)?;
            self.conv2.apply(backend, last, a, b)?;
            core::mem::swap(x, b);
        } else {
            self.conv2.apply(backend, last, a, x)?;
        }
        *s = out;
        Ok(())
    }
}

/// Attention of every pixel to its image, with one head as wide as the channels, added to the input.
#[derive(Debug)]
pub struct AttentionBlock<B: Backend> {
    norm: Norm<B>,
    qkv: Linear<B>,
    project: Linear<B>,
}

impl<B: Backend> AttentionBlock<B> {
    /// Reads the tensors below `name`.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn load(
        loader: &Loader<'_, B>,
        name: &str,
        channels: usize,
        norm: NormSettings,
    ) -> Result<Self> {
        let [q, k, v] = ["q", "k", "v"].map(|part| format!("{name}.{part}"));
        let parts = [(q.as_str(), channels), (&k, channels), (&v, channels)];
        Ok(Self {
            norm: Norm::load(loader, &format!("{name}.norm"), channels, norm)?,
            qkv: Linear::fused(loader, &parts, channels, true)?,
            project: Linear::load(
                loader,
                &format!("{name}.proj_out"),
                channels,
                channels,
                true,
            )?,
        })
    }

    /// Replaces `work.x`; the other buffers must hold three times as much.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply(&self, backend: &B, s: &Planes, work: &mut Work<B>) -> Result<()> {
        work.attend(backend, s)?;
        let Work { x, a, b, spans, .. } = work;
        let (rows, c) = (s.images * s.pixels(), s.channels);
        self.norm.apply(backend, s, false, x, a)?;
        self.qkv.apply(backend, rows, a, b)?;
        let shape = AttentionShape {
            sequences: s.images,
            queries: s.pixels(),
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: c,
            q_stride: 3 * c,
            q_offset: 0,
            kv_rows: rows,
            kv_stride: 3 * c,
            kv_head_stride: c,
            k_offset: c,
            v_offset: 2 * c,
            causal: false,
            repeated_prefix: false,
            pages: 0,
        };
        backend.attention(shape, b, b, b, spans, a)?;
        self.project.apply_add(backend, rows, a, x)
    }
}

/// The change of resolution at the end of a level.
#[derive(Debug)]
pub struct Resample<B: Backend> {
    conv: Conv<B>,
    up: bool,
}

impl<B: Backend> Resample<B> {
    /// Reads `{name}.conv`. Up: every pixel counts twice in both directions. Down: every other pixel, with a zero
    /// after the last.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn load(loader: &Loader<'_, B>, name: &str, channels: usize, up: bool) -> Result<Self> {
        Ok(Self {
            conv: Conv::load(loader, &format!("{name}.conv"), channels, channels)?,
            up,
        })
    }

    /// Replaces `work.x`.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply(&self, backend: &B, s: &mut Planes, work: &mut Work<B>) -> Result<()> {
        let same = self.conv.shape(s);
        let shape = if self.up {
            ConvShape {
                upsample: true,
                ..same
            }
        } else {
            ConvShape {
                stride: 2,
                pad_before: 0,
                pad_after: 1,
                ..same
            }
        };
        *s = self.conv.apply(backend, shape, &work.x, &mut work.b)?;
        core::mem::swap(&mut work.x, &mut work.b);
        Ok(())
    }
}
