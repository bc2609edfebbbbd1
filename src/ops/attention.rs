//! Rotary embedding, cache append, attention.
//!
//! One query that likes two cached rows equally well:
//!
//! ```
//! use maquette::ops::attention::{AttentionShape, attention};
//! let s = AttentionShape {
//!     sequences: 1, queries: 1, n_heads: 1, n_kv_heads: 1, head_dim: 2, q_stride: 2, q_offset: 0,
//!     kv_rows: 2, kv_stride: 2, kv_head_stride: 4, k_offset: 0, v_offset: 0, causal: false, repeated_prefix: false,
//!     pages: 0,
//! };
//! let (keys, values, mut out) = ([1.0; 4], [1.0, 2.0, 3.0, 4.0], [0.0; 2]);
//! // No prefix; two rows of its own from row 0 on.
//! attention(s, &[1.0, 1.0], &keys, &values, &[0, 0, 0, 2], &mut out)?;
//! assert_eq!(out, [2.0, 3.0]);
//! # Ok::<(), maquette::Error>(())
//! ```

mod bf16;
mod format;
mod moved;
mod q8;
mod relative;
mod rotary;

#[cfg(feature = "alloc")]
pub(crate) use bf16::pair;
pub use bf16::{append_bf16, attention_bf16};
pub use format::KvFormat;
pub use moved::{MoveShape, move_rows};
pub use q8::{append_q8, attention_q8};
#[cfg(feature = "alloc")]
pub(crate) use q8::{round_block, round_row};
pub use relative::{RelativeShape, relative_attention};
#[cfg(feature = "alloc")]
pub(crate) use rotary::rotate_row;
pub use rotary::{RotaryShape, rotary, rotary_table};

use crate::error::{Error, Result, covers, product};
use crate::math;
use crate::ops::counted;
use crate::ops::norm::{HeadNormShape, nonzero};

/// Heads of rows that are copied into a cache, `[heads, cache_rows, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendShape {
    /// Number of rows.
    pub rows: usize,
    /// Heads copied of each row.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of a source row.
    pub stride: usize,
    /// First element of the first head in its row.
    pub offset: usize,
    /// Rows of the cache.
    pub cache_rows: usize,
}

impl AppendShape {
    /// Checks the lengths of x, places and cache.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, places: usize, cache: usize) -> Result<()> {
        self.check_as(KvFormat::F32, x, places, cache)
    }

    /// As [`check`](Self::check), for a cache of this format.
    pub(crate) fn check_as(
        &self,
        kv: KvFormat,
        x: usize,
        places: usize,
        cache: usize,
    ) -> Result<()> {
        const OP: &str = "append";
        nonzero(OP, "heads", self.heads)?;
        nonzero(OP, "head_dim", self.head_dim)?;
        let width = product(OP, &[self.heads, self.head_dim])?;
        let used = width.saturating_add(self.offset);
        covers(OP, "stride", self.stride, used)?;
        covers(OP, "x", x, product(OP, &[self.rows, self.stride])?)?;
        covers(OP, "places", places, self.rows)?;
        let kept = product(OP, &[self.cache_rows, self.heads, kv.words(self.head_dim)])?;
        covers(OP, "cache", cache, kept)
    }
}

/// Rows of queries, keys and values side by side, on their way into a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepShape {
    /// Number of rows.
    pub rows: usize,
    /// Heads of queries.
    pub q_heads: usize,
    /// Heads of keys, and of values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Leading dimensions of queries and keys that are rotated; none for models without a rotary embedding.
    pub rotary_dim: usize,
    /// Positions in the table.
    pub positions: usize,
    /// Rows of the cache.
    pub cache_rows: usize,
}

impl KeepShape {
    const fn stride(&self) -> usize {
        self.q_heads
            .saturating_add(self.kv_heads.saturating_mul(2))
            .saturating_mul(self.head_dim)
    }

