//! Where weights come from, and how they become matrices and buffers of a device.

mod loader;
mod packer;

use alloc::vec::Vec;

use half::{bf16, f16};

pub use self::loader::Loader;
#[cfg(feature = "safetensors")]
pub(in crate::model) use self::packer::finite;
use crate::error::{Result, reserved};
use crate::ops::gemm::Activations;
use crate::quant::{Block, Format};

/// How a model's large matrices are kept and multiplied: it decides memory, speed, and the last bits of every number.
///
/// A [`Format`] alone stands for products in floats.
///
/// ```
/// use maquette::model::weights::Precision;
/// use maquette::ops::gemm::Activations;
/// use maquette::quant::Format;
/// let precision = Precision::from(Format::Q4_0).with_activations(Activations::A8);
/// assert_eq!(precision.format, Format::Q4_0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Precision {
    /// In memory; [`Format::fitting`] says what becomes of rows that are no whole blocks.
    pub format: Format,
    /// In products.
    pub activations: Activations,
}

impl Precision {
    /// The same matrices, multiplied in another way.
    #[must_use]
    pub const fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }
}

impl From<Format> for Precision {
    fn from(format: Format) -> Self {
        Self {
            format,
            activations: Activations::F32,
        }
    }
}

/// So many zeros.
pub(in crate::model) fn zeros<T: Copy + Default>(len: usize) -> Result<Vec<T>> {
    let mut out = reserved("weights", len)?;
    out.resize(len, T::default());
    Ok(out)
}

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
    /// Blocks along the innermost size.
    Block(Block),
    /// Anything that is not read as weights.
    Other(&'static str),
}

impl DType {
    /// Elements and bytes of the smallest piece; nothing for types that are not read.
    #[must_use]
    pub const fn piece(self) -> Option<(usize, usize)> {
        match self {
            Self::F32 => Some((1, 4)),
            Self::F16 | Self::BF16 => Some((1, 2)),
            Self::Block(block) => Some((block.len(), block.bytes())),
            Self::Other(_) => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Block(block) => block.name(),
            Self::Other(name) => name,
        }
    }

    /// Reads whole pieces as floats.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                for (v, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *v = f32::from_le_bytes(*b);
                }
            }
            Self::F16 => {
                for (v, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *v = f16::from_le_bytes(*b).to_f32();
                }
            }
            Self::BF16 => {
                for (v, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *v = bf16::from_le_bytes(*b).to_f32();
                }
            }
            Self::Block(block) => block.dequantise(bytes, out),
            Self::Other(_) => {}
        }
    }
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

    /// Says that these bytes of a tensor were read and will hardly be read again, so that a mapped file can give their
    /// pages back.
    fn release(&self, bytes: &[u8]) {
        let _ = bytes;
    }
}
