//! Show-o as a model to be trained.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{ShowO, ShowOConfig, block_names};
use crate::codes::{Code, UNKNOWN};
use crate::error::{Error, Result, covers};
use crate::model::learner::{Example, Head, Input, Learner, Scope};
use crate::model::linear::Linear;
use crate::model::transformer::{BlockNames, Stack};
use crate::model::weights::{Loader, Precision, WeightSource};
use crate::ops::Backward;
use crate::prompt::TokenId;

/// A Show-o model with its whole head: generation needs the image codes alone, training every token.
#[derive(Debug)]
pub struct ShowOLearner<B: Backward> {
    model: Arc<ShowO<B>>,
    head: Linear<B>,
}

impl<B: Backward> ShowOLearner<B> {
    /// Reads the head beside a model that was read from the same checkpoint.
    ///
    /// # Errors
    /// As [`ShowO::load`].
    pub fn load(
        model: Arc<ShowO<B>>,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        let rename = |name: &str| String::from(name);
        let device = Arc::clone(&model.backend);
        let loader = Loader::new(&*device, source, precision, &rename);
        let c = &model.config;
        let head = Linear::load(&loader, "showo.lm_head", c.vocab_size, c.hidden_size, true)?;
        Ok(Self { model, head })
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Arc<ShowO<B>> {
        &self.model
    }
}

impl ShowOConfig {
    /// A sequence of text rows (task token first, pads left out) and a picture whose masked places hold [`UNKNOWN`]; the
    /// rows and labels that are looked at are added by what is made of it.
    ///
    /// # Errors
    /// Text longer than the model reads, a picture of another size, or a code or token that does not exist.
    pub fn example(&self, text: &[TokenId], codes: &[Code], scope: Scope) -> Result<Example> {
        const OP: &str = "example";
        covers(OP, "codes", codes.len(), self.num_vq_tokens)?;
        covers(OP, "codes", self.num_vq_tokens, codes.len())?;
        if text.is_empty() || text.len() > self.text_rows() {
            return Err(Error::PromptTooLong {
                got: text.len(),
                max: self.text_rows(),
            });
        }
        let range = |arg, got: u32, len: usize| {
            if (got as usize) < len {
                return Ok(());
            }
            Err(Error::Range {
                op: OP,
                arg,
                got: u64::from(got),
                min: 0,
                max: len as u64 - 1,
            })
        };
        for &token in text {
            range("token", token, self.vocab_size)?;
        }
        let mut tokens = Vec::from(text);
        tokens.push(self.soi());
        for &code in codes {
            if code == UNKNOWN {
                tokens.push(self.mask());
            } else {
                range("code", code, self.codebook_size)?;
                tokens.push(self.token_of(code));
            }
        }
        tokens.push(self.eoi());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "check bounds max_text_len by 2^16"
        )]
        let first = (self.text_rows() - text.len()) as u32;
        Ok(Example {
            positions: (first..).take(tokens.len()).collect(),
            input: Input::Tokens(tokens),
            causal: text.len(),
            rows: Vec::new(),
            labels: Vec::new(),
            scope,
        })
    }

    /// Token of a code.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "check bounds the vocabulary by 2^24"
    )]
    pub const fn token_of(&self, code: Code) -> TokenId {
        self.image_offset() as u32 + code
    }
}

impl<B: Backward> Learner<B> for ShowOLearner<B> {
    fn backend(&self) -> &Arc<B> {
        &self.model.backend
    }

    fn stack(&self) -> &Stack<B> {
        &self.model.stack
    }

    fn stack_mut(&mut self) -> Result<&mut Stack<B>> {
        let model = Arc::get_mut(&mut self.model).ok_or(Error::Unsupported {
            what: "training weights that others share",
        })?;
        Ok(&mut model.stack)
    }

    fn block_names(&self, layer: usize) -> BlockNames {
        block_names(layer)
    }

    fn head(&self, scope: Scope) -> Result<Head<'_, B>> {
        Ok(Head {
            norm: &self.model.final_norm,
            eps: self.model.config.layer_norm_eps,
            first: None,
            last: match scope {
                Scope::Vocabulary => &self.head,
                Scope::Codes => &self.model.head,
            },
        })
    }

    fn embed(&self, rows: usize, tokens: &B::Buffer<u32>, x: &mut B::Buffer<f32>) -> Result<()> {
        self.model.embed(rows, tokens, x)
    }
}
