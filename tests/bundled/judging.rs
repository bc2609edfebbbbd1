//! The bundled judge.

use std::sync::Arc;

use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::prompt::Tokenize;
use maquette::quant::Format;

use super::files::{bytes, text};

/// The judge on one device.
#[derive(Debug, Clone)]
pub struct Judging<B: Backend>(pub Arc<Llava<B>>);

impl<B: Backend> Judging<B> {
    pub fn load(backend: B, format: Format) -> Self {
        let config =
            LlavaConfig::from_json(&JsonConfig::parse(&text("judge/config.json")).unwrap())
                .unwrap();
        let weights = bytes("judge/model.safetensors");
        let source = SafetensorsSource::new(&weights).unwrap();
        let model = Llava::load(Arc::new(backend), config, &source, format).unwrap();
        Self(Arc::new(model))
    }

    pub fn session(&self, options: JudgeOptions) -> LlavaSession<B> {
        LlavaSession::new(Arc::clone(&self.0), words(), options).unwrap()
    }
}

/// The judge's tokenizer.
pub fn words() -> Arc<dyn Tokenize> {
    Arc::new(Words::new(&text("judge/vocab.txt")).unwrap())
}
