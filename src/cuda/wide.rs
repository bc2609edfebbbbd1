//! Products of matrices with rows of BF16, on tensor cores.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, PushKernelArg};

use super::gemv::{Layout, Matrix, STRIP};
use super::memory::Buffer;
use super::module::Family::Wide;
use super::{Device, elements, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::gemm::{Activations, GemmShape};
use crate::ops::norm::Activation;
use crate::quant::Format;

/// Rows of a tile, and inputs of a block.
const TILE: usize = 8;
const BLOCK: usize = 32;
/// Threads of a block, and the strips that they take: see `kernels/wide.cu`.
const THREADS: u32 = 128;
const STRIPS: usize = 4;
/// Blocks of inputs of a stage.
const TURN: usize = 2;
/// Bytes of a tile's rows for a block of inputs, and of a strip's weights in BF16.
const HALVES_BYTES: usize = TILE * BLOCK * 2;
const UNPACKED_BYTES: usize = STRIP * BLOCK * 2;
/// Tiles of a block of threads: few, and many.
const TILES: [usize; 2] = [4, 16];
/// Blocks of threads that a multiprocessor has registers for.
const TOGETHER: usize = 2;
/// Shared memory that the driver takes of a block.
const RESERVED: usize = 1024;

/// A format's kernels for each of [`TILES`].
const fn kernels(format: Format) -> Option<[&'static str; 2]> {
    match format {
        Format::F32 => None,
        Format::Bf16 => Some(["wide_bf16_2", "wide_bf16_8"]),
        Format::Q8_0 => Some(["wide_q8_2", "wide_q8_8"]),
        Format::Q4_0 => Some(["wide_q4_2", "wide_q4_8"]),
        Format::Q4G128 => Some(["wide_q4g_2", "wide_q4g_8"]),
        Format::Q4K => Some(["wide_q4k_2", "wide_q4k_8"]),
    }
}

/// What rows go through before a product: see `kernels/inputs.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inputs {
    Plain,
    Activated(Activation),
    /// Rows of gates and values, twice as long.
    Gated(Activation),
}

