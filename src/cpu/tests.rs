//! Every instruction set of this machine gives the bits of the reference.

use alloc::vec::Vec;

use super::Cpu;
use super::simd::Isa;
use crate::ops::conv::ConvShape;
use crate::ops::gemm::{Activations, GemmShape};
use crate::ops::norm::{Activation, GroupNormShape, NormShape};
use crate::ops::sample::{Draw, DrawShape};
use crate::ops::{Backend, Element, Reference};
use crate::quant::{Format, QuantMatrix};

mod attention;

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| crate::rng::philox([seed, 0], [u32::try_from(i).unwrap(), 0, 0, 0])[0];
    (0..len)
        .map(|i| crate::rng::open_unit(word(i)) * 4.0 - 2.0)
        .collect()
}

fn buffer<B: Backend, T: Element>(b: &B, data: &[T]) -> B::Buffer<T> {
    let mut buffer = b.zeros(data.len()).unwrap();
    b.write(&mut buffer, 0, data).unwrap();
    buffer
}

fn bits<B: Backend>(b: &B, buffer: &B::Buffer<f32>) -> Vec<u32> {
    let mut out = alloc::vec![0.0; b.len(buffer)];
    b.read(buffer, 0, &mut out).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

fn product<B: Backend>(b: &B, s: GemmShape, w: &QuantMatrix<'_>) -> Vec<u32> {
    let (x, bias) = (
        buffer(b, &numbers(s.m * s.k, 1)),
        buffer(b, &numbers(s.n, 2)),
    );
    let mut y = buffer(b, &numbers(s.m * s.n, 3));
    b.gemm(s, &x, &b.pack(w).unwrap(), Some(&bias), &mut y)
        .unwrap();
    bits(b, &y)
}

fn convolution<B: Backend>(b: &B, s: ConvShape, w: &QuantMatrix<'_>) -> Vec<u32> {
    let w = b.pack(w).unwrap();
    let x = buffer(b, &numbers(s.images * s.height * s.width * s.c_in, 2));
    let bias = buffer(b, &numbers(s.c_out, 3));
    let [rows, cols] = s.output();
    let mut y = buffer(b, &numbers(s.images * rows * cols * s.c_out, 4));
    b.conv2d(s, &x, &w, &bias, &mut y).unwrap();
    bits(b, &y)
}

fn rows<B: Backend>(b: &B, width: usize) -> Vec<u32> {
    let s = NormShape {
        rows: 3,
        width,
        eps: 1e-5,
    };
    let (weight, bias) = (buffer(b, &numbers(width, 1)), buffer(b, &numbers(width, 2)));
    let (mut x, mut y) = (
        buffer(b, &numbers(3 * width, 3)),
        b.zeros(3 * width).unwrap(),
    );
    b.layer_norm(s, &x, &weight, &bias, &mut y).unwrap();
    let mut all = bits(b, &y);
    b.rms_norm(s, &x, &weight, &mut y).unwrap();
    all.extend(bits(b, &y));
    for activation in [
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::Silu,
        Activation::Relu,
    ] {
        b.activate(activation, 3 * width, &mut x).unwrap();
        all.extend(bits(b, &x));
    }
    let g = GroupNormShape {
        images: 1,
        pixels: 3,
        channels: width,
        groups: 1,
        eps: 1e-5,
        swish: true,
    };
    b.group_norm(g, &x, &weight, &bias, &mut y).unwrap();
    all.extend(bits(b, &y));
    let (mut codes, mut p) = (b.zeros(3).unwrap(), b.zeros(3).unwrap());
    let keys = buffer(b, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    b.draw(
        DrawShape { rows: 3, width },
        &mut y,
        &Draw::Keyed(&keys),
        &mut codes,
        &mut p,
    )
    .unwrap();
    let mut drawn = [0; 3];
    b.read(&codes, 0, &mut drawn).unwrap();
    all.extend(drawn);
    all.extend(bits(b, &y));
    all
}

/// A matrix of each format that has rows of `k`, of numbers.
fn matrices(n: usize, k: usize, f: impl Fn(Format, &QuantMatrix<'_>)) {
    let data = numbers(n * k, 4);
    f(Format::F32, &QuantMatrix::f32(n, k, &data).unwrap());
    for format in Format::ALL.iter().copied().skip(1) {
        if format.fitting(k) != format {
            continue;
        }
        let mut bytes = alloc::vec![0; format.bytes(n, k).unwrap()];
        format.quantise(&data, &mut bytes);
        let w = QuantMatrix::from_bytes(format, n, k, &bytes).unwrap();
        f(format, &w);
    }
}

#[test]
fn every_instruction_set_gives_the_reference_product() {
    let agree = |format: Format, w: &QuantMatrix<'_>| {
        for m in [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 49, 63, 64, 65] {
            let (n, k) = (w.n(), w.k());
            if format != Format::F32 && n > 65 && m > 13 {
                continue;
            }
            for activations in [Activations::F32, Activations::A8] {
                let s = GemmShape {
                    accumulate: m % 2 == 0,
                    activations,
                    ..GemmShape::new(m, n, k)
                };
                let want = product(&Reference, s, w);
                for isa in Isa::all() {
                    let cpu = Cpu::with_instructions(2, isa.name()).unwrap();
                    assert_eq!(product(&cpu, s, w), want, "{isa:?} {format:?} {s:?}");
                }
            }
        }
    };
    for n in [1, 3, 15, 16, 17, 31, 33, 48, 63, 64, 65, 130] {
        matrices(n, 64, agree);
    }
    // An odd number of blocks, and more k than are summed at a time.
    for n in [1, 17, 65] {
        for k in [384, 768] {
            matrices(n, k, |format, w| {
                if format.block() == k / 3 {
                    agree(format, w);
                }
            });
        }
    }
}

/// The largest integers of both sides, and activations that are no normal numbers.
#[test]
fn the_ends_of_the_integers_give_the_reference_product() {
    for format in Format::ALL.iter().copied().filter(|f| f.block() > 1) {
        let k = 3 * format.block();
        let mut row = alloc::vec![1.0_f32; k];
        row.extend((0..k).map(|i| if i % 2 == 0 { -1e30 } else { 1e30 }));
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -0.0] {
            row.extend((0..k).map(|i| if i == 40 { odd } else { i as f32 }));
        }
        let m = row.len() / k;
        let mut bytes = alloc::vec![0; format.bytes(2, k).unwrap()];
        let ends = if format == Format::Q8_0 {
            [0x80, 0x7f]
        } else {
            [0x00, 0xff]
        };
        for (i, block) in bytes.chunks_exact_mut(format.block_bytes()).enumerate() {
            block.fill(ends[i / 3]);
            block[..2].copy_from_slice(&half::f16::from_f32(-0.5).to_le_bytes());
            if format == Format::Q4K {
                block[2..4].copy_from_slice(&half::f16::from_f32(2.0).to_le_bytes());
                // The largest scales and offsets, too.
                block[4..16].fill(0xff);
            }
        }
        let w = QuantMatrix::from_bytes(format, 2, k, &bytes).unwrap();
        for activations in [Activations::F32, Activations::A8] {
            let s = GemmShape {
                activations,
                ..GemmShape::new(m, 2, k)
            };
            let run = |cpu: &Cpu| {
                let (x, mut y) = (buffer(cpu, &row), cpu.zeros(2 * m).unwrap());
                cpu.gemm(s, &x, &cpu.pack(&w).unwrap(), None, &mut y)
                    .unwrap();
                bits(cpu, &y)
            };
            let mut want = alloc::vec![0.0; 2 * m];
            crate::ops::gemm::gemm(s, &row, &w, None, &mut want).unwrap();
            assert!(want[4..10].iter().all(|y| !y.is_finite()), "{want:?}");
            assert!(want[..4].iter().chain(&want[10..]).all(|y| y.is_finite()));
            for isa in Isa::all() {
                let got = run(&Cpu::with_instructions(2, isa.name()).unwrap());
                for (got, want) in got.into_iter().zip(&want) {
                    let got = f32::from_bits(got);
                    // Which of many NaN it is is nobody's promise.
                    assert!(
                        got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                        "{isa:?} {s:?}: {got} {want}"
                    );
                }
            }
        }
    }
}

/// Rows that come in portions, out of order, across panels.
#[test]
fn rows_in_portions_give_the_matrix_in_one() {
    let cpu = Cpu::with_threads(1).unwrap();
    let n = 150;
    for format in Format::ALL.iter().copied().skip(1) {
        let k = format.block().max(32) * 3;
        let (s, data) = (GemmShape::new(2, n, k), numbers(n * k, 5));
        let row = format.bytes(1, k).unwrap();
        let mut bytes = alloc::vec![0; n * row];
        format.quantise(&data, &mut bytes);
        let whole = QuantMatrix::from_bytes(format, n, k, &bytes).unwrap();
        let mut matrix = cpu.matrix(format, n, k).unwrap();
        for (from, to) in [(70, 149), (3, 70), (149, 150), (0, 3)] {
            let rows = &bytes[from * row..to * row];
            let rows = QuantMatrix::from_bytes(format, to - from, k, rows).unwrap();
            cpu.put(&mut matrix, from, &rows).unwrap();
        }
        let x = buffer(&cpu, &numbers(2 * k, 1));
        let bias = buffer(&cpu, &numbers(n, 2));
        let mut y = buffer(&cpu, &numbers(2 * n, 3));
        cpu.gemm(s, &x, &matrix, Some(&bias), &mut y).unwrap();
        assert_eq!(bits(&cpu, &y), product(&Reference, s, &whole), "{format:?}");
        assert!(cpu.put(&mut matrix, 1, &whole).is_err());
        assert!(cpu.put(&mut matrix, usize::MAX, &whole).is_err());
        let floats = QuantMatrix::f32(n, k, &data).unwrap();
        assert!(cpu.put(&mut matrix, 0, &floats).is_err());
    }
}

#[test]
fn every_instruction_set_gives_the_reference_convolution() {
    let agree = |s: ConvShape, w: &QuantMatrix<'_>| {
        let up = ConvShape {
            upsample: true,
            ..s
        };
        let down = ConvShape {
            stride: 2,
            pad_before: 0,
            accumulate: true,
            ..s
        };
        for s in [s, up, down] {
            let want = convolution(&Reference, s, w);
            for isa in Isa::all() {
                let cpu = Cpu::with_instructions(2, isa.name()).unwrap();
                assert_eq!(convolution(&cpu, s, w), want, "{isa:?} {s:?}");
            }
        }
    };
    for c_out in [1, 3, 16, 80] {
        let s = ConvShape::same(2, [5, 7], 33, c_out, 3);
        let data = numbers(c_out * s.k(), 4);
        agree(s, &QuantMatrix::f32(c_out, s.k(), &data).unwrap());
    }
    // The last one has rows that are whole blocks, and input channels that are not: it stays in floats.
    for (c_in, c_out, kernel) in [
        (32, 3, 3),
        (96, 80, 3),
        (64, 17, 1),
        (64, 19, 2),
        (16, 5, 2),
    ] {
        for activations in [Activations::F32, Activations::A8] {
            let s = ConvShape {
                activations,
                ..ConvShape::same(2, [7, 9], c_in, c_out, kernel)
            };
            matrices(c_out, s.k(), |_, w| agree(s, w));
        }
    }
}

#[test]
fn every_instruction_set_gives_the_reference_rows() {
    for isa in Isa::all() {
        let cpu = Cpu::with_instructions(2, isa.name()).unwrap();
        for width in [1, 2, 15, 16, 17, 64, 65, 257] {
            assert_eq!(
                rows(&cpu, width),
                rows(&Reference, width),
                "{isa:?} {width}"
            );
        }
    }
}

mod odd_numbers;
