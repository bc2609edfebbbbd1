//! Janus as a generator to be trained.

use alloc::sync::Arc;

use super::{Janus, JanusReader};
use crate::error::Result;
use crate::model::learner::Head;
use crate::model::llava::blocks_of;
use crate::model::raster::RasterBackward;
use crate::model::transformer::BlockNames;
use crate::ops::Backend;
use crate::ops::norm::Activation;
use crate::prompt::Tokenize;

impl<B: Backend> Janus<B> {
    /// What turns prompts into the rows before a picture, outside a session.
    ///
    /// # Errors
    /// A layout that the vocabulary cannot spell, or no memory.
    pub fn reader<T: Tokenize>(self: &Arc<Self>, words: T) -> Result<JanusReader<B, T>> {
        JanusReader::new(Arc::clone(self), words)
    }
}

impl<B: Backend> RasterBackward<B> for Janus<B> {
    fn code_head(&self) -> Head<'_, B> {
        let [first, last] = &self.code_head;
        Head {
            norm: &self.understanding.norm,
            eps: self.config.text.eps,
            first: Some((first, Activation::GeluErf)),
            last,
        }
    }

    /// In the original naming.
    fn block_names(&self, layer: usize) -> BlockNames {
        blocks_of("language_model.model.", layer)
    }
}
