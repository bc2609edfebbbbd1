//! Own rows in pages: wherever the pages lie, the bits are those of rows that lie together.

use maquette::ops::Backend;
use maquette::ops::attention::{AppendShape, AttentionShape, KvFormat, PAGE_ROWS};

use super::{bits, buffer, cpus, numbers, random};

/// Rows of the prefix, before everything else in the cache.
const PREFIX: usize = 5;

/// Heads, their width, queries and own rows of three sequences.
#[derive(Clone, Copy)]
struct Case {
    heads: [usize; 2],
    head_dim: usize,
    queries: usize,
    own: [usize; 3],
    repeated: bool,
}

impl Case {
    /// Pages of a sequence, and one more that nobody sees.
    fn pages(&self) -> usize {
        self.own.iter().max().unwrap().div_ceil(PAGE_ROWS) + 1
    }

    fn shape(&self, kv: KvFormat) -> AttentionShape {
        let [n_heads, n_kv_heads] = self.heads;
        let rows = PREFIX + self.own.len() * self.pages() * PAGE_ROWS;
        AttentionShape {
            sequences: self.own.len(),
            queries: self.queries,
            n_heads,
            n_kv_heads,
            head_dim: self.head_dim,
            q_stride: n_heads * self.head_dim + 1,
            q_offset: 1,
            kv_rows: rows,
            kv_stride: kv.words(self.head_dim),
            kv_head_stride: rows * kv.words(self.head_dim),
            k_offset: 0,
            v_offset: 0,
            causal: self.queries > 1,
            repeated_prefix: self.repeated,
            pages: 0,
        }
    }

    /// First rows of pages, those of the sequences in turns, and backwards.
    fn page(&self, sequence: usize, page: usize) -> usize {
        let last = self.own.len() * self.pages() - 1;
        PREFIX + (last - page * self.own.len() - sequence) * PAGE_ROWS
    }

    /// Where own rows lie, and what tells of it: together, or in pages.
    fn places(&self, paged: bool) -> (Vec<u32>, Vec<u32>) {
        let (mut places, mut spans) = ((0..PREFIX).collect::<Vec<_>>(), Vec::new());
        let all = self.pages() * PAGE_ROWS;
        for (sequence, own) in self.own.into_iter().enumerate() {
            let first = PREFIX + sequence * all;
            spans.extend([1, PREFIX - 1 - sequence, first, own]);
            if paged {
                // Not read.
                spans[sequence * (4 + self.pages()) + 2] = usize::MAX >> 32;
                spans.extend((0..self.pages()).map(|page| self.page(sequence, page)));
                places.extend((0..all).map(|j| self.page(sequence, j / PAGE_ROWS) + j % PAGE_ROWS));
            } else {
                places.extend(first..first + all);
            }
        }
        let words = |list: Vec<usize>| list.into_iter().map(|n| u32::try_from(n).unwrap());
        (words(places).collect(), words(spans).collect())
    }

    fn run<B: Backend>(&self, b: &B, kv: KvFormat, paged: bool) -> Vec<u32> {
        let (places, spans) = self.places(paged);
        let s = AttentionShape {
            pages: if paged { self.pages() } else { 0 },
            ..self.shape(kv)
        };
        attended(b, kv, s, &places, &spans)
    }
}

/// Keys and values put at their places, and what is made of them.
fn attended<B: Backend>(
    b: &B,
    kv: KvFormat,
    s: AttentionShape,
    places: &[u32],
    spans: &[u32],
) -> Vec<u32> {
    let width = s.n_kv_heads * s.head_dim;
    let append = AppendShape {
        rows: places.len(),
        heads: s.n_kv_heads,
        head_dim: s.head_dim,
        stride: width,
        offset: 0,
        cache_rows: s.kv_rows,
    };
    let (places, spans) = (buffer(b, places), buffer(b, spans));
    let q = random(b, s.sequences * s.queries * s.q_stride, 1);
    let rows = [2, 3].map(|seed| {
        let mut rows = numbers(append.rows * width, seed);
        rows.iter_mut().step_by(97).for_each(|v| *v *= 3.0);
        buffer(b, &rows)
    });
    let mut out = b
        .zeros(s.sequences * s.queries * s.n_heads * s.head_dim)
        .unwrap();
    let len = s.kv_rows * s.n_kv_heads * kv.words(s.head_dim);
    if kv == KvFormat::F32 {
        let [keys, values] = rows.map(|x| {
            let mut cache = b.zeros::<f32>(len).unwrap();
            b.append(append, &x, &places, &mut cache).unwrap();
            cache
        });
        b.attention(s, &q, &keys, &values, &spans, &mut out)
            .unwrap();
    } else {
        let [keys, values] = rows.map(|x| {
            let mut cache = b.zeros::<u32>(len).unwrap();
            match kv {
                KvFormat::Q8 => b.append_q8(append, &x, &places, &mut cache),
                _ => b.append_bf16(append, &x, &places, &mut cache),
            }
            .unwrap();
            cache
        });
        match kv {
            KvFormat::Q8 => b.attention_q8(s, &q, &keys, &values, &spans, &mut out),
            _ => b.attention_bf16(s, &q, &keys, &values, &spans, &mut out),
        }
        .unwrap();
    }
    bits(b, &out)
}

