//! The CPU device gives the bits of the reference: any size, any number of threads, any number of rows at once, any
//! instruction set. It touches no byte outside its buffers and packed weights: each lies against a page that cannot be read.
#![cfg(feature = "alloc")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::OnceLock;

use maquette::cpu::Cpu;
use maquette::ops::attention::AttentionShape;
use maquette::ops::conv::ConvShape;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape, GuideShape};
use maquette::ops::{Backend, Element, Reference};
use maquette::quant::{Format, QuantMatrix};
use maquette::{Error, rng};

#[cfg(all(unix, not(miri)))]
#[path = "ops/guarded.rs"]
mod guarded;
#[cfg(all(unix, not(miri)))]
use guarded::guarded;

#[cfg(not(all(unix, not(miri))))]
fn guarded<T>(call: impl FnOnce() -> T) -> T {
    call()
}

/// The CPU in all its forms; none where only a kernel with a fault in it is looked at.
fn cpus() -> &'static [Cpu] {
    if std::env::var_os("EMULATOR_MUTANT").is_some() {
        return &[];
    }
    static CPUS: OnceLock<Vec<Cpu>> = OnceLock::new();
    CPUS.get_or_init(|| {
        let threads = [1, 2, 3].map(|n| Cpu::with_threads(n).unwrap());
        let sets = Cpu::instruction_sets().map(|set| Cpu::with_instructions(2, set).unwrap());
        sets.chain(threads).collect()
    })
}

#[cfg(feature = "cuda")]
mod gpu;

/// Runs the same lines on the reference, on every CPU device and on a GPU, and compares what they return.
macro_rules! agree {
    (|$b:ident| $body:expr) => {{
        let want: Vec<u32> = {
            let $b = &Reference;
            $body
        };
        for $b in cpus() {
            let got: Vec<u32> = crate::guarded(|| $body);
            assert!(
                got == want,
                "{} threads with {} differ from the reference",
                $b.threads(),
                $b.instructions()
            );
        }
        #[cfg(feature = "cuda")]
        crate::gpu::in_both_orders(|$b| {
            let got: Vec<u32> = $body;
            assert!(got == want, "the GPU differs from the reference");
        });
    }};
}

#[path = "ops/borders.rs"]
mod borders;
#[path = "ops/codebooks.rs"]
mod codebooks;
#[path = "ops/copies.rs"]
mod copies;
#[path = "ops/counts.rs"]
#[cfg(feature = "std")]
mod counts;
#[path = "ops/halves.rs"]
mod halves;
#[path = "ops/random_shapes.rs"]
mod random_shapes;
#[path = "ops/rest.rs"]
mod rest;
#[path = "ops/tiles.rs"]
mod tiles;

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| rng::philox([seed, 0], [u32::try_from(i).unwrap(), 0, 0, 0])[0];
    (0..len)
        .map(|i| rng::open_unit(word(i)) * 4.0 - 2.0)
        .collect()
}

fn buffer<B: Backend, T: Element>(b: &B, data: &[T]) -> B::Buffer<T> {
    let mut buffer = b.zeros(data.len()).unwrap();
    b.write(&mut buffer, 0, data).unwrap();
    buffer
}

fn random<B: Backend>(b: &B, len: usize, seed: u32) -> B::Buffer<f32> {
    buffer(b, &numbers(len, seed))
}

fn words<B: Backend, T: Element>(b: &B, buffer: &B::Buffer<T>) -> Vec<T> {
    let mut out = vec![T::default(); b.len(buffer)];
    b.read(buffer, 0, &mut out).unwrap();
    out
}

fn bits<B: Backend>(b: &B, buffer: &B::Buffer<f32>) -> Vec<u32> {
    words(b, buffer).into_iter().map(f32::to_bits).collect()
}

fn product<B: Backend>(b: &B, s: GemmShape, format: Format, bias: bool) -> Vec<u32> {
    let data = numbers(s.n * s.k, 1);
    let mut bytes = vec![0; format.bytes(s.n, s.k).unwrap()];
    format.quantise(&data, &mut bytes);
    let w = match format {
        Format::F32 => QuantMatrix::f32(s.n, s.k, &data),
        _ => QuantMatrix::from_bytes(format, s.n, s.k, &bytes),
    };
    let w = b.pack(&w.unwrap()).unwrap();
    let (x, mut y) = (random(b, s.m * s.k, 2), random(b, s.m * s.n, 3));
    let bias = bias.then(|| random(b, s.n, 4));
    b.gemm(s, &x, &w, bias.as_ref(), &mut y).unwrap();
    bits(b, &y)
}

fn convolution<B: Backend>(b: &B, s: ConvShape) -> Vec<u32> {
    let data = numbers(s.c_out * s.k(), 1);
    let w = b
        .pack(&QuantMatrix::f32(s.c_out, s.k(), &data).unwrap())
        .unwrap();
    let [rows, cols] = s.output();
    let x = random(b, s.images * s.height * s.width * s.c_in, 2);
    let mut y = random(b, s.images * rows * cols * s.c_out, 3);
    b.conv2d(s, &x, &w, &random(b, s.c_out, 4), &mut y).unwrap();
    bits(b, &y)
}

