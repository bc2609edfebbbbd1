//! Adapters that stand beside a model at run time: what they say, and what they refuse.

use std::sync::Arc;

use maquette::align::lora::{Merged, adapter_config, write_adapters};
use maquette::align::raster::RasterLearner;
use maquette::align::{Engine, Limits, LoraConfig, Parameter, Trained};
use maquette::codes::UNKNOWN;
use maquette::cpu::Cpu;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::learner::{Input, Scope};
use maquette::model::show_o::{ShowO, ShowOLearner};
use maquette::model::transformer::AdapterConfig;
use maquette::ops::Reference;
use maquette::quant::Format;
use maquette::{Error, Result};

use crate::raster::{janus, janus_merged};
use crate::{ALL, Base, engine, file, limits, lora, pair, reference, shake, show_o};

/// Of the largest number: sums in another order, over a few layers of F32.
const BOUND: f32 = 1e-5;

fn config(lora: &LoraConfig) -> AdapterConfig {
    AdapterConfig::new(lora.rank, lora.alpha).unwrap()
}

/// The largest difference as a share of the largest number.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let most = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    most.fold(0.0, f32::max) / largest
}

/// Adapters of the small Show-o that change what it says.
fn shaken() -> Vec<Parameter> {
    let mut engine = engine(&Arc::new(Cpu::new()), Format::F32);
    shake(&mut engine, 0.1);
    engine.parameters().to_vec()
}

#[test]
fn a_show_o_beside_its_adapters_is_the_merged_one() {
    let parameters = shaken();
    let stored = write_adapters(&parameters).unwrap();
    let stored = SafetensorsSource::new(&stored).unwrap();
    let bytes = file("train-dpo", "model.safetensors");
    let base = Base(SafetensorsSource::new(&bytes).unwrap());
    let merged = Merged::new(&base, &parameters, &lora(&ALL)).unwrap();
    let load = |source: &dyn maquette::model::weights::WeightSource| {
        ShowO::load(Arc::new(Cpu::new()), show_o(), source, Format::F32).unwrap()
    };
    let beside = load(&base)
        .with_adapters(&config(&lora(&ALL)), &stored)
        .unwrap();
    let codes = vec![UNKNOWN; show_o().num_vq_tokens];
    let example = show_o()
        .example(&pair(3).text, &codes, Scope::Codes)
        .unwrap();
    let Input::Tokens(tokens) = example.input else {
        panic!("tokens")
    };
    let rows = |model: &ShowO<Cpu>| model.forward_full(&tokens, &mut |_, _, _| Ok(())).unwrap();
    let want = rows(&load(&merged));
    assert!(apart(&rows(&beside), &want) < BOUND);
    assert!(apart(&rows(&load(&base)), &want) > 100.0 * BOUND);
    // Not trained on top of each other: which of them would be saved?
    let learner = ShowOLearner::load(Arc::new(beside), &base, Format::F32).unwrap();
    let trained = Trained::Adapters(lora(&ALL));
    assert!(matches!(
        Engine::new(learner, trained, limits()),
        Err(Error::Unsupported { .. })
    ));
}

#[test]
fn a_janus_beside_its_adapters_is_the_merged_one() {
    let lora = lora(&["q_proj", "v_proj", "up_proj", "down_proj"]);
    let model = janus(Reference);
    let learner = RasterLearner(Arc::clone(&model));
    let few = Limits { rows: 8, labels: 8 };
    let mut engine = Engine::new(learner, Trained::Adapters(lora.clone()), few).unwrap();
    shake(&mut engine, 0.1);
    let parameters = engine.parameters().to_vec();
    let stored = write_adapters(&parameters).unwrap();
    let stored = SafetensorsSource::new(&stored).unwrap();
    let beside = Arc::into_inner(janus(Reference)).unwrap();
    let beside = beside.with_adapters(&config(&lora), &stored).unwrap();
    let merged = janus_merged(Reference, &parameters, &lora);
    let say = |model: &maquette::model::janus::Janus<Reference>| {
        model.forward_full(&[3, 5, 8], &[1, 2, 3, 4]).unwrap()
    };
    let (got, want, plain) = (say(&beside), say(&merged), say(&model));
    assert!(apart(&got.logits, &want.logits) < BOUND);
    assert!(apart(&got.hidden, &want.hidden) < BOUND);
    assert!(apart(&plain.logits, &want.logits) > 100.0 * BOUND);
}

/// A small Show-o beside adapters.
fn beside(config: &AdapterConfig, parameters: &[Parameter]) -> Result<ShowO<Reference>> {
    let bytes = file("train-dpo", "model.safetensors");
    let base = Base(SafetensorsSource::new(&bytes)?);
    let stored = write_adapters(parameters)?;
    let model = ShowO::load(reference(), show_o(), &base, Format::F32)?;
    model.with_adapters(config, &SafetensorsSource::new(&stored)?)
}

