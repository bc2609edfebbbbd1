//! A GPU as a device: kernels that were compiled ahead, launched through NVIDIA's driver.
//!
//! Nothing of CUDA is needed to build this, and only the driver to run it. The kernels stand in `kernels/`, one file a
//! family; `kernels/README.md` says how they are written and tested. They round where the reference loops round, and
//! sum in the same order: all results have the bits of [`Reference`](crate::ops::Reference), gradients among them
//! (feature `align`), but for what multiplies BF16 on tensor cores. And a row has the same bits in any batch.

mod attention;
mod backend;
#[cfg(feature = "align")]
mod backward;
mod conv;
mod count;
#[cfg(feature = "cublaslt")]
mod cublaslt;
mod decode;
mod driver;
mod faults;
mod flash;
mod gauge;
mod gemm;
mod gemv;
mod group_norm;
mod heads;
mod memory;
mod module;
mod nearest;
mod norm;
mod plan;
mod record;
mod reward_head;
mod sample;
mod tiles;
mod vq;
mod wide;
mod wide_90a;

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig};

use self::faults::Faults;
pub use self::gemv::Matrix;
pub use self::memory::Buffer;
use self::module::{Family, Modules};
pub use self::plan::Plan;
use self::plan::Tally;
use self::record::Recording;
pub use self::record::Records;
use crate::error::{Error, Foreign, Result, product};

/// Oldest compute capability that the kernels run on, times ten.
const OLDEST: u64 = 80;
/// Threads of a block where a thread takes an element.
const THREADS: u32 = 256;

/// One GPU: a value for each, and nothing shared between them.
///
/// Launches return before they have run. What only a kernel can see, a row that holds no numbers
/// ([`Error::NotFinite`]), is the error of the same thread's next [`read`](crate::ops::Backend::read) or
/// [`synchronise`](Self::synchronise): the operation is named, and the first such row of its calls since the last one.
/// So a step waits for the device once, where its results are read.
///
/// With the feature `align` it is an `ops::Backward` as well: models are aligned on it by the code that aligns them on a
/// CPU, with the same bits. Attention goes backwards through heads of up to 512.
///
/// ```no_run
/// use maquette::cuda::Device;
/// use maquette::ops::{Backend, gemm::GemmShape};
/// use maquette::quant::QuantMatrix;
/// let gpu = Device::new(0)?;
/// let w = gpu.pack(&QuantMatrix::f32(1, 2, &[3.0, 4.0])?)?;
/// let (mut x, mut y) = (gpu.zeros(2)?, gpu.zeros(1)?);
/// gpu.write(&mut x, 0, &[1.0, 2.0])?;
/// gpu.gemm(GemmShape::new(1, 1, 2), &x, &w, None, &mut y)?;
/// let mut out = [0.0];
/// gpu.read(&y, 0, &mut out)?;
/// assert_eq!(out, [11.0]);
/// # Ok::<(), maquette::Error>(())
/// ```
pub struct Device {
    /// Dropped before the context.
    #[cfg(feature = "cublaslt")]
    cublas: Option<cublaslt::Cublas>,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Modules,
    faults: Faults,
    name: String,
    capability: (i32, i32),
    /// Its multiprocessors, and the shared memory of each.
    processors: usize,
    shared_bytes: usize,
    /// No kernels of one kind of GPU alone.
    portable: bool,
    recording: Recording,
    /// Of a planner: what it has counted.
    tally: Option<Arc<Tally>>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .field("capability", &self.capability)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// The GPU with this number.
    ///
    /// # Errors
    /// [`Error::NoDevice`] without NVIDIA's driver or without such a GPU; [`Error::Range`] for a driver older than that
    /// of CUDA 12.4 or a GPU of compute capability below 8.0. An application may then use the CPU.
    pub fn new(ordinal: usize) -> Result<Self> {
        driver::probe()?;
        // The driver numbers GPUs in 31 bits, and the bindings cut off what is above.
        if i32::try_from(ordinal).is_err() {
            return Err(unavailable(DriverError(
                CUresult::CUDA_ERROR_INVALID_DEVICE,
            )));
        }
        Self::on(CudaContext::new(ordinal).map_err(unavailable)?)
    }

