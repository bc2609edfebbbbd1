//! AdamW, the rate of each step, and clipping.
//!
//! # Source
//! Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, in the order of PyTorch's
//! arithmetic.

use alloc::vec::Vec;

use super::parameters::{Parameter, copied, zeros};
use crate::error::{Result, covers};
use crate::math;

/// Settings of the optimiser. The defaults are those of the released preference training.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AdamWConfig {
    /// Rate before the schedule.
    pub rate: f64,
    /// How slowly the means of gradients and of their squares change.
    pub betas: [f64; 2],
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Share of a value, times the rate, that is lost in a step.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            rate: 1e-5,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
        }
    }
}

impl AdamWConfig {
    /// Another rate.
    #[must_use]
    pub const fn with_rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    /// Means that change more quickly or slowly.
    #[must_use]
    pub const fn with_betas(mut self, betas: [f64; 2]) -> Self {
        self.betas = betas;
        self
    }

    /// Another number beside the root of the mean square.
    #[must_use]
    pub const fn with_eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// Another decay of weights.
    #[must_use]
    pub const fn with_weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }
}

/// How the rate changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Schedule {
    /// It does not.
    Constant,
    /// Up in a straight line from 0, then down along half a cosine to 0 at `steps`. As in the released training, the
    /// first step of a warm-up has the rate 0.
    Cosine {
        /// Steps upwards.
        warm_up: u64,
        /// All steps.
        steps: u64,
    },
}

impl Schedule {
    /// Factor of the rate at a step, from 0.
    ///
    /// ```
    /// use maquette::align::Schedule;
    /// let schedule = Schedule::Cosine { warm_up: 2, steps: 10 };
    /// assert_eq!([0, 1, 2, 6, 10].map(|step| schedule.factor(step)), [0.0, 0.5, 1.0, 0.5, 0.0]);
    /// ```
    #[must_use]
    pub fn factor(self, step: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine { warm_up, .. } if step < warm_up => step as f64 / warm_up as f64,
            Self::Cosine { warm_up, steps } => {
                let span = steps.saturating_sub(warm_up).max(1);
                let share = ((step - warm_up) as f64 / span as f64).min(1.0);
                // The cosine of a right angle is no zero in floats.
                if share * 2.0 >= 2.0 {
                    0.0
                } else {
                    let half = 0.5 - share;
                    0.5 * (1.0 + libm::sin(core::f64::consts::PI * half))
                }
            }
        }
    }
}

/// The optimiser's memory: means of gradients and of their squares.
///
/// ```
/// use maquette::align::{AdamW, AdamWConfig, Parameter, Schedule};
/// let (name, shape) = ("w".to_string(), vec![1]);
/// let mut parameters = [Parameter { name, shape, values: vec![1.0], decays: false }];
/// let mut optimiser = AdamW::new(&parameters)?;
/// let schedule = Schedule::Cosine { warm_up: 1, steps: 10 };
/// for step in 0..10 {
///     // The gradient of the square.
///     let gradients = [vec![2.0 * parameters[0].values[0]]];
///     optimiser.step(&AdamWConfig::default(), 0.1 * schedule.factor(step), &mut parameters, &gradients)?;
/// }
/// assert!(parameters[0].values[0] < 0.8);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    /// Steps taken.
    pub(super) steps: u64,
    pub(super) moments: Vec<[Vec<f32>; 2]>,
}

impl AdamW {
    /// Means of zero.
    ///
    /// # Errors
    /// No memory.
    pub fn new(parameters: &[Parameter]) -> Result<Self> {
        let moments = parameters
            .iter()
            .map(|p| Ok([zeros(p.values.len())?, zeros(p.values.len())?]))
            .collect::<Result<_>>()?;
        Ok(Self { steps: 0, moments })
    }

    /// A copy.
    pub(super) fn copy(&self) -> Result<Self> {
        let both = self.moments.iter();
        Ok(Self {
            steps: self.steps,
            moments: both
                .map(|[m, s]| Ok([copied(m)?, copied(s)?]))
                .collect::<Result<_>>()?,
        })
    }

