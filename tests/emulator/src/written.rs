//! Who wrote and who read each word of device memory during a launch: what several threads touch, one of them writing, needs a
//! barrier of theirs between. Nothing else brings threads together here: no flags, no barriers that count.
//!
//! Writes are noted, and reads of whole words by instructions that may read what a launch writes; the others are compared with
//! the writes before them.

use crate::Result;
use crate::shared::{Access, Who};

/// Somebody's access: the block (from 1 on; 0 is nobody), a thread of it, what that stands for, and when it was. Packed into a
/// number, of which zeros are quickly made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark(u128);

/// What a mark's thread stands for: itself, itself in an atomic operation, lanes of its warp, threads of several warps, several
/// threads in atomic operations.
const ALONE: u8 = 0;
const ATOMIC: u8 = 1;
const LANES: u8 = 2;
const MANY: u8 = 3;
const ATOMICS: u8 = 4;

#[expect(
    clippy::cast_possible_truncation,
    reason = "each part is as wide as it was"
)]
impl Mark {
    fn new(block: u32, by: Access, kind: u8) -> Self {
        let who = u128::from(block) | u128::from(by.thread) << 32 | u128::from(kind) << 48;
        Self(who | u128::from(by.now.0) << 64 | u128::from(by.now.1) << 96)
    }

    const fn block(self) -> u32 {
        self.0 as u32
    }

    const fn thread(self) -> u16 {
        (self.0 >> 32) as u16
    }

    const fn kind(self) -> u8 {
        (self.0 >> 48) as u8
    }

    const fn when(self) -> (u32, u32) {
        ((self.0 >> 64) as u32, (self.0 >> 96) as u32)
    }

    const fn is_atomic(self) -> bool {
        matches!(self.kind(), ATOMIC | ATOMICS)
    }

    fn collides(self, block: u32, by: Access) -> bool {
        let who = match self.kind() {
            LANES => Who::Warp(self.thread() / 32),
            MANY | ATOMICS => Who::Many,
            _ => Who::Thread(self.thread()),
        };
        self.0 != 0 && (self.block() != block || by.collides(who, self.when()))
    }

    /// What stands for this and for a read that follows.
    fn and_read(self, block: u32, by: Access) -> Self {
        let alone = Self::new(block, by, if by.all { LANES } else { ALONE });
        if self == alone || self.block() != block || self.when().0 != by.now.0 {
            return alone;
        }
        if self.kind() == MANY || self.thread() / 32 != by.warp {
            return Self::new(block, by, MANY);
        }
        // A warp's own barrier lies between, or does not.
        match self.when() == by.now {
            true => Self::new(block, by, LANES),
            false => alone,
        }
    }

    fn name(self) -> String {
        let (block, thread) = (self.block() - 1, self.thread());
        match self.kind() {
            LANES => format!("warp {} of block number {block}", thread / 32),
            MANY => format!("several warps of block number {block}"),
            _ => format!("thread {thread} of block number {block}"),
        }
    }
}

/// The marks of an allocation; each list is empty before its first.
#[derive(Debug)]
struct Marks {
    /// Its place among all allocations, and its length.
    place: Place,
    /// Who wrote a word, and parts of one.
    words: Vec<u128>,
    parts: Vec<u128>,
    /// Who read a word.
    readers: Vec<u128>,
}

impl Marks {
    /// The marks of those who wrote what an access meets.
    fn writers(&self, at: usize, len: usize) -> impl Iterator<Item = Mark> {
        let words = self.words.get(at / 4..(at + len).div_ceil(4));
        let parts = self.parts.get(at..at + len);
        let both = words.into_iter().chain(parts).flatten();
        both.map(|&mark| Mark(mark))
    }

    /// The marks of those who read words of it.
    fn readers(&self, at: usize, len: usize) -> impl Iterator<Item = Mark> {
        let of = self.readers.get(at / 4..(at + len).div_ceil(4));
        of.unwrap_or_default().iter().map(|&mark| Mark(mark))
    }

    /// The marks of whole words.
    fn words_of(list: &mut Vec<u128>, place: Place, at: usize, len: usize) -> &mut [u128] {
        if list.is_empty() {
            *list = vec![0; place.1.div_ceil(4)];
        }
        &mut list[at / 4..(at + len) / 4]
    }

