//! The rows of the table.

use std::path::PathBuf;

use clap::Parser;
use support::choice::{Effort, Strategy};
use support::open::Res;

/// Name of the file, label, and what `geneval` is called with.
const ENTRIES: [(&str, &str, &str); 14] = [
    ("plain", "plain", "--strategy plain"),
    ("best-of-4", "best of 4", "--strategy best-of-n -n 4"),
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
        "until-sure",
        "1 by 1 until sure, 20 at most",
        "--strategy plain --round 1 --sure 0.8",
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
];

/// Rows for other weights: suffixes of file and label, and the settings.
const ALIGNED: [(&str, &str, &str); 3] = [
    ("", "", "--strategy plain"),
    ("-parm", ", PARM of 20", "--strategy parm"),
    (
        "-parm-corrected",
        ", PARM of 20, 3 corrections",
        "--strategy parm --reflections 3",
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
}

impl Entry {
    pub fn new(name: &str, label: &str, settings: &str, weights: Option<PathBuf>) -> Res<Self> {
        let plan = Plan::try_parse_from(settings.split_whitespace())
            .map_err(|e| format!("{name}: {}", e.render().to_string().trim_end()))?;
        Ok(Self {
            name: name.into(),
            label: label.into(),
            settings: settings.into(),
            weights,
            plan,
        })
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

/// The rows that are wanted, plain first.
pub fn chosen(only: &[String], more: &[String], aligned: &[String]) -> Res<Vec<Entry>> {
    let mut all = Vec::new();
    for (name, label, settings) in ENTRIES {
        all.push(Entry::new(name, label, settings, None)?);
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
