//! The CPU gives the bits of the reference: any size, any number of threads.

use maquette::Error;
use maquette::ops::backward::attention::SelfAttentionShape;
use maquette::ops::backward::labels::LabelShape;
use maquette::ops::gemm::GemmShape;
use maquette::ops::norm::{Activation, GateShape, HeadNormShape, NormShape};
use maquette::ops::reward_head::PoolShape;
use maquette::ops::{Backend, Backward, Reference};
use maquette::quant::Format;
use proptest::prelude::*;

use super::{buffer, cpus, floats, matrix, numbers};

/// Runs the same lines on the reference and on every CPU device.
macro_rules! agree {
    (|$b:ident| $body:expr) => {{
        let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let want = {
            let $b = &Reference;
            bits($body)
        };
        for $b in cpus() {
            assert!(
                bits($body) == want,
                "{} threads differ from the reference",
                $b.threads()
            );
        }
    }};
}

fn dx<B: Backward>(b: &B, s: GemmShape, format: Format) -> Vec<f32> {
    let (w, _) = matrix(b, format, [s.n, s.k], 1);
    let dy = buffer(b, &numbers(s.m * s.n, 2));
    let mut dx = buffer(b, &numbers(s.m * s.k, 3));
    b.gemm_dx(s, &dy, &w, &mut dx).unwrap();
    floats(b, &dx)
}

fn dw<B: Backward>(b: &B, s: GemmShape) -> Vec<f32> {
    let dy = buffer(b, &numbers(s.m * s.n, 2));
    let x = buffer(b, &numbers(s.m * s.k, 3));
    let mut dw = buffer(b, &numbers(s.n * s.k, 4));
    b.gemm_dw(s, &dy, &x, &mut dw).unwrap();
    floats(b, &dw)
}

fn attention<B: Backward>(b: &B, s: SelfAttentionShape) -> Vec<f32> {
    let qkv = buffer(b, &numbers(s.rows * s.stride(), 5));
    let dy = buffer(b, &numbers(s.rows * s.n_heads * s.head_dim, 6));
    let mut out = buffer(b, &numbers(s.rows * s.stride(), 7));
    b.attention_dx(s, &qkv, &dy, &mut out).unwrap();
    floats(b, &out)
}

#[test]
fn products_of_every_format_agree_around_the_tile_sizes() {
    for &format in Format::ALL {
        for n in [1, 15, 16, 17, 63, 64, 65, 129, 257] {
            for (m, k) in [(1, 32), (5, 64), (47, 96), (48, 160), (49, 32)] {
                let format = format.fitting(k);
                agree!(|b| dx(b, GemmShape::new(m, n, k), format));
            }
            // Whole blocks of every format, cut in the middle.
            agree!(|b| dx(b, GemmShape::new(3, n, 768), format));
        }
    }
    for k in [1, 15, 16, 17, 31, 63, 65, 127, 129] {
        for format in [Format::F32, Format::Bf16] {
            agree!(|b| dx(b, GemmShape::new(3, 70, k), format));
            let s = GemmShape {
                accumulate: true,
                ..GemmShape::new(50, 33, k)
            };
            agree!(|b| dx(b, s, format));
        }
    }
    agree!(|b| dx(b, GemmShape::new(0, 3, 32), Format::Q8_0));
    // Many rows and columns, so that panels of columns are shared out.
    for (m, n, k) in [
        (49, 17, 384),
        (96, 300, 416),
        (150, 64, 448),
        (97, 257, 544),
    ] {
        for format in Format::ALL.iter().map(|format| format.fitting(k)) {
            let s = GemmShape {
                accumulate: m == 96,
                ..GemmShape::new(m, n, k)
            };
            agree!(|b| dx(b, s, format));
        }
    }
    agree!(|b| dx(b, GemmShape::new(60, 33, 397), Format::F32));
}

#[test]
fn gradients_of_weights_agree_around_the_tile_sizes() {
    for m in [0, 1, 15, 16, 17, 255, 256, 257, 300] {
        for (n, k) in [(1, 1), (4, 70), (16, 64), (17, 33), (49, 65), (100, 16)] {
            agree!(|b| dw(b, GemmShape::new(m, n, k)));
        }
    }
}

#[test]
fn attentions_agree_around_the_tile_sizes() {
    for rows in [0, 1, 15, 16, 17, 48, 49, 63, 64, 65, 130] {
        for (n_heads, n_kv_heads, head_dim) in [(2, 2, 16), (4, 2, 5), (3, 1, 70)] {
            for causal in [0, rows / 3, rows] {
                let s = SelfAttentionShape {
                    rows,
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    causal,
                };
                agree!(|b| attention(b, s));
            }
        }
    }
}

