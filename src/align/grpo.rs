//! Group-relative policy optimisation: samples of one prompt are judged against their group.
//!
//! # Source
//! Shao et al., "DeepSeekMath", arXiv 2402.03300; settings of Jiang et al., "T2I-R1", arXiv 2505.00703. What a token's
//! log-probability is for a masked generator is our own choice: that of the step in which its code became known.

use alloc::vec::Vec;

use super::engine::{Engine, Kept};
use super::entropy::EntropyTerms;
use crate::error::{Error, Result, covers};
use crate::model::learner::{Example, Learner, Scope};
use crate::ops::Backward;

const OP: &str = "grpo";

/// What a group's deviation is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Deviation {
    /// One less than the samples.
    Unbiased,
    /// The samples.
    Population,
}

/// What happens to a group whose rewards are all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EqualRewards {
    /// Its advantages are 0: only the distance from the reference is left.
    Keep,
    /// It is an error, so that the caller can draw another one.
    Reject,
}

/// Settings of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GrpoConfig {
    /// Added to the deviation.
    pub eps: f64,
    /// The deviation.
    pub deviation: Deviation,
    /// How far a ratio may leave 1 before it stops counting.
    pub clip: Option<f64>,
    /// Factor of the distance from the reference.
    pub beta: f64,
    /// What to do without differences.
    pub equal_rewards: EqualRewards,
    /// Entropies of the drawn tokens as terms of the loss, each the mean over the tokens of its kind. They belong to policies
    /// that drew the samples themselves.
    pub entropy: EntropyTerms,
}

impl Default for GrpoConfig {
    /// The settings of T2I-R1.
    fn default() -> Self {
        Self {
            eps: 1e-4,
            deviation: Deviation::Unbiased,
            clip: None,
            beta: 0.01,
            equal_rewards: EqualRewards::Keep,
            entropy: EntropyTerms::default(),
        }
    }
}

impl GrpoConfig {
    /// Another number beside the deviation.
    #[must_use]
    pub const fn with_eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// Another deviation.
    #[must_use]
    pub const fn with_deviation(mut self, deviation: Deviation) -> Self {
        self.deviation = deviation;
        self
    }

    /// Ratios that leave 1 by more than this do not count.
    #[must_use]
    pub const fn with_clip(mut self, clip: f64) -> Self {
        self.clip = Some(clip);
        self
    }

    /// Another factor of the distance from the reference.
    #[must_use]
    pub const fn with_beta(mut self, beta: f64) -> Self {
        self.beta = beta;
        self
    }

    /// What to do without differences.
    #[must_use]
    pub const fn with_equal_rewards(mut self, equal_rewards: EqualRewards) -> Self {
        self.equal_rewards = equal_rewards;
        self
    }

    /// Entropies as terms of the loss.
    #[must_use]
    pub const fn with_entropy(mut self, entropy: EntropyTerms) -> Self {
        self.entropy = entropy;
        self
    }
}

/// One sample: the passes that its tokens are taken from, and the log-probabilities that it was drawn with.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// A pass for each step of a masked generator; one pass of a raster generator.
    pub passes: Vec<Example>,
    /// Of the reference, pass by pass and label by label.
    pub reference: Vec<f32>,
    /// Of the policy that drew, in the same order; nothing if that is the policy as it is now.
    pub old: Option<Vec<f32>>,
}

/// A token's part of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Token {
    /// Probability now over that when it was drawn.
    pub ratio: f64,
    /// Distance from the reference: exp(d) − d − 1 with d = ℓ_ref − ℓ, at least 0.
    pub k3: f64,
    /// min(ρ A, clip(ρ) A) − β k3.
    pub objective: f64,
    /// Its derivative with respect to ℓ.
    pub slope: f64,
}

impl Token {
    /// From the log-probabilities now, when it was drawn, and under the reference.
    #[must_use]
    pub fn new(config: &GrpoConfig, advantage: f64, [now, old, reference]: [f64; 3]) -> Self {
        let ratio = libm::exp(now - old);
        let plain = ratio * advantage;
        let cut = match config.clip {
            Some(c) => ratio.min(1.0 + c).max(1.0 - c) * advantage,
            None => plain,
        };
        let d = reference - now;
        // Exactly 0 where both agree.
        let k3 = (libm::expm1(d) - d).max(0.0);
        let pull = if plain <= cut { plain } else { 0.0 };
        Self {
            ratio,
            k3,
            objective: plain.min(cut) - config.beta * k3,
            slope: pull + config.beta * libm::expm1(d),
        }
    }
}

