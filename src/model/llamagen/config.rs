//! Dimensions of LlamaGen models.

use crate::error::{Error, Result};
#[cfg(feature = "safetensors")]
use crate::model::files::config::JsonConfig;
use crate::model::raster::RasterOptions;
use crate::model::transformer::{Mlp, Norm, Rotary, StackConfig};
use crate::ops::conv::Rounding;
use crate::ops::sample::Filter;

/// What a LlamaGen model draws from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Text: features of a text encoder.
    Text {
        /// Most rows of features.
        tokens: usize,
        /// Width of a row of features.
        width: usize,
    },
    /// One of so many classes.
    Class {
        /// Number of classes.
        classes: usize,
    },
}

/// A published size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LlamaGenSize {
    /// GPT-B: 12 layers, width 768.
    B,
    /// GPT-L: 24 layers, width 1024.
    L,
    /// GPT-XL: 36 layers, width 1280; the text-conditional models have this size.
    Xl,
    /// GPT-XXL: 48 layers, width 1536.
    Xxl,
    /// GPT-XXXL: 48 layers, width 2560.
    Xxxl,
    /// GPT-1B: 22 layers, width 2048.
    OneB,
    /// GPT-3B: 24 layers, width 3200.
    ThreeB,
    /// GPT-7B: 32 layers, width 4096.
    SevenB,
}

/// Shape of a LlamaGen model.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LlamaGenConfig {
    /// Width of a row.
    pub dim: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; the published models have as many as query heads.
    pub n_kv_head: usize,
    /// Inner width of the MLP.
    pub ffn_hidden: usize,
    /// Added to mean squares.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Codes.
    pub vocab_size: usize,
    /// Rows and columns of the grid.
    pub grid: usize,
    /// What it draws from.
    pub condition: Condition,
}

/// Text tokens that the released models read.
const CAPTION_TOKENS: usize = 120;
/// Width of a row of flan-T5-XL.
const CAPTION_WIDTH: usize = 2048;
/// Classes of ImageNet.
const CLASSES: usize = 1000;

impl LlamaGenConfig {
    /// A published class-conditional model for a grid of `grid` × `grid` codes: 16 at 256 pixels and 24 at 384 with
    /// VQ-16, 32 at 256 with VQ-8.
    ///
    /// ```
    /// use maquette::model::llamagen::{LlamaGenConfig, LlamaGenSize};
    /// let config = LlamaGenConfig::released(LlamaGenSize::ThreeB, 24);
    /// assert_eq!(config.head_dim(), 100);
    /// assert_eq!(config.ffn_hidden, 8704);
    /// ```
    #[must_use]
    pub fn released(size: LlamaGenSize, grid: usize) -> Self {
        let (n_layer, n_head, dim) = match size {
            LlamaGenSize::B => (12, 12, 768),
            LlamaGenSize::L => (24, 16, 1024),
            LlamaGenSize::Xl => (36, 20, 1280),
            LlamaGenSize::Xxl => (48, 24, 1536),
            LlamaGenSize::Xxxl => (48, 40, 2560),
            LlamaGenSize::OneB => (22, 32, 2048),
            LlamaGenSize::ThreeB => (24, 32, 3200),
            LlamaGenSize::SevenB => (32, 32, 4096),
        };
        Self {
            dim,
            n_layer,
            n_head,
            n_kv_head: n_head,
            ffn_hidden: ffn_hidden(dim, 256),
            norm_eps: 1e-5,
            rope_base: 10000.0,
            vocab_size: 16384,
            grid,
            condition: Condition::Class { classes: CLASSES },
        }
    }

    /// The published text-conditional model: size XL, 16 × 16 codes at 256 pixels (stage 1) or 32 × 32 at 512 (stage 2).
    #[must_use]
    pub fn released_text(grid: usize) -> Self {
        Self {
            condition: Condition::Text {
                tokens: CAPTION_TOKENS,
                width: CAPTION_WIDTH,
            },
            ..Self::released(LlamaGenSize::Xl, grid)
        }
    }

    /// Reads a `config.json`. `dim`, `n_layer`, `n_head` and `grid` must be there; a model with `num_classes` draws
    /// classes, any other text.
    ///
    /// # Errors
    /// A key that is missing or of the wrong type, or a shape that [`check`](Self::check) refuses.
    #[cfg(feature = "safetensors")]
    pub fn from_json(json: &JsonConfig) -> Result<Self> {
        let (dim, n_head) = (json.size("dim")?, json.size("n_head")?);
        let multiple = json.size_or("multiple_of", 256)?;
        let condition = match json.optional_size("num_classes")? {
            Some(classes) => Condition::Class { classes },
            None => Condition::Text {
                tokens: json.size_or("cls_token_num", CAPTION_TOKENS)?,
                width: json.size_or("caption_dim", CAPTION_WIDTH)?,
            },
        };
        let config = Self {
            dim,
            n_layer: json.size("n_layer")?,
            n_head,
            n_kv_head: json.size_or("n_kv_head", n_head)?,
            ffn_hidden: json.size_or("ffn_hidden", ffn_hidden(dim, multiple))?,
            norm_eps: json.float_or("norm_eps", 1e-5)?,
            rope_base: json.float_or("rope_base", 10000.0)?,
            vocab_size: json.size_or("vocab_size", 16384)?,
            grid: json.size("grid")?,
            condition,
        };
        config.check()?;
        for (key, want) in [
            ("head_dim", config.head_dim()),
            ("block_size", config.places()),
        ] {
            if json.size_or(key, want)? != want {
                return Err(Error::Config {
                    key,
                    problem: "contradicts the other sizes",
                });
            }
        }
        Ok(config)
    }

