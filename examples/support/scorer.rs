//! Who says whether a picture is right: the labelling detector with GenEval's rules, or a judge.

use std::error::Error;
use std::path::Path;

use clap::ValueEnum;
use maquette::cpu::Cpu;
use maquette::error::Foreign;
use maquette::generator::{Needs, Views};
use maquette::image::{ImageBatch, ImageSize};
use maquette::reward::{Answer, Ask, ViewKey};
use maquette::{CandidateId, Generator, Judgement, Prompt, RewardModel, Verdict};

use crate::rules::{Request, Rules};
use crate::world::detector::Detector;
use crate::world::{COLOURS, KINDS, SIDE};

/// Whose labels are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scorer {
    /// GenEval's rules over the bundled world's labelling detector; the evaluating one is never asked.
    Rules,
    /// The judge's answer to whether the picture shows what the prompt asks for.
    Judge,
}

impl Scorer {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Judge => "judge",
        }
    }
}

/// What was said about one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Yes or no.
    pub correct: bool,
    /// 1 or 0 of the rules, the judge's P(yes).
    pub reward: f64,
    /// What is wrong, as far as the rules say.
    pub reason: String,
}

/// A detector with which rules mark.
pub type Eye = Detector<Cpu>;

/// Reads the labelling detector for prompts of the bundled world.
pub fn eye(size: ImageSize, requests: &[&Request]) -> Result<Eye, Box<dyn Error>> {
    detector(size, requests, "label").map_err(|e| format!("{e}: label with --scorer judge").into())
}

/// Reads a detector for prompts of the bundled world: "label", or "eval", which nothing is trained on.
pub fn detector(
    size: ImageSize,
    requests: &[&Request],
    which: &str,
) -> Result<Eye, Box<dyn Error>> {
    let [height, width] = [size.height as usize, size.width as usize];
    let side = SIDE;
    if [height, width] != [side; 2] {
        return Err(format!(
            "the detector reads {side}x{side} pictures, these have {width}x{height}"
        )
        .into());
    }
    if let Some(request) = requests.iter().find(|r| !in_the_world(r)) {
        return Err(format!(
            "the detector does not know all that \"{}\" asks for",
            request.prompt
        )
        .into());
    }
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/weights/detectors");
    Detector::load(Cpu::new(), &weights, which)
}

/// Whether the detector knows everything that a prompt asks for.
fn in_the_world(request: &Request) -> bool {
    let mut wants = request.include.iter().chain(&request.exclude).peekable();
    wants.peek().is_some()
        && wants.all(|want| {
            let colour = want.color.as_deref();
            KINDS.contains(&want.class.as_str())
                && colour.is_none_or(|colour| COLOURS.contains(&colour))
        })
}

/// Marks pictures.
pub enum Marker<'a> {
    Rules(&'a Eye),
    Judge(Box<dyn RewardModel>),
}

impl Marker<'_> {
    /// Marks finished candidates of one prompt.
    pub fn mark(
        &mut self,
        generator: &mut dyn Generator,
        request: &Request,
        ids: &[CandidateId],
    ) -> maquette::Result<Vec<Mark>> {
        let size = generator.image_size();
        let mut pixels = vec![0; size.len_bytes() * ids.len()];
        generator.observe(ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
        let reward = match self {
            Self::Rules(eye) => {
                let each = pixels.chunks_exact(size.len_bytes().max(1));
                return each.map(|pixels| by_rules(eye, request, pixels)).collect();
            }
            Self::Judge(reward) => reward,
        };
        let needs = reward.needs(Judgement::Outcome);
        if needs.or(Needs::PIXELS) != Needs::PIXELS {
            let text = "this judge does not judge pixels";
            return Err(maquette::Error::foreign(text));
        }
        let key = |&candidate: &CandidateId| {
            let step = generator.taken(candidate)?;
            Ok(ViewKey { candidate, step })
        };
        let keys: Vec<ViewKey> = ids.iter().map(key).collect::<maquette::Result<_>>()?;
        let prompt = Prompt::new(&request.prompt);
        let mut verdicts = vec![Verdict::malformed(); ids.len()];
        let images = ImageBatch::new(ids.len(), size, &pixels)?;
        let ask = Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(images);
        let judged = reward.judge(&ask, &mut verdicts);
        reward.forget(&keys);
        judged?;
        let mark = |(row, verdict): (usize, &Verdict)| {
            verdict.check(row)?;
            Ok(Mark {
                correct: verdict.answer == Answer::Yes,
                reward: f64::from(verdict.p_yes),
                reason: String::new(),
            })
        };
        verdicts.iter().enumerate().map(mark).collect()
    }
}

fn by_rules(eye: &Eye, request: &Request, pixels: &[u8]) -> maquette::Result<Mark> {
    let seen = eye.detect(pixels);
    let seen = seen.map_err(|e| maquette::Error::Foreign(Foreign::new(e.to_string())))?;
    let verdict = Rules::bundled().decide(request, &seen);
    Ok(Mark {
        correct: verdict.is_ok(),
        reward: f64::from(u8::from(verdict.is_ok())),
        reason: verdict.err().unwrap_or_default(),
    })
}
