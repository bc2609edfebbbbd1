//! Gradients of products and of tables.

use cudarc::driver::PushKernelArg;

use super::columns;
use crate::cuda::memory::Buffer;
use crate::cuda::module::gradients::{GEMM, ROWS as TABLES};
use crate::cuda::{Device, Matrix, failed, grid, words};
use crate::error::{Result, covers, product};
use crate::ops::gemm::GemmShape;
use crate::ops::norm::nonzero;
use crate::ops::vq::GatherShape;
use crate::quant::Format;

/// Rows of a block of threads that makes gradients of inputs, and inputs of one.
const ROWS: usize = 16;
/// Inputs of a block; outputs, too, where a block makes gradients of weights.
const SIDE: usize = 64;

/// The name of a format's kernel.
const fn kernel(format: Format) -> &'static str {
    match format {
        Format::F32 => "gemm_dx_f32",
        Format::Bf16 => "gemm_dx_bf16",
        Format::Q8_0 => "gemm_dx_q8",
        Format::Q4_0 => "gemm_dx_q4",
        Format::Q4G128 => "gemm_dx_q4g",
        Format::Q4K => "gemm_dx_q4k",
    }
}

impl Device {
    pub(super) fn product_dx(
        &self,
        s: GemmShape,
        dy: &Buffer<f32>,
        w: &Matrix,
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "gemm_dx";
        s.check(dx.len, None, dy.len)?;
        let [n, k] = w.size();
        s.check_matrix(n, k)?;
        self.owns(OP, &[dy, dx])?;
        w.belongs(OP, self)?;
        if s.m == 0 {
            return Ok(());
        }
        let kernel = kernel(w.format);
        let [m, n, k] = words(OP, [s.m, s.n, s.k])?;
        let accumulate = u32::from(s.accumulate);
        let f = self.gradient(GEMM, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dx.data).arg(&dy.data);
        args.arg(&w.data).arg(&w.scales);
        args.arg(&m).arg(&n).arg(&k).arg(&accumulate);
        let shape = grid(OP, s.m.div_ceil(ROWS), s.k.div_ceil(SIDE), 256)?;
        // SAFETY: gemm_dx_*(dx, dy, w, scales, m, n, k, accumulate). `check` proved that dx and dy hold m · k and m · n
        // elements and that w is [n, k]; the kernel reads strips and blocks of inputs that are there, rows below m and
        // outputs below n, and writes below m and k.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    pub(super) fn product_dw(
        &self,
        s: GemmShape,
        dy: &Buffer<f32>,
        x: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "gemm_dw";
        s.check_dw(x.len, dy.len, dw.len)?;
        self.owns(KERNEL, &[dy, x, dw])?;
        let [m, n, k] = words(KERNEL, [s.m, s.n, s.k])?;
        let f = self.gradient(GEMM, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dw.data).arg(&dy.data).arg(&x.data);
        args.arg(&m).arg(&n).arg(&k);
        let shape = grid(KERNEL, s.k.div_ceil(SIDE), s.n.div_ceil(SIDE), 256)?;
        // SAFETY: gemm_dw(dw, dy, x, m, n, k). `check_dw` proved that dw, dy and x hold n · k, m · n and m · k elements; the
        // kernel reads and writes below m, n and k.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn rows_summed(
        &self,
        [rows, width]: [usize; 2],
        dy: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "sum_rows";
        nonzero(KERNEL, "width", width)?;
        covers(KERNEL, "dy", dy.len, product(KERNEL, &[rows, width])?)?;
        covers(KERNEL, "out", out.len, width)?;
        self.owns(KERNEL, &[dy, out])?;
        let shape = columns(KERNEL, width)?;
        let [rows, width] = words(KERNEL, [rows, width])?;
        let f = self.gradient(TABLES, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&dy.data);
        args.arg(&rows).arg(&width);
        // SAFETY: sum_rows(out, dy, rows, width), a thread a column. The lengths have been checked; threads from width on
        // leave.
        unsafe { args.launch(shape) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }

    pub(super) fn gathered_dw(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        dy: &Buffer<f32>,
        dw: &mut Buffer<f32>,
    ) -> Result<()> {
        const KERNEL: &str = "gather_dw";
        s.check(index.len, dw.len, dy.len)?;
        self.owns(KERNEL, &[dy, dw])?;
        index.belongs(KERNEL, &self.stream)?;
        if s.rows == 0 {
            return Ok(());
        }
        let [rows, width, table_rows] = words(KERNEL, [s.rows, s.width, s.table_rows])?;
        let f = self.gradient(TABLES, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut dw.data).arg(&index.data).arg(&dy.data);
        args.arg(&rows).arg(&width).arg(&table_rows);
        // SAFETY: gather_dw(dw, index, dy, rows, width, table_rows), a block for each row. `check` proved all three lengths;
        // the kernel compares each index with table_rows before it writes.
        unsafe { args.launch(grid(KERNEL, s.rows, 1, 256)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(())
    }
}
