//! Judges without a model.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::codes::Code;
use crate::error::{Error, Result};
use crate::generator::Needs;
use crate::reward::{Answer, Ask, Judgement, RewardModel, Verdict, ViewKey};
use crate::rng::{Purpose, open_unit, philox};
use crate::search::Cost;

type Costs = fn(Judgement, ViewKey) -> u64;
type Script = Box<dyn FnMut(Judgement, ViewKey, &[Code]) -> Verdict + Send>;

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

/// Fails unless everything that is needed is shown.
fn shown(needs: Needs, ask: &Ask<'_>) -> Result<()> {
    let n = ask.keys.len();
    let views = [
        (
            needs.pixels,
            "pixels",
            ask.pixels.map_or(0, |pixels| pixels.len()),
        ),
        (needs.codes, "codes", ask.codes.map_or(0, <[Code]>::len)),
        (needs.hidden, "hidden", ask.hidden.map_or(0, <[f32]>::len)),
    ];
    match views
        .into_iter()
        .find(|&(needed, _, got)| needed && got < n)
    {
        Some((_, arg, got)) => Err(Error::Length {
            op: "judge",
            arg,
            got,
            want: n,
        }),
        None => Ok(()),
    }
}

fn codes_of<'a>(ask: &Ask<'a>, row: usize) -> &'a [Code] {
    let codes = ask.codes.unwrap_or(&[]);
    codes
        .chunks_exact((codes.len() / ask.keys.len().max(1)).max(1))
        .nth(row)
        .unwrap_or(&[])
}

/// A judge that answers what a script says, and counts what it was asked.
///
/// ```
/// use maquette::reward::{Judgement, Verdict};
/// use maquette::testing::ScriptedReward;
///
/// let reward = ScriptedReward::new(|ask, key, _codes| match ask {
///     Judgement::Clarity if key.step < 3 => Verdict::new(0.1, 0.9),
///     _ => Verdict::new(0.9, 0.1),
/// });
/// assert_eq!(reward.asked(Judgement::Clarity), 0);
/// ```
pub struct ScriptedReward {
    script: Script,
    needs: [Needs; 4],
    fail_at: Option<u64>,
    costs: Option<Costs>,
    spent: u64,
    calls: u64,
    asked: Cost,
    open: Vec<ViewKey>,
}

impl fmt::Debug for ScriptedReward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedReward")
            .field("asked", &self.asked)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl ScriptedReward {
    /// Answers what the script says of question, view and codes; the codes are empty unless they are needed.
    #[must_use]
    pub fn new(
        script: impl FnMut(Judgement, ViewKey, &[Code]) -> Verdict + Send + 'static,
    ) -> Self {
        Self {
            script: Box::new(script),
            needs: [Needs::NOTHING; 4],
            fail_at: None,
            costs: Some(|_, _| 1),
            spent: 0,
            calls: 0,
            asked: Cost::default(),
            open: Vec::new(),
        }
    }

    /// Answers at random, the same for the same seed, question and view.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::new(move |judgement, key, _| {
            let [low, high] = words(seed);
            let [candidate, _] = words(key.candidate.0);
            let bits = philox(
                [low, high],
                [
                    candidate,
                    key.step,
                    place(judgement),
                    Purpose::Answer as u32,
                ],
            );
            let p_yes = open_unit(bits[0]);
            Verdict::new(p_yes, 1.0 - p_yes)
        })
    }

    /// Wants to see this for every question.
    #[must_use]
    pub const fn with_needs(mut self, needs: Needs) -> Self {
        self.needs = [needs; 4];
        self
    }

    /// Wants to see this for one question.
    #[must_use]
    pub const fn with_needs_for(mut self, judgement: Judgement, needs: Needs) -> Self {
        self.needs[place(judgement) as usize] = needs;
        self
    }

    /// Fails at this call of `judge`, counted from 0, and at no other.
    #[must_use]
    pub const fn failing_at(mut self, call: u64) -> Self {
        self.fail_at = Some(call);
        self
    }

    /// Multiply-adds that it claims to make for a question about a view; otherwise 1.
    #[must_use]
    pub const fn with_costs(mut self, costs: fn(Judgement, ViewKey) -> u64) -> Self {
        self.costs = Some(costs);
        self
    }

    /// Does not say what it computes.
    #[must_use]
    pub const fn uncounted(mut self) -> Self {
        self.costs = None;
        self
    }

    /// Questions of one kind that were answered.
    #[must_use]
    pub const fn asked(&self, judgement: Judgement) -> u64 {
        match judgement {
            Judgement::Outcome => self.asked.outcome,
            Judgement::Process => self.asked.process,
            Judgement::Clarity => self.asked.clarity,
            Judgement::Potential => self.asked.potential,
        }
    }

    /// Calls of `judge`, failed ones included.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// Views that were judged and not yet forgotten.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }
}

