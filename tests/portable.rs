//! The portable kernels, the worker threads and the scratch at small awkward sizes: small enough for Miri, which sees every
//! read past an end and every race.
//!
//! `cargo +nightly miri test --test portable --no-default-features --features threads,libm/force-soft-floats`: without the
//! last one libm has assembly, which Miri cannot run. The same with `alloc` for `threads` has the scratch of one thread.
#![cfg(feature = "alloc")]

use maquette::cpu::Cpu;
use maquette::ops::attention::AttentionShape;
use maquette::ops::conv::ConvShape;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::norm::{Activation, GateShape, GroupNormShape, NormShape};
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape};
use maquette::ops::vq::{GatherShape, NearestShape};
use maquette::ops::{Backend, Element, Reference};
use maquette::quant::{Format, QuantMatrix};

/// Numbers between -2 and 2; of few instructions each, since Miri counts them.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut word = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        (word >> 8) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

fn buffer<B: Backend, T: Element>(b: &B, data: &[T]) -> B::Buffer<T> {
    let mut buffer = b.zeros(data.len()).unwrap();
    b.write(&mut buffer, 0, data).unwrap();
    buffer
}

fn random<B: Backend>(b: &B, len: usize, seed: u32) -> B::Buffer<f32> {
    buffer(b, &numbers(len, seed))
}

fn bits<B: Backend>(b: &B, buffer: &B::Buffer<f32>) -> Vec<u32> {
    let mut out = vec![0.0; b.len(buffer)];
    b.read(buffer, 0, &mut out).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

fn codes<B: Backend>(b: &B, buffer: &B::Buffer<u32>) -> Vec<u32> {
    let mut out = vec![0; b.len(buffer)];
    b.read(buffer, 0, &mut out).unwrap();
    out
}

/// A matrix as it is kept, made once, of two different rows: quantising takes longer than a product.
struct Stored {
    format: Format,
    sizes: [usize; 2],
    data: Vec<f32>,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(format: Format, n: usize, k: usize) -> Self {
        let data: Vec<_> = numbers(2 * k, 4).into_iter().cycle().take(n * k).collect();
        let mut bytes = vec![0; format.bytes(n, k).unwrap()];
        let (two, rest) = bytes.split_at_mut(format.bytes(2, k).unwrap());
        format.quantise(&data[..2 * k], two);
        for (i, byte) in rest.iter_mut().enumerate() {
            *byte = two[i % two.len()];
        }
        Self {
            format,
            sizes: [n, k],
            data,
            bytes,
        }
    }

    fn on<B: Backend>(&self, b: &B) -> B::Matrix {
        let [n, k] = self.sizes;
        let rows = match self.format {
            Format::F32 => QuantMatrix::f32(n, k, &self.data),
            format => QuantMatrix::from_bytes(format, n, k, &self.bytes),
        };
        b.pack(&rows.unwrap()).unwrap()
    }
}

/// Runs the same on the reference and on one and two threads.
fn agree<F: Same>(same: F) {
    let want = same.on(&Reference);
    for threads in [1, 2] {
        let cpu = Cpu::with_instructions(threads, "portable").unwrap();
        // Twice: the second time over scratch that the first one left.
        for _ in 0..2 {
            assert!(same.on(&cpu) == want, "{threads} threads");
        }
    }
}

/// The same lines on any device.
trait Same {
    fn on<B: Backend>(&self, b: &B) -> Vec<u32>;
}

struct Products<'a>(usize, Activations, &'a Stored);

impl Same for Products<'_> {
    fn on<B: Backend>(&self, b: &B) -> Vec<u32> {
        let &Self(m, activations, stored) = self;
        let k = stored.sizes[1];
        let s = GemmShape {
            activations,
            accumulate: m == 1,
            ..GemmShape::new(m, 17, k)
        };
        let mut y = random(b, m * 17, 3);
        let bias = (m > 1).then(|| random(b, 17, 2));
        let (x, w) = (random(b, m * k, 1), stored.on(b));
        b.gemm(s, &x, &w, bias.as_ref(), &mut y).unwrap();
        let mut all = bits(b, &y);
        let s = GatherShape {
            rows: 3,
            width: k,
            table_rows: 17,
        };
        let mut y = random(b, 3 * k, 4);
        b.gather_rows(s, &buffer(b, &[16, 0, 99]), &w, &mut y)
            .unwrap();
        all.extend(bits(b, &y));
        all
    }
}

/// Products and rows of a matrix whose rows are one block.
fn products(format: Format) {
    let stored = Stored::new(format, 17, format.block().max(32));
    for m in [1, 5] {
        for activations in [Activations::F32, Activations::A8] {
            agree(Products(m, activations, &stored));
        }
    }
}

