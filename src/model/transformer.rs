//! One transformer stack for the text towers, the image towers and the generators.

mod adapters;
#[cfg(feature = "align")]
pub mod backward;
mod cache;
mod config;
mod watch;

pub(in crate::model) use adapters::peft_prefix;
pub use adapters::{AdapterConfig, Adapters, BlockAdapters, PEFT_PREFIX, Site};
pub use cache::Cache;
pub use config::{Mlp, Norm, Rotary, StackConfig};
use watch::Watch;
pub use watch::{Look, Stage};

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::model::linear::Linear;
use crate::model::weights::{Loader, zeros};
use crate::ops::attention::rotary_table;
use crate::ops::norm::{Activation, GateShape, NormShape};
use crate::ops::{Backend, HeadNorms};

/// Names of one block's tensors, without `.weight` and `.bias`. Names that a configuration does not use stay empty.
#[derive(Debug, Clone, Default)]
pub struct BlockNames {
    /// Norm before attention.
    pub norm1: String,
    /// Norm before the MLP.
    pub norm2: String,
    /// Query, key and value layers; where a checkpoint holds them as one, its name and two empty ones.
    pub qkv: [String; 3],
    /// Output layer of the attention.
    pub out: String,
    /// Head norms of q and k.
    pub qk_norm: [String; 2],
    /// First MLP layer: one name, or gate and up.
    pub mlp_in: Vec<String>,
    /// Last MLP layer.
    pub mlp_out: String,
}

/// Weight and bias of a norm; the bias is empty for [`Norm::Rms`].
#[derive(Debug)]
pub struct NormWeights<B: Backend> {
    weight: B::Buffer<f32>,
    bias: Option<B::Buffer<f32>>,
}

impl<B: Backend> NormWeights<B> {
    /// Reads `{name}.weight` and, for a layer norm, `{name}.bias`.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn load(loader: &Loader<'_, B>, norm: Norm, name: &str, width: usize) -> Result<Self> {
        Ok(Self {
            weight: loader.buffer(&alloc::format!("{name}.weight"), &[width])?,
            bias: match norm {
                Norm::Layer => Some(loader.buffer(&alloc::format!("{name}.bias"), &[width])?),
                Norm::Rms => None,
            },
        })
    }

    /// Normalises rows.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply(
        &self,
        backend: &B,
        s: NormShape,
        x: &B::Buffer<f32>,
        y: &mut B::Buffer<f32>,
    ) -> Result<()> {
        match &self.bias {
            Some(bias) => backend.layer_norm(s, x, &self.weight, bias, y),
            None => backend.rms_norm(s, x, &self.weight, y),
        }
    }
}

#[derive(Debug)]
struct Block<B: Backend> {
    norm1: NormWeights<B>,
    norm2: Option<NormWeights<B>>,
    qkv: Linear<B>,
    q_norm: Option<NormWeights<B>>,
    k_norm: Option<NormWeights<B>>,
    out: Linear<B>,
    mlp_in: Linear<B>,
    mlp_out: Linear<B>,
}

impl<B: Backend> Block<B> {
    /// The norms of heads, if it has them.
    fn head_norms(&self, eps: f32) -> Option<HeadNorms<'_, B>> {
        let (q, k) = (self.q_norm.as_ref()?, self.k_norm.as_ref()?);
        Some(HeadNorms {
            queries: [&q.weight, q.bias.as_ref()?],
            keys: [&k.weight, k.bias.as_ref()?],
            eps,
        })
    }
}

/// A stack of blocks. Immutable: everything that changes lies in [`Cache`] and [`Scratch`].
#[derive(Debug)]
pub struct Stack<B: Backend> {
    config: StackConfig,
    blocks: Vec<Block<B>>,
    table: Option<B::Buffer<f32>>,
    repeated_prefix: bool,
    adapters: Adapters<B>,
}

