//! The VQ tokenizer of LlamaGen and Janus: pictures to codes and back, with a learned codebook.

use alloc::sync::Arc;
use alloc::vec;

use crate::codes::Code;
use crate::error::{Error, Name, Result, covers, product};
use crate::model::linear::Linear;
use crate::model::vqgan::blocks::{NormSettings, Planes};
use crate::model::vqgan::{Codebook, Coder, Half, Pictures, Scratch, Trace};
use crate::model::weights::{Loader, Precision, WeightSource};
use crate::ops::Backend;
use crate::ops::conv::Rounding;
use crate::ops::gemm::GemmShape;
use crate::ops::vq::{GatherShape, NearestShape, unit_scale};

mod config;
mod plan;

pub use config::VqConfig;

const OP: &str = "vq";

/// Memory of one decoding or encoding at a time.
pub type VqScratch<B> = Scratch<B>;

/// The latent of a place whose code lies outside the codebook, such as [`UNKNOWN`](crate::codes::UNKNOWN).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Blank {
    /// Zeros.
    #[default]
    Zeros,
    /// The mean of all entries.
    Mean,
}

/// The tokenizer's weights on a device. It never changes: any number of threads may use it, each with a
/// [`VqScratch`] of its own.
///
/// # Source
/// Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", arXiv 2406.06525.
#[derive(Debug)]
pub struct Vq<B: Backend> {
    config: VqConfig,
    coder: Coder<B, Table<B>>,
}

impl<B: Backend> Vq<B> {
    /// Reads a checkpoint under the released names; its large matrices are kept at `precision`. The encoder may be missing.
    ///
    /// # Errors
    /// Contradictory dimensions, a missing or unknown tensor, another shape, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: VqConfig,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        let device = Arc::clone(&backend);
        let same = |name: &str| name.into();
        let loader = Loader::new(&*device, source, precision, &same);
        let model = Self::read(backend, config, &loader)?;
        loader.finish(&|name| name == "quantize.codebook_used")?;
        Ok(model)
    }

    /// As [`load`](Self::load), through a loader that knows the tensors by other names or holds others, too. The caller
    /// looks after leftovers; `quantize.codebook_used` is never read.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn read(backend: Arc<B>, config: VqConfig, loader: &Loader<'_, B>) -> Result<Self> {
        config.check()?;
        let norm = NormSettings {
            groups: config.norm_groups,
            eps: config.norm_eps,
        };
        let (v, e, z) = (
            config.codebook_size,
            config.codebook_embed_dim,
            config.z_channels,
        );
        let encoder = || {
            Ok((
                Half::load(loader, &plan::encoder(&config), norm)?,
                Linear::load(loader, "quant_conv", e, z, true)?,
            ))
        };
        let encoder = loader
            .has("encoder.conv_in.weight")
            .then(encoder)
            .transpose()?;
        let decoder = Half::load(loader, &plan::decoder(&config), norm)?;
        let name = "quantize.embedding.weight";
        let mut codebook = loader.floats(name, &[v, e])?;
        if config.codebook_l2_norm {
            for (i, entry) in codebook.chunks_exact_mut(e).enumerate() {
                let scale = unit_scale(entry);
                // Finite numbers of a length that is not.
                if scale.is_nan() {
                    return Err(Error::TensorNumber {
                        name: Name::owned(name),
                        element: i * e,
                    });
                }
                entry.iter_mut().for_each(|x| *x *= scale);
            }
        }
        let mut latents = codebook.clone();
        latents.extend(vec![0.0; e]);
        latents.extend((0..e).map(|c| {
            let sum: f32 = codebook.iter().skip(c).step_by(e).sum();
            sum / v as f32
        }));
        let b = &*backend;
        // Small, and the whole picture rests on it: never quantised.
        let weight = loader.pack_f32(z, e, &loader.floats("post_quant_conv.weight", &[z, e])?)?;
        let bias = loader.buffer("post_quant_conv.bias", &[z])?;
        let s = GemmShape::new(v + 2, z, e);
        let mut table = b.zeros(product(OP, &[s.m, z])?)?;
        b.gemm(
            s,
            &loader.upload(&latents)?,
            &weight,
            Some(&bias),
            &mut table,
        )?;
        let codebook = Table {
            size: v,
            embed: e,
            z,
            normalise: config.codebook_l2_norm,
            entries: loader.upload(&codebook)?,
            latents: table,
        };
        Ok(Self {
            config,
            coder: Coder {
                backend,
                encoder,
                codebook,
                decoder,
            },
        })
    }

    /// The dimensions.
    #[must_use]
    pub const fn config(&self) -> &VqConfig {
        &self.config
    }

    /// The device.
    #[must_use]
    pub const fn backend(&self) -> &Arc<B> {
        &self.coder.backend
    }

    /// Memory for up to `max_images` square pictures at a time; more are worked off in turns.
    ///
    /// # Errors
    /// No picture at all, or no memory.
    pub fn scratch(&self, max_images: usize) -> Result<VqScratch<B>> {
        let grid = self.config.grid();
        self.scratch_for(product(OP, &[max_images, grid, grid])?)
    }

    /// Memory for pictures of up to `places` codes in all.
    ///
    /// # Errors
    /// No code at all, or no memory.
    pub fn scratch_for(&self, places: usize) -> Result<VqScratch<B>> {
        let latent = self.config.z_channels.max(self.config.codebook_embed_dim);
        Scratch::new(self.backend(), places, self.config.channels(), latent)
    }

    /// `n` grids of `[rows, cols]` codes to pictures in RGB8, NHWC.
    ///
    /// # Errors
    /// Slices of other lengths, a grid larger than the scratch, or a picture that is not a number.
    pub fn decode(
        &self,
        scratch: &mut VqScratch<B>,
        (n, grid): (usize, [usize; 2]),
        codes: &[Code],
        blank: Blank,
        rounding: Rounding,
        out: &mut [u8],
    ) -> Result<()> {
        let out = Pictures::Bytes(rounding, out);
        self.coder.decode(scratch, (n, grid), (codes, blank), out)
    }

    /// As [`decode`](Self::decode), but to numbers: nominally in [-1, 1], not clamped.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_f32(
        &self,
        scratch: &mut VqScratch<B>,
        (n, grid): (usize, [usize; 2]),
        codes: &[Code],
        blank: Blank,
        out: &mut [f32],
    ) -> Result<()> {
        let out = Pictures::Floats(out);
        self.coder.decode(scratch, (n, grid), (codes, blank), out)
    }

    /// Decodes as many grids as `codes` holds, all at once, and shows what each stage leaves.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and whatever `trace` returns.
    pub fn trace_decode(
        &self,
        scratch: &mut VqScratch<B>,
        grid: [usize; 2],
        codes: &[Code],
        trace: Trace<'_, B>,
    ) -> Result<()> {
        self.coder
            .decode_turn(scratch, grid, (codes, Blank::Zeros), trace)
            .map(|_| ())
    }

    /// The entries of `codes` as they are compared with latents, `[n, embed]`: zeros for a code outside the codebook.
    ///
    /// # Errors
    /// A slice of another length.
    pub fn entries(&self, codes: &[Code], out: &mut [f32]) -> Result<()> {
        let width = self.config.codebook_embed_dim;
        let len = product(OP, &[codes.len(), width])?;
        covers(OP, "out", out.len(), len)?;
        let b = &**self.backend();
        let (mut index, mut rows) = (b.zeros(codes.len())?, b.zeros(len)?);
        b.write(&mut index, 0, codes)?;
        let s = GatherShape {
            rows: codes.len(),
            width,
            table_rows: self.config.codebook_size,
        };
        b.gather(s, &index, &self.coder.codebook.entries, &mut rows)?;
        b.read(&rows, 0, &mut out[..len])
    }

    /// `n` pictures of `[height, width]` pixels, NHWC in [-1, 1], to codes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the checkpoint has no encoder; slices of other lengths;
    /// a size that cannot be halved once a level; a picture larger than the scratch.
    pub fn encode(
        &self,
        scratch: &mut VqScratch<B>,
        n: usize,
        size: [usize; 2],
        pixels: &[f32],
        codes: &mut [Code],
    ) -> Result<()> {
        self.coder.encode(scratch, (n, size), pixels, codes)
    }

    /// Encodes as many pictures as `pixels` holds, all at once, and shows what each stage leaves.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and whatever `trace` returns.
    pub fn trace_encode(
        &self,
        scratch: &mut VqScratch<B>,
        size: [usize; 2],
        pixels: &[f32],
        trace: Trace<'_, B>,
    ) -> Result<()> {
        self.coder
            .encode_turn(scratch, size, pixels, trace)
            .map(|_| ())
    }
}

