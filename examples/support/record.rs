//! What happened in one search: who was seen when, judged how, rejected where. Feeds progress, sheet and trace.

use std::collections::BTreeMap;
use std::time::Instant;

use maquette::codes::UNKNOWN;
use maquette::search::{Cost, Decision, Event};
use maquette::{CandidateId, CodeGrid, ImageSize, Judgement, Verdict};
use serde_json::{Value, json};

use crate::evaluation::multiply_adds;

/// One look at a candidate.
#[derive(Debug, Default)]
pub struct Sight {
    pub pixels: Option<Vec<u8>>,
    pub verdicts: Vec<(Judgement, Verdict)>,
    /// What the judge says is wrong.
    pub reason: Option<String>,
    /// Which codes are drawn anew to correct it, the last time it was.
    pub region: Option<Vec<bool>>,
}

/// One candidate's life.
#[derive(Debug)]
pub struct Life {
    pub parent: Option<CandidateId>,
    /// Row of the contact sheet; a fork takes the row that somebody rejected left.
    pub row: usize,
    /// Steps it had taken when it was started: those of its parent, or of the picture that it corrects.
    pub born: u32,
    pub taken: u32,
    pub sights: BTreeMap<u32, Sight>,
    pub rejected_at: Option<u32>,
    pub resumed: bool,
}

/// Counts of what a search has spent so far.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub steps: u64,
    pub decodes: u64,
    pub questions: u64,
    pub rejected: u64,
}

/// What was spent when something happened, and how things stood.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the search began.
    pub seconds: f64,
    pub counts: Counts,
    /// The highest "yes" to a question about the prompt among those in the running.
    pub best: Option<f32>,
}

/// Listens to one search.
#[derive(Debug)]
pub struct Record {
    pub size: ImageSize,
    pub grid: CodeGrid,
    pub lives: BTreeMap<CandidateId, Life>,
    pub rows: usize,
    pub counts: Counts,
    pub events: Vec<Value>,
    pub history: Vec<Moment>,
    pub winner: Option<CandidateId>,
    began: Instant,
}

/// A verdict for the trace.
pub fn verdict(v: &Verdict) -> Value {
    json!({ "p_yes": v.p_yes, "p_no": v.p_no, "answer": v.answer.to_string() })
}

/// A cost for traces and result files.
pub fn cost(c: &Cost) -> Value {
    json!({
        "candidates": c.candidates, "steps": c.steps, "decodes": c.decodes, "outcome": c.outcome,
        "process": c.process, "clarity": c.clarity, "potential": c.potential, "explanations": c.explanations,
        "multiply_adds": multiply_adds(&c.multiply_adds),
    })
}

impl Record {
    /// A record that knows nothing yet.
    pub fn new(size: ImageSize, grid: CodeGrid) -> Self {
        Self {
            size,
            grid,
            lives: BTreeMap::new(),
            rows: 0,
            counts: Counts::default(),
            events: Vec::new(),
            history: Vec::new(),
            winner: None,
            began: Instant::now(),
        }
    }

    /// A row that no living candidate has.
    fn free_row(&self, parent: Option<CandidateId>) -> usize {
        let taken = |row| {
            self.lives
                .values()
                .any(|l| l.row == row && (l.rejected_at.is_none() || l.resumed))
        };
        let free = (0..self.rows).find(|&row| !taken(row));
        match (free, parent.and_then(|p| self.lives.get(&p))) {
            // Who begins anew would overwrite what the row shows.
            (_, None) => self.rows,
            (Some(row), _) => row,
            // Forks without a free row go on in their parent's.
            (None, Some(parent)) => parent.row,
        }
    }

