//! Janus as a generator to be trained.

use alloc::sync::Arc;

use super::{Janus, JanusReader};
use crate::error::{Error, Result, product};
use crate::model::learner::{Example, Head, Input, Scope};
use crate::model::llava::blocks_of;
use crate::model::raster::RasterBackward;
use crate::model::transformer::BlockNames;
use crate::ops::Backend;
use crate::ops::norm::Activation;
use crate::prompt::{Prompt, Tokenize};

impl<B: Backend> Janus<B> {
    /// What turns prompts into the rows before a picture, outside a session.
    ///
    /// # Errors
    /// A layout that the vocabulary cannot spell, or no memory.
    pub fn reader<T: Tokenize>(self: &Arc<Self>, words: T) -> Result<JanusReader<B, T>> {
        JanusReader::new(Arc::clone(self), words)
    }
}

impl<B: Backend, T: Tokenize> JanusReader<B, T> {
    /// A plan that was written for a prompt as an example: each of its tokens is the label of the row before it, and so is
    /// the token that ends an answer, unless the plan is as long as plans get. Tokens without a text of their own are lost
    /// where a plan is decoded, and so they are here.
    ///
    /// # Errors
    /// A model that writes no plans, a plan without a word or longer than plans get, words that it does not have, or no
    /// memory.
    pub fn plan_example(&mut self, prompt: &Prompt<'_>, plan: &str) -> Result<Example> {
        const OP: &str = "plan";
        self.encode(prompt, true)?;
        let longest = self.model.config.max_plan_len;
        let mut tokens = self.tokens.before.clone();
        let before = tokens.len();
        self.words.encode(plan, &mut |token| tokens.push(token))?;
        let written = tokens.len() - before;
        if written == 0 || written > longest {
            return Err(Error::Range {
                op: OP,
                arg: "words",
                got: written as u64,
                min: 1,
                max: longest as u64,
            });
        }
        tokens.extend(self.end.filter(|_| written < longest));
        self.check(&tokens)?;
        let labels = tokens.split_off(before);
        tokens.extend_from_slice(&labels[..labels.len() - 1]);
        let index = |at: usize| u32::try_from(at).map_err(|_| Error::Overflow { op: OP });
        let (rows, first) = (tokens.len(), index(before - 1)?);
        let (b, width) = (&**self.model.backend(), self.model.config.text.width);
        let len = product(OP, &[rows, width])?;
        let (mut ids, mut x) = (b.zeros(rows)?, b.zeros(len)?);
        b.write(&mut ids, 0, &tokens)?;
        self.model.token_rows(rows, &ids, &mut x)?;
        let mut input = alloc::vec![0.0; len];
        b.read(&x, 0, &mut input)?;
        Ok(Example {
            input: Input::Rows(input),
            positions: (0..index(rows)?).collect(),
            causal: rows,
            rows: (first..).take(labels.len()).collect(),
            labels,
            scope: Scope::Vocabulary,
        })
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

    fn text_head(&self) -> Option<Head<'_, B>> {
        Some(Head {
            norm: &self.understanding.norm,
            eps: self.config.text.eps,
            first: None,
            last: &self.understanding.head,
        })
    }

    /// In the original naming.
    fn block_names(&self, layer: usize) -> BlockNames {
        blocks_of("language_model.model.", layer)
    }
}
