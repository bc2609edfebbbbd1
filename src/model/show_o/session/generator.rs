//! The session as a [`Generator`].

use super::{Rows, ShowOSession};
use crate::codes::{Code, CodeGrid};
use crate::error::{Error, Result, covers};
use crate::generator::{CandidateId, Generator, Needs, Partial, Spent, Views};
use crate::image::ImageSize;
use crate::model::session::multiply_adds;
use crate::ops::Backend;
use crate::prompt::{Prompt, Tokenize};

impl<B: Backend, T: Tokenize> Generator for ShowOSession<B, T> {
    fn steps(&self) -> u32 {
        self.options.steps
    }

    #[expect(clippy::cast_possible_truncation, reason = "check bounds the sizes")]
    fn grid(&self) -> CodeGrid {
        let c = self.model.config();
        CodeGrid::new(c.side() as u32, c.side() as u32, c.codebook_size as u32)
    }

    #[expect(clippy::cast_possible_truncation, reason = "check bounds the sizes")]
    fn image_size(&self) -> ImageSize {
        let scale = self.pixels.as_ref().map_or(0, |(p, _)| p.config().scale());
        let side = self.model.config().side() * scale;
        ImageSize::new(side as u32, side as u32)
    }

    fn hidden_width(&self) -> usize {
        if self.options.hidden {
            self.model.config().hidden_size
        } else {
            0
        }
    }

    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        self.start_text(prompt, None, seeds, out)
    }

    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        self.start_text(prompt, Some(from), seeds, out)
    }

    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
        let c = &self.candidates[self.at("save", id)?];
        covers("save", "codes", codes.len(), c.codes.len())?;
        let codes = &mut codes[..c.codes.len()];
        codes.copy_from_slice(&c.codes);
        Ok(Partial::new(c.step, codes).with_anneal(c.anneal))
    }

    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        covers("fork", "out", out.len(), seeds.len())?;
        let from = self.at("fork", parent)?;
        let limit = self.candidates.len();
        let mut free = core::mem::take(&mut self.host.batch);
        free.clear();
        let places = (0..limit).filter(|&at| self.candidates[at].id.is_none());
        free.extend(places.take(seeds.len()));
        let result = if free.len() == seeds.len() {
            self.fork_into(from, &free, seeds, out)
        } else {
            Err(Error::Full {
                what: "candidates of a session",
                limit,
            })
        };
        self.host.batch = free;
        result
    }

    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.with_batch("step", ids, |session, batch| {
            let finished = |at: &&usize| session.candidates[**at].step >= session.options.steps;
            if let Some(&at) = batch.iter().find(finished) {
                let id = session.candidates[at].id.map_or(0, |id| id.0);
                return Err(Error::Finished {
                    id,
                    steps: session.options.steps,
                });
            }
            // Blank candidates first: they share their prompt's step-0 logits.
            let mut order = core::mem::take(&mut session.host.order);
            order.clear();
            order.extend(batch.iter().filter(|at| session.candidates[**at].blank));
            let blank = order.len();
            order.extend(batch.iter().filter(|at| !session.candidates[**at].blank));
            let result = session.step_all(order.split_at(blank));
            session.host.order = order;
            result
        })
    }

    fn taken(&self, id: CandidateId) -> Result<u32> {
        Ok(self.candidates[self.at("taken", id)?].step)
    }

    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        self.with_batch("observe", ids, |session, batch| {
            session.show(batch, needs, out)
        })
    }

    fn multiply_adds(&self) -> Option<Spent> {
        self.model.backend.multiply_adds().map(|_| self.spent)
    }

    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.with_batch("prune", ids, |session, batch| {
            for &at in batch {
                session.candidates[at].id = None;
                let prompt = session.candidates[at].prompt;
                session.prompts.entry(prompt).users -= 1;
            }
            Ok(())
        })
    }
}

