//! The system's allocator, counted, which can be told to refuse a call.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// Whether calls of any thread count now.
static COUNTS: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are allocated.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Where the first call that counted came from.
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

thread_local! {
    /// Whether this thread is writing down where a call came from, which allocates.
    static TRACING: Cell<bool> = const { Cell::new(false) };
    /// Calls of this thread up to the one that is refused; 0 refuses none.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    /// Bytes that this thread allocated, less those that it freed.
    static OWN: Cell<isize> = const { Cell::new(0) };
}

/// Whether a refused call says where it came from.
static TELLS: AtomicBool = AtomicBool::new(false);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    if !COUNTS.load(SeqCst) || TRACING.get() {
        return;
    }
    if CALLS.fetch_add(1, SeqCst) == 0 {
        TRACING.set(true);
        let place = Backtrace::force_capture();
        *FIRST.lock().unwrap() = Some(place);
        TRACING.set(false);
    }
}

/// Whether this call is the one that is refused.
fn refused() -> bool {
    if TRACING.get() {
        return false;
    }
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    if left == 1 && TELLS.load(SeqCst) {
        TRACING.set(true);
        let place = Backtrace::force_capture();
        let _ = writeln!(std::io::stderr(), "{place}");
        TRACING.set(false);
    }
    left == 1
}

/// Keeps account of what a call gave and took.
fn account(given: usize, taken: usize) {
    LIVE.fetch_add(given, SeqCst);
    LIVE.fetch_sub(taken, SeqCst);
    // A thread that ends frees what its locals held.
    let _ = OWN.try_with(|own| own.set(own.get() + given.cast_signed() - taken.cast_signed()));
}

// SAFETY: every call goes to the system's allocator, or gives a null pointer, which says that there is no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refused() {
            return std::ptr::null_mut();
        }
        count();
        account(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if refused() {
            return std::ptr::null_mut();
        }
        count();
        account(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count();
        account(0, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if refused() {
            return std::ptr::null_mut();
        }
        count();
        account(size, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Calls of the allocator, of all kinds and threads.
#[derive(Debug)]
pub struct Count {
    pub calls: usize,
    /// Where the first one came from: the crate's own functions.
    pub first: String,
}

/// Bytes that are allocated now, by any thread. What the system could not give counts, too, but ends the test anyway.
pub fn live() -> usize {
    LIVE.load(SeqCst)
}

/// Bytes that this thread allocated and has not freed: other threads, the test harness's among them, change nothing.
pub fn own() -> isize {
    OWN.get()
}

/// Calls `f` while the `n`th call that this thread makes of the allocator is refused, and says whether it made so many.
pub fn refusing<T>(n: usize, f: impl FnOnce() -> T) -> (T, bool) {
    LEFT.set(n);
    let result = f();
    (result, LEFT.replace(0) == 0)
}

/// Makes refused calls say where they come from.
pub fn tell() {
    TELLS.store(true, SeqCst);
}

/// Begins to count, unless it is being done already.
pub fn begin() {
    if !COUNTS.load(SeqCst) {
        CALLS.store(0, SeqCst);
        COUNTS.store(true, SeqCst);
    }
}

/// Ends counting.
pub fn end() -> Count {
    COUNTS.store(false, SeqCst);
    let place = FIRST.lock().unwrap().take();
    let place = place.map_or(String::new(), |place| place.to_string());
    let own = |line: &&str| line.contains("maquette") || line.contains("at ./");
    Count {
        calls: CALLS.load(SeqCst),
        first: place.lines().filter(own).collect::<Vec<_>>().join("\n"),
    }
}
