//! Show-o: a masked generator over a text prefix.
//!
//! # Source
//! Xie et al., "Show-o: One Single Transformer to Unify Multimodal Understanding and Generation", arXiv 2408.12528;
//! quirks of the released code are named where they are kept.

#[cfg(feature = "align")]
mod backward;
mod options;
mod prompts;
mod session;

#[cfg(feature = "align")]
pub use backward::ShowOLearner;
pub use options::{LongPrompt, ShowOOptions, TemperaturePolicy};
pub use session::{GivenStep, ShowOSession};

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::model::linear::Linear;
use crate::model::transformer::{
    AdapterConfig, BlockNames, Look, Mlp, Norm, NormWeights, Pass, Rotary, Stack, StackConfig,
};
use crate::model::weights::{Loader, Precision, WeightSource};
use crate::ops::Backend;
use crate::ops::norm::{Activation, NormShape};
use crate::ops::vq::GatherShape;
use crate::prompt::TokenId;

/// Special tokens between the text vocabulary and the image codes.
const SPECIALS: u32 = 10;

/// Their names. A published tokenizer file lacks them, so that it would read a prompt that spells one as plain text.
const SPECIAL_NAMES: [&str; SPECIALS as usize] = [
    "[PAD]", "<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>", "<|t2i|>", "<|mmu|>", "<|t2v|>",
    "<|v2v|>", "<|lvg|>",
];

/// Shape of a Show-o model. Missing keys of a `config.json` have the released model's values.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ShowOConfig {
    /// Width of a row.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Inner width of the MLP.
    pub intermediate_size: usize,
    /// Added to variances.
    pub layer_norm_eps: f32,
    /// Share of each head that is rotated.
    pub partial_rotary_factor: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Text tokens, image codes, special tokens and the mask.
    pub vocab_size: usize,
    /// Text tokens.
    pub llm_vocab_size: usize,
    /// Codes of the tokenizer.
    pub codebook_size: usize,
    /// Codes of a picture; a square number.
    pub num_vq_tokens: usize,
    /// Text tokens of a prompt, without the task token.
    pub max_text_len: usize,
    /// Token before and after the words.
    pub bos_id: TokenId,
}

