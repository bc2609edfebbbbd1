//! The operations by their names. A planner runs none of them.

use super::plan::Kind;
use super::wide::Inputs;
use super::{Buffer, Device, Matrix, Records, failed};
use crate::error::{Result, product};
use crate::ops::attention::{
    AppendShape, AttentionShape, KeepShape, KvFormat, MoveShape, RelativeShape, RotaryShape,
};
use crate::ops::conv::{ConvShape, PatchShape, Rounding};
use crate::ops::gemm::GemmShape;
use crate::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use crate::ops::reward_head::{AnswerShape, PoolShape};
use crate::ops::sample::{Draw, DrawShape, FilterShape, GuideShape};
use crate::ops::vq::{GatherShape, LfqShape, NearestShape};
use crate::ops::{Backend, Element, HeadNorms, KvPair, Sealed, Turn, tally};
use crate::quant::{Format, QuantMatrix};

impl Sealed for Device {}

impl Backend for Device {
    type Buffer<T: Element> = Buffer<T>;
    type Matrix = Matrix;
    type Records = Records;

    fn multiply_adds(&self) -> Option<u64> {
        tally::done()
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        self.buffer(Kind::Buffers, len)
    }

    fn cache<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        self.buffer(Kind::Caches, len)
    }

    fn keeps_numbers(&self) -> bool {
        self.tally.is_none()
    }

    fn len<T: Element>(&self, buffer: &Buffer<T>) -> usize {
        buffer.len
    }

    fn write<T: Element>(&self, buffer: &mut Buffer<T>, at: usize, source: &[T]) -> Result<()> {
        const OP: &str = "write";
        buffer.belongs(OP, &self.stream)?;
        self.run(|| {
            self.not_recording()?;
            let mut part = buffer.part_mut(OP, "buffer", at, source.len())?;
            if source.is_empty() {
                return Ok(());
            }
            self.stream
                .memcpy_htod(bytemuck::cast_slice::<T, u8>(source), &mut part)
                .map_err(|e| failed(OP, e))?;
            match &buffer.told {
                Some(told) => told.write(at, bytemuck::cast_slice(source)),
                None => Ok(()),
            }
        })
    }

    fn read<T: Element>(&self, buffer: &Buffer<T>, at: usize, out: &mut [T]) -> Result<()> {
        const OP: &str = "read";
        buffer.belongs(OP, &self.stream)?;
        self.run(|| {
            let part = buffer.part(OP, "buffer", at, out.len())?;
            if out.is_empty() {
                return Ok(());
            }
            self.download(OP, &mut [(part, bytemuck::cast_slice_mut::<T, u8>(out))])
        })
    }

    fn read_pair<T: Element, U: Element>(
        &self,
        one: (&Buffer<T>, &mut [T]),
        other: (&Buffer<U>, &mut [U]),
    ) -> Result<()> {
        const OP: &str = "read";
        one.0.belongs(OP, &self.stream)?;
        other.0.belongs(OP, &self.stream)?;
        self.run(|| {
            let a = one.0.part(OP, "buffer", 0, one.1.len())?;
            let b = other.0.part(OP, "buffer", 0, other.1.len())?;
            let x = bytemuck::cast_slice_mut::<T, u8>(one.1);
            let y = bytemuck::cast_slice_mut::<U, u8>(other.1);
            self.download(OP, &mut [(a, x), (b, y)])
        })
    }

    fn copy<T: Element>(
        &self,
        from: &Buffer<T>,
        from_at: usize,
        to: &mut Buffer<T>,
        to_at: usize,
        len: usize,
    ) -> Result<()> {
        const OP: &str = "copy";
        from.belongs(OP, &self.stream)?;
        to.belongs(OP, &self.stream)?;
        self.run(|| {
            let source = from.part(OP, "from", from_at, len)?;
            let mut target = to.part_mut(OP, "to", to_at, len)?;
            if len == 0 {
                return Ok(());
            }
            self.current()
                .memcpy_dtod(&source, &mut target)
                .map_err(|e| failed(OP, e))
        })
    }

    fn matrix(&self, format: Format, n: usize, k: usize) -> Result<Matrix> {
        Matrix::zeros(self, format, n, k)
    }

    fn put(&self, matrix: &mut Matrix, at: usize, rows: &QuantMatrix<'_>) -> Result<()> {
        self.run(|| self.put_rows(matrix, at, rows))
    }

    fn repeat(
        &self,
        records: &mut Records,
        key: [usize; 2],
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.run(|| self.repeated(records, key, work))
    }

    fn move_rows<T: Element>(&self, s: MoveShape, cache: &mut Buffer<T>) -> Result<()> {
        self.run(|| self.moved(s, cache))
    }

    fn gemm(
        &self,
        s: GemmShape,
        x: &Buffer<f32>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run_counted(s.multiply_adds(), || self.product(s, x, w, bias, y))
    }

    fn activated_gemm(
        &self,
        activation: Activation,
        s: GemmShape,
        x: &mut Buffer<f32>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run_counted(s.multiply_adds(), || {
            if self.product_of(Inputs::Activated(activation), s, x, w, bias, y)? {
                return Ok(());
            }
            self.apply(activation, product("gemm", &[s.m, s.k])?, x)?;
            self.product(s, x, w, bias, y)
        })
    }

    fn gated_gemm(
        &self,
        activation: Activation,
        s: GemmShape,
        (x, room): (&Buffer<f32>, &mut Buffer<f32>),
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run_counted(s.multiply_adds(), || {
            let gate = GateShape::of_product(s, activation);
            gate.check(x.len, room.len)?;
            if self.product_of(Inputs::Gated(activation), s, x, w, bias, y)? {
                return Ok(());
            }
            self.gated(gate, x, room)?;
            self.product(s, room, w, bias, y)
        })
    }

    fn layer_norm(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_layer(s, x, [weight, bias], y))
    }

    fn rms_norm(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_rms(s, x, weight, y))
    }

    fn head_norm(
        &self,
        s: HeadNormShape,
        x: &mut Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_heads(s, x, weight, bias))
    }

    fn group_norm(
        &self,
        s: GroupNormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.norm_groups(s, x, [weight, bias], y))
    }

    fn add(&self, len: usize, x: &Buffer<f32>, y: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.add_to(len, x, y))
    }

    fn activate(&self, activation: Activation, len: usize, x: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.apply(activation, len, x))
    }

    fn gate(&self, s: GateShape, x: &Buffer<f32>, y: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.gated(s, x, y))
    }

    fn rotary(
        &self,
        s: RotaryShape,
        x: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        table: &Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.rotate(s, x, positions, table))
    }

    fn append(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.append_rows(KvFormat::F32, s, x, places, cache))
    }

    fn attention(
        &self,
        s: AttentionShape,
        q: &Buffer<f32>,
        keys: &Buffer<f32>,
        values: &Buffer<f32>,
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run_seen(s, spans, || {
            self.attend((KvFormat::F32, s), q, [keys, values], spans, out)
        })
    }

    fn keep(
        &self,
        s: KeepShape,
        x: &mut Buffer<f32>,
        first: (Option<HeadNorms<'_, Self>>, Option<Turn<'_, Self>>),
        places: &Buffer<u32>,
        cache: KvPair<'_, Self>,
    ) -> Result<()> {
        self.run(|| match cache {
            KvPair::F32(kv) => self.keep_heads((KvFormat::F32, s), x, first, places, kv),
            KvPair::Bf16(kv) => self.keep_heads((KvFormat::Bf16, s), x, first, places, kv),
            KvPair::Q8(kv) => self.keep_heads((KvFormat::Q8, s), x, first, places, kv),
        })
    }

    fn append_bf16(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<u32>,
    ) -> Result<()> {
        self.run(|| self.append_rows(KvFormat::Bf16, s, x, places, cache))
    }

    fn attention_bf16(
        &self,
        s: AttentionShape,
        q: &Buffer<f32>,
        keys: &Buffer<u32>,
        values: &Buffer<u32>,
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run_seen(s, spans, || {
            self.attend((KvFormat::Bf16, s), q, [keys, values], spans, out)
        })
    }

    fn append_q8(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<u32>,
    ) -> Result<()> {
        self.run(|| self.append_rows(KvFormat::Q8, s, x, places, cache))
    }

    fn attention_q8(
        &self,
        s: AttentionShape,
        q: &Buffer<f32>,
        keys: &Buffer<u32>,
        values: &Buffer<u32>,
        spans: &Buffer<u32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run_seen(s, spans, || {
            self.attend((KvFormat::Q8, s), q, [keys, values], spans, out)
        })
    }

    fn relative_attention(
        &self,
        s: RelativeShape,
        qkv: &Buffer<f32>,
        bias: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run_counted(s.multiply_adds(), || {
            self.attend_relative(s, qkv, bias, out)
        })
    }

    fn guide(&self, s: GuideShape, logits: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.guided(s, logits))
    }

    fn filter(
        &self,
        s: FilterShape,
        logits: &mut Buffer<f32>,
        order: &mut Buffer<u32>,
    ) -> Result<()> {
        self.run(|| self.filtered(s, logits, order))
    }

    fn draw(
        &self,
        s: DrawShape,
        logits: &mut Buffer<f32>,
        draw: &Draw<&Buffer<u32>, &Buffer<f32>>,
        codes: &mut Buffer<u32>,
        p: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.drawn(s, logits, draw, codes, p))
    }

    fn gather(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        table: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.gathered(s, index, table, out))
    }

    fn gather_rows(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        table: &Matrix,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run(|| self.gather_matrix(s, index, table, out))
    }

    fn lfq_lookup(&self, s: LfqShape, codes: &Buffer<u32>, out: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.lfq_latents(s, codes, out))
    }

    fn lfq_codes(&self, s: LfqShape, latents: &Buffer<f32>, codes: &mut Buffer<u32>) -> Result<()> {
        self.run(|| self.lfq_signs(s, latents, codes))
    }

    fn nearest(
        &self,
        s: NearestShape,
        latents: &Buffer<f32>,
        codebook: &Buffer<f32>,
        codes: &mut Buffer<u32>,
    ) -> Result<()> {
        self.run_counted(s.multiply_adds(), || {
            self.nearest_codes(s, latents, codebook, codes)
        })
    }

    fn conv2d(
        &self,
        s: ConvShape,
        x: &Buffer<f32>,
        w: &Matrix,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.run_counted(s.multiply_adds(), || self.convolution(s, x, w, bias, y))
    }

    fn to_bytes(
        &self,
        rounding: Rounding,
        len: usize,
        x: &Buffer<f32>,
        out: &mut Buffer<u8>,
    ) -> Result<()> {
        self.run(|| self.bytes_of(rounding, len, x, out))
    }

    fn patchify(&self, s: PatchShape, pixels: &Buffer<u8>, out: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.cut_patches(s, pixels, out))
    }

    fn pool_rows(&self, s: PoolShape, x: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.pooled(s, x, out))
    }

    fn answer(&self, s: AnswerShape, logits: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        self.run(|| self.answers(s, logits, out))
    }
}
