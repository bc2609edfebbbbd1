//! Prompts of a LlamaGen model: text, features of a text encoder, or a class.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::clean::clean;
use super::{Condition, LlamaGen};
use crate::error::{Error, Name, Result, covers, product, room};
use crate::model::raster::{PrefixPair, PrefixReader};
use crate::model::session::{copied, reserved};
use crate::model::t5::{T5, T5Scratch};
use crate::ops::Backend;
use crate::prompt::{Prompt, Tokenize};

const OP: &str = "llamagen";

// First words of a prefix: what the others are.
const NULL: u32 = 0;
const FEATURES: u32 = 1;
const TOKENS: u32 = 2;
const CLASS: u32 = 3;

/// Reads the prompts of a LlamaGen session.
///
/// A text-conditional model reads text through a flan-T5 encoder and its tokenizer, cleaned as the captions were that it
/// was trained on: lower-cased, without links, markup, numbers of articles and most signs.
/// A class-conditional model reads a class: its number in decimal digits, or else a label that is a token of the
/// tokenizer ([`Words`](crate::model::words::Words) of one label a line). The empty text is no class.
pub struct LlamaGenPrompts<B: Backend, T> {
    model: Arc<LlamaGen<B>>,
    words: T,
    encoder: Option<(Arc<T5<B>>, T5Scratch<B>)>,
    truncate: bool,
    features: B::Buffer<f32>,
    inner: B::Buffer<f32>,
}

impl<B: Backend, T> fmt::Debug for LlamaGenPrompts<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlamaGenPrompts")
            .field("encoder", &self.encoder.is_some())
            .field("truncate", &self.truncate)
            .finish_non_exhaustive()
    }
}

impl<B: Backend, T: Tokenize> LlamaGenPrompts<B, T> {
    /// A reader for a model. Without a text encoder, a text-conditional model takes features alone.
    ///
    /// # Errors
    /// An encoder whose rows have another width than the model's captions, or no memory.
    pub fn new(
        model: Arc<LlamaGen<B>>,
        encoder: impl Into<Option<Arc<T5<B>>>>,
        words: T,
    ) -> Result<Self> {
        let encoder: Option<Arc<T5<B>>> = encoder.into();
        let (tokens, width) = match model.config().condition {
            Condition::Text { tokens, width } => (tokens, width),
            Condition::Class { .. } => (0, 0),
        };
        if encoder
            .as_ref()
            .is_some_and(|e| e.config().d_model != width)
        {
            return Err(Error::Config {
                key: "caption_dim",
                problem: "differs between generator and text encoder",
            });
        }
        let b = &*model.backend;
        Ok(Self {
            encoder: encoder
                .map(|e| e.scratch(tokens).map(|scratch| (e, scratch)))
                .transpose()?,
            truncate: false,
            features: b.zeros(product(OP, &[tokens, width])?)?,
            inner: b.zeros(product(OP, &[tokens, model.config().dim])?)?,
            words,
            model,
        })
    }

    /// Cuts prompts that are too long, as the released code does, instead of refusing them.
    #[must_use]
    pub fn truncating(mut self) -> Self {
        self.truncate = true;
        self
    }

    /// The prefixes of a prompt whose features `[n, width]` are known, pads left out.
    ///
    /// # Errors
    /// A class-conditional model, no row, a part of a row, or more rows than the model reads.
    pub fn features(model: &LlamaGen<B>, features: &[f32]) -> Result<PrefixPair> {
        let Condition::Text { tokens, width } = model.config().condition else {
            return Err(Error::Unsupported {
                what: "drawing text with a class-conditional model",
            });
        };
        let rows = features.len() / width;
        covers(OP, "features", features.len(), rows.max(1) * width)?;
        covers(OP, "features", rows * width, features.len())?;
        check_len(rows, tokens)?;
        let mut conditional = reserved(1 + features.len())?;
        conditional.push(FEATURES);
        conditional.extend(features.iter().map(|v| v.to_bits()));
        Ok(PrefixPair {
            conditional,
            unconditional: copied(&[NULL, count(rows)])?,
        })
    }

