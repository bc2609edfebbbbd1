//! How much attention has to do, and in which pieces.

use super::few;
use crate::cpu::Cpu;
use crate::ops::attention::AttentionShape;

/// Most keys that a query sees.
pub(super) fn most_keys(s: &AttentionShape, spans: &[u32]) -> usize {
    let most = |span: &[u32]| {
        let [prefix, own] = s.visible(span, s.queries.saturating_sub(1));
        prefix.len() + own.len()
    };
    let spans = spans.chunks_exact(s.span_words()).take(s.sequences);
    spans.map(most).max().unwrap_or(0)
}

/// Vector operations for so many keys.
pub(super) fn work(s: &AttentionShape, keys: usize) -> usize {
    [s.queries, keys, s.n_heads, s.head_dim]
        .into_iter()
        .fold(s.sequences, usize::saturating_mul)
        / 4
}

/// How [`Few`](super::few::Few) goes about a shape.
pub(super) struct Plan {
    pub(super) together: usize,
    pub(super) words: [usize; 3],
    pub(super) scratch: usize,
    pub(super) columns: usize,
    pub(super) work: usize,
}

impl Plan {
    pub(super) fn new(
        cpu: &Cpu,
        s: &AttentionShape,
        spans: &[u32],
        [query, keys]: [usize; 2],
    ) -> Self {
        let n = most_keys(s, spans);
        let scores = few::score_words(n);
        let together = few::together(s, scores);
        let group = s.n_heads / s.n_kv_heads;
        let heads = together * group;
        // Heads that share keys stay together; enough tasks that none of them is long.
        let tasks = s.n_kv_heads.div_ceil(8 * cpu.threads());
        Self {
            together,
            words: [query, keys, scores],
            scratch: heads
                .saturating_mul(query.saturating_add(scores))
                .saturating_add(keys),
            columns: tasks * group * s.head_dim,
            work: work(s, n),
        }
    }
}
