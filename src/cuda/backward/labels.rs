//! Log-probabilities of labels, and their gradients.

use cudarc::driver::PushKernelArg;

use crate::cuda::memory::Buffer;
use crate::cuda::module::gradients;
use crate::cuda::{Device, failed, grid, words};
use crate::error::Result;
use crate::ops::backward::labels::LabelShape;

impl Device {
    pub(super) fn label_log_probs(
        &self,
        s: LabelShape,
        logits: &Buffer<f32>,
        labels: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "log_probs";
        s.check(logits.len, labels.len, out.len)?;
        self.owns(KERNEL, &[logits, out])?;
        labels.belongs(KERNEL, &self.stream)?;
        if s.rows == 0 {
            return Ok(());
        }
        let [width] = words(KERNEL, [s.width])?;
        let f = self.gradient(gradients::ROWS, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&logits.data);
        args.arg(&labels.data).arg(&width);
        // SAFETY: log_probs(out, logits, labels, width), a block for each row. `check` proved that logits hold rows · width
        // elements, labels and out rows; the kernel compares each label with width before it reads.
        unsafe { args.launch(grid(KERNEL, s.rows, 1, 256)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn label_log_probs_dx(
        &self,
        s: LabelShape,
        labels: &Buffer<u32>,
        weights: &Buffer<f32>,
        logits: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "log_probs_dx";
        s.check(logits.len, labels.len, weights.len)?;
        self.owns(KERNEL, &[weights, logits])?;
        labels.belongs(KERNEL, &self.stream)?;
        if s.rows == 0 {
            return Ok(());
        }
        let [width] = words(KERNEL, [s.width])?;
        let f = self.gradient(gradients::ROWS, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut logits.data).arg(&labels.data);
        args.arg(&weights.data).arg(&width);
        // SAFETY: log_probs_dx(logits, labels, weights, width), a block for each row. `check` proved that logits hold
        // rows · width elements, labels and weights rows.
        unsafe { args.launch(grid(KERNEL, s.rows, 1, 256)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
