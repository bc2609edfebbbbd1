//! Products of quantised matrices with rows in 8 bits, on tensor cores.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, LaunchConfig, PushKernelArg};

use super::gemv::{Layout, Matrix, STRIP};
use super::memory::Buffer;
use super::module::Family::{self, Gemm, GemmMany};
use super::{Device, elements, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::gemm::GemmShape;
use crate::quant::{A8_BLOCK, Format};

/// Rows that an instruction multiplies at once: a tile.
const TILE: usize = 8;
/// Bytes of the levels of a block of inputs, and of their scale and sum.
const LEVELS_BYTES: usize = 32;
const SIDE_BYTES: usize = 8;
/// Warps that multiply in a block for up to 8 rows.
const PARTS: usize = 8;
/// Bytes of a row of terms or sums that other warps take up: of 32 outputs, and 16 more.
const ROW_BYTES: usize = 144;
/// Blocks of inputs of a turn for 5 to 8 rows.
const FEW_TURN: usize = 2;
/// Tiles of a block for more rows at most, and its warps.
const TILES: usize = 8;
const MANY_WARPS: usize = 4;

/// How a kernel for nine rows and more parts the work.
#[derive(Debug, Clone, Copy)]
struct Way {
    kernel: &'static str,
    /// Strips and tiles of a block, and blocks of inputs: of a stage, and that lie in shared memory at once.
    strips: usize,
    tiles: usize,
    turn: usize,
    ring: usize,
    /// Instructions that a warp spends on a block of inputs, in what it spends on half a strip of one tile.
    cost: usize,
}

impl Way {
    /// A warp has half a strip and half of the tiles.
    const fn narrow(kernel: &'static str, tiles: usize) -> Self {
        Self {
            kernel,
            strips: 1,
            tiles,
            turn: if tiles == TILES { 4 } else { 8 },
            ring: 24,
            cost: 1 + tiles / 2,
        }
    }

    /// A warp has half a strip and all tiles.
    const fn broad(kernel: &'static str, tiles: usize) -> Self {
        Self {
            kernel,
            strips: 2,
            tiles,
            turn: 4,
            ring: 16,
            cost: 1 + tiles,
        }
    }

    /// A warp has a strip and all tiles.
    const fn large(kernel: &'static str) -> Self {
        Self {
            kernel,
            strips: 4,
            tiles: TILES,
            turn: 2,
            ring: 8,
            cost: 2 * (1 + TILES),
        }
    }

    /// Blocks of threads along rows and outputs.
    const fn blocks(&self, s: GemmShape) -> [usize; 2] {
        [
            s.m.div_ceil(self.tiles * TILE),
            s.n.div_ceil(self.strips * STRIP),
        ]
    }

    /// What the fullest of so many multiprocessors spends.
    const fn time(&self, s: GemmShape, processors: usize) -> usize {
        let [x, y] = self.blocks(s);
        x.saturating_mul(y)
            .div_ceil(processors)
            .saturating_mul(self.cost)
    }
}

/// A format's kernels.
#[derive(Debug, Clone, Copy)]
struct Kernels {
    /// One row, two, and up to four, with the blocks of inputs that a warp takes in one turn, and the turns of its ring.
    ones: [(&'static str, usize, usize); 3],
    /// Up to 8 rows, with the turns of a ring.
    few: (&'static str, usize),
    /// Nine and more: one strip of a narrow matrix a block, and two of a broad one.
    narrow: [Way; 4],
    broad: [Way; 3],
    large: Way,
}

const fn kernels(format: Format) -> Option<Kernels> {
    // Of a format by its name, blocks of a turn and turns of a ring for few rows, and turns of a ring for up to 8.
    macro_rules! of {
        ($name:literal, $ones:expr, $few:expr) => {{
            let [one, two, four] = $ones;
            Kernels {
                ones: [
                    (concat!($name, "_one"), one.0, one.1),
                    (concat!($name, "_two"), two.0, two.1),
                    (concat!($name, "_four"), four.0, four.1),
                ],
                few: (concat!($name, "_few"), $few),
                narrow: [
                    Way::narrow(concat!($name, "_narrow_2"), 2),
                    Way::narrow(concat!($name, "_narrow_4"), 4),
                    Way::narrow(concat!($name, "_narrow_6"), 6),
                    Way::narrow(concat!($name, "_narrow_8"), 8),
                ],
                broad: [
                    Way::broad(concat!($name, "_broad_3"), 3),
                    Way::broad(concat!($name, "_broad_5"), 5),
                    Way::broad(concat!($name, "_broad_8"), 8),
                ],
                large: Way::large(concat!($name, "_large")),
            }
        }};
    }
    Some(match format {
        Format::F32 | Format::Bf16 => return None,
        Format::Q8_0 => of!("gemm_q8", [(4, 2), (4, 2), (2, 4)], 3),
        Format::Q4_0 => of!("gemm_q4", [(8, 2), (4, 3), (2, 6)], 4),
        Format::Q4G128 => of!("gemm_q4g", [(8, 2), (4, 3), (2, 6)], 4),
        Format::Q4K => of!("gemm_q4k", [(4, 3), (4, 3), (2, 6)], 3),
    })
}

/// How a kernel is launched, and how its blocks of threads part the work.
#[derive(Debug, Clone, Copy)]
struct Plan {
    family: Family,
    kernel: &'static str,
    shape: LaunchConfig,
    /// Whether the kernel takes rows that are rounded already.
    rounded: bool,
}

impl Plan {
    /// A plan for a matrix of some format, and for so many multiprocessors; nothing for a format without blocks.
    fn new(s: GemmShape, format: Format, processors: usize) -> Result<Option<Self>> {
        const OP: &str = "gemm";
        let Some(kernels) = kernels(format) else {
            return Ok(None);
        };
        let (layout, all_strips) = (Layout::of(format), s.n.div_ceil(STRIP));
        if s.m <= TILE {
            let log = s.m.next_power_of_two().ilog2() as usize;
            let (kernel, warps, bytes) = match kernels.ones.get(log) {
                // The terms of a round twice, and rings of turns.
                Some(&(kernel, turn, stages)) => {
                    let rows = 1 << log;
                    let bytes = 2 * turn * rows * ROW_BYTES + stages * layout.bytes(turn);
                    (kernel, PARTS + rows, bytes)
                }
                None => {
                    let (kernel, stages) = kernels.few;
                    let rows = FEW_TURN * s.m * (LEVELS_BYTES + SIDE_BYTES);
                    let terms = 2 * FEW_TURN * TILE * STRIP * 4;
                    let bytes = terms + stages * (layout.bytes(FEW_TURN) + rows);
                    (kernel, PARTS, bytes)
                }
            };
            let [threads, bytes] = words(OP, [32 * warps, PARTS * bytes])?;
            let mut shape = grid(OP, 1, all_strips, threads)?;
            shape.shared_mem_bytes = bytes;
            return Ok(Some(Self {
                family: Gemm,
                kernel,
                shape,
                rounded: s.m > 4,
            }));
        }
        let way = many(s, &kernels, processors);
        Self::many(s, way, format).map(Some)
    }

    /// The plan for nine rows and more.
    fn many(s: GemmShape, way: Way, format: Format) -> Result<Self> {
        const OP: &str = "gemm";
        let side_bytes = if format == Format::Q4K { SIDE_BYTES } else { 4 };
        let tile_bytes = TILE * (LEVELS_BYTES + side_bytes);
        let strip_bytes = Layout::of(format).bytes(way.turn);
        let stage = way.strips * strip_bytes + way.turn * way.tiles * tile_bytes;
        // Behind the last stage the sums of all rows and outputs lie in its place.
        let sums = way.strips * way.tiles * TILE * ROW_BYTES;
        let bytes = (way.ring / way.turn * stage).max(sums);
        let [threads, bytes] = words(OP, [32 * MANY_WARPS, bytes])?;
        let [x, y] = way.blocks(s);
        let mut shape = grid(OP, x, y, threads)?;
        shape.shared_mem_bytes = bytes;
        Ok(Self {
            family: GemmMany,
            kernel: way.kernel,
            shape,
            rounded: true,
        })
    }
}

/// The way for nine rows and more: that of large products once it gives every multiprocessor work, else the one of the least
/// time with as few tiles as the rows need. No bit depends on it.
fn many(s: GemmShape, kernels: &Kernels, processors: usize) -> Way {
    let [x, y] = kernels.large.blocks(s);
    if x > 1 && x.saturating_mul(y) >= processors {
        return kernels.large;
    }
    // Blocks of threads along the rows share them evenly.
    let all = s.m.div_ceil(TILE);
    let tiles = all.div_ceil(all.div_ceil(TILES));
    let of = |ways: &[Way]| ways.iter().copied().find(|way| way.tiles >= tiles);
    let ways = [of(&kernels.broad), of(&kernels.narrow)];
    let fastest = ways
        .into_iter()
        .flatten()
        .min_by_key(|way| way.time(s, processors));
    fastest.unwrap_or(kernels.large)
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
        let Some(plan) = Plan::new(s, w.format, self.processors)? else {
            return Ok(false);
        };
        let [m, n, k] = words(OP, [s.m, s.n, s.k])?;
        let (has_bias, accumulate) = (u32::from(bias.is_some()), u32::from(s.accumulate));
        let rounded = match plan.rounded {
            true => Some(self.rounded(s, x)?),
            false => None,
        };
        let views = rounded.as_ref().map(Rounded::views);
        let f = self.function(plan.family, plan.kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(y).arg(x).arg(&w.data).arg(&w.scales);
        match bias {
            Some(bias) => args.arg(&bias.data),
            // Not read.
            None => args.arg(&w.data),
        };
        args.arg(&m).arg(&n).arg(&k).arg(&has_bias).arg(&accumulate);
        if let Some([levels, scales, turned]) = &views {
            args.arg(levels).arg(scales).arg(turned);
        }
        // SAFETY: gemm_*(y, x, w, scales, bias, m, n, k, has_bias, accumulate[, levels, scales_x, turned]).
        // The callers' checks proved that x, y and bias hold m · k, m · n and n elements and that w is [n, k];
        // `rounded` made levels, scales and sums for whole tiles. The kernels read strips, tiles and blocks of inputs
        // that are there, and write below m and n; the plan gives the shared memory that these sizes need.
        unsafe { args.launch(plan.shape) }.map_err(|e| failed(plan.kernel, e))?;
        Ok(true)
    }

    /// The rows in 8 bits, and the scale and sum of each block, in tiles.
    fn rounded(&self, s: GemmShape, x: &CudaView<'_, u8>) -> Result<Rounded> {
        const KERNEL: &str = "round_a8";
        let rows = s.m.min(TILE);
        let units = product("gemm", &[s.m.next_multiple_of(rows.max(1)), s.k / A8_BLOCK])?;
        let bytes = product("gemm", &[units, LEVELS_BYTES + SIDE_BYTES])?;
        let mut rounded = Rounded {
            bytes: self.bytes("gemm", bytes)?,
            units,
        };
        let [m, k, rows] = words("gemm", [s.m, s.k, rows])?;
        let len = units as u64;
        let f = self.function(GemmMany, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        let (mut levels, mut sides) = rounded.bytes.split_at_mut(units * LEVELS_BYTES);
        let (mut scales, mut turned) = sides.split_at_mut(units * 4);
        args.arg(&mut levels)
            .arg(&mut scales)
            .arg(&mut turned)
            .arg(x);
        args.arg(&m).arg(&k).arg(&rows).arg(&len);
        // SAFETY: round_a8(levels, scales, turned, x, m, k, R, len). x holds m · k floats, k a multiple of 32 since the
        // matrix has blocks; levels hold 32 bytes, scales and sums 4 for each of len blocks, which are those of whole
        // tiles of R rows; threads from 8 · len on write nothing, and rows from m on are not read.
        unsafe { args.launch(elements("gemm", product("gemm", &[units, 8])?)?) }
            .map_err(|e| failed(KERNEL, e))?;
        Ok(rounded)
    }
}

/// Rows in 8 bits: levels, scales, and sums, in tiles.
#[derive(Debug)]
struct Rounded {
    bytes: CudaSlice<u8>,
    units: usize,
}

impl Rounded {
    fn views(&self) -> [CudaView<'_, u8>; 3] {
        let (levels, sides) = self.bytes.split_at(self.units * LEVELS_BYTES);
        let (scales, turned) = sides.split_at(self.units * 4);
        [levels, scales, turned]
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
            for n in [1, 32, 33, 4096, 8192, 16_384, 40_000] {
                for (m, processors) in (1..=140)
                    .chain([1000, 4097])
                    .zip([132, 1, 46].into_iter().cycle())
                {
                    let s = GemmShape {
                        activations: Activations::A8,
                        ..GemmShape::new(m, n, 256)
                    };
                    let plan = Plan::new(s, format, processors).unwrap().unwrap();
                    let (x, y, _) = plan.shape.grid_dim;
                    let way = many(s, &kernels(format).unwrap(), processors);
                    let [strips, tiles] = match m {
                        ..=TILE => [1, 1],
                        _ => [way.strips, way.tiles],
                    };
                    let what = alloc::format!("{format:?}, {m} rows, {n} outputs: {plan:?}");
                    assert!(x as usize * tiles * TILE >= m, "{what}");
                    assert!(y as usize * strips * STRIP >= n, "{what}");
                    assert!((x as usize - 1) * tiles * TILE < m, "{what}");
                    assert!((y as usize - 1) * strips * STRIP < n, "{what}");
                    assert!(plan.shape.block_dim.0 <= 512, "{what}");
                    let most = SHARED_BYTES.unsigned_abs();
                    assert!(plan.shape.shared_mem_bytes <= most, "{what}");
                }
            }
        }
        let floats = Plan::new(GemmShape::new(1, 1, 1), Format::F32, 132);
        assert!(floats.unwrap().is_none());
    }
}
