use super::*;

const SHAPE: AttentionShape = AttentionShape {
    sequences: 1,
    queries: 2,
    n_heads: 1,
    n_kv_heads: 1,
    head_dim: 1,
    q_stride: 1,
    q_offset: 0,
    kv_rows: 4,
    kv_stride: 1,
    kv_head_stride: 1,
    k_offset: 0,
    v_offset: 0,
    causal: true,
    repeated_prefix: false,
    pages: 0,
};

#[test]
fn an_attention_worked_by_hand() {
    // Prefix: row 3. Own rows: 0 and 1. Query 0 sees 3 and 0, query 1 sees 3, 0 and 1.
    let keys = [0.0, core::f32::consts::LN_2, 99.0, 0.0];
    let values = [2.0, 4.0, 99.0, 6.0];
    let mut out = [9.0; 2];
    attention(SHAPE, &[1.0, 1.0], &keys, &values, &[3, 1, 0, 2], &mut out).unwrap();
    assert!(
        (out[0] - 4.0).abs() < 1e-6 && (out[1] - 4.0).abs() < 1e-6,
        "{out:?}"
    );
}

#[test]
fn what_is_visible_is_told_of_any_words() {
    assert_eq!(SHAPE.visible(&[3, 1, 0, 2], 0), [3..4, 0..1]);
    assert_eq!(SHAPE.visible(&[3, 1, 0, 2], usize::MAX), [3..4, 0..2]);
    assert_eq!(SHAPE.visible(&[3, 1, 0], 0), [0..0, 0..0]);
    assert_eq!(SHAPE.visible(&[u32::MAX; SPAN_WORDS], 0), [4..4, 4..4]);
}

#[test]
fn a_query_that_sees_nothing_gives_zeros() {
    let mut out = [9.0; 2];
    attention(
        SHAPE,
        &[1.0; 2],
        &[1.0; 4],
        &[1.0; 4],
        &[0, 0, 7, 9],
        &mut out,
    )
    .unwrap();
    assert_eq!(out, [0.0; 2]);
}

#[test]
fn a_repeated_prefix_row_counts_as_often_as_its_length_says() {
    let s = AttentionShape {
        queries: 1,
        repeated_prefix: true,
        ..SHAPE
    };
    // Row 3 three times with value 6, row 0 once with value 2: (3 · 6 + 2) / 4.
    let mut out = [0.0];
    let keys = [0.0; 4];
    attention(
        s,
        &[1.0],
        &keys,
        &[2.0, 99.0, 99.0, 6.0],
        &[3, 3, 0, 1],
        &mut out,
    )
    .unwrap();
    assert!((out[0] - 5.0).abs() < 1e-6, "{out:?}");
    // No prefix at all, and one outside the cache: the own row alone.
    for prefix in [[3, 0], [4, 7]] {
        let span = [prefix[0], prefix[1], 0, 1];
        attention(s, &[1.0], &keys, &[2.0, 99.0, 99.0, 6.0], &span, &mut out).unwrap();
        assert_eq!(out, [2.0]);
    }
}

#[test]
fn equal_values_come_out_as_they_are() {
    let s = AttentionShape {
        causal: false,
        queries: 1,
        kv_rows: 40,
        ..SHAPE
    };
    let keys: [f32; 40] = core::array::from_fn(|i| libm::sinf(i as f32));
    let mut out = [0.0];
    attention(s, &[3.0], &keys, &[5.0; 40], &[0, 10, 10, 30], &mut out).unwrap();
    assert!((out[0] - 5.0).abs() < 1e-5);
}

#[test]
fn a_rotation_worked_by_hand() {
    let s = RotaryShape {
        rows: 2,
        heads: 1,
        head_dim: 3,
        rotary_dim: 2,
        stride: 4,
        offset: 1,
        positions: 2,
    };
    let mut x = [9.0, 1.0, 2.0, 5.0, 9.0, 1.0, 2.0, 5.0];
    // Position 0 has angle 0, position 1 a right angle; position 2 is outside and changes nothing.
    let table = [1.0, 0.0, 0.0, 1.0];
    rotary(s, &mut x, &[1, 2], &table).unwrap();
    assert_eq!(x, [9.0, -2.0, 1.0, 5.0, 9.0, 1.0, 2.0, 5.0]);
}