// A test a format: Miri takes minutes for some.
#[test]
fn products_of_f32_agree() {
    products(Format::F32);
}

#[test]
fn products_of_bf16_agree() {
    products(Format::Bf16);
}

#[test]
fn products_of_q8_0_agree() {
    products(Format::Q8_0);
}

#[test]
fn products_of_q4_0_agree() {
    products(Format::Q4_0);
}

#[test]
fn products_of_q4_k_agree() {
    products(Format::Q4K);
}

#[test]
fn products_of_q4_g128_agree() {
    products(Format::Q4G128);
}

struct Convolutions;

impl Same for Convolutions {
    fn on<B: Backend>(&self, b: &B) -> Vec<u32> {
        let mut all = Vec::new();
        for (c_in, format, activations) in [
            (3, Format::F32, Activations::F32),
            (32, Format::Q8_0, Activations::F32),
            (32, Format::Q8_0, Activations::A8),
        ] {
            let s = ConvShape {
                activations,
                ..ConvShape::same(1, [3, 2], c_in, 5, 3)
            };
            let (x, mut y) = (random(b, 6 * c_in, 1), random(b, 30, 2));
            let w = Stored::new(format, 5, s.k()).on(b);
            b.conv2d(s, &x, &w, &random(b, 5, 3), &mut y).unwrap();
            all.extend(bits(b, &y));
        }
        all
    }
}

#[test]
fn convolutions_agree() {
    agree(Convolutions);
}

struct Attentions(usize);

impl Same for Attentions {
    fn on<B: Backend>(&self, b: &B) -> Vec<u32> {
        let s = AttentionShape {
            sequences: 2,
            queries: self.0,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 5,
            q_stride: 11,
            q_offset: 1,
            kv_rows: 20,
            kv_stride: 5,
            kv_head_stride: 100,
            k_offset: 0,
            v_offset: 0,
            causal: true,
            repeated_prefix: false,
            pages: 0,
        };
        let mut out = b.zeros(2 * self.0 * 10).unwrap();
        let (q, kv) = (random(b, 2 * self.0 * 11, 1), random(b, 100, 2));
        let spans = buffer(b, &[0, 4, 4, 16, 0, 0, 17, 3]);
        b.attention(s, &q, &kv, &kv, &spans, &mut out).unwrap();
        bits(b, &out)
    }
}

#[test]
fn attentions_agree() {
    agree(Attentions(1));
    agree(Attentions(3));
}

struct Rows(usize);

impl Same for Rows {
    fn on<B: Backend>(&self, b: &B) -> Vec<u32> {
        let (rows, width) = (3, self.0);
        let s = NormShape {
            rows,
            width,
            eps: 1e-5,
        };
        let (weight, bias) = (random(b, width, 1), random(b, width, 2));
        let (mut x, mut y) = (random(b, 2 * rows * width, 3), random(b, rows * width, 4));
        b.layer_norm(s, &x, &weight, &bias, &mut y).unwrap();
        let mut all = bits(b, &y);
        b.rms_norm(s, &x, &weight, &mut y).unwrap();
        all.extend(bits(b, &y));
        let g = GroupNormShape {
            images: 1,
            pixels: rows,
            channels: width,
            groups: 1,
            eps: 1e-5,
            swish: true,
        };
        b.group_norm(g, &x, &weight, &bias, &mut y).unwrap();
        all.extend(bits(b, &y));
        b.activate(Activation::GeluTanh, rows * width, &mut x)
            .unwrap();
        let g = GateShape {
            rows,
            width,
            activation: Activation::Silu,
        };
        b.gate(g, &x, &mut y).unwrap();
        all.extend(bits(b, &y));
        let filter = Filter::default()
            .with_temperature(0.7)
            .with_top_k(5)
            .with_top_p(0.9);
        let f = FilterShape {
            rows,
            width,
            filter,
        };
        b.filter(f, &mut y, &mut b.zeros(rows * width).unwrap())
            .unwrap();
        let (mut drawn, mut p) = (b.zeros(rows).unwrap(), b.zeros(rows).unwrap());
        let keys = buffer(b, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        b.draw(
            DrawShape { rows, width },
            &mut y,
            &Draw::Keyed(&keys),
            &mut drawn,
            &mut p,
        )
        .unwrap();
        all.extend(codes(b, &drawn));
        let s = NearestShape {
            n: rows,
            width,
            entries: 2,
            normalise: true,
        };
        b.nearest(s, &random(b, rows * width, 7), &x, &mut drawn)
            .unwrap();
        all.extend(codes(b, &drawn));
        all
    }
}

#[test]
fn rows_agree() {
    for width in [1, 7, 17] {
        agree(Rows(width));
    }
}
