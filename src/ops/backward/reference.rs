//! The reference device goes backwards by the loops of this folder.

use super::attention::SelfAttentionShape;
use super::labels::LabelShape;
use super::{Backward, attention, gemm, labels, norm, pool};
use crate::error::Result;
use crate::ops::Reference;
use crate::ops::attention::RotaryShape;
use crate::ops::gemm::GemmShape;
use crate::ops::norm::{Activation, GateShape, HeadNormShape, NormShape};
use crate::ops::reference::{HostBuffer, HostMatrix};
use crate::ops::reward_head::PoolShape;
use crate::ops::vq::GatherShape;

impl Backward for Reference {
    fn gemm_dx(
        &self,
        s: GemmShape,
        dy: &HostBuffer<f32>,
        w: &HostMatrix,
        dx: &mut HostBuffer<f32>,
    ) -> Result<()> {
        gemm::gemm_dx(s, dy.as_slice(), &w.view()?, dx.as_mut_slice())
    }

    fn gemm_dw(
        &self,
        s: GemmShape,
        dy: &HostBuffer<f32>,
        x: &HostBuffer<f32>,
        dw: &mut HostBuffer<f32>,
    ) -> Result<()> {
        gemm::gemm_dw(s, dy.as_slice(), x.as_slice(), dw.as_mut_slice())
    }

    fn sum_rows(
        &self,
        size: [usize; 2],
        dy: &HostBuffer<f32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        gemm::sum_rows(size, dy.as_slice(), out.as_mut_slice())
    }

    fn layer_norm_dx(
        &self,
        s: NormShape,
        x: &HostBuffer<f32>,
        weight: &HostBuffer<f32>,
        dy: &HostBuffer<f32>,
        dx: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::layer_norm_dx(
            s,
            x.as_slice(),
            weight.as_slice(),
            dy.as_slice(),
            dx.as_mut_slice(),
        )
    }

    fn layer_norm_dw(
        &self,
        s: NormShape,
        x: &HostBuffer<f32>,
        dy: &HostBuffer<f32>,
        dw: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::layer_norm_dw(s, x.as_slice(), dy.as_slice(), dw.as_mut_slice())
    }

    fn rms_norm_dx(
        &self,
        s: NormShape,
        x: &HostBuffer<f32>,
        weight: &HostBuffer<f32>,
        dy: &HostBuffer<f32>,
        dx: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::rms_norm_dx(
            s,
            x.as_slice(),
            weight.as_slice(),
            dy.as_slice(),
            dx.as_mut_slice(),
        )
    }

    fn rms_norm_dw(
        &self,
        s: NormShape,
        x: &HostBuffer<f32>,
        dy: &HostBuffer<f32>,
        dw: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::rms_norm_dw(s, x.as_slice(), dy.as_slice(), dw.as_mut_slice())
    }

    fn head_norm_dx(
        &self,
        s: HeadNormShape,
        x: &HostBuffer<f32>,
        weight: &HostBuffer<f32>,
        d: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::head_norm_dx(s, x.as_slice(), weight.as_slice(), d.as_mut_slice())
    }

    fn head_norm_dw(
        &self,
        s: HeadNormShape,
        x: &HostBuffer<f32>,
        dy: &HostBuffer<f32>,
        dw: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::head_norm_dw(s, x.as_slice(), dy.as_slice(), dw.as_mut_slice())
    }

    fn activate_dx(
        &self,
        activation: Activation,
        len: usize,
        x: &HostBuffer<f32>,
        d: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::activate_dx(activation, len, x.as_slice(), d.as_mut_slice())
    }

    fn gate_dx(
        &self,
        s: GateShape,
        x: &HostBuffer<f32>,
        dy: &HostBuffer<f32>,
        dx: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::gate_dx(s, x.as_slice(), dy.as_slice(), dx.as_mut_slice())
    }

    fn rotary_dx(
        &self,
        s: RotaryShape,
        d: &mut HostBuffer<f32>,
        positions: &HostBuffer<u32>,
        table: &HostBuffer<f32>,
    ) -> Result<()> {
        attention::rotary_dx(s, d.as_mut_slice(), positions.as_slice(), table.as_slice())
    }

    fn attention_dx(
        &self,
        s: SelfAttentionShape,
        qkv: &HostBuffer<f32>,
        dy: &HostBuffer<f32>,
        dqkv: &mut HostBuffer<f32>,
    ) -> Result<()> {
        attention::attention_dx(s, qkv.as_slice(), dy.as_slice(), dqkv.as_mut_slice())
    }

    fn gather_dw(
        &self,
        s: GatherShape,
        index: &HostBuffer<u32>,
        dy: &HostBuffer<f32>,
        dw: &mut HostBuffer<f32>,
    ) -> Result<()> {
        gemm::gather_dw(s, index.as_slice(), dy.as_slice(), dw.as_mut_slice())
    }

    fn pool_rows_dx(
        &self,
        s: PoolShape,
        x: &HostBuffer<f32>,
        dy: &HostBuffer<f32>,
        dx: &mut HostBuffer<f32>,
    ) -> Result<()> {
        pool::pool_rows_dx(s, x.as_slice(), dy.as_slice(), dx.as_mut_slice())
    }

    fn log_probs(
        &self,
        s: LabelShape,
        logits: &HostBuffer<f32>,
        labels: &HostBuffer<u32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        labels::log_probs(s, logits.as_slice(), labels.as_slice(), out.as_mut_slice())
    }

    fn log_probs_dx(
        &self,
        s: LabelShape,
        labels: &HostBuffer<u32>,
        weights: &HostBuffer<f32>,
        logits: &mut HostBuffer<f32>,
    ) -> Result<()> {
        labels::log_probs_dx(
            s,
            labels.as_slice(),
            weights.as_slice(),
            logits.as_mut_slice(),
        )
    }
}