    /// The norms of queries and of keys.
    #[must_use]
    pub const fn norms(&self, eps: f32) -> [HeadNormShape; 2] {
        let queries = HeadNormShape {
            rows: self.rows,
            heads: self.q_heads,
            head_dim: self.head_dim,
            stride: self.stride(),
            offset: 0,
            eps,
        };
        let keys = HeadNormShape {
            heads: self.kv_heads,
            offset: self.q_heads.saturating_mul(self.head_dim),
            ..queries
        };
        [queries, keys]
    }

    /// The rotation of queries and keys.
    #[must_use]
    pub const fn rotary(&self) -> RotaryShape {
        RotaryShape {
            rows: self.rows,
            heads: self.q_heads.saturating_add(self.kv_heads),
            head_dim: self.head_dim,
            rotary_dim: self.rotary_dim,
            stride: self.stride(),
            offset: 0,
            positions: self.positions,
        }
    }

    /// What is put into the cache of keys, and into that of values.
    #[must_use]
    pub fn appends(&self) -> [AppendShape; 2] {
        [self.q_heads, self.q_heads.saturating_add(self.kv_heads)].map(|before| AppendShape {
            rows: self.rows,
            heads: self.kv_heads,
            head_dim: self.head_dim,
            stride: self.stride(),
            offset: before.saturating_mul(self.head_dim),
            cache_rows: self.cache_rows,
        })
    }
}

/// cache\[h, places\[r\], :\] = x\[r, offset + h · head_dim ..\]. A place outside the cache is skipped.
///
/// # Errors
/// See [`AppendShape::check`].
pub fn append(s: AppendShape, x: &[f32], places: &[u32], cache: &mut [f32]) -> Result<()> {
    s.check(x.len(), places.len(), cache.len())?;
    for (row, &place) in x.chunks_exact(s.stride).zip(places).take(s.rows) {
        let place = place as usize;
        if place < s.cache_rows {
            let heads = row[s.offset..].chunks_exact(s.head_dim).take(s.heads);
            for (h, head) in heads.enumerate() {
                let at = (h * s.cache_rows + place) * s.head_dim;
                cache[at..][..s.head_dim].copy_from_slice(head);
            }
        }
    }
    Ok(())
}

/// Sequences that attend, each to a shared prefix and to rows of its own, in one cache of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of sequences.
    pub sequences: usize,
    /// Query rows of each sequence; sequence `s` has rows `s · queries ..`.
    pub queries: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of a query row.
    pub q_stride: usize,
    /// First element of the first head in a query row.
    pub q_offset: usize,
    /// Rows of the key and value buffers.
    pub kv_rows: usize,
    /// Distance of a head's rows in the key and value buffers, in their elements.
    pub kv_stride: usize,
    /// Distance of a row's heads there.
    pub kv_head_stride: usize,
    /// First element of the first head's first key.
    pub k_offset: usize,
    /// First element of the first head's first value.
    pub v_offset: usize,
    /// Whether query `i` sees only own rows up to `own_len − queries + i`; else it sees all of them.
    pub causal: bool,
    /// Whether a prefix is one row that counts as often as its length says.
    pub repeated_prefix: bool,
    /// Pages of a sequence's own rows, [`PAGE_ROWS`] each; none where they lie together.
    pub pages: usize,
}

/// Words of one sequence in the `spans` of [`attention`]: first row and length of the prefix, then of the own rows. Where own
/// rows lie in pages, the first row of each page follows, and the third word is not read.
pub const SPAN_WORDS: usize = 4;

/// Rows of a page. One that would reach past the end of the cache begins so many rows before it.
pub const PAGE_ROWS: usize = 32;

impl AttentionShape {
    /// Words of one sequence in `spans`.
    #[must_use]
    pub const fn span_words(&self) -> usize {
        SPAN_WORDS.saturating_add(self.pages)
    }

