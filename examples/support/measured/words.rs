//! Prompts without a tokenizer: a synthetic model has none, and any word will do for it.

use std::sync::Arc;

use maquette::model::llamagen::{Condition, LlamaGen, LlamaGenPrompts};
use maquette::model::raster::{PrefixPair, PrefixReader};
use maquette::ops::Backend;
use maquette::prompt::{Prompt, TokenId, Tokenize};
use maquette::rng::{open_unit, philox};
use maquette::{Error, Result};

/// Tokens that models ask for by name.
const NAMED: [&str; 18] = [
    "<|im_start|>",
    "<|im_end|>",
    "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<\u{ff5c}\u{2581}pad\u{2581}\u{ff5c}>",
    "<|User|>",
    "<|Assistant|>",
    "<begin_of_image>",
    "<end_of_image>",
    "yes",
    "no",
    "Yes",
    "No",
    "\u{120}yes",
    "\u{120}no",
    "\u{120}Yes",
    "\u{120}No",
    "<image>",
];

/// Gives each word some token of a vocabulary, about as many tokens a text as the real tokenizers.
#[derive(Debug, Clone)]
pub struct AnyWords {
    words: u32,
}

impl AnyWords {
    /// For a vocabulary of so many tokens; the last of them are those that have names.
    pub fn new(vocab: usize) -> std::result::Result<Self, String> {
        match u32::try_from(vocab.saturating_sub(NAMED.len())) {
            Ok(words) if words > 2 => Ok(Self { words }),
            _ => Err(format!("a vocabulary of {vocab} tokens is no size")),
        }
    }
}

impl Tokenize for AnyWords {
    fn encode(&self, text: &str, out: &mut dyn FnMut(TokenId)) -> Result<()> {
        // Letters and digits in a row are one token, every other sign is one of its own.
        let mut word = 0;
        for c in text.chars().chain([' ']) {
            if c.is_alphanumeric() {
                word = philox([u32::from(c), word], [0; 4])[0] | 1;
                continue;
            }
            if word != 0 {
                out(word % self.words);
                word = 0;
            }
            if !c.is_whitespace() {
                out(u32::from(c) % self.words);
            }
        }
        Ok(())
    }

    fn token(&self, token: &str) -> Option<TokenId> {
        let place = NAMED.iter().position(|name| *name == token)?;
        Some(self.words + u32::try_from(place).ok()?)
    }
}

/// Reads any prompt of a text-conditional LlamaGen as so many rows of random features.
#[derive(Debug)]
pub struct RandomFeatures<B: Backend> {
    model: Arc<LlamaGen<B>>,
    rows: usize,
    inner: LlamaGenPrompts<B, AnyWords>,
}

impl<B: Backend> RandomFeatures<B> {
    pub fn new(model: Arc<LlamaGen<B>>, rows: usize, words: AnyWords) -> Result<Self> {
        Ok(Self {
            inner: LlamaGenPrompts::new(Arc::clone(&model), None, words)?,
            model,
            rows,
        })
    }
}

impl<B: Backend> PrefixReader<B> for RandomFeatures<B> {
    fn read(&mut self, _: &Prompt<'_>) -> Result<PrefixPair> {
        let Condition::Text { tokens, width } = self.model.config().condition else {
            return Err(Error::Unsupported {
                what: "features of a class",
            });
        };
        let numbers = (0..).flat_map(|i| philox([1, 2], [i, 0, 0, 0]));
        let features: Vec<f32> = numbers
            .map(|bits| open_unit(bits) - 0.5)
            .take(self.rows.min(tokens) * width)
            .collect();
        LlamaGenPrompts::<B, AnyWords>::features(&self.model, &features)
    }

    fn write(&mut self, words: &[u32], x: &mut B::Buffer<f32>) -> Result<usize> {
        self.inner.write(words, x)
    }
}
