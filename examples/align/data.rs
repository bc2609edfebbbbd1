//! What is trained on.

use std::fs;
use std::path::{Path, PathBuf};

use maquette::Code;
use maquette::align::masked::PairConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Res;
use crate::family::{Family, Pair, Picture};
use crate::online::seed;

/// A line of the pairs.
#[derive(Debug, Deserialize)]
struct Line {
    prompt: String,
    chosen: Vec<Code>,
    rejected: Vec<Code>,
}

/// A line of the questions about finished pictures.
#[derive(Debug, Deserialize)]
struct Item {
    question: String,
    prompt: String,
    codes: Vec<Code>,
    answer: String,
}

/// Gives all lines of some files to `take`, which says what is wrong with one.
fn lines<T: DeserializeOwned>(
    paths: &[PathBuf],
    take: &mut dyn FnMut(T) -> Result<(), String>,
) -> Res<()> {
    for path in paths {
        let at = |line: usize, e: String| format!("{}, line {}: {e}", path.display(), line + 1);
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let lines = text.lines().enumerate();
        for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let line = serde_json::from_str(line).map_err(|e| at(i, e.to_string()))?;
            take(line).map_err(|e| at(i, e))?;
        }
    }
    Ok(())
}

/// The names of some files.
fn names(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}

/// The pairs of some files. What is wrong with one is said before any work.
pub fn pairs<F: Family>(paths: &[PathBuf], family: &mut F) -> Res<Vec<Pair>> {
    let mut out = Vec::new();
    lines(paths, &mut |line: Line| {
        let pair = Pair {
            prompt: line.prompt,
            chosen: line.chosen,
            rejected: line.rejected,
        };
        let tried = family.pair(&PairConfig::default(), out.len(), &pair);
        out.push(pair);
        tried.map(|_| ()).map_err(|e| e.to_string())
    })?;
    if out.is_empty() {
        return Err(format!("{}: there are no pairs", names(paths)).into());
    }
    Ok(out)
}

/// The chosen pictures of some pairs, and the pictures of some items of which the answer is yes.
pub fn pictures<F: Family>(pairs: &[Pair], items: &[PathBuf], family: &mut F) -> Res<Vec<Picture>> {
    let chosen = |pair: &Pair| Picture {
        prompt: pair.prompt.clone(),
        codes: pair.chosen.clone(),
    };
    let mut out: Vec<Picture> = pairs.iter().map(chosen).collect();
    lines(items, &mut |item: Item| {
        if item.question != "outcome" {
            let question = item.question;
            return Err(format!(
                "\"{question}\" does not ask about a finished picture"
            ));
        }
        let picture = Picture {
            prompt: item.prompt,
            codes: item.codes,
        };
        let tried = family.picture(&PairConfig::default(), out.len(), &picture);
        if item.answer == "yes" {
            out.push(picture);
        }
        tried.map(|_| ()).map_err(|e| e.to_string())
    })?;
    if out.is_empty() {
        return Err(format!("{}: no picture is right", names(items)).into());
    }
    Ok(out)
}

/// In which order a set is gone through.
#[derive(Debug)]
pub struct Order {
    len: usize,
    /// Of the orders; none for that of the files.
    seed: Option<u64>,
    places: Vec<usize>,
    pass: Option<usize>,
}

impl Order {
    /// Of so many things.
    pub fn new(len: usize, seed: Option<u64>) -> Self {
        Self {
            len: len.max(1),
            seed,
            places: Vec::new(),
            pass: None,
        }
    }

    /// The place of what comes `at`-th; the same whenever it is asked for.
    pub fn place(&mut self, at: usize) -> usize {
        let Some(of) = self.seed else {
            return at % self.len;
        };
        let pass = at / self.len;
        if self.pass != Some(pass) {
            let key = |&i: &usize| seed(of, [i as u32, pass as u32, 0x6F72_6465]);
            self.places = (0..self.len).collect();
            self.places.sort_by_cached_key(key);
            self.pass = Some(pass);
        }
        self.places[at % self.len]
    }
}