#[test]
fn adapters_that_do_not_fit_a_model_are_errors() {
    let (parameters, fits) = (shaken(), config(&lora(&ALL)));
    let changed = |change: &dyn Fn(&mut Vec<Parameter>)| {
        let mut parameters = parameters.clone();
        change(&mut parameters);
        beside(&fits, &parameters).map(|_| ())
    };
    let missing = changed(&|p| drop(p.remove(1)));
    assert!(
        matches!(missing, Err(Error::MissingTensor { .. })),
        "{missing:?}"
    );
    let unknown = changed(&|p| p[0].name.insert_str(0, "other."));
    assert!(unknown.is_err(), "{unknown:?}");
    let both = changed(&|p| {
        for p in p.iter_mut().take(2) {
            p.name = p.name.replace("layers.0", "layers.77");
        }
    });
    assert!(matches!(both, Err(Error::UnknownTensor { .. })), "{both:?}");
    let broken = changed(&|p| p[2].values[0] = f32::NAN);
    assert!(
        matches!(broken, Err(Error::TensorNumber { .. })),
        "{broken:?}"
    );
    let wide = changed(&|p| {
        p[1].shape[0] += 1;
        let rank = p[1].shape[1];
        let len = p[1].values.len() + rank;
        p[1].values.resize(len, 0.0);
    });
    assert!(matches!(wide, Err(Error::TensorShape { .. })), "{wide:?}");
    for rank in [2, 3, 1 << 40] {
        let other = AdapterConfig::new(rank, 8.0).unwrap();
        let error = beside(&other, &parameters).map(|_| ());
        assert!(matches!(error, Err(Error::TensorShape { .. })), "{error:?}");
    }
    let none = beside(&fits, &[]).map(|_| ());
    assert!(matches!(none, Err(Error::Config { .. })), "{none:?}");
    let stored = write_adapters(&parameters).unwrap();
    let twice = beside(&fits, &parameters)
        .and_then(|model| model.with_adapters(&fits, &SafetensorsSource::new(&stored)?));
    assert!(matches!(twice.map(|_| ()), Err(Error::Unsupported { .. })));
}

#[test]
fn half_a_pair_is_not_merged_in_silence() {
    let bytes = file("train-dpo", "model.safetensors");
    let base = Base(SafetensorsSource::new(&bytes).unwrap());
    let changed = |change: &dyn Fn(&mut Vec<Parameter>)| {
        let mut parameters = shaken();
        change(&mut parameters);
        Merged::new(&base, &parameters, &lora(&ALL)).map(|_| ())
    };
    changed(&|_| {}).unwrap();
    for half in [0, 1] {
        let name = shaken()[half].name.clone();
        let missing = changed(&|p| drop(p.remove(half)));
        assert!(
            matches!(&missing, Err(Error::MissingTensor { name: told }) if told.as_str() == name),
            "{missing:?}"
        );
    }
    let flat = changed(&|p| p[0].shape = vec![p[0].values.len()]);
    assert!(matches!(flat, Err(Error::TensorShape { .. })), "{flat:?}");
}

#[test]
fn settings_of_adapters_are_read_and_foreign_ones_refused() {
    let read = |text: &str| AdapterConfig::from_json(&JsonConfig::parse(text)?);
    let own = read(&adapter_config(&lora(&ALL))).unwrap();
    assert_eq!(own, config(&lora(&ALL)));
    let square = read(r#"{"r": 16, "lora_alpha": 8, "use_rslora": true}"#).unwrap();
    assert_eq!((square.rank(), square.scale()), (16, 2.0));
    for text in [
        r#"{"lora_alpha": 8}"#,
        r#"{"r": 4}"#,
        r#"{"r": 0, "lora_alpha": 8}"#,
        r#"{"r": 4, "lora_alpha": -8}"#,
        r#"{"r": 4, "lora_alpha": 8, "peft_type": "IA3"}"#,
        r#"{"r": 4, "lora_alpha": 8, "bias": "all"}"#,
        r#"{"r": 4, "lora_alpha": 8, "use_dora": true}"#,
        r#"{"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 8}}"#,
        r#"{"r": 4, "lora_alpha": 8, "modules_to_save": ["lm_head"]}"#,
    ] {
        assert!(matches!(read(text), Err(Error::Config { .. })), "{text}");
    }
    read(r#"{"r": 4, "lora_alpha": 8, "rank_pattern": {}, "modules_to_save": null}"#).unwrap();
}
