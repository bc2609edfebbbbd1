//! A judge that is really asked, and whose verdicts are those of a script: random weights answer at random.

use std::time::Instant;

use clap::ValueEnum;
use maquette::generator::Needs;
use maquette::reward::{Ask, ViewKey};
use maquette::{Judgement, Result, RewardModel, Verdict};

use crate::timed::Spent;

/// What the verdicts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Script {
    /// The judge's own.
    None,
    /// Every other candidate is clear after the first step, the rest after the second; half of either has potential.
    Survive,
    /// Everyone is clear after the first step and nobody has potential.
    Fallback,
}

/// The questions, in the order of [`Scripted::spent`].
pub const QUESTIONS: [Judgement; 4] = [
    Judgement::Clarity,
    Judgement::Potential,
    Judgement::Outcome,
    Judgement::Process,
];

/// A judge that tells what it spent, under a script.
pub struct Scripted {
    inner: Box<dyn RewardModel>,
    script: Script,
    /// The first candidate that was shown.
    first: Option<u64>,
    /// Spent on each of [`QUESTIONS`].
    pub spent: [Spent; 4],
}

impl Scripted {
    pub fn new(inner: Box<dyn RewardModel>, script: Script) -> Self {
        Self {
            inner,
            script,
            first: None,
            spent: [Spent::default(); 4],
        }
    }

    /// Forgets what was spent, and who was the first: for another search.
    pub fn begin(&mut self) {
        (self.first, self.spent) = (None, [Spent::default(); 4]);
    }

    /// What a question came to.
    pub fn of(&self, judgement: Judgement) -> Spent {
        let place = QUESTIONS.iter().position(|j| *j == judgement);
        place.map_or(Spent::default(), |i| self.spent[i])
    }
}

/// What the script says of a view of the i-th candidate, if it says anything.
fn scripted(script: Script, judgement: Judgement, key: ViewKey, i: u64) -> Option<Verdict> {
    let survive = script == Script::Survive;
    let says = |yes: bool| {
        // All differ, so that the best of them is one and not the first of equals.
        #[expect(clippy::cast_precision_loss, reason = "a rank among few")]
        let sure = 0.9 - 0.3 / (i + 2) as f32;
        if yes {
            Verdict::new(sure, 1.0 - sure)
        } else {
            Verdict::new(1.0 - sure, sure)
        }
    };
    match (script, judgement) {
        (Script::None, _) => None,
        (_, Judgement::Clarity) => Some(says(!survive || key.step > 1 || i.is_multiple_of(2))),
        (_, Judgement::Potential) => Some(says(survive && i % 4 < 2)),
        _ => Some(says(true)),
    }
}

impl RewardModel for Scripted {
    fn needs(&self, ask: Judgement) -> Needs {
        self.inner.needs(ask)
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let begin = Instant::now();
        self.inner.judge(ask, out)?;
        if let Some(i) = QUESTIONS.iter().position(|j| *j == ask.judgement) {
            self.spent[i].add(ask.keys.len(), begin);
        }
        for (row, (verdict, &key)) in out.iter_mut().zip(ask.keys).enumerate() {
            verdict.check(row)?;
            // A search shows all its candidates, the first one first.
            let i = key
                .candidate
                .0
                .saturating_sub(*self.first.get_or_insert(key.candidate.0));
            *verdict = scripted(self.script, ask.judgement, key, i).unwrap_or(*verdict);
        }
        Ok(())
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.inner.forget(keys);
    }
}
