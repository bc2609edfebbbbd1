//! The device's memory: allocations of the host, each with a record of the bytes that were written.

use std::alloc::{Layout, alloc, dealloc};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::Result;

/// Alignment of an allocation, as the driver promises.
const ALIGN: usize = 256;
/// What fresh memory holds: floats that are no numbers.
const FRESH: u8 = 0xff;

/// All allocations, by address. A clone is the same memory, and keeps what is freed elsewhere while it is there.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    all: Vec<Arc<Allocation>>,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) begin: u64,
    pub(crate) len: usize,
    /// Whether every byte was written; else one bit a byte.
    full: AtomicBool,
    written: Box<[AtomicU64]>,
}

impl Allocation {
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.max(1), ALIGN).ok()
    }

    /// Records a write.
    #[inline]
    pub(crate) fn wrote(&self, at: usize, len: usize) {
        if self.full.load(Ordering::Relaxed) {
            return;
        }
        if at == 0 && len == self.len {
            self.full.store(true, Ordering::Relaxed);
            return;
        }
        for (word, bits) in words(at, len) {
            self.written[word].fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// Records that a byte holds nothing.
    fn emptied(&self, at: usize) {
        if self.full.swap(false, Ordering::Relaxed) {
            for word in &self.written {
                word.store(u64::MAX, Ordering::Relaxed);
            }
        }
        for (word, bits) in words(at, 1) {
            self.written[word].fetch_and(!bits, Ordering::Relaxed);
        }
    }

    /// Whether these bytes were all written.
    #[inline]
    pub(crate) fn was_written(&self, at: usize, len: usize) -> bool {
        self.full.load(Ordering::Relaxed)
            || words(at, len)
                .all(|(word, bits)| self.written[word].load(Ordering::Relaxed) & bits == bits)
    }
}

/// Some bytes as bits of words: each word, and which of its bits.
#[inline]
fn words(at: usize, len: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = at + len;
    let all = if len == 0 {
        0..0
    } else {
        at / 64..end.div_ceil(64)
    };
    all.map(move |word| {
        let (first, last) = (at.max(word * 64), end.min(word * 64 + 64));
        (word, u64::MAX >> (64 - (last - first)) << (first % 64))
    })
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: `Memory::allocate` made it with this layout, and nobody has it any more.
            unsafe { dealloc(self.begin as *mut u8, layout) };
        }
    }
}

impl Memory {
    /// Bytes that are allocated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves memory that counts as never written; nothing if the host has none.
    pub fn allocate(&mut self, len: usize) -> Option<u64> {
        let layout = Allocation::layout(len)?;
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc(layout) };
        if pointer.is_null() {
            return None;
        }
        // SAFETY: `pointer` has `layout.size()` bytes of its own.
        unsafe { pointer.write_bytes(FRESH, layout.size()) };
        let begin = pointer as u64;
        let at = self.all.partition_point(|a| a.begin < begin);
        self.all.insert(
            at,
            Arc::new(Allocation {
                begin,
                len,
                full: AtomicBool::new(false),
                written: (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            }),
        );
        self.bytes += len;
        Some(begin)
    }

    /// Gives memory back; false if there is none at this address.
    pub fn free(&mut self, begin: u64) -> bool {
        self.take_back(begin).is_some()
    }

    /// Gives memory back, and says how much it was.
    pub(crate) fn take_back(&mut self, begin: u64) -> Option<usize> {
        let at = self.all.binary_search_by_key(&begin, |a| a.begin).ok()?;
        let len = self.all.remove(at).len;
        self.bytes -= len;
        Some(len)
    }

    /// The allocation that holds these bytes, and where in it they begin.
    pub(crate) fn find(&self, at: u64, len: usize) -> Result<(usize, usize)> {
        let index = self.all.partition_point(|a| a.begin <= at);
        let Some(index) = index.checked_sub(1) else {
            return Err(format!("address {at:#x} lies in no allocation"));
        };
        let allocation = &self.all[index];
        let offset = usize::try_from(at - allocation.begin).map_err(|e| e.to_string())?;
        if offset
            .checked_add(len)
            .is_none_or(|end| end > allocation.len)
        {
            return Err(format!(
                "{len} bytes at {offset} of an allocation of {}",
                allocation.len
            ));
        }
        Ok((index, offset))
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Allocation> {
        self.all.get(index).map(|a| &**a)
    }

    pub(crate) fn allocation(&self, index: usize) -> &Allocation {
        &self.all[index]
    }

    /// Copies from the host.
    ///
    /// # Errors
    /// Bytes outside every allocation.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let (index, offset) = self.find(at, bytes.len())?;
        // SAFETY: `find` proved that the allocation holds these bytes; no kernel runs while the host copies.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        self.all[index].wrote(offset, bytes.len());
        Ok(())
    }

    /// Copies to the host.
    ///
    /// # Errors
    /// Bytes outside every allocation.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.find(at, out.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(at as *const u8, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Copies between allocations; what was never written counts so at its new place.
    ///
    /// # Errors
    /// Bytes outside every allocation.
    pub fn copy(&self, from: u64, to: u64, len: usize) -> Result<()> {
        let (source, begin) = self.find(from, len)?;
        let (index, offset) = self.find(to, len)?;
        let (source, target) = (&self.all[source], &self.all[index]);
        let holes: Vec<usize> = match source.was_written(begin, len) {
            true => Vec::new(),
            false => (0..len)
                .filter(|i| !source.was_written(begin + i, 1))
                .collect(),
        };
        // SAFETY: as in `write`; `copy` allows an overlap.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len) };
        target.wrote(offset, len);
        holes.iter().for_each(|i| target.emptied(offset + i));
        Ok(())
    }

    /// Makes an allocation as it was before anything was written there.
    ///
    /// # Errors
    /// No allocation begins there.
    pub(crate) fn forget(&self, begin: u64) -> Result<()> {
        let (index, _) = self.find(begin, 0)?;
        let allocation = &self.all[index];
        // SAFETY: as in `write`.
        unsafe { (allocation.begin as *mut u8).write_bytes(FRESH, allocation.len) };
        for word in &allocation.written {
            word.store(0, Ordering::Relaxed);
        }
        allocation.full.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Fills with one byte.
    ///
    /// # Errors
    /// Bytes outside every allocation.
    pub fn fill(&self, at: u64, byte: u8, len: usize) -> Result<()> {
        let (index, offset) = self.find(at, len)?;
        // SAFETY: as in `write`.
        unsafe { (at as *mut u8).write_bytes(byte, len) };
        self.all[index].wrote(offset, len);
        Ok(())
    }
}
