//! Curves over the number of candidates, all read off one run of the most: a candidate's seed, and so its picture and what
//! is answered about it, are the same in whatever company.

use std::collections::BTreeMap;
use std::path::Path;

use indicatif::ProgressBar;
use maquette::reward::Answer;
use maquette::{CandidateId, Event, Flow, Judgement, Verdict};
use serde_json::{Value, json};
use support::comparison::Scaling;
use support::evaluation::{Evaluation, Hands, Task, mark};
use support::open::Res;
use support::results::{self, Lines};
use support::score;

/// What counts in a choice, as the strategies have it.
fn confidence(verdict: &Verdict) -> f32 {
    if verdict.answer == Answer::Other {
        0.0
    } else {
        verdict.p_yes
    }
}

/// Draws what the file does not have yet: each picture's candidates by both strategies.
pub fn draw(
    outcome: &Evaluation<'_>,
    parm: &Evaluation<'_>,
    most: u32,
    file: &Path,
    bar: &ProgressBar,
) -> Res<Lines> {
    let tasks = outcome.tasks();
    let header = json!({
        "scaling": most, "images": outcome.set.images, "seed": outcome.set.seed, "limit": outcome.set.limit,
        "pictures": outcome.share.kept.len() * outcome.set.images as usize, "models": outcome.models.describe(),
        "prompts": outcome.set.prompts.file_name().map(|n| n.to_string_lossy()),
    });
    let one = |hands: &mut Hands, task: &Task<'_>| candidates(outcome, parm, hands, task);
    Ok(outcome.draw(&tasks, file, &header, bar, &one)?.lines)
}

/// Every candidate of a picture: whether it is right, how sure the judge is of it, and what it saw halfway.
fn candidates(
    outcome: &Evaluation<'_>,
    parm: &Evaluation<'_>,
    hands: &mut Hands,
    task: &Task<'_>,
) -> Res<Value> {
    let (seed, mut pixels) = (outcome.seed(task)?, Vec::new());
    let eye = outcome.eye.ok_or("no detector for these pictures")?;
    let (mut order, mut marks, mut sure) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut failed = None;
    let prompt = &task.request.prompt;
    hands.search(prompt, seed, &mut pixels, &mut |event| {
        match event {
            Event::Started { ids, .. } => order.extend_from_slice(ids),
            Event::Observed {
                keys,
                pixels: Some(pixels),
            } => {
                for (i, key) in keys.iter().enumerate() {
                    match mark(eye, task.request, pixels.picture(i).unwrap_or_default()) {
                        Ok(mark) => drop(marks.insert(key.candidate, mark.correct)),
                        Err(e) => failed = Some(e),
                    }
                }
            }
            Event::Judged { key, verdict, .. } => {
                sure.insert(key.candidate, confidence(&verdict));
            }
            _ => {}
        }
        Flow::Continue
    })?;
    let (mut second, mut halfway): (Vec<CandidateId>, _) = (Vec::new(), BTreeMap::new());
    parm.hands()?
        .search(prompt, seed, &mut pixels, &mut |event| {
            match event {
                Event::Started { ids, .. } => second.extend_from_slice(ids),
                Event::Judged {
                    key,
                    judgement: Judgement::Potential,
                    verdict,
                } => drop(halfway.insert(key.candidate, verdict)),
                _ => {}
            }
            Flow::Continue
        })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut all = Vec::new();
    for (id, other) in order.iter().zip(&second) {
        let mark = marks.get(id).ok_or("a candidate that was not looked at")?;
        let sure = sure.get(id).ok_or("a candidate that was not judged")?;
        let halfway = halfway.get(other).map(|verdict| match verdict.answer {
            Answer::Yes => json!({ "yes": true }),
            Answer::No => json!({ "yes": false, "p_no": verdict.p_no }),
            // Behind everyone, as the strategy has it.
            Answer::Other => json!({ "yes": false, "p_no": 50.0 }),
        });
        all.push(json!({ "correct": mark, "p_yes": sure, "potential": halfway }));
    }
    Ok(json!({
        "prompt_index": task.prompt, "image": task.image, "seed": seed, "tag": task.request.tag, "prompt": prompt,
        "correct": best(&all).and_then(|at| all[at]["correct"].as_bool()), "candidates": all,
    }))
}

/// Place of the most confident "yes" among some of the candidates; the first of equals.
fn most_sure<'a>(among: impl Iterator<Item = (usize, &'a Value)>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, candidate) in among {
        let sure = candidate["p_yes"].as_f64().unwrap_or(0.0);
        if best.is_none_or(|(_, most)| sure > most) {
            best = Some((at, sure));
        }
    }
    best.map(|(at, _)| at)
}

/// Whom best of N chooses among these.
fn best(candidates: &[Value]) -> Option<usize> {
    most_sure(candidates.iter().enumerate())
}

/// Whom PARM chooses among these: the surest with potential, or who lacks it least surely.
fn parm(candidates: &[Value]) -> Option<usize> {
    let survivors = candidates.iter().enumerate();
    let survivors = survivors.filter(|(_, c)| c["potential"]["yes"] == true);
    most_sure(survivors).or_else(|| {
        let mut least: Option<(usize, f64)> = None;
        for (at, candidate) in candidates.iter().enumerate() {
            let no = candidate["potential"]["p_no"].as_f64().unwrap_or(1.0);
            if least.is_none_or(|(_, least)| no < least) {
                least = Some((at, no));
            }
        }
        least.map(|(at, _)| at)
    })
}

/// The share that each number of candidates gets right.
pub fn curves(lines: &Lines) -> Res<Vec<Scaling>> {
    let count = |line: &Value| line["candidates"].as_array().map_or(0, Vec::len);
    let most = lines.values().map(count).min().unwrap_or(0);
    let numbers: Vec<usize> = (0..).map(|i| 1 << i).take_while(|n| *n <= most).collect();
    let mut curves = Vec::new();
    type Choice = fn(&[Value]) -> Option<usize>;
    for (label, choice) in [("best of N", best as Choice), ("PARM of N", parm)] {
        let mut points = Vec::new();
        for &n in &numbers {
            let chosen = |line: &Value| {
                let all = line["candidates"].as_array().map_or(&[][..], Vec::as_slice);
                let first = all.get(..n).unwrap_or(all);
                let correct = choice(first).map(|at| first[at]["correct"].clone());
                json!({ "tag": line["tag"], "prompt": line["prompt"], "correct": correct })
            };
            let picked: Lines = lines.iter().map(|(key, l)| (*key, chosen(l))).collect();
            let (_, overall) = score::table(&results::shares(&picked).means);
            points.push((u32::try_from(n)?, overall));
        }
        curves.push(Scaling {
            label: label.into(),
            points,
        });
    }
    Ok(curves)
}
