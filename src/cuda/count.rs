//! Multiply-adds of the device's work, which the host counts as it asks for it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ops::attention::AttentionShape;
use crate::ops::tally;

/// What the host wrote last into a buffer of words. Attention takes from there which rows it sees, so that a count of its
/// work has no need of the device.
#[derive(Debug, Clone, Default)]
pub(super) struct Told(Arc<Mutex<Vec<u32>>>);

impl Told {
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers words from `at` on.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn write(&self, at: usize, source: &[u32]) -> Result<()> {
        let mut words = self.lock();
        let end = at.saturating_add(source.len());
        if let Some(more) = end.checked_sub(words.len()) {
            words.try_reserve(more).map_err(|_| Error::OutOfMemory {
                what: "words",
                bytes: more.saturating_mul(size_of::<u32>()),
            })?;
            words.resize(end, 0);
        }
        words[at..end].copy_from_slice(source);
        Ok(())
    }
}

/// Attention that a record repeats: its spans are other ones each time.
#[derive(Debug)]
struct Seen {
    spans: Told,
    shape: AttentionShape,
    /// So many times, one after the other.
    times: u64,
}

/// The multiply-adds of recorded work.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Those that are the same each time.
    fixed: u64,
    seen: Vec<Seen>,
}

impl Counted {
    /// Adds attention. Without memory for it nothing more is counted of it.
    fn attention(&mut self, spans: &Told, shape: AttentionShape) {
        let last = self.seen.last_mut();
        if let Some(last) = last.filter(|l| l.shape == shape && Arc::ptr_eq(&l.spans.0, &spans.0)) {
            last.times += 1;
        } else if self.seen.try_reserve(1).is_ok() {
            self.seen.push(Seen {
                spans: spans.clone(),
                shape,
                times: 1,
            });
        }
    }

    /// Counts the work once more.
    pub(super) fn again(&self) {
        tally::add(self.fixed);
        for seen in &self.seen {
            let once = seen.shape.multiply_adds(&seen.spans.lock());
            tally::add(once.saturating_mul(seen.times));
        }
    }
}

impl Device {
    /// Does what a planner leaves out, and counts its multiply-adds.
    pub(super) fn run_counted(&self, n: u64, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.run(|| {
            work()?;
            let add = |counted: &mut Counted| counted.fixed = counted.fixed.saturating_add(n);
            if !self.recording.counting(add) {
                tally::add(n);
            }
            Ok(())
        })
    }

    /// The same of attention.
    pub(super) fn run_seen(
        &self,
        shape: AttentionShape,
        spans: &Buffer<u32>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.run(|| {
            work()?;
            let Some(told) = &spans.told else {
                return Ok(());
            };
            if !self
                .recording
                .counting(|counted| counted.attention(told, shape))
            {
                tally::add(shape.multiply_adds(&told.lock()));
            }
            Ok(())
        })
    }
}
