//! Tokenizers of text beside models.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use maquette::error::{Error, Name};
use maquette::model::files::tokenizer::Tokenizer;
use maquette::model::words::Words;
use maquette::prompt::{TokenId, Tokenize};

use super::Res;
use super::folder::within;

/// A tokenizer that sessions share.
pub type Text = Arc<dyn Tokenize>;

/// The published form.
const PUBLISHED: &str = "tokenizer.json";
/// The bundled form: one word a line.
const LINES: &str = "vocab.txt";

/// The tokenizer of a folder: the published form where it can be read, else the bundled one.
pub fn tokenizer(folder: &Path) -> Res<Text> {
    if folder.join(PUBLISHED).exists() {
        return from_json(folder);
    }
    if folder.join(LINES).exists() {
        return words(folder);
    }
    let why = "no tokenizer for text: neither tokenizer.json nor vocab.txt is there";
    Err(format!("{}: {why}", folder.display()).into())
}

/// The labels of a class-conditional model, one a line, or none: then classes have numbers alone.
pub fn labels(folder: &Path) -> Res<Text> {
    if folder.join(LINES).exists() {
        words(folder)
    } else {
        Ok(Arc::new(Numbers))
    }
}

fn read(path: &Path) -> Res<Vec<u8>> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()).into())
}

fn words(folder: &Path) -> Res<Text> {
    let path = folder.join(LINES);
    let lines = String::from_utf8(read(&path)?).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Arc::new(within(folder, Words::new(&lines))?))
}

fn from_json(folder: &Path) -> Res<Text> {
    let mut file = within(
        folder,
        Tokenizer::from_bytes(&read(&folder.join(PUBLISHED))?),
    )?;
    // Some repositories name their special tokens only here.
    let beside = folder.join("tokenizer_config.json");
    if beside.exists() {
        file = within(folder, file.with_config(&read(&beside)?))?;
    }
    Ok(Arc::new(file))
}

/// Knows no label at all.
#[derive(Debug)]
struct Numbers;

impl Tokenize for Numbers {
    fn encode(&self, text: &str, _: &mut dyn FnMut(TokenId)) -> maquette::Result<()> {
        Err(Error::UnknownWord {
            word: Name::owned(text),
            at: 0,
        })
    }

    fn token(&self, _: &str) -> Option<TokenId> {
        None
    }
}
