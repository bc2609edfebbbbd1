//! What kernels copy several words at a time, in turns: channels of a tap, rows of a cache that lie apart.

use maquette::ops::attention::{AppendShape, AttentionShape, KeepShape, KvFormat};
use maquette::ops::conv::ConvShape;
use maquette::ops::{Backend, HeadNorms, KvPair, Reference};

use super::{bits, buffer, convolution, numbers, random, words};

/// Channels four at a time by 32 lanes, four turns at once; taps by threes.
#[test]
fn convolutions_agree_at_every_remainder() {
    for (c_in, kernel) in [
        (64, 3),
        (68, 4),
        (132, 5),
        (260, 4),
        (388, 2),
        (516, 3),
        (644, 3),
        (1028, 2),
    ] {
        let s = ConvShape::same(2, [2, 3], c_in, 2, kernel);
        agree!(|b| convolution(b, s));
        agree!(|b| convolution(
            b,
            ConvShape {
                upsample: true,
                images: 1,
                ..s
            }
        ));
        agree!(|b| convolution(
            b,
            ConvShape {
                stride: 2,
                dilation: 2,
                images: 3,
                pad_before: kernel,
                pad_after: kernel,
                ..s
            }
        ));
    }
}

/// Rows in 8 bits with words between them, which say how many of a row's are copied at once.
#[test]
fn rows_in_8_bits_may_lie_apart() {
    for (head_dim, kv_rows, queries) in [
        (33, 70, 2),
        (64, 5, 1),
        (100, 130, 2),
        (128, 70, 1),
        (64, 300, 1),
        (128, 300, 1),
        (64, 40, 20),
        (128, 40, 20),
    ] {
        let width = KvFormat::Q8.words(head_dim);
        let append = AppendShape {
            rows: kv_rows,
            heads: 2,
            head_dim,
            stride: 2 * head_dim,
            offset: 0,
            cache_rows: kv_rows,
        };
        let places: Vec<u32> = (0..).take(kv_rows).collect();
        let kept = |seed| {
            let mut cache = Reference.zeros(2 * kv_rows * width).unwrap();
            let x = random(&Reference, kv_rows * append.stride, seed);
            Reference
                .append_q8(append, &x, &buffer(&Reference, &places), &mut cache)
                .unwrap();
            words(&Reference, &cache)
        };
        let both = [kept(2), kept(3)];
        for (between, k_offset) in [(0, 0), (1, 0), (2, 2), (4, 0), (6, 4)] {
            let s = AttentionShape {
                sequences: 2,
                queries,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim,
                q_stride: 4 * head_dim,
                q_offset: 0,
                kv_rows,
                kv_stride: 2 * width + between,
                kv_head_stride: width,
                k_offset,
                v_offset: 0,
                causal: true,
                repeated_prefix: false,
                pages: 0,
            };
            // A row's heads side by side, and numbers that are none between them.
            let [keys, values] = [(0, k_offset), (1, 0)].map(|(i, offset)| {
                let mut all = vec![u32::MAX; kv_rows * s.kv_stride + offset];
                for (n, row) in both[i].chunks(width).enumerate() {
                    let at = n % kv_rows * s.kv_stride + n / kv_rows * width + offset;
                    all[at..][..width].copy_from_slice(row);
                }
                all
            });
            let own = u32::try_from(kv_rows.min(queries + 40)).unwrap();
            let all = u32::try_from(kv_rows).unwrap();
            let spans = [0, all - own, all - own, own, 1, 3, 0, all];
            agree!(|b| {
                let q = buffer(b, &numbers(2 * queries * s.q_stride, 1));
                let mut out = b.zeros(2 * queries * 4 * head_dim).unwrap();
                let (keys, values) = (buffer(b, &keys), buffer(b, &values));
                b.attention_q8(s, &q, &keys, &values, &buffer(b, &spans), &mut out)
                    .unwrap();
                bits(b, &out)
            });
        }
    }
}

/// Rows of queries, keys and values on their way into a cache: heads of odd widths, of more than a warp and of several blocks
/// of 8 bits; positions behind the table and places behind the cache; with and without a rotation, and norms
/// of the heads before it.
#[test]
fn kept_rows_agree() {
    for (head_dim, rotary_dim, q_heads, kv_heads) in [
        (5, 4, 3, 1),
        (33, 0, 1, 1),
        (64, 32, 4, 2),
        (72, 0, 2, 2),
        (128, 128, 3, 3),
        (160, 70, 1, 1),
        // Twice four numbers, pairs and words a lane, and more.
        (600, 560, 1, 1),
    ] {
        let s = KeepShape {
            rows: 3,
            q_heads,
            kv_heads,
            head_dim,
            rotary_dim,
            positions: 6,
            cache_rows: 4,
        };
        let width = (q_heads + 2 * kv_heads) * head_dim;
        agree!(|b| {
            let turned = rotary_dim > 0;
            let (positions, places) = (buffer(b, &[5_u32, 0, 6]), buffer(b, &[2_u32, 4, 0]));
            let table = random(b, s.positions * rotary_dim.max(1), 2);
            let turn = turned.then_some((&positions, &table));
            let scales = [3, 4, 5, 6].map(|seed| random(b, head_dim, seed));
            let norms = |eps| {
                Some(HeadNorms {
                    queries: [&scales[0], &scales[1]],
                    keys: [&scales[2], &scales[3]],
                    eps,
                })
            };
            let mut all = Vec::new();
            let mut x = random(b, 3 * width, 1);
            let mut floats = [7, 8].map(|seed| random(b, 4 * kv_heads * head_dim, seed));
            let kept = KvPair::F32(&mut floats);
            b.keep(s, &mut x, (None, turn), &places, kept).unwrap();
            all.extend(bits(b, &x));
            all.extend(floats.iter().flat_map(|cache| bits(b, cache)));
            for kv in [KvFormat::Bf16, KvFormat::Q8] {
                let mut x = random(b, 3 * width, 1);
                let len = 4 * kv_heads * kv.words(head_dim);
                let mut packed = [0, 1].map(|_| buffer(b, &vec![9_u32; len]));
                let kept = match kv {
                    KvFormat::Q8 => KvPair::Q8(&mut packed),
                    _ => KvPair::Bf16(&mut packed),
                };
                b.keep(s, &mut x, (norms(1e-5), turn), &places, kept)
                    .unwrap();
                all.extend(bits(b, &x));
                all.extend(packed.iter().flat_map(|cache| words(b, cache)));
            }
            // Caches, tables and rows that are too short.
            for short in [KeepShape { cache_rows: 5, ..s }, KeepShape { rows: 4, ..s }] {
                let kept = KvPair::F32(&mut floats);
                let result = b.keep(short, &mut x, (None, turn), &places, kept);
                assert!(result.is_err());
            }
            // Norms that do not hold a head.
            let none = b.zeros(0).unwrap();
            let short = HeadNorms {
                keys: [&scales[2], &none],
                ..norms(1e-5).unwrap()
            };
            let kept = KvPair::F32(&mut floats);
            let result = b.keep(s, &mut x, (Some(short), turn), &places, kept);
            assert!(result.is_err());
            // Norms before what is kept in floats.
            let mut x = random(b, 3 * width, 1);
            let kept = KvPair::F32(&mut floats);
            b.keep(s, &mut x, (norms(1e-3), turn), &places, kept)
                .unwrap();
            all.extend(bits(b, &x));
            all.extend(floats.iter().flat_map(|cache| bits(b, cache)));
            all
        });
    }
}