/// What a model brings to its stack itself, where names alone do not say it.
pub struct Special<'a, B: Backend> {
    /// The q, k and v layer of a block, outputs side by side.
    pub qkv: &'a dyn Fn(usize) -> Result<Linear<B>>,
    /// Rotary table of the configuration's size; see [`rotary_table`] for its layout. Asked for once the blocks are
    /// read, and so the sizes confirmed.
    pub table: &'a dyn Fn() -> Result<Vec<f32>>,
    /// Whether the prefix of a sequence is one row that counts as often as its length says.
    pub repeated_prefix: bool,
}

impl<B: Backend> core::fmt::Debug for Special<'_, B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Special")
            .field("repeated_prefix", &self.repeated_prefix)
            .finish_non_exhaustive()
    }
}

/// Memory for the intermediate rows of one pass.
#[derive(Debug)]
pub struct Scratch<B: Backend> {
    normed: B::Buffer<f32>,
    qkv: B::Buffer<f32>,
    context: B::Buffer<f32>,
    mlp: B::Buffer<f32>,
    gated: Option<B::Buffer<f32>>,
    /// Between the products of a low-rank pair, if there is one.
    inner: Option<B::Buffer<f32>>,
}

/// What one pass reads beside the rows themselves.
#[derive(Debug)]
pub struct Pass<'a, B: Backend> {
    /// Number of sequences.
    pub sequences: usize,
    /// Rows of each sequence.
    pub queries: usize,
    /// Whether a row sees only itself and what stands before it.
    pub causal: bool,
    /// Position of each row, `[sequences · queries]`; read only with a rotary embedding.
    pub positions: &'a B::Buffer<u32>,
    /// Cache row that takes each row's key and value, `[sequences · queries]`.
    pub places: &'a B::Buffer<u32>,
    /// What each sequence sees of the cache: see [`attention`](crate::ops::attention::attention).
    pub spans: &'a B::Buffer<u32>,
    /// Pages of each sequence's own rows; none where they lie together.
    pub pages: usize,
}

impl<B: Backend> Stack<B> {
    /// Reads the blocks; `names` gives the tensors of each layer.
    ///
    /// # Errors
    /// As [`Loader::floats`], or a configuration that contradicts itself.
    pub fn load(
        loader: &Loader<'_, B>,
        config: StackConfig,
        names: &dyn Fn(usize) -> BlockNames,
    ) -> Result<Self> {
        Self::read(loader, config, names, None)
    }

    /// As [`load`](Self::load), with a q, k and v layer and a rotary table of the model's own.
    ///
    /// # Errors
    /// As [`load`](Self::load), or a table of another size.
    pub fn load_special(
        loader: &Loader<'_, B>,
        config: StackConfig,
        names: &dyn Fn(usize) -> BlockNames,
        special: &Special<'_, B>,
    ) -> Result<Self> {
        Self::read(loader, config, names, Some(special))
    }

