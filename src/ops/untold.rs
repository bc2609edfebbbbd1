//! Nobody counts multiply-adds where threads cannot be told apart: what [`tally`](super) is without std.

/// Counts nothing.
pub(crate) const fn add(_n: u64) {}

/// Unknown.
pub(crate) const fn done() -> Option<u64> {
    None
}
