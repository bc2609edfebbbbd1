//! Pictures to the square views of an image tower, bit for bit as Pillow resizes bytes.

mod merge;
mod taps;

use alloc::vec::Vec;

pub use merge::TileMerge;
use taps::{BITS, Taps, clip};

use crate::error::{Error, Result, covers, product, room};
use crate::image::ImageSize;

/// Largest side of a picture: bounds every product and sum below.
const SIDE_MAX: u32 = 1 << 14;
/// The grey that fills a picture up to a square.
pub const GREY: u8 = 127;

/// Resizes pictures; keeps weights and room between calls, so that pictures of one size allocate once.
///
/// ```
/// use maquette::ImageSize;
/// use maquette::model::resize::Resizer;
/// let (wide, mut view) = ([200; 2 * 4 * 3], [0; 4 * 4 * 3]);
/// Resizer::new().padded_square(&wide, ImageSize::new(2, 4), 4, &mut view)?;
/// // Grey above and below, the picture between.
/// assert_eq!([0, 1, 2, 3].map(|row| view[row * 4 * 3]), [127, 200, 200, 127]);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Resizer {
    across: Taps,
    down: Taps,
    rows: Vec<u8>,
    fitted: Vec<u8>,
    canvas: Vec<u8>,
}

fn check_side(size: ImageSize) -> Result<()> {
    for (arg, side) in [("height", size.height), ("width", size.width)] {
        if side == 0 || side > SIDE_MAX {
            return Err(Error::Range {
                op: "resize",
                arg,
                got: side.into(),
                min: 1,
                max: SIDE_MAX.into(),
            });
        }
    }
    Ok(())
}

fn fill(buffer: &mut Vec<u8>, len: usize, value: u8) -> Result<()> {
    buffer.clear();
    room("resize", buffer, len)?;
    buffer.resize(len, value);
    Ok(())
}

impl Resizer {
    /// A resizer that has seen no picture.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bicubic resize, RGB bytes `[height, width, 3]` to bytes: across first, then down, each rounded to bytes; an axis
    /// that keeps its size is left alone.
    ///
    /// # Errors
    /// A side of zero or beyond 16384, or buffers shorter than their sizes.
    ///
    /// # Source
    /// Pillow, `Resample.c`, for 8-bit pictures.
    pub fn bicubic(
        &mut self,
        src: &[u8],
        from: ImageSize,
        to: ImageSize,
        out: &mut [u8],
    ) -> Result<()> {
        check_side(from)?;
        check_side(to)?;
        covers("resize", "src", src.len(), from.len_bytes())?;
        covers("resize", "out", out.len(), to.len_bytes())?;
        let (src, out) = (&src[..from.len_bytes()], &mut out[..to.len_bytes()]);
        if from == to {
            out.copy_from_slice(src);
        } else if from.height == to.height {
            self.across(src, from.width, to.width, out)?;
        } else if from.width == to.width {
            self.down(src, from.height, to.height, to.width, out)?;
        } else {
            let mut rows = core::mem::take(&mut self.rows);
            let done = fill(
                &mut rows,
                ImageSize::new(from.height, to.width).len_bytes(),
                0,
            )
            .and_then(|()| self.across(src, from.width, to.width, &mut rows))
            .and_then(|()| self.down(&rows, from.height, to.height, to.width, out));
            self.rows = rows;
            done?;
        }
        Ok(())
    }

    fn across(&mut self, src: &[u8], from: u32, to: u32, out: &mut [u8]) -> Result<()> {
        self.across.plan(from, to)?;
        for (row, out) in src
            .chunks_exact(from as usize * 3)
            .zip(out.chunks_exact_mut(to as usize * 3))
        {
            for ((first, weights), out) in self.across.outputs().zip(out.chunks_exact_mut(3)) {
                let mut sum = [1_i32 << (BITS - 1); 3];
                for (pixel, w) in row[first * 3..].chunks_exact(3).zip(weights) {
                    for (sum, &byte) in sum.iter_mut().zip(pixel) {
                        *sum += i32::from(byte) * w;
                    }
                }
                out.copy_from_slice(&sum.map(clip));
            }
        }
        Ok(())
    }

    fn down(&mut self, src: &[u8], from: u32, to: u32, width: u32, out: &mut [u8]) -> Result<()> {
        self.down.plan(from, to)?;
        let stride = width as usize * 3;
        for ((first, weights), out) in self.down.outputs().zip(out.chunks_exact_mut(stride)) {
            for (i, out) in out.iter_mut().enumerate() {
                let column = src[first * stride + i..].iter().step_by(stride);
                let sum = column
                    .zip(weights)
                    .fold(1 << (BITS - 1), |sum, (&byte, w)| sum + i32::from(byte) * w);
                *out = clip(sum);
            }
        }
        Ok(())
    }

