//! What convolutional tokenizers are built from: blocks, and the two halves that they form.
//!
//! # Source
//! Esser et al., "Taming Transformers for High-Resolution Image Synthesis", arXiv 2012.09841.

use core::fmt;

use crate::error::{Error, Result};
use crate::ops::Backend;

pub mod blocks;
mod coder;
mod halves;
mod scratch;

use blocks::Planes;
pub(super) use coder::{Codebook, Coder, Pictures};
pub(super) use halves::{Half, HalfPlan, LevelPlan};
pub use scratch::Scratch;
use scratch::Turns;

const OP: &str = "image tokenizer";

/// Channels of a picture.
pub(super) const RGB: usize = 3;

/// A stage of encoder or decoder, for those who compare it with another implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Its number, where there are several of the name.
    pub level: Option<usize>,
}

impl Stage {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, level: None }
    }

    pub(super) const fn at(name: &'static str, level: usize) -> Self {
        Self {
            name,
            level: Some(level),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "{}.{level}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// Shown what each stage leaves: `[images, height, width, channels]` as [`Planes`].
pub type Trace<'a, B> =
    &'a mut dyn FnMut(Stage, &<B as Backend>::Buffer<f32>, Planes) -> Result<()>;

/// Channels of the levels of both halves; level 0 has the full resolution, each further one half of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channels<'a> {
    pub(super) base: usize,
    pub(super) groups: usize,
    pub(super) encoder: &'a [usize],
    pub(super) decoder: &'a [usize],
}

impl Channels<'_> {
    /// Checks that the levels agree with each other and lie within what any such model uses.
    pub(super) fn check(&self) -> Result<()> {
        within("levels", self.levels(), 1, 8)?;
        within("base_channels", self.base, 1, 4096)?;
        within("norm_groups", self.groups, 1, 4096)?;
        for (key, list) in [
            ("encoder_ch_mult", self.encoder),
            ("decoder_ch_mult", self.decoder),
        ] {
            if list.len() != self.levels() {
                return Err(Error::Config {
                    key,
                    problem: "has another number of levels than decoder_ch_mult",
                });
            }
            for &mult in list {
                within(key, mult, 1, 64)?;
            }
        }
        for &mult in self.encoder.iter().chain(self.decoder).chain(&[1]) {
            within("channels", self.base * mult, 1, 1 << 14)?;
            if !(self.base * mult).is_multiple_of(self.groups) {
                return Err(Error::Config {
                    key: "norm_groups",
                    problem: "does not divide the channels",
                });
            }
        }
        Ok(())
    }

    /// Levels of resolution.
    pub(super) const fn levels(&self) -> usize {
        self.decoder.len()
    }

    /// Pixels along one side of a code's square.
    pub(super) fn scale(&self) -> usize {
        1 << self.levels().saturating_sub(1).min(16)
    }

    /// Channels that enter and leave an encoder level.
    pub(super) fn encoder_level(&self, level: usize) -> [usize; 2] {
        let before = if level == 0 {
            1
        } else {
            self.encoder[level - 1]
        };
        [self.base * before, self.base * self.encoder[level]]
    }

    /// Channels that enter and leave a decoder level.
    pub(super) fn decoder_level(&self, level: usize) -> [usize; 2] {
        let before = self.decoder[(level + 1).min(self.levels() - 1)];
        [self.base * before, self.base * self.decoder[level]]
    }

    /// Most numbers that any stage holds for each code of the grid, whose latent has `latent` channels.
    pub(super) fn numbers_per_code(&self, latent: usize) -> usize {
        let last = self.levels() - 1;
        let mut most = latent;
        for level in 0..=last {
            let pixels = 1 << (2 * (last - level));
            let channels = self
                .encoder_level(level)
                .into_iter()
                .chain(self.decoder_level(level))
                .max()
                .unwrap_or(1);
            most = most.max(pixels * channels.max(RGB));
        }
        // Queries, keys and values side by side at the lowest resolution.
        most.max(3 * self.encoder_level(last)[1])
            .max(3 * self.decoder_level(last)[1])
    }
}

/// Fails unless a size lies between two bounds.
pub(super) fn within(arg: &'static str, got: usize, min: u64, max: u64) -> Result<()> {
    let got = got as u64;
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(Error::Range {
            op: OP,
            arg,
            got,
            min,
            max,
        })
    }
}
