//! One step: predictions of the model, draws, and the choice of the places to mask again.

use super::{Memory, Rows, ShowOSession, guided};
use crate::codes::UNKNOWN;
use crate::error::Result;
use crate::model::session::multiply_adds;
use crate::model::show_o::options::TemperaturePolicy;
use crate::model::transformer::Pass;
use crate::ops::Backend;
use crate::ops::attention::SPAN_WORDS;
use crate::ops::sample::{Draw, DrawShape, GuideShape, Remask, cumulative_temperature, remask};
use crate::ops::vq::GatherShape;
use crate::prompt::Tokenize;
use crate::rng::{self, Purpose};

impl<B: Backend, T: Tokenize> ShowOSession<B, T> {
    pub(super) fn temperature(&self, step: u32, anneal: bool) -> f32 {
        let o = &self.options;
        match o.temperature_policy {
            _ if !anneal => 0.0,
            TemperaturePolicy::Linear => o.temperature * (1.0 - (step + 1) as f32 / o.steps as f32),
            _ => cumulative_temperature(o.temperature, step, o.steps),
        }
    }

    /// Counts what is computed for a picture.
    pub(super) fn drawing<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.model.backend.multiply_adds();
        let result = f(self);
        self.spent.drawing += multiply_adds(&*self.model.backend, before);
        result
    }

    /// Runs the model, leaving guided logits of the wanted rows in `memory.logits`; returns their number. `all` wants
    /// every place, else the masked ones.
    pub(super) fn predict(&mut self, batch: Rows<'_>, all: bool) -> Result<usize> {
        let c = &self.model.config;
        let (b, m, h) = (&*self.model.backend, &mut self.memory, &mut self.host);
        let (n, image) = (c.num_vq_tokens, c.image_rows());
        let count = match batch {
            Rows::Blank(_) => 1,
            Rows::Of(batch) => batch.len(),
        };
        let halves = if guided(&self.options) { 2 } else { 1 };
        for v in [
            &mut h.ids,
            &mut h.positions,
            &mut h.places,
            &mut h.spans,
            &mut h.index,
        ] {
            v.clear();
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rows of a cache of bounded length"
        )]
        let (offset, base, image_u32) = (
            c.image_offset() as u32,
            (c.text_rows() * (1 + self.options.prompts)) as u32,
            image as u32,
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "text rows are bounded by 2^16"
        )]
        let position = c.text_rows() as u32;
        for half in 0..halves {
            for i in 0..count {
                let (prompt, codes) = match batch {
                    Rows::Blank(prompt) => (prompt, &h.blank),
                    Rows::Of(batch) => {
                        let candidate = &self.candidates[batch[i]];
                        (candidate.prompt, &candidate.codes)
                    }
                };
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "as many sequences as fit the cache"
                )]
                let row = (h.spans.len() / SPAN_WORDS) as u32 * image_u32;
                h.ids.push(c.soi());
                for (place, &code) in (0_u32..).zip(codes) {
                    h.ids.push(if code == UNKNOWN {
                        c.mask()
                    } else {
                        offset + code
                    });
                    if all || code == UNKNOWN {
                        h.index.push(row + 1 + place);
                    }
                }
                h.ids.push(c.eoi());
                h.positions.extend((position..).take(image));
                h.places.extend((base + row..).take(image));
                let (start, len) = if half == 0 {
                    let entry = self.prompts.get(prompt);
                    (entry.row, entry.tokens.len())
                } else {
                    // t2i and the doubled frame of the empty prompt.
                    (0, 3)
                };
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "text rows are bounded by 2^16"
                )]
                h.spans.extend([start, len as u32, base + row, image_u32]);
            }
        }
        let (sequences, wanted) = (halves * count, h.index.len());
        b.write(&mut m.ids, 0, &h.ids)?;
        b.write(&mut m.positions, 0, &h.positions)?;
        b.write(&mut m.places, 0, &h.places)?;
        b.write(&mut m.spans, 0, &h.spans)?;
        b.write(&mut m.index, 0, &h.index)?;
        let Memory {
            cache,
            scratch,
            passes,
            x,
            ids,
            positions,
            places,
            spans,
            ..
        } = m;
        let pass = Pass {
            sequences,
            queries: image,
            causal: false,
            positions,
            places,
            spans,
            pages: 0,
        };
        // What changes from step to step lies in the buffers; how many places are still masked comes behind it.
        b.repeat(passes, [sequences, 0], &mut || {
            self.model.embed(sequences * image, ids, x)?;
            self.model.stack.forward(b, &pass, x, cache, scratch)
        })?;
        let s = GatherShape {
            rows: wanted,
            width: c.hidden_size,
            table_rows: sequences * image,
        };
        b.gather(s, &m.index, &m.x, &mut m.rows)?;
        self.model.normalise(wanted, &m.rows, &mut m.normed)?;
        self.model.head.apply(b, wanted, &m.normed, &mut m.logits)?;
        let rows = wanted / halves;
        if halves == 2 {
            let scale = self.options.guidance_scale;
            b.guide(
                GuideShape {
                    rows,
                    width: c.codebook_size,
                    scale,
                },
                &mut m.logits,
            )?;
        }
        debug_assert!(rows <= n * count);
        Ok(rows)
    }

    /// Makes sure that the shared step-0 logits of a prompt are in place.
    pub(super) fn compute_first(&mut self, prompt: usize) -> Result<()> {
        if self.prompts.get(prompt).first {
            return Ok(());
        }
        let n = self.model.config.num_vq_tokens;
        self.drawing(|session| session.predict(Rows::Blank(prompt), true))?;
        self.keep_first_of(prompt)?;
        let len = n * self.model.config.codebook_size;
        let m = &mut self.memory;
        self.model
            .backend
            .copy(&m.logits, 0, &mut m.first[prompt], 0, len)?;
        self.prompts.entry(prompt).first = true;
        Ok(())
    }

    /// Draws codes for the masked places of candidates whose logits lie in `memory.logits`, and stages their next state.
    pub(super) fn settle(
        &mut self,
        batch: &[usize],
        staged_from: usize,
        rows: usize,
    ) -> Result<()> {
        let c = &self.model.config;
        let (b, m, h) = (&*self.model.backend, &mut self.memory, &mut self.host);
        h.keys.clear();
        for &at in batch {
            let candidate = &self.candidates[at];
            #[expect(clippy::cast_possible_truncation, reason = "the two halves of a seed")]
            let (low, high) = (candidate.seed as u32, (candidate.seed >> 32) as u32);
            for (slot, _) in (0_u32..)
                .zip(&candidate.codes)
                .filter(|(_, c)| **c == UNKNOWN)
            {
                h.keys.extend([low, high, candidate.step, slot]);
            }
        }
        b.write(&mut m.keys, 0, &h.keys)?;
        let s = DrawShape {
            rows,
            width: c.codebook_size,
        };
        b.draw(
            s,
            &mut m.logits,
            &Draw::Keyed(&m.keys),
            &mut m.codes,
            &mut m.p,
        )?;
        let (codes, p) = (&mut h.codes[..rows], &mut h.p[..rows]);
        b.read_pair((&m.codes, codes), (&m.p, p))?;
        let mut drawn = 0;
        for (i, &at) in batch.iter().enumerate() {
            let unknown = self.candidates[at]
                .codes
                .iter()
                .filter(|&&c| c == UNKNOWN)
                .count();
            self.stage(at, staged_from + i, drawn)?;
            drawn += unknown;
        }
        Ok(())
    }

    /// Stages the next state of one candidate from the draws at `drawn`.
    fn stage(&mut self, at: usize, staged: usize, drawn: usize) -> Result<()> {
        let (step, anneal) = (self.candidates[at].step, self.candidates[at].anneal);
        let temperature = self.temperature(step, anneal);
        let (h, candidate) = (&mut self.host, &self.candidates[at]);
        let n = candidate.codes.len();
        let (state, predicted) = &mut h.staged[staged];
        let mut next = drawn;
        for ((slot, &code), (p, predicted)) in (0_u32..)
            .zip(&candidate.codes)
            .zip(h.sure.iter_mut().zip(&mut *predicted))
        {
            if code == UNKNOWN {
                (*predicted, *p) = (h.codes[next], h.p[next]);
                next += 1;
            } else {
                (*predicted, *p) = (code, -1.0);
            }
            let bits = rng::block(candidate.seed, Purpose::Confidence, step, slot, 0)[0];
            h.uniform[slot as usize] = rng::open_unit(bits);
        }
        state.copy_from_slice(predicted);
        if step + 1 == self.options.steps {
            return Ok(());
        }
        let masked = self
            .options
            .schedule
            .masked(n, next - drawn, step, self.options.steps);
        let r = Remask {
            p: &h.sure,
            uniform: &h.uniform,
            masked,
            temperature,
        };
        remask(&r, &mut h.confidence, &mut h.sorted, state)
    }
}
