//! The tokenizer's two halves: levels of blocks, a middle with attention, an end.

use alloc::format;
use alloc::vec::Vec;

use super::blocks::{AttentionBlock, Conv, Norm, NormSettings, Planes, ResBlock, Resample, Work};
use super::{MagvitConfig, RGB, Stage, Trace};
use crate::error::Result;
use crate::model::linear::Linear;
use crate::model::weights::Loader;
use crate::ops::Backend;

#[derive(Debug)]
struct Level<B: Backend> {
    blocks: Vec<ResBlock<B>>,
    resample: Option<Resample<B>>,
}

impl<B: Backend> Level<B> {
    fn load(
        loader: &Loader<'_, B>,
        name: &str,
        channels: [usize; 2],
        blocks: usize,
        norm: NormSettings,
    ) -> Result<Self> {
        let [c_in, c_out] = channels;
        let block = |j| {
            let c_in = if j == 0 { c_in } else { c_out };
            ResBlock::load(loader, &format!("{name}.block.{j}"), [c_in, c_out], norm)
        };
        Ok(Self {
            blocks: (0..blocks).map(block).collect::<Result<_>>()?,
            resample: None,
        })
    }

    fn apply(&self, backend: &B, s: &mut Planes, work: &mut Work<B>) -> Result<()> {
        for block in &self.blocks {
            block.apply(backend, s, work)?;
        }
        self.resample
            .as_ref()
            .map_or(Ok(()), |resample| resample.apply(backend, s, work))
    }
}

#[derive(Debug)]
struct Middle<B: Backend> {
    block_1: ResBlock<B>,
    attention: AttentionBlock<B>,
    block_2: ResBlock<B>,
}

impl<B: Backend> Middle<B> {
    fn load(
        loader: &Loader<'_, B>,
        name: &str,
        channels: usize,
        norm: NormSettings,
    ) -> Result<Self> {
        Ok(Self {
            block_1: ResBlock::load(loader, &format!("{name}.block_1"), [channels; 2], norm)?,
            attention: AttentionBlock::load(loader, &format!("{name}.attn_1"), channels, norm)?,
            block_2: ResBlock::load(loader, &format!("{name}.block_2"), [channels; 2], norm)?,
        })
    }

    fn apply(
        &self,
        backend: &B,
        s: &mut Planes,
        work: &mut Work<B>,
        names: [&'static str; 3],
        trace: Trace<'_, B>,
    ) -> Result<()> {
        self.block_1.apply(backend, s, work)?;
        trace(Stage::new(names[0]), &work.x, *s)?;
        self.attention.apply(backend, s, work)?;
        trace(Stage::new(names[1]), &work.x, *s)?;
        self.block_2.apply(backend, s, work)?;
        trace(Stage::new(names[2]), &work.x, *s)
    }
}

/// Norm, SiLU, convolution: the last stage of both halves.
#[derive(Debug)]
struct Head<B: Backend> {
    norm: Norm<B>,
    conv: Conv<B>,
}

impl<B: Backend> Head<B> {
    fn load(
        loader: &Loader<'_, B>,
        name: &str,
        channels: [usize; 2],
        norm: NormSettings,
    ) -> Result<Self> {
        let [c_in, c_out] = channels;
        Ok(Self {
            norm: Norm::load(loader, &format!("{name}.norm_out"), c_in, norm)?,
            conv: Conv::load(loader, &format!("{name}.conv_out"), c_in, c_out)?,
        })
    }

    fn apply(&self, backend: &B, s: &mut Planes, work: &mut Work<B>) -> Result<()> {
        self.norm.apply(backend, s, true, &work.x, &mut work.a)?;
        *s = self
            .conv
            .apply(backend, self.conv.shape(s), &work.a, &mut work.x)?;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Encoder<B: Backend> {
    conv_in: Conv<B>,
    down: Vec<Level<B>>,
    middle: Middle<B>,
    head: Head<B>,
    quant: Linear<B>,
}

impl<B: Backend> Encoder<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        config: &MagvitConfig,
        norm: NormSettings,
    ) -> Result<Self> {
        let last = config.levels() - 1;
        let mut down = Vec::new();
        for (i, &blocks) in config.encoder_res_blocks.iter().enumerate() {
            let name = format!("encoder.down.{i}");
            let channels = config.encoder_level(i);
            let mut level = Level::load(loader, &name, channels, blocks, norm)?;
            if i < last {
                level.resample = Some(Resample::load(
                    loader,
                    &format!("{name}.downsample"),
                    channels[1],
                    false,
                )?);
            }
            down.push(level);
        }
        let [_, top] = config.encoder_level(last);
        let bits = config.codebook_bits;
        Ok(Self {
            conv_in: Conv::load(loader, "encoder.conv_in", RGB, config.base_channels)?,
            down,
            middle: Middle::load(loader, "encoder.mid", top, norm)?,
            head: Head::load(loader, "encoder", [top, bits], norm)?,
            quant: Linear::load(loader, "encoder.quant_conv", bits, bits, true)?,
        })
    }

