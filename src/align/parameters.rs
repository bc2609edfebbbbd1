//! What is trained: names, shapes and values on the host, and their way to the device and back.

mod ends;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(super) use self::ends::EndGrads;
use super::lora::LoraConfig;
use crate::error::{Error, Name, Result, covers, product};
use crate::model::learner::{EndValues, Learner, Scope};
use crate::model::linear::LowRank;
use crate::model::transformer::backward::{BlockGrads, NormSite};
use crate::model::transformer::{Adapters, BlockAdapters, Norm, Site};
use crate::ops::Backward;
use crate::quant::Format;
use crate::rng::Stream;

/// What of a model is trained.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Trained {
    /// Low-rank pairs beside frozen weights of any format.
    Adapters(LoraConfig),
    /// All weights of the blocks, which are kept in this format: F32 or BF16.
    Blocks(Format),
    /// The blocks and what stands before and behind them: embedding, last norm, head.
    All(Format),
}

impl Trained {
    /// The format of weights that are trained themselves.
    pub(super) const fn whole(&self) -> Option<Format> {
        match self {
            Self::Adapters(_) => None,
            Self::Blocks(format) | Self::All(format) => Some(*format),
        }
    }
}

/// A trained tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name: of a block's tensor, or of a layer with `.lora_A.weight` or `.lora_B.weight`.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: Vec<f32>,
    /// Whether weight decay acts on it: on all but biases, as in the released training.
    pub decays: bool,
}

/// Where a parameter stands in the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The weight of some outputs of a layer, from output `at` on.
    Weight { site: Site, at: usize },
    /// Their bias.
    Bias { site: Site, at: usize },
    /// Part 0 is the weight of a norm, part 1 its bias.
    Norm { site: NormSite, part: usize },
    /// The embedding.
    Embedding,
    /// Part 0 is the weight of the last norm, part 1 its bias.
    LastNorm { part: usize },
    /// The weight of the head.
    Head,
    /// Its bias.
    HeadBias,
    /// The first matrix of pair `slot` beside a layer.
    A { site: Site, slot: usize },
    /// The second one, of outputs from `at` on.
    B { site: Site, slot: usize, at: usize },
}

/// Stands for a layer at the places that are in none.
const ENDS: usize = usize::MAX;

/// All trained parameters of a model.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) all: Vec<Parameter>,
    places: Vec<(usize, Place)>,
    trained: Trained,
}

fn unknown(name: &str) -> Error {
    Error::MissingTensor {
        name: Name::owned(name),
    }
}

pub(super) fn zeros(len: usize) -> Result<Vec<f32>> {
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        what: "parameters",
        bytes: len.saturating_mul(size_of::<f32>()),
    })?;
    out.resize(len, 0.0);
    Ok(out)
}

pub(super) fn copied(values: &[f32]) -> Result<Vec<f32>> {
    let mut out = zeros(values.len())?;
    out.copy_from_slice(values);
    Ok(out)
}

