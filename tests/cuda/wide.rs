//! Products with rows of BF16: near the reference, whose order tensor cores do not have, and the same at any number of rows.

use half::bf16;
use maquette::cpu::Cpu;
use maquette::cuda::Device;
use maquette::ops::Backend;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::norm::{Activation, GateShape};
use maquette::quant::{Format, QuantMatrix};

use super::{gpu, numbers};

/// A random matrix in a format, as its bytes and the floats that they stand for.
pub(super) fn weights(format: Format, n: usize, k: usize) -> (Vec<u8>, Vec<f32>) {
    let mut data = numbers(n * k, 1);
    let mut bytes = vec![0; format.bytes(n, k).unwrap()];
    format.quantise(&data, &mut bytes);
    format.dequantise(&bytes, &mut data);
    (bytes, data)
}

pub(super) fn matrix<'a>(
    format: Format,
    [n, k]: [usize; 2],
    (bytes, data): &'a (Vec<u8>, Vec<f32>),
) -> QuantMatrix<'a> {
    match format {
        Format::F32 => QuantMatrix::f32(n, k, data),
        _ => QuantMatrix::from_bytes(format, n, k, bytes),
    }
    .unwrap()
}

pub(super) fn product<B: Backend>(
    b: &B,
    s: GemmShape,
    w: &B::Matrix,
    rows: &[f32],
    bias: bool,
) -> Vec<f32> {
    let (mut x, mut y) = (b.zeros(s.m * s.k).unwrap(), b.zeros(s.m * s.n).unwrap());
    b.write(&mut x, 0, &rows[..s.m * s.k]).unwrap();
    b.write(&mut y, 0, &numbers(s.m * s.n, 3)).unwrap();
    let bias = bias.then(|| {
        let mut values = b.zeros(s.n).unwrap();
        b.write(&mut values, 0, &numbers(s.n, 4)).unwrap();
        values
    });
    b.gemm(s, &x, w, bias.as_ref(), &mut y).unwrap();
    let mut out = vec![0.0; s.m * s.n];
    b.read(&y, 0, &mut out).unwrap();
    out
}

/// A product in F64 over the rounded rows and weights, and the sum of its terms' sizes.
pub(super) fn exact(
    s: GemmShape,
    format: Format,
    weights: &[f32],
    rows: &[f32],
    bias: bool,
) -> Vec<(f64, f64)> {
    exact_rows(s, format, weights, rows, bias, 0..s.m)
}

/// The same of some rows.
pub(super) fn exact_rows(
    s: GemmShape,
    format: Format,
    weights: &[f32],
    rows: &[f32],
    bias: bool,
    which: impl Iterator<Item = usize>,
) -> Vec<(f64, f64)> {
    let (before, biases) = (numbers(s.m * s.n, 3), numbers(s.n, 4));
    let round = |x: &f32| match format {
        Format::F32 => f64::from(*x),
        _ => bf16::from_f32(*x).to_f64(),
    };
    let weights: Vec<f64> = weights.iter().map(round).collect();
    let mut all = Vec::new();
    for i in which {
        let row: Vec<f64> = rows[i * s.k..][..s.k].iter().map(round).collect();
        for (j, weights) in weights.chunks_exact(s.k).enumerate() {
            let (mut sum, mut size) = (0.0_f64, 0.0_f64);
            for (x, w) in row.iter().zip(weights) {
                let term = x * w;
                (sum, size) = (sum + term, size + term.abs());
            }
            for (more, there) in [(biases[j], bias), (before[i * s.n + j], s.accumulate)] {
                if there {
                    (sum, size) = (sum + f64::from(more), size + f64::from(more.abs()));
                }
            }
            all.push((sum, size));
        }
    }
    all
}

/// Whether sums are as near as their roundings let them be: one for every 16 inputs and some at the end (for F32 one for
/// every input), each of at most 2^-22 of the terms' sizes, since tensor cores cut what falls below 24 bits; sums grow, so
/// half of the whole on average.
pub(super) fn near(got: &[f32], want: &[(f64, f64)], format: Format, k: usize) -> bool {
    let each = if format == Format::F32 { 1 } else { 16 };
    within(got, want, (k / each + 4) as f64 * f64::exp2(-23.0))
}

fn within(got: &[f32], want: &[(f64, f64)], share: f64) -> bool {
    let close = |(g, (sum, size)): (&f32, &(f64, f64))| (f64::from(*g) - sum).abs() <= size * share;
    got.len() == want.len() && got.iter().zip(want).all(close)
}

