//! Keys and values, and what is done with their rows outside a pass.

use alloc::vec::Vec;

use super::watch::Watch;
use super::{Pass, Stack, Stage};
use crate::error::{Error, Result, product};
use crate::model::session::made;
use crate::ops::attention::{
    AppendShape, AttentionShape, KeepShape, KvFormat, MoveShape, SPAN_WORDS,
};
use crate::ops::{Backend, Element, KvPair};

/// Keys and values, `[n_kv_heads, rows, …]` each, so that what a head reads lies together: of every layer, or of one that
/// all layers use in turn.
#[derive(Debug)]
pub struct Cache<B: Backend> {
    kept: Kept<B>,
    rows: usize,
}

#[derive(Debug)]
enum Kept<B: Backend> {
    F32(Layers<B, f32>),
    Bf16(Layers<B, u32>),
    Q8(Layers<B, u32>),
}

#[derive(Debug)]
struct Layers<B: Backend, T: Element> {
    kv: Vec<[B::Buffer<T>; 2]>,
}

impl<B: Backend, T: Element> Layers<B, T> {
    fn new(backend: &B, layers: usize, [heads, row]: [usize; 2]) -> Result<Self> {
        let len = product("cache", &[heads, row])?;
        let kv = made(layers, || Ok([backend.cache(len)?, backend.cache(len)?]))?;
        Ok(Self { kv })
    }

    /// The keys and values of a layer, or of the last one there is.
    fn of(&mut self, layer: usize) -> Result<&mut [B::Buffer<T>; 2]> {
        let last = self.kv.len().saturating_sub(1);
        self.kv.get_mut(layer.min(last)).ok_or(Error::Length {
            op: "forward",
            arg: "cache",
            got: 0,
            want: 1,
        })
    }

    /// Copies rows of every head to another place.
    fn copy(&mut self, backend: &B, s: MoveShape) -> Result<()> {
        let mut buffers = self.kv.iter_mut().flatten();
        buffers.try_for_each(|buffer| backend.move_rows(s, buffer))
    }
}

impl<B: Backend> Cache<B> {
    /// Rows there are.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// How they are kept.
    #[must_use]
    pub const fn format(&self) -> KvFormat {
        match self.kept {
            Kept::F32(_) => KvFormat::F32,
            Kept::Bf16(_) => KvFormat::Bf16,
            Kept::Q8(_) => KvFormat::Q8,
        }
    }
}

impl<B: Backend> Stack<B> {
    /// Reserves a cache of `rows` rows in floats.
    ///
    /// # Errors
    /// No memory.
    pub fn cache(&self, backend: &B, rows: usize) -> Result<Cache<B>> {
        self.cache_of(backend, rows, self.config.layers, KvFormat::F32)
    }

    /// Reserves a cache of `rows` rows in a format.
    ///
    /// # Errors
    /// No memory.
    pub fn cache_as(&self, backend: &B, rows: usize, format: KvFormat) -> Result<Cache<B>> {
        self.cache_of(backend, rows, self.config.layers, format)
    }

    /// Reserves a cache for passes that see no rows but their own: the layers use one room in turn.
    ///
    /// # Errors
    /// No memory.
    pub fn passing_cache(&self, backend: &B, rows: usize, format: KvFormat) -> Result<Cache<B>> {
        self.cache_of(backend, rows, 1, format)
    }

    fn cache_of(
        &self,
        backend: &B,
        rows: usize,
        layers: usize,
        format: KvFormat,
    ) -> Result<Cache<B>> {
        let c = &self.config;
        let head = product("cache", &[rows, format.words(c.head_dim)])?;
        let sizes = [c.n_kv_heads, head];
        let kept = match format {
            KvFormat::F32 => Kept::F32(Layers::new(backend, layers, sizes)?),
            KvFormat::Bf16 => Kept::Bf16(Layers::new(backend, layers, sizes)?),
            KvFormat::Q8 => Kept::Q8(Layers::new(backend, layers, sizes)?),
        };
        Ok(Cache { kept, rows })
    }

    /// What a layer appends to its cache: heads of rows `stride` apart.
    fn append_shape(&self, rows: usize, cache_rows: usize, stride: usize) -> AppendShape {
        AppendShape {
            rows,
            heads: self.config.n_kv_heads,
            head_dim: self.config.head_dim,
            stride,
            offset: 0,
            cache_rows,
        }
    }

    /// Attention to a cache, of queries that lie at the beginning of rows.
    fn attention_shape(
        &self,
        sequences: usize,
        queries: usize,
        cache: &Cache<B>,
    ) -> AttentionShape {
        let c = &self.config;
        let words = cache.format().words(c.head_dim);
        AttentionShape {
            sequences,
            queries,
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            q_stride: c.qkv_width(),
            q_offset: 0,
            kv_rows: cache.rows,
            kv_stride: words,
            kv_head_stride: cache.rows * words,
            k_offset: 0,
            v_offset: 0,
            causal: false,
            repeated_prefix: false,
            pages: 0,
        }
    }

