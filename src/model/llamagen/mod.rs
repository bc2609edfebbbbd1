//! LlamaGen: a Llama that draws codes row by row, from text or from a class.
//!
//! # Source
//! Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", arXiv 2406.06525; quirks of
//! the released code are named where they are kept.

#[cfg(feature = "align")]
mod backward;
mod clean;
mod config;
mod prompts;

pub use config::{Condition, LlamaGenConfig, LlamaGenSize};
pub use prompts::LlamaGenPrompts;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, Result, product};
use crate::math;
use crate::model::linear::Linear;
use crate::model::raster::{PrefixRows, RasterModel, RasterSession};
use crate::model::transformer::{BlockNames, Look, Norm, NormWeights, Pass, Special, Stack};
use crate::model::weights::{Loader, Precision, WeightSource, zeros};
use crate::ops::Backend;
use crate::ops::norm::{Activation, NormShape};
use crate::ops::vq::GatherShape;

const OP: &str = "llamagen";

/// Candidates of a LlamaGen model.
pub type LlamaGenSession<B, T> = RasterSession<B, LlamaGen<B>, LlamaGenPrompts<B, T>>;

#[derive(Debug)]
enum ConditionWeights<B: Backend> {
    Text {
        fc1: Linear<B>,
        fc2: Linear<B>,
        /// Features of no prompt, `[tokens, width]`.
        null: B::Buffer<f32>,
    },
    /// Rows of the classes, then that of none.
    Class(B::Buffer<f32>),
}

/// A LlamaGen model: immutable weights, shared by any number of sessions.
#[derive(Debug)]
pub struct LlamaGen<B: Backend> {
    backend: Arc<B>,
    config: LlamaGenConfig,
    stack: Stack<B>,
    condition: ConditionWeights<B>,
    embedding: B::Matrix,
    final_norm: NormWeights<B>,
    head: Linear<B>,
}

impl<B: Backend> LlamaGen<B> {
    /// Reads a checkpoint under the released names, large matrices kept at `precision`. Rotary tables that older files
    /// hold are left alone.
    ///
    /// # Errors
    /// A missing, unknown or misshapen tensor, a configuration that contradicts itself, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: LlamaGenConfig,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        config.check()?;
        let device = Arc::clone(&backend);
        let same = |name: &str| String::from(name);
        let loader = Loader::new(&*device, source, precision, &same);
        let special = Special {
            qkv: &|layer| load_qkv(&loader, &config, layer),
            table: &|| rotary_table(&config),
            repeated_prefix: true,
        };
        let (dim, v) = (config.dim, config.vocab_size);
        let condition = match config.condition {
            Condition::Text { tokens, width } => ConditionWeights::Text {
                fc1: Linear::load(&loader, "cls_embedding.cap_proj.fc1", dim, width, false)?,
                fc2: Linear::load(&loader, "cls_embedding.cap_proj.fc2", dim, dim, false)?,
                null: loader.buffer("cls_embedding.uncond_embedding", &[tokens, width])?,
            },
            Condition::Class { classes } => ConditionWeights::Class(
                loader.buffer("cls_embedding.embedding_table.weight", &[classes + 1, dim])?,
            ),
        };
        let model = Self {
            stack: Stack::load_special(&loader, config.stack(), &block_names, &special)?,
            condition,
            embedding: loader.table("tok_embeddings.weight", [v, dim])?,
            final_norm: NormWeights::load(&loader, Norm::Rms, "norm", dim)?,
            head: Linear::load(&loader, "output", v, dim, false)?,
            backend,
            config,
        };
        loader.finish(&|name| name.ends_with("freqs_cis"))?;
        Ok(model)
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &LlamaGenConfig {
        &self.config
    }

    /// Prefix rows of `rows` rows of features through the caption layers; `inner` holds as many numbers as `x`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a class-conditional model, or buffers shorter than their shapes.
    pub fn embed_features(
        &self,
        rows: usize,
        features: &B::Buffer<f32>,
        inner: &mut B::Buffer<f32>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let ConditionWeights::Text { fc1, fc2, .. } = &self.condition else {
            return Err(Error::Unsupported {
                what: "drawing text with a class-conditional model",
            });
        };
        let b = &*self.backend;
        fc1.apply(b, rows, features, inner)?;
        b.activate(Activation::GeluTanh, rows * self.config.dim, inner)?;
        fc2.apply(b, rows, inner, x)
    }

