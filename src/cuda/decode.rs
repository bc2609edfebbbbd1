//! Attention of single query rows: a block a head; of few of them over long caches scores by blocks over the rows, then
//! values by warps over the columns.

use cudarc::driver::{CudaView, LaunchConfig, PushKernelArg};

use super::memory::Buffer;
use super::module::Family::Decode;
use super::{Device, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::attention::{AttentionShape, KvFormat};

/// As in `kernels/decode.cu`: keys of a tile, columns of a warp, and rows and stages of its ring.
const KEYS: usize = 64;
const COLUMNS: usize = 32;
const ROWS: usize = 32;
const STAGES: usize = 6;
/// Words between the rows of a stage.
const PITCH: [usize; 2] = [32, 9];

/// Heads of query rows up to which one block each would leave much of a large GPU idle.
const FEW: usize = 128;
/// Blocks that keep a large GPU busy.
const BLOCKS: usize = 1024;
/// Rows of a cache from which on two launches are worth it.
const LONG: usize = 128;
/// Shared memory that needs no asking.
const SHARED_BYTES: usize = 48 << 10;
/// Scores that are kept between the launches at most.
const SCORES_BYTES: usize = 32 << 20;

/// Tiles of keys whose scores stay in shared memory, where a block takes a head of a row.
const KEPT: usize = 16;
/// Heads up to which that has an instance.
const WIDEST: usize = 128;

/// Words between the rows of a tile.
const fn pitch(words: usize) -> usize {
    (words.div_ceil(4) | 1).saturating_mul(4)
}

/// How many words of a row are copied at once: rows lie at multiples of them. Nothing for floats that are not copied.
fn whole(kv: KvFormat, s: &AttentionShape) -> Option<u32> {
    let row = kv.words(s.head_dim);
    let at = [row, s.kv_stride, s.kv_head_stride, s.k_offset, s.v_offset];
    let all = |n: usize| at.iter().all(|at| at.is_multiple_of(n));
    match kv {
        KvFormat::F32 => all(4).then_some(4),
        KvFormat::Q8 if all(4) => Some(4),
        KvFormat::Q8 if all(2) => Some(2),
        KvFormat::Q8 => Some(1),
        // Tensor cores have a way of their own.
        KvFormat::Bf16 => None,
    }
}

/// How the work is parted. It changes no bit of what comes out, so it may depend on the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    scores: LaunchConfig,
    values: LaunchConfig,
    /// Blocks that share a head's rows, and warps that share its columns.
    parts: [usize; 2],
    /// Scores of a head of a query row.
    width: usize,
    /// Words of a copy.
    whole: u32,
    bytes: usize,
}

impl Split {
    /// A plan for so many query rows; nothing where one launch does as well or rows do not lie as the copies need them.
    pub(super) fn plan(kv: KvFormat, s: &AttentionShape, rows: usize) -> Result<Option<Self>> {
        const OP: &str = "attention";
        let heads = product(OP, &[rows, s.n_heads])?;
        let Some(whole) = whole(kv, s) else {
            return Ok(None);
        };
        if heads > FEW || s.kv_rows <= LONG {
            return Ok(None);
        }
        let row = kv.words(s.head_dim);
        let stage = match kv {
            KvFormat::F32 => PITCH[0],
            KvFormat::Q8 => PITCH[1],
            // Tensor cores have a way of their own.
            KvFormat::Bf16 => return Ok(None),
        };
        let query = row.next_multiple_of(4);
        let shared = product(OP, &[KEYS, pitch(row)])?.saturating_add(query);
        let shared = shared.saturating_mul(size_of::<u32>());
        // A prefix and own rows may each be all of the cache.
        let width = product(OP, &[2, s.kv_rows])?;
        let bytes = product(OP, &[heads, width, size_of::<f32>()])?;
        if shared > SHARED_BYTES || bytes > SCORES_BYTES {
            return Ok(None);
        }
        let parts = [
            s.kv_rows.div_ceil(KEYS).min(BLOCKS.div_ceil(heads)),
            s.head_dim.div_ceil(COLUMNS),
        ];
        let ring = STAGES * ROWS * stage * size_of::<u32>();
        let launch = |part: usize, threads, shared| {
            let shape = grid(OP, product(OP, &[rows, part])?, s.n_heads, threads)?;
            let [shared_mem_bytes] = words(OP, [shared])?;
            Result::Ok(LaunchConfig {
                shared_mem_bytes,
                ..shape
            })
        };
        Ok(Some(Self {
            scores: launch(parts[0], 64, shared)?,
            values: launch(parts[1], 32, ring)?,
            parts,
            width,
            whole,
            bytes,
        }))
    }
}

