//! Training sets out of drawn and labelled pictures: the same lines give the same bytes.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use maquette::Code;
use maquette::align::annotation::{balanced, clear, pairs, pairs_across};
use maquette::rng::philox;
use serde::Deserialize;
use serde_json::{Value, json};
use support::png_file::write_whole;
use support::results::Lines;

/// A set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Set {
    /// Better and worse pictures of one prompt.
    Pairs,
    /// Whether a finished picture is right.
    Outcome,
    /// Whether a picture on its way can become right, by rollouts.
    Process,
    /// Whether a picture on its way is clear, and whether what is clear becomes right.
    Parm,
    /// What is wrong with a picture, and a right one beside it.
    Reflection,
}

/// How sets are made.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    pub pairs: usize,
    /// What divides the pictures of a pair.
    pub across: Option<f64>,
    pub margin: f64,
    pub looks: usize,
    pub seed: u64,
}

/// A finished set.
#[derive(Debug)]
pub struct Written {
    pub name: &'static str,
    pub items: usize,
    /// Items whose answer is yes, where they have answers.
    pub yes: Option<usize>,
    pub path: PathBuf,
}

/// A line of the drawn pictures.
#[derive(Debug, Deserialize)]
struct Picture {
    image: u32,
    prompt_index: u32,
    tag: String,
    prompt: String,
    correct: bool,
    reward: f64,
    reason: String,
    codes: Vec<Code>,
    #[serde(default)]
    previews: Vec<Vec<Code>>,
    #[serde(default)]
    process: Vec<bool>,
}

/// An item before it is balanced.
struct Item {
    group: u32,
    yes: bool,
    line: Value,
}

impl Set {
    /// Whether the pictures on their way are needed.
    pub fn needs_previews(self) -> bool {
        matches!(self, Self::Process | Self::Parm)
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Outcome => "outcome",
            Self::Process => "process",
            Self::Parm => "parm",
            Self::Reflection => "reflection",
        }
    }
}

fn answer(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn item(question: &str, prompt: &str, step: usize, codes: &[Code], yes: bool) -> Value {
    json!({ "question": question, "prompt": prompt, "step": step, "codes": codes, "answer": answer(yes) })
}

/// Up to `n` of some steps, drawn for this picture and question alone.
fn looks(steps: Vec<usize>, n: usize, seed: u64, picture: &Picture, question: u32) -> Vec<usize> {
    let key = [(seed & 0xFFFF_FFFF) as u32, (seed >> 32) as u32];
    let mut drawn: Vec<([u32; 4], usize)> = steps
        .into_iter()
        .map(|step| {
            let place = [picture.image, picture.prompt_index, question, step as u32];
            (philox(key, place), step)
        })
        .collect();
    drawn.sort_unstable();
    let mut kept: Vec<usize> = drawn.into_iter().take(n).map(|(_, step)| step).collect();
    kept.sort_unstable();
    kept
}

/// Writes the sets of all pictures beside their file.
pub fn write(
    lines: &Lines,
    sets: &[Set],
    recipe: &Recipe,
    out: &Path,
) -> Result<Vec<Written>, Box<dyn Error>> {
    let mut pictures = Vec::new();
    for line in lines.values() {
        pictures.push(Picture::deserialize(line).map_err(|e| format!("{}: {e}", out.display()))?);
    }
    let mut tags: Vec<&str> = pictures.iter().map(|p| &*p.tag).collect();
    tags.sort_unstable();
    tags.dedup();
    let group = |picture: &Picture| {
        let at = tags.iter().position(|tag| *tag == picture.tag);
        at.unwrap_or_default() as u32
    };
    let mut prompts: BTreeMap<u32, Vec<&Picture>> = BTreeMap::new();
    for picture in &pictures {
        prompts
            .entry(picture.prompt_index)
            .or_default()
            .push(picture);
    }
    let mut written = Vec::new();
    let mut save = |name: &'static str, lines: &[Value], yes: Option<usize>| {
        let path = beside(out, name);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        write_whole(&path, text.as_bytes())?;
        written.push(Written {
            name,
            items: lines.len(),
            yes,
            path,
        });
        Ok::<(), Box<dyn Error>>(())
    };
    for set in sets {
        let each = |make: &dyn Fn(&Picture) -> Vec<(bool, Value)>| -> Vec<Item> {
            let items = pictures.iter().flat_map(|picture| {
                let group = group(picture);
                let made = make(picture).into_iter();
                made.map(move |(yes, line)| Item { group, yes, line })
            });
            items.collect()
        };
        match set {
            Set::Pairs => {
                let mut all = Vec::new();
                for pictures in prompts.values() {
                    for [better, worse] in ranked(pictures, recipe)? {
                        all.push(json!({
                            "prompt": better.prompt, "tag": better.tag, "chosen": better.codes,
                            "rejected": worse.codes, "rewards": [better.reward, worse.reward],
                        }));
                    }
                }
                save("pairs", &all, None)?;
            }
            Set::Outcome => {
                let items = each(&|p| {
                    let step = p.previews.len();
                    vec![(
                        p.correct,
                        item("outcome", &p.prompt, step, &p.codes, p.correct),
                    )]
                });
                answers("outcome", items, [1, 1], recipe.seed, &mut save)?;
            }
            Set::Process => {
                let items = each(&|p| {
                    let steps = p.process.iter().zip(&p.previews).enumerate();
                    steps
                        .map(|(i, (&yes, codes))| {
                            (yes, item("process", &p.prompt, i + 1, codes, yes))
                        })
                        .collect()
                });
                answers("process", items, [1, 1], recipe.seed, &mut save)?;
            }
            Set::Parm => {
                let at = |p: &Picture, want: bool, question: u32| {
                    let steps = p.previews.len();
                    let all = (1..=steps)
                        .filter(|&step| clear(step as u32, steps as u32) == Some(want))
                        .collect();
                    looks(all, recipe.looks, recipe.seed, p, question)
                };
                let items = each(&|p| {
                    let sides = [(true, 0), (false, 1)]
                        .into_iter()
                        .flat_map(|(yes, question)| {
                            let steps = at(p, yes, question).into_iter();
                            steps.map(move |step| (yes, step))
                        });
                    sides
                        .map(|(yes, step)| {
                            (
                                yes,
                                item("clarity", &p.prompt, step, &p.previews[step - 1], yes),
                            )
                        })
                        .collect()
                });
                answers("clarity", items, [1, 1], recipe.seed, &mut save)?;
                let items = each(&|p| {
                    let steps = at(p, true, 2).into_iter();
                    steps
                        .map(|step| {
                            let codes = &p.previews[step - 1];
                            (
                                p.correct,
                                item("potential", &p.prompt, step, codes, p.correct),
                            )
                        })
                        .collect()
                });
                answers("potential", items, [1, 1], recipe.seed, &mut save)?;
            }
            Set::Reflection => {
                let items = each(&|p| {
                    let line = json!({
                        "question": "reflection", "prompt": p.prompt, "codes": p.codes, "answer": answer(p.correct),
                        "reason": reason(p),
                    });
                    vec![(p.correct, line)]
                });
                // As published: four pictures with a reason for one without.
                answers("reflection", items, [1, 4], recipe.seed, &mut save)?;
                let mut all = Vec::new();
                for pictures in prompts.values() {
                    let pairs = ranked(pictures, recipe)?.into_iter();
                    for [right, wrong] in pairs.filter(|[a, b]| a.correct && !b.correct) {
                        all.push(json!({
                            "prompt": right.prompt, "negative": wrong.codes, "positive": right.codes,
                            "reason": reason(wrong),
                        }));
                    }
                }
                save("correction", &all, None)?;
            }
        }
    }
    Ok(written)
}

