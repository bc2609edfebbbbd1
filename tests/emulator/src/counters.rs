//! What a launch's accesses cost a GPU, counted: figures that need no clock.

use crate::program::Space;

/// Bytes that the caches move at once.
const SECTOR: u64 = 32;
/// Banks of shared memory, a word wide each.
const BANKS: u64 = 32;

/// Sums over launches, and what the launch with the most bytes on their way was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counters {
    /// Instructions that a warp ran, and the lanes that took part in them.
    pub warp_instructions: u64,
    /// See `warp_instructions`.
    pub lane_instructions: u64,
    /// Bytes of global memory that warps asked for, each once an access.
    pub useful_bytes: u64,
    /// Bytes of the sectors that hold them.
    pub sector_bytes: u64,
    /// Turns that accesses of shared memory take without a conflict.
    pub shared_turns: u64,
    /// Turns that bank conflicts add.
    pub shared_conflicts: u64,
    /// The most bytes that one block's asynchronous copies had on their way at a time.
    pub flight_bytes: u64,
    /// Bytes of shared memory and threads of the block that had them.
    pub block_shared_bytes: u64,
    /// See `block_shared_bytes`.
    pub block_threads: u64,
}

impl Counters {
    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.useful_bytes += other.useful_bytes;
        self.sector_bytes += other.sector_bytes;
        self.shared_turns += other.shared_turns;
        self.shared_conflicts += other.shared_conflicts;
        if other.flight_bytes > self.flight_bytes {
            self.flight_bytes = other.flight_bytes;
            self.block_shared_bytes = other.block_shared_bytes;
            self.block_threads = other.block_threads;
        }
    }

    /// Counts a run of bytes of global memory.
    pub(crate) fn run(&mut self, at: u64, bytes: usize) {
        let end = at + bytes as u64;
        self.useful_bytes += bytes as u64;
        self.sector_bytes += end.next_multiple_of(SECTOR) - at / SECTOR * SECTOR;
    }

    /// Counts one access of some lanes to `bytes` each.
    pub(crate) fn access(&mut self, space: Space, at: &[u64; 32], mask: u32, bytes: usize) {
        let lanes = || (0..32).filter(|l| mask >> l & 1 == 1).map(|l| (l, at[l]));
        if space == Space::Shared {
            // A turn serves 128 bytes: all lanes, half of them, or a quarter.
            let group = 128 / bytes.max(4);
            for first in (0..32).step_by(group) {
                let mut words: Vec<u64> = lanes()
                    .filter(|(l, _)| (first..first + group).contains(l))
                    .flat_map(|(_, at)| (0..bytes.div_ceil(4) as u64).map(move |w| at / 4 + w))
                    .collect();
                words.sort_unstable();
                words.dedup();
                let mut banks = [0; BANKS as usize];
                for word in &words {
                    banks[(word % BANKS) as usize] += 1;
                }
                let turns: u64 = banks.into_iter().max().unwrap_or(0);
                self.shared_turns += u64::from(turns > 0);
                self.shared_conflicts += turns.saturating_sub(1);
            }
        } else {
            let mut places: Vec<u64> = lanes().map(|(_, at)| at).collect();
            places.sort_unstable();
            places.dedup();
            self.useful_bytes += (places.len() * bytes) as u64;
            places.iter_mut().for_each(|at| *at /= SECTOR);
            places.dedup();
            self.sector_bytes += places.len() as u64 * SECTOR;
        }
    }
}
