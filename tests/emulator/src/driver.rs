//! The driver's entry points, as a program finds them in `libcuda.so`. Everything runs at once on the calling thread.

pub(crate) mod memory;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::graphs::{Node, recorded, refused};
use crate::state::{
    CAPABILITY, CONTEXT, COUNTERS, FAIL_AFTER, Function, INVALID_VALUE, LAUNCH_FAILED, LIMIT, LIVE,
    LIVE_BYTES, MODULES, ORDER, PROCESSORS, REPORTED, SUCCESS, WAITS, Work, planted, ready, run,
    sticky,
};
use crate::{Counters, Module, Order};

const OUT_OF_MEMORY: c_uint = 2;
const NO_BINARY: c_uint = 209;
const INVALID_PTX: c_uint = 218;
const NOT_FOUND: c_uint = 500;

/// Shared memory of a block that needs no asking.
const SHARED_BYTES: usize = 48 << 10;
const STATIC_SHARED: c_int = 1;
const DYNAMIC_SHARED: c_int = 8;

/// Shared memory that a block of this thread's GPU may ask for.
fn most_shared() -> usize {
    let kilobytes = match CAPABILITY.get() {
        80 => 163,
        90..120 => 227,
        _ => 99,
    };
    kilobytes << 10
}

/// The host stands still until the device has done everything.
fn waited() -> c_uint {
    WAITS.set(WAITS.get() + 1);
    sticky()
}

/// Writes what was asked for.
fn set<T>(out: *mut T, value: T) -> c_uint {
    if out.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the driver's interface asks callers for a place to write to.
    unsafe { out.write(value) };
    SUCCESS
}

/// The entry points; they are found by name.
pub mod entry {
    use super::*;

