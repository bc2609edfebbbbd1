//! What goes through the model: prefixes, drawn codes, and the draw itself.

use core::ops::Range;

use super::memory::{Memory, word};
use super::pages::{Target, pages_of};
use super::{PrefixReader, RasterModel, RasterSession};
use crate::error::{Error, Result};
use crate::model::transformer::Pass;
use crate::ops::Backend;
use crate::ops::attention::{AppendShape, PAGE_ROWS};
use crate::ops::sample::{Draw, DrawShape, FilterShape, GuideShape};
use crate::ops::vq::GatherShape;

/// How the logits of a candidate's next code come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// They are those of its prefix.
    Prefix,
    /// The last code is fed, to both halves.
    Guided,
    /// The last code is fed to the conditional half.
    Plain,
}

impl<B: Backend, M: RasterModel<B>, P: PrefixReader<B>> RasterSession<B, M, P> {
    /// The place of a prefix, computed if it is new.
    pub(super) fn prefix(&mut self, words: &[u32]) -> Result<usize> {
        if words.is_empty() {
            return Err(Error::Config {
                key: "prefix",
                problem: "is empty",
            });
        }
        if let Some(place) = self.prefixes.find(words) {
            return Ok(place);
        }
        let place = self.prefixes.free()?;
        let (model, m, h) = (&*self.model, &mut self.memory, &mut self.host);
        let (b, limit) = (&**model.backend(), model.prefix_limit());
        let len = self.reader.write(words, &mut m.x)?;
        if len == 0 || len > limit {
            return Err(Error::PromptTooLong {
                got: len,
                max: limit,
            });
        }
        let kept = self.layout.kept_row(place);
        let row = if self.layout.collapsed {
            self.layout.work_row()
        } else {
            kept
        };
        h.clear();
        h.positions
            .extend((0..len).map(|i| model.prefix_position(i)));
        h.places.extend((row..).take(len));
        b.write(&mut m.positions, 0, &h.positions)?;
        b.write(&mut m.places, 0, &h.places)?;
        b.write(&mut m.spans, 0, &[0, 0, row, word(len)])?;
        let pass = Pass {
            sequences: 1,
            queries: len,
            causal: true,
            positions: &m.positions,
            places: &m.places,
            spans: &m.spans,
            pages: 0,
        };
        let stack = model.stack();
        stack.forward(b, &pass, &mut m.x, &mut m.cache, &mut m.scratch)?;
        if self.layout.collapsed {
            stack.collapse(b, &mut m.cache, [row, word(len)], kept)?;
        }
        let (width, v) = (stack.config().width, model.codebook());
        b.write(&mut m.codes, 0, &[word(len - 1)])?;
        let s = GatherShape {
            rows: 1,
            width,
            table_rows: len,
        };
        b.gather(s, &m.codes, &m.x, &mut m.normed)?;
        model.normalise(1, &m.normed, &mut m.x)?;
        model.head(1, &m.x, &mut m.inner, &mut m.logits)?;
        b.copy(&m.x, 0, &mut m.last, place * width, width)?;
        b.copy(&m.logits, 0, &mut m.first, place * v, v)?;
        self.prefixes.fill(place, words, len)?;
        Ok(place)
    }

    /// How the code of a candidate comes about that stands `ahead` of those it has; none if the grid is full.
    fn source(&self, at: usize, ahead: usize) -> Option<Source> {
        match self.candidates[at].drawn + ahead {
            place if place >= self.layout.cells => None,
            0 => Some(Source::Prefix),
            place if self.options.guides(place) => Some(Source::Guided),
            _ => Some(Source::Plain),
        }
    }