    /// The last `rows` rows of the features of no prompt.
    fn null_features(&self, rows: usize, features: &mut B::Buffer<f32>) -> Result<()> {
        let (ConditionWeights::Text { null, .. }, Condition::Text { tokens, width }) =
            (&self.condition, self.config.condition)
        else {
            return Err(Error::Unsupported {
                what: "drawing text with a class-conditional model",
            });
        };
        let from = tokens.saturating_sub(rows) * width;
        self.backend.copy(null, from, features, 0, rows * width)
    }

    /// The row of a class; the number after the last class stands for none.
    fn embed_class(&self, class: u32, x: &mut B::Buffer<f32>) -> Result<()> {
        let ConditionWeights::Class(table) = &self.condition else {
            return Err(Error::Unsupported {
                what: "drawing classes with a text-conditional model",
            });
        };
        let dim = self.config.dim;
        self.backend.copy(table, class as usize * dim, x, 0, dim)
    }

    fn embed_codes(
        &self,
        rows: usize,
        codes: &B::Buffer<u32>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let s = GatherShape {
            rows,
            width: self.config.dim,
            table_rows: self.config.vocab_size,
        };
        self.backend.gather_rows(s, codes, &self.embedding, x)
    }

    /// What each row of a full sequence attends to: first row and number of rows, always neighbours. Of a prefix of
    /// `limit` rows only the last `visible` are seen; each of the others sees itself alone.
    #[must_use]
    pub fn visible_rows(limit: usize, visible: usize, len: usize) -> Vec<[u32; 2]> {
        let row = |i: usize| u32::try_from(i).unwrap_or(u32::MAX);
        let first = limit.saturating_sub(visible);
        (0..len)
            .map(|i| match i.checked_sub(first) {
                Some(before) => [row(first), row(before + 1)],
                None => [row(i), 1],
            })
            .collect()
    }

    /// Final hidden rows of one full sequence: prefix rows `[limit, dim]` of which the last `visible` are seen, then
    /// codes. Every row attends on its own, to every row of the prefix: the slow, plain form that the collapsed prefix
    /// is tested against.
    ///
    /// # Errors
    /// A prefix of another length, more codes than the grid has, or no memory.
    pub fn forward_full(
        &self,
        prefix: &[f32],
        visible: usize,
        codes: &[u32],
        look: Look<'_, B>,
    ) -> Result<Vec<f32>> {
        let (b, dim) = (&*self.backend, self.config.dim);
        let limit = self.config.prefix_limit();
        crate::error::covers(OP, "prefix", prefix.len(), product(OP, &[limit, dim])?)?;
        crate::error::covers(OP, "codes", self.config.places(), codes.len())?;
        let rows = limit + codes.len();
        let mut x = b.zeros(product(OP, &[rows, dim])?)?;
        let (mut ids, mut drawn) = (b.zeros(codes.len())?, b.zeros(codes.len() * dim)?);
        b.write(&mut ids, 0, codes)?;
        self.embed_codes(codes.len(), &ids, &mut drawn)?;
        b.write(&mut x, 0, &prefix[..limit * dim])?;
        b.copy(&drawn, 0, &mut x, limit * dim, codes.len() * dim)?;
        let (mut places, mut positions) = (b.zeros(rows)?, b.zeros(rows)?);
        let order: Vec<u32> = (0..).take(rows).collect();
        b.write(&mut places, 0, &order)?;
        let turned: Vec<u32> = (0..limit)
            .map(|i| self.prefix_position(i))
            .chain((0..codes.len()).map(|place| self.position(limit, place)))
            .collect();
        b.write(&mut positions, 0, &turned)?;
        let words: Vec<u32> = Self::visible_rows(limit, visible, rows)
            .iter()
            .flat_map(|&[from, len]| [0, 0, from, len])
            .collect();
        let mut spans = b.zeros(words.len())?;
        b.write(&mut spans, 0, &words)?;
        let pass = Pass {
            sequences: rows,
            queries: 1,
            causal: false,
            positions: &positions,
            places: &places,
            spans: &spans,
            pages: 0,
        };
        let (mut cache, mut scratch) = (self.stack.cache(b, rows)?, self.stack.scratch(b, rows)?);
        self.stack
            .forward_watched(b, &pass, &mut x, (&mut cache, &mut scratch), look)?;
        let mut normed = b.zeros(rows * dim)?;
        self.normalise(rows, &x, &mut normed)?;
        let mut out = vec![0.0; rows * dim];
        b.read(&normed, 0, &mut out)?;
        Ok(out)
    }
}

