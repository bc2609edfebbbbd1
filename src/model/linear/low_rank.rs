//! The low-rank pair beside a layer.

use super::Linear;
use crate::error::Result;
use crate::ops::Backend;
use crate::ops::gemm::GemmShape;
use crate::quant::QuantMatrix;

/// A low-rank product beside a layer `[n, k]`: y += b · (a · x), with whatever factor belongs to it inside b.
#[derive(Debug)]
pub struct LowRank<B: Backend> {
    pub(super) a: B::Matrix,
    pub(super) b: B::Matrix,
    pub(super) rank: usize,
}

impl<B: Backend> LowRank<B> {
    /// Packs a `[rank, k]` and b `[n, rank]`.
    ///
    /// # Errors
    /// Another number of elements, or no memory.
    pub fn new(backend: &B, [n, k, rank]: [usize; 3], a: &[f32], b: &[f32]) -> Result<Self> {
        Ok(Self {
            a: backend.pack(&QuantMatrix::f32(rank, k, a)?)?,
            b: backend.pack(&QuantMatrix::f32(n, rank, b)?)?,
            rank,
        })
    }

    /// Its rank.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank
    }
}

impl<B: Backend> Linear<B> {
    /// y = W x + b + what stands beside it, or y += …, over the first `m` rows; `inner` takes `[m, rank]` numbers.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply_beside(
        &self,
        backend: &B,
        (m, add): (usize, bool),
        x: &B::Buffer<f32>,
        beside: Option<(&LowRank<B>, &mut B::Buffer<f32>)>,
        y: &mut B::Buffer<f32>,
    ) -> Result<()> {
        if add {
            self.apply_add(backend, m, x, y)?;
        } else {
            self.apply(backend, m, x, y)?;
        }
        if let Some((pair, inner)) = beside {
            let s = GemmShape::new(m, pair.rank, self.k);
            backend.gemm(s, x, &pair.a, None, inner)?;
            backend.gemm(added(m, self.n, pair.rank), inner, &pair.b, None, y)?;
        }
        Ok(())
    }
}

pub(super) const fn added(m: usize, n: usize, k: usize) -> GemmShape {
    let mut s = GemmShape::new(m, n, k);
    s.accumulate = true;
    s
}
