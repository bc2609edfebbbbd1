//! The crate without std, in a static library with its own panic handler and allocator, called from C.
#![no_std]

#[cfg(feature = "alloc")]
extern crate alloc;

mod contracts;
#[cfg(feature = "alloc")]
mod picture;
#[cfg(feature = "alloc")]
mod weights;

unsafe extern "C" {
    fn abort() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort takes nothing and never returns.
    unsafe { abort() }
}

#[cfg(feature = "alloc")]
mod heap {
    use core::alloc::{GlobalAlloc, Layout};
    use core::ffi::c_void;

    unsafe extern "C" {
        fn aligned_alloc(align: usize, size: usize) -> *mut c_void;
        fn free(at: *mut c_void);
    }

    struct Heap;

    // SAFETY: aligned_alloc gives memory of the asked size and alignment or null, and free takes it back.
    unsafe impl GlobalAlloc for Heap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let align = layout.align().max(16);
            let size = layout.size().div_ceil(align) * align;
            // SAFETY: the alignment is a power of two of at least 16 and divides the size.
            unsafe { aligned_alloc(align, size).cast() }
        }
        unsafe fn dealloc(&self, at: *mut u8, _: Layout) {
            // SAFETY: `at` came from alloc above.
            unsafe { free(at.cast()) }
        }
    }

    #[global_allocator]
    static HEAP: Heap = Heap;
}
