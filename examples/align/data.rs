//! What is trained on.

use std::fs;
use std::path::Path;

use maquette::align::masked::PairConfig;
use serde::Deserialize;

use crate::Res;
use crate::family::{Family, Pair};

/// A line of the pairs.
#[derive(Debug, Deserialize)]
struct Line {
    prompt: String,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
}

/// The pairs of a file. What is wrong with one is said before any work.
pub fn pairs<F: Family>(path: &Path, family: &mut F) -> Res<Vec<Pair>> {
    let at = |line: usize, e: String| format!("{}, line {}: {e}", path.display(), line + 1);
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty());
    let mut out = Vec::new();
    for (i, line) in lines {
        let line: Line = serde_json::from_str(line).map_err(|e| at(i, e.to_string()))?;
        let pair = Pair {
            prompt: line.prompt,
            chosen: line.chosen,
            rejected: line.rejected,
        };
        family
            .pair(&PairConfig::default(), out.len(), &pair)
            .map_err(|e| at(i, e.to_string()))?;
        out.push(pair);
    }
    if out.is_empty() {
        return Err(format!("{}: there are no pairs", path.display()).into());
    }
    Ok(out)
}
