//! From a checkpoint into device memory, a portion at a time.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use super::packer::{Packer, finite, not_finite, stored_as};
use super::{Precision, Tensor, WeightSource, zeros};
use crate::error::{Error, Name, Result, covers, product};
use crate::ops::Backend;
use crate::ops::gemm::Activations;
use crate::quant::{Format, QuantMatrix};

/// Rows of a matrix that are converted together; a device may pack by as many.
const PORTION_ROWS: usize = 64;
/// Elements that are converted together where rows are very wide or do not matter.
const PORTION: usize = 1 << 21;

/// Reads a checkpoint into device memory, and remembers what was read so that leftovers can be named.
///
/// Tensors are converted in portions of some rows, and each portion's bytes are released in the source: beside the
/// result only a portion is in memory.
pub struct Loader<'a, B: Backend> {
    /// Device that the weights go to.
    pub backend: &'a B,
    source: &'a dyn WeightSource,
    precision: Precision,
    rename: &'a dyn Fn(&str) -> String,
    used: RefCell<BTreeSet<String>>,
}

impl<B: Backend> core::fmt::Debug for Loader<'_, B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Loader")
            .field("precision", &self.precision)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

/// A tensor whose type, shape and length were checked.
struct Checked<'a> {
    /// Its name in the checkpoint.
    name: String,
    tensor: Tensor<'a>,
    /// Elements and bytes of a piece.
    piece: (usize, usize),
    /// All elements.
    len: usize,
}

impl Checked<'_> {
    /// The bytes of some elements, which are whole pieces.
    fn bytes(&self, elements: Range<usize>) -> &[u8] {
        let (len, size) = self.piece;
        let range = elements.start / len * size..elements.end / len * size;
        self.tensor.bytes.get(range).unwrap_or_default()
    }
}

impl<'a, B: Backend> Loader<'a, B> {
    /// A loader of `source` whose large matrices are kept at `precision`. Names that the model asks for go through
    /// `rename` first, so that one model reads several namings.
    pub fn new(
        backend: &'a B,
        source: &'a dyn WeightSource,
        precision: impl Into<Precision>,
        rename: &'a dyn Fn(&str) -> String,
    ) -> Self {
        Self {
            backend,
            source,
            precision: precision.into(),
            rename,
            used: RefCell::default(),
        }
    }

    /// What products with its matrices do with their activations.
    #[must_use]
    pub const fn activations(&self) -> Activations {
        self.precision.activations
    }

