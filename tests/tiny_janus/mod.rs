//! The fixture's random weights, with a vocabulary that spells prompts for them.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;

use maquette::Result;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::weights::Precision;
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::quant::Format;

const CONFIG: &str = include_str!("../golden/janus-pro/config.json");
const WEIGHTS: &[u8] = include_bytes!("../golden/janus-pro/model.safetensors");

/// The fixture's shape; prompts laid out as released, in the few words there are.
pub fn config() -> JanusConfig {
    let json = JsonConfig::parse(CONFIG).unwrap();
    let mut config = JanusConfig::from_json(&json).unwrap();
    let begin = "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}><|User|> : ";
    let ask = |question: &str| {
        format!("{begin}<begin_of_image><image><end_of_image> {question} <|Assistant|> :")
    };
    config.layouts.draw = format!("{begin}{{prompt}} <|Assistant|> :<begin_of_image>");
    config.layouts.plan = format!("{begin}{{prompt}} step <|Assistant|> :");
    config.layouts.questions = [
        ask("{prompt} ?"),
        ask("step {prompt} ?"),
        ask("{prompt} clear ?"),
        "yes <\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}><|User|> : potential ? <|Assistant|> :"
            .to_owned(),
    ]
    .each_ref()
    .map(String::as_str)
    .into();
    config
}

/// One word an id: those that prompts and layouts need at the fixture's places, numbers at the others.
pub fn words() -> Words {
    let mut lines: Vec<String> = (0..140).map(|i| format!("word{i}")).collect();
    for (id, word) in [
        (0, "a"),
        (1, "photo"),
        (2, "of"),
        (3, "red"),
        (4, "car"),
        (5, "?"),
        (6, ":"),
        (7, "no"),
        (8, "step"),
        (9, "clear"),
        (10, "potential"),
        (123, "yes"),
        (132, "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>"),
        (133, "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>"),
        (134, "<\u{ff5c}\u{2581}pad\u{2581}\u{ff5c}>"),
        (135, "<begin_of_image>"),
        (136, "<end_of_image>"),
        (137, "<image_placeholder>"),
        (138, "<|User|>"),
        (139, "<|Assistant|>"),
    ] {
        lines[id] = word.to_owned();
    }
    Words::new(&lines.join("\n")).unwrap()
}

pub fn load<B: Backend>(backend: B, config: JanusConfig) -> Arc<Janus<B>> {
    load_as(backend, config, Format::F32).unwrap()
}

pub fn load_as<B: Backend>(
    backend: B,
    config: JanusConfig,
    precision: impl Into<Precision>,
) -> Result<Arc<Janus<B>>> {
    let source = SafetensorsSource::new(WEIGHTS).unwrap();
    Janus::load(Arc::new(backend), config, &source, precision).map(Arc::new)
}
