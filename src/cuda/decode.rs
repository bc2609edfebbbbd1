//! Attention of single query rows: a block a head.

use cudarc::driver::{CudaView, LaunchConfig, PushKernelArg};

use super::memory::Buffer;
use super::module::Family::Decode;
use super::{Device, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::attention::{AttentionShape, KvFormat};

/// Rows whose scores stay in shared memory.
const KEPT: usize = 1024;
/// Widest head that has an instance.
const WIDEST: usize = 128;

/// An instance in `kernels/decode.cu`.
#[derive(Debug, Clone, Copy)]
struct Way {
    kernel: &'static str,
    threads: u32,
    /// Warps that multiply a tile's weights with scales before they add up.
    scaling: usize,
    /// Rows of a tile, words between them, and tiles in shared memory.
    rows: usize,
    pitch: usize,
    stages: usize,
}

impl Way {
    /// `few`: a GPU has room for more blocks than there are. No bit depends on it.
    const fn of(kv: KvFormat, head_dim: usize, few: bool) -> Self {
        let (kernel, columns, rows, pitch, stages) = match (kv, head_dim, few) {
            (KvFormat::F32, ..=64, false) => ("attention_row_64", 64, 64, 68, 3),
            (KvFormat::F32, ..=64, true) => ("attention_few_64", 64, 64, 68, 4),
            (KvFormat::F32, _, false) => ("attention_row_128", 128, 64, 132, 2),
            (KvFormat::F32, _, true) => ("attention_few_128", 128, 64, 132, 2),
            (_, ..=64, false) => ("attention_row_q8_64", 64, 64, 20, 3),
            (_, ..=64, true) => ("attention_few_q8_64", 64, 128, 20, 4),
            (_, _, false) => ("attention_row_q8_128", 128, 64, 36, 3),
            (_, _, true) => ("attention_few_q8_128", 128, 128, 36, 4),
        };
        Self {
            kernel,
            scaling: match kv {
                KvFormat::F32 => 0,
                _ => columns as usize / 32,
            },
            // Half of them copy.
            threads: if few { 2 * columns } else { columns },
            rows,
            pitch,
            stages,
        }
    }

    /// Bytes of shared memory: a query, which is no longer than a row, the ring, scores of `kept` tiles and one more, and
    /// what each scaling warp makes of a tile's.
    const fn shared(&self, kept: usize) -> usize {
        let tiles = self.stages * self.pitch + kept + 1 + self.scaling;
        (self.pitch + tiles * self.rows) * size_of::<u32>()
    }
}

/// How many words of a row are copied at once: rows lie at multiples of them. Nothing for floats that are not copied, and
/// for rows too far apart.
fn whole(kv: KvFormat, s: &AttentionShape) -> Option<u32> {
    let row = kv.words(s.head_dim);
    let at = [row, s.kv_stride, s.kv_head_stride, s.k_offset, s.v_offset];
    let all = |n: usize| at.iter().all(|at| at.is_multiple_of(n));
    // The kernels count a row's bytes in 32 bits.
    u32::try_from(s.kv_stride.saturating_mul(size_of::<u32>())).ok()?;
    match kv {
        KvFormat::F32 => all(4).then_some(4),
        KvFormat::Q8 if all(4) => Some(4),
        KvFormat::Q8 if all(2) => Some(2),
        KvFormat::Q8 => Some(1),
        // Tensor cores have a way of their own.
        KvFormat::Bf16 => None,
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
        let rows = product(OP, &[s.sequences, s.queries])?;
        let few = product(OP, &[rows, s.n_heads])? <= self.processors;
        let way = Way::of(kv, s.head_dim, few);
        let kernel = way.kernel;
        let seen = product(OP, &[2, s.kv_rows])?;
        let kept = seen.div_ceil(way.rows).min(KEPT / way.rows);
        let shared = way.shared(kept);
        let [shared_mem_bytes, _] = words(OP, [shared, seen.saturating_add(way.rows)])?;
        let shape = LaunchConfig {
            shared_mem_bytes,
            ..grid(OP, rows, s.n_heads, way.threads)?
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
        // SAFETY: attention_row_*, attention_few_*(out, q, keys, values, spans, queries, group, head_dim, q_stride, q_offset,
        // kv_rows, kv_stride, kv_head_stride, causal, repeated_prefix, pages, kept, whole), a block for each query row and head.
        // `check_as` proved that the last row of the last head lies inside keys and values behind their offsets; the
        // kernel cuts every span and every page to kv_rows. Heads are as wide as the instance has threads at most; `shared`
        // has room for what the kernel keeps there with scores of `kept` tiles; rows lie at multiples of `whole` words.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::module::SHARED_BYTES;

    #[test]
    fn every_width_has_the_threads_and_the_shared_memory_that_it_needs() {
        for (kv, few) in [KvFormat::F32, KvFormat::Q8]
            .into_iter()
            .flat_map(|kv| [(kv, false), (kv, true)])
        {
            for head_dim in 1..=WIDEST {
                let way = Way::of(kv, head_dim, few);
                let what = alloc::format!("{kv:?}, {head_dim}: {way:?}");
                let columns = way.threads as usize / (1 + usize::from(few));
                assert!(columns >= head_dim, "{what}");
                assert!(way.pitch >= kv.words(head_dim), "{what}");
                assert_eq!(way.pitch % 8, 4, "{what}");
                // Beside the arrays of fixed size.
                let most = way.shared(KEPT / way.rows) + 80;
                let [have] = words("attention", [most]).unwrap();
                assert!(have <= SHARED_BYTES.unsigned_abs(), "{what}");
            }
        }
    }
}
