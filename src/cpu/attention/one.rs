//! Attention of one query a sequence, as a step of a picture has it: keys are turned some at a time and never leave the
//! first cache, values are read where they lie. Bound: the reading of both.

use super::{exponentials, turn_keys};
use crate::cpu::simd::{Job, Lanes};
use crate::cpu::tiles::Tile;
use crate::ops::attention::{AttentionShape, SPAN_WORDS};

/// Keys that are turned at a time.
const KEYS: usize = 32;

/// The query of one sequence, some of its heads.
pub(super) struct Query<'a> {
    pub(super) s: AttentionShape,
    pub(super) q: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) spans: &'a [u32],
    pub(super) scale: f32,
    pub(super) scratch: &'a mut [f32],
    pub(super) tile: Tile<'a>,
}

/// Scratch for so many keys: some as they are, some turned, and a score for each head that shares them.
pub(super) fn scratch(s: &AttentionShape, keys: usize) -> usize {
    let group = s.n_heads / s.n_kv_heads;
    2 * KEYS * s.head_dim + group.saturating_mul(keys.next_multiple_of(KEYS))
}

impl Job for Query<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let (s, d) = (self.s, self.s.head_dim);
        let sequence = self.tile.row;
        let span = &self.spans[sequence * SPAN_WORDS..][..SPAN_WORDS];
        let [prefix, own] = s.visible(span, 0);
        let rows = || prefix.clone().chain(own.clone());
        let n = prefix.len() + own.len();
        let stride = n.next_multiple_of(KEYS);
        let (copied, rest) = self.scratch.split_at_mut(KEYS * d);
        let (turned, scores) = rest.split_at_mut(KEYS * d);
        let (group, first) = (s.n_heads / s.n_kv_heads, self.tile.column / d);
        let columns = self.tile.columns();
        let Some(out) = self.tile.rows().next() else {
            return;
        };
        for h in (0..columns / d).step_by(group) {
            let kv = (first + h) / group * s.kv_head_stride;
            let q = &self.q[sequence * s.q_stride + s.q_offset + (first + h) * d..];
            let mut at = rows();
            for from in (0..n).step_by(KEYS) {
                let count = KEYS.min(n - from);
                // Read in the order in which they lie: turning reads 16 rows at once, too far apart for the machine to
                // fetch ahead.
                for (copied, j) in copied.chunks_exact_mut(d).zip((&mut at).take(count)) {
                    copied.copy_from_slice(&self.keys[j * s.kv_stride + s.k_offset + kv..][..d]);
                }
                let key = |i: usize| &copied[i * d..][..d];
                turn_keys::<V>(count, d, &mut (0..count), &key, KEYS, turned);
                for (q, scores) in q
                    .chunks_exact(d)
                    .zip(scores.chunks_exact_mut(stride))
                    .take(group)
                {
                    let scores = &mut scores[from..][..KEYS];
                    match V::N {
                        16 => score::<V, 2>(q, turned, self.scale, scores),
                        8 => score::<V, 4>(q, turned, self.scale, scores),
                        _ => score::<V, 8>(q, turned, self.scale, scores),
                    }
                }
            }
            let heads = out[h * d..].chunks_exact_mut(d);
            for (out, p) in heads
                .zip(scores.chunks_exact_mut(stride.max(1)))
                .take(group)
            {
                let p = &mut p[..n];
                let total = exponentials(p, s.first_weight(span));
                let inverse = if total > 0.0 { 1.0 / total } else { 1.0 };
                let row = |j: usize| &self.values[j * s.kv_stride + s.v_offset + kv..][..d];
                let mut c = 0;
                while c < d {
                    let out = &mut out[c..];
                    c += match (d - c) / V::N {
                        0 => {
                            for (i, out) in out.iter_mut().enumerate() {
                                let terms = p.iter().zip(rows()).map(|(p, j)| p * row(j)[c + i]);
                                *out = terms.fold(0.0, |sum, term| sum + term) * inverse;
                            }
                            d - c
                        }
                        1..4 => weigh::<V, 1>(p, rows().map(row), c, inverse, out),
                        4..8 => weigh::<V, 4>(p, rows().map(row), c, inverse, out),
                        _ => weigh::<V, 8>(p, rows().map(row), c, inverse, out),
                    };
                }
            }
        }
    }
}

/// The scaled products of a query with turned keys, C vectors of them.
#[inline(always)]
fn score<V: Lanes, const C: usize>(q: &[f32], turned: &[f32], scale: f32, out: &mut [f32]) {
    let mut sums = [V::splat(0.0); C];
    for (q, keys) in q.iter().zip(turned.chunks_exact(KEYS)) {
        let q = V::splat(*q);
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add(q.mul(V::load(&keys[c * V::N..])));
        }
    }
    let scale = V::splat(scale);
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(V::N)) {
        sum.mul(scale).store(out);
    }
}

/// The weighted sum of rows, C vectors of it from element `c` on; returns how many elements these are.
#[inline(always)]
fn weigh<'a, V: Lanes, const C: usize>(
    p: &[f32],
    rows: impl Iterator<Item = &'a [f32]>,
    c: usize,
    inverse: f32,
    out: &mut [f32],
) -> usize {
    let mut sums = [V::splat(0.0); C];
    for (p, row) in p.iter().zip(rows) {
        let (p, row) = (V::splat(*p), &row[c..][..C * V::N]);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add(p.mul(V::load(&row[i * V::N..])));
        }
    }
    let inverse = V::splat(inverse);
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(V::N)) {
        sum.mul(inverse).store(out);
    }
    C * V::N
}
