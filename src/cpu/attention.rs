//! Attention. Of many queries as two products with the kernel of [`gemm`](super::gemm): keys and values of a sequence's
//! head are packed into panels, then meet up to 48 queries at once. Of few queries, over 16 bits and over 8, see [`few`].

mod bf16;
mod few;
mod floats;
mod plan;
mod q8;

use core::marker::PhantomData;

use self::bf16::Halves;
use self::few::Few;
use self::floats::Floats;
use self::plan::{Plan, most_keys, work};
use self::q8::Q8;
use super::Cpu;
use super::gemm::{Rows, Sums, block};
use super::packed::{PANEL, Panel, panel_width};
use super::simd::{Job, Lanes};
use super::tiles::{ROWS, Tile, Tiles};
use crate::error::{Error, Result};
use crate::math;
use crate::ops::attention::{AttentionShape, KvFormat, RelativeShape};
use crate::ops::norm::{lane_max, lane_sum};

/// Some queries of one sequence, some of its heads.
struct Queries<'a> {
    s: AttentionShape,
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    spans: &'a [u32],
    scale: f32,
    /// Bias of each head by distance; empty if there is none.
    bias: &'a [f32],
    scratch: &'a mut [f32],
    tile: Tile<'a>,
}

/// Scratch for so many keys: packed keys, packed values, probabilities.
fn scratch(s: &AttentionShape, keys: usize, queries: usize) -> [usize; 3] {
    let room = keys.next_multiple_of(PANEL);
    [
        room * s.head_dim,
        keys * s.head_dim.next_multiple_of(PANEL),
        room * queries,
    ]
}

impl Job for Queries<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let (s, d, len) = (self.s, self.s.head_dim, self.tile.len);
        let span = s.span(self.spans, self.tile.row);
        let first = self.tile.row % s.queries;
        let seen = |r: usize| {
            s.visible(span, first + r)
                .into_iter()
                .map(|range| range.len())
                .sum::<usize>()
        };
        let rows = || s.rows(span, first + len - 1);
        let n = seen(len - 1);
        let [k_len, v_len, p_len] = scratch(&s, n, len);
        let (packed_keys, rest) = self.scratch.split_at_mut(k_len);
        let (packed_values, rest) = rest.split_at_mut(v_len);
        let p = &mut rest[..p_len];
        let p_stride = n.next_multiple_of(PANEL);
        let group = s.n_heads / s.n_kv_heads;
        let scale = self.scale;
        let distances = self.bias.len() / s.n_heads;
        for h in 0..self.tile.columns() / d {
            let head = self.tile.column / d + h;
            if h == 0 || head.is_multiple_of(group) {
                let kv = head / group * s.kv_head_stride;
                pack_keys::<V>(
                    n,
                    d,
                    rows(),
                    |j| &self.keys[j * s.kv_stride + s.k_offset + kv..][..d],
                    packed_keys,
                );
                pack_values(
                    n,
                    d,
                    rows(),
                    |j| &self.values[j * s.kv_stride + s.v_offset + kv..][..d],
                    packed_values,
                );
            }
            let q = &self.q[self.tile.row * s.q_stride + s.q_offset + head * d..];
            for from in (0..n).step_by(PANEL) {
                let width = panel_width(n, from);
                let mut sums: Sums = [[0.0; PANEL]; ROWS];
                let panel = Panel {
                    w: &packed_keys[from * d..][..width * d],
                    width,
                    k: d,
                };
                block::<V>(
                    Rows {
                        x: q,
                        stride: s.q_stride,
                        len,
                    },
                    panel,
                    &mut sums,
                );
                for (sums, p) in sums.iter().zip(p.chunks_exact_mut(p_stride)) {
                    for (p, sum) in p[from..][..width].iter_mut().zip(sums) {
                        *p = sum * scale;
                    }
                }
                if distances > 0 {
                    // Only sequences that are all there is, so that key j is row j.
                    let bias = &self.bias[head * distances..][..distances];
                    for (r, p) in p.chunks_exact_mut(p_stride).enumerate().take(len) {
                        let keys = from..n.min(from + width);
                        let bias = &bias[keys.start + s.queries - 1 - (first + r)..];
                        for (p, b) in p[keys].iter_mut().zip(bias) {
                            *p += b;
                        }
                    }
                }
            }
            let mut totals = [0.0_f32; ROWS];
            for (r, (total, p)) in totals
                .iter_mut()
                .zip(p.chunks_exact_mut(p_stride.max(1)))
                .enumerate()
            {
                *total = exponentials(&mut p[..seen(r)], s.first_weight(span));
            }
            // Every row sees the first `common` keys; a causal row's further ones follow one by one.
            let common = seen(0);
            for from in (0..d).step_by(PANEL) {
                let width = panel_width(d, from);
                let values = &packed_values[from * n..][..width * n];
                let mut sums: Sums = [[0.0; PANEL]; ROWS];
                if common > 0 {
                    let panel = Panel {
                        w: values,
                        width,
                        k: common,
                    };
                    block::<V>(
                        Rows {
                            x: p,
                            stride: p_stride,
                            len,
                        },
                        panel,
                        &mut sums,
                    );
                }
                for (r, (out, sums)) in self.tile.rows().zip(&mut sums).enumerate() {
                    for j in common..seen(r) {
                        let p = p[r * p_stride + j];
                        for (sum, v) in sums.iter_mut().zip(&values[j * width..][..width]) {
                            *sum += p * v;
                        }
                    }
                    let inverse = if totals[r] > 0.0 {
                        1.0 / totals[r]
                    } else {
                        1.0
                    };
                    for (out, sum) in out[h * d..][..d][from..].iter_mut().zip(sums) {
                        *out = *sum * inverse;
                    }
                }
            }
        }
    }
}

