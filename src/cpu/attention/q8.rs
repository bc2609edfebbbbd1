//! Keys and values in 8 bits: scores are products of integers, values are widened where they lie.
//!
//! The instruction that multiplies quads wants one side unsigned: keys get 128 added while they are turned, and a query's
//! sums start at minus what that adds.

use core::marker::PhantomData;
use core::ops::Range;

use super::few::{Cached, Few, KEYS};
use crate::cpu::integer::word;
use crate::cpu::simd::{Dots, DotsJob, Lanes};
use crate::ops::attention::{AttentionShape, round_block};
use crate::quant::A8_BLOCK;

/// Words of a block's levels.
const WORDS: usize = A8_BLOCK / 4;

/// Keys and values in 8 bits.
#[derive(Debug)]
pub(super) struct Q8<'a, D> {
    pub(super) keys: &'a [u32],
    pub(super) values: &'a [u32],
    pub(super) dots: PhantomData<D>,
}

impl<D> Clone for Q8<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Q8<'_, D> {}

/// Words of scratch of a query and of turned keys.
pub(super) const fn words(d: usize) -> [usize; 2] {
    let blocks = d.div_ceil(A8_BLOCK);
    // Of a query levels, scales and where its sums start; of keys turned levels, and scales.
    [blocks * (WORDS + 2), KEYS * blocks * (WORDS + 1)]
}

impl<D: Dots> Cached<D::Floats> for Q8<'_, D> {
    #[inline(always)]
    fn query(self, q: &[f32], out: &mut [f32]) {
        let out: &mut [u32] = bytemuck::cast_slice_mut(out);
        let count = q.len().div_ceil(A8_BLOCK);
        let (levels, rest) = out.split_at_mut(count * WORDS);
        let (scales, starts) = rest.split_at_mut(count);
        let places = scales.iter_mut().zip(starts);
        let places = levels.chunks_exact_mut(WORDS).zip(places);
        for (b, (words, (place, start))) in places.enumerate() {
            let (scale, levels) = round_block(q, b);
            for (to, four) in words.iter_mut().zip(levels.as_chunks::<4>().0) {
                *to = word(*four);
            }
            let sum: i32 = levels.iter().map(|&level| i32::from(level)).sum();
            (*place, *start) = (scale.to_bits(), (-128 * sum).cast_unsigned());
        }
    }

    #[inline(always)]
    fn turn(self, s: &AttentionShape, rows: Range<usize>, head: usize, out: &mut [f32]) {
        let count = s.head_dim.div_ceil(A8_BLOCK);
        let (levels, whole) = (count * WORDS, count * WORDS / 16 * 16);
        let (turned, scales) = out.split_at_mut(KEYS * levels);
        let last = rows.end - 1;
        for c in (0..rows.len()).step_by(16) {
            let mut keys: [&[f32]; 16] = [&[]; 16];
            for (i, key) in keys.iter_mut().enumerate() {
                // Columns past the last key hold anything.
                let at = (rows.start + c + i).min(last) * s.kv_stride + s.k_offset + head;
                *key = bytemuck::cast_slice(&self.keys[at..][..levels + count]);
            }
            for t in (0..whole).step_by(16) {
                let mut columns = keys;
                for column in &mut columns {
                    *column = &column[t..];
                }
                D::Floats::turn(columns, KEYS, &mut turned[t * KEYS + c..]);
            }
            for t in whole..levels {
                for (out, key) in turned[t * KEYS + c..].iter_mut().zip(keys) {
                    *out = key[t];
                }
            }
            for b in 0..count {
                for (out, key) in scales[b * KEYS + c..].iter_mut().zip(keys) {
                    *out = key[levels + b];
                }
            }
        }
        let turned: &mut [u32] = bytemuck::cast_slice_mut(turned);
        for word in turned {
            *word = (*word ^ 0x8080_8080).to_le();
        }
    }

    #[inline(always)]
    fn score(self, q: &[f32], turned: &[f32], scale: f32, out: &mut [f32]) {
        let q: &[u32] = bytemuck::cast_slice(q);
        let count = q.len() / (WORDS + 2);
        let (levels, rest) = q.split_at(count * WORDS);
        let (q_scales, starts) = rest.split_at(count);
        let (turned, scales) = turned.split_at(KEYS * levels.len());
        let turned: &[u8] = bytemuck::cast_slice(turned);
        let scale = D::Floats::splat(scale);
        for c in (0..KEYS).step_by(D::N) {
            let mut all = D::Floats::splat(0.0);
            for (b, levels) in levels.chunks_exact(WORDS).enumerate() {
                let mut sum = D::splat(starts[b].cast_signed());
                for (t, level) in levels.iter().enumerate() {
                    let at = 4 * ((b * WORDS + t) * KEYS + c);
                    sum = sum.dot(D::load_quads(&turned[at..]), *level);
                }
                let key_scale = D::Floats::load(&scales[b * KEYS + c..]);
                let q_scale = D::Floats::splat(f32::from_bits(q_scales[b]));
                all = all.add(sum.floats().mul(key_scale).mul(q_scale));
            }
            all.mul(scale).store(&mut out[c..]);
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
        if p.is_empty() {
            return;
        }
        let count = s.head_dim.div_ceil(A8_BLOCK);
        let values = Values {
            x: &self.values[rows.start * s.kv_stride + s.v_offset + head..],
            stride: s.kv_stride,
            blocks: count,
        };
        let mut b = 0;
        while b < count {
            let out = &mut out[b * A8_BLOCK..];
            b += match count - b {
                1 => weigh::<D::Floats, 1>(p, values, b, out),
                _ => weigh::<D::Floats, 2>(p, values, b, out),
            };
        }
    }
}

