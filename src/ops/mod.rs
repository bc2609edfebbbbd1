//! The numbers: one plain struct a shape, one reference loop an operation, one trait that a device implements.
//!
//! An operation `x` lives in `ops/x.rs`: its shape, the shape's one `check`, and the shortest correct loop. A device
//! (`cpu/x.rs`) takes the same shape and calls the same check. Weights and rows are laid out outermost first. Within
//! one product every row has the same bits whatever the number of rows: a sum over `k` runs in blocks of
//! [`gemm::SUM_BLOCK`], each block from zero upwards, block after block.

pub mod attention;
#[cfg(feature = "align")]
pub mod backward;
pub mod conv;
pub mod gemm;
pub mod norm;
#[cfg(feature = "alloc")]
mod reference;
pub mod reward_head;
pub mod sample;
#[cfg(feature = "std")]
pub(crate) mod tally;
#[cfg(all(feature = "alloc", not(feature = "std")))]
#[path = "untold.rs"]
pub(crate) mod tally;
pub mod vq;

/// A product of sizes as a count.
fn counted(sizes: &[usize]) -> u64 {
    sizes
        .iter()
        .fold(1, |n: u64, &size| n.saturating_mul(size as u64))
}

#[cfg(feature = "alloc")]
pub(crate) use backend::Sealed;
#[cfg(feature = "alloc")]
pub use backend::{Backend, HeadNorms, KvPair, Turn};
#[cfg(feature = "align")]
pub use backward::Backward;
#[cfg(feature = "alloc")]
pub use reference::{HostBuffer, HostMatrix, Reference};

#[cfg(feature = "alloc")]
mod backend;

/// What a buffer can hold.
pub trait Element: bytemuck::Pod + Default + Send + Sync + core::fmt::Debug {}

impl Element for f32 {}
impl Element for u32 {}
impl Element for u8 {}
