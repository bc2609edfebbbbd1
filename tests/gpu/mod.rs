//! The GPU of the tests: a real one where there is a driver, else the stand-in driver, which interprets the kernels.
//!
//! `GPU_TESTS=require` fails without a driver, `GPU_TESTS=emulate` uses the stand-in even where there is one.
#![expect(unsafe_code, reason = "loads a driver")]
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::OnceLock;

use libloading::{Library, Symbol};
use maquette::cuda::Device;

/// Multiprocessors of the stand-in driver's GPU: those of a large one.
const PROCESSORS: i32 = 132;

/// The stand-in driver, unless there is a real one.
fn stand_in() -> Option<&'static Library> {
    static LOADED: OnceLock<Option<Library>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            let want = std::env::var("GPU_TESTS").unwrap_or_default();
            // SAFETY: loading the driver is what it is for.
            let real = want != "emulate" && unsafe { Library::new("libcuda.so.1") }.is_ok();
            assert!(real || want != "require", "no NVIDIA driver here");
            if real {
                return None;
            }
            let file = std::env::current_exe()
                .unwrap()
                .with_file_name("libmaquette_emulator.so");
            // The bindings ask for libcuda.so, which is the name that this library gives itself.
            // SAFETY: it is the workspace's own, and has no initialisers.
            Some(unsafe { Library::new(&file) }.unwrap_or_else(|e| panic!("{e}")))
        })
        .as_ref()
}

/// A GPU.
pub fn device() -> Device {
    stand_in();
    Device::new(0).unwrap()
}

/// A GPU whose large products go through cuBLASLt, or what stands in for it beside the stand-in driver; none on a machine
/// with a GPU that lacks the library.
#[cfg(feature = "cublaslt")]
pub fn device_with_cublaslt() -> Option<Device> {
    static LOADED: OnceLock<Option<Library>> = OnceLock::new();
    let device = device();
    LOADED.get_or_init(|| {
        stand_in()?;
        let file = std::env::current_exe()
            .unwrap()
            .with_file_name("libmaquette_cublaslt.so");
        // SAFETY: it is the workspace's own, and has no initialisers.
        Some(unsafe { Library::new(&file) }.unwrap_or_else(|e| panic!("{e}")))
    });
    match device.with_cublaslt() {
        Ok(device) => Some(device),
        Err(error) if emulated() => panic!("{error}"),
        Err(error) => {
            eprintln!("left out: {error}");
            None
        }
    }
}

/// A setting of the stand-in driver; a real one has none.
fn setting<T>(name: &str) -> Option<Symbol<'static, T>> {
    // SAFETY: callers name the signature that the stand-in declares.
    stand_in().map(|library| unsafe { library.get(name) }.unwrap())
}

/// Whether kernels are interpreted: on a GPU, settings have no effect.
pub fn emulated() -> bool {
    stand_in().is_some()
}

/// Lets this thread's allocations fail after so many that succeed.
pub fn fail_allocations_after(count: u64) {
    if let Some(set) = setting::<extern "C" fn(u64)>("emulator_fail_allocations_after") {
        set(count);
    }
}

/// How often this thread has waited for the device so far.
pub fn waits() -> Option<u64> {
    setting::<extern "C" fn() -> u64>("emulator_waits").map(|count| count())
}

/// How often this thread has launched a graph so far.
pub fn repeated() -> Option<u64> {
    setting::<extern "C" fn() -> u64>("emulator_repeated").map(|count| count())
}

/// Allocations of this thread that are alive.
pub fn allocations() -> Option<usize> {
    setting::<extern "C" fn() -> usize>("emulator_allocations").map(|count| count())
}

/// Bytes of this thread's allocations that are alive.
pub fn allocated_bytes() -> Option<usize> {
    setting::<extern "C" fn() -> usize>("emulator_allocated_bytes").map(|count| count())
}

/// What this thread is told of the GPU's compute capability, times ten, and of the driver's version.
pub fn report(capability: i32, version: i32) {
    if let Some(set) = setting::<extern "C" fn(i32, i32)>("emulator_report") {
        set(capability, version);
    }
}

/// What a GPU would have to do for some lines: instructions of warps and of lanes, bytes of global memory asked for and
/// bytes of the sectors that hold them, turns of shared memory and turns that bank conflicts add; the most bytes that a
/// block's asynchronous copies had on their way, and that block's shared memory and threads.
pub fn counted(run: impl FnOnce()) -> Option<[u64; 9]> {
    let begin = setting::<extern "C" fn()>("emulator_count")?;
    let end = setting::<extern "C" fn(*mut [u64; 9])>("emulator_counted")?;
    begin();
    run();
    let mut counters = [0; 9];
    end(&raw mut counters);
    Some(counters)
}

/// Runs some lines with blocks and warps in ascending and in descending order: a race shows in one of them.
pub fn in_both_orders(run: impl Fn(&Device)) {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let device = DEVICE.get_or_init(device);
    each_order(|| run(device));
}

/// The same, and then on a GPU of one multiprocessor, which any work fills; a real one has those that it has.
pub fn in_both_orders_and_full(run: impl Fn(&Device)) {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    in_both_orders(&run);
    if emulated() {
        let device = DEVICE.get_or_init(|| device_of(1));
        each_order(|| run(device));
    }
}

/// A GPU of compute capability 9.0. While it is there, the stand-in driver tells this thread of such a one.
pub struct Hopper(Device);

impl std::ops::Deref for Hopper {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

impl Drop for Hopper {
    fn drop(&mut self) {
        report(86, 12_040);
    }
}

/// A GPU of compute capability 9.0, which has kernels of its own: the stand-in driver's, with so many multiprocessors, or
/// the machine's, if it is one.
pub fn hopper(processors: i32) -> Option<Hopper> {
    report(90, 12_040);
    let device = Hopper(device_of(processors));
    (device.capability() == (9, 0)).then_some(device)
}

/// The stand-in driver's GPU with so many multiprocessors, or the machine's.
pub fn device_of(processors: i32) -> Device {
    let set = setting::<extern "C" fn(i32)>("emulator_processors");
    set.iter().for_each(|set| set(processors));
    let device = device();
    set.iter().for_each(|set| set(PROCESSORS));
    device
}

/// Runs some lines with blocks and warps in ascending and in descending order.
pub fn each_order(run: impl Fn()) {
    let Some(set) = setting::<extern "C" fn(u32)>("emulator_set_order") else {
        return run();
    };
    for order in [1, 0] {
        set(order);
        run();
    }
}
