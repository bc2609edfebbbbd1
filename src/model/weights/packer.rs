//! Floats on their way into a format, and stored bytes that are in it already.

use alloc::vec::Vec;

use half::{bf16, f16};

use super::DType;
use super::zeros;
use crate::error::{Error, Name, Result, covers};
use crate::quant::{Block, Format, QuantMatrix};

/// Whether bytes of a type are canonical bytes of a format. Floats are decoded all the same, since bytes need not lie where
/// floats may.
pub(super) const fn stored_as(format: Format, dtype: DType) -> bool {
    matches!(
        (format, dtype),
        (Format::Bf16, DType::BF16)
            | (Format::Q8_0, DType::Block(Block::Q8_0))
            | (Format::Q4_0, DType::Block(Block::Q4_0))
            | (Format::Q4K, DType::Block(Block::Q4K))
            | (Format::Q4G128, DType::Block(Block::Q4G128))
    )
}

/// Floats as rows of a format, in memory of its own.
pub(super) struct Packer {
    pub(super) format: Format,
    bytes: Vec<u8>,
}

impl Packer {
    /// Room for so many elements at a time.
    pub(super) fn new(format: Format, elements: usize) -> Result<Self> {
        let bytes = match format {
            Format::F32 => 0,
            _ => format.bytes(1, elements)?,
        };
        Ok(Self {
            format,
            bytes: zeros(bytes)?,
        })
    }

    /// Rows whose first element is element `at` of the tensor that is named. Numbers or scales beyond the format are errors.
    pub(super) fn view<'b>(
        &'b mut self,
        n: usize,
        k: usize,
        data: &'b [f32],
        (name, at): (&str, usize),
    ) -> Result<QuantMatrix<'b>> {
        if self.format == Format::F32 {
            return QuantMatrix::f32(n, k, data);
        }
        let bytes = self.format.bytes(n, k)?;
        covers("weights", "portion", self.bytes.len(), bytes)?;
        let bytes = &mut self.bytes[..bytes];
        self.format.quantise(data, bytes);
        finite(self.format, bytes).map_err(|piece| not_finite(name, at + piece))?;
        QuantMatrix::from_bytes(self.format, n, k, bytes)
    }
}

pub(super) fn not_finite(name: &str, element: usize) -> Error {
    Error::TensorNumber {
        name: Name::owned(name),
        element,
    }
}

/// Whether all numbers, or all scales of blocks, are finite; else the first element where they are not. Of formats
/// other than F32.
pub(in crate::model) fn finite(format: Format, bytes: &[u8]) -> core::result::Result<(), usize> {
    let bad = |head: &[u8]| match (format, head) {
        (Format::Bf16, &[a, b, ..]) => !bf16::from_le_bytes([a, b]).is_finite(),
        // Two scales.
        (Format::Q4K, &[a, b, c, d, ..]) => ![[a, b], [c, d]]
            .into_iter()
            .all(|scale| f16::from_le_bytes(scale).is_finite()),
        (_, &[a, b, ..]) => !f16::from_le_bytes([a, b]).is_finite(),
        _ => true,
    };
    match bytes.chunks(format.block_bytes()).position(bad) {
        Some(piece) => Err(piece * format.block()),
        None => Ok(()),
    }
}
