//! Show-o and its image tokenizer.

use serde_json::json;

use super::{Fill, Layout, List, set};

/// Dimensions of Show-o.
pub struct ShowO {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub mlp: usize,
    pub llm_vocab: usize,
    pub codebook: usize,
    pub codes: usize,
}

impl ShowO {
    pub fn published(codes: usize) -> Self {
        Self {
            width: 2048,
            layers: 24,
            heads: 32,
            mlp: 8192,
            llm_vocab: 50_295,
            codebook: 8192,
            codes,
        }
    }
}

pub fn show_o(d: &ShowO, layers: usize) -> Layout {
    let (w, vocab) = (d.width, d.llm_vocab + 10 + d.codebook + 1);
    let layers = d.layers.min(layers);
    let mut list = List::default();
    list.weight("showo.model.embed_tokens", &[vocab, w]);
    for layer in 0..layers {
        let at = |part: &str| format!("showo.model.layers.{layer}.{part}");
        list.norm(&at("input_layernorm"), w);
        for part in ["q_proj", "k_proj", "v_proj", "dense"] {
            list.linear(&at(&format!("self_attn.{part}")), &[w, w]);
        }
        for part in ["q_layernorm", "k_layernorm"] {
            list.norm(&at(&format!("self_attn.{part}")), w / d.heads);
        }
        list.linear(&at("mlp.fc1"), &[d.mlp, w]);
        list.linear(&at("mlp.fc2"), &[w, d.mlp]);
    }
    list.norm("showo.model.final_layernorm", w);
    list.linear("showo.lm_head", &[vocab, w]);
    let mut config = json!({
        "codebook_size": d.codebook, "llm_model_path": "microsoft/phi-1_5", "llm_vocab_size": d.llm_vocab,
        "mask_token_id": vocab - 1, "num_vq_tokens": d.codes, "vocab_size": vocab, "w_clip_vit": false,
    });
    // The published file leaves the backbone's dimensions out.
    if (w, layers) != (2048, 24) {
        let own = [
            ("hidden_size", w),
            ("num_hidden_layers", layers),
            ("num_attention_heads", d.heads),
            ("intermediate_size", d.mlp),
        ];
        set(&mut config, own);
    }
    Layout {
        config,
        file: "pytorch_model",
        dtype: "F32",
        shard: None,
        tensors: list.0,
    }
}

/// Names of the parts between the levels.
const MIDDLE: [&str; 3] = ["mid.block_1", "mid.attn_1", "mid.block_2"];

/// MAGVIT-v2 of a base width and so many bits a code.
pub fn magvit(base: usize, bits: usize) -> Layout {
    const DOWN: [(usize, usize); 5] = [(1, 4), (2, 3), (2, 4), (4, 3), (4, 4)];
    const UP: [(usize, usize); 5] = [(1, 4), (1, 4), (2, 3), (2, 4), (4, 3)];
    let mut list = List::default();
    list.linear("encoder.conv_in", &[base, 3, 3, 3]);
    let mut width = base;
    for (level, (mult, blocks)) in DOWN.into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("encoder.down.{level}.block.{block}");
            list.residual(&name, width, mult * base);
            width = mult * base;
        }
        if level < 4 {
            let name = format!("encoder.down.{level}.downsample.conv");
            list.linear(&name, &[width, width, 3, 3]);
        }
    }
    list.middle("encoder", MIDDLE, width);
    list.norm("encoder.norm_out", width);
    list.linear("encoder.conv_out", &[bits, width, 3, 3]);
    list.linear("encoder.quant_conv", &[bits, bits, 1, 1]);

    list.linear("decoder.post_quant_conv", &[bits, bits, 1, 1]);
    list.linear("decoder.conv_in", &[width, bits, 3, 3]);
    list.middle("decoder", MIDDLE, width);
    for (level, (mult, blocks)) in UP.into_iter().enumerate().rev() {
        for block in 0..blocks {
            let name = format!("decoder.up.{level}.block.{block}");
            list.residual(&name, width, mult * base);
            width = mult * base;
        }
        if level > 0 {
            let name = format!("decoder.up.{level}.upsample.conv");
            list.linear(&name, &[width, width, 3, 3]);
        }
    }
    list.norm("decoder.norm_out", width);
    list.linear("decoder.conv_out", &[3, width, 3, 3]);
    list.add("quantize.embedding".into(), &[1 << bits, bits], Fill::Signs);
    list.add("quantize.power_vals".into(), &[bits], Fill::Powers);
    let mut config = json!({ "_class_name": "MAGVITv2", "_diffusers_version": "0.30.1" });
    if base != 128 {
        let own = [
            ("base_channels", base),
            ("codebook_bits", bits),
            ("norm_groups", base),
        ];
        set(&mut config, own);
    }
    Layout {
        config,
        file: "pytorch_model",
        dtype: "F32",
        shard: None,
        tensors: list.0,
    }
}