    fn note_write(&mut self, at: usize, len: usize, mark: Mark) {
        if (at | len).is_multiple_of(4) {
            Self::words_of(&mut self.words, self.place, at, len).fill(mark.0);
            return;
        }
        if self.parts.is_empty() {
            self.parts = vec![0; self.place.1];
        }
        self.parts[at..at + len].fill(mark.0);
    }
}

/// An allocation: its place among all, and its length.
pub(crate) type Place = (usize, usize);

/// What a launch has written and read.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The block that runs, from 1 on.
    pub(crate) block: u32,
    all: Vec<Marks>,
}

impl Written {
    /// Checks a read of what the launch never writes: by an instruction that wants it so, or by an asynchronous copy.
    pub(crate) fn read_constant(
        &self,
        place: Place,
        at: usize,
        len: usize,
        by: Access,
    ) -> Result<()> {
        let Some(marks) = self.all.iter().find(|marks| marks.place == place) else {
            return Ok(());
        };
        let Some(mark) = marks.writers(at, len).find(|mark| mark.0 != 0) else {
            return Ok(());
        };
        Err(format!(
            "thread {} reads byte {at} of an allocation as what is never written, and {} wrote it",
            by.thread,
            mark.name()
        ))
    }

    /// Checks a read and notes it.
    pub(crate) fn read(&mut self, place: Place, at: usize, len: usize, by: Access) -> Result<()> {
        let block = self.block;
        let marks = self.marks(place);
        if let Some(mark) = marks.writers(at, len).find(|mark| mark.collides(block, by)) {
            return Err(race("reads", at, by, ("wrote", mark)));
        }
        if (at | len).is_multiple_of(4) {
            for mark in Marks::words_of(&mut marks.readers, place, at, len) {
                *mark = Mark(*mark).and_read(block, by).0;
            }
        }
        Ok(())
    }

    /// Checks a write and notes it.
    pub(crate) fn write(&mut self, place: Place, at: usize, len: usize, by: Access) -> Result<()> {
        let block = self.block;
        let marks = self.marks(place);
        if let Some(mark) = marks.writers(at, len).find(|mark| mark.collides(block, by)) {
            return Err(race("writes", at, by, ("wrote", mark)));
        }
        if let Some(mark) = marks.readers(at, len).find(|mark| mark.collides(block, by)) {
            return Err(race("writes", at, by, ("read", mark)));
        }
        marks.note_write(at, len, Mark::new(block, by, ALONE));
        Ok(())
    }

    /// The same of an atomic operation on a word, any number of which may meet.
    pub(crate) fn atomic(&mut self, place: Place, at: usize, by: Access) -> Result<()> {
        let block = self.block;
        let marks = self.marks(place);
        let (mut kind, mut plain) = (ATOMIC, false);
        for mark in marks.writers(at, 4) {
            match (mark.collides(block, by), mark.is_atomic()) {
                (true, false) => return Err(race("changes", at, by, ("wrote", mark))),
                (true, true) => kind = ATOMICS,
                // This thread's own write still collides with others' operations.
                (false, atomic) => plain |= !atomic && mark == Mark::new(block, by, ALONE),
            }
        }
        if let Some(mark) = marks.readers(at, 4).find(|mark| mark.collides(block, by)) {
            return Err(race("changes", at, by, ("read", mark)));
        }
        if !plain {
            marks.note_write(at, 4, Mark::new(block, by, kind));
        }
        Ok(())
    }

    fn marks(&mut self, place: Place) -> &mut Marks {
        let known = self.all.iter().position(|marks| marks.place == place);
        let known = known.unwrap_or_else(|| {
            self.all.push(Marks {
                place,
                words: Vec::new(),
                parts: Vec::new(),
                readers: Vec::new(),
            });
            self.all.len() - 1
        });
        &mut self.all[known]
    }
}

#[cold]
fn race(does: &str, at: usize, by: Access, (did, mark): (&str, Mark)) -> String {
    format!(
        "race in device memory: thread {} {does} byte {at} of an allocation, which {} {did} in this launch",
        by.thread,
        mark.name()
    )
}
