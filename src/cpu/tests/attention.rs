//! Attention: keys and values in floats and in 8 bits, prefixes that are shared and that are not.

use alloc::vec::Vec;

use super::{bits, buffer, numbers};
use crate::cpu::Cpu;
use crate::cpu::simd::Isa;
use crate::ops::attention::{AppendShape, AttentionShape, KvFormat};
use crate::ops::{Backend, Reference};

fn attended<B: Backend>(b: &B, s: AttentionShape, spans: &[u32]) -> Vec<u32> {
    let q = buffer(b, &numbers(s.sequences * s.queries * s.q_stride, 1));
    let kv = buffer(b, &numbers(s.kv_rows * s.kv_stride, 2));
    let mut out = b
        .zeros(s.sequences * s.queries * s.n_heads * s.head_dim)
        .unwrap();
    b.attention(s, &q, &kv, &kv, &buffer(b, spans), &mut out)
        .unwrap();
    bits(b, &out)
}

#[test]
fn every_instruction_set_gives_the_reference_attention() {
    for isa in Isa::all() {
        let cpu = Cpu::with_instructions(2, isa.name()).unwrap();
        for (queries, head_dim, causal) in [
            (1, 24, true),
            (1, 64, false),
            (1, 100, true),
            (1, 256, true),
            (1, 260, true),
            (50, 32, true),
            (13, 72, false),
            (2, 128, true),
        ] {
            let s = AttentionShape {
                sequences: 2,
                queries,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim,
                q_stride: 4 * head_dim + 3,
                q_offset: 2,
                kv_rows: 150,
                kv_stride: 4 * head_dim,
                kv_head_stride: head_dim,
                k_offset: 0,
                v_offset: 2 * head_dim,
                causal,
                repeated_prefix: false,
                pages: 0,
            };
            let spans = [0, 20, 20, 70, 5, 0, 90, 66];
            assert_eq!(
                attended(&cpu, s, &spans),
                attended(&Reference, s, &spans),
                "{isa:?} {s:?}"
            );
        }
    }
}

/// Keys and values of so many heads, as a stack keeps them.
fn attended_q8<B: Backend>(b: &B, s: AttentionShape, spans: &[u32]) -> Vec<u32> {
    let width = s.n_kv_heads * s.head_dim;
    let append = AppendShape {
        rows: s.kv_rows,
        heads: s.n_kv_heads,
        head_dim: s.head_dim,
        stride: width,
        offset: 0,
        cache_rows: s.kv_rows,
    };
    let mut places: Vec<u32> = (0..).take(s.kv_rows).collect();
    places.reverse();
    let places = buffer(b, &places);
    let kv = [2, 3].map(|seed| {
        let x = buffer(b, &numbers(s.kv_rows * width, seed));
        let mut cache = b.zeros(s.kv_head_stride * s.n_kv_heads).unwrap();
        b.append_q8(append, &x, &places, &mut cache).unwrap();
        cache
    });
    let q = buffer(b, &numbers(s.sequences * s.queries * s.q_stride, 1));
    let mut out = b
        .zeros(s.sequences * s.queries * s.n_heads * s.head_dim)
        .unwrap();
    b.attention_q8(s, &q, &kv[0], &kv[1], &buffer(b, spans), &mut out)
        .unwrap();
    let mut all = bits(b, &out);
    for cache in kv {
        let mut words = alloc::vec![0; b.len(&cache)];
        b.read(&cache, 0, &mut words).unwrap();
        all.extend(words);
    }
    all
}

