//! Products of matrices with rows of BF16 by Hopper's own instructions; `wide.rs` is the twin for other GPUs.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, PushKernelArg};

use super::gemv::{Layout, Matrix, STRIP};
use super::memory::Buffer;
use super::module::Family::Wide90a;
use super::module::HOPPER_BYTES;
use super::wide::Inputs;
use super::{Device, elements, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::gemm::GemmShape;
use crate::quant::Format;

/// Rows of a tile; inputs of a stage. An even number of stages is multiplied.
const TILE: usize = 8;
const STAGE: usize = 64;
const INPUTS: usize = 2 * STAGE;
/// Bytes of a tile's rows of a stage, and pieces of 16 of them.
const TILE_BYTES: usize = TILE * STAGE * 2;
const PIECES: usize = TILE_BYTES / 16;
/// Of a block of threads: blocks of 32 inputs of a stage, stages at once at most. See `kernels/wide_90a.cu`.
const TURN: usize = 2;
const STAGES: usize = 8;

/// What a block of threads takes at once.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Outputs and rows.
    outputs: usize,
    rows: usize,
    /// Threads: a warpgroup for each 64 outputs, and three or four warps that copy.
    threads: u32,
    /// Blocks for whose registers a multiprocessor has room.
    most: usize,
}

impl Size {
    const fn new([outputs, rows]: [usize; 2], threads: u32, most: usize) -> Self {
        Self {
            outputs,
            rows,
            threads,
            most,
        }
    }

    /// How often a block's work is there.
    const fn count(self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows)
            .saturating_mul(n.div_ceil(self.outputs))
    }

    /// Shared memory: as many stages as there is room for.
    fn shared_bytes(self, layout: Layout) -> usize {
        let stage = self.rows / TILE * TILE_BYTES + self.outputs / STRIP * layout.bytes(TURN);
        stage * (HOPPER_BYTES as usize / stage).min(STAGES)
    }

    /// Blocks that a multiprocessor has at once.
    fn together(self, layout: Layout) -> usize {
        // Barriers, and what each block takes beside its own.
        const MORE: usize = 2 << 10;
        let fit = HOPPER_BYTES as usize / (self.shared_bytes(layout) + MORE);
        fit.clamp(1, self.most)
    }

    /// Time of a product on so many multiprocessors, in that of the products of 128 outputs and a row. Blocks that run at once
    /// share the tensor cores, and the instructions that make levels into weights; each waits for its own levels as long as
    /// some rows take, and for its first inputs and the sums' way.
    fn time(self, (m, n): (usize, usize), processors: usize, layout: Layout) -> usize {
        const START: usize = 16;
        const WAIT: usize = 75;
        const LEVELS: usize = 30;
        let (count, together) = (self.count(m, n), self.together(layout));
        let turns = count.div_ceil(processors.saturating_mul(together));
        let beside = together.min(count.div_ceil(processors));
        let own = self.outputs * self.rows.max(LEVELS) / 128;
        turns.saturating_mul(START + WAIT.max(own * beside))
    }
}

const SIZES: [Size; 8] = [
    Size::new([64, 16], 224, 4),
    Size::new([128, 64], 384, 1),
    Size::new([64, 136], 224, 1),
    Size::new([128, 128], 384, 1),
    Size::new([128, 192], 384, 1),
    Size::new([192, 136], 512, 1),
    Size::new([192, 176], 512, 1),
    Size::new([128, 256], 384, 1),
];

/// A format's kernels for each of [`SIZES`].
const fn kernels(format: Format) -> Option<[&'static str; SIZES.len()]> {
    macro_rules! sizes {
        ($name:literal) => {
            [
                concat!($name, "_64x16"),
                concat!($name, "_128x64"),
                concat!($name, "_64x136"),
                concat!($name, "_128x128"),
                concat!($name, "_128x192"),
                concat!($name, "_192x136"),
                concat!($name, "_192x176"),
                concat!($name, "_128x256"),
            ]
        };
    }
    Some(match format {
        Format::F32 => return None,
        Format::Bf16 => sizes!("hopper_bf16"),
        Format::Q8_0 => sizes!("hopper_q8"),
        Format::Q4_0 => sizes!("hopper_q4"),
        Format::Q4G128 => sizes!("hopper_q4g"),
        Format::Q4K => sizes!("hopper_q4k"),
    })
}

/// Which of the kernels takes so many rows and outputs: that of the least time.
fn size(processors: usize, layout: Layout, m: usize, n: usize) -> usize {
    let time = |size: Size| size.time((m, n), processors, layout);
    let all = 0..SIZES.len();
    all.min_by_key(|&i| time(SIZES[i])).unwrap_or(0)
}

impl Device {
    /// This GPU without kernels that only GPUs of its kind have: products of
    /// [`Activations::Bf16`](crate::ops::gemm::Activations::Bf16) run as on every other. On Hopper (compute capability 9.0)
    /// they take two to three times as long then, and come out with other last bits; elsewhere nothing changes.
    #[must_use]
    pub const fn portable(mut self) -> Self {
        self.portable = true;
        self
    }

