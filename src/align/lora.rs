//! Low-rank adapters: their settings, their files, and their way into the weights.
//!
//! # Source
//! Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. Names and the start of the first
//! matrix are those of the PEFT library.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use rand_core::Rng;

use super::engine::Engine;
use super::parameters::{Parameter, zeros};
use crate::error::{Error, Name, Result, product};
use crate::model::learner::Learner;
use crate::model::transformer::PEFT_PREFIX;
use crate::model::weights::{DType, Tensor, WeightSource};
use crate::ops::Backward;
use crate::rng::{Stream, open_unit};

/// y = W x + b + alpha / rank · B (A x), for the layers that are named.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoraConfig {
    /// Rows of A, columns of B.
    pub rank: usize,
    /// The factor, times the rank.
    pub alpha: f32,
    /// Ends of the names of the layers: `q_proj`.
    pub targets: Vec<String>,
    /// Of the numbers that A begins with.
    pub seed: u64,
}

impl LoraConfig {
    /// Pairs of this rank and alpha beside the layers whose names end so; from seed 0.
    #[must_use]
    pub fn new<T: Into<String>>(
        rank: usize,
        alpha: f32,
        targets: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            rank,
            alpha,
            targets: targets.into_iter().map(Into::into).collect(),
            seed: 0,
        }
    }

    /// Begins with other numbers.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What the pair's product is multiplied with.
    #[must_use]
    pub const fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Whether a layer is among the targets.
    ///
    /// ```
    /// use maquette::align::LoraConfig;
    /// let config = LoraConfig::new(8, 16.0, ["q_proj"]);
    /// assert!(config.targets("model.layers.0.self_attn.q_proj"));
    /// assert!(!config.targets("model.layers.0.self_attn.k_proj"));
    /// assert_eq!(config.scale(), 2.0);
    /// ```
    #[must_use]
    pub fn targets(&self, layer: &str) -> bool {
        let is = |target: &String| {
            let before = layer.strip_suffix(target.as_str());
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        self.targets.iter().any(is)
    }

    /// Fails for a pair that a layer `[n, k]` has no room for.
    pub(super) fn check(&self, layer: &str, n: usize, k: usize) -> Result<()> {
        if self.rank == 0 || self.rank > n.min(k) {
            return Err(Error::TensorShape {
                name: Name::owned(layer),
                got: Name::shape(&[self.rank]),
                want: Name::owned(&format!("a rank from 1 to {}", n.min(k))),
            });
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::Config {
                key: "lora_alpha",
                problem: "is no positive number",
            });
        }
        Ok(())
    }

    /// The numbers that A begins with: uniform between ±1 / √k.
    pub(super) fn start(&self, stream: &mut Stream, k: usize, out: &mut [f32]) {
        let bound = 1.0 / libm::sqrtf(k as f32);
        for v in out {
            *v = (2.0 * open_unit(stream.next_u32()) - 1.0) * bound;
        }
    }
}

impl<B: Backward, L: Learner<B>> Engine<B, L> {
    /// Takes adapters from a file of the PEFT library's names.
    ///
    /// # Errors
    /// A missing tensor, one of another shape or type, one that is not trained, or numbers that are not finite; then
    /// nothing has changed.
    pub fn read_adapters(&mut self, source: &dyn WeightSource) -> Result<()> {
        let mut unknown = None;
        source.names(&mut |name| {
            let own = name.strip_prefix(PEFT_PREFIX);
            if !self.parameters().iter().any(|p| Some(&*p.name) == own) {
                unknown = Some(Name::owned(name));
            }
        });
        if let Some(name) = unknown {
            return Err(Error::UnknownTensor { name });
        }
        let mut values = Vec::new();
        for parameter in self.parameters() {
            let stored = format!("{PEFT_PREFIX}{}", parameter.name);
            values.push((
                parameter.name.clone(),
                floats(source, &stored, &parameter.shape)?,
            ));
        }
        let values: Vec<_> = values.iter().map(|(n, v)| (&**n, &**v)).collect();
        self.set(&values)
    }
}

/// A tensor of exactly this shape as floats.
pub(super) fn floats(source: &dyn WeightSource, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let tensor = source.tensor(name).ok_or_else(|| Error::MissingTensor {
        name: Name::owned(name),
    })?;
    if tensor.shape != shape {
        return Err(Error::TensorShape {
            name: Name::owned(name),
            got: Name::shape(&tensor.shape),
            want: Name::shape(shape),
        });
    }
    if tensor.dtype.piece().is_none() {
        return Err(Error::TensorType {
            name: Name::owned(name),
            dtype: tensor.dtype.name(),
        });
    }
    let mut out = zeros(product("adapters", shape)?)?;
    tensor.dtype.decode(tensor.bytes, &mut out);
    match out.iter().position(|v| !v.is_finite()) {
        Some(row) => Err(Error::NotFinite {
            op: "adapters",
            arg: "tensor",
            row,
        }),
        None => Ok(out),
    }
}

