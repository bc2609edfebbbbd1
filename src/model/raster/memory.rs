//! What a session reserves at its start: nothing is allocated in a step.

use alloc::vec::Vec;
use core::ops::Range;

use super::{PrefixRows, RasterModel, RasterOptions};
use crate::codes::Code;
use crate::error::{Error, Result, product};
use crate::model::session::reserved;
use crate::model::transformer::{Cache, Scratch};
use crate::ops::Backend;
use crate::ops::attention::{PAGE_ROWS, SPAN_WORDS};
use crate::ops::sample::DRAW_WORDS;

const OP: &str = "session";

/// Where things lie in the cache: kept prefixes, a prefix at work, then pages of candidates' rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Codes of a grid.
    pub(super) cells: usize,
    /// Codes of a step.
    pub(super) per_step: usize,
    /// Sequences a candidate.
    pub(super) halves: usize,
    /// Places for prefixes.
    pub(super) prefixes: usize,
    /// Whether a prefix is kept as one row.
    pub(super) collapsed: bool,
    /// Rows that go through the model at once.
    pub(super) rows: usize,
    kept: usize,
    work: usize,
    /// Rows that a candidate feeds to each half at most.
    own: [usize; 2],
    /// Pages there are.
    pub(super) pages: usize,
}

impl Layout {
    pub(super) fn new<B: Backend>(model: &dyn RasterModel<B>, o: &RasterOptions) -> Result<Self> {
        let [rows, cols] = model.grid();
        let cells = product(OP, &[rows, cols])?;
        let limit = model.prefix_limit();
        if cells == 0 || limit == 0 {
            return Err(Error::Config {
                key: "grid",
                problem: "or the longest prefix is empty",
            });
        }
        let halves = o.halves();
        let collapsed = model.prefix_rows() == PrefixRows::Collapsed;
        // The last code is never fed, and guidance may end before.
        let own = (cells - 1).max(1);
        let guided = match (halves, o.guidance_interval) {
            (1, _) => 0,
            (_, None) => own,
            (_, Some(k)) => own.min((k as usize).saturating_add(1)),
        };
        let each = own.div_ceil(PAGE_ROWS) + guided.div_ceil(PAGE_ROWS);
        let most = product(OP, &[o.candidates, each])?;
        let pages = o.pages.unwrap_or(most);
        if pages < each {
            return Err(Error::Range {
                op: OP,
                arg: "pages",
                got: pages as u64,
                min: each as u64,
                // More candidates than this session's could use them.
                max: (each as u64) << 16,
            });
        }
        Ok(Self {
            cells,
            per_step: o.tokens_per_step.unwrap_or(cols).min(cells),
            halves,
            prefixes: product(OP, &[halves, o.prompts])?,
            collapsed,
            rows: product(OP, &[halves, o.batch])?.max(limit),
            kept: if collapsed { 1 } else { limit },
            work: if collapsed { limit } else { 0 },
            own: [own, guided],
            pages: pages.min(most),
        })
    }

    /// Rows of the cache.
    fn cache_rows(&self) -> Result<usize> {
        let own = product(OP, &[self.pages, PAGE_ROWS])?;
        let rows = product(OP, &[self.prefixes, self.kept])?
            .saturating_add(self.work)
            .saturating_add(own);
        if u32::try_from(rows).is_err() {
            return Err(Error::Overflow { op: OP });
        }
        Ok(rows)
    }

    /// First row of a kept prefix.
    pub(super) fn kept_row(&self, place: usize) -> u32 {
        word(place * self.kept)
    }

    /// First row of the prefix at work.
    pub(super) fn work_row(&self) -> u32 {
        word(self.prefixes * self.kept)
    }

    /// First row of a page.
    pub(super) fn page_row(&self, page: u32) -> u32 {
        word(self.prefixes * self.kept + self.work + page as usize * PAGE_ROWS)
    }

    /// A row of a sequence, by its number in the pages that it has.
    pub(super) fn own_row(&self, pages: &[u32], row: usize) -> u32 {
        self.page_row(pages[row / PAGE_ROWS]) + word(row % PAGE_ROWS)
    }

    /// What a sequence sees that has drawn rows behind a kept prefix, as [`attention`](crate::ops::attention::attention)
    /// reads it.
    pub(super) fn span(
        &self,
        prefix: [usize; 2],
        pages: &[u32],
        rows: usize,
    ) -> impl Iterator<Item = u32> {
        let [place, len] = prefix;
        let span = [self.kept_row(place), word(len), 0, word(rows)];
        let pages = pages.iter().map(|&page| self.page_row(page));
        // Of pages that it has not, nothing is seen.
        let pages = pages.chain(core::iter::repeat(0)).take(self.most_pages());
        span.into_iter().chain(pages)
    }

    /// Pages of a sequence at most.
    pub(super) fn most_pages(&self) -> usize {
        self.own[0].div_ceil(PAGE_ROWS)
    }

    /// Which of all sequences a candidate's half is.
    pub(super) fn sequence(&self, candidate: usize, half: usize) -> usize {
        candidate * self.halves + half
    }

    /// The rows that a half is fed while codes are drawn.
    pub(super) fn fed(&self, half: usize, drawn: Range<usize>) -> Range<usize> {
        let end = drawn.end.saturating_sub(1).min(self.own[half]);
        drawn.start.saturating_sub(1).min(end)..end
    }

    /// Codes drawn after a number of steps.
    pub(super) fn drawn(&self, step: u32) -> usize {
        (step as usize)
            .saturating_mul(self.per_step)
            .min(self.cells)
    }