#[test]
fn every_instruction_set_gives_the_reference_attention_over_8_bits() {
    // Prefixes: shared by three, by one, by none, and one outside the cache; own rows around the sizes of a turn.
    let spans = [
        [0, 33, 40, 31],
        [0, 33, 80, 32],
        [0, 33, 130, 1],
        [7, 64, 90, 0],
        [0, 0, 20, 65],
        [200, 9, 0, 0],
        [3, 5, 100, 70],
    ];
    let spans = spans.as_flattened();
    for isa in Isa::all() {
        let cpu = Cpu::with_instructions(2, isa.name()).unwrap();
        for (queries, head_dim, causal) in [
            (1, 1, false),
            (1, 24, true),
            (1, 32, false),
            (1, 40, false),
            (1, 64, false),
            (1, 72, true),
            (1, 128, true),
            (1, 300, false),
            (2, 96, true),
            (50, 33, true),
            (13, 64, false),
        ] {
            let words = KvFormat::Q8.words(head_dim);
            let s = AttentionShape {
                sequences: 7,
                queries,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim,
                q_stride: 4 * head_dim + 3,
                q_offset: 2,
                kv_rows: 150,
                kv_stride: words,
                kv_head_stride: 150 * words,
                k_offset: 0,
                v_offset: 0,
                causal,
                repeated_prefix: queries == 1 && head_dim == 64,
                pages: 0,
            };
            assert_eq!(
                attended_q8(&cpu, s, spans),
                attended_q8(&Reference, s, spans),
                "{isa:?} {s:?}"
            );
        }
    }
}

/// As many candidates as a tile cannot hold, in runs that share prefixes or do not.
#[test]
fn shared_prefixes_give_the_reference_attention() {
    let spans: Vec<u32> = (0..70)
        .flat_map(|i| match i {
            0..50 => [5, 45, 50 + i % 9, i % 40],
            50..52 => [0, 0, i, 3],
            _ => [i % 3, 12, 30 + i, 9],
        })
        .collect();
    for isa in Isa::all() {
        let cpu = Cpu::with_instructions(2, isa.name()).unwrap();
        for (n_heads, head_dim) in [(3, 64), (6, 40), (3, 20)] {
            let s = AttentionShape {
                sequences: 70,
                queries: 1,
                n_heads,
                n_kv_heads: 3,
                head_dim,
                q_stride: n_heads * head_dim,
                q_offset: 0,
                kv_rows: 120,
                kv_stride: 3 * head_dim,
                kv_head_stride: head_dim,
                k_offset: 0,
                v_offset: 0,
                causal: false,
                repeated_prefix: false,
                pages: 0,
            };
            assert_eq!(
                attended(&cpu, s, &spans),
                attended(&Reference, s, &spans),
                "{isa:?} {s:?}"
            );
            let words = KvFormat::Q8.words(head_dim);
            let s = AttentionShape {
                kv_stride: words,
                kv_head_stride: 120 * words,
                ..s
            };
            assert_eq!(
                attended_q8(&cpu, s, &spans),
                attended_q8(&Reference, s, &spans),
                "{isa:?} {s:?}"
            );
        }
    }
}

/// A key or a value that is no number makes its queries none, and nobody else's.
#[test]
fn what_is_no_number_in_8_bits_stays_with_its_rows() {
    let d = 32;
    let words = KvFormat::Q8.words(d);
    let append = AppendShape {
        rows: 3,
        heads: 1,
        head_dim: d,
        stride: d,
        offset: 0,
        cache_rows: 3,
    };
    let s = AttentionShape {
        sequences: 2,
        queries: 1,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: d,
        q_stride: d,
        q_offset: 0,
        kv_rows: 3,
        kv_stride: words,
        kv_head_stride: 3 * words,
        k_offset: 0,
        v_offset: 0,
        causal: false,
        repeated_prefix: false,
        pages: 0,
    };
    for isa in Isa::all() {
        let cpu = Cpu::with_instructions(2, isa.name()).unwrap();
        let mut rows = numbers(3 * d, 5);
        rows[2 * d + 7] = f32::INFINITY;
        let mut cache = cpu.zeros(3 * words).unwrap();
        let places = buffer(&cpu, &[0, 1, 2]);
        cpu.append_q8(append, &buffer(&cpu, &rows), &places, &mut cache)
            .unwrap();
        let spans = buffer(&cpu, &[0, 1, 1, 1, 0, 1, 2, 1]);
        let q = buffer(&cpu, &numbers(2 * d, 6));
        let mut out = cpu.zeros(2 * d).unwrap();
        cpu.attention_q8(s, &q, &cache, &cache, &spans, &mut out)
            .unwrap();
        let out = bits(&cpu, &out).into_iter().map(f32::from_bits);
        let finite: Vec<bool> = out.map(f32::is_finite).collect();
        assert!(finite[..d].iter().all(|&f| f), "{isa:?}");
        assert!(finite[d..].iter().all(|&f| !f), "{isa:?}");
    }
}
