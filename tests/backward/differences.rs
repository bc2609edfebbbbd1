//! Every gradient against central differences of the same formula in F64.

use maquette::ops::attention::RotaryShape;
use maquette::ops::backward::attention::SelfAttentionShape;
use maquette::ops::backward::labels::LabelShape;
use maquette::ops::gemm::GemmShape;
use maquette::ops::norm::{Activation, GateShape, HeadNormShape, NormShape};
use maquette::ops::reward_head::PoolShape;
use maquette::ops::vq::GatherShape;
use maquette::ops::{Backward, Reference};
use maquette::quant::Format;
use proptest::prelude::*;

use super::{buffer, floats, matrix, numbers};

/// Of the largest gradient, at least of 1: sums of some hundred F32 terms are off by so much; the differences
/// themselves are right to 1e-8.
const TOLERANCE: f64 = 3e-5;
const STEP: f64 = 1e-5;
const EPS: f64 = 1e-5;

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Compares `got` with the differences of Σ c · y(x), where c is the gradient that was fed.
fn check(what: &str, x: &[f32], c: &[f32], got: &[f32], y: &dyn Fn(&[f64]) -> Vec<f64>) {
    let (mut x, c) = (wide(x), wide(c));
    let loss = |x: &[f64]| -> f64 {
        let y = y(x);
        assert_eq!(y.len(), c.len());
        y.iter().zip(&c).map(|(y, c)| y * c).sum()
    };
    let mut want = Vec::new();
    for i in 0..x.len() {
        let own = x[i];
        x[i] = own + STEP;
        let above = loss(&x);
        x[i] = own - STEP;
        want.push((above - loss(&x)) / (2.0 * STEP));
        x[i] = own;
    }
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let off = (f64::from(*got) - want).abs();
        assert!(
            off <= TOLERANCE * largest,
            "{what}: {got} for {want} at {i}"
        );
    }
}

/// Runs an operation that changes one buffer, which starts as `start`, on the reference and on a GPU: both have the same
/// bits, so what is said of one holds for the other.
macro_rules! run {
    ($start:expr, |$b:ident, $out:ident| $body:expr) => {{
        let start = $start;
        let want = {
            let $b = &Reference;
            let mut $out = buffer($b, &start);
            $body.unwrap();
            floats($b, &$out)
        };
        #[cfg(feature = "cuda")]
        crate::gpu::in_both_orders(|$b| {
            let mut $out = buffer($b, &start);
            $body.unwrap();
            let got = floats($b, &$out);
            let same = got
                .iter()
                .zip(&want)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "the GPU differs from the reference");
        });
        want
    }};
}

fn product(x: &[f64], w: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let mut y = Vec::new();
    for i in 0..m {
        for j in 0..n {
            y.push((0..k).map(|t| x[i * k + t] * w[j * k + t]).sum());
        }
    }
    y
}

