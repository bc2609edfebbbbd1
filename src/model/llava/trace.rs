//! One question run openly, for comparison with other implementations.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::session::{Job, LlavaSession, zeroed};
use crate::error::{Error, Result};
use crate::generator::CandidateId;
use crate::image::ImageBatch;
use crate::model::transformer::Stage;
use crate::model::vision::VisionStage;
use crate::ops::Backend;
use crate::reward::{Judgement, Verdict, ViewKey};

/// What [`LlavaSession::trace`] shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceStage {
    /// Patches with positions of a batch of views, `[views, patches, width]`.
    VisionEmbeddings,
    /// The same after a layer.
    VisionLayer(usize),
    /// The same after the tower's last norm, if there is one.
    VisionFeatures,
    /// Projected rows of a batch of views.
    Projector,
    /// The spliced sequence.
    Embeds,
    /// The last row after a text layer.
    TextLayer(usize),
    /// The last row after the final norm.
    FinalNorm,
    /// Its logits.
    Logits,
}

impl<B: Backend> LlavaSession<B> {
    /// Runs one question from its token ids, −200 standing for the picture, without any shared rows, and shows every
    /// stage: for comparison with other implementations.
    ///
    /// # Errors
    /// As [`judge`](crate::reward::RewardModel::judge); not exactly one −200; ids outside the vocabulary; what `look` returns.
    pub fn trace(
        &mut self,
        input_ids: &[i64],
        picture: ImageBatch<'_>,
        look: &mut dyn FnMut(TraceStage, &[f32]) -> Result<()>,
    ) -> Result<Verdict> {
        let mut parts = input_ids.split(|&id| id == -200);
        let (Some(before), Some(after), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Error::Config {
                key: "input_ids",
                problem: "need the picture's placeholder once",
            });
        };
        let limit = self.options.max_tokens;
        if before.len() > limit || after.is_empty() || after.len() > limit {
            return Err(Error::PromptTooLong {
                got: before.len().max(after.len()),
                max: limit,
            });
        }
        let vocab = self.model.config.text.vocab as u64;
        let id = |&i: &i64| {
            let legal = u32::try_from(i).ok().filter(|&i| u64::from(i) < vocab);
            legal.ok_or(Error::Config {
                key: "input_ids",
                problem: "has an id outside the vocabulary",
            })
        };
        let plan = self.plan(picture.size())?;
        let rows = self.rows_of(&plan);
        let total = before.len() + rows + after.len();
        if total > self.image_rows + limit {
            return Err(Error::PromptTooLong {
                got: before.len() + after.len(),
                max: self.image_rows + limit - rows,
            });
        }
        let d = self.model.config.text.width;
        self.slots.clear(0);
        let job = Job {
            view: 0,
            slot: 0,
            picture: 0,
            kept: None,
        };
        let model = Arc::clone(&self.model);
        let backend = &*model.backend;
        let mut host = Vec::new();
        let patches = model.config.vision.patches();
        let pixels = picture.picture(0).ok_or(Error::Length {
            op: "judge",
            arg: "pixels",
            got: 0,
            want: 1,
        })?;
        self.see(
            &plan,
            &[job],
            picture.size(),
            &mut |_| Ok(pixels),
            before.len(),
            total,
            &mut |stage, x, views| {
                let (stage, width) = match stage {
                    VisionStage::Embeddings => {
                        (TraceStage::VisionEmbeddings, model.config.vision.width)
                    }
                    VisionStage::Layer(layer) => {
                        (TraceStage::VisionLayer(layer), model.config.vision.width)
                    }
                    VisionStage::Features => {
                        (TraceStage::VisionFeatures, model.config.vision.width)
                    }
                    VisionStage::Projector => (TraceStage::Projector, d),
                };
                host.resize(views * patches * width, 0.0);
                backend.read(x, 0, &mut host)?;
                look(stage, &host)
            },
        )?;
        for (part, at) in [(before, 0), (after, before.len() + rows)] {
            let ids = part.iter().map(id).collect::<Result<Vec<_>>>()?;
            self.embed(&ids)?;
            backend.copy(&self.text, 0, &mut self.x, at * d, ids.len() * d)?;
        }
        host.resize(total * d, 0.0);
        backend.read(&self.x, 0, &mut host)?;
        look(TraceStage::Embeds, &host)?;
        let mut last = zeroed(d)?;
        self.pass(&[job], 0, 0, total, &mut |layer, stage, x| {
            if stage == Stage::Output {
                backend.read(x, (total - 1) * d, &mut last)?;
                look(TraceStage::TextLayer(layer), &last)?;
            }
            Ok(())
        })?;
        self.head(1, total)?;
        backend.read(&self.normed, 0, &mut last)?;
        look(TraceStage::FinalNorm, &last)?;
        host.resize(self.head_width(), 0.0);
        backend.read(&self.logits, 0, &mut host)?;
        look(TraceStage::Logits, &host)?;
        let key = ViewKey {
            candidate: CandidateId(0),
            step: 0,
        };
        self.read(0, key, Judgement::Outcome)
    }
}
