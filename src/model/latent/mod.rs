//! A small judge that reads what a generator knew when it drew: its hidden rows, and the codes of the picture as it
//! predicts it. It decodes no pixels, and costs a hundredth of a step.
//!
//! Hidden rows of a picture's places have seen the prompt, so that the head needs no text of its own. Each row is
//! normalised and brought to the head's width; what its code and its place mean to the head is added; some heads pool the
//! rows of a view, each by scores of its own; a small MLP answers all questions at once:
//!
//! u = gelu(R·norm(x) + codes\[code\] + places\[place\]), z = [`pool_rows`](crate::ops::reward_head::pool_rows)(P·u),
//! logits = A·gelu(M·norm(z)), two for each question, and
//! [`answer`](crate::ops::reward_head::answer) makes P(yes) and P(no) of them.
//!
//! # Source
//! Own design. Such a head is taught by a judge (example `distil`) and answers for the generator whose rows it was taught
//! on, with the same settings.

#[cfg(feature = "align")]
pub mod backward;
mod config;
mod session;

pub use config::LatentConfig;
pub use session::LatentSession;

use alloc::string::String;
use alloc::sync::Arc;

use crate::error::{Result, product};
use crate::model::linear::Linear;
use crate::model::weights::{Loader, Precision, WeightSource};
use crate::ops::Backend;
use crate::ops::norm::{Activation, NormShape};
use crate::ops::reward_head::AnswerShape;
use crate::ops::vq::GatherShape;

const OP: &str = "latent head";
/// Added to variances.
const EPS: f32 = 1e-5;
/// The activation of rows and MLP.
const ACTIVATION: Activation = Activation::GeluTanh;

/// A norm without weights of its own: a layer follows that has some.
#[derive(Debug)]
struct PlainNorm<B: Backend> {
    ones: B::Buffer<f32>,
    zeros: B::Buffer<f32>,
    width: usize,
}

impl<B: Backend> PlainNorm<B> {
    fn new(backend: &B, width: usize) -> Result<Self> {
        let mut ones = backend.zeros(width)?;
        backend.write(&mut ones, 0, &crate::model::session::filled(width, 1.0)?)?;
        let zeros = backend.zeros(width)?;
        Ok(Self { ones, zeros, width })
    }

    const fn shape(&self, rows: usize) -> NormShape {
        NormShape {
            rows,
            width: self.width,
            eps: EPS,
        }
    }

    fn apply(
        &self,
        backend: &B,
        rows: usize,
        x: &B::Buffer<f32>,
        y: &mut B::Buffer<f32>,
    ) -> Result<()> {
        backend.layer_norm(self.shape(rows), x, &self.ones, &self.zeros, y)
    }
}

/// A latent head: immutable weights, shared by any number of [sessions](LatentSession).
#[derive(Debug)]
pub struct LatentHead<B: Backend> {
    backend: Arc<B>,
    config: LatentConfig,
    norm: PlainNorm<B>,
    rows: Linear<B>,
    codes: Option<B::Matrix>,
    places: B::Matrix,
    pool: Linear<B>,
    pooled_norm: PlainNorm<B>,
    mlp: Linear<B>,
    answers: Linear<B>,
}

/// Device memory of a pass over some views.
#[derive(Debug)]
struct Work<B: Backend> {
    /// Views it is for.
    views: usize,
    /// `[views, places, hidden_size]`.
    hidden: B::Buffer<f32>,
    normed: B::Buffer<f32>,
    codes: B::Buffer<u32>,
    /// Which place each row is of.
    places: B::Buffer<u32>,
    /// `[views, places, width]`.
    rows: B::Buffer<f32>,
    meaning: B::Buffer<f32>,
    /// Scores and values of the pooling.
    scored: B::Buffer<f32>,
    pooled: B::Buffer<f32>,
    pooled_normed: B::Buffer<f32>,
    inner: B::Buffer<f32>,
    /// `[views, questions, 2]`.
    logits: B::Buffer<f32>,
    p: B::Buffer<f32>,
}

impl<B: Backend> Work<B> {
    fn new(backend: &B, c: &LatentConfig, views: usize) -> Result<Self> {
        let rows = product(OP, &[views, c.places])?;
        let floats = |n: usize, width: usize| backend.zeros(product(OP, &[n, width])?);
        let pool = c.pool_shape(views);
        let mut places = backend.zeros(rows)?;
        let mut order = crate::model::session::filled(c.places, 0_u32)?;
        for (place, at) in order.iter_mut().zip(0..) {
            *place = at;
        }
        for view in 0..views {
            backend.write(&mut places, view * c.places, &order)?;
        }
        Ok(Self {
            views,
            hidden: floats(rows, c.hidden_size)?,
            normed: floats(rows, c.hidden_size)?,
            codes: backend.zeros(if c.reads_codes() { rows } else { 0 })?,
            places,
            rows: floats(rows, c.width)?,
            meaning: floats(rows, c.width)?,
            scored: floats(rows, pool.width()?)?,
            pooled: floats(views, c.pooled())?,
            pooled_normed: floats(views, c.pooled())?,
            inner: floats(views, c.mlp_width)?,
            logits: floats(views, c.logits())?,
            p: floats(views, c.logits())?,
        })
    }
}