    /// Notes an event.
    pub fn hear(&mut self, event: &Event<'_>) {
        let numbers = |ids: &[CandidateId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        let line = match *event {
            Event::Started { ids, parent, taken } => {
                for &id in ids {
                    let row = self.free_row(parent);
                    self.rows = self.rows.max(row + 1);
                    let life = Life {
                        parent,
                        row,
                        born: taken,
                        taken,
                        sights: BTreeMap::new(),
                        rejected_at: None,
                        resumed: false,
                    };
                    self.lives.insert(id, life);
                }
                json!({ "event": "started", "ids": numbers(ids), "parent": parent.map(|p| p.0) })
            }
            Event::Stepped { ids, step } => {
                self.counts.steps += ids.len() as u64;
                for id in ids {
                    if let Some(life) = self.lives.get_mut(id) {
                        life.taken = step;
                    }
                }
                json!({ "event": "stepped", "ids": numbers(ids), "step": step })
            }
            Event::Observed { keys, pixels } => {
                self.counts.decodes += keys.len() as u64;
                for (i, key) in keys.iter().enumerate() {
                    if let Some(life) = self.lives.get_mut(&key.candidate) {
                        life.sights.entry(key.step).or_default().pixels =
                            pixels.and_then(|batch| batch.picture(i)).map(Vec::from);
                    }
                }
                let ids: Vec<u64> = keys.iter().map(|k| k.candidate.0).collect();
                json!({ "event": "observed", "ids": ids, "step": keys.first().map(|k| k.step) })
            }
            Event::Judged {
                key,
                judgement,
                verdict: v,
            } => {
                self.counts.questions += 1;
                if let Some(life) = self.lives.get_mut(&key.candidate) {
                    life.sights
                        .entry(key.step)
                        .or_default()
                        .verdicts
                        .push((judgement, v));
                }
                json!({
                    "event": "judged", "id": key.candidate.0, "step": key.step,
                    "question": judgement.name(), "verdict": verdict(&v),
                })
            }
            Event::Explained { key, reason } => {
                if let Some(life) = self.lives.get_mut(&key.candidate) {
                    life.sights.entry(key.step).or_default().reason = Some(reason.to_owned());
                }
                json!({ "event": "explained", "id": key.candidate.0, "step": key.step, "reason": reason })
            }
            Event::Probed { key, verdicts } => {
                self.counts.questions += verdicts.len() as u64;
                let p_yes: Vec<f32> = verdicts.iter().map(|v| v.p_yes).collect();
                json!({ "event": "probed", "id": key.candidate.0, "step": key.step, "p_yes": p_yes })
            }
            Event::Located { key, codes } => {
                let anew: Vec<bool> = codes.iter().map(|&code| code == UNKNOWN).collect();
                let places: Vec<usize> = (0..anew.len()).filter(|&place| anew[place]).collect();
                if let Some(life) = self.lives.get_mut(&key.candidate) {
                    life.sights.entry(key.step).or_default().region = Some(anew);
                }
                json!({ "event": "located", "id": key.candidate.0, "step": key.step, "places": places })
            }
            Event::Rejected { id, parked } => {
                if let Some(life) = self.lives.get_mut(&id)
                    && (life.rejected_at.is_none() || life.resumed)
                {
                    // A parked one that is pruned later was rejected already.
                    self.counts.rejected += 1;
                    life.rejected_at = Some(life.taken);
                    life.resumed = false;
                }
                json!({ "event": "rejected", "id": id.0, "parked": parked })
            }
            Event::Resumed { id } => {
                if let Some(life) = self.lives.get_mut(&id) {
                    life.resumed = true;
                }
                json!({ "event": "resumed", "id": id.0 })
            }
            Event::Chosen { id } => {
                self.winner = Some(id);
                json!({ "event": "chosen", "id": id.0 })
            }
            _ => return,
        };
        self.events.push(line);
        // A batch of verdicts is one moment.
        if !matches!(event, Event::Judged { .. }) {
            self.history.push(Moment {
                seconds: self.began.elapsed().as_secs_f64(),
                counts: self.counts,
                best: self.best(),
            });
        }
    }

    fn best(&self) -> Option<f32> {
        let running = self
            .lives
            .values()
            .filter(|life| life.rejected_at.is_none() || life.resumed);
        let last = running.filter_map(|life| {
            let mut verdicts = life
                .sights
                .values()
                .rev()
                .flat_map(|s| s.verdicts.iter().rev());
            verdicts.find(|(question, _)| *question != Judgement::Clarity)
        });
        last.map(|(_, verdict)| verdict.p_yes).reduce(f32::max)
    }

    /// Adds the finished winner, which a search without a judge never looks at.
    pub fn finish(&mut self, decision: &Decision, steps: u32, pixels: &[u8]) {
        self.winner = Some(decision.winner);
        if let Some(life) = self.lives.get_mut(&decision.winner) {
            life.sights.entry(steps).or_default().pixels = Some(pixels.to_vec());
        }
    }

    /// What the winner was asked about last, in one word.
    pub fn last_question(&self) -> &'static str {
        let life = self.winner.and_then(|id| self.lives.get(&id));
        let mut sights = life.into_iter().flat_map(|life| life.sights.values().rev());
        let last = sights.find_map(|sight| sight.verdicts.last());
        match last {
            Some((Judgement::Process, _)) => "process",
            Some((Judgement::Potential, _)) => "able",
            Some((Judgement::Clarity, _)) => "clear",
            _ => "match",
        }
    }

    /// The winner and everybody it was forked from, each with the last step of its that led there.
    pub fn line_of_winner(&self) -> BTreeMap<CandidateId, u32> {
        let mut line = BTreeMap::new();
        let mut next = self.winner.map(|id| (id, u32::MAX));
        while let Some((id, until)) = next.filter(|(id, _)| !line.contains_key(id)) {
            line.insert(id, until);
            next = self
                .lives
                .get(&id)
                .and_then(|life| Some((life.parent?, life.born)));
        }
        line
    }
}

/// What the released one-by-one code spends on the same search: every path runs to its end and every step is
/// decoded and saved, whatever the judge says.
pub fn one_by_one(strategy: &str, n: u64, steps: u64, spent: &Cost) -> Counts {
    let all = n * steps;
    let questions = spent.judged();
    let decodes = match strategy {
        "plain" => steps,
        // Every step is saved.
        "best-of-n" => all,
        // Every step is saved, each look before the first clear one is decoded again, and the end once more.
        "parm" | "parm-released" => all + spent.clarity + n,
        _ => spent.decodes,
    };
    let steps = match strategy {
        "plain" => steps,
        _ => all,
    };
    Counts {
        steps,
        decodes,
        questions,
        rejected: 0,
    }
}
