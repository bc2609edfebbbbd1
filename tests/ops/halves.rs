//! Keys and values in halves of floats. The CPU has the bits of the reference; a GPU's tensor cores sum in an order of
//! their own, so that there the exact numbers decide, and a row's bits are compared with the same row's in other calls.

use maquette::ops::attention::{AppendShape, AttentionShape, KvFormat};
use maquette::ops::{Backend, Reference};

use super::{bits, buffer, cpus, numbers, words};

/// The nearest upper half of a float.
fn rounded(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) >> 16 << 16)
}

/// Rows of heads as a cache keeps them, `[heads, rows, words]`.
fn kept(rows: usize, heads: usize, head_dim: usize, x: &[f32]) -> Vec<u32> {
    let width = KvFormat::Bf16.words(head_dim);
    let s = AppendShape {
        rows,
        heads,
        head_dim,
        stride: heads * head_dim,
        offset: 0,
        cache_rows: rows,
    };
    let mut cache = Reference.zeros(heads * rows * width).unwrap();
    let places: Vec<u32> = (0..).take(rows).collect();
    let (x, places) = (buffer(&Reference, x), buffer(&Reference, &places));
    Reference.append_bf16(s, &x, &places, &mut cache).unwrap();
    words(&Reference, &cache)
}

fn shape(queries: usize, [n_heads, n_kv_heads]: [usize; 2], head_dim: usize) -> AttentionShape {
    AttentionShape {
        sequences: 1,
        queries,
        n_heads,
        n_kv_heads,
        head_dim,
        q_stride: n_heads * head_dim + 3,
        q_offset: 2,
        kv_rows: 0,
        kv_stride: KvFormat::Bf16.words(head_dim),
        kv_head_stride: 0,
        k_offset: 0,
        v_offset: 0,
        causal: true,
        repeated_prefix: false,
        pages: 0,
    }
}

/// A case: queries, keys and values, as floats and as a cache.
struct Case {
    s: AttentionShape,
    q: Vec<f32>,
    floats: [Vec<f32>; 2],
    kv: [Vec<u32>; 2],
}

impl Case {
    /// So many rows of numbers, and spans over them.
    fn new(s: AttentionShape, rows: usize) -> Self {
        let s = AttentionShape {
            kv_rows: rows,
            kv_head_stride: rows * s.kv_stride,
            ..s
        };
        let len = rows * s.n_kv_heads * s.head_dim;
        let mut keys = numbers(len, 2);
        keys.iter_mut().step_by(97).for_each(|v| *v *= 3.0);
        Self::of(
            s,
            numbers(s.sequences * s.queries * s.q_stride, 1),
            [keys, numbers(len, 3)],
        )
    }

    fn of(s: AttentionShape, q: Vec<f32>, floats: [Vec<f32>; 2]) -> Self {
        let kv = [0, 1].map(|i| kept(s.kv_rows, s.n_kv_heads, s.head_dim, &floats[i]));
        Self { s, q, floats, kv }
    }

    fn run<B: Backend>(&self, b: &B, spans: &[u32]) -> Vec<u32> {
        let s = self.s;
        let [keys, values] = [0, 1].map(|i| buffer(b, &self.kv[i]));
        let mut out = b
            .zeros(s.sequences * s.queries * s.n_heads * s.head_dim)
            .unwrap();
        let (q, spans) = (buffer(b, &self.q), buffer(b, spans));
        b.attention_bf16(s, &q, &keys, &values, &spans, &mut out)
            .unwrap();
        bits(b, &out)
    }

