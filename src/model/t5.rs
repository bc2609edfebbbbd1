//! The encoder of T5, which reads the prompts of LlamaGen.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::error::{Error, Result, covers, product};
#[cfg(feature = "safetensors")]
use crate::model::files::config::JsonConfig;
use crate::model::linear::Linear;
use crate::model::session::filled;
use crate::model::transformer::{Norm, NormWeights};
use crate::model::weights::{Loader, Precision, WeightSource};
use crate::ops::Backend;
use crate::ops::attention::RelativeShape;
use crate::ops::norm::{Activation, GateShape, NormShape};
use crate::ops::vq::GatherShape;
use crate::prompt::TokenId;

const OP: &str = "t5";

/// Shape of a T5 encoder with a gated MLP. Missing keys of a `config.json` have the values of flan-T5-XL.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct T5Config {
    /// Width of a row.
    pub d_model: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Heads.
    pub num_heads: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// Inner width of the MLP.
    pub d_ff: usize,
    /// Tokens.
    pub vocab_size: usize,
    /// Added to mean squares.
    pub layer_norm_epsilon: f32,
    /// Kinds of distance between tokens.
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all are of one kind.
    pub relative_attention_max_distance: usize,
    /// Token after the last one.
    pub eos_id: TokenId,
}

impl T5Config {
    /// flan-T5-XL, the encoder of the released text-conditional LlamaGen.
    #[must_use]
    pub const fn flan_t5_xl() -> Self {
        Self {
            d_model: 2048,
            num_layers: 24,
            num_heads: 32,
            d_kv: 64,
            d_ff: 5120,
            vocab_size: 32128,
            layer_norm_epsilon: 1e-6,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            eos_id: 1,
        }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// A key of the wrong type, an MLP that is not gated by GELU, or a shape that [`check`](Self::check) refuses.
    #[cfg(feature = "safetensors")]
    pub fn from_json(json: &JsonConfig) -> Result<Self> {
        let r = Self::flan_t5_xl();
        if json
            .text("feed_forward_proj")
            .is_some_and(|kind| kind != "gated-gelu")
        {
            return Err(Error::Config {
                key: "feed_forward_proj",
                problem: "is not gated-gelu",
            });
        }
        let buckets = "relative_attention_num_buckets";
        let distance = "relative_attention_max_distance";
        let config = Self {
            d_model: json.size_or("d_model", r.d_model)?,
            num_layers: json.size_or("num_layers", r.num_layers)?,
            num_heads: json.size_or("num_heads", r.num_heads)?,
            d_kv: json.size_or("d_kv", r.d_kv)?,
            d_ff: json.size_or("d_ff", r.d_ff)?,
            vocab_size: json.size_or("vocab_size", r.vocab_size)?,
            layer_norm_epsilon: json.float_or("layer_norm_epsilon", r.layer_norm_epsilon)?,
            relative_attention_num_buckets: json
                .size_or(buckets, r.relative_attention_num_buckets)?,
            relative_attention_max_distance: json
                .size_or(distance, r.relative_attention_max_distance)?,
            eos_id: u32::try_from(json.size_or("eos_token_id", r.eos_id as usize)?).map_err(
                |_| Error::Config {
                    key: "eos_token_id",
                    problem: "is too large",
                },
            )?,
        };
        config.check()?;
        Ok(config)
    }

    /// Fails if the sizes contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        let buckets = self.relative_attention_num_buckets;
        let distance = self.relative_attention_max_distance;
        for (arg, got, min, max) in [
            ("d_model", self.d_model, 1, 1 << 20),
            ("num_layers", self.num_layers, 1, 1 << 10),
            ("num_heads", self.num_heads, 1, 1 << 10),
            ("d_kv", self.d_kv, 1, 1 << 16),
            ("d_ff", self.d_ff, 1, 1 << 20),
            ("vocab_size", self.vocab_size, 1, 1 << 24),
            ("relative_attention_num_buckets", buckets, 4, 1 << 10),
            (
                "relative_attention_max_distance",
                distance,
                buckets / 4 + 1,
                1 << 16,
            ),
        ] {
            if got < min || got > max {
                return Err(Error::Range {
                    op: "config",
                    arg,
                    got: got as u64,
                    min: min as u64,
                    max: max as u64,
                });
            }
        }
        if self.eos_id as usize >= self.vocab_size {
            return Err(Error::Config {
                key: "eos_token_id",
                problem: "lies outside the vocabulary",
            });
        }
        if !(self.layer_norm_epsilon > 0.0 && self.layer_norm_epsilon < 1.0) {
            return Err(Error::Config {
                key: "layer_norm_epsilon",
                problem: "is not between 0 and 1",
            });
        }
        Ok(())
    }

