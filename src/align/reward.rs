//! Rewards beside preference pairs: the released form, which teaches nothing, and two that do.

use alloc::vec::Vec;

use super::engine::{Engine, Kept};
use crate::error::{Error, Result, covers};
use crate::model::learner::{Example, Learner};
use crate::ops::Backward;

const OP: &str = "reward";

fn finite(rewards: &[f64]) -> Result<()> {
    match rewards.iter().position(|r| !r.is_finite()) {
        Some(at) => Err(Error::Example {
            op: OP,
            at,
            problem: "has a reward that is NaN or infinite",
        }),
        None if rewards.is_empty() => Err(Error::Example {
            op: OP,
            at: 0,
            problem: "is missing: there are no rewards",
        }),
        None => Ok(()),
    }
}

/// The reward term of the released code: mean of −ln max(p, 1e-7). It is added to the loss that is shown and has no
/// gradient, since its pictures are drawn without one.
///
/// # Errors
/// [`Error::Example`] for no rewards, or one that is not finite.
pub fn released_term(p: &[f64]) -> Result<f64> {
    finite(p)?;
    let sum: f64 = p.iter().map(|&p| -libm::log(p.max(1e-7))).sum();
    Ok(sum / p.len() as f64)
}

/// The best and the worst of some samples of one prompt, as one more pair; the first of equals.
///
/// ```
/// assert_eq!(maquette::align::reward::best_and_worst(&[0.2, 0.9, 0.1])?, [1, 2]);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// [`Error::Example`] for no rewards, one that is not finite, or rewards that are all the same.
pub fn best_and_worst(rewards: &[f64]) -> Result<[usize; 2]> {
    finite(rewards)?;
    let (mut best, mut worst) = (0, 0);
    for (i, &r) in rewards.iter().enumerate() {
        if r > rewards[best] {
            best = i;
        }
        if r < rewards[worst] {
            worst = i;
        }
    }
    if best == worst {
        return Err(Error::Example {
            op: OP,
            at: 0,
            problem: "stands among equal rewards: none is preferred",
        });
    }
    Ok([best, worst])
}

/// Rewards of samples with plans, less for long plans of easy prompts: r − factor · mean r · max(0, L − target) / target, for
/// rewards from 0 to 1. How hard a prompt is is what its samples' mean reward leaves to 1.
///
/// ```
/// use maquette::align::reward::shortened;
/// assert_eq!(shortened(&[1.0, 1.0], &[8, 12], 8.0, 0.5)?, [1.0, 0.75]);
/// // Of a prompt that nothing is right for, plans may be as long as they like.
/// assert_eq!(shortened(&[0.0, 0.0], &[8, 12], 8.0, 0.5)?, [0.0, 0.0]);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// No rewards, lengths of another number, a target that is not above 0, or something not finite.
///
/// # Source
/// In words in arXiv 2510.05593 (ShortCoTI); the formula is our own.
pub fn shortened(rewards: &[f64], lengths: &[usize], target: f64, factor: f64) -> Result<Vec<f64>> {
    covers(OP, "lengths", lengths.len(), rewards.len())?;
    covers(OP, "rewards", rewards.len(), lengths.len())?;
    finite(rewards)?;
    if !(target > 0.0 && target.is_finite() && factor.is_finite()) {
        return Err(Error::Config {
            key: "plan length",
            problem: "has a target that is not above zero, or a factor that is not finite",
        });
    }
    let easy = rewards.iter().sum::<f64>() / rewards.len() as f64;
    let beyond = |length: usize| (length as f64 - target).max(0.0) / target;
    let pairs = rewards.iter().zip(lengths);
    Ok(pairs
        .map(|(reward, &length)| reward - factor * easy * beyond(length))
        .collect())
}

/// Adds the gradients of the score-function form to the engine's sums: λ · mean_i of −(p_i − mean p) · Σ log π over the
/// tokens of sample i, whose passes are [`trajectory`](crate::model::show_o::ShowOConfig::trajectory) or one raster
/// example. Returns that loss; not in the released code.
///
/// # Errors
/// No samples, rewards of another number or not finite, and as [`Engine::policy`].
pub fn score_function<B: Backward, L: Learner<B>>(
    engine: &mut Engine<B, L>,
    samples: &[Vec<Example>],
    rewards: &[f64],
    factor: f64,
    kept: &mut Kept<B>,
) -> Result<f64> {
    covers(OP, "rewards", rewards.len(), samples.len())?;
    covers(OP, "samples", samples.len(), rewards.len())?;
    finite(rewards)?;
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let mut loss = 0.0;
    for (sample, reward) in samples.iter().zip(rewards) {
        let weight = -factor * (reward - mean) / n;
        for pass in sample {
            let log_probs = engine.policy(pass, Some(&mut *kept))?;
            loss += weight * super::dpo::score(&log_probs);
            #[expect(clippy::cast_possible_truncation, reason = "a gradient in F32")]
            let weights = alloc::vec![weight as f32; log_probs.len()];
            engine.backward(pass, kept, &weights)?;
        }
    }
    Ok(loss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_needs_a_difference() {
        assert_eq!(best_and_worst(&[0.2, 0.9, 0.1, 0.9]).unwrap(), [1, 2]);
        assert!(best_and_worst(&[0.5, 0.5]).is_err() && best_and_worst(&[]).is_err());
        assert!(best_and_worst(&[0.5, f64::NAN]).is_err());
        assert!((released_term(&[1.0, 0.0]).unwrap() - 8.059_047_8).abs() < 1e-6);
        assert!(released_term(&[]).is_err());
    }

    #[test]
    fn long_plans_cost_more_the_easier_the_prompt_is() {
        let of = |rewards: &[f64]| shortened(rewards, &[4, 6, 10], 5.0, 0.2).unwrap();
        let (easy, hard) = (of(&[1.0; 3]), of(&[0.0, 0.0, 1.0]));
        assert_eq!(easy[0].to_bits(), 1.0_f64.to_bits());
        assert!((easy[1] - 0.96).abs() < 1e-12 && (easy[2] - 0.8).abs() < 1e-12);
        assert!((hard[1] + 0.04 / 3.0).abs() < 1e-12 && (hard[2] - 1.0 + 0.2 / 3.0).abs() < 1e-12);
        assert!(shortened(&[1.0], &[], 5.0, 0.2).is_err());
        assert!(
            shortened(&[1.0], &[3], 0.0, 0.2).is_err() && shortened(&[], &[], 5.0, 0.2).is_err()
        );
    }
}