impl Parameters {
    /// The parameters of a model. Adapters begin with random first and zero second matrices, so that they change
    /// nothing; whole weights begin as zeros, and are read by their names.
    pub(super) fn of<B: Backward>(learner: &dyn Learner<B>, trained: Trained) -> Result<Self> {
        let mut out = Self {
            all: Vec::new(),
            places: Vec::new(),
            trained,
        };
        let stack = learner.stack();
        if stack.is_adapted() {
            return Err(Error::Unsupported {
                what: "training beside adapters: they are merged first",
            });
        }
        let c = *stack.config();
        let kv = product("parameters", &[c.n_kv_heads, c.head_dim])?;
        let trained = out.trained.clone();
        for layer in 0..c.layers {
            let names = learner.block_names(layer);
            for site in Site::ALL {
                let Some(linear) = stack.linear(layer, site) else {
                    continue;
                };
                let (parts, k) = (names.parts(site, linear.n(), kv), linear.k());
                match &trained {
                    Trained::Adapters(config) => {
                        let chosen = parts.iter().filter(|part| config.targets(part.0));
                        for (slot, &(name, at, n)) in chosen.enumerate() {
                            config.check(name, n, k)?;
                            if site == Site::Qkv && names.qkv[1].is_empty() {
                                return Err(Error::Unsupported {
                                    what: "adapters of queries, keys and values that are stored as one",
                                });
                            }
                            let (r, seed) = (config.rank, config.seed ^ out.all.len() as u64);
                            let (a, b) = (Place::A { site, slot }, Place::B { site, slot, at });
                            let mut first = zeros(product("adapters", &[r, k])?)?;
                            config.start(&mut Stream::new(seed), k, &mut first);
                            out.push(layer, a, format!("{name}.lora_A.weight"), &[r, k], first);
                            let second = zeros(product("adapters", &[n, r])?)?;
                            out.push(layer, b, format!("{name}.lora_B.weight"), &[n, r], second);
                        }
                    }
                    Trained::Blocks(format) | Trained::All(format) => {
                        if !matches!(format, Format::F32 | Format::Bf16) {
                            return Err(Error::Unsupported {
                                what: "training weights that are kept in blocks",
                            });
                        }
                        for (name, at, n) in parts {
                            let weight = zeros(product("parameters", &[n, k])?)?;
                            let place = Place::Weight { site, at };
                            out.push(layer, place, format!("{name}.weight"), &[n, k], weight);
                            if linear.has_bias() {
                                let place = Place::Bias { site, at };
                                out.push(layer, place, format!("{name}.bias"), &[n], zeros(n)?);
                            }
                        }
                    }
                }
            }
            if trained.whole().is_some() {
                let norms = [
                    (NormSite::First, &names.norm1, c.width, c.norm),
                    (NormSite::Second, &names.norm2, c.width, c.norm),
                    (NormSite::Query, &names.qk_norm[0], c.head_dim, Norm::Layer),
                    (NormSite::Key, &names.qk_norm[1], c.head_dim, Norm::Layer),
                ];
                for (site, name, width, kind) in norms {
                    if stack.norm(layer, site).is_none() {
                        continue;
                    }
                    let place = |part| Place::Norm { site, part };
                    out.push(
                        layer,
                        place(0),
                        format!("{name}.weight"),
                        &[width],
                        zeros(width)?,
                    );
                    if kind == Norm::Layer {
                        out.push(
                            layer,
                            place(1),
                            format!("{name}.bias"),
                            &[width],
                            zeros(width)?,
                        );
                    }
                }
            }
        }
        if let Trained::All(_) = trained {
            out.push_ends(learner)?;
        }
        if out.all.is_empty() {
            return Err(Error::Config {
                key: "target_modules",
                problem: "names no layer of the model",
            });
        }
        Ok(out)
    }

    fn push_ends<B: Backward>(&mut self, learner: &dyn Learner<B>) -> Result<()> {
        let ends = learner.ends().ok_or(Error::Unsupported {
            what: "training embedding and head of this model",
        })?;
        let (n, c) = (ends.tokens, learner.stack().config());
        let table = product("parameters", &[n, c.width])?;
        let (embedding, norm, head) = (&ends.embedding, &ends.norm, &ends.head);
        let mut push = |place, name: String, shape: &[usize], len| {
            self.push(ENDS, place, name, shape, zeros(len)?);
            Ok::<_, Error>(())
        };
        let [matrix, row] = [&[n, c.width][..], &[c.width]];
        push(
            Place::Embedding,
            format!("{embedding}.weight"),
            matrix,
            table,
        )?;
        let part = |part| Place::LastNorm { part };
        push(part(0), format!("{norm}.weight"), row, c.width)?;
        if c.norm == Norm::Layer {
            push(part(1), format!("{norm}.bias"), row, c.width)?;
        }
        push(Place::Head, format!("{head}.weight"), matrix, table)?;
        if learner.head(Scope::Vocabulary)?.last.has_bias() {
            push(Place::HeadBias, format!("{head}.bias"), &[n], n)?;
        }
        Ok(())
    }