impl Inputs {
    /// The kernel among those of each kind, in the order of `kernels/inputs.cuh`.
    pub(super) const fn of(self, kernels: [&'static str; 9]) -> &'static str {
        const fn number(activation: Activation) -> usize {
            match activation {
                Activation::GeluTanh => 0,
                Activation::GeluErf => 1,
                Activation::Silu => 2,
                Activation::Relu => 3,
            }
        }
        match self {
            Self::Plain => kernels[0],
            Self::Activated(activation) => kernels[1 + number(activation)],
            Self::Gated(activation) => kernels[5 + number(activation)],
        }
    }

    /// Floats of the rows of a product.
    fn floats(self, s: GemmShape) -> Result<usize> {
        let each = if matches!(self, Self::Gated(_)) { 2 } else { 1 };
        product("gemm", &[s.m, each, s.k])
    }
}

/// Shared memory of a block, by its tiles.
const fn shared_bytes(format: Format, tiles: usize) -> usize {
    // Slots of stages: of weights as they are kept, of rows, and of weights in BF16 where they are not kept so.
    let (kept, unpacked) = match format {
        Format::Bf16 => (3, 0),
        _ => (2, 2),
    };
    let stage = Layout::of(format).bytes(TURN);
    STRIPS * (kept * stage + unpacked * TURN * UNPACKED_BYTES) + 3 * TURN * tiles * HALVES_BYTES
}

impl Device {
    /// A product of rows that go through something first, if it is one with rows in BF16 by kernels of this crate.
    pub(super) fn product_of(
        &self,
        inputs: Inputs,
        s: GemmShape,
        x: &Buffer<f32>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut Buffer<f32>,
    ) -> Result<bool> {
        const OP: &str = "gemm";
        #[cfg(feature = "cublaslt")]
        if self.cublas.is_some() {
            return Ok(false);
        }
        if s.activations != Activations::Bf16 || s.m == 0 {
            return Ok(false);
        }
        s.check(x.len, bias.map(|b| b.len), y.len)?;
        s.check_matrix(w.n, w.k)?;
        self.owns(OP, &[x, &*y])?;
        self.owns(OP, bias.as_slice())?;
        w.belongs(OP, self)?;
        let x = x.part(OP, "x", 0, inputs.floats(s)?)?;
        let y = &mut y.part_mut(OP, "y", 0, s.m * s.n)?;
        Ok(self.hopper_product((inputs, s), &x, w, bias, y)?
            || self.wide_product((inputs, s), &x, w, bias, y)?)
    }

    /// A product with rows in BF16 whose lengths have been checked; false if the matrix holds floats: those are
    /// multiplied with floats.
    pub(super) fn wide_product(
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
        let which = self.wide_size(s, w.format);
        let (kernel, tiles) = (kernels[which], TILES[which]);
        let shared = shared_bytes(w.format, tiles);
        let (columns, rows) = (s.m.div_ceil(tiles * TILE), s.n.div_ceil(STRIPS * STRIP));
        let mut shape = grid(OP, columns, rows, THREADS)?;
        [shape.shared_mem_bytes] = words(OP, [shared])?;
        let [m, n, k] = words(OP, [s.m, s.n, s.k])?;
        let (has_bias, accumulate) = (u32::from(bias.is_some()), u32::from(s.accumulate));
        let halves = self.halved((inputs, s), x)?;
        let f = self.function(Wide, kernel)?;
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
        // SAFETY: wide_*(y, halves, w, scales, bias, m, n, k, has_bias, accumulate). The callers' checks proved that y and
        // bias hold m · n and n elements and that w is [n, k]; `halved` made halves for whole tiles and stages. The kernels
        // read strips, tiles and blocks of inputs that are there, and write below m and n; the shared memory is that of
        // stages as they lay it out.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(true)
    }

    /// Which of the kernels takes so many rows and outputs: that of the least time, which is a block's tiles, and something
    /// for what all its tiles share, for every block that a multiprocessor has at once and every turn of so many.
    fn wide_size(&self, s: GemmShape, format: Format) -> usize {
        let time = |tiles: usize| {
            let blocks = s.m.div_ceil(tiles * TILE) * s.n.div_ceil(STRIPS * STRIP);
            let shared = shared_bytes(format, tiles) + RESERVED;
            let together = (self.shared_bytes / shared).clamp(1, TOGETHER);
            blocks.div_ceil(self.processors * together) * together * (tiles + 8)
        };
        let all = 0..TILES.len();
        all.min_by_key(|&i| time(TILES[i])).unwrap_or(0)
    }

    /// The rows in BF16, in tiles.
    fn halved(
        &self,
        (inputs, s): (Inputs, GemmShape),
        x: &CudaView<'_, u8>,
    ) -> Result<CudaSlice<u8>> {
        let kernel = inputs.of([
            "round_halves",
            "round_halves_gelu_tanh",
            "round_halves_gelu_erf",
            "round_halves_silu",
            "round_halves_relu",
            "round_halves_gate_gelu_tanh",
            "round_halves_gate_gelu_erf",
            "round_halves_gate_silu",
            "round_halves_gate_relu",
        ]);
        let blocks = s.k.div_ceil(BLOCK).next_multiple_of(TURN);
        let units = product("gemm", &[s.m.div_ceil(TILE), blocks])?;
        let mut halves = self.bytes("gemm", product("gemm", &[units, HALVES_BYTES])?)?;
        let [m, k, columns] = words("gemm", [s.m, s.k, units])?;
        let f = self.function(Wide, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut halves).arg(x);
        args.arg(&m).arg(&k).arg(&columns);
        // SAFETY: round_halves*(halves, x, m, k, columns), a warp for each of the columns: tiles of 8 rows times an even number
        // of blocks of 32 inputs. halves hold 512 bytes for each, x m · k floats, of gates twice as many; rows from m and inputs
        // from k on are not read, and warps past the last column leave.
        unsafe { args.launch(elements("gemm", product("gemm", &[units, BLOCK])?)?) }
            .map_err(|e| failed(kernel, e))?;
        Ok(halves)
    }
}
