//! Rows as wide as codebooks, and numbers that lie badly for a search.

use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape};
use maquette::ops::vq::NearestShape;
use maquette::ops::{Backend, Reference};

use super::{bits, buffer, numbers, words};

fn filtered<B: Backend>(b: &B, width: usize, filter: Filter, x: &[f32]) -> B::Buffer<f32> {
    let s = FilterShape {
        rows: x.len() / width,
        width,
        filter,
    };
    let mut logits = buffer(b, x);
    b.filter(s, &mut logits, &mut b.zeros(x.len()).unwrap())
        .unwrap();
    logits
}

fn filter(top_k: usize, top_p: f32) -> Filter {
    Filter::default().with_top_k(top_k).with_top_p(top_p)
}

/// Both draws of rows, each with a key of its own.
fn draws<B: Backend>(b: &B, x: &[f32], width: usize) -> Vec<u32> {
    let rows = x.len() / width;
    let s = DrawShape { rows, width };
    let keys: Vec<u32> = (0..).take(4 * rows).collect();
    let noise: Vec<f32> = numbers(x.len(), 2).into_iter().map(|v| v + 2.5).collect();
    let (keys, noise) = (buffer(b, &keys), buffer(b, &noise));
    let mut all = Vec::new();
    for draw in [Draw::Keyed(&keys), Draw::Given(&noise)] {
        let mut logits = buffer(b, x);
        let (mut codes, mut p) = (b.zeros(rows).unwrap(), b.zeros(rows).unwrap());
        b.draw(s, &mut logits, &draw, &mut codes, &mut p).unwrap();
        all.extend(words(b, &codes));
        all.extend(bits(b, &p));
        all.extend(bits(b, &logits));
    }
    all
}

/// Rows of one block of threads of every size, and rows that a block does not hold.
#[test]
fn rows_of_codebooks_agree() {
    for (rows, width, top_k, top_p) in [
        (2, 1025, 0, 1.0),
        (2, 2050, 40, 1.0),
        (2, 4098, 1000, 0.9),
        (1, 5000, 1500, 1.0),
        // Its last numbers end with the room that they have.
        (1, 10_496, 0, 1.0),
        (1, 16_384, 1000, 1.0),
        (1, 16_387, 9000, 0.99),
        (1, 17_000, 100, 0.5),
        (257, 17, 5, 1.0),
    ] {
        agree!(|b| {
            let x = numbers(rows * width, 1);
            let x: Vec<f32> = x.into_iter().map(|v| v * v * v).collect();
            let logits: Vec<f32> = words(b, &filtered(b, width, filter(top_k, top_p), &x));
            let mut all: Vec<u32> = logits.iter().map(|v| v.to_bits()).collect();
            all.extend(draws(b, &logits, width));
            all
        });
    }
}

/// Rows that no block holds: numbers close to each other, so that what one of them is worth moves the cut, and far apart.
#[test]
fn rows_that_stay_in_memory_agree() {
    // The last tile of a draw has 23 rows of 16 numbers: one turn of 16 rows, and some of 4 and of one.
    let width = 16_739;
    let some = numbers(12 * width, 3);
    for (size, top_k, top_p) in [
        (0.01, 9010, 0.5),
        (0.01, 4001, 0.3),
        (0.01, 10, 0.6),
        (3.0, 8000, 0.99),
        (3.0, 0, 0.9),
    ] {
        let x: Vec<f32> = some[..width].iter().map(|v| v * size).collect();
        agree!(|b| bits(b, &filtered(b, width, filter(top_k, top_p), &x)));
    }
    let x: Vec<f32> = some.iter().map(|v| v * 0.1).collect();
    agree!(|b| draws(b, &x, width));
}

/// All alike; all in one place of a histogram but one; every order of magnitude; zeros of both signs; without an end;
/// some that differ in their last bits alone.
#[test]
fn filters_find_every_rank() {
    let width = 700;
    let some = numbers(width, 3);
    let row = |f: &dyn Fn(usize) -> f32| (0..width).map(f).collect::<Vec<_>>();
    let rows = [
        row(&|_| 0.25),
        row(&|i| if i == 9 { 3e38 } else { some[i] }),
        row(&|i| if i % 300 == 9 { -1e9 } else { some[i] }),
        row(&|i| some[i].signum() * libm::exp2f((i * 377 % 270) as f32 - 143.0)),
        row(&|i| [0.0, -0.0, 1e-45, -1e-45][i * i % 4]),
        row(&|i| [f32::INFINITY, 1.0, f32::NEG_INFINITY, some[i]][i * i / 3 % 4]),
        row(&|i| f32::from_bits(0x3f80_0000 + (i as u32 * 379) % 600)),
        row(&|i| [f32::MAX, f32::MIN, some[i]][i % 3]),
    ]
    .concat();
    for top_k in [1, 2, 100, 350, 698, 699] {
        for top_p in [1.0, 0.99] {
            agree!(|b| bits(b, &filtered(b, width, filter(top_k, top_p), &rows)));
        }
    }
}

