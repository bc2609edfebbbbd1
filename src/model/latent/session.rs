//! A run of a latent head.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{LatentHead, OP, Work};
use crate::error::{Error, Result, covers, product};
use crate::generator::Needs;
use crate::model::session::{filled, multiply_adds};
use crate::ops::Backend;
use crate::reward::{Ask, Judgement, RewardModel, Verdict};

/// A latent head as a [`RewardModel`]: it needs hidden rows, and codes if its head reads them. Its memory is reserved at
/// its start.
///
/// A question's prompt is not read: the rows were drawn for it. Views of another prompt are answered for the prompt that
/// they were drawn for.
///
/// ```
/// use std::sync::Arc;
/// use maquette::cpu::Cpu;
/// use maquette::generator::Needs;
/// use maquette::model::latent::{LatentConfig, LatentHead, LatentSession};
/// use maquette::model::weights::{DType, Tensor, WeightSource};
/// use maquette::quant::Format;
/// use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
/// use maquette::{CandidateId, Prompt};
///
/// /// Weights of zeros: every answer is open.
/// struct Zeros(Vec<(&'static str, Vec<usize>)>, Vec<u8>);
/// impl WeightSource for Zeros {
///     fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
///         let (_, shape) = self.0.iter().find(|(own, _)| *own == name)?;
///         let len: usize = shape.iter().product();
///         Some(Tensor { dtype: DType::F32, shape: shape.clone(), bytes: &self.1[..4 * len] })
///     }
///     fn names(&self, visit: &mut dyn FnMut(&str)) {
///         self.0.iter().for_each(|(name, _)| visit(name));
///     }
/// }
/// let shapes = [
///     ("rows.weight", vec![48, 8]), ("rows.bias", vec![48]), ("places.weight", vec![4, 48]),
///     ("pool.weight", vec![136, 48]), ("pool.bias", vec![136]), ("mlp.weight", vec![64, 128]), ("mlp.bias", vec![64]),
///     ("answers.weight", vec![8, 64]), ("answers.bias", vec![8]),
/// ];
/// let weights = Zeros(shapes.into(), vec![0; 1 << 16]);
/// let head = LatentHead::load(Arc::new(Cpu::new()), LatentConfig::new(4, 8), &weights, Format::F32)?;
/// let mut judge = LatentSession::new(Arc::new(head), 2)?;
/// assert_eq!(judge.needs(Judgement::Clarity), Needs::HIDDEN);
/// let (prompt, rows) = (Prompt::new("a cup"), [0.5; 32]);
/// let keys = [ViewKey { candidate: CandidateId(0), step: 1 }];
/// let mut out = [Verdict::malformed()];
/// judge.judge(&Ask::new(Judgement::Clarity, &prompt, &keys).with_hidden(&rows), &mut out)?;
/// assert_eq!(out[0], Verdict::new(0.5, 0.5));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct LatentSession<B: Backend> {
    head: Arc<LatentHead<B>>,
    work: Work<B>,
    p: Vec<f32>,
    /// Multiply-adds of all judgements.
    spent: u64,
}

impl<B: Backend> LatentSession<B> {
    /// Reserves the memory to look at `views` views in one batch; more are taken in turns with the same result.
    ///
    /// # Errors
    /// No views, or no memory.
    pub fn new(head: Arc<LatentHead<B>>, views: usize) -> Result<Self> {
        if views == 0 || views > 1 << 16 {
            return Err(Error::Range {
                op: OP,
                arg: "views",
                got: views as u64,
                min: 1,
                max: 1 << 16,
            });
        }
        let c = head.config();
        Ok(Self {
            work: Work::new(&**head.backend(), c, views)?,
            p: filled(product(OP, &[views, c.logits()])?, 0.0)?,
            spent: 0,
            head,
        })
    }

    /// The head.
    #[must_use]
    pub const fn head(&self) -> &Arc<LatentHead<B>> {
        &self.head
    }
}

/// A view that is there and has the length it must have.
fn shown<'a, T>(arg: &'static str, view: Option<&'a [T]>, want: usize) -> Result<&'a [T]> {
    let view = view.unwrap_or_default();
    covers("judge", arg, view.len(), want)?;
    covers("judge", arg, want, view.len())?;
    Ok(view)
}

/// An error of a batch whose views begin with `first`, told with the view: rows of answers are those of all questions.
fn of_view(error: Error, first: usize, questions: usize) -> Error {
    match error {
        Error::NotFinite { op, arg, row } => Error::NotFinite {
            op: "judge",
            arg,
            row: first + if op == "answer" { row / questions } else { row },
        },
        other => other,
    }
}

impl<B: Backend> RewardModel for LatentSession<B> {
    fn needs(&self, _: Judgement) -> Needs {
        if self.head.config().reads_codes() {
            Needs::HIDDEN.or(Needs::CODES)
        } else {
            Needs::HIDDEN
        }
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let (c, b) = (self.head.config(), &**self.head.backend());
        let n = ask.keys.len();
        covers("judge", "out", out.len(), n)?;
        covers("judge", "out", n, out.len())?;
        let question = c.question(ask.judgement).ok_or(Error::Unsupported {
            what: "a question that a latent head was not taught",
        })?;
        let row = product(OP, &[c.places, c.hidden_size])?;
        let hidden = shown("hidden", ask.hidden, product(OP, &[n, row])?)?;
        if let Some(at) = hidden.iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite {
                op: "judge",
                arg: "hidden",
                row: at / row,
            });
        }
        let codes = if c.reads_codes() {
            shown("codes", ask.codes, product(OP, &[n, c.places])?)?
        } else {
            &[]
        };
        let (batch, pairs) = (self.work.views, c.questions.len());
        let mut codes = codes.chunks(batch * c.places);
        let mut first = 0;
        for (hidden, out) in hidden.chunks(batch * row).zip(out.chunks_mut(batch)) {
            b.write(&mut self.work.hidden, 0, hidden)?;
            if let Some(codes) = codes.next() {
                b.write(&mut self.work.codes, 0, codes)?;
            }
            let before = b.multiply_adds();
            let answered = self.head.answer(out.len(), &mut self.work);
            self.spent += multiply_adds(b, before);
            let p = &mut self.p[..out.len() * 2 * pairs];
            answered
                .and_then(|()| b.read(&self.work.p, 0, p))
                .map_err(|error| of_view(error, first, pairs))?;
            first += out.len();
            for (out, p) in out.iter_mut().zip(p.chunks_exact(2 * pairs)) {
                // Rounding may carry a probability past 1 by a unit in the last place.
                *out = Verdict::new(p[2 * question].min(1.0), p[2 * question + 1].min(1.0));
            }
        }
        Ok(())
    }

    fn multiply_adds(&self) -> Option<u64> {
        self.head.backend().multiply_adds().map(|_| self.spent)
    }
}
