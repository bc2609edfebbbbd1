//! Devices that calls can be timed on.

use std::time::Instant;

use maquette::Result;
use maquette::cpu::{Cpu, Roof};
use maquette::cuda::Device as Gpu;
use maquette::ops::Backend;

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

    fn seconds(&self, call: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        let ms = self.timed(call)?;
        Ok((ms > 0.0).then_some(f64::from(ms) / 1e3))
    }
}
