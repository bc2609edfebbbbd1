//! Text to tokens by the `tokenizer.json` beside a published model.

mod charsmap;
mod parts;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use serde_json::Value;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model};

use self::parts::parts;
use crate::error::{Error, Foreign, Name, Result};
use crate::prompt::{TokenId, Tokenize};

const FORMAT: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

/// Longest text that is read. No model reads as many tokens, and the time of some rules grows with its square.
const MAX_TEXT_BYTES: usize = 1 << 16;

/// A tokenizer as its file describes it, without the special tokens that the file puts around a text, and without its
/// cutting and padding: what stands around a prompt is the model's business.
///
/// An added token is special if the file says so or if it is written in angle brackets; so is every token that the file
/// puts around a text. Special tokens can be looked up, but a text that spells one is refused. Other added tokens (runs
/// of spaces, single letters) are text. A piece of text that the vocabulary lacks is refused too, unless
/// [`keeping_unknown`](Self::keeping_unknown) was called.
///
/// Files are not trusted: a panic of the `tokenizers` crate becomes an error where panics unwind.
///
/// ```
/// use maquette::model::files::tokenizer::Tokenizer;
/// use maquette::prompt::Tokenize;
/// let words = Tokenizer::from_bytes(br#"{
///     "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
///     "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
///     "model": {"type": "WordLevel", "vocab": {"a": 0, "red": 1, "car": 2, "?": 3}, "unk_token": "?"}
/// }"#)?;
/// let mut ids = Vec::new();
/// words.encode("a red car", &mut |id| ids.push(id))?;
/// assert_eq!(ids, [0, 1, 2]);
/// # Ok::<(), maquette::Error>(())
/// ```
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: BTreeMap<TokenId, String>,
    /// What stands for text outside the vocabulary.
    unknown: Option<TokenId>,
    keep_unknown: bool,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("len", &self.len())
            .field("special", &self.special)
            .field("keep_unknown", &self.keep_unknown)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// Bytes that describe no tokenizer, one that draws tokens at random, or one that drops characters without a word;
    /// a key that stands twice, a token of more than 1024 bytes, rules that let a text grow without measure.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        let file = parts(FORMAT, json)?;
        check_model(&file["model"])?;
        charsmap::check(&file)?;
        parts::check_growth(&file)?;
        let mut inner = guarded("describes no tokenizer that can be built", || {
            // Unlike `from_bytes`, this is compiled once, there.
            let mut inner: tokenizers::Tokenizer = str::from_utf8(json)?.parse()?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            Ok(inner)
        })?;
        inner.set_encode_special_tokens(false);
        let unknown = unknown(&file["model"], &inner)?;
        if unknown.is_none() {
            check_bytes(&file, &inner)?;
        }
        let mut special = BTreeMap::new();
        for (id, token) in inner.get_added_tokens_decoder() {
            if is_special(&token) {
                special.insert(id, token.content);
            }
        }
        around_text(&file["post_processor"], &mut |token| {
            if let Some(id) = inner.token_to_id(token) {
                special.insert(id, token.to_owned());
            }
        });
        Ok(Self {
            inner,
            special,
            unknown,
            keep_unknown: false,
        })
    }

    /// Adds what the `tokenizer_config.json` beside the file says of added tokens.
    ///
    /// # Errors
    /// Bytes that are no such file, or a token whose number differs from the vocabulary's.
    pub fn with_config(mut self, json: &[u8]) -> Result<Self> {
        let file = parts(CONFIG, json)?;
        let mut tokens = Vec::new();
        match &file["added_tokens_decoder"] {
            Value::Null => return Ok(self),
            Value::Object(listed) => {
                for (id, token) in listed {
                    let id: TokenId = id.parse().map_err(|e| {
                        wrong(CONFIG, "numbers a token oddly", Some(Foreign::new(e)))
                    })?;
                    let token: AddedToken = serde_json::from_value(token.clone())
                        .map_err(|e| wrong(CONFIG, "describes no token", Some(Foreign::new(e))))?;
                    tokens.push((id, token));
                }
            }
            _ => return Err(wrong(CONFIG, "lists its added tokens oddly", None)),
        }
        tokens.sort_unstable_by_key(|(id, _)| *id);
        let added: Vec<_> = tokens.iter().map(|(_, token)| token.clone()).collect();
        guarded("takes no more tokens", || self.inner.add_tokens(added))?;
        for (id, token) in tokens {
            if self.inner.token_to_id(&token.content) != Some(id) {
                return Err(wrong(CONFIG, "numbers a token unlike the vocabulary", None));
            }
            if is_special(&token) {
                self.special.insert(id, token.content);
            }
        }
        Ok(self)
    }

    /// Gives text outside the vocabulary as the unknown token, as the released codes do, instead of refusing it.
    #[must_use]
    pub fn keeping_unknown(mut self) -> Self {
        self.keep_unknown = true;
        self
    }

    /// Number of tokens, added ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn ids(&self, text: &str) -> Result<tokenizers::Encoding> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::Range {
                op: "prompt",
                arg: "bytes",
                got: text.len() as u64,
                min: 0,
                max: MAX_TEXT_BYTES as u64,
            });
        }
        guarded("has rules that fail on this text", || {
            self.inner.encode(text, false)
        })
    }

    /// Refuses a token that no text may become.
    fn check(&self, text: &str, token: TokenId, place: Range<usize>) -> Result<()> {
        let spelled = text.get(place.clone()).unwrap_or_default();
        let at = place.start + (spelled.len() - spelled.trim_start().len());
        let special = self.special.get(&token);
        if self.unknown == Some(token) && special.is_none_or(|s| s != spelled.trim()) {
            if self.keep_unknown {
                return Ok(());
            }
            return Err(Error::UnknownWord {
                word: Name::owned(spelled.trim()),
                at,
            });
        }
        match special {
            None => Ok(()),
            Some(name) => Err(Error::SpecialToken {
                token: Name::owned(name),
                at,
            }),
        }
    }
}

