//! What all strategies share: the candidates of one search, its views, its cost, and how it ends.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use rand_core::Rng;

use super::views::{Gallery, reserved};
use super::{Cost, Event, Flow, MultiplyAdds};
use crate::error::{Error, Result};
use crate::generator::{CandidateId, Generator, Needs};
use crate::prompt::Prompt;
use crate::reward::{Answer, Judgement, RewardModel, Verdict};

/// Why a search goes no further.
pub(super) enum Halt {
    Stop,
    Choose(CandidateId),
    Fail(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Fail(error)
    }
}

/// What a part of a search returns: the listener may end it anywhere.
pub(super) type Progress<T = ()> = core::result::Result<T, Halt>;

/// What counts in a choice: the probability of "yes", nothing for a malformed answer.
pub(super) fn confidence(verdict: &Verdict) -> f32 {
    if verdict.answer == Answer::Other {
        0.0
    } else {
        verdict.p_yes
    }
}

/// Place of the most confident "yes"; the first of equals.
pub(super) fn most_confident(verdicts: &[Verdict]) -> usize {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (i, verdict) in verdicts.iter().enumerate() {
        let confidence = confidence(verdict);
        if confidence > best {
            (best, at) = (confidence, i);
        }
    }
    at
}

/// Keeps the `n` most confident "yes", in their order; of equals the first.
pub(super) fn keep_best(ids: &mut Vec<CandidateId>, verdicts: &[Verdict], n: usize) {
    let score = |i: usize| verdicts.get(i).map_or(f32::NEG_INFINITY, confidence);
    let better = |i: usize| {
        let before = |j: &usize| score(*j) > score(i) || (*j < i && score(*j) >= score(i));
        (0..verdicts.len()).filter(before).count()
    };
    let mut i = 0;
    ids.retain(|_| {
        i += 1;
        better(i - 1) < n
    });
}

/// Fails for a search without candidates.
pub(super) fn some_candidates(n: u32) -> Result<usize> {
    within("candidates", u64::from(n), 1, u64::from(u32::MAX))?;
    Ok(n as usize)
}

/// Fails for a setting outside its range.
pub(super) fn within(arg: &'static str, got: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&got) {
        return Ok(());
    }
    Err(Error::Range {
        op: "search",
        arg,
        got,
        min,
        max,
    })
}

/// Fails for a confidence that is no number.
pub(super) fn comparable(confidence: f32) -> Result<()> {
    if !confidence.is_nan() {
        return Ok(());
    }
    Err(Error::NotFinite {
        op: "search",
        arg: "confidence",
        row: 0,
    })
}

pub(super) fn tell(listener: &mut dyn FnMut(Event<'_>) -> Flow, event: Event<'_>) -> Progress {
    match listener(event) {
        Flow::Continue => Ok(()),
        Flow::Stop => Err(Halt::Stop),
        Flow::Choose(id) => Err(Halt::Choose(id)),
    }
}

/// Takes a judge's words as long as there is memory for them.
struct Page<'a> {
    text: &'a mut String,
    /// Why it takes no more.
    full: Option<Error>,
}

impl fmt::Write for Page<'_> {
    fn write_str(&mut self, words: &str) -> fmt::Result {
        if self.text.try_reserve(words.len()).is_err() {
            self.full = Some(Error::OutOfMemory {
                what: "search",
                bytes: words.len(),
            });
            return Err(fmt::Error);
        }
        self.text.push_str(words);
        Ok(())
    }
}

/// A candidate that is alive and belongs to this search.
pub(super) struct Member {
    pub(super) id: CandidateId,
    pub(super) taken: u32,
    pub(super) last: Option<Verdict>,
    pub(super) rejected: bool,
    /// Whether it was rejected and came back since nobody survived.
    pub(super) fallback: bool,
}

/// One search under way.
pub(super) struct Run<'a, G: ?Sized, R: ?Sized> {
    pub(super) generator: &'a mut G,
    pub(super) reward: &'a mut R,
    pub(super) prompt: &'a Prompt<'a>,
    pub(super) listener: &'a mut dyn FnMut(Event<'_>) -> Flow,
    pub(super) members: Vec<Member>,
    pub(super) ids: Vec<CandidateId>,
    seeds: Vec<u64>,
    pub(super) gallery: Gallery,
    verdicts: Vec<Verdict>,
    pub(super) cost: Cost,
    /// What had been computed when it began.
    pub(super) before: MultiplyAdds,
    /// Whether a budget ended a search within it.
    pub(super) stopped: bool,
}

