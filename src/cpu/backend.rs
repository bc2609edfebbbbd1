//! The operations by their names.

use super::packed::Packed;
use super::{Buffer, Cpu};
use crate::error::Result;
use crate::ops::attention::{
    AppendShape, AttentionShape, KvFormat, MoveShape, RelativeShape, RotaryShape,
};
use crate::ops::conv::{ConvShape, PatchShape, Rounding};
use crate::ops::gemm::GemmShape;
use crate::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use crate::ops::reward_head::{AnswerShape, PoolShape};
use crate::ops::sample::{Draw, DrawShape, FilterShape, GuideShape};
use crate::ops::vq::{GatherShape, LfqShape, NearestShape};
use crate::ops::{Backend, Element, Reference, Sealed, tally};
use crate::quant::{Format, QuantMatrix};

impl Sealed for Cpu {}

impl Backend for Cpu {
    type Buffer<T: Element> = Buffer<T>;
    type Matrix = Packed;
    type Records = ();

    fn multiply_adds(&self) -> Option<u64> {
        tally::done()
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        Reference.zeros(len)
    }

    fn len<T: Element>(&self, buffer: &Buffer<T>) -> usize {
        Reference.len(buffer)
    }

    fn write<T: Element>(&self, buffer: &mut Buffer<T>, at: usize, source: &[T]) -> Result<()> {
        Reference.write(buffer, at, source)
    }

    fn read<T: Element>(&self, buffer: &Buffer<T>, at: usize, out: &mut [T]) -> Result<()> {
        Reference.read(buffer, at, out)
    }

    fn copy<T: Element>(
        &self,
        from: &Buffer<T>,
        from_at: usize,
        to: &mut Buffer<T>,
        to_at: usize,
        len: usize,
    ) -> Result<()> {
        Reference.copy(from, from_at, to, to_at, len)
    }

    fn repeat(
        &self,
        _records: &mut (),
        _key: [usize; 2],
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        work()
    }

    fn matrix(&self, format: Format, n: usize, k: usize) -> Result<Packed> {
        Packed::zeros(format, n, k)
    }

    fn put(&self, matrix: &mut Packed, at: usize, rows: &QuantMatrix<'_>) -> Result<()> {
        matrix.put(&self.pool, at, rows)
    }

    fn gemm(
        &self,
        s: GemmShape,
        x: &Buffer<f32>,
        w: &Packed,
        bias: Option<&Buffer<f32>>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.product(
            s,
            x.as_slice(),
            w,
            bias.map(Buffer::as_slice),
            y.as_mut_slice(),
        )?;
        tally::add(s.multiply_adds());
        Ok(())
    }

    fn layer_norm(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_layer(
            s,
            x.as_slice(),
            weight.as_slice(),
            bias.as_slice(),
            y.as_mut_slice(),
        )
    }

    fn rms_norm(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_rms(s, x.as_slice(), weight.as_slice(), y.as_mut_slice())
    }

    fn head_norm(
        &self,
        s: HeadNormShape,
        x: &mut Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
    ) -> Result<()> {
        self.norm_heads(s, x.as_mut_slice(), weight.as_slice(), bias.as_slice())
    }

    fn group_norm(
        &self,
        s: GroupNormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_groups(
            s,
            x.as_slice(),
            weight.as_slice(),
            bias.as_slice(),
            y.as_mut_slice(),
        )
    }

    fn add(&self, len: usize, x: &Buffer<f32>, y: &mut Buffer<f32>) -> Result<()> {
        self.added(len, x.as_slice(), y.as_mut_slice())
    }

    fn activate(&self, activation: Activation, len: usize, x: &mut Buffer<f32>) -> Result<()> {
        self.apply(activation, len, x.as_mut_slice())
    }

    fn gate(&self, s: GateShape, x: &Buffer<f32>, y: &mut Buffer<f32>) -> Result<()> {
        self.gated(s, x.as_slice(), y.as_mut_slice())
    }

    fn rotary(
        &self,
        s: RotaryShape,
        x: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        table: &Buffer<f32>,
    ) -> Result<()> {
        self.rotated(s, x.as_mut_slice(), positions.as_slice(), table.as_slice())
    }

    fn append(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<f32>,
    ) -> Result<()> {
        self.appended(s, x.as_slice(), places.as_slice(), cache.as_mut_slice())
    }

    fn move_rows<T: Element>(&self, s: MoveShape, cache: &mut Buffer<T>) -> Result<()> {
        Reference.move_rows(s, cache)
    }

