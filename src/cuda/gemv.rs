//! Products of floats, and the matrices that all products read.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, PushKernelArg};

use super::memory::{Buffer, of_device};
use super::module::Family::Gemv;
use super::plan::{Kind, Ticket};
use super::wide::Inputs;
use super::{Device, along, elements, failed, grid, words};
use crate::error::{Result, product};
use crate::ops::gemm::{Activations, GemmShape};
use crate::ops::vq::GatherShape;
use crate::quant::{Format, QuantData, QuantMatrix};

/// Outputs of a strip, and inputs of a block; see `kernels/gemv.cu`.
pub(super) const STRIP: usize = 32;
/// Bytes of a thread's load.
const PIECE_BYTES: usize = 16;
/// Rows of a block of threads, where there is more than one.
const ROWS: usize = 4;
/// Bytes of a portion of canonical rows on the device while they are packed.
const PORTION_BYTES: usize = 32 << 20;

/// A weight matrix `[n, k]` in strips of 32 outputs.
#[derive(Debug)]
pub struct Matrix {
    pub(super) format: Format,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) data: CudaSlice<u8>,
    /// Scales; unused bytes where the format has none.
    pub(super) scales: CudaSlice<u8>,
    /// Of a planner: both counts.
    #[expect(dead_code, reason = "counted for as long as they live")]
    tickets: [Option<Ticket>; 2],
}

/// The names of a format's kernels: one row, several rows, packing, rows by index.
const fn kernels(format: Format) -> [&'static str; 4] {
    match format {
        Format::F32 => [
            "product_f32_1",
            "product_f32_4",
            "pack_f32",
            "gather_rows_f32",
        ],
        Format::Bf16 => [
            "product_bf16_1",
            "product_bf16_4",
            "pack_bf16",
            "gather_rows_bf16",
        ],
        Format::Q8_0 => ["product_q8_1", "product_q8_4", "pack_q8", "gather_rows_q8"],
        Format::Q4_0 => ["product_q4_1", "product_q4_4", "pack_q4", "gather_rows_q4"],
        Format::Q4G128 => [
            "product_q4g_1",
            "product_q4g_4",
            "pack_q4g",
            "gather_rows_q4g",
        ],
        Format::Q4K => [
            "product_q4k_1",
            "product_q4k_4",
            "pack_q4k",
            "gather_rows_q4k",
        ],
    }
}

/// How a format's blocks of 32 inputs lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Loads of 16 bytes that an output's block takes.
    pieces: usize,
    /// Bytes of a scale, and blocks that share it.
    scale: usize,
    share: usize,
}

impl Layout {
    pub(super) const fn of(format: Format) -> Self {
        let (pieces, scale, share) = match format {
            Format::F32 => (8, 0, 1),
            Format::Bf16 => (4, 0, 1),
            Format::Q8_0 => (2, 2, 1),
            Format::Q4_0 => (1, 2, 1),
            Format::Q4G128 => (1, 2, 4),
            Format::Q4K => (1, 8, 1),
        };
        Self {
            pieces,
            scale,
            share,
        }
    }

    /// Bytes of a strip's weights and scales for so many blocks, which begin where a scale does or lie within one.
    pub(super) const fn bytes(self, blocks: usize) -> usize {
        let scales = blocks.div_ceil(self.share) * self.scale;
        STRIP * (blocks * self.pieces * PIECE_BYTES + scales)
    }
}

impl Matrix {
    pub(super) fn zeros(device: &Device, format: Format, n: usize, k: usize) -> Result<Self> {
        // The canonical form's own bounds.
        format.bytes(n, k)?;
        let layout = Layout::of(format);
        let blocks = product("matrix", &[n.div_ceil(STRIP), k.div_ceil(STRIP), STRIP])?;
        let bytes = product("matrix", &[blocks, layout.pieces, PIECE_BYTES])?;
        // Blocks that share a scale are all there: see `Format::bytes`.
        let scales = product("matrix", &[blocks / layout.share, layout.scale])?.max(2);
        let (data, weights) = device.hold((Kind::Matrices, "matrix"), bytes)?;
        let (scales, sides) = device.hold((Kind::Matrices, "matrix"), scales)?;
        Ok(Self {
            format,
            n,
            k,
            data,
            scales,
            tickets: [weights, sides],
        })
    }

    /// Size of the matrix.
    #[must_use]
    pub(super) const fn size(&self) -> [usize; 2] {
        [self.n, self.k]
    }

    pub(super) fn belongs(&self, op: &'static str, device: &Device) -> Result<()> {
        of_device(op, &self.data, &device.stream)
    }
}

