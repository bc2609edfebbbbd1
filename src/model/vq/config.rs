//! Dimensions of a VQ tokenizer.

use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, Result};
#[cfg(feature = "safetensors")]
use crate::model::files::config::JsonConfig;
use crate::model::vqgan::{Channels, within};

/// Dimensions of a VQ tokenizer. Level 0 has the full resolution, each further level half of it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VqConfig {
    /// Channels that the multipliers multiply.
    pub base_channels: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Added to the variance in every group norm.
    pub norm_eps: f32,
    /// Entries of the codebook.
    pub codebook_size: usize,
    /// Width of an entry.
    pub codebook_embed_dim: usize,
    /// Whether entries and latents are brought to length 1.
    pub codebook_l2_norm: bool,
    /// Channels between the codebook's projections and the convolutions.
    pub z_channels: usize,
    /// Channels of each encoder level, in base channels.
    pub encoder_ch_mult: Vec<usize>,
    /// Channels of each decoder level, in base channels.
    pub decoder_ch_mult: Vec<usize>,
    /// Residual blocks of every encoder level.
    pub encoder_res_blocks: usize,
    /// Residual blocks of every decoder level.
    pub decoder_res_blocks: usize,
    /// Rows and columns of a square picture.
    pub image_size: usize,
}

impl VqConfig {
    /// VQ-16 of LlamaGen and Janus: a code for 16 × 16 pixels.
    ///
    /// ```
    /// use maquette::model::vq::VqConfig;
    /// assert_eq!(VqConfig::vq_16().scale(), 16);
    /// assert_eq!(VqConfig::vq_8().scale(), 8);
    /// ```
    #[must_use]
    pub fn vq_16() -> Self {
        Self {
            base_channels: 128,
            norm_groups: 32,
            norm_eps: 1e-6,
            codebook_size: 16384,
            codebook_embed_dim: 8,
            codebook_l2_norm: true,
            z_channels: 256,
            encoder_ch_mult: vec![1, 1, 2, 2, 4],
            decoder_ch_mult: vec![1, 1, 2, 2, 4],
            encoder_res_blocks: 2,
            decoder_res_blocks: 3,
            image_size: 256,
        }
    }

    /// VQ-8 of LlamaGen: a code for 8 × 8 pixels.
    #[must_use]
    pub fn vq_8() -> Self {
        Self {
            encoder_ch_mult: vec![1, 2, 2, 4],
            decoder_ch_mult: vec![1, 2, 2, 4],
            ..Self::vq_16()
        }
    }

    /// Reads a `config.json`. A key that it lacks keeps its released value: VQ-16's, or VQ-8's where `downsample` is 8.
    ///
    /// # Errors
    /// A value of the wrong kind, and everything that [`check`](Self::check) finds.
    #[cfg(feature = "safetensors")]
    pub fn from_json(json: &JsonConfig) -> Result<Self> {
        let downsample = json.optional_size("downsample")?;
        let r = if downsample == Some(8) {
            Self::vq_8()
        } else {
            Self::vq_16()
        };
        let list = |key, default| Ok::<_, Error>(json.optional_sizes(key)?.unwrap_or(default));
        let config = Self {
            base_channels: json.size_or("base_channels", r.base_channels)?,
            norm_groups: json.size_or("norm_groups", r.norm_groups)?,
            norm_eps: json.float_or("norm_eps", r.norm_eps)?,
            codebook_size: json.size_or("codebook_size", r.codebook_size)?,
            codebook_embed_dim: json.size_or("codebook_embed_dim", r.codebook_embed_dim)?,
            codebook_l2_norm: json.flag_or("codebook_l2_norm", r.codebook_l2_norm)?,
            z_channels: json.size_or("z_channels", r.z_channels)?,
            encoder_ch_mult: list("encoder_ch_mult", r.encoder_ch_mult)?,
            decoder_ch_mult: list("decoder_ch_mult", r.decoder_ch_mult)?,
            encoder_res_blocks: json.size_or("encoder_res_blocks", r.encoder_res_blocks)?,
            decoder_res_blocks: json.size_or("decoder_res_blocks", r.decoder_res_blocks)?,
            image_size: json.size_or("image_size", r.image_size)?,
        };
        config.check()?;
        if downsample.is_some_and(|d| d != config.scale()) {
            return Err(Error::Config {
                key: "downsample",
                problem: "is not two to the power of the levels but one",
            });
        }
        Ok(config)
    }

    /// Checks that the dimensions agree with each other and lie within what any such model uses.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        self.channels().check()?;
        within("codebook_size", self.codebook_size, 1, 1 << 24)?;
        within("codebook_embed_dim", self.codebook_embed_dim, 1, 1 << 12)?;
        within("z_channels", self.z_channels, 1, 1 << 14)?;
        // The table of latents is made of two small tensors.
        let latents = self.codebook_size * self.z_channels;
        within("codebook_size times z_channels", latents, 1, 1 << 24)?;
        within("encoder_res_blocks", self.encoder_res_blocks, 1, 64)?;
        within("decoder_res_blocks", self.decoder_res_blocks, 1, 64)?;
        within("image_size", self.image_size, 1, 8192)?;
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::Config {
                key: "norm_eps",
                problem: "is not a finite number of zero or more",
            });
        }
        if !self.image_size.is_multiple_of(self.scale()) {
            return Err(Error::Config {
                key: "image_size",
                problem: "cannot be halved once a level",
            });
        }
        Ok(())
    }

    /// Pixels along one side of a code's square.
    #[must_use]
    pub fn scale(&self) -> usize {
        self.channels().scale()
    }

    /// Rows and columns of a square picture's codes.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.image_size / self.scale()
    }

    pub(super) fn channels(&self) -> Channels<'_> {
        Channels {
            base: self.base_channels,
            groups: self.norm_groups,
            encoder: &self.encoder_ch_mult,
            decoder: &self.decoder_ch_mult,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contradiction_is_named() {
        let change = |f: fn(&mut VqConfig)| {
            let mut config = VqConfig::vq_16();
            f(&mut config);
            config.check()
        };
        assert!(change(|_| {}).is_ok());
        assert!(matches!(
            change(|c| c.image_size = 264),
            Err(Error::Config {
                key: "image_size",
                ..
            })
        ));
        assert!(matches!(
            change(|c| c.norm_groups = 3),
            Err(Error::Config {
                key: "norm_groups",
                ..
            })
        ));
        assert!(change(|c| c.codebook_size = 0).is_err());
        assert!(change(|c| c.encoder_ch_mult = vec![1]).is_err());
        assert!(change(|c| c.decoder_ch_mult = vec![]).is_err());
        assert!(change(|c| c.base_channels = usize::MAX).is_err());
        assert!(change(|c| c.norm_eps = f32::NAN).is_err());
    }

    #[cfg(feature = "safetensors")]
    #[test]
    fn the_downsampling_chooses_the_released_model() {
        let read = |text| VqConfig::from_json(&JsonConfig::parse(text).unwrap());
        assert_eq!(read("{}").unwrap(), VqConfig::vq_16());
        assert_eq!(read(r#"{"downsample": 8}"#).unwrap(), VqConfig::vq_8());
        assert!(read(r#"{"downsample": 4}"#).is_err());
    }
}
