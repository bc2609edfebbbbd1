//! Layouts of prompts and questions: text, a prompt, a picture and special tokens in order.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, Result, room};
use crate::prompt::{TokenId, Tokenize};

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Prompt,
    Image,
    Token(TokenId),
}

/// A template cut into pieces, its special tokens looked up.
#[derive(Debug)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

/// Tokens before and after the picture.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// All of them where no picture stands.
    pub(super) before: Vec<TokenId>,
    pub(super) after: Vec<TokenId>,
    seen_image: bool,
    /// Text between special tokens while it is put together.
    text: String,
}

impl Tokens {
    /// Room for `limit` tokens on each side, reserved.
    pub(super) fn reserve(limit: usize) -> Result<Self> {
        let no_memory = |_| Error::OutOfMemory {
            what: "prompt",
            bytes: limit.saturating_mul(4),
        };
        let mut tokens = Self::default();
        tokens.before.try_reserve(limit).map_err(no_memory)?;
        tokens.after.try_reserve(limit).map_err(no_memory)?;
        tokens.text.try_reserve(limit).map_err(no_memory)?;
        Ok(tokens)
    }

    pub(super) fn clear(&mut self) {
        self.before.clear();
        self.after.clear();
        self.seen_image = false;
    }

    fn side(&mut self) -> (&str, &mut Vec<TokenId>) {
        let side = if self.seen_image {
            &mut self.after
        } else {
            &mut self.before
        };
        (&self.text, side)
    }
}

/// What stands for the picture in a template.
pub(super) const IMAGE: &str = "<image>";
const PROMPT: &str = "{prompt}";
/// Most letters of a special token's name: a longer search at each bracket would cost the square of a text.
const MAX_NAME: usize = 256;

/// The special token that a text begins with: `<|…|>`, the same with full-width bars, or a bracket of a picture.
fn special(text: &str) -> Option<&str> {
    for (open, close) in [("<|", "|>"), ("<\u{ff5c}", "\u{ff5c}>")] {
        if let Some(rest) = text.strip_prefix(open) {
            let near = rest.char_indices().nth(MAX_NAME);
            let near = near.map_or(rest, |(end, _)| &rest[..end]);
            return near
                .find(close)
                .map(|end| &text[..open.len() + end + close.len()]);
        }
    }
    ["<begin_of_image>", "<end_of_image>"]
        .into_iter()
        .find(|name| text.starts_with(name))
}

impl Template {
    /// Cuts a template in which a picture stands so many times.
    pub(super) fn new(template: &str, tokenizer: &dyn Tokenize, images: usize) -> Result<Self> {
        let mut pieces = Vec::new();
        // The text before `at` that is no special token begins at `from`.
        let (mut from, mut at) = (0, 0);
        while at < template.len() {
            let rest = &template[at..];
            let (piece, len) = if rest.starts_with(IMAGE) {
                (Piece::Image, IMAGE.len())
            } else if rest.starts_with(PROMPT) {
                (Piece::Prompt, PROMPT.len())
            } else if let Some(name) = special(rest) {
                let id = tokenizer.token(name).ok_or(Error::Config {
                    key: "templates",
                    problem: "name a special token that the tokenizer lacks",
                })?;
                (Piece::Token(id), name.len())
            } else {
                at += rest.chars().next().map_or(1, char::len_utf8);
                continue;
            };
            add_text(&mut pieces, &template[from..at])?;
            add(&mut pieces, piece)?;
            at += len;
            from = at;
        }
        add_text(&mut pieces, &template[from..])?;
        if pieces.iter().filter(|p| **p == Piece::Image).count() != images {
            return Err(Error::Config {
                key: "templates",
                problem: "need <image> once where a picture is shown, and nowhere else",
            });
        }
        Ok(Self { pieces })
    }