    /// A value with a stream of its own.
    fn on(context: Arc<CudaContext>) -> Result<Self> {
        let (major, minor) = context.compute_capability().map_err(unavailable)?;
        let name = context.name().map_err(unavailable)?;
        let attribute = |which| {
            let value = context.attribute(which).map_err(unavailable)?;
            Ok(usize::try_from(value).unwrap_or(1).max(1))
        };
        let processors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared_bytes = attribute(
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
        )?;
        let number = u64::try_from(major * 10 + minor).unwrap_or(0);
        if number < OLDEST {
            return Err(Error::Range {
                op: "cuda",
                arg: "compute capability, times ten",
                got: number,
                min: OLDEST,
                max: u64::MAX,
            });
        }
        // SAFETY: this value's buffers are used on this value's one stream, which keeps the order of their uses.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(|e| failed("stream", e))?;
        Ok(Self {
            #[cfg(feature = "cublaslt")]
            cublas: None,
            context,
            stream,
            modules: Modules::default(),
            faults: Faults::default(),
            name,
            capability: (major, minor),
            processors,
            shared_bytes,
            portable: false,
            recording: Recording::default(),
            tally: None,
        })
    }

    /// How many GPUs there are.
    ///
    /// # Errors
    /// As [`Device::new`], but for the GPU itself.
    pub fn count() -> Result<usize> {
        driver::probe()?;
        match CudaContext::device_count() {
            Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
            // A driver without a GPU says so instead of counting.
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The GPU's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compute capability, major and minor.
    #[must_use]
    pub const fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Waits for everything that was launched.
    ///
    /// # Errors
    /// [`Error::Device`] if something of it failed; [`Error::NotFinite`] as [`Device`] says.
    pub fn synchronise(&self) -> Result<()> {
        self.download("synchronise", &mut [])
    }

    fn function(&self, family: Family, kernel: &'static str) -> Result<CudaFunction> {
        self.modules.function(&self.context, family, kernel)
    }

    /// Fails unless all buffers are memory of this device value.
    fn owns(&self, op: &'static str, buffers: &[&Buffer<f32>]) -> Result<()> {
        buffers.iter().try_for_each(|b| b.belongs(op, &self.stream))
    }
}

/// No such GPU, as the driver says.
fn unavailable(source: DriverError) -> Error {
    Error::NoDevice {
        device: "cuda",
        problem: "there is no such GPU, or it is not to be had",
        source: Some(Foreign::new(source)),
    }
}

/// What the driver says, as an error of this crate.
fn failed(op: &'static str, source: DriverError) -> Error {
    Error::Device {
        op,
        source: Foreign::new(source),
    }
}

/// A size as the kernels take it.
fn words<const N: usize>(op: &'static str, sizes: [usize; N]) -> Result<[u32; N]> {
    let mut out = [0; N];
    for (out, size) in out.iter_mut().zip(sizes) {
        *out = u32::try_from(size).map_err(|_| Error::Range {
            op,
            arg: "size",
            got: size as u64,
            min: 0,
            max: u64::from(u32::MAX),
        })?;
    }
    Ok(out)
}

/// A grid of blocks.
fn grid(op: &'static str, x: usize, y: usize, threads: u32) -> Result<LaunchConfig> {
    for (arg, size, max) in [
        ("grid", x, 0x7fff_ffff_u32),
        ("grid's second axis", y, 65_535),
    ] {
        if size > max as usize {
            return Err(Error::Range {
                op,
                arg,
                got: size as u64,
                min: 1,
                max: u64::from(max),
            });
        }
    }
    let [x, y] = words(op, [x, y])?;
    Ok(LaunchConfig {
        grid_dim: (x, y, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// A thread for each of `count` elements. Kernels number them in 32 bits, those past the last one included.
fn elements(op: &'static str, count: usize) -> Result<LaunchConfig> {
    words(op, [count.saturating_add(THREADS as usize)])?;
    grid(op, count.div_ceil(THREADS as usize), 1, THREADS)
}

/// A thread for each element of a product of sizes; nothing where there is none.
fn along(op: &'static str, sizes: &[usize]) -> Result<Option<LaunchConfig>> {
    match product(op, sizes)? {
        0 => Ok(None),
        count => elements(op, count).map(Some),
    }
}
