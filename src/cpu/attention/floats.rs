//! Keys and values in floats.

use core::ops::Range;

use super::few::{Cached, Few, KEYS};
use super::turn_keys;
use crate::cpu::simd::{Job, Lanes};
use crate::ops::attention::AttentionShape;

/// Keys and values in floats.
#[derive(Clone, Copy)]
pub(super) struct Floats<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

impl Floats<'_> {
    /// Words of scratch of a query and of turned keys.
    pub(super) const fn words(d: usize) -> [usize; 2] {
        // Keys as they are, then turned.
        [d, 2 * KEYS * d]
    }
}

impl<V: Lanes> Cached<V> for Floats<'_> {
    #[inline(always)]
    fn query(self, q: &[f32], out: &mut [f32]) {
        out.copy_from_slice(q);
    }

    #[inline(always)]
    fn turn(self, s: &AttentionShape, rows: Range<usize>, head: usize, out: &mut [f32]) {
        let (d, count) = (s.head_dim, rows.len());
        let (copied, turned) = out.split_at_mut(KEYS * d);
        // Read in the order in which they lie: turning reads 16 rows at once, too far apart for the machine to fetch
        // ahead.
        for (copied, j) in copied.chunks_exact_mut(d).zip(rows) {
            copied.copy_from_slice(&self.keys[j * s.kv_stride + s.k_offset + head..][..d]);
        }
        let key = |i: usize| &copied[i * d..][..d];
        turn_keys::<V>(count, d, &mut (0..count), &key, KEYS, turned);
    }

    #[inline(always)]
    fn score(self, q: &[f32], turned: &[f32], scale: f32, out: &mut [f32]) {
        let turned = &turned[KEYS * q.len()..];
        match V::N {
            16 => score::<V, 2>(q, turned, scale, out),
            8 => score::<V, 4>(q, turned, scale, out),
            _ => score::<V, 8>(q, turned, scale, out),
        }
    }

    #[inline(always)]
    fn weights(self, _: &mut [f32]) {}

    #[inline(always)]
    fn weigh(
        self,
        s: &AttentionShape,
        p: &[f32],
        rows: Range<usize>,
        head: usize,
        out: &mut [f32],
    ) {
        let (d, first) = (s.head_dim, rows.start * s.kv_stride + s.v_offset + head);
        if p.is_empty() {
            return;
        }
        let values = Values {
            x: &self.values[first..],
            stride: s.kv_stride,
        };
        let mut c = 0;
        while c < d {
            let out = &mut out[c..];
            c += match (d - c) / V::N {
                0 => {
                    for (i, out) in out.iter_mut().enumerate() {
                        for (r, p) in p.iter().enumerate() {
                            *out += p * values.x[r * values.stride + c + i];
                        }
                    }
                    d - c
                }
                1..4 => weigh::<V, 1>(p, values, c, out),
                4..8 => weigh::<V, 4>(p, values, c, out),
                _ => weigh::<V, 8>(p, values, c, out),
            };
        }
    }
}

impl Job for Few<'_, Floats<'_>> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        self.attend::<V>();
    }
}

/// The scaled products of a query with turned keys, C vectors of them.
#[inline(always)]
pub(super) fn score<V: Lanes, const C: usize>(
    q: &[f32],
    turned: &[f32],
    scale: f32,
    out: &mut [f32],
) {
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

/// Rows of values.
#[derive(Clone, Copy)]
struct Values<'a> {
    x: &'a [f32],
    stride: usize,
}

/// Adds the weighted sum of rows, C vectors of it from element `c` on; returns how many elements these are.
#[inline(always)]
fn weigh<V: Lanes, const C: usize>(
    p: &[f32],
    values: Values<'_>,
    c: usize,
    out: &mut [f32],
) -> usize {
    let mut sums = [V::splat(0.0); C];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = V::load(&out[i * V::N..]);
    }
    for (r, p) in p.iter().enumerate() {
        let (p, row) = (V::splat(*p), &values.x[r * values.stride + c..][..C * V::N]);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add(p.mul(V::load(&row[i * V::N..])));
        }
    }
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(V::N)) {
        sum.store(out);
    }
    C * V::N
}
