//! PARM++: judge the winner, correct it, at most a few times.

use alloc::string::String;
use alloc::vec::Vec;

use rand_core::Rng;

use super::nested::Found;
use super::region::{Locator, Occlusion};
use super::run::{Halt, Progress, Run, comparable, confidence, tell, within};
use super::views::reserved;
use super::{Decision, Event, Flow, SearchStrategy};
use crate::codes::{Code, UNKNOWN};
use crate::error::{Error, Result};
use crate::generator::{CandidateId, Generator, Needs, Partial};
use crate::prompt::Prompt;
use crate::reward::{Answer, Judgement, RewardModel, Verdict, ViewKey};

/// How a picture that the judge does not like is drawn again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Correction {
    /// The generator is shown the picture and the judge's reason ([`Prompt::correcting`]), and draws a whole one. It must
    /// have been trained for that; a judge that cannot explain gives an empty reason.
    Prompted,
    /// Codes all over the picture are forgotten, so many as a masked generator has not settled after `from` steps (the
    /// cosine schedule), and drawn again from there. For masked generators; needs no training.
    Scattered {
        /// Steps that count as taken, below the generator's.
        from: u32,
    },
    /// As many codes as with [`Scattered`](Self::Scattered) are forgotten, those that help the least by the
    /// [`Locator`]: the region at fault. For masked generators; needs no training.
    Region {
        /// Steps that count as taken, below the generator's.
        from: u32,
    },
    /// The picture is kept as far as a raster generator has drawn it after `from` steps, and drawn on from there. For
    /// generators whose steps draw equally many codes, the last one perhaps fewer.
    Tail {
        /// Steps that count as taken, below the generator's.
        from: u32,
    },
}

/// Runs another strategy, asks about its winner's [`Judgement::Outcome`], and while the answer is not "yes" draws a
/// corrected picture and asks about that, keeping whichever the judge likes better.
///
/// The winner is never one that the judge likes less than what the inner strategy chose; of equals the earlier. Each
/// correction starts from the best picture so far. A malformed answer counts 0 and is no "yes".
///
/// The best picture stays alive beside its correction: a generator needs two places at least.
///
/// # Source
/// Guo et al., "Can We Generate Images with CoT?" (arXiv 2501.13926), section 3.3: PARM++, three reflections at most. The
/// paper returns the last correction, whatever the judge thinks of it; correcting without training is our own. So is
/// the region: which codes help is found out once for each picture that is corrected, and asked again only when a
/// correction was liked better and is the next to be corrected.
///
/// ```
/// use maquette::search::{Correction, Flow, Plain, Reflect, SearchStrategy};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Prompt, rng::Stream};
///
/// let (mut generator, mut reward) = (ScriptedGenerator::new(4), OracleReward::new(1));
/// let prompt = Prompt::new("a red car");
/// let mut search = Reflect::new(Plain, Correction::Tail { from: 2 }).with_confidence(1.0);
/// let found = search.search(&mut generator, &mut reward, &prompt, &mut Stream::new(1), &mut |_| Flow::Continue)?;
/// // One picture of four steps, three corrections of two.
/// assert_eq!((found.cost.steps, found.cost.outcome), (4 + 3 * 2, 4));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Reflect<S, L = Occlusion> {
    /// The strategy whose winner is corrected.
    pub inner: S,
    /// How.
    pub correction: Correction,
    /// Corrections at most.
    pub rounds: u32,
    /// P(yes) that a "yes" must reach to end the corrections; above 1 none does.
    pub confidence: f32,
    /// Finds the region of [`Correction::Region`].
    pub locator: L,
}

impl<S> Reflect<S> {
    /// At most three corrections, until the answer is "yes".
    #[must_use]
    pub const fn new(inner: S, correction: Correction) -> Self {
        Self {
            inner,
            correction,
            rounds: 3,
            confidence: 0.0,
            locator: Occlusion::new(),
        }
    }
}

impl<S, L> Reflect<S, L> {
    /// Finds regions by this locator.
    #[must_use]
    pub fn with_locator<M: Locator>(self, locator: M) -> Reflect<S, M> {
        Reflect {
            inner: self.inner,
            correction: self.correction,
            rounds: self.rounds,
            confidence: self.confidence,
            locator,
        }
    }

    /// At most so many corrections.
    #[must_use]
    pub const fn with_rounds(mut self, rounds: u32) -> Self {
        self.rounds = rounds;
        self
    }

    /// Ends at a "yes" of this probability.
    #[must_use]
    pub const fn with_confidence(mut self, p_yes: f32) -> Self {
        self.confidence = p_yes;
        self
    }

    fn satisfied(&self, verdict: &Verdict) -> bool {
        verdict.answer == Answer::Yes && confidence(verdict) >= self.confidence
    }
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized, S: SearchStrategy<G, R>, L: Locator>
    SearchStrategy<G, R> for Reflect<S, L>
{
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        comparable(self.confidence)?;
        if let Correction::Scattered { from }
        | Correction::Region { from }
        | Correction::Tail { from } = self.correction
        {
            let last = u64::from(generator.steps()).saturating_sub(1);
            within("steps kept by a correction", from.into(), 0, last)?;
        }
        let needs = match self.correction {
            Correction::Region { .. } => self.locator.needs(),
            _ => Needs::NOTHING,
        };
        let needs = needs.or(reward.needs(Judgement::Outcome));
        let mut run = Run::seeing(generator, reward, prompt, on_event, 2, needs)?;
        let outcome = self.walk(&mut run, rng);
        run.conclude(outcome)
    }
}

