//! Borders that the other cases do not meet: remainders of every unrolled loop, ties, extreme numbers, rows that hold no
//! numbers. Faults planted in the kernels (`tests/emulator/examples/mutants.rs`) showed what was missing.

use maquette::ops::attention::{
    AppendShape, AttentionShape, KvFormat, MoveShape, RelativeShape, RotaryShape,
};
use maquette::ops::conv::{PatchShape, Rounding};
use maquette::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use maquette::ops::reward_head::{AnswerShape, PoolShape};
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape};
use maquette::ops::vq::{GatherShape, LfqShape, NearestShape};
use maquette::ops::{Backend, Reference};
use maquette::{Error, Result};

use super::{bits, buffer, cpus, numbers, random, words};

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

/// Spans of two sequences, over caches of 300 rows.
const SPANS: [[u32; 8]; 7] = [
    [0, 0, 0, 1, 0, 2, 2, 3],
    [0, 0, 0, 5, 7, 4, 3, 4],
    [0, 128, 128, 129, 1, 127, 200, 1],
    [0, 257, 257, 40, 299, 1, 0, 300],
    [5, 31, 40, 32, 0, 33, 100, 16],
    [0, 17, 100, 15, 290, 20, 298, 9],
    [0, 0, 0, 2, 0, 0, 298, 2],
];

/// The same, over caches of 128 rows, which a GPU reads in one launch: a prefix and own rows may be the same ones.
const SHORT: [[u32; 8]; 5] = [
    [0, 0, 0, 1, 0, 2, 2, 3],
    [0, 128, 0, 1, 1, 127, 5, 2],
    [0, 128, 0, 128, 3, 125, 0, 4],
    [127, 1, 0, 128, 128, 5, 2, 50],
    [0, 0, 0, 2, 0, 0, 126, 2],
];

/// Heads of each width, over caches of so many rows.
fn shapes<const N: usize>(
    dims: [usize; N],
    kv_rows: usize,
) -> impl Iterator<Item = AttentionShape> {
    dims.into_iter()
        .enumerate()
        .map(move |(i, head_dim)| AttentionShape {
            sequences: 2,
            queries: 1 + i % 3,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim,
            q_stride: 4 * head_dim + 1,
            q_offset: 1,
            kv_rows,
            kv_stride: head_dim,
            kv_head_stride: kv_rows * head_dim,
            k_offset: 0,
            v_offset: 0,
            causal: i % 2 == 0,
            repeated_prefix: i % 3 == 0,
        })
}

/// Numbers of which single ones stand out: the largest score is some key's alone.
fn spiked(len: usize, seed: u32) -> Vec<f32> {
    let mut all = numbers(len, seed);
    all.iter_mut().step_by(97).for_each(|v| *v *= 3.0);
    all
}

#[test]
fn attentions_agree_at_every_remainder() {
    let dims = [1, 2, 3, 4, 5, 6, 7, 31, 32, 33, 70, 72, 130, 64, 128, 100];
    for s in shapes(dims, 300) {
        for spans in SPANS {
            agree!(|b| {
                let q = random(b, 2 * s.queries * s.q_stride, 1);
                let len = s.n_kv_heads * s.kv_head_stride;
                let (keys, values) = (buffer(b, &spiked(len, 2)), random(b, len, 3));
                let mut out = b.zeros(2 * s.queries * s.n_heads * s.head_dim).unwrap();
                b.attention(s, &q, &keys, &values, &buffer(b, &spans), &mut out)
                    .unwrap();
                bits(b, &out)
            });
        }
    }
    for (rows, head_dim) in [
        (1, 1),
        (3, 2),
        (130, 3),
        (5, 4),
        (129, 6),
        (257, 7),
        (3, 260),
    ] {
        agree!(|b| {
            let s = RelativeShape {
                rows,
                n_heads: 2,
                head_dim,
                scale: 0.3,
            };
            let mut out = b.zeros(rows * 2 * head_dim).unwrap();
            let qkv = buffer(b, &spiked(6 * rows * head_dim, 1));
            let bias = random(b, 2 * s.distances(), 2);
            b.relative_attention(s, &qkv, &bias, &mut out).unwrap();
            bits(b, &out)
        });
    }
}

