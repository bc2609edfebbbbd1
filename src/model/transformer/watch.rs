//! Stages of a pass that a caller may look at.

use crate::error::Result;
use crate::ops::Backend;

/// A stage of a pass that a caller may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Output of the first norm.
    Norm,
    /// q, k and v side by side after the head norms, before the rotation.
    HeadNorm,
    /// The same after the rotation.
    Rotated,
    /// Output of the attention before its output layer.
    Context,
    /// The rows after the MLP was added to them.
    Mlp,
    /// Output of the block.
    Output,
}

/// Looks at one stage of one layer.
pub type Look<'a, B> = &'a mut dyn FnMut(usize, Stage, &<B as Backend>::Buffer<f32>) -> Result<()>;

/// Who looks, if anybody does.
pub(super) struct Watch<'a, B: Backend>(pub(super) Option<Look<'a, B>>);

impl<B: Backend> Watch<'_, B> {
    /// Shows a stage.
    pub(super) fn see(&mut self, layer: usize, stage: Stage, rows: &B::Buffer<f32>) -> Result<()> {
        let look = self.0.as_mut();
        look.map_or(Ok(()), |look| look(layer, stage, rows))
    }

    /// The same for a part of the pass.
    pub(super) fn again(&mut self) -> Watch<'_, B> {
        match &mut self.0 {
            Some(look) => Watch(Some(&mut **look)),
            None => Watch(None),
        }
    }
}
