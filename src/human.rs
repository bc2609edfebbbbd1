//! A person as a judge.

use core::fmt;

use crate::error::{Error, Result};
use crate::generator::Needs;
use crate::reward::{Ask, Judgement, RewardModel, Verdict};

/// Asks a person: shows all views of a question at once and takes the marked ones for "yes", the others for "no", both
/// with certainty.
///
/// The search waits while the callback shows its sheet and reads the choice, and goes on when it returns. It may be any
/// function, a `&mut dyn FnMut` or a boxed one; an error that it returns, a window that was closed say, ends the search.
///
/// ```
/// use maquette::human::HumanReward;
/// use maquette::search::{BestOfN, Flow, SearchStrategy};
/// use maquette::testing::ScriptedGenerator;
/// use maquette::{Prompt, rng::Stream};
///
/// let mut person = HumanReward::new(|ask, marks| {
///     assert_eq!(ask.pixels.map(|sheet| sheet.len()), Some(4));
///     marks.yes(2)
/// });
/// let found = BestOfN::new(4).search(
///     &mut ScriptedGenerator::new(3), &mut person, &Prompt::new("a cup"), &mut Stream::new(1), &mut |_| Flow::Continue,
/// )?;
/// assert_eq!(found.winner.0, 2);
/// # Ok::<(), maquette::Error>(())
/// ```
pub struct HumanReward<F> {
    ask: F,
}

/// The views that a person has marked, all "no" at first.
pub struct Marks<'a> {
    verdicts: &'a mut [Verdict],
}

impl<F> fmt::Debug for HumanReward<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HumanReward").finish_non_exhaustive()
    }
}

impl fmt::Debug for Marks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Marks").field(&self.verdicts).finish()
    }
}

impl Marks<'_> {
    /// Marks the view at this place of the question, counted from 0.
    ///
    /// # Errors
    /// [`Error::Range`] if there is no such view.
    pub fn yes(&mut self, place: usize) -> Result<()> {
        let max = self.verdicts.len().saturating_sub(1) as u64;
        match self.verdicts.get_mut(place) {
            Some(verdict) => {
                *verdict = Verdict::new(1.0, 0.0);
                Ok(())
            }
            None => Err(Error::Range {
                op: "judge",
                arg: "mark",
                got: place as u64,
                min: 0,
                max,
            }),
        }
    }
}

impl<F: FnMut(&Ask<'_>, &mut Marks<'_>) -> Result<()>> HumanReward<F> {
    /// Puts every question to this person.
    pub const fn new(ask: F) -> Self {
        Self { ask }
    }
}

impl<F: FnMut(&Ask<'_>, &mut Marks<'_>) -> Result<()>> RewardModel for HumanReward<F> {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::PIXELS
    }

    // Whatever a person's head does.
    fn multiply_adds(&self) -> Option<u64> {
        Some(0)
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let shown = ask.pixels.map_or(0, |sheet| sheet.len());
        for (arg, got) in [("out", out.len()), ("pixels", shown)] {
            if got != ask.keys.len() {
                return Err(Error::Length {
                    op: "judge",
                    arg,
                    got,
                    want: ask.keys.len(),
                });
            }
        }
        out.fill(Verdict::new(0.0, 1.0));
        (self.ask)(ask, &mut Marks { verdicts: out })
    }
}
