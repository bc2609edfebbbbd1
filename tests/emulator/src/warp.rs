//! One warp: 32 lanes that run one instruction after the other, as long as they stand at the same one.

mod access;
mod bulk;
mod copies;
mod matrices;
mod numbers;
mod products;
mod shuffle;
mod step;

use crate::Result;
use crate::counters::Counters;
use crate::memory::Memory;
use crate::program::{ALWAYS, Hopper, Kernel, Op, Special};
use crate::shared::Shared;
use crate::written::Written;

/// What a group of lanes waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// Other lanes of the warp.
    Lanes,
    Barrier,
    /// A phase that was not over when it was asked for: other warps are to run before it is asked for again.
    Phase,
}

/// Lanes that stand at the same instruction.
#[derive(Debug, Clone, Copy)]
struct Group {
    pc: usize,
    mask: u32,
    wait: Wait,
}

/// Where a warp has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Running,
    /// At the barrier at this instruction.
    Barrier(usize),
    /// It asked for phases that are not over.
    Waiting,
    Done,
}

/// A phase of a barrier that counts, and where a warp asked for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) pc: usize,
    pub(crate) barrier: usize,
    pub(crate) parity: u32,
}

/// Registers and whereabouts of a warp.
#[derive(Debug)]
pub(crate) struct Warp {
    words: Vec<[u32; 32]>,
    longs: Vec<[u64; 32]>,
    preds: Vec<u32>,
    groups: Vec<Group>,
    index: u16,
    /// Lanes that began, and those that have not left.
    begun: u32,
    live: u32,
    /// Warp barriers that lie behind.
    epoch: u32,
    /// Copies that have not landed, and the groups that each lane has committed.
    copies: Vec<copies::Copy>,
    committed: [u32; 32],
    products: products::Products,
    /// What it waits for as [`Status::Waiting`].
    pub(crate) asked: Vec<Asked>,
    pub(crate) status: Status,
}

/// What a block's warps share.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) memory: &'a Memory,
    pub(crate) params: &'a [u8],
    pub(crate) shared: Shared,
    /// What this launch has written of the memory.
    pub(crate) written: Written,
    /// Barriers that lie behind.
    pub(crate) epoch: u32,
    /// Whether a thread brought a true predicate to the barrier.
    pub(crate) any: bool,
    /// Instructions that may still run.
    pub(crate) budget: u64,
    /// The allocation of the last access.
    pub(crate) hit: usize,
    /// Bytes of asynchronous copies that have not landed.
    pub(crate) flight: usize,
    /// What is counted, if it is.
    pub(crate) counters: Option<Counters>,
}

/// Takes the lanes of `mask` from `new`.
#[inline(always)]
fn put<T: Copy>(old: &mut [T; 32], new: [T; 32], mask: u32) {
    if mask == u32::MAX {
        *old = new;
    } else {
        for l in 0..32 {
            if mask >> l & 1 == 1 {
                old[l] = new[l];
            }
        }
    }
}

impl Warp {
    pub(crate) fn new(kernel: &Kernel, index: u16) -> Self {
        let [preds, words, longs] = kernel.registers;
        let mut warp = Self {
            words: vec![[u32::MAX; 32]; words],
            longs: vec![[u64::MAX; 32]; longs],
            preds: vec![0; preds],
            groups: Vec::with_capacity(32),
            index,
            begun: 0,
            live: 0,
            epoch: 0,
            copies: Vec::new(),
            committed: [0; 32],
            products: products::Products::new(kernel),
            asked: Vec::new(),
            status: Status::Running,
        };
        for &(register, value) in &kernel.constants32 {
            warp.words[register as usize] = [value; 32];
        }
        for &(register, value) in &kernel.constants64 {
            warp.longs[register as usize] = [value; 32];
        }
        warp
    }

    /// Puts the warp at a block's beginning.
    pub(crate) fn begin(&mut self, kernel: &Kernel, block: [u32; 3], grid: [u32; 3], at: [u32; 3]) {
        let threads = block[0] * block[1] * block[2];
        let first = u32::from(self.index) * 32;
        let count = (threads - first).min(32);
        self.begun = if count == 32 {
            u32::MAX
        } else {
            (1 << count) - 1
        };
        self.live = self.begun;
        self.epoch = 0;
        self.copies.clear();
        self.committed = [0; 32];
        self.products.begin();
        self.asked.clear();
        self.status = Status::Running;
        self.groups.clear();
        self.groups.push(Group {
            pc: 0,
            mask: self.begun,
            wait: Wait::Nothing,
        });
        for &(register, special) in &kernel.specials {
            for l in 0..32 {
                let t = first + l;
                let tid = [
                    t % block[0],
                    t / block[0] % block[1],
                    t / (block[0] * block[1]),
                ];
                self.words[register as usize][l as usize] = match special {
                    Special::Tid(axis) => tid[axis],
                    Special::Ntid(axis) => block[axis],
                    Special::Ctaid(axis) => at[axis],
                    Special::Nctaid(axis) => grid[axis],
                    Special::Lane => l,
                };
            }
        }
    }

