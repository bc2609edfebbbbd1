//! Tensors from the bytes of a safetensors file.

use alloc::vec::Vec;

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Foreign, Result};
use crate::model::weights::{DType, Tensor, WeightSource};

/// A checkpoint in one safetensors file, borrowed.
#[derive(Debug)]
pub struct SafetensorsSource<'a> {
    tensors: SafeTensors<'a>,
}

impl<'a> SafetensorsSource<'a> {
    /// Reads the table of a file.
    ///
    /// # Errors
    /// [`Error::Format`] if the header is no valid table over exactly these bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|source| Error::Format {
            format: "safetensors",
            problem: "the header is no valid table of these bytes",
            source: Some(Foreign::new(source)),
        })?;
        Ok(Self { tensors })
    }
}

impl WeightSource for SafetensorsSource<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let view = self.tensors.tensor(name).ok()?;
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F64 => DType::Other("F64"),
            Dtype::I64 => DType::Other("I64"),
            Dtype::U8 => DType::Other("U8"),
            _ => DType::Other("another type"),
        };
        Some(Tensor {
            dtype,
            shape: Vec::from(view.shape()),
            bytes: view.data(),
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        let mut names = self.tensors.names();
        names.sort_unstable();
        for name in names {
            visit(name);
        }
    }
}
