//! Host memory of a run: reserved when the run begins, or refused; nothing is allocated in a step.

use alloc::vec::Vec;

use crate::error::{Error, Result};

/// An empty list with room for `len` elements.
pub(super) fn reserved<T>(len: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(len)
        .map_err(|_| Error::OutOfMemory {
            what: "session",
            bytes: len.saturating_mul(size_of::<T>()),
        })?;
    Ok(list)
}

/// `len` times a value.
pub(super) fn filled<T: Copy>(len: usize, value: T) -> Result<Vec<T>> {
    let mut list = reserved(len)?;
    list.resize(len, value);
    Ok(list)
}
