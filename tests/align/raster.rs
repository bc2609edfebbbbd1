//! Raster generators: their examples say what the plain pass says, and can be trained.

use std::sync::Arc;

use maquette::align::dpo::{self, DpoConfig, ScoredPair};
use maquette::align::lora::Merged;
use maquette::align::raster::{RasterLearner, example};
use maquette::align::{Engine, Limits, LoraConfig, Parameter, Trained};
use maquette::cpu::Cpu;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::learner::{Example, Scope};
use maquette::model::llamagen::{LlamaGen, LlamaGenConfig};
use maquette::model::raster::{PrefixPair, PrefixReader, RasterModel};
use maquette::model::weights::WeightSource;
use maquette::model::words::Words;
use maquette::ops::sample::softmax_row;
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;
use maquette::{Generator, Prompt, Result};

use crate::gradients::check;
use crate::{file, json, lora, number, shake};

const TARGETS: [&str; 5] = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"];

pub fn janus<B: Backend>(device: B) -> Arc<Janus<B>> {
    let bytes = file("janus-pro", "model.safetensors");
    let source = SafetensorsSource::new(&bytes).unwrap();
    janus_of(device, &source)
}

/// The same with adapters in its weights.
pub fn janus_merged<B: Backend>(
    device: B,
    parameters: &[Parameter],
    lora: &LoraConfig,
) -> Arc<Janus<B>> {
    let bytes = file("janus-pro", "model.safetensors");
    let source = SafetensorsSource::new(&bytes).unwrap();
    janus_of(device, &Merged::new(&source, parameters, lora).unwrap())
}

fn janus_of<B: Backend>(device: B, source: &dyn WeightSource) -> Arc<Janus<B>> {
    let mut config = JanusConfig::from_json(&json("janus-pro")).unwrap();
    config.layouts.questions = ["<image> a", "<image> a", "<image> a", "a"].into();
    config.layouts.draw = "{prompt}".into();
    config.layouts.plan = "{prompt}".into();
    Arc::new(Janus::load(Arc::new(device), config, source, Format::F32).unwrap())
}

fn picture<B: Backend, M: RasterModel<B>>(model: &M, seed: u64) -> Vec<u32> {
    let [r, c] = model.grid();
    let v = u32::try_from(model.codebook()).unwrap();
    (0..r * c)
        .map(|i| (number(seed, i).to_bits() >> 3) % v)
        .collect()
}

fn words<B: Backend>(model: &Janus<B>) -> Words {
    let mut words: Vec<String> = (0..model.config().text.vocab)
        .map(|id| id.to_string())
        .collect();
    words[134] = "<\u{ff5c}\u{2581}pad\u{2581}\u{ff5c}>".into();
    Words::new(&words.join("\n")).unwrap()
}

fn janus_examples<B: maquette::ops::Backward>(model: &Arc<Janus<B>>) -> Vec<Example> {
    let mut reader = model.reader(words(model)).unwrap();
    let example = |(i, tokens): (u64, &[u32])| {
        example(&**model, &mut reader, tokens, &picture(&**model, i)).unwrap()
    };
    [(0, &[3_u32, 5, 8][..]), (1, &[7, 2])].map(example).into()
}

fn limits(examples: &[Example]) -> Limits {
    Limits {
        rows: examples.iter().map(|e| e.positions.len()).max().unwrap(),
        labels: examples.iter().map(|e| e.labels.len()).max().unwrap(),
    }
}

#[test]
fn a_janus_example_has_the_probabilities_of_the_plain_pass() {
    let model = janus(Reference);
    let examples = janus_examples(&model);
    let learner = RasterLearner(Arc::clone(&model));
    let trained = Trained::Adapters(lora(&TARGETS));
    let mut engine = Engine::new(learner, trained, limits(&examples)).unwrap();
    let codes = picture(&*model, 0);
    let full = model
        .forward_full(&[3, 5, 8], &codes[..codes.len() - 1])
        .unwrap();
    let got = engine.reference(&examples[0]).unwrap();
    let rows = full.logits.chunks(model.codebook()).zip(&codes);
    for ((row, code), got) in rows.zip(&got) {
        let mut p = row.to_vec();
        assert!(softmax_row(&mut p));
        assert!((p[*code as usize].ln() - got).abs() < 1e-4);
    }
}

#[test]
fn janus_adapters_have_the_gradient_of_their_differences() {
    let model = janus(Cpu::new());
    let examples = janus_examples(&model);
    let learner = RasterLearner(Arc::clone(&model));
    let trained = Trained::Adapters(lora(&TARGETS));
    let mut engine = Engine::new(learner, trained, limits(&examples)).unwrap();
    shake(&mut engine, 0.1);
    check(&mut engine, &examples);
    let names: Vec<_> = engine
        .parameters()
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    assert!(names[0].starts_with("language_model.model.layers.0.self_attn.q_proj.lora_A"));
    assert!(engine.set(&[(names[0].to_owned().as_str(), &[])]).is_err());

    let pair = [examples[0].clone(), examples[1].clone()];
    let pairs = [ScoredPair::new(&mut engine, pair).unwrap()];
    let mut kept = [engine.kept().unwrap(), engine.kept().unwrap()];
    engine.clear().unwrap();
    let report = dpo::batch(&mut engine, &pairs, &DpoConfig::default(), &mut kept).unwrap();
    assert!(
        report.loss.is_finite()
            && engine
                .gradients()
                .unwrap()
                .concat()
                .iter()
                .any(|g| *g != 0.0)
    );
}