    /// Draws the codes of one step of some candidates, behind those they have: nothing else of them changes. The codes
    /// stay on the device until the last is drawn.
    pub(super) fn draw_step(&mut self, batch: &[usize]) -> Result<()> {
        let mut group = core::mem::take(&mut self.host.group);
        self.host.owners.clear();
        let result = (0..self.layout.per_step).try_for_each(|ahead| {
            for source in [Source::Prefix, Source::Guided, Source::Plain] {
                group.clear();
                let with = |at: &&usize| self.source(**at, ahead) == Some(source);
                group.extend(batch.iter().filter(with));
                if !group.is_empty() {
                    self.predict(&group, ahead, source)?;
                    self.guide(group.len(), source)?;
                    self.draw(&group, ahead)?;
                }
            }
            Ok(())
        });
        self.host.group = group;
        result?;
        let (m, h) = (&self.memory, &mut self.host);
        h.drawn.clear();
        h.drawn.resize(h.owners.len(), 0);
        self.model.backend().read(&m.step, 0, &mut h.drawn)?;
        for (&(at, ahead), &code) in h.owners.iter().zip(&h.drawn) {
            let c = &mut self.candidates[at];
            c.codes[c.drawn + ahead] = code;
        }
        Ok(())
    }

    /// Puts the last codes of some candidates where the model reads them, from place `to` on: those of earlier steps
    /// the host has told already.
    fn feed(&mut self, group: &[usize], ahead: usize, to: usize) -> Result<()> {
        if ahead == 0 {
            return Ok(());
        }
        let (m, h) = (&mut self.memory, &self.host);
        let b = &**self.model.backend();
        let place = |at: usize| h.owners.iter().rposition(|&(owner, _)| owner == at);
        let mut done = 0;
        while let Some(from) = group.get(done).and_then(|&at| place(at)) {
            // Candidates that stay together stand side by side.
            let together = group[done..].iter().zip(&h.owners[from..]);
            let len = together.take_while(|(at, owner)| **at == owner.0).count();
            b.copy(&m.step, from, &mut m.codes, to + done, len)?;
            done += len;
        }
        Ok(())
    }

    pub(super) fn source_of_next(&self, at: usize, ahead: usize) -> Result<Source> {
        self.source(at, ahead).ok_or(Error::Finished {
            id: self.candidates[at].id.map_or(0, |id| id.0),
            steps: self.layout.steps(),
        })
    }

    /// Sequences of a candidate whose logits come from `source`.
    pub(super) fn sequences(&self, source: Source) -> usize {
        match source {
            Source::Plain => 1,
            _ => self.layout.halves,
        }
    }

    /// Leaves the logits of each candidate's next code in `memory.logits`: conditional rows, then unconditional ones.
    pub(super) fn predict(&mut self, group: &[usize], ahead: usize, source: Source) -> Result<()> {
        let halves = self.sequences(source);
        if source == Source::Prefix {
            return self.predict_first(group, halves);
        }
        let (model, m, h) = (&*self.model, &mut self.memory, &mut self.host);
        let b = &**model.backend();
        h.clear();
        for half in 0..halves {
            for &at in group {
                let c = &self.candidates[at];
                let place = c.drawn + ahead - 1;
                let prefix = c.prefix[half];
                let len = self.prefixes.get(prefix).len;
                let pages = self.pages.of(self.layout.sequence(at, half));
                h.codes.push(c.codes[place]);
                h.positions.push(model.position(len, place));
                h.places.push(self.layout.own_row(pages, place));
                let span = self.layout.span([prefix, len], pages, place + 1);
                h.spans.extend(span);
            }
        }
        let rows = halves * group.len();
        b.write(&mut m.codes, 0, &h.codes)?;
        b.write(&mut m.positions, 0, &h.positions)?;
        b.write(&mut m.places, 0, &h.places)?;
        b.write(&mut m.spans, 0, &h.spans)?;
        for half in 0..halves {
            self.feed(group, ahead, half * group.len())?;
        }
        let (model, m, h) = (&*self.model, &mut self.memory, &mut self.host);
        let b = &**model.backend();
        let Memory {
            cache,
            scratch,
            passes,
            x,
            normed,
            inner,
            logits,
            codes,
            positions,
            places,
            spans,
            ..
        } = m;
        let pass = Pass {
            sequences: rows,
            queries: 1,
            causal: false,
            positions,
            places,
            spans,
            pages: self.layout.most_pages(),
        };
        // What changes from code to code lies in the buffers.
        b.repeat(passes, [rows, 0], &mut || {
            model.embed(rows, codes, inner, x)?;
            model.stack().forward(b, &pass, x, cache, scratch)?;
            model.normalise(rows, x, normed)?;
            model.head(rows, normed, inner, logits)
        })?;
        if self.options.hidden {
            let places = group
                .iter()
                .map(|&at| (at, self.candidates[at].drawn + ahead));
            h.places.clear();
            h.places
                .extend(places.map(|(at, place)| word(at * self.layout.cells + place)));
            self.keep_hidden(group.len())?;
        }
        Ok(())
    }

