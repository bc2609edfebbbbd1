//! Rows that hold no numbers: kernels note them on the device, and the next results bring the word to the host.
//!
//! A thread that launches has words of its own, so that one caller's rows are never another's error.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

use super::{Device, failed};
use crate::error::{Error, Result};

/// An operation that looks at its numbers, in the order in which a step runs them: the first to find something is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Filter,
    Draw,
    PoolRows,
    Answer,
    Nearest,
    Lfq,
    ToBytes,
}

impl Check {
    const ALL: [Self; 7] = [
        Self::Filter,
        Self::Draw,
        Self::PoolRows,
        Self::Answer,
        Self::Nearest,
        Self::Lfq,
        Self::ToBytes,
    ];

    /// The operation's and the argument's name.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Filter => ("filter", "logits"),
            Self::Draw => ("draw", "logits"),
            Self::PoolRows => ("pool_rows", "scores"),
            Self::Answer => ("answer", "logits"),
            Self::Nearest => ("nearest", "latents"),
            Self::Lfq => ("lfq", "latents"),
            Self::ToBytes => ("to_bytes", "x"),
        }
    }
}

/// Bytes of a word.
const WORD: usize = 4;
/// Bytes of a thread's words.
const BYTES: usize = Check::ALL.len() * WORD;
/// Words that name no row: a kernel lowers its word to the first row that it cannot take.
const NONE: [u8; BYTES] = [0xff; BYTES];

/// Threads whose words are kept while nothing is noted in them.
const THREADS: usize = 64;

/// One thread's words, and whether a kernel may have lowered one since they were last read.
#[derive(Debug)]
struct Words {
    bytes: CudaSlice<u8>,
    pending: bool,
}

/// The words of all threads that launched something.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<HashMap<ThreadId, Words>>);

/// This thread's words, kept from all others while a kernel is launched.
pub(super) struct Own<'a>(MutexGuard<'a, HashMap<ThreadId, Words>>);

impl Own<'_> {
    /// The word of an operation that is about to be launched.
    pub(super) fn word(&mut self, check: Check) -> Result<CudaViewMut<'_, u8>> {
        let at = check as usize * WORD;
        let words = self.0.get_mut(&std::thread::current().id());
        words
            .and_then(|words| {
                words.pending = true;
                words.bytes.try_slice_mut(at..at + WORD)
            })
            .ok_or(Error::Overflow {
                op: check.names().0,
            })
    }
}

impl Device {
    fn lock(&self) -> MutexGuard<'_, HashMap<ThreadId, Words>> {
        self.faults.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This thread's words.
    pub(super) fn faults(&self) -> Result<Own<'_>> {
        self.not_recording()?;
        let mut all = self.lock();
        let id = std::thread::current().id();
        if all.len() >= THREADS && !all.contains_key(&id) {
            // Most of these threads have ended: whoever goes on gets new words.
            all.retain(|_, words| words.pending);
        }
        if let Entry::Vacant(place) = all.entry(id) {
            let bytes = self.upload("flags", &NONE)?;
            let pending = false;
            place.insert(Words { bytes, pending });
        }
        Ok(Own(all))
    }

    /// Copies bytes to the host, waits for all that was launched, and fails if a kernel of this thread found rows that
    /// it could not take.
    pub(super) fn download(
        &self,
        op: &'static str,
        parts: &mut [(CudaView<'_, u8>, &mut [u8])],
    ) -> Result<()> {
        self.not_recording()?;
        let mut words = NONE;
        let id = std::thread::current().id();
        // A copy waits for the device, and other threads' launches must not wait for that: nobody else knows these words.
        let noted = self.lock().remove(&id);
        let copied = match &noted {
            Some(own) if own.pending => self.stream.memcpy_dtoh(&own.bytes, &mut words),
            _ => Ok(()),
        };
        if let Some(mut own) = noted {
            own.pending &= copied.is_err();
            self.lock().insert(id, own);
        }
        copied
            .and_then(|()| {
                let mut parts = parts.iter_mut();
                parts.try_for_each(|(from, to)| self.stream.memcpy_dtoh(from, *to))
            })
            .and_then(|()| self.stream.synchronize())
            .map_err(|e| failed(op, e))?;
        if words == NONE {
            return Ok(());
        }
        if let Some(own) = self.lock().get_mut(&id) {
            let reset = self.stream.memcpy_htod(&NONE, &mut own.bytes);
            reset.map_err(|e| failed(op, e))?;
        }
        for (check, word) in Check::ALL.into_iter().zip(words.as_chunks::<WORD>().0) {
            let (op, arg) = check.names();
            match u32::from_le_bytes(*word) {
                u32::MAX => {}
                row => {
                    let row = row as usize;
                    return Err(Error::NotFinite { op, arg, row });
                }
            }
        }
        Ok(())
    }
}
