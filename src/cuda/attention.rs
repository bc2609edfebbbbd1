//! Rotary embedding, cache append, attention.

use cudarc::driver::{LaunchConfig, PushKernelArg};

use super::memory::Buffer;
use super::module::Family::Attention;
use super::{Device, along, failed, grid, words};
use crate::error::{Error, Result, product};
use crate::ops::attention::{AppendShape, AttentionShape, RelativeShape, RotaryShape};

/// Threads of a block: see `TILE` in `kernels/attention.cu`.
const THREADS: u32 = 128;
/// Widest head: the query and the sums of values lie in shared memory.
const MOST_HEAD_DIM: usize = 4096;

/// A block for each row and head, with room for a query and the sums of values.
fn shape(op: &'static str, rows: usize, heads: usize, head_dim: usize) -> Result<LaunchConfig> {
    if head_dim > MOST_HEAD_DIM {
        return Err(Error::Range {
            op,
            arg: "head_dim",
            got: head_dim as u64,
            min: 1,
            max: MOST_HEAD_DIM as u64,
        });
    }
    let [bytes] = words(op, [2 * size_of::<f32>() * head_dim])?;
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
        let mut args = self.stream.launch_builder(&f);
        args.arg(&mut x.data).arg(&positions.data).arg(&table.data);
        args.arg(&rows).arg(&heads).arg(&head_dim).arg(&rotary_dim);
        args.arg(&stride).arg(&offset).arg(&table_rows);
        // SAFETY: rotary(x, positions, table, rows, heads, head_dim, rotary_dim, stride, offset, table_rows). `check`
        // proved that heads lie inside a row and rotated pairs inside a head; the kernel compares each position with
        // the table's rows, and threads past the last pair leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn append_rows(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "append";
        s.check(x.len, places.len, cache.len)?;
        self.owns(KERNEL, &[x, cache])?;
        places.belongs(KERNEL, &self.stream)?;
        let Some(shape) = along(KERNEL, &[s.rows, s.heads, s.head_dim])? else {
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
        let [rows, heads, head_dim, stride, offset, cache_rows] = words(KERNEL, sizes)?;
        words(KERNEL, [product(KERNEL, &[s.heads, s.head_dim])?])?;
        let f = self.function(Attention, KERNEL)?;
        let mut args = self.stream.launch_builder(&f);
        args.arg(&mut cache.data).arg(&x.data).arg(&places.data);
        args.arg(&rows).arg(&heads).arg(&head_dim);
        args.arg(&stride).arg(&offset).arg(&cache_rows);
        // SAFETY: append(cache, x, places, rows, heads, head_dim, stride, offset, cache_rows). `check` proved that
        // heads lie inside a row and that the cache holds cache_rows of them; the kernel compares each place with
        // cache_rows, and threads past the last element leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn attend(
        &self,
        s: AttentionShape,
        q: &Buffer<f32>,
        [keys, values]: [&Buffer<f32>; 2],
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "attention";
        s.check(q.len, keys.len, values.len, spans.len, out.len)?;
        self.owns(KERNEL, &[q, keys, values, out])?;
        spans.belongs(KERNEL, &self.stream)?;
        let all = product(KERNEL, &[s.sequences, s.queries])?;
        if all == 0 {
            return Ok(());
        }
        let shape = shape(KERNEL, all, s.n_heads, s.head_dim)?;
        let group = s.n_heads / s.n_kv_heads;
        let sizes = [
            s.queries, group, s.head_dim, s.q_stride, s.q_offset, s.kv_rows,
        ];
        let [queries, group, head_dim, q_stride, q_offset, kv_rows] = words(KERNEL, sizes)?;
        let [kv_stride, kv_head_stride] = words(KERNEL, [s.kv_stride, s.kv_head_stride])?;
        // Without rows nothing is read, and offsets may lie anywhere.
        let from = |offset: usize| if s.kv_rows == 0 { 0 } else { offset };
        let (k_offset, v_offset) = (from(s.k_offset), from(s.v_offset));
        let keys = keys.part(KERNEL, "keys", k_offset, keys.len - k_offset)?;
        let values = values.part(KERNEL, "values", v_offset, values.len - v_offset)?;
        let (causal, repeated) = (u32::from(s.causal), u32::from(s.repeated_prefix));
        let f = self.function(Attention, KERNEL)?;
        let mut args = self.stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&q.data).arg(&keys).arg(&values);
        args.arg(&spans.data).arg(&queries).arg(&group);
        args.arg(&head_dim).arg(&q_stride).arg(&q_offset);
        args.arg(&kv_rows).arg(&kv_stride).arg(&kv_head_stride);
        args.arg(&causal).arg(&repeated);
        // SAFETY: attention(out, q, keys, values, spans, queries, group, head_dim, q_stride, q_offset, kv_rows,
        // kv_stride, kv_head_stride, causal, repeated_prefix), a block for each query row and head. `check` proved that
        // the last row of the last head lies inside keys and values behind their offsets; the kernel cuts every span to
        // kv_rows. Shared memory holds two heads.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
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
        let shape = shape(KERNEL, s.rows, s.n_heads, s.head_dim)?;
        let [rows, head_dim] = words(KERNEL, [s.rows, s.head_dim])?;
        let f = self.function(Attention, KERNEL)?;
        let mut args = self.stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&qkv.data).arg(&bias.data);
        args.arg(&rows).arg(&head_dim).arg(&s.scale);
        // SAFETY: relative_attention(out, qkv, bias, rows, head_dim, scale), a block for each row and head. `check`
        // proved that qkv holds rows · 3 · heads · head_dim elements, out a third, bias a row of distances a head.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