fn norm(x: &[f64], weight: &[f64], bias: &[f64], centred: bool) -> Vec<f64> {
    let width = weight.len();
    x.chunks(width)
        .flat_map(|x| {
            let mean = if centred {
                x.iter().sum::<f64>() / width as f64
            } else {
                0.0
            };
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (variance + EPS).sqrt();
            let row = x.iter().zip(weight).zip(bias);
            row.map(|((x, w), b)| (x - mean) * scale * w + b)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn activation(a: Activation, x: f64) -> f64 {
    let gaussian = |x: f64| 0.5 * (1.0 + libm_erf(x / 2.0_f64.sqrt()));
    match a {
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::GeluErf => x * gaussian(x),
        Activation::Silu => x / (1.0 + (-x).exp()),
        _ => x.max(0.0),
    }
}

/// The error function by its series, for |x| up to 2.
fn libm_erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..80 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn attention(s: &SelfAttentionShape, qkv: &[f64]) -> Vec<f64> {
    let (d, stride) = (s.head_dim, s.stride());
    let mut out = Vec::new();
    for i in 0..s.rows {
        for h in 0..s.n_heads {
            let kv = h / (s.n_heads / s.n_kv_heads);
            let q = &qkv[i * stride + h * d..][..d];
            let seen = if i < s.causal { i + 1 } else { s.rows };
            let part = |j: usize, at: usize| &qkv[j * stride + at * d..][..d];
            let e: Vec<f64> = (0..seen)
                .map(|j| {
                    let k = part(j, s.n_heads + kv);
                    let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                    (dot / (d as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = e.iter().sum();
            for t in 0..d {
                let sum: f64 = (0..seen)
                    .map(|j| e[j] * part(j, s.n_heads + s.n_kv_heads + kv)[t])
                    .sum();
                out.push(sum / total);
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_products(m in 1_usize..5, n in 1_usize..9, blocks in 1_usize..9, format in 0..Format::ALL.len(), seed: u16) {
        let (k, seed) = (32 * blocks, u32::from(seed));
        let s = GemmShape::new(m, n, k);
        let (format, size) = (Format::ALL[format].fitting(k), [n, k]);
        let (x, dy) = (numbers(m * k, seed + 1), numbers(m * n, seed + 2));
        let stored = wide(&matrix(&Reference, format, size, seed).1);
        let dx = run!(numbers(m * k, 9), |b, dx| {
            b.gemm_dx(s, &buffer(b, &dy), &matrix(b, format, size, seed).0, &mut dx)
        });
        check("dx", &x, &dy, &dx, &|x| product(x, &stored, [m, n, k]));
        let dw = run!(vec![0.0; n * k], |b, dw| b.gemm_dw(s, &buffer(b, &dy), &buffer(b, &x), &mut dw));
        let (w, fixed) = (numbers(n * k, seed), wide(&x));
        check("dw", &w, &dy, &dw, &|w| product(&fixed, w, [m, n, k]));
        let db = run!(vec![0.0; n], |b, db| b.sum_rows([m, n], &buffer(b, &dy), &mut db));
        check("db", &numbers(n, 4), &dy, &db, &|bias| bias.repeat(m));
    }

    #[test]
    fn prop_norms(rows in 1_usize..4, width in 2_usize..40, centred: bool, seed: u16) {
        let seed = u32::from(seed);
        let s = NormShape { rows, width, eps: 1e-5 };
        let (x, dy) = (numbers(rows * width, seed), numbers(rows * width, seed + 1));
        let (weight, bias) = (numbers(width, seed + 2), numbers(width, seed + 3));
        let dx = run!(vec![0.0; rows * width], |b, dx| {
            let [x, w, dy] = [&x, &weight, &dy].map(|v| buffer(b, v));
            if centred { b.layer_norm_dx(s, &x, &w, &dy, &mut dx) } else { b.rms_norm_dx(s, &x, &w, &dy, &mut dx) }
        });
        let (w64, b64, x64) = (wide(&weight), wide(&bias), wide(&x));
        check("dx", &x, &dy, &dx, &|x| norm(x, &w64, &b64, centred));
        let dw = run!(vec![0.0; 2 * width], |b, dw| {
            let [x, dy] = [&x, &dy].map(|v| buffer(b, v));
            if centred { b.layer_norm_dw(s, &x, &dy, &mut dw) } else { b.rms_norm_dw(s, &x, &dy, &mut dw) }
        });
        check("dw", &weight, &dy, &dw[..width], &|w| norm(&x64, w, &b64, centred));
        if centred {
            check("db", &bias, &dy, &dw[width..], &|bias| norm(&x64, &w64, bias, centred));
        }
    }

    #[test]
    fn prop_head_norms(rows in 1_usize..3, heads in 1_usize..4, head_dim in 2_usize..20, offset in 0_usize..5, seed: u16) {
        let seed = u32::from(seed);
        let stride = heads * head_dim + offset + 2;
        let s = HeadNormShape { rows, heads, head_dim, stride, offset, eps: 1e-5 };
        let (x, dy) = (numbers(rows * stride, seed), numbers(rows * stride, seed + 1));
        let (weight, bias) = (numbers(head_dim, seed + 2), numbers(head_dim, seed + 3));
        let (w64, b64, x64) = (wide(&weight), wide(&bias), wide(&x));
        let y = |x: &[f64], w: &[f64], bias: &[f64]| {
            let mut y = x.to_vec();
            for row in y.chunks_mut(stride) {
                for head in row[offset..].chunks_mut(head_dim).take(heads) {
                    head.copy_from_slice(&norm(head, w, bias, true));
                }
            }
            y
        };
        let d = run!(&dy, |b, d| b.head_norm_dx(s, &buffer(b, &x), &buffer(b, &weight), &mut d));
        check("dx", &x, &dy, &d, &|x| y(x, &w64, &b64));
        let dw = run!(vec![0.0; 2 * head_dim], |b, dw| b.head_norm_dw(s, &buffer(b, &x), &buffer(b, &dy), &mut dw));
        check("dw", &weight, &dy, &dw[..head_dim], &|w| y(&x64, w, &b64));
        check("db", &bias, &dy, &dw[head_dim..], &|bias| y(&x64, &w64, bias));
    }

    #[test]
    fn prop_activations_and_gates(rows in 1_usize..4, width in 1_usize..20, which in 0_usize..4, seed: u16) {
        let a = [Activation::GeluTanh, Activation::GeluErf, Activation::Silu, Activation::Relu][which];
        let (seed, len) = (u32::from(seed), rows * width);
        let (mut x, dy) = (numbers(2 * len, seed), numbers(len, seed + 1));
        // At a kink there is no slope to compare with.
        x.iter_mut().filter(|x| x.abs() < 1e-3).for_each(|x| *x = 0.5);
        let d = run!(&dy, |b, d| b.activate_dx(a, len, &buffer(b, &x), &mut d));
        check("activation", &x[..len], &dy, &d, &|x| x.iter().map(|&v| activation(a, v)).collect());
        let s = GateShape { rows, width, activation: a };
        let dx = run!(numbers(2 * len, 5), |b, dx| b.gate_dx(s, &buffer(b, &x), &buffer(b, &dy), &mut dx));
        check("gate", &x, &dy, &dx, &|x| {
            x.chunks(2 * width)
                .flat_map(|row| (0..width).map(|i| activation(a, row[i]) * row[width + i]).collect::<Vec<_>>())
                .collect()
        });
    }

    #[test]
    fn prop_attention(rows in 1_usize..7, group in 1_usize..3, kv in 1_usize..3, head_dim in 1_usize..7, causal in 0_usize..7, seed: u16) {
        let seed = u32::from(seed);
        let s = SelfAttentionShape { rows, n_heads: group * kv, n_kv_heads: kv, head_dim, causal: causal.min(rows) };
        let (qkv, dy) = (numbers(rows * s.stride(), seed), numbers(rows * s.n_heads * head_dim, seed + 1));
        let d = run!(numbers(qkv.len(), 3), |b, d| b.attention_dx(s, &buffer(b, &qkv), &buffer(b, &dy), &mut d));
        check("attention", &qkv, &dy, &d, &|qkv| attention(&s, qkv));
    }

    #[test]
    fn prop_pooled_rows(views in 1_usize..3, rows in 1_usize..6, heads in 1_usize..4, head_dim in 1_usize..6, seed: u16) {
        let seed = u32::from(seed);
        let s = PoolShape { views, rows, heads, head_dim };
        let width = s.width().unwrap();
        let (x, dy) = (numbers(views * rows * width, seed), numbers(views * heads * head_dim, seed + 1));
        let d = run!(vec![9.0; x.len()], |b, d| b.pool_rows_dx(s, &buffer(b, &x), &buffer(b, &dy), &mut d));
        check("pooled rows", &x, &dy, &d, &|x| {
            let mut y = Vec::new();
            for view in x.chunks(rows * width) {
                for h in 0..heads {
                    let weights: Vec<f64> = view.chunks(width).map(|row| row[h].exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let of = |i: usize| weights.iter().zip(view.chunks(width)).map(|(w, row)| w * row[heads + h * head_dim + i]).sum::<f64>();
                    y.extend((0..head_dim).map(|i| of(i) / total));
                }
            }
            y
        });
    }

    #[test]
    fn prop_rotary(rows in 1_usize..4, heads in 1_usize..3, pairs in 0_usize..4, rest in 0_usize..3, seed: u16) {
        let (seed, rotary_dim) = (u32::from(seed), 2 * pairs);
        let head_dim = rotary_dim + rest + 1;
        let s = RotaryShape { rows, heads, head_dim, rotary_dim, stride: heads * head_dim + 1, offset: 1, positions: 3 };
        // Any table: a rotation by zeros, as some models have it, is no rotation.
        let (x, table) = (numbers(rows * s.stride, seed), numbers(3 * rotary_dim, seed + 1));
        let dy = numbers(rows * s.stride, seed + 2);
        let positions: Vec<u32> = (0..rows).map(|r| (u32::try_from(r).unwrap() + seed) % 4).collect();
        let d = run!(&dy, |b, d| b.rotary_dx(s, &mut d, &buffer(b, &positions), &buffer(b, &table)));
        let table = wide(&table);
        check("rotary", &x, &dy, &d, &|x| {
            let mut y = x.to_vec();
            for (row, &p) in y.chunks_mut(s.stride).zip(&positions).filter(|(_, p)| **p < 3) {
                for head in row[1..].chunks_mut(head_dim).take(heads) {
                    for j in 0..pairs {
                        let (c, s) = (table[p as usize * rotary_dim + j], table[p as usize * rotary_dim + pairs + j]);
                        (head[j], head[pairs + j]) = (head[j] * c - head[pairs + j] * s, head[pairs + j] * c + head[j] * s);
                    }
                }
            }
            y
        });
    }

    #[test]
    fn prop_tables_and_labels(rows in 1_usize..6, width in 1_usize..30, seed: u16) {
        let seed = u32::from(seed);
        let index: Vec<u32> = (0..rows).map(|r| (u32::try_from(r).unwrap() * 7 + seed) % 5).collect();
        let s = GatherShape { rows, width, table_rows: 4 };
        let (table, dy) = (numbers(4 * width, seed), numbers(rows * width, seed + 1));
        let dw = run!(vec![0.0; 4 * width], |b, dw| b.gather_dw(s, &buffer(b, &index), &buffer(b, &dy), &mut dw));
        check("table", &table, &dy, &dw, &|table| {
            index.iter().flat_map(|&i| match table.chunks(width).nth(i as usize) {
                Some(row) => row.to_vec(),
                None => vec![0.0; width],
            }).collect()
        });
        let labels: Vec<u32> = (0..rows).map(|r| (u32::try_from(r).unwrap() * 11 + seed) % u32::try_from(width + 1).unwrap()).collect();
        let s = LabelShape { rows, width };
        let (logits, weights) = (numbers(rows * width, seed + 2), numbers(rows, seed + 3));
        let d = run!(&logits, |b, d| b.log_probs_dx(s, &buffer(b, &labels), &buffer(b, &weights), &mut d));
        let log_probs = |logits: &[f64]| -> Vec<f64> {
            logits.chunks(width).zip(&labels).map(|(row, &label)| {
                let total: f64 = row.iter().map(|v| v.exp()).sum();
                row.get(label as usize).map_or(0.0, |v| v - total.ln())
            }).collect()
        };
        check("labels", &logits, &weights, &d, &log_probs);
        let got = run!(vec![9.0; rows], |b, out| b.log_probs(s, &buffer(b, &logits), &buffer(b, &labels), &mut out));
        for (got, want) in got.iter().zip(log_probs(&wide(&logits))) {
            assert!((f64::from(*got) - want).abs() < 1e-5);
        }
    }
}
