//! The generator that takes no step twice.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use maquette::codes::{Code, CodeGrid};
use maquette::generator::{CandidateId, Needs, Partial, Views};
use maquette::image::ImageSize;
use maquette::{Error, Generator, Prompt, Result};

use super::{Digest, Memory, OwnPrompt, Step, digest};

/// Prompt, seed, steps taken, whether it is annealed, and codes.
type State<'a> = (Digest, u64, u32, bool, &'a [Code]);

#[derive(Debug, Clone)]
struct Candidate {
    prompt: Rc<OwnPrompt>,
    seed: u64,
    step: u32,
    anneal: bool,
    codes: Rc<[Code]>,
    /// The step that led here, unless it began here.
    last: Option<Digest>,
    /// The same candidate of the generator behind, as long as that one has taken the same steps.
    twin: Option<CandidateId>,
}

impl Candidate {
    fn state(&self) -> Digest {
        let state: State<'_> = (
            self.prompt.digest,
            self.seed,
            self.step,
            self.anneal,
            &self.codes,
        );
        digest(&state)
    }
}

/// A generator that takes no step twice. It does not count multiply-adds: they would be those of whoever came first.
pub struct Remembering {
    generator: Box<dyn Generator>,
    memory: Memory,
    alive: HashMap<CandidateId, Candidate>,
    next: u64,
}

impl fmt::Debug for Remembering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembering")
            .field("alive", &self.alive)
            .finish_non_exhaustive()
    }
}

impl Remembering {
    /// Before a generator that draws what the memory's other generators would.
    pub fn new(generator: Box<dyn Generator>, memory: &Memory) -> Self {
        Self {
            generator,
            memory: memory.clone(),
            alive: HashMap::new(),
            next: 0,
        }
    }

    fn find(&self, op: &'static str, id: CandidateId) -> Result<&Candidate> {
        let known = self.alive.get(&id);
        known.ok_or(Error::UnknownCandidate { op, id: id.0 })
    }

    fn check(&self, op: &'static str, ids: &[CandidateId]) -> Result<()> {
        for (i, id) in ids.iter().enumerate() {
            self.find(op, *id)?;
            if ids[..i].contains(id) {
                return Err(Error::RepeatedCandidate { op, id: id.0 });
            }
        }
        Ok(())
    }

    fn add(&mut self, candidate: Candidate) -> CandidateId {
        let id = CandidateId(self.next);
        self.next += 1;
        self.alive.insert(id, candidate);
        id
    }

    /// Takes in what the generator has just started.
    fn take_in(
        &mut self,
        prompt: &Prompt<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        let prompt = Rc::new(OwnPrompt::new(prompt));
        for (&seed, out) in seeds.iter().zip(out) {
            let mut codes = vec![0; self.generator.grid().len()];
            let state = self.generator.save(*out, &mut codes)?;
            let (step, anneal) = (state.step, state.anneal);
            *out = self.add(Candidate {
                prompt: Rc::clone(&prompt),
                seed,
                step,
                anneal,
                codes: codes.into(),
                last: None,
                twin: Some(*out),
            });
        }
        Ok(())
    }

    /// A twin for a state.
    fn twin(&mut self, prompt: &OwnPrompt, seed: u64, from: &Partial<'_>) -> Result<CandidateId> {
        let mut id = [CandidateId::default()];
        self.generator
            .resume(&prompt.lend(), from, &[seed], &mut id)?;
        Ok(id[0])
    }

    /// Has the generator take the steps that nobody took before.
    fn draw(&mut self, ids: &[CandidateId]) -> Result<()> {
        let (mut twins, mut new) = (Vec::new(), Vec::new());
        for id in ids {
            let candidate = self.find("step", *id)?.clone();
            if let Some(twin) = candidate.twin {
                twins.push(twin);
                continue;
            }
            let from = Partial::new(candidate.step, &candidate.codes).with_anneal(candidate.anneal);
            match self.twin(&candidate.prompt, candidate.seed, &from) {
                Ok(twin) => {
                    twins.push(twin);
                    new.push(twin);
                }
                Err(e) => {
                    self.generator.prune(&new)?;
                    return Err(e);
                }
            }
        }
        if let Err(e) = self.generator.step(&twins) {
            self.generator.prune(&new)?;
            return Err(e);
        }
        for (id, &twin) in ids.iter().zip(&twins) {
            let mut after = vec![0; self.generator.grid().len()];
            self.generator.save(twin, &mut after)?;
            let Some(candidate) = self.alive.get_mut(id) else {
                continue;
            };
            candidate.twin = Some(twin);
            let step = Step {
                prompt: Rc::clone(&candidate.prompt),
                seed: candidate.seed,
                before: Rc::clone(&candidate.codes),
                after: after.into(),
                pixels: None,
                codes: None,
                hidden: None,
            };
            let mut known = self.memory.0.borrow_mut();
            known.steps.entry(candidate.state()).or_insert(step);
        }
        Ok(())
    }

