//! A generator that tells what it spent, and may end early.

use std::fmt::Write;
use std::time::Instant;

use maquette::generator::{Needs, Partial, Views};
use maquette::{CandidateId, Code, CodeGrid, Generator, ImageSize, Prompt, Result};

/// What a kind of work came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub calls: u32,
    /// Candidates or views, over all calls.
    pub items: u32,
    pub seconds: f64,
}

impl Spent {
    pub fn add(&mut self, items: usize, begin: Instant) {
        self.calls += 1;
        self.items += u32::try_from(items).unwrap_or(u32::MAX);
        self.seconds += begin.elapsed().as_secs_f64();
    }

    /// Seconds an item, if there was one.
    pub fn each(&self) -> Option<f64> {
        (self.items > 0).then(|| self.seconds / f64::from(self.items))
    }
}

/// A generator whose pictures count as finished after some steps.
pub struct Timed {
    inner: Box<dyn Generator>,
    limit: u32,
    pub start: Spent,
    pub steps: Vec<Spent>,
    pub decode: Spent,
}

impl Timed {
    pub fn new(inner: Box<dyn Generator>, limit: u32) -> Self {
        Self {
            inner,
            limit,
            start: Spent::default(),
            steps: Vec::new(),
            decode: Spent::default(),
        }
    }

    /// Forgets what was spent: for another search.
    pub fn begin(&mut self) {
        self.steps.clear();
        (self.start, self.decode) = (Spent::default(), Spent::default());
    }

    /// Steps of a whole picture.
    pub fn whole(&self) -> u32 {
        self.inner.steps()
    }

    /// Seconds that a candidate's step takes behind the first one, which may share work; else those of the first.
    pub fn later_step(&self) -> Option<f64> {
        let later = self.steps.iter().skip(1);
        let all = later.fold(Spent::default(), |all, step| Spent {
            calls: all.calls + 1,
            items: all.items + step.items,
            seconds: all.seconds + step.seconds,
        });
        all.each().or_else(|| self.steps.first()?.each())
    }
}

impl Generator for Timed {
    fn steps(&self) -> u32 {
        self.inner.steps().min(self.limit)
    }

    fn grid(&self) -> CodeGrid {
        self.inner.grid()
    }

    fn image_size(&self) -> ImageSize {
        self.inner.image_size()
    }

    fn hidden_width(&self) -> usize {
        self.inner.hidden_width()
    }

    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        let begin = Instant::now();
        self.inner.start(prompt, seeds, out)?;
        self.start.add(seeds.len(), begin);
        Ok(())
    }

    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        self.inner.resume(prompt, from, seeds, out)
    }

    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
        self.inner.save(id, codes)
    }

    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        self.inner.fork(parent, seeds, out)
    }

    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        let begin = Instant::now();
        self.inner.step(ids)?;
        let mut spent = Spent::default();
        spent.add(ids.len(), begin);
        self.steps.push(spent);
        Ok(())
    }

    fn taken(&self, id: CandidateId) -> Result<u32> {
        self.inner.taken(id)
    }

    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        let begin = Instant::now();
        self.inner.observe(ids, needs, out)?;
        self.decode.add(ids.len(), begin);
        Ok(())
    }

    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.inner.prune(ids)
    }

    fn plan(&mut self, prompt: &Prompt<'_>, seed: u64, out: &mut dyn Write) -> Result<()> {
        self.inner.plan(prompt, seed, out)
    }
}
