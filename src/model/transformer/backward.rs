//! A stack over whole sequences, and back: of a pass only the rows that enter each block are kept, and a block is
//! computed again when the gradient comes to it; or all rows between its layers are kept, where there is memory for them.
//! Weights stay as they are packed, in any format.

mod back;

use alloc::vec::Vec;

use super::adapters::{Adapters, Site};
use super::{Block, Mlp, NormWeights, Stack};
use crate::error::{Error, Result, product};
use crate::model::linear::backward::LinearGrads;
use crate::model::linear::{Linear, LowRank};
use crate::ops::attention::{AttentionShape, RotaryShape, SPAN_WORDS};
use crate::ops::norm::{Activation, GateShape, HeadNormShape};
use crate::ops::{Backend, Backward};

/// A norm of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormSite {
    /// Before the attention.
    First,
    /// Before the MLP.
    Second,
    /// Of each head of the queries.
    Query,
    /// Of each head of the keys.
    Key,
}

impl NormSite {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::First, Self::Second, Self::Query, Self::Key];
}

/// Sums of the gradients of a block.
#[derive(Debug)]
pub struct BlockGrads<B: Backend> {
    /// Of its linear layers, by [`Site`].
    pub linear: [LinearGrads<B>; 4],
    /// Of its norms, by [`NormSite`]: weight, then bias where there is one.
    pub norm: [Option<B::Buffer<f32>>; 4],
}

/// A whole sequence.
#[derive(Debug)]
pub struct Whole<'a, B: Backend> {
    /// Number of rows.
    pub rows: usize,
    /// Leading rows that see only themselves and what stands before them; the others see all.
    pub causal: usize,
    /// Position of each row; read only with a rotary embedding.
    pub positions: &'a B::Buffer<u32>,
}

/// What is kept of a pass: the rows that entered each block, and those between its layers unless they are computed again.
#[derive(Debug)]
pub struct Tape<B: Backend> {
    inputs: Vec<B::Buffer<f32>>,
    between: Vec<Between<B>>,
}

/// The rows between the layers of one block.
#[derive(Debug)]
struct Between<B: Backend> {
    /// The block's own rows before its last additions, where the second norm reads them.
    x: B::Buffer<f32>,
    normed: B::Buffer<f32>,
    normed2: Option<B::Buffer<f32>>,
    raw: B::Buffer<f32>,
    qkv: B::Buffer<f32>,
    context: B::Buffer<f32>,
    mlp_raw: B::Buffer<f32>,
    mlp: B::Buffer<f32>,
}

/// Memory for the intermediate rows of one block, and their gradients.
#[derive(Debug)]
pub struct Work<B: Backend> {
    rows: usize,
    between: Between<B>,
    back: BackWork<B>,
}

/// Memory of a block for what is no row of the way there.
#[derive(Debug)]
struct BackWork<B: Backend> {
    /// Of a pair of low rank, and its gradient.
    inner: [B::Buffer<f32>; 2],
    spans: [B::Buffer<u32>; 2],
    d_normed: B::Buffer<f32>,
    d_qkv: B::Buffer<f32>,
    d_context: B::Buffer<f32>,
    d_mlp_raw: B::Buffer<f32>,
    d_mlp: B::Buffer<f32>,
}

fn word(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Overflow { op: "rows" })
}

impl<B: Backend> Block<B> {
    const fn norm(&self, site: NormSite) -> Option<&NormWeights<B>> {
        match site {
            NormSite::First => Some(&self.norm1),
            NormSite::Second => self.norm2.as_ref(),
            NormSite::Query => self.q_norm.as_ref(),
            NormSite::Key => self.k_norm.as_ref(),
        }
    }
}

impl<B: Backward> Stack<B> {
    /// A linear layer.
    #[must_use]
    pub fn linear(&self, layer: usize, site: Site) -> Option<&Linear<B>> {
        self.blocks.get(layer).map(|block| block.linear(site))
    }

