//! What training asks of a raster generator beside what drawing does.

use super::RasterModel;
use crate::model::learner::Head;
use crate::model::transformer::BlockNames;
use crate::ops::Backend;

/// A raster generator that can be trained. A trait for the reason of [`RasterModel`].
pub trait RasterBackward<B: Backend>: RasterModel<B> {
    /// From the rows that leave the stack to the logits of codes.
    fn code_head(&self) -> Head<'_, B>;
    /// From the rows that leave the stack to the logits of text, of a model that writes.
    fn text_head(&self) -> Option<Head<'_, B>> {
        None
    }
    /// Names of a block's tensors.
    fn block_names(&self, layer: usize) -> BlockNames;
}
