//! Janus as a generator: how prompts and codes enter the language model, and how codes leave it.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use super::layouts::{END, PAD};
use super::{Janus, JanusConfig};
use crate::error::{Error, Result};
use crate::model::raster::{
    PrefixPair, PrefixReader, PrefixRows, RasterModel, RasterOptions, RasterSession,
};
use crate::model::session::copied;
use crate::model::template::{Template, Tokens};
use crate::model::transformer::Stack;
use crate::ops::Backend;
use crate::prompt::{Prompt, TokenId, Tokenize};

/// Candidates over a Janus model: a [`Generator`](crate::Generator).
pub type JanusSession<B, T> = RasterSession<B, Janus<B>, JanusReader<B, T>>;

impl JanusConfig {
    /// Settings of the released script: guidance 5, temperature 1, every code may be drawn. The port to transformers
    /// draws from the likeliest 50 unless told otherwise.
    #[must_use]
    pub fn options(&self) -> RasterOptions {
        RasterOptions {
            guidance_scale: 5.0,
            ..RasterOptions::default()
        }
    }
}

impl<B: Backend> Janus<B> {
    /// A run of the model as a generator, on the weights that judge.
    ///
    /// # Errors
    /// A layout that cannot be read or a tokenizer without the pad token, settings out of range, or no memory.
    pub fn draw<T: Tokenize>(
        self: &Arc<Self>,
        words: T,
        options: RasterOptions,
    ) -> Result<JanusSession<B, T>> {
        let reader = JanusReader::new(Arc::clone(self), words)?;
        RasterSession::new(Arc::clone(self), Arc::clone(&self.pixels), reader, options)
    }
}

impl<B: Backend> RasterModel<B> for Janus<B> {
    fn backend(&self) -> &Arc<B> {
        &self.understanding.backend
    }

    fn stack(&self) -> &Stack<B> {
        &self.understanding.stack
    }

    fn grid(&self) -> [usize; 2] {
        [self.config.side; 2]
    }

    fn codebook(&self) -> usize {
        self.config.vq.codebook_size
    }

    fn prefix_limit(&self) -> usize {
        self.config.max_prompt_len
    }

    fn prefix_rows(&self) -> PrefixRows {
        PrefixRows::Kept
    }

    fn prefix_position(&self, i: usize) -> u32 {
        position(i)
    }

    fn position(&self, prefix: usize, place: usize) -> u32 {
        position(prefix + place)
    }

    fn scratch(&self) -> usize {
        self.code_scratch()
    }

    fn embed(
        &self,
        rows: usize,
        codes: &B::Buffer<u32>,
        scratch: &mut B::Buffer<f32>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()> {
        self.code_rows(rows, codes, scratch, x)
    }

    fn normalise(&self, rows: usize, x: &B::Buffer<f32>, y: &mut B::Buffer<f32>) -> Result<()> {
        self.norm_rows(rows, x, y)
    }

    fn head(
        &self,
        rows: usize,
        x: &B::Buffer<f32>,
        scratch: &mut B::Buffer<f32>,
        logits: &mut B::Buffer<f32>,
    ) -> Result<()> {
        self.code_logits(rows, x, scratch, logits)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "check bounds prompt and codes by the model's positions"
)]
const fn position(i: usize) -> u32 {
    i as u32
}

/// Turns prompts into the tokens of the released layout.
pub struct JanusReader<B: Backend, T> {
    pub(super) model: Arc<Janus<B>>,
    pub(super) words: T,
    draw: Template,
    plan: Option<Template>,
    pub(super) tokens: Tokens,
    text: String,
    pad: TokenId,
    pub(super) end: Option<TokenId>,
    ids: B::Buffer<u32>,
}

impl<B: Backend, T> fmt::Debug for JanusReader<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JanusReader")
            .field("draw", &self.draw)
            .field("plan", &self.plan)
            .field("pad", &self.pad)
            .finish_non_exhaustive()
    }
}