    fn push(
        &mut self,
        layer: usize,
        place: Place,
        name: String,
        shape: &[usize],
        values: Vec<f32>,
    ) {
        let decays = !name.ends_with(".bias");
        self.all.push(Parameter {
            name,
            shape: Vec::from(shape),
            values,
            decays,
        });
        self.places.push((layer, place));
    }

    /// Sets the values of a parameter.
    pub(super) fn set(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let found = self.all.iter_mut().find(|p| p.name == name);
        let parameter = found.ok_or_else(|| unknown(name))?;
        covers("parameters", "values", values.len(), parameter.values.len())?;
        covers("parameters", "values", parameter.values.len(), values.len())?;
        parameter.values.copy_from_slice(values);
        Ok(())
    }

    const fn scale(&self) -> f32 {
        match &self.trained {
            Trained::Adapters(config) => config.scale(),
            _ => 1.0,
        }
    }

    /// The ranks of the pairs of one layer's place, added up.
    fn rank(&self, layer: usize, site: Site) -> usize {
        let own = |(at, place): &&(usize, Place)| {
            *at == layer && matches!(place, Place::A { site: s, .. } if *s == site)
        };
        match &self.trained {
            Trained::Adapters(config) => config.rank * self.places.iter().filter(own).count(),
            _ => 0,
        }
    }

    /// Packs the adapters: pairs beside layers that are one become one pair, with zeros where outputs of one meet the
    /// ranks of another.
    pub(super) fn adapters<B: Backward>(
        &self,
        learner: &dyn Learner<B>,
    ) -> Result<Option<Adapters<B>>> {
        let Trained::Adapters(config) = &self.trained else {
            return Ok(None);
        };
        let (stack, r) = (learner.stack(), config.rank);
        let mut blocks = Vec::new();
        for layer in 0..stack.config().layers {
            let mut block: BlockAdapters<B> = [const { None }; 4];
            for site in Site::ALL {
                let (rank, linear) = (self.rank(layer, site), stack.linear(layer, site));
                let Some(linear) = linear.filter(|_| rank > 0) else {
                    continue;
                };
                let (n, k) = (linear.n(), linear.k());
                let mut a = zeros(product("adapters", &[rank, k])?)?;
                let mut b = zeros(product("adapters", &[n, rank])?)?;
                for (parameter, (_, place)) in self.at(layer) {
                    match *place {
                        Place::A { site: own, slot } if own == site => {
                            a[slot * r * k..][..r * k].copy_from_slice(&parameter.values);
                        }
                        Place::B {
                            site: own,
                            slot,
                            at,
                        } if own == site => {
                            let rows = b[at * rank..].chunks_exact_mut(rank);
                            for (row, own) in rows.zip(parameter.values.chunks_exact(r)) {
                                for (b, v) in row[slot * r..].iter_mut().zip(own) {
                                    *b = v * config.scale();
                                }
                            }
                        }
                        _ => {}
                    }
                }
                let pair = LowRank::new(&**learner.backend(), [n, k, rank], &a, &b)?;
                block[site as usize] = Some(pair);
            }
            blocks.push(block);
        }
        Ok(Some(Adapters(blocks)))
    }

    fn at(&self, layer: usize) -> impl Iterator<Item = (&Parameter, &(usize, Place))> {
        let both = self.all.iter().zip(&self.places);
        both.filter(move |(_, (at, _))| *at == layer)
    }