impl DotsJob for Few<'_, Q8<'_, ()>> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dots>(self) {
        let Q8 { keys, values, .. } = self.cached;
        let cached = Q8 {
            keys,
            values,
            dots: PhantomData::<D>,
        };
        self.with(cached).attend::<D::Floats>();
    }
}

/// Rows of values.
#[derive(Clone, Copy)]
struct Values<'a> {
    x: &'a [u32],
    stride: usize,
    blocks: usize,
}

/// Adds the weighted sum of rows, B blocks of it from block `b` on; returns B.
#[inline(always)]
fn weigh<V: Lanes, const B: usize>(
    p: &[f32],
    values: Values<'_>,
    b: usize,
    out: &mut [f32],
) -> usize {
    // Vectors of a block: 8 of the narrowest.
    let vectors = A8_BLOCK / V::N;
    let len = out.len().min(B * A8_BLOCK);
    let mut all = [[0.0; A8_BLOCK]; B];
    all.as_flattened_mut()[..len].copy_from_slice(&out[..len]);
    let mut sums = [[V::splat(0.0); 8]; B];
    for (sums, all) in sums.iter_mut().zip(&all) {
        for (i, sum) in sums.iter_mut().enumerate().take(vectors) {
            *sum = V::load(&all[i * V::N..]);
        }
    }
    for (r, p) in p.iter().enumerate() {
        let row = &values.x[r * values.stride..][..values.blocks * (WORDS + 1)];
        let (levels, scales) = row.split_at(values.blocks * WORDS);
        let (levels, scales) = (&levels[b * WORDS..][..B * WORDS], &scales[b..][..B]);
        for i in 0..B {
            let weight = V::splat(p * f32::from_bits(scales[i]));
            for v in 0..vectors {
                let level = V::load_levels(&levels[i * WORDS + v * V::N / 4..]);
                sums[i][v] = sums[i][v].add(weight.mul(level));
            }
        }
    }
    for (sums, all) in sums.iter().zip(&mut all) {
        for (i, sum) in sums.iter().enumerate().take(vectors) {
            sum.store(&mut all[i * V::N..]);
        }
    }
    out[..len].copy_from_slice(&all.as_flattened()[..len]);
    B
}
