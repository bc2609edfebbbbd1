//! A generator without a model.

use alloc::vec::Vec;

use crate::codes::{Code, CodeGrid, UNKNOWN};
use crate::error::{Error, Result, covers};
use crate::generator::{CandidateId, Generator, Needs, Partial, Spent, Views};
use crate::image::ImageSize;
use crate::prompt::Prompt;
use crate::rng::{Purpose, block, open_unit};

/// What was asked of a [`ScriptedGenerator`], counted in candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Calls {
    /// Calls of all methods that change something or observe, failed ones included.
    pub calls: u64,
    /// Candidates started, resumed or forked.
    pub candidates: u64,
    /// Steps taken.
    pub steps: u64,
    /// Batches stepped.
    pub step_batches: u64,
    /// Pictures decoded to pixels.
    pub decodes: u64,
    /// Candidates pruned.
    pub pruned: u64,
}

/// Multiply-adds of a start, of a step by those taken before it, and of a picture.
#[derive(Debug, Clone, Copy)]
struct Costs {
    start: u64,
    step: fn(u32) -> u64,
    decode: u64,
}

#[derive(Debug, Clone, Default)]
struct State {
    id: CandidateId,
    seed: u64,
    prompt: u64,
    taken: u32,
    settled: Vec<Code>,
    prediction: Vec<Code>,
    anneal: bool,
}

impl State {
    /// Becomes a copy of another one, in its own memory.
    fn copy(&mut self, from: &Self) {
        (self.prompt, self.taken, self.anneal) = (from.prompt, from.taken, from.anneal);
        self.settled.clone_from(&from.settled);
        self.prediction.clone_from(&from.prediction);
    }
}

/// Draws pseudo-pictures: code after code from seed, step, place, prompt and the codes before it.
///
/// It holds its callers strictly to the contract and can be told to fail. Memory of pruned candidates is used again, so that
/// it allocates nothing where it had as many before.
///
/// ```
/// use maquette::testing::ScriptedGenerator;
/// use maquette::{CandidateId, Generator, Prompt};
///
/// let mut generator = ScriptedGenerator::new(3).with_capacity(2);
/// let mut ids = [CandidateId::default(); 2];
/// generator.start(&Prompt::new("a cup"), &[1, 2], &mut ids)?;
/// generator.step(&ids)?;
/// assert_eq!((generator.alive(), generator.calls().steps), (2, 2));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ScriptedGenerator {
    steps: u32,
    grid: CodeGrid,
    hidden_width: usize,
    capacity: usize,
    fail_at: Option<u64>,
    costs: Option<Costs>,
    spent: Spent,
    next: u64,
    /// Those alive, in the order of their ids.
    states: Vec<State>,
    /// Those pruned.
    spare: Vec<State>,
    calls: Calls,
}

impl ScriptedGenerator {
    /// A generator of so many steps over 4 × 4 codes below 16, with room for 64 candidates.
    #[must_use]
    pub const fn new(steps: u32) -> Self {
        Self {
            steps,
            grid: CodeGrid::new(4, 4, 16),
            hidden_width: 2,
            capacity: 64,
            fail_at: None,
            costs: Some(Costs {
                start: 0,
                step: |_| 1,
                decode: 1,
            }),
            spent: Spent::new(0, 0),
            next: 0,
            states: Vec::new(),
            spare: Vec::new(),
            calls: Calls {
                calls: 0,
                candidates: 0,
                steps: 0,
                step_batches: 0,
                decodes: 0,
                pruned: 0,
            },
        }
    }

    /// Another grid.
    #[must_use]
    pub const fn with_grid(mut self, grid: CodeGrid) -> Self {
        self.grid = grid;
        self
    }

    /// Room for so many candidates.
    #[must_use]
    pub const fn with_capacity(mut self, candidates: usize) -> Self {
        self.capacity = candidates;
        self
    }

    /// Fails at this call, counted from 0 as in [`Calls::calls`], and at no other.
    #[must_use]
    pub const fn failing_at(mut self, call: u64) -> Self {
        self.fail_at = Some(call);
        self
    }

    /// Multiply-adds that it claims to make: a candidate's start or resumption, its steps by how many it has taken before,
    /// and each picture. Otherwise they are 0, 1 and 1.
    #[must_use]
    pub const fn with_costs(mut self, start: u64, step: fn(u32) -> u64, decode: u64) -> Self {
        self.costs = Some(Costs {
            start,
            step,
            decode,
        });
        self
    }

    /// Does not say what it computes.
    #[must_use]
    pub const fn uncounted(mut self) -> Self {
        self.costs = None;
        self
    }

