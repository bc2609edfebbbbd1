//! Search again until the judge is sure: a number of candidates that follows the prompt.

use rand_core::Rng;

use super::nested::Found;
use super::run::{Progress, Run, comparable, confidence, within};
use super::{Decision, Event, Flow, SearchStrategy};
use crate::error::Result;
use crate::generator::{CandidateId, Generator};
use crate::prompt::Prompt;
use crate::reward::{Judgement, RewardModel};

/// Runs another strategy in rounds, keeps the best winner by [`Judgement::Outcome`], and ends as soon as that outcome's
/// "yes" reaches a confidence: easy prompts cost one round, hard ones all of them.
///
/// A winner whose outcome the inner strategy did not ask is asked about here, so [`Plain`](super::Plain) in rounds
/// is a best of N that draws one candidate after the other. The first of equals wins; rounds that never reach the
/// confidence choose what one [`BestOfN`](super::BestOfN) over all their candidates chooses. One round alone is
/// the inner strategy itself. A malformed answer counts 0.
///
/// While a round is under way the best one so far stays alive beside its candidates: a generator needs one place more
/// than the inner strategy does.
///
/// ```
/// use maquette::search::{Adaptive, BestOfN, Flow, SearchStrategy};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Prompt, rng::Stream};
///
/// let (mut generator, mut reward) = (ScriptedGenerator::new(4), OracleReward::new(1));
/// let prompt = Prompt::new("a red car");
/// let mut spent = |confidence| {
///     let mut search = Adaptive::new(BestOfN::new(2), 5).with_confidence(confidence);
///     search
///         .search(&mut generator, &mut reward, &prompt, &mut Stream::new(1), &mut |_| Flow::Continue)
///         .map(|found| found.cost.candidates)
/// };
/// assert_eq!((spent(0.1)?, spent(1.0)?), (2, 10));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Adaptive<S> {
    /// The strategy of a round.
    pub inner: S,
    /// Rounds at most, at least 1.
    pub rounds: u32,
    /// P(yes) of an outcome that is sure enough; above 1 no outcome is.
    pub confidence: f32,
}

impl<S> Adaptive<S> {
    /// At most so many rounds, until an outcome of 0.9.
    #[must_use]
    pub const fn new(inner: S, rounds: u32) -> Self {
        Self {
            inner,
            rounds,
            confidence: 0.9,
        }
    }

    /// Ends at this P(yes) of the best outcome.
    #[must_use]
    pub const fn with_confidence(mut self, p_yes: f32) -> Self {
        self.confidence = p_yes;
        self
    }
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized, S: SearchStrategy<G, R>> SearchStrategy<G, R>
    for Adaptive<S>
{
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        within("rounds", self.rounds.into(), 1, u32::MAX.into())?;
        comparable(self.confidence)?;
        let mut run = Run::new(
            generator,
            reward,
            prompt,
            on_event,
            2,
            &[Judgement::Outcome],
        )?;
        let outcome = self.walk(&mut run, rng);
        run.conclude(outcome)
    }
}

impl<S> Adaptive<S> {
    fn walk<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        &mut self,
        run: &mut Run<'_, G, R>,
        rng: &mut dyn Rng,
    ) -> Progress<CandidateId>
    where
        S: SearchStrategy<G, R>,
    {
        let (mut best, mut score) = (self.round(run, rng)?, f32::NEG_INFINITY);
        if let Some(verdict) = &best.outcome {
            score = confidence(verdict);
        }
        for _ in 1..self.rounds {
            if score >= self.confidence {
                break;
            }
            let next = self.round(run, rng)?;
            if let Some(verdict) = &next.outcome
                && confidence(verdict) > score
            {
                (best, score) = (next, confidence(verdict));
            }
            run.keep_only(&[best.winner])?;
        }
        Ok(best.winner)
    }

    /// One search of the inner strategy, its winner's outcome known unless there is nothing to compare it with.
    fn round<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        &mut self,
        run: &mut Run<'_, G, R>,
        rng: &mut dyn Rng,
    ) -> Progress<Found>
    where
        S: SearchStrategy<G, R>,
    {
        let mut found = run.nested(&mut self.inner, rng)?;
        if found.outcome.is_none() && self.rounds > 1 {
            found.outcome = Some(run.outcome(found.winner)?);
        }
        Ok(found)
    }
}
