//! The MAGVIT-v2 tokenizer: pictures to codes and back, with a lookup-free quantiser.

use alloc::string::String;
use alloc::sync::Arc;

use crate::codes::Code;
use crate::error::{Error, Result, covers, product};
use crate::model::linear::Linear;
use crate::model::vqgan::blocks::{NormSettings, Planes};
use crate::model::vqgan::{Half, RGB, Scratch, Stage, Trace, Turns};
use crate::model::weights::{Loader, WeightSource};
use crate::ops::Backend;
use crate::ops::conv::Rounding;
use crate::ops::vq::LfqShape;
use crate::quant::Format;

mod config;
mod plan;

pub use config::MagvitConfig;

const OP: &str = "magvit";

/// The tokenizer's weights on a device. It never changes: any number of threads may use it, each with a
/// [`MagvitScratch`] of its own.
///
/// # Source
/// Yu et al., "Language Model Beats Diffusion", arXiv 2310.05737, in the form of the released Show-o.
#[derive(Debug)]
pub struct Magvit<B: Backend> {
    backend: Arc<B>,
    config: MagvitConfig,
    encoder: Option<(Half<B>, Linear<B>)>,
    post_quant: Linear<B>,
    decoder: Half<B>,
}

/// Memory of one decoding or encoding at a time.
pub type MagvitScratch<B> = Scratch<B>;

