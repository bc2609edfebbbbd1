//! The contract of a search strategy, and the strategies.

#[cfg(feature = "alloc")]
mod adaptive;
#[cfg(feature = "alloc")]
mod best_of_n;
#[cfg(feature = "alloc")]
mod budget;
#[cfg(feature = "alloc")]
mod ending;
#[cfg(feature = "alloc")]
mod halving;
#[cfg(feature = "alloc")]
mod meter;
#[cfg(feature = "alloc")]
mod nested;
#[cfg(feature = "alloc")]
mod parm;
#[cfg(feature = "alloc")]
mod plain;
#[cfg(feature = "alloc")]
mod prm;
#[cfg(feature = "alloc")]
mod probe;
#[cfg(feature = "alloc")]
mod reflect;
#[cfg(feature = "alloc")]
mod region;
#[cfg(feature = "alloc")]
mod run;
#[cfg(feature = "alloc")]
mod views;
mod work;

use rand_core::Rng;

use crate::codes::Code;
use crate::error::Result;
use crate::generator::{CandidateId, Generator};
use crate::image::ImageBatch;
use crate::prompt::Prompt;
use crate::reward::{Judgement, RewardModel, Verdict, ViewKey};

#[cfg(feature = "alloc")]
pub use adaptive::Adaptive;
#[cfg(feature = "alloc")]
pub use best_of_n::BestOfN;
#[cfg(feature = "alloc")]
pub use budget::Budget;
#[cfg(feature = "alloc")]
pub use halving::Halving;
#[cfg(feature = "alloc")]
pub use parm::{Parm, ParmForm};
#[cfg(feature = "alloc")]
pub use plain::Plain;
#[cfg(feature = "alloc")]
pub use prm::Prm;
#[cfg(feature = "alloc")]
pub use reflect::{Correction, Reflect};
#[cfg(feature = "alloc")]
pub use region::{Locator, Occlusion, Probe, Sight};
pub use work::MultiplyAdds;

/// What a search has spent, counted in candidates: a batch of 20 counts 20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub struct Cost {
    /// Candidates started, resumed or forked.
    pub candidates: u64,
    /// Generator steps.
    pub steps: u64,
    /// Pictures decoded to be looked at.
    pub decodes: u64,
    /// Outcome questions.
    pub outcome: u64,
    /// Process questions.
    pub process: u64,
    /// Clarity questions.
    pub clarity: u64,
    /// Potential questions.
    pub potential: u64,
    /// Reasons that were asked for.
    pub explanations: u64,
    /// What generator and judge computed from the first candidate to the last question. What they remember from
    /// earlier searches costs nothing, so the parts depend on the searches before this one.
    pub multiply_adds: MultiplyAdds,
}

impl Cost {
    /// Questions of all kinds.
    #[must_use]
    pub const fn judged(&self) -> u64 {
        self.outcome + self.process + self.clarity + self.potential
    }

    /// Counts `n` questions of one kind.
    pub fn ask(&mut self, judgement: Judgement, n: u64) {
        *match judgement {
            Judgement::Outcome => &mut self.outcome,
            Judgement::Process => &mut self.process,
            Judgement::Clarity => &mut self.clarity,
            Judgement::Potential => &mut self.potential,
        } += n;
    }
}

impl core::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.candidates += other.candidates;
        self.steps += other.steps;
        self.decodes += other.decodes;
        self.outcome += other.outcome;
        self.process += other.process;
        self.clarity += other.clarity;
        self.potential += other.potential;
        self.explanations += other.explanations;
        self.multiply_adds += other.multiply_adds;
    }
}

