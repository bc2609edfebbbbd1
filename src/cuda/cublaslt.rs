//! Large products through NVIDIA's cuBLASLt, for those who ask for it: [`Device::with_cublaslt`].
//!
//! The library chooses how it parts a product by the number of its rows. So a row's bits depend on its batch, which is why
//! this is off unless it is asked for.

use alloc::format;
use core::ffi::{c_int, c_void};
use core::fmt;
use core::ptr::from_ref;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::sys::CUDA_VERSION;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, PushKernelArg};
use libloading::Library;

use super::gemv::{Matrix, STRIP};
use super::memory::Buffer;
use super::module::PLAIN;
use super::{Device, elements, failed, words};
use crate::error::{Error, Foreign, Result, product};
use crate::ops::gemm::GemmShape;
use crate::quant::Format;

/// Rows from which on the library is faster, its weights in BF16 made anew for each product.
const LEAST_ROWS: usize = 128;
/// Memory that it may work in: what NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Inputs of a block: rows and weights are filled up to whole ones.
const BLOCK: usize = 32;
/// Inputs that a thread rounds.
const PIECE: usize = 8;
/// An address is known to be a multiple of this at most.
const ALIGNMENT: usize = 256;
const OP: &str = "gemm";

/// Calls that are made through the bindings, which panic where one is missing.
const CALLS: [&str; 12] = [
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmul",
];

/// A kind of product: rows, outputs, inputs, the alignment of what is written, whether there is a bias, and whether it is
/// added to what is there.
type Kind = ([usize; 4], [bool; 2]);

/// The library, ready for one GPU.
pub(super) struct Cublas {
    handle: sys::cublasLtHandle_t,
    /// How it goes about each kind of product, which takes it longer to say than a small product takes.
    ways: Mutex<HashMap<Kind, sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: NVIDIA documents a handle as safe to use by several threads at once.
unsafe impl Send for Cublas {}
// SAFETY: as above.
unsafe impl Sync for Cublas {}

impl fmt::Debug for Cublas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cublas").finish_non_exhaustive()
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own; what it returns can only say that there is no such handle.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// The library under one of the names that the bindings try, with every call; it stays loaded.
fn probe() -> Result<()> {
    let missing = |problem, source| Error::NoDevice {
        device: "cublaslt",
        problem,
        source,
    };
    let major = CUDA_VERSION / 1000;
    let mut found = Err(None);
    for name in [
        "libcublasLt.so".into(),
        format!("libcublasLt.so.{major}"),
        "libcublasLt.so.12".into(),
    ] {
        // SAFETY: loading it runs its initialisers, which is what every program that uses it does.
        match unsafe { Library::new(&*name) } {
            Ok(library) => {
                found = Ok(library);
                break;
            }
            Err(error) => found = Err(Some(Foreign::new(error))),
        }
    }
    let library = found.map_err(|source| missing("cuBLASLt is not installed", source))?;
    for name in CALLS {
        // SAFETY: the symbol is looked up and not called.
        let call = unsafe { library.get::<unsafe extern "C" fn()>(name) };
        call.map_err(|e| missing("cuBLASLt lacks a call", Some(Foreign::new(e))))?;
    }
    core::mem::forget(library);
    Ok(())
}

/// What the library says, as an error of this crate.
fn refused(source: CublasError) -> Error {
    Error::Device {
        op: "cublaslt",
        source: Foreign::new(source),
    }
}

/// A product as the library is told of it.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new() -> Result<Self> {
        let (sums, scale) = (
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        );
        result::create_matmul_desc(sums, scale)
            .map(Self)
            .map_err(refused)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
        // SAFETY: the description is alive, and the library copies as many bytes as the value has.
        unsafe {
            let value = from_ref(value).cast::<c_void>();
            result::set_matmul_desc_attribute(self.0, attribute, value, size_of::<T>())
        }
        .map_err(refused)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: it is this value's own.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A matrix as the library is told of it: rows side by side.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(element: sys::cudaDataType_t, width: usize, rows: usize) -> Result<Self> {
        let [width, rows] = [width as u64, rows as u64];
        result::create_matrix_layout(element, width, rows, width.cast_signed())
            .map(Self)
            .map_err(refused)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: it is this value's own.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What the library may use.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self> {
        result::create_matmul_pref().map(Self).map_err(refused)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<()> {
        // SAFETY: the preference is alive, and the library copies as many bytes as the value has.
        unsafe {
            let value = from_ref(value).cast::<c_void>();
            result::set_matmul_pref_attribute(self.0, attribute, value, size_of::<T>())
        }
        .map_err(refused)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it is this value's own.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// The kernel that lays out a format's weights.
const fn kernel(format: Format) -> Option<&'static str> {
    match format {
        Format::F32 => None,
        Format::Bf16 => Some("plain_bf16"),
        Format::Q8_0 => Some("plain_q8"),
        Format::Q4_0 => Some("plain_q4"),
        Format::Q4G128 => Some("plain_q4g"),
        Format::Q4K => Some("plain_q4k"),
    }
}

impl Device {
    /// This GPU with products of many rows through NVIDIA's cuBLASLt, which it must find installed (on Linux): those of
    /// [`Activations::Bf16`](crate::ops::gemm::Activations::Bf16) with 128 rows and more. Prompts and masked steps of large
    /// models are faster with it where this crate has no kernels for the GPU's kind alone (Hopper). **A row's bits then
    /// depend on its batch**: a candidate drawn alone and among others may come out as two pictures.
    ///
    /// The weights of a product are made into BF16 for it, in memory that it takes and gives back: 2 bytes a weight of the
    /// largest matrix, 2 an input, and 32 MiB.
    ///
    /// # Errors
    /// [`Error::NoDevice`] without the library, [`Error::Device`] if it does not begin.
    pub fn with_cublaslt(mut self) -> Result<Self> {
        probe()?;
        let bound = self.context.bind_to_thread();
        bound.map_err(|e| failed("cublaslt", e))?;
        self.cublas = Some(Cublas {
            handle: result::create_handle().map_err(refused)?,
            ways: Mutex::default(),
        });
        Ok(self)
    }