    /// The exact numbers, and how far an output may be from them: its weights by 2⁻⁸ for their rounding and by what
    /// their scores are off, a sum of `head_dim` products in any order that cuts off 24 bits further down.
    fn exact(&self, spans: &[u32]) -> Vec<[f64; 2]> {
        let (s, d) = (self.s, self.s.head_dim);
        let mut all = Vec::new();
        for row in 0..s.sequences * s.queries {
            let span = &spans[row / s.queries * 4..][..4];
            let seen: Vec<usize> = s
                .visible(span, row % s.queries)
                .into_iter()
                .flatten()
                .collect();
            for h in 0..s.n_heads {
                let head = h / (s.n_heads / s.n_kv_heads);
                let q = &self.q[row * s.q_stride + s.q_offset + h * d..][..d];
                let at = |i: usize, j: usize| {
                    let x = &self.floats[i][(j * s.n_kv_heads + head) * d..][..d];
                    x.iter().map(|x| f64::from(rounded(*x)))
                };
                let scale = 1.0 / (d as f64).sqrt();
                let mut terms = 0.0_f64;
                let scores: Vec<f64> = seen
                    .iter()
                    .map(|&j| {
                        let products = q.iter().zip(at(0, j));
                        let products = products.map(|(q, k)| f64::from(rounded(*q)) * k * scale);
                        terms = terms.max(products.clone().map(f64::abs).sum());
                        products.sum()
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let (mut total, mut sums) = (0.0, vec![[0.0; 2]; d]);
                for (n, (&j, score)) in seen.iter().zip(&scores).enumerate() {
                    let first = n == 0 && s.repeated_prefix && span[1] > 0;
                    let p = (score - largest).exp() * if first { f64::from(span[1]) } else { 1.0 };
                    total += p;
                    for (sum, v) in sums.iter_mut().zip(at(1, j)) {
                        sum[0] += p * v;
                        sum[1] += p * v.abs();
                    }
                }
                let unit = 2.0_f64.powi(-22);
                let off = 2.0_f64.powi(-8)
                    + (d + 16) as f64 * unit * terms
                    + (seen.len() + 32) as f64 * unit;
                let total = if total > 0.0 { total } else { 1.0 };
                all.extend(
                    sums.iter()
                        .map(|sum| [sum[0] / total, sum[1] / total * off + 1e-30]),
                );
            }
        }
        all
    }

    /// The reference and the CPU to the bit, all of them and the GPU within what rounding explains.
    fn check(&self, spans: &[u32]) {
        let (want, exact) = (self.run(&Reference, spans), self.exact(spans));
        let near = |got: &[u32], who: &str| {
            for (i, (got, [exact, off])) in got.iter().zip(&exact).enumerate() {
                let got = f64::from(f32::from_bits(*got));
                assert!(
                    (got - exact).abs() <= *off,
                    "{who}, {i}: {got} is not {exact} to {off}: {:?} {spans:?}",
                    self.s
                );
            }
        };
        near(&want, "reference");
        for cpu in cpus() {
            let got: Vec<u32> = crate::guarded(|| self.run(cpu, spans));
            assert!(
                got == want,
                "{} threads with {} differ from the reference: {:?}",
                cpu.threads(),
                cpu.instructions(),
                self.s
            );
        }
        #[cfg(feature = "cuda")]
        crate::gpu::in_both_orders(|gpu| near(&self.run(gpu, spans), "GPU"));
    }
}

#[test]
fn caches_in_halves_agree() {
    for head_dim in [1, 2, 7, 40, 72] {
        agree!(|b| {
            let (rows, width) = (5, KvFormat::Bf16.words(head_dim));
            let s = AppendShape {
                rows,
                heads: 2,
                head_dim,
                stride: 2 * head_dim + 3,
                offset: 2,
                cache_rows: 4,
            };
            let mut x = numbers(rows * s.stride, 1);
            // No number, what rounds to infinity, and ties.
            let odd = [
                f32::NAN,
                f32::from_bits(0x7f80_0001),
                f32::NEG_INFINITY,
                f32::MAX,
                f32::from_bits(0x3f80_8000),
                f32::from_bits(0x3f81_8000),
                f32::from_bits(1),
            ];
            x[s.offset..][..2 * head_dim]
                .iter_mut()
                .zip(odd)
                .for_each(|(x, odd)| *x = odd);
            let mut cache = b.zeros(2 * 4 * width).unwrap();
            // Backwards, and one row outside.
            let places = buffer(b, &[3, 2, 4, 1, 0]);
            b.append_bf16(s, &buffer(b, &x), &places, &mut cache)
                .unwrap();
            words(b, &cache)
        });
    }
}

#[test]
fn attention_over_halves_is_as_near_as_its_rounding() {
    // Rows of every kernel that are copied by words, in each number of turns.
    let by_words = [37, 46, 50, 70, 75, 78, 82, 90, 101, 127];
    for (i, head_dim) in [1, 2, 3, 8, 31, 64, 65, 72, 80, 88, 128, 130]
        .into_iter()
        .chain(by_words)
        .enumerate()
    {
        let s = AttentionShape {
            sequences: 2,
            causal: i % 2 == 0,
            repeated_prefix: i % 3 == 0,
            ..shape(1 + i % 3, [4, 2], head_dim)
        };
        let case = Case::new(s, 200);
        for spans in [
            [0, 0, 0, 1, 0, 2, 2, 3],
            [0, 63, 63, 1, 5, 64, 70, 1],
            [0, 128, 128, 3, 1, 127, 150, 0],
            [7, 31, 140, 32, 200, 9, 0, 0],
            [0, 0, 0, 200, 199, 1, 190, 30],
        ] {
            case.check(&spans);
        }
    }
}

#[test]
fn many_queries_over_halves_are_as_near() {
    for (queries, heads, head_dim, causal) in [
        (63, [1, 1], 64, false),
        (64, [2, 2], 40, true),
        (65, [1, 1], 72, false),
        (13, [7, 1], 128, true),
        (17, [2, 1], 9, true),
        (130, [1, 1], 16, true),
        (18, [1, 1], 46, false),
        (20, [1, 1], 70, true),
        (9, [2, 1], 78, false),
        (17, [1, 1], 82, false),
        (20, [1, 1], 90, true),
        (6, [3, 1], 127, true),
    ] {
        let s = AttentionShape {
            causal,
            ..shape(queries, heads, head_dim)
        };
        let rows = 60 + queries;
        let case = Case::new(s, rows);
        let own = u32::try_from(queries).unwrap();
        for (prefix, own) in [(0, own), (60, own), (3, 2)] {
            case.check(&[0, prefix, 60, own]);
        }
    }
}

/// Keys and values beside each other in rows that begin anywhere.
#[test]
fn rows_of_halves_may_lie_apart() {
    let (rows, words) = (70, KvFormat::Bf16.words(24));
    for (stride, k_offset, v_offset) in [
        (4 * words, 0, 2 * words),
        (4 * words + 1, 0, 2 * words),
        (4 * words + 4, 1, 2 * words + 3),
    ] {
        let mut case = Case::new(shape(20, [4, 2], 24), rows);
        let mut all = vec![0xffff_ffff; rows * stride + 8];
        for (i, offset) in [k_offset, v_offset].into_iter().enumerate() {
            for (n, row) in case.kv[i].chunks(words).enumerate() {
                all[n % rows * stride + offset + n / rows * words..][..words].copy_from_slice(row);
            }
        }
        case.kv = [all.clone(), all];
        case.s = AttentionShape {
            kv_stride: stride,
            kv_head_stride: words,
            k_offset,
            v_offset,
            ..case.s
        };
        case.check(&[0, 11, 40, 30]);
    }
}

/// A row of a call, whatever stands beside it there, has the bits that it has alone.
#[test]
fn rows_over_halves_do_not_know_their_batch() {
    fn alone<B: Backend>(b: &B, case: &Case, few: usize) -> Vec<u32> {
        let (mut out, mut first) = (Vec::new(), 0);
        while first < case.s.queries {
            // One, then some.
            let count = if first < few { 1 } else { 20 };
            let count = count.min(case.s.queries - first);
            let part = Case {
                s: AttentionShape {
                    queries: count,
                    ..case.s
                },
                q: case.q[first * case.s.q_stride..][..count * case.s.q_stride].to_vec(),
                floats: [Vec::new(), Vec::new()],
                kv: case.kv.clone(),
            };
            let end = u32::try_from(first + count).unwrap();
            out.extend(part.run(b, &[0, 20, 20, end]));
            first += count;
        }
        out
    }
    for (heads, head_dim, few) in [([1, 1], 64, 15), ([3, 1], 72, 40), ([4, 2], 128, 9)] {
        let case = Case::new(shape(70, heads, head_dim), 90);
        // Query i sees the prefix and the first own rows up to its own.
        let spans = [0, 20, 20, 70];
        assert!(case.run(&Reference, &spans) == alone(&Reference, &case, few));
        #[cfg(feature = "cuda")]
        crate::gpu::in_both_orders(|gpu| {
            let (together, alone) = (case.run(gpu, &spans), alone(gpu, &case, few));
            let width = heads[0] * head_dim;
            let rows = together.chunks(width).zip(alone.chunks(width));
            for (row, (a, b)) in rows.enumerate() {
                assert!(a == b, "{heads:?} {head_dim}: row {row}");
            }
        });
    }
}

/// Of a row of values two in every eight, which a GPU keeps in places of their own.
fn among(c: usize) -> bool {
    c % 8 / 2 == c / 8 % 4
}

/// Values that are no numbers are their columns of the rows that see them, a key or a query all of them; nothing else moves.
fn odd_numbers_stay<B: Backend>(
    b: &B,
    clean: &Case,
    (row, odd): (usize, f32),
    places: std::ops::Range<usize>,
    among: impl Fn(usize) -> bool,
) {
    let (s, d) = (clean.s, clean.s.head_dim);
    let spans = [0, 20, 20, u32::try_from(s.queries).unwrap()];
    let column = d / 2;
    let want = clean.run(b, &spans);
    // From the fourth place on the next head begins with it.
    for place in places {
        let (mut q, mut floats) = (clean.q.clone(), clean.floats.clone());
        match place {
            0 => q[(row - 20) * s.q_stride + s.q_offset + column] = f32::NAN,
            1 => floats[0][row * d + column] = odd,
            2 => (0..d)
                .filter(|&c| among(c))
                .for_each(|c| floats[1][row * d + c] = odd),
            _ => q[(row - 20) * s.q_stride + s.q_offset + (place - 2) * d] = f32::NAN,
        }
        let got = Case::of(s, q, floats).run(b, &spans);
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            let (query, head, c) = (at / d / s.n_heads, at / d % s.n_heads, at % d);
            let seen = query + 20 >= row;
            let hit = match place {
                0 => query + 20 == row && head == 0,
                1 => seen,
                2 => seen && among(c),
                _ => query + 20 == row && head == place - 2,
            };
            let what = format!("place {place}, query {query}, head {head}, column {c}: {s:?}");
            if !hit {
                assert_eq!(got, want, "{what}");
            } else if place != 1 || odd.is_nan() {
                assert!(!f32::from_bits(*got).is_finite(), "{what}");
            }
        }
    }
}

/// A GPU looks for them in each of a thread's sums, so that one alone must do: of either half of 16 rows.
#[cfg(feature = "cuda")]
#[test]
fn one_value_that_is_no_number_is_found_in_every_column() {
    for (queries, heads, head_dim) in [
        (3, [1, 1], 64),
        (9, [1, 1], 64),
        (3, [2, 1], 80),
        (5, [3, 1], 80),
        (2, [3, 1], 128),
        (5, [3, 1], 128),
        (17, [1, 1], 80),
        (30, [1, 1], 80),
    ] {
        let clean = Case::new(shape(queries, heads, head_dim), 90);
        // The last query alone sees it.
        let odd = (20 + queries - 1, f32::INFINITY);
        let gpu = crate::gpu::device();
        for column in 0..head_dim {
            odd_numbers_stay(&gpu, &clean, odd, 2..3, |c| c == column);
        }
    }
}

#[test]
fn what_is_no_number_in_halves_stays_with_its_rows() {
    for (queries, heads, head_dim) in [
        (70, [1, 1], 64),
        (1, [2, 1], 40),
        (20, [1, 1], 128),
        (2, [3, 1], 128),
        (20, [1, 1], 80),
        (3, [2, 1], 72),
        (3, [4, 1], 71),
        (20, [2, 1], 67),
    ] {
        let clean = Case::new(shape(queries, heads, head_dim), 90);
        let places = 0..2 + clean.s.n_heads;
        for odd in [f32::NAN, f32::INFINITY] {
            let odd = (20 + queries / 2, odd);
            odd_numbers_stay(&Reference, &clean, odd, places.clone(), among);
            for cpu in cpus() {
                odd_numbers_stay(cpu, &clean, odd, places.clone(), among);
            }
            #[cfg(feature = "cuda")]
            crate::gpu::in_both_orders(|gpu| {
                odd_numbers_stay(gpu, &clean, odd, places.clone(), among)
            });
        }
    }
}
