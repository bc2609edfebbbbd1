//! Shared memory of one block, with a record of who wrote and who read each word since the last barrier.

mod barriers;
mod clocks;
mod ordered;

pub(crate) use self::ordered::{BulkCopy, Ordered};
use crate::Result;

/// One who reads or writes: a thread, several threads of a warp, or several warps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Nobody,
    Thread(u16),
    Warp(u16),
    Many,
    /// Any number of atomic operations.
    Atomic,
}

/// When: barriers of the block and of the warp that lie behind.
pub(crate) type When = (u32, u32);

#[derive(Debug, Clone, Copy)]
struct Word {
    writer: Who,
    wrote: When,
    reader: Who,
    read: When,
    /// Bytes that were written, one bit each; or one of the two values below.
    written: u8,
    /// The block that all this is of.
    block: u32,
}

impl Word {
    /// As a block knows it: what is noted of another one counts as nothing.
    #[inline(always)]
    fn of(&mut self, block: u32) -> &mut Self {
        if self.block != block {
            let written = match self.written {
                FORBIDDEN => FORBIDDEN,
                _ => 0,
            };
            *self = Self {
                written,
                block,
                ..FRESH
            };
        }
        self
    }

    /// Whom a read would race with.
    #[inline(always)]
    fn writes_over(&self, by: Access) -> Option<Who> {
        by.collides(self.writer, self.wrote).then_some(self.writer)
    }

    /// Whom a write would race with, and what that has done.
    #[inline(always)]
    fn uses(&self, by: Access) -> Option<(Who, &'static str)> {
        if by.collides(self.writer, self.wrote) {
            Some((self.writer, "wrote"))
        } else {
            by.collides(self.reader, self.read)
                .then_some((self.reader, "read"))
        }
    }

    /// Notes a read.
    #[inline(always)]
    fn was_read(&mut self, by: Access) {
        if self.read.0 != by.now.0 || self.reader == Who::Nobody {
            self.reader = by.who();
        } else if self.reader != by.who() {
            let same_warp = match self.reader {
                Who::Thread(t) => t / 32 == by.warp,
                Who::Warp(w) => w == by.warp,
                _ => false,
            };
            self.reader = if same_warp {
                Who::Warp(by.warp)
            } else {
                Who::Many
            };
        }
        self.read = by.now;
    }
}

const FRESH: Word = Word {
    writer: Who::Nobody,
    wrote: (0, 0),
    reader: Who::Nobody,
    read: (0, 0),
    written: 0,
    block: 0,
};
/// A word where no access may go.
const FORBIDDEN: u8 = 0xf0;
/// A word that an asynchronous copy is on its way to.
const COPIED: u8 = 0xe0;

/// The memory.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) bytes: Vec<u8>,
    words: Vec<Word>,
    /// The same of each byte, for accesses to parts of words; nothing before the first.
    parts: Vec<Word>,
    /// The block that runs: what is noted of another one counts as nothing.
    block: u32,
    /// The record instead of the words', where things happen beside the instructions.
    pub(crate) ordered: Option<Box<Ordered>>,
}

/// Who accesses, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) warp: u16,
    /// The thread of the block; with `all` several lanes of its warp at once.
    pub(crate) thread: u16,
    pub(crate) all: bool,
    /// The lane, or those.
    pub(crate) lanes: u32,
    pub(crate) now: When,
}

impl Access {
    fn who(self) -> Who {
        if self.all {
            Who::Warp(self.warp)
        } else {
            Who::Thread(self.thread)
        }
    }

    /// Whether what `who` of the same block did at `when` may collide with this access.
    pub(crate) fn collides(self, who: Who, when: When) -> bool {
        if when.0 != self.now.0 {
            return false;
        }
        match who {
            Who::Nobody => false,
            Who::Thread(t) if t == self.thread && !self.all => false,
            Who::Thread(t) => t / 32 != self.warp || when.1 == self.now.1,
            Who::Warp(w) => w != self.warp || when.1 == self.now.1,
            Who::Many | Who::Atomic => true,
        }
    }
}

