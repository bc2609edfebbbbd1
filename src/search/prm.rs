//! Step-level search: judge every step, go on from the best one.

use alloc::vec::Vec;

use rand_core::Rng;

use super::run::{Progress, Run, keep_best, some_candidates, within};
use super::views::reserved;
use super::{Decision, Event, Flow, SearchStrategy};
use crate::error::Result;
use crate::generator::{CandidateId, Generator};
use crate::prompt::Prompt;
use crate::reward::{Judgement, RewardModel};

/// At each judged step draws N continuations of the kept path, asks [`Judgement::Process`] about each, and goes on
/// from the most confident "yes"; the others are pruned at once. With a wider beam several paths are kept.
///
/// A kept path with its own seed is one of its continuations, the others are forks with new seeds; so N places
/// in the generator are enough and N = 1 draws what [`Plain`](super::Plain) draws, without asking the judge. Kept paths
/// share the N continuations evenly, the first of them get what is over. The first of equals wins and a malformed
/// answer counts 0. On steps that are not judged the kept paths step alone; after the last step they are judged if
/// more than one is left.
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
/// not released; how the N copies of a path part is our choice, and so is the beam.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prm {
    /// N, at least 1.
    pub candidates: u32,
    /// Steps after which is judged, counted from 1; all of them where `None`.
    pub judged_steps: Option<Vec<u32>>,
    /// Paths that are kept, the width of the beam; 1 to N.
    pub width: u32,
}

impl Prm {
    /// `candidates` continuations at every step.
    #[must_use]
    pub const fn new(candidates: u32) -> Self {
        Self {
            candidates,
            judged_steps: None,
            width: 1,
        }
    }

    /// Keeps so many paths.
    ///
    /// ```
    /// use maquette::search::{Flow, Prm, SearchStrategy};
    /// use maquette::testing::{OracleReward, ScriptedGenerator};
    /// use maquette::{Prompt, rng::Stream};
    ///
    /// let (mut generator, mut reward) = (ScriptedGenerator::new(4), OracleReward::new(1));
    /// let found = Prm::new(6).with_width(2).search(
    ///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
    /// )?;
    /// assert_eq!((found.cost.candidates, found.cost.process), (6 + 3 * 4, 24));
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub const fn with_width(mut self, paths: u32) -> Self {
        self.width = paths;
        self
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
        within("width", self.width.into(), 1, self.candidates.into())?;
        for &step in self.judged_steps.iter().flatten() {
            within("judged_steps", step.into(), 1, generator.steps().into())?;
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
    ) -> Progress<CandidateId> {
        let n = self.candidates as usize;
        run.start(rng, if self.judges(1) { n } else { 1 })?;
        paths.extend_from_slice(run.latest());
        for step in 1..=run.steps() {
            if self.judges(step) {
                branch(run, rng, paths, n)?;
            }
            run.step(paths)?;
            let last = step == run.steps();
            if self.judges(step) || (last && paths.len() > 1) {
                run.open(paths);
                run.ask(Judgement::Process)?;
                run.close();
                let width = if last { 1 } else { self.width as usize };
                keep_best(paths, run.verdicts(), width);
                run.keep_only(paths)?;
            }
        }
        Ok(paths[0])
    }
}

/// Forks the paths until there are `n`.
fn branch<G: Generator + ?Sized, R: RewardModel + ?Sized>(
    run: &mut Run<'_, G, R>,
    rng: &mut dyn Rng,
    paths: &mut Vec<CandidateId>,
    n: usize,
) -> Progress {
    let kept = paths.len();
    for i in 0..kept {
        let share = n / kept + usize::from(i < n % kept);
        run.fork(rng, paths[i], share - 1)?;
        paths.extend_from_slice(run.latest());
    }
    Ok(())
}