/// What happens in a search, as it happens.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Candidates exist.
    Started {
        /// The candidates, in the order of their seeds.
        ids: &'a [CandidateId],
        /// The candidate they were forked from.
        parent: Option<CandidateId>,
        /// Steps that each of them has taken by then: those of the parent, or those that a resumed one begins after.
        taken: u32,
    },
    /// Candidates are about to take a step: whoever ends the search now saves it. Not told of the steps that finish a
    /// candidate which the listener chose.
    Stepping {
        /// The candidates.
        ids: &'a [CandidateId],
        /// What generator and judge have computed since they exist.
        spent: MultiplyAdds,
    },
    /// Candidates took a step.
    Stepped {
        /// The candidates.
        ids: &'a [CandidateId],
        /// Steps the first of them has taken now.
        step: u32,
    },
    /// A question is about to be put: whoever ends the search now saves it.
    Asking {
        /// The question.
        judgement: Judgement,
        /// Names of the views.
        keys: &'a [ViewKey],
        /// What generator and judge have computed since they exist.
        spent: MultiplyAdds,
    },
    /// Candidates were decoded to be judged.
    Observed {
        /// Names of the views.
        keys: &'a [ViewKey],
        /// Their pictures, if pixels were needed.
        pixels: Option<ImageBatch<'a>>,
    },
    /// A view was judged.
    Judged {
        /// The view.
        key: ViewKey,
        /// The question.
        judgement: Judgement,
        /// The verdict.
        verdict: Verdict,
    },
    /// The judge said what is wrong with a picture that is going to be corrected.
    Explained {
        /// The view.
        key: ViewKey,
        /// Its words.
        reason: &'a str,
    },
    /// A judge answered the outcome question about changed copies of a view; none of these is the picture's verdict.
    Probed {
        /// The view.
        key: ViewKey,
        /// Its answers, one a copy.
        verdicts: &'a [Verdict],
    },
    /// The region of a picture that is drawn anew was found.
    Located {
        /// The view.
        key: ViewKey,
        /// Its codes, [`UNKNOWN`](crate::codes::UNKNOWN) where they are drawn anew.
        codes: &'a [Code],
    },
    /// A candidate is out of the running; a parked one may come back if nobody survives.
    Rejected {
        /// The candidate.
        id: CandidateId,
        /// Whether its state is kept.
        parked: bool,
    },
    /// A parked candidate goes on, since nobody survived.
    Resumed {
        /// The candidate.
        id: CandidateId,
    },
    /// The search is over.
    Chosen {
        /// The winner.
        id: CandidateId,
    },
}

/// What the listener of a search wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// End now with the best candidate so far, finished or not.
    Stop,
    /// Finish this candidate and end with it.
    Choose(CandidateId),
}

/// The outcome of a search. The winner is alive in the generator, every other candidate of the search is pruned.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Decision {
    /// The winner.
    pub winner: CandidateId,
    /// Its last verdict, if it was judged.
    pub verdict: Option<Verdict>,
    /// Whether the winner had been rejected and came back since nobody survived.
    pub fallback: bool,
    /// Whether the listener or a budget ended the search, or a budget one within it.
    pub stopped: bool,
    /// What was spent.
    pub cost: Cost,
}

impl Decision {
    /// A decision for `winner` at this cost.
    #[must_use]
    pub const fn new(winner: CandidateId, cost: Cost) -> Self {
        Self {
            winner,
            verdict: None,
            fallback: false,
            stopped: false,
            cost,
        }
    }
}

/// Decides which candidates live.
///
/// Generic over both contracts so that it can be compiled for concrete models; `G` and `R` may also be
/// `dyn Generator + 'a` and `dyn RewardModel + 'a`.
///
/// The docs' `guide::strategy` says how to write one. Any of them, chosen while the program runs:
///
/// ```
/// use maquette::search::{BestOfN, Parm};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Event, Flow, Generator, Prompt, RewardModel, SearchStrategy, rng::Stream};
///
/// let (mut generator, mut judge) = (ScriptedGenerator::new(6), OracleReward::new(1));
/// let prompt = Prompt::new("a red car");
/// for name in ["best-of-n", "parm"] {
///     let mut strategy: Box<dyn SearchStrategy<dyn Generator, dyn RewardModel>> = match name {
///         "parm" => Box::new(Parm::new(4)),
///         _ => Box::new(BestOfN::new(4)),
///     };
///     let mut looks = 0;
///     let found = strategy.search(&mut generator, &mut judge, &prompt, &mut Stream::new(1), &mut |event| {
///         looks += u32::from(matches!(event, Event::Judged { .. }));
///         if looks < 100 { Flow::Continue } else { Flow::Stop }
///     })?;
///     assert_eq!(u64::from(looks), found.cost.judged());
///     generator.prune(&[found.winner])?;
/// }
/// # Ok::<(), maquette::Error>(())
/// ```
pub trait SearchStrategy<G: Generator + ?Sized, R: RewardModel + ?Sized> {
    /// Searches for one picture.
    ///
    /// # Errors
    /// Whatever generator or judge report, verdicts that are not numbers, or no candidate at all. After an error no
    /// candidate of this search is left in the generator.
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision>;
}

impl<G: Generator + ?Sized, R: RewardModel + ?Sized, T: SearchStrategy<G, R> + ?Sized>
    SearchStrategy<G, R> for &mut T
{
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        (**self).search(generator, reward, prompt, rng, on_event)
    }
}

#[cfg(feature = "alloc")]
impl<G: Generator + ?Sized, R: RewardModel + ?Sized, T: SearchStrategy<G, R> + ?Sized>
    SearchStrategy<G, R> for alloc::boxed::Box<T>
{
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<Decision> {
        (**self).search(generator, reward, prompt, rng, on_event)
    }
}
