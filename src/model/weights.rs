//! Where weights come from, and how they become matrices and buffers of a device.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use half::{bf16, f16};

use crate::error::{Error, Name, Result, product};
use crate::ops::Backend;
use crate::quant::{Format, Q8_BLOCK, Q8_BLOCK_BYTES, QuantMatrix, quantise_q8_0};

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit float.
    F32,
    /// Half precision.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// Anything that is not read as weights.
    Other(&'static str),
}

/// A stored tensor, borrowed: little-endian, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The elements' bytes.
    pub bytes: &'a [u8],
}

/// A checkpoint: tensors by name.
pub trait WeightSource {
    /// The tensor of this name.
    fn tensor(&self, name: &str) -> Option<Tensor<'_>>;

    /// Shows the name of every tensor.
    fn names(&self, visit: &mut dyn FnMut(&str));
}

/// Reads a checkpoint into device memory, and remembers what was read so that leftovers can be named.
pub struct Loader<'a, B: Backend> {
    /// Device that the weights go to.
    pub backend: &'a B,
    source: &'a dyn WeightSource,
    format: Format,
    rename: &'a dyn Fn(&str) -> String,
    used: RefCell<BTreeSet<String>>,
}

impl<B: Backend> core::fmt::Debug for Loader<'_, B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Loader")
            .field("format", &self.format)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl<'a, B: Backend> Loader<'a, B> {
    /// A loader of `source` whose large matrices are kept as `format`. Names that the model asks for go through
    /// `rename` first, so that one model reads several namings.
    pub fn new(
        backend: &'a B,
        source: &'a dyn WeightSource,
        format: Format,
        rename: &'a dyn Fn(&str) -> String,
    ) -> Self {
        Self {
            backend,
            source,
            format,
            rename,
            used: RefCell::default(),
        }
    }

    /// Whether the checkpoint has this tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.source.tensor(&(self.rename)(name)).is_some()
    }

    /// A tensor's elements as floats; its shape may differ from `shape` only in sizes of 1.
    ///
    /// # Errors
    /// A missing tensor, another shape, an element type that is not read, or no memory.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
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
        let size = match tensor.dtype {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Other(dtype) => {
                return Err(Error::TensorType {
                    name: Name::owned(&stored),
                    dtype,
                });
            }
        };
        if tensor.bytes.len() != len * size {
            return Err(Error::Length {
                op: "weights",
                arg: "tensor bytes",
                got: tensor.bytes.len(),
                want: len * size,
            });
        }
        let mut out = Vec::new();
        out.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
            what: "weights",
            bytes: len.saturating_mul(4),
        })?;
        match tensor.dtype {
            DType::F32 => {
                out.extend(
                    tensor
                        .bytes
                        .chunks_exact(4)
                        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
                );
            }
            DType::BF16 => {
                out.extend(
                    tensor
                        .bytes
                        .chunks_exact(2)
                        .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
                );
            }
            _ => out.extend(
                tensor
                    .bytes
                    .chunks_exact(2)
                    .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
            ),
        }
        if let Some(row) = out.iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite {
                op: "weights",
                arg: "tensor",
                row,
            });
        }
        self.used.borrow_mut().insert(stored);
        Ok(out)
    }

    /// A tensor in a buffer of the device.
    ///
    /// # Errors
    /// As [`floats`](Self::floats).
    pub fn buffer(&self, name: &str, shape: &[usize]) -> Result<B::Buffer<f32>> {
        self.upload(&self.floats(name, shape)?)
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

    /// A packed matrix `[n, k]` from floats, in the loader's format where `k` allows it, else in F32.
    ///
    /// # Errors
    /// Another number of elements, or no memory.
    pub fn pack(&self, n: usize, k: usize, data: &[f32]) -> Result<B::Matrix> {
        match self.format {
            Format::Q8_0 if k.is_multiple_of(Q8_BLOCK) => {
                let bytes = product("weights", &[n, k / Q8_BLOCK, Q8_BLOCK_BYTES])?;
                let mut blocks = Vec::new();
                blocks
                    .try_reserve_exact(bytes)
                    .map_err(|_| Error::OutOfMemory {
                        what: "weights",
                        bytes,
                    })?;
                blocks.resize(bytes, 0);
                quantise_q8_0(data, &mut blocks);
                self.backend.pack(&QuantMatrix::q8_0(n, k, &blocks)?)
            }
            _ => self.pack_f32(n, k, data),
        }
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