/// Pairs of a prompt's pictures, the better one first; two pictures of the same codes are none, nor are two that are too
/// close in reward.
fn ranked<'a>(
    pictures: &[&'a Picture],
    recipe: &Recipe,
) -> Result<Vec<[&'a Picture; 2]>, Box<dyn Error>> {
    let rewards: Vec<f64> = pictures.iter().map(|p| p.reward).collect();
    let all = match recipe.across {
        Some(bound) => pairs_across(&rewards, bound, recipe.pairs)?,
        None => pairs(&rewards, recipe.pairs)?,
    };
    let all = all.into_iter().map(|places| places.map(|at| pictures[at]));
    let differ =
        |[a, b]: &[&Picture; 2]| a.codes != b.codes && a.reward - b.reward >= recipe.margin;
    Ok(all.filter(differ).collect())
}

/// What is wrong with a picture, in words of our own around those of the rules.
fn reason(picture: &Picture) -> String {
    if picture.correct {
        return "The image shows what the prompt asks for.".into();
    }
    let why = picture.reason.replace('\n', "; ");
    format!("The image does not show what the prompt asks for: {why}.")
}

type Save<'a> = dyn FnMut(&'static str, &[Value], Option<usize>) -> Result<(), Box<dyn Error>> + 'a;

/// Balances items and saves them.
fn answers(
    name: &'static str,
    items: Vec<Item>,
    parts: [usize; 2],
    seed: u64,
    save: &mut Save<'_>,
) -> Result<(), Box<dyn Error>> {
    let groups: Vec<u32> = items.iter().map(|item| item.group).collect();
    let labels: Vec<bool> = items.iter().map(|item| item.yes).collect();
    let kept = balanced(&groups, &labels, parts, seed)?;
    let yes = kept.iter().filter(|&&at| labels[at]).count();
    let lines: Vec<Value> = kept.iter().map(|&at| items[at].line.clone()).collect();
    save(name, &lines, Some(yes))
}

/// The file of a set beside that of the pictures.
fn beside(out: &Path, name: &str) -> PathBuf {
    let stem = out.file_stem().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{stem}.{name}.jsonl"))
}
