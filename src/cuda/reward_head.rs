//! The heads of judges.

use cudarc::driver::PushKernelArg;

use super::faults::Check;
use super::memory::Buffer;
use super::module::Family::RewardHead;
use super::{Device, THREADS, failed, grid, words};
use crate::error::Result;
use crate::ops::reward_head::{AnswerShape, PoolShape};

impl Device {
    pub(super) fn pooled(
        &self,
        s: PoolShape,
        x: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "pool_rows";
        s.check(x.len, out.len)?;
        self.owns(KERNEL, &[x, out])?;
        let [_, pooled] = s.view();
        let len = s.views * pooled;
        if len == 0 {
            return Ok(());
        }
        let [views, rows, heads, head_dim] = words(KERNEL, [s.views, s.rows, s.heads, s.head_dim])?;
        // One row's width and the number of outputs are computed in 32 bits.
        words(KERNEL, [s.width()?, len])?;
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::PoolRows)?;
        let f = self.function(RewardHead, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&mut bad).arg(&x.data);
        args.arg(&views).arg(&rows).arg(&heads).arg(&head_dim);
        let blocks = len.div_ceil(THREADS as usize);
        // SAFETY: pool_rows(out, bad, x, views, rows, heads, head_dim), a thread for each output; those behind the last
        // leave. `check` proved that x holds views · rows · heads · (1 + head_dim) and out views · heads · head_dim
        // elements.
        unsafe { args.launch(grid(KERNEL, blocks, 1, THREADS)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn answers(
        &self,
        s: AnswerShape,
        logits: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "answer";
        s.check(logits.len, out.len)?;
        self.owns(KERNEL, &[logits, out])?;
        if s.rows == 0 {
            return Ok(());
        }
        let [width, yes, no] = words(KERNEL, [s.width, s.yes, s.no])?;
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::Answer)?;
        let f = self.function(RewardHead, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&mut bad).arg(&logits.data);
        args.arg(&width).arg(&yes).arg(&no);
        // SAFETY: answer(out, bad, logits, width, yes, no), a block for each row. `check` proved that logits hold
        // rows · width and out rows · 2 elements and that both columns lie below width.
        unsafe { args.launch(grid(KERNEL, s.rows, 1, 256)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