    /// Takes one step at a rate.
    ///
    /// # Errors
    /// Gradients of other parameters; then nothing has changed.
    pub fn step(
        &mut self,
        config: &AdamWConfig,
        rate: f64,
        parameters: &mut [Parameter],
        gradients: &[Vec<f32>],
    ) -> Result<()> {
        const OP: &str = "adamw";
        covers(OP, "gradients", gradients.len(), parameters.len())?;
        covers(OP, "parameters", parameters.len(), self.moments.len())?;
        covers(OP, "moments", self.moments.len(), parameters.len())?;
        for ((p, g), m) in parameters.iter().zip(gradients).zip(&self.moments) {
            covers(OP, "gradient", g.len(), p.values.len())?;
            covers(OP, "moments", m[0].len(), p.values.len())?;
        }
        self.steps += 1;
        let [slow, slower] = config.betas;
        let correction = |beta: f64| 1.0 - libm::pow(beta, self.steps as f64);
        #[expect(clippy::cast_possible_truncation, reason = "numbers of an F32 step")]
        let [new, keep, new_square, root, size, eps] = [
            1.0 - slow,
            slower,
            1.0 - slower,
            libm::sqrt(correction(slower)),
            rate / correction(slow),
            config.eps,
        ]
        .map(|v| v as f32);
        let all = parameters.iter_mut().zip(gradients).zip(&mut self.moments);
        for ((parameter, gradient), [mean, square]) in all {
            let decay = if parameter.decays {
                config.weight_decay
            } else {
                0.0
            };
            #[expect(clippy::cast_possible_truncation, reason = "a number of an F32 step")]
            let decay = (1.0 - rate * decay) as f32;
            let moments = mean.iter_mut().zip(square);
            for ((v, g), (m, s)) in parameter.values.iter_mut().zip(gradient).zip(moments) {
                *m += (g - *m) * new;
                *s = *s * keep + g * g * new_square;
                *v = *v * decay - size * (*m / (math::sqrt(*s) / root + eps));
            }
        }
        Ok(())
    }
}

/// The length of all gradients as one vector.
#[must_use]
pub fn norm(gradients: &[Vec<f32>]) -> f64 {
    let squares = gradients
        .iter()
        .flatten()
        .map(|&g| f64::from(g) * f64::from(g));
    libm::sqrt(squares.sum())
}

/// Scales gradients of a length above `most` down to it.
pub fn clip(gradients: &mut [Vec<f32>], length: f64, most: f64) {
    if length > most {
        #[expect(clippy::cast_possible_truncation, reason = "a factor below 1")]
        let factor = (most / (length + 1e-6)) as f32;
        gradients.iter_mut().flatten().for_each(|g| *g *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, values: &[f32]) -> Parameter {
        Parameter {
            name: name.into(),
            shape: Vec::from([values.len()]),
            values: values.into(),
            decays: !name.ends_with("bias"),
        }
    }

    #[test]
    fn the_first_step_has_the_size_of_the_rate_and_decay_spares_biases() {
        let config = AdamWConfig {
            rate: 0.1,
            weight_decay: 0.5,
            ..AdamWConfig::default()
        };
        let mut all = [parameter("w", &[2.0, 1.0]), parameter("bias", &[2.0, 1.0])];
        let mut adam = AdamW::new(&all).unwrap();
        let gradients = [Vec::from([3.0, -0.01]), Vec::from([3.0, 0.0])];
        adam.step(&config, config.rate, &mut all, &gradients)
            .unwrap();
        let near =
            |got: &[f32], want: [f32; 2]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near(&all[0].values, [1.8, 1.05]), "{all:?}");
        assert!(near(&all[1].values, [1.9, 1.0]), "{all:?}");
        assert!(adam.step(&config, 0.1, &mut all, &gradients[..1]).is_err());
    }

    #[test]
    fn long_gradients_are_cut_and_short_ones_stay() {
        let mut gradients = [Vec::from([3.0, 0.0]), Vec::from([4.0])];
        assert!((norm(&gradients) - 5.0).abs() < 1e-12);
        clip(&mut gradients, 5.0, 10.0);
        assert!((norm(&gradients) - 5.0).abs() < 1e-12);
        clip(&mut gradients, 5.0, 1.0);
        assert!((norm(&gradients) - 1.0).abs() < 1e-5);
    }
}
