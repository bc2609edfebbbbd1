//! A record of shared memory for kernels in which things happen beside the instructions: an access must know of those that
//! it may collide with. Barriers of the block tell everybody of everything; barriers that count tell those who wait of
//! those who arrived and of the copies that they counted.

use super::barriers::Counting;
use super::clocks::Clocks;
use super::{Access, COPIED, FORBIDDEN, Shared};
use crate::Result;

/// A word of a barrier that counts.
const BARRIER: u8 = 0xd0;

/// Who wrote a word last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Nobody,
    Lanes {
        warp: u16,
        lanes: u32,
        time: u32,
    },
    /// A bulk copy that a phase of a barrier waits for.
    Copy {
        barrier: u16,
        phase: u32,
    },
}

#[derive(Debug, Clone, Copy)]
struct Word {
    writer: Writer,
    /// Bytes that were written, one bit each; or what may not be touched.
    written: u8,
    block: u32,
}

/// A bulk copy on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BulkCopy {
    pub(crate) pc: usize,
    pub(crate) to: usize,
    pub(crate) from: u64,
    pub(crate) len: usize,
    pub(crate) barrier: usize,
    pub(crate) phase: u32,
    /// Who began it.
    pub(crate) by: Access,
}

#[derive(Debug)]
pub(crate) struct Ordered {
    pub(crate) clocks: Clocks,
    pub(crate) barriers: Vec<Counting>,
    pub(crate) copies: Vec<BulkCopy>,
    /// Whether copies and products happen as late as they may, or at once.
    pub(crate) late: bool,
    /// Whether a barrier has changed.
    pub(crate) moved: bool,
    warps: usize,
    words: Vec<Word>,
    /// By word and warp: the lanes that read it last, and when; the youngest group of products that reads it.
    lanes: Vec<u32>,
    times: Vec<u32>,
    products: Vec<u32>,
    block: u32,
}

impl Ordered {
    pub(crate) fn new(len: usize, gaps: &[(usize, usize)], warps: usize, late: bool) -> Self {
        let count = len.div_ceil(4);
        let word = Word {
            writer: Writer::Nobody,
            written: 0,
            block: 0,
        };
        let mut words = vec![word; count];
        for &(begin, end) in gaps {
            for word in &mut words[begin / 4..end / 4] {
                word.written = FORBIDDEN;
            }
        }
        Self {
            clocks: Clocks::new(warps),
            barriers: Vec::new(),
            copies: Vec::new(),
            late,
            moved: false,
            warps,
            words,
            lanes: vec![0; count * warps],
            times: vec![0; count * warps],
            products: vec![0; count * warps],
            block: 0,
        }
    }

    /// For a new block.
    pub(crate) fn reset(&mut self) {
        self.block += 1;
        self.clocks.reset();
        self.barriers.clear();
        self.copies.clear();
    }

    /// A word as this block knows it.
    #[inline]
    fn word(&mut self, index: usize) -> &mut Word {
        let word = &mut self.words[index];
        if word.block != self.block {
            word.block = self.block;
            word.writer = Writer::Nobody;
            if word.written != FORBIDDEN {
                word.written = 0;
            }
            let all = index * self.warps..(index + 1) * self.warps;
            self.lanes[all.clone()].fill(0);
            self.products[all].fill(0);
        }
        word
    }

    #[cold]
    fn untouchable(written: u8, at: usize, done: &str) -> Option<String> {
        if written == BARRIER {
            return Some(format!("byte {at} of shared memory is a barrier's"));
        }
        Shared::untouchable(written, at, done)
    }

    /// The threads of an access.
    fn threads(by: Access) -> impl Iterator<Item = u16> {
        let first = by.warp * 32;
        (0..32)
            .filter(move |l| by.lanes >> l & 1 == 1)
            .map(move |l| first + l)
    }

    fn knows_writer(&self, thread: u16, writer: Writer) -> bool {
        match writer {
            Writer::Nobody => true,
            Writer::Lanes { warp, lanes, time } => self.clocks.knows(thread, (warp, lanes, time)),
            Writer::Copy { barrier, phase } => {
                self.clocks.knows_phase(thread, barrier.into(), phase)
            }
        }
    }

    /// Who wrote, for a message.
    fn name(&self, writer: Writer) -> String {
        match writer {
            Writer::Nobody => "nobody wrote".into(),
            Writer::Lanes { warp, lanes, .. } if lanes.is_power_of_two() => {
                let thread = u32::from(warp) * 32 + lanes.trailing_zeros();
                format!("thread {thread} wrote")
            }
            Writer::Lanes { warp, .. } => format!("threads of warp {warp} wrote"),
            Writer::Copy { barrier, .. } => format!(
                "a copy wrote that the barrier at byte {} waits for",
                self.barriers[usize::from(barrier)].at
            ),
        }
    }

    /// That the threads of an access know who wrote a word.
    fn knows_write(&self, index: usize, by: Access, done: &str) -> Result<()> {
        let writer = self.words[index].writer;
        match Self::threads(by).find(|t| !self.knows_writer(*t, writer)) {
            Some(thread) => Err(format!(
                "race in shared memory: thread {thread} {done} byte {}, which {} unknown to it",
                index * 4,
                self.name(writer)
            )),
            None => Ok(()),
        }
    }

