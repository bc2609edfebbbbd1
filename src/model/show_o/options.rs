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
///
/// ```
/// use maquette::model::show_o::ShowOOptions;
/// let options = ShowOOptions::default().with_steps(12).with_candidates(20);
/// assert_eq!((options.steps, options.guidance_scale), (12, 2.75));
/// ```
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

impl ShowOOptions {
    /// Another number of steps.
    #[must_use]
    pub const fn with_steps(mut self, steps: u32) -> Self {
        self.steps = steps;
        self
    }

    /// Another guidance scale; 1 turns guidance off.
    #[must_use]
    pub const fn with_guidance_scale(mut self, guidance_scale: f32) -> Self {
        self.guidance_scale = guidance_scale;
        self
    }

    /// Another temperature of the mask choice.
    #[must_use]
    pub const fn with_temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }

    /// Other candidates anneal, or otherwise.
    #[must_use]
    pub const fn with_temperature_policy(mut self, policy: TemperaturePolicy) -> Self {
        self.temperature_policy = policy;
        self
    }

    /// Another share of masked places over the steps.
    #[must_use]
    pub const fn with_schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// What happens to long prompts.
    #[must_use]
    pub const fn with_long_prompts(mut self, long_prompts: LongPrompt) -> Self {
        self.long_prompts = long_prompts;
        self
    }

    /// Keeps keys and values in another way.
    #[must_use]
    pub const fn with_kv(mut self, kv: KvFormat) -> Self {
        self.kv = kv;
        self
    }

    /// Room for so many candidates at once.
    #[must_use]
    pub const fn with_candidates(mut self, candidates: usize) -> Self {
        self.candidates = candidates;
        self
    }

    /// So many candidates in one batch.
    #[must_use]
    pub const fn with_batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Keeps the text rows of so many prompts.
    #[must_use]
    pub const fn with_prompts(mut self, prompts: usize) -> Self {
        self.prompts = prompts;
        self
    }

    /// Whether hidden rows are kept for judges that look at them.
    #[must_use]
    pub const fn with_hidden(mut self, hidden: bool) -> Self {
        self.hidden = hidden;
        self
    }
}