    /// What a query row's sequence has in `spans`.
    pub(crate) fn span<'a>(&self, spans: &'a [u32], row: usize) -> &'a [u32] {
        let words = self.span_words();
        &spans[row / self.queries * words..][..words]
    }

    /// Checks the lengths of q, keys, values, spans and out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(
        &self,
        q: usize,
        keys: usize,
        values: usize,
        spans: usize,
        out: usize,
    ) -> Result<()> {
        self.check_as(KvFormat::F32, [q, keys, values, spans, out])
    }

    /// As [`check`](Self::check), for keys and values of this format.
    pub(crate) fn check_as(
        &self,
        kv: KvFormat,
        [q, keys, values, spans, out]: [usize; 5],
    ) -> Result<()> {
        const OP: &str = "attention";
        nonzero(OP, "head_dim", self.head_dim)?;
        nonzero(OP, "n_kv_heads", self.n_kv_heads)?;
        if self.n_heads == 0 || !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(Error::Config {
                key: "num_key_value_heads",
                problem: "does not divide the heads",
            });
        }
        let width = product(OP, &[self.n_heads, self.head_dim])?;
        covers(
            OP,
            "q_stride",
            self.q_stride,
            width.saturating_add(self.q_offset),
        )?;
        covers(
            OP,
            "q",
            q,
            product(OP, &[self.sequences, self.queries, self.q_stride])?,
        )?;
        if self.kv_rows > 0 {
            let rows = product(OP, &[self.kv_rows - 1, self.kv_stride])?;
            let heads = product(OP, &[self.n_kv_heads - 1, self.kv_head_stride])?;
            let row = kv.words(self.head_dim);
            let end = rows.saturating_add(heads).saturating_add(row);
            covers(OP, "keys", keys, end.saturating_add(self.k_offset))?;
            covers(OP, "values", values, end.saturating_add(self.v_offset))?;
        }
        if self.pages > 0 {
            covers(OP, "kv_rows", self.kv_rows, PAGE_ROWS)?;
        }
        covers(
            OP,
            "spans",
            spans,
            product(OP, &[self.sequences, self.span_words()])?,
        )?;
        covers(
            OP,
            "out",
            out,
            product(OP, &[self.sequences, self.queries, width])?,
        )
    }

    /// The cache rows that query `i` of a sequence sees: prefix and own, each cut to the cache. None of fewer words than
    /// [`SPAN_WORDS`]. Own rows that lie in pages are numbered from 0 on, see [`own_rows`](Self::own_rows).
    #[must_use]
    pub fn visible(&self, span: &[u32], i: usize) -> [core::ops::Range<usize>; 2] {
        let &[prefix, _, first, own, ..] = span else {
            return [0..0, 0..0];
        };
        let cut = |from: u32, len: usize| {
            let from = (from as usize).min(self.kv_rows);
            from..from.saturating_add(len).min(self.kv_rows)
        };
        let own = own as usize;
        let seen = if self.causal {
            own.min(
                own.saturating_add(i)
                    .saturating_add(1)
                    .saturating_sub(self.queries),
            )
        } else {
            own
        };
        let own = if self.pages > 0 {
            let rows = self.pages.saturating_mul(PAGE_ROWS).min(self.kv_rows);
            0..seen.min(rows)
        } else {
            cut(first, seen)
        };
        [cut(prefix, self.prefix_rows(span)), own]
    }

    /// The cache rows of some of a sequence's own rows, all of one page if they lie in pages.
    #[inline(always)]
    #[must_use]
    pub fn own_rows(&self, span: &[u32], rows: core::ops::Range<usize>) -> core::ops::Range<usize> {
        if self.pages == 0 {
            return rows;
        }
        let page = span.get(SPAN_WORDS + rows.start / PAGE_ROWS);
        let first = page.map_or(0, |&first| first as usize);
        let first = first.min(self.kv_rows.saturating_sub(PAGE_ROWS)) + rows.start % PAGE_ROWS;
        first..first + rows.len()
    }

    /// All cache rows that query `i` of a sequence sees, in their order.
    pub(crate) fn rows(&self, span: &[u32], i: usize) -> impl Iterator<Item = usize> + Clone {
        let [prefix, own] = self.visible(span, i);
        prefix.chain(own.map(move |row| self.own_rows(span, row..row + 1).start))
    }

    /// Multiply-adds of the scores and of the sums over the rows that are seen.
    #[must_use]
    pub fn multiply_adds(&self, spans: &[u32]) -> u64 {
        let mut pairs: u64 = 0;
        for span in spans.chunks_exact(self.span_words()).take(self.sequences) {
            let seen = |i| self.visible(span, i).map(|rows| rows.len() as u64);
            let own = if self.causal {
                (0..self.queries)
                    .flat_map(seen)
                    .fold(0, u64::saturating_add)
            } else {
                let [prefix, own] = seen(0);
                prefix
                    .saturating_add(own)
                    .saturating_mul(self.queries as u64)
            };
            pairs = pairs.saturating_add(own);
        }
        counted(&[2, self.n_heads, self.head_dim]).saturating_mul(pairs)
    }

    /// Rows of a sequence's prefix.
    fn prefix_rows(&self, span: &[u32]) -> usize {
        let len = span[1] as usize;
        if self.repeated_prefix {
            len.min(1)
        } else {
            len
        }
    }

    /// How often the first row counts that a sequence sees.
    #[inline(always)]
    pub(crate) fn first_weight(&self, span: &[u32]) -> f32 {
        if self.repeated_prefix && self.visible(span, 0)[0].len() == 1 {
            span[1] as f32
        } else {
            1.0
        }
    }
}

