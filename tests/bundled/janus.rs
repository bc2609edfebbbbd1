//! The bundled Janus, which draws, plans and judges.

use std::sync::Arc;

use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::quant::Format;

use super::files::{bytes, text};

/// The model on a device.
pub fn load<B: Backend>(backend: B) -> Arc<Janus<B>> {
    let config = JsonConfig::parse(&text("janus/config.json")).unwrap();
    let config = JanusConfig::from_json(&config).unwrap();
    let weights = bytes("janus/model.safetensors");
    let source = SafetensorsSource::new(&weights).unwrap();
    Arc::new(Janus::load(Arc::new(backend), config, &source, Format::F32).unwrap())
}

/// Its tokenizer.
pub fn words() -> Words {
    Words::new(&text("janus/vocab.txt")).unwrap()
}
