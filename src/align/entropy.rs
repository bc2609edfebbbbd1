//! Entropy of a policy as a term of its objective, with a factor that holds it near a target.
//!
//! # Source
//! The adaptive factor as in the released code of Zhang et al., "ReasonGen-R1", arXiv 2505.24875: α = sinh ψ, and ψ is moved
//! by Adam. The gradient of the entropy is our own choice: that of the tokens that were drawn, not of all that could be.

use crate::error::{Error, Result};
use crate::model::learner::Scope;

/// A factor of the mean entropy of drawn tokens in a loss.
///
/// ∇H = −E\[(log π + b) ∇log π\] for any number b that does not depend on the token: each drawn token is one sample of it.
/// The closer b is to the entropy, the less noise.
///
/// ```
/// use maquette::align::entropy::EntropyTerm;
/// let term = EntropyTerm { factor: 0.5, expected: 2.0 };
/// // A token as likely as expected does not pull; raising an unlikely one's probability raises the entropy.
/// assert_eq!(term.slope(-2.0), 0.0);
/// assert!(term.slope(-3.0) > 0.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EntropyTerm {
    /// Above 0 the loss falls with the entropy, below 0 against it.
    pub factor: f64,
    /// b: what the entropy is expected to be, for example that of the step before.
    pub expected: f64,
}

impl EntropyTerm {
    /// The derivative of `factor` · H with respect to a drawn token's log-probability.
    #[must_use]
    pub fn slope(&self, log_prob: f64) -> f64 {
        // `+ 0.0` makes no term a plain zero.
        -self.factor * (log_prob + self.expected) + 0.0
    }
}

/// Terms of the two kinds of tokens that a picture with a plan has.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EntropyTerms {
    /// Of tokens of text.
    pub words: EntropyTerm,
    /// Of codes.
    pub codes: EntropyTerm,
}

impl EntropyTerms {
    /// The term of a scope's tokens.
    #[must_use]
    pub const fn of(&self, scope: Scope) -> &EntropyTerm {
        match scope {
            Scope::Vocabulary => &self.words,
            Scope::Codes => &self.codes,
        }
    }
}

/// How a factor is moved.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AdaptiveConfig {
    /// The entropy to hold, in nats: 2 for text and 7 for codes in the released runs.
    pub target: f64,
    /// Rate of Adam.
    pub rate: f64,
    /// Largest size of the factor.
    pub most: f64,
}

impl AdaptiveConfig {
    /// The released rate and size.
    #[must_use]
    pub const fn new(target: f64) -> Self {
        Self {
            target,
            rate: 5e-5,
            most: 5e-3,
        }
    }

    /// Another rate.
    #[must_use]
    pub const fn with_rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    /// Another largest size of the factor.
    #[must_use]
    pub const fn with_most(mut self, most: f64) -> Self {
        self.most = most;
        self
    }
}

/// A factor that grows while the entropy is above its target, and falls below zero while it is below.
///
/// ```
/// use maquette::align::entropy::{AdaptiveConfig, AdaptiveEntropy};
/// let mut adaptive = AdaptiveEntropy::new(AdaptiveConfig::new(2.0));
/// adaptive.observe(5.0)?;
/// assert!(adaptive.term().factor > 0.0 && adaptive.term().expected == 5.0);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// No checkpoint of a [`Trainer`](super::Trainer) holds it: what is kept beside that is its state.
///
/// ```
/// use maquette::align::entropy::{AdaptiveConfig, AdaptiveEntropy};
/// let config = AdaptiveConfig::new(2.0);
/// let mut straight = AdaptiveEntropy::new(config);
/// straight.observe(5.0)?;
/// let mut resumed = AdaptiveEntropy::resume(config, straight.state())?;
/// straight.observe(4.0)?;
/// resumed.observe(4.0)?;
/// assert_eq!(straight.term(), resumed.term());
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveEntropy {
    config: AdaptiveConfig,
    state: AdaptiveState,
}

/// All that steps change in an [`AdaptiveEntropy`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveState {
    /// ψ: the factor is its hyperbolic sine.
    pub psi: f64,
    /// Adam's means of the gradient and of its square.
    pub moments: [f64; 2],
    /// Steps that were observed.
    pub steps: u32,
    /// Entropy of the latest of them; the target before the first.
    pub last: f64,
}

