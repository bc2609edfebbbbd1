//! A GPU as a device: kernels that were compiled ahead, launched through NVIDIA's driver.
//!
//! Nothing of CUDA is needed to build this, and only the driver to run it. The kernels stand in `kernels/`, one file a
//! family; `kernels/README.md` says how they are written and tested. They round where the reference loops round, and
//! sum in the same order: all results have the bits of [`Reference`](crate::ops::Reference), but for the activation by
//! the error function, whose approximation is another one. So a row has the same bits in any batch.

mod attention;
mod conv;
mod driver;
mod faults;
mod gauge;
mod gemm;
mod gemv;
mod memory;
mod module;
mod norm;
mod reward_head;
mod sample;
mod vq;

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig};

use self::faults::Faults;
pub use self::gemv::Matrix;
pub use self::memory::Buffer;
use self::module::{Family, Modules};
use crate::error::{Error, Foreign, Result, product};
use crate::ops::attention::{AppendShape, AttentionShape, KvFormat, RelativeShape, RotaryShape};
use crate::ops::conv::{ConvShape, PatchShape, Rounding};
use crate::ops::gemm::GemmShape;
use crate::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use crate::ops::reward_head::{AnswerShape, PoolShape};
use crate::ops::sample::{Draw, DrawShape, FilterShape, GuideShape};
use crate::ops::vq::{GatherShape, LfqShape, NearestShape};
use crate::ops::{Backend, Element, Sealed};
use crate::quant::{Format, QuantMatrix};

/// Oldest compute capability that the kernels run on, times ten.
const OLDEST: u64 = 80;
/// Threads of a block where a thread takes an element.
const THREADS: u32 = 256;

/// One GPU: a value for each, and nothing shared between them.
///
/// Launches return before they have run. What only a kernel can see, a row that holds no numbers
/// ([`Error::NotFinite`]), is the error of the same thread's next [`read`](Backend::read) or
/// [`synchronise`](Self::synchronise): the operation is named, and the first such row of its calls since the last one.
/// So a step waits for the device once, where its results are read.
///
/// ```no_run
/// use maquette::cuda::Device;
/// use maquette::ops::{Backend, gemm::GemmShape};
/// use maquette::quant::QuantMatrix;
/// let gpu = Device::new(0)?;
/// let w = gpu.pack(&QuantMatrix::f32(1, 2, &[3.0, 4.0])?)?;
/// let (mut x, mut y) = (gpu.zeros(2)?, gpu.zeros(1)?);
/// gpu.write(&mut x, 0, &[1.0, 2.0])?;
/// gpu.gemm(GemmShape::new(1, 1, 2), &x, &w, None, &mut y)?;
/// let mut out = [0.0];
/// gpu.read(&y, 0, &mut out)?;
/// assert_eq!(out, [11.0]);
/// # Ok::<(), maquette::Error>(())
/// ```
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Modules,
    faults: Faults,
    name: String,
    capability: (i32, i32),
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .field("capability", &self.capability)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// The GPU with this number.
    ///
    /// # Errors
    /// [`Error::NoDevice`] without NVIDIA's driver or without such a GPU; [`Error::Range`] for a driver older than that
    /// of CUDA 12.4 or a GPU of compute capability below 8.0. An application may then use the CPU.
    pub fn new(ordinal: usize) -> Result<Self> {
        driver::probe()?;
        let none = |e: DriverError| Error::NoDevice {
            device: "cuda",
            problem: "there is no such GPU, or it is not to be had",
            source: Some(Foreign::new(e)),
        };
        let context = CudaContext::new(ordinal).map_err(none)?;
        let (major, minor) = context.compute_capability().map_err(none)?;
        let name = context.name().map_err(none)?;
        let number = u64::try_from(major * 10 + minor).unwrap_or(0);
        if number < OLDEST {
            return Err(Error::Range {
                op: "cuda",
                arg: "compute capability, times ten",
                got: number,
                min: OLDEST,
                max: u64::MAX,
            });
        }
        // SAFETY: this value's buffers are used on this value's one stream, which keeps the order of their uses.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(|e| failed("stream", e))?;
        Ok(Self {
            context,
            stream,
            modules: Modules::default(),
            faults: Faults::default(),
            name,
            capability: (major, minor),
        })
    }

    /// How many GPUs there are.
    ///
    /// # Errors
    /// As [`Device::new`], but for the GPU itself.
    pub fn count() -> Result<usize> {
        driver::probe()?;
        let count = CudaContext::device_count().map_err(|e| failed("count", e))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The GPU's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compute capability, major and minor.
    #[must_use]
    pub const fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Waits for everything that was launched.
    ///
    /// # Errors
    /// [`Error::Device`] if something of it failed; [`Error::NotFinite`] as [`Device`] says.
    pub fn synchronise(&self) -> Result<()> {
        self.download("synchronise", &mut [])
    }

    fn function(&self, family: Family, kernel: &'static str) -> Result<CudaFunction> {
        self.modules.function(&self.context, family, kernel)
    }

    /// Fails unless all buffers are memory of this device value.
    fn owns(&self, op: &'static str, buffers: &[&Buffer<f32>]) -> Result<()> {
        buffers.iter().try_for_each(|b| b.belongs(op, &self.stream))
    }
}