    /// Normalises and rotates the rows of q, k and v where the stack does, and puts keys and values into the cache. Who looks
    /// sees what the norms leave.
    pub(super) fn keep(
        &self,
        backend: &B,
        pass: &Pass<'_, B>,
        qkv: &mut B::Buffer<f32>,
        (layer, cache): (usize, &mut Cache<B>),
        mut watch: Watch<'_, B>,
    ) -> Result<()> {
        let c = &self.config;
        let (dim, positions) = c.rotary.map_or((0, 0), |r| (r.dim, r.positions));
        let s = KeepShape {
            rows: pass.sequences * pass.queries,
            q_heads: c.n_heads,
            kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            rotary_dim: dim,
            positions,
            cache_rows: cache.rows,
        };
        let turn = self.table.as_ref().filter(|_| dim > 0);
        let turn = turn.map(|table| (pass.positions, table));
        let kept = match &mut cache.kept {
            Kept::F32(layers) => KvPair::F32(layers.of(layer)?),
            Kept::Bf16(layers) => KvPair::Bf16(layers.of(layer)?),
            Kept::Q8(layers) => KvPair::Q8(layers.of(layer)?),
        };
        let mut norms = self.blocks[layer].head_norms(c.eps);
        if watch.0.is_some() {
            if let Some(norms) = norms.take() {
                backend.head_norms(s, qkv, &norms)?;
            }
            watch.see(layer, Stage::HeadNorm, qkv)?;
        }
        backend.keep(s, qkv, (norms, turn), pass.places, kept)
    }

    /// Attends to the cache.
    pub(super) fn attend_cached(
        &self,
        backend: &B,
        pass: &Pass<'_, B>,
        qkv: &B::Buffer<f32>,
        (layer, cache): (usize, &mut Cache<B>),
        out: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let s = AttentionShape {
            causal: pass.causal,
            repeated_prefix: self.repeated_prefix,
            pages: pass.pages,
            ..self.attention_shape(pass.sequences, pass.queries, cache)
        };
        match &mut cache.kept {
            Kept::F32(layers) => {
                let [k, v] = layers.of(layer)?;
                backend.attention(s, qkv, k, v, pass.spans, out)
            }
            Kept::Bf16(layers) => {
                let [k, v] = layers.of(layer)?;
                backend.attention_bf16(s, qkv, k, v, pass.spans, out)
            }
            Kept::Q8(layers) => {
                let [k, v] = layers.of(layer)?;
                backend.attention_q8(s, qkv, k, v, pass.spans, out)
            }
        }
    }

    /// Makes one cache row of a prefix whose keys are all zero: the mean of its values.
    ///
    /// # Errors
    /// Rows outside the cache, or no memory.
    pub fn collapse(
        &self,
        backend: &B,
        cache: &mut Cache<B>,
        [from, len]: [u32; 2],
        to: u32,
    ) -> Result<()> {
        let c = &self.config;
        let width = c.kv_width();
        let (query, mut mean) = (backend.zeros(width)?, backend.zeros(width)?);
        let (mut spans, mut place) = (backend.zeros(SPAN_WORDS)?, backend.zeros(1)?);
        backend.write(&mut spans, 0, &[0, 0, from, len])?;
        backend.write(&mut place, 0, &[to])?;
        let append = self.append_shape(1, cache.rows, width);
        // Attention of a query of zeros: every value counts the same.
        let s = AttentionShape {
            n_heads: c.n_kv_heads,
            q_stride: width,
            ..self.attention_shape(1, 1, cache)
        };
        match &mut cache.kept {
            Kept::F32(layers) => {
                for [keys, values] in &mut layers.kv {
                    backend.attention(s, &query, keys, values, &spans, &mut mean)?;
                    backend.append(append, &mean, &place, values)?;
                    backend.append(append, &query, &place, keys)?;
                }
            }
            Kept::Bf16(layers) => {
                for [keys, values] in &mut layers.kv {
                    backend.attention_bf16(s, &query, keys, values, &spans, &mut mean)?;
                    backend.append_bf16(append, &mean, &place, values)?;
                    backend.append_bf16(append, &query, &place, keys)?;
                }
            }
            Kept::Q8(layers) => {
                for [keys, values] in &mut layers.kv {
                    backend.attention_q8(s, &query, keys, values, &spans, &mut mean)?;
                    backend.append_q8(append, &mean, &place, values)?;
                    backend.append_q8(append, &query, &place, keys)?;
                }
            }
        }
        Ok(())
    }

    /// Copies `rows` cache rows from one row on to another.
    ///
    /// # Errors
    /// Rows outside the cache, or that overlap those they are copied to.
    pub fn copy_rows(
        &self,
        backend: &B,
        cache: &mut Cache<B>,
        [from, to]: [u32; 2],
        rows: usize,
    ) -> Result<()> {
        let words = cache.format().words(self.config.head_dim);
        let [from, to] = [from, to].map(|row| row as usize * words);
        let s = MoveShape {
            heads: self.config.n_kv_heads,
            head_stride: cache.rows * words,
            from,
            to,
            len: rows * words,
        };
        match &mut cache.kept {
            Kept::F32(layers) => layers.copy(backend, s),
            Kept::Bf16(layers) | Kept::Q8(layers) => layers.copy(backend, s),
        }
    }
}