    fn predict_first(&mut self, group: &[usize], halves: usize) -> Result<()> {
        let (model, m) = (&*self.model, &mut self.memory);
        let (b, v) = (&**model.backend(), model.codebook());
        for half in 0..halves {
            for (i, &at) in group.iter().enumerate() {
                let from = self.candidates[at].prefix[half] * v;
                let to = (half * group.len() + i) * v;
                b.copy(&m.first, from, &mut m.logits, to, v)?;
            }
        }
        if let Some(hidden) = &mut m.hidden {
            let width = model.stack().config().width;
            for &at in group {
                let from = self.candidates[at].prefix[0] * width;
                b.copy(&m.last, from, hidden, at * self.layout.cells * width, width)?;
            }
        }
        Ok(())
    }

    /// Keeps the first rows of `memory.normed` at the places that `host.places` names.
    fn keep_hidden(&mut self, rows: usize) -> Result<()> {
        let (model, m) = (&*self.model, &mut self.memory);
        let (b, width) = (&**model.backend(), model.stack().config().width);
        if let Some(hidden) = &mut m.hidden {
            b.write(&mut m.places, 0, &self.host.places)?;
            let s = AppendShape {
                rows,
                heads: 1,
                head_dim: width,
                stride: width,
                offset: 0,
                cache_rows: self.candidates.len() * self.layout.cells,
            };
            b.append(s, &m.normed, &m.places, hidden)?;
        }
        Ok(())
    }

    pub(super) fn guide(&mut self, rows: usize, source: Source) -> Result<()> {
        if self.sequences(source) == 1 {
            return Ok(());
        }
        let s = GuideShape {
            rows,
            width: self.model.codebook(),
            scale: self.options.guidance_scale,
        };
        self.model.backend().guide(s, &mut self.memory.logits)
    }

    /// Temperature, top-k and top-p over the first rows of the logits.
    pub(super) fn filter(&mut self, rows: usize) -> Result<()> {
        let s = FilterShape {
            rows,
            width: self.model.codebook(),
            filter: self.options.filter,
        };
        let m = &mut self.memory;
        self.model.backend().filter(s, &mut m.logits, &mut m.order)
    }

    fn draw(&mut self, group: &[usize], ahead: usize) -> Result<()> {
        self.filter(group.len())?;
        let (m, h) = (&mut self.memory, &mut self.host);
        let b = &**self.model.backend();
        h.keys.clear();
        for &at in group {
            let c = &self.candidates[at];
            #[expect(clippy::cast_possible_truncation, reason = "the two halves of a seed")]
            let (low, high) = (c.seed as u32, (c.seed >> 32) as u32);
            // The place alone: how many codes a step has changes no draw.
            h.keys.extend([low, high, 0, word(c.drawn + ahead)]);
        }
        b.write(&mut m.keys, 0, &h.keys)?;
        let s = DrawShape {
            rows: group.len(),
            width: self.model.codebook(),
        };
        b.draw(
            s,
            &mut m.logits,
            &Draw::Keyed(&m.keys),
            &mut m.drawn,
            &mut m.p,
        )?;
        b.copy(&m.drawn, 0, &mut m.step, h.owners.len(), group.len())?;
        h.owners.extend(group.iter().map(|&at| (at, ahead)));
        Ok(())
    }

