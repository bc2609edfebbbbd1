//! Hidden rows of the last step: what the model knew when it drew, for judges that look at it instead of pixels.

use super::{Candidate, ShowOSession};
use crate::error::{Error, Result, covers, product};
use crate::ops::Backend;
use crate::ops::vq::GatherShape;
use crate::prompt::Tokenize;

impl Candidate {
    /// The place that its next step writes.
    pub(super) fn next_hidden(&self) -> usize {
        self.hidden.map_or(0, |side| 1 - side)
    }
}

impl<B: Backend, T: Tokenize> ShowOSession<B, T> {
    /// Elements of one candidate's hidden rows.
    fn hidden_len(&self) -> usize {
        let c = &self.model.config;
        c.num_vq_tokens * c.hidden_size
    }

    /// Leaves the hidden rows of the first `count` sequences of the latest pass in `memory.normed`.
    fn normalise_places(&mut self, count: usize) -> Result<()> {
        let c = &self.model.config;
        let (b, m, h) = (&*self.model.backend, &mut self.memory, &mut self.host);
        let (n, image) = (c.num_vq_tokens, c.image_rows());
        h.index.clear();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rows of a cache of bounded length"
        )]
        for sequence in 0..count {
            let first = (sequence * image + 1) as u32;
            h.index.extend((first..).take(n));
        }
        b.write(&mut m.index, 0, &h.index)?;
        let s = GatherShape {
            rows: count * n,
            width: c.hidden_size,
            table_rows: count * image,
        };
        b.gather(s, &m.index, &m.x, &mut m.rows)?;
        self.model.normalise(count * n, &m.rows, &mut m.normed)
    }

    /// Keeps the hidden rows of the latest pass, which was of these candidates.
    pub(super) fn keep_hidden(&mut self, batch: &[usize]) -> Result<()> {
        if self.memory.hidden.is_none() {
            return Ok(());
        }
        let len = self.hidden_len();
        self.normalise_places(batch.len())?;
        let m = &mut self.memory;
        if let Some(hidden) = &mut m.hidden {
            for (i, &at) in batch.iter().enumerate() {
                let place = 2 * at + self.candidates[at].next_hidden();
                let (from, to) = (i * len, place * len);
                self.model
                    .backend
                    .copy(&m.normed, from, &mut hidden.rows, to, len)?;
            }
        }
        Ok(())
    }

    /// Keeps the hidden rows of a prompt's step 0, which was the latest pass.
    pub(super) fn keep_first_of(&mut self, prompt: usize) -> Result<()> {
        if self.memory.hidden.is_none() {
            return Ok(());
        }
        let len = self.hidden_len();
        self.normalise_places(1)?;
        let m = &mut self.memory;
        match &mut m.hidden {
            Some(hidden) => {
                let (b, to) = (&self.model.backend, prompt * len);
                b.copy(&m.normed, 0, &mut hidden.first, to, len)
            }
            None => Ok(()),
        }
    }

    /// Keeps the hidden rows of step 0 for a candidate that takes it.
    pub(super) fn keep_first(&mut self, at: usize) -> Result<()> {
        let (len, candidate) = (self.hidden_len(), &self.candidates[at]);
        match &mut self.memory.hidden {
            Some(hidden) => {
                let (from, place) = (candidate.prompt * len, 2 * at + candidate.next_hidden());
                let b = &self.model.backend;
                b.copy(&hidden.first, from, &mut hidden.rows, place * len, len)
            }
            None => Ok(()),
        }
    }

    /// Copies the hidden rows of one candidate to another, on the same side.
    pub(super) fn copy_hidden(&mut self, [from, to]: [usize; 2], side: usize) -> Result<()> {
        let len = self.hidden_len();
        match &mut self.memory.hidden {
            Some(hidden) => {
                let (b, place) = (&self.model.backend, |at: usize| (2 * at + side) * len);
                b.copy(&hidden.rows, place(from), &mut hidden.moved, 0, len)?;
                b.copy(&hidden.moved, 0, &mut hidden.rows, place(to), len)
            }
            None => Ok(()),
        }
    }

    /// The hidden rows of each candidate's last step.
    pub(super) fn show_hidden(&self, batch: &[usize], out: &mut [f32]) -> Result<()> {
        let Some(hidden) = &self.memory.hidden else {
            return Err(Error::Unsupported {
                what: "showing hidden rows that the session does not keep",
            });
        };
        let len = self.hidden_len();
        covers(
            "observe",
            "hidden",
            out.len(),
            product("observe", &[batch.len(), len])?,
        )?;
        if batch.iter().any(|&at| self.candidates[at].hidden.is_none()) {
            return Err(Error::Unsupported {
                what: "showing hidden rows of a candidate that took no step since it was resumed",
            });
        }
        for (out, &at) in out.chunks_exact_mut(len.max(1)).zip(batch) {
            let side = self.candidates[at].hidden.unwrap_or_default();
            self.model
                .backend
                .read(&hidden.rows, (2 * at + side) * len, out)?;
        }
        Ok(())
    }
}
