//! Judges made of judges: a mean, a cheap one before a dear one, one for some questions, a memory.

mod subset;

use alloc::vec::Vec;
use core::fmt;

use self::subset::{Subset, room};
use crate::error::{Error, Result};
use crate::generator::Needs;
use crate::prompt::Prompt;
use crate::reward::{Answer, Ask, Judgement, RewardModel, Verdict, ViewKey};

fn same_length(ask: &Ask<'_>, out: &[Verdict]) -> Result<()> {
    if ask.keys.len() == out.len() {
        return Ok(());
    }
    Err(Error::Length {
        op: "judge",
        arg: "out",
        got: out.len(),
        want: ask.keys.len(),
    })
}

/// The mean of several judges' probabilities; the answer is the likelier of the two, malformed only if all are. The first
/// judge that has words explains.
///
/// ```
/// use maquette::combine::Mean;
/// use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
/// use maquette::testing::ScriptedReward;
/// use maquette::{CandidateId, Prompt};
///
/// let says = |p| ScriptedReward::new(move |_, _, _| Verdict::new(p, 1.0 - p));
/// let mut mean = Mean::new(vec![says(1.0), says(0.5)]);
/// let (prompt, keys) = (Prompt::new("a cup"), [ViewKey { candidate: CandidateId(0), step: 1 }]);
/// let mut out = [Verdict::malformed()];
/// mean.judge(&Ask::new(Judgement::Process, &prompt, &keys), &mut out)?;
/// assert_eq!(out[0].p_yes, 0.75);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct Mean<R> {
    judges: Vec<R>,
    answers: Vec<Verdict>,
}

impl<R: RewardModel> Mean<R> {
    /// The mean of these; `R` may be `Box<dyn RewardModel>` or `&mut dyn RewardModel`.
    #[must_use]
    pub const fn new(judges: Vec<R>) -> Self {
        Self {
            judges,
            answers: Vec::new(),
        }
    }
}

impl<R: RewardModel> RewardModel for Mean<R> {
    fn needs(&self, ask: Judgement) -> Needs {
        self.judges
            .iter()
            .fold(Needs::NOTHING, |all, judge| all.or(judge.needs(ask)))
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        same_length(ask, out)?;
        if self.judges.is_empty() {
            return Err(Error::Range {
                op: "mean",
                arg: "judges",
                got: 0,
                min: 1,
                max: u64::MAX,
            });
        }
        self.answers.clear();
        room(&mut self.answers, out.len())?;
        self.answers.resize(out.len(), Verdict::malformed());
        out.fill(Verdict {
            p_yes: 0.0,
            p_no: 0.0,
            answer: Answer::Other,
        });
        for judge in &mut self.judges {
            judge.judge(ask, &mut self.answers)?;
            for (row, (sum, one)) in out.iter_mut().zip(&self.answers).enumerate() {
                one.check(row)?;
                sum.p_yes += one.p_yes;
                sum.p_no += one.p_no;
                if one.answer != Answer::Other {
                    sum.answer = Answer::No;
                }
            }
        }
        let n = self.judges.len() as f32;
        for sum in out {
            let mean = Verdict::new(sum.p_yes / n, sum.p_no / n);
            *sum = if sum.answer == Answer::Other {
                mean.with_answer(Answer::Other)
            } else {
                mean
            };
        }
        Ok(())
    }

    fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
        for judge in &mut self.judges {
            match judge.explain(ask, out) {
                Err(Error::Unsupported { .. }) => {}
                told => return told,
            }
        }
        Err(Error::Unsupported {
            what: "explaining a verdict",
        })
    }

    fn multiply_adds(&self) -> Option<u64> {
        self.judges.iter().map(RewardModel::multiply_adds).sum()
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        for judge in &mut self.judges {
            judge.forget(keys);
        }
    }
}

