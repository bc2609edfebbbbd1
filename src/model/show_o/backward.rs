//! Show-o as a model to be trained.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{ShowO, ShowOConfig, block_names};
use crate::codes::{Code, UNKNOWN};
use crate::error::{Error, Result, covers};
use crate::model::learner::{EndValues, Ends, Example, Head, Input, Learner, Scope};
use crate::model::linear::Linear;
use crate::model::transformer::{BlockNames, Stack};
use crate::model::weights::{Loader, Precision, WeightSource, zeros};
use crate::ops::Backward;
use crate::prompt::TokenId;
use crate::quant::{Format, QuantMatrix};

const EMBEDDING: &str = "showo.model.embed_tokens";
const HEAD: &str = "showo.lm_head";

const SHARED: Error = Error::Unsupported {
    what: "training weights that others share",
};

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
        let head = Linear::load(&loader, HEAD, c.vocab_size, c.hidden_size, true)?;
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
                max: len.saturating_sub(1) as u64,
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
        let model = Arc::get_mut(&mut self.model).ok_or(SHARED)?;
        Ok(&mut model.stack)
    }

    fn ends(&self) -> Option<Ends> {
        Some(Ends {
            embedding: String::from(EMBEDDING),
            norm: String::from("showo.model.final_layernorm"),
            head: String::from(HEAD),
            tokens: self.model.config.vocab_size,
            codes_at: self.model.config.image_offset(),
        })
    }

    fn replace_ends(&mut self, format: Format, values: EndValues<'_>) -> Result<()> {
        let model = Arc::get_mut(&mut self.model).ok_or(SHARED)?;
        let (b, c) = (&*model.backend, &model.config);
        let (d, bias) = (c.hidden_size, values.head_bias);
        self.head.replace(b, (format, 0), values.head, Some(bias))?;
        let codes = c.image_offset()..c.image_offset() + c.codebook_size;
        let rows = values.head.get(codes.start * d..codes.end * d);
        let bias = bias.get(codes);
        model
            .head
            .replace(b, (format, 0), rows.unwrap_or_default(), bias)?;
        model.final_norm.replace(b, values.norm)?;
        // The table is kept as it was stored.
        let (n, table) = (c.vocab_size, values.embedding);
        let floats = QuantMatrix::f32(n, d, table)?;
        if b.put(&mut model.embedding, 0, &floats).is_ok() {
            return Ok(());
        }
        let mut bytes = zeros(Format::Bf16.bytes(n, d)?)?;
        Format::Bf16.quantise(table, &mut bytes);
        b.put(&mut model.embedding, 0, &QuantMatrix::bf16(n, d, &bytes)?)
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
