//! A latent head backwards.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{ACTIVATION, LatentConfig, LatentHead, OP, Work};
use crate::error::{Error, Result, covers, product};
use crate::model::linear::Linear;
use crate::model::session::filled;
use crate::model::weights::{DType, Tensor, WeightSource, zeros};
use crate::ops::gemm::GemmShape;
use crate::ops::vq::GatherShape;
use crate::ops::{Backend, Backward};
use crate::quant::{Format, QuantMatrix};

/// Hidden rows and codes of some views.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LatentViews<'a> {
    /// `[n, places, hidden_size]`.
    pub hidden: &'a [f32],
    /// `[n, places]`; empty for a head that reads no codes.
    pub codes: &'a [u32],
}

impl<'a> LatentViews<'a> {
    /// Views by hidden rows and codes.
    #[must_use]
    pub const fn new(hidden: &'a [f32], codes: &'a [u32]) -> Self {
        Self { hidden, codes }
    }
}

/// Memory of a pass backwards.
#[derive(Debug)]
struct Back<B: Backend> {
    /// Rows and MLP before their activations.
    rows: B::Buffer<f32>,
    inner: B::Buffer<f32>,
    d_logits: B::Buffer<f32>,
    d_inner: B::Buffer<f32>,
    d_pooled_normed: B::Buffer<f32>,
    d_pooled: B::Buffer<f32>,
    d_scored: B::Buffer<f32>,
    d_rows: B::Buffer<f32>,
    /// Zeros of the length of the pooled rows.
    zeros: B::Buffer<f32>,
}

/// A latent head that is trained: weights in F32 that can be replaced, and sums of gradients.
///
/// Parameters come in the order of [`LatentConfig::tensors`].
#[derive(Debug)]
pub struct LatentLearner<B: Backward> {
    head: LatentHead<B>,
    work: Work<B>,
    back: Back<B>,
    sums: Vec<B::Buffer<f32>>,
    views: usize,
}

/// Tensors out of values.
struct Values {
    shapes: Vec<(&'static str, Vec<usize>)>,
    bytes: Vec<Vec<u8>>,
}

impl WeightSource for Values {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let mut all = self.shapes.iter().zip(&self.bytes);
        let ((_, shape), bytes) = all.find(|((own, _), _)| *own == name)?;
        Some(Tensor {
            dtype: DType::F32,
            shape: shape.clone(),
            bytes,
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.shapes.iter().for_each(|(name, _)| visit(name));
    }
}

impl<B: Backward> LatentLearner<B> {
    /// A head of these values that learns from up to `views` views at once.
    ///
    /// # Errors
    /// A configuration out of range, values of other sizes or that are not finite, or no memory.
    pub fn new(
        backend: Arc<B>,
        config: LatentConfig,
        values: &[&[f32]],
        views: usize,
    ) -> Result<Self> {
        config.check()?;
        let shapes = config.tensors();
        covers(OP, "values", values.len(), shapes.len())?;
        let mut bytes = Vec::new();
        for values in values {
            let mut own = zeros(product(OP, &[values.len(), 4])?)?;
            for (to, v) in own.as_chunks_mut::<4>().0.iter_mut().zip(*values) {
                *to = v.to_le_bytes();
            }
            bytes.push(own);
        }
        let source = Values { shapes, bytes };
        let b = Arc::clone(&backend);
        let c = config.clone();
        let head = LatentHead::load(backend, config, &source, Format::F32)?;
        let rows = product(OP, &[views, c.places])?;
        let floats = |n: usize, width: usize| b.zeros(product(OP, &[n, width])?);
        let sums = source.shapes.iter();
        Ok(Self {
            work: Work::new(&*b, &c, views)?,
            back: Back {
                rows: floats(rows, c.width)?,
                inner: floats(views, c.mlp_width)?,
                d_logits: floats(views, c.logits())?,
                d_inner: floats(views, c.mlp_width)?,
                d_pooled_normed: floats(views, c.pooled())?,
                d_pooled: floats(views, c.pooled())?,
                d_scored: floats(rows, c.pool_shape(views).width()?)?,
                d_rows: floats(rows, c.width)?,
                zeros: floats(views, c.pooled())?,
            },
            sums: sums
                .map(|(_, shape)| b.zeros(product(OP, shape)?))
                .collect::<Result<_>>()?,
            head,
            views: 0,
        })
    }

    /// The head.
    #[must_use]
    pub const fn head(&self) -> &LatentHead<B> {
        &self.head
    }

    /// Replaces all weights.
    ///
    /// # Errors
    /// Values of other sizes.
    pub fn replace(&mut self, values: &[&[f32]]) -> Result<()> {
        let head = &mut self.head;
        let tensors = head.config.tensors();
        covers(OP, "values", values.len(), tensors.len())?;
        for ((_, shape), values) in tensors.iter().zip(values) {
            let len = product(OP, shape)?;
            covers(OP, "values", values.len(), len)?;
            covers(OP, "values", len, values.len())?;
        }
        let (b, c) = (Arc::clone(&head.backend), &head.config);
        let at = (Format::F32, 0);
        let layers = [
            (&mut head.rows, 0),
            (&mut head.pool, 3),
            (&mut head.mlp, 5),
            (&mut head.answers, 7),
        ];
        for (layer, i) in layers {
            layer.replace(&*b, at, values[i], Some(values[i + 1]))?;
        }
        let places = QuantMatrix::f32(c.places, c.width, values[2])?;
        b.put(&mut head.places, 0, &places)?;
        if let (Some(codes), Some(values)) = (&mut head.codes, values.get(9)) {
            let values = QuantMatrix::f32(c.codebook_size, c.width, values)?;
            b.put(codes, 0, &values)?;
        }
        Ok(())
    }

