//! The judge as a model to be trained: its language model learns to answer, tower and projector stay as they are.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::session::{Job, LlavaSession, zeroed};
use super::{Llava, blocks_of, stored_name};
use crate::error::{Error, Result, product};
use crate::image::ImageBatch;
use crate::model::learner::{Example, Head, Input, Learner, Scope};
use crate::model::transformer::{BlockNames, Stack};
use crate::model::weights::WeightSource;
use crate::ops::{Backend, Backward};
use crate::prompt::TokenId;
use crate::reward::Judgement;

/// A judge, trained by adapters or by the weights of its blocks.
#[derive(Debug)]
pub struct LlavaLearner<B: Backend> {
    model: Arc<Llava<B>>,
    /// What stands for `model.` in the names of the checkpoint.
    prefix: String,
}

impl<B: Backend> LlavaLearner<B> {
    /// Takes a judge; `source` is the checkpoint that it was read from, whose names the trained tensors get.
    #[must_use]
    pub fn new(model: Arc<Llava<B>>, source: &dyn WeightSource) -> Self {
        let first = "layers.0.self_attn.q_proj.weight";
        let stored = stored_name(source, &format!("model.{first}"));
        let prefix = stored.strip_suffix(first).unwrap_or("model.");
        Self {
            prefix: prefix.into(),
            model,
        }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Arc<Llava<B>> {
        &self.model
    }
}

impl<B: Backward> Learner<B> for LlavaLearner<B> {
    fn backend(&self) -> &Arc<B> {
        &self.model.backend
    }

    fn stack(&self) -> &Stack<B> {
        &self.model.stack
    }

    fn stack_mut(&mut self) -> Result<&mut Stack<B>> {
        let model = Arc::get_mut(&mut self.model).ok_or(Error::Unsupported {
            what: "training weights that others share",
        })?;
        Ok(&mut model.stack)
    }

    fn block_names(&self, layer: usize) -> BlockNames {
        blocks_of(&self.prefix, layer)
    }

    fn head(&self, scope: Scope) -> Result<Head<'_, B>> {
        match scope {
            Scope::Vocabulary => Ok(Head {
                norm: &self.model.norm,
                eps: self.model.config.text.eps,
                first: None,
                last: &self.model.head,
            }),
            Scope::Codes => Err(Error::Unsupported {
                what: "codes as the labels of a judge",
            }),
        }
    }

    fn embed(&self, _: usize, _: &B::Buffer<u32>, _: &mut B::Buffer<f32>) -> Result<()> {
        Err(Error::Unsupported {
            what: "tokens as the input of a judge: its questions are made into rows with their pictures",
        })
    }
}

/// What a judge should say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lesson<'a> {
    /// The question.
    pub judgement: Judgement,
    /// What the picture should show.
    pub prompt: &'a str,
    /// The answer: yes or no.
    pub yes: bool,
    /// What is said after it. The text behind the answer, and that the chat format's end is learnt with it, are our own
    /// design: no template with reasons is published.
    pub reason: Option<&'a str>,
}

impl<B: Backend> LlavaSession<B> {
    /// Rows that one picture of this size has in a question.
    ///
    /// # Errors
    /// A picture with more rows than the session has room for.
    pub fn picture_len(&self, pictures: ImageBatch<'_>) -> Result<usize> {
        Ok(self.rows_of(&self.plan(pictures.size())?))
    }

    /// The rows that stand for pictures in any question, `[pictures, rows, width]`: what tower and projector make of them.
    ///
    /// # Errors
    /// As [`picture_len`](Self::picture_len), or no memory.
    pub fn picture_rows(&mut self, pictures: ImageBatch<'_>) -> Result<Vec<f32>> {
        const OP: &str = "pictures";
        let plan = self.plan(pictures.size())?;
        let rows = self.rows_of(&plan);
        let len = product(OP, &[rows, self.model.config.text.width])?;
        let mut out = zeroed(product(OP, &[pictures.len(), len])?)?;
        let each = self.options.max_views;
        for (first, out) in (0..).step_by(each).zip(out.chunks_mut(each * len)) {
            let jobs: Vec<Job> = (first..first + out.len() / len)
                .map(|view| Job {
                    view,
                    slot: 0,
                    picture: 0,
                    kept: None,
                })
                .collect();
            let picture = |view| {
                pictures.picture(view).ok_or(Error::Length {
                    op: OP,
                    arg: "pixels",
                    got: view,
                    want: view + 1,
                })
            };
            self.see(
                &plan,
                &jobs,
                pictures.size(),
                &mut { picture },
                0,
                rows,
                &mut |_, _, _| Ok(()),
            )?;
            self.model.backend.read(&self.x, 0, out)?;
        }
        Ok(out)
    }

    /// A question about a picture with the answer that should be given, as [`picture_rows`](Self::picture_rows) gave the
    /// picture.
    ///
    /// ```text
    /// tokens before | picture | tokens after, answer, reason but its last token
    ///                                      ^ here the labels begin: answer, reason
    /// ```
    ///
    /// # Errors
    /// A picture that is empty, too large or no whole rows; a question that the tokenizer cannot spell; more tokens than the
    /// session has room for.
    pub fn lesson(&mut self, lesson: &Lesson<'_>, picture: &[f32]) -> Result<Example> {
        const OP: &str = "lesson";
        let width = self.model.config.text.width;
        let (most, limit) = (self.image_rows, self.options.max_tokens);
        let rows = picture.len() / width;
        if rows == 0 || rows > most || !picture.len().is_multiple_of(width) {
            return Err(Error::Range {
                op: OP,
                arg: "numbers of the picture",
                got: picture.len() as u64,
                min: width as u64,
                max: product(OP, &[most, width])? as u64,
            });
        }
        let (before, mut after) = self.question(lesson.judgement, lesson.prompt)?;
        if after.is_empty() {
            return Err(Error::Config {
                key: "templates",
                problem: "ask nothing after the picture",
            });
        }
        let said = self.said(lesson)?;
        let at = before.len() + rows + after.len() - 1;
        after.extend(said.iter().take(said.len() - 1));
        if after.len() > limit {
            return Err(Error::PromptTooLong {
                got: after.len(),
                max: limit,
            });
        }
        let total = before.len() + rows + after.len();
        let mut input = zeroed(product(OP, &[total, width])?)?;
        let (head, rest) = input.split_at_mut(before.len() * width);
        let (middle, tail) = rest.split_at_mut(picture.len());
        middle.copy_from_slice(picture);
        for (ids, out) in [(&before, head), (&after, tail)] {
            if !ids.is_empty() {
                self.embed(ids)?;
                self.model.backend.read(&self.text, 0, out)?;
            }
        }
        let index = |i: usize| u32::try_from(i).map_err(|_| Error::Overflow { op: OP });
        let (at, end) = (index(at)?, index(total)?);
        Ok(Example {
            input: Input::Rows(input),
            positions: (0..end).collect(),
            causal: total,
            rows: (at..end).collect(),
            labels: said,
            scope: Scope::Vocabulary,
        })
    }

    /// The tokens of the answer, and of the reason.
    fn said(&self, lesson: &Lesson<'_>) -> Result<Vec<TokenId>> {
        let config = &self.model.config;
        let mut said = Vec::from([if lesson.yes {
            config.yes_id
        } else {
            config.no_id
        }]);
        if let Some(reason) = lesson.reason {
            let words = self.tokenizer();
            words.encode(&format!(" {reason}"), &mut |id| said.push(id))?;
            said.extend(words.token("<|im_end|>"));
        }
        Ok(said)
    }
}