    /// A product whose lengths have been checked; false if it is none for the library.
    pub(super) fn cublas_product(
        &self,
        s: GemmShape,
        x: &CudaView<'_, u8>,
        w: &Matrix,
        bias: Option<&Buffer<f32>>,
        y: &mut CudaViewMut<'_, u8>,
    ) -> Result<bool> {
        let (Some(cublas), Some(kernel)) = (&self.cublas, kernel(w.format)) else {
            return Ok(false);
        };
        if s.m < LEAST_ROWS || s.n == 0 || s.k == 0 {
            return Ok(false);
        }
        let k = s.k.next_multiple_of(BLOCK);
        let weights = self.plain_weights(s.n, k, w, kernel)?;
        let rows = self.plain_rows(s, k, x)?;
        let mut workspace = self.bytes(OP, WORKSPACE_BYTES)?;

        let stream = self.current();
        let (weights, _weights) = weights.device_ptr(&stream);
        let (rows, _rows) = rows.device_ptr(&stream);
        let (out, _out) = y.device_ptr_mut(&stream);
        let (space, _space) = workspace.device_ptr_mut(&stream);
        let bias = bias.map(|b| b.data.device_ptr(&stream));

        // The library counts columns first: its a is [k, n] and turned, its b [k, m], what it writes [n, m].
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let description = Description::new()?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &c_int::from(true))?;
        if let Some((bias, _)) = &bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        }
        let a = Layout::new(sys::cudaDataType_t::CUDA_R_16BF, k, s.n)?;
        let b = Layout::new(sys::cudaDataType_t::CUDA_R_16BF, k, s.m)?;
        let c = Layout::new(sys::cudaDataType_t::CUDA_R_32F, s.n, s.m)?;
        let aligned = 1 << (out | ALIGNMENT as u64).trailing_zeros();
        let kind = ([s.m, s.n, s.k, aligned], [bias.is_some(), s.accumulate]);
        let way = cublas.way(kind, &description, [&a, &b, &c])?;
        let (alpha, beta) = (1.0_f32, f32::from(u8::from(s.accumulate)));
        // SAFETY: weights hold n · k and rows m · k halves as their kernels filled them, out m · n floats and bias n, as the
        // callers' checks proved; the workspace is as large as is said. All of it and the descriptions live until the call
        // has been put on the stream, which keeps the order of their uses.
        unsafe {
            result::matmul(
                cublas.handle,
                description.0,
                from_ref(&alpha).cast(),
                from_ref(&beta).cast(),
                weights as *const c_void,
                a.0,
                rows as *const c_void,
                b.0,
                out as *const c_void,
                c.0,
                out as *mut c_void,
                c.0,
                &raw const way,
                space as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
        .map_err(refused)?;
        Ok(true)
    }

    /// A matrix in BF16, row after row.
    fn plain_weights(
        &self,
        n: usize,
        k: usize,
        w: &Matrix,
        kernel: &'static str,
    ) -> Result<CudaSlice<u8>> {
        let mut rows = self.bytes(OP, product(OP, &[n, k, 2])?)?;
        let [outputs, blocks] = words(OP, [n, k / BLOCK])?;
        let f = self.modules.of(&self.context, PLAIN, kernel)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut rows).arg(&w.data).arg(&w.scales);
        args.arg(&outputs).arg(&blocks);
        let threads = product(OP, &[n.next_multiple_of(STRIP), k / BLOCK])?;
        // SAFETY: plain_*(rows, w, scales, n, blocks), a thread for each output of whole strips and each block of 32 inputs:
        // rows hold 64 bytes for each below n, w is packed as [n, blocks · 32] in this format; threads past the last strip
        // have outputs from n on and leave.
        unsafe { args.launch(elements(OP, threads)?) }.map_err(|e| failed(kernel, e))?;
        Ok(rows)
    }

