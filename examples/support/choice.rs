//! The strategies by name, and what bounds them.

use std::error::Error;

use clap::{Args, ValueEnum};
use maquette::search::{
    Adaptive, BestOfN, Budget, Correction, Halving, Occlusion, Parm, ParmForm, Plain, Prm, Reflect,
    SearchStrategy,
};
use maquette::{Generator, Judgement, RewardModel};
use serde_json::{Value, json};

use crate::locator::Objects;
use crate::parts::Parts;

/// A strategy of the crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// One candidate, no judge.
    Plain,
    /// Finish N, keep the best outcome.
    BestOfN,
    /// N continuations of every step, keep the best one, or a beam of them.
    Prm,
    /// Drop paths without potential as soon as they are clear.
    Parm,
    /// PARM as released: paths without potential run to their end.
    ParmReleased,
    /// Drop the worse half at every rung.
    Halving,
}

/// How a picture is corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum How {
    Scattered,
    Region,
    Objects,
    Tail,
    Prompted,
}

/// What is asked about a picture whose tiles are covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum About {
    /// The whole prompt.
    Whole,
    /// Each of its parts that the picture shows.
    Parts,
}

/// What is asked about unfinished pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rung {
    Process,
    Potential,
}

/// How much a search may spend, and where.
#[derive(Debug, Clone, Args)]
pub struct Effort {
    /// Candidates of a search.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub candidates: u32,
    /// Candidates of a round: the search is repeated until the judge is sure, or all candidates are drawn.
    #[arg(long)]
    round: Option<u32>,
    /// P(yes) of an outcome that is sure enough to end the rounds. [default: 0.9]
    #[arg(long, requires = "round")]
    sure: Option<f32>,
    /// Corrections of the winner at most, while the judge does not answer "yes" about it.
    #[arg(long)]
    reflections: Option<u32>,
    /// How a picture is corrected: `scattered` forgets codes all over it, `region` those that the judge
    /// misses least where tiles are covered, `objects` those outside of what the bundled world's labelling detector finds
    /// right, all for Show-o; `tail` its last rows, for the models that draw code by code; `prompted` shows it to a
    /// generator that was trained for it. [default: scattered; tail for the
    /// models that draw code by code]
    #[arg(long, value_enum, requires = "reflections")]
    correction: Option<How>,
    /// Tiles along each side of a picture whose region at fault is looked for. [default: 4]
    #[arg(long, requires = "reflections")]
    tiles: Option<u32>,
    /// What is asked about covered pictures: `whole` prompts, or their `parts`. [default: whole]
    #[arg(long, value_enum, requires = "reflections")]
    cover_asks: Option<About>,
    /// Steps that a correction keeps. [default: half of them]
    #[arg(long, requires = "reflections")]
    keep_steps: Option<u32>,
    /// P(yes) that ends the corrections. [default: any "yes" does]
    #[arg(long, requires = "reflections")]
    satisfied: Option<f32>,
    /// Steps of a search at most; then its best candidate is finished.
    #[arg(long)]
    max_steps: Option<u64>,
    /// Questions of a search at most; then its best candidate is finished.
    #[arg(long)]
    max_questions: Option<u64>,
    /// Multiply-adds of a search at most, as in 2e10; then its best candidate is finished.
    #[arg(long, value_parser = count)]
    max_multiply_adds: Option<u64>,
    /// Paths that prm keeps. [default: 1]
    #[arg(long)]
    width: Option<u32>,
    /// Steps after which halving drops the worse half. [default: a quarter, a half and three quarters of the way]
    #[arg(long, value_delimiter = ',')]
    rungs: Vec<u32>,
    /// First step after which parm asks about clarity. [default: 1]
    #[arg(long)]
    min_clarity_step: Option<u32>,
    /// Parm asks about clarity at every so many-th step. [default: 1]
    #[arg(long)]
    clarity_interval: Option<u32>,
    /// Paths with potential that parm lets go on at most. [default: all]
    #[arg(long)]
    survivors: Option<u32>,
    /// Paths that parm asks the outcome of at most, chosen by a last question about their potential. [default: all]
    #[arg(long)]
    finalists: Option<u32>,
    /// What halving asks at its rungs: process or potential. [default: process]
    #[arg(long, value_enum)]
    rung_asks: Option<Rung>,
}

