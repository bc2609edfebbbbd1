//! The shape of a stack.

use crate::error::{Error, Result};
use crate::ops::norm::Activation;

/// Which norm stands before attention and MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Norm {
    /// Layer norm with weight and bias.
    Layer,
    /// Root-mean-square norm with weight.
    Rms,
}

/// Which MLP follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mlp {
    /// fc2(activation(fc1(x))), both with bias.
    Plain(Activation),
    /// down(silu(gate(x)) · up(x)), without bias.
    Gated,
}

/// Rotary embedding of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Leading dimensions of each head that are rotated.
    pub dim: usize,
    /// Base of the frequencies.
    pub theta: f32,
    /// Positions that occur.
    pub positions: usize,
}

/// Shape of a stack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StackConfig {
    /// Number of blocks.
    pub layers: usize,
    /// Width of a row.
    pub width: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Inner width of the MLP.
    pub mlp_width: usize,
    /// The norm.
    pub norm: Norm,
    /// Added to variances.
    pub eps: f32,
    /// Whether attention and MLP both read the first norm and are added together (then there is no second norm).
    pub parallel: bool,
    /// Whether each head of q and k goes through a layer norm of its own before the rotation.
    pub qk_norm: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output layer has a bias.
    pub out_bias: bool,
    /// The MLP.
    pub mlp: Mlp,
    /// The rotary embedding, if positions enter there.
    pub rotary: Option<Rotary>,
}

impl StackConfig {
    pub(super) const fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    pub(super) const fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    pub(super) const fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    /// Fails if the sizes contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        for (key, size) in [
            ("num_hidden_layers", self.layers),
            ("hidden_size", self.width),
            ("num_attention_heads", self.n_heads),
            ("num_key_value_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.mlp_width),
        ] {
            if size == 0 || size > 1 << 20 {
                return Err(Error::Range {
                    op: "config",
                    arg: key,
                    got: size as u64,
                    min: 1,
                    max: 1 << 20,
                });
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(Error::Config {
                key: "num_key_value_heads",
                problem: "does not divide num_attention_heads",
            });
        }
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(Error::Config {
                key: "norm eps",
                problem: "is not between 0 and 1",
            });
        }
        if let Some(r) = self.rotary {
            if r.dim > self.head_dim || !r.dim.is_multiple_of(2) {
                return Err(Error::Config {
                    key: "rotary_dim",
                    problem: "must be even and at most head_dim",
                });
            }
            if !(r.theta > 0.0 && r.theta.is_finite()) || r.positions > 1 << 24 {
                return Err(Error::Config {
                    key: "rope_theta",
                    problem: "or the number of positions is out of range",
                });
            }
        }
        Ok(())
    }
}
