//! Janus and Janus-Pro: one language model that draws code by code, and judges pictures through a tower of its own.
//!
//! # Source
//! Wu et al., arXiv 2410.13848; Chen et al., arXiv 2501.17811. In F32 from the logits on, where the released code
//! rounds them, their softmax and the noise of its draws to BF16.

#[cfg(feature = "align")]
mod backward;
mod config;
mod draw;
mod layouts;
mod names;
mod write;

pub use config::JanusConfig;
pub use draw::{JanusReader, JanusSession};
pub use layouts::Layouts;

use alloc::sync::Arc;
use alloc::vec::Vec;

use self::names::{Naming, unused};
use crate::codes::Code;
use crate::error::{Error, Result, product};
use crate::model::linear::Linear;
use crate::model::llava::{JudgeOptions, Llava, LlavaSession};
use crate::model::transformer::{AdapterConfig, Pass};
use crate::model::vq::Vq;
use crate::model::weights::{Loader, Precision, WeightSource};
use crate::ops::Backend;
use crate::ops::norm::{Activation, NormShape};
use crate::ops::vq::GatherShape;
use crate::prompt::{TokenId, Tokenize};

/// A Janus model: immutable weights, shared by any number of sessions that draw or judge.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use maquette::cpu::Cpu;
/// use maquette::model::files::map::ModelFolder;
/// use maquette::model::janus::{Janus, JanusConfig};
/// use maquette::model::llava::JudgeOptions;
/// use maquette::model::words::Words;
/// use maquette::quant::Format;
/// use maquette::search::{BestOfN, Flow, SearchStrategy};
/// use maquette::{Error, Prompt, rng::Stream};
///
/// // The small model of the repository; a published one is opened in the same way.
/// let folder = Path::new("examples/demo/weights/janus");
/// # if !folder.exists() { return Ok(()); }
/// let words = std::fs::read_to_string(folder.join("vocab.txt")).map_err(|_| Error::foreign("no words"))?;
/// let words = Arc::new(Words::new(&words)?);
/// let folder = ModelFolder::open(folder)?;
/// let config = JanusConfig::from_json(&folder.config)?.with_tokenizer(&words);
/// let options = config.options().with_candidates(2);
/// let model = folder.weights.read(|weights| Janus::load(Arc::new(Cpu::new()), config, weights, Format::Q8_0))?;
///
/// // It draws, and judges what it has drawn.
/// let model = Arc::new(model);
/// let mut generator = model.draw(words.clone(), options)?;
/// let mut judge = model.judge(words, JudgeOptions::default().with_views(2))?;
/// let prompt = Prompt::new("a photo of a red car");
/// let found = BestOfN::new(2).search(&mut generator, &mut judge, &prompt, &mut Stream::new(1), &mut |_| Flow::Continue)?;
/// assert!(found.verdict.is_some_and(|verdict| verdict.p_yes + verdict.p_no <= 1.001));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct Janus<B: Backend> {
    config: JanusConfig,
    /// Tower, aligner and language model: built as LLaVA is, and asked in the same way.
    understanding: Arc<Llava<B>>,
    pixels: Arc<Vq<B>>,
    code_table: B::Buffer<f32>,
    /// The two layers, GELU between them, that codes enter the language model through.
    code_aligner: [Linear<B>; 2],
    /// The two layers that they leave it through.
    code_head: [Linear<B>; 2],
}

