//! Rotary embedding.

use crate::error::{Error, Result, covers, product};
use crate::math;
use crate::ops::norm::nonzero;

/// Heads whose leading dimensions are rotated; laid out as in [`HeadNormShape`](crate::ops::norm::HeadNormShape).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotaryShape {
    /// Number of rows.
    pub rows: usize,
    /// Heads rotated in each row.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Leading dimensions that are rotated: even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Width of a row.
    pub stride: usize,
    /// First element of the first head in its row.
    pub offset: usize,
    /// Positions in the table.
    pub positions: usize,
}

impl RotaryShape {
    /// Checks the lengths of x, positions and table.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, x: usize, positions: usize, table: usize) -> Result<()> {
        const OP: &str = "rotary";
        nonzero(OP, "head_dim", self.head_dim)?;
        if self.rotary_dim > self.head_dim || !self.rotary_dim.is_multiple_of(2) {
            return Err(Error::Config {
                key: "rotary_dim",
                problem: "must be even and at most head_dim",
            });
        }
        let used = product(OP, &[self.heads, self.head_dim])?;
        covers(OP, "stride", self.stride, used.saturating_add(self.offset))?;
        covers(OP, "x", x, product(OP, &[self.rows, self.stride])?)?;
        covers(OP, "positions", positions, self.rows)?;
        covers(
            OP,
            "table",
            table,
            product(OP, &[self.positions, self.rotary_dim])?,
        )
    }
}

/// Fills a table `[positions, rotary_dim]`: for each position the cosines of the rotary_dim / 2 angles, then the
/// sines; angle j is position · theta^(−2j / rotary_dim).
///
/// # Errors
/// A table of another length, or an odd `rotary_dim`.
pub fn rotary_table(
    positions: usize,
    rotary_dim: usize,
    theta: f32,
    table: &mut [f32],
) -> Result<()> {
    let want = product("rotary_table", &[positions, rotary_dim])?;
    covers("rotary_table", "table", table.len(), want)?;
    if !rotary_dim.is_multiple_of(2) {
        return Err(Error::Config {
            key: "rotary_dim",
            problem: "must be even",
        });
    }
    let half = rotary_dim / 2;
    for (p, row) in table
        .chunks_exact_mut(rotary_dim.max(1))
        .take(positions)
        .enumerate()
    {
        for j in 0..half {
            // The reference forms the inverse frequency and the angle in single precision.
            let frequency = 1.0 / libm::powf(theta, (2 * j) as f32 / rotary_dim as f32);
            let angle = p as f32 * frequency;
            row[j] = math::cos(angle);
            row[half + j] = math::sin(angle);
        }
    }
    Ok(())
}

/// Rotates pairs (i, i + rotary_dim / 2) of each head by the angle of the row's position ("rotate half").
///
/// A position outside the table leaves its row as it is.
///
/// # Errors
/// See [`RotaryShape::check`].
///
/// # Source
/// Su et al., "RoFormer", arXiv 2104.09864.
pub fn rotary(s: RotaryShape, x: &mut [f32], positions: &[u32], table: &[f32]) -> Result<()> {
    s.check(x.len(), positions.len(), table.len())?;
    if s.stride == 0 {
        return Ok(());
    }
    for (row, &p) in x.chunks_exact_mut(s.stride).zip(positions).take(s.rows) {
        rotate_row(&s, row, p, table);
    }
    Ok(())
}

/// One row of [`rotary`].
#[inline(always)]
pub(crate) fn rotate_row(s: &RotaryShape, row: &mut [f32], position: u32, table: &[f32]) {
    let (p, half) = (position as usize, s.rotary_dim / 2);
    if p >= s.positions {
        return;
    }
    let (cos, sin) = table[p * s.rotary_dim..][..s.rotary_dim].split_at(half);
    for head in row[s.offset..].chunks_exact_mut(s.head_dim).take(s.heads) {
        let (a, rest) = head.split_at_mut(half);
        for (((a, b), c), s) in a.iter_mut().zip(&mut rest[..half]).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}