    /// A picture filled up to a square with [`GREY`], then resized to `side` × `side`.
    ///
    /// # Errors
    /// As [`bicubic`](Self::bicubic).
    pub fn padded_square(
        &mut self,
        src: &[u8],
        size: ImageSize,
        side: u32,
        out: &mut [u8],
    ) -> Result<()> {
        let to = ImageSize::new(side, side);
        if size.height == size.width {
            return self.bicubic(src, size, to, out);
        }
        check_side(size)?;
        let longer = size.height.max(size.width);
        let square = ImageSize::new(longer, longer);
        let mut canvas = core::mem::take(&mut self.canvas);
        fill(&mut canvas, square.len_bytes(), GREY)?;
        let done = centre(src, size, &mut canvas, square)
            .and_then(|()| self.bicubic(&canvas, square, to, out));
        self.canvas = canvas;
        done
    }

    /// A picture resized so that its longer side is `side`, the other truncated and at least `min`, then filled up to a
    /// square with [`GREY`].
    ///
    /// # Errors
    /// As [`bicubic`](Self::bicubic), or a `min` beyond `side`.
    ///
    /// # Source
    /// The image processor of Janus (arXiv 2410.13848); its port to transformers rounds instead.
    pub fn fitted_square(
        &mut self,
        src: &[u8],
        size: ImageSize,
        side: u32,
        min: u32,
        out: &mut [u8],
    ) -> Result<()> {
        check_side(size)?;
        let square = ImageSize::new(side, side);
        check_side(square)?;
        if min > side {
            return Err(Error::Range {
                op: "resize",
                arg: "min",
                got: min.into(),
                min: 0,
                max: side.into(),
            });
        }
        let longer = f64::from(size.height.max(size.width));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "truncation is the definition; sides are small"
        )]
        let scaled = |s: u32| ((f64::from(s) / longer * f64::from(side)) as u32).max(min);
        let to = ImageSize::new(scaled(size.height), scaled(size.width));
        if to == square {
            return self.bicubic(src, size, to, out);
        }
        covers("resize", "out", out.len(), square.len_bytes())?;
        let mut picture = core::mem::take(&mut self.canvas);
        let done = fill(&mut picture, to.len_bytes(), 0)
            .and_then(|()| self.bicubic(src, size, to, &mut picture))
            .and_then(|()| {
                out[..square.len_bytes()].fill(GREY);
                centre(&picture, to, out, square)
            });
        self.canvas = picture;
        done
    }

    /// The views of a picture that is cut into tiles: the whole picture squeezed to `side` × `side`, then the tiles of
    /// the picture resized to fit `best` on black, row by row.
    ///
    /// # Errors
    /// As [`bicubic`](Self::bicubic), or a resolution that is no multiple of the side.
    pub fn tiles(
        &mut self,
        src: &[u8],
        size: ImageSize,
        best: ImageSize,
        side: u32,
        out: &mut [u8],
    ) -> Result<()> {
        check_side(size)?;
        check_side(best)?;
        if side == 0 || !best.height.is_multiple_of(side) || !best.width.is_multiple_of(side) {
            return Err(Error::Config {
                key: "image_grid_pinpoints",
                problem: "is no multiple of the image size",
            });
        }
        let (down, across) = ((best.height / side) as usize, (best.width / side) as usize);
        let row_bytes = side as usize * 3;
        let tile_bytes = row_bytes * side as usize;
        covers(
            "resize",
            "out",
            out.len(),
            product("resize", &[1 + down * across, tile_bytes])?,
        )?;
        let (whole, tiles) = out.split_at_mut(tile_bytes);
        self.bicubic(src, size, ImageSize::new(side, side), whole)?;
        let fitted = fit(size, best);
        let mut picture = core::mem::take(&mut self.fitted);
        let mut canvas = core::mem::take(&mut self.canvas);
        let done = fill(&mut picture, fitted.len_bytes(), 0)
            .and_then(|()| self.bicubic(src, size, fitted, &mut picture))
            .and_then(|()| fill(&mut canvas, best.len_bytes(), 0))
            .and_then(|()| centre(&picture, fitted, &mut canvas, best));
        (self.fitted, self.canvas) = (picture, canvas);
        done?;
        for (t, tile) in tiles
            .chunks_exact_mut(tile_bytes)
            .take(down * across)
            .enumerate()
        {
            for (r, row) in tile.chunks_exact_mut(row_bytes).enumerate() {
                let at = ((t / across * side as usize + r) * across + t % across) * row_bytes;
                row.copy_from_slice(&self.canvas[at..at + row_bytes]);
            }
        }
        Ok(())
    }
}

/// Copies a picture into the middle of a larger one.
fn centre(src: &[u8], size: ImageSize, canvas: &mut [u8], outer: ImageSize) -> Result<()> {
    covers("resize", "src", src.len(), size.len_bytes())?;
    let top = (outer.height - size.height) as usize / 2;
    let left = (outer.width - size.width) as usize / 2 * 3;
    let len = size.width as usize * 3;
    for (row, to) in src
        .chunks_exact(len)
        .zip(canvas.chunks_exact_mut(outer.width as usize * 3).skip(top))
        .take(size.height as usize)
    {
        to[left..left + len].copy_from_slice(row);
    }
    Ok(())
}

