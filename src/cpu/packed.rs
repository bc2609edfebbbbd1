//! Weight matrices in panels, and how canonical rows get into them.
//!
//! A panel is up to 64 outputs. Floats are stored `[k][output]`, so that one vector holds neighbouring outputs of the
//! same k. Blocks are stored in strips of 16 outputs (see [`strips`](super::strips)), a strip's blocks one after the
//! other from the first k to the last.

mod rows;

use alloc::boxed::Box;
use core::iter::Skip;
use core::slice::ChunksMut;

use bytemuck::Zeroable;
use bytemuck::allocation::try_zeroed_slice_box;

use super::pool::Pool;
use super::simd::Lanes;
use super::strips::{Q4_STRIP, Q4G_STRIP, Q4K_STRIP, Q8_STRIP, STRIP, StripBlock};
use crate::error::{Error, Result, product};
use crate::ops::gemm::SUM_BLOCK;
use crate::quant::{A8_BLOCK, Format, QuantData, QuantMatrix};

/// Outputs of a panel.
pub(super) const PANEL: usize = 64;

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
    /// Strips of [`Q8_STRIP`].
    Q8_0(Aligned<u8>),
    /// Strips of [`Q4_STRIP`].
    Q4_0(Aligned<u8>),
    /// Strips of [`Q4K_STRIP`].
    Q4K(Aligned<u8>),
    /// Strips of [`Q4G_STRIP`].
    Q4G128(Aligned<u8>),
}

