//! The best picture within a budget of steps, questions, multiply-adds or time.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use rand_core::Rng;

use super::meter::{Meter, Work};
use super::run::{confidence, within};
use super::{Decision, Event, Flow, MultiplyAdds, SearchStrategy};
use crate::error::{Error, Result};
use crate::generator::{CandidateId, Generator};
use crate::prompt::Prompt;
use crate::reward::{RewardModel, Verdict};

/// Runs another strategy until the next step or question would no longer leave room for a finished picture, then
/// finishes the best candidate so far; [`Decision::stopped`] says that it came to that.
///
/// The best is the most confident "yes" of the last verdicts: among the finished if there are any, among those that are
/// not rejected if there are any; the first of equals. Strategies that finish early use a budget best, as
/// [`Adaptive`](super::Adaptive) does with small rounds.
///
/// Steps and questions are limits that are never passed. They hold for every strategy that announces its steps by
/// [`Event::Stepping`] and its questions by [`Event::Asking`], as all of this crate do but for the steps in which another
/// budget inside of them finishes a picture; one that prunes everything it has and begins anew can be left with a picture
/// that there are no steps to finish.
///
/// What the next step or question takes of the other two is known only once it is made, so it must fit in as the dearest
/// before it did, with the steps that finish a picture after it. Time is kept as long as no step and no question takes
/// longer than the longest before it, and a single picture fits at all. Multiply-adds are counted a candidate and a view,
/// together with all that the strategy computes before it announces the next step or question; they are kept as long as
/// none of that costs more than the dearest before it, and a single picture fits at all. So the first step of all
/// candidates and the first question are made whatever they cost, and a budget is passed at most by one step or question
/// and by what finishing a picture then costs more than expected.
///
/// ```
/// use maquette::search::{Adaptive, BestOfN, Budget, Flow, SearchStrategy};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Prompt, rng::Stream};
///
/// let (mut generator, mut reward) = (ScriptedGenerator::new(4), OracleReward::new(1));
/// let rounds = Adaptive::new(BestOfN::new(2), 100).with_confidence(1.0);
/// let found = Budget::new(rounds).with_steps(50).search(
///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
/// )?;
/// assert!(found.stopped && found.cost.steps <= 50);
/// # Ok::<(), maquette::Error>(())
/// ```
pub struct Budget<S> {
    /// The strategy.
    pub inner: S,
    /// Steps of candidates at most; a picture's own are the least.
    pub steps: Option<u64>,
    /// Questions about views at most.
    pub questions: Option<u64>,
    /// Multiply-adds of generator and judge at most.
    pub multiply_adds: Option<u64>,
    timer: Option<Timer>,
}

struct Timer {
    limit: Duration,
    now: Box<dyn FnMut() -> Duration + Send>,
}

impl<S: fmt::Debug> fmt::Debug for Budget<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("inner", &self.inner)
            .field("steps", &self.steps)
            .field("questions", &self.questions)
            .field("multiply_adds", &self.multiply_adds)
            .field("time", &self.timer.as_ref().map(|timer| timer.limit))
            .finish()
    }
}

impl<S> Budget<S> {
    /// No limit yet.
    #[must_use]
    pub const fn new(inner: S) -> Self {
        Self {
            inner,
            steps: None,
            questions: None,
            multiply_adds: None,
            timer: None,
        }
    }

    /// At most so many steps of candidates: a batch of 20 counts 20.
    #[must_use]
    pub const fn with_steps(mut self, steps: u64) -> Self {
        self.steps = Some(steps);
        self
    }

    /// At most so many questions about views.
    #[must_use]
    pub const fn with_questions(mut self, questions: u64) -> Self {
        self.questions = Some(questions);
        self
    }

    /// At most so many multiply-adds of generator, decoder and judge, as [`Cost::multiply_adds`](super::Cost) counts them
    /// from the first candidate to the last question.
    ///
    /// A multiply-add is two floating-point operations; what a device computes for a joule turns a budget of energy into
    /// one of these. Unlike time it does not hang on how fast or busy the device is: the same search ends at the same
    /// place. What generator and judge remember from earlier searches costs nothing here either.
    ///
    /// The search fails with [`Error::Unsupported`], before anything is drawn, if generator or judge does not count, and as
    /// soon as a strategy announces a step or question without saying what was spent.
    ///
    /// ```
    /// use maquette::search::{Adaptive, Budget, Flow, Plain, SearchStrategy};
    /// use maquette::testing::{ScriptedGenerator, ScriptedReward};
    /// use maquette::{Prompt, rng::Stream};
    ///
    /// // A step of these costs 10, a question 3: a picture with its question 43.
    /// let mut generator = ScriptedGenerator::new(4).with_costs(0, |_| 10, 0);
    /// let mut reward = ScriptedReward::seeded(1).with_costs(|_, _| 3);
    /// let one_by_one = Adaptive::new(Plain, 100).with_confidence(1.0);
    /// let found = Budget::new(one_by_one).with_multiply_adds(200).search(
    ///     &mut generator, &mut reward, &Prompt::new("a red car"), &mut Stream::new(1), &mut |_| Flow::Continue,
    /// )?;
    /// assert_eq!(found.cost.multiply_adds.total(), Some(4 * 43 + 2 * 10));
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub const fn with_multiply_adds(mut self, n: u64) -> Self {
        self.multiply_adds = Some(n);
        self
    }