/// What the driver says, as an error of this crate.
fn failed(op: &'static str, source: DriverError) -> Error {
    Error::Device {
        op,
        source: Foreign::new(source),
    }
}

/// A size as the kernels take it.
fn words<const N: usize>(op: &'static str, sizes: [usize; N]) -> Result<[u32; N]> {
    let mut out = [0; N];
    for (out, size) in out.iter_mut().zip(sizes) {
        *out = u32::try_from(size).map_err(|_| Error::Range {
            op,
            arg: "size",
            got: size as u64,
            min: 0,
            max: u64::from(u32::MAX),
        })?;
    }
    Ok(out)
}

/// A grid of blocks.
fn grid(op: &'static str, x: usize, y: usize, threads: u32) -> Result<LaunchConfig> {
    for (arg, size, max) in [
        ("grid", x, 0x7fff_ffff_u32),
        ("grid's second axis", y, 65_535),
    ] {
        if size > max as usize {
            return Err(Error::Range {
                op,
                arg,
                got: size as u64,
                min: 1,
                max: u64::from(max),
            });
        }
    }
    let [x, y] = words(op, [x, y])?;
    Ok(LaunchConfig {
        grid_dim: (x, y, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// A thread for each of `count` elements. Kernels number them in 32 bits, those past the last one included.
fn elements(op: &'static str, count: usize) -> Result<LaunchConfig> {
    words(op, [count.saturating_add(THREADS as usize)])?;
    grid(op, count.div_ceil(THREADS as usize), 1, THREADS)
}

/// A thread for each element of a product of sizes; nothing where there is none.
fn along(op: &'static str, sizes: &[usize]) -> Result<Option<LaunchConfig>> {
    match product(op, sizes)? {
        0 => Ok(None),
        count => elements(op, count).map(Some),
    }
}

impl Sealed for Device {}

impl Backend for Device {
    type Buffer<T: Element> = Buffer<T>;
    type Matrix = Matrix;

    fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        self.buffer(len)
    }

    fn len<T: Element>(&self, buffer: &Buffer<T>) -> usize {
        buffer.len
    }

    fn write<T: Element>(&self, buffer: &mut Buffer<T>, at: usize, source: &[T]) -> Result<()> {
        const OP: &str = "write";
        buffer.belongs(OP, &self.stream)?;
        let mut part = buffer.part_mut(OP, "buffer", at, source.len())?;
        if source.is_empty() {
            return Ok(());
        }
        self.stream
            .memcpy_htod(bytemuck::cast_slice::<T, u8>(source), &mut part)
            .map_err(|e| failed(OP, e))
    }

    fn read<T: Element>(&self, buffer: &Buffer<T>, at: usize, out: &mut [T]) -> Result<()> {
        const OP: &str = "read";
        buffer.belongs(OP, &self.stream)?;
        let part = buffer.part(OP, "buffer", at, out.len())?;
        if out.is_empty() {
            return Ok(());
        }
        self.download(OP, &mut [(part, bytemuck::cast_slice_mut::<T, u8>(out))])
    }

    fn read_pair<T: Element, U: Element>(
        &self,
        one: (&Buffer<T>, &mut [T]),
        other: (&Buffer<U>, &mut [U]),
    ) -> Result<()> {
        const OP: &str = "read";
        one.0.belongs(OP, &self.stream)?;
        other.0.belongs(OP, &self.stream)?;
        let parts = [
            one.0.part(OP, "buffer", 0, one.1.len())?,
            other.0.part(OP, "buffer", 0, other.1.len())?,
        ];
        let out = [
            bytemuck::cast_slice_mut::<T, u8>(one.1),
            bytemuck::cast_slice_mut::<U, u8>(other.1),
        ];
        let [a, b] = parts;
        let [x, y] = out;
        self.download(OP, &mut [(a, x), (b, y)])
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
        let source = from.part(OP, "from", from_at, len)?;
        let mut target = to.part_mut(OP, "to", to_at, len)?;
        if len == 0 {
            return Ok(());
        }
        self.stream
            .memcpy_dtod(&source, &mut target)
            .map_err(|e| failed(OP, e))
    }

    fn matrix(&self, format: Format, n: usize, k: usize) -> Result<Matrix> {
        Matrix::zeros(self, format, n, k)
    }

    fn put(&self, matrix: &mut Matrix, at: usize, rows: &QuantMatrix<'_>) -> Result<()> {
        self.put_rows(matrix, at, rows)
    }

    fn gemm(
        &self,
        s: GemmShape,
        x: &Buffer<f32>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.product(s, x, w, bias, y)
    }

    fn layer_norm(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_layer(s, x, [weight, bias], y)
    }

    fn rms_norm(
        &self,
        s: NormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_rms(s, x, weight, y)
    }

    fn head_norm(
        &self,
        s: HeadNormShape,
        x: &mut Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
    ) -> Result<()> {
        self.norm_heads(s, x, weight, bias)
    }

    fn group_norm(
        &self,
        s: GroupNormShape,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.norm_groups(s, x, [weight, bias], y)
    }

    fn add(&self, len: usize, x: &Buffer<f32>, y: &mut Buffer<f32>) -> Result<()> {
        self.add_to(len, x, y)
    }

    fn activate(&self, activation: Activation, len: usize, x: &mut Buffer<f32>) -> Result<()> {
        self.apply(activation, len, x)
    }

    fn gate(&self, s: GateShape, x: &Buffer<f32>, y: &mut Buffer<f32>) -> Result<()> {
        self.gated(s, x, y)
    }

    fn rotary(
        &self,
        s: RotaryShape,
        x: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        table: &Buffer<f32>,
    ) -> Result<()> {
        self.rotate(s, x, positions, table)
    }

    fn append(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<f32>,
    ) -> Result<()> {
        self.append_rows(KvFormat::F32, s, x, places, cache)
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
        self.attend((KvFormat::F32, s), q, [keys, values], spans, out)
    }

    fn append_q8(
        &self,
        s: AppendShape,
        x: &Buffer<f32>,
        places: &Buffer<u32>,
        cache: &mut Buffer<u32>,
    ) -> Result<()> {
        self.append_rows(KvFormat::Q8, s, x, places, cache)
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
        self.attend((KvFormat::Q8, s), q, [keys, values], spans, out)
    }

    fn relative_attention(
        &self,
        s: RelativeShape,
        qkv: &Buffer<f32>,
        bias: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.attend_relative(s, qkv, bias, out)
    }

    fn guide(&self, s: GuideShape, logits: &mut Buffer<f32>) -> Result<()> {
        self.guided(s, logits)
    }

    fn filter(
        &self,
        s: FilterShape,
        logits: &mut Buffer<f32>,
        order: &mut Buffer<u32>,
    ) -> Result<()> {
        self.filtered(s, logits, order)
    }

    fn draw(
        &self,
        s: DrawShape,
        logits: &mut Buffer<f32>,
        draw: &Draw<&Buffer<u32>, &Buffer<f32>>,
        codes: &mut Buffer<u32>,
        p: &mut Buffer<f32>,
    ) -> Result<()> {
        self.drawn(s, logits, draw, codes, p)
    }

    fn gather(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        table: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.gathered(s, index, table, out)
    }

    fn gather_rows(
        &self,
        s: GatherShape,
        index: &Buffer<u32>,
        table: &Matrix,
        out: &mut Buffer<f32>,
    ) -> Result<()> {
        self.gather_matrix(s, index, table, out)
    }

    fn lfq_lookup(&self, s: LfqShape, codes: &Buffer<u32>, out: &mut Buffer<f32>) -> Result<()> {
        self.lfq_latents(s, codes, out)
    }

    fn lfq_codes(&self, s: LfqShape, latents: &Buffer<f32>, codes: &mut Buffer<u32>) -> Result<()> {
        self.lfq_signs(s, latents, codes)
    }

    fn nearest(
        &self,
        s: NearestShape,
        latents: &Buffer<f32>,
        codebook: &Buffer<f32>,
        codes: &mut Buffer<u32>,
    ) -> Result<()> {
        self.nearest_codes(s, latents, codebook, codes)
    }

    fn conv2d(
        &self,
        s: ConvShape,
        x: &Buffer<f32>,
        w: &Matrix,
        bias: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<()> {
        self.convolution(s, x, w, bias, y)
    }

    fn to_bytes(
        &self,
        rounding: Rounding,
        len: usize,
        x: &Buffer<f32>,
        out: &mut Buffer<u8>,
    ) -> Result<()> {
        self.bytes_of(rounding, len, x, out)
    }

    fn patchify(&self, s: PatchShape, pixels: &Buffer<u8>, out: &mut Buffer<f32>) -> Result<()> {
        self.cut_patches(s, pixels, out)
    }

    fn pool_rows(&self, s: PoolShape, x: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        self.pooled(s, x, out)
    }

    fn answer(&self, s: AnswerShape, logits: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        self.answers(s, logits, out)
    }
}