impl<B: Backend> Magvit<B> {
    /// Reads a checkpoint under the released names; its large matrices are kept as `format`.
    ///
    /// # Errors
    /// Contradictory dimensions, a missing or unknown tensor, another shape, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: MagvitConfig,
        source: &dyn WeightSource,
        format: Format,
    ) -> Result<Self> {
        Self::load_with(backend, config, source, format, &|_| false)
    }

    /// As [`load`](Self::load), for a checkpoint that may hold the further tensors which `ignore` names.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        backend: Arc<B>,
        config: MagvitConfig,
        source: &dyn WeightSource,
        format: Format,
        ignore: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        config.check()?;
        let same = |name: &str| String::from(name);
        let loader = Loader::new(&*backend, source, format, &same);
        let norm = NormSettings {
            groups: config.norm_groups,
            eps: config.norm_eps,
        };
        let bits = config.codebook_bits;
        let square = |name| Linear::load(&loader, name, bits, bits, true);
        let encoder = || {
            Ok((
                Half::load(&loader, &plan::encoder(&config), norm)?,
                square("encoder.quant_conv")?,
            ))
        };
        let encoder = loader
            .has("encoder.conv_in.weight")
            .then(encoder)
            .transpose()?;
        let post_quant = square("decoder.post_quant_conv")?;
        let decoder = Half::load(&loader, &plan::decoder(&config), norm)?;
        // The quantiser's tables follow from the number of bits.
        loader.finish(&|name| name.starts_with("quantize.") || ignore(name))?;
        drop(loader);
        Ok(Self {
            backend,
            config,
            encoder,
            post_quant,
            decoder,
        })
    }

    /// The dimensions.
    #[must_use]
    pub const fn config(&self) -> &MagvitConfig {
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
    pub fn scratch(&self, max_images: usize) -> Result<MagvitScratch<B>> {
        let grid = self.config.grid();
        self.scratch_for(product(OP, &[max_images, grid, grid])?)
    }

    /// Memory for pictures of up to `places` codes in all.
    ///
    /// # Errors
    /// No code at all, or no memory.
    pub fn scratch_for(&self, places: usize) -> Result<MagvitScratch<B>> {
        let bits = self.config.codebook_bits;
        Scratch::new(&*self.backend, places, self.config.channels(), bits)
    }

    /// `n` grids of `[rows, cols]` codes to pictures in RGB8, NHWC. A code outside the codebook counts as a latent of
    /// zeros.
    ///
    /// # Errors
    /// Slices of other lengths, a grid larger than the scratch, or a picture that is not a number.
    pub fn decode(
        &self,
        scratch: &mut MagvitScratch<B>,
        n: usize,
        grid: [usize; 2],
        codes: &[Code],
        out: &mut [u8],
    ) -> Result<()> {
        let Turns {
            pictures: turn,
            places,
            len,
        } = scratch.turns(n, grid)?;
        covers(OP, "codes", codes.len(), n * places)?;
        covers(OP, "out", out.len(), n * len)?;
        for (codes, out) in codes[..n * places]
            .chunks(turn * places)
            .zip(out.chunks_mut(turn * len))
        {
            let s = self
                .decode_turn(scratch, grid, codes, &mut |_, _, _| Ok(()))?
                .elements()?;
            self.backend
                .to_bytes(Rounding::Truncate, s, &scratch.work.x, &mut scratch.bytes)?;
            self.backend.read(&scratch.bytes, 0, &mut out[..s])?;
        }
        Ok(())
    }

    /// As [`decode`](Self::decode), but to numbers: nominally in [-1, 1], not clamped.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_f32(
        &self,
        scratch: &mut MagvitScratch<B>,
        n: usize,
        grid: [usize; 2],
        codes: &[Code],
        out: &mut [f32],
    ) -> Result<()> {
        let Turns {
            pictures: turn,
            places,
            len,
        } = scratch.turns(n, grid)?;
        covers(OP, "codes", codes.len(), n * places)?;
        covers(OP, "out", out.len(), n * len)?;
        for (codes, out) in codes[..n * places]
            .chunks(turn * places)
            .zip(out.chunks_mut(turn * len))
        {
            let s = self
                .decode_turn(scratch, grid, codes, &mut |_, _, _| Ok(()))?
                .elements()?;
            self.backend.read(&scratch.work.x, 0, &mut out[..s])?;
        }
        Ok(())
    }

    /// Decodes as many grids as `codes` holds, all at once, and shows what each stage leaves.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and whatever `trace` returns.
    pub fn trace_decode(
        &self,
        scratch: &mut MagvitScratch<B>,
        grid: [usize; 2],
        codes: &[Code],
        trace: Trace<'_, B>,
    ) -> Result<()> {
        scratch.turns(0, grid)?;
        self.decode_turn(scratch, grid, codes, trace).map(|_| ())
    }

    /// `n` pictures of `[height, width]` pixels, NHWC in [-1, 1], to codes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the checkpoint has no encoder; slices of other lengths; a size that cannot be halved
    /// once a level; a picture larger than the scratch.
    pub fn encode(
        &self,
        scratch: &mut MagvitScratch<B>,
        n: usize,
        size: [usize; 2],
        pixels: &[f32],
        codes: &mut [Code],
    ) -> Result<()> {
        let Turns {
            pictures: turn,
            places,
            len,
        } = scratch.turns(n, scratch.grid_of(size)?)?;
        covers(OP, "pixels", pixels.len(), n * len)?;
        covers(OP, "codes", codes.len(), n * places)?;
        for (pixels, codes) in pixels[..n * len]
            .chunks(turn * len)
            .zip(codes.chunks_mut(turn * places))
        {
            let s = self.encode_turn(scratch, size, pixels, &mut |_, _, _| Ok(()))?;
            let count = s.images * s.pixels();
            let shape = LfqShape {
                n: count,
                bits: self.config.codebook_bits,
            };
            self.backend
                .lfq_codes(shape, &scratch.work.x, &mut scratch.codes)?;
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
        scratch: &mut MagvitScratch<B>,
        size: [usize; 2],
        pixels: &[f32],
        trace: Trace<'_, B>,
    ) -> Result<()> {
        scratch.turns(0, scratch.grid_of(size)?)?;
        self.encode_turn(scratch, size, pixels, trace).map(|_| ())
    }

    fn decode_turn(
        &self,
        scratch: &mut MagvitScratch<B>,
        [height, width]: [usize; 2],
        codes: &[Code],
        trace: Trace<'_, B>,
    ) -> Result<Planes> {
        let bits = self.config.codebook_bits;
        let mut s = Planes {
            images: codes.len() / (height * width),
            height,
            width,
            channels: bits,
        };
        let count = s.images * s.pixels();
        self.backend.write(&mut scratch.codes, 0, &codes[..count])?;
        self.backend.lfq_lookup(
            LfqShape { n: count, bits },
            &scratch.codes,
            &mut scratch.work.x,
        )?;
        let work = &mut scratch.work;
        trace(Stage::new("latent_of_codes"), &work.x, s)?;
        self.post_quant
            .apply(&self.backend, count, &work.x, &mut work.a)?;
        core::mem::swap(&mut work.x, &mut work.a);
        trace(Stage::new("dec.post_quant_conv"), &work.x, s)?;
        self.decoder.run(&self.backend, &mut s, work, trace)?;
        Ok(s)
    }

    fn encode_turn(
        &self,
        scratch: &mut MagvitScratch<B>,
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
        self.backend
            .write(&mut scratch.work.x, 0, &pixels[..s.elements()?])?;
        let work = &mut scratch.work;
        encoder.run(&self.backend, &mut s, work, trace)?;
        quant.apply(&self.backend, s.images * s.pixels(), &work.x, &mut work.b)?;
        core::mem::swap(&mut work.x, &mut work.b);
        trace(Stage::new("enc.latent"), &work.x, s)?;
        Ok(s)
    }
}
