//! Products of matrices with rows of BF16, on tensor cores.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, PushKernelArg};

use super::gemv::{Matrix, STRIP};
use super::memory::Buffer;
use super::module::Family::Wide;
use super::{Device, elements, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::gemm::GemmShape;
use crate::quant::Format;

/// Rows of a tile, and inputs of a block.
const TILE: usize = 8;
const BLOCK: usize = 32;
/// Threads of a block, and the strips that they take: see `kernels/wide.cu`.
const THREADS: u32 = 256;
const STRIPS: usize = 4;
/// Blocks of inputs of a stage, and of the ring of 3.
const TURN: usize = 2;
const RING: usize = 3 * TURN;
/// Bytes of a tile's rows for a block of inputs, and of their sums.
const HALVES_BYTES: usize = TILE * BLOCK * 2;
const SUMS_BYTES: usize = TILE * 4;
/// Tiles of a block of threads, from the fewest to the most.
const TILES: [usize; 2] = [4, 16];
/// Multiprocessors of a large GPU, each of which runs one block of threads.
const AT_ONCE: usize = 132;

/// A format's kernels for each of [`TILES`].
const fn kernels(format: Format) -> Option<[&'static str; 2]> {
    match format {
        Format::F32 => None,
        Format::Bf16 => Some(["wide_bf16_1", "wide_bf16_4"]),
        Format::Q8_0 => Some(["wide_q8_1", "wide_q8_4"]),
        Format::Q4_0 | Format::Q4G128 => Some(["wide_q4_1", "wide_q4_4"]),
        Format::Q4K => Some(["wide_q4k_1", "wide_q4k_4"]),
    }
}

/// Which of the kernels takes so many rows and outputs: that of the least time, which is a block's tiles, and something for
/// what all its tiles share, once for every turn in which the GPU runs as many blocks as it can.
fn size(m: usize, n: usize) -> usize {
    let time = |tiles: usize| {
        let blocks = m.div_ceil(tiles * TILE) * n.div_ceil(STRIPS * STRIP);
        blocks.div_ceil(AT_ONCE) * (tiles + 4)
    };
    let all = 0..TILES.len();
    all.min_by_key(|&i| time(TILES[i])).unwrap_or(0)
}

impl Device {
    /// A product with rows in BF16 whose lengths have been checked; false if the matrix holds floats: those are
    /// multiplied with floats.
    pub(super) fn wide_product(
        &self,
        s: GemmShape,
        x: &CudaView<'_, u8>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut CudaViewMut<'_, u8>,
    ) -> Result<bool> {
        const OP: &str = "gemm";
        let Some(kernels) = kernels(w.format) else {
            return Ok(false);
        };
        let which = size(s.m, s.n);
        let (kernel, tiles) = (kernels[which], TILES[which]);
        let sums_bytes = if w.format == Format::Q4K {
            SUMS_BYTES
        } else {
            0
        };
        let stage = STRIPS * w.strip_bytes() + tiles * (HALVES_BYTES + sums_bytes);
        let (columns, rows) = (s.m.div_ceil(tiles * TILE), s.n.div_ceil(STRIPS * STRIP));
        let mut shape = grid(OP, columns, rows, THREADS)?;
        [shape.shared_mem_bytes] = words(OP, [RING * stage])?;
        let [m, n, k] = words(OP, [s.m, s.n, s.k])?;
        let (has_bias, accumulate) = (u32::from(bias.is_some()), u32::from(s.accumulate));
        let (halves, sums) = self.halved(s, x)?;
        let f = self.function(Wide, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(y).arg(&halves).arg(&sums);
        args.arg(&w.data).arg(&w.scales);
        match bias {
            Some(bias) => args.arg(&bias.data),
            // Not read.
            None => args.arg(&w.data),
        };
        args.arg(&m).arg(&n).arg(&k);
        args.arg(&has_bias).arg(&accumulate);
        // SAFETY: wide_*(y, halves, sums, w, scales, bias, m, n, k, has_bias, accumulate). The callers' checks proved that
        // y and bias hold m · n and n elements and that w is [n, k]; `halved` made halves and sums for whole tiles and
        // blocks. The kernels read strips, tiles and blocks of inputs that are there, and write below m and n; the shared
        // memory is a ring of stages as they lay it out.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(true)
    }

    /// The rows in BF16, and the sum of each block, in tiles.
    fn halved(&self, s: GemmShape, x: &CudaView<'_, u8>) -> Result<(CudaSlice<u8>, CudaSlice<u8>)> {
        const KERNEL: &str = "round_halves";
        let blocks = s.k.div_ceil(BLOCK).next_multiple_of(TURN);
        let units = product("gemm", &[s.m.div_ceil(TILE), blocks])?;
        let mut halves = self.bytes("gemm", product("gemm", &[units, HALVES_BYTES])?)?;
        let mut sums = self.bytes("gemm", product("gemm", &[units, SUMS_BYTES])?)?;
        let [m, k, columns] = words("gemm", [s.m, s.k, units])?;
        let f = self.function(Wide, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut halves).arg(&mut sums).arg(x);
        args.arg(&m).arg(&k).arg(&columns);
        // SAFETY: round_halves(halves, sums, x, m, k, columns), a warp for each of the columns: tiles of 8 rows times an
        // even number of blocks of 32 inputs. halves hold 512 bytes and sums 32 for each, x m · k floats; rows from m and
        // inputs from k on are not read, and warps past the last column leave.
        unsafe { args.launch(elements("gemm", product("gemm", &[units, BLOCK])?)?) }
            .map_err(|e| failed(KERNEL, e))?;
        Ok((halves, sums))
    }
}
