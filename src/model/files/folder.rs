//! Folders in the layout of a downloaded model: which model it is, and which files hold its weights.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use super::config::JsonConfig;
use super::maquette::MaquetteSource;
use super::safetensors::SafetensorsSource;
use crate::error::{Error, Result};
use crate::model::llamagen::{Condition, LlamaGenConfig, LlamaGenSize};
use crate::model::weights::WeightSource;

/// A kind of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelType {
    /// Show-o, the generator.
    ShowO,
    /// MAGVIT-v2, the image tokenizer of Show-o.
    Magvit,
    /// LlamaGen's transformer.
    LlamaGen,
    /// LlamaGen's image tokenizer.
    LlamaGenVq,
    /// Janus and Janus-Pro.
    Janus,
    /// LLaVA-OneVision, the judge.
    Llava,
    /// A T5 text encoder.
    T5,
}

impl ModelType {
    /// The model that a `config.json` is of, in the original or the transformers layout.
    ///
    /// ```
    /// use maquette::model::files::{config::JsonConfig, folder::ModelType};
    /// let config = JsonConfig::parse(r#"{"model_type": "llava_onevision"}"#)?;
    /// assert_eq!(ModelType::of(&config)?, ModelType::Llava);
    /// # Ok::<(), maquette::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] for a configuration of no model that is known.
    pub fn of(config: &JsonConfig) -> Result<Self> {
        let text = |key| config.text(key).unwrap_or_default();
        let begins = |word: &str| text("model").starts_with(word);
        Ok(match (text("model_type"), text("_class_name")) {
            ("multi_modality" | "janus", _) => Self::Janus,
            ("llava_onevision" | "llava_qwen", _) => Self::Llava,
            ("llava" | "qwen2", _) if config.has("mm_vision_tower") => Self::Llava,
            ("t5", _) => Self::T5,
            (_, "MAGVITv2") => Self::Magvit,
            _ if config.has("llm_vocab_size") && config.has("num_vq_tokens") => Self::ShowO,
            _ if begins("show-o") => Self::ShowO,
            _ if begins("magvit") => Self::Magvit,
            _ if begins("llava") => Self::Llava,
            _ if begins("llamagen-vq") => Self::LlamaGenVq,
            _ if begins("llamagen") => Self::LlamaGen,
            _ if begins("janus") => Self::Janus,
            _ => {
                return Err(Error::Config {
                    key: "model_type",
                    problem: "is of no model that is known",
                });
            }
        })
    }
}

/// The file format that a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Container {
    /// `.safetensors`, this crate's own checkpoints among them.
    Safetensors,
    /// `.bin`, `.pt`, `.pth`.
    Torch,
    /// `.gguf`.
    Gguf,
}

impl Container {
    /// The format of a file of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "safetensors" => Some(Self::Safetensors),
            "bin" | "pt" | "pth" => Some(Self::Torch),
            "gguf" => Some(Self::Gguf),
            _ => None,
        }
    }

    /// Reads the table of a file.
    ///
    /// # Errors
    /// As the reader of the format, or [`Error::Unsupported`] where its feature is off.
    pub fn open<'a>(self, bytes: &'a [u8]) -> Result<Box<dyn WeightSource + 'a>> {
        match self {
            Self::Safetensors => {
                let file = SafetensorsSource::new(bytes)?;
                if MaquetteSource::is(&file) {
                    return Ok(Box::new(MaquetteSource::new(file)?));
                }
                Ok(Box::new(file))
            }
            Self::Torch => torch(bytes),
            Self::Gguf => gguf(bytes),
        }
    }
}

#[cfg(feature = "torch")]
fn torch<'a>(bytes: &'a [u8]) -> Result<Box<dyn WeightSource + 'a>> {
    Ok(Box::new(super::torch::TorchSource::new(bytes)?))
}

#[cfg(not(feature = "torch"))]
fn torch<'a>(_: &'a [u8]) -> Result<Box<dyn WeightSource + 'a>> {
    Err(Error::Unsupported {
        what: "reading torch files without the feature `torch`",
    })
}

#[cfg(feature = "gguf")]
fn gguf<'a>(bytes: &'a [u8]) -> Result<Box<dyn WeightSource + 'a>> {
    Ok(Box::new(super::gguf::GgufSource::new(bytes)?))
}

#[cfg(not(feature = "gguf"))]
fn gguf<'a>(_: &'a [u8]) -> Result<Box<dyn WeightSource + 'a>> {
    Err(Error::Unsupported {
        what: "reading GGUF files without the feature `gguf`",
    })
}

/// Where a folder's weights lie.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightFiles {
    /// In one file.
    One(String),
    /// In the files that this index names.
    Sharded(String),
}

/// Names that published models use, the preferred ones first.
const KNOWN: [&str; 7] = [
    "maquette.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.safetensors.index.json",
    "pytorch_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
];

impl WeightFiles {
    /// Picks the weights among a folder's files: a known name, else the only file of a known format.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none, or several without a known name.
    pub fn among(files: &[&str]) -> Result<Self> {
        if let Some(name) = KNOWN.iter().find(|name| files.contains(name)) {
            let name = String::from(*name);
            return Ok(if name.ends_with(".index.json") {
                Self::Sharded(name)
            } else {
                Self::One(name)
            });
        }
        let mut others = files.iter().filter(|name| Container::of(name).is_some());
        match (others.next(), others.next()) {
            (Some(name), None) => Ok(Self::One(String::from(*name))),
            (None, _) => Err(wrong("holds no weights")),
            (Some(_), Some(_)) => Err(wrong(
                "holds several files of weights, none with a known name",
            )),
        }
    }
}