impl<'a, G: Generator + ?Sized, R: RewardModel + ?Sized> Run<'a, G, R> {
    /// Reserves the memory of a search that keeps at most `n` candidates alive and asks these questions.
    pub(super) fn new(
        generator: &'a mut G,
        reward: &'a mut R,
        prompt: &'a Prompt<'a>,
        listener: &'a mut dyn FnMut(Event<'_>) -> Flow,
        n: usize,
        asks: &[Judgement],
    ) -> Result<Self> {
        let needs = asks
            .iter()
            .fold(Needs::NOTHING, |all, &ask| all.or(reward.needs(ask)));
        Self::seeing(generator, reward, prompt, listener, n, needs)
    }

    /// The same for a search that looks at most at this.
    pub(super) fn seeing(
        generator: &'a mut G,
        reward: &'a mut R,
        prompt: &'a Prompt<'a>,
        listener: &'a mut dyn FnMut(Event<'_>) -> Flow,
        n: usize,
        needs: Needs,
    ) -> Result<Self> {
        Ok(Self {
            members: reserved(n)?,
            ids: reserved(n)?,
            seeds: reserved(n)?,
            gallery: Gallery::reserve(generator, n, needs)?,
            verdicts: reserved(n)?,
            cost: Cost::default(),
            before: MultiplyAdds::of(generator, reward),
            stopped: false,
            generator,
            reward,
            prompt,
            listener,
        })
    }

    pub(super) fn steps(&self) -> u32 {
        self.generator.steps()
    }

    /// Ids of the latest start or fork.
    pub(super) fn latest(&self) -> &[CandidateId] {
        &self.ids
    }

    /// Verdicts of the latest question, in the order of its views.
    pub(super) fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// Starts `n` candidates, one seed each.
    pub(super) fn start(&mut self, rng: &mut dyn Rng, n: usize) -> Progress {
        let prompt = self.prompt;
        self.start_as(rng, n, 0, |generator, seeds, ids| {
            generator.start(prompt, seeds, ids)
        })
    }

    /// Starts `n` candidates, one seed each, in a way that leaves them after `taken` steps.
    pub(super) fn start_as(
        &mut self,
        rng: &mut dyn Rng,
        n: usize,
        taken: u32,
        start: impl FnOnce(&mut G, &[u64], &mut [CandidateId]) -> Result<()>,
    ) -> Progress {
        self.draw(rng, n);
        start(self.generator, &self.seeds, &mut self.ids)?;
        self.enrol(taken, None)
    }

    /// Forks `n` candidates off a parent, one seed each.
    pub(super) fn fork(&mut self, rng: &mut dyn Rng, parent: CandidateId, n: usize) -> Progress {
        self.draw(rng, n);
        if n == 0 {
            return Ok(());
        }
        self.generator.fork(parent, &self.seeds, &mut self.ids)?;
        let taken = self.member(parent).map_or(0, |parent| parent.taken);
        self.enrol(taken, Some(parent))
    }

    fn draw(&mut self, rng: &mut dyn Rng, n: usize) {
        self.seeds.clear();
        self.seeds.extend((0..n).map(|_| rng.next_u64()));
        self.ids.clear();
        self.ids.resize(n, CandidateId::default());
    }

    fn enrol(&mut self, taken: u32, parent: Option<CandidateId>) -> Progress {
        self.cost.candidates += self.ids.len() as u64;
        let members = self.ids.iter().map(|&id| Member {
            id,
            taken,
            last: None,
            rejected: false,
            fallback: false,
        });
        self.members.extend(members);
        tell(
            self.listener,
            Event::Started {
                ids: &self.ids,
                parent,
                taken,
            },
        )
    }

    pub(super) fn member(&self, id: CandidateId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    fn note(&mut self, id: CandidateId, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            change(member);
        }
    }

    /// Takes one step with each of these, in one batch, unless the listener ends the search first.
    pub(super) fn step(&mut self, ids: &[CandidateId]) -> Progress {
        if ids.is_empty() {
            return Ok(());
        }
        let spent = MultiplyAdds::of(&*self.generator, &*self.reward);
        tell(self.listener, Event::Stepping { ids, spent })?;
        self.advance(ids)
    }

    pub(super) fn advance(&mut self, ids: &[CandidateId]) -> Progress {
        let Some(&first) = ids.first() else {
            return Ok(());
        };
        self.generator.step(ids)?;
        self.cost.steps += ids.len() as u64;
        for &id in ids {
            self.note(id, |member| member.taken += 1);
        }
        let step = self.taken(first);
        tell(self.listener, Event::Stepped { ids, step })
    }

    fn taken(&self, id: CandidateId) -> u32 {
        self.member(id).map_or(0, |member| member.taken)
    }

    /// Whether a candidate has taken all its steps.
    pub(super) fn finished(&self, id: CandidateId) -> bool {
        self.taken(id) >= self.steps()
    }

    /// Steps candidates that have taken equally many steps to the end.
    pub(super) fn complete(&mut self, ids: &[CandidateId]) -> Progress {
        while let Some(&first) = ids.first()
            && !self.finished(first)
        {
            self.step(ids)?;
        }
        Ok(())
    }

    /// Opens one view of each of these as they are now.
    pub(super) fn open(&mut self, ids: &[CandidateId]) {
        let members = &self.members;
        self.gallery.open(ids.iter().filter_map(|&id| {
            members
                .iter()
                .find(|member| member.id == id)
                .map(|member| (id, member.taken))
        }));
    }

    /// Asks one question about all open views; what it needs to see and was not yet observed is observed.
    pub(super) fn ask(&mut self, judgement: Judgement) -> Progress {
        let n = self.gallery.keys().len();
        self.verdicts.clear();
        if n == 0 {
            return Ok(());
        }
        let spent = MultiplyAdds::of(&*self.generator, &*self.reward);
        let asking = Event::Asking {
            judgement,
            keys: self.gallery.keys(),
            spent,
        };
        tell(self.listener, asking)?;
        self.look(self.reward.needs(judgement))?;
        self.verdicts.resize(n, Verdict::malformed());
        let ask = self.gallery.question(judgement, self.prompt)?;
        self.reward.judge(&ask, &mut self.verdicts)?;
        self.cost.ask(judgement, n as u64);
        for (row, verdict) in self.verdicts.iter().enumerate() {
            verdict.check(row)?;
        }

        for (key, &verdict) in self.gallery.keys().iter().zip(&self.verdicts) {
            if let Some(member) = self
                .members
                .iter_mut()
                .find(|member| member.id == key.candidate)
            {
                member.last = Some(verdict);
            }
        }
        for (&key, &verdict) in self.gallery.keys().iter().zip(&self.verdicts) {
            tell(
                self.listener,
                Event::Judged {
                    key,
                    judgement,
                    verdict,
                },
            )?;
        }
        Ok(())
    }

    /// Observes what must be seen of the open views, where that is not yet done.
    pub(super) fn look(&mut self, needs: Needs) -> Progress {
        let n = self.gallery.keys().len() as u64;
        let missing = self.gallery.observe(self.generator, needs)?;
        if missing != Needs::NOTHING {
            self.cost.decodes += if missing.pixels { n } else { 0 };
            let pixels = if missing.pixels {
                self.gallery.pixels()?
            } else {
                None
            };
            tell(
                self.listener,
                Event::Observed {
                    keys: self.gallery.keys(),
                    pixels,
                },
            )?;
        }
        Ok(())
    }

    /// The judge's words about the open view; none from a judge that has none.
    pub(super) fn explain(&mut self, out: &mut String) -> Progress {
        self.look(self.reward.needs(Judgement::Outcome))?;
        let ask = self.gallery.question(Judgement::Outcome, self.prompt)?;
        let mut page = Page {
            text: out,
            full: None,
        };
        let said = self.reward.explain(&ask, &mut page);
        if let Some(error) = page.full {
            return Err(error.into());
        }
        match said {
            Err(Error::Unsupported { .. }) => {
                out.clear();
                return Ok(());
            }
            said => said?,
        }
        self.cost.explanations += 1;
        match self.gallery.keys().first() {
            Some(&key) => tell(self.listener, Event::Explained { key, reason: out }),
            None => Ok(()),
        }
    }

    /// Asks about one finished picture.
    pub(super) fn outcome(&mut self, id: CandidateId) -> Progress<Verdict> {
        self.open(&[id]);
        self.ask(Judgement::Outcome)?;
        self.close();
        let verdict = self.verdicts.first().copied();
        Ok(verdict.unwrap_or_else(Verdict::malformed))
    }

    /// Closes every open view that is not wanted further.
    pub(super) fn narrow(&mut self, mut keep: impl FnMut(CandidateId) -> bool) {
        self.gallery.narrow(|key| {
            let keep = keep(key.candidate);
            if !keep {
                self.reward.forget(&[key]);
            }
            keep
        });
    }

    /// Closes all open views.
    pub(super) fn close(&mut self) {
        if !self.gallery.keys().is_empty() {
            self.reward.forget(self.gallery.keys());
        }
        self.gallery.open(core::iter::empty());
    }

    /// Takes a candidate out of the running and keeps its state.
    pub(super) fn park(&mut self, id: CandidateId) -> Progress {
        self.note(id, |member| member.rejected = true);
        tell(self.listener, Event::Rejected { id, parked: true })
    }

    /// Frees every candidate but these and says that each of them is rejected.
    pub(super) fn keep_only(&mut self, kept: &[CandidateId]) -> Progress {
        self.prune_others(kept)?;
        for &id in &self.ids {
            tell(self.listener, Event::Rejected { id, parked: false })?;
        }
        Ok(())
    }

    pub(super) fn prune_others(&mut self, kept: &[CandidateId]) -> Result<()> {
        self.ids.clear();
        self.ids.extend(
            self.members
                .iter()
                .map(|member| member.id)
                .filter(|id| !kept.contains(id)),
        );
        if !self.ids.is_empty() {
            self.generator.prune(&self.ids)?;
        }
        self.members.retain(|member| kept.contains(&member.id));
        Ok(())
    }

    /// Takes a rejected candidate back, since nobody survived; says that it goes on, and steps it to the end.
    pub(super) fn revive(&mut self, id: CandidateId) -> Progress {
        self.note(id, |member| {
            (member.rejected, member.fallback) = (false, true);
        });
        if self.finished(id) {
            return Ok(());
        }
        tell(self.listener, Event::Resumed { id })?;
        self.complete(&[id])
    }
}