    /// Has the generator show what nobody saw before; a candidate without a twin takes its last step again.
    fn look(&mut self, ids: &[CandidateId], needs: Needs) -> Result<()> {
        let (mut twins, mut guests) = (Vec::new(), Vec::new());
        for id in ids {
            let candidate = self.find("observe", *id)?.clone();
            if let Some(twin) = candidate.twin {
                twins.push(twin);
                continue;
            }
            let (prompt, seed, before) = {
                let known = self.memory.0.borrow();
                let last = candidate.last.and_then(|last| known.steps.get(&last));
                let last = last.ok_or(Error::UnknownCandidate {
                    op: "observe",
                    id: id.0,
                })?;
                (Rc::clone(&last.prompt), last.seed, Rc::clone(&last.before))
            };
            let from = Partial::new(candidate.step - 1, &before).with_anneal(candidate.anneal);
            match self.twin(&prompt, seed, &from) {
                Ok(guest) => {
                    twins.push(guest);
                    guests.push(guest);
                }
                Err(e) => {
                    self.generator.prune(&guests)?;
                    return Err(e);
                }
            }
        }
        let shown = self.show(ids, &twins, &guests, needs);
        self.generator.prune(&guests)?;
        shown
    }

    fn show(
        &mut self,
        ids: &[CandidateId],
        twins: &[CandidateId],
        guests: &[CandidateId],
        needs: Needs,
    ) -> Result<()> {
        if !guests.is_empty() {
            self.generator.step(guests)?;
        }
        let sizes = self.sizes();
        let room = |wanted: bool, size: usize| if wanted { ids.len() * size } else { 0 };
        let mut pixels = vec![0; room(needs.pixels, sizes[0])];
        let mut codes = vec![0; room(needs.codes, sizes[1])];
        let mut hidden = vec![0.0; room(needs.hidden, sizes[2])];
        let mut views = Views::default();
        views.pixels = needs.pixels.then_some(&mut pixels[..]);
        views.codes = needs.codes.then_some(&mut codes[..]);
        views.hidden = needs.hidden.then_some(&mut hidden[..]);
        self.generator.observe(twins, needs, &mut views)?;
        let mut known = self.memory.0.borrow_mut();
        for (i, id) in ids.iter().enumerate() {
            let last = self.alive.get(id).and_then(|candidate| candidate.last);
            let Some(step) = last.and_then(|last| known.steps.get_mut(&last)) else {
                continue;
            };
            let part = |size: usize| i * size..(i + 1) * size;
            if needs.pixels {
                step.pixels = Some(pixels[part(sizes[0])].into());
            }
            if needs.codes {
                step.codes = Some(codes[part(sizes[1])].into());
            }
            if needs.hidden {
                step.hidden = Some(hidden[part(sizes[2])].into());
            }
        }
        Ok(())
    }

    /// Pixels, codes and hidden numbers of a view.
    fn sizes(&self) -> [usize; 3] {
        let places = self.generator.grid().len();
        [
            self.generator.image_size().len_bytes(),
            places,
            places * self.generator.hidden_width(),
        ]
    }
}

/// Copies a view to its place among others.
fn put<T: Copy>(out: &mut Option<&mut [T]>, at: usize, view: Option<&[T]>) {
    if let (Some(out), Some(view)) = (out, view) {
        out[at * view.len()..(at + 1) * view.len()].copy_from_slice(view);
    }
}

/// Fails unless a view that is wanted has its buffer.
fn fits<T>(needed: bool, arg: &'static str, out: Option<&[T]>, want: usize) -> Result<()> {
    let got = out.map_or(0, <[T]>::len);
    if needed && got < want {
        let op = "observe";
        return Err(Error::Length { op, arg, got, want });
    }
    Ok(())
}

impl Generator for Remembering {
    fn steps(&self) -> u32 {
        self.generator.steps()
    }

    fn grid(&self) -> CodeGrid {
        self.generator.grid()
    }

    fn image_size(&self) -> ImageSize {
        self.generator.image_size()
    }

