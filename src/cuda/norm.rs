//! Norms, gates and activations.

use cudarc::driver::PushKernelArg;

use super::memory::Buffer;
use super::module::Family::Norm;
use super::{Device, along, failed, grid, words};
use crate::error::{Result, covers, product};
use crate::ops::norm::{Activation, GateShape, HeadNormShape, NormShape};

/// Heads of a block of threads: one for each half warp.
const HEADS: usize = 16;

/// The names of an activation's kernels: in place, and gated.
const fn kernels(activation: Activation) -> [&'static str; 2] {
    match activation {
        Activation::GeluTanh => ["activate_gelu_tanh", "gate_gelu_tanh"],
        Activation::GeluErf => ["activate_gelu_erf", "gate_gelu_erf"],
        Activation::Silu => ["activate_silu", "gate_silu"],
        Activation::Relu => ["activate_relu", "gate_relu"],
    }
}

impl Device {
    pub(super) fn norm_layer(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        [weight, bias]: [&Buffer<f32>; 2],
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "layer_norm";
        s.check(KERNEL, x.len, weight.len, bias.len, y.len)?;
        self.owns(KERNEL, &[x, weight, bias, y])?;
        if s.rows == 0 {
            return Ok(());
        }
        let [width] = words(KERNEL, [s.width])?;
        let f = self.function(Norm, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut y.data)
            .arg(&x.data)
            .arg(&weight.data)
            .arg(&bias.data);
        args.arg(&width).arg(&s.eps);
        // SAFETY: layer_norm(y, x, weight, bias, width, eps), a block for each row. `check` proved that x and y hold
        // rows · width elements and weight and bias width.
        unsafe { args.launch(grid(KERNEL, s.rows, 1, 256)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn norm_rms(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "rms_norm";
        s.check(KERNEL, x.len, weight.len, s.width, y.len)?;
        self.owns(KERNEL, &[x, weight, y])?;
        if s.rows == 0 {
            return Ok(());
        }
        let [width] = words(KERNEL, [s.width])?;
        let f = self.function(Norm, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut y.data).arg(&x.data).arg(&weight.data);
        args.arg(&width).arg(&s.eps);
        // SAFETY: rms_norm(y, x, weight, width, eps). As layer_norm.
        unsafe { args.launch(grid(KERNEL, s.rows, 1, 256)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn norm_heads(
        &self,
        s: HeadNormShape,
        x: &mut Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "head_norm";
        s.check(x.len, weight.len, bias.len)?;
        self.owns(KERNEL, &[x, weight, bias])?;
        let all = product(KERNEL, &[s.rows, s.heads])?;
        if all == 0 {
            return Ok(());
        }
        let sizes = [s.rows, s.heads, s.head_dim, s.stride, s.offset];
        let [rows, heads, head_dim, stride, offset] = words(KERNEL, sizes)?;
        let f = self.function(Norm, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut x.data).arg(&weight.data).arg(&bias.data);
        args.arg(&rows).arg(&heads).arg(&head_dim);
        args.arg(&stride).arg(&offset).arg(&s.eps);
        // SAFETY: head_norm(x, weight, bias, rows, heads, head_dim, stride, offset, eps). `check` proved that the heads
        // lie inside a row's stride, that x holds the rows and weight and bias head_dim elements; half warps past the
        // last head read it and write nothing.
        unsafe { args.launch(grid(KERNEL, all.div_ceil(HEADS), 1, 256)?) }
            .map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn add_to(&self, len: usize, x: &Buffer<f32>, y: &mut Buffer<f32>) -> Result<()> {
        const KERNEL: &str = "add";
        covers(KERNEL, "x", x.len, len)?;
        covers(KERNEL, "y", y.len, len)?;
        self.owns(KERNEL, &[x, y])?;
        let Some(shape) = along(KERNEL, &[len])? else {
            return Ok(());
        };
        let len = len as u64;
        let f = self.function(Norm, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut y.data).arg(&x.data).arg(&len);
        // SAFETY: add(y, x, len). Both hold len elements; threads from len on do nothing.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn apply(
        &self,
        activation: Activation,
        len: usize,
        x: &mut Buffer<f32>,
    ) -> Result<()> {
        covers("activate", "x", x.len, len)?;
        self.owns("activate", &[x])?;
        let Some(shape) = along("activate", &[len])? else {
            return Ok(());
        };
        let [kernel, _] = kernels(activation);
        let len = len as u64;
        let f = self.function(Norm, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut x.data).arg(&len);
        // SAFETY: activate_*(x, len). x holds len elements; threads from len on do nothing.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    pub(super) fn gated(&self, s: GateShape, x: &Buffer<f32>, y: &mut Buffer<f32>) -> Result<()> {
        const OP: &str = "gate";
        s.check(x.len, y.len)?;
        self.owns(OP, &[x, y])?;
        let Some(shape) = along(OP, &[s.rows, s.width])? else {
            return Ok(());
        };
        let [_, kernel] = kernels(s.activation);
        let [rows, width] = words(OP, [s.rows, s.width])?;
        let f = self.function(Norm, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut y.data).arg(&x.data).arg(&rows).arg(&width);
        // SAFETY: gate_*(y, x, rows, width). `check` proved that y holds rows · width elements and x twice as many;
        // threads past the last row do nothing.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }
}