impl<S, L: Locator> Reflect<S, L> {
    fn walk<G: Generator + ?Sized, R: RewardModel + ?Sized>(
        &mut self,
        run: &mut Run<'_, G, R>,
        rng: &mut dyn Rng,
    ) -> Progress<CandidateId>
    where
        S: SearchStrategy<G, R>,
    {
        let Found {
            mut winner,
            outcome,
        } = run.nested(&mut self.inner, rng)?;
        let mut verdict = match outcome {
            Some(verdict) => verdict,
            None if self.rounds == 0 => return Ok(winner),
            None => run.outcome(winner)?,
        };
        let mut support = None;
        for _ in 0..self.rounds {
            if self.satisfied(&verdict) {
                break;
            }
            let next = match self.correction {
                Correction::Prompted => run.correct_prompted(rng, winner)?,
                correction => {
                    run.correct(rng, winner, correction, (&mut self.locator, &mut support))?
                }
            };
            run.complete(&[next])?;
            let answer = run.outcome(next)?;
            if confidence(&answer) > confidence(&verdict) {
                (winner, verdict) = (next, answer);
                support = None;
            }
            run.keep_only(&[winner])?;
        }
        Ok(winner)
    }
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> Run<'_, G, R> {
    /// Starts a correction by a generator that is shown the picture and the judge's reason.
    fn correct_prompted(&mut self, rng: &mut dyn Rng, id: CandidateId) -> Progress<CandidateId> {
        let mut codes = self.unknown()?;
        self.generator.save(id, &mut codes)?;
        let mut reason = String::new();
        self.open(&[id]);
        self.explain(&mut reason)?;
        self.close();
        let prompt = self.prompt.correcting(&codes, &reason);
        self.start_as(rng, 1, 0, |generator, seeds, ids| {
            generator.start(&prompt, seeds, ids)
        })?;
        self.latest_one()
    }

    /// Starts a correction that draws a part of the codes anew. What is known of their support goes from one correction
    /// of a picture to the next.
    fn correct<L: Locator>(
        &mut self,
        rng: &mut dyn Rng,
        id: CandidateId,
        correction: Correction,
        (locator, support): (&mut L, &mut Option<Vec<f32>>),
    ) -> Progress<CandidateId> {
        let mut codes = self.unknown()?;
        let len = codes.len();
        let anneal = self.generator.save(id, &mut codes)?.anneal;
        let from = match correction {
            Correction::Prompted => 0,
            Correction::Scattered { from } => {
                forget(rng, &mut codes, unsettled(len, from, self.steps()), &[])?;
                from
            }
            Correction::Region { from } => {
                let support = match support {
                    Some(support) => support,
                    None => support.insert(self.locate(id, locator)?),
                };
                forget(rng, &mut codes, unsettled(len, from, self.steps()), support)?;
                let step = self.steps();
                let key = ViewKey {
                    candidate: id,
                    step,
                };
                let codes = &codes;
                tell(self.listener, Event::Located { key, codes })?;
                from
            }
            Correction::Tail { from } => {
                let each = len.div_ceil(self.steps().max(1) as usize);
                let kept = each.saturating_mul(from as usize);
                codes.iter_mut().skip(kept).for_each(|c| *c = UNKNOWN);
                from
            }
        };
        let (prompt, partial) = (self.prompt, Partial::new(from, &codes).with_anneal(anneal));
        self.start_as(rng, 1, from, |generator, seeds, ids| {
            generator.resume(prompt, &partial, seeds, ids)
        })?;
        self.latest_one()
    }

    /// A grid of no codes.
    fn unknown(&self) -> Result<Vec<Code>> {
        let len = self.generator.grid().len();
        let mut codes: Vec<Code> = reserved(len)?;
        codes.resize(len, UNKNOWN);
        Ok(codes)
    }

    fn latest_one(&self) -> Progress<CandidateId> {
        let none = Error::UnknownCandidate {
            op: "search",
            id: CandidateId::default().0,
        };
        self.latest().first().copied().ok_or(Halt::Fail(none))
    }
}

/// Codes that a masked generator has not settled after so many steps: n · cos(π/2 · taken/steps), at least one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a share of n that is not negative"
)]
fn unsettled(n: usize, taken: u32, steps: u32) -> usize {
    let share = libm::cosf(core::f32::consts::FRAC_PI_2 * taken as f32 / steps.max(1) as f32);
    ((n as f32 * share) as usize).clamp(1, n.max(1))
}

/// Forgets the `count` codes that have the least support, of equals each set as likely as any other.
fn forget(rng: &mut dyn Rng, codes: &mut [Code], count: usize, support: &[f32]) -> Progress {
    let mut places: Vec<usize> = reserved(codes.len())?;
    places.extend(0..codes.len());
    let count = count.min(places.len());
    // Shuffled as a whole where support orders them: a stable sort leaves equals as they come.
    let shuffled = if support.is_empty() {
        count
    } else {
        places.len()
    };
    for i in 0..shuffled {
        let left = (places.len() - i) as u128;
        // The upper half of a product of 64 bits: even to within 2⁻⁶⁴.
        let offset = usize::try_from((u128::from(rng.next_u64()) * left) >> 64).unwrap_or(0);
        places.swap(i, i + offset);
    }
    if !support.is_empty() {
        let of = |place: usize| support.get(place).copied().unwrap_or(0.0);
        let mut ranked: Vec<(f32, usize, usize)> = reserved(places.len())?;
        let places = places.iter().enumerate();
        ranked.extend(places.map(|(order, &place)| (of(place), order, place)));
        ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        forget_at(codes, ranked.iter().take(count).map(|entry| entry.2));
    } else {
        forget_at(codes, places.into_iter().take(count));
    }
    Ok(())
}

fn forget_at(codes: &mut [Code], places: impl Iterator<Item = usize>) {
    for place in places {
        if let Some(code) = codes.get_mut(place) {
            *code = UNKNOWN;
        }
    }
}
