//! The two halves of a tokenizer: levels of blocks, a middle with attention, an end.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::blocks::{AttentionBlock, Conv, Norm, NormSettings, Planes, ResBlock, Resample, Work};
use super::{Stage, Trace};
use crate::error::Result;
use crate::model::weights::Loader;
use crate::ops::Backend;

/// One level of a half, as its checkpoint names it.
#[derive(Debug)]
pub(in crate::model) struct LevelPlan {
    /// Name of the level's tensors.
    pub(in crate::model) name: String,
    /// Name of its residual blocks below that.
    pub(in crate::model) block: &'static str,
    /// Channels that enter and leave.
    pub(in crate::model) channels: [usize; 2],
    /// Residual blocks.
    pub(in crate::model) blocks: usize,
    /// Whether attention follows each of them.
    pub(in crate::model) attention: bool,
    /// Name of the change of resolution at the end, and whether it goes up.
    pub(in crate::model) resample: Option<(&'static str, bool)>,
    /// What its output is called.
    pub(in crate::model) stage: Stage,
}

/// A half, as its checkpoint names it.
#[derive(Debug)]
pub(in crate::model) struct HalfPlan {
    /// Name of the half's tensors.
    pub(in crate::model) name: &'static str,
    /// Channels that the first convolution reads and writes.
    pub(in crate::model) first: [usize; 2],
    /// Levels, the first to run first.
    pub(in crate::model) levels: Vec<LevelPlan>,
    /// Names of the middle's block, attention and block.
    pub(in crate::model) middle: [&'static str; 3],
    /// Channels of the middle.
    pub(in crate::model) channels: usize,
    /// Whether the middle comes before the levels, as in a decoder.
    pub(in crate::model) middle_first: bool,
    /// Channels that the last convolution reads and writes.
    pub(in crate::model) last: [usize; 2],
    /// What comes out of the first convolution, the three parts of the middle, and the last convolution.
    pub(in crate::model) stages: [Stage; 5],
}

#[derive(Debug)]
struct Level<B: Backend> {
    blocks: Vec<(ResBlock<B>, Option<AttentionBlock<B>>)>,
    resample: Option<Resample<B>>,
    stage: Stage,
}

impl<B: Backend> Level<B> {
    fn load(loader: &Loader<'_, B>, plan: &LevelPlan, norm: NormSettings) -> Result<Self> {
        let [c_in, c_out] = plan.channels;
        let name = &plan.name;
        let block = |j| {
            let from = if j == 0 { c_in } else { c_out };
            let block = format!("{name}.{}.{j}", plan.block);
            let attention =
                || AttentionBlock::load(loader, &format!("{name}.attn.{j}"), c_out, norm);
            Ok((
                ResBlock::load(loader, &block, [from, c_out], norm)?,
                plan.attention.then(attention).transpose()?,
            ))
        };
        let resample = |(end, up)| Resample::load(loader, &format!("{name}.{end}"), c_out, up);
        Ok(Self {
            blocks: (0..plan.blocks).map(block).collect::<Result<_>>()?,
            resample: plan.resample.map(resample).transpose()?,
            stage: plan.stage,
        })
    }

    fn apply(&self, backend: &B, s: &mut Planes, work: &mut Work<B>) -> Result<()> {
        for (block, attention) in &self.blocks {
            block.apply(backend, s, work)?;
            if let Some(attention) = attention {
                attention.apply(backend, s, work)?;
            }
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

/// An encoder without its last projection, or a decoder without its first.
#[derive(Debug)]
pub(in crate::model) struct Half<B: Backend> {
    conv_in: Conv<B>,
    levels: Vec<Level<B>>,
    middle: Middle<B>,
    middle_first: bool,
    norm_out: Norm<B>,
    conv_out: Conv<B>,
    stages: [Stage; 5],
}

impl<B: Backend> Half<B> {
    pub(in crate::model) fn load(
        loader: &Loader<'_, B>,
        plan: &HalfPlan,
        norm: NormSettings,
    ) -> Result<Self> {
        let at = |part: &str| format!("{}.{part}", plan.name);
        let [block_1, attention, block_2] = plan.middle.map(|part| at(&format!("mid.{part}")));
        let c = plan.channels;
        Ok(Self {
            conv_in: Conv::load(loader, &at("conv_in"), plan.first[0], plan.first[1])?,
            levels: plan
                .levels
                .iter()
                .map(|level| Level::load(loader, level, norm))
                .collect::<Result<_>>()?,
            middle: Middle {
                block_1: ResBlock::load(loader, &block_1, [c; 2], norm)?,
                attention: AttentionBlock::load(loader, &attention, c, norm)?,
                block_2: ResBlock::load(loader, &block_2, [c; 2], norm)?,
            },
            middle_first: plan.middle_first,
            norm_out: Norm::load(loader, &at("norm_out"), plan.last[0], norm)?,
            conv_out: Conv::load(loader, &at("conv_out"), plan.last[0], plan.last[1])?,
            stages: plan.stages,
        })
    }

    /// Replaces the picture or latent in `work.x`.
    pub(in crate::model) fn run(
        &self,
        backend: &B,
        s: &mut Planes,
        work: &mut Work<B>,
        trace: Trace<'_, B>,
    ) -> Result<()> {
        let [first, .., last] = self.stages;
        *s = self
            .conv_in
            .apply(backend, self.conv_in.shape(s), &work.x, &mut work.b)?;
        core::mem::swap(&mut work.x, &mut work.b);
        trace(first, &work.x, *s)?;
        if self.middle_first {
            self.run_middle(backend, s, work, trace)?;
        }
        for level in &self.levels {
            level.apply(backend, s, work)?;
            trace(level.stage, &work.x, *s)?;
        }
        if !self.middle_first {
            self.run_middle(backend, s, work, trace)?;
        }
        self.norm_out
            .apply(backend, s, true, &work.x, &mut work.a)?;
        *s = self
            .conv_out
            .apply(backend, self.conv_out.shape(s), &work.a, &mut work.x)?;
        trace(last, &work.x, *s)
    }

    fn run_middle(
        &self,
        backend: &B,
        s: &mut Planes,
        work: &mut Work<B>,
        trace: Trace<'_, B>,
    ) -> Result<()> {
        let [_, block_1, attention, block_2, _] = self.stages;
        self.middle.block_1.apply(backend, s, work)?;
        trace(block_1, &work.x, *s)?;
        self.middle.attention.apply(backend, s, work)?;
        trace(attention, &work.x, *s)?;
        self.middle.block_2.apply(backend, s, work)?;
        trace(block_2, &work.x, *s)
    }
}
