//! One page about a run, for a browser: everything that was seen, judged and dropped, and what it cost. It needs no
//! network: pictures and numbers stand in the file.

pub mod evaluation;

use std::collections::BTreeMap;
use std::error::Error;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maquette::CandidateId;
use serde_json::{Value, json};

use crate::png_file::Picture;
use crate::record::{self, Counts, Record};

const PAGE: &str = include_str!("page.html");

/// One finished picture.
pub struct Shown<'a> {
    pub record: &'a Record,
    pub pixels: &'a [u8],
    pub label: &'a str,
    pub seconds: f64,
    /// What the released code would have spent, if it has this search.
    pub one_by_one: Option<Counts>,
}

fn png(record: &Record, pixels: &[u8]) -> Result<String, Box<dyn Error>> {
    let picture = Picture {
        width: record.size.width as usize,
        height: record.size.height as usize,
        pixels,
    };
    Ok(STANDARD.encode(picture.png()?))
}

fn counts(c: Counts) -> Value {
    json!({ "steps": c.steps, "decodes": c.decodes, "questions": c.questions })
}

/// A picture's part of the page.
pub fn picture(shown: &Shown<'_>) -> Result<Value, Box<dyn Error>> {
    let record = shown.record;
    let line: BTreeMap<CandidateId, u32> = record.line_of_winner();
    let mut lives = Vec::new();
    for (&id, life) in &record.lives {
        let mut sights = Vec::new();
        for (&step, sight) in &life.sights {
            let verdicts: Vec<Value> = sight
                .verdicts
                .iter()
                .map(|(judgement, v)| {
                    let mut verdict = record::verdict(v);
                    verdict["question"] = judgement.name().into();
                    verdict
                })
                .collect();
            let png = sight
                .pixels
                .as_deref()
                .map(|p| png(record, p))
                .transpose()?;
            let region = sight.region.as_deref().map(|anew| {
                let places = (0..anew.len()).filter(|&place| anew[place]);
                json!({ "rows": record.grid.rows, "cols": record.grid.cols, "places": places.collect::<Vec<_>>() })
            });
            sights.push(json!({
                "step": step, "png": png, "verdicts": verdicts, "reason": sight.reason, "region": region,
            }));
        }
        lives.push(json!({
            "id": id.0, "row": life.row, "parent": life.parent.map(|p| p.0), "born": life.born, "taken": life.taken,
            "rejected_at": life.rejected_at, "resumed": life.resumed, "winner": record.winner == Some(id),
            "line_until": line.get(&id).map(|&until| until.min(life.taken)), "sights": sights,
        }));
    }
    let spent: Vec<Value> = record
        .history
        .iter()
        .map(|moment| {
            let mut at = counts(moment.counts);
            at["seconds"] = moment.seconds.into();
            at
        })
        .collect();
    let best: Vec<Value> = record
        .history
        .iter()
        .filter_map(|moment| Some(json!({ "seconds": moment.seconds, "p_yes": moment.best? })))
        .collect();
    Ok(json!({
        "label": shown.label, "png": png(record, shown.pixels)?, "seconds": shown.seconds, "lives": lives,
        "cost": counts(record.counts), "one_by_one": shown.one_by_one.map(counts), "spent": spent, "best": best,
    }))
}

/// The page around the pictures; `run` holds prompt, strategy, candidates, seed, models, device and steps.
pub fn page(mut run: Value, pictures: Vec<Value>) -> String {
    run["pictures"] = pictures.into();
    // Inside a script element no text may look like its end.
    let data = run.to_string().replace('<', "\\u003c");
    PAGE.replacen("{{data}}", &data, 1)
}
