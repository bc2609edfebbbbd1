//! Gradient of attention: five products a head with the kernel of [`gemm`](crate::cpu::gemm), over probabilities that
//! lie whole in scratch. A task is one key and value head with its query heads. What a row does not see has the probability
//! zero and is multiplied like the rest: that changes no bit of finite numbers, and makes NaN of others.

use alloc::vec::Vec;

use super::transpose;
use crate::cpu::Cpu;
use crate::cpu::gemm::{Rows, Sums, block};
use crate::cpu::packed::{PANEL, Panel, panel_width};
use crate::cpu::simd::{Job, Lanes};
use crate::cpu::tiles::ROWS;
use crate::error::{Error, Result, product};
use crate::math;
use crate::ops::backward::attention::SelfAttentionShape;
use crate::ops::norm::{lane_max, lane_sum};

/// One key and value head.
struct Head<'a> {
    s: SelfAttentionShape,
    qkv: &'a [f32],
    dy: &'a [f32],
    kv: usize,
    scratch: &'a mut [f32],
    /// dq of the query heads, dk, dv side by side, `[rows, (group + 2) · head_dim]`.
    out: &'a mut [f32],
}

/// Scratch: keys or values in panels, probabilities, their gradients, one of the two turned, one panel of rows.
fn scratch(s: &SelfAttentionShape) -> Result<[usize; 5]> {
    const OP: &str = "attention_dx";
    let (room, group) = (s.rows.next_multiple_of(PANEL), s.n_heads / s.n_kv_heads);
    let all = product(OP, &[group, s.rows, room])?;
    Ok([
        product(OP, &[room, s.head_dim])?,
        all,
        all,
        product(OP, &[group, s.rows, s.rows])?,
        product(OP, &[group, s.rows, PANEL])?,
    ])
}

impl Head<'_> {
    /// scores\[i, j\] = x_i · y_j, `y` of the key and value head that starts at `at`.
    #[inline(always)]
    fn scores<V: Lanes>(
        &self,
        (x, stride): (&[f32], usize),
        at: usize,
        packed: &mut [f32],
        scores: &mut [f32],
    ) {
        let (n, d) = (self.s.rows, self.s.head_dim);
        let room = n.next_multiple_of(PANEL);
        for from in (0..n).step_by(PANEL) {
            let width = panel_width(n, from);
            let packed = &mut packed[from * d..][..width * d];
            let y = &self.qkv[from * self.s.stride() + at..];
            let count = PANEL.min(n - from);
            transpose::<V>([count, d], (y, self.s.stride()), (packed, width));
            for first in (0..n).step_by(ROWS) {
                let len = ROWS.min(n - first);
                let mut sums: Sums = [[0.0; PANEL]; ROWS];
                let rows = Rows {
                    x: &x[first * stride..],
                    stride,
                    len,
                };
                let panel = Panel {
                    w: packed,
                    width,
                    k: d,
                };
                block::<V>(rows, panel, &mut sums);
                let out = scores[first * room..].chunks_exact_mut(room);
                for (sums, out) in sums.iter().zip(out).take(len) {
                    out[from..][..width].copy_from_slice(&sums[..width]);
                }
            }
        }
    }

    /// out\[i, column ..\] = Σ_j p\[i, j\] · rows\[j\], each row of `rows` at most a panel wide.
    #[inline(always)]
    fn products<V: Lanes>(
        &mut self,
        (p, stride): (&[f32], usize),
        lines: Panel<'_>,
        (column, width): (usize, usize),
        causal: bool,
    ) {
        let n = self.s.rows;
        let out_width = self.out.len() / n;
        for first in (0..n).step_by(ROWS) {
            let len = ROWS.min(n - first);
            let k = if causal {
                self.s.visible(first + len - 1)
            } else {
                lines.k
            };
            let mut sums: Sums = [[0.0; PANEL]; ROWS];
            let rows = Rows {
                x: &p[first * stride..],
                stride,
                len,
            };
            block::<V>(rows, Panel { k, ..lines }, &mut sums);
            let out = self.out[first * out_width..].chunks_exact_mut(out_width);
            for (sums, out) in sums.iter().zip(out).take(len) {
                out[column..][..width].copy_from_slice(&sums[..width]);
            }
        }
    }
}

/// Copies columns of rows into lines of `width`, of which the rest are zeros.
#[inline(always)]
fn copy_lines(
    (x, stride): (&[f32], usize),
    rows: usize,
    columns: usize,
    (out, width): (&mut [f32], usize),
) {
    for (i, line) in out.chunks_exact_mut(width).take(rows).enumerate() {
        line[..columns].copy_from_slice(&x[i * stride..][..columns]);
        line[columns..].fill(0.0);
    }
}

