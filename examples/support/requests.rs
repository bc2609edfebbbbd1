//! Sets of prompts, and what is left of one to train on without those of an evaluation.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use maquette::align::annotation::Leakage;
use serde::Serialize;

use crate::rules::Request;

/// The files of a set: one, or the .txt files of a folder in the order of their names.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let told = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(told)? {
        files.push(entry.map_err(told)?.path());
    }
    files.retain(|file| plain(file));
    files.sort();
    if files.is_empty() {
        return Err(format!("{} holds no .txt file", path.display()).into());
    }
    Ok(files)
}

/// Whether a file holds prompts and nothing else.
fn plain(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "txt")
}

/// The records of a file, each with its line: GenEval's JSON lines, or plain prompts, whose category is the file's name
/// without the part of the set (`color_val.txt`: color).
pub fn lines(path: &Path) -> Result<Vec<(Request, String)>, Box<dyn Error>> {
    let told = |e: &dyn core::fmt::Display| format!("cannot read {}: {e}", path.display());
    let text = fs::read_to_string(path).map_err(|e| told(&e))?;
    let lines = text.lines().enumerate().filter(|l| !l.1.trim().is_empty());
    if plain(path) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let tag = ["_val", "_train", "_test"]
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(&name);
        let request = |prompt: &str| Request {
            tag: tag.into(),
            include: Vec::new(),
            exclude: Vec::new(),
            prompt: prompt.into(),
        };
        return lines
            .map(|(_, line)| {
                let request = request(line.trim());
                let line = serde_json::to_string(&request)?;
                Ok((request, line))
            })
            .collect();
    }
    lines
        .map(|(i, line)| {
            serde_json::from_str(line)
                .map(|request| (request, line.to_owned()))
                .map_err(|e| format!("{} line {}: {e}", path.display(), i + 1).into())
        })
        .collect()
}

/// The records of a file.
pub fn read(path: &Path) -> Result<Vec<Request>, Box<dyn Error>> {
    Ok(lines(path)?
        .into_iter()
        .map(|(request, _)| request)
        .collect())
}

/// What tells sets of the same name apart: FNV-1a of their JSON.
pub fn digest(set: &impl Serialize) -> Result<String, serde_json::Error> {
    let bytes = serde_json::to_vec(set)?;
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(format!("{hash:016x}"))
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
