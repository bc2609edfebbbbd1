//! The head of a yes/no judge.

use cudarc::driver::PushKernelArg;

use super::faults::Check;
use super::memory::Buffer;
use super::module::Family::RewardHead;
use super::{Device, failed, grid, words};
use crate::error::Result;
use crate::ops::reward_head::AnswerShape;

impl Device {
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
