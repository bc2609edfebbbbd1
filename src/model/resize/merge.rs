//! From the features of a picture's tiles to rows of text.

use super::check_side;
use crate::error::{Error, Result, covers, product};
use crate::image::ImageSize;

/// How the features of a picture's tiles become rows of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TileMerge {
    /// Patches along one side of a tile.
    pub grid: usize,
    /// Tiles down and across.
    pub tiles: [usize; 2],
    /// First row and column of patches that are kept.
    pub offset: [usize; 2],
    /// Rows and columns that are kept.
    pub kept: [usize; 2],
    /// Rows and columns after the reduction to at most `max` tiles' worth.
    pub rows: usize,
    /// See `rows`.
    pub cols: usize,
}

impl TileMerge {
    /// The plan for one picture.
    ///
    /// # Errors
    /// A size of zero.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "truncation is the definition; sides are small"
    )]
    pub fn plan(
        size: ImageSize,
        best: ImageSize,
        side: u32,
        grid: usize,
        max: usize,
    ) -> Result<Self> {
        check_side(size)?;
        if side == 0 || grid == 0 || max == 0 {
            return Err(Error::Config {
                key: "image_size",
                problem: "has no patches",
            });
        }
        let tiles = [(best.height / side) as usize, (best.width / side) as usize];
        let whole = [tiles[0] * grid, tiles[1] * grid];
        let (mut offset, mut kept) = ([0, 0], whole);
        let (width, height) = (f64::from(size.width), f64::from(size.height));
        let (w, h) = (whole[1] as f64, whole[0] as f64);
        // The axis along which the picture was padded is cut.
        let (axis, inner) = if width / height > w / h {
            (0, height * (w / width))
        } else {
            (1, width * (h / height))
        };
        let cut = whole[axis].saturating_sub((inner as usize).max(1)) / 2;
        offset[axis] = cut;
        kept[axis] = whole[axis] - 2 * cut;
        let times = libm::sqrt((kept[0] * kept[1]) as f64 / ((max * grid * grid) as f64));
        let [rows, cols] = if times > 1.1 {
            kept.map(|n| (floor_divide(n as f64, times) as usize).max(1))
        } else {
            kept
        };
        Ok(Self {
            grid,
            tiles,
            offset,
            kept,
            rows,
            cols,
        })
    }

    /// Rows of text of the whole picture: the base view, and every reduced row with its newline.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.grid * self.grid + self.rows * (self.cols + 1)
    }

    /// Whether there is no row; a plan always has some.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Merges features `[1 + tiles, grid², width]` and the newline row into `[len, width]`.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn merge(&self, features: &[f32], newline: &[f32], out: &mut [f32]) -> Result<()> {
        let width = newline.len();
        let base = self.grid * self.grid * width;
        covers(
            "merge",
            "features",
            features.len(),
            product("merge", &[1 + self.tiles[0] * self.tiles[1], base])?,
        )?;
        covers(
            "merge",
            "out",
            out.len(),
            product("merge", &[self.len(), width])?,
        )?;
        let (whole, tiles) = features.split_at(base);
        out[..base].copy_from_slice(whole);
        let patch = |r: usize, c: usize| {
            let (r, c) = (r + self.offset[0], c + self.offset[1]);
            let tile = r / self.grid * self.tiles[1] + c / self.grid;
            &tiles[tile * base + (r % self.grid * self.grid + c % self.grid) * width..][..width]
        };
        let mut rows = out[base..].chunks_exact_mut(width.max(1));
        for r in 0..self.rows {
            for (c, out) in (0..=self.cols).zip(&mut rows) {
                if c == self.cols {
                    out.copy_from_slice(newline);
                } else if [self.rows, self.cols] == self.kept {
                    out.copy_from_slice(patch(r, c));
                } else {
                    let (r0, r1, down) = between(r, self.kept[0], self.rows);
                    let (c0, c1, across) = between(c, self.kept[1], self.cols);
                    let corners = [patch(r0, c0), patch(r0, c1), patch(r1, c0), patch(r1, c1)];
                    for (i, out) in out.iter_mut().enumerate() {
                        let [a, b, c, d] = corners.map(|p| p[i]);
                        let (left, below) = (1.0 - across, 1.0 - down);
                        *out = below * (left * a + across * b) + down * (left * c + across * d);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The two inputs between which an output lies, and its distance from the first; corners are not aligned.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and grids are small"
)]
fn between(i: usize, from: usize, to: usize) -> (usize, usize, f32) {
    let at = (from as f32 / to as f32) * (i as f32 + 0.5) - 0.5;
    let at = if at < 0.0 { 0.0 } else { at };
    let first = (at as usize).min(from - 1);
    (first, (first + 1).min(from - 1), at - first as f32)
}

/// Floor division of floats as Python defines it.
fn floor_divide(a: f64, b: f64) -> f64 {
    let quotient = (a - libm::fmod(a, b)) / b;
    let floor = libm::floor(quotient);
    if quotient - floor > 0.5 {
        floor + 1.0
    } else {
        floor
    }
}