/// Rows rounded to 8 bits, and attention to them.
fn caches_agree(s: AttentionShape, all_spans: &[[u32; 8]]) {
    let (rows, width) = (s.kv_rows, KvFormat::Q8.words(s.head_dim));
    let append = AppendShape {
        rows,
        heads: 2,
        head_dim: s.head_dim,
        stride: 2 * s.head_dim + 3,
        offset: 2,
        cache_rows: rows,
    };
    let s = AttentionShape {
        kv_stride: width,
        kv_head_stride: rows * width,
        ..s
    };
    // Backwards, and one row outside.
    let end = u32::try_from(rows).unwrap();
    let places: Vec<u32> = (1..end).rev().chain([end]).collect();
    let mut keys = spiked(rows * append.stride, 2);
    // Blocks without a scale.
    keys[..append.stride].fill(0.0);
    keys[append.stride..][..append.stride].fill(-1e-38);
    for spans in all_spans {
        agree!(|b| {
            let x = buffer(b, &keys);
            let places = buffer(b, &places);
            let [mut k, mut v] = [(); 2].map(|()| b.zeros::<u32>(2 * rows * width).unwrap());
            b.append_q8(append, &x, &places, &mut k).unwrap();
            let x = random(b, rows * append.stride, 3);
            b.append_q8(append, &x, &places, &mut v).unwrap();
            let mut all = words(b, &k);
            all.extend(words(b, &v));
            let q = random(b, 2 * s.queries * s.q_stride, 1);
            let mut out = b.zeros(2 * s.queries * s.n_heads * s.head_dim).unwrap();
            b.attention_q8(s, &q, &k, &v, &buffer(b, spans), &mut out)
                .unwrap();
            all.extend(bits(b, &out));
            all
        });
    }
}