impl<B: Backend> LatentHead<B> {
    /// Reads a head, large matrices kept at `precision`.
    ///
    /// # Shapes
    /// `rows` `[width, hidden_size]`, `codes` `[codebook_size, width]` if codes are read, `places` `[places, width]`,
    /// `pool` `[pool_heads · (1 + pool_head_dim), width]`, `mlp` `[mlp_width, pool_heads · pool_head_dim]`, `answers`
    /// `[2 · questions, mlp_width]`; each `.weight`, and `.bias` but for the tables of codes and places.
    ///
    /// # Errors
    /// A missing, unknown or misshapen tensor, numbers that are not finite, a configuration out of range, or no memory.
    pub fn load(
        backend: Arc<B>,
        config: LatentConfig,
        source: &dyn WeightSource,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        config.check()?;
        let device = Arc::clone(&backend);
        let rename = |name: &str| String::from(name);
        let l = Loader::new(&*device, source, precision, &rename);
        let c = &config;
        let head = Self {
            norm: PlainNorm::new(&*device, c.hidden_size)?,
            rows: Linear::load(&l, "rows", c.width, c.hidden_size, true)?,
            codes: c
                .reads_codes()
                .then(|| l.table("codes.weight", [c.codebook_size, c.width]))
                .transpose()?,
            places: l.table("places.weight", [c.places, c.width])?,
            pool: Linear::load(&l, "pool", c.pool_shape(1).width()?, c.width, true)?,
            pooled_norm: PlainNorm::new(&*device, c.pooled())?,
            mlp: Linear::load(&l, "mlp", c.mlp_width, c.pooled(), true)?,
            answers: Linear::load(&l, "answers", c.logits(), c.mlp_width, true)?,
            backend,
            config,
        };
        l.finish(&|_| false)?;
        Ok(head)
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &LatentConfig {
        &self.config
    }

    /// The device.
    #[must_use]
    pub const fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// The rows of `n` views before their activation, from `work.hidden` and `work.codes`, into `work.rows`.
    fn read_rows(&self, n: usize, work: &mut Work<B>) -> Result<()> {
        let (b, c) = (&*self.backend, &self.config);
        let rows = n * c.places;
        self.norm.apply(b, rows, &work.hidden, &mut work.normed)?;
        self.rows.apply(b, rows, &work.normed, &mut work.rows)?;
        let table = |table_rows| GatherShape {
            rows,
            width: c.width,
            table_rows,
        };
        let len = rows * c.width;
        if let Some(codes) = &self.codes {
            let s = table(c.codebook_size);
            b.gather_rows(s, &work.codes, codes, &mut work.meaning)?;
            b.add(len, &work.meaning, &mut work.rows)?;
        }
        let s = table(c.places);
        b.gather_rows(s, &work.places, &self.places, &mut work.meaning)?;
        b.add(len, &work.meaning, &mut work.rows)
    }

    /// From activated rows to the MLP before its activation, in `work.inner`.
    fn pool(&self, n: usize, work: &mut Work<B>) -> Result<()> {
        let (b, c) = (&*self.backend, &self.config);
        self.pool
            .apply(b, n * c.places, &work.rows, &mut work.scored)?;
        b.pool_rows(c.pool_shape(n), &work.scored, &mut work.pooled)?;
        self.pooled_norm
            .apply(b, n, &work.pooled, &mut work.pooled_normed)?;
        self.mlp.apply(b, n, &work.pooled_normed, &mut work.inner)
    }

    /// The answers of the first `n` views in `work`, into `work.p`.
    fn answer(&self, n: usize, work: &mut Work<B>) -> Result<()> {
        let (b, c) = (&*self.backend, &self.config);
        self.read_rows(n, work)?;
        b.activate(ACTIVATION, n * c.places * c.width, &mut work.rows)?;
        self.pool(n, work)?;
        b.activate(ACTIVATION, n * c.mlp_width, &mut work.inner)?;
        self.answers.apply(b, n, &work.inner, &mut work.logits)?;
        let s = AnswerShape {
            rows: n * c.questions.len(),
            width: 2,
            yes: 0,
            no: 1,
        };
        b.answer(s, &work.logits, &mut work.p)
    }
}
