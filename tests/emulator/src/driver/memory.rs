//! Entry points for memory: allocations, copies, fillings.

use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{OUT_OF_MEMORY, set};
use crate::graphs::{Node, given_back, recorded, records, refused};
use crate::state::{
    FAIL_AFTER, INVALID_VALUE, LIMIT, LIVE, LIVE_BYTES, SUCCESS, allocated, freed, memory, ready,
    sticky,
};

const POOL_USED: c_int = 7;

/// One side of a copy of rows, as the driver lays it out.
#[repr(C)]
pub struct Side {
    x: usize,
    y: usize,
    kind: c_uint,
    host: usize,
    device: u64,
    array: usize,
    pitch: usize,
}

/// A copy of rows.
#[repr(C)]
pub struct Copy2d {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
}

/// The device's memory, as a side's kind.
const DEVICE_MEMORY: c_uint = 2;

/// What a copy gives back: a bad address is as final as on a device.
fn copied(result: crate::Result<()>) -> c_uint {
    match result {
        Ok(()) => sticky(),
        Err(error) => {
            eprintln!("emulator: a copy: {error}");
            INVALID_VALUE
        }
    }
}

/// The entry points; they are found by name.
pub mod entry {
    use super::*;

    fn allocate(out: *mut u64, bytes: usize) -> c_uint {
        if ready() != SUCCESS {
            return ready();
        }
        if bytes == 0 {
            return INVALID_VALUE;
        }
        let left = FAIL_AFTER.get();
        if left == 0 {
            return OUT_OF_MEMORY;
        }
        if left != u64::MAX {
            FAIL_AFTER.set(left - 1);
        }
        let mut memory = allocated();
        let free = LIMIT.load(Ordering::Relaxed).saturating_sub(memory.bytes());
        if bytes > free {
            return OUT_OF_MEMORY;
        }
        match Arc::make_mut(&mut memory).allocate(bytes) {
            Some(at) => {
                LIVE.set(LIVE.get() + 1);
                LIVE_BYTES.set(LIVE_BYTES.get() + bytes);
                set(out, at)
            }
            None => OUT_OF_MEMORY,
        }
    }

    fn free(at: u64) -> c_uint {
        freed(Arc::make_mut(&mut allocated()).take_back(at))
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemAlloc_v2(out: *mut u64, bytes: usize) -> c_uint {
        allocate(out, bytes)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemAllocAsync(out: *mut u64, bytes: usize, stream: usize) -> c_uint {
        let status = allocate(out, bytes);
        if status == SUCCESS && records(stream) {
            // SAFETY: an allocation that succeeded has written its address.
            let at = unsafe { out.read() };
            return recorded(stream, Node::Take { at }).unwrap_or(INVALID_VALUE);
        }
        status
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemFree_v2(at: u64) -> c_uint {
        free(at)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemFreeAsync(at: u64, stream: usize) -> c_uint {
        if records(stream) {
            return given_back(stream, at);
        }
        free(at)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_uint {
        let all = LIMIT.load(Ordering::Relaxed);
        set(free, all.saturating_sub(memory().bytes()));
        set(total, all)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDeviceGetDefaultMemPool(out: *mut usize, _device: c_int) -> c_uint {
        set(out, 1)
    }

    /// The bytes that are allocated now, under the one number that is asked for.
    #[unsafe(no_mangle)]
    extern "C" fn cuMemPoolGetAttribute(_pool: usize, which: c_int, out: *mut u64) -> c_uint {
        match which {
            POOL_USED => set(out, memory().bytes() as u64),
            _ => INVALID_VALUE,
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemcpyHtoDAsync_v2(
        to: u64,
        from: *const u8,
        bytes: usize,
        stream: usize,
    ) -> c_uint {
        if ready() != SUCCESS {
            return ready();
        }
        // The host's memory may be gone when a graph is launched.
        if let Some(status) = refused(stream) {
            return status;
        }
        if bytes == 0 {
            return sticky();
        }
        // SAFETY: the caller has `bytes` bytes there.
        let from = unsafe { std::slice::from_raw_parts(from, bytes) };
        copied(memory().write(to, from))
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemcpyDtoHAsync_v2(
        to: *mut u8,
        from: u64,
        bytes: usize,
        stream: usize,
    ) -> c_uint {
        if ready() != SUCCESS {
            return ready();
        }
        // The host's memory may be gone when a graph is launched.
        if let Some(status) = refused(stream) {
            return status;
        }
        if bytes == 0 {
            return sticky();
        }
        // SAFETY: the caller has `bytes` bytes there.
        let to = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
        copied(memory().read(from, to))
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> c_uint {
        if ready() != SUCCESS {
            return ready();
        }
        match recorded(stream, Node::Copy { to, from, bytes }) {
            Ok(status) => status,
            Err(_) => copied(memory().copy(from, to, bytes)),
        }
    }

    /// Rows at a distance, between places of the device alone.
    #[unsafe(no_mangle)]
    extern "C" fn cuMemcpy2DAsync_v2(copy: *const Copy2d, stream: usize) -> c_uint {
        // SAFETY: the caller gives the address of a description.
        let copy = unsafe { &*copy };
        let [from, to] = [&copy.from, &copy.to];
        let fits = |side: &Side| side.kind == DEVICE_MEMORY && side.pitch >= copy.width;
        if !(fits(from) && fits(to)) {
            return INVALID_VALUE;
        }
        let place =
            |side: &Side, row: usize| side.device + ((side.y + row) * side.pitch + side.x) as u64;
        let rows = (0..copy.height)
            .map(|row| cuMemcpyDtoDAsync_v2(place(to, row), place(from, row), copy.width, stream));
        rows.fold(SUCCESS, |all, row| if all == SUCCESS { row } else { all })
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuMemsetD8Async(at: u64, byte: u8, bytes: usize, stream: usize) -> c_uint {
        if ready() != SUCCESS {
            return ready();
        }
        match recorded(stream, Node::Fill { at, byte, bytes }) {
            Ok(status) => status,
            Err(_) => copied(memory().fill(at, byte, bytes)),
        }
    }
}