impl Shared {
    pub(crate) fn new(len: usize, gaps: &[(usize, usize)]) -> Self {
        let mut words = vec![FRESH; len.div_ceil(4)];
        for &(begin, end) in gaps {
            for word in &mut words[begin / 4..end / 4] {
                word.written = FORBIDDEN;
            }
        }
        Self {
            bytes: vec![0xff; len],
            words,
            parts: Vec::new(),
            block: 0,
            ordered: None,
        }
    }

    /// The same for so many warps with another record; whether what happens beside the instructions happens late.
    pub(crate) fn ordered(len: usize, gaps: &[(usize, usize)], warps: usize, late: bool) -> Self {
        Self {
            bytes: vec![0xff; len],
            words: Vec::new(),
            parts: Vec::new(),
            block: 0,
            ordered: Some(Box::new(Ordered::new(len, gaps, warps, late))),
        }
    }

    /// For a new block: nothing was written.
    pub(crate) fn reset(&mut self) {
        self.block += 1;
        if let Some(ordered) = &mut self.ordered {
            ordered.reset();
        }
    }

    /// Lanes of a warp hear of each other.
    pub(crate) fn lanes_meet(&mut self, warp: u16, lanes: u32) {
        if let Some(ordered) = &mut self.ordered {
            ordered.clocks.lanes_meet(warp, lanes);
        }
    }

    /// All threads hear of each other.
    pub(crate) fn block_meets(&mut self) {
        if let Some(ordered) = &mut self.ordered {
            ordered.clocks.block_meets();
        }
    }

    /// A word as this block knows it.
    #[inline(always)]
    fn word(&mut self, index: usize) -> &mut Word {
        self.words[index].of(self.block)
    }

    /// The records of some bytes of a word. Of a whole word none is looked at before a part of one was accessed.
    #[inline(always)]
    fn parts(&mut self, index: usize, bits: u8) -> impl Iterator<Item = &mut Word> {
        if bits != 15 && self.parts.is_empty() {
            self.parts = vec![FRESH; self.words.len() * 4];
        }
        let block = self.block;
        let of = self
            .parts
            .get_mut(index * 4..index * 4 + 4)
            .unwrap_or_default();
        let parts = of.iter_mut().enumerate();
        parts.filter_map(move |(i, part)| (bits >> i & 1 == 1).then(|| part.of(block)))
    }

    /// Why a word may not be read or written, if it may not be touched at all.
    #[cold]
    fn untouchable(written: u8, at: usize, done: &str) -> Option<String> {
        match written {
            FORBIDDEN => Some(format!("byte {at} of shared memory lies in no array")),
            COPIED => Some(format!(
                "byte {at} of shared memory is {done} before its copy was waited for"
            )),
            _ => None,
        }
    }

    /// That nothing happens beside the instructions: what the other record does not know.
    fn plain(&self, what: &str) -> Result<()> {
        match self.ordered {
            Some(_) => Err(format!("{what} beside barriers that count are not known")),
            None => Ok(()),
        }
    }

    pub(crate) fn range(&self, at: u64, len: usize) -> Result<usize> {
        let inside = usize::try_from(at).ok().filter(|at| {
            at.checked_add(len)
                .is_some_and(|end| end <= self.bytes.len())
        });
        inside.ok_or_else(|| {
            format!(
                "{len} bytes at {at} of {} bytes of shared memory",
                self.bytes.len()
            )
        })
    }

    /// Bytes that an access uses of the word at `word`.
    fn bits(at: usize, len: usize, word: usize) -> u8 {
        let begin = at.max(word * 4) - word * 4;
        let end = (at + len).min(word * 4 + 4) - word * 4;
        ((1 << end) - 1) & !((1 << begin) - 1)
    }

