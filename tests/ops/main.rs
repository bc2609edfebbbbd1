//! The CPU device gives the bits of the reference: any size, any number of threads, any number of rows at once, any
//! instruction set. It touches no byte outside its buffers and packed weights: each lies against a page that cannot be read.
#![cfg(feature = "alloc")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::OnceLock;

use maquette::cpu::Cpu;
use maquette::ops::attention::AttentionShape;
use maquette::ops::conv::ConvShape;
use maquette::ops::gemm::GemmShape;
use maquette::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use maquette::ops::{Backend, Element};
use maquette::quant::{Format, QuantMatrix};
use maquette::rng;

#[cfg(all(unix, not(miri)))]
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
#[path = "../gpu/mod.rs"]
mod gpu;

/// Runs the same lines on the reference, on every CPU device and on a GPU, and compares what they return;
/// `full` asks for a GPU as well that the work fills, which may have other kernels for it.
macro_rules! agree {
    (|$b:ident| $body:expr) => {
        agree!(in_both_orders, |$b| $body)
    };
    (full, |$b:ident| $body:expr) => {
        agree!(in_both_orders_and_full, |$b| $body)
    };
    ($gpus:ident, |$b:ident| $body:expr) => {{
        let want: Vec<u32> = {
            let $b = &maquette::ops::Reference;
            $body
        };
        for $b in crate::cpus() {
            let got: Vec<u32> = crate::guarded(|| $body);
            assert!(
                got == want,
                "{} threads with {} differ from the reference",
                $b.threads(),
                $b.instructions()
            );
        }
        #[cfg(feature = "cuda")]
        crate::gpu::$gpus(|$b| {
            let got: Vec<u32> = $body;
            assert!(got == want, "the GPU differs from the reference");
        });
    }};
}

mod attention;
mod borders;
mod choices;
mod codebooks;
mod copies;
#[cfg(feature = "std")]
mod counts;
mod halves;
mod nothing;
mod pages;
mod products;
mod random_shapes;
mod refusals;
mod rest;
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
                pages: 0,
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