    /// That a thread knows of all that was done with a word.
    fn knows_all(&self, index: usize, by: Access, done: &str) -> Result<()> {
        self.knows_write(index, by, done)?;
        let all = index * self.warps..(index + 1) * self.warps;
        let reads = self.lanes[all.clone()].iter().zip(&self.times[all.clone()]);
        for (warp, (&lanes, &time)) in (0..).zip(reads).filter(|(_, read)| *read.0 != 0) {
            let read = (warp, lanes, time);
            if Self::threads(by).any(|t| !self.clocks.knows(t, read)) {
                return Err(format!(
                    "race in shared memory: thread {} {done} byte {}, which threads of warp {warp} read unknown to it",
                    by.thread,
                    index * 4
                ));
            }
        }
        let products = &self.products[all];
        for (warp, &group) in products.iter().enumerate().filter(|(_, group)| **group > 0) {
            if Self::threads(by).any(|t| !self.clocks.knows_products(t, warp, group)) {
                return Err(format!(
                    "race in shared memory: thread {} {done} byte {}, which a product of warp {warp} reads unknown to it",
                    by.thread,
                    index * 4
                ));
            }
        }
        Ok(())
    }

    /// Checks a read.
    pub(crate) fn read(&mut self, at: usize, len: usize, by: Access) -> Result<()> {
        for index in at / 4..(at + len).div_ceil(4) {
            let bits = Shared::bits(at, len, index);
            let written = self.word(index).written;
            if written & bits != bits || written > 15 {
                let never = || format!("byte {at} of shared memory was never written");
                return Err(Self::untouchable(written, at, "read").unwrap_or_else(never));
            }
            self.knows_write(index, by, "reads")?;
            let (now, warp) = (self.clocks.now(by.warp), usize::from(by.warp));
            let place = index * self.warps + warp;
            let (lanes, time) = (self.lanes[place], self.times[place]);
            // Who knows of the reads so far stands for them.
            let known = (by.warp, lanes, time);
            let stands = time != now && Self::threads(by).all(|t| self.clocks.knows(t, known));
            self.lanes[place] = if stands { by.lanes } else { by.lanes | lanes };
            self.times[place] = now;
        }
        Ok(())
    }

    /// Checks a write.
    pub(crate) fn write(&mut self, at: usize, len: usize, by: Access) -> Result<()> {
        self.change(at, len, by, "writes")?;
        let writer = Writer::Lanes {
            warp: by.warp,
            lanes: by.lanes,
            time: self.clocks.now(by.warp),
        };
        for index in at / 4..(at + len).div_ceil(4) {
            let word = self.word(index);
            word.written |= Shared::bits(at, len, index);
            word.writer = writer;
        }
        Ok(())
    }

    /// Checks that bytes may be changed.
    fn change(&mut self, at: usize, len: usize, by: Access, done: &str) -> Result<()> {
        for index in at / 4..(at + len).div_ceil(4) {
            let written = self.word(index).written;
            if written > 15
                && let Some(why) = Self::untouchable(written, index * 4, "written")
            {
                return Err(why);
            }
            self.knows_all(index, by, done)?;
        }
        Ok(())
    }

    /// Makes eight bytes a barrier.
    pub(crate) fn begin_barrier(&mut self, at: usize, by: Access) -> Result<()> {
        self.change(at, 8, by, "makes a barrier of")?;
        for index in at / 4..at / 4 + 2 {
            self.word(index).written = BARRIER;
        }
        Ok(())
    }

    /// Begins a bulk copy: until it lands nobody may touch its bytes.
    pub(crate) fn begin_copy(&mut self, copy: BulkCopy, by: Access) -> Result<()> {
        self.change(copy.to, copy.len, by, "begins a copy to")?;
        for index in copy.to / 4..(copy.to + copy.len) / 4 {
            self.word(index).written = COPIED;
        }
        self.copies.push(copy);
        Ok(())
    }

    /// Ends a copy: its barrier hears of it.
    pub(crate) fn end_copy(&mut self, copy: &BulkCopy) -> Result<()> {
        for word in &mut self.words[copy.to / 4..(copy.to + copy.len) / 4] {
            word.written = 15;
            word.writer = Writer::Copy {
                barrier: u16::try_from(copy.barrier).unwrap_or(u16::MAX),
                phase: copy.phase,
            };
        }
        self.bytes_come(copy)
    }

    /// Whether all of 16 bytes were written.
    pub(crate) fn are_there(&self, at: usize) -> bool {
        let words = &self.words[at / 4..at / 4 + 4];
        words
            .iter()
            .all(|word| word.block == self.block && word.written == 15)
    }

    /// Checks that a product of a warp may read rows of 16 bytes, all lanes knowing of them, and notes it. Rows that were
    /// never written are no numbers then: a product of fewer rows than it has room for reads them and keeps nothing of it.
    pub(crate) fn product_reads(
        &mut self,
        rows: impl Iterator<Item = usize>,
        by: Access,
        group: u32,
    ) -> Result<()> {
        let mut known = Writer::Nobody;
        for index in rows.flat_map(|at| at / 4..at / 4 + 4) {
            let Word {
                written, writer, ..
            } = *self.word(index);
            let at = index * 4;
            if written != 15 && written != 0 {
                let parts = || format!("byte {at} of shared memory was written in parts");
                return Err(Self::untouchable(written, at, "multiplied").unwrap_or_else(parts));
            }
            if writer != known {
                if matches!(writer, Writer::Lanes { .. }) {
                    return Err(format!(
                        "byte {at} of shared memory is multiplied, which {}: no fence tells products of that",
                        self.name(writer)
                    ));
                }
                self.knows_write(index, by, "multiplies")?;
                known = writer;
            }
            self.products[index * self.warps + usize::from(by.warp)] = group;
        }
        Ok(())
    }
}
