//! The rows of the table.

use std::cmp::Reverse;
use std::path::PathBuf;

use clap::Parser;
use support::choice::{Effort, Strategy};
use support::open::{Panel, Res};

/// Name of the file, label, and what `geneval` is called with. "By both": outcomes are told by judge and detector.
const ENTRIES: [(&str, &str, &str); 29] = [
    ("plain", "plain", "--strategy plain"),
    ("best-of-4", "best of 4", "--strategy best-of-n -n 4"),
    ("best-of-8", "best of 8", "--strategy best-of-n -n 8"),
    ("best-of-20", "best of 20", "--strategy best-of-n"),
    ("prm", "PRM of 20", "--strategy prm"),
    (
        "beam",
        "beam of 2, 8 forks",
        "--strategy prm -n 8 --width 2",
    ),
    ("parm", "PARM of 20", "--strategy parm"),
    (
        "parm-late",
        "PARM of 20, asked at 9, 12 ..",
        "--strategy parm --min-clarity-step 9 --clarity-interval 3",
    ),
    (
        "parm-corrected",
        "PARM of 20, 3 corrections",
        "--strategy parm --reflections 3",
    ),
    ("halving", "halving of 20", "--strategy halving"),
    (
        "halving-8",
        "halving of 8 at 6 and 12",
        "--strategy halving -n 8 --rungs 6,12",
    ),
    (
        "latent-halving",
        "halving of 8, latent at the rungs",
        "--strategy halving -n 8 --rungs 9,13 --rung-asks potential --latent",
    ),
    (
        "latent-parm",
        "PARM of 7, latent first",
        "--strategy parm -n 7 --survivors 2 --latent",
    ),
    (
        "latent-parm-corrected",
        "PARM of 3, latent first, 6 corrections",
        "--strategy parm -n 3 --survivors 1 --latent --reflections 6 --satisfied 2",
    ),
    (
        "until-sure",
        "1 by 1 until sure, 20 at most",
        "--strategy plain --round 1 --sure 0.8",
    ),
    (
        "until-sure-8",
        "1 by 1 until sure, 8 at most",
        "--strategy plain --round 1 --sure 0.8 -n 8",
    ),
    (
        "rounds",
        "4 by 4 until sure, 20 at most",
        "--strategy best-of-n --round 4 --sure 0.8",
    ),
    (
        "budget",
        "until sure, 108 steps at most",
        "--strategy plain --round 1 --sure 0.9 --max-steps 108",
    ),
    (
        "corrected",
        "best of 2, 4 corrections",
        "--strategy best-of-n -n 2 --reflections 4 --satisfied 2",
    ),
    (
        "corrected-7",
        "best of 2, 7 corrections",
        "--strategy best-of-n -n 2 --reflections 7 --satisfied 2",
    ),
    (
        "corrected-20",
        "best of 2, 20 corrections",
        "--strategy best-of-n -n 2 --reflections 20 --satisfied 2",
    ),
    (
        "corrected-region",
        "best of 2, 3 corrections of regions",
        "--strategy best-of-n -n 2 --reflections 3 --satisfied 2 --correction region --cover-asks parts",
    ),
    (
        "both-best-of-4",
        "best of 4, by both",
        "--strategy best-of-n -n 4 --outcomes-by both",
    ),
    (
        "both-best-of-8",
        "best of 8, by both",
        "--strategy best-of-n -n 8 --outcomes-by both",
    ),
    (
        "both-best-of-20",
        "best of 20, by both",
        "--strategy best-of-n --outcomes-by both",
    ),
    (
        "both-parm",
        "PARM of 20, by both",
        "--strategy parm --outcomes-by both",
    ),
    (
        "both-parm-corrected",
        "PARM of 20, 3 corrections, by both",
        "--strategy parm --reflections 3 --outcomes-by both",
    ),
    (
        "both-corrected-7",
        "best of 2, 7 corrections, by both",
        "--strategy best-of-n -n 2 --reflections 7 --satisfied 2 --outcomes-by both",
    ),
    (
        "both-latent-parm-corrected",
        "PARM of 2, latent first, 7 corrections, by both",
        "--strategy parm -n 2 --survivors 1 --latent --reflections 7 --satisfied 2 --outcomes-by both",
    ),
];

/// Rows for other weights: suffixes of file and label, and the settings.
const ALIGNED: [(&str, &str, &str); 4] = [
    ("", "", "--strategy plain"),
    (
        "-corrected-7",
        ", best of 2, 7 corrections, by both",
        "--strategy best-of-n -n 2 --reflections 7 --satisfied 2 --outcomes-by both",
    ),
    (
        "-parm",
        ", PARM of 20, by both",
        "--strategy parm --outcomes-by both",
    ),
    (
        "-parm-corrected",
        ", PARM of 20, 3 corrections, by both",
        "--strategy parm --reflections 3 --outcomes-by both",
    ),
];