/// A matrix of blocks, in strips.
#[derive(Debug, Clone, Copy)]
pub(super) enum Strips<'a> {
    /// Of [`Q8_STRIP`] bytes a block.
    Q8_0(&'a [u8]),
    /// Of [`Q4_STRIP`] bytes a block.
    Q4_0(&'a [u8]),
    /// Of [`Q4K_STRIP`] bytes a block.
    Q4K(&'a [u8]),
    /// Of [`Q4G_STRIP`] bytes a block.
    Q4G128(&'a [u8]),
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
        // The last line that fits: what is read past the end lies outside the block, where tests have a guard.
        let (first, line) = (data.as_ptr().align_offset(64), 64 / size_of::<T>());
        let start = first.min(room - len);
        let start = start + (room - len - start) / line * line;
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
    (n - from).min(PANEL).next_multiple_of(STRIP)
}

impl Strips<'_> {
    /// What was added to the integers; nothing if an offset of their own is taken from their products.
    pub(super) const fn added(self) -> Option<i32> {
        match self {
            Self::Q8_0(_) => Some(128),
            Self::Q4_0(_) | Self::Q4G128(_) => Some(8),
            Self::Q4K(_) => None,
        }
    }
}

impl Packed {
    /// A matrix of zeros.
    pub(super) fn zeros(format: Format, n: usize, k: usize) -> Result<Self> {
        // Also says no to rows that are no whole blocks.
        format.bytes(n, k)?;
        let wide = n.checked_next_multiple_of(STRIP);
        let wide = wide.unwrap_or(usize::MAX);
        let all = product("matrix", &[wide, k])?;
        let data = match format {
            Format::F32 => Data::F32(Aligned::zeros(all)?),
            Format::Bf16 => Data::Bf16(Aligned::zeros(all)?),
            Format::Q8_0 => Data::Q8_0(Aligned::zeros(format.bytes(wide, k)?)?),
            Format::Q4_0 => Data::Q4_0(Aligned::zeros(format.bytes(wide, k)?)?),
            Format::Q4K => Data::Q4K(Aligned::zeros(format.bytes(wide, k)?)?),
            Format::Q4G128 => Data::Q4G128(Aligned::zeros(format.bytes(wide, k)?)?),
        };
        Ok(Self { n, k, data })
    }

    pub(super) fn format(&self) -> Format {
        match self.data {
            Data::F32(_) => Format::F32,
            Data::Bf16(_) => Format::Bf16,
            Data::Q8_0(_) => Format::Q8_0,
            Data::Q4_0(_) => Format::Q4_0,
            Data::Q4K(_) => Format::Q4K,
            Data::Q4G128(_) => Format::Q4G128,
        }
    }

    /// The strips, if elements stand in blocks.
    pub(super) fn strips(&self) -> Option<Strips<'_>> {
        match &self.data {
            Data::Q8_0(data) => Some(Strips::Q8_0(data.as_slice())),
            Data::Q4_0(data) => Some(Strips::Q4_0(data.as_slice())),
            Data::Q4K(data) => Some(Strips::Q4K(data.as_slice())),
            Data::Q4G128(data) => Some(Strips::Q4G128(data.as_slice())),
            Data::F32(_) | Data::Bf16(_) => None,
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
        // Bytes of a panel of blocks.
        let strips = PANEL * (k / rows.format().block() * rows.format().block_bytes());
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
            (Data::Q8_0(out), QuantData::Q8_0(rows)) => {
                let panels = places.zip(out.panels(strips, first));
                pool.each(work, panels, |(place, out)| {
                    place.blocks(rows, out.as_chunks_mut::<Q8_STRIP>().0);
                });
            }
            (Data::Q4_0(out), QuantData::Q4_0(rows)) => {
                let panels = places.zip(out.panels(strips, first));
                pool.each(work, panels, |(place, out)| {
                    place.blocks(rows, out.as_chunks_mut::<Q4_STRIP>().0);
                });
            }
            (Data::Q4K(out), QuantData::Q4K(rows)) => {
                let panels = places.zip(out.panels(strips, first));
                pool.each(work, panels, |(place, out)| {
                    place.blocks(rows, out.as_chunks_mut::<Q4K_STRIP>().0);
                });
            }
            (Data::Q4G128(out), QuantData::Q4G128(rows)) => {
                let panels = places.zip(out.panels(strips, first));
                pool.each(work, panels, |(place, out)| {
                    place.blocks(rows, out.as_chunks_mut::<Q4G_STRIP>().0);
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

    /// Canonical blocks.
    fn blocks<B: StripBlock>(self, rows: &[u8], out: &mut [B]) {
        let per_row = self.k / (B::PARTS * A8_BLOCK);
        for c in 0..self.columns {
            let (strip, lane) = (
                (self.column + c) / STRIP * per_row,
                (self.column + c) % STRIP,
            );
            let row = &rows[(self.first + c) * per_row * B::BYTES..][..per_row * B::BYTES];
            for (block, out) in row.chunks_exact(B::BYTES).zip(&mut out[strip..]) {
                out.put(lane, block);
            }
        }
    }
}

/// A piece of a panel: `k` rows of `width` outputs.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) w: &'a [f32],
    pub(super) width: usize,
    pub(super) k: usize,
}

/// The floats of k = `from .. from + k` in the panel at output `column`; other formats are written to `scratch` first.
/// In formats of blocks both ends are multiples of 32.
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
        Data::Q8_0(strips) => {
            let out = &mut scratch[..k * width];
            let strips = strips.as_slice().as_chunks::<Q8_STRIP>().0;
            write_floats::<V, _>(strips, [w.k, column, from], width, out);
            out
        }
        Data::Q4_0(strips) => {
            let out = &mut scratch[..k * width];
            let strips = strips.as_slice().as_chunks::<Q4_STRIP>().0;
            write_floats::<V, _>(strips, [w.k, column, from], width, out);
            out
        }
        Data::Q4K(strips) => {
            let out = &mut scratch[..k * width];
            let strips = strips.as_slice().as_chunks::<Q4K_STRIP>().0;
            write_floats::<V, _>(strips, [w.k, column, from], width, out);
            out
        }
        Data::Q4G128(strips) => {
            let out = &mut scratch[..k * width];
            let strips = strips.as_slice().as_chunks::<Q4G_STRIP>().0;
            write_floats::<V, _>(strips, [w.k, column, from], width, out);
            out
        }
    };
    Panel { w, width, k }
}

/// Writes the floats of some k of a panel, in lines of `width`.
#[inline(always)]
fn write_floats<V: Lanes, B: StripBlock>(
    blocks: &[B],
    [k, column, from]: [usize; 3],
    width: usize,
    out: &mut [f32],
) {
    for strip in 0..width / STRIP {
        let first = (column / STRIP + strip) * (k / A8_BLOCK) + from / A8_BLOCK;
        for (part, out) in (first..).zip(out.chunks_exact_mut(A8_BLOCK * width)) {
            let block = &blocks[part / B::PARTS];
            block.floats::<V>(part % B::PARTS, width, &mut out[strip * STRIP..]);
        }
    }
}

/// Scratch of [`panel`].
pub(super) fn panel_scratch(w: &Packed) -> usize {
    match w.data {
        Data::F32(_) => 0,
        _ => SUM_BLOCK.min(w.k) * PANEL,
    }
}
