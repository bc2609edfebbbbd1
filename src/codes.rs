//! Codes: the discrete picture.

/// Index into a codebook.
pub type Code = u32;

/// A place of the grid that no code has been settled for.
pub const UNKNOWN: Code = Code::MAX;

/// The grid of codes that a generator fills.
///
/// ```
/// use maquette::CodeGrid;
/// let grid = CodeGrid::new(16, 16, 8192);
/// assert_eq!(grid.len(), 256);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CodeGrid {
    /// Rows of the grid.
    pub rows: u32,
    /// Columns of the grid.
    pub cols: u32,
    /// Entries of the codebook; codes lie below it.
    pub codebook: u32,
}

impl CodeGrid {
    /// A grid of `rows` × `cols` codes below `codebook`.
    #[must_use]
    pub const fn new(rows: u32, cols: u32, codebook: u32) -> Self {
        Self {
            rows,
            cols,
            codebook,
        }
    }

    /// Places in the grid, counted row by row; the largest number for a grid that no memory holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        (self.rows as usize).saturating_mul(self.cols as usize)
    }

    /// Whether the grid has no place at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