    /// The rows in BF16, filled up with zeros.
    fn plain_rows(&self, s: GemmShape, k: usize, x: &CudaView<'_, u8>) -> Result<CudaSlice<u8>> {
        const KERNEL: &str = "plain_rows";
        let mut rows = self.bytes(OP, product(OP, &[s.m, k, 2])?)?;
        let len = product(OP, &[s.m, k / PIECE])?;
        let [inputs, pieces, count] = words(OP, [s.k, k / PIECE, len])?;
        let f = self.modules.of(&self.context, PLAIN, KERNEL)?;
        let stream = self.current();
        let mut args = stream.launch_builder(&f);
        args.arg(&mut rows).arg(x);
        args.arg(&inputs).arg(&pieces).arg(&count);
        // SAFETY: plain_rows(rows, x, k, pieces, len): rows hold 16 bytes for each of len pieces, x m · k floats; inputs from
        // k on are not read, and threads from len on leave.
        unsafe { args.launch(elements(OP, len)?) }.map_err(|e| failed(KERNEL, e))?;
        Ok(rows)
    }
}

impl Cublas {
    /// How the library goes about a kind of product: what it thinks the fastest.
    fn way(
        &self,
        kind: Kind,
        description: &Description,
        [a, b, c]: [&Layout; 3],
    ) -> Result<sys::cublasLtMatmulAlgo_t> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = ways.get(&kind) {
            return Ok(*way);
        }
        let ([.., aligned], _) = kind;
        let preference = Preference::new()?;
        preference.set(
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &WORKSPACE_BYTES,
        )?;
        let [aligned] = words(OP, [aligned])?;
        for attribute in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(attribute, &aligned)?;
        }
        // SAFETY: all of them are alive, and the layouts are those of the product.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                description.0,
                a.0,
                b.0,
                c.0,
                c.0,
                preference.0,
            )
        };
        let way = found.map_err(refused)?.algo;
        ways.insert(kind, way);
        Ok(way)
    }
}
