//! Models of absurd sizes over files that do not have them: the first tensor that is missing or of another shape is
//! named, and nothing is reserved for it.

use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::model::files::config::JsonConfig;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::llamagen::{LlamaGen, LlamaGenConfig};
use maquette::model::llava::{Llava, LlavaConfig};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig};
use maquette::model::t5::{T5, T5Config};
use maquette::model::vq::{Vq, VqConfig};
use maquette::model::weights::{DType, Tensor, WeightSource};
use maquette::quant::Format;
use maquette::{Error, Result};
use serde_json::{Value, json};

use crate::{ran, told};

/// A file that has every tensor, or none, but always of one number.
struct Says(bool);

impl WeightSource for Says {
    fn tensor(&self, _: &str) -> Option<Tensor<'_>> {
        self.0.then_some(Tensor {
            dtype: DType::F32,
            shape: vec![3],
            bytes: &[0; 12],
        })
    }

    fn names(&self, _: &mut dyn FnMut(&str)) {}
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    ShowO,
    Llava,
    Janus,
    LlamaGen,
    Vq,
    Magvit,
    T5,
}

fn load(kind: Kind, config: &Value, source: &dyn WeightSource, format: Format) -> Result<()> {
    let json = JsonConfig::parse(&config.to_string())?;
    let cpu = Arc::new(Cpu::with_threads(1)?);
    match kind {
        Kind::ShowO => ShowO::load(cpu, ShowOConfig::from_json(&json)?, source, format).map(drop),
        Kind::Llava => Llava::load(cpu, LlavaConfig::from_json(&json)?, source, format).map(drop),
        Kind::Janus => Janus::load(cpu, JanusConfig::from_json(&json)?, source, format).map(drop),
        Kind::LlamaGen => {
            LlamaGen::load(cpu, LlamaGenConfig::from_json(&json)?, source, format).map(drop)
        }
        Kind::Vq => Vq::load(cpu, VqConfig::from_json(&json)?, source, format).map(drop),
        Kind::Magvit => {
            Magvit::load(cpu, MagvitConfig::from_json(&json)?, source, format).map(drop)
        }
        Kind::T5 => T5::load(cpu, T5Config::from_json(&json)?, source, format).map(drop),
    }
}

#[test]
fn sizes_that_no_file_has_reserve_nothing() {
    let most = 1 << 20;
    let text = json!({"hidden_size": most, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": most,
        "num_hidden_layers": most, "intermediate_size": most, "vocab_size": 1 << 24,
        "max_position_embeddings": u32::MAX});
    let vision = json!({"image_size": 4096, "patch_size": 1, "hidden_size": most, "num_attention_heads": 1,
        "intermediate_size": most, "num_hidden_layers": most});
    for (kind, config) in [
        (
            Kind::ShowO,
            json!({"hidden_size": most, "num_hidden_layers": most, "num_attention_heads": 1,
                "intermediate_size": most, "vocab_size": (1 << 20) + 10 + (1 << 20) + 1, "llm_vocab_size": 1 << 20,
                "codebook_size": 1 << 20, "num_vq_tokens": 1 << 16, "max_text_len": 1 << 16}),
        ),
        (Kind::Llava, json!({"text": text, "vision": vision})),
        (
            Kind::Janus,
            json!({"text": text, "vision": {"image_size": 4096, "patch_size": 1, "hidden_size": most,
                "num_attention_heads": 1, "intermediate_size": most, "num_hidden_layers": most},
                "vq": {"base_channels": 4096, "norm_groups": 4096, "codebook_size": 1 << 10,
                "codebook_embed_dim": 4096, "z_channels": 1 << 14, "ch_mult": [1, 4], "grid": 64},
                "gen_embed_dim": 1 << 16, "gen_head_hidden": most}),
        ),
        (
            Kind::LlamaGen,
            json!({"dim": most, "n_layer": most, "n_head": 1, "grid": 256, "vocab_size": 1 << 24,
                "ffn_hidden": most, "cls_token_num": 1 << 16, "caption_dim": 1 << 16}),
        ),
        (
            Kind::LlamaGen,
            json!({"dim": most, "n_layer": most, "n_head": 1, "grid": 256, "num_classes": 1 << 24,
                "ffn_hidden": most}),
        ),
        (
            Kind::Vq,
            json!({"base_channels": 4096, "norm_groups": 4096, "codebook_size": 1 << 10, "codebook_embed_dim": 4096,
                "z_channels": 1 << 14, "encoder_ch_mult": [1, 4], "decoder_ch_mult": [1, 4], "image_size": 8192,
                "encoder_res_blocks": 64, "decoder_res_blocks": 64}),
        ),
        (
            Kind::Magvit,
            json!({"base_channels": 4096, "norm_groups": 4096, "codebook_bits": 31, "encoder_ch_mult": [1, 4],
                "decoder_ch_mult": [1, 4], "encoder_res_blocks": [64, 64], "decoder_res_blocks": [64, 64],
                "image_size": 8192}),
        ),
        (
            Kind::T5,
            json!({"d_model": most, "num_layers": 1 << 10, "num_heads": 1 << 10, "d_kv": 1 << 16, "d_ff": most,
                "vocab_size": 1 << 24}),
        ),
    ] {
        for (has, format) in [
            (false, Format::F32),
            (true, Format::F32),
            (true, Format::Q4_0),
        ] {
            let name = format!("{kind:?} {has}");
            let error = ran(&name, || load(kind, &config, &Says(has), format)).unwrap_err();
            let named = match &error {
                Error::MissingTensor { .. } => !has,
                Error::TensorShape { .. } => has,
                _ => false,
            };
            assert!(named, "{name}: {}", told(&error));
        }
    }
}
