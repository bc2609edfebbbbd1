//! The result file of an evaluation: a header with all settings, then one line a finished picture.
//!
//! A line is on the disk before the next picture is counted, so a killed run loses nothing that it reported; a line
//! torn by the kill is dropped and drawn again. Several processes write a file each, which become one.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::png_file::write_whole;
use crate::score::{Prompts, TASKS};

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
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(told)?;
        // Where a file system knows no locks, the caller sees to it that a rank runs once.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(format!("{}: another process is writing it", path.display()).into());
        }
        let bytes = fs::read(path).map_err(told)?;
        let (found, old, whole) = parse(path, &bytes)?;
        // Nothing is cut off before it is known that the file is one of these settings.
        let begun = match found {
            None if header.as_bytes().starts_with(&bytes) => false,
            None => {
                let path = path.display();
                return Err(format!("{path} is no result file; take another --out").into());
            }
            Some(found) if found == header => true,
            Some(found) => {
                return Err(format!(
                    "{} was made with other settings; take another --out\n  there {found}\n  here  {header}",
                    path.display()
                )
                .into());
            }
        };
        file.set_len(whole as u64)?;
        let mut results = Self {
            path: path.into(),
            file,
            header: header.clone(),
            lines: Lines::new(),
            raw: BTreeMap::new(),
        };
        if !begun {
            results.append(&header)?;
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
        write_in_order(&self.path, &self.header, &self.raw)
    }
}

fn write_in_order(
    path: &Path,
    header: &str,
    lines: &BTreeMap<(u64, u64), String>,
) -> Result<(), Box<dyn Error>> {
    let mut text = format!("{header}\n");
    for line in lines.values() {
        text.push_str(line);
        text.push('\n');
    }
    write_whole(path, text.as_bytes())
}

/// Makes one file of those that several processes wrote: byte for byte what a single one would have written.
pub fn merge(parts: &[PathBuf], whole: &Path) -> Result<Lines, Box<dyn Error>> {
    let mut header: Option<String> = None;
    let (mut lines, mut raw) = (Lines::new(), BTreeMap::new());
    for part in parts {
        let told = |what: &str| format!("{} {what}", part.display());
        let bytes = fs::read(part).map_err(|e| told(&format!("cannot be read: {e}")))?;
        let (found, these, _) = parse(part, &bytes)?;
        let found = found.ok_or_else(|| told("is empty: start its rank again"))?;
        if header.get_or_insert_with(|| found.clone()) != &found {
            return Err(told("was made with other settings than the files before it").into());
        }
        for (line, text) in these {
            let key = place(&line).ok_or_else(|| told("has a line without its place"))?;
            if raw.insert(key, text).is_some() {
                let (prompt, image) = key;
                return Err(told(&format!("draws prompt {prompt}, image {image} again")).into());
            }
            lines.insert(key, line);
        }
    }
    let header = header.ok_or("nothing to merge")?;
    let settings: Value = serde_json::from_str(&header)?;
    let want = settings["pictures"].as_u64().unwrap_or_default();
    if lines.len() as u64 != want {
        return Err(format!(
            "{} of {want} pictures are there: start the ranks again that have not finished",
            lines.len()
        )
        .into());
    }
    write_in_order(whole, &header, &raw)?;
    Ok(lines)
}

/// Lines of a result file that is only read: of this program, or of the official scorer, whose lines name a picture's
/// file and have no header.
pub fn read(path: &Path) -> Result<Lines, Box<dyn Error>> {
    let bytes = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let (first, lines, _) = parse(path, &bytes)?;
    let first = first.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let official = first.filter(|line| line["filename"].is_string());
    if official.is_none() {
        let lines = lines.into_iter().map(|(line, _)| line);
        return Ok(lines.filter_map(|l| Some((place(&l)?, l))).collect());
    }
    let mut all = Lines::new();
    let lines = official.into_iter().chain(lines.into_iter().map(|l| l.0));
    for (i, line) in lines.enumerate() {
        let told = |what: &str| format!("{} line {}: {what}", path.display(), i + 1);
        let name = line["filename"].as_str().unwrap_or_default();
        let key = picture_of(name).ok_or_else(|| {
            told(&format!(
                "\"{name}\" is no picture PROMPT/samples/IMAGE.png"
            ))
        })?;
        if !line["tag"].is_string() || !line["correct"].is_boolean() {
            return Err(told("tag or verdict are missing").into());
        }
        if all.insert(key, line).is_some() {
            return Err(told("this picture was there before").into());
        }
    }
    Ok(all)
}

/// Prompt and image of a picture's file in the official layout.
pub fn picture_of(name: &str) -> Option<(u64, u64)> {
    let mut parts = name.rsplit(['/', '\\']);
    let image = parts.next()?.strip_suffix(".png")?.parse().ok()?;
    parts.next().filter(|folder| *folder == "samples")?;
    Some((parts.next()?.parse().ok()?, image))
}

/// Shares over pictures and over prompts, as the official summary prints them beside the table.
pub fn summary(lines: &Lines) -> [f64; 2] {
    let mut prompts: BTreeMap<u64, bool> = BTreeMap::new();
    let mut right = 0;
    for (key, line) in lines {
        let correct = line["correct"] == true;
        right += usize::from(correct);
        *prompts.entry(key.0).or_default() |= correct;
    }
    let any = prompts.values().filter(|&&any| any).count();
    let share = |n: usize, all: usize| n as f64 / all.max(1) as f64;
    [share(right, lines.len()), share(any, prompts.len())]
}

/// Mean multiply-adds of a part over the pictures, if every line tells them.
pub fn work(lines: &Lines, part: &str) -> Option<f64> {
    let all = lines
        .values()
        .map(|line| line["multiply_adds"][part].as_f64());
    let sum = all.sum::<Option<f64>>()?;
    (!lines.is_empty()).then(|| sum / lines.len() as f64)
}

/// The score of a picture, where it has one, else 1 if it is correct.
fn worth(line: &Value) -> f64 {
    let score = line["score"].as_f64().filter(|s| (0.0..=1.0).contains(s));
    score.unwrap_or_else(|| f64::from(u8::from(line["correct"] == true)))
}

/// Each prompt's mean of `value` over the given lines.
fn by_prompt<'a>(lines: impl Iterator<Item = (u64, &'a Value, f64)>) -> Prompts {
    let mut sums: BTreeMap<u64, (&str, f64, f64)> = BTreeMap::new();
    for (prompt, line, value) in lines {
        let tag = line["tag"].as_str().unwrap_or_default();
        let sum = sums.entry(prompt).or_insert((tag, 0.0, 0.0));
        sum.1 += value;
        sum.2 += 1.0;
    }
    let mut tags: Vec<&str> = TASKS.iter().map(|task| task.0).collect();
    for (tag, ..) in sums.values() {
        if !tags.contains(tag) {
            tags.push(tag);
        }
    }
    let place = |tag| tags.iter().position(|known| known == &tag).unwrap_or(0);
    Prompts {
        means: sums
            .into_values()
            .map(|(tag, sum, n)| (place(tag), sum / n))
            .collect(),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
    }
}

/// Share of correct pictures of each prompt, or their mean score.
pub fn shares(lines: &Lines) -> Prompts {
    by_prompt(lines.iter().map(|(key, line)| (key.0, line, worth(line))))
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
        both.push((key.0, line, worth(other) - worth(line)));
    }
    Ok(by_prompt(both.into_iter()))
}
