//! Attention of many query rows: tiles of them against tiles of keys and values.

use cudarc::driver::{CudaSlice, CudaView, LaunchConfig, PushKernelArg};

use super::memory::Buffer;
use super::module::Family::Tiles;
use super::{Device, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::attention::{AttentionShape, KvFormat};

/// As in `kernels/tiles.cu`: query rows of a tile, and threads of a block.
const ROWS: usize = 64;
const THREADS: u32 = 128;
/// Query rows of a sequence from which on a tile of them is worth it.
const MANY: usize = 16;
/// Blocks that fill a large GPU; where there are more tiles, each block takes one after the other.
const BLOCKS: usize = 528;
/// Scores that are kept from the first pass to the second at most: of all blocks, and rows of one.
const SCORES_BYTES: usize = 64 << 20;
const KEPT: usize = 2048;

/// An instance of the kernel.
struct Instance {
    kernel: &'static str,
    /// Rows of a tile of keys.
    keys: usize,
    shared_bytes: usize,
}

impl Instance {
    /// Of heads of this width, if there is one.
    fn of(kv: KvFormat, head_dim: usize) -> Option<Self> {
        let (kernel, keys) = match (kv, head_dim) {
            (KvFormat::F32, 64) => ("attention_tiles_64", 64),
            (KvFormat::F32, 72) => ("attention_tiles_72", 64),
            (KvFormat::F32, 128) => ("attention_tiles_128", 32),
            (KvFormat::Q8, 64) => ("attention_tiles_q8_64", 32),
            (KvFormat::Q8, 128) => ("attention_tiles_q8_128", 32),
            _ => return None,
        };
        // Queries, two tiles of rows, weights; a tile of values as floats.
        let pitch = (kv.words(head_dim).div_ceil(4) | 1) * 4;
        let floats = match kv {
            KvFormat::Q8 => keys * head_dim,
            _ => 0,
        };
        let all = (ROWS + 2 * keys) * pitch + ROWS * keys + floats;
        Some(Self {
            kernel,
            keys,
            shared_bytes: size_of::<u32>() * all,
        })
    }
}

/// How the work is parted. It changes no bit of what comes out.
struct Parts {
    launch: LaunchConfig,
    tiles: usize,
    /// Tiles of keys whose scores are kept.
    kept: usize,
    bytes: usize,
}

impl Parts {
    /// For `sequences` of so many query rows, which see up to `seen` rows each.
    fn plan(i: &Instance, [sequences, queries, heads]: [usize; 3], seen: usize) -> Result<Self> {
        const OP: &str = "attention";
        let tiles = product(OP, &[sequences, queries.div_ceil(ROWS), heads])?;
        let blocks = tiles.clamp(1, BLOCKS);
        let tile = ROWS * i.keys * size_of::<f32>();
        let most = (KEPT / i.keys).min(SCORES_BYTES / (blocks * tile));
        let kept = seen.div_ceil(i.keys).min(most);
        let [shared_mem_bytes] = words(OP, [i.shared_bytes])?;
        Ok(Self {
            launch: LaunchConfig {
                shared_mem_bytes,
                ..grid(OP, blocks, 1, THREADS)?
            },
            tiles,
            kept,
            bytes: blocks * (kept + 1) * tile,
        })
    }

    /// Room for the scores, and a count of the tiles that have been taken.
    fn room(&self, device: &Device) -> Result<[CudaSlice<u8>; 2]> {
        const OP: &str = "attention";
        Ok([
            device.bytes(OP, self.bytes)?,
            // Where each block has its own tile, nothing is counted.
            if self.tiles > BLOCKS {
                device.zero_bytes(OP, size_of::<u32>())?
            } else {
                device.bytes(OP, size_of::<u32>())?
            },
        ])
    }
}

impl Device {
    /// Attention whose lengths have been checked, if it is one of tiles; keys and values begin with the first head's.
    pub(super) fn attend_tiles(
        &self,
        (kv, s): (KvFormat, AttentionShape),
        q: &Buffer<f32>,
        [keys, values]: [&CudaView<'_, u8>; 2],
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<bool> {
        const OP: &str = "attention";
        // Copies of 16 bytes.
        let offsets = [s.kv_stride, s.kv_head_stride, s.k_offset, s.v_offset];
        let aligned = kv == KvFormat::Q8 || offsets.iter().all(|n| n.is_multiple_of(4));
        let instance = Instance::of(kv, s.head_dim);
        let Some(instance) = instance.filter(|_| aligned && s.queries >= MANY) else {
            return Ok(false);
        };
        // A prefix and own rows may each be all of the cache.
        let seen = product(OP, &[2, s.kv_rows])?;
        let parts = Parts::plan(&instance, [s.sequences, s.queries, s.n_heads], seen)?;
        let [mut scores, mut next] = parts.room(self)?;
        let group = s.n_heads / s.n_kv_heads;
        let sizes = [s.queries, s.n_heads, group, s.q_stride, s.q_offset];
        let [queries, n_heads, group, q_stride, q_offset] = words(OP, sizes)?;
        let [kv_rows, kv_stride] = words(OP, [s.kv_rows, s.kv_stride])?;
        let [kv_head_stride, kept, tiles] = words(OP, [s.kv_head_stride, parts.kept, parts.tiles])?;
        words(OP, [seen.saturating_add(instance.keys)])?;
        let (causal, repeated) = (u32::from(s.causal), u32::from(s.repeated_prefix));
        let f = self.function(Tiles, instance.kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&mut scores).arg(&mut next);
        args.arg(&q.data).arg(keys).arg(values).arg(&spans.data);
        args.arg(&queries).arg(&n_heads).arg(&group);
        args.arg(&q_stride).arg(&q_offset).arg(&kv_rows);
        args.arg(&kv_stride).arg(&kv_head_stride).arg(&causal);
        args.arg(&repeated).arg(&kept).arg(&tiles);
        // SAFETY: attention_tiles_*(out, scores, next, q, keys, values, spans, queries, n_heads, group, q_stride, q_offset,
        // kv_rows, kv_stride, kv_head_stride, causal, repeated_prefix, kept, tiles), blocks that take `tiles` of 64 query
        // rows of a head. `check_as` proved that the last row of the last head lies inside keys and values behind their
        // offsets; the kernel cuts every span to kv_rows. Scores have room for `kept` tiles of keys and one more a block; shared memory
        // is what the instance asks for, and offsets are whole copies.
        unsafe { args.launch(parts.launch) }.map_err(|e| failed(instance.kernel, e))?;
        Ok(true)
    }
}
