//! Steps of training, taken whole or not at all.

use super::adamw::{AdamW, AdamWConfig, Schedule, clip, norm};
use super::engine::Engine;
use crate::error::{Error, Result};
use crate::model::learner::Learner;
use crate::ops::Backward;

/// Settings of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TrainerConfig {
    /// The optimiser.
    pub optimiser: AdamWConfig,
    /// Its rate from step to step.
    pub schedule: Schedule,
    /// Longest gradient; longer ones are scaled down.
    pub clip: Option<f64>,
}

impl TrainerConfig {
    /// No gradient is too long.
    #[must_use]
    pub const fn new(optimiser: AdamWConfig, schedule: Schedule) -> Self {
        Self {
            optimiser,
            schedule,
            clip: None,
        }
    }

    /// Scales longer gradients than this down.
    #[must_use]
    pub const fn with_clip(mut self, clip: f64) -> Self {
        self.clip = Some(clip);
        self
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The step, from 0.
    pub step: u64,
    /// What the objective returned.
    pub loss: f64,
    /// Length of the gradient before it was cut.
    pub gradient: f64,
    /// Rate of the optimiser.
    pub rate: f64,
}

/// A run: an engine, an optimiser, and how many steps they have taken.
///
/// A run depends on nothing but its engine's weights, its settings and what is fed to each step: an application that
/// derives the examples of a step from the step's number can stop and [`resume`](Self::resume) anywhere and gets the
/// same bits.
#[derive(Debug)]
pub struct Trainer<B: Backward, L: Learner<B>> {
    pub(super) engine: Engine<B, L>,
    config: TrainerConfig,
    pub(super) optimiser: AdamW,
    pub(super) step: u64,
}

impl<B: Backward, L: Learner<B>> Trainer<B, L> {
    /// A run that has taken no step.
    ///
    /// # Errors
    /// No memory.
    pub fn new(engine: Engine<B, L>, config: TrainerConfig) -> Result<Self> {
        Ok(Self {
            optimiser: AdamW::new(engine.parameters())?,
            engine,
            config,
            step: 0,
        })
    }

    /// The engine.
    #[must_use]
    pub const fn engine(&self) -> &Engine<B, L> {
        &self.engine
    }

    /// The engine, to compute something with.
    pub const fn engine_mut(&mut self) -> &mut Engine<B, L> {
        &mut self.engine
    }

    /// Steps that were taken.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.step
    }

    /// Takes a step: `objective` adds gradients to the engine's sums and returns its loss. Batches of any size fit: an
    /// objective goes through its examples one by one.
    ///
    /// # Errors
    /// What `objective` returns, [`Error::Diverged`] for a score, a loss or a gradient that is NaN or infinite, or
    /// [`Error::Config`] for whole weights that were not read. Then the step was not taken: parameters, optimiser and number
    /// of steps are as before.
    pub fn step(
        &mut self,
        objective: impl FnOnce(&mut Engine<B, L>) -> Result<f64>,
    ) -> Result<StepReport> {
        let step = self.step;
        self.engine.filled()?;
        self.engine.clear()?;
        let loss = match objective(&mut self.engine) {
            Err(Error::NotFinite { arg: what, .. }) => Err(Error::Diverged { what, step }),
            other => other,
        }?;
        if !loss.is_finite() {
            let what = "the loss";
            return Err(Error::Diverged { what, step });
        }
        let mut gradients = self.engine.gradients()?;
        let length = norm(&gradients);
        if !length.is_finite() {
            let what = "the gradient";
            return Err(Error::Diverged { what, step });
        }
        if let Some(most) = self.config.clip {
            clip(&mut gradients, length, most);
        }
        let rate = self.config.optimiser.rate * self.config.schedule.factor(step);
        let (mut optimiser, config) = (self.optimiser.copy()?, &self.config.optimiser);
        self.engine
            .change(|parameters| optimiser.step(config, rate, &mut parameters.all, &gradients))?;
        self.optimiser = optimiser;
        self.step += 1;
        Ok(StepReport {
            step,
            loss,
            gradient: length,
            rate,
        })
    }
}
