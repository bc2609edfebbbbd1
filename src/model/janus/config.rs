//! What a Janus checkpoint says about itself.

use alloc::vec::Vec;

use super::layouts::Layouts;
use crate::error::{Error, Result};
use crate::model::llava::{Aspect, LlavaConfig, TextConfig};
use crate::model::vision::VisionConfig;
use crate::model::vq::VqConfig;
use crate::ops::norm::Activation;
use crate::ops::sample::Filter;
use crate::prompt::{TokenId, Tokenize};

/// Everything about a Janus model but its weights.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct JanusConfig {
    /// The language model, which draws and judges.
    pub text: TextConfig,
    /// The tower that pictures are judged through.
    pub vision: VisionConfig,
    /// Smallest side of a picture on its way to the tower.
    pub min_size: usize,
    /// The image tokenizer; its pictures have the size of the grid.
    pub vq: VqConfig,
    /// Width of an entry of the table through which codes enter the language model.
    pub code_dim: usize,
    /// Inner width of the head that codes leave through.
    pub head_width: usize,
    /// Rows and columns of the code grid.
    pub side: usize,
    /// Most tokens of a prompt, those of its layout included.
    pub max_prompt_len: usize,
    /// Most tokens of a text plan.
    pub max_plan_len: usize,
    /// How a plan's tokens are drawn; greedily unless told otherwise.
    pub plan_filter: Filter,
    /// Pairs of tokens that read as yes and as no; none in a model that only draws.
    pub answers: Vec<[TokenId; 2]>,
    /// The text around prompts.
    pub layouts: Layouts,
}

impl JanusConfig {
    /// The released Janus-1.3B. It has the sizes of Janus-Pro-1B, and no special tokens for speakers.
    ///
    /// # Source
    /// Wu et al., "Janus: Decoupling Visual Encoding for Unified Multimodal Understanding and Generation", arXiv
    /// 2410.13848.
    #[must_use]
    pub fn janus_1_3b() -> Self {
        Self {
            layouts: Layouts::plain(),
            ..Self::janus_pro_1b()
        }
    }

    /// The released Janus-Pro-1B.
    ///
    /// ```
    /// use maquette::model::janus::JanusConfig;
    /// let config = JanusConfig::janus_pro_1b();
    /// config.check()?;
    /// assert_eq!((config.side, config.text.layers), (24, 24));
    /// # Ok::<(), maquette::Error>(())
    /// ```
    ///
    /// # Source
    /// Chen et al., "Janus-Pro: Unified Multimodal Understanding and Generation with Data and Model Scaling", arXiv
    /// 2501.17811.
    #[must_use]
    pub fn janus_pro_1b() -> Self {
        let text = TextConfig {
            width: 2048,
            layers: 24,
            n_heads: 16,
            n_kv_heads: 16,
            head_dim: 128,
            mlp_width: 5632,
            ..llama()
        };
        Self::released(text)
    }

    /// The released Janus-Pro-7B.
    #[must_use]
    pub fn janus_pro_7b() -> Self {
        Self::released(TextConfig {
            layers: 30,
            ..llama()
        })
    }

    fn released(text: TextConfig) -> Self {
        let vision = siglip_large();
        Self {
            min_size: 14,
            vq: VqConfig {
                image_size: 384,
                ..VqConfig::vq_16()
            },
            code_dim: 8,
            head_width: text.width,
            side: 24,
            max_prompt_len: 192,
            max_plan_len: 64,
            plan_filter: Filter::default().with_top_k(1),
            answers: Vec::new(),
            layouts: Layouts::pro(),
            text,
            vision,
        }
    }

    /// The same with what only the tokenizer knows: the tokens that read as yes and no where none are set yet, in
    /// either case, with and without a space before them (as it is, or written `Ġ` where a vocabulary is given by its
    /// entries); and plain speakers where it lacks the special ones.
    #[must_use]
    pub fn with_tokenizer(mut self, tokenizer: &dyn Tokenize) -> Self {
        if self.answers.is_empty() {
            let spaced = |word: &str| {
                let [entry, text] = ["\u{120}", " "].map(|space| [space, word].concat());
                tokenizer.token(&entry).or_else(|| tokenizer.token(&text))
            };
            let pairs = [["yes", "no"], ["Yes", "No"]];
            let first = pairs.iter().map(|pair| pair.map(spaced));
            let plain = |word: &str| tokenizer.token(word);
            let all = first.chain(pairs.iter().map(|pair| pair.map(plain)));
            self.answers = all.filter_map(|[yes, no]| Some([yes?, no?])).collect();
        }
        self.layouts = self.layouts.known_to(tokenizer);
        self
    }

