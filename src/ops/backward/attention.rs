//! Gradients of the rotary embedding and of attention over a whole sequence.

use crate::error::{Error, Result, covers, product};
use crate::math;
use crate::ops::attention::RotaryShape;
use crate::ops::norm::nonzero;

/// The gradient through [`rotary`](crate::ops::attention::rotary), in place: the transposed rotation.
///
/// # Errors
/// See [`RotaryShape::check`].
pub fn rotary_dx(s: RotaryShape, d: &mut [f32], positions: &[u32], table: &[f32]) -> Result<()> {
    s.check(d.len(), positions.len(), table.len())?;
    if s.stride == 0 {
        return Ok(());
    }
    let half = s.rotary_dim / 2;
    for (row, &p) in d.chunks_exact_mut(s.stride).zip(positions).take(s.rows) {
        let p = p as usize;
        if p >= s.positions {
            continue;
        }
        let (cos, sin) = table[p * s.rotary_dim..][..s.rotary_dim].split_at(half);
        for head in row[s.offset..].chunks_exact_mut(s.head_dim).take(s.heads) {
            let (a, rest) = head.split_at_mut(half);
            for (((a, b), c), s) in a.iter_mut().zip(&mut rest[..half]).zip(cos).zip(sin) {
                (*a, *b) = (*a * c + *b * s, *b * c - *a * s);
            }
        }
    }
    Ok(())
}

/// A whole sequence that attends to itself; q, k and v of a row stand side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfAttentionShape {
    /// Number of rows.
    pub rows: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Leading rows that see themselves and what stands before them; the others see all rows.
    pub causal: usize,
}

impl SelfAttentionShape {
    /// Width of a row of q, k and v.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.n_heads
            .saturating_add(self.n_kv_heads.saturating_mul(2))
            .saturating_mul(self.head_dim)
    }

    /// Rows that row `i` sees, from the first on.
    #[must_use]
    pub const fn visible(&self, i: usize) -> usize {
        if i < self.causal { i + 1 } else { self.rows }
    }

    /// Checks the lengths of qkv, dy and dqkv.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, qkv: usize, dy: usize, dqkv: usize) -> Result<()> {
        const OP: &str = "attention_dx";
        nonzero(OP, "head_dim", self.head_dim)?;
        nonzero(OP, "n_kv_heads", self.n_kv_heads)?;
        if self.n_heads == 0 || !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(Error::Config {
                key: "num_key_value_heads",
                problem: "does not divide the heads",
            });
        }
        let heads = self
            .n_kv_heads
            .checked_mul(2)
            .and_then(|kv| kv.checked_add(self.n_heads))
            .ok_or(Error::Overflow { op: OP })?;
        let row = product(OP, &[heads, self.head_dim])?;
        let all = product(OP, &[self.rows, row])?;
        covers(OP, "qkv", qkv, all)?;
        covers(OP, "dqkv", dqkv, all)?;
        covers(
            OP,
            "dy",
            dy,
            product(OP, &[self.rows, self.n_heads, self.head_dim])?,
        )
    }
}

