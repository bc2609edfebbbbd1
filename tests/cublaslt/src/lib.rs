//! A stand-in for NVIDIA's cuBLASLt, as far as the CUDA backend calls it: products of BF16 with a turned first matrix, sums
//! of floats, an optional bias, added to what is there or not. It computes when it is called, on the host, whose memory that
//! of the stand-in driver is; a graph that is being recorded gets nothing of it.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

/// Answers of the library.
const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 7;
const NOT_SUPPORTED: c_int = 15;

/// Kinds of elements and of sums.
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;

/// Attributes of a product.
const TRANS_A: c_int = 3;
const EPILOGUE: c_int = 7;
const BIAS_POINTER: c_int = 8;
/// The epilogue that adds a bias.
const WITH_BIAS: c_int = 4;

/// Columns lie one behind the other, `stride` elements apart.
struct Layout {
    element: c_int,
    rows: usize,
    columns: usize,
    stride: usize,
}

struct Product {
    turned: bool,
    biased: bool,
    bias: *const f32,
}

/// A value that the caller owns from now on.
///
/// # Safety
/// `out` can be written.
unsafe fn give<T>(out: *mut *mut T, value: T) -> c_int {
    // SAFETY: as the callers say.
    unsafe { out.write(Box::into_raw(Box::new(value))) };
    SUCCESS
}

/// Takes it back.
///
/// # Safety
/// It was given by `give` and not taken back yet.
unsafe fn take<T>(value: *mut T) -> c_int {
    // SAFETY: as the callers say.
    drop(unsafe { Box::from_raw(value) });
    SUCCESS
}

/// # Safety
/// `handle` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut *mut c_void) -> c_int {
    // SAFETY: as the caller says. There is nothing behind it.
    unsafe { handle.write(null_mut()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtDestroy(_: *mut c_void) -> c_int {
    SUCCESS
}

/// # Safety
/// `layout` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut *mut c_void,
    element: c_int,
    rows: u64,
    columns: u64,
    stride: i64,
) -> c_int {
    let made = Layout {
        element,
        rows: rows as usize,
        columns: columns as usize,
        stride: stride as usize,
    };
    // SAFETY: as the caller says.
    unsafe { give(layout.cast(), made) }
}

/// # Safety
/// It is a layout that was created and not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut c_void) -> c_int {
    // SAFETY: as the caller says.
    unsafe { take(layout.cast::<Layout>()) }
}

/// # Safety
/// `product` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    product: *mut *mut c_void,
    sums: c_int,
    scale: c_int,
) -> c_int {
    if (sums, scale) != (COMPUTE_32F, R_32F) {
        return NOT_SUPPORTED;
    }
    let made = Product {
        turned: false,
        biased: false,
        bias: null_mut(),
    };
    // SAFETY: as the caller says.
    unsafe { give(product.cast(), made) }
}

/// # Safety
/// It is a description that was created and not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(product: *mut c_void) -> c_int {
    // SAFETY: as the caller says.
    unsafe { take(product.cast::<Product>()) }
}

/// # Safety
/// It is a description that is alive, and `value` holds so many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    product: *mut c_void,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> c_int {
    // SAFETY: as the caller says.
    let product = unsafe { &mut *product.cast::<Product>() };
    match (attribute, bytes) {
        // SAFETY: it is of 4 bytes.
        (TRANS_A, 4) => product.turned = unsafe { value.cast::<c_int>().read() } == 1,
        // SAFETY: as above.
        (EPILOGUE, 4) => product.biased = unsafe { value.cast::<c_int>().read() } == WITH_BIAS,
        // SAFETY: it is of 8 bytes.
        (BIAS_POINTER, 8) => product.bias = unsafe { value.cast::<*const f32>().read() },
        _ => return INVALID_VALUE,
    }
    SUCCESS
}

/// # Safety
/// `preference` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut *mut c_void) -> c_int {
    // SAFETY: as the caller says.
    unsafe { give(preference.cast(), 0_u8) }
}

/// # Safety
/// It is a preference that was created and not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut c_void) -> c_int {
    // SAFETY: as the caller says.
    unsafe { take(preference.cast::<u8>()) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    _: *mut c_void,
    _: c_int,
    _: *const c_void,
    bytes: usize,
) -> c_int {
    match bytes {
        4 | 8 => SUCCESS,
        _ => INVALID_VALUE,
    }
}

/// One way, of zeros.
#[repr(C)]
#[derive(Default)]
pub struct Heuristic {
    way: [u64; 8],
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// # Safety
/// `found` and `count` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    wanted: c_int,
    found: *mut Heuristic,
    count: *mut c_int,
) -> c_int {
    if wanted != 1 {
        return INVALID_VALUE;
    }
    // SAFETY: as the caller says.
    unsafe { found.write(Heuristic::default()) };
    // SAFETY: as above.
    unsafe { count.write(1) };
    SUCCESS
}

/// d = alpha aT b + beta c + bias, column by column.
///
/// # Safety
/// The descriptions are alive, and the memory is as large as they say; c and d are the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    _: *mut c_void,
    product: *mut c_void,
    alpha: *const f32,
    a: *const u16,
    a_layout: *const c_void,
    b: *const u16,
    b_layout: *const c_void,
    beta: *const f32,
    c: *const f32,
    c_layout: *const c_void,
    d: *mut f32,
    d_layout: *const c_void,
    _: *const u64,
    workspace: *mut c_void,
    workspace_bytes: usize,
    _: *mut c_void,
) -> c_int {
    // SAFETY: as the caller says.
    let product = unsafe { &*product.cast::<Product>() };
    let layouts = [a_layout, b_layout, c_layout, d_layout].map(|layout| {
        // SAFETY: as the caller says.
        unsafe { &*layout.cast::<Layout>() }
    });
    let [a_of, b_of, c_of, d_of] = layouts;
    let elements = layouts.map(|of| of.element);
    let (k, n, m) = (a_of.rows, a_of.columns, b_of.columns);
    let fits = layouts.iter().all(|of| of.stride >= of.rows)
        && b_of.rows == k
        && [(c_of.rows, c_of.columns), (d_of.rows, d_of.columns)] == [(n, m); 2]
        && c_of.stride == d_of.stride;
    if !fits || !product.turned || c != d || (workspace.is_null() && workspace_bytes > 0) {
        return INVALID_VALUE;
    }
    if elements != [R_16BF, R_16BF, R_32F, R_32F] {
        return NOT_SUPPORTED;
    }
    // SAFETY: as the caller says.
    let (alpha, beta) = unsafe { (alpha.read(), beta.read()) };
    let float = |half: u16| f32::from_bits(u32::from(half) << 16);
    for row in 0..m {
        for output in 0..n {
            let mut sum = 0.0_f32;
            for t in 0..k {
                // SAFETY: inside columns `output` and `row`, as the caller says.
                let (w, x) = unsafe {
                    (
                        a.add(output * a_of.stride + t).read(),
                        b.add(row * b_of.stride + t).read(),
                    )
                };
                sum += float(w) * float(x);
            }
            let bias = match product.biased {
                // SAFETY: a bias has an element for each output.
                true => unsafe { product.bias.add(output).read() },
                false => 0.0,
            };
            // SAFETY: inside column `row`.
            let to = unsafe { &mut *d.add(row * d_of.stride + output) };
            // What is there is not read where nothing of it counts.
            let before = if beta == 0.0 { 0.0 } else { beta * *to };
            *to = alpha * sum + before + bias;
        }
    }
    SUCCESS
}
