//! Raster generators: a prefix, then one code after another, row by row.
//!
//! A [`RasterSession`] is the one generation loop; what a model is beside its stack enters through [`RasterModel`], and
//! what its prompts are through [`PrefixReader`]. Nothing is computed twice: a prefix runs once a prompt, its
//! unconditional counterpart once a key, the first code's logits are shared by all candidates of a prompt.

#[cfg(feature = "align")]
mod backward;
mod forward;
mod given;
mod memory;
mod options;
mod pages;
mod prefixes;
mod preview;
mod session;

#[cfg(feature = "align")]
pub use backward::RasterBackward;
pub use given::{Given, GivenCode};
pub use options::{Preview, RasterOptions};
pub use session::RasterSession;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::error::{Error, Result};
use crate::model::transformer::Stack;
use crate::ops::Backend;
use crate::prompt::Prompt;

/// How drawn rows see their prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrefixRows {
    /// All of its keys and values, as any transformer does.
    Kept,
    /// Its keys are all zero, so that it acts as one row: the mean of its values, counted as often as it has rows. The
    /// stack must be loaded with a repeated prefix.
    Collapsed,
}

/// A model that draws codes row by row: immutable, shared by any number of sessions. A trait and no enum, so that a
/// model's own file holds all that is special about it and the session names no model.
pub trait RasterModel<B: Backend>: fmt::Debug + Send + Sync {
    /// The device.
    fn backend(&self) -> &Arc<B>;
    /// The transformer.
    fn stack(&self) -> &Stack<B>;
    /// Rows and columns of the grid of codes.
    fn grid(&self) -> [usize; 2];
    /// Codes that can be drawn.
    fn codebook(&self) -> usize;
    /// Most rows of a prefix.
    fn prefix_limit(&self) -> usize;
    /// How drawn rows see a prefix.
    fn prefix_rows(&self) -> PrefixRows;
    /// Rotary position of row `i` of a prefix.
    fn prefix_position(&self, i: usize) -> u32;
    /// Rotary position of the code at `place` of the grid, after a prefix of `prefix` rows.
    fn position(&self, prefix: usize, place: usize) -> u32;
    /// Numbers of scratch that a row needs on its way in or out.
    fn scratch(&self) -> usize {
        0
    }
    /// Input rows `[rows, width]` of drawn codes.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    fn embed(
        &self,
        rows: usize,
        codes: &B::Buffer<u32>,
        scratch: &mut B::Buffer<f32>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()>;
    /// The final norm of `rows` rows.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    fn normalise(&self, rows: usize, x: &B::Buffer<f32>, y: &mut B::Buffer<f32>) -> Result<()>;
    /// Logits `[rows, codebook]` of normalised rows.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    fn head(
        &self,
        rows: usize,
        x: &B::Buffer<f32>,
        scratch: &mut B::Buffer<f32>,
        logits: &mut B::Buffer<f32>,
    ) -> Result<()>;
}

/// What stands for a prompt in a session: two prefixes, each by words that identify it (tokens, a class, the bits of
/// features). Equal words are the same prefix, whatever prompt they come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixPair {
    /// The prompt.
    pub conditional: Vec<u32>,
    /// What guidance leads away from; not looked at where guidance is off.
    pub unconditional: Vec<u32>,
}

/// Turns prompts into prefixes: a model's tokenizer and whatever encodes its tokens. A trait, since these are the
/// model's own and change while it reads, which the model itself does not.
pub trait PrefixReader<B: Backend>: fmt::Debug {
    /// The prefixes of a prompt.
    ///
    /// # Errors
    /// A prompt that cannot be read.
    fn read(&mut self, prompt: &Prompt<'_>) -> Result<PrefixPair>;

    /// Writes the input rows of a prefix into the front of `x`, and returns their number: at least one, at most
    /// [`RasterModel::prefix_limit`].
    ///
    /// # Errors
    /// Words that stand for no prefix, or no memory.
    fn write(&mut self, words: &[u32], x: &mut B::Buffer<f32>) -> Result<usize>;

    /// Writes a text plan for a prompt; see [`Generator::plan`](crate::Generator::plan).
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless overridden.
    fn plan(&mut self, prompt: &Prompt<'_>, seed: u64, out: &mut dyn fmt::Write) -> Result<()> {
        let _ = (prompt, seed, out);
        Err(Error::Unsupported {
            what: "writing a plan",
        })
    }
}