/// A cheap judge first; a second one only where the first is unsure, that is |P(yes) − P(no)| lies below a threshold
/// or its answer is malformed.
///
/// The views of both are observed together, so what is saved is the second judge's work and not the observing. The second
/// judge explains, or the first if the second has no words.
///
/// ```
/// use maquette::combine::Cascade;
/// use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
/// use maquette::testing::ScriptedReward;
/// use maquette::{CandidateId, Prompt};
///
/// let quick = ScriptedReward::new(|_, key, _| Verdict::new(if key.step == 1 { 0.9 } else { 0.5 }, 0.1));
/// let slow = ScriptedReward::new(|_, _, _| Verdict::new(0.2, 0.8));
/// let mut both = Cascade::new(quick, slow, 0.6);
/// let prompt = Prompt::new("a cup");
/// let keys = [1, 2].map(|step| ViewKey { candidate: CandidateId(0), step });
/// let mut out = [Verdict::malformed(); 2];
/// both.judge(&Ask::new(Judgement::Process, &prompt, &keys), &mut out)?;
/// assert_eq!((out[0].p_yes, out[1].p_yes), (0.9, 0.2));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct Cascade<A, B> {
    first: A,
    second: B,
    threshold: f32,
    subset: Subset,
}

impl<A: RewardModel, B: RewardModel> Cascade<A, B> {
    /// Asks `second` where the confidence of `first` lies below `threshold`.
    #[must_use]
    pub const fn new(first: A, second: B, threshold: f32) -> Self {
        Self {
            first,
            second,
            threshold,
            subset: Subset::new(),
        }
    }
}

impl<A: RewardModel, B: RewardModel> RewardModel for Cascade<A, B> {
    fn needs(&self, ask: Judgement) -> Needs {
        self.first.needs(ask).or(self.second.needs(ask))
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        same_length(ask, out)?;
        self.first.judge(ask, out)?;
        self.subset.begin(ask)?;
        for (row, verdict) in out.iter().enumerate() {
            verdict.check(row)?;
            let sure = (verdict.p_yes - verdict.p_no).abs() >= self.threshold;
            if !sure || verdict.answer == Answer::Other {
                self.subset.add(ask, row);
            }
        }
        self.subset.judge(ask, &mut self.second, out)
    }

    fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
        match self.second.explain(ask, out) {
            Err(Error::Unsupported { .. }) => self.first.explain(ask, out),
            told => told,
        }
    }

    fn multiply_adds(&self) -> Option<u64> {
        Some(self.first.multiply_adds()? + self.second.multiply_adds()?)
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.first.forget(keys);
        self.second.forget(keys);
    }
}

/// Two judges that share the questions: the first answers some of them, the second all others.
///
/// A question's views are observed as its own judge needs them: where the first reads hidden rows, nothing is decoded for
/// its questions.
///
/// ```
/// use maquette::combine::Split;
/// use maquette::generator::Needs;
/// use maquette::reward::{Judgement, RewardModel};
/// use maquette::testing::ScriptedReward;
///
/// let (quick, slow) = (ScriptedReward::seeded(1).with_needs(Needs::HIDDEN), ScriptedReward::seeded(2).with_needs(Needs::PIXELS));
/// let both = Split::new(quick, slow, vec![Judgement::Clarity, Judgement::Potential]);
/// assert_eq!(both.needs(Judgement::Clarity), Needs::HIDDEN);
/// assert_eq!(both.needs(Judgement::Outcome), Needs::PIXELS);
/// ```
#[derive(Debug)]
pub struct Split<A, B> {
    first: A,
    second: B,
    questions: Vec<Judgement>,
}

impl<A: RewardModel, B: RewardModel> Split<A, B> {
    /// Puts these questions to `first`.
    #[must_use]
    pub const fn new(first: A, second: B, questions: Vec<Judgement>) -> Self {
        Self {
            first,
            second,
            questions,
        }
    }
}

impl<A: RewardModel, B: RewardModel> RewardModel for Split<A, B> {
    fn needs(&self, ask: Judgement) -> Needs {
        if self.questions.contains(&ask) {
            self.first.needs(ask)
        } else {
            self.second.needs(ask)
        }
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        if self.questions.contains(&ask.judgement) {
            self.first.judge(ask, out)
        } else {
            self.second.judge(ask, out)
        }
    }

    fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
        if self.questions.contains(&ask.judgement) {
            self.first.explain(ask, out)
        } else {
            self.second.explain(ask, out)
        }
    }

    fn multiply_adds(&self) -> Option<u64> {
        Some(self.first.multiply_adds()? + self.second.multiply_adds()?)
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.first.forget(keys);
        self.second.forget(keys);
    }
}

