//! Weight matrices in panels, and how canonical rows get into them.
//!
//! A panel is up to 64 outputs, stored `[k][output]`, so that one vector holds neighbouring outputs of the same k. Rows
//! arrive row by row, so packing is a transposition; it goes a small square at a time to stay in the first cache.

mod rows;

use alloc::boxed::Box;
use core::iter::Skip;
use core::slice::ChunksMut;

use bytemuck::Zeroable;
use bytemuck::allocation::try_zeroed_slice_box;

use super::pool::Pool;
use super::simd::Lanes;
use crate::error::{Error, Result, product};
use crate::ops::gemm::SUM_BLOCK;
use crate::quant::{
    Format, Q4_BLOCK, Q4_BLOCK_BYTES, Q8_BLOCK, Q8_BLOCK_BYTES, QuantData, QuantMatrix,
};

/// Outputs of a panel.
pub(super) const PANEL: usize = 64;
/// A panel's width is a multiple of this.
pub(super) const ALIGN: usize = 16;
/// Nibbles share a byte with those so many k further on.
const HALF: usize = Q4_BLOCK / 2;

/// A weight matrix `[n, k]` in panels.
#[derive(Debug)]
pub struct Packed {
    pub(super) n: usize,
    pub(super) k: usize,
    data: Data,
}

#[derive(Debug)]
enum Data {
    F32(Aligned<f32>),
    /// Upper halves of floats.
    Bf16(Aligned<u16>),
    /// Bytes in panels, and in the same panels one scale for every 32 of them.
    Q8_0(Aligned<u8>, Aligned<f32>),
    /// As `Q8_0`; of each 32 rows of a panel the first 16 lie in the low halves, the others in the high halves.
    Q4_0(Aligned<u8>, Aligned<f32>),
}

/// Elements that start at a cache line.
#[derive(Debug)]
struct Aligned<T> {
    data: Box<[T]>,
    start: usize,
    len: usize,
}

impl<T: Zeroable> Aligned<T> {
    /// Zeros that the system makes when they are first touched: by the threads that pack.
    fn zeros(len: usize) -> Result<Self> {
        let room = len.saturating_add(64 / size_of::<T>());
        let data: Box<[T]> = try_zeroed_slice_box(room).map_err(|()| Error::OutOfMemory {
            what: "matrix",
            bytes: room.saturating_mul(size_of::<T>()),
        })?;
        let start = data.as_ptr().align_offset(64).min(room - len);
        Ok(Self { data, start, len })
    }

    fn as_slice(&self) -> &[T] {
        &self.data[self.start..][..self.len]
    }

    /// Chunks of so many elements, from chunk `first` on.
    fn panels(&mut self, size: usize, first: usize) -> Skip<ChunksMut<'_, T>> {
        let all = &mut self.data[self.start..][..self.len];
        all.chunks_mut(size).skip(first)
    }
}

/// Width of the panel that starts at output `from`.
pub(super) fn panel_width(n: usize, from: usize) -> usize {
    (n - from).min(PANEL).next_multiple_of(ALIGN)
}

impl Packed {
    /// A matrix of zeros.
    pub(super) fn zeros(format: Format, n: usize, k: usize) -> Result<Self> {
        // Also says no to rows that are no whole blocks.
        format.bytes(n, k)?;
        let wide = n.checked_next_multiple_of(ALIGN);
        let all = product("matrix", &[wide.unwrap_or(usize::MAX), k])?;
        let data = match format {
            Format::F32 => Data::F32(Aligned::zeros(all)?),
            Format::Bf16 => Data::Bf16(Aligned::zeros(all)?),
            Format::Q8_0 => Data::Q8_0(Aligned::zeros(all)?, Aligned::zeros(all / Q8_BLOCK)?),
            Format::Q4_0 => Data::Q4_0(Aligned::zeros(all / 2)?, Aligned::zeros(all / Q4_BLOCK)?),
        };
        Ok(Self { n, k, data })
    }

    fn format(&self) -> Format {
        match self.data {
            Data::F32(_) => Format::F32,
            Data::Bf16(_) => Format::Bf16,
            Data::Q8_0(..) => Format::Q8_0,
            Data::Q4_0(..) => Format::Q4_0,
        }
    }

