//! A matrix cut into tiles that threads can write at the same time, without unsafe code.

use core::mem::take;
use core::slice::ChunksMut;

/// Most rows of a tile.
pub(super) const ROWS: usize = 48;

/// Some columns of some neighbouring rows.
pub(super) struct Tile<'a> {
    /// The first row.
    pub(super) row: usize,
    /// The first column.
    pub(super) column: usize,
    /// Rows.
    pub(super) len: usize,
    rows: [&'a mut [f32]; ROWS],
}

impl<'a> Tile<'a> {
    /// The rows' columns.
    pub(super) fn rows<'s>(&'s mut self) -> impl Iterator<Item = &'s mut [f32]> + use<'s, 'a> {
        self.rows.iter_mut().take(self.len).map(|row| &mut **row)
    }

    /// One of the rows' columns.
    pub(super) fn at(&mut self, row: usize) -> &mut [f32] {
        self.rows[row]
    }

    /// Number of columns.
    pub(super) fn columns(&self) -> usize {
        self.rows[0].len()
    }
}

/// All tiles of a matrix, from the top.
pub(super) struct Tiles<'a> {
    rest: &'a mut [f32],
    width: usize,
    /// A tile's rows lie in one group of so many.
    group: usize,
    columns: usize,
    pieces: [ChunksMut<'a, f32>; ROWS],
    row: usize,
    column: usize,
    len: usize,
}

impl<'a> Tiles<'a> {
    /// Tiles of `columns` columns in rows of `width`.
    pub(super) fn new(y: &'a mut [f32], width: usize, group: usize, columns: usize) -> Self {
        let pieces = core::array::from_fn(|_| <&mut [f32]>::default().chunks_mut(1));
        Self {
            rest: y,
            width,
            group: group.max(1),
            columns,
            pieces,
            row: 0,
            column: width,
            len: 0,
        }
    }
}

impl<'a> Iterator for Tiles<'a> {
    type Item = Tile<'a>;

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Rows of tiles above a row, of whole groups and of the one that it lies in.
        let above = |row: usize| {
            row / self.group * self.group.div_ceil(ROWS) + (row % self.group).div_ceil(ROWS)
        };
        let below = self.row + self.len;
        let rows = above(below + self.rest.len() / self.width) - above(below);
        let row = self
            .width
            .saturating_sub(self.column)
            .div_ceil(self.columns);
        let tiles = rows * self.width.div_ceil(self.columns) + row;
        (tiles, Some(tiles))
    }

    fn next(&mut self) -> Option<Tile<'a>> {
        if self.column >= self.width {
            self.row += self.len;
            self.column = 0;
            let left = self.rest.len() / self.width;
            self.len = ROWS.min(self.group - self.row % self.group).min(left);
            if self.len == 0 {
                self.column = self.width;
                return None;
            }
            for pieces in self.pieces.iter_mut().take(self.len) {
                let (row, rest) = take(&mut self.rest).split_at_mut(self.width);
                *pieces = row.chunks_mut(self.columns);
                self.rest = rest;
            }
        }
        let column = self.column;
        self.column += self.columns;
        let mut rows = core::array::from_fn(|_| <&mut [f32]>::default());
        for (row, pieces) in rows.iter_mut().zip(&mut self.pieces).take(self.len) {
            *row = pieces.next().unwrap_or_default();
        }
        Some(Tile {
            row: self.row,
            column,
            len: self.len,
            rows,
        })
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_element_once_and_stay_in_their_group() {
        for (rows, width, group, columns) in [
            (5, 7, 5, 3),
            (200, 64, 50, 64),
            (96, 130, 96, 64),
            (0, 4, 1, 2),
            (3, 1, 1, 9),
        ] {
            let mut y = alloc::vec![0.0; rows * width];
            let mut tiles = Tiles::new(&mut y, width, group, columns);
            let mut left = tiles.size_hint().0;
            while let Some(mut tile) = tiles.next() {
                left -= 1;
                assert_eq!(tiles.size_hint(), (left, Some(left)));
                assert_eq!(tile.row / group, (tile.row + tile.len - 1) / group);
                let (first, column) = (tile.row, tile.column);
                for (r, row) in tile.rows().enumerate() {
                    for (c, v) in row.iter_mut().enumerate() {
                        *v += ((first + r) * width + column + c) as f32 + 1.0;
                    }
                }
            }
            assert_eq!(left, 0);
            assert!(y.iter().enumerate().all(|(i, &v)| v == i as f32 + 1.0));
        }
    }
}
