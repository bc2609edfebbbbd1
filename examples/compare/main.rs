//! All strategies over one set of prompts: a table, curves over the number of candidates, and a plot of gain against cost.
//!
//! `cargo run --release --example compare --all-features -- --out out/compare`
//!
//! Every row is what `geneval` draws with the same settings and lies in a result file of its own. A run that was killed goes on
//! where it was; ranks share the prompts as they do for `geneval`, and `--merge` makes the table of what they drew.

mod entries;
mod scaling;
mod timing;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use support::comparison::{self, Row, Scaling};
use support::evaluation::{Evaluation, Set, Share, bar, detector};
use support::open::{self, Models, Res, Settings};
use support::png_file::{writable_folder, write_whole};
use support::report::evaluation::page;
use support::results::{self, Lines};
use support::{chart, shard};

use entries::{Entry, chosen};

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
    /// Rows for other weights of the generator, as `align` leaves them: plain, PARM, and PARM with corrections.
    #[arg(long, value_name = "NAME=FOLDER")]
    aligned: Vec<String>,
    /// Pictures of each prompt for the curves over the number of candidates.
    #[arg(long, default_value_t = 1)]
    scaling: u32,
    /// Most candidates of the curves, which double from 1 on.
    #[arg(long, default_value_t = 32)]
    most: u32,
    /// Prompts on which every row is timed, alone on this machine; 0 leaves the column empty.
    #[arg(long, default_value_t = 4)]
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
    let entries = chosen(&cli.only, &cli.entry, &cli.aligned)?;
    let share = cli.set.share()?;
    // The jobs share the cores already.
    cli.settings.threads = cli.settings.threads.or(Some(1));
    writable_folder(&cli.out)?;
    let mut all: Vec<Lines> = Vec::new();
    let curves_file = cli.out.join("scaling.jsonl");
    let mut curves = Vec::new();
    if cli.merge {
        for entry in &entries {
            let file = cli.out.join(entry.file());
            all.push(results::merge(&shard::files(&file)?, &file)?);
        }
        if cli.scaling > 0 {
            let lines = results::merge(&shard::files(&curves_file)?, &curves_file)?;
            curves = scaling::curves(&lines)?;
        }
    }
    let mut loaded = Loaded::new(&cli, &share)?;
    if !cli.merge {
        for (i, entry) in entries.iter().enumerate() {
            let name = format!("{:>2}/{} {:<32} ", i + 1, entries.len(), entry.label);
            let evaluation = loaded.evaluation(entry, &cli.set)?;
            let drawn = evaluation.run(&cli.out.join(entry.file()), &bar(&name, cli.quiet)?)?;
            all.push(drawn.lines);
        }
        if cli.scaling > 0 {
            let name = format!("{:<38} ", format!("1 to {} candidates", cli.most));
            let lines = loaded.scaling(&curves_file, &bar(&name, cli.quiet)?)?;
            if share.shard.world == 1 {
                curves = scaling::curves(&lines)?;
            }
        }
        if share.shard.world > 1 {
            if !cli.quiet {
                println!("this rank is done; --merge makes the table once all are");
            }
            return Ok(());
        }
    }
    let mut rows = Vec::new();
    for (entry, lines) in entries.iter().zip(&all) {
        rows.push(Row::new(&entry.label, &entry.command(), &all[0], lines)?);
    }
    if cli.timed > 0 {
        let times = loaded.times(&entries)?;
        for (row, time) in rows.iter_mut().zip(times) {
            row.time = Some(time);
        }
    }
    write(&cli, &rows, &curves, loaded.models())
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
    print!("{told}");
    if !cli.quiet {
        let out = cli.out.display();
        println!("-> {out}/table.md, table.json, plot.png, report.html");
    }
    Ok(())
}

/// The models of the rows at hand, and what else an evaluation needs.
struct Loaded<'a> {
    cli: &'a Cli,
    share: &'a Share,
    own: Models,
    /// Other weights of the generator, the latest that were needed.
    other: Option<(PathBuf, Models)>,
    eye: support::world::detector::Detector<maquette::cpu::Cpu>,
}

impl<'a> Loaded<'a> {
    fn new(cli: &'a Cli, share: &'a Share) -> Res<Self> {
        let own = Models::load(&cli.settings, true)?;
        let eye = detector(&own, share)??;
        Ok(Self {
            cli,
            share,
            own,
            other: None,
            eye,
        })
    }

    fn models(&self) -> &Models {
        &self.own
    }

    /// The models of an entry.
    fn of(&mut self, weights: Option<&Path>) -> Res<&Models> {
        let Some(dir) = weights else {
            return Ok(&self.own);
        };
        if self.other.as_ref().is_none_or(|other| other.0 != dir) {
            let settings = self.cli.settings.with_weights(dir);
            self.other = Some((dir.into(), Models::load(&settings, true)?));
        }
        Ok(self.other.as_ref().map_or(&self.own, |other| &other.1))
    }

    fn evaluation<'b>(&'b mut self, entry: &'b Entry, set: &'b Set) -> Res<Evaluation<'b>> {
        self.of(entry.weights.as_deref())?;
        let other = self.other.as_ref().filter(|_| entry.weights.is_some());
        Ok(Evaluation {
            set,
            share: self.share,
            models: other.map_or(&self.own, |other| &other.1),
            strategy: entry.plan.strategy,
            effort: &entry.plan.effort,
            eye: Some(&self.eye),
            pictures: None,
        })
    }

    fn scaling(&mut self, file: &Path, bar: &indicatif::ProgressBar) -> Res<Lines> {
        let n = self.cli.most;
        let [outcome, parm] = ["best-of-n", "parm"].map(|strategy| {
            let settings = format!("--strategy {strategy} -n {n}");
            Entry::new(strategy, strategy, &settings, None)
        });
        let (outcome, parm) = (outcome?, parm?);
        let mut set = self.cli.set.clone();
        set.images = self.cli.scaling;
        let outcome = self.evaluation(&outcome, &set)?;
        let parm = Evaluation {
            strategy: parm.plan.strategy,
            effort: &parm.plan.effort,
            ..outcome
        };
        scaling::draw(&outcome, &parm, n, file, bar)
    }

    /// Seconds a picture of each entry, as multiples of a plain one's at its best batch size.
    fn times(&mut self, entries: &[Entry]) -> Res<Vec<f64>> {
        let (cli, file) = (self.cli, self.cli.out.join("timing.jsonl"));
        let mut clock = timing::Clock::open(&file, cli.timed, self.own.device(), entries)?;
        for round in 0..cli.timed {
            for (at, entry) in entries.iter().enumerate() {
                if clock.has(round, at) {
                    continue;
                }
                let evaluation = self.evaluation(entry, &cli.set)?;
                clock.time(round, at, &evaluation)?;
            }
        }
        clock.multiples(entries.len())
    }
}