impl ShowOConfig {
    /// The released 256-pixel model.
    #[must_use]
    pub const fn released() -> Self {
        Self {
            hidden_size: 2048,
            num_hidden_layers: 24,
            num_attention_heads: 32,
            intermediate_size: 8192,
            layer_norm_eps: 1e-5,
            partial_rotary_factor: 0.5,
            rope_theta: 10000.0,
            vocab_size: 58498,
            llm_vocab_size: 50295,
            codebook_size: 8192,
            num_vq_tokens: 256,
            max_text_len: 128,
            bos_id: 50256,
        }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// A key of the wrong type, or a shape that [`check`](Self::check) refuses.
    #[cfg(feature = "safetensors")]
    pub fn from_json(json: &crate::model::files::config::JsonConfig) -> Result<Self> {
        let r = Self::released();
        let llm_vocab_size = json.size_or("llm_vocab_size", r.llm_vocab_size)?;
        let bos = if llm_vocab_size == r.llm_vocab_size {
            r.bos_id as usize
        } else {
            llm_vocab_size.saturating_sub(1)
        };
        let config = Self {
            hidden_size: json.size_or("hidden_size", r.hidden_size)?,
            num_hidden_layers: json.size_or("num_hidden_layers", r.num_hidden_layers)?,
            num_attention_heads: json.size_or("num_attention_heads", r.num_attention_heads)?,
            intermediate_size: json.size_or("intermediate_size", r.intermediate_size)?,
            layer_norm_eps: json.float_or("layer_norm_eps", r.layer_norm_eps)?,
            partial_rotary_factor: json
                .float_or("partial_rotary_factor", r.partial_rotary_factor)?,
            rope_theta: json.float_or("rope_theta", r.rope_theta)?,
            vocab_size: json.size_or("vocab_size", r.vocab_size)?,
            llm_vocab_size,
            codebook_size: json.size_or("codebook_size", r.codebook_size)?,
            num_vq_tokens: json.size_or("num_vq_tokens", r.num_vq_tokens)?,
            max_text_len: json.size_or("max_text_len", r.max_text_len)?,
            bos_id: u32::try_from(json.size_or("bos_id", bos)?).map_err(|_| Error::Config {
                key: "bos_id",
                problem: "is too large",
            })?,
        };
        config.check()?;
        Ok(config)
    }

    /// Fails if the sizes contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        if self.vocab_size > 1 << 24 || self.max_text_len > 1 << 16 || self.num_vq_tokens > 1 << 16
        {
            return Err(Error::Config {
                key: "vocab_size",
                problem: "or max_text_len or num_vq_tokens is out of range",
            });
        }
        let parts = [self.codebook_size, SPECIALS as usize + 1];
        let tokens = parts
            .into_iter()
            .try_fold(self.llm_vocab_size, usize::checked_add);
        if tokens != Some(self.vocab_size) {
            return Err(Error::Config {
                key: "vocab_size",
                problem: "is not llm_vocab_size + 10 special tokens + codebook_size + 1 mask",
            });
        }
        let side = self.side();
        if side * side != self.num_vq_tokens || side == 0 {
            return Err(Error::Config {
                key: "num_vq_tokens",
                problem: "is no square number",
            });
        }
        if self.codebook_size == 0 || self.max_text_len < 2 {
            return Err(Error::Config {
                key: "max_text_len",
                problem: "or codebook_size is too small",
            });
        }
        if self.bos_id as usize >= self.llm_vocab_size {
            return Err(Error::Config {
                key: "bos_id",
                problem: "lies outside the text vocabulary",
            });
        }
        if self.num_attention_heads == 0
            || !self.hidden_size.is_multiple_of(self.num_attention_heads)
        {
            return Err(Error::Config {
                key: "num_attention_heads",
                problem: "does not divide hidden_size",
            });
        }
        if !(0.0..=1.0).contains(&self.partial_rotary_factor) {
            return Err(Error::Config {
                key: "partial_rotary_factor",
                problem: "is not between 0 and 1",
            });
        }
        self.stack().check()
    }

    /// Rows and columns of the code grid.
    #[must_use]
    pub fn side(&self) -> usize {
        self.num_vq_tokens.isqrt()
    }

    /// Token of code 0.
    #[must_use]
    pub const fn image_offset(&self) -> usize {
        self.llm_vocab_size + SPECIALS as usize
    }

    /// Rows of the text segment: task token, words and what frames them, pads included.
    #[must_use]
    pub const fn text_rows(&self) -> usize {
        self.max_text_len + 1
    }

