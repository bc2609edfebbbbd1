//! A latent head learns what a judge says: cross-entropy with the judge's own probabilities.
//!
//! # Source
//! Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, at temperature 1.

use alloc::sync::Arc;
use alloc::vec::Vec;

use rand_core::Rng;

use super::adamw::{AdamW, clip, norm};
use super::checkpoint;
use super::parameters::{Parameter, copied, zeros};
use super::trainer::{StepReport, TrainerConfig};
use crate::error::{Error, Result, covers, product};
use crate::math;
use crate::model::latent::LatentConfig;
use crate::model::latent::backward::{LatentLearner, LatentViews};
use crate::ops::Backward;
use crate::rng::{Stream, open_unit};

const OP: &str = "latent head";

/// Views, and what the judge said of them.
#[derive(Debug, Clone, Copy)]
pub struct LatentBatch<'a> {
    /// The views.
    pub views: LatentViews<'a>,
    /// P(yes) of each view's questions in the order of the head's, `[n, questions]`; NaN where it was not asked.
    pub p_yes: &'a [f32],
}

/// A run: a head, an optimiser, and how many steps they have taken.
///
/// As a [`Trainer`](super::Trainer), it depends on nothing but its settings and what is fed to each step.
#[derive(Debug)]
pub struct LatentTrainer<B: Backward> {
    learner: LatentLearner<B>,
    parameters: Vec<Parameter>,
    gradients: Vec<Vec<f32>>,
    config: TrainerConfig,
    optimiser: AdamW,
    step: u64,
    logits: Vec<f32>,
    /// Whether a step that failed may have left other weights on the device, or gradients in the sums.
    torn: bool,
}

fn views_of(parameters: &[Parameter]) -> Vec<&[f32]> {
    parameters.iter().map(|p| &*p.values).collect()
}

fn put(parameters: &mut [Parameter], values: Vec<Vec<f32>>) {
    for (parameter, values) in parameters.iter_mut().zip(values) {
        parameter.values = values;
    }
}

/// Weights of a variance of 1 / inputs, tables of small numbers, biases of zero.
fn begin(config: &LatentConfig, seed: u64) -> Result<Vec<Parameter>> {
    let mut stream = Stream::new(seed);
    let mut all = Vec::new();
    for (name, shape) in config.tensors() {
        let mut values = zeros(product(OP, &shape)?)?;
        let (bias, table) = (
            shape.len() == 1,
            name.starts_with(['c', 'p']) && !name.starts_with("pool"),
        );
        let inputs = shape.last().copied().unwrap_or(1) as f32;
        // A uniform draw of this half width has the variance 1 / inputs.
        let half = if table {
            0.02
        } else {
            math::sqrt(3.0 / inputs)
        };
        if !bias {
            for v in &mut values {
                *v = (2.0 * open_unit(stream.next_u32()) - 1.0) * half;
            }
        }
        all.push(Parameter {
            name: name.into(),
            shape,
            values,
            decays: !bias,
        });
    }
    Ok(all)
}

impl<B: Backward> LatentTrainer<B> {
    /// A run from random weights that has taken no step, for up to `views` views at once.
    ///
    /// # Errors
    /// A configuration out of range, or no memory.
    pub fn new(
        backend: Arc<B>,
        head: LatentConfig,
        config: TrainerConfig,
        seed: u64,
        views: usize,
    ) -> Result<Self> {
        head.check()?;
        let parameters = begin(&head, seed)?;
        let logits = zeros(product(OP, &[views, 2 * head.questions.len()])?)?;
        let gradients = parameters.iter().map(|p| zeros(p.values.len()));
        Ok(Self {
            gradients: gradients.collect::<Result<_>>()?,
            optimiser: AdamW::new(&parameters)?,
            learner: LatentLearner::new(backend, head, &views_of(&parameters), views)?,
            parameters,
            config,
            step: 0,
            logits,
            torn: false,
        })
    }

