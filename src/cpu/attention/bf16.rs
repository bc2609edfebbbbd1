//! Keys and values in upper halves of floats: keys are widened when they are turned, values where they lie.

use core::ops::Range;

use super::few::{Cached, Few, KEYS};
use super::floats::score;
use super::turn_keys;
use crate::cpu::simd::{Job, Lanes};
use crate::ops::attention::AttentionShape;
use crate::ops::gemm::to_half;

/// Keys and values in upper halves of floats.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub(super) keys: &'a [u32],
    pub(super) values: &'a [u32],
}

/// Words of scratch of a query and of turned keys.
pub(super) const fn words(d: usize) -> [usize; 2] {
    // Keys as they are, an odd one's filling included, then turned.
    [d, KEYS * (2 * d + 1)]
}

/// Both elements of a word.
#[inline(always)]
fn widened(word: u32) -> [f32; 2] {
    [word << 16, word & 0xffff_0000].map(f32::from_bits)
}

impl<V: Lanes> Cached<V> for Halves<'_> {
    #[inline(always)]
    fn query(self, q: &[f32], out: &mut [f32]) {
        for (out, q) in out.iter_mut().zip(q) {
            *out = to_half(*q);
        }
    }

    #[inline(always)]
    fn turn(self, s: &AttentionShape, rows: Range<usize>, head: usize, out: &mut [f32]) {
        let (d, count, row) = (s.head_dim, rows.len(), s.head_dim.div_ceil(2));
        let (wide, turned) = out.split_at_mut(KEYS * 2 * row);
        for (wide, j) in wide.chunks_exact_mut(2 * row).zip(rows) {
            let key = &self.keys[j * s.kv_stride + s.k_offset + head..][..row];
            for (wide, word) in wide.as_chunks_mut().0.iter_mut().zip(key) {
                *wide = widened(*word);
            }
        }
        let key = |i: usize| &wide[i * 2 * row..][..d];
        turn_keys::<V>(count, d, &mut (0..count), &key, KEYS, turned);
    }

    #[inline(always)]
    fn score(self, q: &[f32], turned: &[f32], scale: f32, out: &mut [f32]) {
        let turned = &turned[KEYS * q.len().next_multiple_of(2)..];
        match V::N {
            16 => score::<V, 2>(q, turned, scale, out),
            8 => score::<V, 4>(q, turned, scale, out),
            _ => score::<V, 8>(q, turned, scale, out),
        }
    }

    #[inline(always)]
    fn weights(self, p: &mut [f32]) {
        for p in p {
            *p = to_half(*p);
        }
    }

    #[inline(always)]
    fn weigh(
        self,
        s: &AttentionShape,
        p: &[f32],
        rows: Range<usize>,
        head: usize,
        out: &mut [f32],
    ) {
        if p.is_empty() {
            return;
        }
        let first = rows.start * s.kv_stride + s.v_offset + head;
        let values = Values {
            x: &self.values[first..],
            stride: s.kv_stride,
        };
        // Vectors are read as halves, which lie the other way round in big-endian words.
        let vectors = if cfg!(target_endian = "little") {
            s.head_dim / V::N
        } else {
            0
        };
        let mut v = 0;
        while v < vectors {
            let out = &mut out[v * V::N..];
            v += match vectors - v {
                1..4 => weigh::<V, 1>(p, values, v, out),
                4..8 => weigh::<V, 4>(p, values, v, out),
                _ => weigh::<V, 8>(p, values, v, out),
            };
        }
        for (i, out) in out.iter_mut().enumerate().skip(vectors * V::N) {
            for (r, p) in p.iter().enumerate() {
                *out += p * widened(values.x[r * values.stride + i / 2])[i % 2];
            }
        }
    }
}

impl Job for Few<'_, Halves<'_>> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        self.attend::<V>();
    }
}

/// Rows of values.
#[derive(Clone, Copy)]
struct Values<'a> {
    x: &'a [u32],
    stride: usize,
}

/// Adds the weighted sum of rows, C vectors of it from vector `v` on; returns C.
#[inline(always)]
fn weigh<V: Lanes, const C: usize>(
    p: &[f32],
    values: Values<'_>,
    v: usize,
    out: &mut [f32],
) -> usize {
    let mut sums = [V::splat(0.0); C];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = V::load(&out[i * V::N..]);
    }
    for (r, p) in p.iter().enumerate() {
        let row = &values.x[r * values.stride + v * (V::N / 2)..][..C * (V::N / 2)];
        let (p, row) = (V::splat(*p), bytemuck::cast_slice::<u32, u16>(row));
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add(p.mul(V::load_bf16(&row[i * V::N..])));
        }
    }
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(V::N)) {
        sum.store(out);
    }
    C
}