/// A strategy as the programs run it.
pub type Search<G, R> = Box<dyn SearchStrategy<G, R>>;

/// A whole number, which may be written with an exponent.
fn count(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        // Below 2⁵³ every whole number is one of these.
        let known = (0.0..9e15).contains(&number) && number.fract() == 0.0;
        known.then_some(number as u64)
    });
    number.ok_or_else(|| "it is a whole number, as 20000000000 or 2e10".into())
}

impl Strategy {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::BestOfN => "best-of-n",
            Self::Prm => "prm",
            Self::Parm => "parm",
            Self::ParmReleased => "parm-released",
            Self::Halving => "halving",
        }
    }
}

impl Effort {
    /// Whether a judge is asked.
    pub fn asks(&self, strategy: Strategy) -> bool {
        strategy != Strategy::Plain || self.round.is_some() || self.reflections.is_some()
    }

    /// Whether what is computed decides what is drawn.
    pub fn weighs(&self) -> bool {
        self.max_multiply_adds.is_some()
    }

    /// Candidates that are alive at once, or views that are judged at once if there are more.
    pub fn alive(&self, strategy: Strategy) -> u32 {
        self.candidates_alive(strategy).max(self.covered())
    }

    /// Pictures of which one tile is covered each, and the picture itself.
    fn covered(&self) -> u32 {
        match self.correction {
            Some(How::Region) => self.tiles().saturating_mul(self.tiles()).saturating_add(1),
            _ => 0,
        }
    }

    fn tiles(&self) -> u32 {
        self.tiles.unwrap_or(4)
    }

    fn candidates_alive(&self, strategy: Strategy) -> u32 {
        let best = u32::from(self.round.is_some());
        let one = self.round.unwrap_or(self.candidates);
        let corrected = u32::from(self.reflections.is_some());
        best + if strategy == Strategy::Plain {
            1 + corrected
        } else {
            one.max(1 + corrected)
        }
    }

    /// What was set beside strategy and candidates.
    pub fn describe(&self) -> Value {
        let settings = [
            ("round", self.round.map(Value::from)),
            ("sure", self.sure.map(Value::from)),
            ("reflections", self.reflections.map(Value::from)),
            (
                "correction",
                self.correction
                    .map(|how| format!("{how:?}").to_lowercase().into()),
            ),
            ("tiles", self.tiles.map(Value::from)),
            (
                "cover_asks",
                self.cover_asks
                    .map(|about| format!("{about:?}").to_lowercase().into()),
            ),
            ("keep_steps", self.keep_steps.map(Value::from)),
            ("satisfied", self.satisfied.map(Value::from)),
            ("max_steps", self.max_steps.map(Value::from)),
            ("max_questions", self.max_questions.map(Value::from)),
            ("max_multiply_adds", self.max_multiply_adds.map(Value::from)),
            ("width", self.width.map(Value::from)),
            ("rungs", (!self.rungs.is_empty()).then(|| json!(self.rungs))),
            ("min_clarity_step", self.min_clarity_step.map(Value::from)),
            ("clarity_interval", self.clarity_interval.map(Value::from)),
            ("survivors", self.survivors.map(Value::from)),
            ("finalists", self.finalists.map(Value::from)),
            (
                "rung_asks",
                self.rung_asks
                    .map(|rung| format!("{rung:?}").to_lowercase().into()),
            ),
        ];
        let set = settings
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let set: serde_json::Map<String, Value> = set.collect();
        if set.is_empty() {
            Value::Null
        } else {
            Value::Object(set)
        }
    }

    /// How a generator's pictures are corrected. What it could not do would fail behind the whole search.
    fn correction(&self, raster: bool) -> Result<How, Box<dyn Error>> {
        match (self.correction, raster) {
            (None, true) => Ok(How::Tail),
            (None, false) => Ok(How::Scattered),
            (Some(How::Prompted), _) => {
                Err("--correction prompted: no generator here was trained to be shown a picture for a correction".into())
            }
            (Some(How::Scattered | How::Region | How::Objects), true) => {
                Err("--correction: a generator that draws code by code is corrected by its tail alone".into())
            }
            (Some(how), _) => Ok(how),
        }
    }

