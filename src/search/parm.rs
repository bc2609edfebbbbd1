//! PARM: is it clear yet, has it potential, and which survivor is best.

use alloc::vec::Vec;

use rand_core::Rng;

use super::run::{Progress, Run, confidence, keep_best, most_confident, some_candidates, within};
use super::views::reserved;
use super::{Decision, Event, Flow, SearchStrategy};
use crate::error::Result;
use crate::generator::{CandidateId, Generator};
use crate::prompt::Prompt;
use crate::reward::{Answer, Judgement, RewardModel};

/// What becomes of a path without potential. Both forms choose the same winner with the same codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ParmForm {
    /// As in the paper: it steps no further. It goes on only if nobody survives and it is the best of the rejected.
    #[default]
    Pruned,
    /// As in the released code: it runs to the end and is left out of the last choice.
    Released,
}

/// Asks [`Judgement::Clarity`] about every step of every path until the first answer that is not "no", then
/// [`Judgement::Potential`] once about the same view; paths with potential run to the end, where
/// [`Judgement::Outcome`] chooses.
///
/// A malformed answer counts as clear, as no potential, and as outcome 0. The first of equals wins. If nobody
/// survives, the smallest P(no) of the potential question wins: 1 for a path that never was clear, 50 for a malformed
/// answer.
///
/// ```
/// use maquette::search::{Flow, Parm, SearchStrategy};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Prompt, rng::Stream};
///
/// let (mut generator, mut reward) = (ScriptedGenerator::new(6), OracleReward::new(1).clear_from(3));
/// let found = Parm::new(8).search(
///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
/// )?;
/// assert_eq!((found.cost.clarity, found.cost.potential), (24, 8));
/// assert!(found.cost.steps < 48);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Source
/// Guo et al., "Can We Generate Images with CoT?", arXiv 2501.13926, section 4, with the malformed answers and the
/// fallback of its released code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parm {
    /// N, at least 1.
    pub candidates: u32,
    /// What becomes of a path without potential.
    pub form: ParmForm,
    /// First step after which clarity is asked, counted from 1. Above 1 it saves questions and is not in the paper.
    pub min_clarity_step: u32,
    /// Clarity is asked at every so many-th step from there on, and after the last one. Above 1 it saves questions where
    /// paths become clear slowly, and is not in the paper.
    pub clarity_interval: u32,
    /// Of more paths with potential than these, those with the likeliest potential go on, at every look. Any number in
    /// the paper.
    pub survivors: Option<u32>,
    /// Of more survivors than these, the outcome is asked about those with the likeliest potential alone, which is asked
    /// once more about the finished pictures: worth it where a cheap judge answers that. Any number in the paper.
    pub finalists: Option<u32>,
}

impl Parm {
    /// PARM over `candidates` paths, pruned, asking from the first step.
    #[must_use]
    pub const fn new(candidates: u32) -> Self {
        Self {
            candidates,
            form: ParmForm::Pruned,
            min_clarity_step: 1,
            clarity_interval: 1,
            survivors: None,
            finalists: None,
        }
    }

    /// Says what becomes of a path without potential.
    #[must_use]
    pub const fn with_form(mut self, form: ParmForm) -> Self {
        self.form = form;
        self
    }

    /// Lets at most so many paths with potential go on.
    ///
    /// ```
    /// use maquette::search::{Flow, Parm, SearchStrategy};
    /// use maquette::testing::{OracleReward, ScriptedGenerator};
    /// use maquette::{Prompt, rng::Stream};
    ///
    /// let (mut generator, mut reward) = (ScriptedGenerator::new(6), OracleReward::new(1).clear_from(3));
    /// let found = Parm::new(8).with_survivors(3).with_finalists(1).search(
    ///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
    /// )?;
    /// assert_eq!((found.cost.steps, found.cost.outcome), (3 * 8 + 3 * 3, 1));
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub const fn with_survivors(mut self, paths: u32) -> Self {
        self.survivors = Some(paths);
        self
    }

    /// Asks about the outcome of at most so many paths.
    #[must_use]
    pub const fn with_finalists(mut self, paths: u32) -> Self {
        self.finalists = Some(paths);
        self
    }

    /// Asks about clarity only from this step on, counted from 1.
    #[must_use]
    pub const fn with_min_clarity_step(mut self, step: u32) -> Self {
        self.min_clarity_step = step;
        self
    }

    /// Asks about clarity only at every so many-th step, and after the last one.
    ///
    /// ```
    /// use maquette::search::{Flow, Parm, SearchStrategy};
    /// use maquette::testing::{OracleReward, ScriptedGenerator};
    /// use maquette::{Prompt, rng::Stream};
    ///
    /// let (mut generator, mut reward) = (ScriptedGenerator::new(9), OracleReward::new(1).clear_from(6));
    /// let found = Parm::new(4).with_min_clarity_step(3).with_clarity_interval(2).search(
    ///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
    /// )?;
    /// // Steps 3, 5 and 7.
    /// assert_eq!((found.cost.clarity, found.cost.potential), (12, 4));
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub const fn with_clarity_interval(mut self, steps: u32) -> Self {
        self.clarity_interval = steps;
        self
    }
}

/// What is known of one path.
struct Path {
    id: CandidateId,
    clear: bool,
    potential: bool,
    /// How sure "yes" was of the potential.
    confidence: f32,
    no_prob: f32,
}

