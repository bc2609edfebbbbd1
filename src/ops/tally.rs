//! How many multiply-adds a thread has asked of devices that count.

use core::cell::Cell;

std::thread_local! {
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// Counts so many.
pub(crate) fn add(n: u64) {
    DONE.set(DONE.get().wrapping_add(n));
}

/// How many this thread has counted since it began.
pub(crate) fn done() -> Option<u64> {
    Some(DONE.get())
}
