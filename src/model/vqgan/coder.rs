//! From codes to pictures and back, whatever the codebook.

use alloc::sync::Arc;

use super::blocks::Planes;
use super::{Half, RGB, Scratch, Stage, Trace, Turns};
use crate::codes::Code;
use crate::error::{Error, Result, covers};
use crate::model::linear::Linear;
use crate::ops::Backend;
use crate::ops::conv::Rounding;

/// What lies between the halves. A trait and no enum, since only one of the tokenizers has a choice of blanks, and each
/// keeps its own tables to itself.
pub(in crate::model) trait Codebook<B: Backend> {
    /// The tokenizer's name in errors.
    const OP: &'static str;

    /// What stands for a code outside the codebook.
    type Blank: Copy;

    /// Channels of what the decoder reads.
    fn channels(&self) -> usize;

    /// Puts what the decoder reads for `codes`, as many as `s` has pixels, into `work.x`.
    fn read(
        &self,
        backend: &B,
        scratch: &mut Scratch<B>,
        codes: (&[Code], Self::Blank),
        s: Planes,
        trace: Trace<'_, B>,
    ) -> Result<()>;

    /// Puts the codes of the `n` latents in `work.x` into `codes`.
    fn name(&self, backend: &B, scratch: &mut Scratch<B>, n: usize) -> Result<()>;
}

/// Where decoded pictures go, and what they become.
pub(in crate::model) enum Pictures<'a> {
    Bytes(Rounding, &'a mut [u8]),
    Floats(&'a mut [f32]),
}

impl Pictures<'_> {
    const fn len(&self) -> usize {
        match self {
            Self::Bytes(_, out) => out.len(),
            Self::Floats(out) => out.len(),
        }
    }
}

/// Both halves and the codebook between them, on a device.
#[derive(Debug)]
pub(in crate::model) struct Coder<B: Backend, C> {
    pub(in crate::model) backend: Arc<B>,
    /// With its last projection, where the checkpoint has one.
    pub(in crate::model) encoder: Option<(Half<B>, Linear<B>)>,
    pub(in crate::model) codebook: C,
    pub(in crate::model) decoder: Half<B>,
}

impl<B: Backend, C: Codebook<B>> Coder<B, C> {
    /// `n` grids of `[rows, cols]` codes to pictures.
    pub(in crate::model) fn decode(
        &self,
        scratch: &mut Scratch<B>,
        (n, grid): (usize, [usize; 2]),
        (codes, blank): (&[Code], C::Blank),
        mut out: Pictures<'_>,
    ) -> Result<()> {
        let Turns {
            pictures,
            places,
            len,
        } = scratch.turns(n, grid)?;
        covers(C::OP, "codes", codes.len(), n * places)?;
        covers(C::OP, "out", out.len(), n * len)?;
        let b = &*self.backend;
        for (turn, codes) in codes[..n * places].chunks(pictures * places).enumerate() {
            let count = self
                .decode_turn(scratch, grid, (codes, blank), &mut |_, _, _| Ok(()))?
                .elements()?;
            let from = turn * pictures * len;
            match &mut out {
                Pictures::Bytes(rounding, out) => {
                    b.to_bytes(*rounding, count, &scratch.work.x, &mut scratch.bytes)?;
                    b.read(&scratch.bytes, 0, &mut out[from..from + count])?;
                }
                Pictures::Floats(out) => {
                    b.read(&scratch.work.x, 0, &mut out[from..from + count])?;
                }
            }
        }
        Ok(())
    }

    /// `n` pictures of `[height, width]` pixels to codes.
    pub(in crate::model) fn encode(
        &self,
        scratch: &mut Scratch<B>,
        (n, size): (usize, [usize; 2]),
        pixels: &[f32],
        codes: &mut [Code],
    ) -> Result<()> {
        let Turns {
            pictures,
            places,
            len,
        } = scratch.turns(n, scratch.grid_of(size)?)?;
        covers(C::OP, "pixels", pixels.len(), n * len)?;
        covers(C::OP, "codes", codes.len(), n * places)?;
        for (pixels, codes) in pixels[..n * len]
            .chunks(pictures * len)
            .zip(codes.chunks_mut(pictures * places))
        {
            let s = self.encode_turn(scratch, size, pixels, &mut |_, _, _| Ok(()))?;
            let count = s.images * s.pixels();
            self.codebook.name(&self.backend, scratch, count)?;
            self.backend.read(&scratch.codes, 0, &mut codes[..count])?;
        }
        Ok(())
    }

    /// All grids that `codes` holds, at once; leaves the pictures in `work.x`.
    pub(in crate::model) fn decode_turn(
        &self,
        scratch: &mut Scratch<B>,
        [height, width]: [usize; 2],
        (codes, blank): (&[Code], C::Blank),
        trace: Trace<'_, B>,
    ) -> Result<Planes> {
        scratch.turns(0, [height, width])?;
        let mut s = Planes {
            images: codes.len() / (height * width),
            height,
            width,
            channels: self.codebook.channels(),
        };
        let codes = &codes[..s.images * s.pixels()];
        let b = &*self.backend;
        self.codebook.read(b, scratch, (codes, blank), s, trace)?;
        trace(Stage::new("dec.post_quant_conv"), &scratch.work.x, s)?;
        self.decoder.run(b, &mut s, &mut scratch.work, trace)?;
        Ok(s)
    }

    /// All pictures that `pixels` holds, at once; leaves their latents in `work.x`.
    pub(in crate::model) fn encode_turn(
        &self,
        scratch: &mut Scratch<B>,
        [height, width]: [usize; 2],
        pixels: &[f32],
        trace: Trace<'_, B>,
    ) -> Result<Planes> {
        scratch.turns(0, scratch.grid_of([height, width])?)?;
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
        s.channels = quant.n();
        trace(Stage::new("enc.latent"), &work.x, s)?;
        Ok(s)
    }
}
