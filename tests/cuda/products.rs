//! Products: the bits of the reference in every format, at any number of rows.

use maquette::cuda::Device;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::{Backend, Reference};
use maquette::quant::{Format, QuantMatrix};

use super::{gpu, numbers};

/// A matrix of random numbers in a format, and the rows of a product with it.
fn product<B: Backend>(b: &B, s: GemmShape, format: Format, rows: &[f32]) -> Vec<u32> {
    biased_product(b, s, format, rows, false)
}

/// The same; what is added to and a bias, where they are wanted, are random, too.
fn biased_product<B: Backend>(
    b: &B,
    s: GemmShape,
    format: Format,
    rows: &[f32],
    bias: bool,
) -> Vec<u32> {
    let data = numbers(s.n * s.k, 1);
    let mut bytes = vec![0; format.bytes(s.n, s.k).unwrap()];
    format.quantise(&data, &mut bytes);
    let w = match format {
        Format::F32 => QuantMatrix::f32(s.n, s.k, &data),
        _ => QuantMatrix::from_bytes(format, s.n, s.k, &bytes),
    };
    let out = multiply(b, s, &w.unwrap(), rows, bias);
    out.into_iter().map(f32::to_bits).collect()
}

/// A product; what is added to and a bias, where they are wanted, are random.
fn multiply<B: Backend>(
    b: &B,
    s: GemmShape,
    w: &QuantMatrix<'_>,
    rows: &[f32],
    bias: bool,
) -> Vec<f32> {
    let w = b.pack(w).unwrap();
    let (mut x, mut y) = (b.zeros(s.m * s.k).unwrap(), b.zeros(s.m * s.n).unwrap());
    b.write(&mut x, 0, &rows[..s.m * s.k]).unwrap();
    b.write(&mut y, 0, &numbers(s.m * s.n, 3)).unwrap();
    let bias = bias.then(|| {
        let mut values = b.zeros(s.n).unwrap();
        b.write(&mut values, 0, &numbers(s.n, 4)).unwrap();
        values
    });
    b.gemm(s, &x, &w, bias.as_ref(), &mut y).unwrap();
    let mut out = vec![0.0_f32; s.m * s.n];
    b.read(&y, 0, &mut out).unwrap();
    out
}

#[test]
fn small_products_have_the_bits_of_the_reference_in_every_format() {
    for &format in Format::ALL {
        for activations in [Activations::F32, Activations::A8] {
            // Around a strip of outputs, a tile of rows, a sum's and a turn's length.
            for (m, n, k) in [
                (1, 1, 32),
                (1, 33, 256),
                (2, 31, 288),
                (5, 65, 1056),
                (4, 32, 2080),
                (3, 33, 2304),
                (8, 33, 1056),
                (9, 65, 1120),
                (20, 40, 1536),
                (41, 97, 288),
                (64, 33, 512),
                (65, 65, 320),
                (73, 31, 1280),
                // Ends inside each quarter of a strip, and behind an even row of a tile.
                (1, 44, 1376),
                (1, 52, 2304),
                (10, 52, 1024),
                (66, 44, 768),
                (70, 52, 256),
            ] {
                // Widths that are no whole blocks belong to other formats.
                if format.fitting(k) != format {
                    continue;
                }
                // What follows the sum is compiled once for each of these.
                let kinds = [(false, false), (true, true), (true, false), (false, true)];
                let kinds = match activations {
                    Activations::A8 => &kinds[..],
                    _ => &kinds[..1],
                };
                for &(bias, accumulate) in kinds {
                    let s = GemmShape {
                        accumulate,
                        activations,
                        ..GemmShape::new(m, n, k)
                    };
                    let rows = numbers(m * k, 2);
                    let want = biased_product(&Reference, s, format, &rows, bias);
                    gpu::in_both_orders(|device| {
                        let got = biased_product(device, s, format, &rows, bias);
                        assert!(got == want, "{format:?}, {s:?}, a bias: {bias}");
                    });
                }
            }
        }
    }
}

#[test]
fn products_with_several_strips_a_block_have_the_bits_of_the_reference() {
    for format in [Format::Q8_0, Format::Q4_0] {
        for (m, n) in [(9, 8200), (20, 16_390), (65, 16_390)] {
            let s = GemmShape {
                activations: Activations::A8,
                ..GemmShape::new(m, n, 32)
            };
            let rows = numbers(m * 32, 2);
            let want = product(&Reference, s, format, &rows);
            gpu::in_both_orders(|device| {
                let got = product(device, s, format, &rows);
                assert!(got == want, "{format:?}, {s:?}");
            });
        }
    }
}