impl<B: Backend, T: Tokenize> JanusReader<B, T> {
    pub(super) fn new(model: Arc<Janus<B>>, words: T) -> Result<Self> {
        let limit = model.config.max_prompt_len;
        Ok(Self {
            draw: Template::new(&model.config.layouts.draw, &words, 0)?,
            plan: match model.config.layouts.plan.as_str() {
                "" => None,
                plan => Some(Template::new(plan, &words, 0)?),
            },
            text: String::new(),
            end: words.token(END),
            tokens: Tokens::reserve(limit)?,
            pad: words.token(PAD).ok_or(Error::Config {
                key: "vocabulary",
                problem: "lacks the pad token",
            })?,
            ids: model.backend().zeros(limit)?,
            words,
            model,
        })
    }

    /// Leaves the tokens of a prompt, in the layout of a plan or of a picture, in `tokens.before`.
    pub(super) fn encode(&mut self, prompt: &Prompt<'_>, plan: bool) -> Result<()> {
        let limit = self.model.config.max_prompt_len;
        let cut = prompt.text().len() - prompt.text().trim_start().len();
        let layout = match (&self.plan, plan) {
            (_, false) => &self.draw,
            (Some(layout), true) => layout,
            (None, true) => {
                return Err(Error::Unsupported {
                    what: "writing a plan",
                });
            }
        };
        self.text.clear();
        for (separator, part) in [
            ("", Some(prompt.text())),
            ("\n", prompt.plan().filter(|_| !plan)),
        ] {
            let part = part.map(str::trim).unwrap_or_default();
            if !part.is_empty() {
                let bytes = part.len() + separator.len();
                self.text
                    .try_reserve(bytes)
                    .map_err(|_| Error::OutOfMemory {
                        what: "prompt",
                        bytes,
                    })?;
                self.text.push_str(separator);
                self.text.push_str(part);
            }
        }
        self.tokens.clear();
        layout
            .encode(&self.text, &self.words, limit, &mut self.tokens)
            .map_err(|error| behind(error, cut))?;
        if self.tokens.before.is_empty() {
            return Err(Error::Config {
                key: "templates",
                problem: "leave a prompt without a token",
            });
        }
        self.check(&self.tokens.before)
    }

    /// Fails on a token that the model does not have.
    pub(super) fn check(&self, tokens: &[TokenId]) -> Result<()> {
        let vocab = self.model.config.text.vocab;
        if tokens.iter().any(|&id| id as usize >= vocab) {
            return Err(Error::Config {
                key: "vocab_size",
                problem: "is smaller than the tokenizer's vocabulary",
            });
        }
        Ok(())
    }

    /// A prompt's tokens, and what guidance leads away from: the same with a pad for every token but the first and
    /// the last. The pads are attended to like any token.
    fn pair(&self, tokens: &[TokenId]) -> Result<PrefixPair> {
        let mut unconditional = copied(tokens)?;
        let last = tokens.len().saturating_sub(1);
        if let Some(inner) = unconditional.get_mut(1..last) {
            inner.fill(self.pad);
        }
        Ok(PrefixPair {
            conditional: copied(tokens)?,
            unconditional,
        })
    }
}

impl<B: Backend, T: Tokenize> PrefixReader<B> for JanusReader<B, T> {
    fn read(&mut self, prompt: &Prompt<'_>) -> Result<PrefixPair> {
        if prompt.previous().is_some() {
            return Err(Error::Unsupported {
                what: "a correction for Janus",
            });
        }
        self.encode(prompt, false)?;
        self.pair(&self.tokens.before)
    }

    fn write(&mut self, words: &[u32], x: &mut B::Buffer<f32>) -> Result<usize> {
        let limit = self.model.config.max_prompt_len;
        if words.len() > limit {
            return Err(Error::PromptTooLong {
                got: words.len(),
                max: limit,
            });
        }
        self.check(words)?;
        self.model.backend().write(&mut self.ids, 0, words)?;
        self.model.token_rows(words.len(), &self.ids, x)?;
        Ok(words.len())
    }

    fn plan(&mut self, prompt: &Prompt<'_>, seed: u64, out: &mut dyn fmt::Write) -> Result<()> {
        self.encode(prompt, true)?;
        let plan = self.model.write(&self.tokens.before, self.end, seed)?;
        self.words.decode(&plan, out)
    }
}

/// An error's place in a text of which so many leading bytes were cut off.
fn behind(error: Error, cut: usize) -> Error {
    match error {
        Error::UnknownWord { word, at } => Error::UnknownWord { word, at: at + cut },
        Error::SpecialToken { token, at } => Error::SpecialToken {
            token,
            at: at + cut,
        },
        other => other,
    }
}