    /// At most so much time by this clock; what its zero is does not matter.
    ///
    /// ```
    /// use maquette::search::{Adaptive, Budget, Plain};
    /// use std::time::{Duration, Instant};
    ///
    /// let begun = Instant::now();
    /// let search = Budget::new(Adaptive::new(Plain, 100)).with_time(Duration::from_secs(10), move || begun.elapsed());
    /// assert!(search.steps.is_none());
    /// ```
    #[must_use]
    pub fn with_time(
        mut self,
        limit: Duration,
        clock: impl FnMut() -> Duration + Send + 'static,
    ) -> Self {
        let now = Box::new(clock);
        self.timer = Some(Timer { limit, now });
        self
    }
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized, S: SearchStrategy<G, R>> SearchStrategy<G, R>
    for Budget<S>
{
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        let steps = generator.steps();
        if let Some(limit) = self.steps {
            within("budget of steps", limit, steps.into(), u64::MAX)?;
        }
        let meter = match self.multiply_adds {
            None => None,
            Some(limit) => Some(Meter::new(limit, &MultiplyAdds::of(generator, reward))?),
        };
        let watch = self.timer.as_mut().map(|timer| Watch {
            begun: (timer.now)(),
            timer,
            since: Duration::ZERO,
            step: Duration::ZERO,
            question: Duration::ZERO,
        });
        let mut ledger = Ledger {
            steps,
            steps_left: self.steps.unwrap_or(u64::MAX),
            questions_left: self.questions.unwrap_or(u64::MAX),
            meter,
            watch,
            lives: Vec::new(),
            closed: false,
            failed: None,
        };
        let mut hear = |event: Event<'_>| {
            let wanted = ledger.hear(&event);
            match on_event(event) {
                Flow::Continue => wanted,
                flow => {
                    ledger.closed = true;
                    flow
                }
            }
        };
        let found = self.inner.search(generator, reward, prompt, rng, &mut hear);
        match ledger.failed {
            None => found,
            Some(error) => {
                if let Ok(found) = found {
                    generator.prune(&[found.winner])?;
                }
                Err(error)
            }
        }
    }
}

/// A candidate as the events tell of it.
struct Life {
    id: CandidateId,
    taken: u32,
    last: Option<Verdict>,
    parked: bool,
}

/// What is left to spend, and on whom.
struct Ledger<'a> {
    steps: u32,
    steps_left: u64,
    questions_left: u64,
    meter: Option<Meter>,
    watch: Option<Watch<'a>>,
    lives: Vec<Life>,
    /// Whether the search is ending already.
    closed: bool,
    failed: Option<Error>,
}

/// The time, and what the longest step and question took of it.
struct Watch<'a> {
    timer: &'a mut Timer,
    begun: Duration,
    since: Duration,
    step: Duration,
    question: Duration,
}

impl Watch<'_> {
    fn now(&mut self) -> Duration {
        (self.timer.now)().saturating_sub(self.begun)
    }

    /// Whether there is time for something that takes so long, and for so many steps after it.
    fn allows(&mut self, next: Duration, after: u64) -> bool {
        let after = u32::try_from(after).unwrap_or(u32::MAX);
        let rest = self.step.saturating_mul(after);
        self.since = self.now();
        self.since.saturating_add(next).saturating_add(rest) <= self.timer.limit
    }

    /// Steps for which there is time.
    fn steps(&mut self) -> u64 {
        let left = self.timer.limit.saturating_sub(self.now());
        let steps = left.as_nanos().checked_div(self.step.as_nanos());
        steps.map_or(u64::MAX, |n| u64::try_from(n).unwrap_or(u64::MAX))
    }
}