impl Tokenize for Tokenizer {
    fn encode(&self, text: &str, out: &mut dyn FnMut(TokenId)) -> Result<()> {
        let ids = self.ids(text)?;
        for (&token, &(from, to)) in ids.get_ids().iter().zip(ids.get_offsets()) {
            self.check(text, token, from..to)?;
        }
        for &token in ids.get_ids() {
            out(token);
        }
        Ok(())
    }

    /// Special tokens are left out.
    fn decode(&self, tokens: &[TokenId], out: &mut dyn fmt::Write) -> Result<()> {
        let mut plain = Vec::new();
        for &token in tokens {
            if self.special.contains_key(&token) {
                continue;
            }
            if self.inner.id_to_token(token).is_none() {
                return Err(Error::Range {
                    op: "decode",
                    arg: "token",
                    got: u64::from(token),
                    min: 0,
                    max: self.len().saturating_sub(1) as u64,
                });
            }
            plain.push(token);
        }
        let text = guarded("has a decoder that fails", || {
            self.inner.decode(&plain, false)
        })?;
        out.write_str(&text)
            .map_err(|_| Error::foreign("the writer of a text failed"))
    }

    /// A special token by its name; any other by the text that is this token and no more.
    fn token(&self, token: &str) -> Option<TokenId> {
        let named = self.inner.token_to_id(token);
        if named.is_some_and(|id| self.special.contains_key(&id)) {
            return named;
        }
        match self.ids(token).ok()?.get_ids() {
            [id] if self.unknown != Some(*id) && !self.special.contains_key(id) => Some(*id),
            _ => None,
        }
    }
}

fn wrong(format: &'static str, problem: &'static str, source: Option<Foreign>) -> Error {
    Error::Format {
        format,
        problem,
        source,
    }
}

/// Runs a part of the `tokenizers` crate, which meets some files and texts with a panic.
fn guarded<T>(problem: &'static str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => done.map_err(|e| wrong(FORMAT, problem, Some(Foreign::new(e)))),
        Err(_) => Err(wrong(FORMAT, "breaks the reader of tokenizers", None)),
    }
}

fn is_special(token: &AddedToken) -> bool {
    let name = token.content.as_str();
    let bracketed = name.starts_with('<') && name.ends_with('>') && name.len() > 2;
    token.special || bracketed
}

fn check_model(model: &Value) -> Result<()> {
    let known = ["BPE", "Unigram", "WordLevel"];
    if !model["type"].as_str().is_some_and(|t| known.contains(&t)) {
        return Err(wrong(
            FORMAT,
            "has no BPE, Unigram or WordLevel model",
            None,
        ));
    }
    if model["dropout"].as_f64().is_some_and(|p| p > 0.0) {
        return Err(wrong(FORMAT, "draws its tokens at random", None));
    }
    Ok(())
}

/// The token that the model gives for text outside its vocabulary.
fn unknown(model: &Value, inner: &tokenizers::Tokenizer) -> Result<Option<TokenId>> {
    let missing = || wrong(FORMAT, "names an unknown token that it lacks", None);
    if let Some(id) = model["unk_id"].as_u64() {
        let id = TokenId::try_from(id).map_err(|_| missing())?;
        return match inner.id_to_token(id) {
            Some(_) => Ok(Some(id)),
            None => Err(missing()),
        };
    }
    match model["unk_token"].as_str() {
        Some(name) => inner.token_to_id(name).map(Some).ok_or_else(missing),
        None => Ok(None),
    }
}

/// A byte-pair model without an unknown token drops what it lacks, so it must know every byte. Other models fail.
fn check_bytes(file: &Value, inner: &tokenizers::Tokenizer) -> Result<()> {
    let model = &file["model"];
    if model["type"] != "BPE" {
        return Ok(());
    }
    let known = |name: &str| inner.get_model().token_to_id(name).is_some();
    let whole = if model["byte_fallback"] == true {
        (0..=u8::MAX).all(|byte| known(&alloc::format!("<0x{byte:02X}>")))
    } else {
        has_byte_level(&file["pre_tokenizer"])
            && ByteLevel::alphabet()
                .into_iter()
                .all(|c| known(c.encode_utf8(&mut [0; 4])))
    };
    if whole {
        return Ok(());
    }
    Err(wrong(
        FORMAT,
        "knows neither every byte nor an unknown token",
        None,
    ))
}

fn has_byte_level(rules: &Value) -> bool {
    let parts = rules["pretokenizers"].as_array();
    rules["type"] == "ByteLevel" || parts.is_some_and(|p| p.iter().any(has_byte_level))
}

/// Visits the tokens that post-processing puts around a text. The depth of the file is bounded by its reader.
fn around_text(rules: &Value, visit: &mut dyn FnMut(&str)) {
    if let Some(tokens) = rules["special_tokens"].as_object() {
        for token in tokens.values() {
            let names = token["tokens"].as_array().into_iter().flatten();
            names.filter_map(Value::as_str).for_each(&mut *visit);
        }
    }
    for part in rules["processors"].as_array().into_iter().flatten() {
        around_text(part, visit);
    }
}

#[cfg(test)]
impl Tokenizer {
    /// A tokenizer of the fixtures, and what its model's released code makes of texts.
    pub(crate) fn published(name: &str) -> (Self, Value) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers/data");
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let mut golden: Value = serde_json::from_slice(&read("golden.json")).unwrap();
        let file = Self::from_bytes(&read(&alloc::format!("{name}.json"))).unwrap();
        (file, golden[name].take())
    }
}
