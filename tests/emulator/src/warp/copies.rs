//! Asynchronous copies: what a lane asks for lands in shared memory when the lane waits for it, and not before.

use super::{Block, Warp};
use crate::Result;
use crate::decode::NONE;
use crate::program::{Inst, Space};

/// A copy on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    lane: u32,
    /// The number of its group among the lane's.
    group: u32,
    to: usize,
    len: usize,
    /// Bytes that are read, the others being zeros: all or none.
    read: usize,
    bytes: [u8; 16],
}

impl Warp {
    pub(super) fn begin_copies(
        &mut self,
        i: &Inst,
        m: u32,
        len: usize,
        block: &mut Block<'_>,
    ) -> Result<()> {
        let to = self.addresses(i);
        let [offset, read, ..] = block.kernel.vectors[i.d as usize];
        let from = self.longs[i.b as usize]
            .map(|base| base.wrapping_add_signed(i64::from(offset.cast_signed())));
        let read = match read {
            NONE => [len; 32],
            register => self.words[register as usize].map(|read| read as usize),
        };
        if let Some(counters) = &mut block.counters {
            let reading = (0..32).filter(|l| read[*l] > 0).fold(0, |m, l| m | 1 << l);
            counters.access(Space::Global, &from, m & reading, len);
            counters.access(Space::Shared, &to, m, len);
        }
        for lane in (0..32_u32).filter(|l| m >> l & 1 == 1) {
            let (to, from, read) = (to[lane as usize], from[lane as usize], read[lane as usize]);
            if read != 0 && read != len {
                return Err(format!("lane {lane} copies a part of {len} bytes: {read}"));
            }
            if !to.is_multiple_of(len as u64) || !from.is_multiple_of(len as u64) {
                return Err(format!(
                    "lane {lane} copies {len} bytes from {from:#x} to {to:#x}, misaligned"
                ));
            }
            let (by, mut bytes) = (self.access(lane, 0, block), [0; 16]);
            if read > 0 {
                block
                    .read_constant(from, len, by)
                    .map_err(|e| format!("lane {lane}: {e}"))?;
                // SAFETY: this check proved that an allocation holds these bytes.
                unsafe {
                    std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), len)
                };
            }
            let to = block.shared.begin_copy(to, len, by)?;
            self.copies.push(Copy {
                lane,
                group: self.committed[lane as usize],
                to,
                len,
                read,
                bytes,
            });
            block.flight += read;
        }
        if let Some(counters) = &mut block.counters {
            counters.flight_bytes = counters.flight_bytes.max(block.flight as u64);
        }
        Ok(())
    }

    /// Ends the lanes' groups: later copies belong to the next.
    pub(super) fn commit(&mut self, m: u32) {
        for lane in (0..32).filter(|l| m >> l & 1 == 1) {
            self.committed[lane] += 1;
        }
    }

    /// Lands the lanes' groups but for the youngest `rest`. Copies that no commit followed stay on their way.
    pub(super) fn wait(&mut self, m: u32, rest: u32, block: &mut Block<'_>) {
        let mut copies = std::mem::take(&mut self.copies);
        copies.retain(|copy| {
            let ended = self.committed[copy.lane as usize].saturating_sub(rest);
            if m >> copy.lane & 1 == 0 || copy.group >= ended {
                return true;
            }
            let by = self.access(copy.lane, 0, block);
            block.shared.land(copy.to, &copy.bytes[..copy.len], by);
            block.flight -= copy.read;
            false
        });
        self.copies = copies;
    }

    /// Whether none of the lanes leaves a copy behind.
    pub(super) fn may_leave(&self, m: u32) -> Result<()> {
        match self.copies.iter().find(|copy| m >> copy.lane & 1 == 1) {
            Some(copy) => Err(format!(
                "lane {} leaves before its copies were waited for",
                copy.lane
            )),
            None if self.products.are_left() => {
                Err("a warp leaves before its products were waited for".into())
            }
            None => Ok(()),
        }
    }
}