    const fn inner(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// The kind of the distance from a query to a key that stands `distance` after it.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small positive number, cut as the reference cuts it"
    )]
    pub fn bucket(&self, distance: i64) -> usize {
        let half = self.relative_attention_num_buckets / 2;
        let exact = half / 2;
        let base = if distance > 0 { half } else { 0 };
        let m = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
        if m < exact {
            return base + m;
        }
        // In single precision, which decides at the boundaries.
        let ratio = self.relative_attention_max_distance as f32 / exact as f32;
        let log = libm::logf(m as f32 / exact as f32) / libm::logf(ratio);
        base + (exact + (log * (half - exact) as f32) as usize).min(half.saturating_sub(1))
    }
}

#[derive(Debug)]
struct Block<B: Backend> {
    norm1: NormWeights<B>,
    qkv: Linear<B>,
    out: Linear<B>,
    norm2: NormWeights<B>,
    mlp_in: Linear<B>,
    mlp_out: Linear<B>,
}

/// A T5 encoder: immutable weights, shared by any number of threads, each with a [`T5Scratch`] of its own.
///
/// # Source
/// Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", arXiv
/// 1910.10683; Chung et al., "Scaling Instruction-Finetuned Language Models", arXiv 2210.11416.
#[derive(Debug)]
pub struct T5<B: Backend> {
    backend: Arc<B>,
    config: T5Config,
    embedding: B::Matrix,
    /// Bias of each kind of distance and head, `[buckets, heads]`.
    bias: Vec<f32>,
    blocks: Vec<Block<B>>,
    final_norm: NormWeights<B>,
}

/// Memory of one encoding at a time.
#[derive(Debug)]
pub struct T5Scratch<B: Backend> {
    rows: usize,
    ids: B::Buffer<u32>,
    x: B::Buffer<f32>,
    normed: B::Buffer<f32>,
    qkv: B::Buffer<f32>,
    context: B::Buffer<f32>,
    mlp: B::Buffer<f32>,
    gated: B::Buffer<f32>,
    bias: B::Buffer<f32>,
    /// What `bias` is told.
    biases: Vec<f32>,
}

impl<B: Backend> T5<B> {
    /// Reads the encoder of a checkpoint under the names of the transformers library, large matrices kept at `precision`.
    /// A decoder may be there and is left alone.
    ///
    /// # Errors
    /// A missing, unknown or misshapen tensor, a configuration that contradicts itself, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: T5Config,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        config.check()?;
        let c = &config;
        let device = Arc::clone(&backend);
        let same = |name: &str| String::from(name);
        let loader = Loader::new(&*device, source, precision, &same);
        let norm = |name: &str| NormWeights::load(&loader, Norm::Rms, name, c.d_model);
        let block = |i: usize| {
            let at = |layer: usize, part: &str| format!("encoder.block.{i}.layer.{layer}.{part}");
            let [q, k, v] = ["q", "k", "v"].map(|part| at(0, &format!("SelfAttention.{part}")));
            let qkv = [(q.as_str(), c.inner()), (&k, c.inner()), (&v, c.inner())];
            let [gate, up] = ["wi_0", "wi_1"].map(|part| at(1, &format!("DenseReluDense.{part}")));
            let mlp_in = [(gate.as_str(), c.d_ff), (&up, c.d_ff)];
            let (out, mlp_out) = (at(0, "SelfAttention.o"), at(1, "DenseReluDense.wo"));
            Ok(Block {
                norm1: norm(&at(0, "layer_norm"))?,
                qkv: Linear::fused(&loader, &qkv, c.d_model, false)?,
                out: Linear::load(&loader, &out, c.d_model, c.inner(), false)?,
                norm2: norm(&at(1, "layer_norm"))?,
                mlp_in: Linear::fused(&loader, &mlp_in, c.d_model, false)?,
                mlp_out: Linear::load(&loader, &mlp_out, c.d_model, c.d_ff, false)?,
            })
        };
        // The table is shared; a file may name it for the encoder alone.
        let table = ["shared.weight", "encoder.embed_tokens.weight"];
        let [shared, own] = table;
        let stored = if loader.has(shared) { shared } else { own };
        let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let buckets = c.relative_attention_num_buckets;
        let model = Self {
            embedding: loader.table(stored, [c.vocab_size, c.d_model])?,
            bias: loader.floats(bias, &[buckets, c.num_heads])?,
            blocks: (0..c.num_layers).map(block).collect::<Result<_>>()?,
            final_norm: norm("encoder.final_layer_norm")?,
            backend,
            config,
        };
        loader.finish(&|name| {
            table.contains(&name) || name.starts_with("decoder.") || name == "lm_head.weight"
        })?;
        Ok(model)
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &T5Config {
        &self.config
    }

