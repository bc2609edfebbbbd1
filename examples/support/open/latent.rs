//! A latent head before the judge.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use maquette::combine::Split;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::latent::{LatentConfig, LatentHead, LatentSession};
use maquette::ops::Backend;
use maquette::quant::Format;
use maquette::{Judgement, RewardModel};
use serde_json::{Value, json};

use super::folder::within;
use super::{Res, shown};

/// The head that lies beside the bundled models, by name: clap takes no empty one.
const BUNDLED: &str = "bundled";

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Question {
    Outcome,
    Process,
    Clarity,
    Potential,
}

const ALL: [Question; 4] = [
    Question::Outcome,
    Question::Process,
    Question::Clarity,
    Question::Potential,
];

impl Question {
    const fn judgement(self) -> Judgement {
        match self {
            Self::Outcome => Judgement::Outcome,
            Self::Process => Judgement::Process,
            Self::Clarity => Judgement::Clarity,
            Self::Potential => Judgement::Potential,
        }
    }
}

/// Whether a latent head is asked.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LatentArgs {
    /// Put questions to the latent head of this folder instead of the judge: it reads the generator's hidden rows, and
    /// nothing is decoded for it. [without a folder: `bundled`, the one for the bundled Show-o]
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true, default_missing_value = BUNDLED)]
    latent: Option<PathBuf>,
    /// What the latent head is asked; the judge answers the rest.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        requires = "latent",
        default_value = "process,clarity,potential"
    )]
    latent_asks: Vec<Question>,
}

impl LatentArgs {
    /// Whether a head was named.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.latent.is_some()
    }

    /// Reads the head that was named, if one was.
    pub fn load<B: Backend>(&self, device: &Arc<B>, bundled: &Path) -> Res<Option<Latent<B>>> {
        let Some(folder) = &self.latent else {
            return Ok(None);
        };
        let folder = if folder == Path::new(BUNDLED) {
            bundled
        } else {
            folder
        };
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
        };
        let text = String::from_utf8(read("config.json")?)?;
        let config = JsonConfig::parse(&text).and_then(|json| LatentConfig::from_json(&json));
        let (config, file) = (within(folder, config)?, read("model.safetensors")?);
        let source = within(folder, SafetensorsSource::new(&file))?;
        let head = LatentHead::load(Arc::clone(device), config, &source, Format::F32);
        Ok(Some(Latent {
            head: Arc::new(within(folder, head)?),
            asks: self.latent_asks.clone(),
            folder: folder.into(),
        }))
    }
}

/// A loaded head, and what it is asked.
#[derive(Debug)]
pub struct Latent<B: Backend> {
    head: Arc<LatentHead<B>>,
    asks: Vec<Question>,
    folder: PathBuf,
}

impl<B: Backend + 'static> Latent<B> {
    /// Whether no question is left for a judge.
    pub fn answers_all(&self) -> bool {
        ALL.iter().all(|question| self.asks.contains(question))
    }

    /// The head before a judge.
    pub fn before(&self, judge: Box<dyn RewardModel>, views: usize) -> Res<Box<dyn RewardModel>> {
        let head = LatentSession::new(Arc::clone(&self.head), views)?;
        let asks = self.asks.iter().map(|question| question.judgement());
        Ok(Box::new(Split::new(head, judge, asks.collect())))
    }

    /// What decides what is drawn.
    pub fn describe(&self) -> Value {
        let asks = self.asks.iter().map(|q| format!("{q:?}").to_lowercase());
        json!({ "head": shown(&self.folder), "asks": asks.collect::<Vec<_>>() })
    }
}