/// Remembers verdicts by view, question and prompt, the latest `capacity` of them; [`RewardModel::forget`] drops them.
///
/// The crate's strategies ask each question about a view once and forget the view then, so that it saves them nothing: it
/// is for strategies and programs of one's own that come back to a view.
///
/// ```
/// use maquette::combine::Cached;
/// use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
/// use maquette::testing::ScriptedReward;
/// use maquette::{CandidateId, Prompt};
///
/// let mut cached = Cached::new(ScriptedReward::seeded(1), 16)?;
/// let (prompt, keys) = (Prompt::new("a cup"), [ViewKey { candidate: CandidateId(0), step: 1 }]);
/// let mut out = [Verdict::malformed()];
/// for _ in 0..3 {
///     cached.judge(&Ask::new(Judgement::Clarity, &prompt, &keys), &mut out)?;
/// }
/// assert_eq!(cached.inner().asked(Judgement::Clarity), 1);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct Cached<R> {
    inner: R,
    known: Vec<(ViewKey, Judgement, u64, Verdict)>,
    capacity: usize,
    oldest: usize,
    subset: Subset,
}

impl<R: RewardModel> Cached<R> {
    /// Remembers at most `capacity` verdicts of `inner`.
    ///
    /// # Errors
    /// No memory for so many.
    pub fn new(inner: R, capacity: usize) -> Result<Self> {
        let mut known = Vec::new();
        room(&mut known, capacity)?;
        Ok(Self {
            inner,
            known,
            capacity,
            oldest: 0,
            subset: Subset::new(),
        })
    }

    /// The judge behind the memory.
    pub const fn inner(&self) -> &R {
        &self.inner
    }

    fn recall(&self, key: ViewKey, judgement: Judgement, prompt: u64) -> Option<Verdict> {
        let known = self
            .known
            .iter()
            .find(|known| (known.0, known.1, known.2) == (key, judgement, prompt));
        known.map(|known| known.3)
    }

    fn remember(&mut self, entry: (ViewKey, Judgement, u64, Verdict)) {
        if self.known.len() < self.capacity {
            self.known.push(entry);
        } else if let Some(place) = self.known.get_mut(self.oldest) {
            *place = entry;
            self.oldest = (self.oldest + 1) % self.capacity;
        }
    }
}

impl<R: RewardModel> RewardModel for Cached<R> {
    fn needs(&self, ask: Judgement) -> Needs {
        self.inner.needs(ask)
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        same_length(ask, out)?;
        let prompt = fingerprint(ask.prompt);
        self.subset.begin(ask)?;
        for (row, verdict) in out.iter_mut().enumerate() {
            match self.recall(ask.keys[row], ask.judgement, prompt) {
                Some(known) => *verdict = known,
                None => self.subset.add(ask, row),
            }
        }
        self.subset.judge(ask, &mut self.inner, out)?;
        for i in 0..self.subset.rows.len() {
            let row = self.subset.rows[i];
            self.remember((ask.keys[row], ask.judgement, prompt, out[row]));
        }
        Ok(())
    }

    fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
        self.inner.explain(ask, out)
    }

    fn multiply_adds(&self) -> Option<u64> {
        self.inner.multiply_adds()
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        // The oldest stands first again, so that it is the next to go whoever is dropped here.
        self.known.rotate_left(self.oldest);
        self.oldest = 0;
        self.known.retain(|known| !keys.contains(&known.0));
        self.inner.forget(keys);
    }
}

/// FNV-1a over everything a prompt says.
fn fingerprint(prompt: &Prompt<'_>) -> u64 {
    let text = |text: Option<&str>| text.map_or(u64::MAX, |text| text.bytes().fold(FNV, mix));
    let codes = prompt.previous().map_or(u64::MAX, |codes| {
        codes
            .iter()
            .flat_map(|code| code.to_le_bytes())
            .fold(FNV, mix)
    });
    [
        text(Some(prompt.text())),
        text(prompt.plan()),
        text(prompt.reason()),
        codes,
    ]
    .iter()
    .flat_map(|hash| hash.to_le_bytes())
    .fold(FNV, mix)
}

const FNV: u64 = 0xCBF2_9CE4_8422_2325;

const fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01B3)
}

#[cfg(test)]
mod tests;
