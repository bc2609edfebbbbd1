//! One thread: what [`pool`](super) is where there are no worker threads.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::grow;
use crate::error::Result;
use crate::ops::Element;

/// The caller alone, and its scratch.
#[derive(Debug, Default)]
pub(super) struct Pool {
    scratch: Slot<f32>,
    words: Slot<u32>,
}

impl Pool {
    /// One thread, whatever was asked for.
    pub(super) fn new(_n: usize) -> Result<Self> {
        Ok(Self::default())
    }

    /// One thread.
    pub(super) fn of_machine() -> Self {
        Self::default()
    }

    /// One.
    #[expect(clippy::unused_self, reason = "the other pool has a number of its own")]
    pub(super) const fn threads(&self) -> usize {
        1
    }

    /// Calls `f` with every task.
    #[expect(clippy::unused_self, reason = "the other pool has its workers")]
    pub(super) fn each<I: Iterator + Send>(
        &self,
        _work: usize,
        tasks: I,
        f: impl Fn(I::Item) + Sync,
    ) {
        tasks.for_each(f);
    }

    /// As `each`, with `len` floats of scratch, of unknown content.
    pub(super) fn each_with<I: Iterator + Send>(
        &self,
        _work: usize,
        len: usize,
        tasks: I,
        f: impl Fn(&mut [f32], I::Item) + Sync,
    ) -> Result<()> {
        self.scratch
            .lend(len, |scratch| tasks.for_each(|task| f(scratch, task)))
    }

    /// Lends `len` words, of unknown content.
    pub(super) fn with_words<T>(&self, len: usize, f: impl FnOnce(&mut [u32]) -> T) -> Result<T> {
        self.words.lend(len, f)
    }
}

/// A boxed vector that nobody uses, or null. Whoever takes it owns it.
#[derive(Debug, Default)]
struct Slot<T>(AtomicPtr<Vec<T>>);

impl<T: Element> Slot<T> {
    fn lend<R>(&self, len: usize, f: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        let mut scratch = self.swap(null_mut()).unwrap_or_default();
        let result = grow(&mut scratch, len, 1).map(|()| f(&mut scratch[..len]));
        drop(self.swap(Box::into_raw(scratch)));
        result
    }
}

impl<T> Slot<T> {
    /// Puts a pointer from [`Box::into_raw`] or null, and takes what was there.
    #[expect(
        clippy::box_collection,
        reason = "an atomic holds one pointer, not a vector"
    )]
    #[expect(unsafe_code, reason = "there is no lock without std")]
    fn swap(&self, scratch: *mut Vec<T>) -> Option<Box<Vec<T>>> {
        let old = self.0.swap(scratch, Ordering::AcqRel);
        // SAFETY: a pointer in the field comes from `Box::into_raw`, and the swap made this call its one owner.
        (!old.is_null()).then(|| unsafe { Box::from_raw(old) })
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        drop(self.swap(null_mut()));
    }
}
