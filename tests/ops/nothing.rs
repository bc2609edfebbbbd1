//! Shapes of nothing: no rows, images, views, heads or sequences. Nothing is read, and outputs stay as they were.

use maquette::ops::attention::{
    AppendShape, AttentionShape, KeepShape, MoveShape, RelativeShape, RotaryShape,
};
use maquette::ops::conv::{ConvShape, PatchShape, Rounding};
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use maquette::ops::reward_head::{AnswerShape, PoolShape};
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape, GuideShape};
use maquette::ops::vq::{GatherShape, LfqShape, NearestShape};
use maquette::ops::{Backend, HeadNorms, KvPair};
use maquette::quant::QuantMatrix;

use super::{bits, buffer, numbers, random, words};

/// Width of a row, and of all weights.
const WIDTH: usize = 4;

/// What every operation leaves of outputs that hold something.
fn left<B: Backend>(b: &B) -> Vec<u32> {
    let (none, no_words) = (&b.zeros(0).unwrap(), &b.zeros::<u32>(0).unwrap());
    let (weight, table) = (&random(b, WIDTH, 1), &random(b, WIDTH * WIDTH, 2));
    let matrix = QuantMatrix::f32(WIDTH, WIDTH, &[1.0; WIDTH * WIDTH]).unwrap();
    let matrix = &b.pack(&matrix).unwrap();
    let mut y = random(b, 64, 3);
    let mut integers = buffer(b, &[7_u32; 64]);
    let y = &mut y;

    for activations in [Activations::F32, Activations::A8] {
        let s = GemmShape {
            activations,
            ..GemmShape::new(0, WIDTH, WIDTH)
        };
        b.gemm(s, none, matrix, Some(weight), y).unwrap();
        let mut x = b.zeros(0).unwrap();
        b.activated_gemm(Activation::Silu, s, &mut x, matrix, None, y)
            .unwrap();
        b.gated_gemm(Activation::Silu, s, (none, &mut x), matrix, None, y)
            .unwrap();
    }
    let rows = NormShape {
        rows: 0,
        width: WIDTH,
        eps: 1e-5,
    };
    b.layer_norm(rows, none, weight, weight, y).unwrap();
    b.rms_norm(rows, none, weight, y).unwrap();
    let heads = HeadNormShape {
        rows: 0,
        heads: 1,
        head_dim: WIDTH,
        stride: WIDTH,
        offset: 0,
        eps: 1e-5,
    };
    b.head_norm(heads, y, weight, weight).unwrap();
    let no_heads = HeadNormShape {
        rows: 2,
        heads: 0,
        ..heads
    };
    b.head_norm(no_heads, y, weight, weight).unwrap();
    let images = GroupNormShape {
        images: 0,
        pixels: 3,
        channels: WIDTH,
        groups: 2,
        eps: 1e-5,
        swish: true,
    };
    b.group_norm(images, none, weight, weight, y).unwrap();
    b.add(0, none, y).unwrap();
    b.activate(Activation::GeluErf, 0, y).unwrap();
    let gated = GateShape {
        rows: 0,
        width: WIDTH,
        activation: Activation::Silu,
    };
    b.gate(gated, none, y).unwrap();

    let turned = RotaryShape {
        rows: 0,
        heads: 1,
        head_dim: WIDTH,
        rotary_dim: WIDTH,
        stride: WIDTH,
        offset: 0,
        positions: WIDTH,
    };
    b.rotary(turned, y, no_words, table).unwrap();
    let put = AppendShape {
        rows: 0,
        heads: 1,
        head_dim: WIDTH,
        stride: WIDTH,
        offset: 0,
        cache_rows: 3,
    };
    b.append(put, none, no_words, y).unwrap();
    b.append_bf16(put, none, no_words, &mut integers).unwrap();
    b.append_q8(put, none, no_words, &mut integers).unwrap();
    let kept = KeepShape {
        rows: 0,
        q_heads: 1,
        kv_heads: 1,
        head_dim: WIDTH,
        rotary_dim: WIDTH,
        positions: WIDTH,
        cache_rows: 3,
    };
    let norms = HeadNorms {
        queries: [weight; 2],
        keys: [weight; 2],
        eps: 1e-5,
    };
    let mut caches = [4, 5].map(|seed| random(b, 3 * WIDTH, seed));
    let turn = Some((no_words, table));
    b.keep(
        kept,
        y,
        (Some(norms), turn),
        no_words,
        KvPair::F32(&mut caches),
    )
    .unwrap();
    let spans = &buffer(b, &[0, 1, 1, 2]);
    for (sequences, queries) in [(0, 1), (0, 50), (1, 0)] {
        let s = AttentionShape {
            sequences,
            queries,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: WIDTH,
            q_stride: 2 * WIDTH,
            q_offset: 0,
            kv_rows: 0,
            kv_stride: WIDTH,
            kv_head_stride: 0,
            k_offset: 0,
            v_offset: 0,
            causal: true,
            repeated_prefix: false,
            pages: 0,
        };
        b.attention(s, none, none, none, spans, y).unwrap();
        b.attention_bf16(s, none, no_words, no_words, spans, y)
            .unwrap();
        b.attention_q8(s, none, no_words, no_words, spans, y)
            .unwrap();
    }
    let relative = RelativeShape {
        rows: 0,
        n_heads: 1,
        head_dim: WIDTH,
        scale: 1.0,
    };
    b.relative_attention(relative, none, none, y).unwrap();
    let moved = MoveShape {
        heads: 0,
        head_stride: 8,
        from: 0,
        to: 4,
        len: 4,
    };
    b.move_rows(moved, y).unwrap();

    let guided = GuideShape {
        rows: 0,
        width: WIDTH,
        scale: 3.0,
    };
    b.guide(guided, y).unwrap();
    let filtered = FilterShape {
        rows: 0,
        width: WIDTH,
        filter: Filter::default().with_top_k(1),
    };
    b.filter(filtered, y, &mut integers).unwrap();
    let drawn = DrawShape {
        rows: 0,
        width: WIDTH,
    };
    for draw in [Draw::Keyed(no_words), Draw::Given(none)] {
        let mut p = random(b, 2, 6);
        b.draw(drawn, y, &draw, &mut integers, &mut p).unwrap();
    }
    let picked = GatherShape {
        rows: 0,
        width: WIDTH,
        table_rows: WIDTH,
    };
    b.gather(picked, no_words, table, y).unwrap();
    b.gather_rows(picked, no_words, matrix, y).unwrap();
    let codes = LfqShape { n: 0, bits: 3 };
    b.lfq_lookup(codes, no_words, y).unwrap();
    b.lfq_codes(codes, none, &mut integers).unwrap();
    let nearest = NearestShape {
        n: 0,
        width: WIDTH,
        entries: WIDTH,
        normalise: true,
    };
    b.nearest(nearest, none, table, &mut integers).unwrap();

    for kernel in [1, 2] {
        let kernels = b.matrix(maquette::quant::Format::F32, WIDTH, kernel * kernel * WIDTH);
        let s = ConvShape::same(0, [3, 3], WIDTH, WIDTH, kernel);
        b.conv2d(s, none, &kernels.unwrap(), weight, y).unwrap();
    }
    let mut bytes = buffer(b, &[9_u8; 8]);
    b.to_bytes(Rounding::Shift, 0, none, &mut bytes).unwrap();
    let patches = PatchShape {
        images: 0,
        height: 2,
        width: 2,
        patch: 2,
    };
    b.patchify(patches, &b.zeros(0).unwrap(), y).unwrap();
    // A patch that is larger than its image.
    let larger = PatchShape {
        images: 1,
        patch: 3,
        ..patches
    };
    b.patchify(larger, &b.zeros(12).unwrap(), y).unwrap();
    let pooled = PoolShape {
        views: 0,
        rows: 2,
        heads: 1,
        head_dim: 3,
    };
    b.pool_rows(pooled, none, y).unwrap();
    let answers = AnswerShape {
        rows: 0,
        width: WIDTH,
        yes: 0,
        no: 1,
    };
    b.answer(answers, none, y).unwrap();

    let mut all = bits(b, y);
    all.extend(words(b, &integers));
    all.extend(words(b, &bytes).into_iter().map(u32::from));
    all.extend(caches.iter().flat_map(|cache| bits(b, cache)));
    all
}

#[test]
fn operations_on_nothing_leave_everything_as_it_was() {
    let floats = |len, seed| numbers(len, seed).into_iter().map(f32::to_bits);
    let want: Vec<u32> = floats(64, 3)
        .chain([7; 64])
        .chain([9; 8])
        .chain(floats(3 * WIDTH, 4))
        .chain(floats(3 * WIDTH, 5))
        .collect();
    agree!(|b| {
        let all = left(b);
        assert!(all == want);
        all
    });
}
