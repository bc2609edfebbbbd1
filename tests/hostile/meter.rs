//! Memory and time of one call.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// Bytes that this thread holds, and the most it held since the last reset. Tests run beside each other.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted. It refuses what no reader may ask for, so that a mistake does not take the machine
/// down with it.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Most bytes that a thread gets.
const REFUSED: isize = 2 << 30;

fn grow(bytes: usize) -> bool {
    let held = HELD.get().saturating_add_unsigned(bytes);
    if held > REFUSED {
        return false;
    }
    HELD.set(held);
    MOST.set(MOST.get().max(held));
    true
}

fn shrink(bytes: usize) {
    HELD.set(HELD.get().saturating_sub_unsigned(bytes));
}

// SAFETY: every call goes to the system's allocator, or gives a null pointer, which says that there is no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !grow(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !grow(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new block may stand beside each other.
        if !grow(size) {
            return std::ptr::null_mut();
        }
        shrink(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Runs a call: what it gives, the most bytes it held beside those that were there, and how long it took.
pub fn measured<T>(call: impl FnOnce() -> T) -> (T, usize, Duration) {
    let held = HELD.get();
    MOST.set(held);
    let start = Instant::now();
    let result = call();
    let time = start.elapsed();
    let most = usize::try_from(MOST.get() - held).unwrap_or(0);
    (result, most, time)
}