/// The size a picture takes inside `best` when its aspect is kept: the limiting side exact, the other rounded up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sides are at most 2^14"
)]
fn fit(size: ImageSize, best: ImageSize) -> ImageSize {
    let across = f64::from(best.width) / f64::from(size.width);
    let down = f64::from(best.height) / f64::from(size.height);
    if across < down {
        let height = libm::ceil(f64::from(size.height) * across) as u32;
        ImageSize::new(height.clamp(1, best.height), best.width)
    } else {
        let width = libm::ceil(f64::from(size.width) * down) as u32;
        ImageSize::new(best.height, width.clamp(1, best.width))
    }
}

/// The candidate that keeps most of a picture's pixels; of equals the one that wastes least, then the first.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is the definition; sides are small"
)]
pub fn best_resolution(size: ImageSize, candidates: &[ImageSize]) -> Option<ImageSize> {
    let mut best: Option<(u64, u64, ImageSize)> = None;
    for &c in candidates {
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        let (across, down) = (f64::from(c.width) / w, f64::from(c.height) / h);
        let scale = if across < down { across } else { down };
        let area = (w * scale) as u64 * (h * scale) as u64;
        let kept = area.min(u64::from(size.width) * u64::from(size.height));
        let wasted = (u64::from(c.width) * u64::from(c.height)).saturating_sub(kept);
        if best.is_none_or(|(k, w, _)| kept > k || (kept == k && wasted < w)) {
            best = Some((kept, wasted, c));
        }
    }
    best.map(|(_, _, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_stays_changes_no_byte() {
        let src = [1, 2, 3, 4, 5, 6];
        let mut out = [0; 6];
        let size = ImageSize::new(1, 2);
        Resizer::new().bicubic(&src, size, size, &mut out).unwrap();
        assert_eq!(out, src);
    }

    #[test]
    fn one_colour_stays_one_colour_at_every_size() {
        let mut resizer = Resizer::new();
        for (h, w) in [(1, 1), (3, 2), (7, 31), (64, 64)] {
            let src = [9_u8, 200, 255].repeat(20 * 13);
            let mut out = alloc::vec![0; h as usize * w as usize * 3];
            resizer
                .bicubic(&src, ImageSize::new(20, 13), ImageSize::new(h, w), &mut out)
                .unwrap();
            assert!(out.chunks(3).all(|p| p == [9, 200, 255]), "{h} x {w}");
        }
    }

    #[test]
    fn a_wide_picture_is_padded_above_and_below() {
        let mut out = [0; 4 * 4 * 3];
        Resizer::new()
            .padded_square(&[7; 4 * 3], ImageSize::new(1, 4), 4, &mut out)
            .unwrap();
        let rows: Vec<u8> = out.chunks(12).map(|row| row[0]).collect();
        assert_eq!(rows, [GREY, 7, GREY, GREY]);
    }

    #[test]
    fn a_fitted_picture_truncates_its_shorter_side() {
        // 4 of 7 on a side of 5 are 2.86 pixels: two, where rounding would give three.
        let fit = |min| {
            let mut out = [0; 5 * 5 * 3];
            Resizer::new()
                .fitted_square(&[7; 4 * 7 * 3], ImageSize::new(4, 7), 5, min, &mut out)
                .map(|()| out.chunks(15).map(|row| row[0]).collect::<Vec<u8>>())
        };
        assert_eq!(fit(1).unwrap(), [GREY, 7, 7, GREY, GREY]);
        assert_eq!(fit(3).unwrap(), [GREY, 7, 7, 7, GREY]);
        assert!(matches!(fit(6), Err(Error::Range { arg: "min", .. })));
    }

    #[test]
    fn the_published_picture_sizes_give_the_published_rows() {
        let candidates: Vec<ImageSize> = (1..=6)
            .flat_map(|w| (1..=6).map(move |h| ImageSize::new(384 * h, 384 * w)))
            .collect();
        for (side, rows) in [(256, 1485), (384, 1485), (512, 3699)] {
            let size = ImageSize::new(side, side);
            let best = best_resolution(size, &candidates).unwrap();
            assert_eq!(TileMerge::plan(size, best, 384, 27, 9).unwrap().len(), rows);
        }
    }

    #[test]
    fn nonsense_sizes_are_errors() {
        let mut r = Resizer::new();
        let one = ImageSize::new(1, 1);
        assert!(
            r.bicubic(&[0; 3], ImageSize::new(0, 1), one, &mut [0; 3])
                .is_err()
        );
        assert!(
            r.bicubic(&[0; 3], one, ImageSize::new(u32::MAX, 1), &mut [0; 3])
                .is_err()
        );
        assert!(r.bicubic(&[0; 2], one, one, &mut [0; 3]).is_err());
        assert!(
            r.padded_square(&[0; 3], ImageSize::new(2, 1), 4, &mut [0; 48])
                .is_err()
        );
        assert!(
            r.tiles(&[0; 3], one, ImageSize::new(3, 2), 2, &mut [0; 99])
                .is_err()
        );
    }
}