    /// Writes whole weights into the model.
    pub(super) fn write_back<B: Backward>(&self, learner: &mut dyn Learner<B>) -> Result<()> {
        let Some(format) = self.trained.whole() else {
            return Ok(());
        };
        let device = alloc::sync::Arc::clone(learner.backend());
        let stack = learner.stack_mut()?;
        let all = self.all.iter().zip(&self.places);
        let bias_of = |layer: usize, site: Site, at: usize| {
            let want = (layer, Place::Bias { site, at });
            let mut all = self.all.iter().zip(&self.places);
            all.find(|(_, place)| **place == want)
                .map(|(p, _)| &*p.values)
        };
        for (parameter, &(layer, place)) in all {
            match place {
                Place::Weight { site, at } => {
                    if let Some(linear) = stack.linear_mut(layer, site) {
                        let bias = bias_of(layer, site, at);
                        linear.replace(&device, (format, at), &parameter.values, bias)?;
                    }
                }
                Place::Norm { site, part: 0 } => {
                    let bias = (layer, Place::Norm { site, part: 1 });
                    let mut all = self.all.iter().zip(&self.places);
                    let bias = all.find(|(_, place)| **place == bias);
                    let mut values = copied(&parameter.values)?;
                    values.extend(bias.into_iter().flat_map(|(bias, _)| &bias.values));
                    if let Some(norm) = stack.norm_mut(layer, site) {
                        norm.replace(&device, &values)?;
                    }
                }
                _ => {}
            }
        }
        if let Trained::All(_) = self.trained {
            let part = |part| self.end(Place::LastNorm { part });
            let mut norm = copied(part(0))?;
            norm.extend(part(1));
            let values = EndValues {
                embedding: self.end(Place::Embedding),
                norm: &norm,
                head: self.end(Place::Head),
                head_bias: self.end(Place::HeadBias),
            };
            learner.replace_ends(format, values)?;
        }
        Ok(())
    }

    /// The values of one of the ends; nothing if the model does not have it.
    fn end(&self, place: Place) -> &[f32] {
        let mut all = self.all.iter().zip(&self.places);
        let found = all.find(|(_, own)| **own == (ENDS, place));
        found.map_or(&[], |(parameter, _)| &*parameter.values)
    }

    /// Reads the sums of gradients from the device, one vector a parameter.
    pub(super) fn gradients<B: Backward>(
        &self,
        learner: &dyn Learner<B>,
        (grads, ends): (&[BlockGrads<B>], Option<&EndGrads<B>>),
    ) -> Result<Vec<Vec<f32>>> {
        let (device, mut out) = (&**learner.backend(), Vec::new());
        let (scale, missing) = (self.scale(), || Error::Config {
            key: "gradients",
            problem: "are those of another model",
        });
        for (parameter, &(layer, place)) in self.all.iter().zip(&self.places) {
            let mut values = zeros(parameter.values.len())?;
            if layer == ENDS {
                ends.ok_or_else(missing)?.read(device, place, &mut values)?;
                out.push(values);
                continue;
            }
            let block = grads.get(layer).ok_or_else(missing)?;
            match place {
                Place::Weight { site, at } => {
                    let whole = &block.linear[site as usize].whole;
                    let [dw, _] = whole.as_ref().ok_or_else(missing)?;
                    let k = parameter.shape.get(1).copied().unwrap_or(1);
                    device.read(dw, at * k, &mut values)?;
                }
                Place::Bias { site, at } => {
                    let whole = &block.linear[site as usize].whole;
                    let [_, db] = whole.as_ref().ok_or_else(missing)?;
                    device.read(db, at, &mut values)?;
                }
                Place::Norm { site, part } => {
                    let norm = block.norm[site as usize].as_ref().ok_or_else(missing)?;
                    device.read(norm, part * values.len(), &mut values)?;
                }
                // They were read above.
                Place::Embedding | Place::LastNorm { .. } | Place::Head | Place::HeadBias => {}
                Place::A { site, slot } => {
                    let pair = &block.linear[site as usize].low_rank;
                    let [da, _] = pair.as_ref().ok_or_else(missing)?;
                    device.read(da, slot * values.len(), &mut values)?;
                }
                Place::B { site, slot, at } => {
                    let pair = &block.linear[site as usize].low_rank;
                    let [_, db] = pair.as_ref().ok_or_else(missing)?;
                    let rank = self.rank(layer, site);
                    let r = parameter.shape.get(1).copied().unwrap_or(1);
                    let mut rows = zeros(values.len() / r.max(1) * rank)?;
                    device.read(db, at * rank, &mut rows)?;
                    let both = values.chunks_exact_mut(r).zip(rows.chunks_exact(rank));
                    for (own, row) in both {
                        for (own, v) in own.iter_mut().zip(&row[slot * r..]) {
                            *own = v * scale;
                        }
                    }
                }
            }
            out.push(values);
        }
        Ok(out)
    }
}
