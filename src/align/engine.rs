//! Log-probabilities of labels in whole sequences, and the way back from a gradient of each to the parameters.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::parameters::{EndGrads, Parameter, Parameters, Trained, copied, zeros};
use crate::error::{Error, Name, Result, covers, product};
use crate::model::learner::{Example, Input, Learner, Scope};
use crate::model::transformer::Adapters;
use crate::model::transformer::backward::{BlockGrads, Tape, Whole, Work};
use crate::model::weights::WeightSource;
use crate::ops::backward::labels::LabelShape;
use crate::ops::gemm::GemmShape;
use crate::ops::norm::NormShape;
use crate::ops::vq::GatherShape;
use crate::ops::{Backend, Backward};

/// What memory is reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most rows of a sequence.
    pub rows: usize,
    /// Most labels of a sequence.
    pub labels: usize,
}

/// What is kept of one sequence between its log-probabilities and the way back.
#[derive(Debug)]
pub struct Kept<B: Backend> {
    tape: Tape<B>,
    last: B::Buffer<f32>,
}

/// Memory between the stack and the log-probabilities.
#[derive(Debug)]
struct Output<B: Backend> {
    picked: B::Buffer<f32>,
    normed: B::Buffer<f32>,
    /// Before and after the activation between the head's layers, and the gradient of the latter.
    inner: [B::Buffer<f32>; 3],
    logits: B::Buffer<f32>,
    d_normed: B::Buffer<f32>,
    d_picked: B::Buffer<f32>,
    index: B::Buffer<u32>,
    labels: B::Buffer<u32>,
    numbers: B::Buffer<f32>,
}

/// A model that is trained: its parameters, the sums of their gradients, and memory for one sequence at a time.
///
/// Policy and reference are one model where adapters are trained: the reference leaves them out.
#[derive(Debug)]
pub struct Engine<B: Backward, L: Learner<B>> {
    learner: L,
    parameters: Parameters,
    adapters: Option<Adapters<B>>,
    grads: Vec<BlockGrads<B>>,
    ends: Option<EndGrads<B>>,
    work: Work<B>,
    output: Output<B>,
    x: B::Buffer<f32>,
    dx: B::Buffer<f32>,
    ids: B::Buffer<u32>,
    positions: B::Buffer<u32>,
    limits: Limits,
    /// Whether the parameters' values are the model's.
    filled: bool,
}

impl<B: Backward, L: Learner<B>> Engine<B, L> {
    /// Reserves all memory. Blocks that are trained whole are not read back from the model:
    /// [`read_weights`](Self::read_weights) gives the values to begin with, and no step is taken before it.
    ///
    /// # Errors
    /// Adapters that do not fit the model, a limit of zero, or no memory.
    pub fn new(learner: L, trained: Trained, limits: Limits) -> Result<Self> {
        for (arg, got) in [("rows", limits.rows), ("labels", limits.labels)] {
            if got == 0 || got > 1 << 20 {
                return Err(Error::Range {
                    op: "engine",
                    arg,
                    got: got as u64,
                    min: 1,
                    max: 1 << 20,
                });
            }
        }
        let (whole, all) = (
            trained.whole().is_some(),
            matches!(trained, Trained::All(_)),
        );
        let parameters = Parameters::of(&learner, trained)?;
        let adapters = parameters.adapters(&learner)?;
        let device = Arc::clone(learner.backend());
        let (b, stack) = (&*device, learner.stack());
        let rank = adapters.as_ref().map_or(0, Adapters::rank);
        let width = stack.config().width;
        let zeros = |n: usize, width: usize| b.zeros(product("engine", &[n, width])?);
        Ok(Self {
            grads: stack.grads(b, whole, adapters.as_ref())?,
            ends: if all { EndGrads::new(&learner)? } else { None },
            work: stack.work(b, limits.rows, rank)?,
            output: Output {
                picked: zeros(limits.labels, width)?,
                normed: zeros(limits.labels, width)?,
                inner: [b.zeros(0)?, b.zeros(0)?, b.zeros(0)?],
                logits: b.zeros(0)?,
                d_normed: zeros(limits.labels, width)?,
                d_picked: zeros(limits.labels, width)?,
                index: b.zeros(limits.labels)?,
                labels: b.zeros(limits.labels)?,
                numbers: b.zeros(limits.labels)?,
            },
            x: zeros(limits.rows, width)?,
            dx: zeros(limits.rows, width)?,
            ids: b.zeros(limits.rows)?,
            positions: b.zeros(limits.rows)?,
            learner,
            parameters,
            adapters,
            limits,
            filled: !whole,
        })
    }

