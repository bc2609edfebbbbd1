//! Candidates of a raster model.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::memory::{Host, Layout, Memory};
use super::pages::Pages;
use super::prefixes::Prefixes;
use super::{PrefixPair, PrefixReader, RasterModel, RasterOptions};
use crate::codes::{Code, CodeGrid, UNKNOWN};
use crate::error::{Error, Result, covers, product};
use crate::generator::{CandidateId, Generator, Needs, Partial, Spent, Views};
use crate::image::ImageSize;
use crate::model::session::{filled, multiply_adds, places, reserved};
use crate::model::vq::{Vq, VqScratch};
use crate::ops::Backend;
use crate::prompt::Prompt;

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: Option<CandidateId>,
    /// Its conditional and its unconditional prefix.
    pub(super) prefix: [usize; 2],
    pub(super) seed: u64,
    pub(super) step: u32,
    /// Codes drawn.
    pub(super) drawn: usize,
    /// Codes, of no meaning from `drawn` on.
    pub(super) codes: Vec<Code>,
}

/// Candidates over one model: a [`Generator`] whose step draws some codes of each candidate, one batched pass a code.
#[derive(Debug)]
pub struct RasterSession<B: Backend, M, P> {
    pub(super) model: Arc<M>,
    pub(super) pixels: Option<(Arc<Vq<B>>, VqScratch<B>)>,
    pub(super) reader: P,
    pub(super) options: RasterOptions,
    pub(super) layout: Layout,
    pub(super) prefixes: Prefixes,
    pub(super) pages: Pages,
    pub(super) candidates: Vec<Candidate>,
    next: u64,
    pub(super) memory: Memory<B>,
    pub(super) host: Host,
    spent: Spent,
}

impl<B: Backend, M: RasterModel<B>, P: PrefixReader<B>> RasterSession<B, M, P> {
    /// Reserves all memory of a session. Without `pixels`, the image tokenizer, candidates can be seen as codes alone.
    ///
    /// # Errors
    /// Settings out of range, an image tokenizer of another codebook, or no memory.
    pub fn new(
        model: Arc<M>,
        pixels: impl Into<Option<Arc<Vq<B>>>>,
        reader: P,
        options: RasterOptions,
    ) -> Result<Self> {
        options.check()?;
        let pixels: Option<Arc<Vq<B>>> = pixels.into();
        if pixels
            .as_ref()
            .is_some_and(|p| p.config().codebook_size != model.codebook())
        {
            return Err(Error::Config {
                key: "codebook_size",
                problem: "differs between generator and tokenizer",
            });
        }
        let layout = Layout::new(&*model, &options)?;
        let memory = Memory::new(&*model, &layout, &options)?;
        let scratch = |p: Arc<Vq<B>>| {
            let scratch = p.scratch_for(product("session", &[options.pictures, layout.cells])?)?;
            Ok::<_, Error>((p, scratch))
        };
        let mut candidates = reserved(options.candidates)?;
        for _ in 0..options.candidates {
            candidates.push(Candidate {
                id: None,
                prefix: [0; 2],
                seed: 0,
                step: 0,
                drawn: 0,
                codes: filled(layout.cells, UNKNOWN)?,
            });
        }
        Ok(Self {
            pixels: pixels.map(scratch).transpose()?,
            prefixes: Prefixes::new(layout.prefixes)?,
            pages: Pages::new(
                layout.pages,
                product("session", &[options.candidates, layout.halves])?,
                layout.most_pages(),
            )?,
            candidates,
            host: Host::new(&layout, &options)?,
            next: 0,
            model,
            reader,
            options,
            layout,
            memory,
            spent: Spent::default(),
        })
    }