fn cases() -> impl Iterator<Item = Case> {
    let sizes = [
        // Every instance, and widths that have none.
        ([4, 2], 64, 1, [1, 31, 32]),
        ([4, 4], 72, 1, [33, 64, 70]),
        ([2, 1], 100, 1, [0, 97, 5]),
        ([2, 2], 128, 1, [40, 65, 128]),
        ([2, 1], 130, 1, [3, 40, 64]),
        ([2, 2], 70, 1, [3, 40, 64]),
        // More heads than a large GPU has multiprocessors.
        ([48, 8], 32, 1, [50, 64, 65]),
        // Rows that a candidate comes with, few and many of them.
        ([4, 2], 64, 3, [3, 32, 66]),
        ([4, 4], 64, 40, [40, 70, 64]),
        ([2, 1], 130, 5, [5, 33, 64]),
    ];
    sizes
        .into_iter()
        .enumerate()
        .map(|(i, (heads, head_dim, queries, own))| Case {
            heads,
            head_dim,
            queries,
            own,
            repeated: i % 3 == 2,
        })
}

#[test]
fn pages_change_no_bit() {
    for case in cases() {
        for kv in [KvFormat::F32, KvFormat::Q8] {
            agree!(full, |b| {
                let paged = case.run(b, kv, true);
                assert!(paged == case.run(b, kv, false), "{kv:?}, {:?}", case.heads);
                paged
            });
        }
    }
}

#[test]
fn pages_of_halves_change_no_bit() {
    fn same<B: Backend>(b: &B) -> Vec<Vec<u32>> {
        let run = |case: Case| {
            let paged = case.run(b, KvFormat::Bf16, true);
            let together = case.run(b, KvFormat::Bf16, false);
            assert!(paged == together, "{:?}", case.heads);
            paged
        };
        cases().map(run).collect()
    }
    let want = same(&maquette::ops::Reference);
    for cpu in cpus() {
        assert!(same(cpu) == want, "{} differs", cpu.instructions());
    }
    #[cfg(feature = "cuda")]
    crate::gpu::in_both_orders(|device| {
        same(device);
    });
}

#[test]
fn pages_that_lead_out_of_the_cache_are_cut() {
    let rows = u32::try_from(PREFIX + 3 * PAGE_ROWS).unwrap();
    let last = u32::try_from(PAGE_ROWS).unwrap();
    // Everything the same again: three pages, of which all but one reach past the end or repeat another.
    let spans = [
        [0, 5, 9, u32::MAX, u32::MAX, rows - 1, 0],
        [u32::MAX, u32::MAX, 0, 70, rows - last + 1, 7, 7],
        [0, u32::MAX, 3, 96, rows, 1, u32::MAX - 1],
    ];
    let cut = [
        [0, 5, 9, 96, rows - last, rows - last, 0],
        [0, 0, 0, 70, rows - last, 7, 7],
        [0, rows, 3, 96, rows - last, 1, rows - last],
    ];
    for (queries, head_dim) in [(1, 64), (1, 130), (2, 100)] {
        for kv in [KvFormat::F32, KvFormat::Q8] {
            let case = Case {
                heads: [2, 1],
                head_dim,
                queries,
                own: [PAGE_ROWS; 3],
                repeated: false,
            };
            let s = AttentionShape {
                pages: 3,
                causal: false,
                kv_rows: rows as usize,
                kv_head_stride: rows as usize * kv.words(head_dim),
                ..case.shape(kv)
            };
            let places: Vec<u32> = (0..rows).collect();
            agree!(full, |b| {
                let got = attended(b, kv, s, &places, spans.as_flattened());
                let want = attended(b, kv, s, &places, cut.as_flattened());
                assert!(got == want, "{kv:?}, {queries} queries of {head_dim}");
                got
            });
        }
    }
}

#[test]
fn pages_ask_for_room() {
    let case = cases().next().unwrap();
    let s = AttentionShape {
        pages: 2,
        kv_rows: PAGE_ROWS - 1,
        ..case.shape(KvFormat::F32)
    };
    let len = [1 << 16; 5];
    let check = |s: AttentionShape, spans| s.check(len[0], len[1], len[2], spans, len[4]);
    assert_eq!(
        check(s, 18).unwrap_err().to_string(),
        "attention: \"kv_rows\" holds 31 elements, its shape needs 32"
    );
    let s = AttentionShape {
        kv_rows: PAGE_ROWS,
        ..s
    };
    check(s, 18).unwrap();
    assert_eq!(
        check(s, 17).unwrap_err().to_string(),
        "attention: \"spans\" holds 17 elements, its shape needs 18"
    );
    assert_eq!(s.span_words(), 6);
}