    /// Which of a grid's blocks and a block's warps run first in this thread's launches: 0 the first, 1 the last.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_set_order(order: c_uint) {
        ORDER.set(if order == 0 {
            Order::Ascending
        } else {
            Order::Descending
        });
    }

    /// Lets this thread's allocations fail after so many that succeed.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_fail_allocations_after(count: u64) {
        FAIL_AFTER.set(count);
    }

    /// Counts this thread's launches from now on.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_count() {
        COUNTERS.set(Some(Counters::default()));
    }

    /// Ends the counting and writes what was counted.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_counted(out: *mut Counters) {
        set(out, COUNTERS.take().unwrap_or_default());
    }

    /// The compute capability, times ten, and the driver's version that this thread is told.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_report(capability: c_int, version: c_int) {
        CAPABILITY.set(capability);
        REPORTED.set(version);
    }

    /// The number of multiprocessors that this thread is told.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_processors(count: c_int) {
        PROCESSORS.set(count);
    }

    /// How often this thread has waited for the device so far.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_waits() -> u64 {
        WAITS.get()
    }

    /// Allocations of this thread that are alive, where it frees what it allocates.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_allocations() -> usize {
        LIVE.get()
    }

    /// Bytes of this thread's allocations that are alive.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_allocated_bytes() -> usize {
        LIVE_BYTES.get()
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuInit(_flags: c_uint) -> c_uint {
        SUCCESS
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDriverGetVersion(out: *mut c_int) -> c_uint {
        set(out, REPORTED.get())
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDeviceGetCount(out: *mut c_int) -> c_uint {
        set(out, 1)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDeviceGet(out: *mut c_int, ordinal: c_int) -> c_uint {
        // CUDA_ERROR_INVALID_DEVICE
        if ordinal == 0 { set(out, 0) } else { 101 }
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDeviceGetName(out: *mut c_char, len: c_int, _device: c_int) -> c_uint {
        let name = c"PTX interpreter".to_bytes_with_nul();
        let len = usize::try_from(len).unwrap_or(0).min(name.len());
        // SAFETY: the caller has `len` bytes there.
        unsafe { std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, len) };
        SUCCESS
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDeviceGetAttribute(out: *mut c_int, which: c_int, _device: c_int) -> c_uint {
        let capability = CAPABILITY.get();
        set(
            out,
            match which {
                1 => 1024,     // threads of a block
                8 => 48 << 10, // shared memory of a block
                10 => 32,      // lanes of a warp
                16 => PROCESSORS.get(),
                75 => capability / 10, // compute capability
                76 => capability % 10,
                // Of all blocks of a multiprocessor one kilobyte more than of one.
                81 => c_int::try_from(most_shared() + 1024).unwrap_or(0),
                97 => c_int::try_from(most_shared()).unwrap_or(0),
                115 => 1, // memory pools
                _ => 0,
            },
        )
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDeviceTotalMem_v2(out: *mut usize, _device: c_int) -> c_uint {
        set(out, LIMIT.load(Ordering::Relaxed))
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDevicePrimaryCtxRetain(out: *mut usize, _device: c_int) -> c_uint {
        set(out, 1)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> c_uint {
        SUCCESS
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuCtxSetCurrent(context: usize) -> c_uint {
        CONTEXT.set(context);
        SUCCESS
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuCtxGetCurrent(out: *mut usize) -> c_uint {
        set(out, CONTEXT.get())
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuCtxSynchronize() -> c_uint {
        waited()
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuStreamSynchronize(stream: usize) -> c_uint {
        refused(stream).unwrap_or_else(waited)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuStreamWaitEvent(_stream: usize, _event: usize, _flags: c_uint) -> c_uint {
        SUCCESS
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuEventCreate(out: *mut usize, _flags: c_uint) -> c_uint {
        set(out, 1)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuEventRecord(_event: usize, _stream: usize) -> c_uint {
        sticky()
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuEventSynchronize(_event: usize) -> c_uint {
        waited()
    }

    /// There is no clock: nothing takes any time.
    #[unsafe(no_mangle)]
    extern "C" fn cuEventElapsedTime(out: *mut f32, _begin: usize, _end: usize) -> c_uint {
        set(out, 0.0)
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuEventDestroy_v2(_event: usize) -> c_uint {
        SUCCESS
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuModuleLoadData(out: *mut usize, image: *const c_char) -> c_uint {
        // SAFETY: PTX ends with a zero byte.
        let text = unsafe { CStr::from_ptr(image) };
        // What is compiled for one kind of GPU runs on no other, not even on younger ones.
        if CAPABILITY.get() != 90 && text.to_string_lossy().contains("\n.target sm_90a") {
            return NO_BINARY;
        }
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(text.to_bytes()) {
            return set(out, std::ptr::from_ref(*module) as usize);
        }
        match Module::new(&planted(&text.to_string_lossy())) {
            Ok(module) => {
                let module: &'static Module = Box::leak(Box::new(module));
                modules.insert(text.to_bytes().to_vec(), module);
                set(out, std::ptr::from_ref(module) as usize)
            }
            Err(error) => {
                eprintln!("emulator: {error}");
                INVALID_PTX
            }
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuModuleUnload(_module: usize) -> c_uint {
        SUCCESS
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuModuleGetFunction(
        out: *mut usize,
        module: *const Module,
        name: *const c_char,
    ) -> c_uint {
        // SAFETY: `cuModuleLoadData` gave this address, and modules stay.
        let module: &'static Module = unsafe { &*module };
        // SAFETY: names end with a zero byte.
        let name = unsafe { CStr::from_ptr(name) };
        match module.kernels.get(&*name.to_string_lossy()) {
            Some(kernel) => {
                let function = Function {
                    kernel,
                    dynamic: AtomicUsize::new(0),
                };
                set(
                    out,
                    std::ptr::from_ref(Box::leak(Box::new(function))) as usize,
                )
            }
            None => NOT_FOUND,
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuFuncGetAttribute(
        out: *mut c_int,
        which: c_int,
        function: *const Function,
    ) -> c_uint {
        // SAFETY: `cuModuleGetFunction` gave this address, and functions stay.
        let function = unsafe { &*function };
        match (which, c_int::try_from(function.kernel.static_bytes)) {
            (STATIC_SHARED, Ok(bytes)) => set(out, bytes),
            _ => INVALID_VALUE,
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuFuncSetAttribute(
        function: *const Function,
        which: c_int,
        value: c_int,
    ) -> c_uint {
        // SAFETY: `cuModuleGetFunction` gave this address, and functions stay.
        let function = unsafe { &*function };
        match (which, usize::try_from(value)) {
            (DYNAMIC_SHARED, Ok(bytes))
                if function.kernel.static_bytes + bytes <= most_shared() =>
            {
                function.dynamic.store(bytes, Ordering::Relaxed);
                SUCCESS
            }
            _ => INVALID_VALUE,
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuLaunchKernel(
        function: *const Function,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: usize,
        params: *const *const c_void,
        _extra: *const *const c_void,
    ) -> c_uint {
        if ready() != SUCCESS {
            return ready();
        }
        // SAFETY: `cuModuleGetFunction` gave this address, and functions stay.
        let Function { kernel, dynamic } = unsafe { &*function };
        let most = (SHARED_BYTES - kernel.static_bytes.min(SHARED_BYTES))
            .max(dynamic.load(Ordering::Relaxed));
        let too_wide = grid_x >= 1 << 31 || grid_y > 65_535 || grid_z > 65_535 || block_z > 64;
        if shared as usize > most || too_wide {
            eprintln!("emulator: {}: a launch outside the limits", kernel.name);
            return INVALID_VALUE;
        }
        let mut block = vec![0; kernel.param_bytes];
        for (n, &(at, bytes)) in kernel.params.iter().enumerate() {
            // SAFETY: the caller gives the address of every parameter.
            let param = unsafe { *params.add(n) };
            // SAFETY: a parameter has as many bytes as the kernel declares.
            let param = unsafe { std::slice::from_raw_parts(param.cast::<u8>(), bytes) };
            block[at..at + bytes].copy_from_slice(param);
        }
        let work = Work {
            kernel,
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            dynamic: shared as usize,
            params: block,
        };
        match recorded(stream, Node::Launch(work)) {
            Ok(status) => status,
            Err(Node::Launch(work)) => run(&work),
            Err(_) => INVALID_VALUE,
        }
    }

    fn text(code: c_uint) -> &'static CStr {
        match code {
            INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
            OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
            NO_BINARY => c"CUDA_ERROR_NO_BINARY_FOR_GPU",
            INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
            NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
            LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
            _ => c"CUDA_ERROR_UNKNOWN",
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuGetErrorName(code: c_uint, out: *mut *const c_char) -> c_uint {
        set(out, text(code).as_ptr())
    }

    #[unsafe(no_mangle)]
    extern "C" fn cuGetErrorString(code: c_uint, out: *mut *const c_char) -> c_uint {
        set(out, text(code).as_ptr())
    }
}
