//! Who says how well a finished picture shows what was asked for: the bundled detector by GenEval's rules, or a program of
//! one's own for prompts of any other kind.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use maquette::cpu::Cpu;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::open::Res;
use crate::png_file::Picture;
use crate::rules::{Request, Rules};
use crate::world::detector::Detector;

/// What was said of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub correct: bool,
    /// How well, in [0, 1], where that is more than yes or no.
    pub score: Option<f64>,
    /// What is wrong, if anything is.
    pub reason: String,
    /// What was seen.
    pub seen: Vec<Value>,
}

/// Marks finished pictures, from several threads at once.
pub trait Checker: Sync {
    /// Marks a picture of a prompt, whose record stands in the set as `raw`.
    ///
    /// # Errors
    /// A record or a picture that it cannot read.
    fn check(&self, request: &Request, raw: &str, picture: &Picture<'_>) -> Res<Mark>;

    /// What tells its marks from another one's, for the heads of result files.
    fn describe(&self) -> Value;
}

impl Checker for Detector<Cpu> {
    fn check(&self, request: &Request, _: &str, picture: &Picture<'_>) -> Res<Mark> {
        let seen = self.detect(picture.pixels)?;
        let verdict = Rules::bundled().decide(request, &seen);
        let seen = seen.iter().map(
            |d| json!({ "class": d.class, "color": d.color, "bbox": d.bbox, "score": d.score }),
        );
        Ok(Mark {
            correct: verdict.is_ok(),
            score: None,
            reason: verdict.err().unwrap_or_default(),
            seen: seen.collect(),
        })
    }

    fn describe(&self) -> Value {
        true.into()
    }
}

/// A program that is called with the path of a picture, reads the prompt's record from its input, and answers with one JSON
/// object: `score` in [0, 1], and if it likes `correct` (else a score of a half is) and `reason`.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Answer {
    score: f64,
    correct: Option<bool>,
    #[serde(default)]
    reason: String,
}

impl Program {
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// What the program prints about a picture.
    fn ask(&self, raw: &str, picture: &Path) -> Res<Vec<u8>> {
        let told = |e: std::io::Error| format!("cannot run {}: {e}", self.path.display());
        let mut child = Command::new(&self.path)
            .arg(picture)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(told)?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not care for the record may have closed its input.
            let _ = input.write_all(raw.as_bytes());
        }
        let out = child.wait_with_output().map_err(told)?;
        if !out.status.success() {
            return Err(format!("{} ended with {}", self.path.display(), out.status).into());
        }
        Ok(out.stdout)
    }
}

impl Checker for Program {
    fn check(&self, _: &Request, raw: &str, picture: &Picture<'_>) -> Res<Mark> {
        static PICTURES: AtomicU64 = AtomicU64::new(0);
        let n = PICTURES.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("maquette-{}-{n}.png", std::process::id()));
        fs::write(&file, picture.png()?)
            .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        let said = self.ask(raw, &file);
        // It lies among temporary files and harms nobody.
        let _ = fs::remove_file(&file);
        let said = said?;
        let told = |what: &dyn std::fmt::Display| {
            let said = String::from_utf8_lossy(&said);
            format!("{} said \"{}\": {what}", self.path.display(), said.trim())
        };
        let answer: Answer = serde_json::from_slice(&said).map_err(|e| told(&e))?;
        if !(0.0..=1.0).contains(&answer.score) {
            return Err(told(&"a score lies in [0, 1]").into());
        }
        Ok(Mark {
            correct: answer.correct.unwrap_or(answer.score >= 0.5),
            score: Some(answer.score),
            reason: answer.reason,
            seen: Vec::new(),
        })
    }

    fn describe(&self) -> Value {
        self.path.display().to_string().into()
    }
}
