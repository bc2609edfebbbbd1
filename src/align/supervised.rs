//! Cross-entropy over label sets: fine-tuning on what should be said or drawn.

use super::engine::{Engine, Kept};
use crate::error::{Error, Result};
use crate::model::learner::{Example, Learner};
use crate::ops::Backward;

/// What a batch gave.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct SupervisedReport {
    /// The cross-entropy: the mean over all labels.
    pub loss: f64,
    /// Mean probability of the examples' first labels; of a judge's lessons, that of the right answer.
    pub p_right: f64,
}

/// Adds the gradients of some examples to the engine's sums, and returns the cross-entropy: the mean over all labels.
///
/// # Errors
/// [`Error::Example`] for no examples, and as [`Engine::policy`].
pub fn batch<B: Backward, L: Learner<B>>(
    engine: &mut Engine<B, L>,
    examples: &[Example],
    kept: &mut Kept<B>,
) -> Result<f64> {
    answers(engine, examples, kept).map(|report| report.loss)
}

/// As [`batch`], and tells more.
///
/// # Errors
/// As [`batch`].
pub fn answers<B: Backward, L: Learner<B>>(
    engine: &mut Engine<B, L>,
    examples: &[Example],
    kept: &mut Kept<B>,
) -> Result<SupervisedReport> {
    let labels: usize = examples.iter().map(|e| e.labels.len()).sum();
    if labels == 0 {
        return Err(Error::Example {
            op: "supervised",
            at: 0,
            problem: "is missing: there are no labels",
        });
    }
    let (count, mut report) = (labels as f64, SupervisedReport::default());
    for example in examples {
        let log_probs = engine.policy(example, Some(&mut *kept))?;
        report.loss -= super::dpo::score(&log_probs) / count;
        let first = log_probs.first().map_or(0.0, |p| libm::exp(f64::from(*p)));
        report.p_right += first / examples.len() as f64;
        #[expect(clippy::cast_possible_truncation, reason = "a gradient in F32")]
        let weights = alloc::vec![(-1.0 / count) as f32; log_probs.len()];
        engine.backward(example, kept, &weights)?;
    }
    Ok(report)
}
