//! Barriers that count: a phase is over when all have arrived and all expected bytes have come.

use super::Access;
use super::ordered::{BulkCopy, Ordered};
use crate::Result;

/// Bytes that a phase may wait for.
const MOST_BYTES: u32 = (1 << 20) - 1;

#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) at: usize,
    count: u32,
    /// Arrivals and bytes that the phase lacks.
    pub(crate) arrivals: u32,
    pub(crate) bytes: i64,
    pub(crate) phase: u32,
    /// What those who arrived know, of this phase and of the last.
    told: Vec<u32>,
    over: Vec<u32>,
    /// Who began it and when, and whether copies were told.
    begun: (u16, u32, u32),
    fenced: bool,
    column: usize,
}

impl Counting {
    /// The next phase, if this one lacks nothing.
    fn turn(&mut self) {
        if self.arrivals > 0 || self.bytes != 0 {
            return;
        }
        self.phase += 1;
        self.arrivals = self.count;
        std::mem::swap(&mut self.told, &mut self.over);
        self.told.fill(0);
        self.over[self.column] = self.phase;
    }
}

impl Ordered {
    pub(crate) fn init(&mut self, at: usize, count: u32, by: Access) -> Result<()> {
        if count == 0 || count > MOST_BYTES {
            return Err(format!("a barrier for {count} arrivals"));
        }
        self.begin_barrier(at, by)?;
        let column = self.clocks.barrier(self.barriers.len())?;
        self.barriers.push(Counting {
            at,
            count,
            arrivals: count,
            bytes: 0,
            phase: 0,
            told: self.clocks.nothing(),
            over: self.clocks.nothing(),
            begun: (by.warp, by.lanes, self.clocks.now(by.warp)),
            fenced: false,
            column,
        });
        self.moved = true;
        Ok(())
    }

    /// Copies hear of the barriers that a thread began.
    pub(crate) fn fence_init(&mut self, warp: u16, lane: u32) {
        let own = |b: &&mut Counting| (b.begun.0, b.begun.1) == (warp, 1 << lane);
        for barrier in self.barriers.iter_mut().filter(own) {
            barrier.fenced = true;
        }
    }

    /// The barrier that begins at a byte, of which the thread knows.
    pub(crate) fn barrier_at(&self, at: u64, by: Access) -> Result<usize> {
        let found = self.barriers.iter().position(|b| b.at as u64 == at);
        let found = found.ok_or_else(|| format!("no barrier was begun at byte {at}"))?;
        if self.clocks.knows(by.thread, self.barriers[found].begun) {
            Ok(found)
        } else {
            Err(format!(
                "race in shared memory: thread {} uses the barrier at byte {at}, which was begun unknown to it",
                by.thread
            ))
        }
    }

    /// A thread arrives, and expects so many bytes beside.
    pub(crate) fn arrive(&mut self, number: usize, bytes: u32, thread: u16) -> Result<()> {
        let barrier = &mut self.barriers[number];
        if barrier.arrivals == 0 {
            return Err(format!(
                "the barrier at byte {} counts {} arrivals, and this is one more",
                barrier.at, barrier.count
            ));
        }
        if bytes > MOST_BYTES {
            return Err(format!("a barrier for {bytes} bytes"));
        }
        barrier.arrivals -= 1;
        barrier.bytes += i64::from(bytes);
        self.clocks.tell(thread, &mut barrier.told);
        barrier.right()?;
        barrier.turn();
        self.moved = true;
        Ok(())
    }

    /// Whether the phase of a parity is over; the thread then knows what those who arrived knew.
    pub(crate) fn over(&mut self, number: usize, parity: u32, thread: u16) -> Result<bool> {
        if parity > 1 {
            return Err(format!("the parity of a phase is {parity}"));
        }
        let barrier = &self.barriers[number];
        let over = barrier.phase & 1 != parity;
        if over {
            self.clocks.hear(thread, &barrier.over);
        }
        Ok(over)
    }

    /// Whether copies may tell a barrier.
    pub(crate) fn is_fenced(&self, number: usize) -> Result<()> {
        if self.barriers[number].fenced {
            return Ok(());
        }
        Err(format!(
            "no fence tells copies of the barrier at byte {}",
            self.barriers[number].at
        ))
    }

    /// A copy's bytes have come.
    pub(super) fn bytes_come(&mut self, copy: &BulkCopy) -> Result<()> {
        let barrier = &mut self.barriers[copy.barrier];
        if barrier.phase != copy.phase {
            return Err(format!(
                "{} bytes come to the barrier at byte {}, whose phase did not wait for them",
                copy.len, barrier.at
            ));
        }
        barrier.bytes -= copy.len as i64;
        barrier.right()?;
        barrier.turn();
        self.moved = true;
        Ok(())
    }
}

impl Counting {
    /// That no more bytes have come than all who arrived expect.
    fn right(&self) -> Result<()> {
        if self.arrivals == 0 && self.bytes < 0 {
            return Err(format!(
                "the barrier at byte {} gets {} bytes more than it expects",
                self.at, -self.bytes
            ));
        }
        Ok(())
    }
}