    /// Steps that were taken.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.step
    }

    /// Names and values of the weights.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Brings to the device what a failure may have left otherwise.
    fn mend(&mut self) -> Result<()> {
        if self.torn {
            self.learner.replace(&views_of(&self.parameters))?;
            self.learner.take(&mut self.gradients)?;
            self.torn = false;
        }
        Ok(())
    }

    /// P(yes) of every question about each view, into `out` `[n, questions]`.
    ///
    /// # Errors
    /// Views of other sizes, or more than there is memory for.
    pub fn answers(&mut self, views: LatentViews<'_>, out: &mut [f32]) -> Result<()> {
        covers(OP, "out", self.logits.len(), product(OP, &[out.len(), 2])?)?;
        self.mend()?;
        let logits = &mut self.logits[..2 * out.len()];
        self.learner.forward(views, logits)?;
        for (out, pair) in out.iter_mut().zip(logits.as_chunks::<2>().0) {
            *out = yes(*pair);
        }
        Ok(())
    }

    /// Takes a step: the mean cross-entropy over all answers that the judge gave.
    ///
    /// # Errors
    /// [`Error::Example`] for a batch without answers or with one outside [0, 1], views of other sizes, or
    /// [`Error::Diverged`] for a loss or a gradient that is not finite. Then the step was not taken.
    pub fn step(&mut self, batch: &LatentBatch<'_>) -> Result<StepReport> {
        let (step, answers) = (self.step, batch.p_yes);
        let asked = answers.iter().filter(|p| !p.is_nan()).count();
        let wrong = |at, problem| Error::Example {
            op: OP,
            at,
            problem,
        };
        if asked == 0 {
            return Err(wrong(0, "is missing: the judge said nothing"));
        }
        let legal = |p: &f32| p.is_nan() || (0.0..=1.0).contains(p);
        if let Some(at) = answers.iter().position(|p| !legal(p)) {
            return Err(wrong(at, "is no probability"));
        }
        covers(
            OP,
            "p_yes",
            self.logits.len(),
            product(OP, &[answers.len(), 2])?,
        )?;
        self.mend()?;
        let logits = &mut self.logits[..2 * answers.len()];
        self.learner
            .forward(batch.views, logits)
            .map_err(|error| match error {
                Error::NotFinite { arg: what, .. } => Error::Diverged { what, step },
                other => other,
            })?;
        let (mut loss, share) = (0.0, 1.0 / asked as f32);
        for (pair, &want) in logits.as_chunks_mut::<2>().0.iter_mut().zip(answers) {
            if want.is_nan() {
                *pair = [0.0; 2];
                continue;
            }
            let (d, p) = (f64::from(pair[0]) - f64::from(pair[1]), yes(*pair));
            // −want · ln P(yes) − (1 − want) · ln P(no)
            let above = libm::log1p(libm::exp(-libm::fabs(d)));
            loss += above + libm::fmax(d, 0.0) - f64::from(want) * d;
            *pair = [(p - want) * share, (want - p) * share];
        }
        loss /= asked as f64;
        if !loss.is_finite() {
            let what = "the loss";
            return Err(Error::Diverged { what, step });
        }
        self.torn = true;
        self.learner.backward(logits)?;
        self.learner.take(&mut self.gradients)?;
        let length = norm(&self.gradients);
        if !length.is_finite() {
            let what = "the gradient";
            return Err(Error::Diverged { what, step });
        }
        if let Some(most) = self.config.clip {
            clip(&mut self.gradients, length, most);
        }
        let rate = self.config.optimiser.rate * self.config.schedule.factor(step);
        let (mut optimiser, config) = (self.optimiser.copy()?, &self.config.optimiser);
        let all = self.parameters.iter();
        let before: Vec<_> = all.map(|p| copied(&p.values)).collect::<Result<_>>()?;
        let taken = optimiser
            .step(config, rate, &mut self.parameters, &self.gradients)
            .and_then(|()| self.learner.replace(&views_of(&self.parameters)));
        if taken.is_err() {
            put(&mut self.parameters, before);
        }
        taken?;
        (self.optimiser, self.torn) = (optimiser, false);
        self.step += 1;
        Ok(StepReport {
            step,
            loss,
            gradient: length,
            rate,
        })
    }

    /// The bytes of a checkpoint.
    ///
    /// # Errors
    /// No memory.
    pub fn checkpoint(&self) -> Result<Vec<u8>> {
        checkpoint::write(self.step, &self.optimiser, &self.parameters)
    }

    /// Goes on where a checkpoint of the same head was written.
    ///
    /// # Errors
    /// Bytes that are no whole checkpoint, or one of another head; then nothing has changed.
    pub fn resume(&mut self, bytes: &[u8]) -> Result<()> {
        let read = checkpoint::read(bytes, &self.parameters)?;
        let values: Vec<&[f32]> = read.values.iter().map(|v| &**v).collect();
        self.torn = true;
        self.learner.replace(&values)?;
        put(&mut self.parameters, read.values);
        (self.optimiser, self.step) = (read.optimiser, read.step);
        Ok(())
    }

    /// The bytes of a safetensors file of the head, as [`LatentHead::load`](crate::model::latent::LatentHead::load) reads
    /// it; matrices as BF16 if `short`.
    ///
    /// # Errors
    /// Sizes that overflow, or no memory.
    #[cfg(feature = "safetensors")]
    pub fn write(&self, short: bool) -> Result<Vec<u8>> {
        use crate::model::files::safetensors::{Entry, header};
        let entry = |p: &Parameter| {
            let short = short && p.shape.len() > 1;
            Entry {
                name: p.name.clone(),
                dtype: if short { "BF16" } else { "F32" },
                size: if short { 2 } else { 4 },
                shape: p.shape.clone(),
            }
        };
        let entries: Vec<Entry> = self.parameters.iter().map(entry).collect();
        let mut out = header(&entries, &[])?;
        let bytes = 4 * self
            .parameters
            .iter()
            .map(|p| p.values.len())
            .sum::<usize>();
        out.try_reserve_exact(bytes)
            .map_err(|_| Error::OutOfMemory { what: OP, bytes })?;
        for (p, entry) in self.parameters.iter().zip(&entries) {
            for v in &p.values {
                if entry.size == 2 {
                    out.extend(half::bf16::from_f32(*v).to_le_bytes());
                } else {
                    out.extend(v.to_le_bytes());
                }
            }
        }
        Ok(out)
    }
}

/// P(yes) of a pair of logits.
fn yes([yes, no]: [f32; 2]) -> f32 {
    1.0 / (1.0 + math::exp(no - yes))
}