    /// Rows of the image segment: its frame and its codes.
    #[must_use]
    pub const fn image_rows(&self) -> usize {
        self.num_vq_tokens + 2
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "check bounds the vocabulary by 2^24"
    )]
    const fn special(&self, i: u32) -> TokenId {
        self.llm_vocab_size as u32 + i
    }

    /// Token that fills the text segment from the left.
    #[must_use]
    pub const fn pad(&self) -> TokenId {
        self.special(0)
    }

    /// Token before the codes.
    #[must_use]
    pub const fn soi(&self) -> TokenId {
        self.special(1)
    }

    /// Token after the codes.
    #[must_use]
    pub const fn eoi(&self) -> TokenId {
        self.special(2)
    }

    /// Task token of drawing.
    #[must_use]
    pub const fn t2i(&self) -> TokenId {
        self.special(5)
    }

    /// Text rows of a prompt of these words: task token, frame, words; longer ones keep the leading tokens and end with
    /// the frame, as the released code cuts them.
    #[must_use]
    pub fn text_tokens(&self, words: &[TokenId]) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        self.write_text(words, &mut tokens);
        tokens
    }

    /// Appends the [`text_tokens`](Self::text_tokens) of some words, of which those that do not fit may be left out.
    fn write_text(&self, words: &[TokenId], tokens: &mut Vec<TokenId>) {
        let frame = words.first() != Some(&self.bos_id);
        tokens.push(self.t2i());
        tokens.extend(frame.then_some(self.bos_id));
        let room = (self.text_rows() - 1).saturating_sub(tokens.len());
        tokens.extend(words.iter().take(room));
        tokens.push(self.bos_id);
    }

    /// Token of a masked place.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "check bounds the vocabulary by 2^24"
    )]
    pub const fn mask(&self) -> TokenId {
        self.vocab_size as u32 - 1
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a checked head width"
    )]
    fn stack(&self) -> StackConfig {
        let head_dim = self.hidden_size / self.num_attention_heads.max(1);
        StackConfig {
            layers: self.num_hidden_layers,
            width: self.hidden_size,
            n_heads: self.num_attention_heads,
            n_kv_heads: self.num_attention_heads,
            head_dim,
            mlp_width: self.intermediate_size,
            norm: Norm::Layer,
            eps: self.layer_norm_eps,
            parallel: true,
            // Forced on by the released code, whatever the base model's config says.
            qk_norm: true,
            qkv_bias: true,
            out_bias: true,
            mlp: Mlp::Plain(Activation::GeluTanh),
            rotary: Some(Rotary {
                dim: (head_dim as f32 * self.partial_rotary_factor) as usize,
                theta: self.rope_theta,
                positions: self.text_rows() + self.image_rows(),
            }),
        }
    }
}

/// Names of a block's tensors in the upstream naming.
fn block_names(layer: usize) -> BlockNames {
    let at = |part: &str| format!("showo.model.layers.{layer}.{part}");
    BlockNames {
        norm1: at("input_layernorm"),
        norm2: String::new(),
        qkv: [
            at("self_attn.q_proj"),
            at("self_attn.k_proj"),
            at("self_attn.v_proj"),
        ],
        out: at("self_attn.dense"),
        qk_norm: [at("self_attn.q_layernorm"), at("self_attn.k_layernorm")],
        mlp_in: vec![at("mlp.fc1")],
        mlp_out: at("mlp.fc2"),
    }
}

/// A Show-o model: immutable weights, shared by any number of sessions.
#[derive(Debug)]
pub struct ShowO<B: Backend> {
    backend: Arc<B>,
    config: ShowOConfig,
    stack: Stack<B>,
    embedding: B::Matrix,
    final_norm: NormWeights<B>,
    // Columns of image codes only: no other token is ever drawn.
    head: Linear<B>,
}

