//! Generators of every kind, from the folders that hold them.

use std::path::Path;
use std::sync::Arc;

use maquette::Generator;
use maquette::model::files::folder::ModelType;
use maquette::model::janus::Janus;
use maquette::model::llamagen::{
    Condition, LlamaGen, LlamaGenConfig, LlamaGenPrompts, LlamaGenSession,
};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::raster::{RasterModel, RasterOptions};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
use maquette::model::t5::{T5, T5Config};
use maquette::model::vq::{Vq, VqConfig};
use maquette::ops::Backend;
use serde_json::Value;

use super::Res;
use super::adapters::AdapterFolder;
use super::folder::{Folder, Reading};
use super::judging::{Judging, janus};
use super::options::{Options, describe_raster, describe_show_o};
use super::text::{Text, labels, tokenizer};

/// Where a generator lies, and its parts that are published apart.
#[derive(Debug)]
pub struct Folders<'a> {
    pub model: &'a Path,
    pub tokenizer: Option<&'a Path>,
    pub text: Option<&'a Path>,
    pub adapters: Option<&'a AdapterFolder>,
}

/// A loaded generator with its settings.
pub enum Drawing<B: Backend> {
    ShowO {
        model: Arc<ShowO<B>>,
        pixels: Arc<Magvit<B>>,
        text: Text,
        options: ShowOOptions,
    },
    LlamaGen {
        model: Arc<LlamaGen<B>>,
        pixels: Arc<Vq<B>>,
        encoder: Option<Arc<T5<B>>>,
        text: Text,
        options: RasterOptions,
    },
    Janus {
        model: Arc<Janus<B>>,
        text: Text,
        options: RasterOptions,
    },
}

impl<B: Backend> std::fmt::Debug for Drawing<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ShowO { options, .. } => f.debug_tuple("ShowO").field(options).finish(),
            Self::LlamaGen { options, .. } => f.debug_tuple("LlamaGen").field(options).finish(),
            Self::Janus { options, .. } => f.debug_tuple("Janus").field(options).finish(),
        }
    }
}

impl Folders<'_> {
    /// The folder of the image tokenizer that this generator needs.
    fn image_tokenizer(&self, of: &str, want: ModelType) -> Res<Folder> {
        match self.tokenizer {
            Some(path) => Folder::of(path, want),
            None => Err(format!(
                "{}: {of} whose image tokenizer is published apart: name its folder with --tokenizer-dir",
                self.model.display()
            )
            .into()),
        }
    }

    /// The folder of the text tokenizer.
    fn words(&self) -> &Path {
        self.text.unwrap_or(self.model)
    }
}

