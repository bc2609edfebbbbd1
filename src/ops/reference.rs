//! The slow, plain device: every operation is its reference loop.

use alloc::vec::Vec;

use bytemuck::allocation::try_zeroed_vec;

use super::attention::{AppendShape, AttentionShape, MoveShape, RelativeShape, RotaryShape};
use super::conv::{ConvShape, PatchShape, Rounding};
use super::gemm::GemmShape;
use super::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use super::reward_head::{AnswerShape, PoolShape};
use super::sample::{Draw, DrawShape, FilterShape, GuideShape};
use super::vq::{GatherShape, LfqShape, NearestShape};
use super::{
    Backend, Element, Sealed, attention, conv, gemm, norm, reward_head, sample, tally, vq,
};
use crate::error::{Error, Result, covers, product};
use crate::quant::{Format, QuantData, QuantMatrix};

/// The device that every other one is compared with: one thread, the loops of [`ops`](crate::ops) as they stand.
///
/// ```
/// use maquette::ops::{Backend, Reference};
/// let device = Reference;
/// let mut buffer = device.zeros::<f32>(2)?;
/// device.write(&mut buffer, 1, &[3.0])?;
/// let mut out = [0.0; 2];
/// device.read(&buffer, 0, &mut out)?;
/// assert_eq!(out, [0.0, 3.0]);
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reference;

/// Host memory of a device.
#[derive(Debug)]
pub struct HostBuffer<T>(Vec<T>);

impl<T> HostBuffer<T> {
    /// The elements.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The elements.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// A weight matrix in its canonical form.
#[derive(Debug)]
pub struct HostMatrix {
    n: usize,
    k: usize,
    data: HostData,
}

#[derive(Debug)]
enum HostData {
    F32(Vec<f32>),
    /// Canonical bytes of another format.
    Bytes(Format, Vec<u8>),
}

impl HostMatrix {
    pub(in crate::ops) fn view(&self) -> Result<QuantMatrix<'_>> {
        match &self.data {
            HostData::F32(data) => QuantMatrix::f32(self.n, self.k, data),
            HostData::Bytes(format, bytes) => {
                QuantMatrix::from_bytes(*format, self.n, self.k, bytes)
            }
        }
    }
}

/// `len` zeros, or an error where memory is short. The system makes them when they are first touched: what a session
/// has reserved and never uses costs nothing.
fn zeros<T: Element>(what: &'static str, len: usize) -> Result<Vec<T>> {
    try_zeroed_vec(len).map_err(|()| Error::OutOfMemory {
        what,
        bytes: len.saturating_mul(size_of::<T>()),
    })
}

/// The elements `at .. at + len`, or an error naming what is missing.
fn range(
    op: &'static str,
    arg: &'static str,
    got: usize,
    at: usize,
    len: usize,
) -> Result<core::ops::Range<usize>> {
    let end = at.checked_add(len).ok_or(Error::Overflow { op })?;
    covers(op, arg, got, end)?;
    Ok(at..end)
}

impl Sealed for Reference {}

impl Backend for Reference {
    type Buffer<T: Element> = HostBuffer<T>;
    type Matrix = HostMatrix;
    type Records = ();

