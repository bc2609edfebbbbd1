//! Guidance, filters and the draw.

use cudarc::driver::PushKernelArg;

use super::faults::Check;
use super::memory::Buffer;
use super::module::Family::{Filter, Sample};
use super::{Device, along, failed, grid, words};
use crate::error::Result;
use crate::ops::sample::{Draw, DrawShape, FilterShape, GuideShape};

/// Numbers of a row that a thread keeps at most.
const HELD: usize = 16;
/// Threads of a block that takes a row, at most and at least; and rows from which a block has as few as will do, since
/// there are blocks enough to keep a GPU busy.
const THREADS: usize = 1024;
const FEWEST: usize = 256;
const MANY: usize = 256;
/// Bytes of a filter's histogram.
const HISTOGRAM_BYTES: usize = 2048 * 4;

/// Threads of a block that takes a row.
const fn threads(rows: usize, width: usize) -> usize {
    let each = if rows < MANY { 4 } else { HELD };
    let mut threads = FEWEST;
    while threads < THREADS && threads * each < width {
        threads *= 2;
    }
    threads
}

/// Whether a block's threads keep the row.
const fn held(threads: usize, width: usize) -> bool {
    width <= threads * HELD
}

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
        const OP: &str = "filter";
        s.check(logits.len, order.len)?;
        self.owns(OP, &[logits])?;
        order.belongs(OP, &self.stream)?;
        if s.rows == 0 {
            return Ok(());
        }
        let top_k = if s.filter.top_k < s.width {
            s.filter.top_k
        } else {
            0
        };
        let threads = threads(s.rows, s.width);
        // What top-p sorts at once: keys, and entries of 16 or 32 bits.
        let (kernel, sorted) = if held(threads, s.width) {
            ("filter_held", 6 * s.width.next_multiple_of(2))
        } else {
            ("filter_wide", 8 * (s.width.min(8192)))
        };
        let shared = if s.filter.top_p < 1.0 { sorted } else { 0 };
        let shared = shared.max(HISTOGRAM_BYTES);
        let [width, top_k, threads, shared] = words(OP, [s.width, top_k, threads, shared])?;
        let temperature = s.filter.temperature.max(1e-5);
        let idle = u32::from(s.filter.is_idle(s.width));
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::Filter)?;
        let mut shape = grid(OP, s.rows, 1, threads)?;
        shape.shared_mem_bytes = shared;
        let f = self.function(Filter, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut logits.data)
            .arg(&mut order.data)
            .arg(&mut bad);
        args.arg(&width).arg(&temperature).arg(&top_k);
        args.arg(&s.filter.top_p).arg(&idle);
        // SAFETY: filter_*(logits, order, bad, width, temperature, top_k, top_p, idle), a block for each row. `check`
        // proved that logits and order hold rows · width elements; order holds indices below width once the kernel
        // has filled it. A row that is held has no more numbers than the threads take, and shared memory has room for
        // the histogram and for all that the kernel sorts in it.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
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
        let threads = threads(s.rows, s.width);
        // The row, or a tile of it: numbers in rows of 16, and one such row's room after every 16.
        let row = s.width.min(threads * HELD).next_multiple_of(256);
        let [width, threads, shared] = words(OP, [s.width, threads, row / 16 * 17 * 4])?;
        let mut shape = grid(OP, s.rows, 1, threads)?;
        shape.shared_mem_bytes = shared;
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
        // row. `check` proved that logits and noise hold rows · width elements, keys rows · 4, codes and p rows; shared
        // memory has room for the row, or for a tile of it.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }
}