#[test]
fn a_rotation_keeps_lengths() {
    let mut table = [0.0; 7 * 4];
    rotary_table(7, 4, 10_000.0, &mut table).unwrap();
    let s = RotaryShape {
        rows: 1,
        heads: 1,
        head_dim: 4,
        rotary_dim: 4,
        stride: 4,
        offset: 0,
        positions: 7,
    };
    let mut x = [1.0, 2.0, 3.0, 4.0];
    rotary(s, &mut x, &[6], &table).unwrap();
    assert!((x.iter().map(|v| v * v).sum::<f32>() - 30.0).abs() < 1e-4);
}

#[test]
fn append_skips_places_outside_the_cache() {
    let s = AppendShape {
        rows: 2,
        heads: 2,
        head_dim: 1,
        stride: 3,
        offset: 1,
        cache_rows: 2,
    };
    let mut cache = [0.0; 4];
    append(s, &[9.0, 1.0, 2.0, 9.0, 3.0, 4.0], &[1, 2], &mut cache).unwrap();
    assert_eq!(cache, [0.0, 1.0, 0.0, 2.0]);
}

#[test]
fn wrong_sizes_are_errors() {
    let check = |s: AttentionShape| s.check(2, 4, 4, 4, 2);
    assert!(check(SHAPE).is_ok());
    assert!(
        check(AttentionShape {
            head_dim: 0,
            ..SHAPE
        })
        .is_err()
    );
    assert!(
        check(AttentionShape {
            n_heads: 3,
            n_kv_heads: 2,
            ..SHAPE
        })
        .is_err()
    );
    assert!(
        check(AttentionShape {
            queries: 3,
            ..SHAPE
        })
        .is_err()
    );
    assert!(
        check(AttentionShape {
            kv_rows: 5,
            ..SHAPE
        })
        .is_err()
    );
    assert!(
        check(AttentionShape {
            v_offset: 1,
            ..SHAPE
        })
        .is_err()
    );
    assert!(
        check(AttentionShape {
            sequences: usize::MAX,
            queries: 1,
            ..SHAPE
        })
        .is_err()
    );
    assert!(rotary_table(2, 3, 1.0, &mut [0.0; 6]).is_err());
}

#[test]
fn shapes_that_are_refused_have_counts_all_the_same() {
    let s = AttentionShape {
        sequences: 3,
        queries: usize::MAX,
        causal: false,
        ..SHAPE
    };
    let spans = [0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2];
    assert_eq!(s.multiply_adds(&spans), u64::MAX);
}

#[test]
fn a_bias_by_distance_worked_by_hand() {
    let s = RelativeShape {
        rows: 2,
        n_heads: 1,
        head_dim: 1,
        scale: 1.0,
    };
    // q, k, v of both rows; the row after one's own counts three times as much.
    let qkv = [0.0, 5.0, 1.0, 0.0, 7.0, 9.0];
    let mut out = [0.0; 2];
    let bias = [0.0, 0.0, libm::logf(3.0)];
    relative_attention(s, &qkv, &bias, &mut out).unwrap();
    assert!(
        (out[0] - 7.0).abs() < 1e-5 && (out[1] - 5.0).abs() < 1e-5,
        "{out:?}"
    );
    assert!(s.check(6, 2, 2).is_err() && s.check(5, 3, 2).is_err() && s.check(6, 3, 1).is_err());
}