    /// The search itself, for a generator of so many steps, which draws code by code or not.
    pub fn build<G: Generator + ?Sized + 'static, R: RewardModel + ?Sized + 'static>(
        &self,
        strategy: Strategy,
        steps: u32,
        raster: bool,
    ) -> Result<Search<G, R>, Box<dyn Error>> {
        self.check(strategy)?;
        let n = self.round.unwrap_or(self.candidates);
        let parm = |form| {
            let mut parm = Parm::new(n)
                .with_form(form)
                .with_min_clarity_step(self.min_clarity_step.unwrap_or(1))
                .with_clarity_interval(self.clarity_interval.unwrap_or(1));
            (parm.survivors, parm.finalists) = (self.survivors, self.finalists);
            parm
        };
        let rung = match self.rung_asks {
            Some(Rung::Potential) => Judgement::Potential,
            _ => Judgement::Process,
        };
        let mut search: Search<G, R> = match strategy {
            Strategy::Plain => Box::new(Plain),
            Strategy::BestOfN => Box::new(BestOfN::new(n)),
            Strategy::Prm => Box::new(Prm::new(n).with_width(self.width.unwrap_or(1))),
            Strategy::Parm => Box::new(parm(ParmForm::Pruned)),
            Strategy::ParmReleased => Box::new(parm(ParmForm::Released)),
            Strategy::Halving if self.rungs.is_empty() => {
                let quarters = [1, 2, 3].map(|i| (steps * i / 4).max(1));
                Box::new(Halving::new(n, quarters).with_judgement(rung))
            }
            Strategy::Halving => {
                Box::new(Halving::new(n, self.rungs.iter().copied()).with_judgement(rung))
            }
        };
        if self.round.is_some() {
            let each = if strategy == Strategy::Plain { 1 } else { n };
            let rounds = self.candidates.div_ceil(each);
            let sure = self.sure.unwrap_or(0.9);
            search = Box::new(Adaptive::new(search, rounds).with_confidence(sure));
        }
        if let Some(rounds) = self.reflections {
            let from = self.keep_steps.unwrap_or(steps / 2);
            let correction = match self.correction(raster)? {
                How::Scattered => Correction::Scattered { from },
                How::Region | How::Objects => Correction::Region { from },
                How::Tail => Correction::Tail { from },
                How::Prompted => Correction::Prompted,
            };
            let cover = Occlusion::new().with_side(self.tiles());
            let reflect = Reflect::new(search, correction)
                .with_rounds(rounds)
                .with_confidence(self.satisfied.unwrap_or(0.0))
                .with_locator(cover);
            search = match (self.correction, self.cover_asks) {
                (Some(How::Objects), _) => Box::new(reflect.with_locator(Objects::load()?)),
                (_, Some(About::Parts)) => Box::new(reflect.with_locator(cover.with_parts(Parts))),
                _ => Box::new(reflect),
            };
        }
        let limits = [self.max_steps, self.max_questions, self.max_multiply_adds];
        if limits.iter().any(Option::is_some) {
            let mut budget = Budget::new(search);
            [budget.steps, budget.questions, budget.multiply_adds] = limits;
            search = Box::new(budget);
        }
        Ok(search)
    }

    fn check(&self, strategy: Strategy) -> Result<(), Box<dyn Error>> {
        let parm = matches!(strategy, Strategy::Parm | Strategy::ParmReleased);
        for (name, given, known) in [
            ("width", self.width.is_some(), strategy == Strategy::Prm),
            (
                "rungs",
                !self.rungs.is_empty(),
                strategy == Strategy::Halving,
            ),
            ("min-clarity-step", self.min_clarity_step.is_some(), parm),
            ("clarity-interval", self.clarity_interval.is_some(), parm),
            ("survivors", self.survivors.is_some(), parm),
            ("finalists", self.finalists.is_some(), parm),
            (
                "rung-asks",
                self.rung_asks.is_some(),
                strategy == Strategy::Halving,
            ),
        ] {
            if given && !known {
                let strategy = strategy.name();
                return Err(format!("--{name} is no setting of the strategy {strategy}").into());
            }
        }
        let region = self.correction == Some(How::Region);
        for (name, given) in [
            ("tiles", self.tiles.is_some()),
            ("cover-asks", self.cover_asks.is_some()),
        ] {
            if given && !region {
                return Err(format!("--{name} is a setting of --correction region").into());
            }
        }
        if self.round == Some(0) {
            return Err("--round is at least 1".into());
        }
        Ok(())
    }
}
