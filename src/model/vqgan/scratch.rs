//! Memory of one decoding or encoding at a time.

use alloc::vec::Vec;

use super::blocks::Work;
use super::{Channels, OP, RGB, within};
use crate::codes::Code;
use crate::error::{Error, Result, product};
use crate::model::session::reserved;
use crate::ops::Backend;

/// Memory of one decoding or encoding at a time.
#[derive(Debug)]
pub struct Scratch<B: Backend> {
    pub(in crate::model) work: Work<B>,
    pub(in crate::model) codes: B::Buffer<u32>,
    pub(in crate::model) bytes: B::Buffer<u8>,
    /// Codes on their way to the device.
    pub(in crate::model) index: Vec<Code>,
    places: usize,
    scale: usize,
}

/// How many pictures of one size are worked off.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Turns {
    /// Pictures a turn.
    pub(in crate::model) pictures: usize,
    /// Codes a picture.
    pub(in crate::model) places: usize,
    /// Numbers a picture.
    pub(in crate::model) len: usize,
}

impl<B: Backend> Scratch<B> {
    /// Memory for pictures of up to `places` codes in all, whose latents have `latent` channels.
    pub(in crate::model) fn new(
        backend: &B,
        places: usize,
        channels: Channels<'_>,
        latent: usize,
    ) -> Result<Self> {
        within("places", places, 1, u64::from(u32::MAX))?;
        let len = product(OP, &[places, channels.numbers_per_code(latent)])?;
        let scale = channels.scale();
        Ok(Self {
            work: Work::new(backend, len, places)?,
            codes: backend.zeros(places)?,
            bytes: backend.zeros(product(OP, &[places, scale, scale, RGB])?)?,
            index: reserved(places)?,
            places,
            scale,
        })
    }

    /// Turns for `n` pictures of `[rows, cols]` codes.
    pub(in crate::model) fn turns(&self, n: usize, [rows, cols]: [usize; 2]) -> Result<Turns> {
        let places = product(OP, &[rows, cols])?;
        within("grid", places, 1, self.places as u64)?;
        let len = product(OP, &[places, self.scale, self.scale, RGB])?;
        product(OP, &[n, places])?;
        product(OP, &[n, len])?;
        Ok(Turns {
            pictures: self.places / places,
            places,
            len,
        })
    }

    /// Rows and columns of the codes of a picture of `[height, width]` pixels.
    pub(in crate::model) fn grid_of(&self, [height, width]: [usize; 2]) -> Result<[usize; 2]> {
        if !height.is_multiple_of(self.scale) || !width.is_multiple_of(self.scale) {
            return Err(Error::Config {
                key: "image_size",
                problem: "cannot be halved once a level",
            });
        }
        Ok([height / self.scale, width / self.scale])
    }
}
