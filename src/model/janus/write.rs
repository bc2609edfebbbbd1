//! Janus as a writer of text: plans of pictures.

use alloc::vec::Vec;

use super::Janus;
use crate::error::{Result, product, reserved};
use crate::model::transformer::Pass;
use crate::ops::Backend;
use crate::ops::attention::SPAN_WORDS;
use crate::ops::sample::{DRAW_WORDS, Draw, DrawShape, FilterShape};
use crate::prompt::TokenId;

/// The step that keys a plan's draws: those of codes have step 0.
const STEP: u32 = 1;

impl<B: Backend> Janus<B> {
    /// Tokens that go on from a prompt, up to the one that ends an answer or the longest plan there may be.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "check bounds prompts and plans; a seed is cut into its two halves"
    )]
    pub(super) fn write(
        &self,
        prompt: &[TokenId],
        end: Option<TokenId>,
        seed: u64,
    ) -> Result<Vec<TokenId>> {
        let (b, c, lm) = (&**self.backend(), &self.config, &*self.understanding);
        let (d, vocab, longest) = (c.text.width, c.text.vocab, c.max_plan_len);
        let rows = prompt.len();
        let mut cache = lm.stack.cache(b, rows + longest)?;
        let mut scratch = lm.stack.scratch(b, rows)?;
        let mut x = b.zeros(product("plan", &[rows, d])?)?;
        let (mut last, mut normed) = (b.zeros(d)?, b.zeros(d)?);
        let (mut logits, mut order, mut p) = (b.zeros(vocab)?, b.zeros(vocab)?, b.zeros(1)?);
        let (mut ids, mut places) = (b.zeros(rows)?, b.zeros(rows)?);
        let (mut spans, mut keys) = (b.zeros(SPAN_WORDS)?, b.zeros(DRAW_WORDS)?);
        let mut drawn = b.zeros(1)?;
        let mut plan: Vec<TokenId> = reserved("plan", longest)?;
        let mut order_of = reserved("plan", rows + longest)?;
        order_of.extend(0..(rows + longest) as u32);
        while plan.len() < longest {
            // The prompt first, then one token after the other.
            let (new, start) = match plan.split_last() {
                None => (prompt, 0),
                Some((_, before)) => (&plan[before.len()..], rows + before.len()),
            };
            let (len, seen) = (new.len(), start + new.len());
            b.write(&mut ids, 0, new)?;
            b.write(&mut places, 0, &order_of[start..seen])?;
            b.write(&mut spans, 0, &[0, 0, 0, seen as u32])?;
            self.token_rows(len, &ids, &mut x)?;
            let pass = Pass {
                sequences: 1,
                queries: len,
                causal: true,
                positions: &places,
                places: &places,
                spans: &spans,
                pages: 0,
            };
            lm.stack
                .forward(b, &pass, &mut x, &mut cache, &mut scratch)?;
            b.copy(&x, (len - 1) * d, &mut last, 0, d)?;
            self.norm_rows(1, &last, &mut normed)?;
            lm.head.apply(b, 1, &normed, &mut logits)?;
            let s = FilterShape {
                rows: 1,
                width: vocab,
                filter: c.plan_filter,
            };
            b.filter(s, &mut logits, &mut order)?;
            let key = [seed as u32, (seed >> 32) as u32, STEP, plan.len() as u32];
            b.write(&mut keys, 0, &key)?;
            let s = DrawShape {
                rows: 1,
                width: vocab,
            };
            b.draw(s, &mut logits, &Draw::Keyed(&keys), &mut drawn, &mut p)?;
            let mut token = [0];
            b.read(&drawn, 0, &mut token)?;
            if Some(token[0]) == end {
                break;
            }
            plan.push(token[0]);
        }
        Ok(plan)
    }
}
