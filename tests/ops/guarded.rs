//! An allocator that sets every block of a guarded call against a page that nobody may touch, and gives no address
//! twice: a read or write past the end, or of what was freed, kills the process.

#![expect(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Address space for guarded blocks, without memory until they are made.
const SPACE: usize = 1 << 38;

static BASE: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call whose blocks are guarded: those that this thread allocates, which all threads of a device then use.
pub fn guarded<T>(call: impl FnOnce() -> T) -> T {
    let before = GUARDED.replace(true);
    let result = call();
    GUARDED.set(before);
    result
}

fn page() -> usize {
    // SAFETY: it reads a constant of the system.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn map(at: *mut libc::c_void, len: usize, flags: libc::c_int) -> Option<usize> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE;
    // SAFETY: without MAP_FIXED it takes addresses that nobody uses; with it, those of a block that was freed.
    let at = unsafe { libc::mmap(at, len, libc::PROT_NONE, flags, -1, 0) };
    (at != libc::MAP_FAILED).then_some(at.addr())
}

/// First address of the space.
fn base() -> Option<usize> {
    if BASE.load(Relaxed) == 0 {
        let space = map(ptr::null_mut(), SPACE, 0)?;
        // Another thread may have been faster; its space is the one.
        let _ = BASE.compare_exchange(0, space, Relaxed, Relaxed);
    }
    Some(BASE.load(Relaxed))
}

/// A block whose end, but for its alignment, is the end of its last page.
fn block(layout: Layout) -> Option<*mut u8> {
    let page = page();
    let room = layout.size().next_multiple_of(page);
    let start = USED.fetch_add(room + page, Relaxed);
    if start + room + page > SPACE {
        return None;
    }
    let first = ptr::with_exposed_provenance_mut::<libc::c_void>(base()? + start);
    // SAFETY: the pages lie in the space, and no other block has them.
    if unsafe { libc::mprotect(first, room, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        return None;
    }
    let at = (first.addr() + room - layout.size()) / layout.align() * layout.align();
    Some(first.with_addr(at).cast())
}

fn free(at: *mut u8, layout: Layout) {
    let page = page();
    let first = at.addr() / page * page;
    let len = (at.addr() + layout.size()).next_multiple_of(page) - first;
    // The memory goes back, the addresses stay taken.
    map(at.with_addr(first).cast(), len, libc::MAP_FIXED);
}

fn is_guarded(at: *mut u8) -> bool {
    let base = BASE.load(Relaxed);
    base != 0 && (base..base + SPACE).contains(&at.addr())
}

struct Guarding;

#[global_allocator]
static GUARDING: Guarding = Guarding;

// SAFETY: a block is the system's, or pages of its own; `dealloc` tells them apart by their address. A block that
// cannot be had is a null pointer. `realloc` and `alloc_zeroed` are those of the trait, over these two.
unsafe impl GlobalAlloc for Guarding {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if GUARDED.get() {
            return block(layout).unwrap_or_default();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_guarded(at) {
            return free(at, layout);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}
