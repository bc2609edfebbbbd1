//! Gradients: the bits of the reference, in both orders, around the sizes of tiles, blocks and portions.

use maquette::ops::attention::RotaryShape;
use maquette::ops::backward::attention::SelfAttentionShape;
use maquette::ops::backward::labels::LabelShape;
use maquette::ops::gemm::GemmShape;
use maquette::ops::norm::{Activation, GateShape, HeadNormShape, NormShape};
use maquette::ops::reward_head::PoolShape;
use maquette::ops::vq::GatherShape;
use maquette::ops::{Backend, Backward, Element, Reference};
use maquette::quant::{Format, QuantMatrix};
use maquette::{Error, Result};

use super::{gpu, numbers};

/// Runs the same lines on the reference and on a GPU, and compares what they return.
macro_rules! agree {
    ($what:expr, |$b:ident| $body:expr) => {{
        let want: Vec<Vec<u32>> = {
            let $b = &Reference;
            $body
        };
        gpu::in_both_orders(|$b| {
            let got: Vec<Vec<u32>> = $body;
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let off = got.iter().zip(want).position(|(a, b)| a != b);
                assert!(got == want, "{:?}: result {i} differs at {off:?}", $what);
            }
        });
    }};
}

fn buffer<B: Backend, T: Element>(b: &B, data: &[T]) -> B::Buffer<T> {
    let mut buffer = b.zeros(data.len()).unwrap();
    b.write(&mut buffer, 0, data).unwrap();
    buffer
}

fn random<B: Backend>(b: &B, len: usize, seed: u32) -> B::Buffer<f32> {
    buffer(b, &numbers(len, seed))
}

/// The bits of numbers; all that are none count as one.
fn bits<B: Backend>(b: &B, buffer: &B::Buffer<f32>) -> Vec<u32> {
    let mut out = vec![0.0_f32; b.len(buffer)];
    b.read(buffer, 0, &mut out).unwrap();
    let number = |v: f32| if v.is_nan() { f32::NAN } else { v };
    out.into_iter().map(|v| number(v).to_bits()).collect()
}

fn word(n: usize) -> u32 {
    u32::try_from(n).unwrap()
}

fn matrix<B: Backend>(b: &B, format: Format, [n, k]: [usize; 2]) -> B::Matrix {
    let data = numbers(n * k, 1);
    let mut bytes = vec![0; format.bytes(n, k).unwrap()];
    format.quantise(&data, &mut bytes);
    let w = match format {
        Format::F32 => QuantMatrix::f32(n, k, &data),
        _ => QuantMatrix::from_bytes(format, n, k, &bytes),
    };
    b.pack(&w.unwrap()).unwrap()
}

fn dx<B: Backward>(b: &B, s: GemmShape, format: Format) -> Vec<Vec<u32>> {
    let w = matrix(b, format, [s.n, s.k]);
    let dy = random(b, s.m * s.n, 2);
    let mut dx = random(b, s.m * s.k, 3);
    b.gemm_dx(s, &dy, &w, &mut dx).unwrap();
    vec![bits(b, &dx)]
}

fn dw<B: Backward>(b: &B, s: GemmShape) -> Vec<Vec<u32>> {
    let (dy, x) = (random(b, s.m * s.n, 2), random(b, s.m * s.k, 3));
    let mut dw = random(b, s.n * s.k, 4);
    b.gemm_dw(s, &dy, &x, &mut dw).unwrap();
    vec![bits(b, &dw)]
}

#[test]
fn gradients_of_inputs_have_the_bits_of_the_reference_in_every_format() {
    for &format in Format::ALL {
        // Around a strip of outputs, the 128 that lie in shared memory, a sum's length, and a block of rows.
        for (m, n) in [(0, 3), (1, 1), (2, 33), (15, 128), (16, 131), (17, 257)] {
            let s = GemmShape {
                accumulate: m % 2 == 1,
                ..GemmShape::new(m, n, format.block().max(32))
            };
            agree!((s, format), |b| dx(b, s, format));
        }
        // Blocks of inputs, a half of what a block of threads takes among them.
        let s = GemmShape::new(3, 40, 3 * format.block().max(32));
        agree!((s, format), |b| dx(b, s, format));
    }
    for k in [1, 31, 33, 65, 97] {
        for format in [Format::F32, Format::Bf16] {
            let s = GemmShape::new(5, 300, k);
            agree!((s, format), |b| dx(b, s, format));
        }
    }
}