fn attended<B: Backend>(b: &B, s: AttentionShape, spans: &[u32]) -> Vec<u32> {
    let q = random(b, s.sequences * s.queries * s.q_stride, 1);
    let kv = random(b, s.kv_rows * s.kv_stride * s.n_kv_heads, 2);
    let mut out = b
        .zeros(s.sequences * s.queries * s.n_heads * s.head_dim)
        .unwrap();
    b.attention(s, &q, &kv, &kv, &buffer(b, spans), &mut out)
        .unwrap();
    bits(b, &out)
}

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

/// No rows, one, and as many as fill tiles but for one; odd outputs; k that are no multiples of anything where elements
/// stand alone, and odd numbers of blocks where they do not.
#[test]
fn products_agree_in_every_format_and_arithmetic() {
    for &format in Format::ALL {
        let ks = match format.block() {
            1 => [33, 257],
            block => [block, 3 * block],
        };
        for activations in [Activations::F32, Activations::A8] {
            for (m, n) in [(0, 7), (1, 1), (1, 131), (63, 17), (64, 33), (65, 65)] {
                for k in ks {
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
fn convolutions_agree() {
    for (c_in, c_out, kernel) in [
        (1, 1, 1),
        (3, 65, 3),
        (16, 3, 3),
        (33, 16, 1),
        (5, 80, 5),
        (68, 3, 2),
    ] {
        let s = ConvShape::same(2, [9, 11], c_in, c_out, kernel);
        agree!(|b| convolution(b, s));
        agree!(|b| convolution(
            b,
            ConvShape {
                upsample: true,
                accumulate: true,
                ..s
            }
        ));
        agree!(|b| convolution(
            b,
            ConvShape {
                stride: 2,
                pad_before: 0,
                pad_after: 1,
                ..s
            }
        ));
        agree!(|b| convolution(
            b,
            ConvShape {
                dilation: 2,
                images: 1,
                ..s
            }
        ));
        agree!(|b| convolution(b, ConvShape { images: 0, ..s }));
    }
}

#[test]
fn attentions_agree() {
    for (queries, head_dim, heads) in [
        (1, 24, [4, 4]),
        (48, 64, [4, 2]),
        (49, 16, [2, 1]),
        (130, 128, [1, 1]),
    ] {
        for causal in [false, true] {
            let s = AttentionShape {
                sequences: 2,
                queries,
                n_heads: heads[0],
                n_kv_heads: heads[1],
                head_dim,
                q_stride: heads[0] * head_dim + 5,
                q_offset: 3,
                kv_rows: 200,
                kv_stride: 2 * heads[1] * head_dim,
                kv_head_stride: head_dim,
                k_offset: 0,
                v_offset: heads[1] * head_dim,
                causal,
                repeated_prefix: false,
            };
            for spans in [
                [0, 64, 64, 130, 3, 1, 10, 0],
                [0, 0, 0, 0, 199, 9, 300, 2],
                [0, 0, 0, 63, 0, 65, 70, 66],
            ] {
                agree!(|b| attended(b, s, &spans));
            }
        }
    }
}

#[test]
fn norms_and_activations_agree() {
    for (rows, width) in [
        (0, 3),
        (1, 1),
        (5, 15),
        (5, 16),
        (5, 17),
        (3, 64),
        (70, 257),
    ] {
        agree!(|b| {
            let s = NormShape {
                rows,
                width,
                eps: 1e-6,
            };
            let (weight, bias) = (random(b, width, 1), random(b, width, 2));
            let (mut x, mut y) = (random(b, 2 * rows * width, 3), random(b, rows * width, 4));
            b.layer_norm(s, &x, &weight, &bias, &mut y).unwrap();
            let mut all = bits(b, &y);
            b.rms_norm(s, &x, &weight, &mut y).unwrap();
            all.extend(bits(b, &y));
            let s = |activation| GateShape {
                rows,
                width,
                activation,
            };
            b.gate(s(Activation::GeluTanh), &x, &mut y).unwrap();
            all.extend(bits(b, &y));
            b.gate(s(Activation::Silu), &x, &mut y).unwrap();
            b.add(rows * width, &x, &mut y).unwrap();
            all.extend(bits(b, &y));
            for activation in [
                Activation::GeluTanh,
                Activation::GeluErf,
                Activation::Silu,
                Activation::Relu,
            ] {
                b.activate(activation, rows * width, &mut x).unwrap();
                all.extend(bits(b, &x));
            }
            let s = HeadNormShape {
                rows,
                heads: 2,
                head_dim: width,
                stride: 2 * width,
                offset: 0,
                eps: 1e-6,
            };
            b.head_norm(s, &mut x, &weight, &bias).unwrap();
            all.extend(bits(b, &x));
            all
        });
    }
    for (channels, groups, pixels) in [
        (1, 1, 1),
        (32, 8, 63),
        (96, 32, 65),
        (64, 1, 64),
        (200, 2, 130),
        (80, 16, 9),
    ] {
        for swish in [false, true] {
            agree!(|b| {
                let s = GroupNormShape {
                    images: 3,
                    pixels,
                    channels,
                    groups,
                    eps: 1e-6,
                    swish,
                };
                let mut y = b.zeros(3 * pixels * channels).unwrap();
                let (weight, bias) = (random(b, channels, 1), random(b, channels, 2));
                b.group_norm(
                    s,
                    &random(b, 3 * pixels * channels, 3),
                    &weight,
                    &bias,
                    &mut y,
                )
                .unwrap();
                bits(b, &y)
            });
        }
    }
}

#[test]
fn draws_agree() {
    for (rows, width) in [(0, 5), (1, 1), (3, 63), (3, 64), (3, 65), (40, 1000)] {
        agree!(|b| {
            let mut logits = random(b, 2 * rows * width, 1);
            b.guide(
                GuideShape {
                    rows,
                    width,
                    scale: 2.5,
                },
                &mut logits,
            )
            .unwrap();
            let keys: Vec<u32> = (0..4 * u32::try_from(rows).unwrap()).collect();
            let noise: Vec<f32> = numbers(rows * width, 2)
                .into_iter()
                .map(|v| v + 2.5)
                .collect();
            let (keys, noise) = (buffer(b, &keys), buffer(b, &noise));
            let mut all = bits(b, &logits);
            for draw in [Draw::Keyed(&keys), Draw::Given(&noise)] {
                let (mut codes, mut p) = (b.zeros(rows).unwrap(), b.zeros(rows).unwrap());
                b.draw(
                    DrawShape { rows, width },
                    &mut logits,
                    &draw,
                    &mut codes,
                    &mut p,
                )
                .unwrap();
                all.extend(words(b, &codes));
                all.extend(bits(b, &p));
            }
            all.extend(bits(b, &logits));
            all
        });
    }
}

#[test]
fn filters_agree() {
    for (rows, width) in [(0, 5), (1, 1), (3, 64), (40, 1000)] {
        for (top_k, top_p) in [(0, 1.0), (7, 1.0), (0, 0.6), (100, 0.9), (1, 0.5)] {
            agree!(|b| {
                let filter = Filter::default()
                    .with_temperature(0.7)
                    .with_top_k(top_k)
                    .with_top_p(top_p);
                let mut logits = random(b, rows * width, 1);
                let mut order = b.zeros(rows * width).unwrap();
                let s = FilterShape {
                    rows,
                    width,
                    filter,
                };
                b.filter(s, &mut logits, &mut order).unwrap();
                bits(b, &logits)
            });
        }
    }
    for b in cpus() {
        let mut logits = buffer(b, &[0.0, 1.0, f32::NAN, 1.0]);
        let filter = Filter::default();
        let s = FilterShape {
            rows: 2,
            width: 2,
            filter,
        };
        let result = b.filter(s, &mut logits, &mut b.zeros(4).unwrap());
        assert!(matches!(result, Err(Error::NotFinite { row: 1, .. })));
    }
}

#[test]
fn wrong_lengths_are_errors_and_not_panics() {
    for b in cpus() {
        let s = GemmShape::new(2, 3, 4);
        let w = b
            .pack(&QuantMatrix::f32(3, 4, &[0.0; 12]).unwrap())
            .unwrap();
        let (x, mut y) = (random(b, 8, 1), random(b, 6, 2));
        assert!(b.gemm(s, &x, &w, None, &mut y).is_ok());
        assert!(matches!(
            b.gemm(GemmShape { m: 3, ..s }, &x, &w, None, &mut y),
            Err(Error::Length { .. })
        ));
        assert!(
            b.gemm(GemmShape { n: 2, ..s }, &x, &w, None, &mut y)
                .is_err()
        );
        assert!(b.gemm(s, &x, &w, Some(&random(b, 2, 1)), &mut y).is_err());
        assert!(
            b.conv2d(ConvShape::same(1, [2, 2], 4, 3, 3), &x, &w, &x, &mut y)
                .is_err()
        );
        assert!(
            b.layer_norm(
                NormShape {
                    rows: 2,
                    width: 4,
                    eps: 0.0
                },
                &x,
                &x,
                &x,
                &mut y
            )
            .is_err()
        );
        assert!(b.read(&x, 7, &mut [0.0; 2]).is_err());
        assert!(b.write(&mut y, usize::MAX, &[0.0; 2]).is_err());
        assert!(b.copy(&x, 0, &mut y, 0, 7).is_err());
        assert!(matches!(
            b.zeros::<f32>(usize::MAX / 8),
            Err(Error::OutOfMemory { .. })
        ));
        let mut logits = buffer(b, &[0.0, 1.0, f32::NAN, 1.0]);
        let (keys, mut codes) = (buffer(b, &[0; 8]), buffer(b, &[0; 2]));
        let result = b.draw(
            DrawShape { rows: 2, width: 2 },
            &mut logits,
            &Draw::Keyed(&keys),
            &mut codes,
            &mut y,
        );
        assert!(matches!(result, Err(Error::NotFinite { row: 1, .. })));
    }
    assert!(Cpu::with_threads(0).is_err());
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
