//! Successive halving: many begin, at each rung the better half goes on.

use alloc::vec::Vec;

use rand_core::Rng;

use super::run::{Progress, Run, keep_best, most_confident, some_candidates, within};
use super::views::reserved;
use super::{Decision, Event, Flow, SearchStrategy};
use crate::error::{Error, Result};
use crate::generator::{CandidateId, Generator};
use crate::prompt::Prompt;
use crate::reward::{Judgement, RewardModel};

/// Starts N candidates; after each rung the more confident half of them by [`Judgement::Process`] goes on, rounded up,
/// and the others are pruned; [`Judgement::Outcome`] chooses among those that reach the end.
///
/// The first of equals stays and a malformed answer counts 0. A candidate that is left alone is not judged any more.
/// Without rungs it is [`BestOfN`](super::BestOfN).
///
/// ```
/// use maquette::search::{Flow, Halving, SearchStrategy};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Prompt, rng::Stream};
///
/// let (mut generator, mut reward) = (ScriptedGenerator::new(9), OracleReward::new(1));
/// let found = Halving::new(8, [3, 6]).search(
///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
/// )?;
/// assert_eq!(found.cost.steps, 3 * 8 + 3 * 4 + 3 * 2);
/// assert_eq!((found.cost.process, found.cost.outcome), (8 + 4, 2));
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Source
/// Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", arXiv 1502.07943:
/// candidates are the arms and generator steps the budget. Where the rungs stand is the caller's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Halving {
    /// N, at least 1.
    pub candidates: u32,
    /// Steps after which is halved, counted from 1.
    pub rungs: Vec<u32>,
    /// What is asked there, about unfinished pictures: [`Judgement::Process`] or [`Judgement::Potential`].
    pub judgement: Judgement,
}

impl Halving {
    /// Halves `candidates` after each of these steps.
    #[must_use]
    pub fn new(candidates: u32, rungs: impl IntoIterator<Item = u32>) -> Self {
        Self {
            candidates,
            rungs: rungs.into_iter().collect(),
            judgement: Judgement::Process,
        }
    }

    /// Asks something else at the rungs.
    #[must_use]
    pub const fn with_judgement(mut self, judgement: Judgement) -> Self {
        self.judgement = judgement;
        self
    }
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for Halving {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        let n = some_candidates(self.candidates)?;
        for &rung in &self.rungs {
            within("rungs", rung.into(), 1, generator.steps().into())?;
        }
        if !matches!(self.judgement, Judgement::Process | Judgement::Potential) {
            return Err(Error::Unsupported {
                what: "halving by a question that is not about unfinished pictures",
            });
        }
        let mut ids = reserved(n)?;
        let asks = [self.judgement, Judgement::Outcome];
        let asks = if n > 1 { &asks[..] } else { &[] };
        let mut run = Run::new(generator, reward, prompt, on_event, n, asks)?;
        let outcome = self.walk(&mut run, rng, &mut ids);
        run.conclude(outcome)
    }
}

impl Halving {
    fn walk<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        &self,
        run: &mut Run<'_, G, R>,
        rng: &mut dyn Rng,
        ids: &mut Vec<CandidateId>,
    ) -> Progress<CandidateId> {
        run.start(rng, self.candidates as usize)?;
        ids.extend_from_slice(run.latest());
        for step in 1..=run.steps() {
            run.step(ids)?;
            if ids.len() > 1 && self.rungs.contains(&step) {
                run.open(ids);
                run.ask(self.judgement)?;
                run.close();
                let half = ids.len().div_ceil(2);
                keep_best(ids, run.verdicts(), half);
                run.keep_only(ids)?;
            }
        }
        if ids.len() == 1 {
            return Ok(ids[0]);
        }
        run.open(ids);
        run.ask(Judgement::Outcome)?;
        run.close();
        Ok(ids[most_confident(run.verdicts())])
    }
}
