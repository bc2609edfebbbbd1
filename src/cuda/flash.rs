//! Attention over halves of floats by tensor cores: which kernel takes which rows.

use cudarc::driver::{CudaView, LaunchConfig, PushKernelArg};

use super::memory::Buffer;
use super::module::Family::Flash;
use super::{Device, failed, grid, words};
use crate::error::{Error, Result, product};
use crate::ops::attention::{AttentionShape, KvFormat};

/// As in `kernels/flash.cu`: rows of a matrix, and keys of a tile.
const ROWS: usize = 16;
const KEYS: usize = 64;
/// Warps of a block, and threads of a warp.
const WARPS: usize = 4;
const WARP: usize = 32;

/// The kernels of a width.
struct Width {
    /// Widest head.
    head_dim: usize,
    few: Kernel,
    many: Kernel,
}

/// A kernel: its name, and the stages of its ring.
#[derive(Clone, Copy)]
struct Kernel(&'static str, usize);

const WIDTHS: [Width; 3] = [
    Width {
        head_dim: 64,
        few: Kernel("flash_64_few", 3),
        many: Kernel("flash_64_many", 2),
    },
    Width {
        head_dim: 80,
        few: Kernel("flash_80_few", 3),
        many: Kernel("flash_80_many", 2),
    },
    Width {
        head_dim: 128,
        few: Kernel("flash_128_few", 2),
        many: Kernel("flash_128_many", 2),
    },
];

/// How the rows are parted. It changes no bit of what comes out, so it may depend on the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Halves {
    kernel: &'static str,
    launch: LaunchConfig,
    /// Whether rows of keys and values lie as copies of 16 bytes need them.
    wide: bool,
}

impl Halves {
    /// A plan; nothing for other formats and for heads that are too wide.
    pub(super) fn plan(kv: KvFormat, s: &AttentionShape) -> Result<Option<Self>> {
        const OP: &str = "attention";
        let width = WIDTHS.iter().find(|width| s.head_dim <= width.head_dim);
        let (KvFormat::Bf16, Some(width)) = (kv, width) else {
            return Ok(None);
        };
        // Heads that share keys are rows of one matrix.
        let rows = product(OP, &[s.queries, s.n_heads / s.n_kv_heads])?;
        // Only the kernels of few rows know pages; the bits are the same.
        let (kernel, block) = if rows <= ROWS || s.pages > 0 {
            (width.few, ROWS)
        } else {
            (width.many, WARPS * ROWS)
        };
        let Kernel(kernel, stages) = kernel;
        // Rows of a tile lie four words further apart than they are long.
        let row = width.head_dim / 2 + 4;
        let shared = stages * 2 * KEYS * row * size_of::<u32>();
        let [threads, shared_mem_bytes, sequences] =
            words(OP, [WARPS * WARP, shared, s.sequences])?;
        if sequences > 65_535 {
            return Err(Error::Range {
                op: OP,
                arg: "sequences",
                got: s.sequences as u64,
                min: 0,
                max: 65_535,
            });
        }
        let mut launch = grid(OP, s.n_kv_heads, rows.div_ceil(block), threads)?;
        launch.grid_dim.2 = sequences;
        let row = kv.words(s.head_dim);
        let sizes = [row, s.kv_stride, s.kv_head_stride, s.k_offset, s.v_offset];
        Ok(Some(Self {
            kernel,
            launch: LaunchConfig {
                shared_mem_bytes,
                ..launch
            },
            wide: sizes.iter().all(|size| size.is_multiple_of(4)),
        }))
    }
}

impl Device {
    /// Attention whose lengths have been checked, of a plan's shape; keys and values begin with the first head's.
    pub(super) fn attend_halves(
        &self,
        (s, halves): (AttentionShape, Halves),
        q: &Buffer<f32>,
        [keys, values]: [&CudaView<'_, u8>; 2],
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "attention";
        let kernel = halves.kernel;
        let group = s.n_heads / s.n_kv_heads;
        let sizes = [
            s.queries, group, s.head_dim, s.q_stride, s.q_offset, s.kv_rows,
        ];
        let [queries, group, head_dim, q_stride, q_offset, kv_rows] = words(OP, sizes)?;
        let [kv_stride, kv_head_stride, pages] =
            words(OP, [s.kv_stride, s.kv_head_stride, s.pages])?;
        // The kernel numbers rows of a sequence, what they see, and the words of a head in 32 bits.
        words(
            OP,
            [
                product(OP, &[s.queries, s.n_heads / s.n_kv_heads])?.saturating_add(256),
                product(OP, &[2, s.kv_rows])?.saturating_add(256),
                product(OP, &[s.kv_rows, s.kv_stride])?,
            ],
        )?;
        let [causal, repeated, wide] = [s.causal, s.repeated_prefix, halves.wide].map(u32::from);
        let f = self.function(Flash, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&q.data).arg(keys).arg(values);
        args.arg(&spans.data).arg(&queries).arg(&group);
        args.arg(&head_dim).arg(&q_stride).arg(&q_offset);
        args.arg(&kv_rows).arg(&kv_stride).arg(&kv_head_stride);
        args.arg(&causal).arg(&repeated).arg(&pages).arg(&wide);
        // SAFETY: flash_*(out, q, keys, values, spans, queries, group, head_dim, q_stride, q_offset, kv_rows, kv_stride,
        // kv_head_stride, causal, repeated_prefix, pages, wide), blocks for the heads of keys, the rows and the
        // sequences. `check_as` proved that the last row of the last head lies inside keys and values behind their
        // offsets; the kernel cuts every span, and every page where it reads them, to kv_rows, and reads and writes no
        // row behind a sequence's last. Shared memory holds the ring's stages; rows are copied by 16 bytes only where all
        // of them begin at such a multiple.
        unsafe { args.launch(halves.launch) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }
}