#[test]
fn a_plan_is_learnt_as_it_is_written() {
    let model = janus(Cpu::new());
    let words = words(&model);
    let mut session = model.draw(words.clone(), model.config().options()).unwrap();
    let (prompt, mut plan) = (Prompt::new("3 5 8"), String::new());
    session.plan(&prompt, 7, &mut plan).unwrap();
    let mut reader = model.reader(words).unwrap();
    let example = reader.plan_example(&prompt, &plan).unwrap();
    let labels: Vec<String> = example.labels.iter().map(ToString::to_string).collect();
    assert_eq!(labels.join(" "), plan);
    assert_eq!((example.scope, example.rows[0]), (Scope::Vocabulary, 2));
    let limits = limits(std::slice::from_ref(&example));
    let trained = Trained::Adapters(lora(&TARGETS));
    let learner = RasterLearner(Arc::clone(&model));
    let mut engine = Engine::new(learner, trained, limits).unwrap();
    let written = engine.reference(&example).unwrap();
    // The session writes the likeliest words: at any row no other one is likelier, and all share the probability.
    let vocab = u32::try_from(model.config().text.vocab).unwrap();
    let mut sums = vec![0.0; written.len()];
    for word in 0..vocab {
        let other = Example {
            labels: vec![word; example.labels.len()],
            ..example.clone()
        };
        for ((sum, p), best) in sums
            .iter_mut()
            .zip(engine.reference(&other).unwrap())
            .zip(&written)
        {
            *sum += p.exp();
            assert!(p <= best + 1e-4, "{word}: {p} for {best}");
        }
    }
    assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-3), "{sums:?}");
    shake(&mut engine, 0.1);
    check(&mut engine, std::slice::from_ref(&example));
    assert!(reader.plan_example(&prompt, "").is_err());
    let long = vec!["1"; model.config().max_plan_len + 1].join(" ");
    assert!(reader.plan_example(&prompt, &long).is_err());
}

/// Rows that nobody wrote.
#[derive(Debug)]
struct Rows {
    device: Arc<Cpu>,
    width: usize,
}

impl PrefixReader<Cpu> for Rows {
    fn read(&mut self, _: &Prompt<'_>) -> Result<PrefixPair> {
        Ok(PrefixPair::default())
    }

    fn write(&mut self, words: &[u32], x: &mut <Cpu as Backend>::Buffer<f32>) -> Result<usize> {
        let rows: Vec<f32> = (0..words.len() * self.width)
            .map(|i| number(5, i))
            .collect();
        self.device.write(x, 0, &rows)?;
        Ok(words.len())
    }
}

#[test]
fn llamagen_adapters_have_the_gradient_of_their_differences() {
    let device = Arc::new(Cpu::new());
    let config = LlamaGenConfig::from_json(&json("llamagen-t2i")).unwrap();
    let bytes = file("llamagen-t2i", "model.safetensors");
    let source = SafetensorsSource::new(&bytes).unwrap();
    let model = LlamaGen::load(Arc::clone(&device), config, &source, Format::F32).unwrap();
    let model = Arc::new(model);
    let width = model.stack().config().width;
    let mut reader = Rows {
        device: Arc::clone(&device),
        width,
    };
    let codes = picture(&*model, 3);
    let visible = 3;
    let own = example(&*model, &mut reader, &[0; 3], &codes).unwrap();
    assert_eq!(own.scope, Scope::Codes);
    let learner = RasterLearner(Arc::clone(&model));
    let trained = Trained::Adapters(lora(&["wo", "w1", "w2", "w3"]));
    let limits = limits(std::slice::from_ref(&own));
    let mut engine = Engine::new(learner, trained, limits).unwrap();

    // The plain pass wants the whole prefix, of which only the last rows are seen.
    let limit = model.prefix_limit();
    let mut prefix = vec![0.0; (limit - visible) * width];
    prefix.extend((0..visible * width).map(|i| number(5, i)));
    let fed = &codes[..codes.len() - 1];
    let hidden = model
        .forward_full(&prefix, visible, fed, &mut |_, _, _| Ok(()))
        .unwrap();
    let rows = codes.len();
    let mut x = device.zeros(rows * width).unwrap();
    device
        .write(&mut x, 0, &hidden[(limit - 1) * width..])
        .unwrap();
    let (mut scratch, v) = (device.zeros(0).unwrap(), model.codebook());
    let mut logits = device.zeros(rows * v).unwrap();
    model.head(rows, &x, &mut scratch, &mut logits).unwrap();
    let mut p = vec![0.0; rows * v];
    device.read(&logits, 0, &mut p).unwrap();
    let got = engine.reference(&own).unwrap();
    for ((row, code), got) in p.chunks_mut(v).zip(&codes).zip(&got) {
        assert!(softmax_row(row));
        assert!((row[*code as usize].ln() - got).abs() < 1e-4);
    }

    shake(&mut engine, 0.1);
    check(&mut engine, &[own]);
    // Its queries, keys and values are one layer, in another order than in the file.
    let learner = RasterLearner(model);
    let fused = Engine::new(learner, Trained::Adapters(lora(&["wqkv"])), limits);
    assert!(matches!(fused, Err(maquette::Error::Unsupported { .. })));
}

#[test]
fn pictures_that_do_not_fit_are_errors() {
    let model = janus(Reference);
    let mut reader = model.reader(words(&model)).unwrap();
    let good = picture(&*model, 0);
    assert!(example(&*model, &mut reader, &[], &good).is_err());
    assert!(example(&*model, &mut reader, &[1], &good[1..]).is_err());
    let mut bad = good.clone();
    bad[2] = u32::MAX;
    assert!(example(&*model, &mut reader, &[1], &bad).is_err());
    assert!(example(&*model, &mut reader, &[u32::MAX], &good).is_err());
    assert!(example(&*model, &mut reader, &[1; 10000], &good).is_err());
}