/// (r − mean) / (deviation + eps).
///
/// ```
/// use maquette::align::grpo::{GrpoConfig, advantages};
/// let a = advantages(&GrpoConfig::default(), &[0.0, 0.0, 1.0])?;
/// assert!(a[2] > 0.0 && a[0] < 0.0 && a.iter().sum::<f64>().abs() < 1e-12);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// [`Error::Example`] for fewer than two rewards, one that is not finite, or equal ones where they are rejected.
pub fn advantages(config: &GrpoConfig, rewards: &[f64]) -> Result<Vec<f64>> {
    let wrong = |at, problem| {
        Err(Error::Example {
            op: OP,
            at,
            problem,
        })
    };
    let n = rewards.len();
    if n < 2 {
        return wrong(0, "stands in a group of fewer than two");
    }
    if let Some(at) = rewards.iter().position(|r| !r.is_finite()) {
        return wrong(at, "has a reward that is NaN or infinite");
    }
    let equal = rewards.iter().all(|r| r.to_bits() == rewards[0].to_bits());
    if equal {
        return match config.equal_rewards {
            EqualRewards::Keep => Ok(alloc::vec![0.0; n]),
            EqualRewards::Reject => wrong(0, "stands in a group of equal rewards"),
        };
    }
    let mean = rewards.iter().sum::<f64>() / n as f64;
    let squares: f64 = rewards.iter().map(|r| (r - mean) * (r - mean)).sum();
    let count = match config.deviation {
        Deviation::Unbiased => n - 1,
        Deviation::Population => n,
    };
    let deviation = libm::sqrt(squares / count as f64) + config.eps;
    Ok(rewards.iter().map(|r| (r - mean) / deviation).collect())
}

/// What one group gave.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct GrpoReport {
    /// −mean of the tokens' objectives, with the entropies' terms.
    pub loss: f64,
    /// Mean of −ℓ over drawn tokens of text and over drawn codes, an estimate of their entropies; none of either kind that
    /// was not drawn.
    pub entropy: [Option<f64>; 2],
    /// Mean distance from the reference.
    pub k3: f64,
    /// Advantage of each sample.
    pub advantages: Vec<f64>,
    /// The tokens of each sample, pass by pass.
    pub tokens: Vec<Vec<Token>>,
}

impl Rollout {
    /// Log-probabilities of all passes under the engine's model without its adapters.
    ///
    /// # Errors
    /// As [`Engine::reference`].
    pub fn new<B: Backward, L: Learner<B>>(
        reference: &mut Engine<B, L>,
        passes: Vec<Example>,
    ) -> Result<Self> {
        let mut log_probs = Vec::new();
        for pass in &passes {
            log_probs.extend(reference.reference(pass)?);
        }
        Ok(Self {
            passes,
            reference: log_probs,
            old: None,
        })
    }

    fn len(&self) -> usize {
        self.passes.iter().map(|pass| pass.labels.len()).sum()
    }

    fn len_of(&self, kind: usize) -> usize {
        let passes = self.passes.iter().filter(|pass| kind_of(pass) == kind);
        passes.map(|pass| pass.labels.len()).sum()
    }
}

/// The place of an example's tokens in [`GrpoReport::entropy`].
const fn kind_of(pass: &Example) -> usize {
    match pass.scope {
        Scope::Vocabulary => 0,
        Scope::Codes => 1,
    }
}

