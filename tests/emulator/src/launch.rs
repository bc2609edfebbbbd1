//! A grid: blocks one after the other, a block's warps in turns between barriers.

use crate::Result;
use crate::counters::Counters;
use crate::memory::Memory;
use crate::program::Kernel;
use crate::shared::Shared;
use crate::warp::{Block, Status, Warp, place};
use crate::written::Written;

/// Which of a grid's blocks and a block's warps run first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// From the first to the last.
    #[default]
    Ascending,
    /// From the last to the first.
    Descending,
}

/// How a kernel is launched.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic: usize,
    /// The parameter block.
    pub params: Vec<u8>,
    /// Which runs first.
    pub order: Order,
    /// Instructions of a warp that may run in all.
    pub budget: u64,
    /// Whether accesses are counted.
    pub count: bool,
}

/// Runs a kernel to its end, and gives what was counted: the warps' instructions, and the rest if it was asked for.
///
/// # Errors
/// A launch that a GPU refuses, or whatever a check found.
pub fn launch(kernel: &Kernel, memory: &Memory, launch: &Launch) -> Result<Counters> {
    let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    if threads == 0 || blocks == 0 || threads > u64::from(kernel.max_threads) {
        return Err(format!(
            "{}: a grid of {:?} blocks of {:?} threads, at most {} in a block",
            kernel.name, launch.grid, launch.block, kernel.max_threads
        ));
    }
    let shared = kernel.shared_bytes + launch.dynamic;
    let count = u16::try_from(threads.div_ceil(32)).map_err(|e| e.to_string())?;
    let descending = launch.order == Order::Descending;
    let mut block = Block {
        kernel,
        memory,
        params: &launch.params,
        shared: if kernel.is_hopper() {
            Shared::ordered(shared, &kernel.gaps, usize::from(count), !descending)
        } else {
            Shared::new(shared, &kernel.gaps)
        },
        written: Written::default(),
        epoch: 0,
        any: false,
        budget: launch.budget,
        hit: 0,
        flight: 0,
        counters: launch.count.then(|| Counters {
            block_shared_bytes: (kernel.static_bytes + launch.dynamic) as u64,
            block_threads: threads,
            ..Counters::default()
        }),
    };
    let mut warps: Vec<Warp> = (0..count).map(|w| Warp::new(kernel, w)).collect();
    let [gx, gy, _] = launch.grid.map(u64::from);
    for n in 0..blocks {
        let n = if descending { blocks - 1 - n } else { n };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "each is below the grid's size along its axis"
        )]
        let at = [
            (n % gx) as u32,
            (n / gx % gy) as u32,
            (n / (gx * gy)) as u32,
        ];
        block.shared.reset();
        block.written.block = u32::try_from(n + 1).map_err(|e| e.to_string())?;
        (block.epoch, block.any) = (0, false);
        for warp in &mut warps {
            warp.begin(kernel, launch.block, launch.grid, at);
        }
        run(&mut block, &mut warps, descending).map_err(|e| format!("{e}, block {at:?}"))?;
    }
    Ok(block.counters.unwrap_or(Counters {
        warp_instructions: launch.budget - block.budget,
        ..Counters::default()
    }))
}

fn run(block: &mut Block<'_>, warps: &mut [Warp], descending: bool) -> Result<()> {
    loop {
        let mut moved = false;
        for w in 0..warps.len() {
            let w = if descending { warps.len() - 1 - w } else { w };
            if warps[w].status == Status::Waiting {
                warps[w].retry();
            }
            if warps[w].status == Status::Running {
                warps[w].run(block)?;
                moved |= warps[w].status != Status::Waiting;
            }
        }
        if warps.iter().any(|w| w.status == Status::Waiting) {
            if !moved && !block.has_moved() {
                go_on(block, warps)?;
            }
            continue;
        }
        let first = warps[0].status;
        // A barrier is one, wherever in the code its warps come to it.
        let same = |other: Status| match (first, other) {
            (Status::Barrier(a), Status::Barrier(b)) => {
                block.kernel.code[a].op == block.kernel.code[b].op
            }
            _ => first == other,
        };
        if let Some(other) = warps.iter().find(|w| !same(w.status)) {
            return Err(format!(
                "{}: warps part at a barrier: {first:?} and {:?}",
                block.kernel.name, other.status
            ));
        }
        if first == Status::Done {
            block.all_came()?;
            return Warp::ran_the_same(warps, block.kernel);
        }
        for warp in &mut *warps {
            warp.release(block.kernel, block.any);
        }
        block.shared.block_meets();
        block.epoch += 1;
        block.any = false;
    }
}

/// All warps wait, and nothing has changed since they asked: a copy that one of them waits for comes, the youngest first.
fn go_on(block: &mut Block<'_>, warps: &[Warp]) -> Result<()> {
    let waiting = || warps.iter().filter(|w| w.status == Status::Waiting);
    let asked: Vec<usize> = waiting()
        .flat_map(|w| w.asked.iter().map(|asked| asked.barrier))
        .collect();
    if block.land_youngest(&asked)? {
        return Ok(());
    }
    let mut all = Vec::new();
    for (number, warp) in warps.iter().enumerate() {
        if let Status::Barrier(pc) = warp.status {
            let at = place(block.kernel, pc);
            all.push(format!("warp {number} at the barrier of {at}"));
        }
        let asked = warp.asked.iter().map(|asked| block.lacking(*asked));
        all.extend(asked.map(|what| format!("warp {number} {what}")));
    }
    Err(format!("nobody can go on: {}", all.join("; ")))
}