    /// The picture in `work.x` into latents in `work.x`.
    pub(super) fn run(
        &self,
        backend: &B,
        s: &mut Planes,
        work: &mut Work<B>,
        trace: Trace<'_, B>,
    ) -> Result<()> {
        *s = self
            .conv_in
            .apply(backend, self.conv_in.shape(s), &work.x, &mut work.b)?;
        core::mem::swap(&mut work.x, &mut work.b);
        for (i, level) in self.down.iter().enumerate() {
            level.apply(backend, s, work)?;
            trace(
                Stage {
                    name: "enc.down",
                    level: Some(i),
                },
                &work.x,
                *s,
            )?;
        }
        self.middle.apply(
            backend,
            s,
            work,
            ["enc.mid.block_1", "enc.mid.attn_1", "enc.mid.block_2"],
            trace,
        )?;
        self.head.apply(backend, s, work)?;
        trace(Stage::new("enc.conv_out"), &work.x, *s)?;
        self.quant
            .apply(backend, s.images * s.pixels(), &work.x, &mut work.b)?;
        core::mem::swap(&mut work.x, &mut work.b);
        trace(Stage::new("enc.latent"), &work.x, *s)
    }
}

#[derive(Debug)]
pub(super) struct Decoder<B: Backend> {
    post_quant: Linear<B>,
    conv_in: Conv<B>,
    middle: Middle<B>,
    up: Vec<Level<B>>,
    head: Head<B>,
}

impl<B: Backend> Decoder<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        config: &MagvitConfig,
        norm: NormSettings,
    ) -> Result<Self> {
        let mut up = Vec::new();
        for (i, &blocks) in config.decoder_res_blocks.iter().enumerate() {
            let name = format!("decoder.up.{i}");
            let channels = config.decoder_level(i);
            let mut level = Level::load(loader, &name, channels, blocks, norm)?;
            if i > 0 {
                level.resample = Some(Resample::load(
                    loader,
                    &format!("{name}.upsample"),
                    channels[1],
                    true,
                )?);
            }
            up.push(level);
        }
        let [top, _] = config.decoder_level(config.levels() - 1);
        let [_, bottom] = config.decoder_level(0);
        let bits = config.codebook_bits;
        Ok(Self {
            post_quant: Linear::load(loader, "decoder.post_quant_conv", bits, bits, true)?,
            conv_in: Conv::load(loader, "decoder.conv_in", bits, top)?,
            middle: Middle::load(loader, "decoder.mid", top, norm)?,
            up,
            head: Head::load(loader, "decoder", [bottom, RGB], norm)?,
        })
    }

    /// The latents in `work.x` into pictures in `work.x`.
    pub(super) fn run(
        &self,
        backend: &B,
        s: &mut Planes,
        work: &mut Work<B>,
        trace: Trace<'_, B>,
    ) -> Result<()> {
        trace(Stage::new("latent_of_codes"), &work.x, *s)?;
        self.post_quant
            .apply(backend, s.images * s.pixels(), &work.x, &mut work.a)?;
        trace(Stage::new("dec.post_quant_conv"), &work.a, *s)?;
        *s = self
            .conv_in
            .apply(backend, self.conv_in.shape(s), &work.a, &mut work.x)?;
        trace(Stage::new("dec.conv_in"), &work.x, *s)?;
        self.middle.apply(
            backend,
            s,
            work,
            ["dec.mid.block_1", "dec.mid.attn_1", "dec.mid.block_2"],
            trace,
        )?;
        // The highest level has the lowest resolution and comes first.
        for (i, level) in self.up.iter().enumerate().rev() {
            level.apply(backend, s, work)?;
            trace(
                Stage {
                    name: "dec.up",
                    level: Some(i),
                },
                &work.x,
                *s,
            )?;
        }
        self.head.apply(backend, s, work)?;
        trace(Stage::new("decoded"), &work.x, *s)
    }
}
