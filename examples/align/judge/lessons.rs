//! What a judge is taught: the sets of `annotate`, their codes decoded and seen once.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use maquette::align::annotation::Leakage;
use maquette::model::files::map::ModelFolder;
use maquette::model::learner::Example;
use maquette::model::llava::{Lesson, LlavaSession};
use maquette::model::magvit::{Magvit, MagvitConfig, MagvitScratch};
use maquette::ops::{Backend, Backward};
use maquette::quant::Format;
use maquette::{Code, ImageBatch, ImageSize, Judgement};
use serde::Deserialize;
use support::open::{self, bundled};
use support::requests;

use super::{VIEWS, shuffled};
use crate::Res;
use crate::options::Args;
use crate::training::bar;

/// A question of the sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Question {
    Outcome,
    Process,
    Clarity,
    Potential,
    /// The outcome, with a reason.
    Reflection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Yes,
    No,
}

/// A line of a set.
#[derive(Debug, Deserialize)]
struct Line {
    question: Question,
    prompt: String,
    codes: Vec<Code>,
    answer: Answer,
    reason: Option<String>,
}

#[derive(Debug)]
struct Item {
    judgement: Judgement,
    prompt: String,
    yes: bool,
    reason: Option<String>,
    picture: usize,
    /// Where it stands, for errors.
    place: String,
}

/// All that is taught.
#[derive(Debug)]
pub struct Lessons {
    items: Vec<Item>,
    /// Rows of each picture.
    pictures: Vec<Vec<f32>>,
    leaked: usize,
    /// Most rows of a question.
    pub rows: usize,
    /// Most labels of an answer.
    pub labels: usize,
}

impl fmt::Display for Lessons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = self.items.iter().filter(|item| item.yes).count();
        let (n, pictures, leaked) = (self.items.len(), self.pictures.len(), self.leaked);
        write!(
            f,
            "{n} items, {yes} of them yes, over {pictures} pictures; {leaked} of the evaluation are left out"
        )
    }
}

impl Lessons {
    /// Reads the sets. What is wrong with one is said before any step.
    pub fn read<B: Backward>(
        args: &Args,
        device: &Arc<B>,
        session: &mut LlavaSession<B>,
    ) -> Res<Self> {
        let mut tokenizer = Pictures::open(args, device)?;
        let mut held_out = Leakage::default();
        for request in requests::read(&args.evaluation)? {
            held_out.insert(&request.prompt);
        }
        let mut out = Self {
            items: Vec::new(),
            pictures: Vec::new(),
            leaked: 0,
            rows: 0,
            labels: 0,
        };
        let (mut codes, mut known) = (Vec::new(), HashMap::new());
        for path in &args.items {
            for (at, line) in lines(path)? {
                let place = format!("{}, line {at}", path.display());
                let line: Line =
                    serde_json::from_str(&line).map_err(|e| format!("{place}: {e}"))?;
                if held_out.contains(&line.prompt) {
                    out.leaked += 1;
                    continue;
                }
                tokenizer
                    .check(&line.codes)
                    .map_err(|e| format!("{place}: {e}"))?;
                let yes = line.answer == Answer::Yes;
                let next = codes.len();
                let picture = *known.entry(line.codes).or_insert_with_key(|own| {
                    codes.push(own.clone());
                    next
                });
                out.items.push(Item {
                    judgement: judgement(line.question),
                    prompt: line.prompt,
                    yes,
                    reason: line.reason.filter(|_| args.reasons && !yes),
                    picture,
                    place,
                });
            }
        }
        out.some(args)?;
        out.both_answers()?;
        // Pictures of items that are not taken are not seen.
        let mut places = vec![None; codes.len()];
        let mut taken: Vec<&[Code]> = Vec::new();
        for item in &mut out.items {
            let place = places[item.picture].get_or_insert(taken.len());
            if *place == taken.len() {
                taken.push(&codes[item.picture]);
            }
            item.picture = *place;
        }
        out.pictures = seen(args, &mut tokenizer, session, &taken)?;
        for at in 0..out.items.len() {
            let example = out.example(at, session)?;
            out.rows = out.rows.max(example.positions.len());
            out.labels = out.labels.max(example.labels.len());
        }
        Ok(out)
    }

    /// Keeps a share of the items, drawn so that a smaller share is part of a larger one.
    fn some(&mut self, args: &Args) -> Res<()> {
        if self.items.is_empty() {
            let leaked = self.leaked;
            return Err(format!(
                "--items: there are no labels; {leaked} items are of the evaluation"
            )
            .into());
        }
        let n = (self.items.len() as f64 * args.share).ceil() as usize;
        let mut places = shuffled(self.items.len(), args.seed, u32::MAX)?;
        places.truncate(n.max(1));
        places.sort_unstable();
        let mut kept = vec![false; self.items.len()];
        for place in places {
            kept[place] = true;
        }
        let mut kept = kept.into_iter();
        self.items.retain(|_| kept.next() == Some(true));
        Ok(())
    }

