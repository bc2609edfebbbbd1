//! Barriers that count, and bulk copies that they count.

use super::{Asked, Block, Warp, place};
use crate::Result;
use crate::program::Hopper;
use crate::shared::BulkCopy;

/// Where a bulk copy's ends lie, and of how many bytes it is.
const PIECE: u64 = 16;

impl Block<'_> {
    /// Whether a barrier that counts has changed since this was asked last.
    pub(crate) fn has_moved(&mut self) -> bool {
        let ordered = self.shared.ordered.as_mut();
        ordered.is_some_and(|ordered| std::mem::take(&mut ordered.moved))
    }

    /// Lands a copy, the youngest, that one of some barriers waits for; false if there is none.
    pub(crate) fn land_youngest(&mut self, barriers: &[usize]) -> Result<bool> {
        let Some(ordered) = &self.shared.ordered else {
            return Ok(false);
        };
        let wanted = |copy: &BulkCopy| barriers.contains(&copy.barrier);
        match ordered.copies.iter().rposition(wanted) {
            Some(which) => self.land(which).map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends one of the copies on their way.
    fn land(&mut self, which: usize) -> Result<()> {
        let Some(copy) = self.shared.ordered.as_mut().map(|o| o.copies.remove(which)) else {
            return Ok(());
        };
        let at = |e: String| format!("{}: {e}", place(self.kernel, copy.pc));
        self.read_constant(copy.from, copy.len, copy.by)
            .map_err(at)?;
        let to = &mut self.shared.bytes[copy.to..copy.to + copy.len];
        // SAFETY: this check proved that an allocation holds these bytes, and `to` is as long; shared memory is no device
        // memory.
        unsafe {
            std::ptr::copy_nonoverlapping(copy.from as *const u8, to.as_mut_ptr(), copy.len);
        }
        self.flight -= copy.len;
        let at = |e: String| format!("{}: {e}", place(self.kernel, copy.pc));
        let ended = self.shared.ordered.as_mut().map(|o| o.end_copy(&copy));
        ended.unwrap_or(Ok(())).map_err(at)
    }

    /// Whether a block may end: no copy is on its way.
    pub(crate) fn all_came(&self) -> Result<()> {
        let ordered = self.shared.ordered.as_ref();
        match ordered.and_then(|ordered| ordered.copies.first()) {
            Some(copy) => Err(format!(
                "{}: the block ends before its copy has come",
                place(self.kernel, copy.pc)
            )),
            None => Ok(()),
        }
    }

    /// What a phase that was asked for lacks.
    pub(crate) fn lacking(&self, asked: Asked) -> String {
        let at = place(self.kernel, asked.pc);
        let barrier = self
            .shared
            .ordered
            .as_ref()
            .map(|o| &o.barriers[asked.barrier]);
        barrier.map_or(String::new(), |barrier| {
            format!(
                "at {at} for parity {} of the barrier at byte {}, whose phase {} lacks {} arrivals and {} bytes",
                asked.parity, barrier.at, barrier.phase, barrier.arrivals, barrier.bytes
            )
        })
    }
}

impl Warp {
    /// What lanes do with a barrier; false if they asked for a phase that is not over.
    #[inline(never)]
    pub(super) fn counted(
        &mut self,
        op: Hopper,
        m: u32,
        pc: usize,
        block: &mut Block<'_>,
    ) -> Result<bool> {
        if op == Hopper::CopyBulk {
            return self.copy_bulk(m, pc, block).map(|()| true);
        }
        let i = &block.kernel.code[pc];
        let lanes = (0..32_u32).filter(|l| m >> l & 1 == 1);
        if op == Hopper::FenceInit {
            if let Some(ordered) = &mut block.shared.ordered {
                lanes.for_each(|lane| ordered.fence_init(self.index, lane));
            }
            return Ok(true);
        }
        let at = self.addresses(i);
        let (mut over, asked) = (0, self.asked.len());
        for lane in lanes {
            let l = lane as usize;
            let by = self.access(lane, 0, block);
            let operand = self.words.get(i.b as usize).map_or(0, |b| b[l]);
            if !at[l].is_multiple_of(8) {
                return Err(format!(
                    "lane {lane}: a barrier at {:#x}, misaligned",
                    at[l]
                ));
            }
            let place = block.shared.range(at[l], 8)?;
            let Some(ordered) = &mut block.shared.ordered else {
                return Ok(true);
            };
            if op == Hopper::Init {
                ordered.init(place, operand, by)?;
                continue;
            }
            let barrier = ordered.barrier_at(at[l], by)?;
            match op {
                Hopper::Arrive => ordered.arrive(barrier, 0, by.thread)?,
                Hopper::Expect => ordered.arrive(barrier, operand, by.thread)?,
                _ => {
                    if ordered.over(barrier, operand, by.thread)? {
                        over |= 1 << lane;
                    } else {
                        self.asked.push(Asked {
                            pc,
                            barrier,
                            parity: operand,
                        });
                    }
                }
            }
        }
        if op == Hopper::TryWait {
            let answer = &mut self.preds[i.d as usize];
            *answer = *answer & !m | over & m;
            self.asked[asked..].reverse();
            self.asked.dedup_by_key(|asked| (asked.pc, asked.barrier));
            return Ok(over == m);
        }
        Ok(true)
    }

    fn copy_bulk(&mut self, m: u32, pc: usize, block: &mut Block<'_>) -> Result<()> {
        let i = &block.kernel.code[pc];
        let to = self.addresses(i);
        let [offset, bytes, barrier, barrier_offset] = block.kernel.vectors[i.d as usize];
        for lane in (0..32_u32).filter(|l| m >> l & 1 == 1) {
            let l = lane as usize;
            let from = self.longs[i.b as usize][l].wrapping_add_signed(offset.cast_signed().into());
            let bytes = self.words[bytes as usize][l];
            let barrier = u64::from(self.words[barrier as usize][l])
                .wrapping_add_signed(barrier_offset.cast_signed().into());
            if bytes == 0 || !(u64::from(bytes) | from | to[l]).is_multiple_of(PIECE) {
                return Err(format!(
                    "lane {lane} copies {bytes} bytes from {from:#x} to {:#x}: not in pieces of 16",
                    to[l]
                ));
            }
            let len = bytes as usize;
            let by = self.access(lane, 0, block);
            block
                .read_constant(from, len, by)
                .map_err(|e| format!("lane {lane}: {e}"))?;
            let at = block.shared.range(to[l], len)?;
            let Some(ordered) = &mut block.shared.ordered else {
                return Ok(());
            };
            let barrier = ordered.barrier_at(barrier, by)?;
            ordered.is_fenced(barrier)?;
            let copy = BulkCopy {
                pc,
                to: at,
                from,
                len,
                barrier,
                phase: ordered.barriers[barrier].phase,
                by,
            };
            ordered.begin_copy(copy, by)?;
            let (late, which) = (ordered.late, ordered.copies.len() - 1);
            block.flight += len;
            if let Some(counters) = &mut block.counters {
                counters.run(from, len);
                counters.flight_bytes = counters.flight_bytes.max(block.flight as u64);
            }
            if !late {
                block.land(which)?;
            }
        }
        Ok(())
    }
}
