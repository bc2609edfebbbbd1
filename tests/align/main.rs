//! Preference training: what must hold for any weights, on the fixtures' random ones.

use std::path::PathBuf;
use std::sync::Arc;

use maquette::Result;
use maquette::align::dpo::{self, DpoConfig, ScoredPair};
use maquette::align::masked::{PairConfig, Preference};
use maquette::align::{
    AdamWConfig, Engine, Limits, LoraConfig, Schedule, Trained, Trainer, TrainerConfig,
};
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::learner::Learner;
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOLearner};
use maquette::model::weights::{Precision, Tensor, WeightSource};
use maquette::ops::{Backward, Reference};
use maquette::quant::Format;
use maquette::rng;

mod adapters;
mod bad;
#[path = "../bundled"]
mod bundled {
    pub mod files;
    pub mod judging;
}
mod gradients;
mod judge;
mod objectives;
mod raster;
mod runs;

type ShowOEngine<B> = Engine<B, ShowOLearner<B>>;
type ShowOTrainer<B> = Trainer<B, ShowOLearner<B>>;

fn file(case: &str, name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read(folder.join(case).join(name)).unwrap()
}

fn json(case: &str) -> JsonConfig {
    JsonConfig::parse(&String::from_utf8(file(case, "config.json")).unwrap()).unwrap()
}

/// The base weights of the preference fixture.
struct Base<'a>(SafetensorsSource<'a>);

impl WeightSource for Base<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.0.tensor(name)
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.0.names(&mut |name| {
            if !name.starts_with("policy.") {
                visit(name);
            }
        });
    }
}

fn show_o() -> ShowOConfig {
    ShowOConfig::from_json(&json("train-dpo")).unwrap()
}

fn learner<B: Backward>(
    device: &Arc<B>,
    source: &dyn WeightSource,
    precision: impl Into<Precision>,
) -> Result<ShowOLearner<B>> {
    let precision = precision.into();
    let model = ShowO::load(Arc::clone(device), show_o(), source, precision)?;
    ShowOLearner::load(Arc::new(model), source, precision)
}

fn limits() -> Limits {
    let c = show_o();
    Limits {
        rows: c.text_rows() + c.image_rows(),
        labels: c.image_rows(),
    }
}

fn lora(targets: &[&str]) -> LoraConfig {
    LoraConfig::new(4, 8.0, targets.iter().copied()).with_seed(3)
}

const ALL: [&str; 6] = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"];

fn engine_of<B: Backward>(
    device: &Arc<B>,
    format: Format,
    trained: Trained,
) -> Result<ShowOEngine<B>> {
    let bytes = file("train-dpo", "model.safetensors");
    let source = Base(SafetensorsSource::new(&bytes)?);
    let mut engine = Engine::new(learner(device, &source, format)?, trained, limits())?;
    if engine.parameters()[0]
        .name
        .starts_with("showo.model.layers.0.self_attn.q_proj.weight")
    {
        engine.read_weights(&source)?;
    }
    Ok(engine)
}

fn engine<B: Backward>(device: &Arc<B>, format: Format) -> ShowOEngine<B> {
    engine_of(device, format, Trained::Adapters(lora(&ALL))).unwrap()
}

fn number(seed: u64, i: usize) -> f32 {
    let i = u32::try_from(i).unwrap();
    rng::open_unit(rng::block(seed, rng::Purpose::Draw, 0, i, 0)[0]) * 2.0 - 1.0
}

/// Gives every parameter numbers of its own, so that no gradient is zero.
fn shake<B: Backward, L: Learner<B>>(engine: &mut Engine<B, L>, size: f32) {
    let all: Vec<(String, Vec<f32>)> = engine
        .parameters()
        .iter()
        .enumerate()
        .map(|(at, p)| {
            let values = p.values.iter().enumerate();
            let values = values
                .map(|(i, v)| v + size * number(at as u64, i))
                .collect();
            (p.name.clone(), values)
        })
        .collect();
    let all: Vec<_> = all
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_slice()))
        .collect();
    engine.set(&all).unwrap();
}

/// Pair `at` of a small set: two random pictures of a random prompt.
fn pair(at: usize) -> Preference {
    let c = show_o();
    let code = |seed: usize, i: usize| {
        let word = rng::block(
            seed as u64,
            rng::Purpose::Draw,
            1,
            u32::try_from(i).unwrap(),
            0,
        )[0];
        word % u32::try_from(c.codebook_size).unwrap()
    };
    let words: Vec<u32> = (0..at % 5 + 1).map(|i| code(7 + at, i)).collect();
    Preference {
        text: c.text_tokens(&words),
        chosen: (0..c.num_vq_tokens).map(|i| code(2 * at, i)).collect(),
        rejected: (0..c.num_vq_tokens).map(|i| code(2 * at + 1, i)).collect(),
    }
}

fn scored<B: Backward>(engine: &mut ShowOEngine<B>, from: usize, n: usize) -> Vec<ScoredPair> {
    (from..from + n)
        .map(|at| {
            show_o()
                .preference(&PairConfig::default(), at, &pair(at % 4))
                .unwrap()
        })
        .map(|examples| ScoredPair::new(engine, examples).unwrap())
        .collect()
}

fn trainer<B: Backward>(engine: ShowOEngine<B>) -> ShowOTrainer<B> {
    let config = TrainerConfig::new(
        AdamWConfig::default().with_rate(3e-3),
        Schedule::Cosine {
            warm_up: 2,
            steps: 30,
        },
    )
    .with_clip(1.0);
    Trainer::new(engine, config).unwrap()
}

/// One step on the pairs that belong to its number.
fn preference_step<B: Backward>(trainer: &mut ShowOTrainer<B>) -> Result<dpo::DpoReport> {
    let from = usize::try_from(trainer.steps()).unwrap() * 2;
    let mut report = dpo::DpoReport::default();
    let mut kept = [trainer.engine().kept()?, trainer.engine().kept()?];
    trainer.step(|engine| {
        let pairs = scored(engine, from, 2);
        report = dpo::batch(engine, &pairs, &DpoConfig::default(), &mut kept)?;
        Ok(report.loss)
    })?;
    Ok(report)
}

fn bits<B: Backward, L: Learner<B>>(engine: &Engine<B, L>) -> Vec<u32> {
    let values = engine.parameters().iter().flat_map(|p| &p.values);
    values.map(|v| v.to_bits()).collect()
}

fn reference() -> Arc<Reference> {
    Arc::new(Reference)
}
