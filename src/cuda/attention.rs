//! Rotary embedding, cache append, attention.

use cudarc::driver::{LaunchConfig, PushKernelArg};

use super::flash::Halves;
use super::memory::Buffer;
use super::module::Family::{Attention, Flash};
use super::{Device, along, failed, grid, words};
use crate::error::{Error, Result, product};
use crate::ops::attention::{
    AppendShape, AttentionShape, KeepShape, KvFormat, RelativeShape, RotaryShape,
};
use crate::ops::{Element, HeadNorms, Turn};
use crate::quant::A8_BLOCK;

/// Threads of a block: see `TILE` in `kernels/attention.cu`.
const THREADS: u32 = 128;
/// Heads of a block of threads whose rows are kept: a warp each.
const HEADS: usize = 8;
const KEEP_THREADS: u32 = 256;
/// Widest head: the query and the sums of values lie in shared memory.
const MOST_HEAD_DIM: usize = 4096;

/// A block for each row and head, with room for a query, the sums of values and `more` words.
fn shape(
    op: &'static str,
    [rows, heads]: [usize; 2],
    head_dim: usize,
    more: usize,
) -> Result<LaunchConfig> {
    if head_dim > MOST_HEAD_DIM {
        return Err(Error::Range {
            op,
            arg: "head_dim",
            got: head_dim as u64,
            min: 1,
            max: MOST_HEAD_DIM as u64,
        });
    }
    // The assembler reads a query's last one to three numbers as four.
    let bytes = size_of::<f32>() * (2 * head_dim + more);
    let [bytes] = words(op, [bytes.next_multiple_of(16)])?;
    Ok(LaunchConfig {
        shared_mem_bytes: bytes,
        ..grid(op, rows, heads, THREADS)?
    })
}

