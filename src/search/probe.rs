//! A locator's questions: about copies of one picture, counted like all others.

use alloc::string::String;
use alloc::vec::Vec;

use super::region::{Locator, Sight};
use super::run::{Halt, Progress, Run, tell, within};
use super::views::reserved;
use super::{Event, Flow, MultiplyAdds};
use crate::error::{Error, Result};
use crate::generator::{CandidateId, Generator};
use crate::image::ImageBatch;
use crate::prompt::Prompt;
use crate::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};

/// Copies of a picture that a locator may show: far more than tiles, so that their names can be counted.
const COPIES: u64 = 1 << 16;

impl<G: Generator + ?Sized, R: RewardModel + ?Sized> Run<'_, G, R> {
    /// How much each code of a picture helps.
    pub(super) fn locate<L: Locator>(
        &mut self,
        id: CandidateId,
        locator: &mut L,
    ) -> Progress<Vec<f32>> {
        let grid = self.generator.grid();
        let mut support: Vec<f32> = reserved(grid.len())?;
        support.resize(grid.len(), 0.0);
        let mut reason = String::new();
        self.open(&[id]);
        self.explain(&mut reason)?;
        self.look(locator.needs())?;
        let steps = self.steps();
        let ask = self.gallery.question(Judgement::Outcome, self.prompt)?;
        let Some(&key) = ask.keys.first() else {
            return Ok(support);
        };
        let mut prober = Prober {
            // A locator draws nothing, so only the judge's part grows.
            spent: MultiplyAdds::of(&*self.generator, &*self.reward),
            reward: &mut *self.reward,
            listener: &mut *self.listener,
            key,
            steps,
            named: Vec::new(),
            shown: 0,
            asked: 0,
            halt: None,
        };
        let sight = Sight::new(ask, grid).with_reason(&reason);
        let mut probe =
            |first: u32, prompt: &Prompt<'_>, copies: ImageBatch<'_>, out: &mut [Verdict]| {
                prober.ask(first, prompt, copies, out)
            };
        let located = locator.locate(&sight, &mut probe, &mut support);
        prober.forget();
        let (asked, halt) = (prober.asked, prober.halt);
        self.cost.ask(Judgement::Outcome, asked);
        if let Some(halt) = halt {
            return Err(halt);
        }
        located?;
        self.close();
        match support.iter().position(|support| support.is_nan()) {
            None => Ok(support),
            Some(row) => Err(Halt::Fail(Error::NotFinite {
                op: "locate",
                arg: "support",
                row,
            })),
        }
    }
}

/// Puts the questions about one picture's copies.
struct Prober<'a, R: ?Sized> {
    spent: MultiplyAdds,
    reward: &'a mut R,
    listener: &'a mut dyn FnMut(Event<'_>) -> Flow,
    /// The picture's own view.
    key: ViewKey,
    steps: u32,
    named: Vec<ViewKey>,
    /// Copies numbered below this have been shown.
    shown: u32,
    asked: u64,
    /// Why the search ends, once it does: a locator cannot go on then.
    halt: Option<Halt>,
}

impl<R: RewardModel + ?Sized> Prober<'_, R> {
    /// Copies are named by steps that no candidate takes.
    const fn name(&self, copy: u32) -> ViewKey {
        ViewKey {
            candidate: self.key.candidate,
            step: self.steps.saturating_add(1).saturating_add(copy),
        }
    }

    fn ask(
        &mut self,
        first: u32,
        prompt: &Prompt<'_>,
        copies: ImageBatch<'_>,
        out: &mut [Verdict],
    ) -> Result<()> {
        const ENDED: Error = Error::Unsupported {
            what: "asking on in a search that is over",
        };
        let n = copies.len();
        if out.len() != n {
            return Err(Error::Length {
                op: "probe",
                arg: "out",
                got: out.len(),
                want: n,
            });
        }
        within(
            "copies of a picture",
            u64::from(first) + n as u64,
            1,
            COPIES,
        )?;
        let needs = self.reward.needs(Judgement::Outcome);
        if needs.codes || needs.hidden {
            return Err(Error::Unsupported {
                what: "showing changed pixels to a judge of codes or hidden rows",
            });
        }
        if self.halt.is_some() {
            return Err(ENDED);
        }
        self.named.clear();
        self.named.try_reserve(n).map_err(|_| Error::OutOfMemory {
            what: "search",
            bytes: n.saturating_mul(size_of::<ViewKey>()),
        })?;
        for (copy, _) in (first..).zip(&*out) {
            self.named.push(self.name(copy));
            self.shown = self.shown.max(copy.saturating_add(1));
        }
        let judgement = Judgement::Outcome;
        let keys = &self.named;
        self.spent.judge = self.reward.multiply_adds();
        let spent = self.spent;
        let asking = Event::Asking {
            judgement,
            keys,
            spent,
        };
        if let Err(halt) = tell(self.listener, asking) {
            self.halt = Some(halt);
            return Err(ENDED);
        }
        let mut question = Ask::new(judgement, prompt, keys);
        question.pixels = needs.pixels.then_some(copies);
        self.reward.judge(&question, out)?;
        self.asked += n as u64;
        for (row, verdict) in out.iter().enumerate() {
            verdict.check(row)?;
        }
        let probed = Event::Probed {
            key: self.key,
            verdicts: out,
        };
        if let Err(halt) = tell(self.listener, probed) {
            self.halt = Some(halt);
            return Err(ENDED);
        }
        Ok(())
    }

    fn forget(&mut self) {
        for copy in 0..self.shown {
            self.reward.forget(&[self.name(copy)]);
        }
    }
}
