//! What a partly drawn picture looks like.

use super::{PrefixReader, Preview, RasterModel, RasterSession};
use crate::codes::{Code, UNKNOWN};
use crate::error::{Error, Result, covers, product};
use crate::generator::Generator;
use crate::model::vq::Blank;
use crate::ops::Backend;

/// The byte of every channel where [`Preview::Grey`] paints.
const GREY: u8 = 127;

/// The codes seen of a grid whose first `drawn` codes are drawn: each place that has none takes the last one of its
/// column, or in the first row the last one drawn.
fn repeat_rows(cols: usize, drawn: usize, codes: &mut [Code]) {
    for place in drawn..codes.len() {
        let above = place.checked_sub(cols).filter(|_| drawn > place % cols);
        codes[place] = above
            .or(drawn.checked_sub(1))
            .map_or(UNKNOWN, |from| codes[from]);
    }
}

/// Paints every square of pixels whose code is not drawn.
fn paint(cols: usize, scale: usize, drawn: usize, pixels: &mut [u8]) {
    let row_bytes = cols * scale * 3;
    for (y, row) in pixels.chunks_exact_mut(row_bytes.max(1)).enumerate() {
        let known = drawn.saturating_sub(y / scale * cols).min(cols);
        row[known * scale * 3..].fill(GREY);
    }
}

impl<B: Backend, M: RasterModel<B>, P: PrefixReader<B>> RasterSession<B, M, P> {
    /// The codes seen of each candidate.
    pub(super) fn show_codes(&self, batch: &[usize], out: &mut [Code]) {
        let cols = self.model.grid()[1];
        let cells = self.layout.cells;
        for (out, &at) in out.chunks_exact_mut(cells).zip(batch) {
            let c = &self.candidates[at];
            out.copy_from_slice(&c.codes);
            match self.options.preview {
                Preview::RepeatRow | Preview::Grey => repeat_rows(cols, c.drawn, out),
                Preview::Mean | Preview::Zeros => out[c.drawn..].fill(UNKNOWN),
            }
        }
    }

    /// The pictures seen of each candidate.
    pub(super) fn show_pixels(&mut self, batch: &[usize], out: &mut [u8]) -> Result<()> {
        let bytes = self.image_size().len_bytes();
        covers(
            "observe",
            "pixels",
            out.len(),
            product("observe", &[batch.len(), bytes])?,
        )?;
        let mut codes = core::mem::take(&mut self.host.seen);
        codes.clear();
        codes.resize(batch.len() * self.layout.cells, 0);
        self.show_codes(batch, &mut codes);
        let result = self.decode(batch, &codes, out);
        self.host.seen = codes;
        result
    }

    fn decode(&mut self, batch: &[usize], codes: &[Code], out: &mut [u8]) -> Result<()> {
        let [rows, cols] = self.model.grid();
        let bytes = self.image_size().len_bytes();
        let Some((decoder, scratch)) = &mut self.pixels else {
            return Err(Error::Unsupported {
                what: "showing pixels without an image tokenizer",
            });
        };
        let blank = match self.options.preview {
            Preview::Mean => Blank::Mean,
            _ => Blank::Zeros,
        };
        let count = (batch.len(), [rows, cols]);
        decoder.decode(scratch, count, codes, blank, self.options.rounding, out)?;
        if self.options.preview == Preview::Grey {
            let scale = decoder.config().scale();
            for (pixels, &at) in out.chunks_exact_mut(bytes).zip(batch) {
                paint(cols, scale, self.candidates[at].drawn, pixels);
            }
        }
        Ok(())
    }

    /// The hidden rows of each candidate: zeros where no code is drawn.
    pub(super) fn show_hidden(&self, batch: &[usize], out: &mut [f32]) -> Result<()> {
        let Some(hidden) = &self.memory.hidden else {
            return Err(Error::Unsupported {
                what: "showing hidden rows that the session does not keep",
            });
        };
        let width = self.hidden_width();
        let len = product("observe", &[self.layout.cells, width])?;
        covers(
            "observe",
            "hidden",
            out.len(),
            product("observe", &[batch.len(), len])?,
        )?;
        for (out, &at) in out.chunks_exact_mut(len.max(1)).zip(batch) {
            let (known, rest) = out.split_at_mut(self.candidates[at].drawn * width);
            self.model.backend().read(hidden, at * len, known)?;
            rest.fill(0.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_the_last_code_of_its_column() {
        let mut codes = [1, 2, 3, 4, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN];
        repeat_rows(3, 4, &mut codes);
        assert_eq!(codes, [1, 2, 3, 4, 2, 3, 4, 2, 3]);
        let mut codes = [7, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN];
        repeat_rows(3, 1, &mut codes);
        assert_eq!(codes, [7; 6]);
        let mut codes = [UNKNOWN; 2];
        repeat_rows(2, 0, &mut codes);
        assert_eq!(codes, [UNKNOWN; 2]);
    }

    #[test]
    fn paint_leaves_what_is_drawn() {
        let mut pixels = [1; 2 * 2 * 3];
        paint(2, 1, 3, &mut pixels);
        assert_eq!(pixels, [1, 1, 1, 1, 1, 1, 1, 1, 1, GREY, GREY, GREY]);
        paint(1, 2, 0, &mut pixels);
        assert_eq!(pixels, [GREY; 12]);
    }
}
