//! Prompts to train on: GenEval records, without those of an evaluation.

use std::error::Error;
use std::fs;
use std::path::Path;

use maquette::align::annotation::Leakage;

use crate::rules::Request;

/// The records of a file, one a line.
pub fn read(path: &Path) -> Result<Vec<Request>, Box<dyn Error>> {
    let told = |e: &dyn core::fmt::Display| format!("cannot read {}: {e}", path.display());
    let text = fs::read_to_string(path).map_err(|e| told(&e))?;
    let lines = text.lines().enumerate().filter(|l| !l.1.trim().is_empty());
    lines
        .map(|(i, line)| {
            serde_json::from_str(line)
                .map_err(|e| format!("{} line {}: {e}", path.display(), i + 1).into())
        })
        .collect()
}

/// What is left of a set, with the places in it.
#[derive(Debug)]
pub struct Clean {
    pub kept: Vec<(usize, Request)>,
    /// Records whose text is part of the evaluation.
    pub leaked: usize,
    /// Records whose text came before.
    pub repeated: usize,
}

/// Leaves out what is part of the evaluation, and what came before.
pub fn clean(requests: Vec<Request>, evaluation: &[Request]) -> Clean {
    let (mut held_out, mut before) = (Leakage::default(), Leakage::default());
    for request in evaluation {
        held_out.insert(&request.prompt);
    }
    let (mut leaked, mut repeated) = (0, 0);
    let mut kept = Vec::new();
    for (at, request) in requests.into_iter().enumerate() {
        if held_out.contains(&request.prompt) {
            leaked += 1;
        } else if !before.insert(&request.prompt) {
            repeated += 1;
        } else {
            kept.push((at, request));
        }
    }
    Clean {
        kept,
        leaked,
        repeated,
    }
}
