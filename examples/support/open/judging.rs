//! Judges of every kind, from the folders that hold them.

use std::path::Path;
use std::sync::Arc;

use maquette::generator::Needs;
use maquette::model::files::folder::ModelType;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
use maquette::ops::Backend;
use maquette::reward::Ask;
use maquette::{Error, Judgement, RewardModel, Verdict};

use super::Res;
use super::adapters::AdapterFolder;
use super::folder::{Folder, Reading};
use super::text::{Text, tokenizer};

/// A loaded judge.
pub enum Judging<B: Backend> {
    Llava(Arc<Llava<B>>, Text),
    Janus(Arc<Janus<B>>, Text),
}

impl<B: Backend> std::fmt::Debug for Judging<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Llava(..) => f.write_str("Llava"),
            Self::Janus(..) => f.write_str("Janus"),
        }
    }
}

/// A Janus and its tokenizer, to draw and to judge. What answers it gives and who speaks stands in the tokenizer.
pub fn janus<B: Backend>(
    reading: &Reading<B>,
    folder: &Folder,
    text: &Path,
    adapters: Option<&AdapterFolder>,
) -> Res<(Arc<Janus<B>>, Text)> {
    let text = tokenizer(text)?;
    let config = folder.config(JanusConfig::from_json)?.with_tokenizer(&text);
    let mut model = folder.read(reading, |device, source, format| {
        Janus::load(device, config, source, format)
    })?;
    if let Some(adapters) = adapters {
        model = adapters.beside(model, Janus::with_adapters)?;
    }
    Ok((Arc::new(model), text))
}

impl<B: Backend + 'static> Judging<B> {
    /// Reads the judge of a folder.
    pub fn load(reading: &Reading<B>, path: &Path) -> Res<Self> {
        let folder = Folder::open(path)?;
        match folder.model() {
            ModelType::Llava => {
                let text = tokenizer(path)?;
                let config = folder.config(LlavaConfig::from_json)?;
                let model = folder.load(reading, |device, source, format| {
                    Llava::load(device, config, source, format)
                })?;
                Ok(Self::Llava(model, text))
            }
            ModelType::Janus => {
                let (model, text) = janus(reading, &folder, path, None)?;
                Ok(Self::Janus(model, text))
            }
            _ => Err(folder.instead_of("a judge (LLaVA-OneVision or Janus)")),
        }
    }

    /// A session that judges so many views in one batch and keeps as many.
    pub fn session(&self, views: usize) -> Res<Box<dyn RewardModel>> {
        let mut options = JudgeOptions::default().with_views(views);
        options.remembered = views;
        Ok(Box::new(match self {
            Self::Llava(model, text) => {
                LlavaSession::new(Arc::clone(model), Arc::clone(text), options)?
            }
            Self::Janus(model, text) => model.judge(Arc::clone(text), options)?,
        }))
    }
}

/// Stands where a strategy asks nobody.
#[derive(Debug)]
pub struct Nobody;

impl RewardModel for Nobody {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::NOTHING
    }

    fn multiply_adds(&self) -> Option<u64> {
        Some(0)
    }

    fn judge(&mut self, _: &Ask<'_>, _: &mut [Verdict]) -> maquette::Result<()> {
        Err(Error::Unsupported {
            what: "judging without a judge",
        })
    }
}
