//! What a LLaVA-OneVision checkpoint says about itself.

use alloc::vec::Vec;

use super::Templates;
use crate::error::{Error, Result};
use crate::image::ImageSize;
use crate::model::transformer::{Mlp, Norm, Rotary, StackConfig};
use crate::model::vision::VisionConfig;
use crate::prompt::TokenId;

/// Shape of the language model; the default is Qwen2-7B.
///
/// # Source
/// Yang et al., "Qwen2 Technical Report", arXiv 2407.10671.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TextConfig {
    /// Width of a row.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Inner width of the gated MLP.
    pub mlp_width: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Base of the rotary frequencies.
    pub theta: f32,
    /// Added to variances.
    pub eps: f32,
    /// Positions that a session may use.
    pub positions: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            width: 3584,
            layers: 28,
            n_heads: 28,
            n_kv_heads: 4,
            head_dim: 128,
            mlp_width: 18944,
            vocab: 152_064,
            theta: 1e6,
            eps: 1e-6,
            positions: 32_768,
            qkv_bias: true,
        }
    }
}

impl TextConfig {
    pub(in crate::model) const fn stack(&self) -> StackConfig {
        StackConfig {
            layers: self.layers,
            width: self.width,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            mlp_width: self.mlp_width,
            norm: Norm::Rms,
            eps: self.eps,
            parallel: false,
            qk_norm: false,
            qkv_bias: self.qkv_bias,
            out_bias: false,
            mlp: Mlp::Gated,
            rotary: Some(Rotary {
                dim: self.head_dim,
                theta: self.theta,
                positions: self.positions,
            }),
        }
    }
}

/// How a picture becomes square views.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Aspect {
    /// One view: the picture filled up to a square. What the released search uses.
    #[default]
    Pad,
    /// The whole picture, and tiles of it at the resolution that suits it best. What the judges were trained with.
    AnyRes {
        /// Resolutions to choose from, multiples of the image size.
        pinpoints: Vec<ImageSize>,
        /// Tiles' worth of patches that are kept.
        max: usize,
    },
    /// One view: the picture resized to fit, then filled up to a square. As Janus sees.
    Fit {
        /// Smallest side of the resized picture.
        min: u32,
    },
}

/// Everything about a judge but its weights.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LlavaConfig {
    /// The image tower.
    pub vision: VisionConfig,
    /// The language model.
    pub text: TextConfig,
    /// Token of "yes".
    pub yes_id: TokenId,
    /// Token of "no".
    pub no_id: TokenId,
    /// Further tokens that read as yes and as no: their probabilities are added to those of the first two. A reader
    /// of two rows leaves them out.
    pub other_answers: Vec<[TokenId; 2]>,
    /// How a picture becomes views.
    pub aspect: Aspect,
    /// The questions.
    pub templates: Templates,
}

impl Default for LlavaConfig {
    /// The released 7B judge, asked as its search asks it.
    fn default() -> Self {
        Self {
            vision: VisionConfig::default(),
            text: TextConfig::default(),
            yes_id: 9693,
            no_id: 2152,
            other_answers: Vec::new(),
            aspect: Aspect::Pad,
            templates: Templates::released(),
        }
    }
}