/// The gradient of q, k and v from that of out\[i, h, :\] = Σ_j p_ij · v_j, p_ij = softmax_j(q_i·k_j / √head_dim) over
/// the rows j that row i sees: with δ_ij = dy_i·v_j and D_i = Σ_j p_ij · δ_ij,
/// dv_j = Σ_i p_ij · dy_i, dq_i = Σ_j p_ij · (δ_ij − D_i) / √head_dim · k_j, dk_j = Σ_i … · q_i.
///
/// Probabilities are those of [`attention`](crate::ops::attention::attention), computed again; D_i in 16 lanes side by
/// side; the other sums head after head, row after row. A device may multiply by zero what a row does not see, which is the
/// same where all rows are finite.
///
/// # Errors
/// See [`SelfAttentionShape::check`].
pub fn attention_dx(
    s: SelfAttentionShape,
    qkv: &[f32],
    dy: &[f32],
    dqkv: &mut [f32],
) -> Result<()> {
    s.check(qkv.len(), dy.len(), dqkv.len())?;
    let (d, stride) = (s.head_dim, s.stride());
    let scale = 1.0 / math::sqrt(d as f32);
    dqkv[..s.rows * stride].fill(0.0);
    for h in 0..s.n_heads {
        let kv = h / (s.n_heads / s.n_kv_heads);
        let (k_at, v_at) = ((s.n_heads + kv) * d, (s.n_heads + s.n_kv_heads + kv) * d);
        for i in 0..s.rows {
            let q = &qkv[i * stride + h * d..][..d];
            let dy = &dy[(i * s.n_heads + h) * d..][..d];
            let dot = |a: &[f32], at: usize| {
                let b = &qkv[at..][..d];
                a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
            };
            let score = |j: usize| dot(q, j * stride + k_at) * scale;
            let delta = |j: usize| dot(dy, j * stride + v_at);
            let seen = s.visible(i);
            let largest = (0..seen)
                .map(score)
                .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
            let mut lanes = [0.0_f32; 16];
            for j in 0..seen {
                lanes[j % 16] += math::exp(score(j) - largest);
            }
            let inverse = 1.0 / lanes.iter().sum::<f32>();
            let p = |j: usize| math::exp(score(j) - largest) * inverse;
            let mut lanes = [0.0_f32; 16];
            for j in 0..seen {
                lanes[j % 16] += p(j) * delta(j);
            }
            let mean: f32 = lanes.iter().sum();
            for j in 0..seen {
                let p = p(j);
                let ds = p * (delta(j) - mean) * scale;
                for t in 0..d {
                    dqkv[i * stride + h * d + t] += ds * qkv[j * stride + k_at + t];
                    dqkv[j * stride + k_at + t] += ds * q[t];
                    dqkv[j * stride + v_at + t] += p * dy[t];
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the cases are exact")]
mod tests {
    use super::*;

    #[test]
    fn one_row_passes_its_gradient_to_its_value() {
        let s = SelfAttentionShape {
            rows: 1,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 1,
            causal: 1,
        };
        let mut d = [9.0; 4];
        attention_dx(s, &[0.5, -1.0, 2.0, 3.0], &[1.0, 4.0], &mut d).unwrap();
        assert_eq!(d, [0.0, 0.0, 0.0, 5.0]);
    }

    #[test]
    fn a_rotation_back_undoes_one() {
        let s = RotaryShape {
            rows: 1,
            heads: 1,
            head_dim: 3,
            rotary_dim: 2,
            stride: 3,
            offset: 0,
            positions: 2,
        };
        let table = [1.0, 0.0, 0.6, 0.8];
        let mut x = [1.0, 2.0, 3.0];
        crate::ops::attention::rotary(s, &mut x, &[1], &table).unwrap();
        rotary_dx(s, &mut x, &[1], &table).unwrap();
        assert!((x[0] - 1.0).abs() < 1e-6 && (x[1] - 2.0).abs() < 1e-6 && x[2] == 3.0);
        rotary_dx(s, &mut x, &[2], &table).unwrap();
        assert!((x[0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn sizes_that_contradict_each_other_are_errors() {
        let s = SelfAttentionShape {
            rows: 2,
            n_heads: 3,
            n_kv_heads: 2,
            head_dim: 4,
            causal: 0,
        };
        assert!(s.check(100, 100, 100).is_err());
        let s = SelfAttentionShape { n_kv_heads: 3, ..s };
        assert!(s.check(72, 24, 72).is_ok());
        assert!(s.check(71, 24, 72).is_err() && s.check(72, 23, 72).is_err());
        assert!(s.check(72, 24, 71).is_err());
        let s = SelfAttentionShape {
            rows: usize::MAX,
            ..s
        };
        assert!(s.check(72, 24, 72).is_err());
        let s = SelfAttentionShape {
            rows: 0,
            n_kv_heads: 1,
            head_dim: usize::MAX / 4 + 1,
            ..s
        };
        assert_eq!(s.stride(), usize::MAX);
        assert!(s.check(0, 0, 0).is_err());
    }
}