#[test]
fn a_row_has_the_same_bits_at_any_number_of_rows() {
    let device = gpu::device();
    let n = 40;
    for (format, activations, k) in [
        (Format::F32, Activations::F32, 261),
        (Format::Bf16, Activations::F32, 261),
        (Format::Q8_0, Activations::F32, 288),
        (Format::Q8_0, Activations::A8, 288),
        (Format::Q4_0, Activations::F32, 288),
        (Format::Q4_0, Activations::A8, 288),
        (Format::Q4K, Activations::F32, 256),
        (Format::Q4K, Activations::A8, 768),
        (Format::Q4G128, Activations::F32, 384),
        (Format::Q4G128, Activations::A8, 1152),
    ] {
        let rows = numbers(1000 * k, 2);
        let of = |m| {
            let s = GemmShape {
                activations,
                ..GemmShape::new(m, n, k)
            };
            product(&device, s, format, &rows)
        };
        let all = of(1000);
        for m in [1, 2, 3, 8, 9, 20, 64, 65] {
            assert!(
                of(m) == all[..m * n],
                "{m} rows, {format:?}, {activations:?}"
            );
        }
    }
}

/// A matrix of a format some of whose scales are no ordinary numbers: infinite ones, and one that is none.
fn odd_scales(format: Format, n: usize, k: usize) -> Vec<u8> {
    let data = numbers(n * k, 1);
    let mut bytes = vec![0; format.bytes(n, k).unwrap()];
    format.quantise(&data, &mut bytes);
    let row = format.bytes(1, k).unwrap();
    let last = row - format.bytes(1, format.block()).unwrap();
    for (j, at, scale) in [
        (3, 0, [0, 0x7c]),
        (17, last, [0, 0xfc]),
        (n - 1, 0, [0, 0x7c]),
        (n - 2, last, [1, 0x7c]),
    ] {
        bytes[j * row + at..][..2].copy_from_slice(&scale);
    }
    // Infinite twice, with both signs.
    bytes[17 * row..][..2].copy_from_slice(&[0, 0x7c]);
    bytes
}

/// The bits of a product with it.
fn odd_product<B: Backend>(
    b: &B,
    s: GemmShape,
    format: Format,
    bytes: &[u8],
    rows: &[f32],
    bias: bool,
) -> Vec<u32> {
    let w = QuantMatrix::from_bytes(format, s.n, s.k, bytes).unwrap();
    let out = multiply(b, s, &w, rows, bias);
    out.into_iter().map(bits).collect()
}

/// A number's bits; those of what is no number are the same.
fn bits(v: f32) -> u32 {
    if v.is_nan() { u32::MAX } else { v.to_bits() }
}

#[test]
fn infinite_scales_give_what_the_reference_gives() {
    let (n, k) = (40, 512);
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4K, Format::Q4G128] {
        let bytes = odd_scales(format, n, k);
        let mut rows = numbers(64 * k, 2);
        // A block of zeros, one too small for a scale, and a row without numbers.
        rows[k..k + 32].fill(0.0);
        rows[3 * k - 32..3 * k].fill(1e-38);
        rows[8 * k + 5] = f32::NAN;
        for m in [1, 2, 3, 7, 9, 20, 41, 64] {
            let s = GemmShape {
                activations: Activations::A8,
                ..GemmShape::new(m, n, k)
            };
            let want = odd_product(&Reference, s, format, &bytes, &rows, false);
            // Several blocks of the other formats share a scale: their infinities meet others.
            let whole = matches!(format, Format::Q8_0 | Format::Q4_0);
            let infinite = want.contains(&f32::INFINITY.to_bits());
            assert!(infinite || !whole, "{format:?}");
            gpu::in_both_orders(|device| {
                let got = odd_product(device, s, format, &bytes, &rows, false);
                assert!(got == want, "{format:?}, {m} rows");
            });
        }
    }
}

#[test]
fn large_products_have_the_bits_of_small_ones() {
    let device = gpu::device();
    let (n, few) = (1750, 20);
    for (format, k) in [
        (Format::Q8_0, 288),
        (Format::Q4_0, 288),
        (Format::Q4K, 256),
        (Format::Q4G128, 384),
    ] {
        let bytes = odd_scales(format, n, k);
        let rows = numbers(600 * k, 2);
        let of = |m| {
            let s = GemmShape {
                activations: Activations::A8,
                ..GemmShape::new(m, n, k)
            };
            odd_product(&device, s, format, &bytes, &rows, false)
        };
        let all = of(597);
        // The first of them, and the last.
        assert!(of(few) == all[..few * n], "{format:?}");
        let last = odd_product(
            &device,
            GemmShape {
                activations: Activations::A8,
                ..GemmShape::new(few, n, k)
            },
            format,
            &bytes,
            &rows[(597 - few) * k..],
            false,
        );
        assert!(last == all[(597 - few) * n..], "{format:?}");
    }
}

