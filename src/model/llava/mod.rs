//! LLaVA-OneVision as a judge: a picture and a question in, P(yes) and P(no) out.
//!
//! The image tower's rows stand between the tokens of a question, as the template says; the first answer token's
//! distribution is the verdict. A session keeps keys and values by view, so that a second question about the same
//! view computes only the rows in which it differs.
//!
//! # Source
//! Li et al., "LLaVA-OneVision: Easy Visual Task Transfer", arXiv 2408.03326; as a judge of unfinished pictures: Guo et
//! al., arXiv 2501.13926.

mod answer;
mod config;
#[cfg(feature = "align")]
mod learner;
mod options;
mod session;
mod slots;
mod templates;
mod trace;
mod views;

pub use config::{Aspect, LlavaConfig, TextConfig};
#[cfg(feature = "align")]
pub use learner::{Lesson, LlavaLearner};
pub use options::{JudgeOptions, Reader};
pub use session::LlavaSession;
pub use templates::Templates;
pub use trace::TraceStage;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::error::Result;
use crate::model::linear::Linear;
use crate::model::transformer::{AdapterConfig, BlockNames, Norm, NormWeights, Stack, peft_prefix};
use crate::model::vision::Vision;
use crate::model::weights::{Loader, Precision, WeightSource};
use crate::ops::Backend;

/// The judge's weights. Immutable: sessions share it behind an [`Arc`].
#[derive(Debug)]
pub struct Llava<B: Backend> {
    pub(super) backend: Arc<B>,
    config: LlavaConfig,
    vision: Vision<B>,
    pub(super) embed: B::Matrix,
    /// Ends the rows of a picture; empty for pictures that fit.
    newline: Vec<f32>,
    pub(super) stack: Stack<B>,
    pub(super) norm: NormWeights<B>,
    pub(super) head: Linear<B>,
    /// The rows of the head for "yes" and "no" alone.
    answers: Linear<B>,
}

/// Prefixes of one part of the model: the original naming, then what other writers call it.
const NAMINGS: [(&str, &[&str]); 6] = [
    (
        "model.vision_tower.vision_tower.vision_model.",
        &[
            "vision_tower.vision_model.",
            "model.vision_tower.vision_model.",
            "model.vision_tower.",
            "vision_tower.",
        ],
    ),
    (
        "model.mm_projector.0.",
        &[
            "multi_modal_projector.linear_1.",
            "model.multi_modal_projector.linear_1.",
        ],
    ),
    (
        "model.mm_projector.2.",
        &[
            "multi_modal_projector.linear_2.",
            "model.multi_modal_projector.linear_2.",
        ],
    ),
    ("model.image_newline", &["image_newline"]),
    ("lm_head.", &["language_model.lm_head."]),
    (
        "model.",
        &["language_model.model.", "model.language_model."],
    ),
];

/// The name under which a checkpoint holds a tensor of the original naming.
fn stored_name(source: &dyn WeightSource, name: &str) -> String {
    let has = |name: &str| source.tensor(name).is_some();
    if !has(name)
        && let Some((prefix, others)) = NAMINGS.iter().find(|(prefix, _)| name.starts_with(prefix))
        && let Some(found) = others
            .iter()
            .map(|other| format!("{other}{}", &name[prefix.len()..]))
            .find(|other| has(other))
    {
        return found;
    }
    name.to_string()
}

/// Whether a tensor may lie in a checkpoint without being read: what follows the tower's kept layers.
fn unused(name: &str, vision_layers: usize) -> bool {
    let Some(at) = name.find("vision_tower.") else {
        return false;
    };
    let part = &name[at..];
    part.contains(".post_layernorm.")
        || part.contains("vision_model.head.")
        || part.contains(".vision_tower.head.")
        || part.starts_with("vision_tower.head.")
        || part.contains(&format!("encoder.layers.{vision_layers}."))
}

/// Names of a block's tensors in the original naming.
pub(super) fn block_names(layer: usize) -> BlockNames {
    blocks_of("model.", layer)
}

