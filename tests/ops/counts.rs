//! Multiply-adds that devices count, worked out by hand.

use maquette::cpu::Cpu;
use maquette::ops::attention::{AttentionShape, RelativeShape};
use maquette::ops::conv::ConvShape;
use maquette::ops::gemm::GemmShape;
use maquette::ops::vq::NearestShape;
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;

use crate::{attended, convolution, product, random};

/// What each of these calls adds to the count.
fn counts<B: Backend>(b: &B) -> Vec<u64> {
    let mut before = b.multiply_adds().unwrap();
    let mut since = || {
        let now = b.multiply_adds().unwrap();
        let since = now - before;
        before = now;
        since
    };
    let mut counts = Vec::new();
    product(b, GemmShape::new(3, 5, 7), Format::F32, true);
    counts.push(since());
    product(b, GemmShape::new(0, 5, 7), Format::F32, true);
    counts.push(since());
    convolution(b, ConvShape::same(2, [4, 6], 3, 5, 3));
    counts.push(since());
    let s = AttentionShape {
        sequences: 2,
        queries: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        q_stride: 32,
        q_offset: 0,
        kv_rows: 10,
        kv_stride: 16,
        kv_head_stride: 8,
        k_offset: 0,
        v_offset: 0,
        causal: true,
        repeated_prefix: false,
        pages: 0,
    };
    // Three shared rows and two of its own; no shared row and four of its own, of which one lies outside.
    let spans = [0, 3, 5, 2, 0, 0, 7, 4];
    attended(b, s, &spans);
    counts.push(since());
    let all = AttentionShape { causal: false, ..s };
    attended(b, all, &spans);
    counts.push(since());
    let repeated = AttentionShape {
        repeated_prefix: true,
        ..all
    };
    attended(b, repeated, &spans);
    counts.push(since());
    let s = RelativeShape {
        rows: 5,
        n_heads: 2,
        head_dim: 4,
        scale: 1.0,
    };
    let (qkv, bias) = (random(b, 5 * 24, 1), random(b, 2 * 9, 2));
    b.relative_attention(s, &qkv, &bias, &mut b.zeros(40).unwrap())
        .unwrap();
    counts.push(since());
    let s = NearestShape {
        n: 3,
        width: 4,
        entries: 6,
        normalise: false,
    };
    let (latents, codebook) = (random(b, 12, 1), random(b, 24, 2));
    b.nearest(s, &latents, &codebook, &mut b.zeros(3).unwrap())
        .unwrap();
    counts.push(since());
    // What is refused is not counted, nor what multiplies nothing.
    let (short, mut out) = (random(b, 11, 1), b.zeros(3).unwrap());
    assert!(b.nearest(s, &short, &codebook, &mut out).is_err());
    b.add(12, &latents, &mut random(b, 12, 3)).unwrap();
    counts.push(since());
    counts
}

#[test]
fn every_device_counts_what_the_shapes_say() {
    let pairs = |pairs: u64| 2 * 4 * 8 * pairs;
    let want = [
        3 * 5 * 7,
        0,
        2 * 4 * 6 * 5 * 3 * 3 * 3,
        pairs((3 + 1) + (3 + 2) + 3 + 3),
        pairs(2 * (3 + 2) + 2 * 3),
        pairs(2 * (1 + 2) + 2 * 3),
        2 * 5 * 5 * 2 * 4,
        3 * 4 * 6,
        0,
    ];
    assert_eq!(counts(&Reference), want);
    for cpu in crate::cpus() {
        assert_eq!(counts(cpu), want);
    }
    #[cfg(feature = "cuda")]
    crate::gpu::in_both_orders(|gpu| assert_eq!(counts(gpu), want));
    // Threads are told apart, whatever device they share.
    let cpu = Cpu::with_threads(2).unwrap();
    let here = cpu.multiply_adds().unwrap();
    std::thread::scope(|scope| {
        let there = scope.spawn(|| counts(&cpu));
        assert_eq!(there.join().unwrap(), want);
    });
    assert_eq!(cpu.multiply_adds(), Some(here));
}