    /// Fails for a question that is always answered alike.
    fn both_answers(&self) -> Res<()> {
        for judgement in [
            Judgement::Outcome,
            Judgement::Process,
            Judgement::Clarity,
            Judgement::Potential,
        ] {
            let mut own = self.items.iter().filter(|item| item.judgement == judgement);
            let Some(first) = own.next() else { continue };
            if own.all(|item| item.yes == first.yes) {
                let (name, answer) = (judgement.to_string(), if first.yes { "yes" } else { "no" });
                return Err(format!(
                    "--items: every item of the question \"{name}\" says {answer}: nothing can be told apart"
                )
                .into());
            }
        }
        Ok(())
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The example of an item.
    pub fn example<B: Backward>(&self, at: usize, session: &mut LlavaSession<B>) -> Res<Example> {
        let item = &self.items[at];
        let lesson = Lesson {
            judgement: item.judgement,
            prompt: &item.prompt,
            yes: item.yes,
            reason: item.reason.as_deref(),
        };
        let example = session.lesson(&lesson, &self.pictures[item.picture]);
        example.map_err(|e| format!("{}: {}", item.place, open::told(&e)).into())
    }
}

fn judgement(question: Question) -> Judgement {
    match question {
        Question::Outcome | Question::Reflection => Judgement::Outcome,
        Question::Process => Judgement::Process,
        Question::Clarity => Judgement::Clarity,
        Question::Potential => Judgement::Potential,
    }
}

/// The lines of a file that are not empty, with their numbers.
fn lines(path: &Path) -> Res<Vec<(usize, String)>> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.trim().is_empty());
    Ok(lines.map(|(line, at)| (at, line.to_owned())).collect())
}

/// Codes to pixels.
pub struct Pictures<B: Backend> {
    magvit: Magvit<B>,
    scratch: MagvitScratch<B>,
    bytes: Vec<u8>,
}

impl<B: Backward> Pictures<B> {
    /// Reads the image tokenizer.
    pub fn open(args: &Args, device: &Arc<B>) -> Res<Self> {
        let path = args.tokenizer_dir.clone();
        let folder = ModelFolder::open(path.unwrap_or_else(|| bundled("magvitv2")))?;
        let config = MagvitConfig::from_json(&folder.config)?;
        let device = Arc::clone(device);
        let magvit = folder
            .weights
            .read(|source| Magvit::load(device, config, source, Format::F32))?;
        Ok(Self {
            scratch: magvit.scratch(VIEWS)?,
            magvit,
            bytes: Vec::new(),
        })
    }

    /// The size of each.
    pub fn size(&self) -> ImageSize {
        let config = self.magvit.config();
        let side = u32::try_from(config.grid() * config.scale()).unwrap_or(u32::MAX);
        ImageSize::new(side, side)
    }

    /// Fails for codes that are no picture.
    fn check(&self, codes: &[Code]) -> Result<(), String> {
        let (config, got) = (self.magvit.config(), codes.len());
        let want = config.grid() * config.grid();
        if got != want {
            return Err(format!(
                "a picture of {got} codes, where the image tokenizer has {want}"
            ));
        }
        let known = |code: &&Code| (**code as usize) < config.codebook_size;
        match codes.iter().find(|code| !known(code)) {
            Some(code) => Err(format!("code {code} is not in the codebook")),
            None => Ok(()),
        }
    }

    /// The pixels of some pictures.
    pub fn decode(&mut self, pictures: &[&[Code]]) -> Res<(ImageSize, &[u8])> {
        for codes in pictures {
            self.check(codes)?;
        }
        let (size, n) = (self.size(), pictures.len());
        self.bytes.resize(n * size.len_bytes(), 0);
        let grid = [self.magvit.config().grid(); 2];
        let codes = pictures.concat();
        self.magvit
            .decode(&mut self.scratch, n, grid, &codes, &mut self.bytes)?;
        Ok((size, &self.bytes))
    }
}

/// Decodes pictures and lets the judge's tower see them.
fn seen<B: Backward>(
    args: &Args,
    tokenizer: &mut Pictures<B>,
    session: &mut LlavaSession<B>,
    pictures: &[&[Code]],
) -> Res<Vec<Vec<f32>>> {
    let bar = bar(args.quiet, pictures.len() as u64, "pictures")?;
    let mut out = Vec::new();
    for batch in pictures.chunks(VIEWS) {
        let n = batch.len();
        let (size, pixels) = tokenizer.decode(batch)?;
        let rows = session.picture_rows(ImageBatch::new(n, size, pixels)?)?;
        out.extend(rows.chunks(rows.len() / n).map(<[f32]>::to_vec));
        bar.inc(n as u64);
    }
    bar.finish_and_clear();
    Ok(out)
}