#[test]
fn gradients_of_weights_have_the_bits_of_the_reference() {
    for (m, n, k) in [
        (0, 3, 5),
        (1, 1, 1),
        (15, 64, 3),
        (16, 3, 64),
        (17, 65, 66),
        (255, 5, 7),
        (256, 7, 5),
        (257, 63, 2),
        (530, 2, 63),
    ] {
        let s = GemmShape::new(m, n, k);
        agree!(s, |b| dw(b, s));
    }
}

#[test]
fn a_row_of_gradients_has_the_same_bits_at_any_number_of_rows() {
    let device = gpu::device();
    let (n, k) = (290, 96);
    let w = matrix(&device, Format::Q4_0, [n, k]);
    let rows = numbers(65 * n, 2);
    let of = |m: usize| {
        let dy = buffer(&device, &rows[..m * n]);
        let mut dx = device.zeros(m * k).unwrap();
        let s = GemmShape::new(m, n, k);
        device.gemm_dx(s, &dy, &w, &mut dx).unwrap();
        bits(&device, &dx)
    };
    let all = of(65);
    for m in [1, 2, 15, 16, 17, 64] {
        assert!(of(m) == all[..m * k], "{m} rows");
    }
}

/// What is summed over rows: biases, norms' weights, rows of a table.
#[test]
fn sums_over_rows_have_the_bits_of_the_reference() {
    for (rows, width) in [(0, 3), (1, 1), (5, 64), (7, 65), (33, 130)] {
        agree!((rows, width), |b| {
            let dy = random(b, rows * width, 1);
            let mut out = random(b, width, 2);
            b.sum_rows([rows, width], &dy, &mut out).unwrap();
            vec![bits(b, &out)]
        });
    }
    // The last two: rows of a table whose first gradient is one of the last, in more columns than a block has threads.
    for (rows, width, table_rows) in [
        (0, 3, 2),
        (1, 1, 1),
        (9, 3, 4),
        (300, 5, 7),
        (12, 300, 3),
        (2, 300, 3),
        (3, 300, 4),
    ] {
        let s = GatherShape {
            rows,
            width,
            table_rows,
        };
        // Some stand outside the table, some rows of it get nothing; the last one comes late.
        let own = |r: usize| (r * r + r / 256) % (table_rows + 2);
        let index: Vec<u32> = (0..rows).map(|r| word(own(r))).collect();
        agree!(s, |b| {
            let (index, dy) = (buffer(b, &index), random(b, rows * width, 1));
            let mut dw = random(b, table_rows * width, 2);
            b.gather_dw(s, &index, &dy, &mut dw).unwrap();
            vec![bits(b, &dw)]
        });
    }
}

#[test]
fn gradients_of_norms_have_the_bits_of_the_reference() {
    for (rows, width) in [(0, 4), (1, 1), (3, 15), (16, 16), (17, 17), (35, 70)] {
        let s = NormShape {
            rows,
            width,
            eps: 1e-5,
        };
        let len = rows * width;
        agree!(s, |b| {
            let (x, dy, weight) = (random(b, len, 1), random(b, len, 2), random(b, width, 3));
            let mut dx = [random(b, len, 4), random(b, len, 5)];
            b.layer_norm_dx(s, &x, &weight, &dy, &mut dx[0]).unwrap();
            b.rms_norm_dx(s, &x, &weight, &dy, &mut dx[1]).unwrap();
            let mut dw = [random(b, 2 * width, 6), random(b, width, 7)];
            b.layer_norm_dw(s, &x, &dy, &mut dw[0]).unwrap();
            b.rms_norm_dw(s, &x, &dy, &mut dw[1]).unwrap();
            dx.iter().chain(&dw).map(|v| bits(b, v)).collect()
        });
    }
    for (rows, heads, head_dim, offset, rest) in [
        (0, 2, 3, 0, 0),
        (3, 0, 4, 0, 0),
        (1, 1, 1, 0, 0),
        (7, 5, 17, 3, 2),
        (5, 3, 70, 0, 40),
    ] {
        let s = HeadNormShape {
            rows,
            heads,
            head_dim,
            stride: heads * head_dim + offset + rest,
            offset,
            eps: 1e-5,
        };
        let len = rows * s.stride;
        agree!(s, |b| {
            let (x, weight) = (random(b, len, 1), random(b, head_dim, 2));
            let mut d = random(b, len, 3);
            let mut dw = random(b, 2 * head_dim, 4);
            b.head_norm_dw(s, &x, &d, &mut dw).unwrap();
            b.head_norm_dx(s, &x, &weight, &mut d).unwrap();
            vec![bits(b, &d), bits(b, &dw)]
        });
    }
}