    /// The prefixes of a class.
    ///
    /// # Errors
    /// A text-conditional model, or a class that it does not know.
    pub fn class(model: &LlamaGen<B>, class: u32) -> Result<PrefixPair> {
        let Condition::Class { classes } = model.config().condition else {
            return Err(Error::Unsupported {
                what: "drawing classes with a text-conditional model",
            });
        };
        if class as usize >= classes {
            return Err(Error::Range {
                op: "prompt",
                arg: "class",
                got: u64::from(class),
                min: 0,
                max: classes as u64 - 1,
            });
        }
        Ok(PrefixPair {
            conditional: copied(&[CLASS, class])?,
            unconditional: copied(&[CLASS, count(classes)])?,
        })
    }

    fn read_class(&self, text: &str, classes: usize) -> Result<PrefixPair> {
        if text.is_empty() {
            let none = [CLASS, count(classes)];
            return Ok(PrefixPair {
                conditional: copied(&none)?,
                unconditional: copied(&none)?,
            });
        }
        let number = text.bytes().all(|b| b.is_ascii_digit());
        let class = if number {
            text.parse().ok()
        } else {
            self.words.token(text)
        };
        match class {
            Some(class) => Self::class(&self.model, class),
            None if number => Self::class(&self.model, u32::MAX),
            None => Err(Error::UnknownWord {
                word: Name::owned(text),
                at: 0,
            }),
        }
    }

    fn read_text(&self, text: &str, limit: usize) -> Result<PrefixPair> {
        let Some((encoder, _)) = &self.encoder else {
            return Err(Error::Unsupported {
                what: "reading text without a text encoder",
            });
        };
        let mut conditional = copied(&[TOKENS])?;
        let mut fits = Ok(());
        self.words.encode(&clean(text), &mut |id| {
            if fits.is_ok() {
                fits = room(OP, &mut conditional, 1);
            }
            if fits.is_ok() {
                conditional.push(id);
            }
        })?;
        fits?;
        if self.truncate {
            conditional.truncate(limit);
        }
        room(OP, &mut conditional, 1)?;
        conditional.push(encoder.config().eos_id);
        let rows = conditional.len() - 1;
        check_len(rows, limit)?;
        Ok(PrefixPair {
            conditional,
            unconditional: copied(&[NULL, count(rows)])?,
        })
    }
}

impl<B: Backend, T: Tokenize> PrefixReader<B> for LlamaGenPrompts<B, T> {
    fn read(&mut self, prompt: &Prompt<'_>) -> Result<PrefixPair> {
        if prompt.plan().is_some() || prompt.previous().is_some() {
            return Err(Error::Unsupported {
                what: "a plan or a correction for LlamaGen",
            });
        }
        match self.model.config().condition {
            Condition::Class { classes } => self.read_class(prompt.text().trim(), classes),
            Condition::Text { tokens, .. } => self.read_text(prompt.text(), tokens),
        }
    }

    fn write(&mut self, words: &[u32], x: &mut B::Buffer<f32>) -> Result<usize> {
        let (model, b) = (&*self.model, &*self.model.backend);
        let limit = model.config().prefix_limit();
        let rows = match words {
            [CLASS, class] => {
                model.embed_class(*class, x)?;
                return Ok(1);
            }
            [NULL, rows] => {
                let rows = *rows as usize;
                check_len(rows, limit)?;
                model.null_features(rows, &mut self.features)?;
                rows
            }
            [FEATURES, bits @ ..] => {
                let mut features: Vec<f32> = reserved(bits.len())?;
                features.extend(bits.iter().map(|&bits| f32::from_bits(bits)));
                let Condition::Text { width, .. } = model.config().condition else {
                    return Err(UNKNOWN_PREFIX);
                };
                let rows = features.len() / width.max(1);
                check_len(rows, limit)?;
                b.write(&mut self.features, 0, &features)?;
                rows
            }
            [TOKENS, tokens @ ..] => {
                let Some((encoder, scratch)) = &mut self.encoder else {
                    return Err(UNKNOWN_PREFIX);
                };
                check_len(tokens.len(), limit)?;
                encoder.encode(scratch, tokens, &mut self.features)?;
                tokens.len()
            }
            _ => return Err(UNKNOWN_PREFIX),
        };
        model.embed_features(rows, &self.features, &mut self.inner, x)?;
        Ok(rows)
    }
}

const UNKNOWN_PREFIX: Error = Error::Config {
    key: "prefix",
    problem: "is none of this model's",
};

fn check_len(got: usize, max: usize) -> Result<()> {
    if got == 0 || got > max {
        return Err(Error::PromptTooLong { got, max });
    }
    Ok(())
}

/// A count of rows or classes, which the configuration bounds.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
