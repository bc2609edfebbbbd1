//! What is trained on.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use maquette::Code;
use maquette::align::masked::PairConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use support::open;

use crate::Res;
use crate::family::{Family, Pair, Picture};
use crate::online::seed;

/// A line of the pairs.
#[derive(Debug, Deserialize)]
struct Line {
    prompt: String,
    #[serde(default)]
    tag: String,
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
            tag: line.tag,
            chosen: line.chosen,
            rejected: line.rejected,
        };
        let tried = family.pair(&PairConfig::default(), out.len(), &pair);
        out.push(pair);
        tried.map(|_| ()).map_err(|e| open::told(&e))
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
        tried.map(|_| ()).map_err(|e| open::told(&e))
    })?;
    if out.is_empty() {
        return Err(format!("{}: no picture is right", names(items)).into());
    }
    Ok(out)
}

/// In which order a set is gone through.
#[derive(Debug)]
pub struct Order {
    /// Of the orders; none for that of the files.
    seed: Option<u64>,
    /// Places that take turns: those of each task, or all.
    turns: Vec<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    all: Vec<usize>,
    pass: Option<usize>,
    drawn: Vec<usize>,
}

impl Order {
    /// Of so many things. Each pass has an order of its own if there is a seed.
    pub fn new(len: usize, seed: Option<u64>) -> Self {
        let all = (0..len.max(1)).collect();
        let turns = vec![Turn {
            all,
            ..Turn::default()
        }];
        Self { seed, turns }
    }

    /// The tasks of some things take turns, those that are rare go through theirs more often.
    pub fn even<'t>(tags: impl Iterator<Item = &'t str>, seed: u64) -> Self {
        let mut tasks: BTreeMap<&str, Turn> = BTreeMap::new();
        for (at, tag) in tags.enumerate() {
            tasks.entry(tag).or_default().all.push(at);
        }
        if tasks.is_empty() {
            return Self::new(0, Some(seed));
        }
        Self {
            seed: Some(seed),
            turns: tasks.into_values().collect(),
        }
    }

    /// The place of what comes `at`-th; the same whenever it is asked for.
    pub fn place(&mut self, at: usize) -> usize {
        let (turns, own) = (self.turns.len(), at % self.turns.len());
        let (turn, at) = (&mut self.turns[own], at / turns);
        let len = turn.all.len();
        let Some(of) = self.seed else {
            return turn.all[at % len];
        };
        let pass = at / len;
        if turn.pass != Some(pass) {
            turn.drawn.clone_from(&turn.all);
            let key = |&i: &usize| seed(of, [i as u32, pass as u32, 0x6F72_6465]);
            turn.drawn.sort_by_cached_key(key);
            turn.pass = Some(pass);
        }
        turn.drawn[at % len]
    }
}