/// The quantiser: a learned latent for each code.
#[derive(Debug)]
struct Table<B: Backend> {
    size: usize,
    embed: usize,
    z: usize,
    normalise: bool,
    /// Entries as they are compared with latents, `[size, embed]`.
    entries: B::Buffer<f32>,
    /// Entries after the decoder's projection, `[size + 2, z]`; the last two are those of a zero latent and of the mean.
    latents: B::Buffer<f32>,
}

impl<B: Backend> Codebook<B> for Table<B> {
    const OP: &'static str = OP;

    type Blank = Blank;

    fn channels(&self) -> usize {
        self.z
    }

    fn read(
        &self,
        backend: &B,
        scratch: &mut Scratch<B>,
        (codes, blank): (&[Code], Blank),
        _: Planes,
        _: Trace<'_, B>,
    ) -> Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "check bounds the codebook by 2^24"
        )]
        let size = self.size as u32;
        let other = match blank {
            Blank::Zeros => size,
            Blank::Mean => size + 1,
        };
        let known = |&code: &Code| if code < size { code } else { other };
        scratch.index.clear();
        scratch.index.extend(codes.iter().map(known));
        backend.write(&mut scratch.codes, 0, &scratch.index)?;
        let shape = GatherShape {
            rows: codes.len(),
            width: self.z,
            table_rows: self.size + 2,
        };
        backend.gather(shape, &scratch.codes, &self.latents, &mut scratch.work.x)
    }

    fn name(&self, backend: &B, scratch: &mut Scratch<B>, n: usize) -> Result<()> {
        let shape = NearestShape {
            n,
            width: self.embed,
            entries: self.size,
            normalise: self.normalise,
        };
        let Scratch { work, codes, .. } = scratch;
        backend.nearest(shape, &work.x, &self.entries, codes)
    }
}
