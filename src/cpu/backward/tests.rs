//! Every instruction set of this machine gives the bits of the reference.

use alloc::vec::Vec;

use crate::cpu::Cpu;
use crate::cpu::simd::Isa;
use crate::ops::backward::attention::SelfAttentionShape;
use crate::ops::backward::labels::LabelShape;
use crate::ops::gemm::GemmShape;
use crate::ops::norm::{Activation, NormShape};
use crate::ops::{Backend, Backward, Reference};
use crate::quant::{Format, QuantMatrix};

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| crate::rng::philox([seed, 0], [u32::try_from(i).unwrap(), 0, 0, 0])[0];
    (0..len)
        .map(|i| crate::rng::open_unit(word(i)) * 4.0 - 2.0)
        .collect()
}

fn buffer<B: Backend>(b: &B, len: usize, seed: u32) -> B::Buffer<f32> {
    let mut buffer = b.zeros(len).unwrap();
    b.write(&mut buffer, 0, &numbers(len, seed)).unwrap();
    buffer
}

fn all<B: Backward>(b: &B) -> Vec<u32> {
    let mut out = Vec::new();
    let mut keep = |buffer: &B::Buffer<f32>| {
        let mut data = alloc::vec![0.0; b.len(buffer)];
        b.read(buffer, 0, &mut data).unwrap();
        out.extend(data.into_iter().map(f32::to_bits));
    };
    for (m, n, k) in [(50, 70, 96), (3, 257, 32), (7, 33, 512)] {
        let s = GemmShape::new(m, n, k);
        let (x, dy) = (buffer(b, m * k, 1), buffer(b, m * n, 2));
        for format in Format::ALL.iter().map(|format| format.fitting(k)) {
            let data = numbers(n * k, 3);
            let mut bytes = alloc::vec![0; format.bytes(n, k).unwrap()];
            format.quantise(&data, &mut bytes);
            let w = match format {
                Format::F32 => QuantMatrix::f32(n, k, &data),
                _ => QuantMatrix::from_bytes(format, n, k, &bytes),
            };
            let mut dx = b.zeros(m * k).unwrap();
            let w = b.pack(&w.unwrap()).unwrap();
            b.gemm_dx(s, &dy, &w, &mut dx).unwrap();
            keep(&dx);
        }
        let mut dw = b.zeros(n * k).unwrap();
        b.gemm_dw(s, &dy, &x, &mut dw).unwrap();
        keep(&dw);
    }
    for (rows, n_heads, n_kv_heads, head_dim) in [(70, 2, 2, 32), (49, 4, 2, 23)] {
        let s = SelfAttentionShape {
            rows,
            n_heads,
            n_kv_heads,
            head_dim,
            causal: rows / 2,
        };
        let qkv = buffer(b, rows * s.stride(), 4);
        let dy = buffer(b, rows * n_heads * head_dim, 5);
        let mut d = b.zeros(rows * s.stride()).unwrap();
        b.attention_dx(s, &qkv, &dy, &mut d).unwrap();
        keep(&d);
    }
    let s = NormShape {
        rows: 5,
        width: 77,
        eps: 1e-5,
    };
    let (x, dy, weight) = (buffer(b, 385, 6), buffer(b, 385, 7), buffer(b, 77, 8));
    let mut dx = b.zeros(385).unwrap();
    b.layer_norm_dx(s, &x, &weight, &dy, &mut dx).unwrap();
    b.rms_norm_dx(s, &x, &weight, &dy, &mut dx).unwrap();
    b.activate_dx(Activation::GeluTanh, 385, &x, &mut dx)
        .unwrap();
    b.activate_dx(Activation::GeluErf, 385, &x, &mut dx)
        .unwrap();
    keep(&dx);
    let s = LabelShape { rows: 5, width: 77 };
    let mut labels = b.zeros(5).unwrap();
    b.write(&mut labels, 0, &[0, 76, 77, 5, 9]).unwrap();
    let mut p = b.zeros(5).unwrap();
    b.log_probs(s, &x, &labels, &mut p).unwrap();
    keep(&p);
    b.log_probs_dx(s, &labels, &dy, &mut dx).unwrap();
    keep(&dx);
    out
}

#[test]
fn every_instruction_set_goes_back_with_the_bits_of_the_reference() {
    let want = all(&Reference);
    for isa in Isa::all() {
        assert!(
            all(&Cpu::with_instructions(2, isa.name()).unwrap()) == want,
            "{}",
            isa.name()
        );
    }
}