impl AdaptiveEntropy {
    /// With a factor of zero.
    #[must_use]
    pub const fn new(config: AdaptiveConfig) -> Self {
        Self {
            config,
            state: AdaptiveState {
                psi: 0.0,
                moments: [0.0; 2],
                steps: 0,
                last: config.target,
            },
        }
    }

    /// Goes on where [`state`](Self::state) was told.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a number that is NaN or infinite.
    pub fn resume(config: AdaptiveConfig, state: AdaptiveState) -> Result<Self> {
        let [mean, square] = state.moments;
        if [state.psi, mean, square, state.last]
            .iter()
            .all(|v| v.is_finite())
        {
            return Ok(Self { config, state });
        }
        Err(Error::NotFinite {
            op: "entropy",
            arg: "the state of a factor",
            row: 0,
        })
    }

    /// What [`resume`](Self::resume) goes on from, to the bit.
    #[must_use]
    pub const fn state(&self) -> AdaptiveState {
        self.state
    }

    /// The term of the next step.
    #[must_use]
    pub fn term(&self) -> EntropyTerm {
        let most = self.config.most;
        EntropyTerm {
            factor: libm::sinh(self.state.psi).min(most).max(-most),
            expected: self.state.last,
        }
    }

    /// Moves the factor after a step with this entropy: Adam on −α (H − target).
    ///
    /// # Errors
    /// [`Error::NotFinite`] for an entropy that is NaN or infinite; then nothing has changed.
    pub fn observe(&mut self, entropy: f64) -> Result<()> {
        if !entropy.is_finite() {
            return Err(Error::NotFinite {
                op: "entropy",
                arg: "the entropy of a step",
                row: 0,
            });
        }
        let state = &mut self.state;
        let gradient = -libm::cosh(state.psi) * (entropy - self.config.target);
        let [m, v] = &mut state.moments;
        *m = 0.9 * *m + 0.1 * gradient;
        *v = 0.999 * *v + 0.001 * gradient * gradient;
        state.steps = state.steps.saturating_add(1);
        let steps = f64::from(state.steps);
        let m = *m / (1.0 - libm::pow(0.9, steps));
        let v = *v / (1.0 - libm::pow(0.999, steps));
        state.psi -= self.config.rate * m / (libm::sqrt(v) + 1e-8);
        state.last = entropy;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_follows_the_sign_of_the_distance_and_stays_within_its_size() {
        for (entropy, sign) in [(3.0, 1.0), (1.0, -1.0)] {
            let mut adaptive = AdaptiveEntropy::new(AdaptiveConfig::new(2.0));
            assert!(adaptive.term().factor.abs() < 1e-300);
            adaptive.observe(entropy).unwrap();
            // Adam's first step has the size of its rate.
            assert!((adaptive.term().factor * sign - 5e-5).abs() < 1e-9);
            for _ in 0..500 {
                adaptive.observe(entropy).unwrap();
            }
            assert!((adaptive.term().factor * sign - 5e-3).abs() < 1e-12);
        }
        let mut adaptive = AdaptiveEntropy::new(AdaptiveConfig::new(2.0));
        assert!(adaptive.observe(f64::NAN).is_err());
        assert_eq!(adaptive, AdaptiveEntropy::new(AdaptiveConfig::new(2.0)));
    }

    #[test]
    fn a_factor_goes_on_from_its_state_to_the_bit() {
        let config = AdaptiveConfig::new(2.0).with_rate(1e-3);
        let mut straight = AdaptiveEntropy::new(config);
        for step in 0..40_u32 {
            let mut resumed = AdaptiveEntropy::resume(config, straight.state()).unwrap();
            assert_eq!(resumed, straight);
            let entropy = f64::from(step * 7 % 11) * 0.5;
            straight.observe(entropy).unwrap();
            resumed.observe(entropy).unwrap();
            assert_eq!(resumed, straight);
        }
        let good = straight.state();
        let bad = [
            AdaptiveState {
                psi: f64::NAN,
                ..good
            },
            AdaptiveState {
                moments: [0.0, f64::INFINITY],
                ..good
            },
            AdaptiveState {
                last: f64::NAN,
                ..good
            },
        ];
        assert!(
            bad.iter()
                .all(|&state| AdaptiveEntropy::resume(config, state).is_err())
        );
    }
}
