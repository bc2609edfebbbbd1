//! Memory of the device.

use alloc::sync::Arc;
use core::marker::PhantomData;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::{Device, failed};
use crate::error::{Error, Result, covers, product};
use crate::ops::Element;

/// A buffer of elements on the device.
#[derive(Debug)]
pub struct Buffer<T> {
    /// At least one byte, so that there is an address.
    pub(super) data: CudaSlice<u8>,
    pub(super) len: usize,
    marker: PhantomData<fn() -> T>,
}

impl Device {
    /// Bytes that hold anything.
    pub(super) fn bytes(&self, what: &'static str, len: usize) -> Result<CudaSlice<u8>> {
        let none = Error::OutOfMemory { what, bytes: len };
        if isize::try_from(len).is_err() {
            return Err(none);
        }
        // SAFETY: whoever asks for bytes writes them before a kernel reads them.
        unsafe { self.stream.alloc::<u8>(len.max(1)) }.map_err(|e| {
            if e.0 == cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                none
            } else {
                failed(what, e)
            }
        })
    }

    /// Bytes of zeros.
    pub(super) fn zero_bytes(&self, what: &'static str, len: usize) -> Result<CudaSlice<u8>> {
        let mut bytes = self.bytes(what, len)?;
        self.stream
            .memset_zeros(&mut bytes)
            .map_err(|e| failed(what, e))?;
        Ok(bytes)
    }

    pub(super) fn buffer<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let bytes = len.saturating_mul(size_of::<T>());
        Ok(Buffer {
            data: self.zero_bytes("buffer", bytes)?,
            len,
            marker: PhantomData,
        })
    }

    /// Bytes of the device that hold a copy of these ones.
    pub(super) fn upload(&self, what: &'static str, source: &[u8]) -> Result<CudaSlice<u8>> {
        let mut bytes = self.bytes(what, source.len())?;
        if !source.is_empty() {
            self.stream
                .memcpy_htod(source, &mut bytes)
                .map_err(|e| failed(what, e))?;
        }
        Ok(bytes)
    }
}

/// The bytes of some elements from element `at` on.
fn range<T>(
    op: &'static str,
    arg: &'static str,
    got: usize,
    at: usize,
    len: usize,
) -> Result<core::ops::Range<usize>> {
    let end = at.checked_add(len).ok_or(Error::Overflow { op })?;
    covers(op, arg, got, end)?;
    let size = size_of::<T>();
    Ok(product(op, &[at, size])?..product(op, &[end, size])?)
}

impl<T> Buffer<T> {
    /// Elements from `at` on.
    pub(super) fn part(
        &self,
        op: &'static str,
        arg: &'static str,
        at: usize,
        len: usize,
    ) -> Result<CudaView<'_, u8>> {
        let range = range::<T>(op, arg, self.len, at, len)?;
        self.data.try_slice(range).ok_or(Error::Overflow { op })
    }

    /// Elements from `at` on.
    pub(super) fn part_mut(
        &mut self,
        op: &'static str,
        arg: &'static str,
        at: usize,
        len: usize,
    ) -> Result<CudaViewMut<'_, u8>> {
        let range = range::<T>(op, arg, self.len, at, len)?;
        self.data.try_slice_mut(range).ok_or(Error::Overflow { op })
    }

    /// Fails unless the buffer is memory of this device value.
    pub(super) fn belongs(&self, op: &'static str, stream: &Arc<CudaStream>) -> Result<()> {
        of_device(op, &self.data, stream)
    }
}

/// Fails unless some bytes are memory of this device value.
pub(super) fn of_device(
    op: &'static str,
    data: &CudaSlice<u8>,
    stream: &Arc<CudaStream>,
) -> Result<()> {
    if Arc::ptr_eq(data.stream(), stream) {
        Ok(())
    } else {
        Err(Error::NoDevice {
            device: op,
            problem: "a buffer or matrix belongs to another device value",
            source: None,
        })
    }
}