    /// Memory for up to `rows` tokens.
    ///
    /// # Errors
    /// No token at all, or no memory.
    pub fn scratch(&self, rows: usize) -> Result<T5Scratch<B>> {
        let (b, c) = (&*self.backend, &self.config);
        if rows == 0 || rows > 1 << 16 {
            return Err(Error::Range {
                op: OP,
                arg: "rows",
                got: rows as u64,
                min: 1,
                max: 1 << 16,
            });
        }
        let zeros = |width: usize| b.zeros(product(OP, &[rows, width])?);
        Ok(T5Scratch {
            rows,
            ids: b.zeros(rows)?,
            x: zeros(c.d_model)?,
            normed: zeros(c.d_model)?,
            qkv: zeros(3 * c.inner())?,
            context: zeros(c.inner())?,
            mlp: zeros(2 * c.d_ff)?,
            gated: zeros(c.d_ff)?,
            bias: zeros(2 * c.num_heads)?,
            biases: filled(product(OP, &[rows, 2 * c.num_heads])?, 0.0)?,
        })
    }

    /// Features `[tokens, d_model]` of a prompt, pads left out.
    ///
    /// # Errors
    /// No token, more than the scratch has room for, or one outside the vocabulary.
    pub fn encode(
        &self,
        scratch: &mut T5Scratch<B>,
        tokens: &[TokenId],
        out: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let (b, c, m) = (&*self.backend, &self.config, scratch);
        let rows = tokens.len();
        if rows == 0 || rows > m.rows {
            return Err(Error::PromptTooLong {
                got: rows,
                max: m.rows,
            });
        }
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= c.vocab_size) {
            return Err(Error::Range {
                op: OP,
                arg: "token",
                got: u64::from(token),
                min: 0,
                max: c.vocab_size as u64 - 1,
            });
        }
        covers(OP, "out", b.len(out), rows * c.d_model)?;
        b.write(&mut m.ids, 0, tokens)?;
        let s = GatherShape {
            rows,
            width: c.d_model,
            table_rows: c.vocab_size,
        };
        b.gather_rows(s, &m.ids, &self.embedding, &mut m.x)?;
        // Products of q and k are not scaled.
        let attention = RelativeShape {
            rows,
            n_heads: c.num_heads,
            head_dim: c.d_kv,
            scale: 1.0,
        };
        let biases = &mut m.biases[..c.num_heads * attention.distances()];
        self.biases(&attention, biases);
        b.write(&mut m.bias, 0, biases)?;
        let norm = NormShape {
            rows,
            width: c.d_model,
            eps: c.layer_norm_epsilon,
        };
        let gate = GateShape {
            rows,
            width: c.d_ff,
            activation: Activation::GeluTanh,
        };
        for block in &self.blocks {
            block.norm1.apply(b, norm, &m.x, &mut m.normed)?;
            block.qkv.apply(b, rows, &m.normed, &mut m.qkv)?;
            b.relative_attention(attention, &m.qkv, &m.bias, &mut m.context)?;
            block.out.apply_add(b, rows, &m.context, &mut m.x)?;
            block.norm2.apply(b, norm, &m.x, &mut m.normed)?;
            block.mlp_in.apply(b, rows, &m.normed, &mut m.mlp)?;
            b.gate(gate, &m.mlp, &mut m.gated)?;
            block.mlp_out.apply_add(b, rows, &m.gated, &mut m.x)?;
        }
        self.final_norm.apply(b, norm, &m.x, out)
    }

    /// Bias of each head and distance.
    fn biases(&self, s: &RelativeShape, out: &mut [f32]) {
        for (h, row) in out.chunks_exact_mut(s.distances().max(1)).enumerate() {
            for (distance, bias) in (1_i64..).zip(row) {
                let bucket = self
                    .config
                    .bucket(distance - i64::try_from(s.rows).unwrap_or(i64::MAX));
                *bias = self.bias[bucket * s.n_heads + h];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_distances_have_a_kind_each_and_far_ones_share() {
        let c = T5Config::flan_t5_xl();
        c.check().unwrap();
        assert_eq!([0, -1, -7, 1, 7].map(|d| c.bucket(d)), [0, 1, 7, 17, 23]);
        // Each doubling from 8 on takes two kinds.
        assert_eq!(
            [-8, -16, -32, -64, -127, -128, -5000].map(|d| c.bucket(d)),
            [8, 10, 12, 14, 15, 15, 15]
        );
        assert_eq!(c.bucket(5000), 31);
    }

    #[test]
    fn a_contradiction_is_named() {
        let change = |f: fn(&mut T5Config)| {
            let mut c = T5Config::flan_t5_xl();
            f(&mut c);
            c.check()
        };
        assert!(change(|c| c.d_model = 0).is_err());
        assert!(change(|c| c.relative_attention_num_buckets = 2).is_err());
        assert!(change(|c| c.relative_attention_max_distance = 8).is_err());
        assert!(matches!(
            change(|c| c.eos_id = 32128),
            Err(Error::Config {
                key: "eos_token_id",
                ..
            })
        ));
        assert!(change(|c| c.layer_norm_epsilon = f32::NAN).is_err());
    }
}
