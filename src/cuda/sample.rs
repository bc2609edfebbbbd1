//! Guidance, filters and the draw.

use cudarc::driver::PushKernelArg;

use super::faults::Check;
use super::memory::Buffer;
use super::module::Family::Sample;
use super::{Device, along, failed, grid, words};
use crate::error::Result;
use crate::ops::sample::{Draw, DrawShape, FilterShape, GuideShape};

impl Device {
    pub(super) fn guided(&self, s: GuideShape, logits: &mut Buffer<f32>) -> Result<()> {
        const KERNEL: &str = "guide";
        s.check(logits.len)?;
        self.owns(KERNEL, &[logits])?;
        let Some(shape) = along(KERNEL, &[s.rows, s.width])? else {
            return Ok(());
        };
        let len = (s.rows * s.width) as u64;
        let f = self.function(Sample, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut logits.data).arg(&len).arg(&s.scale);
        // SAFETY: guide(logits, len, scale). `check` proved that logits hold 2 · len elements; threads from len on do
        // nothing.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn filtered(
        &self,
        s: FilterShape,
        logits: &mut Buffer<f32>,
        order: &mut Buffer<u32>,
    ) -> Result<()> {
        const KERNEL: &str = "filter";
        s.check(logits.len, order.len)?;
        self.owns(KERNEL, &[logits])?;
        order.belongs(KERNEL, &self.stream)?;
        if s.rows == 0 {
            return Ok(());
        }
        let top_k = if s.filter.top_k < s.width {
            s.filter.top_k
        } else {
            0
        };
        let [width, top_k] = words(KERNEL, [s.width, top_k])?;
        let temperature = s.filter.temperature.max(1e-5);
        let idle = u32::from(s.filter.is_idle(s.width));
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::Filter)?;
        let f = self.function(Sample, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut logits.data)
            .arg(&mut order.data)
            .arg(&mut bad);
        args.arg(&width).arg(&temperature).arg(&top_k);
        args.arg(&s.filter.top_p).arg(&idle);
        // SAFETY: filter(logits, order, bad, width, temperature, top_k, top_p, idle), a block for each row. `check`
        // proved that logits and order hold rows · width elements; order holds indices below width once the kernel
        // has filled it.
        unsafe { args.launch(grid(KERNEL, s.rows, 1, 256)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn drawn(
        &self,
        s: DrawShape,
        logits: &mut Buffer<f32>,
        draw: &Draw<&Buffer<u32>, &Buffer<f32>>,
        codes: &mut Buffer<u32>,
        p: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "draw";
        let lens = match draw {
            Draw::Keyed(keys) => Draw::Keyed(keys.len),
            Draw::Given(noise) => Draw::Given(noise.len),
        };
        s.check(logits.len, &lens, codes.len, p.len)?;
        self.owns(OP, &[logits, p])?;
        codes.belongs(OP, &self.stream)?;
        if s.rows == 0 {
            return Ok(());
        }
        let (kernel, source) = match draw {
            Draw::Keyed(keys) => {
                keys.belongs(OP, &self.stream)?;
                ("draw_keyed", &keys.data)
            }
            Draw::Given(noise) => {
                noise.belongs(OP, &self.stream)?;
                ("draw_given", &noise.data)
            }
        };
        let [width] = words(OP, [s.width])?;
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::Draw)?;
        let f = self.function(Sample, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut logits.data)
            .arg(&mut codes.data)
            .arg(&mut p.data)
            .arg(&mut bad);
        args.arg(source).arg(&width);
        // SAFETY: draw_keyed(logits, codes, p, bad, keys, width) and draw_given with noise for keys, a block for each
        // row. `check` proved that logits and noise hold rows · width elements, keys rows · 4, codes and p rows.
        unsafe { args.launch(grid(OP, s.rows, 1, 256)?) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }
}