/// A row's end in each of the 16 places of a thread.
#[test]
fn draws_agree_wherever_a_row_ends() {
    let some = numbers(16_384, 5);
    for width in (15_365..).step_by(16).take(16) {
        agree!(|b| draws(b, &some[..width], width));
    }
}

/// As many numbers left in each of the 16 lanes of a sum, or all in one, or one more than a quarter.
#[test]
fn draws_agree_wherever_the_numbers_left_stand() {
    let width = 1280;
    let some = numbers(width, 4);
    let row = |left: &dyn Fn(usize) -> bool| {
        let of = |i: usize| if left(i) { some[i] } else { f32::NEG_INFINITY };
        (0..width).map(of).collect::<Vec<_>>()
    };
    let rows = [
        row(&|i| i == 777),
        row(&|i| i % 16 == 5),
        row(&|i| i % 16 == 5 && i / 16 % 4 == 0),
        row(&|i| i % 16 == 5 && (i / 16 % 4 == 0 || i < 16)),
        row(&|i| i / 16 % 4 == 3),
        row(&|i| i % 7 == 3),
        row(&|i| i >= width - 100),
        row(&|i| i < 5),
        row(&|_| true),
    ]
    .concat();
    let s = DrawShape {
        rows: rows.len() / width,
        width,
    };
    for seed in 0..4 {
        agree!(|b| {
            let keys: Vec<u32> = (0..4 * s.rows as u32).map(|i| i * 3 + seed).collect();
            let (mut logits, keys) = (buffer(b, &rows), buffer(b, &keys));
            let (mut codes, mut p) = (b.zeros(s.rows).unwrap(), b.zeros(s.rows).unwrap());
            b.draw(s, &mut logits, &Draw::Keyed(&keys), &mut codes, &mut p)
                .unwrap();
            let mut all = words(b, &codes);
            all.extend(bits(b, &p));
            all.extend(bits(b, &logits));
            all
        });
    }
}

/// Draws of rows that all have one key.
fn drawn_with<B: Backend>(b: &B, key: u32, width: usize, x: &[f32]) -> Vec<u32> {
    let rows = x.len() / width;
    let (mut logits, keys) = (buffer(b, x), buffer(b, &[key, 1, 2, 3].repeat(rows)));
    let (mut codes, mut p) = (b.zeros(rows).unwrap(), b.zeros(rows).unwrap());
    let s = DrawShape { rows, width };
    b.draw(s, &mut logits, &Draw::Keyed(&keys), &mut codes, &mut p)
        .unwrap();
    words(b, &codes)
}

/// A race of two entries, and the logits of the second that are next to a tie: one that loses, and one that wins.
fn tie(key: u32, mut row: Vec<f32>, [one, other]: [usize; 2]) -> (Vec<f32>, [f32; 2]) {
    row[one] = 0.0;
    let (mut low, mut high) = (-30.0_f32, 30.0_f32);
    for _ in 0..40 {
        let middle = f32::midpoint(low, high);
        row[other] = middle;
        if drawn_with(&Reference, key, row.len(), &row) == [other as u32] {
            high = middle;
        } else {
            low = middle;
        }
    }
    (row, [low, high])
}

/// The first of equal scores is drawn: two entries, one's logit around the place where the other begins to win.
#[test]
fn draws_with_keys_agree_around_a_tie() {
    let width = 20;
    for key in 0..8 {
        let mut all = Vec::new();
        // Entries of four threads, one of each of a thread's four.
        for other in [5, 10, 15, 16] {
            let (mut row, [_, mut logit]) = tie(key, vec![f32::NEG_INFINITY; width], [0, other]);
            (0..12).for_each(|_| logit = logit.next_down());
            for _ in 0..24 {
                row[other] = logit;
                all.extend(&row);
                logit = logit.next_up();
            }
        }
        agree!(|b| drawn_with(b, key, width, &all));
    }
}

/// Each of a thread's numbers of a row that its block holds just so, and of one that stays in memory, wins a race by a
/// bit and loses one: its noise is right to the last bits.
#[test]
fn wide_draws_with_keys_agree_around_a_tie() {
    // Four numbers a turn, by all threads but a warp.
    let turns = (0..5).map(|turn| (16_384, 4 * (turn * (1024 - 32) + 77)));
    for (width, first) in turns.chain([(16_388, 5000)]) {
        let mut all = Vec::new();
        for one in [first, first + 2] {
            // The others cannot win, but are not ruled out.
            let (mut row, logits) = tie(1, vec![-100.0; width], [one, one + 1]);
            for logit in logits {
                row[one + 1] = logit;
                all.extend(&row);
            }
        }
        agree!(|b| drawn_with(b, 1, width, &all));
    }
}