    /// Computes the rows of the codes that a candidate came with, all but the last: that one is fed by the next step.
    pub(super) fn prefill(&mut self, at: usize) -> Result<()> {
        let (drawn, rows) = (self.candidates[at].drawn, self.layout.rows);
        let fed = drawn.saturating_sub(1);
        // Guidance that has ended never begins again.
        let halves = if self.options.guides(drawn) { 2 } else { 1 };
        self.make_room(at, halves, 0..drawn)?;
        for half in 0..halves {
            for from in (0..fed).step_by(rows) {
                let len = rows.min(fed - from);
                let (model, m, h) = (&*self.model, &mut self.memory, &mut self.host);
                let b = &**model.backend();
                let c = &self.candidates[at];
                let prefix = c.prefix[half];
                let count = self.prefixes.get(prefix).len;
                let pages = self.pages.of(self.layout.sequence(at, half));
                h.clear();
                h.positions
                    .extend((from..from + len).map(|place| model.position(count, place)));
                let rows = from..from + len;
                h.places
                    .extend(rows.map(|row| self.layout.own_row(pages, row)));
                b.write(&mut m.codes, 0, &c.codes[from..from + len])?;
                b.write(&mut m.positions, 0, &h.positions)?;
                b.write(&mut m.places, 0, &h.places)?;
                let span = self.layout.span([prefix, count], pages, from + len);
                h.spans.extend(span);
                b.write(&mut m.spans, 0, &h.spans)?;
                model.embed(len, &m.codes, &mut m.inner, &mut m.x)?;
                let pass = Pass {
                    sequences: 1,
                    queries: len,
                    causal: true,
                    positions: &m.positions,
                    places: &m.places,
                    spans: &m.spans,
                    pages: self.layout.most_pages(),
                };
                let stack = model.stack();
                stack.forward(b, &pass, &mut m.x, &mut m.cache, &mut m.scratch)?;
                if half == 0 && self.options.hidden {
                    model.normalise(len, &m.x, &mut m.normed)?;
                    let first = word(at * self.layout.cells + from + 1);
                    h.places.clear();
                    h.places.extend((first..).take(len));
                    self.keep_hidden(len)?;
                }
            }
        }
        if self.options.hidden && self.candidates[at].drawn > 0 {
            self.predict_first(&[at], 1)?;
        }
        Ok(())
    }

    /// Makes the rows that a candidate's halves are fed while codes are drawn its own: new pages, and a copy of what lies
    /// in one that others go on in.
    pub(super) fn make_room(
        &mut self,
        at: usize,
        halves: usize,
        drawn: Range<usize>,
    ) -> Result<()> {
        for half in 0..halves {
            let rows = self.layout.fed(half, drawn.clone());
            let sequence = self.layout.sequence(at, half);
            for index in pages_of(&rows) {
                let target = self.pages.target(sequence, index);
                if target == Target::Own {
                    continue;
                }
                let next = self.pages.next()?;
                let filled = rows.start.saturating_sub(index * PAGE_ROWS);
                if let Target::Shared(page) = target
                    && filled > 0
                {
                    let rows = [page, next].map(|page| self.layout.page_row(page));
                    let (model, cache) = (&*self.model, &mut self.memory.cache);
                    let b = &**model.backend();
                    model.stack().copy_rows(b, cache, rows, filled)?;
                }
                self.pages.put(sequence, index)?;
            }
        }
        Ok(())
    }

    /// Lets a candidate go on from where another one is.
    pub(super) fn share_rows(&mut self, from: usize, to: usize) -> Result<()> {
        let drawn = 0..self.candidates[from].drawn;
        for half in 0..self.layout.halves {
            let rows = self.layout.fed(half, drawn.clone()).end;
            let [from, to] = [from, to].map(|at| self.layout.sequence(at, half));
            self.pages.share(from, to, rows);
        }
        let (model, m, layout) = (&*self.model, &mut self.memory, &self.layout);
        let b = &**model.backend();
        if let Some(hidden) = &mut m.hidden {
            let len = layout.cells * model.stack().config().width;
            b.copy(hidden, from * len, &mut m.moved, 0, len)?;
            b.copy(&m.moved, 0, hidden, to * len, len)?;
        }
        Ok(())
    }
}
