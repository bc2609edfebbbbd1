//! Devices that calls can be timed on.

use std::time::Instant;

use maquette::Result;
use maquette::cpu::{Cpu, Roof};
use maquette::cuda::{Device as Gpu, Records};
use maquette::ops::Backend;

/// Seconds that a GPU is busy for with calls that are timed together.
const TOGETHER: f64 = 2e-3;

/// What can be timed.
pub trait Clocked: Backend {
    /// The best rate of bytes or operations a second, if it is known.
    fn best(&self, roof: Roof) -> Result<Option<f64>>;
    /// Seconds of a call; none without a clock.
    fn seconds(&self, call: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>>;
}

impl Clocked for Cpu {
    fn best(&self, roof: Roof) -> Result<Option<f64>> {
        self.roof(roof, 3).map(Some)
    }

    fn seconds(&self, call: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        let start = Instant::now();
        call()?;
        Ok(Some(start.elapsed().as_secs_f64()))
    }
}

impl Clocked for Gpu {
    fn best(&self, roof: Roof) -> Result<Option<f64>> {
        if !matches!(roof, Roof::Read) {
            return Ok(None);
        }
        let most = (self.memory()?.0 / 4).min(1 << 29);
        let mut best: f64 = 0.0;
        for bytes in [1 << 20, most, most, most, most] {
            let (from, mut to) = (self.zeros::<u8>(bytes)?, self.zeros::<u8>(bytes)?);
            let copy = &mut || self.copy(&from, 0, &mut to, 0, bytes);
            let Some(time) = self.seconds(copy)? else {
                return Ok(None);
            };
            // Every byte is read and written.
            best = best.max(2.0 * bytes as f64 / time);
        }
        Ok(Some(best))
    }

    /// Of many calls that are recorded and repeated as one, as a model's step is: a single one is shorter than what it takes
    /// to launch it.
    fn seconds(&self, call: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        let alone = f64::from(self.timed(&mut *call)?) / 1e3;
        if alone <= 0.0 {
            return Ok(None);
        }
        let times = ((TOGETHER / alone) as usize).clamp(1, 256);
        let mut records = Records::default();
        let mut all = || (0..times).try_for_each(|_| call());
        let mut repeat = || self.repeat(&mut records, [times, 0], &mut all);
        // Run as they are, recorded, and repeated.
        repeat()?;
        repeat()?;
        Ok(Some(f64::from(self.timed(repeat)?) / 1e3 / times as f64))
    }
}
