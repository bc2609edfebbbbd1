//! Rows back out of the panels, for tables that are looked up as well as multiplied or instead of it.

use half::bf16;

use super::{Aligned, Data, HALF, PANEL, Packed, Q4_BLOCK, Q8_BLOCK, panel_width};
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
        let width = panel_width(self.n, from);
        let at = from * self.k;
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
            Data::Q8_0(bytes, scales) => {
                let blocks = bytes.as_slice()[at..].chunks(Q8_BLOCK * width);
                let scales = column_of(scales, at / Q8_BLOCK + column, width);
                let outs = out.chunks_exact_mut(Q8_BLOCK);
                for ((out, bytes), scale) in outs.zip(blocks).zip(scales) {
                    let column = bytes.iter().skip(column).step_by(width);
                    for (out, byte) in out.iter_mut().zip(column) {
                        *out = scale * f32::from(byte.cast_signed());
                    }
                }
            }
            Data::Q4_0(bytes, scales) => {
                let blocks = bytes.as_slice()[at / 2..].chunks(HALF * width);
                let scales = column_of(scales, at / Q4_BLOCK + column, width);
                let outs = out.chunks_exact_mut(Q4_BLOCK);
                for ((out, bytes), scale) in outs.zip(blocks).zip(scales) {
                    let (low, high) = out.split_at_mut(HALF);
                    let column = bytes.iter().skip(column).step_by(width);
                    for ((low, high), byte) in low.iter_mut().zip(high).zip(column) {
                        *low = scale * (f32::from(byte & 15) - 8.0);
                        *high = scale * (f32::from(byte >> 4) - 8.0);
                    }
                }
            }
        }
    }
}

/// Every `width`th element from `at` on.
fn column_of(data: &Aligned<f32>, at: usize, width: usize) -> impl Iterator<Item = f32> {
    let data = data.as_slice().iter().skip(at);
    data.step_by(width).copied()
}
