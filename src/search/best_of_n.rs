//! Best of N: finish all, keep the one whose picture the judge believes most.

use rand_core::Rng;

use super::run::{Progress, Run, most_confident, some_candidates};
use super::views::reserved;
use super::{Decision, Event, Flow, SearchStrategy};
use crate::error::Result;
use crate::generator::{CandidateId, Generator};
use crate::prompt::Prompt;
use crate::reward::{Judgement, RewardModel};

/// Draws N candidates to the end in one batch and keeps the most confident "yes" to
/// [`Judgement::Outcome`]. Only finished pictures are looked at.
///
/// The first of equals wins and a malformed answer counts 0. One candidate alone is not judged: there is nothing to
/// choose, and the result is that of [`Plain`](super::Plain).
///
/// ```
/// use maquette::search::{BestOfN, Flow, SearchStrategy};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Prompt, rng::Stream};
///
/// let (mut generator, mut reward) = (ScriptedGenerator::new(4), OracleReward::new(1));
/// let found = BestOfN::new(8).search(
///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
/// )?;
/// assert_eq!((found.cost.steps, found.cost.outcome), (32, 8));
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Source
/// Guo et al., "Can We Generate Images with CoT?", arXiv 2501.13926, section 3.1 (outcome reward model).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BestOfN {
    /// N, at least 1.
    pub candidates: u32,
}

impl BestOfN {
    /// Best of `candidates`.
    #[must_use]
    pub const fn new(candidates: u32) -> Self {
        Self { candidates }
    }
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for BestOfN {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        let n = some_candidates(self.candidates)?;
        let asks: &[Judgement] = if n > 1 { &[Judgement::Outcome] } else { &[] };
        let mut ids = reserved(n)?;
        let mut run = Run::new(generator, reward, prompt, on_event, n, asks)?;
        let outcome = best(&mut run, rng, n, &mut ids);
        run.conclude(outcome)
    }
}

fn best<G: Generator + ?Sized, R: RewardModel + ?Sized>(
    run: &mut Run<'_, G, R>,
    rng: &mut dyn Rng,
    n: usize,
    ids: &mut alloc::vec::Vec<CandidateId>,
) -> Progress<CandidateId> {
    run.start(rng, n)?;
    ids.extend_from_slice(run.latest());
    run.complete(ids)?;
    if n == 1 {
        return Ok(ids[0]);
    }
    run.open(ids);
    run.ask(Judgement::Outcome)?;
    run.close();
    Ok(ids[most_confident(run.verdicts())])
}