impl<B: Backend> Janus<B> {
    /// Reads a checkpoint in the original naming or that of the transformers library; large matrices are kept as
    /// `precision`.
    ///
    /// # Errors
    /// A configuration that contradicts itself, a tensor that is missing, misshapen, not finite or not part of the
    /// model, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: JanusConfig,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        config.check()?;
        let naming = Naming::of(source);
        let rename = |name: &str| naming.stored(name);
        let device = Arc::clone(&backend);
        let loader = Loader::new(&*device, source, precision, &rename);
        let (d, v) = (config.text.width, config.vq.codebook_size);
        let pixels = Vq::read(Arc::clone(&backend), config.vq.clone(), &loader)?;
        let model = Self {
            pixels: Arc::new(pixels),
            understanding: Arc::new(Llava::read(&loader, backend, config.understanding())?),
            code_table: loader.buffer("gen_embed.weight", &[v, config.code_dim])?,
            code_aligner: [
                Linear::load(&loader, "gen_aligner.layers.0", d, config.code_dim, true)?,
                Linear::load(&loader, "gen_aligner.layers.2", d, d, true)?,
            ],
            code_head: [
                Linear::load(
                    &loader,
                    "gen_head.output_mlp_projector",
                    config.head_width,
                    d,
                    true,
                )?,
                Linear::load(&loader, "gen_head.vision_head", v, config.head_width, true)?,
            ],
            config,
        };
        loader.finish(&|name| unused(name))?;
        Ok(model)
    }

    /// The model with low-rank pairs beside the layers of its language model, under the PEFT library's names:
    /// y = W x + alpha / rank · B (A x). It draws and judges with them.
    ///
    /// # Errors
    /// As [`Stack::adapt`](crate::model::transformer::Stack::adapt); weights that are in use.
    pub fn with_adapters(
        mut self,
        config: &AdapterConfig,
        source: &dyn WeightSource,
    ) -> Result<Self> {
        let shared = Error::Unsupported {
            what: "adapters beside weights that are in use",
        };
        let llava = Arc::get_mut(&mut self.understanding).ok_or(shared)?;
        let all = ["language_model.model.", "model.language_model."];
        llava.adapt(&all, config, source)?;
        Ok(self)
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &JanusConfig {
        &self.config
    }

    /// The device that holds the weights.
    #[must_use]
    pub fn backend(&self) -> &Arc<B> {
        &self.understanding.backend
    }

    /// The image tokenizer.
    #[must_use]
    pub const fn pixels(&self) -> &Arc<Vq<B>> {
        &self.pixels
    }

    /// A run of the model as a judge, on the weights that draw.
    ///
    /// # Errors
    /// A configuration without [`answers`](JanusConfig::answers), and as [`LlavaSession::new`].
    pub fn judge(
        &self,
        tokenizer: Arc<dyn Tokenize>,
        options: JudgeOptions,
    ) -> Result<LlavaSession<B>> {
        if self.config.answers.is_empty() {
            return Err(Error::Config {
                key: "answers",
                problem: "are none: a judge needs the tokens of yes and no before it is loaded",
            });
        }
        LlavaSession::new(Arc::clone(&self.understanding), tokenizer, options)
    }

    /// Numbers of scratch that a row needs on its way in or out.
    fn code_scratch(&self) -> usize {
        let c = &self.config;
        c.text.width.max(c.head_width).max(c.code_dim)
    }

    /// The rows that stand for codes in the language model.
    fn code_rows(
        &self,
        rows: usize,
        codes: &B::Buffer<u32>,
        scratch: &mut B::Buffer<f32>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let b = &**self.backend();
        let shape = GatherShape {
            rows,
            width: self.config.code_dim,
            table_rows: self.config.vq.codebook_size,
        };
        b.gather(shape, codes, &self.code_table, scratch)?;
        let [first, second] = &self.code_aligner;
        first.apply(b, rows, scratch, x)?;
        b.activate(Activation::GeluErf, rows * first.n(), x)?;
        second.apply(b, rows, x, scratch)?;
        b.copy(scratch, 0, x, 0, rows * second.n())
    }

    /// The language model's last norm.
    fn norm_rows(&self, rows: usize, x: &B::Buffer<f32>, y: &mut B::Buffer<f32>) -> Result<()> {
        let shape = NormShape {
            rows,
            width: self.config.text.width,
            eps: self.config.text.eps,
        };
        self.understanding.norm.apply(self.backend(), shape, x, y)
    }

    /// Logits of the next code from normalised rows.
    fn code_logits(
        &self,
        rows: usize,
        x: &B::Buffer<f32>,
        scratch: &mut B::Buffer<f32>,
        logits: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let b = &**self.backend();
        let [first, second] = &self.code_head;
        first.apply(b, rows, x, scratch)?;
        b.activate(Activation::GeluErf, rows * first.n(), scratch)?;
        second.apply(b, rows, scratch, logits)
    }

    /// The rows that stand for text in the language model.
    fn token_rows(
        &self,
        rows: usize,
        tokens: &B::Buffer<u32>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let shape = GatherShape {
            rows,
            width: self.config.text.width,
            table_rows: self.config.text.vocab,
        };
        self.backend()
            .gather_rows(shape, tokens, &self.understanding.embed, x)
    }

    /// A prompt and the first codes of a picture in one pass, without any cache: the rows of the codes `[n, width]`,
    /// and for the last row of the prompt and each code the final hidden row and the logits of the code that follows.
    /// The slow, plain form that sessions are tested against.
    ///
    /// # Errors
    /// No token, more rows than the model has positions, or no memory.
    pub fn forward_full(&self, tokens: &[TokenId], codes: &[Code]) -> Result<FullPass> {
        let (b, c) = (&**self.backend(), &self.config);
        let (d, rows) = (c.text.width, tokens.len() + codes.len());
        if tokens.is_empty() || rows > c.text.positions {
            return Err(Error::PromptTooLong {
                got: rows,
                max: c.text.positions,
            });
        }
        let index = u32::try_from(rows).map_err(|_| Error::Overflow { op: "forward" })?;
        let mut scratch = b.zeros(product("forward", &[rows, self.code_scratch()])?)?;
        let mut x = b.zeros(product("forward", &[rows, d])?)?;
        let mut part = b.zeros(product("forward", &[rows, d])?)?;
        let mut ids = b.zeros(rows)?;
        b.write(&mut ids, 0, tokens)?;
        self.token_rows(tokens.len(), &ids, &mut x)?;
        b.write(&mut ids, 0, codes)?;
        self.code_rows(codes.len(), &ids, &mut scratch, &mut part)?;
        b.copy(&part, 0, &mut x, tokens.len() * d, codes.len() * d)?;
        let mut full = FullPass {
            rows: alloc::vec![0.0; codes.len() * d],
            ..FullPass::default()
        };
        b.read(&part, 0, &mut full.rows)?;
        let order: Vec<u32> = (0..index).collect();
        let mut places = b.zeros(rows)?;
        b.write(&mut places, 0, &order)?;
        let mut spans = b.zeros(4)?;
        b.write(&mut spans, 0, &[0, 0, 0, index])?;
        let stack = &self.understanding.stack;
        let pass = Pass {
            sequences: 1,
            queries: rows,
            causal: true,
            positions: &places,
            places: &places,
            spans: &spans,
            pages: 0,
        };
        let (mut cache, mut work) = (stack.cache(b, rows)?, stack.scratch(b, rows)?);
        stack.forward(b, &pass, &mut x, &mut cache, &mut work)?;
        let n = codes.len() + 1;
        b.copy(&x, (rows - n) * d, &mut part, 0, n * d)?;
        self.norm_rows(n, &part, &mut x)?;
        let mut logits = b.zeros(product("forward", &[n, c.vq.codebook_size])?)?;
        self.code_logits(n, &x, &mut scratch, &mut logits)?;
        full.hidden.resize(n * d, 0.0);
        b.read(&x, 0, &mut full.hidden)?;
        full.logits.resize(n * c.vq.codebook_size, 0.0);
        b.read(&logits, 0, &mut full.logits)?;
        Ok(full)
    }
}

/// What [`Janus::forward_full`] gives.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FullPass {
    /// Rows of the codes as they enter the language model, `[n, width]`.
    pub rows: Vec<f32>,
    /// Final hidden rows, `[n + 1, width]`.
    pub hidden: Vec<f32>,
    /// Logits of the next code, `[n + 1, codebook]`.
    pub logits: Vec<f32>,
}