impl<B: Backend + 'static> Drawing<B> {
    /// Reads a generator of any kind.
    pub fn load(reading: &Reading<B>, folders: &Folders<'_>, options: &Options) -> Res<Self> {
        let folder = Folder::open(folders.model)?;
        match folder.model() {
            ModelType::ShowO => show_o(reading, &folder, folders, options),
            ModelType::LlamaGen => llamagen(reading, &folder, folders, options),
            ModelType::Janus => {
                if folders.tokenizer.is_some() {
                    return Err("--tokenizer-dir: a Janus holds its image tokenizer itself".into());
                }
                let (model, text) = janus(reading, &folder, folders.words(), folders.adapters)?;
                let options =
                    options.raster(model.config().options(), RasterModel::grid(&*model))?;
                Ok(Self::Janus {
                    model,
                    text,
                    options,
                })
            }
            _ => Err(folder.instead_of("a generator (Show-o, LlamaGen or Janus)")),
        }
    }

    /// The judge that lies in the same weights.
    pub fn judging(&self) -> Option<Judging<B>> {
        match self {
            Self::Janus { model, text, .. } => {
                Some(Judging::Janus(Arc::clone(model), Arc::clone(text)))
            }
            Self::ShowO { .. } | Self::LlamaGen { .. } => None,
        }
    }

    /// A session in which so many candidates can be alive, and whether their hidden rows can be seen.
    pub fn session(&self, candidates: usize, hidden: bool) -> Res<Box<dyn Generator>> {
        let raster = |options: &RasterOptions| {
            let mut o = *options;
            (o.candidates, o.batch) = (candidates, candidates.min(o.batch));
            o.hidden = hidden;
            o
        };
        Ok(match self {
            Self::ShowO {
                model,
                pixels,
                text,
                options,
            } => {
                let mut o = *options;
                (o.candidates, o.batch) = (candidates, candidates.min(o.batch));
                o.hidden = hidden;
                let (model, pixels) = (Arc::clone(model), Arc::clone(pixels));
                Box::new(ShowOSession::new(model, pixels, Arc::clone(text), o)?)
            }
            Self::LlamaGen {
                model,
                pixels,
                encoder,
                text,
                options,
            } => {
                let (model, pixels) = (Arc::clone(model), Arc::clone(pixels));
                let reader =
                    LlamaGenPrompts::new(Arc::clone(&model), encoder.clone(), Arc::clone(text))?;
                Box::new(LlamaGenSession::new(
                    model,
                    pixels,
                    reader,
                    raster(options),
                )?)
            }
            Self::Janus {
                model,
                text,
                options,
            } => Box::new(model.draw(Arc::clone(text), raster(options))?),
        })
    }

    /// Whether it draws code by code.
    pub fn is_raster(&self) -> bool {
        !matches!(self, Self::ShowO { .. })
    }

    /// Everything beside the weights that decides what is drawn.
    pub fn describe(&self) -> Value {
        match self {
            Self::ShowO { options, .. } => describe_show_o(options),
            Self::LlamaGen { model, options, .. } => describe_raster(options, model.grid()),
            Self::Janus { model, options, .. } => describe_raster(options, model.grid()),
        }
    }
}

fn show_o<B: Backend>(
    reading: &Reading<B>,
    folder: &Folder,
    folders: &Folders<'_>,
    options: &Options,
) -> Res<Drawing<B>> {
    let options = options.show_o()?;
    let pixels = folders.image_tokenizer("a Show-o", ModelType::Magvit)?;
    let text = tokenizer(folders.words())?;
    let config = folder.config(ShowOConfig::from_json)?;
    let mut model = folder.read(reading, |device, source, format| {
        ShowO::load(device, config, source, format)
    })?;
    if let Some(adapters) = folders.adapters {
        model = adapters.beside(model, ShowO::with_adapters)?;
    }
    let config = pixels.config(MagvitConfig::from_json)?;
    let pixels = pixels.load(reading, |device, source, format| {
        Magvit::load(device, config, source, format)
    })?;
    Ok(Drawing::ShowO {
        model: Arc::new(model),
        pixels,
        text,
        options,
    })
}

fn llamagen<B: Backend>(
    reading: &Reading<B>,
    folder: &Folder,
    folders: &Folders<'_>,
    options: &Options,
) -> Res<Drawing<B>> {
    if folders.adapters.is_some() {
        return Err("--adapters: a LlamaGen takes none".into());
    }
    let config = folder.config(LlamaGenConfig::from_json)?;
    let options = options.raster(config.options(), [config.grid; 2])?;
    let pixels = folders.image_tokenizer("a LlamaGen", ModelType::LlamaGenVq)?;
    let (encoder, text) = match config.condition {
        Condition::Class { .. } => (None, labels(folders.words())?),
        _ => {
            let path = folders.text.ok_or_else(|| {
                let path = folder.path.display();
                format!("{path}: a LlamaGen that reads text through a flan-T5: name its folder with --text-dir")
            })?;
            let (folder, text) = (Folder::of(path, ModelType::T5)?, tokenizer(path)?);
            let config = folder.config(T5Config::from_json)?;
            let encoder = folder.load(reading, |device, source, format| {
                T5::load(device, config, source, format)
            })?;
            (Some(encoder), text)
        }
    };
    let model = folder.load(reading, |device, source, format| {
        LlamaGen::load(device, config, source, format)
    })?;
    let config = pixels.config(VqConfig::from_json)?;
    let pixels = pixels.load(reading, |device, source, format| {
        Vq::load(device, config, source, format)
    })?;
    Ok(Drawing::LlamaGen {
        model,
        pixels,
        encoder,
        text,
        options,
    })
}
