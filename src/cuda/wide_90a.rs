//! Products of matrices with rows of BF16 by Hopper's own instructions; `wide.rs` is the twin for other GPUs.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, PushKernelArg};

use super::gemv::{Matrix, STRIP};
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
/// Of a block of threads: strips, blocks of 32 inputs of a stage, stages at once at most. See `kernels/wide_90a.cu`.
const STRIPS: usize = 4;
const TURN: usize = 2;
const STAGES: usize = 8;
/// Rows of a block of threads, and its threads: two warpgroups multiply, a warp copies, of which the largest has three more
/// whose registers it takes.
const SIZES: [(usize, u32); 5] = [(16, 288), (64, 288), (128, 288), (192, 288), (256, 384)];
/// What a block takes whatever its rows, in rows.
const START: usize = 32;

/// A format's kernels for each of [`SIZES`].
const fn kernels(format: Format) -> Option<[&'static str; SIZES.len()]> {
    match format {
        Format::F32 => None,
        Format::Bf16 => Some([
            "hopper_bf16_16",
            "hopper_bf16_64",
            "hopper_bf16_128",
            "hopper_bf16_192",
            "hopper_bf16_256",
        ]),
        Format::Q8_0 => Some([
            "hopper_q8_16",
            "hopper_q8_64",
            "hopper_q8_128",
            "hopper_q8_192",
            "hopper_q8_256",
        ]),
        Format::Q4_0 | Format::Q4G128 => Some([
            "hopper_q4_16",
            "hopper_q4_64",
            "hopper_q4_128",
            "hopper_q4_192",
            "hopper_q4_256",
        ]),
        Format::Q4K => Some([
            "hopper_q4k_16",
            "hopper_q4k_64",
            "hopper_q4k_128",
            "hopper_q4k_192",
            "hopper_q4k_256",
        ]),
    }
}

/// Blocks of threads along rows and outputs.
const fn blocks(rows: usize, m: usize, n: usize) -> [usize; 2] {
    [m.div_ceil(rows), n.div_ceil(STRIPS * STRIP)]
}

/// Which of the kernels takes so many rows and outputs: that of the least time on so many multiprocessors, which have a block
/// each.
fn size(processors: usize, m: usize, n: usize) -> usize {
    let time = |rows: usize| {
        let [x, y] = blocks(rows, m, n);
        x.saturating_mul(y)
            .div_ceil(processors)
            .saturating_mul(rows + START)
    };
    let all = 0..SIZES.len();
    all.min_by_key(|&i| time(SIZES[i].0)).unwrap_or(0)
}

/// Shared memory of a block of threads: as many stages as there is room for.
fn shared_bytes(rows: usize, strip_bytes: usize) -> usize {
    let stage = rows / TILE * TILE_BYTES + STRIPS * TURN * strip_bytes;
    stage * (HOPPER_BYTES as usize / stage).min(STAGES)
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
        if self.portable || self.capability != (9, 0) || s.k == 0 || !s.k.is_multiple_of(INPUTS) {
            return Ok(false);
        }
        let which = size(self.processors, s.m, s.n);
        let (kernel, (rows, threads)) = (kernels[which], SIZES[which]);
        let [columns, outputs] = blocks(rows, s.m, s.n);
        let mut shape = grid(OP, product(OP, &[columns, outputs])?, 1, threads)?;
        [shape.shared_mem_bytes] = words(OP, [shared_bytes(rows, w.strip_bytes())])?;
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
        // SAFETY: hopper_*(y, halves, w, scales, bias, m, n, k, has_bias, accumulate). The callers' checks proved that y and
        // bias hold m · n and n elements and that w is [n, k]; `hopper_halves` made halves for whole tiles and stages, of
        // which there is an even number. The kernels read strips and tiles that are there, and write below m and n; the
        // shared memory is that of stages as they lay it out, and the GPU is of their kind.
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
    fn every_size_covers_its_rows_within_what_a_gpu_has() {
        for (m, n) in [
            (1, 1),
            (17, 4096),
            (774, 6144),
            (774, 2048),
            (17_200, 37_888),
        ] {
            let (rows, _) = SIZES[size(132, m, n)];
            let [x, y] = blocks(rows, m, n);
            assert!(
                x * rows >= m && y * STRIPS * STRIP >= n,
                "{m} rows, {n} outputs"
            );
        }
        for (rows, _) in SIZES {
            // Strips of a block of 32 inputs: BF16, 8 bits, 4 bits, 4 bits with offsets.
            for strip in [2048, 1024 + 64, 512 + 64, 512 + 256] {
                let bytes = shared_bytes(rows, strip);
                let stage = rows / TILE * TILE_BYTES + STRIPS * TURN * strip;
                assert!(
                    bytes <= HOPPER_BYTES as usize && bytes >= 2 * stage,
                    "{rows} rows"
                );
            }
        }
    }
}
