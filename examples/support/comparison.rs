//! Several evaluations beside each other: a row each, with gains over the first and costs as multiples of its own.

use serde_json::{Value, json};

use crate::chart::{Chart, Point, Series};
use crate::results::{self, Lines};
use crate::score::{self, Estimate, TASKS};

/// One evaluation's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub label: String,
    /// What `geneval` is called with for the same.
    pub command: String,
    pub pictures: usize,
    /// Shares of GenEval's tasks, where they occur.
    pub tasks: [Option<Estimate>; TASKS.len()],
    pub overall: Estimate,
    /// Paired difference to the first row's pictures.
    pub gain: Estimate,
    /// Steps, decodings and questions a picture.
    pub spent: [f64; 3],
    /// What it costs alone, if that was measured.
    pub alone: Option<Alone>,
}

/// What a row's pictures cost where nothing is shared with other rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alone {
    /// Seconds of the pictures that were drawn alone, as multiples of the first row's at its best batch size.
    pub time: f64,
    /// Steps, decodings and questions of these pictures.
    pub spent: [f64; 3],
    /// Multiply-adds of a step, of a decoding, of a question: of generator, decoder and judge.
    pub each: Option<[f64; 3]>,
}

impl Row {
    /// The row of these results beside those of the first.
    pub fn new(label: &str, command: &str, first: &Lines, lines: &Lines) -> Result<Self, String> {
        if lines.values().any(|line| line["correct"].is_null()) {
            return Err(format!("{label}: pictures that are not scored"));
        }
        let shares = results::shares(lines);
        let (rows, overall) = score::table(&shares.means);
        let mut tasks = [None; TASKS.len()];
        for (tag, estimate) in rows {
            if let Some(task) = tasks.get_mut(tag) {
                *task = Some(estimate);
            }
        }
        let (_, gain) = score::table(&results::differences(first, lines)?.means);
        let mean = |key: &str| {
            let all = lines.values().filter_map(|l| l[key].as_f64());
            all.sum::<f64>() / lines.len().max(1) as f64
        };
        Ok(Self {
            label: label.into(),
            command: command.into(),
            pictures: lines.len(),
            tasks,
            overall,
            gain,
            spent: ["steps", "decodes", "questions"].map(mean),
            alone: None,
        })
    }

    /// Multiply-adds a picture, of generator, decoder and judge, the finished picture's decoding included.
    #[must_use]
    pub fn work(&self) -> Option<[f64; 3]> {
        work(self.alone?.each?, self.spent)
    }

    /// Seconds a picture as multiples of the first row's at its best batch size: the measured ones, as much longer as all
    /// pictures cost more than those that were measured.
    #[must_use]
    pub fn time(&self) -> Option<f64> {
        let alone = self.alone?;
        let all = |spent| Some(work(alone.each?, spent)?.iter().sum::<f64>());
        let share = all(self.spent).zip(all(alone.spent));
        Some(alone.time * share.map_or(1.0, |(own, measured)| own / measured))
    }

    /// All multiply-adds as multiples of another row's.
    #[must_use]
    pub fn cost(&self, first: &Self) -> Option<f64> {
        let sum = |row: &Self| row.work().map(|work| work.iter().sum::<f64>());
        Some(sum(self)? / sum(first)?)
    }
}

/// Multiply-adds of so many steps, decodings and questions.
fn work(each: [f64; 3], [steps, decodes, questions]: [f64; 3]) -> Option<[f64; 3]> {
    let work = [
        each[0] * steps,
        each[1] * (decodes + 1.0),
        each[2] * questions,
    ];
    (work.iter().sum::<f64>() > 0.0).then_some(work)
}

/// How good the best of N is.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    pub label: String,
    pub points: Vec<(u32, Estimate)>,
}

fn share(e: &Estimate) -> String {
    dotted(format!("{:.3}", e.mean))
}

/// A share without the zero before its point, and a minus as text has it.
fn dotted(text: String) -> String {
    match text.strip_prefix("-0.").or(text.strip_prefix("0.")) {
        Some(rest) if text.starts_with('-') => format!("−.{rest}"),
        Some(rest) => format!(".{rest}"),
        None => text,
    }
}

fn interval(e: &Estimate) -> String {
    let ends = [e.low, e.high].map(|end| dotted(format!("{end:.3}")));
    format!("{} [{}, {}]", share(e), ends[0], ends[1])
}

fn gained(e: &Estimate) -> String {
    let sign = if e.mean >= 0.0 { "+" } else { "" };
    format!("{sign}{}", interval(e))
}

/// A factor with as many digits as it is worth.
fn times(x: f64) -> String {
    if x < 9.95 {
        format!("{x:.2}")
    } else {
        format!("{x:.1}")
    }
}

