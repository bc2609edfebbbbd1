//! Rows that hold no numbers are named, and buffers of wrong lengths refused.

use maquette::cpu::Cpu;
use maquette::ops::attention::RelativeShape;
use maquette::ops::conv::{ConvShape, PatchShape, Rounding};
use maquette::ops::gemm::GemmShape;
use maquette::ops::norm::{Activation, GateShape, GroupNormShape, NormShape};
use maquette::ops::reward_head::{AnswerShape, PoolShape};
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape};
use maquette::ops::vq::{LfqShape, NearestShape};
use maquette::ops::{Backend, Reference};
use maquette::quant::QuantMatrix;
use maquette::{Error, Result};

use super::{buffer, cpus, numbers, random};

/// The operation and row of an error, which may come with the next read.
fn refused<B: Backend>(b: &B, result: Result<()>) -> (&'static str, usize) {
    let mut word = [0.0];
    let result = result.and_then(|()| b.read(&b.zeros(1).unwrap(), 0, &mut word));
    match result {
        Err(Error::NotFinite { op, row, .. }) => (op, row),
        other => panic!("{other:?}"),
    }
}

fn refuses<B: Backend>(b: &B) {
    for (wrong, row) in [(f32::NAN, 1), (f32::INFINITY, 2), (f32::NEG_INFINITY, 0)] {
        for width in [5, 300] {
            let mut x = numbers(3 * width, 1);
            for later in row..3 {
                x[later * width + (later + 2) % width] = wrong;
            }
            let s = AnswerShape {
                rows: 3,
                width,
                yes: 0,
                no: 1,
            };
            let result = b.answer(s, &buffer(b, &x), &mut b.zeros(6).unwrap());
            assert_eq!(refused(b, result), ("answer", row));
            for head in [0, 1] {
                let s = PoolShape {
                    views: 3,
                    rows: 2,
                    heads: 2,
                    head_dim: width,
                };
                let row_width = s.width().unwrap();
                let mut x = numbers(6 * row_width, 1);
                // Of a view the last score alone, and any value.
                x[(2 * row + 1) * row_width + head] = wrong;
                x[2] = wrong;
                let result = b.pool_rows(s, &buffer(b, &x), &mut b.zeros(6 * width).unwrap());
                assert_eq!(refused(b, result), ("pool_rows", row));
            }
            let s = NearestShape {
                n: 3,
                width,
                entries: 3,
                normalise: false,
            };
            let book = random(b, 3 * width, 2);
            let mut codes = b.zeros(3).unwrap();
            let result = b.nearest(s, &buffer(b, &x), &book, &mut codes);
            assert_eq!(refused(b, result), ("nearest", row));
            // A length that no float holds.
            let mut long = numbers(3 * width, 1);
            long[row * width] = 1e20;
            let to_length_1 = NearestShape {
                normalise: true,
                ..s
            };
            let result = b.nearest(to_length_1, &buffer(b, &long), &book, &mut codes);
            assert_eq!(refused(b, result), ("nearest", row));
            // Infinities have a sign.
            let s = LfqShape {
                n: 3,
                bits: width.min(31),
            };
            let mut signs = numbers(3 * s.bits, 1);
            signs[(row + 1) * s.bits - 1] = wrong;
            let result = b.lfq_codes(s, &buffer(b, &signs), &mut codes);
            if wrong.is_nan() {
                assert_eq!(refused(b, result), ("lfq", row));
            } else {
                result.unwrap();
            }
            // Minus infinity rules a code out; of a whole row it leaves nothing.
            if wrong < 0.0 {
                x[row * width..].fill(wrong);
            }
            let s = DrawShape { rows: 3, width };
            let (keys, noise) = (buffer(b, &[7; 12]), random(b, 3 * width, 3));
            let mut p = b.zeros(3).unwrap();
            for draw in [Draw::Keyed(&keys), Draw::Given(&noise)] {
                // A NaN beside numbers is no largest one.
                let mut logits = buffer(b, &x);
                let result = b.draw(s, &mut logits, &draw, &mut codes, &mut p);
                assert_eq!(refused(b, result), ("draw", row));
            }
            if wrong.is_nan() {
                for (top_k, top_p) in [(0, 1.0), (2, 0.5)] {
                    let filter = Filter::default()
                        .with_temperature(0.9)
                        .with_top_k(top_k)
                        .with_top_p(top_p);
                    let s = FilterShape {
                        rows: 3,
                        width,
                        filter,
                    };
                    let mut order = b.zeros(3 * width).unwrap();
                    let result = b.filter(s, &mut buffer(b, &x), &mut order);
                    assert_eq!(refused(b, result), ("filter", row));
                }
                let mut out = b.zeros::<u8>(3 * width).unwrap();
                let result = b.to_bytes(Rounding::Nearest, 3 * width, &buffer(b, &x), &mut out);
                let first = row * width + (row + 2) % width;
                assert_eq!(refused(b, result), ("to_bytes", first));
            }
        }
    }
    // What was wrong is over.
    b.read(&b.zeros(1).unwrap(), 0, &mut [0.0]).unwrap();
}