    /// Logits of some views, yes and no of each question, `[n, questions, 2]`.
    ///
    /// # Errors
    /// More views than the memory is for, rows or codes of another length, or logits that do not fit.
    pub fn forward(&mut self, views: LatentViews<'_>, logits: &mut [f32]) -> Result<()> {
        let (head, work, back) = (&self.head, &mut self.work, &mut self.back);
        let (b, c) = (&*head.backend, &head.config);
        let n = logits.len() / c.logits();
        if n == 0 || n > work.views {
            return Err(Error::Range {
                op: OP,
                arg: "views",
                got: n as u64,
                min: 1,
                max: work.views as u64,
            });
        }
        let rows = n * c.places;
        let hidden = product(OP, &[rows, c.hidden_size])?;
        covers(OP, "hidden", views.hidden.len(), hidden)?;
        b.write(&mut work.hidden, 0, &views.hidden[..hidden])?;
        if c.reads_codes() {
            covers(OP, "codes", views.codes.len(), rows)?;
            b.write(&mut work.codes, 0, &views.codes[..rows])?;
        }
        head.read_rows(n, work)?;
        b.copy(&work.rows, 0, &mut back.rows, 0, rows * c.width)?;
        b.activate(ACTIVATION, rows * c.width, &mut work.rows)?;
        head.pool(n, work)?;
        b.copy(&work.inner, 0, &mut back.inner, 0, n * c.mlp_width)?;
        b.activate(ACTIVATION, n * c.mlp_width, &mut work.inner)?;
        head.answers.apply(b, n, &work.inner, &mut work.logits)?;
        self.views = n;
        b.read(&work.logits, 0, &mut logits[..n * c.logits()])
    }

    /// Adds the gradients of the latest views to the sums, from those of their logits.
    ///
    /// # Errors
    /// Gradients of other than the latest logits.
    pub fn backward(&mut self, d_logits: &[f32]) -> Result<()> {
        let (head, work, back) = (&self.head, &self.work, &mut self.back);
        let (b, c, n) = (&*head.backend, &head.config, self.views);
        covers(OP, "d_logits", d_logits.len(), n * c.logits())?;
        b.write(&mut back.d_logits, 0, &d_logits[..n * c.logits()])?;
        let rows = n * c.places;
        let [
            rows_w,
            rows_b,
            places,
            pool_w,
            pool_b,
            mlp_w,
            mlp_b,
            answers_w,
            answers_b,
            codes @ ..,
        ] = &mut self.sums[..]
        else {
            return Err(Error::Overflow { op: OP });
        };
        let answers = (n, &head.answers, &work.inner, &back.d_logits);
        layer(b, answers, [answers_w, answers_b], &mut back.d_inner)?;
        let len = n * c.mlp_width;
        b.activate_dx(ACTIVATION, len, &back.inner, &mut back.d_inner)?;
        let mlp = (n, &head.mlp, &work.pooled_normed, &back.d_inner);
        layer(b, mlp, [mlp_w, mlp_b], &mut back.d_pooled_normed)?;
        b.copy(&back.zeros, 0, &mut back.d_pooled, 0, n * c.pooled())?;
        b.layer_norm_dx(
            head.pooled_norm.shape(n),
            &work.pooled,
            &head.pooled_norm.ones,
            &back.d_pooled_normed,
            &mut back.d_pooled,
        )?;
        let s = c.pool_shape(n);
        b.pool_rows_dx(s, &work.scored, &back.d_pooled, &mut back.d_scored)?;
        let pool = (rows, &head.pool, &work.rows, &back.d_scored);
        layer(b, pool, [pool_w, pool_b], &mut back.d_rows)?;
        let len = rows * c.width;
        b.activate_dx(ACTIVATION, len, &back.rows, &mut back.d_rows)?;
        let s = GemmShape::new(rows, c.width, c.hidden_size);
        b.gemm_dw(s, &back.d_rows, &work.normed, rows_w)?;
        b.sum_rows([rows, c.width], &back.d_rows, rows_b)?;
        let table = |table_rows| GatherShape {
            rows,
            width: c.width,
            table_rows,
        };
        b.gather_dw(table(c.places), &work.places, &back.d_rows, places)?;
        match codes {
            [codes] => b.gather_dw(table(c.codebook_size), &work.codes, &back.d_rows, codes),
            _ => Ok(()),
        }
    }

    /// Reads the sums of gradients, and begins new ones.
    ///
    /// # Errors
    /// Room of other sizes.
    pub fn take(&mut self, gradients: &mut [Vec<f32>]) -> Result<()> {
        let b = &*self.head.backend;
        covers(OP, "gradients", gradients.len(), self.sums.len())?;
        for (sum, out) in self.sums.iter_mut().zip(gradients) {
            b.read(sum, 0, out)?;
            b.write(sum, 0, &filled(out.len(), 0.0)?)?;
        }
        Ok(())
    }
}

/// The gradients of a layer, and of what it read.
fn layer<B: Backward>(
    b: &B,
    (m, layer, x, dy): (usize, &Linear<B>, &B::Buffer<f32>, &B::Buffer<f32>),
    [dw, db]: [&mut B::Buffer<f32>; 2],
    dx: &mut B::Buffer<f32>,
) -> Result<()> {
    b.gemm_dw(GemmShape::new(m, layer.n(), layer.k()), dy, x, dw)?;
    b.sum_rows([m, layer.n()], dy, db)?;
    layer.frozen_dx(b, m, dy, dx)
}
