//! Low-rank pairs beside the layers of a stack, applied without being merged into the weights.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Block, BlockNames, Stack};
use crate::error::{Error, Name, Result, product};
use crate::model::linear::{Linear, LowRank};
use crate::model::weights::{Loader, WeightSource, zeros};
use crate::ops::Backend;
use crate::quant::Format;

/// What the PEFT library puts before the names of a model.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// A linear layer of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// Queries, keys and values side by side.
    Qkv,
    /// Output layer of the attention.
    Out,
    /// First MLP layer, or gate and up side by side.
    MlpIn,
    /// Last MLP layer.
    MlpOut,
}

impl Site {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::Out, Self::MlpIn, Self::MlpOut];
}

impl BlockNames {
    /// The layers that stand side by side in one of `n` outputs, by name: outputs from where on, and how many. `kv` are
    /// the outputs of the keys.
    #[must_use]
    pub fn parts(&self, site: Site, n: usize, kv: usize) -> Vec<(&str, usize, usize)> {
        match site {
            Site::Qkv if self.qkv[1].is_empty() => Vec::from([(&*self.qkv[0], 0, n)]),
            Site::Qkv => {
                let q = n.saturating_sub(2 * kv);
                let [a, b, c] = &self.qkv;
                Vec::from([(&**a, 0, q), (&**b, q, kv), (&**c, q + kv, kv)])
            }
            Site::Out => Vec::from([(&*self.out, 0, n)]),
            Site::MlpIn => {
                let each = n / self.mlp_in.len().max(1);
                let parts = self.mlp_in.iter().enumerate();
                parts.map(|(i, name)| (&**name, i * each, each)).collect()
            }
            Site::MlpOut => Vec::from([(&*self.mlp_out, 0, n)]),
        }
    }
}

/// Low-rank pairs of a block, by [`Site`].
pub type BlockAdapters<B> = [Option<LowRank<B>>; 4];

/// Low-rank pairs of a stack; no blocks stand for none.
#[derive(Debug)]
pub struct Adapters<B: Backend>(pub Vec<BlockAdapters<B>>);

impl<B: Backend> Adapters<B> {
    /// The pair beside a layer.
    #[must_use]
    pub fn at(&self, layer: usize, site: Site) -> Option<&LowRank<B>> {
        self.0.get(layer).and_then(|b| b[site as usize].as_ref())
    }

    /// The largest rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        let pairs = self.0.iter().flatten().flatten();
        pairs.map(LowRank::rank).max().unwrap_or(0)
    }
}

/// What adapters were made with: y = W x + b + alpha / rank · B (A x).
///
/// ```
/// use maquette::model::transformer::AdapterConfig;
/// assert_eq!(AdapterConfig::new(8, 16.0)?.scale(), 2.0);
/// assert!(AdapterConfig::new(0, 16.0).is_err());
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Source
/// Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterConfig {
    rank: usize,
    scale: f32,
}

impl AdapterConfig {
    /// From rank and alpha.
    ///
    /// # Errors
    /// [`Error::Config`] for a rank of zero, or an alpha that is no positive number.
    pub fn new(rank: usize, alpha: f32) -> Result<Self> {
        Self::scaled(rank, alpha, rank as f32)
    }

    fn scaled(rank: usize, alpha: f32, over: f32) -> Result<Self> {
        let wrong = |key, problem| Error::Config { key, problem };
        if rank == 0 {
            return Err(wrong("r", "is zero"));
        }
        let scale = alpha / over;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(wrong("lora_alpha", "is no positive number"));
        }
        Ok(Self { rank, scale })
    }

    /// Reads the `adapter_config.json` of the PEFT library.
    ///
    /// # Errors
    /// Settings that are missing or no numbers, and [`Error::Config`] for what would change the product: another kind of
    /// adapters than LoRA, DoRA, ranks or factors of single layers, trained biases, modules that are saved whole.
    #[cfg(feature = "safetensors")]
    pub fn from_json(json: &crate::model::files::config::JsonConfig) -> Result<Self> {
        let wrong = |key, problem| Error::Config { key, problem };
        if json.text("peft_type").is_some_and(|kind| kind != "LORA") {
            return Err(wrong("peft_type", "is not LORA"));
        }
        if json.text("bias").is_some_and(|bias| bias != "none") {
            return Err(wrong("bias", "is not none"));
        }
        if json.flag_or("use_dora", false)? {
            return Err(wrong("use_dora", "is not supported"));
        }
        for key in ["rank_pattern", "alpha_pattern"] {
            if json.child(key).is_some_and(|child| !child.is_empty()) {
                return Err(wrong(key, "is not supported"));
            }
        }
        if json.has("modules_to_save") {
            return Err(wrong("modules_to_save", "is not supported"));
        }
        let (rank, alpha) = (json.size("r")?, json.float("lora_alpha")?);
        let over = if json.flag_or("use_rslora", false)? {
            libm::sqrtf(rank as f32)
        } else {
            rank as f32
        };
        Self::scaled(rank, alpha, over)
    }

    /// The rank of every pair.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// What the pair's product is multiplied with.
    #[must_use]
    pub const fn scale(&self) -> f32 {
        self.scale
    }
}

/// The first of some prefixes with which a file of adapters names a layer.
pub(in crate::model) fn peft_prefix<'a>(
    source: &dyn WeightSource,
    prefixes: &[&'a str],
) -> &'a str {
    let named = |prefix: &&&str| {
        let start = format!("{PEFT_PREFIX}{prefix}layers.");
        let mut found = false;
        source.names(&mut |name| found |= name.starts_with(&start));
        found
    };
    let first = prefixes.iter().find(named).or(prefixes.first());
    first.copied().unwrap_or_default()
}

