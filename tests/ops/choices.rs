//! What is chosen among many, at the borders of its loops and on ties: codes, filters, draws, answers, pooled rows.

use maquette::Error;
use maquette::ops::Backend;
use maquette::ops::reward_head::{AnswerShape, PoolShape};
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape, GuideShape};
use maquette::ops::vq::{LfqShape, NearestShape};

use super::{bits, buffer, cpus, numbers, random, words};

#[test]
fn codes_agree_at_every_remainder() {
    for n_bits in (1..=11).chain([18, 31]) {
        agree!(|b| {
            let s = LfqShape {
                n: 37,
                bits: n_bits,
            };
            let mut latents = numbers(37 * n_bits, 1);
            latents.iter_mut().step_by(5).for_each(|v| *v = 0.0);
            latents.iter_mut().step_by(7).for_each(|v| *v = -0.0);
            let mut codes = b.zeros::<u32>(37).unwrap();
            b.lfq_codes(s, &buffer(b, &latents), &mut codes).unwrap();
            let mut all = words(b, &codes);
            // Some outside the codebook.
            let mut some = all.clone();
            some.iter_mut()
                .step_by(3)
                .for_each(|code| *code |= 1 << n_bits);
            let mut out = random(b, 37 * n_bits, 2);
            b.lfq_lookup(s, &buffer(b, &some), &mut out).unwrap();
            all.extend(bits(b, &out));
            all
        });
    }
    for (width, entries) in [
        (1, 7),
        (2, 257),
        (3, 600),
        (4, 255),
        (5, 256),
        (6, 513),
        (7, 40),
        (8, 300),
        (11, 700),
    ] {
        for normalise in [false, true] {
            agree!(|b| {
                let s = NearestShape {
                    n: 40,
                    width,
                    entries,
                    normalise,
                };
                // Every entry stands there several times: of equals the first.
                let some = numbers(width * 7, 1);
                let book: Vec<f32> = some.into_iter().cycle().take(width * entries).collect();
                let mut latents = numbers(40 * width, 2);
                latents[..width].fill(0.0);
                latents[width..2 * width].copy_from_slice(&book[..width]);
                let mut codes = b.zeros(40).unwrap();
                b.nearest(s, &buffer(b, &latents), &buffer(b, &book), &mut codes)
                    .unwrap();
                let mut all = words(b, &codes);
                // And entries that all differ.
                let book = random(b, width * entries, 3);
                b.nearest(s, &buffer(b, &latents), &book, &mut codes)
                    .unwrap();
                all.extend(words(b, &codes));
                all
            });
        }
    }
}

#[test]
fn filters_agree_on_ties() {
    for width in [1, 2, 3, 255, 256, 257, 513] {
        for (top_k, top_p, temperature) in [
            (0, 0.5, 1.0),
            (2, 1.0, 0.5),
            (200, 0.9, 2.0),
            (0, 0.0, 1.0),
            (3, 0.99, 0.0),
            (width, 1.0, 1.0),
        ] {
            agree!(|b| {
                // Few different numbers, zeros of both signs, and some that are ruled out already.
                let mut x: Vec<f32> = (0..3 * width).map(|i| (i * 7 % 5) as f32 - 2.0).collect();
                x.iter_mut().step_by(6).for_each(|v| *v = -0.0);
                x.iter_mut()
                    .skip(1)
                    .step_by(11)
                    .for_each(|v| *v = f32::NEG_INFINITY);
                let mut logits = buffer(b, &x);
                let mut order = b.zeros(3 * width).unwrap();
                let filter = Filter::default()
                    .with_temperature(temperature)
                    .with_top_k(top_k)
                    .with_top_p(top_p);
                b.filter(
                    FilterShape {
                        rows: 3,
                        width,
                        filter,
                    },
                    &mut logits,
                    &mut order,
                )
                .unwrap();
                bits(b, &logits)
            });
        }
    }
}

#[test]
fn draws_agree_on_ties() {
    for width in [1, 2, 3, 4, 5, 255, 256, 257, 259, 600] {
        agree!(|b| {
            // All alike; alike in pairs; one that stands out, in turns; most ruled out.
            let mut x = vec![0.5; 4 * width];
            (width..2 * width).for_each(|i| x[i] = (i / 2 % 3) as f32);
            x[2 * width + width * 2 / 3] = 9.0;
            (3 * width..4 * width).for_each(|i| x[i] = f32::NEG_INFINITY);
            x[4 * width - 1] = -3.0;
            let (mut logits, mut codes, mut p) =
                (buffer(b, &x), b.zeros(4).unwrap(), b.zeros(4).unwrap());
            let noise = buffer(b, &vec![1.0; 4 * width]);
            let s = DrawShape { rows: 4, width };
            b.draw(s, &mut logits, &Draw::Given(&noise), &mut codes, &mut p)
                .unwrap();
            let mut all = words(b, &codes);
            all.extend(bits(b, &p));
            all.extend(bits(b, &logits));
            let mut logits = buffer(b, &x);
            let keys: Vec<u32> = (0..16_u32).map(|i| i.wrapping_mul(0x1234_5677)).collect();
            let keys = buffer(b, &keys);
            b.draw(s, &mut logits, &Draw::Keyed(&keys), &mut codes, &mut p)
                .unwrap();
            all.extend(words(b, &codes));
            all.extend(bits(b, &p));
            all.extend(bits(b, &logits));
            all
        });
    }
}