#[test]
fn a_row_in_8_bits_worked_by_hand() {
    let s = AppendShape {
        rows: 2,
        heads: 1,
        head_dim: 34,
        stride: 34,
        offset: 0,
        cache_rows: 3,
    };
    let mut x = [0.0; 68];
    (x[0], x[1], x[5], x[33]) = (254.0, -3.0, 1.0, 63.5);
    (x[34], x[66]) = (8.0, -127.0);
    let mut cache = [7; 54];
    // The second row has no place.
    append_q8(s, &x, &[1, 3], &mut cache).unwrap();
    assert_eq!(KvFormat::Q8.words(34), 18);
    assert!(
        cache[..18]
            .iter()
            .chain(&cache[36..])
            .all(|&word| word == 7)
    );
    let row = &cache[18..36];
    // Two blocks of eight words: 254 is 127 · 2, −3 rounds to −2 · 2, 1 to 0 · 2 (ties to even); 63.5 is 127 · 0.5.
    assert_eq!(row[..2], [u32::from_le_bytes([127, 0xfe, 0, 0]), 0]);
    assert_eq!(row[8], u32::from_le_bytes([0, 127, 0, 0]));
    assert!(row[2..8].iter().chain(&row[9..16]).all(|&word| word == 0));
    assert_eq!(row[16..], [2.0_f32, 0.5].map(f32::to_bits));
}

#[test]
fn an_attention_over_8_bits_worked_by_hand() {
    let words = KvFormat::Q8.words(2);
    let s = AttentionShape {
        head_dim: 2,
        q_stride: 2,
        kv_rows: 2,
        kv_stride: words,
        kv_head_stride: 2 * words,
        queries: 1,
        ..SHAPE
    };
    let append = AppendShape {
        rows: 2,
        heads: 1,
        head_dim: 2,
        stride: 2,
        offset: 0,
        cache_rows: 2,
    };
    let (mut keys, mut values) = ([0; 18], [0; 18]);
    append_q8(append, &[127.0, 0.0, 127.0, -1.0], &[0, 1], &mut keys).unwrap();
    append_q8(append, &[254.0, 2.0, -127.0, 5.0], &[0, 1], &mut values).unwrap();
    // Scores (1 · 127 · 127 + 0 · …) · 1 / 127 / √2 for both rows: the second key's −1 meets a zero.
    let mut out = [0.0; 2];
    attention_q8(s, &[1.0, 0.0], &keys, &values, &[0, 0, 0, 2], &mut out).unwrap();
    assert_eq!(out, [63.5, 3.5]);
}

#[test]
fn attention_over_8_bits_stays_close_to_floats() {
    let (d, n) = (40, 50);
    let wave = |seed: f32, len: usize| -> [f32; 2000] {
        core::array::from_fn(|i| {
            if i < len {
                libm::sinf(i as f32 * seed)
            } else {
                0.0
            }
        })
    };
    let (x, v, q) = (wave(0.7, d * n), wave(1.3, d * n), wave(0.31, d));
    let s = AttentionShape {
        head_dim: d,
        q_stride: d,
        kv_rows: n,
        kv_stride: d,
        kv_head_stride: n * d,
        queries: 1,
        ..SHAPE
    };
    let spans = [0, 20, 20, 30];
    let mut want = [0.0; 40];
    attention(s, &q[..d], &x, &v, &spans, &mut want).unwrap();
    let words = KvFormat::Q8.words(d);
    let append = AppendShape {
        rows: n,
        heads: 1,
        head_dim: d,
        stride: d,
        offset: 0,
        cache_rows: n,
    };
    let mut places = [0; 50];
    for (place, row) in places.iter_mut().zip(0..) {
        *place = row;
    }
    let (mut keys, mut values) = ([0; 900], [0; 900]);
    append_q8(append, &x, &places, &mut keys).unwrap();
    append_q8(append, &v, &places, &mut values).unwrap();
    let s = AttentionShape {
        kv_stride: words,
        kv_head_stride: n * words,
        ..s
    };
    let mut got = [0.0; 40];
    attention_q8(s, &q[..d], &keys, &values, &spans, &mut got).unwrap();
    // Levels are off by half a step of 1/127 at most: keys and queries move a score by some 2 % of its size, values by
    // 0.4 % of the largest.
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 0.03, "{got} {want}");
    }
}
