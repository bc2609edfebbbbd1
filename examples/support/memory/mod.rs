//! Searches that share what they draw.
//!
//! A candidate's next step follows from its prompt, its seed and its state, and a verdict from what is seen: so of several
//! searches for one picture only the first draws and judges what they have in common. [`Remembering`] and
//! [`RememberingJudge`] stand before a generator and a judge and work only where the memory does not know the answer.

mod generator;
mod judge;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use maquette::codes::Code;
use maquette::generator::Needs;
use maquette::{Prompt, Verdict};

pub use generator::Remembering;
pub use judge::RememberingJudge;

/// What stands for a state or a view: 128 bits of it.
type Digest = (u64, u64);

fn digest(of: &impl Hash) -> Digest {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        of.hash(&mut hasher);
        hasher.finish()
    };
    (half(0), half(1))
}

/// One step that was taken, from one state to another.
#[derive(Debug)]
struct Step {
    prompt: Rc<OwnPrompt>,
    seed: u64,
    before: Rc<[Code]>,
    after: Rc<[Code]>,
    pixels: Option<Box<[u8]>>,
    codes: Option<Box<[Code]>>,
    hidden: Option<Box<[f32]>>,
}

impl Step {
    fn shows(&self, needs: Needs) -> bool {
        (!needs.pixels || self.pixels.is_some())
            && (!needs.codes || self.codes.is_some())
            && (!needs.hidden || self.hidden.is_some())
    }
}

#[derive(Debug, Default)]
struct Known {
    steps: HashMap<Digest, Step>,
    /// Judge, question, prompt and view.
    verdicts: HashMap<Digest, Verdict>,
}

/// What several searches of one generator have drawn and asked. Its copies are one memory.
#[derive(Debug, Clone, Default)]
pub struct Memory(Rc<RefCell<Known>>);

/// A prompt that outlives its caller's.
#[derive(Debug)]
struct OwnPrompt {
    digest: Digest,
    text: String,
    plan: Option<String>,
    corrected: Option<(Vec<Code>, String)>,
}

fn told(prompt: &Prompt<'_>) -> Digest {
    digest(&(
        prompt.text(),
        prompt.plan(),
        prompt.previous(),
        prompt.reason(),
    ))
}

impl OwnPrompt {
    fn new(prompt: &Prompt<'_>) -> Self {
        let corrected = prompt.previous().zip(prompt.reason());
        Self {
            digest: told(prompt),
            text: prompt.text().into(),
            plan: prompt.plan().map(Into::into),
            corrected: corrected.map(|(codes, reason)| (codes.into(), reason.into())),
        }
    }

    fn lend(&self) -> Prompt<'_> {
        let mut prompt = Prompt::new(&self.text);
        if let Some(plan) = &self.plan {
            prompt = prompt.with_plan(plan);
        }
        match &self.corrected {
            Some((codes, reason)) => prompt.correcting(codes, reason),
            None => prompt,
        }
    }
}
