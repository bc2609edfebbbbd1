//! The trait that a device implements.

use core::fmt::Debug;

use super::Element;
use super::attention::{
    AppendShape, AttentionShape, KeepShape, MoveShape, RelativeShape, RotaryShape,
};
use super::conv::{ConvShape, PatchShape, Rounding};
use super::gemm::GemmShape;
use super::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use super::reward_head::{AnswerShape, PoolShape};
use super::sample::{Draw, DrawShape, FilterShape, GuideShape};
use super::vq::{GatherShape, LfqShape, NearestShape};
use crate::error::{Result, product};
use crate::quant::{Format, QuantMatrix};

pub(crate) use sealed::Sealed;
mod sealed {
    /// Only this crate's devices implement [`Backend`](super::Backend): its methods may grow.
    pub trait Sealed {}
}

/// What rows are rotated by: the position of each, and the table of cosines and sines.
pub type Turn<'a, B> = (
    &'a <B as Backend>::Buffer<u32>,
    &'a <B as Backend>::Buffer<f32>,
);

/// What heads of queries and of keys are normalised by: a weight and a bias for each.
#[derive(Debug)]
pub struct HeadNorms<'a, B: Backend> {
    /// Of queries.
    pub queries: [&'a B::Buffer<f32>; 2],
    /// Of keys.
    pub keys: [&'a B::Buffer<f32>; 2],
    /// Added to the variance.
    pub eps: f32,
}

/// Keys and values of a layer, in the format that they are kept in.
#[derive(Debug)]
pub enum KvPair<'a, B: Backend> {
    /// As they are.
    F32(&'a mut [B::Buffer<f32>; 2]),
    /// In upper halves of floats.
    Bf16(&'a mut [B::Buffer<u32>; 2]),
    /// In blocks of 8 bits.
    Q8(&'a mut [B::Buffer<u32>; 2]),
}

/// A device: its memory and its operations. Public so that models can be named for it, sealed so that it can grow.
///
/// Every operation reads and writes the leading elements of its buffers; a buffer may be longer than its shape needs.
///
/// # Errors
/// A row that holds no numbers, where an operation has to look at them, is [`Error::NotFinite`](crate::Error::NotFinite)
/// of the operation, or on a device that runs behind the host of the next read that the same thread makes.
///
/// Every operation fails if a buffer is shorter than its shape needs, a size is zero where that has no meaning, or a
/// product of sizes overflows.
pub trait Backend: Sealed + Debug + Send + Sync {
    /// Memory of the device.
    type Buffer<T: Element>: Debug + Send + Sync;
    /// A weight matrix `[n, k]`, packed for the device.
    type Matrix: Debug + Send + Sync;
    /// What the device keeps of work that is repeated.
    type Records: Debug + Default + Send + Sync;

    /// Multiply-adds that the calling thread has asked of devices so far, if this one counts: those of products,
    /// convolutions, attention and codebook searches, by their shapes, whoever computes them and with how many threads.
    /// Gradients are not counted. Attention of a GPU counts the rows that the host last told it to see. Nothing is counted
    /// without `std`.
    fn multiply_adds(&self) -> Option<u64> {
        None
    }

    /// Reserves a buffer of `len` zeros.
    fn zeros<T: Element>(&self, len: usize) -> Result<Self::Buffer<T>>;
    /// Reserves a buffer of `len` zeros for keys or values: a plan of a run's memory names them apart.
    fn cache<T: Element>(&self, len: usize) -> Result<Self::Buffer<T>> {
        self.zeros(len)
    }
    /// Whether numbers are kept; where their room is only counted, weights need not be read.
    fn keeps_numbers(&self) -> bool {
        true
    }
    /// Elements of a buffer.
    fn len<T: Element>(&self, buffer: &Self::Buffer<T>) -> usize;
    /// Copies `source` into the buffer from element `at` on.
    fn write<T: Element>(
        &self,
        buffer: &mut Self::Buffer<T>,
        at: usize,
        source: &[T],
    ) -> Result<()>;
    /// Copies elements from `at` on into `out`.
    fn read<T: Element>(&self, buffer: &Self::Buffer<T>, at: usize, out: &mut [T]) -> Result<()>;
    /// Copies the first elements of two buffers to the host: on a device that runs behind it, with one wait.
    fn read_pair<T: Element, U: Element>(
        &self,
        (one, one_out): (&Self::Buffer<T>, &mut [T]),
        (other, other_out): (&Self::Buffer<U>, &mut [U]),
    ) -> Result<()> {
        self.read(one, 0, one_out)?;
        self.read(other, 0, other_out)
    }
    /// Copies `len` elements between two buffers.
    fn copy<T: Element>(
        &self,
        from: &Self::Buffer<T>,
        from_at: usize,
        to: &mut Self::Buffer<T>,
        to_at: usize,
        len: usize,
    ) -> Result<()>;
    /// Runs operations that differ from those of the last call with the same `records` and `key` in nothing but the numbers
    /// that their buffers hold: the same shapes, the same buffers, all of them alive as long as `records`. A device may
    /// record them, and repeat the record without calling `work`: it then writes to addresses that it cannot check, so that
    /// a buffer which is dropped before its records is as wrong as a pointer to it would be. Nothing is reserved, read or
    /// written by the host meanwhile; work in work is a part of the outer one.
    fn repeat(
        &self,
        records: &mut Self::Records,
        key: [usize; 2],
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()>;
    /// Reserves a weight matrix `[n, k]` of zeros, kept as `format`.
    fn matrix(&self, format: Format, n: usize, k: usize) -> Result<Self::Matrix>;
    /// Packs `rows` into a matrix of the same format and width, from row `at` on. Rows may come in any order and any
    /// portions, so that no more than a portion need be in memory twice.
    fn put(&self, matrix: &mut Self::Matrix, at: usize, rows: &QuantMatrix<'_>) -> Result<()>;
    /// Packs a weight matrix for this device.
    fn pack(&self, matrix: &QuantMatrix<'_>) -> Result<Self::Matrix> {
        let mut packed = self.matrix(matrix.format(), matrix.n(), matrix.k())?;
        self.put(&mut packed, 0, matrix)?;
        Ok(packed)
    }

    /// y\[m, n\] = x\[m, k\] · wᵀ + bias, or y += … ; see [`gemm`](super::gemm::gemm).
    fn gemm(
        &self,
        s: GemmShape,
        x: &Self::Buffer<f32>,
        w: &Self::Matrix,
        bias: Option<&Self::Buffer<f32>>,
        y: &mut Self::Buffer<f32>,
    ) -> Result<()>;

    /// The product of rows that go through an activation first. What x holds afterwards is left open: it may be needed by
    /// nobody else, and a device need not write it.
    fn activated_gemm(
        &self,
        activation: Activation,
        s: GemmShape,
        x: &mut Self::Buffer<f32>,
        w: &Self::Matrix,
        bias: Option<&Self::Buffer<f32>>,
        y: &mut Self::Buffer<f32>,
    ) -> Result<()> {
        self.activate(activation, product("gemm", &[s.m, s.k])?, x)?;
        self.gemm(s, x, w, bias, y)
    }
    /// The product of rows that are gated first: x is \[m, 2, k\], and `room` for \[m, k\] may be written to.
    fn gated_gemm(
        &self,
        activation: Activation,
        s: GemmShape,
        (x, room): (&Self::Buffer<f32>, &mut Self::Buffer<f32>),
        w: &Self::Matrix,
        bias: Option<&Self::Buffer<f32>>,
        y: &mut Self::Buffer<f32>,
    ) -> Result<()> {
        self.gate(GateShape::of_product(s, activation), x, room)?;
        self.gemm(s, room, w, bias, y)
    }

    /// Layer norm; see [`layer_norm`](super::norm::layer_norm).
    fn layer_norm(
        &self,
        s: NormShape,
        x: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        bias: &Self::Buffer<f32>,
        y: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Root-mean-square norm; see [`rms_norm`](super::norm::rms_norm).
    fn rms_norm(
        &self,
        s: NormShape,
        x: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        y: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Layer norm of each head, in place; see [`head_norm`](super::norm::head_norm).
    fn head_norm(
        &self,
        s: HeadNormShape,
        x: &mut Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        bias: &Self::Buffer<f32>,
    ) -> Result<()>;
    /// Group norm; see [`group_norm`](super::norm::group_norm).
    fn group_norm(
        &self,
        s: GroupNormShape,
        x: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        bias: &Self::Buffer<f32>,
        y: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// y += x over the first `len` elements.
    fn add(&self, len: usize, x: &Self::Buffer<f32>, y: &mut Self::Buffer<f32>) -> Result<()>;
    /// An activation in place over the first `len` elements.
    fn activate(&self, activation: Activation, len: usize, x: &mut Self::Buffer<f32>)
    -> Result<()>;
    /// Gated product; see [`gate`](super::norm::gate).
    fn gate(&self, s: GateShape, x: &Self::Buffer<f32>, y: &mut Self::Buffer<f32>) -> Result<()>;

    /// Rotary embedding in place; see [`rotary`](super::attention::rotary).
    fn rotary(
        &self,
        s: RotaryShape,
        x: &mut Self::Buffer<f32>,
        positions: &Self::Buffer<u32>,
        table: &Self::Buffer<f32>,
    ) -> Result<()>;
    /// Copies rows to the places a buffer names; see [`append`](super::attention::append).
    fn append(
        &self,
        s: AppendShape,
        x: &Self::Buffer<f32>,
        places: &Self::Buffer<u32>,
        cache: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// [`head_norm`](Self::head_norm) of the queries and of the keys of rows.
    fn head_norms(
        &self,
        s: KeepShape,
        x: &mut Self::Buffer<f32>,
        norms: &HeadNorms<'_, Self>,
    ) -> Result<()>
    where
        Self: Sized,
    {
        let [queries, keys] = s.norms(norms.eps);
        self.head_norm(queries, x, norms.queries[0], norms.queries[1])?;
        self.head_norm(keys, x, norms.keys[0], norms.keys[1])
    }
    /// Normalises the heads of queries and keys, rotates them by their positions, and puts keys and values to the places that
    /// a buffer names: [`head_norms`](Self::head_norms), [`rotary`](Self::rotary) and, by their format, two appends.
    fn keep(
        &self,
        s: KeepShape,
        x: &mut Self::Buffer<f32>,
        (norms, turn): (Option<HeadNorms<'_, Self>>, Option<Turn<'_, Self>>),
        places: &Self::Buffer<u32>,
        cache: KvPair<'_, Self>,
    ) -> Result<()>
    where
        Self: Sized,
    {
        if let Some(norms) = &norms {
            self.head_norms(s, x, norms)?;
        }
        if let Some((positions, table)) = turn {
            self.rotary(s.rotary(), x, positions, table)?;
        }
        let [keys, values] = s.appends();
        match cache {
            KvPair::F32([k, v]) => {
                self.append(keys, x, places, k)?;
                self.append(values, x, places, v)
            }
            KvPair::Bf16([k, v]) => {
                self.append_bf16(keys, x, places, k)?;
                self.append_bf16(values, x, places, v)
            }
            KvPair::Q8([k, v]) => {
                self.append_q8(keys, x, places, k)?;
                self.append_q8(values, x, places, v)
            }
        }
    }
    /// Attention over a shared prefix and own rows; see [`attention`](super::attention::attention).
    fn attention(
        &self,
        s: AttentionShape,
        q: &Self::Buffer<f32>,
        keys: &Self::Buffer<f32>,
        values: &Self::Buffer<f32>,
        spans: &Self::Buffer<u32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Copies rows of every head to another place of a cache; see [`move_rows`](super::attention::move_rows).
    fn move_rows<T: Element>(&self, s: MoveShape, cache: &mut Self::Buffer<T>) -> Result<()>;
    /// Rounds rows to halves of floats, to the places a buffer names; see
    /// [`append_bf16`](super::attention::append_bf16).
    fn append_bf16(
        &self,
        s: AppendShape,
        x: &Self::Buffer<f32>,
        places: &Self::Buffer<u32>,
        cache: &mut Self::Buffer<u32>,
    ) -> Result<()>;
    /// Attention over keys and values in halves of floats; see [`attention_bf16`](super::attention::attention_bf16),
    /// which says how far a device may be from it.
    fn attention_bf16(
        &self,
        s: AttentionShape,
        q: &Self::Buffer<f32>,
        keys: &Self::Buffer<u32>,
        values: &Self::Buffer<u32>,
        spans: &Self::Buffer<u32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Rounds rows to 8 bits, to the places a buffer names; see [`append_q8`](super::attention::append_q8).
    fn append_q8(
        &self,
        s: AppendShape,
        x: &Self::Buffer<f32>,
        places: &Self::Buffer<u32>,
        cache: &mut Self::Buffer<u32>,
    ) -> Result<()>;
    /// Attention over keys and values in 8 bits; see [`attention_q8`](super::attention::attention_q8).
    fn attention_q8(
        &self,
        s: AttentionShape,
        q: &Self::Buffer<f32>,
        keys: &Self::Buffer<u32>,
        values: &Self::Buffer<u32>,
        spans: &Self::Buffer<u32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Attention of a sequence to itself with a bias by distance; see
    /// [`relative_attention`](super::attention::relative_attention).
    fn relative_attention(
        &self,
        s: RelativeShape,
        qkv: &Self::Buffer<f32>,
        bias: &Self::Buffer<f32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;

    /// Classifier-free guidance in place; see [`guide`](super::sample::guide).
    fn guide(&self, s: GuideShape, logits: &mut Self::Buffer<f32>) -> Result<()>;
    /// Temperature, top-k and top-p of each row; see [`filter_rows`](super::sample::filter_rows).
    fn filter(
        &self,
        s: FilterShape,
        logits: &mut Self::Buffer<f32>,
        order: &mut Self::Buffer<u32>,
    ) -> Result<()>;
    /// Softmax and the categorical draw of each row; see [`draw`](super::sample::draw).
    fn draw(
        &self,
        s: DrawShape,
        logits: &mut Self::Buffer<f32>,
        draw: &Draw<&Self::Buffer<u32>, &Self::Buffer<f32>>,
        codes: &mut Self::Buffer<u32>,
        p: &mut Self::Buffer<f32>,
    ) -> Result<()>;

    /// Rows of a table by index; see [`gather`](super::vq::gather).
    fn gather(
        &self,
        s: GatherShape,
        index: &Self::Buffer<u32>,
        table: &Self::Buffer<f32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Rows of a table that is kept as a weight matrix; see [`gather_rows`](super::vq::gather_rows).
    fn gather_rows(
        &self,
        s: GatherShape,
        index: &Self::Buffer<u32>,
        table: &Self::Matrix,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Codes to their ±1 latents; see [`lfq_lookup`](super::vq::lfq_lookup).
    fn lfq_lookup(
        &self,
        s: LfqShape,
        codes: &Self::Buffer<u32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Latents to codes by sign; see [`lfq_codes`](super::vq::lfq_codes).
    fn lfq_codes(
        &self,
        s: LfqShape,
        latents: &Self::Buffer<f32>,
        codes: &mut Self::Buffer<u32>,
    ) -> Result<()>;

    /// Latents to their nearest codes; see [`nearest`](super::vq::nearest).
    fn nearest(
        &self,
        s: NearestShape,
        latents: &Self::Buffer<f32>,
        codebook: &Self::Buffer<f32>,
        codes: &mut Self::Buffer<u32>,
    ) -> Result<()>;

    /// Convolution over NHWC; see [`conv2d`](super::conv::conv2d).
    fn conv2d(
        &self,
        s: ConvShape,
        x: &Self::Buffer<f32>,
        w: &Self::Matrix,
        bias: &Self::Buffer<f32>,
        y: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// Pixels in [-1, 1] to bytes; see [`to_bytes`](super::conv::to_bytes).
    fn to_bytes(
        &self,
        rounding: Rounding,
        len: usize,
        x: &Self::Buffer<f32>,
        out: &mut Self::Buffer<u8>,
    ) -> Result<()>;
    /// Bytes to normalised patch rows; see [`patchify`](super::conv::patchify).
    fn patchify(
        &self,
        s: PatchShape,
        pixels: &Self::Buffer<u8>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;

    /// Rows of each view pooled by heads; see [`pool_rows`](super::reward_head::pool_rows).
    fn pool_rows(
        &self,
        s: PoolShape,
        x: &Self::Buffer<f32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
    /// P(yes) and P(no) of each row; see [`answer`](super::reward_head::answer).
    fn answer(
        &self,
        s: AnswerShape,
        logits: &Self::Buffer<f32>,
        out: &mut Self::Buffer<f32>,
    ) -> Result<()>;
}
