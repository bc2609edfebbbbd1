//! Who wrote and who read each word of device memory during a launch: what several threads touch, one of them writing, needs a
//! barrier of theirs between.

use crate::Result;
use crate::shared::{Access, Who};

/// Somebody's access: the block (from 1 on; 0 is nobody), a thread of it, whether it stands for more, and when it was. Packed
/// into a number, of which the system has zeros at no cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark(u128);

/// What a mark's thread stands for: itself, itself in an atomic operation, lanes of its warp, threads of several warps.
const ALONE: u8 = 0;
const ATOMIC: u8 = 1;
const LANES: u8 = 2;
const MANY: u8 = 3;

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

    fn collides(self, block: u32, by: Access) -> bool {
        let who = match self.kind() {
            LANES => Who::Warp(self.thread() / 32),
            MANY => Who::Many,
            _ => Who::Thread(self.thread()),
        };
        self.0 != 0 && (self.block() != block || by.collides(who, self.when()))
    }

    /// What stands for this and for a read that follows.
    fn and(self, block: u32, by: Access) -> Self {
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
}

/// The marks of an allocation.
#[derive(Debug)]
struct Marks {
    /// Its place among all allocations.
    index: usize,
    words: Vec<u128>,
    /// Of each byte, for writes of parts of words; nothing before the first.
    parts: Vec<u128>,
    /// Those who read a whole word.
    readers: Vec<u128>,
}

impl Marks {
    /// The marks of those who wrote what an access meets.
    fn writers(&self, at: usize, len: usize) -> impl Iterator<Item = Mark> {
        let words = &self.words[at / 4..(at + len).div_ceil(4)];
        let parts = self.parts.get(at..at + len).unwrap_or_default();
        words.iter().chain(parts).map(|&mark| Mark(mark))
    }

    fn readers(&self, at: usize, len: usize) -> impl Iterator<Item = Mark> {
        let of = self.readers.get(at / 4..(at + len).div_ceil(4));
        of.unwrap_or_default().iter().map(|&mark| Mark(mark))
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

/// An allocation: its place among all, and its length.
pub(crate) type Place = (usize, usize);

/// What a launch has written and read.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The block that runs, from 1 on.
    pub(crate) block: u32,
    all: Vec<Marks>,
}

/// How something is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// By an instruction for what the launch never writes.
    Constant,
    /// By an asynchronous copy, of which no note is taken: much is copied, and next to nothing of it is written.
    Copy,
    Plain,
}

impl Written {
    /// Whether anything of an allocation was written or read.
    #[inline(always)]
    fn knows(&self, index: usize) -> bool {
        self.all.iter().any(|marks| marks.index == index)
    }

    /// Checks a read and notes it.
    #[inline(always)]
    pub(crate) fn read(
        &mut self,
        place: Place,
        at: usize,
        len: usize,
        (by, how): (Access, Reading),
    ) -> Result<()> {
        match how == Reading::Plain || self.knows(place.0) {
            true => self.note_read(place, at, len, (by, how)),
            false => Ok(()),
        }
    }

    fn note_read(
        &mut self,
        place: Place,
        at: usize,
        len: usize,
        (by, how): (Access, Reading),
    ) -> Result<()> {
        let block = self.block;
        let marks = self.marks(place);
        if let Some(mark) = marks.writers(at, len).find(|mark| mark.collides(block, by)) {
            return Err(race("reads", at, by, ("wrote", mark)));
        }
        if how == Reading::Constant
            && let Some(mark) = marks.writers(at, len).find(|mark| mark.0 != 0)
        {
            return Err(format!(
                "thread {} reads byte {at} of an allocation as what is never written, and {} wrote it",
                by.thread,
                name(mark)
            ));
        }
        if how == Reading::Plain && (at | len).is_multiple_of(4) {
            if marks.readers.is_empty() {
                marks.readers = vec![0; marks.words.len()];
            }
            for mark in &mut marks.readers[at / 4..(at + len) / 4] {
                *mark = Mark(*mark).and(block, by).0;
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
        marks.put(at, len, Mark::new(block, by, ALONE));
        Ok(())
    }

    /// The same of an atomic operation on a word, any number of which may meet.
    pub(crate) fn atomic(&mut self, place: Place, at: usize, by: Access) -> Result<()> {
        let block = self.block;
        let marks = self.marks(place);
        let other = |mark: &Mark| mark.kind() != ATOMIC && mark.collides(block, by);
        if let Some(mark) = marks.writers(at, 4).find(other) {
            return Err(race("changes", at, by, ("wrote", mark)));
        }
        if let Some(mark) = marks.readers(at, 4).find(other) {
            return Err(race("changes", at, by, ("read", mark)));
        }
        marks.put(at, 4, Mark::new(block, by, ATOMIC));
        Ok(())
    }

    fn marks(&mut self, (index, len): Place) -> &mut Marks {
        let known = self.all.iter().position(|marks| marks.index == index);
        let place = known.unwrap_or_else(|| {
            self.all.push(Marks {
                index,
                words: vec![0; len.div_ceil(4)],
                parts: Vec::new(),
                readers: Vec::new(),
            });
            self.all.len() - 1
        });
        &mut self.all[place]
    }
}

fn name(mark: Mark) -> String {
    let (block, thread) = (mark.block() - 1, mark.thread());
    match mark.kind() {
        LANES => format!("warp {} of block number {block}", thread / 32),
        MANY => format!("several warps of block number {block}"),
        _ => format!("thread {thread} of block number {block}"),
    }
}

#[cold]
fn race(does: &str, at: usize, by: Access, (did, mark): (&str, Mark)) -> String {
    format!(
        "race in device memory: thread {} {does} byte {at} of an allocation, which {} {did} in this launch",
        by.thread,
        name(mark)
    )
}
