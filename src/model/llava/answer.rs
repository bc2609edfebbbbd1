//! From the last rows of questions to verdicts.

use super::options::Reader;
use super::session::{LlavaSession, index};
use crate::error::{Error, Result};
use crate::ops::Backend;
use crate::ops::norm::NormShape;
use crate::ops::reward_head::AnswerShape;
use crate::ops::sample::{Filter, filter, softmax_row};
use crate::reward::{Answer, Judgement, Verdict, ViewKey};
use crate::rng::{self, Purpose};

impl<B: Backend> LlavaSession<B> {
    pub(super) fn head_width(&self) -> usize {
        match self.options.reader {
            Reader::TwoRows => 2,
            _ => self.model.config.text.vocab,
        }
    }

    /// Final norm and head of each sequence's last row: `logits`, and P(yes) and P(no) in `sums` if the reader asks for them.
    pub(super) fn head(&mut self, sequences: usize, queries: usize) -> Result<()> {
        let model = &*self.model;
        let (backend, d) = (&*model.backend, model.config.text.width);
        for j in 0..sequences {
            backend.copy(
                &self.x,
                ((j + 1) * queries - 1) * d,
                &mut self.last,
                j * d,
                d,
            )?;
        }
        let s = NormShape {
            rows: sequences,
            width: d,
            eps: model.config.text.eps,
        };
        model.norm.apply(backend, s, &self.last, &mut self.normed)?;
        let two = matches!(self.options.reader, Reader::TwoRows);
        let width = self.head_width();
        let head = if two { &model.answers } else { &model.head };
        head.apply(backend, sequences, &self.normed, &mut self.logits)?;
        if matches!(self.options.reader, Reader::Upstream { .. }) {
            // It reads the logits themselves.
            return Ok(());
        }
        let first = [model.config.yes_id, model.config.no_id];
        let pairs: (&[_], &[_]) = if two {
            (&[[0, 1]], &[])
        } else {
            (&[first], &model.config.other_answers)
        };
        let sums = &mut self.sums[..sequences * 2];
        sums.fill(0.0);
        for [yes, no] in pairs.0.iter().chain(pairs.1) {
            let s = AnswerShape {
                rows: sequences,
                width,
                yes: *yes as usize,
                no: *no as usize,
            };
            backend.answer(s, &self.logits, &mut self.p)?;
            let own = &mut self.pairs[..sequences * 2];
            backend.read(&self.p, 0, own)?;
            for (sum, p) in sums.iter_mut().zip(own) {
                *sum += *p;
            }
        }
        Ok(())
    }

    /// The verdict of row `j` of the last [`head`](Self::head).
    pub(super) fn read(&mut self, j: usize, key: ViewKey, judgement: Judgement) -> Result<Verdict> {
        let backend = &*self.model.backend;
        let Reader::Upstream { seed } = self.options.reader else {
            let [yes, no] = [0, 1].map(|i| self.sums.get(j * 2 + i).copied().unwrap_or(0.0));
            // Rounding may carry a probability past 1 by a unit in the last place.
            return Ok(Verdict::new(yes.min(1.0), no.min(1.0)));
        };
        backend.read(&self.logits, j * self.row.len(), &mut self.row)?;
        let wrong = Error::NotFinite {
            op: "judge",
            arg: "logits",
            row: j,
        };
        if self.row.iter().any(|v| !v.is_finite()) {
            return Err(wrong);
        }
        let upstream = Filter::default().with_top_k(20).with_top_p(0.8);
        filter(upstream, &mut self.row, &mut self.order)?;
        if !softmax_row(&mut self.row) {
            return Err(wrong);
        }
        let drawn = index(draw(seed, key, judgement, &self.row))?;
        let config = &self.model.config;
        let mut sums = [config.yes_id, config.no_id].map(|id| self.row[id as usize]);
        for pair in &config.other_answers {
            for (sum, &id) in sums.iter_mut().zip(pair) {
                *sum += self.row[id as usize];
            }
        }
        let [yes, no] = sums.map(|sum| sum.min(1.0));
        let [says_yes, says_no] = [0, 1].map(|i: usize| self.yes_no[i].contains(&drawn));
        Ok(match judgement {
            _ if says_yes => Verdict::new(yes, no).with_answer(Answer::Yes),
            _ if says_no => Verdict::new(yes, no).with_answer(Answer::No),
            Judgement::Clarity | Judgement::Potential => {
                Verdict::new(yes, no).with_answer(Answer::Other)
            }
            _ => Verdict::malformed(),
        })
    }
}

/// Draws a token, keyed by view and question.
fn draw(seed: u64, key: ViewKey, judgement: Judgement, p: &[f32]) -> usize {
    let question = match judgement {
        Judgement::Outcome => 0,
        Judgement::Process => 1,
        Judgement::Clarity => 2,
        Judgement::Potential => 3,
    };
    // The candidate's number goes into the seed, scattered, so that no two views share their noise.
    let seed = seed ^ (key.candidate.0.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut four = (usize::MAX, [0; 4]);
    let noise = core::cell::RefCell::new(&mut four);
    rng::race(p, |i| {
        let mut four = noise.borrow_mut();
        if four.0 != i / 4 {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a vocabulary has fewer than 2^32 entries"
            )]
            let block = (i / 4) as u32;
            **four = (
                i / 4,
                rng::block(seed, Purpose::Answer, key.step, question, block),
            );
        }
        rng::exponential(four.1[i % 4])
    })
}
