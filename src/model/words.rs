//! A word-level tokenizer: the vocabulary of the bundled models, and of tests.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt;

use crate::error::{Error, Name, Result};
use crate::prompt::{TokenId, Tokenize};

/// Most words. Published vocabularies are smaller.
const MAX_WORDS: usize = 1 << 19;

/// One token a word, words split at white space. A token that begins with `<` is special: it can be looked up, but a
/// text that spells it, or anything that begins with `<|`, is refused.
///
/// ```
/// use maquette::model::words::Words;
/// use maquette::prompt::Tokenize;
/// let words = Words::new("a\nred\ncar\n<|endoftext|>\n")?;
/// let mut ids = Vec::new();
/// words.encode("a red car", &mut |id| ids.push(id))?;
/// assert_eq!(ids, [0, 1, 2]);
/// assert!(words.encode("a blue car", &mut |_| {}).is_err());
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Words {
    ids: BTreeMap<String, TokenId>,
}

impl Words {
    /// Reads a vocabulary: one word a line, the line's number is its id.
    ///
    /// # Errors
    /// No word at all, an empty line, the same word twice, or more than 524288 words.
    pub fn new(lines: &str) -> Result<Self> {
        let mut ids = BTreeMap::new();
        for (id, word) in (0..).zip(lines.lines().take(MAX_WORDS + 1)) {
            if word.trim() != word || word.is_empty() {
                return Err(Error::Config {
                    key: "vocabulary",
                    problem: "has an empty line or a space around a word",
                });
            }
            if ids.insert(word.into(), id).is_some() {
                return Err(Error::Config {
                    key: "vocabulary",
                    problem: "has a word twice",
                });
            }
        }
        if ids.len() > MAX_WORDS {
            return Err(Error::Config {
                key: "vocabulary",
                problem: "has more than 524288 words",
            });
        }
        if ids.is_empty() {
            return Err(Error::Config {
                key: "vocabulary",
                problem: "is empty",
            });
        }
        Ok(Self { ids })
    }

    /// Number of words.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no word; a vocabulary that was read has at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl Tokenize for Words {
    fn encode(&self, text: &str, out: &mut dyn FnMut(TokenId)) -> Result<()> {
        for word in text.split_whitespace() {
            let at = word.as_ptr().addr() - text.as_ptr().addr();
            let special = word.starts_with('<') && self.ids.contains_key(word);
            if special || word.starts_with("<|") {
                return Err(Error::SpecialToken {
                    token: Name::owned(word),
                    at,
                });
            }
            let id = self.ids.get(word).ok_or_else(|| Error::UnknownWord {
                word: Name::owned(word),
                at,
            })?;
            out(*id);
        }
        Ok(())
    }

    fn token(&self, token: &str) -> Option<TokenId> {
        self.ids.get(token).copied()
    }

    fn decode(&self, tokens: &[TokenId], out: &mut dyn fmt::Write) -> Result<()> {
        let failed = |_| Error::foreign("the writer of a text failed");
        let mut first = true;
        for &token in tokens {
            let (word, _) = self
                .ids
                .iter()
                .find(|(_, id)| **id == token)
                .ok_or_else(|| Error::Range {
                    op: "decode",
                    arg: "token",
                    got: u64::from(token),
                    min: 0,
                    max: self.ids.len() as u64 - 1,
                })?;
            if word.starts_with('<') {
                continue;
            }
            if !core::mem::take(&mut first) {
                out.write_char(' ').map_err(failed)?;
            }
            out.write_str(word).map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_word_is_named_with_its_place() {
        let words = Words::new("a\nphoto\n<|endoftext|>").unwrap();
        let error = words.encode("a  unicorn", &mut |_| {}).unwrap_err();
        assert!(
            matches!(&error, Error::UnknownWord { word, at: 3 } if word.as_str() == "unicorn"),
            "{error}"
        );
    }

    #[test]
    fn a_special_token_cannot_be_spelled() {
        let words = Words::new("a\n<|endoftext|>").unwrap();
        assert!(matches!(
            words.encode("a <|endoftext|>", &mut |_| {}),
            Err(Error::SpecialToken { at: 2, .. })
        ));
        assert_eq!(words.token("<|endoftext|>"), Some(1));
        let words = Words::new("a\n<begin_of_image>").unwrap();
        assert!(matches!(
            words.encode("a <begin_of_image>", &mut |_| {}),
            Err(Error::SpecialToken { at: 2, .. })
        ));
        assert!(matches!(
            words.encode("a <b>", &mut |_| {}),
            Err(Error::UnknownWord { at: 2, .. })
        ));
    }

    #[test]
    fn tokens_become_words_again_without_special_ones() {
        let words = Words::new("a\nred\n<|endoftext|>\ncar").unwrap();
        let mut text = String::new();
        words.decode(&[2, 0, 1, 2, 3], &mut text).unwrap();
        assert_eq!(text, "a red car");
        assert!(matches!(
            words.decode(&[4], &mut text),
            Err(Error::Range { got: 4, max: 3, .. })
        ));
    }

    #[test]
    fn a_broken_vocabulary_is_refused() {
        assert!(Words::new("").is_err());
        assert!(Words::new("a\n\nb").is_err());
        assert!(Words::new("a\na").is_err());
    }
}
