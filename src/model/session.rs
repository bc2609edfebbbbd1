//! What the sessions share: host memory that is reserved when a run begins, or refused, and the candidates of a call.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::generator::CandidateId;
use crate::ops::Backend;

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