/// The table in Markdown.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let tasks: Vec<&str> = TASKS.iter().map(|task| task.1).collect();
    let mut out = format!(
        "| | {} | overall | minus {} | steps | decodes | questions | multiply-adds: generator | decoder | judge | all | time |\n|---|{}\n",
        tasks.join(" | "),
        first.label,
        "---|".repeat(tasks.len() + 10)
    );
    let base = first.work().map(|work| work.iter().sum::<f64>());
    for (i, row) in rows.iter().enumerate() {
        let mut cells = vec![row.label.clone()];
        cells.extend(
            row.tasks
                .iter()
                .map(|task| task.as_ref().map_or_else(String::new, share)),
        );
        cells.push(interval(&row.overall));
        cells.push(if i == 0 {
            String::new()
        } else {
            gained(&row.gain)
        });
        cells.extend(row.spent.iter().map(|n| format!("{n:.1}")));
        match row.work().zip(base) {
            Some((work, base)) => cells.extend(work.iter().map(|n| times(n / base))),
            None => cells.extend(["", "", ""].map(String::from)),
        }
        cells.push(row.cost(first).map_or_else(String::new, times));
        cells.push(row.time().map_or_else(String::new, times));
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    out
}

/// The curves in Markdown.
#[must_use]
pub fn scaling_table(curves: &[Scaling]) -> String {
    let Some(first) = curves.first() else {
        return String::new();
    };
    let numbers: Vec<String> = first.points.iter().map(|p| p.0.to_string()).collect();
    let mut out = format!(
        "| candidates | {} |\n|---|{}\n",
        numbers.join(" | "),
        "---|".repeat(numbers.len())
    );
    for curve in curves {
        let cells: Vec<String> = curve.points.iter().map(|p| interval(&p.1)).collect();
        out.push_str(&format!("| {} | {} |\n", curve.label, cells.join(" | ")));
    }
    out
}

fn estimate(e: &Estimate) -> Value {
    json!({ "mean": e.mean, "low": e.low, "high": e.high })
}

/// Everything as JSON: for `table.json` and for the page.
#[must_use]
pub fn json(rows: &[Row], curves: &[Scaling]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let tasks: Vec<Value> = TASKS
                .iter()
                .zip(&row.tasks)
                .filter_map(|(name, task)| {
                    let mut value = estimate(task.as_ref()?);
                    value["task"] = name.1.into();
                    Some(value)
                })
                .collect();
            let work = row.work().map(
                |[generator, decoder, judge]| json!({ "generator": generator, "decoder": decoder, "judge": judge }),
            );
            json!({
                "label": row.label, "command": row.command, "pictures": row.pictures, "tasks": tasks,
                "overall": estimate(&row.overall), "gain": estimate(&row.gain), "steps": row.spent[0],
                "decodes": row.spent[1], "questions": row.spent[2], "multiply_adds": work,
                "cost": rows.first().and_then(|first| row.cost(first)), "time": row.time(),
            })
        })
        .collect();
    let curves: Vec<Value> = curves
        .iter()
        .map(|curve| {
            let points = curve.points.iter().map(|(n, e)| {
                let mut value = estimate(e);
                value["candidates"] = (*n).into();
                value
            });
            json!({ "label": curve.label, "points": points.collect::<Vec<_>>() })
        })
        .collect();
    json!({ "rows": rows, "scaling": curves })
}

/// Gain against cost.
#[must_use]
pub fn gains(rows: &[Row]) -> Chart {
    let first = rows.first();
    let series = rows.iter().filter_map(|row| {
        let x = row.cost(first?)?;
        let points = |scale: f64| Point {
            x,
            y: row.gain.mean * scale,
            low: row.gain.low * scale,
            high: row.gain.high * scale,
        };
        Some(Series {
            label: row.label.clone(),
            points: vec![points(100.0)],
        })
    });
    Chart {
        title: "Gain against cost".into(),
        x: "multiply-adds a picture, times the first".into(),
        y: "points of GenEval over the first, 95 % interval".into(),
        marks: Vec::new(),
        series: series.collect(),
    }
}

/// Share correct against candidates.
#[must_use]
pub fn curves(curves: &[Scaling]) -> Chart {
    let series = curves.iter().map(|curve| Series {
        label: curve.label.clone(),
        points: curve
            .points
            .iter()
            .map(|(n, e)| Point {
                x: f64::from(*n),
                y: 100.0 * e.mean,
                low: 100.0 * e.low,
                high: 100.0 * e.high,
            })
            .collect(),
    });
    Chart {
        title: "More candidates".into(),
        x: "candidates".into(),
        y: "GenEval overall in percent, 95 % interval".into(),
        marks: curves.first().map_or_else(Vec::new, |curve| {
            curve.points.iter().map(|p| f64::from(p.0)).collect()
        }),
        series: series.collect(),
    }
}
