//! Matrices of a warp: fragments out of shared memory, and their product.

use super::{Block, Warp};
use crate::Result;
use crate::program::{Inst, Kernel, Space};

/// Bytes of a matrix's row: 8 halves.
const ROW_BYTES: usize = 16;

impl Warp {
    /// Lanes 8 i to 8 i + 7 hold the addresses of matrix i's rows; lane l gets the halves 2 (l % 4) and the next of row
    /// l / 4 of each, of a turned one the halves l / 4 of rows 2 (l % 4) and the next.
    pub(super) fn load_matrix(
        &mut self,
        i: &Inst,
        (count, turned): (u8, bool),
        block: &mut Block<'_>,
    ) -> Result<()> {
        let (at, count) = (self.addresses(i), usize::from(count));
        let mask = u32::MAX >> (32 - 8 * count);
        if let Some(counters) = &mut block.counters {
            counters.access(Space::Shared, &at, mask, ROW_BYTES);
        }
        let registers = block.kernel.vectors[i.d as usize];
        for lane in 0..8 * count {
            if !at[lane].is_multiple_of(ROW_BYTES as u64) {
                return Err(format!(
                    "lane {lane} has a matrix's row at {:#x}, misaligned",
                    at[lane]
                ));
            }
            // What one lane points to, others get: all of the warp read it.
            let by = self.access(u32::try_from(lane).unwrap_or(0), u32::MAX, block);
            let from = block.shared.read(at[lane], ROW_BYTES, by)?;
            let row = &block.shared.bytes[from..from + ROW_BYTES];
            let to = &mut self.words[registers[lane / 8] as usize];
            if turned {
                let (t, low) = (lane % 8 / 2, lane.is_multiple_of(2));
                for (g, half) in row.as_chunks().0.iter().enumerate() {
                    let (half, to) = (u32::from(u16::from_le_bytes(*half)), &mut to[g * 4 + t]);
                    *to = if low { half } else { *to | half << 16 };
                }
                continue;
            }
            for (t, word) in row.as_chunks().0.iter().enumerate() {
                to[lane % 8 * 4 + t] = u32::from_le_bytes(*word);
            }
        }
        Ok(())
    }

    /// d = a b + c of signed bytes in words that wrap around. Lane 4 g + t holds of a the rows g and g + 8 and of b the
    /// column g, both at k = 4 t and 16 + 4 t and the three behind; of c and d the columns 2 t and 2 t + 1 of its rows.
    pub(super) fn multiply(&mut self, i: &Inst, kernel: &Kernel) {
        let [d, a, b, c] = [i.d, i.a, i.b, i.c].map(|v| kernel.vectors[v as usize]);
        let (mut rows, mut cols) = ([[0_i32; 32]; 16], [[0_i32; 32]; 8]);
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for part in 0..4 {
                let bytes = self.words[a[part] as usize][lane].to_le_bytes();
                let to = &mut rows[g + part % 2 * 8][part / 2 * 16 + 4 * t..][..4];
                for (to, byte) in to.iter_mut().zip(bytes) {
                    *to = i32::from(byte.cast_signed());
                }
            }
            for part in 0..2 {
                let bytes = self.words[b[part] as usize][lane].to_le_bytes();
                let to = &mut cols[g][part * 16 + 4 * t..][..4];
                for (to, byte) in to.iter_mut().zip(bytes) {
                    *to = i32::from(byte.cast_signed());
                }
            }
        }
        let mut out = [[0; 32]; 4];
        for (part, out) in out.iter_mut().enumerate() {
            for lane in 0..32 {
                let (row, col) = (
                    &rows[lane / 4 + part / 2 * 8],
                    &cols[lane % 4 * 2 + part % 2],
                );
                let dot: i32 = row.iter().zip(col).map(|(x, y)| x * y).sum();
                out[lane] = self.words[c[part] as usize][lane].wrapping_add(dot.cast_unsigned());
            }
        }
        for (register, out) in d.into_iter().zip(out) {
            self.words[register as usize] = out;
        }
    }

    /// d = a b + c of BF16 to floats. Lane 4 g + t holds of a the rows g and g + 8 and of b the column g, both at k = 2 t and
    /// 2 t + 8 and the one behind; c and d as above. The exact sum is rounded once; tensor cores round on the way.
    pub(super) fn multiply_halves(&mut self, i: &Inst, kernel: &Kernel) {
        let [d, a, b, c] = [i.d, i.a, i.b, i.c].map(|v| kernel.vectors[v as usize]);
        let (mut rows, mut cols) = ([[0.0_f64; 16]; 16], [[0.0_f64; 16]; 8]);
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for part in 0..4 {
                let both = halves(self.words[a[part] as usize][lane]).map(f64::from);
                rows[g + part % 2 * 8][part / 2 * 8 + 2 * t..][..2].copy_from_slice(&both);
            }
            for part in 0..2 {
                let both = halves(self.words[b[part] as usize][lane]).map(f64::from);
                cols[g][part * 8 + 2 * t..][..2].copy_from_slice(&both);
            }
        }
        let mut out = [[0; 32]; 4];
        for (part, out) in out.iter_mut().enumerate() {
            for lane in 0..32 {
                let (row, col) = (
                    &rows[lane / 4 + part / 2 * 8],
                    &cols[lane % 4 * 2 + part % 2],
                );
                let dot: f64 = row.iter().zip(col).map(|(x, y)| x * y).sum();
                let start = f32::from_bits(self.words[c[part] as usize][lane]);
                #[expect(clippy::cast_possible_truncation, reason = "rounds")]
                let sum = (f64::from(start) + dot) as f32;
                out[lane] = sum.to_bits();
            }
        }
        for (register, out) in d.into_iter().zip(out) {
            self.words[register as usize] = out;
        }
    }
}

/// Two BF16, the lower first.
#[inline]
pub(super) fn halves(word: u32) -> [f32; 2] {
    [word << 16, word & 0xffff_0000].map(f32::from_bits)
}

/// A float as the nearest BF16, of equals the even one.
fn half(word: u32) -> u32 {
    if f32::from_bits(word).is_nan() {
        return 0x7fff;
    }
    (word + 0x7fff + (word >> 16 & 1)) >> 16
}

/// Two floats as BF16, the second in the low half.
pub(super) fn joined_halves(a: u32, b: u32) -> u32 {
    half(b) | half(a) << 16
}
