//! The way back through the blocks of a stack.

use super::{BackWork, Between, BlockGrads, NormSite, Tape, Whole, Work, foreign_tape};
use crate::error::{Error, Result, product};
use crate::model::linear::backward::Beside;
use crate::model::transformer::{Adapters, Block, Mlp, NormWeights, Site, Stack};
use crate::ops::backward::attention::SelfAttentionShape;
use crate::ops::norm::NormShape;
use crate::ops::{Backend, Backward};

impl<B: Backward> NormWeights<B> {
    /// dx += the gradient through the norm of rows `x`; `grads` takes that of its weights.
    ///
    /// # Errors
    /// Buffers shorter than their shapes.
    pub fn apply_dx(
        &self,
        backend: &B,
        s: NormShape,
        (x, dy): (&B::Buffer<f32>, &B::Buffer<f32>),
        grads: Option<&mut B::Buffer<f32>>,
        dx: &mut B::Buffer<f32>,
    ) -> Result<()> {
        if self.bias.is_some() {
            if let Some(grads) = grads {
                backend.layer_norm_dw(s, x, dy, grads)?;
            }
            backend.layer_norm_dx(s, x, &self.weight, dy, dx)
        } else {
            if let Some(grads) = grads {
                backend.rms_norm_dw(s, x, dy, grads)?;
            }
            backend.rms_norm_dx(s, x, &self.weight, dy, dx)
        }
    }

    /// Replaces weight, then bias where there is one.
    ///
    /// # Errors
    /// Fewer elements than there are.
    pub fn replace(&mut self, backend: &B, values: &[f32]) -> Result<()> {
        let width = backend.len(&self.weight);
        let (weight, bias) = values.split_at_checked(width).ok_or(Error::Length {
            op: "norm",
            arg: "values",
            got: values.len(),
            want: width,
        })?;
        backend.write(&mut self.weight, 0, weight)?;
        match &mut self.bias {
            Some(own) => backend.write(own, 0, bias),
            None => Ok(()),
        }
    }

    /// Reserves sums of gradients.
    ///
    /// # Errors
    /// No memory.
    pub fn grads(&self, backend: &B) -> Result<B::Buffer<f32>> {
        let parts = 1 + usize::from(self.bias.is_some());
        backend.zeros(parts * backend.len(&self.weight))
    }
}

impl<B: Backward> Stack<B> {
    /// Turns the gradient of the rows that left the last block into that of those that entered the first one.
    ///
    /// # Errors
    /// Buffers shorter than their shapes, or a tape or sums of another stack.
    pub fn backward_whole(
        &self,
        backend: &B,
        whole: &Whole<'_, B>,
        (adapters, grads): (Option<&Adapters<B>>, &mut [BlockGrads<B>]),
        dx: &mut B::Buffer<f32>,
        (tape, work): (&Tape<B>, &mut Work<B>),
    ) -> Result<()> {
        let len = self.begin(backend, whole, work)?;
        for (layer, block) in self.blocks.iter().enumerate().rev() {
            let input = tape.inputs.get(layer).ok_or(foreign_tape())?;
            let grads = grads.get_mut(layer).ok_or(foreign_tape())?;
            let Work { between, back, .. } = &mut *work;
            let between = match tape.between.get(layer) {
                Some(kept) => kept,
                None => {
                    // Rows of the block itself are no part of what it writes between its layers.
                    let mut x = core::mem::replace(&mut between.x, backend.zeros(0)?);
                    let result = backend.copy(input, 0, &mut x, 0, len).and_then(|()| {
                        let rows = (&mut x, (&mut *between, &mut *back));
                        self.block(backend, (layer, block), whole, adapters, rows)
                    });
                    between.x = x;
                    result?;
                    &*between
                }
            };
            let way = Back {
                stack: self,
                backend,
                whole,
                adapters,
                layer,
                block,
                between,
            };
            way.mlp(grads, back, dx)?;
            way.attention(input, grads, back, dx)?;
        }
        Ok(())
    }
}

/// The way back through one block.
struct Back<'a, B: Backend> {
    stack: &'a Stack<B>,
    backend: &'a B,
    whole: &'a Whole<'a, B>,
    adapters: Option<&'a Adapters<B>>,
    layer: usize,
    block: &'a Block<B>,
    between: &'a Between<B>,
}