    /// Fails if the sizes contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        let condition = match self.condition {
            Condition::Text { tokens, width } => [
                ("cls_token_num", tokens, 1 << 16),
                ("caption_dim", width, 1 << 16),
            ],
            Condition::Class { classes } => [("num_classes", classes, 1 << 24), ("", 1, 1)],
        };
        let sizes = [
            ("grid", self.grid, 1 << 8),
            ("vocab_size", self.vocab_size, 1 << 24),
        ];
        for (arg, got, max) in sizes.into_iter().chain(condition) {
            if got == 0 || got > max {
                return Err(Error::Range {
                    op: "config",
                    arg,
                    got: got as u64,
                    min: 1,
                    max: max as u64,
                });
            }
        }
        if self.n_head == 0 || !self.dim.is_multiple_of(self.n_head) {
            return Err(Error::Config {
                key: "n_head",
                problem: "does not divide dim",
            });
        }
        // Half of a head turns with the row, half with the column, each in pairs.
        if !self.head_dim().is_multiple_of(4) {
            return Err(Error::Config {
                key: "head_dim",
                problem: "is no multiple of 4",
            });
        }
        self.stack().check()
    }

    /// Width of a head.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        match self.dim.checked_div(self.n_head) {
            Some(width) => width,
            None => 0,
        }
    }

    /// Codes of a picture.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.grid.saturating_mul(self.grid)
    }

    /// Most rows of a prefix.
    #[must_use]
    pub const fn prefix_limit(&self) -> usize {
        match self.condition {
            Condition::Text { tokens, .. } => tokens,
            Condition::Class { .. } => 1,
        }
    }

    /// Settings of the released scripts: guidance 7.5 and top-k 1000 for text, 4 and 2000 for classes.
    #[must_use]
    pub fn options(&self) -> RasterOptions {
        let (guidance_scale, top_k) = match self.condition {
            Condition::Text { .. } => (7.5, 1000),
            Condition::Class { .. } => (4.0, 2000),
        };
        RasterOptions {
            guidance_scale,
            filter: Filter::default().with_top_k(top_k),
            rounding: Rounding::Nearest,
            ..RasterOptions::default()
        }
    }

    pub(super) fn stack(&self) -> StackConfig {
        StackConfig {
            layers: self.n_layer,
            width: self.dim,
            n_heads: self.n_head,
            n_kv_heads: self.n_kv_head,
            head_dim: self.head_dim(),
            mlp_width: self.ffn_hidden,
            norm: Norm::Rms,
            eps: self.norm_eps,
            parallel: false,
            qk_norm: false,
            qkv_bias: false,
            out_bias: false,
            mlp: Mlp::Gated,
            // One position a place, and one for the prefix, whose rotation annihilates.
            rotary: Some(Rotary {
                dim: self.head_dim(),
                theta: self.rope_base,
                positions: self.places() + 1,
            }),
        }
    }
}

/// Two thirds of four times the width, up to the next multiple.
const fn ffn_hidden(dim: usize, multiple: usize) -> usize {
    let wanted = dim.saturating_mul(4).saturating_mul(2) / 3;
    match wanted.checked_next_multiple_of(multiple) {
        Some(width) => width,
        None => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_sizes_have_their_inner_widths() {
        for (size, ffn, head) in [
            (LlamaGenSize::B, 2048, 64),
            (LlamaGenSize::L, 2816, 64),
            (LlamaGenSize::Xl, 3584, 64),
            (LlamaGenSize::Xxl, 4096, 64),
            (LlamaGenSize::Xxxl, 6912, 64),
            (LlamaGenSize::OneB, 5632, 64),
            (LlamaGenSize::ThreeB, 8704, 100),
            (LlamaGenSize::SevenB, 11008, 128),
        ] {
            let c = LlamaGenConfig::released(size, 24);
            c.check().unwrap();
            assert_eq!((c.ffn_hidden, c.head_dim()), (ffn, head));
        }
    }

    #[test]
    fn a_contradiction_is_named() {
        let change = |f: fn(&mut LlamaGenConfig)| {
            let mut c = LlamaGenConfig::released_text(16);
            f(&mut c);
            c.check()
        };
        assert!(change(|_| {}).is_ok());
        assert!(matches!(
            change(|c| c.n_head = 7),
            Err(Error::Config { key: "n_head", .. })
        ));
        assert!(matches!(
            change(|c| c.n_head = 640),
            Err(Error::Config {
                key: "head_dim",
                ..
            })
        ));
        assert!(change(|c| c.grid = 0).is_err());
        assert!(change(|c| c.grid = usize::MAX).is_err());
        assert!(change(|c| c.condition = Condition::Class { classes: 0 }).is_err());
        assert!(change(|c| c.n_kv_head = 0).is_err());
        assert!(change(|c| c.norm_eps = f32::NAN).is_err());
        assert!(change(|c| c.dim = usize::MAX).is_err());
    }
}
