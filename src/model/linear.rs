//! The only way to a product.

#[cfg(feature = "align")]
pub mod backward;
mod low_rank;

pub use low_rank::LowRank;

use alloc::vec::Vec;

use crate::error::Result;
use crate::model::weights::Loader;
use crate::ops::Backend;
use crate::ops::gemm::{Activations, GemmShape};
use crate::ops::norm::Activation;

/// A linear layer: packed matrix `[n, k]` and bias `[n]`.
#[derive(Debug)]
pub struct Linear<B: Backend> {
    matrix: B::Matrix,
    bias: Option<B::Buffer<f32>>,
    n: usize,
    k: usize,
    activations: Activations,
}

impl<B: Backend> Linear<B> {
    /// Reads `{name}.weight` and, if `bias`, `{name}.bias`.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn load(
        loader: &Loader<'_, B>,
        name: &str,
        n: usize,
        k: usize,
        bias: bool,
    ) -> Result<Self> {
        Self::fused(loader, &[(name, n)], k, bias)
    }

    /// Reads several layers with the same input as one, outputs side by side (q, k and v; gate and up).
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn fused(
        loader: &Loader<'_, B>,
        parts: &[(&str, usize)],
        k: usize,
        bias: bool,
    ) -> Result<Self> {
        let mut names = Vec::new();
        let mut biases = Vec::new();
        for &(name, n) in parts {
            names.push((alloc::format!("{name}.weight"), n));
            if bias {
                biases.extend(loader.floats(&alloc::format!("{name}.bias"), &[n])?);
            }
        }
        let names: Vec<_> = names.iter().map(|(name, n)| (&**name, *n)).collect();
        let matrix = loader.matrix(&names, k)?;
        let n = parts.iter().map(|p| p.1).sum();
        Self::from_matrix(loader, [n, k], matrix, bias.then_some(&biases))
    }

    /// As [`load`](Self::load) with a bias, for a layer of `[n, k]` that is filled up with zeros to `[to_n, to_k]`.
    ///
    /// # Errors
    /// As [`Loader::filled`].
    pub fn filled(
        loader: &Loader<'_, B>,
        name: &str,
        [n, k]: [usize; 2],
        to: [usize; 2],
    ) -> Result<Self> {
        let matrix = loader.filled(&alloc::format!("{name}.weight"), [n, k], to)?;
        let mut bias = loader.floats(&alloc::format!("{name}.bias"), &[n])?;
        bias.try_reserve_exact(to[0].saturating_sub(n))
            .map_err(|_| crate::error::Error::OutOfMemory {
                what: "weights",
                bytes: to[0].saturating_mul(size_of::<f32>()),
            })?;
        bias.resize(to[0], 0.0);
        Self::from_matrix(loader, to, matrix, Some(&bias))
    }

    /// A layer from a packed matrix `[n, k]`.
    ///
    /// # Errors
    /// No memory.
    pub fn from_matrix(
        loader: &Loader<'_, B>,
        [n, k]: [usize; 2],
        matrix: B::Matrix,
        bias: Option<&Vec<f32>>,
    ) -> Result<Self> {
        Ok(Self {
            matrix,
            bias: bias.map(|b| loader.upload(b)).transpose()?,
            n,
            k,
            activations: loader.activations(),
        })
    }

    /// A layer from floats of the tensor `name`.
    ///
    /// # Errors
    /// As [`Loader::pack`].
    pub fn from_floats(
        loader: &Loader<'_, B>,
        name: &str,
        [n, k]: [usize; 2],
        weight: &[f32],
        bias: Option<&Vec<f32>>,
    ) -> Result<Self> {
        let matrix = loader.pack(name, n, k, weight)?;
        Self::from_matrix(loader, [n, k], matrix, bias)
    }

    /// Outputs.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    #[must_use]
    pub const fn k(&self) -> usize {
        self.k
    }

    /// y = W x + b over the first `m` rows.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply(
        &self,
        backend: &B,
        m: usize,
        x: &B::Buffer<f32>,
        y: &mut B::Buffer<f32>,
    ) -> Result<()> {
        backend.gemm(self.shape(m, false), x, &self.matrix, self.bias.as_ref(), y)
    }

    /// y += W x + b over the first `m` rows.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply_add(
        &self,
        backend: &B,
        m: usize,
        x: &B::Buffer<f32>,
        y: &mut B::Buffer<f32>,
    ) -> Result<()> {
        backend.gemm(self.shape(m, true), x, &self.matrix, self.bias.as_ref(), y)
    }

    /// y += W activation(x) + b over the first `m` rows; what x holds afterwards is left open.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn add_activated(
        &self,
        backend: &B,
        m: usize,
        (activation, x): (Activation, &mut B::Buffer<f32>),
        y: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let s = self.shape(m, true);
        backend.activated_gemm(activation, s, x, &self.matrix, self.bias.as_ref(), y)
    }

    /// y += W gate(x) + b over the first `m` rows, which hold gate and value; `room` may be written to.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn add_gated(
        &self,
        backend: &B,
        m: usize,
        (activation, x, room): (Activation, &B::Buffer<f32>, &mut B::Buffer<f32>),
        y: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let (s, bias) = (self.shape(m, true), self.bias.as_ref());
        backend.gated_gemm(activation, s, (x, room), &self.matrix, bias, y)
    }

    const fn shape(&self, m: usize, accumulate: bool) -> GemmShape {
        GemmShape {
            accumulate,
            activations: self.activations,
            ..GemmShape::new(m, self.n, self.k)
        }
    }
}
