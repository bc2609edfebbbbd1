//! Linear layers backwards.

use super::low_rank::added;
use super::{Linear, LowRank};
use crate::error::{Error, Result, product};
use crate::ops::gemm::GemmShape;
use crate::ops::{Backend, Backward};
use crate::quant::{Format, QuantMatrix};

/// Sums of the gradients of one layer, of what is trained of it.
#[derive(Debug)]
pub struct LinearGrads<B: Backend> {
    /// Of the matrix `[n, k]`, and of the bias `[n]`.
    pub whole: Option<[B::Buffer<f32>; 2]>,
    /// Of a `[rank, k]` and b `[n, rank]`.
    pub low_rank: Option<[B::Buffer<f32>; 2]>,
}

/// A layer's low-rank pair, if it has one, and memory for what stands between its two products.
#[derive(Debug)]
pub struct Beside<'a, B: Backend> {
    /// The pair.
    pub pair: Option<&'a LowRank<B>>,
    /// `[rows, rank]`, and its gradient.
    pub inner: &'a mut [B::Buffer<f32>; 2],
}

impl<B: Backward> Linear<B> {
    /// Reserves sums of gradients: of the whole layer, or of a pair of some rank beside it.
    ///
    /// # Errors
    /// No memory.
    pub fn grads(&self, backend: &B, whole: bool, rank: Option<usize>) -> Result<LinearGrads<B>> {
        let zeros = |n: usize, k: usize| backend.zeros(product("gradients", &[n, k])?);
        Ok(LinearGrads {
            whole: whole
                .then(|| Ok::<_, Error>([zeros(self.n, self.k)?, zeros(self.n, 1)?]))
                .transpose()?,
            low_rank: rank
                .map(|rank| Ok::<_, Error>([zeros(rank, self.k)?, zeros(self.n, rank)?]))
                .transpose()?,
        })
    }

    /// dx = Wᵀ dy + what comes through the pair, or dx += …; `grads` takes the gradients of the weights.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply_dx(
        &self,
        backend: &B,
        (m, add): (usize, bool),
        (x, dy): (&B::Buffer<f32>, &B::Buffer<f32>),
        (beside, grads): (&mut Beside<'_, B>, &mut LinearGrads<B>),
        dx: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let s = GemmShape {
            accumulate: add,
            ..GemmShape::new(m, self.n, self.k)
        };
        backend.gemm_dx(s, dy, &self.matrix, dx)?;
        if let Some([dw, db]) = &mut grads.whole {
            backend.gemm_dw(s, dy, x, dw)?;
            backend.sum_rows([m, self.n], dy, db)?;
        }
        if let Some(pair) = beside.pair {
            let [inner, d_inner] = &mut *beside.inner;
            let (first, second) = (
                GemmShape::new(m, pair.rank, self.k),
                GemmShape::new(m, self.n, pair.rank),
            );
            backend.gemm(first, x, &pair.a, None, inner)?;
            backend.gemm_dx(second, dy, &pair.b, d_inner)?;
            if let Some([da, db]) = &mut grads.low_rank {
                backend.gemm_dw(second, dy, inner, db)?;
                backend.gemm_dw(first, d_inner, x, da)?;
            }
            backend.gemm_dx(added(m, pair.rank, self.k), d_inner, &pair.a, dx)?;
        }
        Ok(())
    }

    /// dx = Wᵀ dy, of a layer of which nothing is trained.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn frozen_dx(
        &self,
        backend: &B,
        m: usize,
        dy: &B::Buffer<f32>,
        dx: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let s = GemmShape::new(m, self.n, self.k);
        backend.gemm_dx(s, dy, &self.matrix, dx)
    }

    /// Replaces weights and bias of some outputs, from output `at` on, in a layer that is kept as `format`.
    ///
    /// # Errors
    /// Formats of blocks, outputs past the end, or no memory.
    pub fn replace(
        &mut self,
        backend: &B,
        (format, at): (Format, usize),
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<()> {
        let n = weight.len() / self.k;
        match format.fitting(self.k) {
            Format::F32 => {
                let rows = QuantMatrix::f32(n, self.k, weight)?;
                backend.put(&mut self.matrix, at, &rows)?;
            }
            Format::Bf16 => {
                let mut bytes = crate::model::weights::zeros(Format::Bf16.bytes(n, self.k)?)?;
                Format::Bf16.quantise(weight, &mut bytes);
                let rows = QuantMatrix::bf16(n, self.k, &bytes)?;
                backend.put(&mut self.matrix, at, &rows)?;
            }
            _ => {
                return Err(Error::Unsupported {
                    what: "training weights that are kept in blocks",
                });
            }
        }
        match (&mut self.bias, bias) {
            (Some(own), Some(bias)) => backend.write(own, at, bias),
            _ => Ok(()),
        }
    }

    /// Whether it has a bias.
    #[must_use]
    pub const fn has_bias(&self) -> bool {
        self.bias.is_some()
    }
}