/// Scores to exponentials against the largest, the first one of a weight; their sum.
#[inline(always)]
fn exponentials(p: &mut [f32], first_weight: f32) -> f32 {
    let largest = lane_max(p);
    let (groups, rest) = p.as_chunks_mut::<16>();
    for group in groups {
        for v in group {
            *v = math::exp(*v - largest);
        }
    }
    for v in rest {
        *v = math::exp(*v - largest);
    }
    if let Some(first) = p.first_mut() {
        *first *= first_weight;
    }
    lane_sum(p, |v| v)
}

/// Rows of keys to panels `[key / 64][d][key % 64]`.
#[inline(always)]
fn pack_keys<'a, V: Lanes>(
    n: usize,
    d: usize,
    mut rows: impl Iterator<Item = usize>,
    key: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
) {
    for from in (0..n).step_by(PANEL) {
        let width = panel_width(n, from);
        let out = &mut out[from * d..][..width * d];
        turn_keys::<V>(width, d, &mut rows, &key, width, out);
    }
}

/// The next `n` keys to columns at a distance of `stride`, 16 at a time; columns past the last key hold anything.
#[inline(always)]
fn turn_keys<'a, V: Lanes>(
    n: usize,
    d: usize,
    rows: &mut impl Iterator<Item = usize>,
    key: &impl Fn(usize) -> &'a [f32],
    stride: usize,
    out: &mut [f32],
) {
    for c in (0..n).step_by(16) {
        let mut keys: [&[f32]; 16] = [&[]; 16];
        let mut last: &[f32] = &[];
        for place in &mut keys {
            if let Some(row) = rows.next() {
                last = key(row);
            }
            *place = last;
        }
        if last.is_empty() {
            return;
        }
        let whole = d / 16 * 16;
        for t in (0..whole).step_by(16) {
            let mut columns = keys;
            for column in &mut columns {
                *column = &column[t..];
            }
            V::turn(columns, stride, &mut out[t * stride + c..]);
        }
        for t in whole..d {
            for (out, key) in out[t * stride + c..].iter_mut().zip(keys) {
                *out = key[t];
            }
        }
    }
}

/// Rows of values to panels `[d / 64][key][d % 64]`.
#[inline(always)]
fn pack_values<'a>(
    n: usize,
    d: usize,
    rows: impl Iterator<Item = usize> + Clone,
    value: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
) {
    for from in (0..d).step_by(PANEL) {
        let width = panel_width(d, from);
        for (j, out) in rows.clone().zip(out[from * n..].chunks_exact_mut(width)) {
            let value = &value(j)[from..d.min(from + width)];
            let (head, tail) = out.split_at_mut(value.len());
            head.copy_from_slice(value);
            tail.fill(0.0);
        }
    }
}

impl Cpu {
    pub(super) fn attend(
        &self,
        s: AttentionShape,
        q: &[f32],
        [keys, values]: [&[f32]; 2],
        spans: &[u32],
        out: &mut [f32],
    ) -> Result<()> {
        s.check(q.len(), keys.len(), values.len(), spans.len(), out.len())?;
        let scale = 1.0 / math::sqrt(s.head_dim as f32);
        self.attend_biased(s, q, [keys, values], spans, (scale, &[]), out)
    }

    pub(super) fn attend_relative(
        &self,
        s: RelativeShape,
        qkv: &[f32],
        bias: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        s.check(qkv.len(), bias.len(), out.len())?;
        let width = s.n_heads * s.head_dim;
        let rows = u32::try_from(s.rows).map_err(|_| Error::Overflow {
            op: "relative_attention",
        })?;
        let shape = AttentionShape {
            sequences: 1,
            queries: s.rows,
            n_heads: s.n_heads,
            n_kv_heads: s.n_heads,
            head_dim: s.head_dim,
            q_stride: 3 * width,
            q_offset: 0,
            kv_rows: s.rows,
            kv_stride: 3 * width,
            kv_head_stride: s.head_dim,
            k_offset: width,
            v_offset: 2 * width,
            causal: false,
            repeated_prefix: false,
            pages: 0,
        };
        let bias = &bias[..s.n_heads * s.distances()];
        self.attend_biased(shape, qkv, [qkv; 2], &[0, 0, 0, rows], (s.scale, bias), out)
    }