/// out\[s, i, h, :\] = Σ_j softmax_j(q·k_j / √head_dim) · v_j over the rows that query i of sequence s sees.
///
/// Scores are exponentiated against the largest; the sums over j run from the first prefix row to the last own row,
/// the sum of the exponentials in 16 lanes side by side. A query that sees no row gives zeros. The exponential of a
/// repeated prefix row is multiplied by the number of its repetitions.
///
/// # Errors
/// See [`AttentionShape::check`].
pub fn attention(
    s: AttentionShape,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    spans: &[u32],
    out: &mut [f32],
) -> Result<()> {
    s.check(q.len(), keys.len(), values.len(), spans.len(), out.len())?;
    let scale = 1.0 / math::sqrt(s.head_dim as f32);
    let width = s.n_heads * s.head_dim;
    let spans = spans.chunks_exact(s.span_words());
    for (sequence, span) in spans.take(s.sequences).enumerate() {
        for i in 0..s.queries {
            let row = sequence * s.queries + i;
            for h in 0..s.n_heads {
                let query = &q[row * s.q_stride + s.q_offset + h * s.head_dim..][..s.head_dim];
                let kv_head = h / (s.n_heads / s.n_kv_heads) * s.kv_head_stride;
                let out = &mut out[row * width + h * s.head_dim..][..s.head_dim];
                let score = |j: usize| {
                    let key = &keys[j * s.kv_stride + s.k_offset + kv_head..][..s.head_dim];
                    query.iter().zip(key).fold(0.0, |sum, (q, k)| sum + q * k) * scale
                };
                let add = |p: f32, j: usize, out: &mut [f32]| {
                    let value = &values[j * s.kv_stride + s.v_offset + kv_head..][..s.head_dim];
                    for (out, v) in out.iter_mut().zip(value) {
                        *out += p * v;
                    }
                };
                weighted(&s, (span, i), score, add, out);
            }
        }
    }
    Ok(())
}

/// out = Σ_j p_j · value_j over the rows j that query `i` of a sequence sees, p being the softmax of their scores; `add` adds a
/// row's value times a weight.
fn weighted(
    s: &AttentionShape,
    (span, i): (&[u32], usize),
    score: impl Fn(usize) -> f32,
    add: impl Fn(f32, usize, &mut [f32]),
    out: &mut [f32],
) {
    let rows = || s.rows(span, i);
    let largest = rows()
        .map(&score)
        .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    out.fill(0.0);
    let mut lanes = [0.0_f32; 16];
    for (n, j) in rows().enumerate() {
        let weight = if n == 0 { s.first_weight(span) } else { 1.0 };
        let p = math::exp(score(j) - largest) * weight;
        lanes[n % 16] += p;
        add(p, j, out);
    }
    let total: f32 = lanes.iter().sum();
    if total > 0.0 {
        let inverse = 1.0 / total;
        for out in out {
            *out *= inverse;
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests;
