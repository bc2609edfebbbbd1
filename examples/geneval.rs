//! A set of prompts through a strategy, scored by the evaluating detector with GenEval's rules. Goes on after a kill.
//!
//! `cargo run --release --example geneval --all-features -- --strategy parm --out out/parm.jsonl`
//! `cargo run --release --example geneval --all-features -- --compare out/plain.jsonl out/parm.jsonl`
//!
//! Other models are named as `generate` names them. The detector reads the bundled world's pictures alone: those of another
//! size are drawn for the official scorer (`--pictures`) and not scored here. Its results come back with `--table`, the
//! detections of any other detector with `--score`. Prompts of any other kind, as plain text files by category too, are marked
//! by a program of one's own (`--checker`). Several processes share the prompts by their ranks, as the files in
//! `examples/jobs` show, and `--merge` makes one result of theirs. `--report` writes one page of it for a browser.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use support::checker::{Checker, Program};
use support::choice::{Effort, Strategy};
use support::comparison::{self, Row};
use support::detections::RuleArgs;
use support::evaluation::{Evaluation, Set, bar, detector, records};
use support::open::{Models, Settings};
use support::png_file::write_whole;
use support::report::evaluation;
use support::results::Lines;
use support::say;
use support::{detections, open, results, score, shard};

/// Score a strategy on a set of prompts.
#[derive(Debug, Parser)]
struct Cli {
    #[arg(long, value_enum, default_value_t = Strategy::Plain)]
    strategy: Strategy,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    set: Set,
    /// Result file; an unfinished one of the same settings is gone on with. [default: out/geneval.jsonl]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also write the pictures here, as the official scorer reads them.
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Compare two result files, second minus first, prompt by prompt, and draw nothing.
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"])]
    compare: Option<Vec<PathBuf>>,
    /// Print the table of a result file, of this program or of the official scorer, and draw nothing.
    #[arg(long, value_name = "RESULTS")]
    table: Option<PathBuf>,
    /// Mark what another detector saw, write the results to `--out`, if it is given, as
    /// the official scorer does, and draw nothing.
    #[arg(long, value_name = "DETECTIONS")]
    score: Option<PathBuf>,
    /// A program that marks the pictures: it is called with a picture's path, reads the prompt's record, and answers
    /// `{"score": 0.7}`, with `"correct"` and `"reason"` if it likes. [default: the bundled world's detector]
    #[arg(long, value_name = "PROGRAM")]
    checker: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
    /// Make one result file of those that all ranks wrote, and draw nothing.
    #[arg(long)]
    merge: bool,
    /// Also write one page of the results for a browser, with everything in it.
    #[arg(long, value_name = "PAGE")]
    report: Option<PathBuf>,
    /// Say nothing but the table.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    open::ended(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut cli = Cli::parse();
    let page = cli.report.as_deref();
    if let Some([a, b]) = cli.compare.as_deref() {
        return compare(a, b, page);
    }
    if let Some(path) = &cli.table {
        let lines = results::read(path)?;
        table(&path.display().to_string(), &lines);
        return write_page(page, &[(&shown(path), &lines)]);
    }
    let default = PathBuf::from("out/geneval.jsonl");
    let out = cli.out.clone().unwrap_or(default);
    if cli.merge {
        let lines = results::merge(&shard::files(&out)?, &out)?;
        report(&out.display().to_string(), &lines);
        return write_page(page, &[(&shown(&out), &lines)]);
    }
    if let Some(path) = &cli.score {
        let lines = detections::score(path, &cli.rules.rules(), &records(&cli.set.prompts)?)?;
        if let Some(out) = &cli.out {
            let text: String = lines.values().map(|line| format!("{line}\n")).collect();
            write_whole(out, text.as_bytes())?;
        }
        table(&path.display().to_string(), &lines);
        return write_page(page, &[(&shown(path), &lines)]);
    }
    let share = cli.set.share(&cli.settings)?;
    // The jobs share the cores already.
    cli.settings.threads = cli.settings.threads.or(Some(1));
    if share.shard.world > 1 && !cli.quiet {
        let (rank, world, told_by) = (share.shard.rank, share.shard.world, share.shard.told_by);
        eprintln!("rank {rank} of {world}, says {told_by}");
    }
    let models = Models::load(&cli.settings, cli.effort.asks(cli.strategy))?;
    let checker: Option<Box<dyn Checker>> = match &cli.checker {
        Some(program) => Some(Box::new(Program::new(program))),
        None => match detector(&models, &share) {
            Ok(eye) => Some(Box::new(eye)),
            Err(_) if cli.pictures.is_some() => None,
            Err(why) => {
                let hint = "name a program that does with --checker, or a folder for the official scorer with --pictures";
                return Err(format!("{why}: {hint}").into());
            }
        },
    };
    if checker.is_none() && page.is_some() {
        return Err("--report shows how pictures are scored: name a program that marks them with --checker, or give what a detector saw to --score".into());
    }
    let started = Instant::now();
    let drawn = Evaluation {
        set: &cli.set,
        share: &share,
        models: &models,
        strategy: cli.strategy,
        effort: &cli.effort,
        checker: checker.as_deref(),
        pictures: cli.pictures.as_deref(),
    }
    .run(&out, &bar("", cli.quiet)?)?;
    report(cli.strategy.name(), &drawn.lines);
    if drawn.new > 0 {
        let (n, seconds) = (drawn.new, started.elapsed().as_secs_f64());
        let each = seconds / n as f64;
        say!("  {n} pictures drawn now in {seconds:.1} s, {each:.3} s each");
    }
    write_page(page, &[(cli.strategy.name(), &drawn.lines)])?;
    if !cli.quiet {
        say!("  {} jobs, {}", share.jobs, models.device());
    }
    Ok(())
}