#[test]
fn answers_agree_wherever_the_largest_stands() {
    for width in [2, 3, 15, 16, 17, 31, 33, 255, 256, 257, 700] {
        agree!(|b| {
            let mut x = numbers(9 * width, 1);
            for row in 0..9 {
                x[row * width + row * (width - 1) / 8] = 5.0;
            }
            let s = AnswerShape {
                rows: 9,
                width,
                yes: width - 1,
                no: width / 2 - 1,
            };
            let mut out = b.zeros(18).unwrap();
            b.answer(s, &buffer(b, &x), &mut out).unwrap();
            bits(b, &out)
        });
    }
}

#[test]
fn pooled_rows_agree_at_every_remainder() {
    let mut shapes = vec![
        [0, 3, 2, 2],
        [1, 1, 1, 1],
        [2, 3, 1, 5],
        [3, 7, 5, 1],
        [1, 300, 2, 3],
        [2, 4, 1, 300],
        [9, 64, 8, 16],
    ];
    // Around a whole block of outputs.
    shapes.extend([255, 256, 257].map(|views| [views, 2, 1, 1]));
    for [views, rows, heads, head_dim] in shapes {
        let s = PoolShape {
            views,
            rows,
            heads,
            head_dim,
        };
        let width = s.width().unwrap();
        let mut x = numbers(views * rows * width, 1);
        // The largest score stands anywhere, and some are far below it.
        for (i, row) in x.chunks_mut(width).enumerate() {
            row[i % heads] = [9.0, -9.0, 100.0, 0.5][i / 3 % 4];
        }
        agree!(|b| {
            let mut out = random(b, views * heads * head_dim + 1, 2);
            b.pool_rows(s, &buffer(b, &x), &mut out).unwrap();
            bits(b, &out)
        });
    }
}

#[test]
fn draws_agree() {
    for (rows, width) in [(0, 5), (1, 1), (3, 63), (3, 64), (3, 65), (40, 1000)] {
        agree!(|b| {
            let mut logits = random(b, 2 * rows * width, 1);
            b.guide(
                GuideShape {
                    rows,
                    width,
                    scale: 2.5,
                },
                &mut logits,
            )
            .unwrap();
            let keys: Vec<u32> = (0..4 * u32::try_from(rows).unwrap()).collect();
            let noise: Vec<f32> = numbers(rows * width, 2)
                .into_iter()
                .map(|v| v + 2.5)
                .collect();
            let (keys, noise) = (buffer(b, &keys), buffer(b, &noise));
            let mut all = bits(b, &logits);
            for draw in [Draw::Keyed(&keys), Draw::Given(&noise)] {
                let (mut codes, mut p) = (b.zeros(rows).unwrap(), b.zeros(rows).unwrap());
                b.draw(
                    DrawShape { rows, width },
                    &mut logits,
                    &draw,
                    &mut codes,
                    &mut p,
                )
                .unwrap();
                all.extend(words(b, &codes));
                all.extend(bits(b, &p));
            }
            all.extend(bits(b, &logits));
            all
        });
    }
}

#[test]
fn filters_agree() {
    for (rows, width) in [(0, 5), (1, 1), (3, 64), (40, 1000)] {
        for (top_k, top_p) in [(0, 1.0), (7, 1.0), (0, 0.6), (100, 0.9), (1, 0.5)] {
            agree!(|b| {
                let filter = Filter::default()
                    .with_temperature(0.7)
                    .with_top_k(top_k)
                    .with_top_p(top_p);
                let mut logits = random(b, rows * width, 1);
                let mut order = b.zeros(rows * width).unwrap();
                let s = FilterShape {
                    rows,
                    width,
                    filter,
                };
                b.filter(s, &mut logits, &mut order).unwrap();
                bits(b, &logits)
            });
        }
    }
    for b in cpus() {
        let mut logits = buffer(b, &[0.0, 1.0, f32::NAN, 1.0]);
        let filter = Filter::default();
        let s = FilterShape {
            rows: 2,
            width: 2,
            filter,
        };
        let result = b.filter(s, &mut logits, &mut b.zeros(4).unwrap());
        assert!(matches!(result, Err(Error::NotFinite { row: 1, .. })));
    }
}