    /// Settings of this session.
    #[must_use]
    pub const fn options(&self) -> &RasterOptions {
        &self.options
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Arc<M> {
        &self.model
    }

    /// As [`Generator::start`] and [`Generator::resume`], for prefixes that are known already.
    ///
    /// # Errors
    /// As those.
    pub fn start_prefixes(
        &mut self,
        prefixes: &PrefixPair,
        from: Option<&Partial<'_>>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        covers("start", "out", out.len(), seeds.len())?;
        if let Some(from) = from {
            self.check_partial(from)?;
        }
        self.with_free(seeds.len(), |session, free| {
            let conditional = session.drawing(|s| s.prefix(&prefixes.conditional))?;
            // Held meanwhile: nobody lives by it yet, and the other one would take the last place from it.
            session.prefixes.entry(conditional).users += 1;
            let unconditional = if session.layout.halves == 2 {
                session.drawing(|s| s.prefix(&prefixes.unconditional))
            } else {
                Ok(conditional)
            };
            session.prefixes.entry(conditional).users -= 1;
            let unconditional = unconditional?;
            for (i, (&at, &seed)) in free.iter().zip(seeds).enumerate() {
                let c = &mut session.candidates[at];
                c.prefix = [conditional, unconditional];
                (c.seed, c.step, c.drawn) = (seed, 0, 0);
                if let Some(from) = from {
                    (c.step, c.drawn) = (from.step, session.layout.drawn(from.step));
                    c.codes[..c.drawn].copy_from_slice(&from.codes[..c.drawn]);
                    if i == 0 {
                        session.drawing(|s| s.prefill(at))?;
                    } else {
                        session.share_rows(free[0], at)?;
                    }
                }
            }
            for (&at, out) in free.iter().zip(out) {
                *out = session.enliven(at);
            }
            Ok(())
        })
    }

    /// Calls `f`, and says how many multiply-adds that took.
    fn counted<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> (R, u64) {
        let before = self.model.backend().multiply_adds();
        let result = f(self);
        (result, multiply_adds(&**self.model.backend(), before))
    }

    /// Counts what is computed for a picture.
    pub(super) fn drawing<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        let (result, spent) = self.counted(f);
        self.spent.drawing += spent;
        result
    }

    /// Calls `f` with so many places without a candidate.
    fn with_free(
        &mut self,
        count: usize,
        f: impl FnOnce(&mut Self, &[usize]) -> Result<()>,
    ) -> Result<()> {
        let limit = self.candidates.len();
        let mut free = core::mem::take(&mut self.host.free);
        free.clear();
        let places = (0..limit).filter(|&at| self.candidates[at].id.is_none());
        free.extend(places.take(count));
        let result = if free.len() == count {
            f(self, &free).inspect_err(|_| self.release(&free))
        } else {
            Err(Error::Full {
                what: "candidates of a session",
                limit,
            })
        };
        self.host.free = free;
        result
    }

    /// Gives back the pages of some places.
    fn release(&mut self, places: &[usize]) {
        for &at in places {
            for half in 0..self.layout.halves {
                self.pages.release(self.layout.sequence(at, half));
            }
        }
    }

    /// Gives the candidate at a place its id: from here on it is alive.
    fn enliven(&mut self, at: usize) -> CandidateId {
        let id = CandidateId(self.next);
        self.next += 1;
        self.candidates[at].id = Some(id);
        for place in self.candidates[at].prefix {
            self.prefixes.entry(place).users += 1;
        }
        id
    }

    fn check_partial(&self, from: &Partial<'_>) -> Result<()> {
        let range = |arg, got: u32, max: u64| Error::Range {
            op: "resume",
            arg,
            got: u64::from(got),
            min: 0,
            max,
        };
        let cells = self.layout.cells;
        covers("resume", "codes", from.codes.len(), cells)?;
        covers("resume", "codes", cells, from.codes.len())?;
        if from.step > self.layout.steps() {
            return Err(range("step", from.step, u64::from(self.layout.steps())));
        }
        let (drawn, open) = from.codes.split_at(self.layout.drawn(from.step));
        let v = self.model.codebook();
        // Every step leaves one more piece of the grid drawn, and nothing behind it.
        if let Some(&code) = drawn.iter().find(|&&code| code as usize >= v) {
            return Err(range("codes", code, v as u64 - 1));
        }
        if open.iter().any(|&code| code != UNKNOWN) {
            return Err(Error::Config {
                key: "codes",
                problem: "go on behind the steps taken",
            });
        }
        Ok(())
    }

    pub(super) fn at(&self, op: &'static str, id: CandidateId) -> Result<usize> {
        self.candidates
            .iter()
            .position(|c| c.id == Some(id))
            .ok_or(Error::UnknownCandidate { op, id: id.0 })
    }

    /// Calls `f` with the places of a batch, each alive and named once.
    fn with_batch(
        &mut self,
        op: &'static str,
        ids: &[CandidateId],
        f: impl FnOnce(&mut Self, &[usize]) -> Result<()>,
    ) -> Result<()> {
        let mut batch = core::mem::take(&mut self.host.batch);
        let result =
            places(op, ids, |id| self.at(op, id), &mut batch).and_then(|()| f(self, &batch));
        self.host.batch = batch;
        result
    }
}

