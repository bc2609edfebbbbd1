//! Work that is recorded and repeated: a graph of the driver's, which costs the host one call instead of hundreds.
//!
//! A record is made on a stream of its own, so that what other threads launch meanwhile is no part of it, and is launched on
//! the device's stream. Its arguments are buffers that stay where they are; what changes lies in them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use cudarc::driver::{CudaGraph, CudaStream, result, sys};

use super::count::Counted;
use super::{Device, failed};
use crate::error::{Error, Result};

/// Keys of one piece of work that are remembered.
const KEYS: usize = 16;

/// Records of one piece of work: one for each key, made when that comes for the second time.
#[derive(Debug, Default)]
pub struct Records(Vec<([usize; 2], State)>);

#[derive(Debug)]
enum State {
    /// It has run once, so that its kernels are loaded.
    Met,
    /// It waits for the device or talks to it: it runs anew each time.
    Never,
    /// Of the device value with this stream.
    Ready(Graph, Counted, Arc<CudaStream>),
}

/// A graph that has been made ready.
struct Graph(CudaGraph);

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

// SAFETY: the driver's graphs belong to no thread; they may not be used by two at once, and `Records` are launched and
// dropped by who has them for itself.
unsafe impl Send for Graph {}
// SAFETY: through a shared reference nothing reaches the driver.
unsafe impl Sync for Graph {}

/// Threads that record at the moment, and where.
#[derive(Debug, Default)]
pub(super) struct Recording {
    threads: AtomicUsize,
    streams: Mutex<HashMap<ThreadId, Track>>,
}

/// What a thread records.
#[derive(Debug)]
struct Track {
    stream: Arc<CudaStream>,
    counted: Counted,
}

impl Recording {
    fn lock(&self) -> MutexGuard<'_, HashMap<ThreadId, Track>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream that this thread records on.
    fn stream(&self) -> Option<Arc<CudaStream>> {
        if self.threads.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let all = self.lock();
        let own = all.get(&std::thread::current().id())?;
        Some(Arc::clone(&own.stream))
    }

    /// Counts work that this thread records; false if it records none.
    pub(super) fn counting(&self, add: impl FnOnce(&mut Counted)) -> bool {
        if self.threads.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut all = self.lock();
        let own = all.get_mut(&std::thread::current().id());
        own.map(|own| add(&mut own.counted)).is_some()
    }

    /// This thread records on a stream until the guard is dropped.
    fn begin(&self, stream: Arc<CudaStream>) -> Begun<'_> {
        let track = Track {
            stream,
            counted: Counted::default(),
        };
        self.lock().insert(std::thread::current().id(), track);
        self.threads.fetch_add(1, Ordering::Relaxed);
        Begun(self)
    }
}

/// A thread that records.
struct Begun<'a>(&'a Recording);

impl Begun<'_> {
    /// What was counted so far.
    fn counted(&self) -> Counted {
        let mut all = self.0.lock();
        let own = all.get_mut(&std::thread::current().id());
        own.map(|own| core::mem::take(&mut own.counted))
            .unwrap_or_default()
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::Relaxed);
        self.0.lock().remove(&std::thread::current().id());
    }
}

impl Device {
    /// Where this thread's work goes.
    pub(super) fn current(&self) -> Arc<CudaStream> {
        let recording = self.recording.stream();
        recording.unwrap_or_else(|| Arc::clone(&self.stream))
    }

    /// Fails if this thread records: the host has no part in what is repeated.
    pub(super) fn not_recording(&self) -> Result<()> {
        match self.recording.stream() {
            None => Ok(()),
            Some(_) => Err(Error::Unsupported {
                what: "reserving, reading, writing or checking in work that is repeated",
            }),
        }
    }

    pub(super) fn repeated(
        &self,
        records: &mut Records,
        key: [usize; 2],
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        // Inside of work that is recorded it is a part of that.
        if self.recording.stream().is_some() {
            return work();
        }
        let all = &mut records.0;
        let Some((_, state)) = all.iter_mut().find(|(of, _)| *of == key) else {
            work()?;
            if all.len() == KEYS {
                all.remove(0);
            }
            all.push((key, State::Met));
            return Ok(());
        };
        if matches!(state, State::Met) {
            *state = match self.record(work) {
                Some((graph, counted)) => State::Ready(graph, counted, Arc::clone(&self.stream)),
                None => State::Never,
            };
        }
        match state {
            State::Ready(Graph(graph), counted, of) if Arc::ptr_eq(of, &self.stream) => {
                const OP: &str = "repeat";
                let bound = self.context.bind_to_thread();
                bound.map_err(|e| failed(OP, e))?;
                let (graph, stream) = (graph.cu_graph_exec(), self.stream.cu_stream());
                // SAFETY: both are alive, and `records` is this caller's alone. The graph's kernels have the arguments of
                // launches that were checked when it was recorded; the caller keeps their buffers, as `repeat` asks.
                unsafe { result::graph::launch(graph, stream) }.map_err(|e| failed(OP, e))?;
                counted.again();
                Ok(())
            }
            _ => work(),
        }
    }

    /// A graph of some work, which does not run, and what it multiplies; nothing if it cannot be one.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Option<(Graph, Counted)> {
        // Memory that a call takes and gives back is part of the graph where the driver orders that by streams.
        if !self.context.has_async_alloc() {
            return None;
        }
        let stream = self.context.new_stream().ok()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).ok()?;
        let begun = self.recording.begin(Arc::clone(&stream));
        let done = work();
        let counted = begun.counted();
        drop(begun);
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        // What failed here runs again as it is, and says so then.
        done.ok()?;
        Some((Graph(graph.ok().flatten()?), counted))
    }
}