    fn read(
        loader: &Loader<'_, B>,
        config: StackConfig,
        names: &dyn Fn(usize) -> BlockNames,
        special: Option<&Special<'_, B>>,
    ) -> Result<Self> {
        config.check()?;
        let c = &config;
        let mut blocks = Vec::new();
        for layer in 0..c.layers {
            let n = names(layer);
            let [q, k, v] = &n.qkv;
            let qkv = if k.is_empty() && v.is_empty() {
                Vec::from([(q.as_str(), c.qkv_width())])
            } else {
                Vec::from([
                    (q.as_str(), c.q_width()),
                    (k, c.kv_width()),
                    (v, c.kv_width()),
                ])
            };
            let head_norm = |name: &String| {
                c.qk_norm
                    .then(|| NormWeights::load(loader, Norm::Layer, name, c.head_dim))
                    .transpose()
            };
            let mlp_in: Vec<(&str, usize)> = n
                .mlp_in
                .iter()
                .map(|name| (name.as_str(), c.mlp_width))
                .collect();
            let (width, inner) = (c.width, loader.whole(c.mlp_width));
            let (mlp_in, mlp_out) = match (c.mlp, mlp_in.as_slice()) {
                // Activations map zeros to zeros, which the second layer's zeros are multiplied with.
                (Mlp::Plain(_), &[(first, size)]) => (
                    Linear::filled(loader, first, [size, width], [inner, width])?,
                    Linear::filled(loader, &n.mlp_out, [width, size], [width, inner])?,
                ),
                (mlp, parts) => {
                    let bias = mlp != Mlp::Gated;
                    (
                        Linear::fused(loader, parts, width, bias)?,
                        Linear::load(loader, &n.mlp_out, width, c.mlp_width, bias)?,
                    )
                }
            };
            blocks.push(Block {
                norm1: NormWeights::load(loader, c.norm, &n.norm1, c.width)?,
                norm2: (!c.parallel)
                    .then(|| NormWeights::load(loader, c.norm, &n.norm2, c.width))
                    .transpose()?,
                qkv: match special {
                    Some(special) => (special.qkv)(layer)?,
                    None => Linear::fused(loader, &qkv, c.width, c.qkv_bias)?,
                },
                q_norm: head_norm(&n.qk_norm[0])?,
                k_norm: head_norm(&n.qk_norm[1])?,
                out: Linear::load(loader, &n.out, c.width, c.q_width(), c.out_bias)?,
                mlp_in,
                mlp_out,
            });
        }
        let table = match c.rotary {
            Some(r) => {
                let len = crate::error::product("rotary", &[r.positions, r.dim])?;
                match special {
                    Some(special) => {
                        let table = (special.table)()?;
                        crate::error::covers("rotary", "table", table.len(), len)?;
                        Some(loader.upload(&table)?)
                    }
                    None => {
                        let mut table = zeros(len)?;
                        rotary_table(r.positions, r.dim, r.theta, &mut table)?;
                        Some(loader.upload(&table)?)
                    }
                }
            }
            None => None,
        };
        Ok(Self {
            config,
            blocks,
            table,
            repeated_prefix: special.is_some_and(|s| s.repeated_prefix),
            adapters: Adapters(Vec::new()),
        })
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &StackConfig {
        &self.config
    }

    /// Inner width of the MLPs, as [`Loader::whole`] fills it up.
    fn mlp_inner(&self) -> usize {
        let first = self.blocks.first();
        first.map_or(self.config.mlp_width, |block| block.mlp_out.k())
    }

    /// Outputs of the MLPs' first layers.
    fn mlp_outputs(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.mlp_in.n())
    }

    /// Reserves memory for passes of up to `rows` rows.
    ///
    /// # Errors
    /// No memory.
    pub fn scratch(&self, backend: &B, rows: usize) -> Result<Scratch<B>> {
        let c = &self.config;
        let zeros = |width: usize| backend.zeros(crate::error::product("scratch", &[rows, width])?);
        Ok(Scratch {
            normed: zeros(c.width)?,
            qkv: zeros(c.qkv_width())?,
            context: zeros(c.q_width())?,
            mlp: zeros(self.mlp_outputs())?,
            gated: match c.mlp {
                Mlp::Plain(_) => None,
                Mlp::Gated => Some(zeros(self.mlp_inner())?),
            },
            inner: match self.adapters.rank() {
                0 => None,
                rank => Some(zeros(rank)?),
            },
        })
    }

