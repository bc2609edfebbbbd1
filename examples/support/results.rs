//! The result file of an evaluation: a header with all settings, then one line a finished picture.
//!
//! A line is on the disk before the next picture is counted, so a killed run loses nothing that it reported; a line
//! torn by the kill is dropped and drawn again.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::png_file::write_whole;
use crate::score::Prompts;

/// An open result file.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    file: File,
    header: String,
    /// Lines by prompt and image.
    pub lines: Lines,
    /// The same as they stand in the file: reading a number and writing it again may change its last digit.
    raw: BTreeMap<(u64, u64), String>,
}

/// Lines by prompt and image.
pub type Lines = BTreeMap<(u64, u64), Value>;

/// Header, lines, and the number of bytes that hold them.
type Parsed = (Option<String>, Vec<(Value, String)>, usize);

/// Reads a finished file or an interrupted one.
fn parse(path: &Path, bytes: &[u8]) -> Result<Parsed, Box<dyn Error>> {
    let whole = bytes
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |at| at + 1);
    let mut lines = Vec::new();
    for (i, line) in bytes[..whole]
        .split(|&b| b == b'\n')
        .filter(|l| !l.is_empty())
        .enumerate()
    {
        let value = serde_json::from_slice(line)
            .map_err(|e| format!("{} line {}: {e}", path.display(), i + 1))?;
        lines.push((value, String::from_utf8_lossy(line).into_owned()));
    }
    let mut lines = lines.into_iter();
    Ok((lines.next().map(|header| header.1), lines.collect(), whole))
}

fn place(line: &Value) -> Option<(u64, u64)> {
    Some((line["prompt_index"].as_u64()?, line["image"].as_u64()?))
}

impl Results {
    /// Opens a file to go on with it, or starts it.
    pub fn open(path: &Path, header: &Value) -> Result<Self, Box<dyn Error>> {
        let header = header.to_string();
        let told =
            |e: std::io::Error| format!("result file {} is not writable: {e}", path.display());
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(told)?;
        }
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(told(e).into()),
        };
        let (found, old, whole) = parse(path, &bytes)?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(told)?;
        file.set_len(whole as u64)?;
        let mut results = Self {
            path: path.into(),
            file,
            header: header.clone(),
            lines: Lines::new(),
            raw: BTreeMap::new(),
        };
        match found {
            None => results.append(&header)?,
            Some(found) if found == header => {}
            Some(found) => {
                return Err(format!(
                    "{} was made with other settings; take another --out\n  there {found}\n  here  {header}",
                    path.display()
                )
                .into());
            }
        }
        for (line, raw) in old {
            let key = place(&line)
                .ok_or_else(|| format!("{}: a line without its place", path.display()))?;
            results.lines.insert(key, line);
            results.raw.insert(key, raw);
        }
        Ok(results)
    }

    fn append(&mut self, line: &str) -> Result<(), Box<dyn Error>> {
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()?;
        Ok(())
    }

    /// Adds one finished picture.
    pub fn add(&mut self, line: Value) -> Result<(), Box<dyn Error>> {
        let key = place(&line).ok_or("a line without its place")?;
        let raw = line.to_string();
        self.append(&raw)?;
        self.raw.insert(key, raw);
        self.lines.insert(key, line);
        Ok(())
    }

    /// Puts the lines in order, whoever finished first.
    pub fn finish(&self) -> Result<(), Box<dyn Error>> {
        let mut text = self.header.clone();
        text.push('\n');
        for line in self.raw.values() {
            text.push_str(line);
            text.push('\n');
        }
        write_whole(&self.path, text.as_bytes())
    }
}

/// Lines of a result file that is only read.
pub fn read(path: &Path) -> Result<Lines, Box<dyn Error>> {
    let bytes = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let (_, lines, _) = parse(path, &bytes)?;
    Ok(lines
        .into_iter()
        .filter_map(|(line, _)| Some((place(&line)?, line)))
        .collect())
}

fn task(line: &Value) -> Option<usize> {
    crate::score::TASKS.iter().position(|t| line["tag"] == t.0)
}

fn correct(line: &Value) -> f64 {
    f64::from(u8::from(line["correct"] == true))
}

/// Each prompt's mean of `value` over the given lines.
fn by_prompt<'a>(lines: impl Iterator<Item = (u64, &'a Value, f64)>) -> Prompts {
    let mut sums: BTreeMap<u64, (usize, f64, f64)> = BTreeMap::new();
    for (prompt, line, value) in lines {
        let Some(task) = task(line) else { continue };
        let sum = sums.entry(prompt).or_insert((task, 0.0, 0.0));
        sum.1 += value;
        sum.2 += 1.0;
    }
    sums.into_values()
        .map(|(task, sum, n)| (task, sum / n))
        .collect()
}

/// Share of correct pictures of each prompt.
pub fn shares(lines: &Lines) -> Prompts {
    by_prompt(lines.iter().map(|(key, line)| (key.0, line, correct(line))))
}

/// Difference b − a of each prompt over the pictures that both runs have.
pub fn differences(a: &Lines, b: &Lines) -> Result<Prompts, String> {
    let mut both = Vec::new();
    for (key, line) in a {
        let Some(other) = b.get(key) else { continue };
        if line["correct"].is_null() || other["correct"].is_null() {
            return Err("pictures that are not scored cannot be compared".into());
        }
        if line["prompt"] != other["prompt"] {
            return Err(format!("prompt {} differs between the two runs", key.0));
        }
        both.push((key.0, line, correct(other) - correct(line)));
    }
    Ok(by_prompt(both.into_iter()))
}