impl Device {
    /// Attention whose lengths have been checked, of a plan's shape; keys and values begin with the first head's.
    pub(super) fn attend_split(
        &self,
        (kv, s, split): (KvFormat, AttentionShape, Split),
        q: &Buffer<f32>,
        [keys, values]: [&CudaView<'_, u8>; 2],
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "attention";
        let [first, second] = match kv {
            KvFormat::Q8 => ["attention_scores_q8", "attention_values_q8"],
            _ => ["attention_scores", "attention_values"],
        };
        let group = s.n_heads / s.n_kv_heads;
        let sizes = [s.queries, group, s.head_dim, s.kv_rows];
        let [queries, group, head_dim, kv_rows] = words(OP, sizes)?;
        let sizes = [s.q_stride, s.q_offset, s.kv_stride, s.kv_head_stride];
        let [q_stride, q_offset, kv_stride, kv_head_stride] = words(OP, sizes)?;
        let [splits, slices, width] = words(OP, [split.parts[0], split.parts[1], split.width])?;
        let [pages] = words(OP, [s.pages])?;
        let (causal, repeated) = (u32::from(s.causal), u32::from(s.repeated_prefix));
        let mut scores = self.bytes(OP, split.bytes)?;
        let f = self.function(Decode, first)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut scores).arg(&q.data).arg(keys);
        args.arg(&spans.data).arg(&queries).arg(&group);
        args.arg(&head_dim).arg(&q_stride).arg(&q_offset);
        args.arg(&kv_rows).arg(&kv_stride).arg(&kv_head_stride);
        args.arg(&causal).arg(&repeated).arg(&pages);
        args.arg(&splits).arg(&width).arg(&split.whole);
        // SAFETY: attention_scores, attention_scores_q8(scores, q, keys, spans, queries, group, head_dim, q_stride,
        // q_offset, kv_rows, kv_stride, kv_head_stride, causal, repeated_prefix, pages, splits, width, whole), `splits`
        // blocks for each query row and head. `check_as` proved that the last row of the last head lies inside keys; the
        // kernel cuts every span and every page to kv_rows, so that a head's scores are at most twice as many, its
        // `width`. The plan gave the shared memory of a query and 64 keys, and offsets of whole copies.
        unsafe { args.launch(split.scores) }.map_err(|e| failed(first, e))?;
        let f = self.function(Decode, second)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&scores).arg(values);
        args.arg(&spans.data).arg(&queries).arg(&group);
        args.arg(&head_dim).arg(&kv_rows).arg(&kv_stride);
        args.arg(&kv_head_stride).arg(&causal).arg(&repeated);
        args.arg(&pages).arg(&slices).arg(&width);
        // SAFETY: attention_values, attention_values_q8(out, scores, values, spans, queries, group, head_dim, kv_rows,
        // kv_stride, kv_head_stride, causal, repeated_prefix, pages, slices, width), `slices` warps for each query row
        // and head. As above; the first launch wrote a score for every row that this one reads, and out holds the heads'
        // columns.
        unsafe { args.launch(split.values) }.map_err(|e| failed(second, e))?;
        Ok(())
    }
}

