//! Attention of a sequence to itself with a bias by distance.

use crate::error::{Result, covers, product};
use crate::math;
use crate::ops::counted;
use crate::ops::norm::nonzero;

/// One sequence whose rows all see each other, with a bias by distance: q, k and v of a row stand side by side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RelativeShape {
    /// Number of rows.
    pub rows: usize,
    /// Heads of q, of k and of v.
    pub n_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What products of q and k are multiplied with.
    pub scale: f32,
}

impl RelativeShape {
    /// Distances that occur: from −(rows − 1) to rows − 1.
    #[must_use]
    pub const fn distances(&self) -> usize {
        self.rows.saturating_mul(2).saturating_sub(1)
    }

    /// Multiply-adds of the scores and of the sums over all rows.
    #[must_use]
    pub fn multiply_adds(&self) -> u64 {
        counted(&[2, self.rows, self.rows, self.n_heads, self.head_dim])
    }

    /// Checks the lengths of qkv, bias and out.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub fn check(&self, qkv: usize, bias: usize, out: usize) -> Result<()> {
        const OP: &str = "relative_attention";
        nonzero(OP, "head_dim", self.head_dim)?;
        nonzero(OP, "n_heads", self.n_heads)?;
        let width = product(OP, &[self.n_heads, self.head_dim])?;
        let len = product(OP, &[self.rows, width])?;
        covers(OP, "qkv", qkv, product(OP, &[3, len])?)?;
        covers(OP, "out", out, len)?;
        covers(
            OP,
            "bias",
            bias,
            product(OP, &[self.n_heads, self.distances()])?,
        )
    }
}

/// out\[i, h, :\] = Σ_j softmax_j(q_i·k_j · scale + bias\[h, j − i + rows − 1\]) · v_j over all rows j, summed as in
/// [`attention`](super::attention).
///
/// # Errors
/// See [`RelativeShape::check`].
///
/// # Source
/// Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", arXiv
/// 1910.10683, section 2.1.
pub fn relative_attention(
    s: RelativeShape,
    qkv: &[f32],
    bias: &[f32],
    out: &mut [f32],
) -> Result<()> {
    s.check(qkv.len(), bias.len(), out.len())?;
    let width = s.n_heads * s.head_dim;
    for i in 0..s.rows {
        for h in 0..s.n_heads {
            let part = |j: usize, which: usize| {
                &qkv[(3 * j + which) * width + h * s.head_dim..][..s.head_dim]
            };
            let score = |j: usize| {
                let dot = part(i, 0)
                    .iter()
                    .zip(part(j, 1))
                    .fold(0.0, |sum, (q, k)| sum + q * k);
                dot * s.scale + bias[h * s.distances() + (j + s.rows - 1 - i)]
            };
            let largest = (0..s.rows)
                .map(score)
                .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
            let out = &mut out[i * width + h * s.head_dim..][..s.head_dim];
            out.fill(0.0);
            let mut lanes = [0.0_f32; 16];
            for j in 0..s.rows {
                let p = math::exp(score(j) - largest);
                lanes[j % 16] += p;
                for (out, v) in out.iter_mut().zip(part(j, 2)) {
                    *out += p * v;
                }
            }
            let total: f32 = lanes.iter().sum();
            if total > 0.0 {
                let inverse = 1.0 / total;
                for out in out {
                    *out *= inverse;
                }
            }
        }
    }
    Ok(())
}
