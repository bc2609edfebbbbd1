//! Scores from the detections of any detector, by GenEval's rules: lines as the official scorer writes them, with colours.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::results::{Lines, picture_of};
use crate::rules::{Detection, Request, Rules};

/// The evaluator's settings, the published ones unless given; of the argument `score`.
#[derive(Debug, Clone, Args)]
pub struct RuleArgs {
    /// Detections must score above this. [default: 0.3]
    #[arg(long, requires = "score")]
    threshold: Option<f32>,
    /// In counting tasks detections must score above this. [default: 0.9]
    #[arg(long, requires = "score")]
    counting_threshold: Option<f32>,
    /// Detections kept for each class. [default: 16]
    #[arg(long, requires = "score")]
    max_objects: Option<usize>,
    /// Overlap with a better detection of the class from which on one is dropped. [default: 1, none is]
    #[arg(long, requires = "score")]
    max_overlap: Option<f32>,
    /// Part of both boxes' sizes that an offset must exceed to be a relation. [default: 0.1]
    #[arg(long, requires = "score")]
    position_threshold: Option<f32>,
}

impl RuleArgs {
    pub fn rules(&self) -> Rules {
        let own = Rules::default();
        Rules {
            threshold: self.threshold.unwrap_or(own.threshold),
            counting_threshold: self.counting_threshold.unwrap_or(own.counting_threshold),
            max_objects: self.max_objects.unwrap_or(own.max_objects),
            max_overlap: self.max_overlap.unwrap_or(own.max_overlap),
            position_threshold: self.position_threshold.unwrap_or(own.position_threshold),
        }
    }
}

/// What a detector saw in one picture.
#[derive(Debug, Deserialize)]
struct Line {
    filename: String,
    /// The prompt's record, as itself or as text; else it stands in the file of prompts.
    #[serde(default)]
    metadata: Option<Nested<Request>>,
    /// Boxes and scores, `[x1, y1, x2, y2, score]`, by class.
    details: Nested<BTreeMap<String, Vec<[f32; 5]>>>,
    /// The colour of each box, in the same order.
    #[serde(default)]
    colors: BTreeMap<String, Vec<String>>,
}

/// JSON, or JSON as text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Nested<T> {
    Text(String),
    Value(T),
}

impl<T: for<'a> Deserialize<'a>> Nested<T> {
    fn into_value(self) -> Result<T, serde_json::Error> {
        match self {
            Self::Text(text) => serde_json::from_str(&text),
            Self::Value(value) => Ok(value),
        }
    }
}

/// The verdict on each picture of a file, a line as the official scorer writes it.
pub fn score(
    path: &Path,
    rules: &Rules,
    prompts: &[(usize, Request, String)],
) -> Result<Lines, Box<dyn Error>> {
    let text =
        fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let mut all = Lines::new();
    for (i, line) in text.lines().enumerate().filter(|l| !l.1.trim().is_empty()) {
        let told = |e: Box<dyn Error>| format!("{} line {}: {e}", path.display(), i + 1);
        let (key, line) = one(line, rules, prompts).map_err(told)?;
        if all.insert(key, line).is_some() {
            return Err(told("this picture was there before".into()).into());
        }
    }
    if all.is_empty() {
        return Err(format!("{} holds no detections", path.display()).into());
    }
    Ok(all)
}

type Scored = ((u64, u64), Value);

fn one(
    line: &str,
    rules: &Rules,
    prompts: &[(usize, Request, String)],
) -> Result<Scored, Box<dyn Error>> {
    let line: Line = serde_json::from_str(line)?;
    let name = &line.filename;
    let key = picture_of(name)
        .ok_or_else(|| format!("\"{name}\" is no picture PROMPT/samples/IMAGE.png"))?;
    let request = match line.metadata {
        Some(metadata) => metadata.into_value()?,
        None => prompts
            .iter()
            .find(|prompt| prompt.0 as u64 == key.0)
            .map(|prompt| prompt.1.clone())
            .ok_or_else(|| format!("there is no prompt {}, and no metadata", key.0))?,
    };
    let details = line.details.into_value()?;
    let mut seen = Vec::new();
    for (class, boxes) in &details {
        let colors = line.colors.get(class).map_or(&[][..], Vec::as_slice);
        let coloured = request
            .include
            .iter()
            .any(|want| want.class == *class && want.color.is_some());
        if (coloured || !colors.is_empty()) && colors.len() != boxes.len() {
            let (n, m) = (boxes.len(), colors.len());
            return Err(format!("\"{class}\" has {n} boxes and {m} colors").into());
        }
        for (i, [x1, y1, x2, y2, score]) in boxes.iter().enumerate() {
            if [x1, y1, x2, y2, score].iter().any(|v| !v.is_finite()) {
                return Err(format!("box {i} of \"{class}\" is not finite").into());
            }
            seen.push(Detection {
                class,
                color: colors.get(i).map_or("", String::as_str),
                bbox: [*x1, *y1, *x2, *y2],
                score: *score,
            });
        }
    }
    let verdict = rules.decide(&request, &seen);
    let kept = details.keys().filter_map(|class| {
        let boxes: Vec<[f32; 5]> = rules
            .kept(&request, class, &seen)
            .iter()
            .map(|d| [d.bbox[0], d.bbox[1], d.bbox[2], d.bbox[3], d.score])
            .collect();
        (!boxes.is_empty()).then_some((class, boxes))
    });
    let kept: BTreeMap<_, _> = kept.collect();
    let scored = json!({
        "filename": name, "tag": request.tag, "prompt": request.prompt, "correct": verdict.is_ok(),
        "reason": verdict.err().unwrap_or_default(), "metadata": serde_json::to_string(&request)?,
        "details": serde_json::to_string(&kept)?,
    });
    Ok((key, scored))
}
