//! What the sessions share: host memory that is reserved when a run begins, or refused, and the candidates of a call.

use alloc::vec::Vec;

use crate::error::{self, Error, Result};
use crate::generator::CandidateId;
use crate::ops::Backend;

/// An empty list with room for `len` elements.
pub(super) fn reserved<T>(len: usize) -> Result<Vec<T>> {
    error::reserved("session", len)
}

/// A copy of a list.
pub(super) fn copied<T: Copy>(list: &[T]) -> Result<Vec<T>> {
    let mut copy = reserved(list.len())?;
    copy.extend_from_slice(list);
    Ok(copy)
}

/// A list of what is made one by one.
pub(super) fn made<T>(len: usize, mut make: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    let mut list = reserved(len)?;
    for _ in 0..len {
        list.push(make()?);
    }
    Ok(list)
}

/// `len` times a value.
pub(super) fn filled<T: Copy>(len: usize, value: T) -> Result<Vec<T>> {
    let mut list = reserved(len)?;
    list.resize(len, value);
    Ok(list)
}

/// Lists the places of candidates, each alive and named once.
pub(super) fn places(
    op: &'static str,
    ids: &[CandidateId],
    place: impl Fn(CandidateId) -> Result<usize>,
    batch: &mut Vec<usize>,
) -> Result<()> {
    batch.clear();
    for &id in ids {
        let at = place(id)?;
        if batch.contains(&at) {
            return Err(Error::RepeatedCandidate { op, id: id.0 });
        }
        batch.push(at);
    }
    Ok(())
}

/// Multiply-adds that this thread has asked of a device since `before`; none of one that does not count.
pub(super) fn multiply_adds<B: Backend>(backend: &B, before: Option<u64>) -> u64 {
    let now = backend.multiply_adds().zip(before);
    now.map_or(0, |(now, before)| now.wrapping_sub(before))
}
