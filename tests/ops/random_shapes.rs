//! The same comparison over random shapes.

use maquette::ops::attention::AttentionShape;
use maquette::ops::conv::ConvShape;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::quant::Format;
use proptest::prelude::*;

use super::{attended, convolution, product};

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_products_agree(
        m in 0_usize..60, n in 1_usize..140, blocks in 1_usize..10, kind in 0..Format::ALL.len(), flags in any::<[bool; 3]>(),
    ) {
        let format = if m < 8 { Format::ALL[kind] } else { Format::F32 };
        let activations = if flags[1] { Activations::A8 } else { Activations::F32 };
        let k = (32 * blocks).next_multiple_of(format.block());
        let s = GemmShape { accumulate: flags[0], activations, ..GemmShape::new(m, n, k) };
        agree!(|b| product(b, s, format, flags[2]));
    }

    #[test]
    fn prop_convolutions_agree(
        size in [1_usize..12, 1..12], channels in [1_usize..20, 1..70], kernel in 1_usize..4, stride in 1_usize..3,
        pad in [0_usize..3, 0..3], upsample in any::<bool>(),
    ) {
        let s = ConvShape::same(1, size, channels[0], channels[1], kernel);
        let s = ConvShape { stride, pad_before: pad[0], pad_after: pad[1], upsample, ..s };
        agree!(|b| convolution(b, s));
    }

    #[test]
    fn prop_attentions_agree(
        queries in 1_usize..60, head_dim in 1_usize..80, spans in any::<[u8; 12]>(), causal in any::<bool>(),
        repeated_prefix in any::<bool>(), pages in 0_usize..3,
    ) {
        let s = AttentionShape {
            sequences: 2, queries, n_heads: 4, n_kv_heads: 2, head_dim, q_stride: 4 * head_dim, q_offset: 0,
            kv_rows: 100, kv_stride: head_dim, kv_head_stride: 100 * head_dim, k_offset: 0, v_offset: 0, causal, repeated_prefix,
            pages,
        };
        agree!(|b| attended(b, s, &spans.map(|word| u32::from(word) % 110)));
    }
}
