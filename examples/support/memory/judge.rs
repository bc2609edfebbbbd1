//! The judge that answers nothing twice.

use std::fmt;

use maquette::generator::Needs;
use maquette::image::ImageBatch;
use maquette::reward::{Ask, ViewKey};
use maquette::{Error, Judgement, Result, RewardModel, Verdict};

use super::{Digest, Memory, digest, told};

/// A judge that answers nothing twice.
pub struct RememberingJudge {
    reward: Box<dyn RewardModel>,
    memory: Memory,
    name: u64,
}

impl fmt::Debug for RememberingJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RememberingJudge")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl RememberingJudge {
    /// Before a judge that answers as the memory's others of the same name.
    pub fn new(reward: Box<dyn RewardModel>, memory: &Memory, name: u64) -> Self {
        Self {
            reward,
            memory: memory.clone(),
            name,
        }
    }

    /// What stands for each view of a question; nothing where nothing is shown.
    fn views(&self, ask: &Ask<'_>) -> Vec<Digest> {
        if ask.pixels.is_none() && ask.codes.is_none() && ask.hidden.is_none() {
            return Vec::new();
        }
        let (n, prompt) = (ask.keys.len().max(1), told(ask.prompt));
        let view = |i: usize| {
            let codes = ask.codes.map(|codes| part(codes, i, n));
            let hidden = ask.hidden.map(|hidden| part(hidden, i, n));
            let hidden: Option<Vec<u32>> =
                hidden.map(|rows| rows.iter().map(|x| x.to_bits()).collect());
            let pixels = ask.pixels.as_ref().and_then(|pixels| pixels.picture(i));
            let step = ask.keys[i].step;
            digest(&(
                self.name,
                ask.judgement,
                prompt,
                step,
                (pixels, codes, hidden),
            ))
        };
        (0..ask.keys.len()).map(view).collect()
    }
}

/// One view's share of a buffer.
fn part<T>(all: &[T], at: usize, n: usize) -> &[T] {
    let size = all.len() / n;
    &all[at * size..(at + 1) * size]
}

/// The shares of some views, one behind the other.
fn some<T: Copy>(all: &[T], chosen: &[usize], n: usize) -> Vec<T> {
    chosen
        .iter()
        .flat_map(|&at| part(all, at, n).iter().copied())
        .collect()
}

impl RewardModel for RememberingJudge {
    fn needs(&self, ask: Judgement) -> Needs {
        self.reward.needs(ask)
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let views = self.views(ask);
        if views.is_empty() {
            return self.reward.judge(ask, out);
        }
        let unknown = |at: &usize| !self.memory.0.borrow().verdicts.contains_key(&views[*at]);
        let new: Vec<usize> = (0..views.len()).filter(unknown).collect();
        if new.len() == views.len() {
            self.reward.judge(ask, out)?;
            let mut known = self.memory.0.borrow_mut();
            known
                .verdicts
                .extend(views.into_iter().zip(out.iter().copied()));
            return Ok(());
        }
        if out.len() != views.len() {
            let (op, arg, got, want) = ("judge", "out", out.len(), views.len());
            return Err(Error::Length { op, arg, got, want });
        }
        if !new.is_empty() {
            let n = views.len();
            let keys: Vec<ViewKey> = new.iter().map(|&at| ask.keys[at]).collect();
            let pixels = ask.pixels.as_ref().map(|batch| {
                let pictures = new.iter().filter_map(|&at| batch.picture(at));
                (
                    pictures.flatten().copied().collect::<Vec<u8>>(),
                    batch.size(),
                )
            });
            let codes = ask.codes.map(|codes| some(codes, &new, n));
            let hidden = ask.hidden.map(|hidden| some(hidden, &new, n));
            let mut less = Ask::new(ask.judgement, ask.prompt, &keys);
            if let Some((pixels, size)) = &pixels {
                less = less.with_pixels(ImageBatch::new(new.len(), *size, pixels)?);
            }
            (less.codes, less.hidden) = (codes.as_deref(), hidden.as_deref());
            let mut verdicts = vec![Verdict::malformed(); new.len()];
            self.reward.judge(&less, &mut verdicts)?;
            let mut known = self.memory.0.borrow_mut();
            let answered = new.iter().map(|&at| views[at]).zip(verdicts);
            known.verdicts.extend(answered);
        }
        let known = self.memory.0.borrow();
        for (view, out) in views.iter().zip(out) {
            *out = known.verdicts.get(view).copied().unwrap_or(*out);
        }
        Ok(())
    }

    fn explain(&mut self, ask: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
        self.reward.explain(ask, out)
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.reward.forget(keys);
    }
}
