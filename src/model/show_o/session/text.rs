//! The text of prompts: from words to rows in the cache.

use super::ShowOSession;
use crate::error::{Error, Name, Result};
use crate::generator::{CandidateId, Partial};
use crate::model::show_o::SPECIAL_NAMES;
use crate::model::show_o::options::LongPrompt;
use crate::model::transformer::Pass;
use crate::ops::Backend;
use crate::prompt::{Prompt, TokenId, Tokenize};

impl<B: Backend, T: Tokenize> ShowOSession<B, T> {
    /// Sends text rows through the model, so that their keys and values lie at cache row `row`.
    pub(super) fn compute_text(&mut self, tokens: &[TokenId], row: u32) -> Result<()> {
        let (b, m, h) = (&*self.model.backend, &mut self.memory, &mut self.host);
        let len = tokens.len();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "text rows are bounded by 2^16"
        )]
        let (first, count) = ((self.model.config.text_rows() - len) as u32, len as u32);
        // Positions count the pads that are left out.
        h.positions.clear();
        h.positions.extend((first..).take(len));
        h.places.clear();
        h.places.extend((row..).take(len));
        b.write(&mut m.ids, 0, tokens)?;
        b.write(&mut m.positions, 0, &h.positions)?;
        b.write(&mut m.places, 0, &h.places)?;
        b.write(&mut m.spans, 0, &[0, 0, row, count])?;
        self.model.embed(len, &m.ids, &mut m.x)?;
        let pass = Pass {
            sequences: 1,
            queries: len,
            causal: true,
            positions: &m.positions,
            places: &m.places,
            spans: &m.spans,
            pages: 0,
        };
        self.model
            .stack
            .forward(b, &pass, &mut m.x, &mut m.cache, &mut m.scratch)
    }

    /// The cache place of a prompt, computed if it is new; and whether it was.
    pub(super) fn prompt(&mut self, tokens: &[TokenId]) -> Result<(usize, bool)> {
        if let Some(place) = self.prompts.find(tokens) {
            return Ok((place, false));
        }
        let place = self.prompts.free()?;
        let row = self.prompts.get(place).row;
        self.drawing(|session| session.compute_text(tokens, row))?;
        self.prompts.entry(place).tokens.extend_from_slice(tokens);
        Ok((place, true))
    }

    /// Leaves the text rows of a prompt in `host.text`.
    fn read_prompt(&mut self, prompt: &Prompt<'_>) -> Result<()> {
        if prompt.plan().is_some() || prompt.previous().is_some() {
            return Err(Error::Unsupported {
                what: "a plan or a correction for Show-o",
            });
        }
        for name in SPECIAL_NAMES {
            if let Some(at) = prompt.text().find(name) {
                return Err(Error::SpecialToken {
                    token: Name::fixed(name),
                    at,
                });
            }
        }
        let (c, h) = (&self.model.config, &mut self.host);
        // Words past the last text row would be cut off; they are only counted and checked.
        let (mut count, mut largest) = (0, 0);
        h.words.clear();
        self.words.encode(prompt.text(), &mut |id| {
            if count < c.text_rows() {
                h.words.push(id);
            }
            (count, largest) = (count + 1, largest.max(id));
        })?;
        if count > 0 && largest as usize >= c.llm_vocab_size {
            return Err(Error::Config {
                key: "llm_vocab_size",
                problem: "is smaller than a token of the tokenizer",
            });
        }
        // Task token and frame take three of the text rows.
        let max = c.text_rows() - 3;
        if count > max && self.options.long_prompts == LongPrompt::Reject {
            return Err(Error::PromptTooLong { got: count, max });
        }
        h.text.clear();
        c.write_text(&h.words, &mut h.text);
        Ok(())
    }

    pub(super) fn start_text(
        &mut self,
        prompt: &Prompt<'_>,
        from: Option<&Partial<'_>>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        self.read_prompt(prompt)?;
        let text = core::mem::take(&mut self.host.text);
        let result = self.start_tokens(&text, from, seeds, out);
        self.host.text = text;
        result
    }
}