/// Products with a matrix some of whose scales, and rows some of whose numbers, are no ordinary ones: each so many rows, with a
/// bias or not, added to what is there or not.
fn odd_products_have_the_bits_of_the_reference(
    device: &Device,
    format: Format,
    [n, k]: [usize; 2],
    cases: impl Iterator<Item = (usize, (bool, bool))> + Clone,
) {
    let most = cases.clone().map(|(m, _)| m).max().unwrap();
    let (before, biases) = (numbers(most * n, 3), numbers(n, 4));
    let bytes = odd_scales(format, n, k);
    let mut rows = numbers(most * k, 2);
    rows[k..k + 32].fill(0.0);
    // Too small for a scale, where weights have an infinite one.
    rows[4 * k..4 * k + 32].fill(1e-36);
    rows[8 * k + 5] = f32::NAN;
    let shape = |m, accumulate| GemmShape {
        activations: Activations::A8,
        accumulate,
        ..GemmShape::new(m, n, k)
    };
    let w = QuantMatrix::from_bytes(format, n, k, &bytes).unwrap();
    let sums = multiply(&Reference, shape(most, false), &w, &rows, false);
    for (m, (bias, accumulate)) in cases {
        let s = shape(m, accumulate);
        let want = (0..m * n).map(|at| {
            let sum = sums[at] + if bias { biases[at % n] } else { 0.0 };
            bits(if accumulate { before[at] + sum } else { sum })
        });
        let got = odd_product(device, s, format, &bytes, &rows, bias);
        assert!(
            got.into_iter().eq(want),
            "{format:?}, {s:?}, a bias: {bias}"
        );
    }
}

/// What follows the sum is compiled once for each of these: a bias, and adding to what is there.
const KINDS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// Each of some numbers of rows with each of [`KINDS`].
fn each(rows: &[usize]) -> impl Iterator<Item = (usize, (bool, bool))> + Clone {
    rows.iter()
        .flat_map(|&m| KINDS.iter().map(move |&kind| (m, kind)))
}

/// A matrix with more strips than a large GPU has multiprocessors: a block takes two of them. More blocks of inputs than its
/// ring holds, and one more.
fn products_with_broad_matrices_have_the_bits_of_the_reference(format: Format, k: usize) {
    let (n, device) = (4290, gpu::device());
    // Of 3, 5 and 8 tiles each the fewest rows, all, and some between.
    let all = [[16, 17, 22, 24], [32, 34, 37, 40], [48, 57, 63, 64]];
    let cases = all.into_iter().flat_map(|rows| rows.into_iter().zip(KINDS));
    odd_products_have_the_bits_of_the_reference(&device, format, [n, k], cases);
    // Two blocks along the rows, the second with fewer.
    let few = [n, format.block()];
    odd_products_have_the_bits_of_the_reference(&device, format, few, each(&[24, 39, 71]));
}

/// A GPU with one multiprocessor has the kernel for many rows from 65 on.
#[test]
fn large_products_end_anywhere() {
    let device = gpu::device_of(1);
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4K, Format::Q4G128] {
        let k = format.block() * 5;
        gpu::each_order(|| {
            let cases = [66, 93, 113, 128].into_iter().zip(KINDS);
            odd_products_have_the_bits_of_the_reference(&device, format, [131, k], cases);
            odd_products_have_the_bits_of_the_reference(&device, format, [102, k], each(&[93]));
        });
    }
}

#[test]
fn broad_matrices_of_bytes_have_the_bits_of_the_reference() {
    products_with_broad_matrices_have_the_bits_of_the_reference(Format::Q8_0, 544);
}

#[test]
fn broad_matrices_of_nibbles_have_the_bits_of_the_reference() {
    products_with_broad_matrices_have_the_bits_of_the_reference(Format::Q4_0, 544);
}

#[test]
fn broad_matrices_of_nibbles_in_groups_have_the_bits_of_the_reference() {
    products_with_broad_matrices_have_the_bits_of_the_reference(Format::Q4G128, 640);
}

#[test]
fn broad_matrices_with_offsets_have_the_bits_of_the_reference() {
    products_with_broad_matrices_have_the_bits_of_the_reference(Format::Q4K, 768);
}

#[test]
fn rows_may_be_put_in_any_order_and_portion() {
    let device = gpu::device();
    for &format in Format::ALL {
        let (n, k) = (70, format.block().max(64));
        let data = numbers(n * k, 1);
        let mut bytes = vec![0; format.bytes(n, k).unwrap()];
        format.quantise(&data, &mut bytes);
        let row = format.bytes(1, k).unwrap();
        let part = |from: usize, to: usize| match format {
            Format::F32 => QuantMatrix::f32(to - from, k, &data[from * k..to * k]),
            _ => QuantMatrix::from_bytes(format, to - from, k, &bytes[from * row..to * row]),
        };
        let mut matrix = device.matrix(format, n, k).unwrap();
        for (from, to) in [(33, 70), (0, 1), (1, 33)] {
            device
                .put(&mut matrix, from, &part(from, to).unwrap())
                .unwrap();
        }
        assert!(device.put(&mut matrix, 1, &part(0, n).unwrap()).is_err());
        let s = GemmShape::new(3, n, k);
        let rows = numbers(3 * k, 2);
        let (mut x, mut y) = (device.zeros(3 * k).unwrap(), device.zeros(3 * n).unwrap());
        device.write(&mut x, 0, &rows).unwrap();
        device.gemm(s, &x, &matrix, None, &mut y).unwrap();
        let mut out = vec![0.0_f32; 3 * n];
        device.read(&y, 0, &mut out).unwrap();
        let out: Vec<u32> = out.into_iter().map(f32::to_bits).collect();
        assert!(out == product(&Reference, s, format, &rows), "{format:?}");
    }
}
