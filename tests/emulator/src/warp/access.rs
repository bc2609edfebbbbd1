//! Loads, stores and atomic operations.

use super::{Block, Warp, put};
use crate::Result;
use crate::program::{Atomic, Inst, Op, Space, Type};
use crate::shared::Access;
use crate::written::Place;

/// A generic address with this bit lies in shared memory.
pub(super) const SHARED_TAG: u64 = 1 << 62;

impl Block<'_> {
    /// Finds where in the allocation of an access it begins, and checks that it may be read, or records that it is written.
    #[inline(always)]
    fn resolve(&mut self, at: u64, len: usize, write: bool) -> Result<usize> {
        let allocation = self.memory.get(self.hit);
        let inside = allocation.and_then(|a| {
            let offset = usize::try_from(at.wrapping_sub(a.begin)).ok()?;
            (offset.checked_add(len)? <= a.len).then_some(offset)
        });
        let offset = match inside {
            Some(offset) => offset,
            None => {
                let (index, offset) = self.memory.find(at, len)?;
                self.hit = index;
                offset
            }
        };
        let allocation = self.memory.allocation(self.hit);
        if write {
            allocation.wrote(offset, len);
        } else if !allocation.was_written(offset, len) {
            return Err(format!(
                "reads {len} bytes at {offset} of an allocation of {}, which were never written",
                allocation.len
            ));
        }
        Ok(offset)
    }

    /// The allocation that was resolved last.
    #[inline(always)]
    fn found(&self) -> Place {
        (self.hit, self.memory.allocation(self.hit).len)
    }

    /// Checks a thread's read of device memory that the launch may write.
    #[inline(always)]
    fn read(&mut self, at: u64, len: usize, by: Access) -> Result<()> {
        let offset = self.resolve(at, len, false)?;
        self.written.read(self.found(), offset, len, by)
    }

    /// Checks a read of what it never writes.
    #[inline(always)]
    pub(super) fn read_constant(&mut self, at: u64, len: usize, by: Access) -> Result<()> {
        let offset = self.resolve(at, len, false)?;
        self.written.read_constant(self.found(), offset, len, by)
    }
}

impl Warp {
    #[inline(always)]
    pub(super) fn addresses(&self, i: &Inst) -> [u64; 32] {
        let mut out = [0; 32];
        if i.c == 1 {
            let base = self.words[i.a as usize];
            for l in 0..32 {
                out[l] = u64::from(base[l]).wrapping_add(i.extra as u64);
            }
        } else {
            let base = self.longs[i.a as usize];
            for l in 0..32 {
                out[l] = base[l].wrapping_add(i.extra as u64);
            }
        }
        out
    }

    /// An access of one lane, or of several at once.
    pub(super) fn access(&self, lane: u32, several: u32, block: &Block<'_>) -> Access {
        Access {
            warp: self.index,
            thread: self.index * 32 + lane as u16,
            all: several != 0,
            lanes: if several == 0 { 1 << lane } else { several },
            now: (block.epoch, self.epoch),
        }
    }

    /// Whether an access goes to shared memory, and the address there.
    fn space(space: Space, at: u64) -> (bool, u64) {
        match space {
            Space::Shared => (true, at),
            Space::Global | Space::ReadOnly => (false, at),
            Space::Generic => (at & SHARED_TAG != 0, at & !SHARED_TAG),
        }
    }