    /// The model.
    #[must_use]
    pub const fn learner(&self) -> &L {
        &self.learner
    }

    /// What is trained.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters.all
    }

    /// Gives parameters new values, by name. Of whole weights that were not read yet, all must be given.
    ///
    /// # Errors
    /// A name that is not trained, another number of values, or [`Error::MissingTensor`] for a whole weight that has no
    /// value yet and is given none; then nothing has changed.
    pub fn set(&mut self, values: &[(&str, &[f32])]) -> Result<()> {
        let given = |parameter: &Parameter| values.iter().any(|(name, _)| *name == parameter.name);
        match self.parameters().iter().find(|p| !given(p)) {
            Some(unset) if !self.filled => Err(Error::MissingTensor {
                name: Name::owned(&unset.name),
            }),
            _ => self.change(|parameters| {
                let mut all = values.iter();
                all.try_for_each(|(name, values)| parameters.set(name, values))
            }),
        }
    }

    /// Takes the values of whole weights from the checkpoint that the model was read from, or from another one.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or type, or not finite; then nothing has changed.
    pub fn read_weights(&mut self, source: &dyn WeightSource) -> Result<()> {
        let mut values = Vec::new();
        for parameter in self.parameters() {
            let stored = super::lora::floats(source, &parameter.name, &parameter.shape)?;
            values.push((parameter.name.clone(), stored));
        }
        let values: Vec<_> = values.iter().map(|(n, v)| (&**n, &**v)).collect();
        self.set(&values)
    }

    /// Fails while the parameters' values are not the model's.
    pub(super) const fn filled(&self) -> Result<()> {
        if self.filled {
            return Ok(());
        }
        Err(Error::Config {
            key: "weights",
            problem: "that are trained whole were not read",
        })
    }

    /// Changes values of all parameters and brings them to the device, or leaves everything as it was.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut Parameters) -> Result<()>,
    ) -> Result<()> {
        let all = self.parameters.all.iter();
        let before: Vec<_> = all.map(|p| copied(&p.values)).collect::<Result<_>>()?;
        let changed = change(&mut self.parameters).and_then(|()| self.load());
        if changed.is_err() {
            for (parameter, values) in self.parameters.all.iter_mut().zip(before) {
                parameter.values = values;
            }
            // What the model held before the first values is in the model alone.
            if self.filled {
                self.load()?;
            }
        }
        self.filled |= changed.is_ok();
        changed
    }

    /// Brings the parameters' values to the device.
    fn load(&mut self) -> Result<()> {
        self.adapters = self.parameters.adapters(&self.learner)?;
        self.parameters.write_back(&mut self.learner)
    }

    /// Reserves what is kept of a sequence: the rows that enter each block, which is computed again on the way back.
    ///
    /// # Errors
    /// No memory.
    pub fn kept(&self) -> Result<Kept<B>> {
        self.reserve(false)
    }

    /// Reserves for all rows of a sequence, those between the layers of every block too: of Show-o's released shape some
    /// 3 MiB for each row, and a step is the shorter by computing no block twice. Its gradients have the same bits.
    ///
    /// # Errors
    /// No memory.
    pub fn kept_whole(&self) -> Result<Kept<B>> {
        self.reserve(true)
    }

    fn reserve(&self, whole: bool) -> Result<Kept<B>> {
        let (b, stack) = (&**self.learner.backend(), self.learner.stack());
        let len = product("engine", &[self.limits.rows, stack.config().width])?;
        Ok(Kept {
            tape: stack.tape(b, self.limits.rows, whole)?,
            last: b.zeros(len)?,
        })
    }

    /// Log-probabilities of an example's labels under the model without its adapters.
    ///
    /// # Errors
    /// An example beyond the limits or that contradicts itself.
    pub fn reference(&mut self, example: &Example) -> Result<Vec<f32>> {
        self.forward(example, false, None)?;
        self.log_probs(example, None)
    }

    /// Log-probabilities of an example's labels; `kept` takes what the way back needs.
    ///
    /// # Errors
    /// As [`reference`](Self::reference).
    pub fn policy(
        &mut self,
        example: &Example,
        mut kept: Option<&mut Kept<B>>,
    ) -> Result<Vec<f32>> {
        self.forward(example, true, kept.as_mut().map(|kept| &mut kept.tape))?;
        if let Some(kept) = kept {
            let width = self.learner.stack().config().width;
            let len = example.positions.len() * width;
            self.learner
                .backend()
                .copy(&self.x, 0, &mut kept.last, 0, len)?;
        }
        self.log_probs(example, None)
    }

    /// Adds to the sums of gradients those of an example, where `weights` is the gradient of the loss with respect to
    /// each of its log-probabilities.
    ///
    /// # Errors
    /// As [`reference`](Self::reference), or another number of weights.
    pub fn backward(&mut self, example: &Example, kept: &Kept<B>, weights: &[f32]) -> Result<()> {
        self.check(example)?;
        covers("backward", "weights", weights.len(), example.labels.len())?;
        covers("backward", "weights", example.labels.len(), weights.len())?;
        let device = Arc::clone(self.learner.backend());
        let (b, rows) = (&*device, example.positions.len());
        let width = self.learner.stack().config().width;
        b.copy(&kept.last, 0, &mut self.x, 0, rows * width)?;
        self.log_probs(example, Some(weights))?;
        // Rows without a label have no gradient of their own.
        b.write(&mut self.dx, 0, &zeros(rows * width)?)?;
        let s = GatherShape {
            rows: example.rows.len(),
            width,
            table_rows: rows,
        };
        b.gather_dw(s, &self.output.index, &self.output.d_picked, &mut self.dx)?;
        b.write(&mut self.positions, 0, &example.positions)?;
        let whole = Whole {
            rows,
            causal: example.causal,
            positions: &self.positions,
        };
        self.learner.stack().backward_whole(
            b,
            &whole,
            (self.adapters.as_ref(), &mut self.grads),
            &mut self.dx,
            (&kept.tape, &mut self.work),
        )?;
        if let (Some(ends), Input::Tokens(tokens)) = (&mut self.ends, &example.input) {
            b.write(&mut self.ids, 0, tokens)?;
            let s = GatherShape {
                rows,
                width,
                table_rows: ends.tokens,
            };
            b.gather_dw(s, &self.ids, &self.dx, &mut ends.embedding)?;
        }
        Ok(())
    }

    /// The sums of gradients, one vector a parameter.
    ///
    /// # Errors
    /// No memory.
    pub fn gradients(&self) -> Result<Vec<Vec<f32>>> {
        let sums = (&*self.grads, self.ends.as_ref());
        self.parameters.gradients(&self.learner, sums)
    }

    /// Makes the sums of gradients zero.
    ///
    /// # Errors
    /// No memory.
    pub fn clear(&mut self) -> Result<()> {
        let whole = self.adapters.is_none();
        let stack = self.learner.stack();
        self.grads = stack.grads(self.learner.backend(), whole, self.adapters.as_ref())?;
        if self.ends.is_some() {
            self.ends = EndGrads::new(&self.learner)?;
        }
        Ok(())
    }

    fn check(&self, example: &Example) -> Result<()> {
        const OP: &str = "example";
        let rows = example.positions.len();
        covers(OP, "rows of the engine", self.limits.rows, rows)?;
        covers(
            OP,
            "labels of the engine",
            self.limits.labels,
            example.labels.len(),
        )?;
        covers(OP, "labels", example.labels.len(), example.rows.len())?;
        covers(OP, "rows", example.rows.len(), example.labels.len())?;
        covers(OP, "positions", rows, example.causal)?;
        let (input, want) = match &example.input {
            Input::Tokens(tokens) => (tokens.len(), rows),
            Input::Rows(x) => {
                let width = self.learner.stack().config().width;
                (x.len(), product(OP, &[rows, width])?)
            }
        };
        covers(OP, "input", input, want)?;
        covers(OP, "positions", want, input)?;
        let highest = rows.saturating_sub(1) as u64;
        if rows == 0 || example.rows.is_empty() {
            return Err(Error::Range {
                op: OP,
                arg: "rows",
                got: 0,
                min: 1,
                max: self.limits.rows as u64,
            });
        }
        match example.rows.iter().find(|&&row| u64::from(row) > highest) {
            Some(&row) => Err(Error::Range {
                op: OP,
                arg: "row",
                got: u64::from(row),
                min: 0,
                max: highest,
            }),
            None => Ok(()),
        }
    }

    /// Leaves the rows that leave the stack in `x`.
    fn forward(
        &mut self,
        example: &Example,
        adapted: bool,
        tape: Option<&mut Tape<B>>,
    ) -> Result<()> {
        self.check(example)?;
        let device = Arc::clone(self.learner.backend());
        let (b, rows) = (&*device, example.positions.len());
        match &example.input {
            Input::Tokens(tokens) => {
                b.write(&mut self.ids, 0, tokens)?;
                self.learner.embed(rows, &self.ids, &mut self.x)?;
            }
            Input::Rows(x) => b.write(&mut self.x, 0, x)?,
        }
        b.write(&mut self.positions, 0, &example.positions)?;
        let whole = Whole {
            rows,
            causal: example.causal,
            positions: &self.positions,
        };
        let adapters = self.adapters.as_ref().filter(|_| adapted);
        self.learner
            .stack()
            .forward_whole(b, &whole, adapters, &mut self.x, (tape, &mut self.work))
    }

    /// Log-probabilities from the rows in `x`; with weights, their gradient in `output.d_picked` instead.
    fn log_probs(&mut self, example: &Example, weights: Option<&[f32]>) -> Result<Vec<f32>> {
        let device = Arc::clone(self.learner.backend());
        let (b, n, o) = (&*device, example.rows.len(), &mut self.output);
        let head = self.learner.head(example.scope)?;
        let width = self.learner.stack().config().width;
        let labels = LabelShape {
            rows: n,
            width: head.last.n(),
        };
        if let Some(&label) = example.labels.iter().find(|&&l| l as usize >= labels.width) {
            return Err(Error::Range {
                op: "example",
                arg: "label",
                got: u64::from(label),
                min: 0,
                max: labels.width as u64 - 1,
            });
        }
        let logits = product("engine", &[self.limits.labels, labels.width])?;
        if b.len(&o.logits) < logits {
            o.logits = b.zeros(logits)?;
        }
        b.write(&mut o.index, 0, &example.rows)?;
        b.write(&mut o.labels, 0, &example.labels)?;
        let s = GatherShape {
            rows: n,
            width,
            table_rows: example.positions.len(),
        };
        b.gather(s, &o.index, &self.x, &mut o.picked)?;
        let s = NormShape {
            rows: n,
            width,
            eps: head.eps,
        };
        head.norm.apply(b, s, &o.picked, &mut o.normed)?;
        let [raw, inner, d_inner] = &mut o.inner;
        let between = match head.first {
            Some((first, activation)) => {
                let (len, most) = (n * first.n(), self.limits.labels * first.n());
                for buffer in [&mut *raw, &mut *inner, &mut *d_inner] {
                    if b.len(buffer) < most {
                        *buffer = b.zeros(most)?;
                    }
                }
                first.apply(b, n, &o.normed, raw)?;
                b.copy(raw, 0, inner, 0, len)?;
                b.activate(activation, len, inner)?;
                head.last.apply(b, n, inner, &mut o.logits)?;
                Some((first, activation, len))
            }
            None => {
                head.last.apply(b, n, &o.normed, &mut o.logits)?;
                None
            }
        };
        let Some(weights) = weights else {
            b.log_probs(labels, &o.logits, &o.labels, &mut o.numbers)?;
            let mut out = zeros(n)?;
            b.read(&o.numbers, 0, &mut out)?;
            return Ok(out);
        };
        b.write(&mut o.numbers, 0, weights)?;
        b.log_probs_dx(labels, &o.labels, &o.numbers, &mut o.logits)?;
        match between {
            Some((first, activation, len)) => {
                head.last.frozen_dx(b, n, &o.logits, d_inner)?;
                b.activate_dx(activation, len, raw, d_inner)?;
                first.frozen_dx(b, n, d_inner, &mut o.d_normed)?;
            }
            None => head.last.frozen_dx(b, n, &o.logits, &mut o.d_normed)?,
        }
        b.write(&mut o.d_picked, 0, &zeros(n * width)?)?;
        let mut norm = None;
        if let Some(ends) = &mut self.ends {
            let [dw, db] = &mut ends.heads[usize::from(example.scope == Scope::Codes)];
            let s = GemmShape::new(n, labels.width, width);
            b.gemm_dw(s, &o.logits, &o.normed, dw)?;
            b.sum_rows([n, labels.width], &o.logits, db)?;
            norm = Some(&mut ends.norm);
        }
        let both = (&o.picked, &o.d_normed);
        head.norm.apply_dx(b, s, both, norm, &mut o.d_picked)?;
        Ok(Vec::new())
    }
}
