//! Attention of rows that share keys and values: one query of each of many candidates, as a step of a picture has it, or
//! all queries of a sequence. Keys are turned some at a time and never leave the first cache; what candidates share is
//! read once for all of them, then each one's own. Bound: the reading of both.

use core::ops::Range;

use super::exponentials;
use crate::cpu::simd::Lanes;
use crate::cpu::tiles::{ROWS, Tile};
use crate::ops::attention::{AttentionShape, PAGE_ROWS};

/// Keys that are turned at a time.
pub(super) const KEYS: usize = 32;

/// Scores of one run of rows, for which all else waits in the second cache.
const SCORES: usize = 1 << 16;

/// Keys and values as a cache keeps them. Rows are ranges of its rows, `head` is where a head begins in a row.
pub(super) trait Cached<V: Lanes>: Copy {
    /// Makes a query ready.
    fn query(self, q: &[f32], out: &mut [f32]);
    /// Turns up to [`KEYS`] keys.
    fn turn(self, s: &AttentionShape, rows: Range<usize>, head: usize, out: &mut [f32]);
    /// The scaled products of a query with [`KEYS`] turned keys; behind the last key they mean nothing.
    fn score(self, q: &[f32], turned: &[f32], scale: f32, out: &mut [f32]);
    /// What weights become before values are multiplied with them.
    fn weights(self, p: &mut [f32]);
    /// Adds rows times their weights.
    fn weigh(self, s: &AttentionShape, p: &[f32], rows: Range<usize>, head: usize, out: &mut [f32]);
}

/// Some rows, some of their heads.
pub(super) struct Few<'a, K> {
    pub(super) s: AttentionShape,
    pub(super) q: &'a [f32],
    pub(super) cached: K,
    pub(super) spans: &'a [u32],
    pub(super) scale: f32,
    /// Most rows of a run.
    pub(super) together: usize,
    /// Words of scratch: those of a query, of turned keys, and of a query's scores.
    pub(super) words: [usize; 3],
    pub(super) scratch: &'a mut [f32],
    pub(super) tile: Tile<'a>,
}

/// Words of a query's scores for so many keys: each of two ranges may be written past its end.
pub(super) const fn score_words(keys: usize) -> usize {
    keys.next_multiple_of(KEYS) + KEYS
}

/// Rows of a run whose heads share so many scores each.
pub(super) fn together(s: &AttentionShape, scores: usize) -> usize {
    let row = scores.saturating_mul(s.n_heads / s.n_kv_heads);
    (SCORES / row.max(1)).clamp(1, ROWS)
}

/// Rows that share what they see: first all of them the same, each the first so many of it, then each its own.
struct Run {
    rows: Range<usize>,
    shared: [Range<usize>; 2],
    own: bool,
}

impl Run {
    /// The rows that see something of their own, by their number in the run.
    fn owners(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let rows = if self.own { self.rows.clone() } else { 0..0 };
        rows.enumerate()
    }
}

/// Scratch of a run.
struct Pieces<'a> {
    queries: &'a mut [f32],
    turned: &'a mut [f32],
    /// Of every head of every row its scores, and in the last place what its sums are multiplied with.
    scores: &'a mut [f32],
}

impl<'a, K> Few<'a, K> {
    /// The same over what is known now for an instruction set.
    pub(super) fn with<L>(self, cached: L) -> Few<'a, L> {
        let Self {
            s, q, spans, scale, ..
        } = self;
        Few {
            s,
            q,
            cached,
            spans,
            scale,
            together: self.together,
            words: self.words,
            scratch: self.scratch,
            tile: self.tile,
        }
    }
}

// What is taken at a time lies in one page.
const _: () = assert!(PAGE_ROWS.is_multiple_of(KEYS), "keys of two pages");

