//! Gradients of the embedding, the last norm and the head.

use super::{Place, zeros};
use crate::error::{Result, product};
use crate::model::learner::{Learner, Scope};
use crate::ops::{Backend, Backward};

/// Sums of the gradients of what stands before and behind the blocks.
#[derive(Debug)]
pub(in crate::align) struct EndGrads<B: Backend> {
    pub(in crate::align) tokens: usize,
    codes_at: usize,
    width: usize,
    pub(in crate::align) embedding: B::Buffer<f32>,
    pub(in crate::align) norm: B::Buffer<f32>,
    /// Weight and bias of the head of all tokens, and of that of the codes.
    pub(in crate::align) heads: [[B::Buffer<f32>; 2]; 2],
}

impl<B: Backward> EndGrads<B> {
    /// Reserves sums.
    pub(in crate::align) fn new(learner: &dyn Learner<B>) -> Result<Option<Self>> {
        let (b, width) = (&**learner.backend(), learner.stack().config().width);
        let Some(ends) = learner.ends() else {
            return Ok(None);
        };
        let zeros = |n: usize| b.zeros(product("gradients", &[n, width])?);
        let norm = learner.head(Scope::Vocabulary)?.norm.grads(b)?;
        let codes = learner.head(Scope::Codes)?.last.n();
        Ok(Some(Self {
            tokens: ends.tokens,
            codes_at: ends.codes_at,
            width,
            embedding: zeros(ends.tokens)?,
            norm,
            heads: [
                [zeros(ends.tokens)?, b.zeros(ends.tokens)?],
                [zeros(codes)?, b.zeros(codes)?],
            ],
        }))
    }

    pub(super) fn read(&self, device: &B, place: Place, out: &mut [f32]) -> Result<()> {
        let [all, codes] = &self.heads;
        let (from, part, at) = match place {
            Place::Embedding => return device.read(&self.embedding, 0, out),
            Place::LastNorm { part } => return device.read(&self.norm, part * out.len(), out),
            Place::HeadBias => (&all[1], &codes[1], self.codes_at),
            _ => (&all[0], &codes[0], self.codes_at * self.width),
        };
        device.read(from, 0, out)?;
        // The codes' head is some rows of the other one.
        let mut own = zeros(device.len(part))?;
        device.read(part, 0, &mut own)?;
        for (out, own) in out.iter_mut().skip(at).zip(own) {
            *out += own;
        }
        Ok(())
    }
}