    /// Checks a read, and where it begins.
    #[inline]
    pub(crate) fn read(&mut self, at: u64, len: usize, by: Access) -> Result<usize> {
        let at = self.range(at, len)?;
        if let Some(ordered) = &mut self.ordered {
            return ordered.read(at, len, by).map(|()| at);
        }
        let whole = (at | len).is_multiple_of(4);
        for index in at / 4..(at + len).div_ceil(4) {
            let bits = if whole {
                15
            } else {
                Self::bits(at, len, index)
            };
            let word = self.word(index);
            if word.written & bits != bits {
                let never = || format!("byte {at} of shared memory was never written");
                return Err(Self::untouchable(word.written, at, "read").unwrap_or_else(never));
            }
            let mut other = word.writes_over(by);
            if bits == 15 {
                word.was_read(by);
            }
            for part in self.parts(index, bits) {
                other = other.or_else(|| part.writes_over(by));
                if bits != 15 {
                    part.was_read(by);
                }
            }
            if let Some(who) = other {
                return Err(format!(
                    "race in shared memory: thread {} reads byte {at}, which {who:?} wrote since the last barrier",
                    by.thread
                ));
            }
        }
        Ok(at)
    }

    /// Checks a write, and where it begins.
    #[inline]
    pub(crate) fn write(&mut self, at: u64, len: usize, by: Access) -> Result<usize> {
        let at = self.range(at, len)?;
        if let Some(ordered) = &mut self.ordered {
            return ordered.write(at, len, by).map(|()| at);
        }
        let whole = (at | len).is_multiple_of(4);
        for index in at / 4..(at + len).div_ceil(4) {
            let bits = if whole {
                15
            } else {
                Self::bits(at, len, index)
            };
            let word = self.word(index);
            if word.written > 15
                && let Some(why) = Self::untouchable(word.written, at, "written")
            {
                return Err(why);
            }
            word.written |= bits;
            // Parts of one word may belong to different threads.
            let mut other = word.uses(by);
            if bits == 15 {
                (word.writer, word.wrote) = (by.who(), by.now);
            }
            for part in self.parts(index, bits) {
                other = other.or_else(|| part.uses(by));
                if bits != 15 {
                    (part.writer, part.wrote) = (by.who(), by.now);
                }
            }
            if let Some((who, what)) = other {
                return Err(format!(
                    "race in shared memory: thread {} writes byte {at}, which {who:?} {what} since the last barrier",
                    by.thread
                ));
            }
        }
        Ok(at)
    }

    /// Begins a copy of whole words: until it lands nobody may touch them.
    pub(crate) fn begin_copy(&mut self, at: u64, len: usize, by: Access) -> Result<usize> {
        self.plain("copies of lanes")?;
        let at = self.write(at, len, by)?;
        for word in &mut self.words[at / 4..(at + len) / 4] {
            word.written = COPIED;
        }
        Ok(at)
    }

    /// Ends a copy that has begun: its thread wrote the bytes now.
    pub(crate) fn land(&mut self, at: usize, bytes: &[u8], by: Access) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        for word in &mut self.words[at / 4..(at + bytes.len()) / 4] {
            word.written = 15;
            (word.writer, word.wrote) = (by.who(), by.now);
        }
    }

    /// Checks an atomic operation on one word.
    pub(crate) fn atomic(&mut self, at: u64, by: Access) -> Result<usize> {
        self.plain("atomic operations")?;
        let at = self.range(at, 4)?;
        let word = self.word(at / 4);
        if word.written & 15 != 15 {
            return Err(format!("byte {at} of shared memory was never written"));
        }
        let plain = word.writer != Who::Atomic && by.collides(word.writer, word.wrote);
        let mut races = plain || by.collides(word.reader, word.read);
        (word.writer, word.wrote) = (Who::Atomic, by.now);
        for part in self.parts(at / 4, 15) {
            races |= part.uses(by).is_some();
        }
        if races {
            return Err(format!(
                "race in shared memory: an atomic operation on byte {at}"
            ));
        }
        Ok(at)
    }
}