    /// A product with rows in BF16 whose lengths have been checked; false if it is none for Hopper, whatever its number of
    /// rows: all rows of a matrix go the same way.
    pub(super) fn hopper_product(
        &self,
        (inputs, s): (Inputs, GemmShape),
        x: &CudaView<'_, u8>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut CudaViewMut<'_, u8>,
    ) -> Result<bool> {
        const OP: &str = "gemm";
        let Some(kernels) = kernels(w.format) else {
            return Ok(false);
        };
        let fits = s.k > 0 && s.k.is_multiple_of(INPUTS) && s.n.is_multiple_of(2);
        if self.portable || self.capability != (9, 0) || !fits {
            return Ok(false);
        }
        let (processors, layout) = (self.processors.max(1), Layout::of(w.format));
        let which = size(processors, layout, s.m, s.n);
        let (kernel, size) = (kernels[which], SIZES[which]);
        let at_once = processors.saturating_mul(size.together(layout));
        let mut shape = grid(OP, size.count(s.m, s.n).min(at_once), 1, size.threads)?;
        [shape.shared_mem_bytes] = words(OP, [size.shared_bytes(layout)])?;
        let [m, n, k] = words(OP, [s.m, s.n, s.k])?;
        let (has_bias, accumulate) = (u32::from(bias.is_some()), u32::from(s.accumulate));
        let halves = self.hopper_halves((inputs, s), x)?;
        let f = self.function(Wide90a, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(y).arg(&halves);
        args.arg(&w.data).arg(&w.scales);
        match bias {
            Some(bias) => args.arg(&bias.data),
            // Not read.
            None => args.arg(&w.data),
        };
        args.arg(&m).arg(&n).arg(&k);
        args.arg(&has_bias).arg(&accumulate);
        // SAFETY: hopper_*(y, halves, w, scales, bias, m, n, k, has_bias, accumulate). The callers' checks proved that y, which
        // begins with a row, and bias hold m · n and n elements, n even, and that w is [n, k]; `hopper_halves` made halves for
        // whole tiles and stages, of which there is an even number. Blocks share what there is to do whatever their number; they
        // read strips and tiles that are there, and write below m and n; the shared memory is that of stages as they lay it
        // out, and the GPU is of their kind.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(true)
    }

    /// The rows in BF16, in stages of tiles.
    fn hopper_halves(
        &self,
        (inputs, s): (Inputs, GemmShape),
        x: &CudaView<'_, u8>,
    ) -> Result<CudaSlice<u8>> {
        let kernel = inputs.of([
            "hopper_halves",
            "hopper_halves_gelu_tanh",
            "hopper_halves_gelu_erf",
            "hopper_halves_silu",
            "hopper_halves_relu",
            "hopper_halves_gate_gelu_tanh",
            "hopper_halves_gate_gelu_erf",
            "hopper_halves_gate_silu",
            "hopper_halves_gate_relu",
        ]);
        let tiles = product("gemm", &[s.k / STAGE, s.m.div_ceil(TILE)])?;
        let mut halves = self.bytes("gemm", product("gemm", &[tiles, TILE_BYTES])?)?;
        let pieces = product("gemm", &[tiles, PIECES])?;
        let [m, k, count] = words("gemm", [s.m, s.k, pieces])?;
        let f = self.function(Wide90a, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut halves).arg(x);
        args.arg(&m).arg(&k).arg(&count);
        // SAFETY: hopper_halves*(halves, x, m, k, pieces), a thread a piece of 16 bytes: of tiles of 8 rows times stages of 64
        // inputs, of which k has a whole number. halves hold 1024 bytes for each, x m · k floats, of gates twice as many; rows
        // from m on are not read, and threads past the last piece leave.
        unsafe { args.launch(elements("gemm", pieces)?) }.map_err(|e| failed(kernel, e))?;
        Ok(halves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_into_what_a_gpu_has() {
        // Bytes of a strip in a stage: two blocks of 32 inputs.
        for (format, strip) in [
            (Format::Bf16, 2 * 2048),
            (Format::Q8_0, 2 * (1024 + 64)),
            (Format::Q4_0, 2 * (512 + 64)),
            (Format::Q4G128, 2 * 512 + 64),
            (Format::Q4K, 2 * (512 + 256)),
        ] {
            let layout = Layout::of(format);
            for size in SIZES {
                let bytes = size.shared_bytes(layout);
                let stage = size.rows / TILE * TILE_BYTES + size.outputs / STRIP * strip;
                assert!(
                    bytes <= HOPPER_BYTES as usize && bytes >= 2 * stage,
                    "{size:?}"
                );
                let threads = size.threads as usize * size.together(layout);
                assert!(threads <= 1024, "{size:?}");
            }
            // Few rows leave no multiprocessor idle, and many go to a kernel of many.
            assert_eq!(SIZES[size(132, layout, 11, 3584)].outputs, 64);
            assert!(SIZES[size(132, layout, 10_320, 8192)].rows > 128);
        }
    }
}
