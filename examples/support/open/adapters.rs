//! Adapters beside a model, as `align` and the PEFT library write them.

use std::fs;
use std::path::{Path, PathBuf};

use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::transformer::AdapterConfig;
use maquette::model::weights::WeightSource;

use super::Res;
use super::folder::within;

/// A folder with `adapter_config.json` and `adapter_model.safetensors`.
#[derive(Debug)]
pub struct AdapterFolder {
    path: PathBuf,
    config: AdapterConfig,
    weights: Vec<u8>,
}

impl AdapterFolder {
    /// Reads both files.
    pub fn open(path: &Path) -> Res<Self> {
        let read = |name: &str| {
            let file = path.join(name);
            fs::read(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))
        };
        let json = String::from_utf8(read("adapter_config.json")?)
            .map_err(|e| format!("{}: adapter_config.json: {e}", path.display()))?;
        let config = JsonConfig::parse(&json).and_then(|json| AdapterConfig::from_json(&json));
        Ok(Self {
            config: within(path, config)?,
            weights: read("adapter_model.safetensors")?,
            path: path.into(),
        })
    }

    /// Puts them beside a model.
    pub fn beside<T>(
        &self,
        model: T,
        add: impl FnOnce(T, &AdapterConfig, &dyn WeightSource) -> maquette::Result<T>,
    ) -> Res<T> {
        let adapted =
            SafetensorsSource::new(&self.weights).and_then(|s| add(model, &self.config, &s));
        within(&self.path, adapted)
    }
}