impl<B: Backward> Back<'_, B> {
    fn linear(
        &self,
        (site, add): (Site, bool),
        both: (&B::Buffer<f32>, &B::Buffer<f32>),
        inner: &mut [B::Buffer<f32>; 2],
        grads: &mut BlockGrads<B>,
        dx: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let mut beside = Beside {
            pair: self.adapters.and_then(|a| a.at(self.layer, site)),
            inner,
        };
        let (size, grads) = ((self.whole.rows, add), &mut grads.linear[site as usize]);
        let linear = self.block.linear(site);
        linear.apply_dx(self.backend, size, both, (&mut beside, grads), dx)
    }

    /// From the output to the rows before the MLP: its norm's too where it has one, and else the gradient of the first
    /// norm's output in `d_normed`.
    fn mlp(
        &self,
        grads: &mut BlockGrads<B>,
        w: &mut BackWork<B>,
        dx: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let (b, c, rows) = (self.backend, &self.stack.config, self.whole.rows);
        let kept = self.between;
        self.linear(
            (Site::MlpOut, false),
            (&kept.mlp, dx),
            &mut w.inner,
            grads,
            &mut w.d_mlp,
        )?;
        let d_raw = match c.mlp {
            Mlp::Plain(activation) => {
                let len = product("pass", &[rows, self.stack.mlp_inner()])?;
                b.activate_dx(activation, len, &kept.mlp_raw, &mut w.d_mlp)?;
                &w.d_mlp
            }
            Mlp::Gated => {
                let s = self.stack.gate_shape(rows);
                b.gate_dx(s, &kept.mlp_raw, &w.d_mlp, &mut w.d_mlp_raw)?;
                &w.d_mlp_raw
            }
        };
        let normed = kept.normed2.as_ref().unwrap_or(&kept.normed);
        self.linear(
            (Site::MlpIn, false),
            (normed, d_raw),
            &mut w.inner,
            grads,
            &mut w.d_normed,
        )?;
        match &self.block.norm2 {
            Some(norm) => {
                let grads = grads.norm[NormSite::Second as usize].as_mut();
                let s = self.stack.norm_shape(rows);
                norm.apply_dx(b, s, (&kept.x, &w.d_normed), grads, dx)
            }
            None => Ok(()),
        }
    }

    /// From the rows after the attention, or the output where both stand side by side, to the rows that entered.
    fn attention(
        &self,
        input: &B::Buffer<f32>,
        grads: &mut BlockGrads<B>,
        w: &mut BackWork<B>,
        dx: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let (b, c, rows) = (self.backend, &self.stack.config, self.whole.rows);
        let kept = self.between;
        self.linear(
            (Site::Out, false),
            (&kept.context, dx),
            &mut w.inner,
            grads,
            &mut w.d_context,
        )?;
        let s = SelfAttentionShape {
            rows,
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            causal: self.whole.causal,
        };
        b.attention_dx(s, &kept.qkv, &w.d_context, &mut w.d_qkv)?;
        if let Some((s, table)) = self.stack.rotary_shape(rows) {
            b.rotary_dx(s, &mut w.d_qkv, self.whole.positions, table)?;
        }
        for site in [NormSite::Query, NormSite::Key] {
            if let Some(norm) = self.block.norm(site) {
                let s = self.stack.head_norm_shape(rows, site);
                if let Some(grads) = &mut grads.norm[site as usize] {
                    b.head_norm_dw(s, &kept.raw, &w.d_qkv, grads)?;
                }
                b.head_norm_dx(s, &kept.raw, &norm.weight, &mut w.d_qkv)?;
            }
        }
        self.linear(
            (Site::Qkv, c.parallel),
            (&kept.normed, &w.d_qkv),
            &mut w.inner,
            grads,
            &mut w.d_normed,
        )?;
        let grads = grads.norm[NormSite::First as usize].as_mut();
        let s = self.stack.norm_shape(rows);
        let both = (input, &w.d_normed);
        self.block.norm1.apply_dx(b, s, both, grads, dx)
    }
}
