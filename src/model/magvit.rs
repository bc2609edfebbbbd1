//! The MAGVIT-v2 tokenizer: pictures to codes and back, with a lookup-free quantiser.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use crate::codes::Code;
use crate::error::{Error, Result, covers, product};
use crate::model::weights::{Loader, WeightSource};
use crate::ops::Backend;
use crate::ops::vq::LfqShape;
use crate::quant::Format;

pub mod blocks;
mod config;
mod halves;

use blocks::{NormSettings, Planes, Work};
pub use config::MagvitConfig;
use halves::{Decoder, Encoder};

const OP: &str = "magvit";
const RGB: usize = 3;

/// The tokenizer's weights on a device. It never changes: any number of threads may use it, each with a
/// [`MagvitScratch`] of its own.
///
/// # Source
/// Yu et al., "Language Model Beats Diffusion", arXiv 2310.05737, in the form of the released Show-o.
#[derive(Debug)]
pub struct Magvit<B: Backend> {
    backend: Arc<B>,
    config: MagvitConfig,
    encoder: Option<Encoder<B>>,
    decoder: Decoder<B>,
}

/// Memory of one decoding or encoding at a time.
#[derive(Debug)]
pub struct MagvitScratch<B: Backend> {
    work: Work<B>,
    codes: B::Buffer<u32>,
    bytes: B::Buffer<u8>,
    places: usize,
}

/// A stage of encoder or decoder, for those who compare it with another implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Its level, where there is one such stage a level.
    pub level: Option<usize>,
}

impl Stage {
    const fn new(name: &'static str) -> Self {
        Self { name, level: None }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "{}.{level}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// Shown what each stage leaves: `[images, height, width, channels]` as [`Planes`].
pub type Trace<'a, B> =
    &'a mut dyn FnMut(Stage, &<B as Backend>::Buffer<f32>, Planes) -> Result<()>;

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
        let has_encoder = loader.has("encoder.conv_in.weight");
        let encoder = has_encoder
            .then(|| Encoder::load(&loader, &config, norm))
            .transpose()?;
        let decoder = Decoder::load(&loader, &config, norm)?;
        // The quantiser's tables follow from the number of bits.
        loader.finish(&|name| name.starts_with("quantize.") || ignore(name))?;
        drop(loader);
        Ok(Self {
            backend,
            config,
            encoder,
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
        if places == 0 {
            return Err(Error::Range {
                op: OP,
                arg: "places",
                got: 0,
                min: 1,
                max: u64::from(u32::MAX),
            });
        }
        let len = product(OP, &[places, self.config.numbers_per_code()])?;
        let scale = self.config.scale();
        Ok(MagvitScratch {
            work: Work::new(&*self.backend, len, places)?,
            codes: self.backend.zeros(places)?,
            bytes: self
                .backend
                .zeros(product(OP, &[places, scale, scale, RGB])?)?,
            places,
        })
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
        let (turn, places, len) = self.turns(scratch, n, grid)?;
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
                .to_bytes(s, &scratch.work.x, &mut scratch.bytes)?;
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
        let (turn, places, len) = self.turns(scratch, n, grid)?;
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
        self.turns(scratch, 0, grid)?;
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
        let (turn, places, len) = self.turns(scratch, n, self.grid_of(size)?)?;
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
        self.turns(scratch, 0, self.grid_of(size)?)?;
        self.encode_turn(scratch, size, pixels, trace).map(|_| ())
    }

    /// Pictures a turn, codes a picture, numbers a picture.
    fn turns(
        &self,
        scratch: &MagvitScratch<B>,
        n: usize,
        [rows, cols]: [usize; 2],
    ) -> Result<(usize, usize, usize)> {
        let places = product(OP, &[rows, cols])?;
        if places == 0 || places > scratch.places {
            let max = scratch.places as u64;
            return Err(Error::Range {
                op: OP,
                arg: "grid",
                got: places as u64,
                min: 1,
                max,
            });
        }
        let len = product(OP, &[places, self.config.scale(), self.config.scale(), RGB])?;
        product(OP, &[n, places])?;
        product(OP, &[n, len])?;
        Ok((scratch.places / places, places, len))
    }

    fn grid_of(&self, [height, width]: [usize; 2]) -> Result<[usize; 2]> {
        let scale = self.config.scale();
        if !height.is_multiple_of(scale) || !width.is_multiple_of(scale) {
            return Err(Error::Config {
                key: "image_size",
                problem: "cannot be halved once a level",
            });
        }
        Ok([height / scale, width / scale])
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
        self.decoder
            .run(&self.backend, &mut s, &mut scratch.work, trace)?;
        Ok(s)
    }

    fn encode_turn(
        &self,
        scratch: &mut MagvitScratch<B>,
        [height, width]: [usize; 2],
        pixels: &[f32],
        trace: Trace<'_, B>,
    ) -> Result<Planes> {
        let encoder = self.encoder.as_ref().ok_or(Error::Unsupported {
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
        encoder.run(&self.backend, &mut s, &mut scratch.work, trace)?;
        Ok(s)
    }
}
