//! Keys and values in upper halves of floats, for matrix products of halves.

use half::bf16;

use super::{AppendShape, AttentionShape, KvFormat, weighted};
use crate::error::Result;
use crate::math;
use crate::ops::gemm::to_half;

fn half(x: f32) -> u32 {
    u32::from(bf16::from_f32(x).to_bits())
}

/// One or two elements of a head as a word.
#[inline(always)]
pub(crate) fn pair(x: &[f32]) -> u32 {
    match x {
        [low, high, ..] => half(*low) | half(*high) << 16,
        [low] => half(*low),
        [] => 0,
    }
}

/// As [`append`](super::append), into a cache `[heads, cache_rows, words]` of [`KvFormat::Bf16`].
///
/// # Errors
/// See [`AppendShape::check`]; the cache is counted in words.
pub fn append_bf16(s: AppendShape, x: &[f32], places: &[u32], cache: &mut [u32]) -> Result<()> {
    s.check_as(KvFormat::Bf16, x.len(), places.len(), cache.len())?;
    let words = KvFormat::Bf16.words(s.head_dim);
    for (row, &place) in x.chunks_exact(s.stride).zip(places).take(s.rows) {
        let place = place as usize;
        if place < s.cache_rows {
            let heads = row[s.offset..].chunks_exact(s.head_dim).take(s.heads);
            for (h, head) in heads.enumerate() {
                let at = (h * s.cache_rows + place) * words;
                for (word, two) in cache[at..].iter_mut().zip(head.chunks(2)) {
                    *word = pair(two);
                }
            }
        }
    }
    Ok(())
}

/// Element `i` of a row of a cache.
fn element(row: &[u32], i: usize) -> f32 {
    f32::from_bits(row[i / 2] >> (i % 2 * 16) << 16)
}

/// [`attention`](super::attention) over keys and values of [`KvFormat::Bf16`]; strides and offsets of both count words.
///
/// A query is rounded as the keys were, and so are exponentials before values are multiplied with them; what they are
/// divided by is the sum of the exponentials as they were. All else is as there, in floats.
///
/// A device may sum the products of a score, and of a value, in another order, and may round exponentials against another
/// number than the largest score. The weight of a row is then another by 2⁻⁷ of itself at most, twice half a step, and by
/// what its score is off. So is an output by 2⁻⁷ of Σ_j p_j |v_j|, and by 2⁻⁸ of it from the exact one. The bits of a row are
/// a function of what it sees and of the head's width, of no other row and not of their number.
///
/// # Errors
/// See [`AttentionShape::check`].
pub fn attention_bf16(
    s: AttentionShape,
    q: &[f32],
    keys: &[u32],
    values: &[u32],
    spans: &[u32],
    out: &mut [f32],
) -> Result<()> {
    let lens = [q.len(), keys.len(), values.len(), spans.len(), out.len()];
    s.check_as(KvFormat::Bf16, lens)?;
    let (d, scale) = (s.head_dim, 1.0 / math::sqrt(s.head_dim as f32));
    for row in 0..s.sequences * s.queries {
        let span = s.span(spans, row);
        for h in 0..s.n_heads {
            let query = &q[row * s.q_stride + s.q_offset + h * d..][..d];
            let kv_head = h / (s.n_heads / s.n_kv_heads) * s.kv_head_stride;
            let out = &mut out[(row * s.n_heads + h) * d..][..d];
            let score = |j: usize| {
                let key = &keys[j * s.kv_stride + s.k_offset + kv_head..];
                let terms = query.iter().enumerate();
                terms.fold(0.0, |sum, (i, q)| sum + to_half(*q) * element(key, i)) * scale
            };
            let add = |p: f32, j: usize, out: &mut [f32]| {
                let p = to_half(p);
                let value = &values[j * s.kv_stride + s.v_offset + kv_head..];
                for (i, out) in out.iter_mut().enumerate() {
                    *out += p * element(value, i);
                }
            };
            weighted(&s, (span, row % s.queries), score, add, out);
        }
    }
    Ok(())
}
