//! Gradients of norms, activations and gates.

use cudarc::driver::{CudaSlice, PushKernelArg};

use super::{ROWS, columns};
use crate::cuda::memory::Buffer;
use crate::cuda::module::gradients;
use crate::cuda::{Device, along, failed, grid, words};
use crate::error::{Result, covers, product};
use crate::ops::norm::{Activation, GateShape, HeadNormShape, NormShape};

/// The names of an activation's kernels: alone, and gated.
const fn kernels(activation: Activation) -> [&'static str; 2] {
    match activation {
        Activation::GeluTanh => ["activate_dx_gelu_tanh", "gate_dx_gelu_tanh"],
        Activation::GeluErf => ["activate_dx_gelu_erf", "gate_dx_gelu_erf"],
        Activation::Silu => ["activate_dx_silu", "gate_dx_silu"],
        Activation::Relu => ["activate_dx_relu", "gate_dx_relu"],
    }
}

/// Whole rows as heads.
const fn whole(s: NormShape) -> HeadNormShape {
    HeadNormShape {
        rows: s.rows,
        heads: 1,
        head_dim: s.width,
        stride: s.width,
        offset: 0,
        eps: s.eps,
    }
}

impl Device {
    pub(super) fn norm_rows_dx(
        &self,
        (s, centred): (NormShape, bool),
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "norm_dx";
        s.check(KERNEL, x.len, weight.len, s.width, dy.len)?;
        covers(KERNEL, "dx", dx.len, product(KERNEL, &[s.rows, s.width])?)?;
        self.owns(KERNEL, &[x, weight, dy, dx])?;
        if s.rows == 0 {
            return Ok(());
        }
        let [rows, width] = words(KERNEL, [s.rows, s.width])?;
        let centred = u32::from(centred);
        let f = self.gradient(gradients::ROWS, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dx.data).arg(&x.data);
        args.arg(&dy.data).arg(&weight.data);
        args.arg(&rows).arg(&width).arg(&s.eps).arg(&centred);
        // SAFETY: norm_dx(dx, x, dy, weight, rows, width, eps, centred). `check` proved that x and dy hold rows · width
        // elements and weight width, and dx was checked behind it; half warps from `rows` on read the last row and write
        // nothing.
        unsafe { args.launch(grid(KERNEL, s.rows.div_ceil(ROWS), 1, 256)?) }
            .map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn norm_rows_dw(
        &self,
        (s, centred): (NormShape, bool),
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "norm_dw";
        s.check(OP, x.len, dw.len, s.width, dy.len)?;
        let sums = if centred { 2 } else { 1 };
        covers(OP, "dw", dw.len, product(OP, &[sums, s.width])?)?;
        self.sums_dw(whole(s), centred, x, dy, dw)
    }

    pub(super) fn norm_heads_dx(
        &self,
        s: HeadNormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        d: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "head_norm_dx";
        s.check(x.len, weight.len, s.head_dim)?;
        s.check(d.len, weight.len, s.head_dim)?;
        self.owns(KERNEL, &[x, weight, d])?;
        let all = product(KERNEL, &[s.rows, s.heads])?;
        if all == 0 {
            return Ok(());
        }
        let sizes = [s.rows, s.heads, s.head_dim, s.stride, s.offset];
        let [rows, heads, head_dim, stride, offset] = words(KERNEL, sizes)?;
        let f = self.gradient(gradients::ROWS, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut d.data).arg(&x.data).arg(&weight.data);
        args.arg(&rows).arg(&heads).arg(&head_dim);
        args.arg(&stride).arg(&offset).arg(&s.eps);
        // SAFETY: head_norm_dx(d, x, weight, rows, heads, head_dim, stride, offset, eps). `check` proved that the heads lie
        // inside a row's stride, that x and d hold the rows and weight head_dim elements; half warps past the last head
        // read it and write nothing.
        unsafe { args.launch(grid(KERNEL, all.div_ceil(ROWS), 1, 256)?) }
            .map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn norm_heads_dw(
        &self,
        s: HeadNormShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "head_norm_dw";
        s.check(x.len, s.head_dim, s.head_dim)?;
        s.check(dy.len, s.head_dim, s.head_dim)?;
        covers(OP, "dw", dw.len, product(OP, &[2, s.head_dim])?)?;
        self.sums_dw(s, true, x, dy, dw)
    }

    /// Sums over heads whose lengths have been checked, of the bias, too, if `centred`.
    fn sums_dw(
        &self,
        s: HeadNormShape,
        centred: bool,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "norm_dw";
        self.owns(KERNEL, &[x, dy, dw])?;
        if product(KERNEL, &[s.rows, s.heads])? == 0 {
            return Ok(());
        }
        let pairs = self.statistics(s, centred, x)?;
        let sizes = [s.rows, s.heads, s.head_dim, s.stride, s.offset];
        let [rows, heads, width, stride, offset] = words(KERNEL, sizes)?;
        let has_bias = u32::from(centred);
        // The bias' columns, too.
        words(KERNEL, [product(KERNEL, &[2, s.head_dim])?])?;
        let f = self.gradient(gradients::ROWS, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dw.data).arg(&x.data).arg(&dy.data);
        args.arg(&pairs).arg(&rows).arg(&heads).arg(&width);
        args.arg(&stride).arg(&offset).arg(&has_bias);
        // SAFETY: norm_dw(dw, x, dy, pairs, rows, heads, width, stride, offset, has_bias), a thread a column. The callers'
        // checks proved that the heads lie inside a row's stride, that x and dy hold the rows and dw the sums; `statistics`
        // made a pair for each head; threads from width on leave.
        unsafe { args.launch(columns(KERNEL, s.head_dim)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    /// Mean and scale of each head.
    fn statistics(
        &self,
        s: HeadNormShape,
        centred: bool,
        x: &Buffer<f32>,
    ) -> Result<CudaSlice<u8>> {
        const KERNEL: &str = "norm_statistics";
        let all = product(KERNEL, &[s.rows, s.heads])?;
        let bytes = product(KERNEL, &[all, 2, size_of::<f32>()])?;
        let mut pairs = self.bytes(KERNEL, bytes)?;
        let sizes = [s.rows, s.heads, s.head_dim, s.stride, s.offset];
        let [rows, heads, width, stride, offset] = words(KERNEL, sizes)?;
        let centred = u32::from(centred);
        let f = self.gradient(gradients::ROWS, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut pairs).arg(&x.data);
        args.arg(&rows).arg(&heads).arg(&width);
        args.arg(&stride).arg(&offset).arg(&s.eps).arg(&centred);
        // SAFETY: norm_statistics(out, x, rows, heads, width, stride, offset, eps, centred). The callers' checks proved that
        // x holds the rows and that the heads lie inside them; half warps past the last head read it and write nothing.
        unsafe { args.launch(grid(KERNEL, all.div_ceil(ROWS), 1, 256)?) }
            .map_err(|e| failed(KERNEL, e))?;
        Ok(pairs)
    }

    pub(super) fn apply_dx(
        &self,
        activation: Activation,
        len: usize,
        x: &Buffer<f32>,
        d: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "activate_dx";
        covers(OP, "x", x.len, len)?;
        covers(OP, "d", d.len, len)?;
        self.owns(OP, &[x, d])?;
        let Some(shape) = along(OP, &[len])? else {
            return Ok(());
        };
        let [kernel, _] = kernels(activation);
        let len = len as u64;
        let f = self.gradient(gradients::ROWS, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut d.data).arg(&x.data).arg(&len);
        // SAFETY: activate_dx_*(d, x, len). Both hold len elements; threads from len on do nothing.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    pub(super) fn gated_dx(
        &self,
        s: GateShape,
        x: &Buffer<f32>,
        dy: &Buffer<f32>,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "gate_dx";
        s.check(x.len, dy.len)?;
        s.check(dx.len, dy.len)?;
        self.owns(OP, &[x, dy, dx])?;
        let Some(shape) = along(OP, &[s.rows, s.width])? else {
            return Ok(());
        };
        let [_, kernel] = kernels(s.activation);
        let [rows, width] = words(OP, [s.rows, s.width])?;
        let f = self.gradient(gradients::ROWS, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dx.data).arg(&x.data).arg(&dy.data);
        args.arg(&rows).arg(&width);
        // SAFETY: gate_dx_*(dx, x, dy, rows, width). `check` proved that dy holds rows · width elements, x and dx twice as
        // many; threads past the last row do nothing.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }
}