impl Ledger<'_> {
    /// Books an event, and says whether the search must end now.
    fn hear(&mut self, event: &Event<'_>) -> Flow {
        match *event {
            Event::Started { ids, taken, .. } => return self.enrol(ids, taken),
            Event::Stepping { ids, spent } => {
                let after = self.least_left(ids);
                let n = ids.len() as u64;
                let room = match self.meter_allows(&spent, Work::Step(n), after) {
                    Ok(room) => room,
                    Err(error) => return self.fail(error),
                };
                let time = match &mut self.watch {
                    Some(watch) => watch.allows(watch.step, after),
                    None => true,
                };
                if !room || !time || n + after > self.steps_left {
                    return self.end();
                }
            }
            Event::Stepped { ids, .. } => {
                self.steps_left = self.steps_left.saturating_sub(ids.len() as u64);
                for life in self.lives.iter_mut().filter(|life| ids.contains(&life.id)) {
                    life.taken += 1;
                }
                if let Some(watch) = &mut self.watch {
                    watch.step = watch.step.max(watch.now().saturating_sub(watch.since));
                    watch.since = watch.now();
                }
            }
            Event::Asking { keys, spent, .. } => {
                let after = self.least_left(&[]);
                let n = keys.len() as u64;
                let room = match self.meter_allows(&spent, Work::Question(n), after) {
                    Ok(room) => room,
                    Err(error) => return self.fail(error),
                };
                let time = match &mut self.watch {
                    Some(watch) => watch.allows(watch.question, after),
                    None => true,
                };
                if !room || !time || n > self.questions_left {
                    return self.end();
                }
            }
            Event::Judged { key, verdict, .. } => {
                self.questions_left = self.questions_left.saturating_sub(1);
                for life in self
                    .lives
                    .iter_mut()
                    .filter(|life| life.id == key.candidate)
                {
                    life.last = Some(verdict);
                }
                if let Some(watch) = &mut self.watch {
                    watch.question = watch.question.max(watch.now().saturating_sub(watch.since));
                }
            }
            Event::Probed { verdicts, .. } => {
                let asked = verdicts.len() as u64;
                self.questions_left = self.questions_left.saturating_sub(asked);
                if let Some(watch) = &mut self.watch {
                    watch.question = watch.question.max(watch.now().saturating_sub(watch.since));
                }
            }
            Event::Rejected { id, parked: true } => self.park(id, true),
            Event::Resumed { id } => self.park(id, false),
            Event::Rejected { id, parked: false } => self.lives.retain(|life| life.id != id),
            _ => {}
        }
        Flow::Continue
    }

    /// Reads the meter, and says whether there is room for this and so many steps after it.
    fn meter_allows(&mut self, spent: &MultiplyAdds, next: Work, after: u64) -> Result<bool> {
        let Some(meter) = &mut self.meter else {
            return Ok(true);
        };
        meter.read(spent)?;
        let room = meter.allows(next, after);
        if room {
            meter.begin(next);
        }
        Ok(room)
    }

    /// Ends the search with an error.
    fn fail(&mut self, error: Error) -> Flow {
        self.closed = true;
        self.failed = Some(error);
        Flow::Stop
    }

    fn enrol(&mut self, ids: &[CandidateId], taken: u32) -> Flow {
        if self.lives.try_reserve(ids.len()).is_err() {
            let bytes = ids.len().saturating_mul(size_of::<Life>());
            let what = "search";
            return self.fail(Error::OutOfMemory { what, bytes });
        }
        self.lives.extend(ids.iter().map(|&id| Life {
            id,
            taken,
            last: None,
            parked: false,
        }));
        Flow::Continue
    }

    fn park(&mut self, id: CandidateId, parked: bool) {
        for life in self.lives.iter_mut().filter(|life| life.id == id) {
            life.parked = parked;
        }
    }

    fn left(&self, life: &Life) -> u64 {
        self.steps.saturating_sub(life.taken).into()
    }

    /// Steps that the furthest candidate still lacks once these have taken one more.
    fn least_left(&self, stepping: &[CandidateId]) -> u64 {
        let left = |life: &Life| {
            let next = u64::from(stepping.contains(&life.id));
            self.left(life).saturating_sub(next)
        };
        self.lives.iter().map(left).min().unwrap_or(0)
    }

    /// Finishes the best candidate for which there are steps, multiply-adds and time; the furthest if these two are short
    /// for all.
    fn end(&mut self) -> Flow {
        if self.closed {
            return Flow::Continue;
        }
        self.closed = true;
        let time = self.watch.as_mut().map_or(u64::MAX, Watch::steps);
        let work = self.meter.as_ref().map_or(u64::MAX, Meter::steps);
        let within = self
            .steps_left
            .min(time.min(work).max(self.least_left(&[])));
        let rank = |life: &Life| {
            let score = life.last.as_ref().map_or(-1.0, confidence);
            (life.taken >= self.steps, !life.parked, score)
        };
        let mut best: Option<&Life> = None;
        for life in &self.lives {
            let fits = self.left(life) <= within;
            if fits && best.is_none_or(|best| rank(life) > rank(best)) {
                best = Some(life);
            }
        }
        best.map_or(Flow::Stop, |life| Flow::Choose(life.id))
    }
}