    fn multiply_adds(&self) -> Option<u64> {
        tally::done()
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<HostBuffer<T>> {
        zeros("buffer", len).map(HostBuffer)
    }

    fn len<T: Element>(&self, buffer: &HostBuffer<T>) -> usize {
        buffer.0.len()
    }

    fn write<T: Element>(&self, buffer: &mut HostBuffer<T>, at: usize, source: &[T]) -> Result<()> {
        let range = range("write", "buffer", buffer.0.len(), at, source.len())?;
        buffer.0[range].copy_from_slice(source);
        Ok(())
    }

    fn read<T: Element>(&self, buffer: &HostBuffer<T>, at: usize, out: &mut [T]) -> Result<()> {
        let range = range("read", "buffer", buffer.0.len(), at, out.len())?;
        out.copy_from_slice(&buffer.0[range]);
        Ok(())
    }

    fn copy<T: Element>(
        &self,
        from: &HostBuffer<T>,
        from_at: usize,
        to: &mut HostBuffer<T>,
        to_at: usize,
        len: usize,
    ) -> Result<()> {
        let source = range("copy", "from", from.0.len(), from_at, len)?;
        let target = range("copy", "to", to.0.len(), to_at, len)?;
        to.0[target].copy_from_slice(&from.0[source]);
        Ok(())
    }

    fn repeat(
        &self,
        _records: &mut (),
        _key: [usize; 2],
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        work()
    }

    fn matrix(&self, format: Format, n: usize, k: usize) -> Result<HostMatrix> {
        let data = match format {
            Format::F32 => HostData::F32(zeros("matrix", product("matrix", &[n, k])?)?),
            _ => HostData::Bytes(format, zeros("matrix", format.bytes(n, k)?)?),
        };
        Ok(HostMatrix { n, k, data })
    }

    fn put(&self, matrix: &mut HostMatrix, at: usize, rows: &QuantMatrix<'_>) -> Result<()> {
        let (format, k) = (rows.format(), matrix.k);
        let stored = match &matrix.data {
            HostData::F32(_) => Format::F32,
            HostData::Bytes(format, _) => *format,
        };
        let range = rows.place(at, stored, [matrix.n, k])?;
        let width = match format {
            Format::F32 => k,
            _ => format.bytes(1, k)?,
        };
        let range = range.start * width..range.end * width;
        // `place` compared the formats.
        match (&mut matrix.data, rows.data()) {
            (HostData::F32(data), QuantData::F32(rows)) => data[range].copy_from_slice(rows),
            (HostData::F32(_), _) => {}
            (HostData::Bytes(_, data), rows) => {
                if let Some(rows) = rows.bytes() {
                    data[range].copy_from_slice(rows);
                }
            }
        }
        Ok(())
    }

    fn gemm(
        &self,
        s: GemmShape,
        x: &HostBuffer<f32>,
        w: &HostMatrix,
        bias: Option<&HostBuffer<f32>>,
        y: &mut HostBuffer<f32>,
    ) -> Result<()> {
        gemm::gemm(
            s,
            &x.0,
            &w.view()?,
            bias.map(HostBuffer::as_slice),
            &mut y.0,
        )?;
        tally::add(s.multiply_adds());
        Ok(())
    }

    fn layer_norm(
        &self,
        s: NormShape,
        x: &HostBuffer<f32>,
        weight: &HostBuffer<f32>,
        bias: &HostBuffer<f32>,
        y: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::layer_norm(s, &x.0, &weight.0, &bias.0, &mut y.0)
    }

    fn rms_norm(
        &self,
        s: NormShape,
        x: &HostBuffer<f32>,
        weight: &HostBuffer<f32>,
        y: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::rms_norm(s, &x.0, &weight.0, &mut y.0)
    }

    fn head_norm(
        &self,
        s: HeadNormShape,
        x: &mut HostBuffer<f32>,
        weight: &HostBuffer<f32>,
        bias: &HostBuffer<f32>,
    ) -> Result<()> {
        norm::head_norm(s, &mut x.0, &weight.0, &bias.0)
    }

    fn group_norm(
        &self,
        s: GroupNormShape,
        x: &HostBuffer<f32>,
        weight: &HostBuffer<f32>,
        bias: &HostBuffer<f32>,
        y: &mut HostBuffer<f32>,
    ) -> Result<()> {
        norm::group_norm(s, &x.0, &weight.0, &bias.0, &mut y.0)
    }

    fn add(&self, len: usize, x: &HostBuffer<f32>, y: &mut HostBuffer<f32>) -> Result<()> {
        norm::add(len, &x.0, &mut y.0)
    }

    fn activate(&self, activation: Activation, len: usize, x: &mut HostBuffer<f32>) -> Result<()> {
        norm::activate(activation, len, &mut x.0)
    }

    fn gate(&self, s: GateShape, x: &HostBuffer<f32>, y: &mut HostBuffer<f32>) -> Result<()> {
        norm::gate(s, &x.0, &mut y.0)
    }

    fn rotary(
        &self,
        s: RotaryShape,
        x: &mut HostBuffer<f32>,
        positions: &HostBuffer<u32>,
        table: &HostBuffer<f32>,
    ) -> Result<()> {
        attention::rotary(s, &mut x.0, &positions.0, &table.0)
    }

    fn append(
        &self,
        s: AppendShape,
        x: &HostBuffer<f32>,
        places: &HostBuffer<u32>,
        cache: &mut HostBuffer<f32>,
    ) -> Result<()> {
        attention::append(s, &x.0, &places.0, &mut cache.0)
    }

    fn attention(
        &self,
        s: AttentionShape,
        q: &HostBuffer<f32>,
        keys: &HostBuffer<f32>,
        values: &HostBuffer<f32>,
        spans: &HostBuffer<u32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        attention::attention(s, &q.0, &keys.0, &values.0, &spans.0, &mut out.0)?;
        tally::add(s.multiply_adds(&spans.0));
        Ok(())
    }

    fn move_rows<T: Element>(&self, s: MoveShape, cache: &mut HostBuffer<T>) -> Result<()> {
        attention::move_rows(s, &mut cache.0)
    }

    fn append_bf16(
        &self,
        s: AppendShape,
        x: &HostBuffer<f32>,
        places: &HostBuffer<u32>,
        cache: &mut HostBuffer<u32>,
    ) -> Result<()> {
        attention::append_bf16(s, &x.0, &places.0, &mut cache.0)
    }

    fn attention_bf16(
        &self,
        s: AttentionShape,
        q: &HostBuffer<f32>,
        keys: &HostBuffer<u32>,
        values: &HostBuffer<u32>,
        spans: &HostBuffer<u32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        attention::attention_bf16(s, &q.0, &keys.0, &values.0, &spans.0, &mut out.0)?;
        tally::add(s.multiply_adds(&spans.0));
        Ok(())
    }

    fn append_q8(
        &self,
        s: AppendShape,
        x: &HostBuffer<f32>,
        places: &HostBuffer<u32>,
        cache: &mut HostBuffer<u32>,
    ) -> Result<()> {
        attention::append_q8(s, &x.0, &places.0, &mut cache.0)
    }

    fn attention_q8(
        &self,
        s: AttentionShape,
        q: &HostBuffer<f32>,
        keys: &HostBuffer<u32>,
        values: &HostBuffer<u32>,
        spans: &HostBuffer<u32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        attention::attention_q8(s, &q.0, &keys.0, &values.0, &spans.0, &mut out.0)?;
        tally::add(s.multiply_adds(&spans.0));
        Ok(())
    }

    fn relative_attention(
        &self,
        s: RelativeShape,
        qkv: &HostBuffer<f32>,
        bias: &HostBuffer<f32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        attention::relative_attention(s, &qkv.0, &bias.0, &mut out.0)?;
        tally::add(s.multiply_adds());
        Ok(())
    }

    fn guide(&self, s: GuideShape, logits: &mut HostBuffer<f32>) -> Result<()> {
        sample::guide(s, &mut logits.0)
    }

    fn filter(
        &self,
        s: FilterShape,
        logits: &mut HostBuffer<f32>,
        order: &mut HostBuffer<u32>,
    ) -> Result<()> {
        sample::filter_rows(s, &mut logits.0, &mut order.0)
    }

    fn draw(
        &self,
        s: DrawShape,
        logits: &mut HostBuffer<f32>,
        draw: &Draw<&HostBuffer<u32>, &HostBuffer<f32>>,
        codes: &mut HostBuffer<u32>,
        p: &mut HostBuffer<f32>,
    ) -> Result<()> {
        let draw = match draw {
            Draw::Keyed(keys) => Draw::Keyed(keys.as_slice()),
            Draw::Given(noise) => Draw::Given(noise.as_slice()),
        };
        sample::draw(s, &mut logits.0, &draw, &mut codes.0, &mut p.0)
    }

    fn gather(
        &self,
        s: GatherShape,
        index: &HostBuffer<u32>,
        table: &HostBuffer<f32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        vq::gather(s, &index.0, &table.0, &mut out.0)
    }

    fn gather_rows(
        &self,
        s: GatherShape,
        index: &HostBuffer<u32>,
        table: &HostMatrix,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        vq::gather_rows(s, &index.0, &table.view()?, &mut out.0)
    }

    fn lfq_lookup(
        &self,
        s: LfqShape,
        codes: &HostBuffer<u32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        vq::lfq_lookup(s, &codes.0, &mut out.0)
    }

    fn lfq_codes(
        &self,
        s: LfqShape,
        latents: &HostBuffer<f32>,
        codes: &mut HostBuffer<u32>,
    ) -> Result<()> {
        vq::lfq_codes(s, &latents.0, &mut codes.0)
    }

    fn nearest(
        &self,
        s: NearestShape,
        latents: &HostBuffer<f32>,
        codebook: &HostBuffer<f32>,
        codes: &mut HostBuffer<u32>,
    ) -> Result<()> {
        vq::nearest(s, &latents.0, &codebook.0, &mut codes.0)?;
        tally::add(s.multiply_adds());
        Ok(())
    }

    fn conv2d(
        &self,
        s: ConvShape,
        x: &HostBuffer<f32>,
        w: &HostMatrix,
        bias: &HostBuffer<f32>,
        y: &mut HostBuffer<f32>,
    ) -> Result<()> {
        conv::conv2d(s, &x.0, &w.view()?, &bias.0, &mut y.0)?;
        tally::add(s.multiply_adds());
        Ok(())
    }

    fn to_bytes(
        &self,
        rounding: Rounding,
        len: usize,
        x: &HostBuffer<f32>,
        out: &mut HostBuffer<u8>,
    ) -> Result<()> {
        conv::to_bytes(rounding, len, &x.0, &mut out.0)
    }

    fn patchify(
        &self,
        s: PatchShape,
        pixels: &HostBuffer<u8>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        conv::patchify(s, &pixels.0, &mut out.0)
    }

    fn pool_rows(
        &self,
        s: PoolShape,
        x: &HostBuffer<f32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        reward_head::pool_rows(s, &x.0, &mut out.0)
    }

    fn answer(
        &self,
        s: AnswerShape,
        logits: &HostBuffer<f32>,
        out: &mut HostBuffer<f32>,
    ) -> Result<()> {
        reward_head::answer(s, &logits.0, &mut out.0)
    }
}
