//! Many query rows at once, which a GPU takes in tiles: sizes around a tile's borders, every mask.

use maquette::ops::Backend;
use maquette::ops::attention::{AppendShape, AttentionShape, KvFormat};

use super::{attended, bits, buffer, random};

/// Heads that have tiles, and one width that has none.
const DIMS: [usize; 4] = [64, 72, 100, 128];

fn shape(head_dim: usize, [sequences, queries, kv_rows]: [usize; 3]) -> AttentionShape {
    AttentionShape {
        sequences,
        queries,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim,
        q_stride: 2 * head_dim + 3,
        q_offset: 1,
        kv_rows,
        kv_stride: head_dim,
        kv_head_stride: kv_rows * head_dim,
        k_offset: 0,
        v_offset: 0,
        causal: false,
        repeated_prefix: false,
        pages: 0,
    }
}

/// The same over a cache of 8 bits.
fn attended_q8<B: Backend>(b: &B, s: AttentionShape, spans: &[u32]) -> Vec<u32> {
    let (rows, heads, width) = (s.kv_rows, s.n_kv_heads, KvFormat::Q8.words(s.head_dim));
    let append = AppendShape {
        rows,
        heads,
        head_dim: s.head_dim,
        stride: heads * s.head_dim,
        offset: 0,
        cache_rows: rows,
    };
    let s = AttentionShape {
        kv_stride: width,
        kv_head_stride: rows * width,
        ..s
    };
    let places: Vec<u32> = (0..u32::try_from(rows).unwrap()).collect();
    let places = buffer(b, &places);
    let [k, v] = [2, 3].map(|seed| {
        let mut cache = b.zeros::<u32>(rows * heads * width).unwrap();
        let x = random(b, rows * append.stride, seed);
        b.append_q8(append, &x, &places, &mut cache).unwrap();
        cache
    });
    let q = random(b, s.sequences * s.queries * s.q_stride, 1);
    let mut out = b
        .zeros(s.sequences * s.queries * s.n_heads * s.head_dim)
        .unwrap();
    b.attention_q8(s, &q, &k, &v, &buffer(b, spans), &mut out)
        .unwrap();
    bits(b, &out)
}

#[test]
fn queries_agree_around_a_tile() {
    let spans = [0, 3, 10, 61, 1, 33, 0, 0, 40, 1, 5, 62];
    for (i, queries) in [15, 16, 17, 31, 63, 64, 65].into_iter().enumerate() {
        let s = AttentionShape {
            causal: i % 2 == 0,
            repeated_prefix: i % 3 == 0,
            ..shape(DIMS[i % 4], [3, queries, 72])
        };
        agree!(|b| attended(b, s, &spans));
        agree!(|b| attended_q8(b, s, &spans));
    }
}

#[test]
fn keys_agree_around_a_tile() {
    for (i, own) in [1, 4, 5, 31, 32, 33, 63, 64, 65, 97]
        .into_iter()
        .enumerate()
    {
        for (causal, repeated_prefix) in [(false, false), (true, i % 2 == 0)] {
            let s = AttentionShape {
                causal,
                repeated_prefix,
                ..shape(DIMS[(i + usize::from(causal)) % 4], [2, 18, 100])
            };
            let spans = [0, own % 7, 3, own, 100 - own, own, 2, 30];
            agree!(|b| attended(b, s, &spans));
            agree!(|b| attended_q8(b, s, &spans));
        }
    }
}

/// More rows than scores are kept of, and rows that are no numbers for those who do not see them.
#[test]
fn long_caches_agree_in_tiles() {
    let s = AttentionShape {
        n_heads: 1,
        ..shape(64, [1, 16, 1090])
    };
    let spans = [0, 1090, 0, 1090];
    agree!(|b| attended(b, s, &spans));
    let s = AttentionShape {
        n_heads: 1,
        ..shape(128, [1, 16, 1060])
    };
    let spans = [0, 1060, 0, 1060];
    agree!(|b| attended_q8(b, s, &spans));
    for head_dim in [DIMS.as_slice(), &[40]].concat() {
        let s = AttentionShape {
            causal: true,
            q_stride: 2 * head_dim,
            q_offset: 0,
            ..shape(head_dim, [1, 20, 40])
        };
        agree!(|b| {
            let q = random(b, 20 * s.q_stride, 1);
            let keys = random(b, 40 * head_dim, 2);
            let mut values = super::numbers(40 * head_dim, 3);
            values[30 * head_dim..].fill(f32::INFINITY);
            let mut out = b.zeros(20 * 2 * head_dim).unwrap();
            let spans = buffer(b, &[0, 6, 6, 34]);
            b.attention(s, &q, &keys, &buffer(b, &values), &spans, &mut out)
                .unwrap();
            // Rows that see none of them.
            let seen = (20 - 10) * 2 * head_dim;
            let all = bits(b, &out);
            assert!(all[..seen].iter().all(|&x| f32::from_bits(x).is_finite()));
            all[..seen].to_vec()
        });
    }
}

/// Heads that have no tiles of their own, as decoders of pictures have them.
#[test]
fn wide_heads_agree_around_a_tile() {
    let spans = [0, 3, 10, 29, 1, 33, 0, 0];
    for (i, queries) in [16, 17, 63, 64, 65].into_iter().enumerate() {
        for head_dim in [[4, 32, 60, 68, 132][i], [256, 36, 128 + 64, 8, 28][i]] {
            let s = AttentionShape {
                causal: i % 2 == 0,
                repeated_prefix: i % 3 == 0,
                q_stride: 2 * head_dim + 4,
                q_offset: 4,
                ..shape(head_dim, [2, queries, 72])
            };
            agree!(|b| attended(b, s, &spans));
        }
    }
    for (i, own) in [0, 1, 4, 31, 32, 33, 65].into_iter().enumerate() {
        let s = AttentionShape {
            n_heads: 1,
            q_stride: 68,
            q_offset: 0,
            causal: i % 2 == 0,
            ..shape(68, [1, 18, 70])
        };
        agree!(|b| attended(b, s, &[0, own % 7, 3, own]));
    }
}

/// Single rows that see more than scores are kept of, of more heads than a large GPU has multiprocessors.
#[test]
fn long_caches_agree_row_by_row() {
    let s = AttentionShape {
        n_heads: 96,
        q_stride: 96 * 4,
        q_offset: 0,
        ..shape(4, [2, 1, 540])
    };
    let spans = [0, 540, 0, 540, 3, 2, 0, 1];
    agree!(|b| attended(b, s, &spans));
    agree!(|b| attended_q8(b, s, &spans));
}

/// More tiles than blocks.
#[test]
fn many_tiles_agree() {
    let s = AttentionShape {
        n_heads: 89,
        q_stride: 89 * 64,
        q_offset: 0,
        ..shape(64, [6, 16, 3])
    };
    let spans: Vec<u32> = (0..6).flat_map(|i| [0, i % 2, i % 3, 1]).collect();
    agree!(|b| attended(b, s, &spans));
}
