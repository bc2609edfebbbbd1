//! Large products through cuBLASLt: as near as those of the crate's own kernels, and none of those of few rows.

use maquette::ops::Backend;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::quant::Format;

use super::wide::{exact, matrix, near, product, weights};
use super::{gpu, numbers};

fn shape(m: usize, n: usize, k: usize) -> GemmShape {
    GemmShape {
        activations: Activations::Bf16,
        ..GemmShape::new(m, n, k)
    }
}

#[test]
fn products_through_the_library_are_as_near() {
    let Some(device) = gpu::device_with_cublaslt() else {
        return;
    };
    for &format in Format::ALL {
        // Around a strip, a block of inputs, and an address that is no multiple of 16 bytes.
        for (m, n, k) in [
            (128, 1, 32),
            (130, 33, 256),
            (129, 52, 160),
            (200, 31, 33),
            (128, 1, 34),
            (128, 1, 36),
            (128, 2, 39),
            (131, 64, 72),
        ] {
            if format.fitting(k) != format {
                continue;
            }
            let (rows, numbers) = (numbers(m * k, 2), weights(format, n, k));
            let w = device.pack(&matrix(format, [n, k], &numbers)).unwrap();
            for (bias, accumulate) in [(false, false), (true, true), (true, false), (false, true)] {
                let s = GemmShape {
                    accumulate,
                    ..shape(m, n, k)
                };
                let want = exact(s, format, &numbers.1, &rows, bias);
                // Twice: the second time the library need not be asked how.
                for _ in 0..2 {
                    let got = product(&device, s, &w, &rows, bias);
                    // The library may round each sum, as F32 does.
                    assert!(
                        near(&got, &want, Format::F32, k),
                        "{format:?}, {s:?}, a bias: {bias}"
                    );
                }
            }
        }
    }
}

#[test]
fn few_rows_and_other_activations_stay_with_the_kernels() {
    let Some(library) = gpu::device_with_cublaslt() else {
        return;
    };
    let device = gpu::device();
    let (n, k) = (40, 96);
    let rows = numbers(130 * k, 2);
    for (format, activations, m) in [
        (Format::Q8_0, Activations::Bf16, 127),
        (Format::F32, Activations::Bf16, 130),
        (Format::Q8_0, Activations::A8, 130),
        (Format::Q8_0, Activations::F32, 130),
    ] {
        let s = GemmShape {
            activations,
            ..shape(m, n, k)
        };
        let numbers = weights(format, n, k);
        let w = matrix(format, [n, k], &numbers);
        let [with, without] =
            [&library, &device].map(|gpu| product(gpu, s, &gpu.pack(&w).unwrap(), &rows, true));
        assert_eq!(with, without, "{format:?}, {s:?}");
    }
}

/// Memory that a product takes is given back, and a failure leaves the device usable.
#[test]
fn without_memory_for_the_weights_a_product_fails_and_the_next_one_works() {
    let Some(device) = gpu::device_with_cublaslt() else {
        return;
    };
    let s = shape(128, 33, 64);
    let (rows, numbers) = (numbers(128 * 64, 2), weights(Format::Q8_0, 33, 64));
    let w = device
        .pack(&matrix(Format::Q8_0, [33, 64], &numbers))
        .unwrap();
    let want = product(&device, s, &w, &rows, false);
    if !gpu::emulated() {
        return;
    }
    let (x, mut y) = (
        device.zeros(s.m * s.k).unwrap(),
        device.zeros(s.m * s.n).unwrap(),
    );
    let held = gpu::allocated_bytes();
    for fail in 0..3 {
        gpu::fail_allocations_after(fail);
        let failed = device.gemm(s, &x, &w, None, &mut y).unwrap_err();
        gpu::fail_allocations_after(u64::MAX);
        assert!(
            matches!(failed, maquette::Error::OutOfMemory { .. }),
            "{failed}"
        );
        assert_eq!(gpu::allocated_bytes(), held);
    }
    assert_eq!(product(&device, s, &w, &rows, false), want);
}