/// Prints the table and what a picture cost.
fn report(name: &str, lines: &Lines) {
    table(name, lines);
    let mean = |key: &str| {
        lines.values().filter_map(|l| l[key].as_f64()).sum::<f64>() / lines.len().max(1) as f64
    };
    let (steps, decodes, questions) = (mean("steps"), mean("decodes"), mean("questions"));
    say!("  per picture: {steps:.1} steps, {decodes:.1} decodes, {questions:.1} questions");
    // Files of earlier versions do not tell it, nor do devices that do not count.
    let work = ["generator", "decoder", "judge"].map(|part| results::work(lines, part));
    if let [Some(generator), Some(decoder), Some(judge)] = work.map(|n| n.map(|n| n / 1e9)) {
        say!(
            "  10^9 multiply-adds per picture: {:.2}, generator {generator:.2}, decoder {decoder:.2}, judge {judge:.2}",
            generator + decoder + judge
        );
    }
}

fn table(name: &str, lines: &Lines) {
    let n = lines.len();
    if lines.values().any(|line| line["correct"].is_null()) {
        say!("{name} over {n} pictures, not scored");
        return;
    }
    let scored = lines.values().any(|line| line["score"].is_number());
    let what = if scored {
        "mean score"
    } else {
        "share correct"
    };
    say!("{name} over {n} pictures ({what}, 95 % interval over prompts)");
    for line in score::lines(&results::shares(lines)) {
        say!("{line}");
    }
    let [pictures, prompts] = results::summary(lines);
    say!(
        "  of all pictures {pictures:.3} are correct, of all prompts {prompts:.3} in at least one"
    );
}

/// A result file's name on a page.
fn shown(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Writes the page of some results, if one is wanted, the first being what the others are compared with.
fn write_page(page: Option<&Path>, runs: &[(&str, &Lines)]) -> Result<(), Box<dyn Error>> {
    let (Some(page), Some((_, first))) = (page, runs.first()) else {
        return Ok(());
    };
    let rows = runs
        .iter()
        .map(|(label, lines)| Row::new(label, "", first, lines));
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let mut told = comparison::json(&rows, &[]);
    told["title"] = runs
        .iter()
        .map(|run| run.0)
        .collect::<Vec<_>>()
        .join(" and ")
        .into();
    write_whole(page, evaluation::page(&told).as_bytes())
}

/// Prints how much better the second run is.
fn compare(a: &Path, b: &Path, page: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let (first, second) = (results::read(a)?, results::read(b)?);
    let both = results::differences(&first, &second)?;
    say!(
        "{} minus {} (difference of shares, 95 % interval over prompts)",
        b.display(),
        a.display()
    );
    for line in score::lines(&both) {
        say!("{line}");
    }
    write_page(page, &[(&shown(a), &first), (&shown(b), &second)])
}
