//! Rows back out of the panels, for tables that are looked up as well as multiplied or instead of it.

use half::bf16;

use super::{
    A8_BLOCK, Data, PANEL, Packed, Q4_STRIP, Q4G_STRIP, Q4K_STRIP, Q8_STRIP, STRIP, StripBlock,
    panel_width,
};
use crate::error::Result;
use crate::ops::vq::GatherShape;

impl Packed {
    /// out\[r, :\] = row index\[r\]; an index outside the matrix gives zeros.
    pub(in crate::cpu) fn gather(
        &self,
        s: GatherShape,
        index: &[u32],
        out: &mut [f32],
    ) -> Result<()> {
        s.check_matrix(index.len(), [self.n, self.k], out.len())?;
        for (out, &i) in out.chunks_exact_mut(s.width).zip(index).take(s.rows) {
            if (i as usize) < self.n {
                self.row(i as usize, out);
            } else {
                out.fill(0.0);
            }
        }
        Ok(())
    }

    /// Row `row`, which the matrix has: a column of its panel.
    fn row(&self, row: usize, out: &mut [f32]) {
        let (from, column) = (row / PANEL * PANEL, row % PANEL);
        let (width, at) = (panel_width(self.n, from), from * self.k);
        match &self.data {
            Data::F32(data) => {
                let column = data.as_slice()[at..].iter().skip(column);
                for (out, v) in out.iter_mut().zip(column.step_by(width)) {
                    *out = *v;
                }
            }
            Data::Bf16(data) => {
                let column = data.as_slice()[at..].iter().skip(column);
                for (out, v) in out.iter_mut().zip(column.step_by(width)) {
                    *out = bf16::from_bits(*v).to_f32();
                }
            }
            Data::Q8_0(strips) => {
                let blocks = strips.as_slice().as_chunks::<Q8_STRIP>().0;
                write_row(blocks, row, out);
            }
            Data::Q4_0(strips) => {
                let blocks = strips.as_slice().as_chunks::<Q4_STRIP>().0;
                write_row(blocks, row, out);
            }
            Data::Q4K(strips) => {
                let blocks = strips.as_slice().as_chunks::<Q4K_STRIP>().0;
                write_row(blocks, row, out);
            }
            Data::Q4G128(strips) => {
                let blocks = strips.as_slice().as_chunks::<Q4G_STRIP>().0;
                write_row(blocks, row, out);
            }
        }
    }
}

/// A row of a matrix of blocks.
fn write_row<B: StripBlock>(blocks: &[B], row: usize, out: &mut [f32]) {
    let block = B::PARTS * A8_BLOCK;
    let first = row / STRIP * (out.len() / block);
    for (out, strip) in out.chunks_exact_mut(block).zip(&blocks[first..]) {
        strip.row(row % STRIP, out);
    }
}
