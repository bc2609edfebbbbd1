//! Keys and values in blocks of 8 bits.

use super::{AppendShape, AttentionShape, KvFormat, weighted};
use crate::error::Result;
use crate::math;
use crate::quant::{A8_BLOCK, quantise_a8};

/// One block of a head, filled up with zeros.
#[inline(always)]
pub(crate) fn round_block(head: &[f32], block: usize) -> (f32, [i8; A8_BLOCK]) {
    let part = &head[block * A8_BLOCK..];
    let mut padded = [0.0; A8_BLOCK];
    let x = if let Some(whole) = part.first_chunk() {
        whole
    } else {
        padded[..part.len()].copy_from_slice(part);
        &padded
    };
    quantise_a8(x)
}

/// One head to a row of [`KvFormat::Q8`].
#[inline(always)]
pub(crate) fn round_row(head: &[f32], row: &mut [u32]) {
    let (levels, scales) = row.split_at_mut(head.len().div_ceil(A8_BLOCK) * (A8_BLOCK / 4));
    let places = levels.chunks_exact_mut(A8_BLOCK / 4).zip(scales);
    for (b, (words, place)) in places.enumerate() {
        let (scale, levels) = round_block(head, b);
        for (word, four) in words.iter_mut().zip(levels.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(four.map(i8::cast_unsigned));
        }
        *place = scale.to_bits();
    }
}

/// As [`append`](super::append), into a cache `[heads, cache_rows, words]` of [`KvFormat::Q8`].
///
/// # Errors
/// See [`AppendShape::check`]; the cache is counted in words.
pub fn append_q8(s: AppendShape, x: &[f32], places: &[u32], cache: &mut [u32]) -> Result<()> {
    s.check_as(KvFormat::Q8, x.len(), places.len(), cache.len())?;
    let words = KvFormat::Q8.words(s.head_dim);
    for (row, &place) in x.chunks_exact(s.stride).zip(places).take(s.rows) {
        let place = place as usize;
        if place < s.cache_rows {
            let heads = row[s.offset..].chunks_exact(s.head_dim).take(s.heads);
            for (h, head) in heads.enumerate() {
                let at = (h * s.cache_rows + place) * words;
                round_row(head, &mut cache[at..][..words]);
            }
        }
    }
    Ok(())
}

/// One row of a cache.
struct Row<'a> {
    levels: &'a [u32],
    scales: &'a [u32],
}

impl<'a> Row<'a> {
    fn of(head_dim: usize, row: &'a [u32]) -> Self {
        let blocks = head_dim.div_ceil(A8_BLOCK);
        let (levels, scales) =
            row[..KvFormat::Q8.words(head_dim)].split_at(blocks * (A8_BLOCK / 4));
        Self { levels, scales }
    }

    fn level(&self, i: usize) -> i8 {
        self.levels[i / 4].to_le_bytes()[i % 4].cast_signed()
    }

    fn scale(&self, block: usize) -> f32 {
        f32::from_bits(self.scales[block])
    }
}

/// [`attention`](super::attention) over keys and values of [`KvFormat::Q8`]; strides and offsets of both count words.
///
/// A query is rounded as the keys were. A score is Σ_b (q_b · d_k) · d_q / √head_dim over the blocks b, where q_b is the
/// exact integer product of the two blocks and d_k, d_q are their scales. A value's element is its level; what it is
/// multiplied with is the weight of its row times the scale of its block. All else is as there.
///
/// # Errors
/// See [`AttentionShape::check`].
pub fn attention_q8(
    s: AttentionShape,
    q: &[f32],
    keys: &[u32],
    values: &[u32],
    spans: &[u32],
    out: &mut [f32],
) -> Result<()> {
    let lens = [q.len(), keys.len(), values.len(), spans.len(), out.len()];
    s.check_as(KvFormat::Q8, lens)?;
    let (d, scale) = (s.head_dim, 1.0 / math::sqrt(s.head_dim as f32));
    for row in 0..s.sequences * s.queries {
        let span = s.span(spans, row);
        for h in 0..s.n_heads {
            let query = &q[row * s.q_stride + s.q_offset + h * d..][..d];
            let kv_head = h / (s.n_heads / s.n_kv_heads) * s.kv_head_stride;
            let out = &mut out[(row * s.n_heads + h) * d..][..d];
            let score = |j: usize| {
                let key = Row::of(d, &keys[j * s.kv_stride + s.k_offset + kv_head..]);
                let sum = (0..d.div_ceil(A8_BLOCK)).fold(0.0, |sum, b| {
                    let (d_q, levels) = round_block(query, b);
                    let terms = (0..A8_BLOCK)
                        .map(|i| i32::from(levels[i]) * i32::from(key.level(b * A8_BLOCK + i)));
                    sum + terms.sum::<i32>() as f32 * key.scale(b) * d_q
                });
                sum * scale
            };
            let add = |p: f32, j: usize, out: &mut [f32]| {
                let value = Row::of(d, &values[j * s.kv_stride + s.v_offset + kv_head..]);
                for (i, out) in out.iter_mut().enumerate() {
                    *out += p * value.scale(i / A8_BLOCK) * f32::from(value.level(i));
                }
            };
            weighted(&s, (span, row % s.queries), score, add, out);
        }
    }
    Ok(())
}
