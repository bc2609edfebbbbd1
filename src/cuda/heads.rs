//! Attention of many query rows with heads that have no tiles of their own: scores, weights, values, one after the other.

use cudarc::driver::{CudaView, LaunchConfig, PushKernelArg};

use super::memory::Buffer;
use super::module::Family::Heads;
use super::{Device, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::attention::AttentionShape;

/// As in `kernels/heads.cu`: query rows of a tile, keys and columns of a block, and threads.
const ROWS: usize = 64;
const KEYS: usize = 32;
const COLUMNS: usize = 32;
const THREADS: u32 = 128;
/// Bytes that a block of scores keeps in shared memory: two stages of 64 columns, four words more between rows.
const SHARED_BYTES: usize = 2 * (ROWS + KEYS) * 68 * size_of::<u32>();
/// Query rows of a sequence from which on this is worth it.
const MANY: usize = 16;
/// Scores that are kept between the launches at most; more query rows follow each other in portions.
const SCORES_BYTES: usize = 64 << 20;
/// Blocks at most that share the keys of a tile of rows.
const SPLITS: usize = 64;

impl Device {
    /// Attention over floats whose lengths have been checked, if its rows lie as copies need them; keys and values begin
    /// with the first head's.
    pub(super) fn attend_wide(
        &self,
        s: AttentionShape,
        q: &Buffer<f32>,
        [keys, values]: [&CudaView<'_, u8>; 2],
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<bool> {
        const OP: &str = "attention";
        // Copies of 16 bytes.
        let at = [
            s.head_dim,
            s.q_stride,
            s.q_offset,
            s.kv_stride,
            s.kv_head_stride,
            s.k_offset,
            s.v_offset,
        ];
        if s.queries < MANY || !at.iter().all(|n| n.is_multiple_of(4)) {
            return Ok(false);
        }
        // A prefix and own rows may each be all of the cache.
        let seen = product(OP, &[2, s.kv_rows])?;
        let width = seen.saturating_add(KEYS - 1) / KEYS * KEYS;
        let tile = product(OP, &[ROWS, width.max(1), size_of::<f32>()])?;
        let portion = (SCORES_BYTES / tile).min(65_535);
        if portion == 0 {
            return Ok(false);
        }
        let tiles = product(OP, &[s.sequences, s.queries.div_ceil(ROWS), s.n_heads])?;
        let portion = portion.min(tiles);
        let mut scores = self.bytes(OP, portion * tile)?;
        let mut totals = self.bytes(OP, portion * ROWS * size_of::<f32>())?;
        let group = s.n_heads / s.n_kv_heads;
        let sizes = [s.queries, s.n_heads, group, s.head_dim];
        let [queries, n_heads, group, head_dim] = words(OP, sizes)?;
        let sizes = [s.q_stride, s.q_offset, s.kv_rows, s.kv_stride];
        let [q_stride, q_offset, kv_rows, kv_stride] = words(OP, sizes)?;
        let [kv_head_stride, width] = words(OP, [s.kv_head_stride, width])?;
        let (causal, repeated) = (u32::from(s.causal), u32::from(s.repeated_prefix));
        let functions = ["wide_scores", "wide_weights", "wide_values"];
        let [first_f, second_f, third_f] = functions.map(|name| self.function(Heads, name));
        let (first_f, second_f, third_f) = (first_f?, second_f?, third_f?);
        let [shared_mem_bytes] = words(OP, [SHARED_BYTES])?;
        let stream = self.current();
        for first in (0..tiles).step_by(portion) {
            let here = portion.min(tiles - first);
            let [first] = words(OP, [first])?;
            let shape = LaunchConfig {
                shared_mem_bytes,
                ..grid(OP, seen.div_ceil(KEYS).clamp(1, SPLITS), here, THREADS)?
            };
            let mut args = stream.launch_builder(&first_f);
            args.arg(&mut scores).arg(&q.data).arg(keys);
            args.arg(&spans.data).arg(&queries).arg(&n_heads);
            args.arg(&group).arg(&head_dim).arg(&q_stride);
            args.arg(&q_offset).arg(&kv_rows).arg(&kv_stride);
            args.arg(&kv_head_stride).arg(&causal).arg(&repeated);
            args.arg(&first).arg(&width);
            // SAFETY: wide_scores(scores, q, keys, spans, queries, n_heads, group, head_dim, q_stride, q_offset, kv_rows,
            // kv_stride, kv_head_stride, causal, repeated_prefix, first_tile, width), a block for each of the portion's
            // tiles and some of its keys. `check_as` proved that the last row of the last head lies inside keys; the
            // kernel cuts every span to kv_rows, so that a row's scores are `width` at most. All rows lie at whole copies.
            unsafe { args.launch(shape) }.map_err(|e| failed(functions[0], e))?;
            let shape = grid(OP, ROWS / 4, here, THREADS)?;
            let mut args = stream.launch_builder(&second_f);
            args.arg(&mut scores).arg(&mut totals).arg(&spans.data);
            args.arg(&queries).arg(&n_heads).arg(&kv_rows);
            args.arg(&causal).arg(&repeated).arg(&first).arg(&width);
            // SAFETY: wide_weights(scores, totals, spans, queries, n_heads, kv_rows, causal, repeated_prefix, first_tile,
            // width), a warp for each row of the portion's tiles, whose scores the launch before has written.
            unsafe { args.launch(shape) }.map_err(|e| failed(functions[1], e))?;
            let shape = grid(OP, s.head_dim.div_ceil(COLUMNS), here, THREADS)?;
            let mut args = stream.launch_builder(&third_f);
            args.arg(&mut out.data).arg(&scores).arg(&totals);
            args.arg(values).arg(&spans.data).arg(&queries);
            args.arg(&n_heads).arg(&group).arg(&head_dim);
            args.arg(&kv_rows).arg(&kv_stride).arg(&kv_head_stride);
            args.arg(&causal).arg(&repeated).arg(&first).arg(&width);
            // SAFETY: wide_values(out, weights, totals, values, spans, queries, n_heads, group, head_dim, kv_rows, kv_stride,
            // kv_head_stride, causal, repeated_prefix, first_tile, width), a block for each of the portion's tiles and each
            // 32 columns. `check_as` proved that the last row of the last head lies inside values and out holds all rows.
            unsafe { args.launch(shape) }.map_err(|e| failed(functions[2], e))?;
        }
        Ok(true)
    }
}
