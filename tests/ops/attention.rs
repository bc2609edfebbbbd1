//! Attention at the borders of its loops: heads of every width, caches in floats and in 8 bits.

use maquette::ops::Backend;
use maquette::ops::attention::{AppendShape, AttentionShape, KvFormat, RelativeShape};

use super::{bits, buffer, numbers, random, words};

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

/// The same, over caches of 128 rows, one tile or two: a prefix and own rows may be the same ones.
const SHORT: [[u32; 8]; 6] = [
    [0, 0, 0, 1, 0, 2, 2, 3],
    [0, 128, 0, 1, 1, 127, 5, 2],
    [0, 128, 0, 128, 3, 125, 0, 4],
    [127, 1, 0, 128, 128, 5, 2, 50],
    [0, 0, 0, 2, 0, 0, 126, 2],
    [0, 0, 0, 0, 0, 2, 2, 3],
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
            pages: 0,
        })
}

/// Numbers of which single ones stand out: the largest score is some key's alone.
fn spiked(len: usize, seed: u32) -> Vec<f32> {
    let mut all = numbers(len, seed);
    all.iter_mut().step_by(97).for_each(|v| *v *= 3.0);
    all
}

/// Attention to rows of floats.
fn floats_agree(s: AttentionShape, all_spans: &[[u32; 8]]) {
    for spans in all_spans {
        agree!(full, |b| {
            let q = random(b, 2 * s.queries * s.q_stride, 1);
            let len = s.n_kv_heads * s.kv_head_stride;
            let (keys, values) = (buffer(b, &spiked(len, 2)), random(b, len, 3));
            let mut out = b.zeros(2 * s.queries * s.n_heads * s.head_dim).unwrap();
            b.attention(s, &q, &keys, &values, &buffer(b, spans), &mut out)
                .unwrap();
            bits(b, &out)
        });
    }
}

#[test]
fn attentions_agree_at_every_remainder() {
    let dims = [1, 2, 3, 4, 5, 6, 7, 31, 32, 33, 70, 72, 130, 64, 128, 100];
    for s in shapes(dims, 300) {
        floats_agree(s, &SPANS);
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
        agree!(full, |b| {
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
    for s in shapes([2, 5, 32, 33, 64, 130, 100], 128) {
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
            pages: 0,
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

/// Not all scores of so many rows stay in a GPU's shared memory.
#[test]
fn long_caches_agree() {
    let spans = [[0, 70, 100, 1000, 40, 5, 0, 1100]];
    for mut s in shapes([36, 128], 1100) {
        (s.queries, s.n_heads, s.n_kv_heads) = (1, 2, 2);
        floats_agree(s, &spans);
        caches_agree(s, &spans);
    }
}

/// So many heads have a block each on every multiprocessor of a real GPU as well.
#[test]
fn heads_that_fill_a_gpu_agree() {
    for mut s in shapes([64, 100], 70) {
        (s.queries, s.n_heads, s.q_stride) = (1, 96, 96 * s.head_dim + 1);
        floats_agree(s, &[[0, 3, 5, 60, 0, 70, 0, 0]]);
        caches_agree(s, &[[0, 3, 5, 60, 0, 70, 0, 0]]);
    }
}