    /// Appends the tokens of the template with this prompt in it; at most `limit` on either side of the picture.
    pub(super) fn encode(
        &self,
        prompt: &str,
        tokenizer: &dyn Tokenize,
        limit: usize,
        out: &mut Tokens,
    ) -> Result<()> {
        // Text and prompt between two special tokens are tokenised as one string.
        out.text.clear();
        let mut prompt_at = None;
        for piece in self.pieces.iter().map(Some).chain([None]) {
            let add = match piece {
                Some(Piece::Text(text)) => text.as_str(),
                Some(Piece::Prompt) => {
                    prompt_at = prompt_at.or(Some(out.text.len()));
                    prompt
                }
                _ => {
                    let (text, side) = out.side();
                    flush(text, tokenizer, limit, side)
                        .map_err(|e| in_prompt(e, prompt_at.take()))?;
                    match piece {
                        Some(Piece::Image) => out.seen_image = true,
                        Some(Piece::Token(id)) => push(side, *id, limit)?,
                        _ => {}
                    }
                    out.text.clear();
                    continue;
                }
            };
            let no_memory = |_| Error::OutOfMemory {
                what: "prompt",
                bytes: add.len(),
            };
            out.text.try_reserve(add.len()).map_err(no_memory)?;
            out.text.push_str(add);
        }
        Ok(())
    }
}

/// An error's place in the prompt rather than in the question around it.
fn in_prompt(error: Error, prompt_at: Option<usize>) -> Error {
    let start = prompt_at.unwrap_or(0);
    match error {
        Error::UnknownWord { word, at } => Error::UnknownWord {
            word,
            at: at.saturating_sub(start),
        },
        Error::SpecialToken { token, at } => Error::SpecialToken {
            token,
            at: at.saturating_sub(start),
        },
        other => other,
    }
}

fn add(pieces: &mut Vec<Piece>, piece: Piece) -> Result<()> {
    room("prompt", pieces, 1)?;
    pieces.push(piece);
    Ok(())
}

/// Adds text, if there is any.
fn add_text(pieces: &mut Vec<Piece>, text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut own = String::new();
    own.try_reserve_exact(text.len())
        .map_err(|_| Error::OutOfMemory {
            what: "prompt",
            bytes: text.len(),
        })?;
    own.push_str(text);
    add(pieces, Piece::Text(own))
}

fn push(to: &mut Vec<TokenId>, id: TokenId, limit: usize) -> Result<()> {
    if to.len() >= limit {
        return Err(Error::PromptTooLong {
            got: limit + 1,
            max: limit,
        });
    }
    to.push(id);
    Ok(())
}

fn flush(text: &str, tokenizer: &dyn Tokenize, limit: usize, to: &mut Vec<TokenId>) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut got = to.len();
    tokenizer.encode(text, &mut |id| {
        if got < limit {
            to.push(id);
        }
        got += 1;
    })?;
    if got > limit {
        return Err(Error::PromptTooLong { got, max: limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::words::Words;

    #[test]
    fn special_tokens_of_every_kind_are_looked_up() {
        let words = Words::new("a\n<|User|>\n<\u{ff5c}pad\u{ff5c}>\n<begin_of_image>\nb").unwrap();
        let layout = "<\u{ff5c}pad\u{ff5c}><|User|> a {prompt} <begin_of_image>";
        let template = Template::new(layout, &words, 0).unwrap();
        let mut tokens = Tokens::reserve(8).unwrap();
        template.encode("b", &words, 8, &mut tokens).unwrap();
        assert_eq!(tokens.before, [2, 1, 0, 4, 3]);
        assert!(tokens.after.is_empty());
        let long = template.encode("b", &words, 8, &mut tokens);
        assert!(matches!(long, Err(Error::PromptTooLong { max: 8, .. })));
        for lacking in ["<\u{ff5c}eos\u{ff5c}>", "<end_of_image>", "<|b|>"] {
            assert!(Template::new(lacking, &words, 0).is_err(), "{lacking}");
        }
        // Half a bracket is text.
        assert!(Template::new("<|a", &words, 0).is_ok());
    }

    #[cfg(feature = "tokenizers")]
    #[test]
    fn a_prompt_to_draw_has_the_tokens_of_the_released_code() {
        use crate::model::files::tokenizer::Tokenizer;

        let (file, golden) = Tokenizer::published("janus-pro");
        let mut tokens = Tokens::reserve(64).unwrap();
        for case in golden["layouts"].as_array().unwrap() {
            let text = |key: &str| case[key].as_str().unwrap();
            tokens.clear();
            let template = Template::new(text("layout"), &file, 0).unwrap();
            template
                .encode(text("prompt"), &file, 64, &mut tokens)
                .unwrap();
            assert_eq!(
                serde_json::json!(tokens.before),
                case["ids"],
                "{}",
                text("prompt")
            );
        }
    }
}
