//! Cross-entropy over label sets: fine-tuning on what should be said or drawn.

use super::engine::{Engine, Kept};
use crate::error::{Error, Result};
use crate::model::learner::{Example, Learner};
use crate::ops::Backward;

/// Adds the gradients of some examples to the engine's sums, and returns the cross-entropy: the mean over all labels.
///
/// # Errors
/// [`Error::Example`] for no examples, and as [`Engine::policy`].
pub fn batch<B: Backward, L: Learner<B>>(
    engine: &mut Engine<B, L>,
    examples: &[Example],
    kept: &mut Kept<B>,
) -> Result<f64> {
    let labels: usize = examples.iter().map(|e| e.labels.len()).sum();
    if labels == 0 {
        return Err(Error::Example {
            op: "supervised",
            at: 0,
            problem: "is missing: there are no labels",
        });
    }
    let (count, mut loss) = (labels as f64, 0.0);
    for example in examples {
        let log_probs = engine.policy(example, Some(&mut *kept))?;
        loss -= super::dpo::score(&log_probs) / count;
        #[expect(clippy::cast_possible_truncation, reason = "a gradient in F32")]
        let weights = alloc::vec![(-1.0 / count) as f32; log_probs.len()];
        engine.backward(example, kept, &weights)?;
    }
    Ok(loss)
}