#[test]
fn rows_without_numbers_are_named() {
    refuses(&Reference);
    cpus().iter().for_each(refuses);
    #[cfg(feature = "cuda")]
    crate::gpu::in_both_orders(refuses);
}

/// Sizes of one item that do not fit, where there is no item.
fn refuses_sizes<B: Backend>(b: &B) {
    let (x, mut y) = (random(b, 16, 1), random(b, 16, 2));
    let images = GroupNormShape {
        images: 0,
        pixels: usize::MAX / 4 + 1,
        channels: 4,
        groups: 2,
        eps: 0.0,
        swish: false,
    };
    let views = PoolShape {
        views: 0,
        rows: usize::MAX / 4 + 1,
        heads: 2,
        head_dim: 1,
    };
    let rows = GateShape {
        rows: 0,
        width: usize::MAX / 2 + 1,
        activation: Activation::Silu,
    };
    let patches = PatchShape {
        images: 1,
        height: 4,
        width: 4,
        patch: 1 << (usize::BITS / 2),
    };
    let heads = RelativeShape {
        rows: 0,
        n_heads: usize::MAX / 4 + 1,
        head_dim: 4,
        scale: 1.0,
    };
    let pixels = b.zeros(48).unwrap();
    for (of, result) in [
        ("group_norm", b.group_norm(images, &x, &x, &x, &mut y)),
        ("pool_rows", b.pool_rows(views, &x, &mut y)),
        ("gate", b.gate(rows, &x, &mut y)),
        ("patchify", b.patchify(patches, &pixels, &mut y)),
        (
            "relative_attention",
            b.relative_attention(heads, &x, &x, &mut y),
        ),
    ] {
        assert!(
            matches!(result, Err(Error::Overflow { op }) if op == of),
            "{of}: {result:?}"
        );
    }
}

#[test]
fn a_zero_hides_no_size_that_overflows() {
    refuses_sizes(&Reference);
    cpus().iter().for_each(refuses_sizes);
    #[cfg(feature = "cuda")]
    crate::gpu::in_both_orders(refuses_sizes);
}

#[test]
fn wrong_lengths_are_errors_and_not_panics() {
    for b in cpus() {
        let s = GemmShape::new(2, 3, 4);
        let w = b
            .pack(&QuantMatrix::f32(3, 4, &[0.0; 12]).unwrap())
            .unwrap();
        let (x, mut y) = (random(b, 8, 1), random(b, 6, 2));
        assert!(b.gemm(s, &x, &w, None, &mut y).is_ok());
        assert!(matches!(
            b.gemm(GemmShape { m: 3, ..s }, &x, &w, None, &mut y),
            Err(Error::Length { .. })
        ));
        assert!(
            b.gemm(GemmShape { n: 2, ..s }, &x, &w, None, &mut y)
                .is_err()
        );
        assert!(b.gemm(s, &x, &w, Some(&random(b, 2, 1)), &mut y).is_err());
        assert!(
            b.conv2d(ConvShape::same(1, [2, 2], 4, 3, 3), &x, &w, &x, &mut y)
                .is_err()
        );
        assert!(
            b.layer_norm(
                NormShape {
                    rows: 2,
                    width: 4,
                    eps: 0.0
                },
                &x,
                &x,
                &x,
                &mut y
            )
            .is_err()
        );
        assert!(b.read(&x, 7, &mut [0.0; 2]).is_err());
        assert!(b.write(&mut y, usize::MAX, &[0.0; 2]).is_err());
        assert!(b.copy(&x, 0, &mut y, 0, 7).is_err());
        assert!(matches!(
            b.zeros::<f32>(usize::MAX / 8),
            Err(Error::OutOfMemory { .. })
        ));
        let mut logits = buffer(b, &[0.0, 1.0, f32::NAN, 1.0]);
        let (keys, mut codes) = (buffer(b, &[0; 8]), buffer(b, &[0; 2]));
        let result = b.draw(
            DrawShape { rows: 2, width: 2 },
            &mut logits,
            &Draw::Keyed(&keys),
            &mut codes,
            &mut y,
        );
        assert!(matches!(result, Err(Error::NotFinite { row: 1, .. })));
    }
    assert!(Cpu::with_threads(0).is_err());
}