    fn hidden_width(&self) -> usize {
        self.generator.hidden_width()
    }

    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        self.generator.start(prompt, seeds, out)?;
        self.take_in(prompt, seeds, out)
    }

    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        self.generator.resume(prompt, from, seeds, out)?;
        self.take_in(prompt, seeds, out)
    }

    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
        let candidate = self.find("save", id)?;
        let (got, want) = (codes.len(), candidate.codes.len());
        let Some(out) = codes.get_mut(..want) else {
            let (op, arg) = ("save", "codes");
            return Err(Error::Length { op, arg, got, want });
        };
        out.copy_from_slice(&candidate.codes);
        Ok(Partial::new(candidate.step, out).with_anneal(candidate.anneal))
    }

    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        let candidate = self.find("fork", parent)?.clone();
        let (op, arg, got, want) = ("fork", "out", out.len(), seeds.len());
        if got < want {
            return Err(Error::Length { op, arg, got, want });
        }
        // One that began here is seen as the generator behind has it.
        let twins = match (candidate.last, candidate.twin) {
            (None, Some(twin)) => {
                self.generator.fork(twin, seeds, out)?;
                out.iter().copied().map(Some).collect()
            }
            _ => vec![None; want],
        };
        for ((&seed, out), twin) in seeds.iter().zip(out).zip(twins) {
            *out = self.add(Candidate {
                seed,
                twin,
                ..candidate.clone()
            });
        }
        Ok(())
    }

    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.check("step", ids)?;
        let (mut states, mut new) = (Vec::new(), Vec::new());
        for &id in ids {
            let candidate = self.find("step", id)?;
            let steps = self.steps();
            if candidate.step >= steps {
                return Err(Error::Finished { id: id.0, steps });
            }
            let state = candidate.state();
            if !self.memory.0.borrow().steps.contains_key(&state) {
                new.push(id);
            }
            states.push(state);
        }
        if !new.is_empty() {
            self.draw(&new)?;
        }
        let mut left = Vec::new();
        let known = self.memory.0.borrow();
        for (id, state) in ids.iter().zip(states) {
            let (Some(candidate), Some(step)) = (self.alive.get_mut(id), known.steps.get(&state))
            else {
                continue;
            };
            candidate.codes = Rc::clone(&step.after);
            (candidate.step, candidate.last) = (candidate.step + 1, Some(state));
            if !new.contains(id) {
                left.extend(candidate.twin.take());
            }
        }
        self.generator.prune(&left)
    }

    fn taken(&self, id: CandidateId) -> Result<u32> {
        Ok(self.find("taken", id)?.step)
    }

    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        self.check("observe", ids)?;
        let [pixels, codes, hidden] = self.sizes().map(|size| size * ids.len());
        fits(needs.pixels, "pixels", out.pixels.as_deref(), pixels)?;
        fits(needs.codes, "codes", out.codes.as_deref(), codes)?;
        fits(needs.hidden, "hidden", out.hidden.as_deref(), hidden)?;
        // What began here has no step to remember a view of: the generator behind says what can be seen of it.
        if ids.iter().any(|id| self.alive[id].last.is_none()) {
            let twins = ids.iter().map(|id| {
                let twin = self.alive[id].twin;
                twin.ok_or(Error::Unsupported {
                    what: "observing candidates that began here beside others",
                })
            });
            let twins = twins.collect::<Result<Vec<_>>>()?;
            return self.generator.observe(&twins, needs, out);
        }
        let last = |id: &CandidateId| self.alive[id].last.unwrap_or_default();
        let unseen = |id: &&CandidateId| {
            let known = self.memory.0.borrow();
            !known.steps.get(&last(id)).is_some_and(|s| s.shows(needs))
        };
        let new: Vec<CandidateId> = ids.iter().filter(unseen).copied().collect();
        if !new.is_empty() {
            self.look(&new, needs)?;
        }
        let known = self.memory.0.borrow();
        for (at, id) in ids.iter().enumerate() {
            let last = self.alive[id].last.unwrap_or_default();
            let Some(step) = known.steps.get(&last) else {
                continue;
            };
            if needs.pixels {
                put(&mut out.pixels, at, step.pixels.as_deref());
            }
            if needs.codes {
                put(&mut out.codes, at, step.codes.as_deref());
            }
            if needs.hidden {
                put(&mut out.hidden, at, step.hidden.as_deref());
            }
        }
        Ok(())
    }

    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.check("prune", ids)?;
        let gone = ids.iter().filter_map(|id| self.alive.remove(id)?.twin);
        let gone: Vec<CandidateId> = gone.collect();
        self.generator.prune(&gone)
    }

    fn plan(&mut self, prompt: &Prompt<'_>, seed: u64, out: &mut dyn fmt::Write) -> Result<()> {
        self.generator.plan(prompt, seed, out)
    }
}
