//! All strategies over one set of prompts: a table, curves over the number of candidates, and a plot of gain against cost.
//!
//! `cargo run --release --example compare --all-features -- --out out/compare`
//!
//! Every row is what `geneval` draws with the same settings and lies in a result file of its own. Rows of the same weights share
//! what they draw of a picture: its candidates' steps, views and verdicts are computed once, whoever needs them. What a row costs
//! is measured on pictures that it draws alone. A run that was killed goes on where it was; ranks share the prompts as they do
//! for `geneval`, and `--merge` makes the table of what they drew.

mod entries;
mod timing;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use support::comparison::{self, Alone, Row, Scaling};
use support::evaluation::{self, Evaluation, Set, Share, Task, bar, detector};
use support::memory::Memory;
use support::open::{self, Models, Panel, Res, Settings};
use support::png_file::{writable_folder, write_whole};
use support::report::evaluation::page;
use support::results::{self, Lines};
use support::say;
use support::{chart, score, shard};

use entries::{CURVES, Entry, chosen, scaling};

/// Compare strategies on a set of prompts.
#[derive(Debug, Parser)]
struct Cli {
    /// Folder of the result files, the table and the plot.
    #[arg(long, default_value = "out/compare")]
    out: PathBuf,
    #[command(flatten)]
    set: Set,
    /// Only these rows of the table, by the names of their files; plain pictures are always drawn.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A row more: its name, and what `geneval` is called with for it, as in `wide=--strategy prm --width 3`.
    #[arg(long, value_name = "NAME=SETTINGS", allow_hyphen_values = true)]
    entry: Vec<String>,
    /// Rows for other weights of the generator, as `align` leaves them: plain, corrected, PARM, and PARM with corrections.
    #[arg(long, value_name = "NAME=FOLDER")]
    aligned: Vec<String>,
    /// Pictures of each prompt for the curves over the number of candidates.
    #[arg(long, default_value_t = 1)]
    scaling: u32,
    /// Most candidates of the curves, which double from 1 on.
    #[arg(long, default_value_t = 32)]
    most: u32,
    /// Prompts on which every row is drawn alone, timed and its multiply-adds counted; 0 leaves those columns empty, and so does
    /// --merge until a run without ranks has filled them.
    #[arg(long, default_value_t = 8)]
    timed: u32,
    /// Make one result file of those that all ranks wrote, and draw nothing.
    #[arg(long)]
    merge: bool,
    /// Say nothing but the table.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    open::ended(run())
}

fn run() -> Res<()> {
    let mut cli = Cli::parse();
    let latent = cli.settings.draws_bundled();
    let mut entries = chosen(&cli.only, &cli.entry, &cli.aligned, latent)?;
    let rows = entries.len();
    if cli.scaling > 0 {
        entries.extend(scaling(cli.most)?);
    }
    let share = cli.set.share(&cli.settings)?;
    // The jobs share the cores already.
    cli.settings.threads = cli.settings.threads.or(Some(1));
    writable_folder(&cli.out)?;
    let loaded = Loaded::new(&cli, &share, &entries)?;
    let mut all: Vec<Lines> = Vec::new();
    if cli.merge {
        for entry in &entries {
            let file = cli.out.join(entry.file());
            all.push(results::merge(&shard::files(&file)?, &file)?);
        }
    } else {
        all.resize(entries.len(), Lines::new());
        for weights in loaded.weights() {
            loaded.draw(weights, &mut all)?;
        }
        if share.shard.world > 1 {
            if !cli.quiet {
                say!("this rank is done; --merge makes the table once all are");
            }
            return Ok(());
        }
    }
    let mut table = Vec::new();
    for (entry, lines) in entries[..rows].iter().zip(&all) {
        table.push(Row::new(&entry.label, &entry.command(), &all[0], lines)?);
    }
    let timed = cli.out.join("timing.jsonl");
    // What ranks drew is timed by a run without ranks.
    if cli.timed > 0 && (!cli.merge || timing::whole(&timed, cli.timed, rows)?) {
        for (row, alone) in table.iter_mut().zip(loaded.alone(rows, &all)?) {
            row.alone = Some(alone);
        }
    }
    let curves = curves(&entries, &all)?;
    write(&cli, &table, &curves, &loaded.kinds[0].1)
}

/// The curves that some of the entries stand on.
fn curves(entries: &[Entry], all: &[Lines]) -> Res<Vec<Scaling>> {
    let mut curves = Vec::new();
    for (at, (_, label, _)) in CURVES.iter().enumerate() {
        let mut points = Vec::new();
        for (entry, lines) in entries.iter().zip(all) {
            if let Some(place) = entry.place.filter(|place| place.curve == at) {
                let (_, overall) = score::table(&results::shares(lines).means);
                points.push((place.candidates, overall));
            }
        }
        if !points.is_empty() {
            let label = (*label).into();
            curves.push(Scaling { label, points });
        }
    }
    Ok(curves)
}

/// Writes everything that is made of the rows.
fn write(cli: &Cli, rows: &[Row], curves: &[Scaling], models: &Models) -> Res<()> {
    let mut told = comparison::table(rows);
    if !curves.is_empty() {
        told.push('\n');
        told.push_str(&comparison::scaling_table(curves));
    }
    write_whole(&cli.out.join("table.md"), told.as_bytes())?;
    let mut json = comparison::json(rows, curves);
    json["models"] = models.describe().clone();
    json["title"] = "Strategies beside each other".into();
    write_whole(
        &cli.out.join("table.json"),
        &serde_json::to_vec_pretty(&json)?,
    )?;
    write_whole(&cli.out.join("report.html"), page(&json).as_bytes())?;
    let mut panels = vec![comparison::gains(rows).draw(1400)];
    if !curves.is_empty() {
        panels.push(comparison::curves(curves).draw(1400));
    }
    chart::stacked(&panels).save(&cli.out.join("plot.png"))?;
    say!("{}", told.strip_suffix('\n').unwrap_or(&told));
    if !cli.quiet {
        let out = cli.out.display();
        say!("-> {out}/table.md, table.json, plot.png, report.html");
    }
    Ok(())
}