    fn attend_biased(
        &self,
        s: AttentionShape,
        q: &[f32],
        [keys, values]: [&[f32]; 2],
        spans: &[u32],
        (scale, bias): (f32, &[f32]),
        out: &mut [f32],
    ) -> Result<()> {
        if s.sequences == 0 || s.queries == 0 {
            return Ok(());
        }
        let isa = self.isa;
        // Panels of all keys and values pay only for many queries.
        if s.queries == 1 && bias.is_empty() {
            let plan = Plan::new(self, &s, spans, Floats::words(s.head_dim));
            return self.each_few(&s, &plan, out, |scratch, tile| {
                isa.run(Few {
                    s,
                    q,
                    cached: Floats { keys, values },
                    spans,
                    scale,
                    together: plan.together,
                    words: plan.words,
                    scratch,
                    tile,
                });
            });
        }
        let width = s.n_heads * s.head_dim;
        let n = most_keys(&s, spans);
        let len = scratch(&s, n, s.queries.min(ROWS))
            .into_iter()
            .fold(0, usize::saturating_add);
        let tasks = s.sequences * s.queries.div_ceil(ROWS);
        let wanted = if self.threads() == 1 {
            1
        } else {
            (4 * self.threads()).div_ceil(tasks.max(1))
        };
        let columns = s.n_kv_heads.div_ceil(wanted.min(s.n_kv_heads)) * (width / s.n_kv_heads);
        let tiles = Tiles::new(
            &mut out[..s.sequences * s.queries * width],
            width,
            s.queries,
            columns,
        );
        self.pool
            .each_with(work(&s, n), len, tiles, |scratch, tile| {
                isa.run(Queries {
                    s,
                    q,
                    keys,
                    values,
                    spans,
                    scale,
                    bias,
                    scratch,
                    tile,
                });
            })
    }

    pub(super) fn attend_bf16(
        &self,
        s: AttentionShape,
        q: &[f32],
        [keys, values]: [&[u32]; 2],
        spans: &[u32],
        out: &mut [f32],
    ) -> Result<()> {
        let lens = [q.len(), keys.len(), values.len(), spans.len(), out.len()];
        s.check_as(KvFormat::Bf16, lens)?;
        if s.sequences == 0 || s.queries == 0 {
            return Ok(());
        }
        let scale = 1.0 / math::sqrt(s.head_dim as f32);
        let plan = Plan::new(self, &s, spans, bf16::words(s.head_dim));
        let isa = self.isa;
        self.each_few(&s, &plan, out, |scratch, tile| {
            isa.run(Few {
                s,
                q,
                cached: Halves { keys, values },
                spans,
                scale,
                together: plan.together,
                words: plan.words,
                scratch,
                tile,
            });
        })
    }

    pub(super) fn attend_q8(
        &self,
        s: AttentionShape,
        q: &[f32],
        [keys, values]: [&[u32]; 2],
        spans: &[u32],
        out: &mut [f32],
    ) -> Result<()> {
        let lens = [q.len(), keys.len(), values.len(), spans.len(), out.len()];
        s.check_as(KvFormat::Q8, lens)?;
        if s.sequences == 0 || s.queries == 0 {
            return Ok(());
        }
        let scale = 1.0 / math::sqrt(s.head_dim as f32);
        let plan = Plan::new(self, &s, spans, q8::words(s.head_dim));
        let isa = self.isa;
        self.each_few(&s, &plan, out, |scratch, tile| {
            isa.run_dots(Few {
                s,
                q,
                cached: Q8 {
                    keys,
                    values,
                    dots: PhantomData,
                },
                spans,
                scale,
                together: plan.together,
                words: plan.words,
                scratch,
                tile,
            });
        })
    }

    /// Shares out the tiles of rows that share what they see.
    fn each_few(
        &self,
        s: &AttentionShape,
        plan: &Plan,
        out: &mut [f32],
        f: impl Fn(&mut [f32], Tile<'_>) + Sync,
    ) -> Result<()> {
        let width = s.n_heads * s.head_dim;
        let out = &mut out[..s.sequences * s.queries * width];
        let together = if s.queries == 1 {
            s.sequences
        } else {
            s.queries
        };
        let tiles = Tiles::new(out, width, together, plan.columns);
        self.pool.each_with(plan.work, plan.scratch, tiles, f)
    }
}