#[test]
fn slopes_have_the_bits_of_the_reference() {
    for activation in [
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::Silu,
        Activation::Relu,
    ] {
        // Small numbers, and as many large ones of either sign, where exponentials end.
        let mut x = numbers(700, 1);
        x.iter_mut().step_by(2).for_each(|v| *v *= 60.0);
        x.extend([0.0, -0.0, 1.0, -1.0, 1e30, -1e30, 1e-30, 88.9, -88.9]);
        for len in [0, 1, 255, 256, 257, x.len()] {
            agree!((activation, len), |b| {
                let (x, mut d) = (buffer(b, &x), random(b, len + 3, 2));
                b.activate_dx(activation, len, &x, &mut d).unwrap();
                vec![bits(b, &d)]
            });
        }
        for (rows, width) in [(0, 3), (1, 1), (3, 85), (2, 173)] {
            let s = GateShape {
                rows,
                width,
                activation,
            };
            agree!(s, |b| {
                let (x, dy) = (buffer(b, &x), random(b, rows * width, 2));
                let mut dx = random(b, 2 * rows * width, 3);
                b.gate_dx(s, &x, &dy, &mut dx).unwrap();
                vec![bits(b, &dx)]
            });
        }
    }
}

#[test]
fn rotations_back_have_the_bits_of_the_reference() {
    for (rows, heads, rotary_dim, rest) in [(0, 1, 2, 0), (1, 1, 0, 1), (3, 2, 4, 3), (70, 3, 6, 0)]
    {
        let head_dim = rotary_dim + rest;
        let s = RotaryShape {
            rows,
            heads,
            head_dim,
            rotary_dim,
            stride: heads * head_dim + 5,
            offset: 2,
            positions: 5,
        };
        // Some positions stand outside the table.
        let positions: Vec<u32> = (0..rows).map(|r| word(r * 5 % 7)).collect();
        agree!(s, |b| {
            let (positions, table) = (buffer(b, &positions), random(b, 5 * rotary_dim, 1));
            let mut d = random(b, rows * s.stride, 2);
            b.rotary_dx(s, &mut d, &positions, &table).unwrap();
            vec![bits(b, &d)]
        });
    }
}

fn attention<B: Backward>(b: &B, s: SelfAttentionShape) -> Vec<Vec<u32>> {
    let qkv = random(b, s.rows * s.stride(), 5);
    let dy = random(b, s.rows * s.n_heads * s.head_dim, 6);
    let mut out = random(b, s.rows * s.stride(), 7);
    b.attention_dx(s, &qkv, &dy, &mut out).unwrap();
    vec![bits(b, &out)]
}

#[test]
fn gradients_of_attention_have_the_bits_of_the_reference() {
    for (rows, n_heads, n_kv_heads, head_dim) in [
        (0, 1, 1, 4),
        (1, 2, 2, 1),
        (3, 4, 2, 5),
        (5, 2, 1, 20),
        (5, 2, 1, 33),
        (6, 2, 1, 50),
        (7, 1, 1, 2),
        (8, 2, 1, 6),
        (17, 2, 2, 16),
        (18, 3, 1, 70),
        (64, 1, 1, 3),
        (67, 2, 2, 3),
        (131, 1, 1, 8),
    ] {
        for causal in [0, rows / 3, rows * 3 / 4, rows] {
            let s = SelfAttentionShape {
                rows,
                n_heads,
                n_kv_heads,
                head_dim,
                causal,
            };
            agree!(s, |b| attention(b, s));
        }
    }
}

/// Rows that see only what stands before them leave what stands behind alone, whatever they hold.
#[test]
fn rows_without_numbers_reach_only_the_keys_that_they_see() {
    let s = SelfAttentionShape {
        rows: 9,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 3,
        causal: 9,
    };
    for wrong in 0..4 {
        let mut qkv = numbers(s.rows * s.stride(), 5);
        qkv[wrong * s.stride()] = f32::NAN;
        agree!(wrong, |b| {
            let (qkv, dy) = (
                buffer(b, &qkv),
                random(b, s.rows * s.n_heads * s.head_dim, 6),
            );
            let mut out = random(b, s.rows * s.stride(), 7);
            b.attention_dx(s, &qkv, &dy, &mut out).unwrap();
            vec![bits(b, &out)]
        });
    }
}

/// More query rows of all heads than are gone over at once.
#[test]
fn gradients_of_attention_in_portions_have_the_bits_of_the_reference() {
    let s = SelfAttentionShape {
        rows: 67,
        n_heads: 32,
        n_kv_heads: 32,
        head_dim: 2,
        causal: 66,
    };
    agree!(s, |b| attention(b, s));
}