    /// Whether the checkpoint has this tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.source.tensor(&(self.rename)(name)).is_some()
    }

    fn checked(&self, name: &str, shape: &[usize]) -> Result<Checked<'_>> {
        let stored = (self.rename)(name);
        let tensor = self
            .source
            .tensor(&stored)
            .ok_or_else(|| Error::MissingTensor {
                name: Name::owned(&stored),
            })?;
        let core = |dims: &[usize]| dims.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
        if core(&tensor.shape) != core(shape) {
            return Err(Error::TensorShape {
                name: Name::owned(&stored),
                got: Name::shape(&tensor.shape),
                want: Name::shape(shape),
            });
        }
        let len = product("weights", shape)?;
        let piece = tensor.dtype.piece().ok_or_else(|| Error::TensorType {
            name: Name::owned(&stored),
            dtype: tensor.dtype.name(),
        })?;
        let wrong = |problem| Error::FormatEntry {
            format: "weights",
            entry: Name::owned(&stored),
            problem,
        };
        if !shape.last().unwrap_or(&1).is_multiple_of(piece.0) {
            return Err(wrong("has rows that are no whole blocks"));
        }
        if tensor.bytes.len() != product("weights", &[len / piece.0, piece.1])? {
            return Err(wrong("has another length than its shape"));
        }
        self.used.borrow_mut().insert(stored.clone());
        Ok(Checked {
            name: stored,
            tensor,
            piece,
            len,
        })
    }

    /// Decodes elements from `at` on, and releases their bytes.
    fn decode(&self, tensor: &Checked<'_>, at: usize, out: &mut [f32]) -> Result<()> {
        Self::decode_kept(tensor, at, out)?;
        self.source.release(tensor.bytes(at..at + out.len()));
        Ok(())
    }

    /// Decodes elements from `at` on.
    fn decode_kept(tensor: &Checked<'_>, at: usize, out: &mut [f32]) -> Result<()> {
        tensor
            .tensor
            .dtype
            .decode(tensor.bytes(at..at + out.len()), out);
        match out.iter().position(|v| !v.is_finite()) {
            Some(element) => Err(not_finite(&tensor.name, at + element)),
            None => Ok(()),
        }
    }

    /// A tensor's elements as floats; its shape may differ from `shape` only in sizes of 1.
    ///
    /// # Errors
    /// A missing tensor, another shape, an element type that is not read, elements that are not finite, or no memory.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.checked(name, shape)?;
        let mut out = zeros(tensor.len)?;
        for (i, out) in out.chunks_mut(PORTION).enumerate() {
            self.decode(&tensor, i * PORTION, out)?;
        }
        Ok(out)
    }

    /// Some rows of a tensor `[rows, k]` as floats.
    ///
    /// # Errors
    /// As [`floats`](Self::floats), or rows past the end.
    pub fn rows(&self, name: &str, shape: [usize; 2], rows: Range<usize>) -> Result<Vec<f32>> {
        let tensor = self.checked(name, &shape)?;
        covers("weights", "rows", shape[0], rows.end)?;
        let mut out = zeros(rows.len() * shape[1])?;
        self.decode(&tensor, rows.start * shape[1], &mut out)?;
        Ok(out)
    }

    /// A tensor in a buffer of the device.
    ///
    /// # Errors
    /// As [`floats`](Self::floats).
    pub fn buffer(&self, name: &str, shape: &[usize]) -> Result<B::Buffer<f32>> {
        let tensor = self.checked(name, shape)?;
        let mut buffer = self.backend.zeros(tensor.len)?;
        if !self.backend.keeps_numbers() {
            return Ok(buffer);
        }
        let mut portion = zeros(PORTION.min(tensor.len))?;
        for at in (0..tensor.len).step_by(PORTION) {
            let portion = &mut portion[..PORTION.min(tensor.len - at)];
            self.decode(&tensor, at, portion)?;
            self.backend.write(&mut buffer, at, portion)?;
        }
        Ok(buffer)
    }

    /// Floats in a buffer of the device.
    ///
    /// # Errors
    /// No memory.
    pub fn upload(&self, data: &[f32]) -> Result<B::Buffer<f32>> {
        let mut buffer = self.backend.zeros(data.len())?;
        self.backend.write(&mut buffer, 0, data)?;
        Ok(buffer)
    }

    /// A packed matrix of tensors `[n, k]` below each other, in the loader's format or what
    /// [`Format::fitting`] makes of it. Blocks that are stored in that format are taken as they are.
    ///
    /// # Errors
    /// As [`floats`](Self::floats).
    pub fn matrix(&self, parts: &[(&str, usize)], k: usize) -> Result<B::Matrix> {
        let n = parts
            .iter()
            .try_fold(0_usize, |n, part| n.checked_add(part.1))
            .ok_or(Error::Overflow { op: "weights" })?;
        // Before any memory: sizes that only the configuration states may be absurd.
        let tensors = parts
            .iter()
            .map(|&(name, n)| self.checked(name, &[n, k]))
            .collect::<Result<Vec<_>>>()?;
        let mut matrix = self
            .backend
            .matrix(self.precision.format.fitting(k), n, k)?;
        let mut at = 0;
        for (tensor, &(_, n)) in tensors.iter().zip(parts) {
            self.put(tensor, (self.precision.format, k), 0..n, &mut matrix, at)?;
            at += n;
        }
        Ok(matrix)
    }

    /// A width filled up with zeros where it is not of whole blocks of the loader's format, nor of Q4_0 in place of other
    /// formats of 4 bits: rows of that width need no floats, and are of the length that every device has kernels for.
    #[must_use]
    pub const fn whole(&self, width: usize) -> usize {
        match self.precision.format.fitting(width) {
            Format::F32 if self.precision.format.block() > 1 => {
                width.next_multiple_of(Format::Q4G128.block())
            }
            _ => width,
        }
    }

    /// A packed matrix of a tensor `[n, k]`, filled up with zeros to `[to_n, to_k]`.
    ///
    /// # Errors
    /// As [`floats`](Self::floats), or a smaller size than the tensor's.
    pub fn filled(
        &self,
        name: &str,
        [n, k]: [usize; 2],
        [to_n, to_k]: [usize; 2],
    ) -> Result<B::Matrix> {
        if [n, k] == [to_n, to_k] {
            return self.matrix(&[(name, n)], k);
        }
        let tensor = self.checked(name, &[n, k])?;
        covers("weights", "rows", to_n, n)?;
        covers("weights", "columns", to_k, k)?;
        let format = self.precision.format.fitting(to_k);
        // A matrix begins as zeros.
        let mut matrix = self.backend.matrix(format, to_n, to_k)?;
        if !self.backend.keeps_numbers() {
            return Ok(matrix);
        }
        let mut floats = zeros(product("weights", &[PORTION_ROWS.min(n), to_k])?)?;
        let mut packer = Packer::new(format, floats.len())?;
        for at in (0..n).step_by(PORTION_ROWS) {
            let rows = PORTION_ROWS.min(n - at);
            for (i, row) in floats.chunks_mut(to_k.max(1)).take(rows).enumerate() {
                Self::decode_kept(&tensor, (at + i) * k, &mut row[..k])?;
            }
            let view = packer.view(rows, to_k, &floats[..rows * to_k], (&tensor.name, at * k))?;
            self.backend.put(&mut matrix, at, &view)?;
            self.source.release(tensor.bytes(at * k..(at + rows) * k));
        }
        Ok(matrix)
    }

    /// A table `[n, k]` that rows are picked from, kept as it is stored where that is a format of matrices, else in F32:
    /// whatever the loader's format, the rows have the bits of the file.
    ///
    /// # Errors
    /// As [`floats`](Self::floats).
    pub fn table(&self, name: &str, [n, k]: [usize; 2]) -> Result<B::Matrix> {
        let tensor = self.checked(name, &[n, k])?;
        let formats = Format::ALL.iter().copied();
        let format = formats
            .filter(|f| stored_as(*f, tensor.tensor.dtype))
            .find(|f| k.is_multiple_of(f.block()))
            .unwrap_or(Format::F32);
        let mut matrix = self.backend.matrix(format, n, k)?;
        self.put(&tensor, (format, k), 0..n, &mut matrix, 0)?;
        Ok(matrix)
    }

    /// A packed matrix of some rows of a tensor `[n, k]`.
    ///
    /// # Errors
    /// As [`floats`](Self::floats), or rows past the end.
    pub fn matrix_of_rows(
        &self,
        name: &str,
        shape: [usize; 2],
        rows: Range<usize>,
    ) -> Result<B::Matrix> {
        let tensor = self.checked(name, &shape)?;
        covers("weights", "rows", shape[0], rows.end)?;
        let format = self.precision.format.fitting(shape[1]);
        let mut matrix = self.backend.matrix(format, rows.len(), shape[1])?;
        self.put(
            &tensor,
            (self.precision.format, shape[1]),
            rows,
            &mut matrix,
            0,
        )?;
        Ok(matrix)
    }

    /// A packed matrix of the rows of a tensor `[n, k]` in another order: row `i` is row `order(i)` of the tensor.
    ///
    /// # Errors
    /// As [`floats`](Self::floats), or a row past the end.
    pub fn matrix_in_order(
        &self,
        name: &str,
        [n, k]: [usize; 2],
        order: &dyn Fn(usize) -> usize,
    ) -> Result<B::Matrix> {
        let tensor = self.checked(name, &[n, k])?;
        let format = self.precision.format.fitting(k);
        let mut matrix = self.backend.matrix(format, n, k)?;
        for to in 0..n {
            let row = order(to);
            covers("weights", "rows", n, row.saturating_add(1))?;
            self.convert(&tensor, (format, k), row..row + 1, &mut matrix, (to, false))?;
        }
        // Not row by row: neighbours share pages.
        self.source.release(tensor.tensor.bytes);
        Ok(matrix)
    }

    /// Puts rows of a tensor into a matrix from row `to` on, and releases their bytes.
    fn put(
        &self,
        tensor: &Checked<'_>,
        (format, k): (Format, usize),
        rows: Range<usize>,
        matrix: &mut B::Matrix,
        to: usize,
    ) -> Result<()> {
        self.convert(tensor, (format, k), rows, matrix, (to, true))
    }

    /// As [`put`](Self::put), the bytes released or not.
    fn convert(
        &self,
        tensor: &Checked<'_>,
        (format, k): (Format, usize),
        rows: Range<usize>,
        matrix: &mut B::Matrix,
        (mut to, release): (usize, bool),
    ) -> Result<()> {
        if !self.backend.keeps_numbers() {
            return Ok(());
        }
        let format = format.fitting(k);
        let stored = stored_as(format, tensor.tensor.dtype);
        // Rows that need no room of their own come in portions that occupy all threads of a device.
        let most = if stored {
            PORTION_ROWS << 6
        } else {
            PORTION_ROWS
        };
        let portion_rows = (PORTION / k.max(1)).clamp(1, most);
        let scratch = portion_rows.min(rows.len()) * k;
        let mut floats = zeros(if stored { 0 } else { scratch })?;
        let mut packer = Packer::new(format, if stored { 0 } else { scratch })?;
        for row in rows.clone().step_by(portion_rows) {
            let n = portion_rows.min(rows.end - row);
            if stored {
                let bytes = tensor.bytes(row * k..(row + n) * k);
                finite(format, bytes).map_err(|piece| not_finite(&tensor.name, row * k + piece))?;
                let view = QuantMatrix::from_bytes(format, n, k, bytes)?;
                self.backend.put(matrix, to, &view)?;
            } else {
                let floats = &mut floats[..n * k];
                Self::decode_kept(tensor, row * k, floats)?;
                let view = packer.view(n, k, floats, (&tensor.name, row * k))?;
                self.backend.put(matrix, to, &view)?;
            }
            if release {
                self.source.release(tensor.bytes(row * k..(row + n) * k));
            }
            to += n;
        }
        Ok(())
    }

    /// A packed matrix `[n, k]` from floats, in the loader's format or what [`Format::fitting`] makes of it; `name` is the
    /// tensor that they come from.
    ///
    /// # Errors
    /// Another number of elements, numbers too large for the format, or no memory.
    pub fn pack(&self, name: &str, n: usize, k: usize, data: &[f32]) -> Result<B::Matrix> {
        let format = self.precision.format.fitting(k);
        if format == Format::F32 {
            return self.pack_f32(n, k, data);
        }
        // Says no to another number of elements.
        QuantMatrix::f32(n, k, data)?;
        let mut matrix = self.backend.matrix(format, n, k)?;
        if !self.backend.keeps_numbers() {
            return Ok(matrix);
        }
        let mut packer = Packer::new(format, PORTION_ROWS.min(n) * k)?;
        let stored = (self.rename)(name);
        for (i, data) in data.chunks(PORTION_ROWS * k).enumerate() {
            let at = i * PORTION_ROWS * k;
            let view = packer.view(data.len() / k, k, data, (&stored, at))?;
            self.backend.put(&mut matrix, i * PORTION_ROWS, &view)?;
        }
        Ok(matrix)
    }

    /// A packed matrix `[n, k]` that stays in F32 whatever the format, for small or delicate products.
    ///
    /// # Errors
    /// As [`pack`](Self::pack).
    pub fn pack_f32(&self, n: usize, k: usize, data: &[f32]) -> Result<B::Matrix> {
        self.backend.pack(&QuantMatrix::f32(n, k, data)?)
    }

    /// Fails on the first tensor that nobody read, unless `ignore` says that it may be there.
    ///
    /// # Errors
    /// [`Error::UnknownTensor`].
    pub fn finish(&self, ignore: &dyn Fn(&str) -> bool) -> Result<()> {
        let used = self.used.borrow();
        let mut unknown = None;
        self.source.names(&mut |name| {
            if unknown.is_none() && !used.contains(name) && !ignore(name) {
                unknown = Some(Name::owned(name));
            }
        });
        unknown.map_or(Ok(()), |name| Err(Error::UnknownTensor { name }))
    }
}
