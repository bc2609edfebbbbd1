//! What is asked for: the prompt and its tokens.

use core::fmt;

use crate::codes::Code;
use crate::error::{Error, Result};

/// Index of a text token in a model's vocabulary.
pub type TokenId = u32;

/// What a picture should show, and what is known beside the text.
///
/// ```
/// use maquette::Prompt;
/// let prompt = Prompt::new("a photo of a red car");
/// assert_eq!(prompt.text(), "a photo of a red car");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Prompt<'a> {
    text: &'a str,
    plan: Option<&'a str>,
    previous: Option<&'a [Code]>,
    reason: Option<&'a str>,
}

impl<'a> Prompt<'a> {
    /// A prompt of text alone. The empty text is the unconditional prompt.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self {
            text,
            plan: None,
            previous: None,
            reason: None,
        }
    }

    /// Adds a text plan written before the picture.
    #[must_use]
    pub const fn with_plan(mut self, plan: &'a str) -> Self {
        self.plan = Some(plan);
        self
    }

    /// Adds the codes of a picture that is to be corrected, and why.
    #[must_use]
    pub const fn correcting(mut self, previous: &'a [Code], reason: &'a str) -> Self {
        self.previous = Some(previous);
        self.reason = Some(reason);
        self
    }

    /// The text.
    #[must_use]
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// The plan, if one was written.
    #[must_use]
    pub const fn plan(&self) -> Option<&'a str> {
        self.plan
    }

    /// Codes of the picture to correct.
    #[must_use]
    pub const fn previous(&self) -> Option<&'a [Code]> {
        self.previous
    }

    /// Why it is to be corrected.
    #[must_use]
    pub const fn reason(&self) -> Option<&'a str> {
        self.reason
    }
}

/// Text to tokens. Every model owns its tokenizer; the crate's core has none of its own beyond
/// [`model::words`](crate::model::words).
///
/// ```
/// use maquette::prompt::{TokenId, Tokenize};
/// use maquette::Result;
///
/// /// A token a byte.
/// struct Bytes;
///
/// impl Tokenize for Bytes {
///     fn encode(&self, text: &str, out: &mut dyn FnMut(TokenId)) -> Result<()> {
///         text.bytes().for_each(|byte| out(byte.into()));
///         Ok(())
///     }
///
///     fn token(&self, token: &str) -> Option<TokenId> {
///         match token.as_bytes() {
///             [byte] => Some(TokenId::from(*byte)),
///             _ => None,
///         }
///     }
/// }
///
/// let mut ids = Vec::new();
/// Bytes.encode("car", &mut |id| ids.push(id))?;
/// assert_eq!(ids, [99, 97, 114]);
/// # Ok::<(), maquette::Error>(())
/// ```
pub trait Tokenize: Send + Sync {
    /// Gives the tokens of `text` to `out`, in order, without any special token around them.
    ///
    /// # Errors
    /// A word outside the vocabulary, or text that spells a special token.
    fn encode(&self, text: &str, out: &mut dyn FnMut(TokenId)) -> Result<()>;

    /// The token whose text is exactly `token`.
    fn token(&self, token: &str) -> Option<TokenId>;

    /// Writes the text of tokens, special ones left out.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless overridden; a token outside the vocabulary; a writer that fails.
    fn decode(&self, tokens: &[TokenId], out: &mut dyn fmt::Write) -> Result<()> {
        let _ = (tokens, out);
        Err(Error::Unsupported {
            what: "turning tokens into text",
        })
    }
}

impl<T: Tokenize + ?Sized> Tokenize for &T {
    fn encode(&self, text: &str, out: &mut dyn FnMut(TokenId)) -> Result<()> {
        (**self).encode(text, out)
    }

    fn token(&self, token: &str) -> Option<TokenId> {
        (**self).token(token)
    }

    fn decode(&self, tokens: &[TokenId], out: &mut dyn fmt::Write) -> Result<()> {
        (**self).decode(tokens, out)
    }
}

/// A tokenizer that sessions share.
#[cfg(feature = "alloc")]
impl<T: Tokenize + ?Sized> Tokenize for alloc::sync::Arc<T> {
    fn encode(&self, text: &str, out: &mut dyn FnMut(TokenId)) -> Result<()> {
        (**self).encode(text, out)
    }

    fn token(&self, token: &str) -> Option<TokenId> {
        (**self).token(token)
    }

    fn decode(&self, tokens: &[TokenId], out: &mut dyn fmt::Write) -> Result<()> {
        (**self).decode(tokens, out)
    }
}
