//! What every step gave: a line of a file each, and a page of curves.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use support::canvas::{Canvas, LETTER, Rgb};
use support::chart;

use crate::Res;

const PAPER: Rgb = [252, 252, 250];
const INK: Rgb = [40, 40, 44];
const FAINT: Rgb = [214, 214, 210];
const LINE: Rgb = [150, 170, 205];
const MEAN: Rgb = [30, 70, 150];
const PANEL: [usize; 2] = [640, 150];
const LEFT: usize = 96;
const HEAD: usize = 28;

/// The lines of a run.
#[derive(Debug)]
pub struct Curves {
    path: PathBuf,
    file: File,
    rows: Vec<Map<String, Value>>,
}

impl Curves {
    /// Goes on after the steps that a checkpoint holds: later lines are taken away, since their steps are taken again.
    pub fn open(path: &Path, steps: u64) -> Res<Self> {
        let told = |e: std::io::Error| format!("{}: {e}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(told)?;
        let text = fs::read_to_string(path).map_err(told)?;
        let (mut rows, mut whole) = (Vec::new(), 0);
        for line in text.split_inclusive('\n').take(usize::try_from(steps)?) {
            if !line.ends_with('\n') {
                break;
            }
            rows.push(serde_json::from_str(line).map_err(|e| format!("{}: {e}", path.display()))?);
            whole += line.len() as u64;
        }
        if (rows.len() as u64) < steps {
            return Err(format!(
                "{}: {} lines, but the checkpoint beside it has taken {steps} steps",
                path.display(),
                rows.len()
            )
            .into());
        }
        file.set_len(whole).map_err(told)?;
        Ok(Self {
            path: path.into(),
            file,
            rows,
        })
    }

    /// Adds a step.
    pub fn add(&mut self, row: Map<String, Value>) -> Res<()> {
        let line = format!("{}\n", Value::Object(row.clone()));
        self.file.write_all(line.as_bytes())?;
        self.rows.push(row);
        Ok(())
    }

    /// The numbers of one name, of the lines that have it.
    pub fn told(&self, name: &str) -> impl Iterator<Item = f64> {
        self.rows
            .iter()
            .filter_map(move |row| row.get(name)?.as_f64())
    }

    /// Brings all lines to the disk: a checkpoint never has more steps than there are lines.
    pub fn sync(&self) -> Res<()> {
        self.file
            .sync_data()
            .map_err(|e| format!("{}: {e}", self.path.display()).into())
    }

    /// Draws a panel for each number: its values, and their mean over a twentieth of the run.
    pub fn draw(&self, out: &Path) -> Res<()> {
        let Some(first) = self.rows.first() else {
            return Ok(());
        };
        let names: Vec<&String> = first.keys().filter(|name| *name != "step").collect();
        let [width, height] = PANEL;
        let mut page = Canvas::new(
            LEFT + width + 16,
            names.len() * (height + HEAD) + HEAD,
            PAPER,
        );
        for (i, name) in names.iter().enumerate() {
            let values: Vec<f64> = self
                .rows
                .iter()
                .map(|row| row.get(*name).and_then(Value::as_f64).unwrap_or(f64::NAN))
                .collect();
            panel(&mut page, i * (height + HEAD) + HEAD, name, &values);
            let number = |row: Option<&Map<String, Value>>| row?.get("step")?.as_f64();
            if let (Some(from), Some(to)) = (number(self.rows.first()), number(self.rows.last())) {
                axis(&mut page, (i + 1) * (height + HEAD), [from, to]);
            }
        }
        page.save(out)
    }
}

/// Numbers of steps below a panel.
fn axis(page: &mut Canvas, below: usize, [from, to]: [f64; 2]) {
    let width = (PANEL[0] - 1) as f64;
    for step in chart::steps(from, to.max(from + 1.0)) {
        let share = (step - from) / (to - from).max(1.0);
        let text = chart::short(step);
        let x = LEFT + (share * width).round() as usize;
        page.fill([x, below], [1, 4], INK);
        let half = text.len() * LETTER / 2;
        page.text([x.saturating_sub(half), below + 5], 1, INK, &text);
    }
}

fn panel(page: &mut Canvas, top: usize, name: &str, values: &[f64]) {
    let [width, height] = PANEL;
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let low = finite().fold(f64::INFINITY, f64::min);
    let high = finite().fold(f64::NEG_INFINITY, f64::max);
    page.text([LEFT, top - 12], 1, INK, name);
    page.fill([LEFT, top + height], [width, 1], FAINT);
    page.fill([LEFT - 1, top], [1, height], FAINT);
    if low > high {
        return;
    }
    for (at, value) in [(top, high), (top + height - 8, low)] {
        page.text([4, at], 1, INK, &format!("{value:>10.4}"));
    }
    let span = if high > low { high - low } else { 1.0 };
    let place = |x: usize, value: f64| {
        let share = (value - low) / span;
        let y = ((1.0 - share) * (height - 1) as f64).round() as usize;
        [LEFT + x, top + y]
    };
    let window = (values.len() / 20).max(1);
    let mean = |at: usize| {
        let part = &values[(at + 1).saturating_sub(window)..=at];
        part.iter().sum::<f64>() / part.len() as f64
    };
    for (thick, ink, of) in [
        (1, LINE, &(|at: usize| values[at]) as &dyn Fn(usize) -> f64),
        (2, MEAN, &mean),
    ] {
        let mut before: Option<usize> = None;
        for x in 0..width {
            let value = of(x * (values.len() - 1) / (width - 1));
            if !value.is_finite() {
                before = None;
                continue;
            }
            let [column, y] = place(x, value);
            let from = before.unwrap_or(y);
            page.fill(
                [column, y.min(from)],
                [thick, y.abs_diff(from) + thick],
                ink,
            );
            before = Some(y);
        }
    }
}
