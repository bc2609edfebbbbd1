//! Products with rows of BF16 by Hopper's own instructions, of which each kernel takes another number of rows.

use maquette::cuda::Device;
use maquette::ops::Backend;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::quant::Format;

use super::wide::{exact_rows, matrix, near, product, weights};
use super::{gpu, numbers};

/// What Hopper has kernels of its own for, in each of their sizes, and with more stages of inputs than lie in shared memory at
/// once. Rows, outputs and strips end anywhere. On every other GPU these are the kernels for all.
fn kernels_of_one_gpu_are_as_near_as_those_for_all(format: Format) {
    if !gpu::emulated() && gpu::device().capability() == (9, 0) {
        return every_size_of_a_whole_gpu(&gpu::device(), format);
    }
    if let Some(device) = gpu::hopper(1) {
        // Kernels of two and three warpgroups; one multiprocessor does all blocks' work.
        let fewer = [1, 2, 20, 64, 65, 180, 250];
        gpu::each_order(|| {
            rows_have_the_same_bits(&device, format, (300, 162, 1280), &fewer);
            rows_have_the_same_bits(&device, format, (300, 100, 1280), &[130, 250]);
            rows_have_the_same_bits(&device, format, (17, 30, 256), &[]);
        });
    }
    twin_is_as_near(&gpu::device(), format, &[(20, 161, 128), (70, 161, 1280)]);
}

fn every_size_of_a_whole_gpu(device: &Device, format: Format) {
    let shapes = [
        (20, 162, 128),
        (130, 4312, 1280),
        (1000, 2048, 1280),
        (509, 2100, 1280),
        (509, 6100, 1280),
        (509, 8190, 1280),
        (1024, 4096, 1280),
    ];
    for (m, n, k) in shapes {
        rows_have_the_same_bits(device, format, (m, n, k), &[1, 17, 65, m / 2]);
    }
    twin_is_as_near(device, format, &shapes);
}

fn shape((m, n, k): (usize, usize, usize)) -> GemmShape {
    GemmShape {
        accumulate: true,
        activations: Activations::Bf16,
        ..GemmShape::new(m, n, k)
    }
}

/// A product's rows are near the exact ones, and fewer of them, which go to other kernels, have the same bits.
fn rows_have_the_same_bits(
    device: &Device,
    format: Format,
    of: (usize, usize, usize),
    fewer: &[usize],
) {
    let s = shape(of);
    if format.fitting(s.k) != format {
        return;
    }
    let (rows, numbers) = (numbers(s.m * s.k, 2), weights(format, s.n, s.k));
    let w = device.pack(&matrix(format, [s.n, s.k], &numbers)).unwrap();
    let of = |m| product(device, GemmShape { m, ..s }, &w, &rows, true);
    let got = of(s.m);
    // Some rows, the last among them.
    let some = || (0..s.m).rev().step_by(s.m.div_ceil(16));
    let want = exact_rows(s, format, &numbers.1, &rows, true, some());
    let of_some: Vec<f32> = some()
        .flat_map(|i| got[i * s.n..][..s.n].to_vec())
        .collect();
    assert!(near(&of_some, &want, format, s.k), "{format:?}, {s:?}");
    for &m in fewer.iter().filter(|&&m| m < s.m) {
        assert!(of(m) == got[..m * s.n], "{format:?}, {s:?}, {m} rows");
    }
}

/// The kernels for all GPUs are as near, and the same on those that have no others.
fn twin_is_as_near(device: &Device, format: Format, shapes: &[(usize, usize, usize)]) {
    let twin = gpu::device().portable();
    for &of in shapes {
        let s = shape(of);
        if format.fitting(s.k) != format {
            continue;
        }
        rows_have_the_same_bits(&twin, format, of, &[]);
        if device.capability() != (9, 0) {
            let (rows, numbers) = (numbers(s.m * s.k, 2), weights(format, s.n, s.k));
            let w = matrix(format, [s.n, s.k], &numbers);
            let of = |device: &Device| product(device, s, &device.pack(&w).unwrap(), &rows, true);
            assert!(of(device) == of(&twin), "{format:?}, {s:?}");
        }
    }
}

#[test]
fn kernels_of_one_gpu_for_halves_are_as_near_as_those_for_all() {
    kernels_of_one_gpu_are_as_near_as_those_for_all(Format::Bf16);
}

#[test]
fn kernels_of_one_gpu_for_bytes_are_as_near_as_those_for_all() {
    kernels_of_one_gpu_are_as_near_as_those_for_all(Format::Q8_0);
}

#[test]
fn kernels_of_one_gpu_for_nibbles_are_as_near_as_those_for_all() {
    kernels_of_one_gpu_are_as_near_as_those_for_all(Format::Q4_0);
}

#[test]
fn kernels_of_one_gpu_for_nibbles_in_groups_are_as_near_as_those_for_all() {
    kernels_of_one_gpu_are_as_near_as_those_for_all(Format::Q4G128);
}

