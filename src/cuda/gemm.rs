//! Products of quantised matrices with rows in 8 bits, on tensor cores.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, LaunchConfig, PushKernelArg};

use super::gemv::{Matrix, STRIP};
use super::memory::Buffer;
use super::module::Family::Gemm;
use super::{Device, elements, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::gemm::GemmShape;
use crate::quant::{A8_BLOCK, Format};

/// Rows that an instruction multiplies at once: a tile.
const TILE: usize = 8;
/// Tiles of a block of threads at most.
const TILES: usize = 8;
/// Warps of a block of threads at most.
const WARPS: usize = 16;
/// Bytes of the levels of a block of inputs, and of their scale and sum.
const LEVELS_BYTES: usize = 32;
const SIDE_BYTES: usize = 8;
/// Blocks of threads that a large GPU runs at once: a block takes several strips where these are enough.
const BLOCKS: usize = 128;
/// Shared memory of a block for many rows at most: the smallest of the multiprocessors (8.6) has 100 KB, those of
/// data centres room for two and more.
const RING_BYTES: usize = 80 << 10;

/// A format's kernels: for one row, to 8, to 64, for more; and the blocks of inputs that a warp of the first two takes
/// in one turn.
const fn kernels(format: Format) -> Option<([&'static str; 4], [usize; 2])> {
    match format {
        Format::F32 | Format::Bf16 => None,
        Format::Q8_0 => Some((
            [
                "gemm_q8_one",
                "gemm_q8_few",
                "gemm_q8_many",
                "gemm_q8_large",
            ],
            [2, 2],
        )),
        Format::Q4_0 | Format::Q4G128 => Some((
            [
                "gemm_q4_one",
                "gemm_q4_few",
                "gemm_q4_many",
                "gemm_q4_large",
            ],
            [4, 2],
        )),
        Format::Q4K => Some((
            [
                "gemm_q4k_one",
                "gemm_q4k_few",
                "gemm_q4k_many",
                "gemm_q4k_large",
            ],
            [4, 2],
        )),
    }
}

/// How a kernel is launched, and how its blocks of threads part the work.
#[derive(Debug, Clone, Copy)]
struct Plan {
    kernel: &'static str,
    shape: LaunchConfig,
    /// Strips, tiles and blocks of inputs of a stage: what the kernels for many rows take.
    parts: Option<[usize; 3]>,
}

impl Plan {
    /// A plan for a matrix whose strips have so many bytes for a block of inputs; nothing for a format without blocks.
    fn new(s: GemmShape, format: Format, strip_bytes: usize) -> Result<Option<Self>> {
        const OP: &str = "gemm";
        let Some((kernels, turns)) = kernels(format) else {
            return Ok(None);
        };
        let all_strips = s.n.div_ceil(STRIP);
        let block_bytes = LEVELS_BYTES + SIDE_BYTES;
        if s.m <= TILE {
            // As in the kernel: 8 warps, a ring of 3 turns each, and the terms of a round twice.
            let several = usize::from(s.m > 1);
            let [turn, terms] = [turns[several], [STRIP, STRIP * TILE][several]];
            let bytes = 8 * turn * (3 * (strip_bytes + s.m * block_bytes) + 2 * terms * 4);
            let mut shape = grid(OP, 1, all_strips, 256)?;
            [shape.shared_mem_bytes] = words(OP, [bytes])?;
            return Ok(Some(Self {
                kernel: kernels[several],
                shape,
                parts: None,
            }));
        }
        let all_tiles = s.m.div_ceil(TILE);
        // Blocks of threads along the rows share them evenly.
        let tiles = all_tiles.div_ceil(all_tiles.div_ceil(TILES));
        let (kernel, together) = if s.m <= TILE * TILES {
            (kernels[2], 1)
        } else {
            (kernels[3], 2)
        };
        let groups = tiles.div_ceil(together);
        let strips = [4, 2, 1]
            .into_iter()
            .find(|strips| strips * groups <= WARPS && all_strips / strips >= BLOCKS)
            .unwrap_or(1);
        // A ring of 4 stages.
        let bytes = |turn| 4 * turn * (strips * strip_bytes + tiles * TILE * block_bytes);
        let turn = [8, 4].into_iter().find(|&t| bytes(t) <= RING_BYTES);
        let turn = turn.unwrap_or(2);
        let [threads, shared] = words(OP, [32 * strips * groups, bytes(turn)])?;
        let x = all_tiles.div_ceil(tiles);
        let mut shape = grid(OP, x, all_strips.div_ceil(strips), threads)?;
        shape.shared_mem_bytes = shared;
        Ok(Some(Self {
            kernel,
            shape,
            parts: Some([strips, tiles, turn]),
        }))
    }
}

impl Device {
    /// A product with rows in 8 bits whose lengths have been checked; false if the matrix has no blocks.
    pub(super) fn integer_product(
        &self,
        s: GemmShape,
        x: &CudaView<'_, u8>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut CudaViewMut<'_, u8>,
    ) -> Result<bool> {
        const OP: &str = "gemm";
        let Some(plan) = Plan::new(s, w.format, w.strip_bytes())? else {
            return Ok(false);
        };
        let [m, n, k] = words(OP, [s.m, s.n, s.k])?;
        let (has_bias, accumulate) = (u32::from(bias.is_some()), u32::from(s.accumulate));
        let (levels, sides) = self.rounded(s, x)?;
        let f = self.function(Gemm, plan.kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(y).arg(&levels).arg(&sides);
        args.arg(&w.data).arg(&w.scales);
        match bias {
            Some(bias) => args.arg(&bias.data),
            // Not read.
            None => args.arg(&w.data),
        };
        args.arg(&m).arg(&n).arg(&k);
        let [strips, tiles, turn] = words(OP, plan.parts.unwrap_or_default())?;
        if plan.parts.is_some() {
            args.arg(&strips).arg(&tiles).arg(&turn);
        }
        args.arg(&has_bias).arg(&accumulate);
        // SAFETY: gemm_*(y, levels, sides, w, scales, bias, m, n, k, [strips, tiles, turn,] has_bias, accumulate). The
        // callers' checks proved that y and bias hold m · n and n elements and that w is [n, k]; `rounded` made levels
        // and sides for whole tiles. The kernels read strips, tiles and blocks of inputs that are there, and write below
        // m and n; the plan gives the shared memory that these sizes need.
        unsafe { args.launch(plan.shape) }.map_err(|e| failed(plan.kernel, e))?;
        Ok(true)
    }

    /// The rows in 8 bits, and the scale and sum of each block, in tiles.
    fn rounded(
        &self,
        s: GemmShape,
        x: &CudaView<'_, u8>,
    ) -> Result<(CudaSlice<u8>, CudaSlice<u8>)> {
        const KERNEL: &str = "round_a8";
        let rows = s.m.min(TILE);
        let units = product("gemm", &[s.m.next_multiple_of(rows.max(1)), s.k / A8_BLOCK])?;
        let mut levels = self.bytes("gemm", product("gemm", &[units, LEVELS_BYTES])?)?;
        let mut sides = self.bytes("gemm", product("gemm", &[units, SIDE_BYTES])?)?;
        let [m, k, rows] = words("gemm", [s.m, s.k, rows])?;
        let len = units as u64;
        let f = self.function(Gemm, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut levels).arg(&mut sides).arg(x);
        args.arg(&m).arg(&k).arg(&rows).arg(&len);
        // SAFETY: round_a8(levels, sides, x, m, k, R, len). x holds m · k floats, k a multiple of 32 since the matrix has
        // blocks; levels hold 32 bytes and sides 8 for each of len blocks, which are those of whole tiles of R rows;
        // threads from 8 · len on write nothing, and rows from m on are not read.
        unsafe { args.launch(elements("gemm", product("gemm", &[units, 8])?)?) }
            .map_err(|e| failed(KERNEL, e))?;
        Ok((levels, sides))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::module::SHARED_BYTES;
    use crate::ops::gemm::Activations;

    #[test]
    fn plans_cover_every_size_and_ask_for_no_more_than_a_gpu_has() {
        for format in [Format::Q8_0, Format::Q4_0, Format::Q4G128, Format::Q4K] {
            let (pieces, scale) = match format {
                Format::Q8_0 => (2, 2),
                Format::Q4K => (1, 8),
                _ => (1, 2),
            };
            for n in [1, 32, 33, 4096, 8192, 16_384, 40_000] {
                for m in (1..=140).chain([1000, 4097]) {
                    let s = GemmShape {
                        activations: Activations::A8,
                        ..GemmShape::new(m, n, 256)
                    };
                    let plan = Plan::new(s, format, STRIP * (16 * pieces + scale));
                    let plan = plan.unwrap().unwrap();
                    let (x, y, _) = plan.shape.grid_dim;
                    let [strips, tiles, turn] = plan.parts.unwrap_or([1, 1, 2]);
                    let what = alloc::format!("{format:?}, {m} rows, {n} outputs: {plan:?}");
                    assert!(x as usize * tiles * TILE >= m, "{what}");
                    assert!(y as usize * strips * STRIP >= n, "{what}");
                    assert!((x as usize - 1) * tiles * TILE < m, "{what}");
                    assert!((y as usize - 1) * strips * STRIP < n, "{what}");
                    assert!([2, 4, 8].contains(&turn), "{what}");
                    assert!(plan.shape.block_dim.0 <= 512, "{what}");
                    let most = SHARED_BYTES.unsigned_abs();
                    assert!(plan.shape.shared_mem_bytes <= most, "{what}");
                }
            }
        }
        let floats = Plan::new(GemmShape::new(1, 1, 1), Format::F32, 0);
        assert!(floats.unwrap().is_none());
    }
}
