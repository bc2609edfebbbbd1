//! Step-level search: judge every step, go on from the best one.

use alloc::vec::Vec;

use rand_core::Rng;

use super::run::{Pick, Progress, Run, most_confident, some_candidates};
use super::views::reserved;
use super::{Decision, Event, Flow, SearchStrategy};
use crate::error::{Error, Result};
use crate::generator::{CandidateId, Generator};
use crate::prompt::Prompt;
use crate::reward::{Judgement, RewardModel};

/// At each judged step draws N continuations of the kept path, asks [`Judgement::Process`] about each, and goes on
/// from the most confident "yes"; the others are pruned at once.
///
/// The kept path with its own seed is one of the N continuations, the others are forks with new seeds; so N places
/// in the generator are enough and N = 1 draws what [`Plain`](super::Plain) draws, without asking the judge. The
/// first of equals wins and a malformed answer counts 0. On steps that are not judged the kept path steps alone.
///
/// ```
/// use maquette::search::{Flow, Prm, SearchStrategy};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Prompt, rng::Stream};
///
/// let (mut generator, mut reward) = (ScriptedGenerator::new(4), OracleReward::new(1));
/// let found = Prm::new(5).with_judged_steps([2, 4]).search(
///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
/// )?;
/// assert_eq!((found.cost.steps, found.cost.process), (1 + 5 + 1 + 5, 10));
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Source
/// Guo et al., "Can We Generate Images with CoT?", arXiv 2501.13926, section 3.1 (process reward model). The code is
/// not released; how the N copies of a path part is our choice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prm {
    /// N, at least 1.
    pub candidates: u32,
    /// Steps after which is judged, counted from 1; all of them where `None`.
    pub judged_steps: Option<Vec<u32>>,
}

impl Prm {
    /// `candidates` continuations at every step.
    #[must_use]
    pub const fn new(candidates: u32) -> Self {
        Self {
            candidates,
            judged_steps: None,
        }
    }

    /// Judges only after these steps, counted from 1.
    #[must_use]
    pub fn with_judged_steps(mut self, steps: impl IntoIterator<Item = u32>) -> Self {
        self.judged_steps = Some(steps.into_iter().collect());
        self
    }

    fn judges(&self, step: u32) -> bool {
        self.candidates > 1
            && self
                .judged_steps
                .as_ref()
                .is_none_or(|steps| steps.contains(&step))
    }
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for Prm {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        let n = some_candidates(self.candidates)?;
        let max = generator.steps();
        let alien = self
            .judged_steps
            .iter()
            .flatten()
            .find(|&&step| step == 0 || step > max);
        if let Some(&step) = alien {
            let (got, max) = (u64::from(step), u64::from(max));
            return Err(Error::Range {
                op: "search",
                arg: "judged_steps",
                got,
                min: 1,
                max,
            });
        }
        let mut paths = reserved(n)?;
        let mut run = Run::new(
            generator,
            reward,
            prompt,
            on_event,
            n,
            &[Judgement::Process],
        )?;
        let outcome = self.walk(&mut run, rng, &mut paths);
        run.conclude(outcome)
    }
}

impl Prm {
    fn walk<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        &self,
        run: &mut Run<'_, G, R>,
        rng: &mut dyn Rng,
        paths: &mut Vec<CandidateId>,
    ) -> Progress<Pick> {
        let n = self.candidates as usize;
        run.start(rng, if self.judges(1) { n } else { 1 })?;
        paths.extend_from_slice(run.latest());
        for step in 1..=run.steps() {
            if self.judges(step) && paths.len() < n {
                run.fork(rng, paths[0], n - 1)?;
                paths.extend_from_slice(run.latest());
            }
            run.step(paths)?;
            if self.judges(step) {
                run.open(paths);
                run.ask(Judgement::Process)?;
                run.close();
                let kept = paths[most_confident(run.verdicts())];
                run.keep_only(kept)?;
                paths.clear();
                paths.push(kept);
            }
        }
        Ok(Pick::of(paths[0]))
    }
}
