//! Dimensions of a MAGVIT-v2 tokenizer.

use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, Result};
#[cfg(feature = "safetensors")]
use crate::model::files::config::JsonConfig;
use crate::model::vqgan::{Channels, within};

/// Dimensions of a MAGVIT-v2 tokenizer. Level 0 has the full resolution, each further level half of it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MagvitConfig {
    /// Channels that the multipliers multiply.
    pub base_channels: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Added to the variance in every group norm.
    pub norm_eps: f32,
    /// Bits of a code.
    pub codebook_bits: usize,
    /// Entries of the codebook: two to the power of the bits.
    pub codebook_size: usize,
    /// Channels of the latent: one a bit.
    pub z_channels: usize,
    /// Channels of each encoder level, in base channels.
    pub encoder_ch_mult: Vec<usize>,
    /// Channels of each decoder level, in base channels.
    pub decoder_ch_mult: Vec<usize>,
    /// Residual blocks of each encoder level.
    pub encoder_res_blocks: Vec<usize>,
    /// Residual blocks of each decoder level.
    pub decoder_res_blocks: Vec<usize>,
    /// Rows and columns of a square picture.
    pub image_size: usize,
}

impl MagvitConfig {
    /// The released tokenizer of Show-o at 256 × 256 pixels.
    ///
    /// ```
    /// use maquette::model::magvit::MagvitConfig;
    /// let config = MagvitConfig::published();
    /// config.check()?;
    /// assert_eq!(config.grid(), 16);
    /// # Ok::<(), maquette::Error>(())
    /// ```
    #[must_use]
    pub fn published() -> Self {
        Self {
            base_channels: 128,
            norm_groups: 32,
            norm_eps: 1e-6,
            codebook_bits: 13,
            codebook_size: 8192,
            z_channels: 13,
            encoder_ch_mult: vec![1, 2, 2, 4, 4],
            decoder_ch_mult: vec![1, 1, 2, 2, 4],
            encoder_res_blocks: vec![4, 3, 4, 3, 4],
            decoder_res_blocks: vec![4, 4, 3, 4, 3],
            image_size: 256,
        }
    }

    /// Reads a `config.json`. A key that it lacks keeps its published value, as the released file has none of them;
    /// codebook size and latent channels follow the bits.
    ///
    /// # Errors
    /// A value of the wrong kind, and everything that [`check`](Self::check) finds.
    #[cfg(feature = "safetensors")]
    pub fn from_json(json: &JsonConfig) -> Result<Self> {
        let published = Self::published();
        let codebook_bits = json.size_or("codebook_bits", published.codebook_bits)?;
        let entries = u32::try_from(codebook_bits)
            .ok()
            .and_then(|bits| 1_usize.checked_shl(bits))
            .unwrap_or(0);
        let list = |key, default| Ok::<_, Error>(json.optional_sizes(key)?.unwrap_or(default));
        let config = Self {
            base_channels: json.size_or("base_channels", published.base_channels)?,
            norm_groups: json.size_or("norm_groups", published.norm_groups)?,
            norm_eps: json.float_or("norm_eps", published.norm_eps)?,
            codebook_bits,
            codebook_size: json.size_or("codebook_size", entries)?,
            z_channels: json.size_or("z_channels", codebook_bits)?,
            encoder_ch_mult: list("encoder_ch_mult", published.encoder_ch_mult)?,
            decoder_ch_mult: list("decoder_ch_mult", published.decoder_ch_mult)?,
            encoder_res_blocks: list("encoder_res_blocks", published.encoder_res_blocks)?,
            decoder_res_blocks: list("decoder_res_blocks", published.decoder_res_blocks)?,
            image_size: json.size_or("image_size", published.image_size)?,
        };
        config.check()?;
        if json.size_or("grid", config.grid())? != config.grid() {
            return Err(Error::Config {
                key: "grid",
                problem: "is not the image size halved once a level",
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
        within("codebook_bits", self.codebook_bits, 1, 31)?;
        within("image_size", self.image_size, 1, 8192)?;
        for (key, list) in [
            ("encoder_res_blocks", &self.encoder_res_blocks),
            ("decoder_res_blocks", &self.decoder_res_blocks),
        ] {
            if list.len() != self.levels() {
                return Err(Error::Config {
                    key,
                    problem: "has another number of levels than decoder_ch_mult",
                });
            }
            for &n in list {
                within(key, n, 1, 64)?;
            }
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::Config {
                key: "norm_eps",
                problem: "is not a finite number of zero or more",
            });
        }
        if self.codebook_size != 1 << self.codebook_bits {
            return Err(Error::Config {
                key: "codebook_size",
                problem: "is not two to the power of codebook_bits",
            });
        }
        if self.z_channels != self.codebook_bits {
            return Err(Error::Config {
                key: "z_channels",
                problem: "differs from codebook_bits",
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

    /// Levels of resolution.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.channels().levels()
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
        let change = |f: fn(&mut MagvitConfig)| {
            let mut config = MagvitConfig::published();
            f(&mut config);
            config.check()
        };
        assert!(change(|_| {}).is_ok());
        assert!(matches!(
            change(|c| c.codebook_size = 8191),
            Err(Error::Config {
                key: "codebook_size",
                ..
            })
        ));
        assert!(matches!(
            change(|c| c.z_channels = 12),
            Err(Error::Config {
                key: "z_channels",
                ..
            })
        ));
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
        assert!(change(|c| c.norm_groups = 0).is_err());
        assert!(change(|c| c.encoder_res_blocks = vec![1]).is_err());
        assert!(change(|c| c.decoder_ch_mult = vec![]).is_err());
        assert!(change(|c| c.codebook_bits = usize::MAX).is_err());
        assert!(change(|c| c.base_channels = usize::MAX).is_err());
        assert!(change(|c| c.norm_eps = f32::NAN).is_err());
    }

    #[cfg(feature = "safetensors")]
    #[test]
    fn an_empty_file_is_the_published_model() {
        let json = JsonConfig::parse("{}").unwrap();
        assert_eq!(
            MagvitConfig::from_json(&json).unwrap(),
            MagvitConfig::published()
        );
        let json = JsonConfig::parse(r#"{"codebook_bits": 4294967295}"#).unwrap();
        assert!(MagvitConfig::from_json(&json).is_err());
    }
}