#[test]
fn caches_in_8_bits_agree() {
    for s in shapes([1, 3, 4, 31, 32, 33, 70, 72, 128, 100, 64], 300) {
        caches_agree(s, &SPANS);
    }
    for s in shapes([2, 5, 32, 33, 64, 130], 128) {
        caches_agree(s, &SHORT);
    }
    agree!(|b| {
        let s = AppendShape {
            rows: 3,
            heads: 1,
            head_dim: 40,
            stride: 40,
            offset: 0,
            cache_rows: 3,
        };
        let mut x = numbers(120, 1);
        (x[3], x[75], x[80]) = (f32::INFINITY, f32::NAN, f32::MAX);
        let mut cache = b.zeros::<u32>(3 * KvFormat::Q8.words(40)).unwrap();
        b.append_q8(s, &buffer(b, &x), &buffer(b, &[2, 1, 0]), &mut cache)
            .unwrap();
        // The levels of a block without a scale say nothing.
        let all = words(b, &cache);
        all.chunks(18).flat_map(|row| [row[16], row[17]]).collect()
    });
    // A GPU reads the longer ones in two launches.
    for (head_dim, kv_rows) in (33..=64).flat_map(|d| [(d, 5), (d, 129)]) {
        let width = KvFormat::Q8.words(head_dim);
        let s = AttentionShape {
            sequences: 2,
            queries: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim,
            q_stride: head_dim,
            q_offset: 0,
            kv_rows,
            kv_stride: width,
            kv_head_stride: kv_rows * width,
            k_offset: 0,
            v_offset: 0,
            causal: false,
            repeated_prefix: false,
        };
        let append = AppendShape {
            rows: 5,
            heads: 1,
            head_dim,
            stride: head_dim,
            offset: 0,
            cache_rows: kv_rows,
        };
        agree!(|b| {
            let mut k = b.zeros::<u32>(kv_rows * width).unwrap();
            let (x, places) = (random(b, 5 * head_dim, 2), buffer(b, &[4, 3, 2, 1, 0]));
            b.append_q8(append, &x, &places, &mut k).unwrap();
            let mut all = words(b, &k);
            let (q, spans) = (
                random(b, 2 * head_dim, 1),
                buffer(b, &[0, 2, 3, 2, 4, 1, 1, 3]),
            );
            let mut out = b.zeros(2 * head_dim).unwrap();
            b.attention_q8(s, &q, &k, &k, &spans, &mut out).unwrap();
            all.extend(bits(b, &out));
            all
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

#[test]
fn codes_agree_at_every_remainder() {
    for n_bits in (1..=11).chain([18, 31]) {
        agree!(|b| {
            let s = LfqShape {
                n: 37,
                bits: n_bits,
            };
            let mut latents = numbers(37 * n_bits, 1);
            latents.iter_mut().step_by(5).for_each(|v| *v = 0.0);
            latents.iter_mut().step_by(7).for_each(|v| *v = -0.0);
            let mut codes = b.zeros::<u32>(37).unwrap();
            b.lfq_codes(s, &buffer(b, &latents), &mut codes).unwrap();
            let mut all = words(b, &codes);
            // Some outside the codebook.
            let mut some = all.clone();
            some.iter_mut()
                .step_by(3)
                .for_each(|code| *code |= 1 << n_bits);
            let mut out = random(b, 37 * n_bits, 2);
            b.lfq_lookup(s, &buffer(b, &some), &mut out).unwrap();
            all.extend(bits(b, &out));
            all
        });
    }
    for (width, entries) in [
        (1, 7),
        (2, 257),
        (3, 600),
        (4, 255),
        (5, 256),
        (6, 513),
        (7, 40),
        (8, 300),
        (11, 700),
    ] {
        for normalise in [false, true] {
            agree!(|b| {
                let s = NearestShape {
                    n: 40,
                    width,
                    entries,
                    normalise,
                };
                // Every entry stands there several times: of equals the first.
                let some = numbers(width * 7, 1);
                let book: Vec<f32> = some.into_iter().cycle().take(width * entries).collect();
                let mut latents = numbers(40 * width, 2);
                latents[..width].fill(0.0);
                latents[width..2 * width].copy_from_slice(&book[..width]);
                let mut codes = b.zeros(40).unwrap();
                b.nearest(s, &buffer(b, &latents), &buffer(b, &book), &mut codes)
                    .unwrap();
                let mut all = words(b, &codes);
                // And entries that all differ.
                let book = random(b, width * entries, 3);
                b.nearest(s, &buffer(b, &latents), &book, &mut codes)
                    .unwrap();
                all.extend(words(b, &codes));
                all
            });
        }
    }
}

#[test]
fn filters_agree_on_ties() {
    for width in [1, 2, 3, 255, 256, 257, 513] {
        for (top_k, top_p, temperature) in [
            (0, 0.5, 1.0),
            (2, 1.0, 0.5),
            (200, 0.9, 2.0),
            (0, 0.0, 1.0),
            (3, 0.99, 0.0),
            (width, 1.0, 1.0),
        ] {
            agree!(|b| {
                // Few different numbers, zeros of both signs, and some that are ruled out already.
                let mut x: Vec<f32> = (0..3 * width).map(|i| (i * 7 % 5) as f32 - 2.0).collect();
                x.iter_mut().step_by(6).for_each(|v| *v = -0.0);
                x.iter_mut()
                    .skip(1)
                    .step_by(11)
                    .for_each(|v| *v = f32::NEG_INFINITY);
                let mut logits = buffer(b, &x);
                let mut order = b.zeros(3 * width).unwrap();
                let filter = Filter::default()
                    .with_temperature(temperature)
                    .with_top_k(top_k)
                    .with_top_p(top_p);
                b.filter(
                    FilterShape {
                        rows: 3,
                        width,
                        filter,
                    },
                    &mut logits,
                    &mut order,
                )
                .unwrap();
                bits(b, &logits)
            });
        }
    }
}

#[test]
fn draws_agree_on_ties() {
    for width in [1, 2, 3, 4, 5, 255, 256, 257, 259, 600] {
        agree!(|b| {
            // All alike; alike in pairs; one that stands out, in turns; most ruled out.
            let mut x = vec![0.5; 4 * width];
            (width..2 * width).for_each(|i| x[i] = (i / 2 % 3) as f32);
            x[2 * width + width * 2 / 3] = 9.0;
            (3 * width..4 * width).for_each(|i| x[i] = f32::NEG_INFINITY);
            x[4 * width - 1] = -3.0;
            let (mut logits, mut codes, mut p) =
                (buffer(b, &x), b.zeros(4).unwrap(), b.zeros(4).unwrap());
            let noise = buffer(b, &vec![1.0; 4 * width]);
            let s = DrawShape { rows: 4, width };
            b.draw(s, &mut logits, &Draw::Given(&noise), &mut codes, &mut p)
                .unwrap();
            let mut all = words(b, &codes);
            all.extend(bits(b, &p));
            all.extend(bits(b, &logits));
            let mut logits = buffer(b, &x);
            let keys: Vec<u32> = (0..16_u32).map(|i| i.wrapping_mul(0x1234_5677)).collect();
            let keys = buffer(b, &keys);
            b.draw(s, &mut logits, &Draw::Keyed(&keys), &mut codes, &mut p)
                .unwrap();
            all.extend(words(b, &codes));
            all.extend(bits(b, &p));
            all.extend(bits(b, &logits));
            all
        });
    }
}

#[test]
fn answers_agree_wherever_the_largest_stands() {
    for width in [2, 3, 15, 16, 17, 31, 33, 255, 256, 257, 700] {
        agree!(|b| {
            let mut x = numbers(9 * width, 1);
            for row in 0..9 {
                x[row * width + row * (width - 1) / 8] = 5.0;
            }
            let s = AnswerShape {
                rows: 9,
                width,
                yes: width - 1,
                no: width / 2 - 1,
            };
            let mut out = b.zeros(18).unwrap();
            b.answer(s, &buffer(b, &x), &mut out).unwrap();
            bits(b, &out)
        });
    }
}

#[test]
fn pooled_rows_agree_at_every_remainder() {
    let mut shapes = vec![
        [0, 3, 2, 2],
        [1, 1, 1, 1],
        [2, 3, 1, 5],
        [3, 7, 5, 1],
        [1, 300, 2, 3],
        [2, 4, 1, 300],
        [9, 64, 8, 16],
    ];
    // Around a whole block of outputs.
    shapes.extend([255, 256, 257].map(|views| [views, 2, 1, 1]));
    for [views, rows, heads, head_dim] in shapes {
        let s = PoolShape {
            views,
            rows,
            heads,
            head_dim,
        };
        let width = s.width().unwrap();
        let mut x = numbers(views * rows * width, 1);
        // The largest score stands anywhere, and some are far below it.
        for (i, row) in x.chunks_mut(width).enumerate() {
            row[i % heads] = [9.0, -9.0, 100.0, 0.5][i / 3 % 4];
        }
        agree!(|b| {
            let mut out = random(b, views * heads * head_dim + 1, 2);
            b.pool_rows(s, &buffer(b, &x), &mut out).unwrap();
            bits(b, &out)
        });
    }
}

/// The operation and row of an error, which may come with the next read.
fn refused<B: Backend>(b: &B, result: Result<()>) -> (&'static str, usize) {
    let mut word = [0.0];
    let result = result.and_then(|()| b.read(&b.zeros(1).unwrap(), 0, &mut word));
    match result {
        Err(Error::NotFinite { op, row, .. }) => (op, row),
        other => panic!("{other:?}"),
    }
}

fn refuses<B: Backend>(b: &B) {
    for (wrong, row) in [(f32::NAN, 1), (f32::INFINITY, 2), (f32::NEG_INFINITY, 0)] {
        for width in [5, 300] {
            let mut x = numbers(3 * width, 1);
            for later in row..3 {
                x[later * width + (later + 2) % width] = wrong;
            }
            let s = AnswerShape {
                rows: 3,
                width,
                yes: 0,
                no: 1,
            };
            let result = b.answer(s, &buffer(b, &x), &mut b.zeros(6).unwrap());
            assert_eq!(refused(b, result), ("answer", row));
            for head in [0, 1] {
                let s = PoolShape {
                    views: 3,
                    rows: 2,
                    heads: 2,
                    head_dim: width,
                };
                let row_width = s.width().unwrap();
                let mut x = numbers(6 * row_width, 1);
                // Of a view the last score alone, and any value.
                x[(2 * row + 1) * row_width + head] = wrong;
                x[2] = wrong;
                let result = b.pool_rows(s, &buffer(b, &x), &mut b.zeros(6 * width).unwrap());
                assert_eq!(refused(b, result), ("pool_rows", row));
            }
            let s = NearestShape {
                n: 3,
                width,
                entries: 3,
                normalise: false,
            };
            let book = random(b, 3 * width, 2);
            let mut codes = b.zeros(3).unwrap();
            let result = b.nearest(s, &buffer(b, &x), &book, &mut codes);
            assert_eq!(refused(b, result), ("nearest", row));
            // Minus infinity rules a code out; of a whole row it leaves nothing.
            if wrong < 0.0 {
                x[row * width..].fill(wrong);
            }
            let s = DrawShape { rows: 3, width };
            let (keys, noise) = (buffer(b, &[7; 12]), random(b, 3 * width, 3));
            let mut p = b.zeros(3).unwrap();
            for draw in [Draw::Keyed(&keys), Draw::Given(&noise)] {
                // A NaN beside numbers is no largest one.
                let mut logits = buffer(b, &x);
                let result = b.draw(s, &mut logits, &draw, &mut codes, &mut p);
                assert_eq!(refused(b, result), ("draw", row));
            }
            if wrong.is_nan() {
                for (top_k, top_p) in [(0, 1.0), (2, 0.5)] {
                    let filter = Filter::default()
                        .with_temperature(0.9)
                        .with_top_k(top_k)
                        .with_top_p(top_p);
                    let s = FilterShape {
                        rows: 3,
                        width,
                        filter,
                    };
                    let mut order = b.zeros(3 * width).unwrap();
                    let result = b.filter(s, &mut buffer(b, &x), &mut order);
                    assert_eq!(refused(b, result), ("filter", row));
                }
                let mut out = b.zeros::<u8>(3 * width).unwrap();
                let result = b.to_bytes(Rounding::Nearest, 3 * width, &buffer(b, &x), &mut out);
                let first = row * width + (row + 2) % width;
                assert_eq!(refused(b, result), ("to_bytes", first));
            }
        }
    }
    // What was wrong is over.
    b.read(&b.zeros(1).unwrap(), 0, &mut [0.0]).unwrap();
}

#[test]
fn rows_without_numbers_are_named() {
    refuses(&Reference);
    cpus().iter().for_each(refuses);
    #[cfg(feature = "cuda")]
    crate::gpu::in_both_orders(refuses);
}
