//! The views that are open to a judge at one moment.

use alloc::vec::Vec;

use crate::codes::Code;
use crate::error::{self, Result, product};
use crate::generator::{CandidateId, Generator, Needs, Views};
use crate::image::{ImageBatch, ImageSize};
use crate::prompt::Prompt;
use crate::reward::{Ask, Judgement, ViewKey};

/// An empty vector with room for `n`.
pub(super) fn reserved<T>(n: usize) -> Result<Vec<T>> {
    error::reserved("search", n)
}

/// Buffers for one batch of views, and what they hold now.
pub(super) struct Gallery {
    size: ImageSize,
    places: usize,
    width: usize,
    keys: Vec<ViewKey>,
    ids: Vec<CandidateId>,
    pixels: Vec<u8>,
    codes: Vec<Code>,
    hidden: Vec<f32>,
    have: Needs,
}

impl Gallery {
    /// Reserves room for `n` views of which at most `needs` is ever asked.
    pub(super) fn reserve<G: Generator + ?Sized>(
        generator: &G,
        n: usize,
        needs: Needs,
    ) -> Result<Self> {
        let size = generator.image_size();
        let (places, width) = (generator.grid().len(), generator.hidden_width());
        let room = |wanted: bool, row: usize| {
            if wanted {
                product("search", &[n, row])
            } else {
                Ok(0)
            }
        };
        let hidden_row = product("search", &[places, width])?;
        Ok(Self {
            size,
            places,
            width,
            keys: reserved(n)?,
            ids: reserved(n)?,
            pixels: reserved(room(needs.pixels, size.len_bytes())?)?,
            codes: reserved(room(needs.codes, places)?)?,
            hidden: reserved(room(needs.hidden, hidden_row)?)?,
            have: Needs::NOTHING,
        })
    }

    /// Names the views of the next questions; nothing of them has been observed.
    pub(super) fn open(&mut self, views: impl Iterator<Item = (CandidateId, u32)>) {
        self.keys.clear();
        self.keys
            .extend(views.map(|(candidate, step)| ViewKey { candidate, step }));
        self.have = Needs::NOTHING;
    }

    pub(super) fn keys(&self) -> &[ViewKey] {
        &self.keys
    }

    /// Observes what is needed and not there yet; returns what that was.
    pub(super) fn observe<G: Generator + ?Sized>(
        &mut self,
        generator: &mut G,
        needs: Needs,
    ) -> Result<Needs> {
        let missing = Needs {
            pixels: needs.pixels && !self.have.pixels,
            codes: needs.codes && !self.have.codes,
            hidden: needs.hidden && !self.have.hidden,
        };
        if missing == Needs::NOTHING {
            return Ok(missing);
        }
        let n = self.keys.len();
        self.ids.clear();
        self.ids.extend(self.keys.iter().map(|key| key.candidate));
        let mut views = Views::default();
        if missing.pixels {
            self.pixels.resize(n * self.size.len_bytes(), 0);
            views.pixels = Some(&mut self.pixels);
        }
        if missing.codes {
            self.codes.resize(n * self.places, 0);
            views.codes = Some(&mut self.codes);
        }
        if missing.hidden {
            self.hidden.resize(n * self.places * self.width, 0.0);
            views.hidden = Some(&mut self.hidden);
        }
        generator.observe(&self.ids, missing, &mut views)?;
        self.have = self.have.or(missing);
        Ok(missing)
    }

    /// Closes the views that are not kept and moves the others together.
    pub(super) fn narrow(&mut self, mut keep: impl FnMut(ViewKey) -> bool) {
        let hidden_row = self.places * self.width;
        let mut to = 0;
        for from in 0..self.keys.len() {
            if !keep(self.keys[from]) {
                continue;
            }
            self.keys[to] = self.keys[from];
            move_row(
                &mut self.pixels,
                self.have.pixels,
                self.size.len_bytes(),
                from,
                to,
            );
            move_row(&mut self.codes, self.have.codes, self.places, from, to);
            move_row(&mut self.hidden, self.have.hidden, hidden_row, from, to);
            to += 1;
        }
        self.keys.truncate(to);
    }

    pub(super) fn pixels(&self) -> Result<Option<ImageBatch<'_>>> {
        if !self.have.pixels {
            return Ok(None);
        }
        ImageBatch::new(self.keys.len(), self.size, &self.pixels).map(Some)
    }

    /// A question about the open views, with all that was observed of them.
    pub(super) fn question<'a>(
        &'a self,
        judgement: Judgement,
        prompt: &'a Prompt<'a>,
    ) -> Result<Ask<'a>> {
        let n = self.keys.len() * self.places;
        let mut ask = Ask::new(judgement, prompt, &self.keys);
        ask.pixels = self.pixels()?;
        ask.codes = self.have.codes.then(|| &self.codes[..n]);
        ask.hidden = self.have.hidden.then(|| &self.hidden[..n * self.width]);
        Ok(ask)
    }
}

fn move_row<T: Copy>(rows: &mut [T], held: bool, width: usize, from: usize, to: usize) {
    if held && from != to {
        rows.copy_within(from * width..(from + 1) * width, to * width);
    }
}
