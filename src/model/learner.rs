//! What training asks of a model: its stack, the rows that enter it, and what turns the rows that leave it into logits.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Debug;

use crate::error::Result;
use crate::model::linear::Linear;
use crate::model::transformer::{BlockNames, NormWeights, Stack};
use crate::ops::norm::Activation;
use crate::ops::{Backend, Backward};
use crate::quant::Format;

/// Which labels share the probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Every token of the model; labels are tokens.
    Vocabulary,
    /// The codes of the picture alone; labels are codes.
    Codes,
}

/// What enters the stack.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Input {
    /// Tokens of the model.
    Tokens(Vec<u32>),
    /// Rows that were made ahead, `[rows, width]`: a prefix that a model's reader wrote, embedded codes.
    Rows(Vec<f32>),
}

/// One whole sequence, and the labels whose log-probabilities are wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What enters.
    pub input: Input,
    /// Position of each row.
    pub positions: Vec<u32>,
    /// Leading rows that see only themselves and what stands before them; the others see all.
    pub causal: usize,
    /// Rows whose logits are looked at.
    pub rows: Vec<u32>,
    /// The label of each of them.
    pub labels: Vec<u32>,
    /// What the labels are.
    pub scope: Scope,
}

/// From the rows that leave the stack to logits: a norm, then one layer or two.
#[derive(Debug)]
pub struct Head<'a, B: Backend> {
    /// The last norm.
    pub norm: &'a NormWeights<B>,
    /// Added to its variances.
    pub eps: f32,
    /// A layer before the last one, and the activation between them.
    pub first: Option<(&'a Linear<B>, Activation)>,
    /// The layer that gives the logits.
    pub last: &'a Linear<B>,
}

/// What stands before and behind the blocks: an embedding of tokens, the last norm, a head of one layer over all
/// tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// Name of the embedding, without `.weight`.
    pub embedding: String,
    /// Name of the norm, without `.weight` and `.bias`.
    pub norm: String,
    /// Name of the head, without `.weight` and `.bias`.
    pub head: String,
    /// Rows of the embedding, outputs of the head.
    pub tokens: usize,
    /// The output of the head that is code 0.
    pub codes_at: usize,
}

/// New values of the [`Ends`]; a bias that the model does not have stays empty.
#[derive(Debug, Clone, Copy)]
pub struct EndValues<'a> {
    /// `[tokens, width]`.
    pub embedding: &'a [f32],
    /// Weight, then bias.
    pub norm: &'a [f32],
    /// `[tokens, width]`.
    pub head: &'a [f32],
    /// `[tokens]`.
    pub head_bias: &'a [f32],
}

/// A model that can be trained. A trait, since masked and raster generators read and write their stacks in different
/// ways, and an application may train one of its own.
pub trait Learner<B: Backward>: Debug {
    /// The device.
    fn backend(&self) -> &Arc<B>;
    /// The transformer.
    fn stack(&self) -> &Stack<B>;
    /// The transformer, to be changed.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if others share the weights.
    fn stack_mut(&mut self) -> Result<&mut Stack<B>>;
    /// What can be trained beside the blocks.
    fn ends(&self) -> Option<Ends> {
        None
    }
    /// Replaces the [`Ends`] of a model whose large matrices are kept as `format`.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) unless overridden, or if others share the weights.
    fn replace_ends(&mut self, format: Format, values: EndValues<'_>) -> Result<()> {
        let _ = (format, values);
        Err(crate::Error::Unsupported {
            what: "training embedding and head of this model",
        })
    }
    /// Names of a block's tensors.
    fn block_names(&self, layer: usize) -> BlockNames;
    /// The head of a scope.
    ///
    /// # Errors
    /// A scope that the model does not have.
    fn head(&self, scope: Scope) -> Result<Head<'_, B>>;
    /// Writes the input rows of tokens.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a model that is fed with rows; buffers shorter than their
    /// shapes.
    fn embed(&self, rows: usize, tokens: &B::Buffer<u32>, x: &mut B::Buffer<f32>) -> Result<()>;
}