impl Device {
    pub(super) fn put_rows(
        &self,
        matrix: &mut Matrix,
        at: usize,
        rows: &QuantMatrix<'_>,
    ) -> Result<()> {
        const OP: &str = "put";
        matrix.belongs(OP, self)?;
        let range = rows.place(at, matrix.format, matrix.size())?;
        let bytes = match rows.data() {
            QuantData::F32(data) => bytemuck::cast_slice(data),
            QuantData::Bf16(data)
            | QuantData::Q8_0(data)
            | QuantData::Q4_0(data)
            | QuantData::Q4K(data)
            | QuantData::Q4G128(data) => data,
        };
        let row_bytes = matrix.format.bytes(1, matrix.k)?.max(1);
        let portion = (PORTION_BYTES / row_bytes).max(1);
        for (i, bytes) in bytes.chunks(portion * row_bytes).enumerate() {
            let rows = bytes.len() / row_bytes;
            self.pack_rows(matrix, range.start + i * portion, rows, bytes)?;
        }
        Ok(())
    }

    fn pack_rows(&self, matrix: &mut Matrix, at: usize, rows: usize, bytes: &[u8]) -> Result<()> {
        const OP: &str = "put";
        let kernel = kernels(matrix.format)[2];
        let layout = Layout::of(matrix.format);
        let source = self.upload(OP, bytes)?;
        let [at, rows_word, k] = words(OP, [at, rows, matrix.k])?;
        let count = product(OP, &[rows, matrix.k.div_ceil(STRIP), layout.pieces])?;
        let f = self.function(Gemv, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut matrix.data);
        if layout.scale > 0 {
            args.arg(&mut matrix.scales);
        }
        args.arg(&source).arg(&at).arg(&rows_word).arg(&k);
        // SAFETY: pack_*(w, [scales], source, at, rows, k). `place` proved that the rows `at .. at + rows` are the
        // matrix's and that the source holds them; threads past the last piece of the last row leave.
        unsafe { args.launch(elements(OP, count)?) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    pub(super) fn product(
        &self,
        s: GemmShape,
        x: &Buffer<f32>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "gemm";
        s.check(x.len, bias.map(|b| b.len), y.len)?;
        s.check_matrix(w.n, w.k)?;
        for buffer in [Some(x), bias, Some(&*y)].into_iter().flatten() {
            buffer.belongs(OP, &self.stream)?;
        }
        w.belongs(OP, self)?;
        let x = x.part(OP, "x", 0, s.m * s.k)?;
        let y = &mut y.part_mut(OP, "y", 0, s.m * s.n)?;
        self.product_rows(s, &x, w, bias, y)
    }

    /// A product whose lengths have been checked.
    pub(super) fn product_rows(
        &self,
        s: GemmShape,
        x: &CudaView<'_, u8>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        const OP: &str = "gemm";
        if s.m == 0 {
            return Ok(());
        }
        let done = match s.activations {
            Activations::A8 => self.integer_product(s, x, w, bias, y)?,
            #[cfg(feature = "cublaslt")]
            Activations::Bf16 if self.cublas_product(s, x, w, bias, y)? => true,
            Activations::Bf16 if self.hopper_product((Inputs::Plain, s), x, w, bias, y)? => true,
            Activations::Bf16 => self.wide_product((Inputs::Plain, s), x, w, bias, y)?,
            Activations::F32 => false,
        };
        if done {
            return Ok(());
        }
        let (several, rows) = (usize::from(s.m > 1), if s.m > 1 { ROWS } else { 1 });
        let [one, many, ..] = kernels(w.format);
        let kernel = [one, many][several];
        let [m, n, k] = words(OP, [s.m, s.n, s.k])?;
        let (has_bias, accumulate) = (u32::from(bias.is_some()), u32::from(s.accumulate));
        let shape = grid(OP, s.m.div_ceil(rows), s.n.div_ceil(STRIP), 256)?;
        let f = self.function(Gemv, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(y).arg(x).arg(&w.data).arg(&w.scales);
        match bias {
            Some(bias) => args.arg(&bias.data),
            // Not read.
            None => args.arg(&w.data),
        };
        args.arg(&m).arg(&n).arg(&k).arg(&has_bias).arg(&accumulate);
        // SAFETY: product_*(y, x, w, scales, bias, m, n, k, has_bias, accumulate). The callers' checks proved that x, y
        // and bias hold m · k, m · n and n elements and that w is [n, k]; the kernel reads rows below m, weights of its
        // strip, and writes below m and n.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }

    pub(super) fn gather_matrix(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        table: &Matrix,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        const OP: &str = "gather_rows";
        s.check_matrix(index.len, table.size(), out.len)?;
        index.belongs(OP, &self.stream)?;
        out.belongs(OP, &self.stream)?;
        table.belongs(OP, self)?;
        let kernel = kernels(table.format)[3];
        let Some(shape) = along(OP, &[s.rows, s.width])? else {
            return Ok(());
        };
        let [rows, n, k] = words(OP, [s.rows, table.n, table.k])?;
        let f = self.function(Gemv, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut out.data).arg(&index.data);
        args.arg(&table.data).arg(&table.scales);
        args.arg(&rows).arg(&n).arg(&k);
        // SAFETY: gather_rows_*(out, index, w, scales, rows, n, k). `check_matrix` proved that index holds rows and
        // out rows · k elements; the kernel compares each index with n before it reads.
        unsafe { args.launch(shape) }.map_err(|e| failed(kernel, e))?;
        Ok(())
    }
}