/// Names of a block's tensors, `prefix` standing for `model.`.
pub(super) fn blocks_of(prefix: &str, layer: usize) -> BlockNames {
    let name = |part: &str| format!("{prefix}layers.{layer}.{part}");
    BlockNames {
        norm1: name("input_layernorm"),
        norm2: name("post_attention_layernorm"),
        qkv: [
            name("self_attn.q_proj"),
            name("self_attn.k_proj"),
            name("self_attn.v_proj"),
        ],
        out: name("self_attn.o_proj"),
        qk_norm: [String::new(), String::new()],
        mlp_in: Vec::from([name("mlp.gate_proj"), name("mlp.up_proj")]),
        mlp_out: name("mlp.down_proj"),
    }
}

impl<B: Backend> Llava<B> {
    /// Reads a checkpoint in the original naming or either naming of the transformers library; large matrices are
    /// kept at `precision`. Without a head of its own the model answers through its embeddings.
    ///
    /// # Errors
    /// A configuration that contradicts itself, a tensor that is missing, misshapen, not finite or not part of the
    /// model, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: LlavaConfig,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        let rename = |name: &str| stored_name(source, name);
        let device = Arc::clone(&backend);
        let loader = Loader::new(&*device, source, precision, &rename);
        let layers = config.vision.layers;
        let model = Self::read(&loader, backend, config)?;
        loader.finish(&|name| unused(name, layers))?;
        Ok(model)
    }

    /// Reads what the model needs, in the original naming.
    pub(super) fn read(
        loader: &Loader<'_, B>,
        backend: Arc<B>,
        config: LlavaConfig,
    ) -> Result<Self> {
        config.check()?;
        let text = &config.text;
        let rows = if loader.has("lm_head.weight") {
            "lm_head.weight"
        } else {
            "model.embed_tokens.weight"
        };
        let shape = [text.vocab, text.width];
        let matrix = loader.matrix(&[(rows, text.vocab)], text.width)?;
        let head = Linear::from_matrix(loader, shape, matrix, None)?;
        let mut two = Vec::new();
        for id in [config.yes_id, config.no_id] {
            let id = id as usize;
            two.extend(loader.rows(rows, shape, id..id + 1)?);
        }
        let answers = Linear::from_floats(loader, rows, [2, text.width], &two, None)?;
        let embed = loader.table("model.embed_tokens.weight", shape)?;
        let vision = Vision::load(loader, config.vision, text.width)?;
        let newline = match config.aspect {
            Aspect::Fit { .. } => Vec::new(),
            _ => loader.floats("model.image_newline", &[text.width])?,
        };
        let stack = Stack::load(loader, text.stack(), &block_names)?;
        let norm = NormWeights::load(loader, Norm::Rms, "model.norm", text.width)?;
        Ok(Self {
            config,
            vision,
            embed,
            newline,
            stack,
            norm,
            head,
            answers,
            backend,
        })
    }

    /// The judge with low-rank pairs beside the layers of its language model, under the PEFT library's names:
    /// y = W x + alpha / rank · B (A x).
    ///
    /// # Errors
    /// As [`Stack::adapt`].
    pub fn with_adapters(
        mut self,
        config: &AdapterConfig,
        source: &dyn WeightSource,
    ) -> Result<Self> {
        let all = ["model.", "language_model.model.", "model.language_model."];
        self.adapt(&all, config, source)?;
        Ok(self)
    }

    pub(super) fn adapt(
        &mut self,
        prefixes: &[&str],
        config: &AdapterConfig,
        source: &dyn WeightSource,
    ) -> Result<()> {
        let prefix = peft_prefix(source, prefixes);
        let names = |layer| blocks_of(prefix, layer);
        self.stack.adapt(&self.backend, config, source, &names)
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &LlavaConfig {
        &self.config
    }

    /// The device that holds the weights.
    #[must_use]
    pub const fn backend(&self) -> &Arc<B> {
        &self.backend
    }
}
