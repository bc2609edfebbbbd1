//! Keys and values, and what is done with their rows outside a pass.

use alloc::vec::Vec;

use super::Stack;
use crate::error::{Result, product};
use crate::ops::Backend;
use crate::ops::attention::{AttentionShape, SPAN_WORDS};

/// Keys and values, `[n_kv_heads, rows, head_dim]` each, so that what a head reads lies together: of every layer, or of
/// one that all layers use in turn.
#[derive(Debug)]
pub struct Cache<B: Backend> {
    pub(super) layers: Vec<[B::Buffer<f32>; 2]>,
    pub(super) rows: usize,
}

impl<B: Backend> Cache<B> {
    /// Rows there are.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }
}

impl<B: Backend> Stack<B> {
    /// Reserves a cache of `rows` rows.
    ///
    /// # Errors
    /// No memory.
    pub fn cache(&self, backend: &B, rows: usize) -> Result<Cache<B>> {
        self.cache_of(backend, rows, self.config.layers)
    }

    /// Reserves a cache for passes that see no rows but their own: the layers use one room in turn.
    ///
    /// # Errors
    /// No memory.
    pub fn passing_cache(&self, backend: &B, rows: usize) -> Result<Cache<B>> {
        self.cache_of(backend, rows, 1)
    }

    fn cache_of(&self, backend: &B, rows: usize, layers: usize) -> Result<Cache<B>> {
        let len = product("cache", &[rows, self.config.kv_width()])?;
        let layers = (0..layers)
            .map(|_| Ok([backend.zeros(len)?, backend.zeros(len)?]))
            .collect::<Result<_>>()?;
        Ok(Cache { layers, rows })
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
        let mut spans = backend.zeros(SPAN_WORDS)?;
        backend.write(&mut spans, 0, &[0, 0, from, len])?;
        // Attention of a query of zeros: every value counts the same.
        let s = AttentionShape {
            sequences: 1,
            queries: 1,
            n_heads: c.n_kv_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            q_stride: width,
            q_offset: 0,
            kv_rows: cache.rows,
            kv_stride: c.head_dim,
            kv_head_stride: cache.rows * c.head_dim,
            k_offset: 0,
            v_offset: 0,
            causal: false,
            repeated_prefix: false,
        };
        for [keys, values] in &mut cache.layers {
            backend.attention(s, &query, keys, values, &spans, &mut mean)?;
            for h in 0..c.n_kv_heads {
                let (from, to) = (h * c.head_dim, h * cache.rows + to as usize);
                backend.copy(&mean, from, values, to * c.head_dim, c.head_dim)?;
                backend.copy(&query, from, keys, to * c.head_dim, c.head_dim)?;
            }
        }
        Ok(())
    }

    /// Copies `rows` cache rows from one row on to another, through a buffer that holds those of one head.
    ///
    /// # Errors
    /// Rows outside the cache, or a shorter buffer.
    pub fn copy_rows(
        &self,
        backend: &B,
        cache: &mut Cache<B>,
        [from, to]: [u32; 2],
        rows: usize,
        through: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let d = self.config.head_dim;
        let len = rows * d;
        for buffer in cache.layers.iter_mut().flatten() {
            for h in 0..self.config.n_kv_heads {
                let at = |row: u32| (h * cache.rows + row as usize) * d;
                backend.copy(buffer, at(from), through, 0, len)?;
                backend.copy(through, 0, buffer, at(to), len)?;
            }
        }
        Ok(())
    }
}
