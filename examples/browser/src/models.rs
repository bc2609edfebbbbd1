//! The models from bytes.

use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::error::Foreign;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
use maquette::model::words::Words;
use maquette::quant::Format;
use maquette::{Error, Generator, Result, RewardModel};

/// Guidance of the bundled Show-o, as in `generate`.
const GUIDANCE: f32 = 3.0;

/// Configuration, weights and words of the generator, configuration and weights of its image tokenizer, configuration,
/// weights and words of the judge.
#[derive(Default)]
pub struct Files(pub [Vec<u8>; 8]);

/// A generator and a judge with their sessions.
pub struct Models {
    pub generator: Box<dyn Generator>,
    pub judge: Box<dyn RewardModel>,
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| Error::Foreign(Foreign::new(e)))
}

fn config<T>(bytes: &[u8], read: fn(&JsonConfig) -> Result<T>) -> Result<T> {
    read(&JsonConfig::parse(text(bytes)?)?)
}

impl Models {
    /// Reads them, for so many candidates at once.
    pub fn load(Files(files): &Files, candidates: usize) -> Result<Self> {
        let [
            show_o,
            weights,
            words,
            magvit,
            pixels,
            llava,
            judge,
            judge_words,
        ] = files;
        let cpu = Arc::new(Cpu::new());
        let model = ShowO::load(
            Arc::clone(&cpu),
            config(show_o, ShowOConfig::from_json)?,
            &SafetensorsSource::new(weights)?,
            Format::F32,
        )?;
        let pixels = Magvit::load(
            Arc::clone(&cpu),
            config(magvit, MagvitConfig::from_json)?,
            &SafetensorsSource::new(pixels)?,
            Format::F32,
        )?;
        let judge = Llava::load(
            cpu,
            config(llava, LlavaConfig::from_json)?,
            &SafetensorsSource::new(judge)?,
            Format::F32,
        )?;
        let mut options = ShowOOptions::default();
        (options.candidates, options.guidance_scale) = (candidates, GUIDANCE);
        let generator = ShowOSession::new(
            Arc::new(model),
            Arc::new(pixels),
            Words::new(text(words)?)?,
            options,
        )?;
        let mut options = JudgeOptions::default().with_views(candidates);
        options.remembered = candidates;
        let words = Arc::new(Words::new(text(judge_words)?)?);
        Ok(Self {
            generator: Box::new(generator),
            judge: Box::new(LlavaSession::new(Arc::new(judge), words, options)?),
        })
    }
}