/// Names of a block's tensors; the q, k and v layer is the model's own.
fn block_names(layer: usize) -> BlockNames {
    let at = |part: &str| format!("layers.{layer}.{part}");
    BlockNames {
        norm1: at("attention_norm"),
        norm2: at("ffn_norm"),
        out: at("attention.wo"),
        mlp_in: vec![at("feed_forward.w1"), at("feed_forward.w3")],
        mlp_out: at("feed_forward.w2"),
        ..BlockNames::default()
    }
}

impl<B: Backend> RasterModel<B> for LlamaGen<B> {
    fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    fn stack(&self) -> &Stack<B> {
        &self.stack
    }

    fn grid(&self) -> [usize; 2] {
        [self.config.grid; 2]
    }

    fn codebook(&self) -> usize {
        self.config.vocab_size
    }

    fn prefix_limit(&self) -> usize {
        self.config.prefix_limit()
    }

    fn prefix_rows(&self) -> PrefixRows {
        PrefixRows::Collapsed
    }

    fn prefix_position(&self, _: usize) -> u32 {
        row(self.config.places())
    }

    fn position(&self, _: usize, place: usize) -> u32 {
        row(place)
    }

    fn embed(
        &self,
        rows: usize,
        codes: &B::Buffer<u32>,
        _: &mut B::Buffer<f32>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()> {
        self.embed_codes(rows, codes, x)
    }

    fn normalise(&self, rows: usize, x: &B::Buffer<f32>, y: &mut B::Buffer<f32>) -> Result<()> {
        let s = NormShape {
            rows,
            width: self.config.dim,
            eps: self.config.norm_eps,
        };
        self.final_norm.apply(&self.backend, s, x, y)
    }

    fn head(
        &self,
        rows: usize,
        x: &B::Buffer<f32>,
        _: &mut B::Buffer<f32>,
        logits: &mut B::Buffer<f32>,
    ) -> Result<()> {
        self.head.apply(&self.backend, rows, x, logits)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "check bounds the grid by 2^16 places"
)]
const fn row(place: usize) -> u32 {
    place as u32
}

/// The fused layer of a block. Pairs that are rotated together are neighbours in the file and half a head apart in the
/// stack: the rows of q and k change places, which changes no product of the two.
fn load_qkv<B: Backend>(
    loader: &Loader<'_, B>,
    c: &LlamaGenConfig,
    layer: usize,
) -> Result<Linear<B>> {
    let (dim, head) = (c.dim, c.head_dim());
    let turned = (c.n_head + c.n_kv_head) * head;
    let n = turned + c.n_kv_head * head;
    let name = format!("layers.{layer}.attention.wqkv.weight");
    let order = |row: usize| {
        let (first, at) = (row / head * head, row % head);
        let pair = at % (head / 2) * 2 + at / (head / 2);
        first + if row < turned { pair } else { at }
    };
    let matrix = loader.matrix_in_order(&name, [n, dim], &order)?;
    Linear::from_matrix(loader, [n, dim], matrix, None)
}

/// Rotary table: a position a place of the grid, then one of zeros for the prefix, which annihilates its queries and
/// keys as the released code does. The first half of the pairs turns with the row, the second with the column.
///
/// # Shapes
/// `[places + 1, head_dim]`: cosines of the pairs, then sines.
///
/// # Errors
/// As [`LlamaGenConfig::check`].
pub fn rotary_table(c: &LlamaGenConfig) -> Result<Vec<f32>> {
    c.check()?;
    let (head, pairs, quarter) = (c.head_dim(), c.head_dim() / 2, c.head_dim() / 4);
    let mut table = zeros(product(OP, &[c.places() + 1, head])?)?;
    let rows = table.chunks_exact_mut(head.max(1)).take(c.places());
    for (place, row) in rows.enumerate() {
        let (cos, sin) = row.split_at_mut(pairs);
        for (j, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
            let (at, m) = if j < quarter {
                (place / c.grid, j)
            } else {
                (place % c.grid, j - quarter)
            };
            // In single precision and this order, as the released code.
            let frequency = 1.0 / libm::powf(c.rope_base, (2 * m) as f32 / pairs as f32);
            let angle = at as f32 * frequency;
            (*cos, *sin) = (math::cos(angle), math::sin(angle));
        }
    }
    Ok(table)
}
