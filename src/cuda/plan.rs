//! What a run will hold, before it holds anything: a device value that counts and has no memory.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{Device, failed};
use crate::error::{Error, Result};

/// What memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Matrices,
    Caches,
    Buffers,
}

/// Bytes that the models and sessions of a [planner](Device::planner) will hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Plan {
    /// Weight matrices.
    pub matrices: usize,
    /// Keys and values.
    pub caches: usize,
    /// All else: norms, tables, rows on their way.
    pub buffers: usize,
}

impl Plan {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.matrices
            .saturating_add(self.caches)
            .saturating_add(self.buffers)
    }
}

/// What a planner has counted, by [`Kind`].
#[derive(Debug, Default)]
pub(super) struct Tally([AtomicUsize; 3]);

impl Tally {
    /// Counts some bytes for as long as the ticket lives.
    pub(super) fn take(self: &Arc<Self>, kind: Kind, bytes: usize) -> Ticket {
        self.0[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        Ticket {
            tally: Arc::clone(self),
            kind,
            bytes,
        }
    }
}

/// Bytes that are counted.
#[derive(Debug)]
pub(super) struct Ticket {
    tally: Arc<Tally>,
    kind: Kind,
    bytes: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tally.0[self.kind as usize].fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Device {
    /// A value for the same GPU that counts what models and sessions would hold, and holds and runs nothing: weights are
    /// not read from their files, operations do nothing, results stay as they were.
    ///
    /// Models and sessions reserve all their memory when they are made. So a plan is made by making them: what they ask
    /// for is counted, a byte of it is taken.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver has no other stream.
    ///
    /// ```no_run
    /// use maquette::cuda::Device;
    /// use maquette::ops::Backend;
    /// let gpu = Device::new(0)?;
    /// let planner = gpu.planner()?;
    /// // Here models are loaded and sessions made, on the planner.
    /// let rows = planner.zeros::<f32>(1 << 30)?;
    /// assert_eq!(planner.plan().buffers, 4 << 30);
    /// planner.fits()?;
    /// # Ok::<(), maquette::Error>(())
    /// ```
    pub fn planner(&self) -> Result<Self> {
        let mut planner = Self::on(Arc::clone(&self.context))?;
        planner.tally = Some(Arc::default());
        Ok(planner)
    }

    /// What lives on a planner; nothing on a value that holds its memory, see [`held`](Self::held).
    #[must_use]
    pub fn plan(&self) -> Plan {
        let Some(tally) = &self.tally else {
            return Plan::default();
        };
        let bytes = |kind: Kind| tally.0[kind as usize].load(Ordering::Relaxed);
        Plan {
            matrices: bytes(Kind::Matrices),
            caches: bytes(Kind::Caches),
            buffers: bytes(Kind::Buffers),
        }
    }

    /// Fails if what lives on a planner is more than the GPU has free.
    ///
    /// # Errors
    /// [`Error::Range`] with both numbers; [`Error::Device`] if the driver does not say what is free.
    pub fn fits(&self) -> Result<()> {
        // What was dropped before is free once the work before it has run.
        self.context.synchronize().map_err(|e| failed("plan", e))?;
        let (planned, (free, _)) = (self.plan().total(), self.memory()?);
        if planned <= free {
            return Ok(());
        }
        Err(Error::Range {
            op: "plan",
            arg: "bytes on the GPU",
            got: planned as u64,
            min: 0,
            max: free as u64,
        })
    }

    /// Does what a planner leaves out.
    pub(super) fn run(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.tally {
            Some(_) => Ok(()),
            None => work(),
        }
    }
}