const fn place(judgement: Judgement) -> u32 {
    match judgement {
        Judgement::Outcome => 0,
        Judgement::Process => 1,
        Judgement::Clarity => 2,
        Judgement::Potential => 3,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
const fn words(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

impl RewardModel for ScriptedReward {
    fn needs(&self, ask: Judgement) -> Needs {
        self.needs[place(ask) as usize]
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let call = self.calls;
        self.calls += 1;
        if self.fail_at == Some(call) {
            return Err(Error::foreign("the scripted judge was told to fail"));
        }
        same_length(ask, out)?;
        shown(self.needs(ask.judgement), ask)?;
        for (row, (&key, out)) in ask.keys.iter().zip(out).enumerate() {
            *out = (self.script)(ask.judgement, key, codes_of(ask, row));
            if let Some(costs) = self.costs {
                self.spent = self.spent.saturating_add(costs(ask.judgement, key));
            }
            if !self.open.contains(&key) {
                self.open.push(key);
            }
        }
        self.asked.ask(ask.judgement, ask.keys.len() as u64);
        Ok(())
    }

    fn multiply_adds(&self) -> Option<u64> {
        self.costs.map(|_| self.spent)
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.open.retain(|key| !keys.contains(key));
    }
}

/// A judge that knows a hidden quality of the codes, so that a search that works must find better pictures.
///
/// ```
/// use maquette::testing::OracleReward;
/// let oracle = OracleReward::new(7);
/// assert!((0.0..=1.0).contains(&oracle.quality(&[3, 1, 4, 1])));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OracleReward {
    seed: u64,
    clear_from: u32,
    hopeful: f32,
}

impl OracleReward {
    /// The oracle of a seed: clear from the first step, potential from quality 0.5 on.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            clear_from: 1,
            hopeful: 0.5,
        }
    }

    /// Calls a view clear from this step on.
    #[must_use]
    pub const fn clear_from(mut self, step: u32) -> Self {
        self.clear_from = step;
        self
    }

    /// Sees potential from this quality on.
    #[must_use]
    pub const fn hopeful_from(mut self, quality: f32) -> Self {
        self.hopeful = quality;
        self
    }

    /// The hidden quality: the mean worth of the codes, each worth something in [0, 1] at its place.
    #[must_use]
    pub fn quality(&self, codes: &[Code]) -> f32 {
        let worth = |(place, &code): (usize, &Code)| {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            open_unit(philox(words(self.seed), [code, place, 0, Purpose::Answer as u32])[0])
        };
        codes.iter().enumerate().map(worth).sum::<f32>() / codes.len().max(1) as f32
    }
}

impl RewardModel for OracleReward {
    fn needs(&self, ask: Judgement) -> Needs {
        if ask == Judgement::Clarity {
            Needs::NOTHING
        } else {
            Needs::CODES
        }
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        same_length(ask, out)?;
        shown(self.needs(ask.judgement), ask)?;
        for (row, (key, out)) in ask.keys.iter().zip(out).enumerate() {
            let quality = self.quality(codes_of(ask, row));
            *out = match ask.judgement {
                Judgement::Clarity if key.step >= self.clear_from => Verdict::new(1.0, 0.0),
                Judgement::Clarity => Verdict::new(0.0, 1.0),
                Judgement::Potential => {
                    let answer = if quality >= self.hopeful {
                        Answer::Yes
                    } else {
                        Answer::No
                    };
                    Verdict::new(quality, 1.0 - quality).with_answer(answer)
                }
                Judgement::Outcome | Judgement::Process => Verdict::new(quality, 1.0 - quality),
            };
        }
        Ok(())
    }
}