    /// A linear layer, to be changed.
    #[must_use]
    pub fn linear_mut(&mut self, layer: usize, site: Site) -> Option<&mut Linear<B>> {
        let block = self.blocks.get_mut(layer)?;
        Some(match site {
            Site::Qkv => &mut block.qkv,
            Site::Out => &mut block.out,
            Site::MlpIn => &mut block.mlp_in,
            Site::MlpOut => &mut block.mlp_out,
        })
    }

    /// A norm, if the block has it.
    #[must_use]
    pub fn norm(&self, layer: usize, site: NormSite) -> Option<&NormWeights<B>> {
        self.blocks.get(layer).and_then(|block| block.norm(site))
    }

    /// A norm, to be changed.
    #[must_use]
    pub fn norm_mut(&mut self, layer: usize, site: NormSite) -> Option<&mut NormWeights<B>> {
        let block = self.blocks.get_mut(layer)?;
        match site {
            NormSite::First => Some(&mut block.norm1),
            NormSite::Second => block.norm2.as_mut(),
            NormSite::Query => block.q_norm.as_mut(),
            NormSite::Key => block.k_norm.as_mut(),
        }
    }

    /// Reserves sums of gradients: of all weights, or of pairs beside them.
    ///
    /// # Errors
    /// No memory.
    pub fn grads(
        &self,
        backend: &B,
        whole: bool,
        adapters: Option<&Adapters<B>>,
    ) -> Result<Vec<BlockGrads<B>>> {
        let block = |(layer, block): (usize, &Block<B>)| {
            let linear = |site: Site| {
                let rank = adapters.and_then(|a| a.at(layer, site)).map(LowRank::rank);
                block.linear(site).grads(backend, whole, rank)
            };
            let norm = |site: NormSite| {
                let norm = block.norm(site).filter(|_| whole);
                norm.map(|norm| norm.grads(backend)).transpose()
            };
            let [a, b, c, d] = Site::ALL;
            let [first, second, query, key] = NormSite::ALL;
            Ok(BlockGrads {
                linear: [linear(a)?, linear(b)?, linear(c)?, linear(d)?],
                norm: [norm(first)?, norm(second)?, norm(query)?, norm(key)?],
            })
        };
        self.blocks.iter().enumerate().map(block).collect()
    }

    /// Reserves what is kept of a pass of up to `rows` rows: `whole` with those between the layers of every block, so that
    /// no block is computed again.
    ///
    /// # Errors
    /// No memory.
    pub fn tape(&self, backend: &B, rows: usize, whole: bool) -> Result<Tape<B>> {
        let len = product("tape", &[rows, self.config.width])?;
        let inputs = self.blocks.iter().map(|_| backend.zeros(len));
        let between = self.blocks.iter().filter(|_| whole);
        Ok(Tape {
            inputs: inputs.collect::<Result<_>>()?,
            between: between
                .map(|_| self.between(backend, rows))
                .collect::<Result<_>>()?,
        })
    }

    fn between(&self, backend: &B, rows: usize) -> Result<Between<B>> {
        let c = &self.config;
        let zeros = |width: usize| backend.zeros(product("tape", &[rows, width])?);
        Ok(Between {
            x: zeros(c.width)?,
            normed: zeros(c.width)?,
            normed2: (!c.parallel).then(|| zeros(c.width)).transpose()?,
            raw: zeros(c.qkv_width())?,
            qkv: zeros(c.qkv_width())?,
            context: zeros(c.q_width())?,
            mlp_raw: zeros(self.mlp_outputs())?,
            mlp: zeros(self.mlp_inner())?,
        })
    }