    /// Packs rows from row `at` on, the panels shared among the threads.
    pub(super) fn put(&mut self, pool: &Pool, at: usize, rows: &QuantMatrix<'_>) -> Result<()> {
        let (n, k) = (self.n, self.k);
        let range = rows.place(at, self.format(), [n, k])?;
        let (first, work) = (range.start / PANEL, range.len() * k / 8);
        // All panels but the last have one size, so panel `p` is chunk `p`.
        let places = (first..range.end.div_ceil(PANEL)).map(|panel| {
            let from = panel * PANEL;
            let (start, end) = (range.start.max(from), range.end.min(from + PANEL));
            Place {
                width: panel_width(n, from),
                column: start - from,
                columns: end - start,
                first: start - range.start,
                k,
            }
        });
        match (&mut self.data, rows.data()) {
            (Data::F32(out), QuantData::F32(rows)) => {
                let panels = places.zip(out.panels(PANEL * k, first));
                pool.each(work, panels, |(place, out)| {
                    place.scatter(rows, out, |v| *v)
                });
            }
            (Data::Bf16(out), QuantData::Bf16(rows)) => {
                let rows = rows.as_chunks::<2>().0;
                let panels = places.zip(out.panels(PANEL * k, first));
                pool.each(work, panels, |(place, out)| {
                    place.scatter(rows, out, |v| u16::from_le_bytes(*v));
                });
            }
            (Data::Q8_0(out, scales), QuantData::Q8_0(rows)) => {
                let scales = scales.panels(PANEL * k / Q8_BLOCK, first);
                let panels = places.zip(out.panels(PANEL * k, first)).zip(scales);
                pool.each(work, panels, |((place, out), scales)| {
                    place.blocks::<Q8_BLOCK_BYTES, Q8_BLOCK>(rows, out, scales);
                });
            }
            (Data::Q4_0(out, scales), QuantData::Q4_0(rows)) => {
                let scales = scales.panels(PANEL * k / Q4_BLOCK, first);
                let panels = places.zip(out.panels(PANEL * k / 2, first)).zip(scales);
                pool.each(work, panels, |((place, out), scales)| {
                    place.blocks::<Q4_BLOCK_BYTES, HALF>(rows, out, scales);
                });
            }
            // `place` compared the formats.
            _ => {}
        }
        Ok(())
    }
}

/// Where some rows go: columns of one panel.
#[derive(Clone, Copy)]
struct Place {
    /// Width of the panel.
    width: usize,
    /// First column, and how many.
    column: usize,
    columns: usize,
    /// The row that comes first.
    first: usize,
    k: usize,
}

impl Place {
    /// Elements one by one.
    fn scatter<S, T>(self, rows: &[S], out: &mut [T], element: impl Fn(&S) -> T) {
        /// Rows of a panel that stay in the cache while its columns are filled.
        const TILE: usize = 32;
        for (tile, out) in out.chunks_mut(TILE * self.width).enumerate() {
            for c in 0..self.columns {
                let row = &rows[(self.first + c) * self.k..][..self.k];
                let out = out.chunks_exact_mut(self.width);
                for (out, v) in out.zip(&row[tile * TILE..]) {
                    out[self.column + c] = element(v);
                }
            }
        }
    }

    /// Blocks of a scale and LEN bytes.
    fn blocks<const BLOCK: usize, const LEN: usize>(
        self,
        rows: &[u8],
        out: &mut [u8],
        scales: &mut [f32],
    ) {
        let per_row = self.k / Q8_BLOCK;
        let rows = rows.as_chunks::<BLOCK>().0;
        let block = |c: usize, b: usize| &rows[(self.first + c) * per_row + b];
        let both = out
            .chunks_exact_mut(self.width * LEN)
            .zip(scales.chunks_exact_mut(self.width));
        for (b, (out, scales)) in both.enumerate() {
            for (c, scale) in scales[self.column..][..self.columns].iter_mut().enumerate() {
                let block = block(c, b);
                *scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
            }
            let eights = self.columns / 8 * 8;
            for c in (0..eights).step_by(8) {
                for t in (0..LEN).step_by(8) {
                    let mut square = [0; 8];
                    for (i, line) in square.iter_mut().enumerate() {
                        let bytes = block(c + i, b)[2 + t..].first_chunk();
                        *line = u64::from_le_bytes(*bytes.unwrap_or(&[0; 8]));
                    }
                    for (i, line) in transposed(square).iter().enumerate() {
                        let at = (t + i) * self.width + self.column + c;
                        out[at..][..8].copy_from_slice(&line.to_le_bytes());
                    }
                }
            }
            for c in eights..self.columns {
                let out = out.chunks_exact_mut(self.width);
                for (out, byte) in out.zip(&block(c, b)[2..]) {
                    out[self.column + c] = *byte;
                }
            }
        }
    }
}