    /// Lets the warp go on behind a barrier.
    pub(crate) fn release(&mut self, kernel: &Kernel, any: bool) {
        for group in &mut self.groups {
            let inst = &kernel.code[group.pc];
            if inst.op == Op::BarrierOr {
                self.preds[inst.d as usize] = if any { u32::MAX } else { 0 };
            }
            group.pc += 1;
            group.wait = Wait::Nothing;
        }
        self.status = Status::Running;
    }

    /// Lets the warp ask for its phases again.
    pub(crate) fn retry(&mut self) {
        let waiting = |group: &&mut Group| group.wait == Wait::Phase;
        for group in self.groups.iter_mut().filter(waiting) {
            group.wait = Wait::Nothing;
        }
        self.asked.clear();
        self.status = Status::Running;
    }

    /// Runs to the next barrier, to a phase that is not over, or to the end.
    pub(crate) fn run(&mut self, block: &mut Block<'_>) -> Result<()> {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the machine has these instructions.
                return unsafe { self.run_avx2(block) };
            }
        }
        self.run_here(block)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&mut self, block: &mut Block<'_>) -> Result<()> {
        self.run_here(block)
    }

    #[inline(always)]
    fn run_here(&mut self, block: &mut Block<'_>) -> Result<()> {
        loop {
            // Lanes that stand at the same instruction go on together.
            if self.groups.len() > 1 {
                self.groups.sort_unstable_by_key(|g| g.pc);
                self.groups.dedup_by(|other, first| {
                    let same = other.pc == first.pc;
                    if same {
                        first.mask |= other.mask;
                        first.wait = Wait::Nothing;
                    }
                    same
                });
            }
            let Some(at) = self.groups.iter().position(|g| g.wait == Wait::Nothing) else {
                return self.stop(block);
            };
            // The lowest instruction first, up to where the next group stands: that brings them together again.
            let limit = self.groups.get(at + 1).map_or(usize::MAX, |g| g.pc);
            self.run_group(at, limit, block)?;
        }
    }

    /// No lane can go on: all have left, all are at one barrier, or something is wrong.
    fn stop(&mut self, block: &Block<'_>) -> Result<()> {
        match self.groups[..] {
            [] => self.status = Status::Done,
            _ if self.groups.iter().any(|g| g.wait == Wait::Phase) => {
                self.status = Status::Waiting;
            }
            [group] if group.wait == Wait::Barrier => {
                if self.live != self.begun {
                    return Err(format!(
                        "{}: a barrier that threads which have left never reach",
                        place(block.kernel, group.pc)
                    ));
                }
                self.status = Status::Barrier(group.pc);
            }
            [group, ..] => {
                let what = if self.groups.iter().all(|g| g.wait == Wait::Barrier) {
                    "threads of a warp meet in different barriers"
                } else {
                    "lanes never come to a warp's operation"
                };
                return Err(format!("{}: {what}", place(block.kernel, group.pc)));
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn run_group(&mut self, at: usize, limit: usize, block: &mut Block<'_>) -> Result<()> {
        let kernel = block.kernel;
        let Group { mut pc, mask, .. } = self.groups[at];
        loop {
            if pc >= limit {
                self.groups[at].pc = pc;
                return Ok(());
            }
            let i = &kernel.code[pc];
            let m = if i.guard == ALWAYS {
                mask
            } else {
                let p = self.preds[i.guard as usize];
                mask & if i.negated { !p } else { p }
            };
            block.budget = block
                .budget
                .checked_sub(1)
                .ok_or_else(|| format!("{}: runs without an end", place(kernel, pc)))?;
            if let Some(counters) = &mut block.counters {
                counters.warp_instructions += 1;
                counters.lane_instructions += u64::from(m.count_ones());
            }
            if !kernel.touches.is_empty() && m != 0 {
                self.touch(kernel, pc)
                    .map_err(|e| format!("{}: {e}", place(kernel, pc)))?;
            }
            match i.op {
                Op::Branch => {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "the decoder put an index of the code there"
                    )]
                    let target = i.extra as usize;
                    if m == mask {
                        pc = target;
                        if self.groups.len() > 1 {
                            self.groups[at].pc = pc;
                            return Ok(());
                        }
                        continue;
                    }
                    if m != 0 {
                        self.groups[at] = Group {
                            pc: pc + 1,
                            mask: mask & !m,
                            wait: Wait::Nothing,
                        };
                        self.groups.push(Group {
                            pc: target,
                            mask: m,
                            wait: Wait::Nothing,
                        });
                        return Ok(());
                    }
                }
                Op::Exit => {
                    self.may_leave(m)
                        .map_err(|e| format!("{}: {e}", place(kernel, pc)))?;
                    self.live &= !m;
                    if m == mask {
                        self.groups.remove(at);
                        return Ok(());
                    }
                    self.groups[at] = Group {
                        pc: pc + 1,
                        mask: mask & !m,
                        wait: Wait::Nothing,
                    };
                    return Ok(());
                }
                Op::Barrier | Op::BarrierOr => {
                    if m != mask {
                        return Err(format!("{}: a barrier for some lanes", place(kernel, pc)));
                    }
                    if i.op == Op::BarrierOr {
                        block.any |= self.preds[i.a as usize] & m != 0;
                    }
                    self.groups[at] = Group {
                        pc,
                        mask,
                        wait: Wait::Barrier,
                    };
                    return Ok(());
                }
                Op::WarpBarrier
                | Op::Shuffle(_)
                | Op::Ballot
                | Op::LoadMatrix(..)
                | Op::MultiplyS8
                | Op::MultiplyBf16
                | Op::Hopper(
                    Hopper::Registers
                    | Hopper::Fence
                    | Hopper::Product(_)
                    | Hopper::Commit
                    | Hopper::Wait,
                ) if m != 0 => {
                    let members = match i.op {
                        Op::WarpBarrier => Some(i.a),
                        Op::Ballot => Some(i.b),
                        Op::Shuffle(_) => Some(kernel.vectors[i.extra as usize][1]),
                        _ => None,
                    };
                    let members = members.map_or(u32::MAX, |register| {
                        self.words[register as usize][m.trailing_zeros() as usize]
                    });
                    if members & m != m || members & self.begun & !self.live != 0 || m != mask {
                        return Err(format!(
                            "{}: lanes {m:#x} of {members:#x} at a warp's operation, {:#x} are left",
                            place(kernel, pc),
                            self.live
                        ));
                    }
                    if members & self.begun & !m != 0 {
                        self.groups[at] = Group {
                            pc,
                            mask,
                            wait: Wait::Lanes,
                        };
                        return Ok(());
                    }
                    match i.op {
                        Op::Shuffle(mode) => self
                            .shuffle(kernel, i, m, mode)
                            .map_err(|e| format!("{}: {e}", place(kernel, pc)))?,
                        Op::WarpBarrier => {
                            self.epoch += 1;
                            block.shared.lanes_meet(self.index, m);
                        }
                        Op::Ballot => {
                            let votes = self.preds[i.a as usize] & m;
                            put(&mut self.words[i.d as usize], [votes; 32], m);
                        }
                        _ if m != u32::MAX => {
                            return Err(format!(
                                "{}: lanes {m:#x} alone have no matrices",
                                place(kernel, pc)
                            ));
                        }
                        Op::LoadMatrix(count, turned) => self
                            .load_matrix(i, (count, turned), block)
                            .map_err(|e| format!("{}: {e}", place(kernel, pc)))?,
                        Op::MultiplyBf16 => self.multiply_halves(i, kernel),
                        Op::Hopper(op) => self
                            .group_operation(op, pc, block)
                            .map_err(|e| format!("{}: {e}", place(kernel, pc)))?,
                        _ => self.multiply(i, kernel),
                    }
                }
                _ if m == 0 => {}
                Op::Hopper(op) => {
                    let over = self
                        .counted(op, m, pc, block)
                        .map_err(|e| format!("{}: {e}", place(kernel, pc)))?;
                    if !over {
                        self.groups[at] = Group {
                            pc: pc + 1,
                            mask,
                            wait: Wait::Phase,
                        };
                        return Ok(());
                    }
                }
                _ => self
                    .step(i, m, block)
                    .map_err(|e| format!("{}: {e}", place(kernel, pc)))?,
            }
            pc += 1;
        }
    }
}

/// Where an instruction stands in the file.
pub(crate) fn place(kernel: &Kernel, pc: usize) -> String {
    format!("{} line {}", kernel.name, kernel.lines[pc])
}
