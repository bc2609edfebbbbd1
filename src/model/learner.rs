//! What training asks of a model: its stack, the rows that enter it, and what turns the rows that leave it into logits.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Debug;

use crate::error::Result;
use crate::model::linear::Linear;
use crate::model::transformer::{BlockNames, NormWeights, Stack};
use crate::ops::norm::Activation;
use crate::ops::{Backend, Backward};

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
