#![doc = include_str!("kernels.md")]

mod attention;
mod backend;
#[cfg(feature = "align")]
mod backward;
mod cache;
mod conv;
mod gemm;
mod integer;
mod norm;
mod packed;
#[cfg(feature = "threads")]
mod pool;
#[cfg(not(feature = "threads"))]
#[path = "serial.rs"]
mod pool;
#[cfg(feature = "std")]
mod roof;
mod sample;
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "vector instructions")
)]
mod simd;
mod strips;
mod tiles;
mod vq;

use alloc::vec::Vec;

use self::pool::Pool;
#[cfg(feature = "std")]
pub use self::roof::Roof;
use self::simd::Isa;
use crate::error::{Error, Result};
use crate::ops::{Backend, Element, Reference};

/// Memory: plain host memory, as the reference device has it.
type Buffer<T> = <Reference as Backend>::Buffer<T>;

/// Work below this many vector operations is not worth waking a thread. Under Miri all of it is, as it looks for races and
/// can afford no work of that size.
#[cfg(feature = "threads")]
const SERIAL_WORK: usize = if cfg!(miri) { 1 } else { 1 << 14 };

/// Most worker threads of one device.
const MAX_THREADS: usize = 1024;

/// The CPU as a device.
///
/// ```
/// use maquette::cpu::Cpu;
/// use maquette::ops::{Backend, gemm::GemmShape};
/// use maquette::quant::QuantMatrix;
/// let cpu = Cpu::with_threads(1)?;
/// let w = cpu.pack(&QuantMatrix::f32(1, 2, &[3.0, 4.0])?)?;
/// let (mut x, mut y) = (cpu.zeros(2)?, cpu.zeros(1)?);
/// cpu.write(&mut x, 0, &[1.0, 2.0])?;
/// cpu.gemm(GemmShape::new(1, 1, 2), &x, &w, None, &mut y)?;
/// let mut out = [0.0];
/// cpu.read(&y, 0, &mut out)?;
/// assert_eq!(out, [11.0]);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct Cpu {
    pool: Pool,
    isa: Isa,
}

impl Cpu {
    /// All cores where the feature `threads` is on, or fewer where the system does not start so many threads; else one thread.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pool: Pool::of_machine(),
            isa: Isa::detect(),
        }
    }

    /// A number of threads, the caller's included; without the feature `threads` it is one, whatever `n`.
    ///
    /// # Errors
    /// [`Error::Range`] for none or more than 1024, [`Error::Foreign`] for a thread that the system does not start.
    pub fn with_threads(n: usize) -> Result<Self> {
        if n == 0 || n > MAX_THREADS {
            return Err(Error::Range {
                op: "cpu",
                arg: "threads",
                got: n as u64,
                min: 1,
                max: MAX_THREADS as u64,
            });
        }
        Ok(Self {
            pool: Pool::new(n)?,
            isa: Isa::detect(),
        })
    }

    /// As [`with_threads`](Self::with_threads), with kernels that keep to one of this machine's
    /// [`instruction_sets`](Self::instruction_sets): for tests and comparisons, since the widest is the fastest.
    ///
    /// # Errors
    /// As `with_threads`, or [`Error::Unsupported`] for instructions that this machine does not have.
    pub fn with_instructions(n: usize, instructions: &str) -> Result<Self> {
        let isa = Isa::all().find(|isa| isa.name() == instructions);
        Ok(Self {
            isa: isa.ok_or(Error::Unsupported {
                what: "an instruction set that this machine lacks",
            })?,
            ..Self::with_threads(n)?
        })
    }

    /// What [`with_instructions`](Self::with_instructions) takes here, the widest last.
    pub fn instruction_sets() -> impl Iterator<Item = &'static str> {
        Isa::all().map(Isa::name)
    }

    /// The instructions that its kernels use: `portable`, `avx2`, `avx512`, or `avx512vnni`. They decide the speed and
    /// nothing else.
    #[must_use]
    pub const fn instructions(&self) -> &'static str {
        self.isa.name()
    }

    /// Threads that work, the caller's included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes `scratch` hold `len` words for each of `threads`.
fn grow<T: Element>(scratch: &mut Vec<T>, len: usize, threads: usize) -> Result<()> {
    let want = crate::error::product("scratch", &[len, threads])?;
    if want > scratch.len() {
        let more = want - scratch.len();
        scratch
            .try_reserve_exact(more)
            .map_err(|_| Error::OutOfMemory {
                what: "scratch",
                bytes: want.saturating_mul(size_of::<T>()),
            })?;
        scratch.resize(want, T::default());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