impl LlavaConfig {
    /// Fails if the sizes contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        self.vision.check()?;
        self.text.stack().check()?;
        let vocab = self.text.vocab;
        if vocab == 0 || vocab > 1 << 24 {
            return Err(Error::Range {
                op: "config",
                arg: "vocab_size",
                got: vocab as u64,
                min: 1,
                max: 1 << 24,
            });
        }
        let answers = [[self.yes_id, self.no_id]];
        let mut answers = answers.iter().chain(&self.other_answers).flatten();
        while let Some(&id) = answers.next() {
            if id as usize >= vocab || answers.clone().any(|&other| other == id) {
                return Err(Error::Config {
                    key: "yes_id",
                    problem: "and no_id are not two tokens of the vocabulary",
                });
            }
        }
        if let Aspect::Fit { min } = self.aspect
            && (min == 0 || min as usize > self.vision.image_size)
        {
            return Err(Error::Config {
                key: "min_size",
                problem: "is not between 1 and image_size",
            });
        }
        if let Aspect::AnyRes { pinpoints, max } = &self.aspect {
            let side = self.vision.image_size;
            let whole =
                |n: u32| n > 0 && (n as usize).is_multiple_of(side) && n as usize / side <= 64;
            if pinpoints.is_empty() || !pinpoints.iter().all(|p| whole(p.height) && whole(p.width))
            {
                return Err(Error::Config {
                    key: "image_grid_pinpoints",
                    problem: "has none, or one that is no multiple",
                });
            }
            if !(1..=64).contains(max) {
                return Err(Error::Config {
                    key: "image_aspect_ratio",
                    problem: "keeps no tile or more than 64",
                });
            }
        }
        Ok(())
    }

    /// Most views of one picture.
    pub(super) fn views(&self) -> usize {
        match &self.aspect {
            Aspect::Pad | Aspect::Fit { .. } => 1,
            Aspect::AnyRes { pinpoints, .. } => {
                let side = self.vision.image_size.max(1);
                let tiles = |p: &ImageSize| (p.height as usize / side) * (p.width as usize / side);
                1 + pinpoints.iter().map(tiles).max().unwrap_or(0)
            }
        }
    }

    /// Most rows of one picture.
    pub(super) fn image_rows(&self) -> usize {
        let (grid, patches) = (self.vision.grid(), self.vision.patches());
        match &self.aspect {
            Aspect::Pad => patches + 1,
            Aspect::Fit { .. } => patches,
            Aspect::AnyRes { pinpoints, max } => {
                let side = self.vision.image_size.max(1);
                let down = pinpoints
                    .iter()
                    .map(|p| p.height as usize / side)
                    .max()
                    .unwrap_or(0);
                // Up to 1.1² of `max` tiles stay as they are, and every row of patches has a newline.
                let kept = (patches * max * 121)
                    .div_ceil(100)
                    .min(patches * (self.views() - 1));
                patches + kept + down * grid
            }
        }
    }
}

#[cfg(feature = "safetensors")]
mod json {
    use alloc::string::ToString;

    use super::{Aspect, LlavaConfig, Templates, TextConfig};
    use crate::error::{Error, Result};
    use crate::image::ImageSize;
    use crate::model::files::config::JsonConfig;
    use crate::model::vision::VisionConfig;

    fn pixels(n: usize) -> Result<u32> {
        u32::try_from(n).map_err(|_| Error::Config {
            key: "image_grid_pinpoints",
            problem: "is too large",
        })
    }

