//! Products in every format and arithmetic, around the sizes of their tiles; callers that share a device.

use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::{Backend, Reference};
use maquette::quant::{Format, QuantMatrix};

use super::{bits, cpus, numbers, product, random};

#[test]
fn products_agree_around_the_tile_sizes() {
    for n in [1, 15, 16, 17, 63, 64, 65, 129] {
        for m in [0, 1, 5, 6, 7, 47, 48, 49] {
            agree!(|b| product(b, GemmShape::new(m, n, 64), Format::F32, true));
        }
    }
    for k in [1, 31, 255, 256, 257, 513] {
        agree!(|b| product(
            b,
            GemmShape {
                accumulate: true,
                ..GemmShape::new(50, 70, k)
            },
            Format::F32,
            false
        ));
    }
}

/// No rows, one, and as many as fill tiles but for one; odd outputs; k that are no multiples of anything, or less than a block
/// of activations, where elements stand alone, and odd numbers of blocks where they do not.
#[test]
fn products_agree_in_every_format_and_arithmetic() {
    for &format in Format::ALL {
        let ks = match format.block() {
            1 => &[1, 8, 31, 33, 257][..],
            block => &[block, 3 * block],
        };
        for activations in [Activations::F32, Activations::A8] {
            for (m, n) in [(0, 7), (1, 1), (1, 131), (63, 17), (64, 33), (65, 65)] {
                for &k in ks {
                    let s = GemmShape {
                        activations,
                        accumulate: n == 33,
                        ..GemmShape::new(m, n, k)
                    };
                    agree!(|b| product(b, s, format, m % 2 == 1));
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_at_any_number_of_rows() {
    let n = 70;
    for &format in Format::ALL {
        let k = format.block().max(32) * 3;
        let data = numbers(n * k, 1);
        let mut bytes = vec![0; format.bytes(n, k).unwrap()];
        format.quantise(&data, &mut bytes);
        let w = match format {
            Format::F32 => QuantMatrix::f32(n, k, &data),
            _ => QuantMatrix::from_bytes(format, n, k, &bytes),
        };
        let w = w.unwrap();
        for cpu in cpus() {
            let (w, x) = (cpu.pack(&w).unwrap(), random(cpu, 1000 * k, 2));
            for activations in [Activations::F32, Activations::A8] {
                let of = |m: usize| {
                    let mut y = cpu.zeros(m * n).unwrap();
                    let s = GemmShape {
                        activations,
                        ..GemmShape::new(m, n, k)
                    };
                    cpu.gemm(s, &x, &w, None, &mut y).unwrap();
                    bits(cpu, &y)
                };
                let all = of(1000);
                for m in [1, 2, 64, 65] {
                    assert!(of(m) == all[..m * n], "{m} rows, {activations:?}");
                }
            }
        }
    }
}

#[test]
fn several_callers_share_one_device() {
    let Some(cpu) = cpus().get(2) else { return };
    let s = GemmShape::new(97, 130, 64);
    let want = product(&Reference, s, Format::F32, true);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                (0..20).for_each(|_| assert!(product(cpu, s, Format::F32, true) == want))
            });
        }
    });
}