    fn append_bf16(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<u32>,
    ) -> Result<()> {
        let (x, places) = (x.as_slice(), places.as_slice());
        self.appended_as((KvFormat::Bf16, s), x, places, cache.as_mut_slice())
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
        let rows = [keys.as_slice(), values.as_slice()];
        self.attend_bf16(s, q.as_slice(), rows, spans.as_slice(), out.as_mut_slice())?;
        tally::add(s.multiply_adds(spans.as_slice()));
        Ok(())
    }

    fn append_q8(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<u32>,
    ) -> Result<()> {
        let (x, places) = (x.as_slice(), places.as_slice());
        self.appended_as((KvFormat::Q8, s), x, places, cache.as_mut_slice())
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
        let rows = [keys.as_slice(), values.as_slice()];
        self.attend(s, q.as_slice(), rows, spans.as_slice(), out.as_mut_slice())?;
        tally::add(s.multiply_adds(spans.as_slice()));
        Ok(())
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
        let rows = [keys.as_slice(), values.as_slice()];
        self.attend_q8(s, q.as_slice(), rows, spans.as_slice(), out.as_mut_slice())?;
        tally::add(s.multiply_adds(spans.as_slice()));
        Ok(())
    }

    fn relative_attention(
        &self,
        s: RelativeShape,
        qkv: &Buffer<f32>,
        bias: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.attend_relative(s, qkv.as_slice(), bias.as_slice(), out.as_mut_slice())?;
        tally::add(s.multiply_adds());
        Ok(())
    }

    fn guide(&self, s: GuideShape, logits: &mut Buffer<f32>) -> Result<()> {
        Reference.guide(s, logits)
    }

    fn filter(
        &self,
        s: FilterShape,
        logits: &mut Buffer<f32>,
        order: &mut Buffer<u32>,
    ) -> Result<()> {
        self.filtered(s, logits.as_mut_slice(), order.as_mut_slice())
    }

    fn draw(
        &self,
        s: DrawShape,
        logits: &mut Buffer<f32>,
        draw: &Draw<&Buffer<u32>, &Buffer<f32>>,
        codes: &mut Buffer<u32>,
        p: &mut Buffer<f32>,
    ) -> Result<()> {
        let draw = match draw {
            Draw::Keyed(keys) => Draw::Keyed(keys.as_slice()),
            Draw::Given(noise) => Draw::Given(noise.as_slice()),
        };
        self.drawn(
            s,
            logits.as_mut_slice(),
            &draw,
            codes.as_mut_slice(),
            p.as_mut_slice(),
        )
    }

    fn gather(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        table: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        Reference.gather(s, index, table, out)
    }

    fn gather_rows(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        table: &Packed,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        table.gather(s, index.as_slice(), out.as_mut_slice())
    }

    fn lfq_lookup(&self, s: LfqShape, codes: &Buffer<u32>, out: &mut Buffer<f32>) -> Result<()> {
        Reference.lfq_lookup(s, codes, out)
    }

    fn lfq_codes(&self, s: LfqShape, latents: &Buffer<f32>, codes: &mut Buffer<u32>) -> Result<()> {
        Reference.lfq_codes(s, latents, codes)
    }

    fn nearest(
        &self,
        s: NearestShape,
        latents: &Buffer<f32>,
        codebook: &Buffer<f32>,
        codes: &mut Buffer<u32>,
    ) -> Result<()> {
        self.nearest_codes(
            s,
            latents.as_slice(),
            codebook.as_slice(),
            codes.as_mut_slice(),
        )?;
        tally::add(s.multiply_adds());
        Ok(())
    }

    fn conv2d(
        &self,
        s: ConvShape,
        x: &Buffer<f32>,
        w: &Packed,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.convolution(s, x.as_slice(), w, bias.as_slice(), y.as_mut_slice())?;
        tally::add(s.multiply_adds());
        Ok(())
    }

    fn to_bytes(
        &self,
        rounding: Rounding,
        len: usize,
        x: &Buffer<f32>,
        out: &mut Buffer<u8>,
    ) -> Result<()> {
        Reference.to_bytes(rounding, len, x, out)
    }

    fn patchify(&self, s: PatchShape, pixels: &Buffer<u8>, out: &mut Buffer<f32>) -> Result<()> {
        Reference.patchify(s, pixels, out)
    }

    fn pool_rows(&self, s: PoolShape, x: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        self.pooled(s, x.as_slice(), out.as_mut_slice())
    }

    fn answer(&self, s: AnswerShape, logits: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        Reference.answer(s, logits, out)
    }
}