/// Adds the gradients of a group to the engine's sums: `share` of the mean over all its tokens, 1 for a step of one
/// group.
///
/// # Errors
/// An empty group, rewards or log-probabilities of another number, and as [`advantages`] and [`Engine::policy`].
pub fn group<B: Backward, L: Learner<B>>(
    engine: &mut Engine<B, L>,
    rollouts: &[Rollout],
    rewards: &[f64],
    config: &GrpoConfig,
    share: f64,
    kept: &mut Kept<B>,
) -> Result<GrpoReport> {
    covers(OP, "rewards", rewards.len(), rollouts.len())?;
    covers(OP, "rollouts", rollouts.len(), rewards.len())?;
    let mut report = GrpoReport {
        advantages: advantages(config, rewards)?,
        ..GrpoReport::default()
    };
    for (at, rollout) in rollouts.iter().enumerate() {
        let len = rollout.len();
        for (arg, values) in [
            ("reference", Some(&rollout.reference)),
            ("old", rollout.old.as_ref()),
        ] {
            let (op, got, want) = (OP, values.map_or(len, Vec::len), len);
            if got != want {
                return Err(Error::Length { op, arg, got, want });
            }
        }
        if len == 0 {
            let problem = "has no tokens";
            return Err(Error::Example {
                op: OP,
                at,
                problem,
            });
        }
    }
    let count = rollouts.iter().map(Rollout::len).sum::<usize>() as f64;
    let counts = [0, 1].map(|kind| rollouts.iter().map(|r| r.len_of(kind)).sum::<usize>() as f64);
    for (entropy, count) in report.entropy.iter_mut().zip(counts) {
        *entropy = (count > 0.0).then_some(0.0);
    }
    for (rollout, &advantage) in rollouts.iter().zip(&report.advantages) {
        let mut tokens: Vec<Token> = Vec::new();
        for pass in &rollout.passes {
            let now = engine.policy(pass, Some(&mut *kept))?;
            let mut weights = Vec::new();
            let (kind, term) = (kind_of(pass), config.entropy.of(pass.scope));
            for &now in &now {
                let i = tokens.len();
                let old = rollout.old.as_ref().map_or(now, |old| old[i]);
                let log_probs = [now, old, rollout.reference[i]].map(f64::from);
                let token = Token::new(config, advantage, log_probs);
                let uncertain = term.slope(log_probs[0]) / counts[kind];
                #[expect(clippy::cast_possible_truncation, reason = "a gradient in F32")]
                weights.push((share * (uncertain - token.slope / count)) as f32);
                report.loss -= token.objective / count;
                report.loss -= term.factor * log_probs[0] / counts[kind];
                if let Some(entropy) = &mut report.entropy[kind] {
                    *entropy -= log_probs[0] / counts[kind];
                }
                report.k3 += token.k3 / count;
                tokens.push(token);
            }
            engine.backward(pass, kept, &weights)?;
        }
        report.tokens.push(tokens);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k3_is_never_below_zero_and_zero_at_equality() {
        let config = GrpoConfig::default();
        for i in -200..200 {
            let reference = f64::from(i) * 0.05;
            let token = Token::new(&config, 0.0, [0.0, 0.0, reference]);
            assert!(token.k3 >= 0.0 && (i == 0 || token.k3 > 0.0), "{i}");
        }
        let token = Token::new(&config, 0.0, [-3.0, -3.0, -3.0]);
        assert!(token.k3.abs() < 1e-300 && token.slope.abs() < 1e-300);
    }

    #[test]
    fn a_ratio_beyond_the_clip_stops_counting_on_one_side() {
        let config = GrpoConfig {
            clip: Some(0.2),
            beta: 0.0,
            ..GrpoConfig::default()
        };
        let at = |ratio: f64, advantage: f64| {
            let now = libm::log(ratio);
            Token::new(&config, advantage, [now, 0.0, now]).slope
        };
        assert!(at(1.5, 1.0).abs() < 1e-12 && (at(1.5, -1.0) + 1.5).abs() < 1e-12);
        assert!(at(0.5, -1.0).abs() < 1e-12 && (at(0.5, 1.0) - 0.5).abs() < 1e-12);
        assert!((at(1.1, 2.0) - 2.2).abs() < 1e-12);
    }

    #[test]
    fn groups_that_teach_nothing_are_told_apart() {
        let keep = GrpoConfig::default();
        let reject = GrpoConfig {
            equal_rewards: EqualRewards::Reject,
            ..keep
        };
        assert_eq!(advantages(&keep, &[0.5; 3]).unwrap(), [0.0; 3]);
        assert!(matches!(
            advantages(&reject, &[0.5; 3]),
            Err(Error::Example { .. })
        ));
        assert!(advantages(&keep, &[]).is_err() && advantages(&keep, &[1.0]).is_err());
        let nan = advantages(&keep, &[1.0, f64::NAN]);
        assert!(matches!(nan, Err(Error::Example { at: 1, .. })));
        let a = advantages(&keep, &[1.0, 3.0]).unwrap();
        let want = 1.0 / (libm::sqrt(2.0) + 1e-4);
        assert!((a[1] - want).abs() < 1e-12 && (a[0] + want).abs() < 1e-12);
        let population = GrpoConfig {
            deviation: Deviation::Population,
            ..keep
        };
        let a = advantages(&population, &[1.0, 3.0]).unwrap();
        assert!((a[1] - 1.0 / 1.0001).abs() < 1e-12);
    }
}
