//! Memory of the device.

use alloc::sync::Arc;
use core::any::TypeId;
use core::marker::PhantomData;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtrMut, sys};

use super::count::Told;
use super::plan::{Kind, Ticket};
use super::{Device, failed};
use crate::error::{Error, Result, covers, product};
use crate::ops::Element;
use crate::ops::attention::MoveShape;

/// A buffer of elements on the device.
#[derive(Debug)]
pub struct Buffer<T> {
    /// At least one byte, so that there is an address.
    pub(super) data: CudaSlice<u8>,
    pub(super) len: usize,
    /// Of a planner, which takes a byte and counts the rest.
    #[expect(dead_code, reason = "counted for as long as it lives")]
    ticket: Option<Ticket>,
    /// Of words, and of no cache.
    pub(super) told: Option<Told>,
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
        unsafe { self.current().alloc::<u8>(len.max(1)) }.map_err(|e| {
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
        self.current()
            .memset_zeros(&mut bytes)
            .map_err(|e| failed(what, e))?;
        Ok(bytes)
    }

    /// Bytes of zeros that live as long as a buffer or matrix; of a planner one byte, and their count.
    pub(super) fn hold(
        &self,
        (kind, what): (Kind, &'static str),
        len: usize,
    ) -> Result<(CudaSlice<u8>, Option<Ticket>)> {
        self.not_recording()?;
        match &self.tally {
            None => Ok((self.zero_bytes(what, len)?, None)),
            Some(tally) => {
                let byte = self.bytes(what, 1)?;
                Ok((byte, Some(tally.take(kind, len.max(1)))))
            }
        }
    }

    pub(super) fn buffer<T: Element>(&self, kind: Kind, len: usize) -> Result<Buffer<T>> {
        let bytes = len.saturating_mul(size_of::<T>());
        let (data, ticket) = self.hold((kind, "buffer"), bytes)?;
        let words = TypeId::of::<T>() == TypeId::of::<u32>() && kind != Kind::Caches;
        Ok(Buffer {
            data,
            len,
            ticket,
            told: words.then(Told::default),
            marker: PhantomData,
        })
    }

    /// Bytes of the device that hold a copy of these ones.
    pub(super) fn upload(&self, what: &'static str, source: &[u8]) -> Result<CudaSlice<u8>> {
        self.not_recording()?;
        let mut bytes = self.bytes(what, source.len())?;
        if !source.is_empty() {
            self.stream
                .memcpy_htod(source, &mut bytes)
                .map_err(|e| failed(what, e))?;
        }
        Ok(bytes)
    }
}

impl Device {
    /// One copy for all heads: the driver takes rows at a distance.
    pub(super) fn moved<T: Element>(&self, s: MoveShape, cache: &mut Buffer<T>) -> Result<()> {
        const OP: &str = "move_rows";
        s.check(cache.len)?;
        cache.belongs(OP, &self.stream)?;
        if s.len == 0 || s.heads == 0 {
            return Ok(());
        }
        // The bindings' own calls do this; the thread may not have touched the GPU before.
        let bound = self.context.bind_to_thread();
        bound.map_err(|e| failed(OP, e))?;
        let stream = self.current();
        let size = size_of::<T>();
        let (at, _order) = cache.data.device_ptr_mut(&stream);
        let place = |row: usize| at + (row * size) as u64;
        let memory = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: memory,
            srcHost: core::ptr::null(),
            srcArray: core::ptr::null_mut(),
            srcDevice: place(s.from),
            srcPitch: s.head_stride * size,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: memory,
            dstHost: core::ptr::null_mut(),
            dstArray: core::ptr::null_mut(),
            dstDevice: place(s.to),
            dstPitch: s.head_stride * size,
            WidthInBytes: s.len * size,
            Height: s.heads,
        };
        // SAFETY: `check` proved that both ranges lie inside a head, apart from each other, and all heads in the cache; the
        // copy is read before the call returns.
        let status = unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, stream.cu_stream()) };
        status.result().map_err(|e| failed(OP, e))
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
