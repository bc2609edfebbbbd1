//! Who says whether a picture is right: the labelling detector with GenEval's rules, a judge, or both.

use std::error::Error;
use std::path::Path;

use clap::ValueEnum;
use maquette::cpu::Cpu;
use maquette::error::Foreign;
use maquette::generator::{Needs, Views};
use maquette::image::{ImageBatch, ImageSize};
use maquette::reward::{self, Answer, ViewKey};
use maquette::{CandidateId, Generator, Judgement, Prompt, RewardModel, Verdict};

use crate::open::told;
use crate::rules::{Detection, Request, Rules, Wanted};
use crate::world::detector::Detector;
use crate::world::prompts::{Ask, Include};
use crate::world::{COLOURS, KINDS, SIDE};

/// Whose labels are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scorer {
    /// GenEval's rules over the bundled world's labelling detector; the evaluating one is never asked.
    Rules,
    /// The judge's answer to whether the picture shows what the prompt asks for.
    Judge,
    /// Both: right is what both call right, and a reward is the mean of theirs. What one overlooks, the other may see.
    Both,
}

impl Scorer {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Judge => "judge",
            Self::Both => "both",
        }
    }

    /// Whether the rules are asked.
    pub fn has_rules(self) -> bool {
        self != Self::Judge
    }

    /// Whether the judge is asked.
    pub fn has_judge(self) -> bool {
        self != Self::Rules
    }
}

/// What was said about one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Yes or no.
    pub correct: bool,
    /// The share of [`BOUNDS`] at which the rules are content, the judge's P(yes), or the mean of these.
    pub reward: f64,
    /// What is wrong, as far as the rules say.
    pub reason: String,
}

/// How sure the detector must be of what it sees. A picture is right if it is at the first of them; the more of them it
/// is right at, the better it is.
const BOUNDS: [f32; 5] = [0.5, 0.6, 0.7, 0.8, 0.9];

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
    Both(&'a Eye, Box<dyn RewardModel>),
}

impl<'a> Marker<'a> {
    /// Of whoever is there: nobody is no marker.
    pub fn of(eye: Option<&'a Eye>, judge: Option<Box<dyn RewardModel>>) -> Option<Self> {
        match (eye, judge) {
            (Some(eye), Some(judge)) => Some(Self::Both(eye, judge)),
            (Some(eye), None) => Some(Self::Rules(eye)),
            (None, judge) => judge.map(Self::Judge),
        }
    }

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
        let by_rules = |eye: &Eye| -> maquette::Result<Vec<Mark>> {
            let each = pixels.chunks_exact(size.len_bytes().max(1));
            each.map(|pixels| by_rules(eye, request, pixels)).collect()
        };
        let (eye, judge) = match self {
            Self::Rules(eye) => return by_rules(eye),
            Self::Judge(judge) => (None, judge),
            Self::Both(eye, judge) => (Some(eye), judge),
        };
        let needs = judge.needs(Judgement::Outcome);
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
        let ask = reward::Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(images);
        let judged = judge.judge(&ask, &mut verdicts);
        judge.forget(&keys);
        judged?;
        let mark = |(row, verdict): (usize, &Verdict)| {
            verdict.check(row)?;
            Ok(Mark {
                correct: verdict.answer == Answer::Yes,
                reward: f64::from(verdict.p_yes),
                reason: String::new(),
            })
        };
        let judged = verdicts.iter().enumerate().map(mark);
        let Some(eye) = eye else {
            return judged.collect();
        };
        let marks = by_rules(eye)?.into_iter().zip(judged);
        let both = |(rules, judge): (Mark, maquette::Result<Mark>)| {
            let judge = judge?;
            Ok(Mark {
                correct: rules.correct && judge.correct,
                reward: (rules.reward + judge.reward) / 2.0,
                reason: rules.reason,
            })
        };
        marks.map(both).collect()
    }
}

/// What a prompt of the bundled world asks for.
pub fn request(prompt: &str) -> maquette::Result<Request> {
    let ask = Ask::parse(prompt).ok_or_else(|| {
        let why = format!("the detector does not know what \"{prompt}\" asks for");
        maquette::Error::Foreign(Foreign::new(why))
    })?;
    let record = ask.record();
    let wanted = |all: Vec<Include>| all.into_iter().map(Wanted::from).collect();
    Ok(Request {
        tag: record.tag,
        include: wanted(record.include),
        exclude: wanted(record.exclude),
        prompt: record.prompt,
    })
}

impl From<Include> for Wanted {
    fn from(from: Include) -> Self {
        Self {
            class: from.class,
            count: from.count,
            color: from.color,
            position: from.position,
        }
    }
}

/// What a detector sees in a picture.
pub fn seen(eye: &Eye, pixels: &[u8]) -> maquette::Result<Vec<Detection<'static>>> {
    let seen = eye.detect(pixels);
    seen.map_err(|e| maquette::Error::Foreign(Foreign::new(told(&*e))))
}

/// Marks a picture by GenEval's rules.
pub fn by_rules(eye: &Eye, request: &Request, pixels: &[u8]) -> maquette::Result<Mark> {
    let seen = seen(eye, pixels)?;
    let at = |bound: f32| {
        let rules = Rules {
            threshold: bound,
            counting_threshold: bound,
            ..Rules::bundled()
        };
        rules.decide(request, &seen)
    };
    let content = BOUNDS.iter().filter(|bound| at(**bound).is_ok()).count();
    let verdict = at(BOUNDS[0]);
    Ok(Mark {
        correct: verdict.is_ok(),
        reward: content as f64 / BOUNDS.len() as f64,
        reason: verdict.err().unwrap_or_default(),
    })
}
