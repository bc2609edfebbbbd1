//! Borders that the other cases do not meet: remainders of every unrolled loop, extreme numbers. Faults planted in the kernels
//! (`tests/emulator/examples/mutants.rs`) showed what was missing, here and beside this file.

use maquette::ops::Backend;
use maquette::ops::attention::{AppendShape, MoveShape, RotaryShape};
use maquette::ops::conv::{PatchShape, Rounding};
use maquette::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use maquette::ops::vq::GatherShape;

use super::{bits, buffer, numbers, random, words};

const ACTIVATIONS: [Activation; 4] = [
    Activation::GeluTanh,
    Activation::GeluErf,
    Activation::Silu,
    Activation::Relu,
];

/// Numbers at which functions change their course, repeated to some length.
fn extreme(len: usize) -> Vec<f32> {
    let edges = [
        0.0, -0.0, 1e-30, -1e-30, 0.5, -0.5, 0.999, -0.999, 1.0, -1.0, 1.5, -2.5, 6.0, -6.0, 12.0,
        -12.0, 43.7, -43.7, 87.2, -87.2, 87.4, -87.4, 88.0, -88.0, 88.7, -88.7, 89.0, -89.0, 300.0,
        -300.0, 1e6, -1e6,
    ];
    edges.into_iter().cycle().take(len).collect()
}

#[test]
fn gates_and_activations_agree_everywhere() {
    for (rows, width) in [(1, 1), (3, 5), (7, 40), (2, 300)] {
        for activation in ACTIVATIONS {
            agree!(|b| {
                let s = GateShape {
                    rows,
                    width,
                    activation,
                };
                let mut all = Vec::new();
                for x in [numbers(2 * rows * width, 1), extreme(2 * rows * width)] {
                    let mut x = buffer(b, &x);
                    let mut y = b.zeros(rows * width).unwrap();
                    b.gate(s, &x, &mut y).unwrap();
                    all.extend(bits(b, &y));
                    b.activate(activation, 2 * rows * width, &mut x).unwrap();
                    all.extend(bits(b, &x));
                }
                all
            });
        }
    }
}

#[test]
fn norms_agree_at_every_remainder() {
    for width in (1..=36).chain([63, 65, 66, 67, 127, 130]) {
        agree!(|b| {
            let rows = 3;
            let s = NormShape {
                rows,
                width,
                eps: 1e-5,
            };
            let (weight, bias) = (random(b, width, 1), random(b, width, 2));
            let x = random(b, rows * width, 3);
            let mut y = b.zeros(rows * width).unwrap();
            b.layer_norm(s, &x, &weight, &bias, &mut y).unwrap();
            let mut all = bits(b, &y);
            b.rms_norm(s, &x, &weight, &mut y).unwrap();
            all.extend(bits(b, &y));
            let s = HeadNormShape {
                rows,
                heads: 2,
                head_dim: width,
                stride: 2 * width + 3,
                offset: 1,
                eps: 1e-5,
            };
            let mut x = random(b, rows * (2 * width + 3), 4);
            b.head_norm(s, &mut x, &weight, &bias).unwrap();
            all.extend(bits(b, &x));
            for swish in [false, true] {
                for (channels, groups) in [(1, 1), (3, 1), (8, 2), (10, 2)] {
                    let s = GroupNormShape {
                        images: 2,
                        pixels: width,
                        channels,
                        groups,
                        eps: 1e-5,
                        swish,
                    };
                    let (weight, bias) = (random(b, channels, 5), random(b, channels, 6));
                    let x = random(b, 2 * width * channels, 7);
                    let mut y = b.zeros(2 * width * channels).unwrap();
                    b.group_norm(s, &x, &weight, &bias, &mut y).unwrap();
                    all.extend(bits(b, &y));
                }
            }
            all
        });
    }
}

/// Rows that threads keep, of the last width of each instance and the first of the next; and rows that are too long, or no
/// whole number of fours, for that.
#[test]
fn long_norms_agree() {
    for width in [
        1024, 1028, 2044, 2048, 2050, 2052, 4092, 4096, 4097, 4100, 8200,
    ] {
        agree!(|b| {
            let s = NormShape {
                rows: 2,
                width,
                eps: 1e-5,
            };
            let (weight, bias) = (random(b, width, 1), random(b, width, 2));
            let x = random(b, 2 * width, 3);
            let mut y = b.zeros(2 * width).unwrap();
            b.layer_norm(s, &x, &weight, &bias, &mut y).unwrap();
            let mut all = bits(b, &y);
            b.rms_norm(s, &x, &weight, &mut y).unwrap();
            all.extend(bits(b, &y));
            all
        });
    }
}