/// The `config.json` that a file of weights is published without, as its name says: LlamaGen and its image tokenizers.
///
/// ```
/// use maquette::model::files::folder::implied_config;
/// assert!(implied_config("t2i_XL_stage1_256.pt").is_some());
/// assert!(implied_config("model.pt").is_none());
/// ```
#[must_use]
pub fn implied_config(file: &str) -> Option<String> {
    let name = file.strip_suffix(".pt")?;
    let config = match name {
        "vq_ds16_t2i" | "vq_ds16_c2i" => {
            return Some(String::from(
                r#"{"model": "llamagen-vq", "downsample": 16}"#,
            ));
        }
        "vq_ds8_c2i" => {
            return Some(String::from(r#"{"model": "llamagen-vq", "downsample": 8}"#));
        }
        "t2i_XL_stage1_256" => LlamaGenConfig::released_text(16),
        "t2i_XL_stage2_512" => LlamaGenConfig::released_text(32),
        _ => {
            let (size, pixels) = name.strip_prefix("c2i_")?.split_once('_')?;
            let size = match size {
                "B" => LlamaGenSize::B,
                "L" => LlamaGenSize::L,
                "XL" => LlamaGenSize::Xl,
                "XXL" => LlamaGenSize::Xxl,
                "3B" => LlamaGenSize::ThreeB,
                _ => return None,
            };
            let grid = match pixels {
                "256" => 16,
                "384" => 24,
                _ => return None,
            };
            LlamaGenConfig::released(size, grid)
        }
    };
    let classes = match config.condition {
        Condition::Class { classes } => format!(r#", "num_classes": {classes}"#),
        Condition::Text { .. } => String::new(),
    };
    let (dim, layers, heads, grid) = (config.dim, config.n_layer, config.n_head, config.grid);
    Some(format!(
        r#"{{"model": "llamagen", "dim": {dim}, "n_layer": {layers}, "n_head": {heads}, "grid": {grid}{classes}}}"#
    ))
}

const fn wrong(problem: &'static str) -> Error {
    Error::Format {
        format: "folder",
        problem,
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_configurations_are_recognised() {
        for (text, model) in [
            (
                r#"{"codebook_size": 8192, "llm_model_path": "microsoft/phi-1_5", "llm_vocab_size": 50295,
                    "mask_token_id": 58497, "num_vq_tokens": 256, "vocab_size": 58498, "w_clip_vit": false}"#,
                ModelType::ShowO,
            ),
            (
                r#"{"_class_name": "MAGVITv2", "_diffusers_version": "0.30.1"}"#,
                ModelType::Magvit,
            ),
            (
                r#"{"model_type": "qwen2", "mm_vision_tower": "google/siglip-so400m-patch14-384"}"#,
                ModelType::Llava,
            ),
            (r#"{"model_type": "llava_onevision"}"#, ModelType::Llava),
            (r#"{"model_type": "multi_modality"}"#, ModelType::Janus),
            (r#"{"model_type": "janus"}"#, ModelType::Janus),
            (r#"{"model_type": "t5"}"#, ModelType::T5),
        ] {
            let config = JsonConfig::parse(text).unwrap();
            assert_eq!(ModelType::of(&config).unwrap(), model);
        }
        for text in ["{}", r#"{"model_type": "qwen2"}"#, r#"{"model_type": 3}"#] {
            assert!(ModelType::of(&JsonConfig::parse(text).unwrap()).is_err());
        }
    }

    #[test]
    fn published_names_stand_for_their_configurations() {
        use crate::model::vq::VqConfig;
        let read = |name: &str| JsonConfig::parse(&implied_config(name).unwrap()).unwrap();
        for (name, want) in [
            ("t2i_XL_stage1_256.pt", LlamaGenConfig::released_text(16)),
            ("t2i_XL_stage2_512.pt", LlamaGenConfig::released_text(32)),
            (
                "c2i_B_256.pt",
                LlamaGenConfig::released(LlamaGenSize::B, 16),
            ),
            (
                "c2i_3B_384.pt",
                LlamaGenConfig::released(LlamaGenSize::ThreeB, 24),
            ),
        ] {
            let config = read(name);
            assert_eq!(ModelType::of(&config).unwrap(), ModelType::LlamaGen);
            assert_eq!(LlamaGenConfig::from_json(&config).unwrap(), want, "{name}");
        }
        for (name, want) in [
            ("vq_ds16_t2i.pt", VqConfig::vq_16()),
            ("vq_ds8_c2i.pt", VqConfig::vq_8()),
        ] {
            let config = read(name);
            assert_eq!(ModelType::of(&config).unwrap(), ModelType::LlamaGenVq);
            assert_eq!(VqConfig::from_json(&config).unwrap(), want, "{name}");
        }
        for name in ["c2i_B_256", "c2i_S_256.pt", "c2i_B_128.pt", "model.pt"] {
            assert_eq!(implied_config(name), None, "{name}");
        }
    }

    #[test]
    fn the_preferred_file_is_picked() {
        let pick = |files: &[&str]| WeightFiles::among(files).unwrap();
        let one = |name: &str| WeightFiles::One(name.into());
        assert_eq!(
            pick(&["pytorch_model.bin", "config.json", "model.safetensors"]),
            one("model.safetensors")
        );
        assert_eq!(
            pick(&[
                "pytorch_model.bin.index.json",
                "pytorch_model-00001-of-00002.bin"
            ]),
            WeightFiles::Sharded("pytorch_model.bin.index.json".into())
        );
        assert_eq!(
            pick(&["t2i_XL_stage1_256.pt", "README.md"]),
            one("t2i_XL_stage1_256.pt")
        );
        assert!(WeightFiles::among(&["a.pt", "b.pt"]).is_err());
        assert!(WeightFiles::among(&["config.json"]).is_err());
    }
}
