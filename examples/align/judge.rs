//! A judge that learns to answer: questions about drawn pictures, and what is right to say.

mod check;
mod lessons;

use std::sync::Arc;

use maquette::RewardModel;
use maquette::align::Limits;
use maquette::align::supervised;
use maquette::model::learner::Example;
use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaLearner, LlavaSession};
use maquette::ops::Backward;
use serde_json::json;
use support::say;

use crate::Res;
use crate::family::{Adapters, Home};
use crate::online::seed;
use crate::options::Args;
use crate::training::Training;
use lessons::Lessons;

const TARGETS: &str = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj";
/// Views of a batch.
const VIEWS: usize = 16;

fn options() -> JudgeOptions {
    JudgeOptions::default().with_views(VIEWS)
}

/// A session of the judge with adapters in its weights, or without.
fn session<B: Backward + 'static>(
    home: &Home<B>,
    adapters: Option<Adapters<'_>>,
) -> Res<Box<dyn RewardModel>> {
    let config = LlavaConfig::from_json(&home.folder.config)?;
    let (device, format) = (Arc::clone(&home.device), home.format);
    let model = home.read(adapters, |source| {
        Llava::load(device, config, source, format)
    })?;
    let words = Arc::clone(&home.words);
    Ok(Box::new(LlavaSession::new(
        Arc::new(model),
        words,
        options(),
    )?))
}

/// Trains the judge of a folder.
pub fn train<B: Backward + 'static>(args: &Args, home: &Home<B>) -> Res<()> {
    let config = LlavaConfig::from_json(&home.folder.config)?;
    let (device, format) = (Arc::clone(&home.device), home.format);
    let (model, learner) = home.read(None, |source| {
        let model = Arc::new(Llava::load(device, config, source, format)?);
        let learner = LlavaLearner::new(Arc::clone(&model), source);
        Ok((model, learner))
    })?;
    let words = Arc::clone(&home.words);
    let mut session: LlavaSession<B> = LlavaSession::new(model, words, options())?;
    let lessons = Lessons::read(args, &home.device, &mut session)?;
    if !args.quiet {
        say!("{lessons}");
    }
    let limits = Limits {
        rows: lessons.rows,
        labels: lessons.labels,
    };
    let once = (lessons.len() / args.batch).max(1) as u64;
    let steps = args.steps.unwrap_or(once);
    let mut training = Training::open(args, learner, limits, TARGETS, steps)?;
    let mut kept = training.kept()?;
    let mut order = Order::default();
    training.take(&mut |trainer, told| {
        let first = trainer.steps() * args.batch as u64;
        let mut examples: Vec<Example> = Vec::new();
        for at in first..first + args.batch as u64 {
            let at = order.at(at, lessons.len(), args.seed)?;
            examples.push(lessons.example(at, &mut session)?);
        }
        Ok(trainer.step(|engine| {
            let report = supervised::answers(engine, &examples, &mut kept)?;
            told.insert("p_right".into(), json!(report.p_right));
            Ok(report.loss)
        }))
    })?;
    training.leave(home)?;
    if let Some(path) = &args.check {
        let text = check::run(args, home, path, training.adapters())?;
        training.checked(&text)?;
    }
    training.close()
}

/// The order of the lessons: another one each time they are gone through, a function of seed and round alone.
#[derive(Debug, Default)]
struct Order {
    round: Option<u64>,
    places: Vec<usize>,
}

impl Order {
    fn at(&mut self, step: u64, n: usize, of: u64) -> Res<usize> {
        let (round, at) = (step / n as u64, step % n as u64);
        if self.round != Some(round) {
            self.places = shuffled(n, of, u32::try_from(round)?)?;
            self.round = Some(round);
        }
        Ok(self.places[usize::try_from(at)?])
    }
}

/// The numbers below `n` in an order of their own.
fn shuffled(n: usize, of: u64, round: u32) -> Res<Vec<usize>> {
    let end = u32::try_from(n)?;
    let mut keyed: Vec<(u64, u32)> = (0..end)
        .map(|i| (seed(of ^ 0x006c_6573_736f_6e73, [round, i, 0]), i))
        .collect();
    keyed.sort_unstable();
    Ok(keyed.into_iter().map(|(_, i)| i as usize).collect())
}