#[test]
fn rows_agree() {
    // None; and wide enough that the threads share them.
    for (rows, width) in [(0, 3), (1, 1), (3, 17), (70, 300)] {
        let s = NormShape {
            rows,
            width,
            eps: 1e-5,
        };
        let len = rows * width;
        agree!(|b| {
            let (x, dy) = (buffer(b, &numbers(len, 1)), buffer(b, &numbers(len, 2)));
            let weight = buffer(b, &numbers(width, 3));
            let mut out = Vec::new();
            let mut dx = buffer(b, &numbers(len, 4));
            b.layer_norm_dx(s, &x, &weight, &dy, &mut dx).unwrap();
            b.rms_norm_dx(s, &x, &weight, &dy, &mut dx).unwrap();
            out.extend(floats(b, &dx));
            let mut dw = buffer(b, &numbers(2 * width, 5));
            b.layer_norm_dw(s, &x, &dy, &mut dw).unwrap();
            b.rms_norm_dw(s, &x, &dy, &mut dw).unwrap();
            b.sum_rows([rows, width], &dy, &mut dw).unwrap();
            out.extend(floats(b, &dw));
            for activation in [
                Activation::GeluTanh,
                Activation::GeluErf,
                Activation::Silu,
                Activation::Relu,
            ] {
                let mut d = buffer(b, &numbers(len, 6));
                b.activate_dx(activation, len, &x, &mut d).unwrap();
                out.extend(floats(b, &d));
            }
            let gate = GateShape {
                rows,
                width,
                activation: Activation::Silu,
            };
            let both = buffer(b, &numbers(2 * len, 7));
            let mut dx = b.zeros(2 * len).unwrap();
            b.gate_dx(gate, &both, &dy, &mut dx).unwrap();
            out.extend(floats(b, &dx));
            let labels: Vec<u32> = (0..rows)
                .map(|r| u32::try_from(r % (width + 1)).unwrap())
                .collect();
            let (s, labels) = (LabelShape { rows, width }, buffer(b, &labels));
            let mut p = b.zeros(rows).unwrap();
            b.log_probs(s, &x, &labels, &mut p).unwrap();
            out.extend(floats(b, &p));
            let mut logits = buffer(b, &numbers(len, 1));
            b.log_probs_dx(s, &labels, &dy, &mut logits).unwrap();
            out.extend(floats(b, &logits));
            out
        });
    }
    for rows in [0, 60] {
        let s = HeadNormShape {
            rows,
            heads: 3,
            head_dim: 20,
            stride: 200,
            offset: 40,
            eps: 1e-5,
        };
        agree!(|b| {
            let x = buffer(b, &numbers(s.rows * s.stride, 1));
            let weight = buffer(b, &numbers(s.head_dim, 2));
            let mut d = buffer(b, &numbers(s.rows * s.stride, 3));
            let mut dw = b.zeros(2 * s.head_dim).unwrap();
            b.head_norm_dw(s, &x, &d, &mut dw).unwrap();
            b.head_norm_dx(s, &x, &weight, &mut d).unwrap();
            [floats(b, &d), floats(b, &dw)].concat()
        });
    }
}

#[test]
fn pooled_rows_agree() {
    for [views, rows, heads, head_dim] in
        [[0, 2, 1, 3], [1, 1, 1, 1], [3, 17, 2, 33], [40, 64, 8, 16]]
    {
        let s = PoolShape {
            views,
            rows,
            heads,
            head_dim,
        };
        let len = views * rows * s.width().unwrap();
        agree!(|b| {
            let x = buffer(b, &numbers(len, 1));
            let dy = buffer(b, &numbers(views * heads * head_dim, 2));
            let mut dx = buffer(b, &numbers(len, 3));
            b.pool_rows_dx(s, &x, &dy, &mut dx).unwrap();
            floats(b, &dx)
        });
    }
}

/// Sizes of one item that do not fit, where there is no item.
fn refuses_sizes<B: Backward>(b: &B) {
    let (x, mut dx) = (b.zeros(16).unwrap(), b.zeros(16).unwrap());
    let rows = GateShape {
        rows: 0,
        width: usize::MAX / 2 + 1,
        activation: Activation::Relu,
    };
    let views = PoolShape {
        views: 0,
        rows: usize::MAX / 4 + 1,
        heads: 2,
        head_dim: 1,
    };
    let heads = SelfAttentionShape {
        rows: 0,
        n_heads: usize::MAX / 4 + 1,
        n_kv_heads: usize::MAX / 4 + 1,
        head_dim: 2,
        causal: 0,
    };
    for (of, result) in [
        ("gate", b.gate_dx(rows, &x, &x, &mut dx)),
        ("pool_rows", b.pool_rows_dx(views, &x, &x, &mut dx)),
        ("attention_dx", b.attention_dx(heads, &x, &x, &mut dx)),
    ] {
        assert!(
            matches!(result, Err(Error::Overflow { op }) if op == of),
            "{of}: {result:?}"
        );
    }
}

#[test]
fn a_zero_hides_no_size_that_overflows() {
    refuses_sizes(&Reference);
    cpus().iter().for_each(refuses_sizes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_products_agree(m in 0_usize..60, n in 1_usize..300, blocks in 1_usize..17, format in 0..Format::ALL.len(), accumulate: bool) {
        let s = GemmShape { accumulate, ..GemmShape::new(m, n, 32 * blocks) };
        agree!(|b| dx(b, s, Format::ALL[format].fitting(s.k)));
        agree!(|b| dw(b, s));
    }

    #[test]
    fn prop_attentions_agree(rows in 1_usize..80, group in 1_usize..3, kv in 1_usize..3, head_dim in 1_usize..70, share in 0_usize..5) {
        let s = SelfAttentionShape { rows, n_heads: group * kv, n_kv_heads: kv, head_dim, causal: rows * share / 4 };
        agree!(|b| attention(b, s));
    }
}