impl Device {
    pub(super) fn rotate(
        &self,
        s: RotaryShape,
        x: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        table: &Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "rotary";
        s.check(x.len, positions.len, table.len)?;
        self.owns(KERNEL, &[x, table])?;
        positions.belongs(KERNEL, &self.stream)?;
        let Some(shape) = along(KERNEL, &[s.rows, s.heads, s.rotary_dim / 2])? else {
            return Ok(());
        };
        let sizes = [
            s.rows,
            s.heads,
            s.head_dim,
            s.rotary_dim,
            s.stride,
            s.offset,
        ];
        let [rows, heads, head_dim, rotary_dim, stride, offset] = words(KERNEL, sizes)?;
        let [table_rows] = words(KERNEL, [s.positions])?;
        let f = self.function(Attention, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut x.data).arg(&positions.data).arg(&table.data);
        args.arg(&rows).arg(&heads).arg(&head_dim).arg(&rotary_dim);
        args.arg(&stride).arg(&offset).arg(&table_rows);
        // SAFETY: rotary(x, positions, table, rows, heads, head_dim, rotary_dim, stride, offset, table_rows). `check`
        // proved that heads lie inside a row and rotated pairs inside a head; the kernel compares each position with
        // the table's rows, and threads past the last pair leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn append_rows<T: Element>(
        &self,
        kv: KvFormat,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<T>,
    ) -> Result<()> {
        // A thread makes one element, two halves, or eight a block.
        let (family, kernel, pieces) = match kv {
            KvFormat::F32 => (Attention, "append", s.head_dim),
            KvFormat::Bf16 => (Flash, "append_bf16", kv.words(s.head_dim)),
            KvFormat::Q8 => {
                let pieces = s.head_dim.div_ceil(A8_BLOCK).saturating_mul(8);
                (Attention, "append_q8", pieces)
            }
        };
        s.check_as(kv, x.len, places.len, cache.len)?;
        self.owns(kernel, &[x])?;
        cache.belongs(kernel, &self.stream)?;
        places.belongs(kernel, &self.stream)?;
        let Some(shape) = along(kernel, &[s.rows, s.heads, pieces])? else {
            return Ok(());
        };
        let sizes = [
            s.rows,
            s.heads,
            s.head_dim,
            s.stride,
            s.offset,
            s.cache_rows,
        ];
        let [rows, heads, head_dim, stride, offset, cache_rows] = words(kernel, sizes)?;
        words(kernel, [product(kernel, &[s.heads, s.head_dim])?])?;
        let f = self.function(family, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut cache.data).arg(&x.data).arg(&places.data);
        args.arg(&rows).arg(&heads).arg(&head_dim);
        args.arg(&stride).arg(&offset).arg(&cache_rows);
        // SAFETY: append, append_bf16, append_q8(cache, x, places, rows, heads, head_dim, stride, offset, cache_rows).
        // `check_as` proved that heads lie inside a row and that the cache holds cache_rows of them in this format; the
        // kernel compares each place with cache_rows, and threads past the last element or block leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    /// Norms of heads, rotation and both appends, a launch.
    pub(super) fn keep_heads<T: Element>(
        &self,
        (kv, s): (KvFormat, KeepShape),
        x: &mut Buffer<f32>,
        (norms, turn): (Option<HeadNorms<'_, Self>>, Option<Turn<'_, Self>>),
        places: &Buffer<u32>,
        [keys, values]: &mut [Buffer<T>; 2],
    ) -> Result<()> {
        let (family, kernel) = match kv {
            KvFormat::F32 => (Attention, "keep"),
            KvFormat::Bf16 => (Flash, "keep_bf16"),
            KvFormat::Q8 => (Attention, "keep_q8"),
        };
        let rotary_dim = match turn {
            Some((positions, table)) => {
                s.rotary().check(x.len, positions.len, table.len)?;
                positions.belongs(kernel, &self.stream)?;
                self.owns(kernel, &[table])?;
                s.rotary_dim
            }
            None => 0,
        };
        if let Some(norms) = &norms {
            let shapes = s.norms(norms.eps);
            for (shape, [weight, bias]) in shapes.into_iter().zip([norms.queries, norms.keys]) {
                shape.check(x.len, weight.len, bias.len)?;
                self.owns(kernel, &[weight, bias])?;
            }
        }
        self.owns(kernel, &[x])?;
        places.belongs(kernel, &self.stream)?;
        for (append, cache) in s.appends().into_iter().zip([&*keys, &*values]) {
            append.check_as(kv, x.len, places.len, cache.len)?;
            cache.belongs(kernel, &self.stream)?;
        }
        let heads = s.q_heads.saturating_add(s.kv_heads.saturating_mul(2));
        let units = product(kernel, &[s.rows, heads])?;
        if units == 0 {
            return Ok(());
        }
        let sizes = [s.rows, s.q_heads, s.kv_heads, s.head_dim, rotary_dim];
        let [rows, q_heads, kv_heads, head_dim, rotary_dim] = words(kernel, sizes)?;
        let [table_rows, cache_rows] = words(kernel, [s.positions, s.cache_rows])?;
        // Units are numbered in 32 bits, those past the last one included.
        words(kernel, [units.saturating_add(HEADS)])?;
        let f = self.function(family, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut keys.data)
            .arg(&mut values.data)
            .arg(&mut x.data);
        match turn {
            Some((positions, table)) => args.arg(&positions.data).arg(&table.data),
            // Not read.
            None => args.arg(&places.data).arg(&places.data),
        };
        args.arg(&places.data).arg(&rows).arg(&q_heads);
        args.arg(&kv_heads).arg(&head_dim).arg(&rotary_dim);
        args.arg(&table_rows).arg(&cache_rows);
        let (normalise, eps) = (
            u32::from(norms.is_some()),
            norms.as_ref().map_or(0.0, |n| n.eps),
        );
        match &norms {
            Some(norms) => {
                for part in norms.queries.into_iter().chain(norms.keys) {
                    args.arg(&part.data);
                }
            }
            // Not read.
            None => {
                for _ in 0..4 {
                    args.arg(&places.data);
                }
            }
        }
        args.arg(&normalise).arg(&eps);
        // SAFETY: keep, keep_bf16, keep_q8(keys, values, x, positions, table, places, rows, q_heads, kv_heads, head_dim,
        // rotary_dim, table_rows, cache_rows, q_weight, q_bias, k_weight, k_bias, normalise, eps), a warp for each head of each
        // row. The checks proved that x holds them, that norms hold a head and rotated pairs lie inside one, and that the caches
        // hold cache_rows of each head in this format; the kernel compares positions with the table's rows and places with
        // cache_rows, and warps past the last head leave.
        unsafe { args.launch(grid(kernel, units.div_ceil(HEADS), 1, KEEP_THREADS)?) }
            .map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    pub(super) fn attend<T: Element>(
        &self,
        (kv, s): (KvFormat, AttentionShape),
        q: &Buffer<f32>,
        [keys, values]: [&Buffer<T>; 2],
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        // A rounded query lies beside the query.
        let (family, kernel, more) = match kv {
            KvFormat::F32 => (Attention, "attention", 0),
            KvFormat::Bf16 => (Flash, "attention_bf16", 0),
            KvFormat::Q8 => (Attention, "attention_q8", kv.words(s.head_dim)),
        };
        s.check_as(kv, [q.len, keys.len, values.len, spans.len, out.len])?;
        self.owns(kernel, &[q, out])?;
        keys.belongs(kernel, &self.stream)?;
        values.belongs(kernel, &self.stream)?;
        spans.belongs(kernel, &self.stream)?;
        let all = product(kernel, &[s.sequences, s.queries])?;
        if all == 0 {
            return Ok(());
        }
        // Without rows nothing is read, and offsets may lie anywhere.
        let from = |offset: usize| if s.kv_rows == 0 { 0 } else { offset };
        let (k_offset, v_offset) = (from(s.k_offset), from(s.v_offset));
        let keys = keys.part(kernel, "keys", k_offset, keys.len - k_offset)?;
        let values = values.part(kernel, "values", v_offset, values.len - v_offset)?;
        if let Some(halves) = Halves::plan(kv, &s)? {
            return self.attend_halves((s, halves), q, [&keys, &values], spans, out);
        }
        // Kernels of many rows know no pages; the bits are the same.
        if s.pages == 0
            && (self.attend_tiles((kv, s), q, [&keys, &values], spans, out)?
                || kv == KvFormat::F32 && self.attend_wide(s, q, [&keys, &values], spans, out)?)
        {
            return Ok(());
        }
        if self.attend_rows((kv, s), q, [&keys, &values], spans, out)? {
            return Ok(());
        }
        let shape = shape(kernel, [all, s.n_heads], s.head_dim, more)?;
        let group = s.n_heads / s.n_kv_heads;
        let sizes = [
            s.queries, group, s.head_dim, s.q_stride, s.q_offset, s.kv_rows,
        ];
        let [queries, group, head_dim, q_stride, q_offset, kv_rows] = words(kernel, sizes)?;
        let [kv_stride, kv_head_stride, pages] =
            words(kernel, [s.kv_stride, s.kv_head_stride, s.pages])?;
        let (causal, repeated) = (u32::from(s.causal), u32::from(s.repeated_prefix));
        let f = self.function(family, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&q.data).arg(&keys).arg(&values);
        args.arg(&spans.data).arg(&queries).arg(&group);
        args.arg(&head_dim).arg(&q_stride).arg(&q_offset);
        args.arg(&kv_rows).arg(&kv_stride).arg(&kv_head_stride);
        args.arg(&causal).arg(&repeated).arg(&pages);
        // SAFETY: attention, attention_bf16, attention_q8(out, q, keys, values, spans, queries, group, head_dim,
        // q_stride, q_offset, kv_rows, kv_stride, kv_head_stride, causal, repeated_prefix, pages), a block for each query
        // row and head. `check_as` proved that the last row of the last head lies inside keys and values behind their
        // offsets; the kernel cuts every span and every page to kv_rows. Shared memory holds two heads, and in 8 bits a
        // rounded one.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    pub(super) fn attend_relative(
        &self,
        s: RelativeShape,
        qkv: &Buffer<f32>,
        bias: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "relative_attention";
        s.check(qkv.len, bias.len, out.len)?;
        self.owns(KERNEL, &[qkv, bias, out])?;
        if s.rows == 0 {
            return Ok(());
        }
        let shape = shape(KERNEL, [s.rows, s.n_heads], s.head_dim, 0)?;
        let [rows, head_dim] = words(KERNEL, [s.rows, s.head_dim])?;
        let f = self.function(Attention, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&qkv.data).arg(&bias.data);
        args.arg(&rows).arg(&head_dim).arg(&s.scale);
        // SAFETY: relative_attention(out, qkv, bias, rows, head_dim, scale), a block for each row and head. `check`
        // proved that qkv holds rows · 3 · heads · head_dim elements, out a third, bias a row of distances a head.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