impl<B: Backend> ShowO<B> {
    /// Reads a checkpoint in the upstream naming, large matrices kept at `precision`.
    ///
    /// # Errors
    /// A missing, unknown or misshapen tensor, a configuration that contradicts itself, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: ShowOConfig,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        config.check()?;
        let device = Arc::clone(&backend);
        let rename = |name: &str| String::from(name);
        let loader = Loader::new(&*device, source, precision, &rename);
        let stack = Stack::load(&loader, config.stack(), &block_names)?;
        let width = config.hidden_size;
        let embedding = loader.table(
            "showo.model.embed_tokens.weight",
            [config.vocab_size, width],
        )?;
        let final_norm =
            NormWeights::load(&loader, Norm::Layer, "showo.model.final_layernorm", width)?;
        let (from, codes) = (config.image_offset(), config.codebook_size);
        let matrix = loader.matrix_of_rows(
            "showo.lm_head.weight",
            [config.vocab_size, width],
            from..from + codes,
        )?;
        let bias: Vec<f32> =
            loader.floats("showo.lm_head.bias", &[config.vocab_size])?[from..from + codes].into();
        let head = Linear::from_matrix(&loader, [codes, width], matrix, Some(&bias))?;
        loader.finish(&|name| name.starts_with("mm_projector."))?;
        Ok(Self {
            backend,
            config,
            stack,
            embedding,
            final_norm,
            head,
        })
    }

    /// The model with low-rank pairs beside its layers, under the PEFT library's names: y = W x + alpha / rank · B (A x).
    ///
    /// # Errors
    /// As [`Stack::adapt`](crate::model::transformer::Stack::adapt).
    pub fn with_adapters(
        mut self,
        config: &AdapterConfig,
        source: &dyn WeightSource,
    ) -> Result<Self> {
        self.stack
            .adapt(&self.backend, config, source, &block_names)?;
        Ok(self)
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &ShowOConfig {
        &self.config
    }

    /// The device.
    #[must_use]
    pub const fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    fn embed(&self, rows: usize, ids: &B::Buffer<u32>, x: &mut B::Buffer<f32>) -> Result<()> {
        let c = &self.config;
        let s = GatherShape {
            rows,
            width: c.hidden_size,
            table_rows: c.vocab_size,
        };
        self.backend.gather_rows(s, ids, &self.embedding, x)
    }

    fn normalise(&self, rows: usize, x: &B::Buffer<f32>, y: &mut B::Buffer<f32>) -> Result<()> {
        let s = NormShape {
            rows,
            width: self.config.hidden_size,
            eps: self.config.layer_norm_eps,
        };
        self.final_norm.apply(&self.backend, s, x, y)
    }

    /// What each row of a full sequence attends to: first row and number of rows, always neighbours. Pads see pads
    /// before them, text sees text before it, the image segment sees everything but pads.
    #[must_use]
    pub fn visible_rows(&self, tokens: &[TokenId]) -> Vec<[u32; 2]> {
        let c = &self.config;
        let len = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let first = (1..=len)
            .zip(tokens)
            .filter(|(_, t)| **t == c.pad())
            .fold(0, |_, (after, _)| after);
        let soi = (0..len)
            .zip(tokens)
            .find(|(_, t)| **t == c.soi())
            .map_or(len, |(i, _)| i);
        (0..len)
            .map(|q| match q {
                q if q < first => [0, q + 1],
                q if q < soi => [first, q + 1 - first],
                _ => [first, len - first],
            })
            .collect()
    }

    /// Final hidden rows `[len, width]` of one full sequence, pads included, without any cache: every row attends on its
    /// own. The slow, plain form that the cached one is tested against.
    ///
    /// # Errors
    /// A sequence longer than the model's, or no memory.
    pub fn forward_full(&self, tokens: &[TokenId], look: Look<'_, B>) -> Result<Vec<f32>> {
        let (b, rows) = (&*self.backend, tokens.len());
        let mut ids = b.zeros(rows)?;
        b.write(&mut ids, 0, tokens)?;
        let mut x = b.zeros(rows * self.config.hidden_size)?;
        self.embed(rows, &ids, &mut x)?;
        let order: Vec<u32> = (0..).take(rows).collect();
        let mut places = b.zeros(rows)?;
        b.write(&mut places, 0, &order)?;
        let words: Vec<u32> = self
            .visible_rows(tokens)
            .iter()
            .flat_map(|&[from, len]| [from, len, 0, 0])
            .collect();
        let mut spans = b.zeros(words.len())?;
        b.write(&mut spans, 0, &words)?;
        let pass = Pass {
            sequences: rows,
            queries: 1,
            causal: false,
            positions: &places,
            places: &places,
            spans: &spans,
            pages: 0,
        };
        let (mut cache, mut scratch) = (self.stack.cache(b, rows)?, self.stack.scratch(b, rows)?);
        self.stack
            .forward_watched(b, &pass, &mut x, (&mut cache, &mut scratch), look)?;
        let mut normed = b.zeros(rows * self.config.hidden_size)?;
        self.normalise(rows, &x, &mut normed)?;
        let mut out = vec![0.0; rows * self.config.hidden_size];
        b.read(&normed, 0, &mut out)?;
        Ok(out)
    }
}