    /// Reserves memory for passes of up to `rows` rows beside pairs of up to `rank`.
    ///
    /// # Errors
    /// No memory.
    pub fn work(&self, backend: &B, rows: usize, rank: usize) -> Result<Work<B>> {
        let c = &self.config;
        let zeros = |width: usize| backend.zeros(product("work", &[rows, width])?);
        Ok(Work {
            rows,
            between: self.between(backend, rows)?,
            back: BackWork {
                inner: [zeros(rank)?, zeros(rank)?],
                spans: [backend.zeros(SPAN_WORDS)?, backend.zeros(SPAN_WORDS)?],
                d_normed: zeros(c.width)?,
                d_qkv: zeros(c.qkv_width())?,
                d_context: zeros(c.q_width())?,
                d_mlp_raw: zeros(self.mlp_outputs())?,
                d_mlp: zeros(self.mlp_inner())?,
            },
        })
    }

    /// Sends rows `x` through all blocks, in place; `tape` keeps what the way back needs.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn forward_whole(
        &self,
        backend: &B,
        whole: &Whole<'_, B>,
        adapters: Option<&Adapters<B>>,
        x: &mut B::Buffer<f32>,
        (mut tape, work): (Option<&mut Tape<B>>, &mut Work<B>),
    ) -> Result<()> {
        let len = self.begin(backend, whole, work)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let (mut between, back) = (&mut work.between, &mut work.back);
            let mut keeps = false;
            if let Some(tape) = &mut tape {
                let input = tape.inputs.get_mut(layer).ok_or(foreign_tape())?;
                backend.copy(x, 0, input, 0, len)?;
                if let Some(kept) = tape.between.get_mut(layer) {
                    (between, keeps) = (kept, true);
                }
            }
            let rows = (&mut *between, &mut *back);
            self.block(backend, (layer, block), whole, adapters, (x, rows))?;
            if keeps && block.norm2.is_some() {
                backend.copy(x, 0, &mut between.x, 0, len)?;
            }
            let mut add = |site: Site, rows: &B::Buffer<f32>, x: &mut B::Buffer<f32>| {
                let pair = adapters.and_then(|a| a.at(layer, site));
                let beside = pair.map(|pair| (pair, &mut back.inner[0]));
                let size = (whole.rows, true);
                let linear = block.linear(site);
                linear.apply_beside(backend, size, rows, beside, x)
            };
            add(Site::MlpOut, &between.mlp, x)?;
            if block.norm2.is_none() {
                add(Site::Out, &between.context, x)?;
            }
        }
        Ok(())
    }

    /// Checks the rows and writes what they see; the elements of the rows.
    fn begin(&self, backend: &B, whole: &Whole<'_, B>, work: &mut Work<B>) -> Result<usize> {
        crate::error::covers("pass", "work", work.rows, whole.rows)?;
        crate::error::covers("pass", "rows", whole.rows, whole.causal)?;
        for (spans, rows) in work.back.spans.iter_mut().zip([whole.causal, whole.rows]) {
            backend.write(spans, 0, &[0, 0, 0, word(rows)?])?;
        }
        product("pass", &[whole.rows, self.config.width])
    }

    const fn head_norm_shape(&self, rows: usize, site: NormSite) -> HeadNormShape {
        let c = &self.config;
        let (heads, offset) = match site {
            NormSite::Key => (c.n_kv_heads, c.q_width()),
            _ => (c.n_heads, 0),
        };
        HeadNormShape {
            rows,
            heads,
            head_dim: c.head_dim,
            stride: c.qkv_width(),
            offset,
            eps: c.eps,
        }
    }

    fn rotary_shape(&self, rows: usize) -> Option<(RotaryShape, &B::Buffer<f32>)> {
        let c = &self.config;
        let (r, table) = (c.rotary?, self.table.as_ref()?);
        let s = RotaryShape {
            rows,
            heads: c.n_heads + c.n_kv_heads,
            head_dim: c.head_dim,
            rotary_dim: r.dim,
            stride: c.qkv_width(),
            offset: 0,
            positions: r.positions,
        };
        Some((s, table))
    }

    /// A block without its last additions: where attention and MLP follow each other, `x` gains the attention.
    fn block(
        &self,
        backend: &B,
        (layer, block): (usize, &Block<B>),
        whole: &Whole<'_, B>,
        adapters: Option<&Adapters<B>>,
        (x, (between, back)): BlockRows<'_, B>,
    ) -> Result<()> {
        let (c, rows) = (&self.config, whole.rows);
        let s = self.norm_shape(rows);
        macro_rules! apply {
            ($site:expr, $add:expr, $x:expr, $y:expr) => {{
                let pair = adapters.and_then(|a| a.at(layer, $site));
                let beside = pair.map(|pair| (pair, &mut back.inner[0]));
                let linear = block.linear($site);
                linear.apply_beside(backend, (rows, $add), $x, beside, $y)?
            }};
        }
        block.norm1.apply(backend, s, x, &mut between.normed)?;
        apply!(Site::Qkv, false, &between.normed, &mut between.raw);
        let len = product("pass", &[rows, c.qkv_width()])?;
        backend.copy(&between.raw, 0, &mut between.qkv, 0, len)?;
        for site in [NormSite::Query, NormSite::Key] {
            if let Some(NormWeights {
                weight,
                bias: Some(bias),
            }) = block.norm(site)
            {
                let s = self.head_norm_shape(rows, site);
                backend.head_norm(s, &mut between.qkv, weight, bias)?;
            }
        }
        if let Some((s, table)) = self.rotary_shape(rows) {
            backend.rotary(s, &mut between.qkv, whole.positions, table)?;
        }
        // All rows see all rows, then the first ones see less.
        let passes = [
            (rows, false, whole.causal < rows),
            (whole.causal, true, whole.causal > 0),
        ];
        for (queries, causal, _) in passes.into_iter().filter(|pass| pass.2) {
            let s = AttentionShape {
                sequences: 1,
                queries,
                n_heads: c.n_heads,
                n_kv_heads: c.n_kv_heads,
                head_dim: c.head_dim,
                q_stride: c.qkv_width(),
                q_offset: 0,
                kv_rows: queries,
                kv_stride: c.qkv_width(),
                kv_head_stride: c.head_dim,
                k_offset: c.q_width(),
                v_offset: c.q_width() + c.kv_width(),
                causal,
                repeated_prefix: false,
                pages: 0,
            };
            let spans = &back.spans[usize::from(!causal)];
            let (qkv, out) = (&between.qkv, &mut between.context);
            backend.attention(s, qkv, qkv, qkv, spans, out)?;
        }
        let normed = match (&block.norm2, &mut between.normed2) {
            (Some(norm), Some(normed)) => {
                apply!(Site::Out, true, &between.context, x);
                norm.apply(backend, s, x, normed)?;
                &*normed
            }
            _ => &between.normed,
        };
        apply!(Site::MlpIn, false, normed, &mut between.mlp_raw);
        let len = product("pass", &[rows, self.mlp_inner()])?;
        match c.mlp {
            Mlp::Plain(activation) => {
                backend.copy(&between.mlp_raw, 0, &mut between.mlp, 0, len)?;
                backend.activate(activation, len, &mut between.mlp)
            }
            Mlp::Gated => backend.gate(self.gate_shape(rows), &between.mlp_raw, &mut between.mlp),
        }
    }

    fn gate_shape(&self, rows: usize) -> GateShape {
        GateShape {
            rows,
            width: self.mlp_inner(),
            activation: Activation::Silu,
        }
    }
}

/// The rows of a block, those between its layers, and memory beside.
type BlockRows<'a, B> = (
    &'a mut <B as Backend>::Buffer<f32>,
    (&'a mut Between<B>, &'a mut BackWork<B>),
);

const fn foreign_tape() -> Error {
    Error::Config {
        key: "tape",
        problem: "or sums of gradients are those of another stack",
    }
}
