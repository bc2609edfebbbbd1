//! What each strategy costs alone: seconds and multiply-adds a picture, strategy after strategy in turns, beside plain pictures
//! at the batch size that suits them best.

use std::path::Path;
use std::time::Instant;

use maquette::generator::{Needs, Views};
use maquette::{CandidateId, Flow, Prompt};
use serde_json::{Value, json};
use support::comparison::Alone;
use support::evaluation::{Evaluation, Task, multiply_adds};
use support::open::Res;
use support::results::{self, Lines, Results};

use crate::entries::Entry;

/// Plain pictures that are drawn together.
const SIZES: [u32; 5] = [1, 2, 4, 8, 20];

/// The times that were taken, in a file of their own.
pub struct Clock {
    results: Results,
}

/// Whether all of these times were taken.
pub fn whole(file: &Path, rounds: u32, rows: usize) -> Res<bool> {
    if !file.exists() {
        return Ok(false);
    }
    let lines = results::read(file)?;
    let mut all = (0..rounds).flat_map(|round| (0..rows).map(move |at| (round, at)));
    Ok(all.all(|(round, at)| lines.contains_key(&(round.into(), at as u64))))
}

impl Clock {
    /// Goes on with the times of the same rows on the same device.
    pub fn open(file: &Path, rounds: u32, device: &Value, entries: &[Entry]) -> Res<Self> {
        let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
        let header = json!({ "timed": names, "rounds": rounds, "device": device });
        Ok(Self {
            results: Results::open(file, &header)?,
        })
    }

    pub fn has(&self, round: u32, at: usize) -> bool {
        let key = (u64::from(round), at as u64);
        self.results.lines.contains_key(&key)
    }

    /// Times one picture of a row, whose shared form is in `lines`; of the first, plain ones in all sizes of batches, too.
    pub fn time(
        &mut self,
        round: u32,
        at: usize,
        evaluation: &Evaluation<'_>,
        lines: &Lines,
    ) -> Res<()> {
        let tasks = evaluation.tasks();
        let step = evaluation.set.images.max(1) as usize;
        let task = tasks
            .get(round as usize * step % tasks.len().max(1))
            .ok_or("no prompt to time")?;
        let (prompt, seed) = (&task.request.prompt, evaluation.seed(task)?);
        let mut counted = Value::Null;
        let seconds = quicker(|| {
            let mut hands = evaluation.hands()?;
            let (mut pixels, begun) = (Vec::new(), Instant::now());
            let (decision, work) =
                hands.search(prompt, seed, &mut pixels, &mut |_| Flow::Continue)?;
            let seconds = begun.elapsed().as_secs_f64();
            let cost = decision.cost;
            counted = json!({
                "p_yes": decision.verdict.map(|v| v.p_yes), "steps": cost.steps, "decodes": cost.decodes,
                "questions": cost.judged(), "multiply_adds": multiply_adds(&work),
            });
            Ok(seconds)
        })?;
        same(task, &counted, lines)?;
        let mut batches = Vec::new();
        if at == 0 {
            for size in SIZES {
                let seconds = quicker(|| together(evaluation, prompt, seed, size))?;
                batches.push(json!([size, seconds]));
            }
        }
        let mut line = json!({
            "prompt_index": round, "image": at, "seconds": seconds, "batches": batches,
        });
        if let (Value::Object(line), Value::Object(counted)) = (&mut line, counted) {
            line.extend(counted);
        }
        self.results.add(line)
    }

    /// What each row costs: mean seconds as multiples of a plain picture's, and multiply-adds.
    pub fn alone(self, rows: usize) -> Res<Vec<Alone>> {
        let lines = &self.results.lines;
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let of = |at: usize| lines.iter().filter(move |(key, _)| key.1 == at as u64);
        let batch = |place: usize| {
            let each = of(0).filter_map(|(_, line)| line["batches"][place][1].as_f64());
            mean(each.collect())
        };
        let plain = (0..SIZES.len()).map(batch).fold(f64::INFINITY, f64::min);
        if !(plain > 0.0 && plain.is_finite()) {
            return Err("plain pictures took no time at all".into());
        }
        let seconds = |at| mean(of(at).filter_map(|(_, l)| l["seconds"].as_f64()).collect());
        let sum = |at: usize, value: &dyn Fn(&Value) -> Option<f64>| {
            of(at).map(|(_, line)| value(line)).sum::<Option<f64>>()
        };
        // Of one thing: what the finished picture's decoding costs is counted with the others.
        let each = |at: usize, part: &str, unit: &str, more: f64| {
            let work = sum(at, &|line| line["multiply_adds"][part].as_f64())?;
            let units = sum(at, &|line| Some(line[unit].as_f64()? + more))?;
            Some(if units > 0.0 { work / units } else { 0.0 })
        };
        let alone = |at: usize| Alone {
            time: seconds(at) / plain,
            spent: ["steps", "decodes", "questions"].map(|unit| {
                let all = of(at).filter_map(|(_, line)| line[unit].as_f64());
                mean(all.collect())
            }),
            each: [
                ("generator", "steps", 0.0),
                ("decoder", "decodes", 1.0),
                ("judge", "questions", 0.0),
            ]
            .map(|(part, unit, more)| each(at, part, unit, more))
            .into_iter()
            .collect::<Option<Vec<f64>>>()
            .and_then(|each| each.try_into().ok()),
        };
        self.results.finish()?;
        Ok((0..rows).map(alone).collect())
    }
}

/// Fails unless a picture that was drawn alone is the one that was drawn beside others.
fn same(task: &Task<'_>, alone: &Value, lines: &Lines) -> Res<()> {
    let line = lines
        .get(&task.key())
        .ok_or("a picture that is not there")?;
    for part in ["p_yes", "steps", "decodes", "questions"] {
        // A number that was written and read again may differ behind the digits of an f32.
        let [here, there] = [alone, line].map(|line| line[part].as_f64().map(|x| x as f32));
        if here != there {
            let (prompt, here, there) = (&task.request.prompt, &alone[part], &line[part]);
            return Err(format!("\"{prompt}\": {part} {here} alone, {there} beside others").into());
        }
    }
    Ok(())
}

/// The shorter of two times: what disturbs a machine makes the other one long.
fn quicker(mut time: impl FnMut() -> Res<f64>) -> Res<f64> {
    Ok(time()?.min(time()?))
}

/// Seconds a picture where so many plain ones are drawn and decoded together.
fn together(evaluation: &Evaluation<'_>, prompt: &str, seed: u64, size: u32) -> Res<f64> {
    let mut generator = evaluation.models.generator(size)?;
    let seeds: Vec<u64> = (0..u64::from(size)).map(|i| seed ^ i).collect();
    let mut ids = vec![CandidateId::default(); seeds.len()];
    let mut pixels = vec![0; seeds.len() * generator.image_size().len_bytes()];
    let begun = Instant::now();
    generator.start(&Prompt::new(prompt), &seeds, &mut ids)?;
    for _ in 0..generator.steps() {
        generator.step(&ids)?;
    }
    generator.observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
    Ok(begun.elapsed().as_secs_f64() / f64::from(size))
}
