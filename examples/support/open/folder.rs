//! Model folders, and errors that say which folder they are about.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maquette::model::files::config::JsonConfig;
use maquette::model::files::folder::ModelType;
use maquette::model::files::map::ModelFolder;
use maquette::model::weights::{Precision, WeightSource};
use maquette::ops::Backend;

use super::Res;

/// Where weights go, and at which precision.
#[derive(Debug)]
pub struct Reading<B> {
    pub device: Arc<B>,
    pub precision: Precision,
}

/// A model folder and its path.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    inner: ModelFolder,
}

/// An error in words, with its causes.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Says in which folder a model failed.
pub fn within<T>(folder: &Path, result: maquette::Result<T>) -> Res<T> {
    result.map_err(|e| format!("{}: {}", folder.display(), told(&e)).into())
}

/// What a kind of model is called.
fn name(model: ModelType) -> &'static str {
    match model {
        ModelType::ShowO => "a Show-o",
        ModelType::Magvit => "a MAGVIT-v2 image tokenizer",
        ModelType::LlamaGen => "a LlamaGen",
        ModelType::LlamaGenVq => "a VQ image tokenizer",
        ModelType::Janus => "a Janus",
        ModelType::Llava => "a LLaVA-OneVision",
        ModelType::T5 => "a T5 text encoder",
        _ => "another model",
    }
}

impl Folder {
    /// Maps a folder.
    pub fn open(path: &Path) -> Res<Self> {
        Ok(Self {
            path: path.into(),
            inner: within(path, ModelFolder::open(path))?,
        })
    }

    /// Maps a folder that must be of this model.
    pub fn of(path: &Path, want: ModelType) -> Res<Self> {
        let folder = Self::open(path)?;
        if folder.model() == want {
            Ok(folder)
        } else {
            Err(folder.instead_of(name(want)))
        }
    }

    /// The model that the configuration is of.
    pub fn model(&self) -> ModelType {
        self.inner.model
    }

    /// The error of a folder that holds another model than is needed.
    pub fn instead_of(&self, needed: &str) -> Box<dyn Error> {
        let (path, found) = (self.path.display(), name(self.model()));
        format!("{path}: this is {found}, where {needed} is needed").into()
    }

    /// What the configuration says.
    pub fn config<T>(&self, read: impl FnOnce(&JsonConfig) -> maquette::Result<T>) -> Res<T> {
        within(&self.path, read(&self.inner.config))
    }

    /// The model itself.
    pub fn load<B: Backend, T>(
        &self,
        reading: &Reading<B>,
        load: impl FnOnce(Arc<B>, &dyn WeightSource, Precision) -> maquette::Result<T>,
    ) -> Res<Arc<T>> {
        self.read(reading, load).map(Arc::new)
    }

    /// The model, which nobody shares yet.
    pub fn read<B: Backend, T>(
        &self,
        reading: &Reading<B>,
        load: impl FnOnce(Arc<B>, &dyn WeightSource, Precision) -> maquette::Result<T>,
    ) -> Res<T> {
        let device = Arc::clone(&reading.device);
        let read = |source: &dyn WeightSource| load(device, source, reading.precision);
        within(&self.path, self.inner.weights.read(read))
    }
}
