//! The operations that only move or look up.

use maquette::ops::Backend;
use maquette::ops::attention::{AppendShape, RelativeShape, RotaryShape};
use maquette::ops::conv::{PatchShape, Rounding};
use maquette::ops::reward_head::AnswerShape;
use maquette::ops::vq::{GatherShape, LfqShape, NearestShape};
use maquette::quant::{Format, QuantMatrix};

use super::{bits, buffer, numbers, random, words};

#[test]
fn the_rest_agrees() {
    agree!(|b| {
        let mut x = random(b, 3 * 20, 1);
        let s = RotaryShape {
            rows: 3,
            heads: 2,
            head_dim: 8,
            rotary_dim: 4,
            stride: 20,
            offset: 2,
            positions: 5,
        };
        b.rotary(s, &mut x, &buffer(b, &[0, 4, 9]), &random(b, 20, 2))
            .unwrap();
        let mut all = bits(b, &x);
        let mut cache = random(b, 2 * 5 * 7, 3);
        let s = AppendShape {
            rows: 3,
            heads: 2,
            head_dim: 7,
            stride: 20,
            offset: 1,
            cache_rows: 5,
        };
        b.append(s, &x, &buffer(b, &[4, 7, 0]), &mut cache).unwrap();
        all.extend(bits(b, &cache));
        let mut out = b.zeros(9).unwrap();
        let s = GatherShape {
            rows: 3,
            width: 3,
            table_rows: 4,
        };
        b.gather(s, &buffer(b, &[3, 4, 0]), &random(b, 12, 4), &mut out)
            .unwrap();
        all.extend(bits(b, &out));
        let mut codes = buffer(b, &[5_u32, 8, 2]);
        b.lfq_lookup(LfqShape { n: 3, bits: 3 }, &codes, &mut out)
            .unwrap();
        b.lfq_codes(LfqShape { n: 3, bits: 3 }, &out, &mut codes)
            .unwrap();
        all.extend(bits(b, &out));
        all.extend(words(b, &codes));
        let mut pixels = b.zeros::<u8>(60).unwrap();
        b.to_bytes(Rounding::Truncate, 60, &x, &mut pixels).unwrap();
        all.extend(words(b, &pixels).into_iter().map(u32::from));
        let mut patches = b.zeros(48).unwrap();
        b.patchify(
            PatchShape {
                images: 1,
                height: 4,
                width: 5,
                patch: 2,
            },
            &pixels,
            &mut patches,
        )
        .unwrap();
        all.extend(bits(b, &patches));
        b.answer(
            AnswerShape {
                rows: 2,
                width: 9,
                yes: 3,
                no: 8,
            },
            &x,
            &mut out,
        )
        .unwrap();
        all.extend(bits(b, &out));
        all
    });
}

#[test]
fn rows_of_matrices_agree() {
    for &format in Format::ALL {
        for n in [1, 15, 16, 63, 64, 65, 150] {
            for k in [1, 3].map(|blocks| blocks * format.block().max(32)) {
                agree!(|b| {
                    let data = numbers(n * k, 1);
                    let mut bytes = vec![0; format.bytes(n, k).unwrap()];
                    format.quantise(&data, &mut bytes);
                    let table = match format {
                        Format::F32 => QuantMatrix::f32(n, k, &data),
                        _ => QuantMatrix::from_bytes(format, n, k, &bytes),
                    };
                    let table = b.pack(&table.unwrap()).unwrap();
                    // Every row, backwards, then some that are not there.
                    let last = u32::try_from(n).unwrap();
                    let index: Vec<u32> = (0..last).rev().chain([last, u32::MAX]).collect();
                    let s = GatherShape {
                        rows: n + 2,
                        width: k,
                        table_rows: n,
                    };
                    let mut out = random(b, (n + 2) * k, 2);
                    b.gather_rows(s, &buffer(b, &index), &table, &mut out)
                        .unwrap();
                    bits(b, &out)
                });
            }
        }
    }
}

#[test]
fn nearest_codes_agree() {
    for (n, width, entries) in [(0, 3, 5), (1, 1, 1), (17, 8, 300), (130, 5, 1000)] {
        for normalise in [false, true] {
            agree!(|b| {
                let s = NearestShape {
                    n,
                    width,
                    entries,
                    normalise,
                };
                let mut codes = b.zeros(n).unwrap();
                b.nearest(
                    s,
                    &random(b, n * width, 1),
                    &random(b, entries * width, 2),
                    &mut codes,
                )
                .unwrap();
                words(b, &codes)
            });
        }
    }
}

#[test]
fn relative_attentions_agree() {
    for (rows, n_heads, head_dim) in [(0, 1, 3), (1, 2, 8), (47, 3, 16), (49, 2, 5), (130, 1, 64)] {
        agree!(|b| {
            let s = RelativeShape {
                rows,
                n_heads,
                head_dim,
                scale: 0.7,
            };
            let mut out = b.zeros(rows * n_heads * head_dim).unwrap();
            b.relative_attention(
                s,
                &random(b, 3 * rows * n_heads * head_dim, 1),
                &random(b, n_heads * s.distances(), 2),
                &mut out,
            )
            .unwrap();
            bits(b, &out)
        });
    }
}

/// Nothing stands in for the library in this program: what is found is the machine's own.
#[cfg(feature = "cublaslt")]
#[test]
fn without_cublaslt_the_error_names_it() {
    if let Err(error) = super::gpu::device().with_cublaslt() {
        assert!(error.to_string().starts_with("cublaslt: "), "{error}");
    }
}