    /// Candidates that are alive.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.states.len()
    }

    /// What was asked so far.
    #[must_use]
    pub const fn calls(&self) -> Calls {
        self.calls
    }

    /// Settled codes of a candidate, if it is alive.
    #[must_use]
    pub fn codes(&self, id: CandidateId) -> Option<&[Code]> {
        let state = self.state("codes", id).ok()?;
        Some(&state.settled)
    }

    fn count_call(&mut self) -> Result<()> {
        let call = self.calls.calls;
        self.calls.calls += 1;
        if self.fail_at == Some(call) {
            return Err(Error::foreign("the scripted generator was told to fail"));
        }
        Ok(())
    }

    fn at(&self, op: &'static str, id: CandidateId) -> Result<usize> {
        self.states
            .binary_search_by_key(&id, |state| state.id)
            .map_err(|_| Error::UnknownCandidate { op, id: id.0 })
    }

    fn state(&self, op: &'static str, id: CandidateId) -> Result<&State> {
        self.at(op, id).map(|at| &self.states[at])
    }

    fn check(&self, op: &'static str, ids: &[CandidateId]) -> Result<()> {
        for (i, &id) in ids.iter().enumerate() {
            self.state(op, id)?;
            if ids[..i].contains(&id) {
                return Err(Error::RepeatedCandidate { op, id: id.0 });
            }
        }
        Ok(())
    }

    fn admit(
        &mut self,
        op: &'static str,
        seeds: &[u64],
        out: &mut [CandidateId],
        fill: impl Fn(&[State], &mut State),
    ) -> Result<()> {
        covers(op, "out", out.len(), seeds.len())?;
        if seeds.len() > self.capacity - self.states.len() {
            return Err(Error::Full {
                what: op,
                limit: self.capacity,
            });
        }
        for (&seed, out) in seeds.iter().zip(out) {
            *out = CandidateId(self.next);
            self.next += 1;
            let mut state = self.spare.pop().unwrap_or_default();
            fill(&self.states, &mut state);
            (state.id, state.seed) = (*out, seed);
            self.states.push(state);
        }
        self.calls.candidates += seeds.len() as u64;
        if op != "fork" {
            let n = seeds.len() as u64;
            self.spend(|costs| Spent::new(costs.start.saturating_mul(n), 0));
        }
        Ok(())
    }

    fn spend(&mut self, what: impl FnOnce(&Costs) -> Spent) {
        let more = self.costs.as_ref().map(what).unwrap_or_default();
        self.spent.drawing = self.spent.drawing.saturating_add(more.drawing);
        self.spent.decoding = self.spent.decoding.saturating_add(more.decoding);
    }

    fn advance(&mut self, at: usize) {
        let (places, steps) = (self.grid.len(), self.steps.max(1) as usize);
        let state = &mut self.states[at];
        let step = state.taken;
        let (from, to) = (
            places * step as usize / steps,
            places * (step as usize + 1) / steps,
        );
        let noise = if state.anneal { 0 } else { 7 };
        let mut before = if from == 0 {
            0
        } else {
            state.settled[from - 1]
        };
        for place in 0..places {
            // What a correction forgot is drawn with the next step.
            if place < from && state.settled[place] != UNKNOWN {
                continue;
            }
            let bits = block(
                state.seed ^ state.prompt,
                Purpose::Draw,
                step,
                slot(place),
                noise,
            )[0];
            let code = (bits >> 8).wrapping_add(before.wrapping_mul(5)) % self.grid.codebook.max(1);
            state.prediction[place] = code;
            if place < to {
                state.settled[place] = code;
            }
            if (from..to).contains(&place) {
                before = code;
            }
        }
        state.prediction[..to].copy_from_slice(&state.settled[..to]);
        state.taken += 1;
    }
}