    /// Fails if the sizes contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        self.understanding().check()?;
        self.vq.check()?;
        for (key, size, max) in [
            ("gen_embed_dim", self.code_dim, 1 << 16),
            ("gen_head_hidden", self.head_width, 1 << 20),
            ("grid", self.side, 1 << 8),
            ("max_prompt_len", self.max_prompt_len, 1 << 16),
            ("max_plan_len", self.max_plan_len, 1 << 16),
        ] {
            if size == 0 || size > max {
                return Err(Error::Range {
                    op: "config",
                    arg: key,
                    got: size as u64,
                    min: 1,
                    max: max as u64,
                });
            }
        }
        let behind = self.max_plan_len.max(self.side * self.side);
        if self.max_prompt_len + behind > self.text.positions {
            return Err(Error::Config {
                key: "max_position_embeddings",
                problem: "is too small for a prompt and a plan or a picture's codes",
            });
        }
        if self.vq.grid() != self.side {
            return Err(Error::Config {
                key: "grid",
                problem: "is not that of the image tokenizer",
            });
        }
        Ok(())
    }

    /// The understanding path as a judge. Without answers of its own it has two that nobody reads.
    pub(super) fn understanding(&self) -> LlavaConfig {
        let (first, others) = match self.answers.split_first() {
            Some((first, others)) => (*first, others),
            None => ([0, 1], &[][..]),
        };
        LlavaConfig {
            vision: self.vision,
            text: self.text,
            yes_id: first[0],
            no_id: first[1],
            other_answers: others.into(),
            aspect: Aspect::Fit {
                min: u32::try_from(self.min_size).unwrap_or(u32::MAX),
            },
            templates: self.layouts.questions.clone(),
        }
    }
}

/// What a Llama config leaves out, and the vocabulary of the released models.
const fn llama() -> TextConfig {
    TextConfig {
        width: 4096,
        layers: 32,
        n_heads: 32,
        n_kv_heads: 32,
        head_dim: 128,
        mlp_width: 11008,
        vocab: 102_400,
        theta: 1e4,
        eps: 1e-6,
        positions: 16384,
        qkv_bias: false,
    }
}

/// SigLIP-L at 384 pixels, as the released models use it: all layers, the error-function GELU, the last norm.
fn siglip_large() -> VisionConfig {
    VisionConfig {
        image_size: 384,
        patch_size: 16,
        width: 1024,
        n_heads: 16,
        mlp_width: 4096,
        layers: 24,
        eps: 1e-6,
        activation: Activation::GeluErf,
        final_norm: true,
    }
}

#[cfg(feature = "safetensors")]
mod json;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::words::Words;

    #[test]
    fn the_released_shapes_are_legal_and_nonsense_is_not() {
        for good in [
            JanusConfig::janus_1_3b(),
            JanusConfig::janus_pro_1b(),
            JanusConfig::janus_pro_7b(),
        ] {
            good.check().unwrap();
            let spoil: [fn(&mut JanusConfig); 11] = [
                |c| c.side = 0,
                |c| c.side = 200,
                |c| c.vq.codebook_size = usize::MAX,
                |c| c.vq.image_size = 256,
                |c| c.max_prompt_len = 16384,
                |c| c.max_plan_len = 16384,
                |c| c.code_dim = 0,
                |c| c.head_width = 0,
                |c| c.min_size = 385,
                |c| c.answers = Vec::from([[1, 2], [2, 3]]),
                |c| c.text.n_heads = 0,
            ];
            for (i, spoil) in spoil.iter().enumerate() {
                let mut bad = good.clone();
                spoil(&mut bad);
                assert!(bad.check().is_err(), "{i}");
            }
        }
    }

    #[test]
    fn the_tokenizer_says_what_is_yes_and_who_speaks() {
        let words = Words::new("yes\n\u{120}yes\nno\n\u{120}no\nYes").unwrap();
        let config = JanusConfig::janus_pro_1b().with_tokenizer(&words);
        assert_eq!(config.answers, [[1, 3], [0, 2]]);
        assert_eq!(config.layouts, Layouts::plain());
        let words = Words::new("<|User|>").unwrap();
        let config = JanusConfig::janus_pro_1b().with_tokenizer(&words);
        assert_eq!((config.answers.len(), config.layouts), (0, Layouts::pro()));
    }

    #[cfg(feature = "tokenizers")]
    #[test]
    fn a_published_tokenizer_knows_answers_behind_a_space() {
        use crate::model::files::tokenizer::Tokenizer;
        let (file, _) = Tokenizer::published("janus-pro");
        let config = JanusConfig::janus_pro_1b().with_tokenizer(&file);
        assert_eq!(
            (config.answers, config.layouts),
            (Vec::from([[370, 318]]), Layouts::pro())
        );
    }
}