#[test]
fn gradients_of_pooled_rows_have_the_bits_of_the_reference() {
    for [views, rows, heads, head_dim] in [[0, 1, 1, 1], [1, 1, 1, 1], [3, 17, 2, 33], [7, 5, 3, 8]]
    {
        let s = PoolShape {
            views,
            rows,
            heads,
            head_dim,
        };
        let len = views * rows * s.width().unwrap();
        agree!(s, |b| {
            let (x, dy) = (random(b, len, 1), random(b, views * heads * head_dim, 2));
            let mut dx = random(b, len, 3);
            b.pool_rows_dx(s, &x, &dy, &mut dx).unwrap();
            vec![bits(b, &dx)]
        });
    }
}

#[test]
fn log_probabilities_have_the_bits_of_the_reference() {
    // The last two: more than eight numbers a thread, and more than lie in shared memory at once.
    for (rows, width) in [
        (0, 3),
        (1, 1),
        (4, 16),
        (5, 300),
        (2, 1024),
        (3, 1061),
        (2, 2750),
        (2, 5900),
    ] {
        let s = LabelShape { rows, width };
        // One label stands outside the row; one row has a number far above the others at its end.
        let labels: Vec<u32> = (0..rows)
            .map(|r| word((r * 700 + 3) % (width + 1)))
            .collect();
        let mut logits = numbers(rows * width, 1);
        if let Some(last) = logits.last_mut() {
            *last = 30.0;
        }
        agree!(s, |b| {
            let (labels, weights) = (buffer(b, &labels), random(b, rows, 2));
            let (mut logits, mut out) = (buffer(b, &logits), random(b, rows, 3));
            b.log_probs(s, &logits, &labels, &mut out).unwrap();
            b.log_probs_dx(s, &labels, &weights, &mut logits).unwrap();
            vec![bits(b, &out), bits(b, &logits)]
        });
    }
    let device = gpu::device();
    for wrong in [f32::NAN, f32::INFINITY] {
        let s = LabelShape { rows: 1, width: 3 };
        let (logits, labels) = (
            buffer(&device, &[1.0, wrong, 2.0]),
            buffer(&device, &[0_u32]),
        );
        let mut out = device.zeros(1).unwrap();
        device.log_probs(s, &logits, &labels, &mut out).unwrap();
        let mut number = [0.0];
        device.read(&out, 0, &mut number).unwrap();
        assert!(number[0].is_nan(), "{wrong}");
    }
}

#[test]
fn gradients_of_wrong_lengths_and_of_heads_that_are_too_wide_are_errors() {
    let b = gpu::device();
    let short =
        |result: Result<()>| assert!(matches!(result, Err(Error::Length { .. })), "{result:?}");
    let (x, mut y) = (b.zeros::<f32>(8).unwrap(), b.zeros::<f32>(8).unwrap());
    let index = b.zeros::<u32>(2).unwrap();
    let w = matrix(&b, Format::F32, [3, 4]);
    let s = GemmShape::new(3, 3, 4);
    short(b.gemm_dx(s, &x, &w, &mut y));
    short(b.gemm_dw(s, &x, &x, &mut y));
    short(b.sum_rows([3, 3], &x, &mut y));
    let s = NormShape {
        rows: 3,
        width: 3,
        eps: 1e-5,
    };
    short(b.layer_norm_dx(s, &x, &x, &x, &mut y));
    short(b.rms_norm_dw(s, &x, &x, &mut y));
    let s = NormShape {
        rows: 1,
        width: 5,
        ..s
    };
    short(b.layer_norm_dw(s, &x, &x, &mut y));
    short(b.activate_dx(Activation::Silu, 9, &x, &mut y));
    let s = GateShape {
        rows: 1,
        width: 5,
        activation: Activation::Silu,
    };
    short(b.gate_dx(s, &x, &x, &mut y));
    let s = LabelShape { rows: 3, width: 2 };
    short(b.log_probs(s, &x, &index, &mut y));
    short(b.log_probs_dx(s, &index, &x, &mut y));
    let s = GatherShape {
        rows: 3,
        width: 2,
        table_rows: 2,
    };
    short(b.gather_dw(s, &index, &x, &mut y));
    let s = SelfAttentionShape {
        rows: 0,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 513,
        causal: 0,
    };
    assert!(matches!(
        b.attention_dx(s, &x, &x, &mut y),
        Err(Error::Range {
            got: 513,
            max: 512,
            ..
        })
    ));
    let s = SelfAttentionShape {
        rows: 2,
        head_dim: 2,
        ..s
    };
    short(b.attention_dx(s, &x, &x, &mut y));
}