/// The transpose of 8 × 8 bytes, a line a word: squares of four, two and one change places across the diagonal.
fn transposed(mut lines: [u64; 8]) -> [u64; 8] {
    for (step, mask) in [
        (4, 0x0000_0000_ffff_ffff),
        (2, 0x0000_ffff_0000_ffff),
        (1, 0x00ff_00ff_00ff_00ff),
    ] {
        for i in (0..8).filter(|i| i & step == 0) {
            let (above, below) = (lines[i], lines[i + step]);
            let swapped = (above >> (8 * step) ^ below) & mask;
            lines[i] = above ^ swapped << (8 * step);
            lines[i + step] = below ^ swapped;
        }
    }
    lines
}

/// A piece of a panel: `k` rows of `width` outputs.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) w: &'a [f32],
    pub(super) width: usize,
    pub(super) k: usize,
}

/// The floats of k = `from .. from + k` in the panel at output `column`; other formats are written to `scratch` first.
/// Both ends are ends of blocks.
#[inline(always)]
pub(super) fn panel<'a, V: Lanes>(
    w: &'a Packed,
    column: usize,
    from: usize,
    k: usize,
    scratch: &'a mut [f32],
) -> Panel<'a> {
    let width = panel_width(w.n, column);
    let at = column * w.k + from * width;
    // Scales of the blocks of k from `from` on.
    let scales =
        |scales: &'a Aligned<f32>| &scales.as_slice()[at / Q8_BLOCK..][..k / Q8_BLOCK * width];
    let w = match &w.data {
        Data::F32(data) => &data.as_slice()[at..][..k * width],
        Data::Bf16(data) => {
            let data = &data.as_slice()[at..][..k * width];
            let out = &mut scratch[..k * width];
            for (data, out) in data.chunks_exact(V::N).zip(out.chunks_exact_mut(V::N)) {
                V::load_bf16(data).store(out);
            }
            out
        }
        Data::Q8_0(bytes, s) => {
            let bytes = bytes.as_slice()[at..][..k * width].chunks_exact(Q8_BLOCK * width);
            let out = &mut scratch[..k * width];
            let blocks = bytes.zip(scales(s).chunks_exact(width));
            for ((bytes, scales), out) in blocks.zip(out.chunks_exact_mut(Q8_BLOCK * width)) {
                let rows = bytes.chunks_exact(width).zip(out.chunks_exact_mut(width));
                for (bytes, out) in rows {
                    for c in (0..width).step_by(V::N) {
                        V::load(&scales[c..])
                            .mul(V::load_i8(&bytes[c..]))
                            .store(&mut out[c..]);
                    }
                }
            }
            out
        }
        Data::Q4_0(bytes, s) => {
            let bytes = bytes.as_slice()[at / 2..][..k / 2 * width].chunks_exact(HALF * width);
            let out = &mut scratch[..k * width];
            let blocks = bytes.zip(scales(s).chunks_exact(width));
            for ((bytes, scales), out) in blocks.zip(out.chunks_exact_mut(Q4_BLOCK * width)) {
                let (low, high) = out.split_at_mut(HALF * width);
                let outs = low
                    .chunks_exact_mut(width)
                    .zip(high.chunks_exact_mut(width));
                for (bytes, (low, high)) in bytes.chunks_exact(width).zip(outs) {
                    for c in (0..width).step_by(V::N) {
                        let scale = V::load(&scales[c..]);
                        let [a, b] = V::load_nibbles(&bytes[c..]);
                        scale.mul(a).store(&mut low[c..]);
                        scale.mul(b).store(&mut high[c..]);
                    }
                }
            }
            out
        }
    };
    Panel { w, width, k }
}

/// Scratch of [`panel`].
pub(super) fn panel_scratch(w: &Packed) -> usize {
    match w.data {
        Data::F32(_) => 0,
        _ => SUM_BLOCK.min(w.k) * PANEL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_transposed() {
        let bytes: [[u8; 8]; 8] = [0_u8, 1, 2, 3, 4, 5, 6, 7].map(|i| [i; 8]);
        let turned = transposed(bytes.map(u64::from_le_bytes)).map(u64::to_le_bytes);
        assert_eq!(turned, [[0, 1, 2, 3, 4, 5, 6, 7]; 8]);
        let (mut one, mut other) = ([[0; 8]; 8], [[0; 8]; 8]);
        (one[6][1], other[1][6]) = (9, 9);
        let turned = transposed(one.map(u64::from_le_bytes)).map(u64::to_le_bytes);
        assert_eq!(turned, other);
    }
}