/// A strategy as the command line of `geneval` names it.
#[derive(Debug, Clone, Parser)]
#[command(no_binary_name = true)]
pub struct Plan {
    #[arg(long, value_enum, default_value_t = Strategy::Plain)]
    pub strategy: Strategy,
    #[command(flatten)]
    pub effort: Effort,
    #[command(flatten)]
    pub panel: Panel,
}

/// A point of a curve over the number of candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub curve: usize,
    pub candidates: u32,
}

/// One row.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub label: String,
    settings: String,
    /// Folder of the generator's weights, where they are others.
    pub weights: Option<PathBuf>,
    pub plan: Plan,
    /// It stands on a curve instead of in the table.
    pub place: Option<Place>,
}

impl Entry {
    pub fn new(name: &str, label: &str, settings: &str, weights: Option<PathBuf>) -> Res<Self> {
        let plan = Plan::try_parse_from(settings.split_whitespace())
            .map_err(|e| format!("{name}: {}", e.render().to_string().trim_end()))?;
        if plan.effort.weighs() {
            let why = "rows share what they draw, so that --max-multiply-adds has no meaning here";
            return Err(format!("{name}: {why}: use geneval").into());
        }
        Ok(Self {
            name: name.into(),
            label: label.into(),
            settings: settings.into(),
            weights,
            plan,
            place: None,
        })
    }

    /// When it is drawn: those first which look at most, so that the others find what they need.
    pub fn turn(&self) -> impl Ord {
        let looks = match self.plan.strategy {
            Strategy::Parm | Strategy::ParmReleased => 0,
            Strategy::Prm | Strategy::Halving => 1,
            Strategy::BestOfN | Strategy::Plain => 2,
        };
        (looks, Reverse(self.plan.effort.candidates))
    }

    /// Its result file.
    pub fn file(&self) -> String {
        format!("{}.jsonl", self.name)
    }

    /// What `geneval` is called with for the same pictures.
    pub fn command(&self) -> String {
        let weights = self.weights.as_ref();
        let weights = weights.map(|dir| format!(" --model-dir {}", dir.display()));
        format!("{}{}", self.settings, weights.unwrap_or_default())
    }
}

/// A name and what stands behind its sign.
fn pair(text: &str) -> Res<(&str, &str)> {
    let known = |name: &str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !name.is_empty() && name.chars().all(letters)
    };
    text.split_once('=')
        .filter(|(name, _)| known(name))
        .ok_or_else(|| format!("\"{text}\" is no NAME=… with a name for a file").into())
}

/// Strategies of the curves: beginning of the files' names, label, and how they are called.
pub const CURVES: [(&str, &str, &str); 2] = [
    ("scaling-best-of", "best of N", "best-of-n"),
    ("scaling-parm", "PARM of N", "parm"),
];

/// The points of the curves, whose candidates double up to `most`.
pub fn scaling(most: u32) -> Res<Vec<Entry>> {
    let mut all = Vec::new();
    for (curve, (name, label, strategy)) in CURVES.into_iter().enumerate() {
        for candidates in (0..32).map(|i| 1 << i).take_while(|n| *n <= most) {
            let settings = format!("--strategy {strategy} -n {candidates}");
            let mut entry = Entry::new(&format!("{name}-{candidates}"), label, &settings, None)?;
            entry.place = Some(Place { curve, candidates });
            all.push(entry);
        }
    }
    Ok(all)
}

/// The rows that are wanted, plain first. A latent head is made for one generator: rows with the bundled one are `latent`.
pub fn chosen(
    only: &[String],
    more: &[String],
    aligned: &[String],
    latent: bool,
) -> Res<Vec<Entry>> {
    let mut all = Vec::new();
    for (name, label, settings) in ENTRIES {
        let entry = Entry::new(name, label, settings, None)?;
        if latent || !entry.plan.panel.latent.asked() {
            all.push(entry);
        }
    }
    for text in more {
        let (name, settings) = pair(text)?;
        all.push(Entry::new(name, name, settings, None)?);
    }
    for text in aligned {
        let (name, folder) = pair(text)?;
        for (suffix, label, settings) in ALIGNED {
            let (file, label) = (format!("{name}{suffix}"), format!("{name}{label}"));
            all.push(Entry::new(&file, &label, settings, Some(folder.into()))?);
        }
    }
    for (i, entry) in all.iter().enumerate() {
        if all[..i].iter().any(|other| other.name == entry.name) {
            return Err(format!("there are two rows {}", entry.name).into());
        }
    }
    if let Some(name) = only
        .iter()
        .find(|name| all.iter().all(|e| e.name != **name))
    {
        let names: Vec<&str> = all.iter().map(|e| e.name.as_str()).collect();
        return Err(format!("no row {name}: there are {}", names.join(", ")).into());
    }
    all.retain(|e| only.is_empty() || e.name == "plain" || only.contains(&e.name));
    Ok(all)
}
