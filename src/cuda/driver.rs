//! The driver, looked for before its bindings are used: they panic without it, or when it lacks a call.

use alloc::format;
use core::ffi::c_void;

use libloading::Library;

use crate::error::{Error, Foreign, Result};

/// Names under which the driver is found; the bindings try these too.
#[cfg(not(windows))]
const NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];
#[cfg(windows)]
const NAMES: [&str; 1] = ["nvcuda.dll"];

/// The driver of CUDA 12.4, the first that reads the kernels' PTX (8.4).
const OLDEST: u64 = 12_040;

/// Calls that this backend makes through the bindings.
const CALLS: [&str; 46] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceGetDefaultMemPool",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetCurrent",
    "cuCtxSynchronize",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemGetInfo_v2",
    "cuMemPoolGetAttribute",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpy2DAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// The driver, as its bindings find it.
fn library() -> core::result::Result<Library, Option<Foreign>> {
    let mut found = Err(None);
    for name in NAMES {
        // SAFETY: loading the driver runs its initialisers, which is what every program that uses it does.
        match unsafe { Library::new(name) } {
            Ok(library) => return Ok(library),
            Err(error) => found = Err(Some(Foreign::new(error))),
        }
    }
    found
}

/// Milliseconds between two events that have passed. The bindings ask newer drivers for another form of this call, which
/// older ones lack; this one they all have.
pub(super) fn elapsed(begin: *mut c_void, end: *mut c_void) -> Result<f32> {
    const OP: &str = "timed";
    type Call = unsafe extern "C" fn(*mut f32, *mut c_void, *mut c_void) -> u32;
    let missing = |source| Error::NoDevice {
        device: "cuda",
        problem: "the NVIDIA driver lacks a call",
        source,
    };
    let library = library().map_err(missing)?;
    // SAFETY: the call has this signature since CUDA 2.0.
    let call = unsafe { library.get::<Call>("cuEventElapsedTime") };
    let call = call.map_err(|e| missing(Some(Foreign::new(e))))?;
    let mut ms = 0.0;
    // SAFETY: the callers' events have been recorded and have passed; it writes one number.
    match unsafe { call(&raw mut ms, begin, end) } {
        0 => Ok(ms),
        status => Err(Error::Device {
            op: OP,
            source: Foreign::new(format!("error {status} of the driver")),
        }),
    }
}

/// Fails unless there is a driver that is new enough and has every call.
pub(super) fn probe() -> Result<()> {
    let missing = |problem, source| Error::NoDevice {
        device: "cuda",
        problem,
        source,
    };
    let library = library().map_err(|source| missing("no NVIDIA driver is installed", source))?;
    for name in CALLS {
        // SAFETY: the symbol is looked up and not called.
        let call = unsafe { library.get::<unsafe extern "C" fn()>(name) };
        call.map_err(|e| missing("the NVIDIA driver lacks a call", Some(Foreign::new(e))))?;
    }
    // SAFETY: `cuDriverGetVersion` has this signature since CUDA 2.2, and needs no initialisation.
    let version =
        unsafe { library.get::<unsafe extern "C" fn(*mut i32) -> u32>("cuDriverGetVersion") }
            .map_err(|e| missing("the NVIDIA driver lacks a call", Some(Foreign::new(e))))?;
    let mut number = 0;
    // SAFETY: it writes one integer.
    let status = unsafe { version(&raw mut number) };
    let number = u64::try_from(number).unwrap_or(0);
    if status != 0 || number < OLDEST {
        return Err(Error::Range {
            op: "cuda",
            arg: "driver version",
            got: number,
            min: OLDEST,
            max: u64::MAX,
        });
    }
    // It stays loaded: the bindings look it up again by name.
    core::mem::forget(library);
    Ok(())
}
