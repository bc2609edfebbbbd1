//! What each thread knows to have happened: vector clocks.

use crate::Result;

/// Barriers that count of one block.
const BARRIERS: usize = 64;

/// A row a thread. Its columns say up to when it knows of: each thread; the products of each warp; the phases of each
/// barrier, and so the copies that the phase waited for.
#[derive(Debug)]
pub(crate) struct Clocks {
    warps: usize,
    width: usize,
    seen: Vec<u32>,
    /// The time of each warp, which goes on whenever others hear of it. What a thread did at its own time nobody else knows.
    now: Vec<u32>,
    room: Vec<u32>,
}

impl Clocks {
    pub(crate) fn new(warps: usize) -> Self {
        let width = 33 * warps + BARRIERS;
        Self {
            warps,
            width,
            seen: vec![0; 32 * warps * width],
            now: vec![1; warps],
            room: vec![0; width],
        }
    }

    /// For a new block: nobody knows of anything.
    pub(crate) fn reset(&mut self) {
        self.seen.fill(0);
        self.now.fill(1);
    }

    pub(crate) fn now(&self, warp: u16) -> u32 {
        self.now[usize::from(warp)]
    }

    /// What nobody has told of anything.
    pub(crate) fn nothing(&self) -> Vec<u32> {
        vec![0; self.width]
    }

    fn row(&self, thread: u16) -> &[u32] {
        let begin = usize::from(thread) * self.width;
        &self.seen[begin..begin + self.width]
    }

    fn row_mut(&mut self, thread: u16) -> &mut [u32] {
        let begin = usize::from(thread) * self.width;
        &mut self.seen[begin..begin + self.width]
    }

    /// Lanes of a warp hear of each other.
    pub(crate) fn lanes_meet(&mut self, warp: u16, lanes: u32) {
        let threads = (0..32).filter(|l| lanes >> l & 1 == 1);
        let threads: Vec<u16> = threads.map(|l| warp * 32 + l).collect();
        self.meet(&threads);
    }

    /// All threads hear of each other.
    pub(crate) fn block_meets(&mut self) {
        let count = u16::try_from(32 * self.warps).unwrap_or(u16::MAX);
        self.meet(&(0..count).collect::<Vec<u16>>());
    }

    fn meet(&mut self, threads: &[u16]) {
        let mut all = std::mem::take(&mut self.room);
        all.fill(0);
        for &thread in threads {
            join(&mut all, self.row(thread));
        }
        for &thread in threads {
            all[usize::from(thread)] = self.now[usize::from(thread / 32)];
        }
        for &thread in threads {
            self.row_mut(thread).copy_from_slice(&all);
        }
        for &thread in threads.iter().filter(|t| t.is_multiple_of(32)) {
            self.now[usize::from(thread / 32)] += 1;
        }
        // Lanes without the first of their warp.
        if let Some(&thread) = threads.first().filter(|t| !t.is_multiple_of(32)) {
            self.now[usize::from(thread / 32)] += 1;
        }
        self.room = all;
    }

    /// A thread tells what it knows, and what it did until now.
    pub(crate) fn tell(&mut self, thread: u16, to: &mut [u32]) {
        join(to, self.row(thread));
        let now = &mut self.now[usize::from(thread / 32)];
        to[usize::from(thread)] = *now;
        *now += 1;
    }

    /// A thread hears what was told.
    pub(crate) fn hear(&mut self, thread: u16, from: &[u32]) {
        join(self.row_mut(thread), from);
    }

    /// Where phases of a barrier are counted.
    pub(crate) fn barrier(&self, number: usize) -> Result<usize> {
        if number >= BARRIERS {
            return Err(format!("more than {BARRIERS} barriers that count"));
        }
        Ok(33 * self.warps + number)
    }

    /// A warp waited for its products up to a group.
    pub(crate) fn products_done(&mut self, warp: u16, group: u32) {
        let column = 32 * self.warps + usize::from(warp);
        for lane in 0..32 {
            self.row_mut(warp * 32 + lane)[column] = group;
        }
    }

    /// Whether a thread knows what lanes of a warp did at a time.
    pub(crate) fn knows(&self, thread: u16, (warp, lanes, time): (u16, u32, u32)) -> bool {
        let first = usize::from(warp) * 32;
        let row = &self.row(thread)[first..first + 32];
        let mut left = if thread / 32 == warp {
            lanes & !(1 << (thread % 32))
        } else {
            lanes
        };
        while left != 0 {
            if row[left.trailing_zeros() as usize] < time {
                return false;
            }
            left &= left - 1;
        }
        true
    }

    /// Whether a thread knows that a phase of a barrier is over.
    pub(crate) fn knows_phase(&self, thread: u16, barrier: usize, phase: u32) -> bool {
        self.row(thread)[33 * self.warps + barrier] > phase
    }

    /// Whether a thread knows that a group of products of a warp is done.
    pub(crate) fn knows_products(&self, thread: u16, warp: usize, group: u32) -> bool {
        self.row(thread)[32 * self.warps + warp] >= group
    }
}

fn join(to: &mut [u32], from: &[u32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = (*to).max(*from);
    }
}
