//! Convolution as a product, and the way between bytes and numbers.

use cudarc::driver::{CudaSlice, PushKernelArg};

use super::faults::Check;
use super::gemv::Matrix;
use super::memory::Buffer;
use super::module::Family::Conv;
use super::{Device, along, elements, failed, grid, words};
use crate::error::{Result, covers, product};
use crate::ops::conv::{ConvShape, PatchShape, Rounding};

/// Bytes of the inputs of some output pixels, written side by side before they are multiplied: a large GPU's second
/// cache keeps them until they are read.
const PATCH_BYTES: usize = 32 << 20;
/// Warps of a block that copies patches, a pixel each, and how many channels a tap has for that at least.
const COPIERS: usize = 8;
const COPIED: usize = 64;
const COPIER_THREADS: u32 = 256;

impl Device {
    pub(super) fn convolution(
        &self,
        s: ConvShape,
        x: &Buffer<f32>,
        w: &Matrix,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "conv2d";
        s.check(x.len, bias.len, y.len)?;
        let [n, k] = w.size();
        s.product(1).check_matrix(n, k)?;
        w.belongs(OP, self)?;
        self.owns(OP, &[x, bias, y])?;
        let [rows, cols] = s.output();
        let pixels = product(OP, &[s.images, rows, cols])?;
        // A kernel of one tap over all pixels is the product itself.
        if s.kernel == 1
            && s.stride == 1
            && !s.upsample
            && [rows, cols] == [s.height, s.width]
            && s.pad_before == 0
        {
            let x = x.part(OP, "x", 0, pixels * k)?;
            let y = &mut y.part_mut(OP, "y", 0, pixels * n)?;
            return self.product_rows(s.product(pixels), &x, w, Some(bias), y);
        }
        let portion = (PATCH_BYTES / size_of::<f32>() / k).max(1);
        let portion = portion.min(pixels);
        if portion == 0 {
            return Ok(());
        }
        let bytes = product(OP, &[portion, k, size_of::<f32>()])?;
        let mut patches = self.bytes(OP, bytes)?;
        for first in (0..pixels).step_by(portion) {
            let some = portion.min(pixels - first);
            self.patches(s, x, first, some, &mut patches)?;
            let y = &mut y.part_mut(OP, "y", first * n, some * n)?;
            self.product_rows(s.product(some), &patches.as_view(), w, Some(bias), y)?;
        }
        Ok(())
    }

    /// The inputs of `some` output pixels from pixel `first` on.
    fn patches(
        &self,
        s: ConvShape,
        x: &Buffer<f32>,
        first: usize,
        some: usize,
        out: &mut CudaSlice<u8>,
    ) -> Result<()> {
        const OP: &str = "im2col";
        let [rows, cols] = words(OP, s.output())?;
        // The last pixel's number, too, and that of a warp behind it.
        words(OP, [first.saturating_add(some).saturating_add(COPIERS)])?;
        let [first, pixels] = words(OP, [first, some])?;
        let [height, width, c_in] = words(OP, [s.height, s.width, s.c_in])?;
        let [kernel, stride, dilation, pad] =
            words(OP, [s.kernel, s.stride, s.dilation, s.pad_before])?;
        words(OP, [s.k()])?;
        let upsample = u32::from(s.upsample);
        let (name, shape) = if s.c_in.is_multiple_of(4) && s.c_in >= COPIED {
            (
                "im2col_4",
                grid(OP, some.div_ceil(COPIERS), 1, COPIER_THREADS)?,
            )
        } else {
            (OP, elements(OP, product(OP, &[some, s.k()])?)?)
        };
        let f = self.function(Conv, name)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(out).arg(&x.data).arg(&first).arg(&pixels);
        args.arg(&rows).arg(&cols).arg(&height).arg(&width);
        args.arg(&c_in).arg(&kernel).arg(&stride).arg(&dilation);
        args.arg(&pad).arg(&upsample);
        // SAFETY: im2col*(out, x, first, pixels, rows, cols, height, width, c_in, kernel, stride, dilation, pad,
        // upsample). `check` proved that x holds the images; out holds the inputs of `some` pixels; the kernels read
        // pixels inside an image only, and threads past the last input leave. Four channels at a time lie at multiples
        // of 16 bytes.
        unsafe { args.launch(shape) }.map_err(|e| failed(name, e))?;
        Ok(())
    }

    pub(super) fn bytes_of(
        &self,
        rounding: Rounding,
        len: usize,
        x: &Buffer<f32>,
        out: &mut Buffer<u8>,
    ) -> Result<()> {
        const KERNEL: &str = "to_bytes";
        covers(KERNEL, "x", x.len, len)?;
        covers(KERNEL, "out", out.len, len)?;
        self.owns(KERNEL, &[x])?;
        out.belongs(KERNEL, &self.stream)?;
        let Some(shape) = along(KERNEL, &[len])? else {
            return Ok(());
        };
        let rounding: u32 = match rounding {
            Rounding::Truncate => 0,
            Rounding::Nearest => 1,
            Rounding::Shift => 2,
        };
        let len = len as u64;
        let mut faults = self.faults()?;
        let mut bad = faults.word(Check::ToBytes)?;
        let f = self.function(Conv, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&mut bad).arg(&x.data);
        args.arg(&len).arg(&rounding);
        // SAFETY: to_bytes(out, bad, x, len, rounding). Both hold len elements; threads from len on leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn cut_patches(
        &self,
        s: PatchShape,
        pixels: &Buffer<u8>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "patchify";
        s.check(pixels.len, out.len)?;
        self.owns(KERNEL, &[out])?;
        pixels.belongs(KERNEL, &self.stream)?;
        let [rows, cols] = s.grid();
        let sizes = [s.images, rows, cols, 3, s.patch, s.patch];
        let Some(shape) = along(KERNEL, &sizes)? else {
            return Ok(());
        };
        let [len] = words(KERNEL, [product(KERNEL, &sizes)?])?;
        words(KERNEL, [rows * cols, 3 * s.patch * s.patch])?;
        let [height, width, rows, cols, patch] =
            words(KERNEL, [s.height, s.width, rows, cols, s.patch])?;
        let f = self.function(Conv, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&pixels.data).arg(&len);
        args.arg(&height).arg(&width).arg(&rows).arg(&cols);
        args.arg(&patch);
        // SAFETY: patchify(out, pixels, len, height, width, rows, cols, patch). `check` proved that pixels hold the
        // images and out their whole patches, len elements; threads from len on leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