    /// Sends rows `x` `[sequences · queries, width]` through all blocks, in place.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn forward(
        &self,
        backend: &B,
        pass: &Pass<'_, B>,
        x: &mut B::Buffer<f32>,
        cache: &mut Cache<B>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        self.passed(backend, pass, x, (cache, scratch), Watch(None))
    }

    /// As [`forward`](Self::forward), showing every stage to `look`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or what `look` returns.
    pub fn forward_watched(
        &self,
        backend: &B,
        pass: &Pass<'_, B>,
        x: &mut B::Buffer<f32>,
        memory: (&mut Cache<B>, &mut Scratch<B>),
        look: Look<'_, B>,
    ) -> Result<()> {
        self.passed(backend, pass, x, memory, Watch(Some(look)))
    }

    fn passed(
        &self,
        backend: &B,
        pass: &Pass<'_, B>,
        x: &mut B::Buffer<f32>,
        (cache, scratch): (&mut Cache<B>, &mut Scratch<B>),
        mut watch: Watch<'_, B>,
    ) -> Result<()> {
        for (layer, block) in self.blocks.iter().enumerate() {
            let memory = (&mut *cache, &mut *scratch);
            self.attend(backend, (layer, block), pass, x, memory, watch.again())?;
            let s = self.norm_shape(pass.sequences * pass.queries);
            if let Some(norm) = &block.norm2 {
                self.attended(backend, layer, s.rows, scratch, x)?;
                norm.apply(backend, s, x, &mut scratch.normed)?;
            }
            self.mlp(backend, (layer, block), s.rows, scratch, x)?;
            watch.see(layer, Stage::Mlp, x)?;
            if block.norm2.is_none() {
                self.attended(backend, layer, s.rows, scratch, x)?;
            }
            watch.see(layer, Stage::Output, x)?;
        }
        Ok(())
    }

    const fn norm_shape(&self, rows: usize) -> NormShape {
        NormShape {
            rows,
            width: self.config.width,
            eps: self.config.eps,
        }
    }

    /// First norm, q, k and v, and the attention into `scratch.context`.
    fn attend(
        &self,
        backend: &B,
        (layer, block): (usize, &Block<B>),
        pass: &Pass<'_, B>,
        x: &B::Buffer<f32>,
        (cache, scratch): (&mut Cache<B>, &mut Scratch<B>),
        mut watch: Watch<'_, B>,
    ) -> Result<()> {
        let rows = pass.sequences * pass.queries;
        block
            .norm1
            .apply(backend, self.norm_shape(rows), x, &mut scratch.normed)?;
        watch.see(layer, Stage::Norm, &scratch.normed)?;
        let both = (&scratch.normed, &mut scratch.qkv);
        let inner = &mut scratch.inner;
        self.apply(backend, (layer, Site::Qkv), (rows, false), both, inner)?;
        let own = (layer, &mut *cache);
        self.keep(backend, pass, &mut scratch.qkv, own, watch.again())?;
        watch.see(layer, Stage::Rotated, &scratch.qkv)?;
        let Scratch { qkv, context, .. } = &mut *scratch;
        self.attend_cached(backend, pass, qkv, (layer, cache), context)?;
        watch.see(layer, Stage::Context, &scratch.context)
    }

    /// x += the attention's output layer (scratch.context).
    fn attended(
        &self,
        backend: &B,
        layer: usize,
        rows: usize,
        scratch: &mut Scratch<B>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let both = (&scratch.context, x);
        let inner = &mut scratch.inner;
        self.apply(backend, (layer, Site::Out), (rows, true), both, inner)
    }

    /// x += MLP(scratch.normed).
    fn mlp(
        &self,
        backend: &B,
        (layer, block): (usize, &Block<B>),
        rows: usize,
        scratch: &mut Scratch<B>,
        x: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let width = self.mlp_inner();
        let Scratch {
            normed,
            mlp,
            gated,
            inner,
            ..
        } = scratch;
        let first = (layer, Site::MlpIn);
        self.apply(backend, first, (rows, false), (normed, &mut *mlp), inner)?;
        let last = (layer, Site::MlpOut);
        // Adapters beside the last layer read its rows as well.
        let beside = self.adapters.at(layer, Site::MlpOut).is_some();
        let rows_in = match (self.config.mlp, gated) {
            (Mlp::Plain(activation), _) if beside => {
                backend.activate(activation, rows * width, mlp)?;
                &*mlp
            }
            (Mlp::Plain(activation), _) => {
                return block
                    .mlp_out
                    .add_activated(backend, rows, (activation, mlp), x);
            }
            (Mlp::Gated, Some(gated)) if beside => {
                let s = GateShape {
                    rows,
                    width,
                    activation: Activation::Silu,
                };
                backend.gate(s, mlp, gated)?;
                &*gated
            }
            (Mlp::Gated, Some(gated)) => {
                return block
                    .mlp_out
                    .add_gated(backend, rows, (Activation::Silu, mlp, gated), x);
            }
            (Mlp::Gated, None) => {
                return Err(Error::Config {
                    key: "mlp",
                    problem: "needs scratch of its own stack",
                });
            }
        };
        self.apply(backend, last, (rows, true), (rows_in, x), inner)
    }
}
