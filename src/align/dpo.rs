//! Direct preference optimisation: make the chosen picture likelier than the other one, compared with a reference.
//!
//! # Source
//! Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290; scores and defaults as in the released
//! `training/train_dpo.py` of Guo et al., "Can We Generate Images with CoT?", arXiv 2501.13926.

use super::engine::{Engine, Kept};
use crate::error::{Error, Result};
use crate::model::learner::{Example, Learner};
use crate::ops::Backward;

/// Factors of the objective. The defaults are the released ones.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct DpoConfig {
    /// How much a difference of scores counts.
    pub beta: f64,
    /// Factor of the preference.
    pub dpo: f64,
    /// Factor of the cross-entropy of the chosen pictures.
    pub supervised: f64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            dpo: 1.0,
            supervised: 0.0,
        }
    }
}

impl DpoConfig {
    /// Another weight of differences of scores.
    #[must_use]
    pub const fn with_beta(mut self, beta: f64) -> Self {
        self.beta = beta;
        self
    }

    /// Another factor of the preference.
    #[must_use]
    pub const fn with_dpo(mut self, dpo: f64) -> Self {
        self.dpo = dpo;
        self
    }

    /// Another factor of the cross-entropy.
    #[must_use]
    pub const fn with_supervised(mut self, supervised: f64) -> Self {
        self.supervised = supervised;
        self
    }
}

/// A pair with the scores of the reference: chosen, then rejected.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredPair {
    /// The examples.
    pub examples: [Example; 2],
    /// Sum of the log-probabilities of each under the reference.
    pub reference: [f64; 2],
}

/// What one batch gave.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct DpoReport {
    /// The loss that gradients were taken of.
    pub loss: f64,
    /// Mean of −log σ(β Δ).
    pub dpo: f64,
    /// Cross-entropy of the chosen pictures, the mean over all their labels.
    pub supervised: f64,
    /// Mean of Δ: how much further apart the policy holds the pictures than the reference.
    pub margin: f64,
    /// Share of the pairs with Δ above 0.
    pub p_right: f64,
}

/// The sum of log-probabilities.
#[must_use]
pub fn score(log_probs: &[f32]) -> f64 {
    log_probs.iter().map(|&p| f64::from(p)).sum()
}

/// −log σ(x), and σ(−x), without overflow.
///
/// ```
/// let [loss, pull] = maquette::align::dpo::preference_loss(0.0);
/// assert!((loss - 2.0_f64.ln()).abs() < 1e-12);
/// assert_eq!(pull, 0.5);
/// ```
#[must_use]
pub fn preference_loss(x: f64) -> [f64; 2] {
    let e = libm::exp(-x.abs());
    let below = if x > 0.0 {
        e / (1.0 + e)
    } else {
        1.0 / (1.0 + e)
    };
    [libm::log1p(e) + (-x).max(0.0), below]
}

impl ScoredPair {
    /// Scores a pair under the engine's model without its adapters. Of a model whose blocks are trained, another engine
    /// with the frozen weights must be given.
    ///
    /// # Errors
    /// As [`Engine::reference`].
    pub fn new<B: Backward, L: Learner<B>>(
        reference: &mut Engine<B, L>,
        examples: [Example; 2],
    ) -> Result<Self> {
        let [chosen, rejected] = &examples;
        let scores = [
            score(&reference.reference(chosen)?),
            score(&reference.reference(rejected)?),
        ];
        Ok(Self {
            examples,
            reference: scores,
        })
    }
}

/// Adds the gradients of a batch of pairs to the engine's sums.
///
/// # Errors
/// No pair ([`Error::Example`]), one whose scores are not finite ([`Error::NotFinite`]), and as [`Engine::policy`].
pub fn batch<B: Backward, L: Learner<B>>(
    engine: &mut Engine<B, L>,
    pairs: &[ScoredPair],
    config: &DpoConfig,
    kept: &mut [Kept<B>; 2],
) -> Result<DpoReport> {
    const OP: &str = "dpo";
    if pairs.is_empty() {
        return Err(Error::Example {
            op: OP,
            at: 0,
            problem: "is missing: the batch is empty",
        });
    }
    let n = pairs.len() as f64;
    let labels: usize = pairs.iter().map(|p| p.examples[0].labels.len()).sum();
    let (labels, mut report) = (labels.max(1) as f64, DpoReport::default());
    for (at, pair) in pairs.iter().enumerate() {
        let ([chosen, rejected], [kept_chosen, kept_rejected]) = (&pair.examples, &mut *kept);
        let better = score(&engine.policy(chosen, Some(&mut *kept_chosen))?);
        let worse = score(&engine.policy(rejected, Some(&mut *kept_rejected))?);
        let delta = (better - worse) - (pair.reference[0] - pair.reference[1]);
        if !delta.is_finite() {
            return Err(Error::NotFinite {
                op: OP,
                arg: "the score of a pair",
                row: at,
            });
        }
        let [loss, below] = preference_loss(config.beta * delta);
        report.dpo += loss / n;
        report.supervised -= better / labels;
        report.margin += delta / n;
        report.p_right += if delta > 0.0 { 1.0 / n } else { 0.0 };
        let slope = -config.dpo * config.beta * below / n;
        let towards = slope - config.supervised / labels;
        for (example, kept, weight) in [
            (chosen, &*kept_chosen, towards),
            (rejected, &*kept_rejected, -slope),
        ] {
            #[expect(clippy::cast_possible_truncation, reason = "a gradient in F32")]
            let weights = alloc::vec![weight as f32; example.labels.len()];
            engine.backward(example, kept, &weights)?;
        }
    }
    report.loss = config.dpo * report.dpo + config.supervised * report.supervised;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_cost_ln_2_and_pull_with_one_half() {
        let [loss, below] = preference_loss(0.0);
        assert!((loss - core::f64::consts::LN_2).abs() < 1e-15 && (below - 0.5).abs() < 1e-15);
        let [loss, below] = preference_loss(-800.0);
        assert!((loss - 800.0).abs() < 1e-9 && (below - 1.0).abs() < 1e-9);
        let [loss, below] = preference_loss(800.0);
        assert!(loss.abs() < 1e-9 && below.abs() < 1e-9);
    }
}