impl<B: Backend, T: Tokenize> ShowOSession<B, T> {
    /// Copies a candidate to free places.
    fn fork_into(
        &mut self,
        from: usize,
        free: &[usize],
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        // What can fail comes first, while nobody is alive.
        if let Some(side) = self.candidates[from].hidden {
            for &to in free {
                self.copy_hidden([from, to], side)?;
            }
        }
        for ((&to, &seed), out) in free.iter().zip(seeds).zip(out) {
            if let Ok([parent, child]) = self.candidates.get_disjoint_mut([from, to]) {
                *out = CandidateId(self.next);
                self.next += 1;
                (child.id, child.seed) = (Some(*out), seed);
                (child.prompt, child.step) = (parent.prompt, parent.step);
                (child.anneal, child.blank) = (parent.anneal, parent.blank);
                child.hidden = parent.hidden;
                child.codes.copy_from_slice(&parent.codes);
                child.predicted.copy_from_slice(&parent.predicted);
                self.prompts.entry(parent.prompt).users += 1;
            }
        }
        Ok(())
    }

    /// One step of candidates that have nothing yet, and of others.
    fn step_all(&mut self, (blank, rest): (&[usize], &[usize])) -> Result<()> {
        let n = self.model.config.num_vq_tokens;
        let len = n * self.model.config.codebook_size;
        let mut staged = 0;
        for chunk in blank.chunks(self.options.batch) {
            for &at in chunk {
                self.compute_first(self.candidates[at].prompt)?;
            }
            for (i, &at) in chunk.iter().enumerate() {
                let m = &mut self.memory;
                let first = &m.first[self.candidates[at].prompt];
                self.model
                    .backend
                    .copy(first, 0, &mut m.logits, i * len, len)?;
                self.keep_first(at)?;
            }
            self.settle(chunk, staged, chunk.len() * n)?;
            staged += chunk.len();
        }
        for chunk in rest.chunks(self.options.batch) {
            let rows = self.drawing(|session| session.predict(Rows::Of(chunk), false))?;
            self.keep_hidden(chunk)?;
            self.settle(chunk, staged, rows)?;
            staged += chunk.len();
        }
        // Nothing has moved until here; nothing can fail from here on.
        for (&at, (state, predicted)) in blank.iter().chain(rest).zip(&self.host.staged) {
            let c = &mut self.candidates[at];
            c.codes.copy_from_slice(state);
            c.predicted.copy_from_slice(predicted);
            (c.step, c.blank) = (c.step + 1, false);
            c.hidden = self.options.hidden.then(|| c.next_hidden());
        }
        Ok(())
    }

    fn show(&mut self, batch: &[usize], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        if batch.iter().any(|&at| self.candidates[at].step == 0) {
            return Err(Error::Unsupported {
                what: "observing a candidate before its first step",
            });
        }
        let (n, side) = (self.model.config.num_vq_tokens, self.model.config.side());
        if needs.codes {
            let codes = out.codes.as_deref_mut().unwrap_or_default();
            covers("observe", "codes", codes.len(), batch.len() * n)?;
            for (codes, &at) in codes.chunks_exact_mut(n).zip(batch) {
                codes.copy_from_slice(&self.candidates[at].predicted);
            }
        }
        if needs.hidden {
            self.show_hidden(batch, out.hidden.as_deref_mut().unwrap_or_default())?;
        }
        if needs.pixels {
            let bytes = self.image_size().len_bytes();
            let Some((decoder, scratch)) = &mut self.pixels else {
                return Err(Error::Unsupported {
                    what: "showing pixels without an image tokenizer",
                });
            };
            let pixels = out.pixels.as_deref_mut().unwrap_or_default();
            covers("observe", "pixels", pixels.len(), batch.len() * bytes)?;
            let codes = &mut self.host.seen;
            codes.clear();
            for &at in batch {
                codes.extend_from_slice(&self.candidates[at].predicted);
            }
            let pixels = &mut pixels[..batch.len() * bytes];
            let before = decoder.backend().multiply_adds();
            let decoded = decoder.decode(scratch, batch.len(), [side, side], codes, pixels);
            self.spent.decoding += multiply_adds(&**decoder.backend(), before);
            decoded?;
        }
        Ok(())
    }
}
