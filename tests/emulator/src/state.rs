//! What the driver knows: memory, modules, each thread's settings; and how a kernel is run.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::{Counters, Kernel, Launch, Memory, Module, Order, changed, launch};

pub(crate) const SUCCESS: c_uint = 0;
pub(crate) const INVALID_VALUE: c_uint = 1;
pub(crate) const INVALID_CONTEXT: c_uint = 201;
pub(crate) const LAUNCH_FAILED: c_uint = 719;

/// The driver of CUDA 12.4, which is the first to read this PTX.
pub(crate) const VERSION: c_int = 12_040;
/// Instructions of warps that one launch may run.
pub(crate) const BUDGET: u64 = 1 << 33;
/// The same, for a kernel with a fault in it.
pub(crate) static LEFT: LazyLock<u64> = LazyLock::new(|| {
    let set = std::env::var("EMULATOR_BUDGET").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(BUDGET)
});
/// A file that is told of every kernel that is launched, and of the warps' instructions in its longest launch.
pub(crate) static TRACE: LazyLock<Option<String>> =
    LazyLock::new(|| std::env::var("EMULATOR_TRACE").ok());
pub(crate) static TRACED: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// A launch works on the memory as it is when it begins: other threads allocate meanwhile.
pub(crate) static MEMORY: LazyLock<Mutex<Arc<Memory>>> = LazyLock::new(Mutex::default);
pub(crate) static LIMIT: AtomicUsize = AtomicUsize::new(4 << 30);
/// The error after which nothing works any more.
pub(crate) static STICKY: AtomicU32 = AtomicU32::new(SUCCESS);
/// Modules by their text: they stay for the life of the program.
pub(crate) static MODULES: Mutex<BTreeMap<Vec<u8>, &'static Module>> = Mutex::new(BTreeMap::new());

thread_local! {
    pub(crate) static CONTEXT: Cell<usize> = const { Cell::new(0) };
    pub(crate) static ORDER: Cell<Order> = const { Cell::new(Order::Ascending) };
    pub(crate) static FAIL_AFTER: Cell<u64> = const { Cell::new(u64::MAX) };
    pub(crate) static COUNTERS: Cell<Option<Counters>> = const { Cell::new(None) };
    /// Of all that the kernels are for, one with the least shared memory.
    pub(crate) static CAPABILITY: Cell<c_int> = const { Cell::new(86) };
    pub(crate) static PROCESSORS: Cell<c_int> = const { Cell::new(132) };
    pub(crate) static REPORTED: Cell<c_int> = const { Cell::new(VERSION) };
    pub(crate) static WAITS: Cell<u64> = const { Cell::new(0) };
    pub(crate) static LIVE: Cell<usize> = const { Cell::new(0) };
    pub(crate) static LIVE_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// A module's text, with the fault in it that `EMULATOR_MUTANT` describes: a kernel, a line's place behind its entry, and
/// what the line becomes, parted by colons.
pub(crate) fn planted(text: &str) -> Cow<'_, str> {
    let mutant = std::env::var("EMULATOR_MUTANT").unwrap_or_default();
    let mut parts = mutant.splitn(3, ':');
    let (Some(kernel), Some(place), Some(to)) = (parts.next(), parts.next(), parts.next()) else {
        return text.into();
    };
    let place = place.parse().unwrap_or(0);
    changed(text, kernel, place, to).map_or(text.into(), Cow::Owned)
}

/// Tells the file of a launch, if it is the kernel's longest so far.
pub(crate) fn trace(kernel: &str, instructions: u64) {
    let Some(file) = &*TRACE else { return };
    let mut traced = TRACED.lock().unwrap_or_else(PoisonError::into_inner);
    let most = traced.entry(kernel.to_owned()).or_default();
    if instructions > *most {
        *most = instructions;
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file);
        if let Err(error) = file.and_then(|mut f| writeln!(f, "{kernel}\t{instructions}")) {
            eprintln!("emulator: {error}");
        }
    }
}

pub(crate) struct Function {
    pub(crate) kernel: &'static Kernel,
    pub(crate) dynamic: AtomicUsize,
}

/// A kernel that is to run.
pub(crate) struct Work {
    pub(crate) kernel: &'static Kernel,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic: usize,
    pub(crate) params: Vec<u8>,
}

/// Runs a kernel: what goes wrong is final, as on a device.
pub(crate) fn run(work: &Work) -> c_uint {
    let request = Launch {
        grid: work.grid,
        block: work.block,
        dynamic: work.dynamic,
        params: work.params.clone(),
        order: ORDER.get(),
        budget: *LEFT,
        count: COUNTERS.get().is_some(),
    };
    match launch(work.kernel, &memory(), &request) {
        Ok(counted) => {
            trace(&work.kernel.name, counted.warp_instructions);
            if let Some(mut counters) = COUNTERS.get() {
                counters.add(&counted);
                COUNTERS.set(Some(counters));
            }
            SUCCESS
        }
        Err(error) => {
            eprintln!("emulator: {error}");
            STICKY.store(LAUNCH_FAILED, Ordering::Relaxed);
            LAUNCH_FAILED
        }
    }
}

/// Counts memory that this thread gave back; nothing if there was none.
pub(crate) fn freed(bytes: Option<usize>) -> c_uint {
    let Some(bytes) = bytes else {
        return INVALID_VALUE;
    };
    LIVE.set(LIVE.get().saturating_sub(1));
    LIVE_BYTES.set(LIVE_BYTES.get().saturating_sub(bytes));
    SUCCESS
}

pub(crate) fn memory() -> Arc<Memory> {
    Arc::clone(&allocated())
}

/// The memory, to be changed through [`Arc::make_mut`].
pub(crate) fn allocated() -> MutexGuard<'static, Arc<Memory>> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn sticky() -> c_uint {
    STICKY.load(Ordering::Relaxed)
}

/// The same for calls that want this thread to have a context.
pub(crate) fn ready() -> c_uint {
    match CONTEXT.get() {
        0 => INVALID_CONTEXT,
        _ => sticky(),
    }
}
