//! The MAGVIT-v2 tokenizer: pictures to codes and back, with a lookup-free quantiser.

use alloc::string::String;
use alloc::sync::Arc;

use crate::codes::Code;
use crate::error::{Result, product};
use crate::model::linear::Linear;
use crate::model::vqgan::blocks::{NormSettings, Planes};
use crate::model::vqgan::{Codebook, Coder, Half, Pictures, Scratch, Stage, Trace};
use crate::model::weights::{Loader, Precision, WeightSource};
use crate::ops::Backend;
use crate::ops::conv::Rounding;
use crate::ops::vq::LfqShape;

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
    config: MagvitConfig,
    coder: Coder<B, Lfq<B>>,
}

/// Memory of one decoding or encoding at a time.
pub type MagvitScratch<B> = Scratch<B>;

impl<B: Backend> Magvit<B> {
    /// Reads a checkpoint under the released names; its large matrices are kept at `precision`.
    ///
    /// # Errors
    /// Contradictory dimensions, a missing or unknown tensor, another shape, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: MagvitConfig,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        Self::load_with(backend, config, source, precision, &|_| false)
    }

    /// As [`load`](Self::load), for a checkpoint that may hold the further tensors which `ignore` names.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        backend: Arc<B>,
        config: MagvitConfig,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
        ignore: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        config.check()?;
        let same = |name: &str| String::from(name);
        let loader = Loader::new(&*backend, source, precision, &same);
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
            config,
            coder: Coder {
                backend,
                encoder,
                codebook: Lfq { bits, post_quant },
                decoder,
            },
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
        &self.coder.backend
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
        Scratch::new(self.backend(), places, self.config.channels(), bits)
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
        let out = Pictures::Bytes(Rounding::Truncate, out);
        self.coder.decode(scratch, (n, grid), (codes, ()), out)
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
        let out = Pictures::Floats(out);
        self.coder.decode(scratch, (n, grid), (codes, ()), out)
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
        self.coder
            .decode_turn(scratch, grid, (codes, ()), trace)
            .map(|_| ())
    }

    /// `n` pictures of `[height, width]` pixels, NHWC in [-1, 1], to codes.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if the checkpoint has no encoder; slices of other lengths;
    /// a size that cannot be halved once a level; a picture larger than the scratch.
    pub fn encode(
        &self,
        scratch: &mut MagvitScratch<B>,
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
        scratch: &mut MagvitScratch<B>,
        size: [usize; 2],
        pixels: &[f32],
        trace: Trace<'_, B>,
    ) -> Result<()> {
        self.coder
            .encode_turn(scratch, size, pixels, trace)
            .map(|_| ())
    }
}

/// The quantiser: each channel's sign is a bit.
#[derive(Debug)]
struct Lfq<B: Backend> {
    bits: usize,
    post_quant: Linear<B>,
}

impl<B: Backend> Codebook<B> for Lfq<B> {
    const OP: &'static str = OP;

    type Blank = ();

    fn channels(&self) -> usize {
        self.bits
    }

    fn read(
        &self,
        backend: &B,
        scratch: &mut Scratch<B>,
        (codes, ()): (&[Code], ()),
        s: Planes,
        trace: Trace<'_, B>,
    ) -> Result<()> {
        let (n, bits) = (codes.len(), self.bits);
        backend.write(&mut scratch.codes, 0, codes)?;
        let work = &mut scratch.work;
        backend.lfq_lookup(LfqShape { n, bits }, &scratch.codes, &mut work.x)?;
        trace(Stage::new("latent_of_codes"), &work.x, s)?;
        self.post_quant.apply(backend, n, &work.x, &mut work.a)?;
        core::mem::swap(&mut work.x, &mut work.a);
        Ok(())
    }

    fn name(&self, backend: &B, scratch: &mut Scratch<B>, n: usize) -> Result<()> {
        let bits = self.bits;
        backend.lfq_codes(LfqShape { n, bits }, &scratch.work.x, &mut scratch.codes)
    }
}
