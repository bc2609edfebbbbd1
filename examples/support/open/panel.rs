//! Who answers beside the judge, or in its place.

use std::fmt;
use std::sync::Arc;

use clap::Args;
use maquette::generator::Needs;
use maquette::image::ImageSize;
use maquette::reward::{Ask, ViewKey};
use maquette::{Error, Judgement, RewardModel, Verdict};
use serde_json::{Map, Value, json};

use super::latent::LatentArgs;
use super::{Res, told};
use crate::scorer::{self, Eye, Scorer};

/// Who answers which questions.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Panel {
    #[command(flatten)]
    pub latent: LatentArgs,
    /// Who says whether finished pictures are right. The other questions are the judge's.
    #[arg(long, value_enum, default_value_t = Scorer::Judge)]
    outcomes_by: Scorer,
}

impl Panel {
    /// These where they are named, else what is there.
    pub fn or(&self, other: &Self) -> Self {
        let latent = if self.latent.asked() { self } else { other };
        let outcomes = [self.outcomes_by, other.outcomes_by];
        Self {
            latent: latent.latent.clone(),
            outcomes_by: outcomes[usize::from(outcomes[0] == Scorer::Judge)],
        }
    }

    /// Reads the detector, if it is asked.
    pub fn rules(&self, size: ImageSize) -> Res<Option<ByRules>> {
        if !self.outcomes_by.has_rules() {
            return Ok(None);
        }
        let eye = scorer::detector(size, &[], "label")
            .map_err(|e| format!("--outcomes-by {}: {}", self.outcomes_by.name(), told(&*e)))?;
        Ok(Some(ByRules {
            eye: Arc::new(eye),
            alone: !self.outcomes_by.has_judge(),
        }))
    }

    /// What decides what is drawn, where it is not the judge alone.
    pub fn describe(&self, all: &mut Map<String, Value>) {
        if self.outcomes_by.has_rules() {
            all.insert("outcomes".into(), json!(self.outcomes_by.name()));
        }
    }
}

/// The labelling detector with GenEval's rules.
#[derive(Clone)]
pub struct ByRules {
    eye: Arc<Eye>,
    /// Whether the judge is not asked.
    alone: bool,
}

impl fmt::Debug for ByRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByRules")
            .field("alone", &self.alone)
            .finish_non_exhaustive()
    }
}

impl ByRules {
    /// A judge whose outcomes the rules tell, or both by their mean.
    pub fn beside(&self, judge: Box<dyn RewardModel>) -> Box<dyn RewardModel> {
        Box::new(Outcomes {
            judge,
            rules: self.clone(),
            multiply_adds: 0,
        })
    }
}

/// A judge and the rules.
struct Outcomes {
    judge: Box<dyn RewardModel>,
    rules: ByRules,
    /// Those of the detector.
    multiply_adds: u64,
}

impl RewardModel for Outcomes {
    fn needs(&self, ask: Judgement) -> Needs {
        match ask {
            Judgement::Outcome if self.rules.alone => Needs::PIXELS,
            Judgement::Outcome => Needs::PIXELS.or(self.judge.needs(ask)),
            _ => self.judge.needs(ask),
        }
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> maquette::Result<()> {
        let outcome = ask.judgement == Judgement::Outcome;
        if !(outcome && self.rules.alone) {
            self.judge.judge(ask, out)?;
        }
        if !outcome {
            return Ok(());
        }
        let shown = ask.pixels.map_or(0, |pixels| pixels.len());
        for (arg, got) in [("out", out.len()), ("pixels", shown)] {
            if got != ask.keys.len() {
                return Err(Error::Length {
                    op: "judge",
                    arg,
                    got,
                    want: ask.keys.len(),
                });
            }
        }
        let request = scorer::request(ask.prompt.text())?;
        let all = ask.pixels.iter();
        let all = all.flat_map(|all| all.pixels().chunks_exact(all.size().len_bytes().max(1)));
        let rows = out.iter_mut().zip(all);
        for (row, (verdict, pixels)) in rows.enumerate() {
            let mark = scorer::by_rules(&self.rules.eye, &request, pixels)?;
            self.multiply_adds += self.rules.eye.multiply_adds();
            let sure = mark.reward as f32;
            let told = Verdict::new(sure, 1.0 - sure);
            *verdict = if self.rules.alone {
                told
            } else {
                verdict.check(row)?;
                Verdict::new(
                    f32::midpoint(verdict.p_yes, told.p_yes),
                    f32::midpoint(verdict.p_no, told.p_no),
                )
            };
        }
        Ok(())
    }

    fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> maquette::Result<()> {
        self.judge.explain(ask, out)
    }

    fn multiply_adds(&self) -> Option<u64> {
        Some(self.judge.multiply_adds()? + self.multiply_adds)
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.judge.forget(keys);
    }
}
