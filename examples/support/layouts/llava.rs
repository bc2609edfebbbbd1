//! LLaVA-OneVision.

use serde_json::{Value, json};

use super::{Fill, Layout, List, Spec, set};

/// Dimensions of LLaVA-OneVision.
pub struct Llava {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub mlp: usize,
    pub vocab: usize,
    pub tied: bool,
    pub tower: Tower,
}

/// Dimensions of its image tower.
#[derive(Clone, Copy)]
pub struct Tower {
    pub width: usize,
    pub layers: usize,
    pub mlp: usize,
    pub patch: usize,
    pub patches: usize,
}

/// SigLIP-so400m without its last layer.
const SIGLIP: Tower = Tower {
    width: 1152,
    layers: 26,
    mlp: 4304,
    patch: 14,
    patches: 729,
};

impl Tower {
    /// SigLIP-so400m has heads that are 72 wide.
    fn heads(&self) -> usize {
        self.width / 72
    }
}

/// Largest shard.
const SHARD: usize = 4_900_000_000;

/// Beginnings of names: the authors', then those in the files of the transformers library.
const PARTS: [[&str; 2]; 6] = [
    [
        "model.vision_tower.vision_tower.vision_model.",
        "vision_tower.vision_model.",
    ],
    ["model.mm_projector.0.", "multi_modal_projector.linear_1."],
    ["model.mm_projector.2.", "multi_modal_projector.linear_2."],
    ["model.image_newline", "image_newline"],
    ["lm_head.", "language_model.lm_head."],
    ["model.", "language_model.model."],
];

impl Llava {
    pub fn seven() -> Self {
        Self {
            width: 3584,
            layers: 28,
            heads: 28,
            kv_heads: 4,
            mlp: 18_944,
            vocab: 152_064,
            tied: false,
            tower: SIGLIP,
        }
    }

    pub fn half() -> Self {
        Self {
            width: 896,
            layers: 24,
            heads: 14,
            kv_heads: 2,
            mlp: 4864,
            vocab: 151_936,
            tied: true,
            tower: SIGLIP,
        }
    }

    /// Under the names of the authors.
    pub fn original(&self, layers: usize) -> Layout {
        let mut config = json!({
            "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava",
            "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_projector_type": "mlp2x_gelu",
        });
        self.language(&mut config, self.vocab, layers);
        Layout {
            config,
            file: "model",
            dtype: "BF16",
            shard: Some(SHARD),
            tensors: self.tensors(layers),
        }
    }

    /// Under the names of the transformers library, which writes a head even where the embeddings are one.
    pub fn transformers(&self, layers: usize) -> Layout {
        // Two tokens are appended, and the rows filled up.
        let vocab = (self.vocab + 2).next_multiple_of(64);
        let padded = Self {
            vocab,
            tied: false,
            ..*self
        };
        let (mut text, mut sees) = (json!({ "model_type": "qwen2" }), json!({}));
        self.language(&mut text, vocab, layers);
        let t = &self.tower;
        set(
            &mut sees,
            [
                ("hidden_size", t.width),
                ("intermediate_size", t.mlp),
                ("num_hidden_layers", t.layers),
                ("num_attention_heads", t.heads()),
                ("image_size", t.patch * t.patches.isqrt()),
                ("patch_size", t.patch),
            ],
        );
        let config = json!({
            "architectures": ["LlavaOnevisionForConditionalGeneration"], "model_type": "llava_onevision",
            "text_config": text, "vision_config": sees, "projector_hidden_act": "gelu",
        });
        let renamed = |spec: Spec| {
            let part = PARTS.iter().find(|[from, _]| spec.name.starts_with(from));
            let [from, to] = part.copied().unwrap_or_default();
            Spec {
                name: format!("{to}{}", &spec.name[from.len()..]),
                ..spec
            }
        };
        Layout {
            config,
            file: "model",
            dtype: "BF16",
            shard: Some(SHARD),
            tensors: padded.tensors(layers).into_iter().map(renamed).collect(),
        }
    }

    /// What a configuration says of the language model.
    fn language(&self, config: &mut Value, vocab: usize, layers: usize) {
        set(
            config,
            [
                ("hidden_size", self.width),
                ("num_hidden_layers", self.layers.min(layers)),
                ("num_attention_heads", self.heads),
                ("num_key_value_heads", self.kv_heads),
                ("intermediate_size", self.mlp),
                ("vocab_size", vocab),
                ("max_position_embeddings", 32_768),
            ],
        );
        config["rope_theta"] = 1_000_000.0.into();
        config["rms_norm_eps"] = 1e-6.into();
        config["tie_word_embeddings"] = self.tied.into();
    }

    fn tensors(&self, layers: usize) -> Vec<Spec> {
        let d = self;
        let (w, kv) = (d.width, d.width / d.heads * d.kv_heads);
        let layers = d.layers.min(layers);
        let mut list = List::default();
        list.weight("model.embed_tokens", &[d.vocab, w]);
        for layer in 0..layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            list.linear(&at("self_attn.q_proj"), &[w, w]);
            list.linear(&at("self_attn.k_proj"), &[kv, w]);
            list.linear(&at("self_attn.v_proj"), &[kv, w]);
            list.weight(&at("self_attn.o_proj"), &[w, w]);
            list.weight(&at("mlp.gate_proj"), &[d.mlp, w]);
            list.weight(&at("mlp.up_proj"), &[d.mlp, w]);
            list.weight(&at("mlp.down_proj"), &[w, d.mlp]);
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                list.add(format!("{}.weight", at(norm)), &[w], Fill::Gain);
            }
        }
        list.add("model.norm.weight".into(), &[w], Fill::Gain);
        if !d.tied {
            list.weight("lm_head", &[d.vocab, w]);
        }
        list.add("model.image_newline".into(), &[w], Fill::Bias);
        list.linear("model.mm_projector.0", &[w, d.tower.width]);
        list.linear("model.mm_projector.2", &[w, w]);
        tower(&mut list, &d.tower);
        list.0
    }
}

fn tower(list: &mut List, d: &Tower) {
    const NAME: &str = "model.vision_tower.vision_tower.vision_model";
    let w = d.width;
    let patch = format!("{NAME}.embeddings.patch_embedding");
    list.linear(&patch, &[w, 3, d.patch, d.patch]);
    let position = format!("{NAME}.embeddings.position_embedding");
    list.weight(&position, &[d.patches, w]);
    for layer in 0..d.layers {
        let at = |part: &str| format!("{NAME}.encoder.layers.{layer}.{part}");
        list.norm(&at("layer_norm1"), w);
        list.norm(&at("layer_norm2"), w);
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.linear(&at(&format!("self_attn.{part}")), &[w, w]);
        }
        list.linear(&at("mlp.fc1"), &[d.mlp, w]);
        list.linear(&at("mlp.fc2"), &[w, d.mlp]);
    }
    list.norm(&format!("{NAME}.post_layernorm"), w);
}
