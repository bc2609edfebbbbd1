//! Who wrote each word of device memory during a launch: nobody else may touch it before a barrier of the two.
//!
//! What is read first and written then by another is not noted: in the other order of blocks and warps it is a write and a read.

use crate::Result;
use crate::shared::Access;

/// A thread's write: its block (from 1 on; 0 is nobody), its number there, whether it was atomic, and when it was. Packed into a
/// number, of which the system has zeros at no cost.
#[derive(Debug, Clone, Copy)]
struct Mark(u128);

impl Mark {
    fn new(block: u32, by: Access, atomic: bool) -> Self {
        let who = u128::from(block) | u128::from(by.thread) << 32 | u128::from(atomic) << 48;
        Self(who | u128::from(by.now.0) << 64 | u128::from(by.now.1) << 96)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each is as wide as it was")]
    fn collides(self, block: u32, by: Access) -> bool {
        if self.0 == 0 {
            return false;
        }
        let when = ((self.0 >> 64) as u32, (self.0 >> 96) as u32);
        self.0 as u32 != block || by.races_with((self.0 >> 32) as u16, when)
    }

    fn is_atomic(self) -> bool {
        self.0 >> 48 & 1 == 1
    }

    #[expect(clippy::cast_possible_truncation, reason = "each is as wide as it was")]
    fn name(self) -> String {
        let (block, thread) = (self.0 as u32 - 1, (self.0 >> 32) as u16);
        format!("thread {thread} of block number {block}")
    }
}

/// The marks of an allocation.
#[derive(Debug)]
struct Marks {
    /// Its place among all allocations.
    index: usize,
    words: Vec<u128>,
    /// Of each byte, for accesses to parts of words; nothing before the first.
    parts: Vec<u128>,
}

impl Marks {
    /// The marks that an access meets.
    fn of(&self, at: usize, len: usize) -> impl Iterator<Item = Mark> {
        let words = &self.words[at / 4..(at + len).div_ceil(4)];
        let parts = self.parts.get(at..at + len).unwrap_or_default();
        words.iter().chain(parts).map(|&mark| Mark(mark))
    }

    fn put(&mut self, at: usize, len: usize, mark: Mark) {
        if (at | len).is_multiple_of(4) {
            self.words[at / 4..(at + len) / 4].fill(mark.0);
            return;
        }
        if self.parts.is_empty() {
            self.parts = vec![0; self.words.len() * 4];
        }
        self.parts[at..at + len].fill(mark.0);
    }
}

/// What a launch has written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The block that runs, from 1 on.
    pub(crate) block: u32,
    all: Vec<Marks>,
}

impl Written {
    /// Whether anything of an allocation was written.
    #[inline(always)]
    pub(crate) fn knows(&self, index: usize) -> bool {
        self.all.iter().any(|marks| marks.index == index)
    }

    /// Checks a read; `only` says that the instruction is one for memory that no thread of the launch writes.
    pub(crate) fn read(
        &self,
        index: usize,
        at: usize,
        len: usize,
        by: Access,
        only: bool,
    ) -> Result<()> {
        let Some(marks) = self.all.iter().find(|marks| marks.index == index) else {
            return Ok(());
        };
        for mark in marks.of(at, len) {
            if mark.collides(self.block, by) {
                return Err(race("reads", at, by, mark));
            }
            if only && mark.0 != 0 {
                return Err(format!(
                    "thread {} reads byte {at} of an allocation as what is never written, and {} wrote it",
                    by.thread,
                    mark.name()
                ));
            }
        }
        Ok(())
    }

    /// Checks a write and notes it; `len_all` is the allocation's length.
    pub(crate) fn write(
        &mut self,
        (index, len_all): (usize, usize),
        at: usize,
        len: usize,
        by: Access,
    ) -> Result<()> {
        let block = self.block;
        let marks = self.marks(index, len_all);
        if let Some(mark) = marks.of(at, len).find(|mark| mark.collides(block, by)) {
            return Err(race("writes", at, by, mark));
        }
        marks.put(at, len, Mark::new(block, by, false));
        Ok(())
    }

    /// The same of an atomic operation on a word, any number of which may meet.
    pub(crate) fn atomic(
        &mut self,
        (index, len_all): (usize, usize),
        at: usize,
        by: Access,
    ) -> Result<()> {
        let block = self.block;
        let marks = self.marks(index, len_all);
        let other = |mark: &Mark| !mark.is_atomic() && mark.collides(block, by);
        if let Some(mark) = marks.of(at, 4).find(other) {
            return Err(race("changes", at, by, mark));
        }
        marks.put(at, 4, Mark::new(block, by, true));
        Ok(())
    }

    fn marks(&mut self, index: usize, len: usize) -> &mut Marks {
        let known = self.all.iter().position(|marks| marks.index == index);
        let place = known.unwrap_or_else(|| {
            let words = vec![0; len.div_ceil(4)];
            self.all.push(Marks {
                index,
                words,
                parts: Vec::new(),
            });
            self.all.len() - 1
        });
        &mut self.all[place]
    }
}

#[cold]
fn race(does: &str, at: usize, by: Access, mark: Mark) -> String {
    format!(
        "race in device memory: thread {} {does} byte {at} of an allocation, which {} wrote in this launch",
        by.thread,
        mark.name()
    )
}