#[test]
fn small_wide_products_are_near_the_reference_in_every_format() {
    for &format in Format::ALL {
        // Around a tile of rows, a strip, a block of threads, an odd and an even number of blocks of inputs.
        for (m, n, k) in [
            (1, 1, 32),
            (2, 33, 256),
            (8, 65, 96),
            (9, 129, 64),
            (16, 31, 288),
            (17, 128, 768),
            (63, 52, 160),
            (64, 33, 256),
            (65, 161, 512),
            (130, 44, 33),
        ] {
            if format.fitting(k) != format {
                continue;
            }
            for (bias, accumulate) in [(false, false), (true, true)] {
                let s = GemmShape {
                    accumulate,
                    activations: Activations::Bf16,
                    ..GemmShape::new(m, n, k)
                };
                let (rows, numbers) = (numbers(m * k, 2), weights(format, n, k));
                let w = matrix(format, [n, k], &numbers);
                let want = exact(s, format, &numbers.1, &rows, bias);
                let cpu = Cpu::new();
                let got = product(&cpu, s, &cpu.pack(&w).unwrap(), &rows, bias);
                // It may leave weights as they are: a rounding of 2^-9 each.
                assert!(within(&got, &want, f64::exp2(-8.0)), "{format:?}, {s:?}");
                gpu::in_both_orders(|device| {
                    let got = product(device, s, &device.pack(&w).unwrap(), &rows, bias);
                    assert!(
                        near(&got, &want, format, k),
                        "{format:?}, {s:?}, a bias: {bias}"
                    );
                });
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_tiles_of_every_size() {
    let device = gpu::device();
    let of = |format, s: GemmShape, w: &(Vec<u8>, Vec<f32>), rows: &[f32]| {
        let w = device.pack(&matrix(format, [s.n, s.k], w)).unwrap();
        product(&device, s, &w, rows, false)
    };
    for (format, k) in [
        (Format::F32, 33),
        (Format::Bf16, 72),
        (Format::Q8_0, 96),
        (Format::Q4_0, 96),
        (Format::Q4K, 256),
        (Format::Q4G128, 128),
    ] {
        let shape = |m, n| GemmShape {
            activations: Activations::Bf16,
            ..GemmShape::new(m, n, k)
        };
        let (n, rows) = (40, numbers(512 * k, 2));
        let w = weights(format, n, k);
        let all = of(format, shape(512, n), &w, &rows);
        for m in [1, 2, 20, 32, 33, 64, 65, 130] {
            let some = of(format, shape(m, n), &w, &rows);
            assert!(some == all[..m * n], "{m} rows, {format:?}");
        }
    }
}

/// The larger tiles are for products of many blocks of threads: their rows have the bits of the small ones.
fn large_products_have_the_bits_of_small_ones(format: Format, k: usize, accumulate: bool) {
    // Of a GPU with one multiprocessor few blocks are many.
    let device = gpu::device_of(1);
    let broad = if gpu::emulated() { 1 } else { 33 };
    // Ends inside a tile and a strip.
    let (m, n, part) = (509, broad * 128 + 88, 64);
    let (rows, w) = (numbers(m * k, 2), weights(format, n, k));
    let w = device.pack(&matrix(format, [n, k], &w)).unwrap();
    let of = |from: usize, m, accumulate| {
        let s = GemmShape {
            accumulate,
            activations: Activations::Bf16,
            ..GemmShape::new(m, n, k)
        };
        product(&device, s, &w, &rows[from * k..], true)
    };
    let mut want = Vec::new();
    for from in (0..m).step_by(part) {
        want.extend(of(from, part.min(m - from), false));
    }
    if accumulate {
        let before = numbers(m * n, 3);
        want.iter_mut().zip(before).for_each(|(sum, y)| *sum += y);
    }
    assert!(of(0, m, accumulate) == want, "{format:?}, {k} inputs");
}

// One block of inputs, an odd number of them, some stages. A test a format: they are the longest of this program.

#[test]
fn large_products_of_halves_have_the_bits_of_small_ones() {
    large_products_have_the_bits_of_small_ones(Format::Bf16, 230, true);
    large_products_have_the_bits_of_small_ones(Format::Bf16, 20, false);
}

#[test]
fn large_products_of_bytes_have_the_bits_of_small_ones() {
    large_products_have_the_bits_of_small_ones(Format::Q8_0, 224, true);
    large_products_have_the_bits_of_small_ones(Format::Q8_0, 32, false);
}

#[test]
fn large_products_of_nibbles_have_the_bits_of_small_ones() {
    large_products_have_the_bits_of_small_ones(Format::Q4_0, 224, true);
    large_products_have_the_bits_of_small_ones(Format::Q4_0, 32, false);
}

#[test]
fn large_products_of_nibbles_in_groups_have_the_bits_of_small_ones() {
    large_products_have_the_bits_of_small_ones(Format::Q4G128, 256, true);
    large_products_have_the_bits_of_small_ones(Format::Q4G128, 128, false);
}

#[test]
fn large_products_with_offsets_have_the_bits_of_small_ones() {
    large_products_have_the_bits_of_small_ones(Format::Q4K, 256, true);
    large_products_have_the_bits_of_small_ones(Format::Q4K, 256, false);
}

/// The last row and the last output in each place of a lane, of few and of many rows.
#[test]
fn wide_products_end_anywhere() {
    for &format in Format::ALL {
        let k = format.block().max(32);
        let rows = [7, 8, 15, 16, 127];
        for (m, n) in rows
            .into_iter()
            .flat_map(|m| (3..64).step_by(8).map(move |n| (m, n)))
        {
            for accumulate in [false, true] {
                let s = GemmShape {
                    accumulate,
                    activations: Activations::Bf16,
                    ..GemmShape::new(m, n, k)
                };
                let (rows, numbers) = (numbers(m * k, 2), weights(format, n, k));
                let w = matrix(format, [n, k], &numbers);
                let want = exact(s, format, &numbers.1, &rows, false);
                let check = |device: &Device| {
                    let got = product(device, s, &device.pack(&w).unwrap(), &rows, false);
                    assert!(near(&got, &want, format, k), "{format:?}, {s:?}");
                };
                // Many rows fill a small GPU with blocks that take many at once.
                match m {
                    ..=16 => gpu::in_both_orders(check),
                    _ => gpu::in_both_orders_and_full(check),
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_no_ordinary_ones_stay_what_they_are() {
    let device = gpu::device();
    let (n, k) = (5, 64);
    let w = weights(Format::Q8_0, n, k);
    let w = device.pack(&matrix(Format::Q8_0, [n, k], &w)).unwrap();
    let s = GemmShape {
        activations: Activations::Bf16,
        ..GemmShape::new(3, n, k)
    };
    let mut rows = numbers(3 * k, 2);
    (rows[3], rows[k + 40]) = (f32::NAN, f32::INFINITY);
    let got = product(&device, s, &w, &rows, false);
    assert!(got[..n].iter().all(|v| v.is_nan()));
    assert!(got[n..2 * n].iter().all(|v| !v.is_finite()));
    assert!(got[2 * n..].iter().all(|v| v.is_finite()));
}

/// Rows that go through an activation or a gate on their way have the bits of those that went through it before.
#[test]
fn activated_and_gated_rows_have_the_bits_of_two_operations() {
    let activations = [
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::Silu,
        Activation::Relu,
    ];
    for (format, m, k) in [
        (Format::Q8_0, 9, 96),
        (Format::Q4_0, 60, 256),
        (Format::Bf16, 3, 72),
        (Format::F32, 2, 33),
    ] {
        let (n, weights, mut both) = (34, weights(format, 34, k), numbers(m * 2 * k, 5));
        // Both parts of an error function, and exponents of either sign.
        both.iter_mut().step_by(2).for_each(|v| *v *= 4.0);
        let w = matrix(format, [n, k], &weights);
        let s = GemmShape {
            accumulate: true,
            activations: Activations::Bf16,
            ..GemmShape::new(m, n, k)
        };
        let agree = |device: &Device| {
            let w = device.pack(&w).unwrap();
            let filled = |values: &[f32]| {
                let mut buffer = device.zeros(values.len()).unwrap();
                device.write(&mut buffer, 0, values).unwrap();
                buffer
            };
            let read = |y: &_| {
                let mut out = vec![0.0; m * n];
                device.read(y, 0, &mut out).unwrap();
                out
            };
            let (before, bias) = (numbers(m * n, 3), filled(&numbers(n, 4)));
            for activation in activations {
                let (mut x, mut want) = (filled(&both), filled(&before));
                device.activate(activation, m * k, &mut x).unwrap();
                device.gemm(s, &x, &w, Some(&bias), &mut want).unwrap();
                let (mut x, mut got) = (filled(&both), filled(&before));
                device
                    .activated_gemm(activation, s, &mut x, &w, Some(&bias), &mut got)
                    .unwrap();
                assert!(read(&got) == read(&want), "{format:?}, {activation:?}");

                let gate = GateShape {
                    rows: m,
                    width: k,
                    activation,
                };
                let (x, mut room, mut want) = (filled(&both), filled(&both), filled(&before));
                device.gate(gate, &x, &mut room).unwrap();
                device.gemm(s, &room, &w, Some(&bias), &mut want).unwrap();
                let mut got = filled(&before);
                device
                    .gated_gemm(activation, s, (&x, &mut room), &w, Some(&bias), &mut got)
                    .unwrap();
                assert!(
                    read(&got) == read(&want),
                    "{format:?}, gated {activation:?}"
                );
            }
            // Rows that are not there.
            let (mut short, mut y) = (filled(&both[1..]), filled(&before));
            let room = &mut filled(&both[..m * k]);
            let gated = device.gated_gemm(activations[2], s, (&short, room), &w, None, &mut y);
            assert!(gated.is_err());
            let s = GemmShape { m: 2 * m, ..s };
            assert!(
                device
                    .activated_gemm(activations[0], s, &mut short, &w, None, &mut y)
                    .is_err()
            );
        };
        gpu::in_both_orders(agree);
        if let Some(device) = gpu::hopper(1) {
            gpu::each_order(|| agree(&device));
        }
    }
}
