//! The VQ tokenizer of LlamaGen and Janus: pictures to codes and back, with a learned codebook.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::codes::Code;
use crate::error::{Error, Result, covers, product};
use crate::model::linear::Linear;
use crate::model::vqgan::blocks::{NormSettings, Planes};
use crate::model::vqgan::{Half, RGB, Scratch, Stage, Trace, Turns};
use crate::model::weights::{Loader, WeightSource};
use crate::ops::Backend;
use crate::ops::conv::Rounding;
use crate::ops::gemm::GemmShape;
use crate::ops::vq::{GatherShape, NearestShape, unit_scale};
use crate::quant::Format;

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
    backend: Arc<B>,
    config: VqConfig,
    encoder: Option<(Half<B>, Linear<B>)>,
    decoder: Half<B>,
    /// Entries as they are compared with latents, `[codebook, embed]`.
    codebook: B::Buffer<f32>,
    /// Entries after the decoder's projection, `[codebook + 2, z]`; then those of a zero latent and of the mean.
    table: B::Buffer<f32>,
}

impl<B: Backend> Vq<B> {
    /// Reads a checkpoint under the released names; its large matrices are kept as `format`. The encoder may be missing.
    ///
    /// # Errors
    /// Contradictory dimensions, a missing or unknown tensor, another shape, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: VqConfig,
        source: &dyn WeightSource,
        format: Format,
    ) -> Result<Self> {
        let device = Arc::clone(&backend);
        let same = |name: &str| name.into();
        let loader = Loader::new(&*device, source, format, &same);
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
        let mut codebook = loader.floats("quantize.embedding.weight", &[v, e])?;
        if config.codebook_l2_norm {
            for entry in codebook.chunks_exact_mut(e) {
                let scale = unit_scale(entry);
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
        let s = GemmShape {
            m: v + 2,
            n: z,
            k: e,
            accumulate: false,
        };
        let mut table = b.zeros(product(OP, &[s.m, z])?)?;
        b.gemm(
            s,
            &loader.upload(&latents)?,
            &weight,
            Some(&bias),
            &mut table,
        )?;
        Ok(Self {
            codebook: loader.upload(&codebook)?,
            backend,
            config,
            encoder,
            decoder,
            table,
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
        &self.backend
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
        Scratch::new(&*self.backend, places, self.config.channels(), latent)
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
        let turns = scratch.turns(n, grid)?;
        covers(OP, "codes", codes.len(), n * turns.places)?;
        covers(OP, "out", out.len(), n * turns.len)?;
        for (codes, out) in codes[..n * turns.places]
            .chunks(turns.pictures * turns.places)
            .zip(out.chunks_mut(turns.pictures * turns.len))
        {
            let len = self
                .decode_turn(scratch, grid, codes, blank, &mut |_, _, _| Ok(()))?
                .elements()?;
            self.backend
                .to_bytes(rounding, len, &scratch.work.x, &mut scratch.bytes)?;
            self.backend.read(&scratch.bytes, 0, &mut out[..len])?;
        }
        Ok(())
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
        let turns = scratch.turns(n, grid)?;
        covers(OP, "codes", codes.len(), n * turns.places)?;
        covers(OP, "out", out.len(), n * turns.len)?;
        for (codes, out) in codes[..n * turns.places]
            .chunks(turns.pictures * turns.places)
            .zip(out.chunks_mut(turns.pictures * turns.len))
        {
            let len = self
                .decode_turn(scratch, grid, codes, blank, &mut |_, _, _| Ok(()))?
                .elements()?;
            self.backend.read(&scratch.work.x, 0, &mut out[..len])?;
        }
        Ok(())
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
        scratch.turns(0, grid)?;
        self.decode_turn(scratch, grid, codes, Blank::Zeros, trace)
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
        let b = &*self.backend;
        let (mut index, mut rows) = (b.zeros(codes.len())?, b.zeros(len)?);
        b.write(&mut index, 0, codes)?;
        let s = GatherShape {
            rows: codes.len(),
            width,
            table_rows: self.config.codebook_size,
        };
        b.gather(s, &index, &self.codebook, &mut rows)?;
        b.read(&rows, 0, &mut out[..len])
    }

    /// `n` pictures of `[height, width]` pixels, NHWC in [-1, 1], to codes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the checkpoint has no encoder; slices of other lengths; a size that cannot be halved
    /// once a level; a picture larger than the scratch.
    pub fn encode(
        &self,
        scratch: &mut VqScratch<B>,
        n: usize,
        size: [usize; 2],
        pixels: &[f32],
        codes: &mut [Code],
    ) -> Result<()> {
        let Turns {
            pictures,
            places,
            len,
        } = scratch.turns(n, scratch.grid_of(size)?)?;
        covers(OP, "pixels", pixels.len(), n * len)?;
        covers(OP, "codes", codes.len(), n * places)?;
        for (pixels, codes) in pixels[..n * len]
            .chunks(pictures * len)
            .zip(codes.chunks_mut(pictures * places))
        {
            let s = self.encode_turn(scratch, size, pixels, &mut |_, _, _| Ok(()))?;
            let count = s.images * s.pixels();
            let shape = NearestShape {
                n: count,
                width: self.config.codebook_embed_dim,
                entries: self.config.codebook_size,
                normalise: self.config.codebook_l2_norm,
            };
            self.backend
                .nearest(shape, &scratch.work.x, &self.codebook, &mut scratch.codes)?;
            self.backend.read(&scratch.codes, 0, &mut codes[..count])?;
        }
        Ok(())
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
        scratch.turns(0, scratch.grid_of(size)?)?;
        self.encode_turn(scratch, size, pixels, trace).map(|_| ())
    }

    fn decode_turn(
        &self,
        scratch: &mut VqScratch<B>,
        [height, width]: [usize; 2],
        codes: &[Code],
        blank: Blank,
        trace: Trace<'_, B>,
    ) -> Result<Planes> {
        let (v, z) = (self.config.codebook_size, self.config.z_channels);
        let mut s = Planes {
            images: codes.len() / (height * width),
            height,
            width,
            channels: z,
        };
        let count = s.images * s.pixels();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "check bounds the codebook by 2^24"
        )]
        let other = match blank {
            Blank::Zeros => v as u32,
            Blank::Mean => v as u32 + 1,
        };
        let index: Vec<u32> = codes[..count]
            .iter()
            .map(|&code| if (code as usize) < v { code } else { other })
            .collect();
        let b = &*self.backend;
        b.write(&mut scratch.codes, 0, &index)?;
        let shape = GatherShape {
            rows: count,
            width: z,
            table_rows: v + 2,
        };
        b.gather(shape, &scratch.codes, &self.table, &mut scratch.work.x)?;
        trace(Stage::new("dec.post_quant_conv"), &scratch.work.x, s)?;
        self.decoder.run(b, &mut s, &mut scratch.work, trace)?;
        Ok(s)
    }

    fn encode_turn(
        &self,
        scratch: &mut VqScratch<B>,
        [height, width]: [usize; 2],
        pixels: &[f32],
        trace: Trace<'_, B>,
    ) -> Result<Planes> {
        let (encoder, quant) = self.encoder.as_ref().ok_or(Error::Unsupported {
            what: "encoding without encoder weights",
        })?;
        let mut s = Planes {
            images: pixels.len() / (height * width * RGB),
            height,
            width,
            channels: RGB,
        };
        let (b, work) = (&*self.backend, &mut scratch.work);
        b.write(&mut work.x, 0, &pixels[..s.elements()?])?;
        encoder.run(b, &mut s, work, trace)?;
        quant.apply(b, s.images * s.pixels(), &work.x, &mut work.b)?;
        core::mem::swap(&mut work.x, &mut work.b);
        s.channels = self.config.codebook_embed_dim;
        trace(Stage::new("enc.latent"), &work.x, s)?;
        Ok(s)
    }
}