/// The bytes of a safetensors file of adapters, under the PEFT library's names.
///
/// # Errors
/// Sizes that overflow, or no memory.
#[cfg(feature = "safetensors")]
pub fn write_adapters(parameters: &[Parameter]) -> Result<Vec<u8>> {
    use crate::model::files::safetensors::{Entry, header};
    let entries: Vec<Entry> = parameters
        .iter()
        .map(|p| Entry {
            name: format!("{PEFT_PREFIX}{}", p.name),
            dtype: "F32",
            size: 4,
            shape: p.shape.clone(),
        })
        .collect();
    let mut out = header(&entries, &[("format", "pt")])?;
    let bytes = parameters.iter().map(|p| 4 * p.values.len()).sum();
    out.try_reserve_exact(bytes)
        .map_err(|_| Error::OutOfMemory {
            what: "adapters",
            bytes,
        })?;
    for v in parameters.iter().flat_map(|p| &p.values) {
        out.extend(v.to_le_bytes());
    }
    Ok(out)
}

/// The `adapter_config.json` that the PEFT library wants beside the adapters.
#[must_use]
pub fn adapter_config(config: &LoraConfig) -> String {
    let (r, alpha) = (config.rank, config.alpha);
    let targets: Vec<String> = config.targets.iter().map(|t| format!("{t:?}")).collect();
    let targets = targets.join(", ");
    format!(
        "{{\n  \"peft_type\": \"LORA\",\n  \"r\": {r},\n  \"lora_alpha\": {alpha:?},\n  \"lora_dropout\": 0.0,\n  \
         \"bias\": \"none\",\n  \"target_modules\": [{targets}]\n}}\n"
    )
}

/// A checkpoint whose weights contain adapters: W + alpha / rank · B A, in F32. What has no adapters is passed on.
pub struct Merged<'a> {
    base: &'a dyn WeightSource,
    merged: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

impl core::fmt::Debug for Merged<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Merged")
            .field("merged", &self.merged.keys())
            .finish_non_exhaustive()
    }
}

impl<'a> Merged<'a> {
    /// Adds adapters to the weights that they stand beside.
    ///
    /// # Errors
    /// A pair of which one half is missing or whose shapes do not fit each other, a layer that the checkpoint lacks or that
    /// has another shape, or no memory.
    pub fn new(
        base: &'a dyn WeightSource,
        parameters: &[Parameter],
        config: &LoraConfig,
    ) -> Result<Self> {
        let mut merged = BTreeMap::new();
        let ends = [".lora_A.weight", ".lora_B.weight"];
        let named = |layer: &str, end: &str| {
            let name = format!("{layer}{end}");
            let found = parameters.iter().find(|p| p.name == name);
            found.ok_or_else(|| Error::MissingTensor {
                name: Name::owned(&name),
            })
        };
        for first in parameters {
            if let Some(layer) = first.name.strip_suffix(ends[1]) {
                named(layer, ends[0])?;
            }
            let Some(layer) = first.name.strip_suffix(ends[0]) else {
                continue;
            };
            let second = named(layer, ends[1])?;
            let [r, k] = &*first.shape else {
                return Err(Error::TensorShape {
                    name: Name::owned(&first.name),
                    got: Name::shape(&first.shape),
                    want: Name::owned("a rank and a width"),
                });
            };
            let n = second.shape.first().copied().unwrap_or(0);
            for (parameter, shape) in [(first, [*r, *k]), (second, [n, *r])] {
                let len = product("adapters", &shape)?;
                if *parameter.shape != shape || len == 0 || parameter.values.len() != len {
                    return Err(Error::TensorShape {
                        name: Name::owned(&parameter.name),
                        got: Name::shape(&parameter.shape),
                        want: Name::shape(&shape),
                    });
                }
            }
            let name = format!("{layer}.weight");
            let mut weight = floats(base, &name, &[n, *k])?;
            let rows = weight.chunks_exact_mut(*k);
            for (row, b) in rows.zip(second.values.chunks_exact(*r)) {
                for (b, a) in b.iter().zip(first.values.chunks_exact(*k)) {
                    for (w, a) in row.iter_mut().zip(a) {
                        *w += config.scale() * b * a;
                    }
                }
            }
            let bytes = weight.iter().flat_map(|v| v.to_le_bytes()).collect();
            merged.insert(name, (Vec::from([n, *k]), bytes));
        }
        Ok(Self { base, merged })
    }
}

impl WeightSource for Merged<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        match self.merged.get(name) {
            Some((shape, bytes)) => Some(Tensor {
                dtype: DType::F32,
                shape: shape.clone(),
                bytes,
            }),
            None => self.base.tensor(name),
        }
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.base.names(visit);
    }
}