/// Models as a row needs them: weights of the generator, and who answers beside the judge.
type Kind<'a> = (Option<&'a Path>, &'a Panel);

/// All rows, with their models.
struct Loaded<'a> {
    cli: &'a Cli,
    share: &'a Share,
    entries: &'a [Entry],
    kinds: Vec<(Kind<'a>, Models)>,
    eye: support::world::detector::Detector<maquette::cpu::Cpu>,
    /// As `cli.set`, with as many pictures as the curves are made of.
    few: Set,
}

impl<'a> Loaded<'a> {
    fn new(cli: &'a Cli, share: &'a Share, entries: &'a [Entry]) -> Res<Self> {
        let mut kinds: Vec<(Kind<'a>, Models)> = Vec::new();
        for entry in entries {
            let kind = (entry.weights.as_deref(), &entry.plan.panel);
            if kinds.iter().all(|(other, _)| *other != kind) {
                let settings = cli.settings.with_panel(kind.1);
                let settings = match kind.0 {
                    Some(dir) => settings.with_weights(dir),
                    None => settings,
                };
                kinds.push((kind, Models::load(&settings, true)?));
            }
        }
        let eye = detector(&kinds[0].1, share)?;
        let mut few = cli.set.clone();
        few.images = cli.scaling;
        Ok(Self {
            cli,
            share,
            entries,
            kinds,
            eye,
            few,
        })
    }

    /// The generators' weights, each once.
    fn weights(&self) -> Vec<Option<&'a Path>> {
        let mut all: Vec<Option<&Path>> = Vec::new();
        for ((weights, _), _) in &self.kinds {
            if !all.contains(weights) {
                all.push(*weights);
            }
        }
        all
    }

    /// Which models an entry draws with.
    fn kind(&self, entry: &Entry) -> usize {
        let kind = (entry.weights.as_deref(), &entry.plan.panel);
        let place = self.kinds.iter().position(|(other, _)| *other == kind);
        place.unwrap_or_default()
    }

    fn evaluation<'b>(&'b self, entry: &'b Entry) -> Evaluation<'b> {
        Evaluation {
            set: match entry.place {
                Some(_) => &self.few,
                None => &self.cli.set,
            },
            share: self.share,
            models: &self.kinds[self.kind(entry)].1,
            strategy: entry.plan.strategy,
            effort: &entry.plan.effort,
            checker: Some(&self.eye),
            pictures: None,
        }
    }

    /// Draws all rows of a generator's weights, picture by picture.
    fn draw(&self, weights: Option<&Path>, all: &mut [Lines]) -> Res<()> {
        let of = |at: &usize| self.entries[*at].weights.as_deref() == weights;
        let mut own: Vec<usize> = (0..self.entries.len()).filter(of).collect();
        own.sort_by_key(|&at| (self.entries[at].turn(), at));
        let rows: Vec<Evaluation<'_>> = own
            .iter()
            .map(|&at| self.evaluation(&self.entries[at]))
            .collect();
        let mut files = Vec::new();
        for (&at, row) in own.iter().zip(&rows) {
            files.push(row.open(&self.cli.out.join(self.entries[at].file()))?);
        }
        let most = rows.iter().max_by_key(|row| row.set.images);
        let mut tasks = most.map(Evaluation::tasks).unwrap_or_default();
        // All prompts once, then again: whoever stops early has every prompt.
        tasks.sort_by_key(|task| task.image);
        let name = match weights {
            Some(dir) => format!("{} rows of {} ", rows.len(), dir.display()),
            None => format!("{} rows ", rows.len()),
        };
        let wants = |at: usize, task: &Task<'_>| task.image < rows[at].set.images;
        evaluation::draw(
            self.share,
            &tasks,
            &mut files,
            &wants,
            &bar(&name, self.cli.quiet)?,
            &|task, lacking, tell| {
                let memory = Memory::default();
                for &at in lacking {
                    let kind = self.kind(&self.entries[own[at]]) as u64;
                    let mut hands = rows[at].sharing_hands(&memory, kind)?;
                    tell(at, rows[at].picture(&mut hands, task)?)?;
                }
                Ok(())
            },
        )?;
        for (&at, file) in own.iter().zip(files) {
            all[at] = file.lines;
        }
        Ok(())
    }

    /// What each row of the table costs alone.
    fn alone(&self, rows: usize, all: &[Lines]) -> Res<Vec<Alone>> {
        let (cli, entries) = (self.cli, &self.entries[..rows]);
        let (file, device) = (cli.out.join("timing.jsonl"), self.kinds[0].1.device());
        let bar = bar("each alone ", cli.quiet)?;
        bar.set_length(u64::from(cli.timed) * rows as u64);
        let mut clock = timing::Clock::open(&file, cli.timed, device, entries)?;
        for round in 0..cli.timed {
            for (at, entry) in entries.iter().enumerate() {
                if !clock.has(round, at) {
                    clock.time(round, at, &self.evaluation(entry), &all[at])?;
                }
                bar.inc(1);
            }
        }
        bar.abandon();
        clock.alone(rows)
    }
}