#[test]
fn kernels_of_one_gpu_with_offsets_are_as_near_as_those_for_all() {
    kernels_of_one_gpu_are_as_near_as_those_for_all(Format::Q4K);
}

#[test]
fn kernels_of_one_gpu_keep_numbers_that_are_no_ordinary_ones() {
    let (n, k) = (6, 128);
    let w = weights(Format::Q8_0, n, k);
    let w = matrix(Format::Q8_0, [n, k], &w);
    let s = GemmShape {
        accumulate: false,
        ..shape((3, n, k))
    };
    let mut rows = numbers(3 * k, 2);
    (rows[3], rows[k + 40]) = (f32::NAN, f32::INFINITY);
    let Some(device) = gpu::hopper(1) else { return };
    let got = product(&*device, s, &device.pack(&w).unwrap(), &rows, false);
    assert!(got[..n].iter().all(|v| v.is_nan()));
    assert!(got[n..2 * n].iter().all(|v| !v.is_finite()));
    assert!(got[2 * n..].iter().all(|v| v.is_finite()));
}

/// The last row in each place of each kernel's tiles. So many multiprocessors have a block of rows each that the kernel is
/// the quickest one.
fn kernels_of_one_gpu_end_anywhere(format: Format) {
    let k = format.block().max(128);
    let rows = numbers(1024 * 1280, 2);
    // Outputs and rows of a block, outputs of the matrix, multiprocessors and rows before those that end anywhere.
    for ([outputs, of_block], n, processors, before) in [
        ([64, 16], 40, 2, 16),
        ([128, 64], 100, 2, 64),
        ([64, 136], 40, 1, 136),
        ([128, 128], 100, 3, 256),
        ([128, 192], 100, 2, 576),
        ([192, 136], 162, 4, 408),
        // Its first rows are quicker elsewhere.
        ([192, 176], 162, 5, 704),
        ([128, 256], 100, 2, 768),
    ] {
        let Some(device) = gpu::hopper(processors) else {
            return;
        };
        let numbers = weights(format, n, k);
        let w = device.pack(&matrix(format, [n, k], &numbers)).unwrap();
        let of = |m| product(&*device, shape((m, n, k)), &w, &rows, false);
        let all = of(1024);
        for tile in 0..of_block / 8 {
            for m in [1, 2].map(|more| before + 8 * tile + tile % 4 * 2 + more) {
                let got = of(m);
                assert!(got[..m * n] == all[..m * n], "{format:?}, {m} rows");
            }
        }
        // More stages than lie in shared memory at once, and sums that are not added to what was there.
        let (m, k) = (before + of_block, 1280);
        let (rows, numbers) = (&rows[..m * k], weights(format, n, k));
        let w = device.pack(&matrix(format, [n, k], &numbers)).unwrap();
        let s = GemmShape {
            accumulate: false,
            ..shape((m, n, k))
        };
        let few = product(&*device, GemmShape { m: 5, ..s }, &w, rows, true);
        let many = product(&*device, s, &w, rows, true);
        let kernel = format!("{format:?}, {outputs} outputs, {of_block} rows");
        assert!(many[..few.len()] == few, "{kernel}");
        let added = product(&*device, shape((m, n, k)), &w, rows, true);
        let there = super::numbers(m * n, 3);
        let sums = many.iter().zip(&there).map(|(sum, there)| there + sum);
        assert!(sums.eq(added.iter().copied()), "{kernel}");
        // The kernel that is meant: what lies in its shared memory are stages of so many rows and outputs, and barriers.
        if let Some([.., shared, _]) = gpu::counted(|| drop(of(m))) {
            // Two blocks of inputs: weights, and scales or what both share.
            let strip = match format {
                Format::Bf16 => 2 * 2048,
                Format::Q8_0 => 2 * (1024 + 64),
                Format::Q4K => 2 * (512 + 256),
                Format::Q4G128 => 2 * 512 + 64,
                _ => 2 * (512 + 64),
            };
            let stage = (128 * of_block + outputs / 32 * strip) as u64;
            let stages = (shared / stage).min(8);
            assert!(stages == (224 * 1024 / stage).min(8), "{kernel}: {shared}");
            assert!(shared - stages * stage <= 256, "{kernel}: {shared}");
        }
    }
}

#[test]
fn kernels_of_one_gpu_for_halves_end_anywhere() {
    kernels_of_one_gpu_end_anywhere(Format::Bf16);
}

#[test]
fn kernels_of_one_gpu_for_bytes_end_anywhere() {
    kernels_of_one_gpu_end_anywhere(Format::Q8_0);
}

#[test]
fn kernels_of_one_gpu_for_nibbles_end_anywhere() {
    kernels_of_one_gpu_end_anywhere(Format::Q4_0);
}

#[test]
fn kernels_of_one_gpu_for_nibbles_in_groups_end_anywhere() {
    kernels_of_one_gpu_end_anywhere(Format::Q4G128);
}

#[test]
fn kernels_of_one_gpu_with_offsets_end_anywhere() {
    kernels_of_one_gpu_end_anywhere(Format::Q4K);
}
