//! LlamaGen as a generator to be trained.

use super::{LlamaGen, block_names};
use crate::model::learner::Head;
use crate::model::raster::RasterBackward;
use crate::model::transformer::BlockNames;
use crate::ops::Backend;

impl<B: Backend> RasterBackward<B> for LlamaGen<B> {
    fn code_head(&self) -> Head<'_, B> {
        Head {
            norm: &self.final_norm,
            eps: self.config.norm_eps,
            first: None,
            last: &self.head,
        }
    }

    fn block_names(&self, layer: usize) -> BlockNames {
        BlockNames {
            // As stored; in the stack its rows stand in another order, so that adapters cannot name it.
            qkv: [
                alloc::format!("layers.{layer}.attention.wqkv"),
                alloc::string::String::new(),
                alloc::string::String::new(),
            ],
            ..block_names(layer)
        }
    }
}