impl Device {
    /// Attention whose lengths have been checked by a block for each head of each query row, if there is an instance; keys
    /// and values begin with the first head's.
    pub(super) fn attend_rows(
        &self,
        (kv, s): (KvFormat, AttentionShape),
        q: &Buffer<f32>,
        [keys, values]: [&CudaView<'_, u8>; 2],
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<bool> {
        const OP: &str = "attention";
        let Some(whole) = whole(kv, &s).filter(|_| s.head_dim <= WIDEST) else {
            return Ok(false);
        };
        let kernel = match (kv, s.head_dim) {
            (KvFormat::F32, ..=64) => "attention_row_64",
            (KvFormat::F32, _) => "attention_row_128",
            (_, ..=64) => "attention_row_q8_64",
            (_, _) => "attention_row_q8_128",
        };
        let rows = product(OP, &[s.sequences, s.queries])?;
        let seen = product(OP, &[2, s.kv_rows])?;
        let kept = seen.div_ceil(KEYS).min(KEPT);
        // A query, two tiles, scores.
        let row = kv.words(s.head_dim);
        let shared = row.next_multiple_of(4) + 2 * KEYS * pitch(row) + (kept + 1) * KEYS;
        let [shared_mem_bytes, _] = words(OP, [size_of::<u32>() * shared, seen + KEYS])?;
        let shape = LaunchConfig {
            shared_mem_bytes,
            ..grid(OP, rows, s.n_heads, 64)?
        };
        let group = s.n_heads / s.n_kv_heads;
        let sizes = [s.queries, group, s.head_dim, s.q_stride, s.q_offset];
        let [queries, group, head_dim, q_stride, q_offset] = words(OP, sizes)?;
        let sizes = [s.kv_rows, s.kv_stride, s.kv_head_stride, kept];
        let [kv_rows, kv_stride, kv_head_stride, kept] = words(OP, sizes)?;
        let [pages] = words(OP, [s.pages])?;
        let (causal, repeated) = (u32::from(s.causal), u32::from(s.repeated_prefix));
        let f = self.function(Decode, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&q.data).arg(keys).arg(values);
        args.arg(&spans.data).arg(&queries).arg(&group);
        args.arg(&head_dim).arg(&q_stride).arg(&q_offset);
        args.arg(&kv_rows).arg(&kv_stride).arg(&kv_head_stride);
        args.arg(&causal).arg(&repeated).arg(&pages);
        args.arg(&kept).arg(&whole);
        // SAFETY: attention_row_*(out, q, keys, values, spans, queries, group, head_dim, q_stride, q_offset, kv_rows,
        // kv_stride, kv_head_stride, causal, repeated_prefix, pages, kept, whole), a block for each query row and head.
        // `check_as` proved that the last row of the last head lies inside keys and values behind their offsets; the
        // kernel cuts every span and every page to kv_rows. Heads are as wide as the instance's columns at most; shared
        // memory holds a query, two tiles of 64 rows and scores of `kept` tiles and one more; rows lie at multiples of
        // `whole` words.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kv: KvFormat, head_dim: usize) -> AttentionShape {
        let row = kv.words(head_dim);
        AttentionShape {
            sequences: 2,
            queries: 1,
            n_heads: 32,
            n_kv_heads: 32,
            head_dim,
            q_stride: 96 * head_dim,
            q_offset: 0,
            kv_rows: 1280,
            kv_stride: row,
            kv_head_stride: 1280 * row,
            k_offset: 0,
            v_offset: 0,
            causal: true,
            repeated_prefix: false,
            pages: 0,
        }
    }

    #[test]
    fn the_models_heads_are_split_where_one_block_each_is_too_few() {
        for kv in [KvFormat::F32, KvFormat::Q8] {
            for head_dim in [4, 8, 64, 72, 80, 96, 100, 128] {
                let s = shape(kv, head_dim);
                let plan = Split::plan(kv, &s, 2).unwrap().unwrap();
                let what = alloc::format!("{kv:?}, {head_dim}: {plan:?}");
                assert!(plan.parts[0] * 64 >= BLOCKS, "{what}");
                assert!(plan.parts[1] * COLUMNS >= head_dim, "{what}");
                for launch in [plan.scores, plan.values] {
                    assert!(launch.shared_mem_bytes as usize <= SHARED_BYTES, "{what}");
                }
                // Twenty guided candidates fill the GPU by themselves; short caches are read at once.
                assert!(Split::plan(kv, &s, 40).unwrap().is_none());
                let short = AttentionShape { kv_rows: LONG, ..s };
                assert!(Split::plan(kv, &short, 2).unwrap().is_none());
            }
        }
        // Heads that are no whole copies, rows that begin inside one, keys that shared memory has no room for.
        for s in [
            shape(KvFormat::F32, 70),
            shape(KvFormat::F32, 192),
            AttentionShape {
                k_offset: 2,
                ..shape(KvFormat::F32, 64)
            },
        ] {
            assert!(Split::plan(KvFormat::F32, &s, 2).unwrap().is_none());
        }
        let long = AttentionShape {
            kv_rows: 1 << 20,
            ..shape(KvFormat::Q8, 64)
        };
        assert!(Split::plan(KvFormat::Q8, &long, 2).unwrap().is_none());
    }
}
