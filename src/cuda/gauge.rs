//! What a run holds and how long it takes, as the driver says.

use core::ffi::c_void;

use cudarc::driver::{DriverError, sys};

use super::{Device, driver, failed};
use crate::error::Result;

impl Device {
    /// Bytes of the GPU's memory that are free, and all of them.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the driver does not say.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(|e| failed("memory", e))
    }

    /// Bytes that this program's buffers and matrices hold on the GPU.
    ///
    /// A model holds its weights, and a session all that its candidates will need: both reserve when they are made, or
    /// fail with [`Error::OutOfMemory`](crate::Error::OutOfMemory). The difference of two calls is what lies between
    /// them, known before the first step; [`planner`](Self::planner) says it before anything is loaded. Beside it a call
    /// may take memory that it gives back at its end: rows rounded to 8 bits or to BF16, up to 32 MiB of a convolution's
    /// inputs, up to 72 MiB of attention's scores or, on the way back, 32 MiB of its probabilities, up to 64 MiB of
    /// distances from a codebook.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the driver does not say.
    pub fn held(&self) -> Result<usize> {
        const OP: &str = "held";
        const USED: sys::CUmemPool_attribute =
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        let said = |status: sys::CUresult| match status {
            sys::CUresult::CUDA_SUCCESS => Ok(()),
            other => Err(failed(OP, DriverError(other))),
        };
        let mut pool: sys::CUmemoryPool = core::ptr::null_mut();
        // SAFETY: it writes one handle; the device is this value's.
        said(unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, self.context.cu_device()) })?;
        let mut used = 0_u64;
        let out = (&raw mut used).cast::<c_void>();
        // SAFETY: it writes 64 bits for this attribute.
        said(unsafe { sys::cuMemPoolGetAttribute(pool, USED, out) })?;
        Ok(usize::try_from(used).unwrap_or(usize::MAX))
    }

    /// Milliseconds that the GPU takes for what is launched meanwhile, by its own clock.
    ///
    /// # Errors
    /// What the launches return, and [`Error::Device`](crate::Error::Device) if one of them fails later.
    pub fn timed(&self, launches: impl FnOnce() -> Result<()>) -> Result<f32> {
        const OP: &str = "timed";
        let mark = || {
            let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
            self.stream.record_event(flags).map_err(|e| failed(OP, e))
        };
        let begin = mark()?;
        launches()?;
        let end = mark()?;
        end.synchronize().map_err(|e| failed(OP, e))?;
        driver::elapsed(begin.cu_event().cast(), end.cu_event().cast())
    }
}