impl<K> Few<'_, K> {
    fn span(&self, row: usize) -> &[u32] {
        self.s.span(self.spans, self.tile.row + row)
    }

    /// The cache rows of a part of what a row sees: of its prefix, or of its own rows.
    fn part(
        &self,
        row: usize,
        own: bool,
        range: &Range<usize>,
        [from, count]: [usize; 2],
    ) -> Range<usize> {
        let part = range.start + from..range.start + from + count;
        if own {
            self.s.own_rows(self.span(row), part)
        } else {
            part
        }
    }

    fn visible(&self, row: usize) -> [Range<usize>; 2] {
        let query = (self.tile.row + row) % self.s.queries;
        self.s.visible(self.span(row), query)
    }

    /// How many keys a row sees.
    fn seen(&self, row: usize) -> usize {
        let [prefix, own] = self.visible(row);
        prefix.len() + own.len()
    }

    /// The run that begins with a row.
    fn run(&self, first: usize) -> Run {
        let most = self.together.min(self.tile.len - first);
        if self.s.queries > 1 {
            // A tile lies in one sequence, and a causal query sees the beginning of what the last one sees.
            return Run {
                rows: first..first + most,
                shared: self.visible(first + most - 1),
                own: false,
            };
        }
        let [prefix, _] = self.visible(first);
        let same = |row: &usize| self.span(*row)[..2] == self.span(first)[..2];
        let rows = (first..first + most).take_while(same).count();
        Run {
            rows: first..first + rows,
            shared: [prefix, 0..0],
            own: true,
        }
    }

    #[inline(always)]
    pub(super) fn attend<V: Lanes>(mut self)
    where
        K: Cached<V>,
    {
        let (s, [query_words, key_words, words]) = (self.s, self.words);
        let group = s.n_heads / s.n_kv_heads;
        let scratch = core::mem::take(&mut self.scratch);
        let (queries, rest) = scratch.split_at_mut(self.together * group * query_words);
        let (turned, scores) = rest.split_at_mut(key_words);
        let scores = &mut scores[..self.together * group * words];
        let mut pieces = Pieces {
            queries,
            turned,
            scores,
        };
        let mut first = 0;
        while first < self.tile.len {
            let run = self.run(first);
            for column in (0..self.tile.columns()).step_by(group * s.head_dim) {
                let head = (self.tile.column + column) / (group * s.head_dim) * s.kv_head_stride;
                self.score::<V>(&run, column, head, &mut pieces);
                self.weigh::<V>(&run, column, head, &mut pieces);
            }
            first = run.rows.end;
        }
    }

    /// Scores of the heads of a run that share keys.
    #[inline(always)]
    fn score<V: Lanes>(&mut self, run: &Run, column: usize, head: usize, pieces: &mut Pieces<'_>)
    where
        K: Cached<V>,
    {
        let (s, k, d, scale) = (self.s, self.cached, self.s.head_dim, self.scale);
        let (group, [query_words, _, words]) = (s.n_heads / s.n_kv_heads, self.words);
        let row_words = group * query_words;
        for (r, out) in run
            .rows
            .clone()
            .zip(pieces.queries.chunks_exact_mut(row_words))
        {
            let at = (self.tile.row + r) * s.q_stride + s.q_offset + self.tile.column + column;
            for (q, out) in self.q[at..]
                .chunks_exact(d)
                .zip(out.chunks_exact_mut(query_words))
            {
                k.query(q, out);
            }
        }
        let mut shared = 0;
        for (range, own) in run.shared.iter().zip([false, true]) {
            for from in (0..range.len()).step_by(KEYS) {
                let count = KEYS.min(range.len() - from);
                let part = self.part(run.rows.start, own, range, [from, count]);
                k.turn(&s, part, head, pieces.turned);
                let queries = pieces.queries.chunks_exact(query_words);
                let scores = pieces.scores.chunks_exact_mut(words);
                for (q, scores) in queries.zip(scores).take(run.rows.len() * group) {
                    k.score(
                        q,
                        pieces.turned,
                        scale,
                        &mut scores[shared + from..][..KEYS],
                    );
                }
            }
            shared += range.len();
        }
        for (i, r) in run.owners() {
            let [_, range] = self.visible(r);
            for from in (0..range.len()).step_by(KEYS) {
                let count = KEYS.min(range.len() - from);
                let part = self.part(r, true, &range, [from, count]);
                k.turn(&s, part, head, pieces.turned);
                let queries = pieces.queries[i * row_words..].chunks_exact(query_words);
                let scores = pieces.scores[i * group * words..].chunks_exact_mut(words);
                for (q, scores) in queries.zip(scores).take(group) {
                    k.score(
                        q,
                        pieces.turned,
                        scale,
                        &mut scores[shared + from..][..KEYS],
                    );
                }
            }
        }
    }

    /// Scores to weights, and the weighted sums of values.
    #[inline(always)]
    fn weigh<V: Lanes>(&mut self, run: &Run, column: usize, head: usize, pieces: &mut Pieces<'_>)
    where
        K: Cached<V>,
    {
        let (s, k, d, words) = (self.s, self.cached, self.s.head_dim, self.words[2]);
        let group = s.n_heads / s.n_kv_heads;
        let rows = run.rows.clone();
        for (r, scores) in rows
            .clone()
            .zip(pieces.scores.chunks_exact_mut(group * words))
        {
            let (n, weight) = (self.seen(r), s.first_weight(self.span(r)));
            for scores in scores.chunks_exact_mut(words) {
                // Whole vectors: what is added weighs nothing.
                let whole = n.next_multiple_of(16);
                scores[n..whole].fill(f32::NEG_INFINITY);
                let total = exponentials(&mut scores[..whole], weight);
                k.weights(&mut scores[..whole]);
                scores[words - 1] = if total > 0.0 { 1.0 / total } else { 1.0 };
            }
            self.tile.at(r)[column..][..group * d].fill(0.0);
        }
        let mut before = 0;
        for (range, own) in run.shared.iter().zip([false, true]) {
            for from in (0..range.len()).step_by(KEYS) {
                let count = KEYS.min(range.len() - from);
                let at = before + from;
                let part = self.part(run.rows.start, own, range, [from, count]);
                for (r, p) in rows.clone().zip(pieces.scores.chunks_exact(group * words)) {
                    let count = count.min(self.seen(r).saturating_sub(at));
                    let out = &mut self.tile.at(r)[column..][..group * d];
                    for (out, p) in out.chunks_exact_mut(d).zip(p.chunks_exact(words)) {
                        let part = part.start..part.start + count;
                        k.weigh(&s, &p[at..][..count], part, head, out);
                    }
                }
            }
            before += range.len();
        }
        for (i, r) in run.owners() {
            let [_, range] = self.visible(r);
            // Heads that share values take turns at some of them.
            let together = group == 1 && s.pages == 0;
            let block = if together { range.len().max(1) } else { KEYS };
            let p = &pieces.scores[i * group * words..];
            for from in (0..range.len()).step_by(block) {
                let count = block.min(range.len() - from);
                let part = self.part(r, true, &range, [from, count]);
                let out = &mut self.tile.at(r)[column..][..group * d];
                for (out, p) in out.chunks_exact_mut(d).zip(p.chunks_exact(words)) {
                    let p = &p[before + from..][..count];
                    k.weigh(&s, p, part.clone(), head, out);
                }
            }
        }
        for (r, scores) in rows.zip(pieces.scores.chunks_exact(group * words)) {
            let out = &mut self.tile.at(r)[column..][..group * d];
            for (out, scores) in out.chunks_exact_mut(d).zip(scores.chunks_exact(words)) {
                for out in out {
                    *out *= scores[words - 1];
                }
            }
        }
    }
}