fn slot(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

fn digest(prompt: &Prompt<'_>) -> u64 {
    let words = prompt.text().bytes().map(u64::from);
    // What was corrected, and why, and the plan; a prompt that has none of these is its text.
    let codes = prompt
        .previous()
        .unwrap_or_default()
        .iter()
        .map(|&code| u64::from(code));
    let reason = prompt.reason().unwrap_or_default().bytes().map(u64::from);
    // Set apart by what is no byte, so that the same words as a reason are another prompt.
    let plan = prompt.plan().into_iter();
    let plan = plan.flat_map(|plan| core::iter::once(256).chain(plan.bytes().map(u64::from)));
    words
        .chain(codes)
        .chain(reason)
        .chain(plan)
        .fold(0, |sum: u64, part| sum.wrapping_mul(257).wrapping_add(part))
}

impl Generator for ScriptedGenerator {
    fn steps(&self) -> u32 {
        self.steps
    }

    fn grid(&self) -> CodeGrid {
        self.grid
    }

    fn image_size(&self) -> ImageSize {
        ImageSize::new(self.grid.rows, self.grid.cols)
    }

    fn hidden_width(&self) -> usize {
        self.hidden_width
    }

    fn multiply_adds(&self) -> Option<Spent> {
        self.costs.map(|_| self.spent)
    }

    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        self.count_call()?;
        let places = self.grid.len();
        self.admit("start", seeds, out, |_, state| {
            (state.prompt, state.taken, state.anneal) = (digest(prompt), 0, true);
            for (list, value) in [(&mut state.settled, UNKNOWN), (&mut state.prediction, 0)] {
                list.clear();
                list.resize(places, value);
            }
        })
    }

    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        self.count_call()?;
        covers("resume", "codes", from.codes.len(), self.grid.len())?;
        if from.step > self.steps {
            let (got, max) = (u64::from(from.step), u64::from(self.steps));
            return Err(Error::Range {
                op: "resume",
                arg: "step",
                got,
                min: 0,
                max,
            });
        }
        let codes = &from.codes[..self.grid.len()];
        self.admit("resume", seeds, out, |_, state| {
            (state.prompt, state.taken, state.anneal) = (digest(prompt), from.step, from.anneal);
            let known = |&code: &Code| if code == UNKNOWN { 0 } else { code };
            state.settled.clear();
            state.settled.extend_from_slice(codes);
            state.prediction.clear();
            state.prediction.extend(codes.iter().map(known));
        })
    }

    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
        let state = self.state("save", id)?;
        covers("save", "codes", codes.len(), state.settled.len())?;
        let codes = &mut codes[..state.settled.len()];
        codes.copy_from_slice(&state.settled);
        Ok(Partial::new(state.taken, codes).with_anneal(state.anneal))
    }

    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        self.count_call()?;
        let at = self.at("fork", parent)?;
        self.admit("fork", seeds, out, |states, state| state.copy(&states[at]))
    }

    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.count_call()?;
        self.check("step", ids)?;
        for &id in ids {
            if self.state("step", id)?.taken >= self.steps {
                return Err(Error::Finished {
                    id: id.0,
                    steps: self.steps,
                });
            }
        }
        for &id in ids {
            let taken = self.state("step", id)?.taken;
            self.spend(|costs| Spent::new((costs.step)(taken), 0));
            self.advance(self.at("step", id)?);
        }
        self.calls.steps += ids.len() as u64;
        self.calls.step_batches += 1;
        Ok(())
    }

    fn taken(&self, id: CandidateId) -> Result<u32> {
        self.state("taken", id).map(|state| state.taken)
    }

    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        self.count_call()?;
        self.check("observe", ids)?;
        for &id in ids {
            if self.state("observe", id)?.taken == 0 {
                return Err(Error::Range {
                    op: "observe",
                    arg: "step",
                    got: 0,
                    min: 1,
                    max: u64::from(self.steps),
                });
            }
        }
        let (places, bytes) = (self.grid.len(), self.image_size().len_bytes());
        let width = places * self.hidden_width;
        let n = ids.len();
        let held = |held: Option<usize>| held.unwrap_or(0);
        let views = [
            (
                needs.pixels,
                "pixels",
                held(out.pixels.as_ref().map(|view| view.len())),
                n * bytes,
            ),
            (
                needs.codes,
                "codes",
                held(out.codes.as_ref().map(|view| view.len())),
                n * places,
            ),
            (
                needs.hidden,
                "hidden",
                held(out.hidden.as_ref().map(|view| view.len())),
                n * width,
            ),
        ];
        for (wanted, arg, got, want) in views {
            if wanted {
                covers("observe", arg, got, want)?;
            }
        }

        for (i, &id) in ids.iter().enumerate() {
            let codes = &self.state("observe", id)?.prediction;
            if let (true, Some(out)) = (needs.pixels, out.pixels.as_deref_mut()) {
                for (pixel, &code) in out[i * bytes..(i + 1) * bytes]
                    .chunks_exact_mut(3)
                    .zip(codes)
                {
                    let [low, high, ..] = code.to_le_bytes();
                    pixel.copy_from_slice(&[low, high, low ^ 0x55]);
                }
            }
            if let (true, Some(out)) = (needs.codes, out.codes.as_deref_mut()) {
                out[i * places..(i + 1) * places].copy_from_slice(codes);
            }
            if let (true, Some(out)) = (needs.hidden, out.hidden.as_deref_mut()) {
                let rows =
                    out[i * width..(i + 1) * width].chunks_exact_mut(self.hidden_width.max(1));
                for (row, &code) in rows.zip(codes) {
                    row.fill(open_unit(code.wrapping_mul(0x9E37_79B9)));
                }
            }
        }
        let decodes = if needs.pixels { n as u64 } else { 0 };
        self.calls.decodes += decodes;
        self.spend(|costs| Spent::new(0, costs.decode.saturating_mul(decodes)));
        Ok(())
    }

    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.count_call()?;
        self.check("prune", ids)?;
        for &id in ids {
            let state = self.states.remove(self.at("prune", id)?);
            self.spare.push(state);
        }
        self.calls.pruned += ids.len() as u64;
        Ok(())
    }
}
