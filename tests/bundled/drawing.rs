//! The bundled generator.

use std::sync::Arc;

use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
use maquette::model::words::Words;
use maquette::ops::Backend;
use maquette::quant::Format;

use super::files::{bytes, text};

/// The generator and its tokenizer on one device.
#[derive(Debug, Clone)]
pub struct Drawing<B: Backend> {
    pub model: Arc<ShowO<B>>,
    pub pixels: Arc<Magvit<B>>,
}

impl<B: Backend> Drawing<B> {
    pub fn load(backend: B, format: Format) -> Self {
        let backend = Arc::new(backend);
        let config =
            ShowOConfig::from_json(&JsonConfig::parse(&text("show-o/config.json")).unwrap())
                .unwrap();
        let weights = bytes("show-o/pytorch_model.safetensors");
        let source = SafetensorsSource::new(&weights).unwrap();
        let model = ShowO::load(Arc::clone(&backend), config, &source, format).unwrap();
        let config =
            MagvitConfig::from_json(&JsonConfig::parse(&text("magvitv2/config.json")).unwrap())
                .unwrap();
        let weights = bytes("magvitv2/pytorch_model.safetensors");
        let source = SafetensorsSource::new(&weights).unwrap();
        let pixels = Magvit::load(backend, config, &source, format).unwrap();
        Self {
            model: Arc::new(model),
            pixels: Arc::new(pixels),
        }
    }

    pub fn session(&self, options: ShowOOptions) -> ShowOSession<B, Words> {
        let words = Words::new(&text("show-o/vocab.txt")).unwrap();
        ShowOSession::new(
            Arc::clone(&self.model),
            Arc::clone(&self.pixels),
            words,
            options,
        )
        .unwrap()
    }
}