/// Entries that no approximation tells apart, numbers near both ends of what floats hold, and entries that are none.
#[test]
fn nearest_codes_agree_where_distances_are_close() {
    let (n, entries) = (130, 1100);
    for width in [1, 3, 8] {
        let (z, e) = (numbers(n * width, 5), numbers(entries * width, 6));
        let cases: [(f32, &dyn Fn(usize) -> f32); 10] = [
            (1.0, &|i| e[i]),
            // All around one place, a bit or some thousand of them apart; far away; alike.
            (1.0, &|i| 0.75 + (e[i] * 8.0).round() * f32::EPSILON),
            (1.0, &|i| 0.75 + e[i] * 1e-4),
            (1.0, &|i| 300.0 + e[i]),
            (1.0, &|i| e[i / width % 3 * width + i % width]),
            (1e-22, &|i| e[i] * 1e-22),
            (1e-38, &|i| e[i] * 1e-38),
            (1e18, &|i| e[i] * 2.5e18),
            // Squares and products that are infinite, distances that are not.
            (7e18, &|i| e[i] * 7e18),
            (1.0, &|i| match i % 37 {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2 => f32::NEG_INFINITY,
                3 if i % 5 == 0 => 3e38,
                _ => e[i],
            }),
        ];
        for (size, entry) in cases {
            for normalise in [false, true] {
                let book: Vec<f32> = (0..entries * width).map(entry).collect();
                // Some latents are entries themselves, or close by.
                let mut latents: Vec<f32> = z.iter().map(|v| v * size).collect();
                for i in 0..20 {
                    let entry = &book[i * 53 * width..][..width];
                    if entry.iter().all(|v| v.is_finite()) {
                        latents[i * width..][..width].copy_from_slice(entry);
                    }
                    latents[i * width] *= [1.0, 1.000_001, 1.001][i % 3];
                }
                // A length that no float holds is refused.
                for latent in latents.chunks_exact_mut(width).filter(|_| normalise) {
                    if latent.iter().map(|v| v * v).sum::<f32>() == f32::INFINITY {
                        latent.iter_mut().for_each(|v| *v *= 1e-19);
                    }
                }
                agree!(|b| {
                    let s = NearestShape {
                        n,
                        width,
                        entries,
                        normalise,
                    };
                    let (latents, book) = (buffer(b, &latents), buffer(b, &book));
                    let mut codes = b.zeros(n).unwrap();
                    b.nearest(s, &latents, &book, &mut codes).unwrap();
                    words(b, &codes)
                });
            }
        }
    }
}

/// Latents around the least length, below which they keep their own.
#[test]
fn nearest_codes_agree_around_the_least_length() {
    let n = 40;
    for width in [1, 8, 11] {
        agree!(|b| {
            let s = NearestShape {
                n,
                width,
                entries: 24,
                normalise: true,
            };
            let first = |rows: usize, step: f32| -> Vec<f32> {
                let of = |i: usize| {
                    if i.is_multiple_of(width) {
                        (i / width) as f32 * step
                    } else {
                        0.0
                    }
                };
                (0..rows * width).map(of).collect()
            };
            let (latents, book) = (buffer(b, &first(n, 5e-14)), buffer(b, &first(24, 0.05)));
            let mut codes = b.zeros(n).unwrap();
            b.nearest(s, &latents, &book, &mut codes).unwrap();
            let codes = words(b, &codes);
            assert!(codes[19] > 15 && codes[30] == codes[39], "{codes:?}");
            codes
        });
    }
}

/// Products that end at infinity, while the nearest entry is another one.
#[test]
fn nearest_codes_agree_where_products_are_infinite() {
    for (latent, book) in [
        ([1.72e19, 0.0], [0.95e19, 0.0, 0.0, 0.0, 1e19, 1.5e19]),
        // Twice the latent is infinite already: its products are minus infinity, its bound is infinity, and their sum is
        // no number. The first entry is two short floats, neither of them zero.
        ([2e38, 0.0], [1.000_25, 0.0, 0.0, 0.0, 2e38, 0.0]),
    ] {
        let s = NearestShape {
            n: 1,
            width: 2,
            entries: 3,
            normalise: false,
        };
        agree!(|b| {
            let (latent, book) = (buffer(b, &latent), buffer(b, &book));
            let mut codes = b.zeros(1).unwrap();
            b.nearest(s, &latent, &book, &mut codes).unwrap();
            words(b, &codes)
        });
    }
}
