//! The session as a [`RewardModel`].

use super::{Job, LlavaSession};
use crate::error::{Error, Result};
use crate::generator::Needs;
use crate::model::llava::slots::fingerprint;
use crate::model::session::multiply_adds;
use crate::ops::Backend;
use crate::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};

impl<B: Backend> RewardModel for LlavaSession<B> {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::PIXELS
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let before = self.model.backend.multiply_adds();
        let judged = self.judge_all(ask, out);
        self.spent += multiply_adds(&*self.model.backend, before);
        judged
    }

    fn multiply_adds(&self) -> Option<u64> {
        self.model.backend.multiply_adds().map(|_| self.spent)
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.slots.forget(|key| keys.contains(&key));
    }
}

impl<B: Backend> LlavaSession<B> {
    /// Answers a question about all its views, some at a time.
    fn judge_all(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let n = ask.keys.len();
        if out.len() != n {
            return Err(Error::Length {
                op: "judge",
                arg: "out",
                got: out.len(),
                want: n,
            });
        }
        if n == 0 {
            return Ok(());
        }
        let pixels = ask.pixels.ok_or(Error::Length {
            op: "judge",
            arg: "pixels",
            got: 0,
            want: n,
        })?;
        if pixels.len() != n {
            return Err(Error::Length {
                op: "judge",
                arg: "pixels",
                got: pixels.len(),
                want: n,
            });
        }
        let plan = self.plan(pixels.size())?;
        let limit = self.options.max_tokens;
        self.questions.encode(
            ask.judgement,
            ask.prompt.text(),
            &*self.tokenizer,
            limit,
            &mut self.tokens,
        )?;
        if self.tokens.after.is_empty() {
            return Err(Error::Config {
                key: "templates",
                problem: "ask nothing after the picture",
            });
        }
        self.share_prefix()?;
        let mut jobs = core::mem::take(&mut self.jobs);
        let mut next = 0;
        let mut done = Ok(());
        while next < n && done.is_ok() {
            jobs.clear();
            self.slots.begin();
            // A key that comes twice waits for the next batch, where its rows are there.
            while next < n
                && jobs.len() < self.options.max_views
                && !ask.keys[..next]
                    .iter()
                    .rev()
                    .take(jobs.len())
                    .any(|k| *k == ask.keys[next])
            {
                let picture = fingerprint(pixels.size(), pixels.picture(next).unwrap_or_default());
                match self.slots.take(ask.keys[next], picture, &self.tokens.after) {
                    Ok((slot, kept)) => jobs.push(Job {
                        view: next,
                        slot,
                        picture,
                        kept,
                    }),
                    Err(error) => done = Err(error),
                }
                next += 1;
            }
            if done.is_ok() {
                done = self.batch(ask, pixels, &plan, &mut jobs, out);
            }
        }
        self.jobs = jobs;
        done
    }
}
