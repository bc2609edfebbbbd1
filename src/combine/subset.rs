//! Some views of a question, moved together for a judge that is asked about them alone.

use alloc::vec::Vec;

use crate::codes::Code;
use crate::error::{self, Result};
use crate::image::ImageBatch;
use crate::reward::{Ask, RewardModel, Verdict, ViewKey};

/// Room for `n` more elements, or an error.
pub(super) fn room<T>(rows: &mut Vec<T>, n: usize) -> Result<()> {
    error::room("combined judge", rows, n)
}

/// Some rows of a question, moved together.
#[derive(Debug)]
pub(super) struct Subset {
    pub(super) rows: Vec<usize>,
    keys: Vec<ViewKey>,
    pixels: Vec<u8>,
    codes: Vec<Code>,
    hidden: Vec<f32>,
    verdicts: Vec<Verdict>,
}

impl Subset {
    pub(super) const fn new() -> Self {
        Self {
            rows: Vec::new(),
            keys: Vec::new(),
            pixels: Vec::new(),
            codes: Vec::new(),
            hidden: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Forgets all rows, and makes room for those of a question, so that the next one of its size allocates nothing.
    pub(super) fn begin(&mut self, ask: &Ask<'_>) -> Result<()> {
        let n = ask.keys.len();
        self.rows.clear();
        self.keys.clear();
        self.pixels.clear();
        self.codes.clear();
        self.hidden.clear();
        self.verdicts.clear();
        room(&mut self.rows, n)?;
        room(&mut self.keys, n)?;
        room(&mut self.verdicts, n)?;
        let bytes = |pixels: ImageBatch<'_>| pixels.size().len_bytes().saturating_mul(n);
        room(&mut self.pixels, ask.pixels.map_or(0, bytes))?;
        room(&mut self.codes, ask.codes.map_or(0, <[Code]>::len))?;
        room(&mut self.hidden, ask.hidden.map_or(0, <[f32]>::len))
    }

    /// A row of the question that all was made ready for.
    pub(super) fn add(&mut self, ask: &Ask<'_>, row: usize) {
        let n = ask.keys.len();
        self.rows.push(row);
        self.keys.push(ask.keys[row]);
        if let Some(picture) = ask.pixels.and_then(|pixels| pixels.picture(row)) {
            self.pixels.extend_from_slice(picture);
        }
        if let Some(codes) = ask
            .codes
            .and_then(|codes| codes.chunks_exact((codes.len() / n).max(1)).nth(row))
        {
            self.codes.extend_from_slice(codes);
        }
        if let Some(hidden) = ask
            .hidden
            .and_then(|rows| rows.chunks_exact((rows.len() / n).max(1)).nth(row))
        {
            self.hidden.extend_from_slice(hidden);
        }
    }

    /// Has a judge answer for these rows and writes the answers where they belong.
    pub(super) fn judge<R: RewardModel>(
        &mut self,
        all: &Ask<'_>,
        judge: &mut R,
        out: &mut [Verdict],
    ) -> Result<()> {
        let n = self.rows.len();
        if n == 0 {
            return Ok(());
        }
        let mut ask = Ask::new(all.judgement, all.prompt, &self.keys);
        if let Some(pixels) = all.pixels {
            ask.pixels = Some(ImageBatch::new(n, pixels.size(), &self.pixels)?);
        }
        ask.codes = all.codes.map(|_| self.codes.as_slice());
        ask.hidden = all.hidden.map(|_| self.hidden.as_slice());
        self.verdicts.clear();
        self.verdicts.resize(n, Verdict::malformed());
        judge.judge(&ask, &mut self.verdicts)?;
        for (&row, &verdict) in self.rows.iter().zip(&self.verdicts) {
            out[row] = verdict;
        }
        Ok(())
    }
}