    #[inline(always)]
    pub(super) fn load(
        &mut self,
        i: &Inst,
        m: u32,
        (space, kind, count): (Space, Type, u8),
        block: &mut Block<'_>,
    ) -> Result<()> {
        let at = self.addresses(i);
        let (each, count) = (kind.bytes(), usize::from(count));
        let total = each * count;
        if let Some(counters) = &mut block.counters {
            counters.access(space, &at, m, total);
        }
        let registers = block.kernel.vectors[i.d as usize];
        let first = m.trailing_zeros();
        let base = at[first as usize];
        // Floats side by side, all lanes: found at once.
        let long = i.b == 1;
        let constant = space == Space::ReadOnly;
        if m == u32::MAX && each == 4 && !long && (constant || space == Space::Global) {
            let mut contiguous = true;
            for l in 0..32 {
                contiguous &= at[l] == base.wrapping_add((l * total) as u64);
            }
            if contiguous && base.is_multiple_of(total as u64) {
                if constant {
                    block.read_constant(base, 32 * total, self.access(0, m, block))?;
                } else {
                    let offset = block.resolve(base, 32 * total, false)?;
                    for l in 0..32 {
                        let (at, by) = (offset + l * total, self.access(l as u32, 0, block));
                        block.written.read(block.found(), at, total, by)?;
                    }
                }
                for l in 0..32 {
                    for c in 0..count {
                        // SAFETY: `resolve` proved that an allocation holds these 32 · total bytes.
                        let word = unsafe {
                            (base as *const u8)
                                .add(l * total + c * 4)
                                .cast::<u32>()
                                .read_unaligned()
                        };
                        self.words[registers[c] as usize][l] = word;
                    }
                }
                return Ok(());
            }
        }
        let mut same = true;
        for l in 0..32 {
            same &= m >> l & 1 == 0 || at[l] == base;
        }
        let all = m.count_ones() > 1;
        // Words go into their registers as they are.
        let words = each == 4 && !long;
        let lanes = if same { 1 << first } else { m };
        for lane in (0..32_u32).filter(|l| lanes >> l & 1 == 1) {
            let (shared, at) = Self::space(space, at[lane as usize]);
            if !at.is_multiple_of(total as u64) {
                return Err(format!(
                    "lane {lane} reads {total} bytes at {at:#x}, misaligned"
                ));
            }
            let by = self.access(lane, if same && all { m } else { 0 }, block);
            let from = if shared {
                let from = block.shared.read(at, total, by)?;
                block.shared.bytes[from..from + total].as_ptr()
            } else {
                let checked = match constant {
                    true => block.read_constant(at, total, by),
                    false => block.read(at, total, by),
                };
                checked.map_err(|e| format!("lane {lane}: {e}"))?;
                at as *const u8
            };
            if words {
                for c in 0..count {
                    // SAFETY: shared memory or an allocation holds 4 · count bytes there.
                    let word = unsafe { from.add(c * 4).cast::<u32>().read_unaligned() };
                    let register = &mut self.words[registers[c] as usize];
                    if same {
                        put(register, [word; 32], m);
                    } else {
                        register[lane as usize] = word;
                    }
                }
                continue;
            }
            let mut bytes = [0_u8; 16];
            // SAFETY: shared memory or an allocation holds `total` bytes there, 16 at most.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), total) };
            for c in 0..count {
                let mut raw = [0; 8];
                raw[..each].copy_from_slice(&bytes[c * each..(c + 1) * each]);
                let raw = u64::from_le_bytes(raw);
                let value = match kind {
                    Type::S8 => raw as i8 as u32 as u64,
                    Type::S16 => raw as i16 as u32 as u64,
                    Type::S32 if long => raw as i32 as u64,
                    _ => raw,
                };
                let register = registers[c] as usize;
                match (long, same) {
                    (true, true) => put(&mut self.longs[register], [value; 32], m),
                    (true, false) => self.longs[register][lane as usize] = value,
                    (false, true) => put(&mut self.words[register], [value as u32; 32], m),
                    (false, false) => self.words[register][lane as usize] = value as u32,
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store(
        &mut self,
        i: &Inst,
        m: u32,
        (space, kind, count): (Space, Type, u8),
        block: &mut Block<'_>,
    ) -> Result<()> {
        let at = self.addresses(i);
        let (each, count) = (kind.bytes(), usize::from(count));
        let total = each * count;
        if let Some(counters) = &mut block.counters {
            counters.access(space, &at, m, total);
        }
        let registers = block.kernel.vectors[i.d as usize];
        // Words side by side, all lanes: found at once.
        let base = at[0];
        if m == u32::MAX && each == 4 && i.b != 1 && space == Space::Global {
            let mut contiguous = base.is_multiple_of(total as u64);
            for l in 0..32 {
                contiguous &= at[l] == base.wrapping_add((l * total) as u64);
            }
            if contiguous && let Ok(offset) = block.resolve(base, 32 * total, true) {
                let found = block.found();
                for l in 0..32 {
                    let by = self.access(l as u32, 0, block);
                    block.written.write(found, offset + l * total, total, by)?;
                    for c in 0..count {
                        let word = self.words[registers[c] as usize][l];
                        // SAFETY: `resolve` proved that an allocation holds these 32 · total bytes, and device memory is
                        // written by nobody but the one launch that runs on it.
                        unsafe {
                            (base as *mut u8)
                                .add(l * total + c * 4)
                                .cast::<u32>()
                                .write_unaligned(word);
                        }
                    }
                }
                return Ok(());
            }
        }
        for lane in (0..32_u32).filter(|l| m >> l & 1 == 1) {
            let l = lane as usize;
            let (shared, at) = Self::space(space, at[l]);
            if !at.is_multiple_of(total as u64) {
                return Err(format!(
                    "lane {lane} writes {total} bytes at {at:#x}, misaligned"
                ));
            }
            let by = self.access(lane, 0, block);
            let to = if shared {
                let to = block.shared.write(at, total, by)?;
                block.shared.bytes[to..to + total].as_mut_ptr()
            } else {
                block
                    .resolve(at, total, true)
                    .and_then(|offset| block.written.write(block.found(), offset, total, by))
                    .map_err(|e| format!("lane {lane}: {e}"))?;
                at as *mut u8
            };
            for c in 0..count {
                let register = registers[c] as usize;
                let value = if i.b == 1 {
                    self.longs[register][l]
                } else {
                    u64::from(self.words[register][l])
                };
                // SAFETY: shared memory or an allocation holds `count` elements of `each` bytes there, and device memory is
                // written by nobody but the one launch that runs on it.
                unsafe {
                    let to = to.add(c * each);
                    match each {
                        4 => to.cast::<u32>().write_unaligned(value as u32),
                        8 => to.cast::<u64>().write_unaligned(value),
                        _ => std::ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), to, each),
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        i: &Inst,
        m: u32,
        space: Space,
        atomic: Atomic,
        block: &mut Block<'_>,
    ) -> Result<()> {
        let at = self.addresses(i);
        for lane in (0..32_u32).filter(|l| m >> l & 1 == 1) {
            let l = lane as usize;
            let (shared, at) = Self::space(space, at[l]);
            if !at.is_multiple_of(4) {
                return Err(format!(
                    "lane {lane} changes 4 bytes at {at:#x}, misaligned"
                ));
            }
            let operand = self.words[i.b as usize][l];
            let new = |old: u32| match atomic {
                Atomic::Add => old.wrapping_add(operand),
                Atomic::MinU32 => old.min(operand),
                Atomic::MaxU32 => old.max(operand),
            };
            let by = self.access(lane, 0, block);
            let old = if shared {
                let place = block.shared.atomic(at, by)?;
                let word = &mut block.shared.bytes[place..place + 4];
                let old = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                word.copy_from_slice(&new(old).to_le_bytes());
                old
            } else {
                let offset = block.resolve(at, 4, false)?;
                block.written.atomic(block.found(), offset, by)?;
                // SAFETY: `resolve` proved that an allocation holds this word.
                let old = unsafe { (at as *const u32).read() };
                // SAFETY: as above, and it may be written as in `store`.
                unsafe { (at as *mut u32).write(new(old)) };
                old
            };
            if matches!(i.op, Op::Fetch(..)) {
                self.words[i.d as usize][l] = old;
            }
        }
        Ok(())
    }
}