/// P(no) of a path whose potential answer was malformed: behind everyone, as in the released code.
const MALFORMED_NO: f32 = 50.0;

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> SearchStrategy<G, R> for Parm {
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        const ASKS: [Judgement; 3] = [Judgement::Clarity, Judgement::Potential, Judgement::Outcome];
        let n = some_candidates(self.candidates)?;
        let last = generator.steps().into();
        within("min_clarity_step", self.min_clarity_step.into(), 1, last)?;
        within("clarity_interval", self.clarity_interval.into(), 1, last)?;
        for (arg, most) in [("survivors", self.survivors), ("finalists", self.finalists)] {
            within(arg, most.unwrap_or(1).into(), 1, u32::MAX.into())?;
        }
        let (mut paths, mut batch) = (reserved(n)?, reserved(n)?);
        let mut run = Run::new(generator, reward, prompt, on_event, n, &ASKS)?;
        let outcome = self.walk(&mut run, rng, &mut paths, &mut batch);
        run.conclude(outcome)
    }
}

impl Parm {
    fn walk<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        &self,
        run: &mut Run<'_, G, R>,
        rng: &mut dyn Rng,
        paths: &mut Vec<Path>,
        batch: &mut Vec<CandidateId>,
    ) -> Progress<CandidateId> {
        run.start(rng, self.candidates as usize)?;
        let path = |&id: &CandidateId| Path {
            id,
            clear: false,
            potential: false,
            confidence: 0.0,
            no_prob: 1.0,
        };
        paths.extend(run.latest().iter().map(path));
        for step in 1..=run.steps() {
            select(batch, paths, |path| {
                self.form == ParmForm::Released || path.potential || !path.clear
            });
            run.step(batch)?;
            let since = step.checked_sub(self.min_clarity_step);
            let due = since.is_some_and(|since| since.is_multiple_of(self.clarity_interval));
            if due || step == run.steps() {
                select(batch, paths, |path| !path.clear);
                examine(run, paths, batch)?;
                if let Some(most) = self.survivors {
                    park_least(run, paths, most as usize)?;
                }
            }
        }
        for path in paths.iter().filter(|path| !path.clear) {
            run.park(path.id)?;
        }
        select(batch, paths, |path| path.potential);
        if batch.is_empty() {
            return fall_back(run, paths);
        }
        run.open(batch);
        if let Some(most) = self.finalists
            && batch.len() > most as usize
        {
            run.ask(Judgement::Potential)?;
            keep_best(batch, run.verdicts(), most as usize);
            run.narrow(|id| batch.contains(&id));
        }
        run.ask(Judgement::Outcome)?;
        run.close();
        Ok(batch[most_confident(run.verdicts())])
    }
}

/// Nobody survived: the path least surely without potential, the first of equals.
fn fall_back<G: Generator + ?Sized, R: RewardModel + ?Sized>(
    run: &mut Run<'_, G, R>,
    paths: &[Path],
) -> Progress<CandidateId> {
    let mut best = &paths[0];
    for path in paths {
        if path.no_prob < best.no_prob {
            best = path;
        }
    }
    run.revive(best.id)?;
    Ok(best.id)
}

/// Asks about clarity, and about the potential of those that are clear now.
fn examine<G: Generator + ?Sized, R: RewardModel + ?Sized>(
    run: &mut Run<'_, G, R>,
    paths: &mut [Path],
    batch: &mut Vec<CandidateId>,
) -> Progress {
    run.open(batch);
    run.ask(Judgement::Clarity)?;
    for (path, verdict) in paths
        .iter_mut()
        .filter(|path| !path.clear)
        .zip(run.verdicts())
    {
        path.clear = verdict.answer != Answer::No;
    }
    // `batch` still names those that were unclear before; what is left of it is newly clear.
    batch.retain(|id| paths.iter().any(|path| path.id == *id && path.clear));
    run.narrow(|id| batch.contains(&id));
    run.ask(Judgement::Potential)?;
    run.close();
    for (&id, verdict) in batch.iter().zip(run.verdicts()) {
        if let Some(path) = paths.iter_mut().find(|path| path.id == id) {
            path.potential = verdict.answer == Answer::Yes;
            path.confidence = confidence(verdict);
            path.no_prob = if verdict.answer == Answer::Other {
                MALFORMED_NO
            } else {
                verdict.p_no
            };
        }
    }
    for id in batch.iter() {
        if paths.iter().any(|path| path.id == *id && !path.potential) {
            run.park(*id)?;
        }
    }
    Ok(())
}

/// Parks paths with potential, the least sure first and of equals the last, until no more than `most` are left.
fn park_least<G: Generator + ?Sized, R: RewardModel + ?Sized>(
    run: &mut Run<'_, G, R>,
    paths: &mut [Path],
    most: usize,
) -> Progress {
    while paths.iter().filter(|path| path.potential).count() > most {
        let mut least: Option<&mut Path> = None;
        for path in paths.iter_mut().filter(|path| path.potential) {
            if least
                .as_ref()
                .is_none_or(|least| path.confidence <= least.confidence)
            {
                least = Some(path);
            }
        }
        if let Some(path) = least {
            path.potential = false;
            run.park(path.id)?;
        }
    }
    Ok(())
}

/// Ids of the paths that are wanted, in order.
fn select(batch: &mut Vec<CandidateId>, paths: &[Path], wanted: impl Fn(&Path) -> bool) {
    batch.clear();
    batch.extend(paths.iter().filter(|path| wanted(path)).map(|path| path.id));
}