impl<B: Backend, M: RasterModel<B>, P: PrefixReader<B>> Generator for RasterSession<B, M, P> {
    fn steps(&self) -> u32 {
        self.layout.steps()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cache has a row for every code, fewer than 2^32"
    )]
    fn grid(&self) -> CodeGrid {
        let [rows, cols] = self.model.grid();
        CodeGrid::new(rows as u32, cols as u32, self.model.codebook() as u32)
    }

    #[expect(clippy::cast_possible_truncation, reason = "check bounds the sizes")]
    fn image_size(&self) -> ImageSize {
        let scale = self.pixels.as_ref().map_or(0, |(p, _)| p.config().scale());
        let [height, width] = self.model.grid().map(|n| (n * scale) as u32);
        ImageSize::new(height, width)
    }

    fn hidden_width(&self) -> usize {
        if self.options.hidden {
            self.model.stack().config().width
        } else {
            0
        }
    }

    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        let prefixes = self.reader.read(prompt)?;
        self.start_prefixes(&prefixes, None, seeds, out)
    }

    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        let prefixes = self.reader.read(prompt)?;
        self.start_prefixes(&prefixes, Some(from), seeds, out)
    }

    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
        let c = &self.candidates[self.at("save", id)?];
        covers("save", "codes", codes.len(), c.codes.len())?;
        let codes = &mut codes[..c.codes.len()];
        let (drawn, open) = codes.split_at_mut(c.drawn);
        drawn.copy_from_slice(&c.codes[..c.drawn]);
        open.fill(UNKNOWN);
        Ok(Partial::new(c.step, codes))
    }

    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        covers("fork", "out", out.len(), seeds.len())?;
        let from = self.at("fork", parent)?;
        self.with_free(seeds.len(), |session, free| {
            for (&at, &seed) in free.iter().zip(seeds) {
                session.share_rows(from, at)?;
                if let Ok([parent, child]) = session.candidates.get_disjoint_mut([from, at]) {
                    (child.prefix, child.seed) = (parent.prefix, seed);
                    (child.step, child.drawn) = (parent.step, parent.drawn);
                    child.codes.copy_from_slice(&parent.codes);
                }
            }
            for (&at, out) in free.iter().zip(out) {
                *out = session.enliven(at);
            }
            Ok(())
        })
    }

    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.with_batch("step", ids, |session, batch| {
            for &at in batch {
                session.source_of_next(at, 0)?;
            }
            for &at in batch {
                let c = &session.candidates[at];
                let drawn = c.drawn..session.layout.drawn(c.step + 1);
                session.make_room(at, session.layout.halves, drawn)?;
            }
            for chunk in batch.chunks(session.options.batch) {
                session.drawing(|s| s.draw_step(chunk))?;
            }
            // Nobody has moved until here; nothing can fail from here on.
            for &at in batch {
                let c = &mut session.candidates[at];
                c.step += 1;
                c.drawn = session.layout.drawn(c.step);
            }
            Ok(())
        })
    }

    fn taken(&self, id: CandidateId) -> Result<u32> {
        Ok(self.candidates[self.at("taken", id)?].step)
    }

    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        self.with_batch("observe", ids, |session, batch| {
            if batch.iter().any(|&at| session.candidates[at].step == 0) {
                return Err(Error::Unsupported {
                    what: "observing a candidate before its first step",
                });
            }
            if needs.codes {
                let codes = out.codes.as_deref_mut().unwrap_or_default();
                let want = batch.len() * session.layout.cells;
                covers("observe", "codes", codes.len(), want)?;
                session.show_codes(batch, codes);
            }
            if needs.hidden {
                session.show_hidden(batch, out.hidden.as_deref_mut().unwrap_or_default())?;
            }
            if needs.pixels {
                let pixels = out.pixels.as_deref_mut().unwrap_or_default();
                let made = session.counted(|s| s.show_pixels(batch, pixels));
                session.spent.decoding += made.1;
                made.0?;
            }
            Ok(())
        })
    }

    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.with_batch("prune", ids, |session, batch| {
            for &at in batch {
                session.candidates[at].id = None;
                for place in session.candidates[at].prefix {
                    session.prefixes.entry(place).users -= 1;
                }
            }
            session.release(batch);
            Ok(())
        })
    }

    fn multiply_adds(&self) -> Option<Spent> {
        self.model.backend().multiply_adds().map(|_| self.spent)
    }

    fn plan(&mut self, prompt: &Prompt<'_>, seed: u64, out: &mut dyn fmt::Write) -> Result<()> {
        self.drawing(|session| session.reader.plan(prompt, seed, out))
    }
}