    /// Steps from start to finished.
    pub(super) fn steps(&self) -> u32 {
        word(self.cells.div_ceil(self.per_step))
    }
}

/// A row number or count of a cache whose rows are fewer than 2^32.
#[expect(
    clippy::cast_possible_truncation,
    reason = "Layout::cache_rows bounds every row"
)]
pub(super) const fn word(n: usize) -> u32 {
    n as u32
}

/// Device memory.
#[derive(Debug)]
pub(super) struct Memory<B: Backend> {
    pub(super) cache: Cache<B>,
    pub(super) scratch: Scratch<B>,
    /// Passes of one code, by their rows.
    pub(super) passes: B::Records,
    /// Rows on their way.
    pub(super) x: B::Buffer<f32>,
    pub(super) normed: B::Buffer<f32>,
    /// Scratch of the model's own layers.
    pub(super) inner: B::Buffer<f32>,
    pub(super) logits: B::Buffer<f32>,
    /// First logits of each prefix, not guided yet.
    pub(super) first: B::Buffer<f32>,
    /// Normalised last rows of each prefix.
    pub(super) last: B::Buffer<f32>,
    /// Hidden rows of each candidate's places, if they are kept.
    pub(super) hidden: Option<B::Buffer<f32>>,
    /// Hidden rows on their way from one candidate to another.
    pub(super) moved: B::Buffer<f32>,
    pub(super) codes: B::Buffer<u32>,
    /// Codes of this step, in the order in which they were drawn.
    pub(super) step: B::Buffer<u32>,
    pub(super) positions: B::Buffer<u32>,
    pub(super) places: B::Buffer<u32>,
    pub(super) spans: B::Buffer<u32>,
    pub(super) order: B::Buffer<u32>,
    pub(super) keys: B::Buffer<u32>,
    pub(super) drawn: B::Buffer<u32>,
    pub(super) p: B::Buffer<f32>,
}

impl<B: Backend> Memory<B> {
    pub(super) fn new(
        model: &dyn RasterModel<B>,
        layout: &Layout,
        o: &RasterOptions,
    ) -> Result<Self> {
        let b = &**model.backend();
        let c = model.stack().config();
        let zeros = |sizes: &[usize]| b.zeros::<f32>(product(OP, sizes)?);
        let words = |sizes: &[usize]| b.zeros::<u32>(product(OP, sizes)?);
        let (v, rows) = (model.codebook(), layout.rows);
        let sequences = layout.halves * o.batch;
        let hidden = if o.hidden { layout.cells } else { 0 };
        let cache_rows = layout.cache_rows()?;
        Ok(Self {
            cache: model.stack().cache_as(b, cache_rows, o.kv)?,
            scratch: model.stack().scratch(b, rows)?,
            passes: B::Records::default(),
            x: zeros(&[rows, c.width])?,
            normed: zeros(&[rows, c.width])?,
            inner: zeros(&[rows, model.scratch()])?,
            logits: zeros(&[sequences, v])?,
            first: zeros(&[layout.prefixes, v])?,
            last: zeros(&[layout.prefixes, c.width])?,
            hidden: o
                .hidden
                .then(|| zeros(&[o.candidates, layout.cells, c.width]))
                .transpose()?,
            moved: zeros(&[hidden, c.width])?,
            codes: words(&[rows])?,
            step: words(&[o.batch, layout.per_step])?,
            positions: words(&[rows])?,
            places: words(&[rows])?,
            spans: words(&[sequences, SPAN_WORDS + layout.most_pages()])?,
            order: words(&[o.batch, v])?,
            keys: words(&[o.batch, DRAW_WORDS])?,
            drawn: words(&[o.batch])?,
            p: zeros(&[o.batch])?,
        })
    }
}

/// Host memory of a step: what the device is told and what it answers.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// The candidates of a call, and those of a batch that go together.
    pub(super) batch: Vec<usize>,
    pub(super) group: Vec<usize>,
    /// Places for new candidates.
    pub(super) free: Vec<usize>,
    pub(super) codes: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) places: Vec<u32>,
    pub(super) spans: Vec<u32>,
    pub(super) keys: Vec<u32>,
    /// Codes of this step as they are drawn, and whose each is: the candidate, and how far ahead of those it has.
    pub(super) drawn: Vec<u32>,
    pub(super) owners: Vec<(usize, usize)>,
    /// Codes on their way to the image tokenizer.
    pub(super) seen: Vec<Code>,
}

impl Host {
    pub(super) fn new(layout: &Layout, o: &RasterOptions) -> Result<Self> {
        let span = SPAN_WORDS + layout.most_pages();
        Ok(Self {
            batch: reserved(o.candidates)?,
            group: reserved(o.batch)?,
            free: reserved(o.candidates)?,
            codes: reserved(layout.rows)?,
            positions: reserved(layout.rows)?,
            places: reserved(layout.rows)?,
            spans: reserved(product(OP, &[layout.halves * o.batch, span])?)?,
            keys: reserved(o.batch * DRAW_WORDS)?,
            drawn: reserved(product(OP, &[o.batch, layout.per_step])?)?,
            owners: reserved(product(OP, &[o.batch, layout.per_step])?)?,
            seen: reserved(product(OP, &[o.candidates, layout.cells])?)?,
        })
    }

    /// Empties what the device is told.
    pub(super) fn clear(&mut self) {
        for list in [
            &mut self.codes,
            &mut self.positions,
            &mut self.places,
            &mut self.spans,
        ] {
            list.clear();
        }
    }
}
