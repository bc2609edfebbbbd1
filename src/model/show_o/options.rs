//! Settings of a Show-o session.

use crate::ops::attention::KvFormat;
use crate::ops::sample::Schedule;

/// Which candidates choose their masks with noise, and how it fades.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TemperaturePolicy {
    /// The evident intent of the released code: every candidate anneals by the cumulative product.
    #[default]
    Reset,
    /// The released search scripts as they are: only candidate 0 of a prompt's first start anneals, all others choose
    /// their masks without noise. "First" means that the prompt is not in the session's cache.
    Upstream,
    /// Every candidate anneals linearly, as in the MaskGIT paper.
    Linear,
}

/// What happens to prompts that have more tokens than the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LongPrompt {
    /// An error.
    #[default]
    Reject,
    /// The leading tokens are kept, as the released code does.
    Truncate,
}

/// Settings of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ShowOOptions {
    /// Steps from start to finished.
    pub steps: u32,
    /// Guidance scale s of uncond + s · (cond − uncond); 1 turns guidance off. Show-o quotes w = s − 1.
    pub guidance_scale: f32,
    /// Temperature of the mask choice before the first step.
    pub temperature: f32,
    /// Who anneals.
    pub temperature_policy: TemperaturePolicy,
    /// Share of masked places over the steps.
    pub schedule: Schedule,
    /// What happens to long prompts.
    pub long_prompts: LongPrompt,
    /// How keys and values are kept. In halves of floats they take half the room, and a GPU attends to them on tensor
    /// cores; logits move a little.
    pub kv: KvFormat,
    /// Candidates that can be alive at once.
    pub candidates: usize,
    /// Candidates that go through the model in one batch; more are taken in turns with the same result.
    pub batch: usize,
    /// Prompts whose text rows are kept.
    pub prompts: usize,
    /// Whether the last step's hidden rows are kept for judges that look at them: of the prompt's half, after the last
    /// norm. They cost their memory and no pass of the model.
    pub hidden: bool,
}

impl Default for ShowOOptions {
    fn default() -> Self {
        Self {
            steps: 18,
            guidance_scale: 2.75,
            temperature: 1.0,
            temperature_policy: TemperaturePolicy::Reset,
            schedule: Schedule::Cosine,
            long_prompts: LongPrompt::Reject,
            kv: KvFormat::F32,
            candidates: 32,
            batch: 8,
            prompts: 4,
            hidden: false,
        }
    }
}
