//! A step with given noise, for comparison with the reference implementation.

use alloc::vec;
use alloc::vec::Vec;

use super::{Rows, ShowOSession};
use crate::codes::{Code, UNKNOWN};
use crate::error::{Error, Result, covers};
use crate::generator::CandidateId;
use crate::ops::Backend;
use crate::ops::sample::{Draw, DrawShape, Remask, remask};
use crate::prompt::Tokenize;

/// One step with given noise, and everything it decided: for comparison with a reference implementation.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GivenStep {
    /// Guided logits `[places, codebook]`.
    pub logits: Vec<f32>,
    /// Code drawn for every place, known ones too.
    pub sampled: Vec<Code>,
    /// Probability of each drawn code, −1 where the code was known.
    pub p: Vec<f32>,
    /// Index of the cut.
    pub masked: usize,
    /// Temperature of the mask choice.
    pub temperature: f32,
    /// Codes after the step, before the last re-masking is dropped.
    pub state: Vec<Code>,
}

impl<B: Backend, T: Tokenize> ShowOSession<B, T> {
    /// One step of one candidate with given noise for every place, as the reference implementation consumes it:
    /// exponentials `[places, codebook]`, then uniforms `[places]`.
    ///
    /// # Errors
    /// As [`Generator::step`](crate::Generator::step), or noise of another length.
    pub fn step_given(
        &mut self,
        id: CandidateId,
        exponential: &[f32],
        uniform: &[f32],
    ) -> Result<GivenStep> {
        let at = self.at("step", id)?;
        let (n, v) = (
            self.model.config.num_vq_tokens,
            self.model.config.codebook_size,
        );
        covers("step", "exponential", exponential.len(), n * v)?;
        covers("step", "uniform", uniform.len(), n)?;
        let step = self.candidates[at].step;
        if step >= self.options.steps {
            return Err(Error::Finished {
                id: id.0,
                steps: self.options.steps,
            });
        }
        let before = self.candidates[at].codes.clone();
        self.drawing(|session| session.predict(Rows::Of(&[at]), true))?;
        self.keep_hidden(&[at])?;
        let mut out = GivenStep {
            logits: vec![0.0; n * v],
            sampled: vec![0; n],
            p: vec![0.0; n],
            temperature: self.temperature(step, self.candidates[at].anneal),
            ..GivenStep::default()
        };
        let (b, m) = (&*self.model.backend, &mut self.memory);
        b.read(&m.logits, 0, &mut out.logits)?;
        let mut noise = b.zeros(n * v)?;
        b.write(&mut noise, 0, &exponential[..n * v])?;
        b.draw(
            DrawShape { rows: n, width: v },
            &mut m.logits,
            &Draw::Given(&noise),
            &mut m.codes,
            &mut m.p,
        )?;
        b.read(&m.codes, 0, &mut out.sampled)?;
        b.read(&m.p, 0, &mut out.p)?;
        let candidate = &mut self.candidates[at];
        for (((p, &code), drawn), predicted) in out
            .p
            .iter_mut()
            .zip(&before)
            .zip(&out.sampled)
            .zip(&mut candidate.predicted)
        {
            *predicted = if code == UNKNOWN { *drawn } else { code };
            if code != UNKNOWN {
                *p = -1.0;
            }
        }
        let unknown = before.iter().filter(|&&c| c == UNKNOWN).count();
        out.masked = self
            .options
            .schedule
            .masked(n, unknown, step, self.options.steps);
        out.state.clone_from(&candidate.predicted);
        let r = Remask {
            p: &out.p,
            uniform: &uniform[..n],
            masked: out.masked,
            temperature: out.temperature,
        };
        remask(
            &r,
            &mut self.host.confidence,
            &mut self.host.sorted,
            &mut out.state,
        )?;
        let last = step + 1 == self.options.steps;
        candidate.codes.copy_from_slice(if last {
            &candidate.predicted
        } else {
            &out.state
        });
        (candidate.step, candidate.blank) = (step + 1, false);
        candidate.hidden = self.options.hidden.then(|| candidate.next_hidden());
        Ok(out)
    }
}