/// More parts of pixels, and more channels of a group, than are added up at once; channels four at a time.
#[test]
fn group_norms_agree_across_parts() {
    for (images, pixels, channels, groups) in [(1, 1100, 300, 1), (2, 200, 64, 4), (1, 9000, 4, 1)]
    {
        agree!(|b| {
            let s = GroupNormShape {
                images,
                pixels,
                channels,
                groups,
                eps: 1e-6,
                swish: channels == 64,
            };
            let (weight, bias) = (random(b, channels, 5), random(b, channels, 6));
            let x = random(b, images * pixels * channels, 7);
            let mut y = b.zeros(images * pixels * channels).unwrap();
            b.group_norm(s, &x, &weight, &bias, &mut y).unwrap();
            bits(b, &y)
        });
    }
}

#[test]
fn rows_of_heads_are_copied_to_other_places() {
    for (heads, head_stride, from, to, len) in [
        (1, 8, 0, 4, 4),
        (3, 37, 20, 2, 17),
        (2, 100, 1, 51, 49),
        (4, 5, 3, 1, 0),
    ] {
        agree!(|b| {
            let s = MoveShape {
                heads,
                head_stride,
                from,
                to,
                len,
            };
            let all = heads * head_stride;
            let mut floats = random(b, all + 3, 1);
            b.move_rows(s, &mut floats).unwrap();
            let numbers: Vec<u32> = (0..).take(all).collect();
            let mut integers = buffer(b, &numbers);
            b.move_rows(s, &mut integers).unwrap();
            let overlapping = MoveShape {
                to: from + 1,
                len: len.max(2),
                ..s
            };
            assert!(b.move_rows(overlapping, &mut integers).is_err());
            let mut all = bits(b, &floats);
            all.extend(words(b, &integers));
            all
        });
    }
}

#[test]
fn rows_are_moved_and_turned_at_every_size() {
    for (rows, heads, head_dim) in [(1, 1, 2), (5, 3, 6), (70, 2, 10), (9, 7, 64)] {
        agree!(|b| {
            let stride = heads * head_dim + 2;
            let mut x = random(b, rows * stride, 1);
            let positions: Vec<u32> = (0..u32::try_from(rows).unwrap())
                .map(|r| r * 3 % 11)
                .collect();
            let positions = buffer(b, &positions);
            for rotary_dim in [2, head_dim] {
                let s = RotaryShape {
                    rows,
                    heads,
                    head_dim,
                    rotary_dim,
                    stride,
                    offset: 1,
                    positions: 9,
                };
                b.rotary(s, &mut x, &positions, &random(b, 9 * rotary_dim, 2))
                    .unwrap();
            }
            let mut all = bits(b, &x);
            let s = AppendShape {
                rows,
                heads,
                head_dim,
                stride,
                offset: 2,
                cache_rows: 9,
            };
            let mut cache = random(b, heads * 9 * head_dim, 3);
            // A place each, and none for the later ones.
            let places: Vec<u32> = (0..u32::try_from(rows).unwrap()).map(|r| r ^ 8).collect();
            b.append(s, &x, &buffer(b, &places), &mut cache).unwrap();
            all.extend(bits(b, &cache));
            let s = GatherShape {
                rows,
                width: head_dim,
                table_rows: 9,
            };
            let mut out = b.zeros(rows * head_dim).unwrap();
            b.gather(s, &positions, &random(b, 9 * head_dim, 4), &mut out)
                .unwrap();
            all.extend(bits(b, &out));
            all
        });
    }
    for (images, height, width, patch) in [(1, 2, 2, 1), (2, 9, 11, 3), (3, 20, 16, 5)] {
        agree!(|b| {
            let s = PatchShape {
                images,
                height,
                width,
                patch,
            };
            let len = images * height * width * 3;
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 256) as u8).collect();
            let [rows, cols] = s.grid();
            let mut out = b.zeros(images * rows * cols * 3 * patch * patch).unwrap();
            b.patchify(s, &buffer(b, &bytes), &mut out).unwrap();
            bits(b, &out)
        });
    }
}

#[test]
fn bytes_agree_at_every_border() {
    let mut x = extreme(64);
    x.extend([f32::INFINITY, f32::NEG_INFINITY, 2.0, -2.0, 1.0001, -1.0001]);
    // Where a byte becomes the next.
    for i in 0..256 {
        let v = (i as f32 + 0.5) / 127.5 - 1.0;
        x.extend([v, v.next_up(), v.next_down(), i as f32 / 127.5 - 1.0]);
    }
    for rounding in [Rounding::Truncate, Rounding::Nearest, Rounding::Shift] {
        agree!(|b| {
            let mut out = b.zeros::<u8>(x.len()).unwrap();
            b.to_bytes(rounding, x.len(), &buffer(b, &x), &mut out)
                .unwrap();
            words(b, &out).into_iter().map(u32::from).collect()
        });
    }
}
