//! Denormal numbers, infinities and NaN on either side of a product.

use super::*;
use half::{bf16, f16};

/// What stands where a number or a scale should.
const ODD: [f32; 8] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    -0.0,
    // The smallest number of half precision, its largest denormal one, its largest one; the smallest of BF16.
    5.960_464_5e-8,
    -6.097_555e-5,
    65504.0,
    9.183_55e-41,
];

/// A matrix of `n` rows of two blocks, the scales of row i's second block `ODD[i]` (elements, where they stand alone).
fn odd_matrix(format: Format, k: usize) -> Vec<u8> {
    let n = ODD.len();
    let mut bytes = alloc::vec![0; format.bytes(n, k).unwrap()];
    format.quantise(&numbers(n * k, 6), &mut bytes);
    let row = bytes.len() / n;
    for (i, (row, odd)) in bytes.chunks_exact_mut(row).zip(ODD).enumerate() {
        match format {
            Format::F32 => row[4 * 40..][..4].copy_from_slice(&odd.to_le_bytes()),
            Format::Bf16 => {
                row[2 * 40..][..2].copy_from_slice(&bf16::from_f32(odd).to_le_bytes());
            }
            _ => {
                let odd = f16::from_f32(odd).to_le_bytes();
                let block = &mut row[format.block_bytes()..];
                block[..2].copy_from_slice(&odd);
                // Of the two scales of Q4_K: one, or the other, or both.
                if format == Format::Q4K && i % 2 == 0 {
                    block[2..4].copy_from_slice(&odd);
                }
            }
        }
    }
    bytes
}

/// Rows of activations: ordinary ones, and one odd number or many in a block.
fn odd_rows(k: usize) -> Vec<f32> {
    let mut rows = numbers(k, 7);
    for odd in ODD.into_iter().chain([f32::MAX, 1e-38, -1e-45]) {
        for many in [false, true] {
            let ordinary = numbers(k, 8);
            rows.extend(ordinary.into_iter().enumerate().map(|(i, v)| {
                let here = if many { i / 32 == 1 } else { i == 33 };
                if here { odd } else { v }
            }));
        }
    }
    rows
}

#[test]
fn every_instruction_set_takes_numbers_that_are_not_ordinary_alike() {
    for &format in Format::ALL {
        let (n, k) = (ODD.len(), 2 * format.block().max(32));
        let (bytes, rows) = (odd_matrix(format, k), odd_rows(k));
        let floats: Vec<f32> = match format {
            Format::F32 => bytemuck::pod_collect_to_vec(&bytes),
            _ => Vec::new(),
        };
        let w = match format {
            Format::F32 => QuantMatrix::f32(n, k, &floats),
            _ => QuantMatrix::from_bytes(format, n, k, &bytes),
        }
        .unwrap();
        let m = rows.len() / k;
        for activations in [Activations::F32, Activations::A8] {
            let s = GemmShape {
                activations,
                ..GemmShape::new(m, n, k)
            };
            let mut want = alloc::vec![0.0; n * m];
            crate::ops::gemm::gemm(s, &rows, &w, None, &mut want).unwrap();
            // The ordinary row meets NaN and two infinities, then finite scales alone.
            assert!(want[..3].iter().all(|y| !y.is_finite()), "{format:?} {s:?}");
            assert!(want[3..n].iter().all(|y| y.is_finite()), "{format:?} {s:?}");
            // A row with NaN is nothing but NaN.
            assert!(
                want[n..2 * n].iter().all(|y| y.is_nan()),
                "{format:?} {s:?}"
            );
            for isa in Isa::all() {
                let cpu = Cpu::with_instructions(2, isa.name()).unwrap();
                let (x, mut y) = (buffer(&cpu, &rows), cpu.zeros(n * m).unwrap());
                cpu.gemm(s, &x, &cpu.pack(&w).unwrap(), None, &mut y)
                    .unwrap();
                for (i, (got, want)) in bits(&cpu, &y).into_iter().zip(&want).enumerate() {
                    let got = f32::from_bits(got);
                    // Which of many NaN it is is nobody's promise.
                    assert!(
                        got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                        "{isa:?} {format:?} {s:?}, {i}: {got} {want}"
                    );
                }
            }
        }
    }
}
