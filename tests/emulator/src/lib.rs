//! A stand-in for the NVIDIA driver, for tests on machines without a GPU: the driver's entry points, and an
//! interpreter of PTX behind them.
//!
//! Beside results it checks what a GPU would pass over in silence: every access against the live allocations and its
//! alignment, memory that was never written, threads that race in shared memory or in device memory, barriers that not
//! all threads reach, lanes that never come to a shuffle. A block's warps and a grid's blocks run in ascending or in
//! descending order; what happens beside the instructions (copies and products of compute capability 9.0) happens late
//! in the one and early in the other.
#![expect(
    clippy::needless_range_loop,
    reason = "a lane is an index into several registers"
)]

mod counters;
mod decode;
mod driver;
mod graphs;
mod launch;
mod memory;
mod mutate;
mod parse;
mod program;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod warp;
mod written;

pub use counters::Counters;
pub use driver::entry;
pub use driver::memory::entry as memory_entry;
pub use graphs::entry as graph_entry;
pub use launch::{Launch, Order, launch};
pub use memory::Memory;
pub use mutate::{Mutant, changed, mutants};
pub use program::{Kernel, Module};

/// What the interpreter has to say against a module or a launch.
pub type Result<T> = std::result::Result<T, String>;