    impl LlavaConfig {
        /// Reads a `config.json`: the original flat form, the transformers form (`text_config`, `vision_config`), or
        /// the bundled one (`text`, `vision`, `yes_id`, `no_id`, `templates`). What a form leaves out is that of the
        /// released judge: SigLIP so400m, the token ids of Qwen2, the released questions. The view mode is pad unless
        /// the bundled form says otherwise: the original judges were trained with tiles and are asked without; set
        /// [`aspect`](Self::aspect) for the other.
        ///
        /// # Errors
        /// A value of another kind, a size the text tower needs, or sizes that contradict each other.
        pub fn from_json(json: &JsonConfig) -> Result<Self> {
            let released = Self::default();
            let text = json.child("text").or_else(|| json.child("text_config"));
            let vision = json.child("vision").or_else(|| json.child("vision_config"));
            let mut config = Self {
                vision: vision.map_or(Ok(released.vision), |v| vision_config(&v))?,
                text: text_config(text.as_ref().unwrap_or(json))?,
                yes_id: u32::try_from(json.size_or("yes_id", released.yes_id as usize)?)
                    .unwrap_or(u32::MAX),
                no_id: u32::try_from(json.size_or("no_id", released.no_id as usize)?)
                    .unwrap_or(u32::MAX),
                other_answers: released.other_answers,
                aspect: Aspect::Pad,
                templates: released.templates,
            };
            let bundled = json.has("yes_id");
            if let Some(max) = json
                .text("image_aspect_ratio")
                .filter(|_| bundled)
                .and_then(|a| a.strip_prefix("anyres_max_"))
            {
                let max = max.parse().map_err(|_| Error::Config {
                    key: "image_aspect_ratio",
                    problem: "has no number",
                })?;
                let pair = |[width, height]: [usize; 2]| {
                    Ok(ImageSize::new(pixels(height)?, pixels(width)?))
                };
                let pinpoints = json
                    .pairs("image_grid_pinpoints")?
                    .into_iter()
                    .map(pair)
                    .collect::<Result<_>>()?;
                config.aspect = Aspect::AnyRes { pinpoints, max };
            }
            if let Some(t) = json.child("templates") {
                let text = |key: &'static str| {
                    t.text(key).map(ToString::to_string).ok_or(Error::Config {
                        key,
                        problem: "is no text",
                    })
                };
                config.templates = Templates {
                    outcome: text("outcome")?,
                    process: text("process")?,
                    clarity: text("clarity")?,
                    potential: text("potential")?,
                };
            }
            config.check()?;
            Ok(config)
        }
    }

    fn text_config(json: &JsonConfig) -> Result<TextConfig> {
        let d = TextConfig::default();
        let width = json.size("hidden_size")?;
        let n_heads = json.size("num_attention_heads")?;
        let theta = json
            .child("rope_parameters")
            .or_else(|| json.child("rope_scaling"));
        let theta = theta
            .filter(|t| t.has("rope_theta"))
            .unwrap_or_else(|| json.clone());
        Ok(TextConfig {
            width,
            layers: json.size("num_hidden_layers")?,
            n_heads,
            n_kv_heads: json.size_or("num_key_value_heads", n_heads)?,
            head_dim: json.size_or("head_dim", width / n_heads.max(1))?,
            mlp_width: json.size("intermediate_size")?,
            vocab: json.size("vocab_size")?,
            theta: theta.float_or("rope_theta", d.theta)?,
            eps: json.float_or("rms_norm_eps", d.eps)?,
            positions: json
                .size_or("max_position_embeddings", 8192)?
                .min(d.positions),
            qkv_bias: true,
        })
    }

    fn vision_config(json: &JsonConfig) -> Result<VisionConfig> {
        let d = VisionConfig::default();
        Ok(VisionConfig {
            image_size: json.size_or("image_size", d.image_size)?,
            patch_size: json.size_or("patch_size", d.patch_size)?,
            width: json.size_or("hidden_size", d.width)?,
            n_heads: json.size_or("num_attention_heads", d.n_heads)?,
            mlp_width: json.size_or("intermediate_size", d.mlp_width)?,
            layers: json.size_or(
                "num_layers_kept",
                json.size_or("num_hidden_layers", d.layers)?,
            )?,
            eps: json.float_or("layer_norm_eps", d.eps)?,
            ..d
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_shape_is_legal_and_nonsense_is_not() {
        let good = LlavaConfig::default();
        good.check().unwrap();
        assert_eq!(good.image_rows(), 730);
        let spoil: [fn(&mut LlavaConfig); 8] = [
            |c| c.vision.patch_size = 0,
            |c| c.vision.n_heads = 7,
            |c| c.text.n_kv_heads = 5,
            |c| c.text.layers = 0,
            |c| c.text.mlp_width = usize::MAX,
            |c| c.yes_id = u32::MAX,
            |c| c.no_id = c.yes_id,
            |c| {
                c.aspect = Aspect::AnyRes {
                    pinpoints: Vec::from([ImageSize::new(383, 384)]),
                    max: 9,
                }
            },
        ];
        for (i, spoil) in spoil.iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(bad.check().is_err(), "{i}");
        }
    }

    #[test]
    fn tiles_have_room_for_every_picture() {
        let pinpoints: Vec<ImageSize> = (1..=6)
            .flat_map(|w| (1..=6).map(move |h| ImageSize::new(384 * h, 384 * w)))
            .collect();
        let config = LlavaConfig {
            aspect: Aspect::AnyRes { pinpoints, max: 9 },
            ..LlavaConfig::default()
        };
        config.check().unwrap();
        assert_eq!(config.views(), 37);
        assert_eq!(config.image_rows(), 729 + 7939 + 162);
    }
}