impl Job for Head<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let s = self.s;
        let (n, d, stride, group) = (s.rows, s.head_dim, s.stride(), s.n_heads / s.n_kv_heads);
        let (room, first_head) = (n.next_multiple_of(PANEL), self.kv * group);
        let k_at = (s.n_heads + self.kv) * d;
        let v_at = (s.n_heads + s.n_kv_heads + self.kv) * d;
        let scratch = core::mem::take(&mut self.scratch);
        let (packed, rest) = scratch.split_at_mut(room * d);
        let (p, rest) = rest.split_at_mut(group * n * room);
        let (ds, rest) = rest.split_at_mut(group * n * room);
        let (turned, lines) = rest.split_at_mut(group * n * n);
        let scale = 1.0 / math::sqrt(d as f32);
        let (qkv, dy, dy_stride) = (self.qkv, self.dy, s.n_heads * d);
        for g in 0..group {
            let head = (first_head + g) * d;
            let (p, ds) = (
                &mut p[g * n * room..][..n * room],
                &mut ds[g * n * room..][..n * room],
            );
            self.scores::<V>((&qkv[head..], stride), k_at, packed, p);
            self.scores::<V>((&dy[head..], dy_stride), v_at, packed, ds);
            let rows = p.chunks_exact_mut(room).zip(ds.chunks_exact_mut(room));
            for (i, (p, ds)) in rows.enumerate() {
                softmax_dx(s.visible(i), scale, p, ds);
            }
            for from in (0..d).step_by(PANEL) {
                let (columns, width) = (PANEL.min(d - from), panel_width(d, from));
                copy_lines((&qkv[k_at + from..], stride), n, columns, (lines, width));
                let keys = Panel {
                    w: &lines[..n * width],
                    width,
                    k: n,
                };
                self.products::<V>((ds, room), keys, (g * d + from, columns), true);
            }
        }
        let both = [
            (&*ds, qkv, stride, group * d),
            (&*p, dy, dy_stride, group * d + d),
        ];
        for (p, x, x_stride, at) in both {
            for g in 0..group {
                let p = &p[g * n * room..][..n * room];
                let out = (&mut turned[g * n..], group * n);
                transpose::<V>([n, n], (p, room), out);
            }
            for from in (0..d).step_by(PANEL) {
                let (columns, width) = (PANEL.min(d - from), panel_width(d, from));
                for g in 0..group {
                    let x = &x[(first_head + g) * d + from..];
                    let lines = &mut lines[g * n * width..];
                    copy_lines((x, x_stride), n, columns, (lines, width));
                }
                let rows = Panel {
                    w: &lines[..group * n * width],
                    width,
                    k: group * n,
                };
                self.products::<V>((turned, group * n), rows, (at + from, columns), false);
            }
        }
    }
}

/// From a row of products q·k and one of dy·v to the probabilities and the gradients of the scores; zeros where nothing
/// is seen.
#[inline(always)]
fn softmax_dx(seen: usize, scale: f32, p: &mut [f32], ds: &mut [f32]) {
    let (p, hidden) = p.split_at_mut(seen);
    hidden.fill(0.0);
    let (ds, hidden) = ds.split_at_mut(seen);
    hidden.fill(0.0);
    for p in &mut *p {
        *p *= scale;
    }
    let largest = lane_max(p);
    for p in &mut *p {
        *p = math::exp(*p - largest);
    }
    let inverse = 1.0 / lane_sum(p, |p| p);
    let mut lanes = [0.0_f32; 16];
    for (p, ds) in p.chunks_mut(16).zip(ds.chunks(16)) {
        for ((lane, p), ds) in lanes.iter_mut().zip(p).zip(ds) {
            *p *= inverse;
            *lane += *p * ds;
        }
    }
    let mean: f32 = lanes.iter().sum();
    for (ds, p) in ds.iter_mut().zip(p) {
        *ds = *p * (*ds - mean) * scale;
    }
}

impl Cpu {
    pub(super) fn attend_dx(
        &self,
        s: SelfAttentionShape,
        qkv: &[f32],
        dy: &[f32],
        dqkv: &mut [f32],
    ) -> Result<()> {
        s.check(qkv.len(), dy.len(), dqkv.len())?;
        if s.rows == 0 {
            return Ok(());
        }
        let (d, stride, group) = (s.head_dim, s.stride(), s.n_heads / s.n_kv_heads);
        let width = (group + 2) * d;
        let len = scratch(&s)?.into_iter().fold(0, usize::saturating_add);
        // Heads do not lie together in a row of dqkv.
        let mut heads: Vec<f32> = Vec::new();
        let all = s.rows * s.n_kv_heads * width;
        heads
            .try_reserve_exact(all)
            .map_err(|_| Error::OutOfMemory {
                what: "attention_dx",
                bytes: all.saturating_mul(size_of::<f32>()),
            })?;
        heads.resize(all, 0.0);
        let work = s.rows.saturating_mul(s.rows).saturating_mul(s.n_heads * d) / 2;
        let (isa, tasks) = (self.isa, heads.chunks_exact_mut(s.rows * width).enumerate());
        self.pool
            .each_with(work, len, tasks, |scratch, (kv, out)| {
                isa.run(Head {
                    s,
                    qkv,
                    dy,
                    kv,
                    scratch: &mut scratch[..len],
                    out,
                });
            })?;
        for (kv, head) in heads.chunks_exact(s.rows * width).enumerate() {
            let (k_at, v_at) = ((s.n_heads + kv) * d, (s.n_heads + s.n_kv_heads + kv) * d);
            for (row, out) in head.chunks_exact(width).zip(dqkv.chunks_exact_mut(stride)) {
                let (q, kv_part) = row.split_at(group * d);
                out[kv * group * d..][..group * d].copy_from_slice(q);
                out[k_at..][..d].copy_from_slice(&kv_part[..d]);
                out[v_at..][..d].copy_from_slice(&kv_part[d..]);
            }
        }
        Ok(())
    }
}