impl<B: Backend> Block<B> {
    pub(super) const fn linear(&self, site: Site) -> &Linear<B> {
        match site {
            Site::Qkv => &self.qkv,
            Site::Out => &self.out,
            Site::MlpIn => &self.mlp_in,
            Site::MlpOut => &self.mlp_out,
        }
    }
}

impl<B: Backend> Stack<B> {
    /// Whether low-rank pairs stand beside its layers.
    #[must_use]
    pub const fn is_adapted(&self) -> bool {
        !self.adapters.0.is_empty()
    }

    /// Puts low-rank pairs beside the layers, under the PEFT library's names: `base_model.model.{layer}.lora_A.weight`
    /// `[rank, k]` and `….lora_B.weight` `[n, rank]`. Scratch must be reserved afterwards.
    ///
    /// # Errors
    /// A stack that has pairs; a layer with one half of a pair; a tensor of another shape or type, with numbers that are
    /// not finite, or of no layer; no pair at all; no memory. Then nothing has changed.
    pub fn adapt(
        &mut self,
        backend: &B,
        config: &AdapterConfig,
        source: &dyn WeightSource,
        names: &dyn Fn(usize) -> BlockNames,
    ) -> Result<()> {
        if self.is_adapted() {
            return Err(Error::Unsupported {
                what: "a second set of adapters",
            });
        }
        let rename = |name: &str| format!("{PEFT_PREFIX}{name}");
        let loader = Loader::new(backend, source, Format::F32, &rename);
        let c = self.config;
        let kv = product("adapters", &[c.n_kv_heads, c.head_dim])?;
        let (mut blocks, mut any) = (Vec::new(), false);
        for (layer, block) in self.blocks.iter().enumerate() {
            let names = names(layer);
            let mut adapted: BlockAdapters<B> = [const { None }; 4];
            for (site, pair) in Site::ALL.into_iter().zip(&mut adapted) {
                let linear = block.linear(site);
                let parts = names.parts(site, linear.n(), kv);
                *pair = beside(&loader, linear, config, &parts)?;
                any |= pair.is_some();
                if pair.is_some() && site == Site::Qkv && names.qkv[1].is_empty() {
                    return Err(Error::Unsupported {
                        what: "adapters of queries, keys and values that are stored as one",
                    });
                }
            }
            blocks.push(adapted);
        }
        loader.finish(&|_| false)?;
        if !any {
            return Err(Error::Config {
                key: "target_modules",
                problem: "names no layer of the model",
            });
        }
        self.adapters = Adapters(blocks);
        Ok(())
    }

    /// A layer with what stands beside it.
    pub(super) fn apply(
        &self,
        backend: &B,
        (layer, site): (usize, Site),
        (rows, add): (usize, bool),
        (x, y): (&B::Buffer<f32>, &mut B::Buffer<f32>),
        inner: &mut Option<B::Buffer<f32>>,
    ) -> Result<()> {
        let linear = self.blocks.get(layer).map(|block| block.linear(site));
        let linear = linear.ok_or(foreign_scratch())?;
        let beside = match (self.adapters.at(layer, site), inner) {
            (Some(pair), Some(inner)) => Some((pair, inner)),
            (Some(_), None) => return Err(foreign_scratch()),
            (None, _) => None,
        };
        linear.apply_beside(backend, (rows, add), x, beside, y)
    }
}

const fn foreign_scratch() -> Error {
    Error::Config {
        key: "scratch",
        problem: "is that of another stack, or older than its adapters",
    }
}

/// The pairs of layers that stand side by side become one, with zeros where outputs of one meet the ranks of another.
fn beside<B: Backend>(
    loader: &Loader<'_, B>,
    linear: &Linear<B>,
    config: &AdapterConfig,
    parts: &[(&str, usize, usize)],
) -> Result<Option<LowRank<B>>> {
    let (n, k, r) = (linear.n(), linear.k(), config.rank);
    let both = |name: &str| {
        [
            format!("{name}.lora_A.weight"),
            format!("{name}.lora_B.weight"),
        ]
    };
    let named: Vec<([String; 2], usize, usize)> = parts
        .iter()
        .map(|&(name, at, n)| (both(name), at, n))
        .filter(|(both, ..)| both.iter().any(|name| loader.has(name)))
        .collect();
    if named.is_empty() {
        return Ok(None);
    }
    for ([first, _], _, outputs) in &named {
        if r > k.min(*outputs) {
            return Err(Error::TensorShape {
                name: Name::owned(&format!("{PEFT_PREFIX}{first}")),
                got: Name::shape(&[r]),
                want: Name::owned(&format!("a rank from 1 to {}", k.min(*outputs))),
            });
        }
    }
    let all = product("adapters", &[r, named.len()])?;
    let mut a = Vec::new();
    let mut b = zeros::<f32>(product("adapters", &[n, all])?)?;
    for (slot, ([first, second], at, outputs)) in named.iter().enumerate() {
        a.extend(loader.floats(first, &[r, k])?);
        let own = loader.floats(second, &[*outputs, r])?;
        let rows = b.chunks_exact_mut(all).skip(*at);
        for (row, own) in rows.zip(own.chunks_exact(r)) {
            for (b, v) in row.iter_mut().skip(slot * r).zip(own) {
                *b = v * config.scale;
            }
        }
    }
    LowRank::new(loader.backend, [n, k, all], &a, &b).map(Some)
}
