//! Gradients of pooled rows.

use cudarc::driver::PushKernelArg;

use super::ROWS;
use crate::cuda::memory::Buffer;
use crate::cuda::module::gradients;
use crate::cuda::{Device, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::reward_head::PoolShape;

impl Device {
    pub(super) fn pooled_dx(
        &self,
        s: PoolShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "pool_rows_dx";
        s.check_dx(x.len, dy.len, dx.len)?;
        self.owns(KERNEL, &[x, dy, dx])?;
        let all = product(KERNEL, &[s.views, s.heads])?;
        if all == 0 {
            return Ok(());
        }
        let [views, rows, heads, head_dim] = words(KERNEL, [s.views, s.rows, s.heads, s.head_dim])?;
        // A row's width is computed in 32 bits.
        words(KERNEL, [s.width()?])?;
        let f = self.gradient(gradients::ROWS, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dx.data).arg(&x.data).arg(&dy.data);
        args.arg(&views).arg(&rows).arg(&heads).arg(&head_dim);
        // SAFETY: pool_rows_dx(dx, x, dy, views, rows, heads, head_dim). `check_dx` proved that x and dx hold views · rows ·
        // heads · (1 + head_dim) and dy views · heads · head_dim elements; half warps past the last head read it and write
        // nothing.
        unsafe { args.launch(grid(KERNEL, all.div_ceil(ROWS), 1, 256)?) }
            .map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
