//! Janus and Janus-Pro, under the names of their authors and under those of the transformers library.

use serde_json::json;

use super::llamagen::VqDims;
use super::llava::Tower;
use super::{Fill, Layout, List, Spec, set};

/// Dimensions of a Janus model.
pub struct Janus {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub mlp: usize,
    pub vocab: usize,
    /// Heads of the tower are 64 wide.
    pub tower: Tower,
    pub vq: VqDims,
    /// Rows and columns of the code grid.
    pub side: usize,
    /// The file of weights, and the largest shard.
    pub file: (&'static str, Option<usize>),
}

/// SigLIP-L at 384 pixels.
const SIGLIP: Tower = Tower {
    width: 1024,
    layers: 24,
    mlp: 4096,
    patch: 16,
    patches: 576,
};

/// What the configuration of a Llama leaves out.
const LLAMA: [(&str, usize); 3] = [
    ("hidden_size", 4096),
    ("intermediate_size", 11_008),
    ("num_attention_heads", 32),
];

const TOWER: &str = "vision_model.vision_tower";

impl Janus {
    /// Janus-Pro-1B.
    pub fn one() -> Self {
        Self {
            width: 2048,
            layers: 24,
            heads: 16,
            mlp: 5632,
            vocab: 102_400,
            tower: SIGLIP,
            vq: VqDims::vq_16(),
            side: 24,
            file: ("pytorch_model", None),
        }
    }

    /// Janus-1.3B, which has the sizes of Janus-Pro-1B.
    pub fn plain() -> Self {
        Self {
            file: ("model", None),
            ..Self::one()
        }
    }

    /// Janus-Pro-7B.
    pub fn seven() -> Self {
        Self {
            width: 4096,
            layers: 30,
            heads: 32,
            mlp: 11_008,
            file: ("pytorch_model", Some(10_000_000_000)),
            ..Self::one()
        }
    }

    fn tensors(&self, layers: usize) -> Vec<Spec> {
        let (w, t) = (self.width, self.tower.width);
        let mut list = List::default();
        let table = "language_model.model.embed_tokens";
        list.weight(table, &[self.vocab, w]);
        for layer in 0..self.layers.min(layers) {
            let at = |part: &str| format!("language_model.model.layers.{layer}.{part}");
            for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                list.weight(&at(&format!("self_attn.{part}")), &[w, w]);
            }
            list.weight(&at("mlp.gate_proj"), &[self.mlp, w]);
            list.weight(&at("mlp.up_proj"), &[self.mlp, w]);
            list.weight(&at("mlp.down_proj"), &[w, self.mlp]);
            list.gain(&at("input_layernorm"), w);
            list.gain(&at("post_attention_layernorm"), w);
        }
        list.gain("language_model.model.norm", w);
        list.weight("language_model.lm_head", &[self.vocab, w]);
        let (codes, entry) = (self.vq.codebook, self.vq.entry);
        list.weight("gen_embed", &[codes, entry]);
        list.linear("gen_aligner.layers.0", &[w, entry]);
        list.linear("gen_aligner.layers.2", &[w, w]);
        list.linear("gen_head.output_mlp_projector", &[w, w]);
        list.linear("gen_head.vision_head", &[codes, w]);
        list.linear("aligner.layers.0", &[w, t]);
        list.linear("aligner.layers.2", &[w, w]);
        tower(&mut list, &self.tower);
        self.vq.tensors("gen_vision_model.", &mut list);
        list.0
    }

    /// Under the names of the authors.
    pub fn original(&self, layers: usize) -> Layout {
        let (tower, vq) = (&self.tower, &self.vq);
        let mut language = json!({ "model_type": "llama", "torch_dtype": "bfloat16" });
        set(
            &mut language,
            [
                ("num_hidden_layers", self.layers.min(layers)),
                ("vocab_size", self.vocab),
                ("max_position_embeddings", 16_384),
            ],
        );
        let own = [self.width, self.mlp, self.heads];
        for ((key, usual), n) in LLAMA.into_iter().zip(own) {
            if n != usual {
                language[key] = n.into();
            }
        }
        let mut sees = json!({
            "image_size": self.pixels(), "model_name": "siglip_large_patch16_384", "select_feature": "same",
            "select_layer": -1,
        });
        let mut draws = json!({ "image_token_size": vq.codebook, "n_embed": vq.entry });
        // The published files leave the dimensions of both out.
        if tower.width != SIGLIP.width {
            set(&mut sees, tower_numbers(tower));
        }
        if vq.base != 128 {
            draws["ch_mult"] = vq.levels.into();
            set(&mut draws, vq_numbers(vq));
            draws["z_channels"] = vq.latent.into();
            draws["grid"] = self.side.into();
        }
        let w = self.width;
        let aligner = |input| {
            json!({ "cls": "MlpProjector", "params": {
                "depth": 2, "input_dim": input, "n_embed": w, "projector_type": "mlp_gelu" } })
        };
        let config = json!({
            "architectures": ["MultiModalityCausalLM"], "model_type": "multi_modality",
            "language_config": language,
            "vision_config": { "cls": "CLIPVisionTower", "params": sees },
            "aligner_config": aligner(tower.width),
            "gen_vision_config": { "cls": "VQ-16", "params": draws },
            "gen_aligner_config": aligner(vq.entry),
            "gen_head_config": { "cls": "vision_head", "params": {
                "image_token_embed": w, "image_token_size": vq.codebook, "n_embed": w } },
        });
        let (file, shard) = self.file;
        Layout {
            config,
            file,
            dtype: "BF16",
            shard,
            tensors: self.tensors(layers),
        }
    }

    /// Under the names of the transformers library.
    pub fn transformers(&self, layers: usize) -> Layout {
        let vq = &self.vq;
        let mut text = json!({
            "model_type": "llama", "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": false,
        });
        set(
            &mut text,
            [
                ("hidden_size", self.width),
                ("intermediate_size", self.mlp),
                ("num_attention_heads", self.heads),
                ("num_key_value_heads", self.heads),
                ("num_hidden_layers", self.layers.min(layers)),
                ("vocab_size", self.vocab),
                ("max_position_embeddings", 16_384),
            ],
        );
        let mut sees = json!({ "model_type": "janus_vision_model", "mlp_ratio": 4.0 });
        set(&mut sees, tower_numbers(&self.tower));
        sees["image_size"] = self.pixels().into();
        let mut draws = json!({ "model_type": "janus_vqgan", "channel_multiplier": vq.levels });
        set(&mut draws, vq_numbers(vq));
        set(
            &mut draws,
            [
                ("embed_dim", vq.entry),
                ("num_embeddings", vq.codebook),
                ("latent_channels", vq.latent),
                ("num_res_blocks", 2),
                ("num_patches", self.side),
                ("grid", self.side),
            ],
        );
        let config = json!({
            "architectures": ["JanusForConditionalGeneration"], "model_type": "janus", "image_token_id": self.vocab - 1,
            "text_config": text, "vision_config": sees, "vq_config": draws,
        });
        let tensors = self.tensors(layers);
        Layout {
            config,
            file: "model",
            dtype: "BF16",
            shard: self.file.1.map(|_| 4_900_000_000),
            tensors: tensors.into_iter().flat_map(renamed).collect(),
        }
    }

    /// Pixels along one side of a picture that is judged.
    fn pixels(&self) -> usize {
        self.tower.patch * self.tower.patches.isqrt()
    }
}

fn tower_numbers(d: &Tower) -> [(&'static str, usize); 4] {
    [
        ("hidden_size", d.width),
        ("num_hidden_layers", d.layers),
        ("num_attention_heads", d.width / 64),
        ("patch_size", d.patch),
    ]
}

fn vq_numbers(vq: &VqDims) -> [(&'static str, usize); 2] {
    [("base_channels", vq.base), ("norm_groups", vq.groups)]
}

fn tower(list: &mut List, d: &Tower) {
    let w = d.width;
    let patch = format!("{TOWER}.patch_embed.proj");
    list.linear(&patch, &[w, 3, d.patch, d.patch]);
    let position = format!("{TOWER}.pos_embed");
    list.add(position, &[1, d.patches, w], Fill::Weight(w));
    for layer in 0..d.layers {
        let at = |part: &str| format!("{TOWER}.blocks.{layer}.{part}");
        list.norm(&at("norm1"), w);
        list.linear(&at("attn.qkv"), &[3 * w, w]);
        list.linear(&at("attn.proj"), &[w, w]);
        list.norm(&at("norm2"), w);
        list.linear(&at("mlp.fc1"), &[d.mlp, w]);
        list.linear(&at("mlp.fc2"), &[w, d.mlp]);
    }
    list.norm(&format!("{TOWER}.norm"), w);
    // Nobody asks this head.
    let at = |part: &str| format!("{TOWER}.attn_pool.{part}");
    list.add(at("latent"), &[1, 1, w], Fill::Bias);
    list.linear(&at("q"), &[w, w]);
    list.linear(&at("kv"), &[2 * w, w]);
    list.linear(&at("proj"), &[w, w]);
    list.norm(&at("norm"), w);
    list.linear(&at("mlp.fc1"), &[d.mlp, w]);
    list.linear(&at("mlp.fc2"), &[w, d.mlp]);
}

/// Beginnings of names: the authors', then those of the transformers library.
const PARTS: [[&str; 2]; 14] = [
    ["language_model.model.", "model.language_model."],
    ["language_model.lm_head.", "lm_head."],
    ["gen_embed.", "model.generation_embeddings."],
    ["gen_aligner.layers.0.", "model.generation_aligner.fc1."],
    [
        "gen_aligner.layers.2.",
        "model.generation_aligner.hidden_layers.0.",
    ],
    [
        "gen_head.output_mlp_projector.",
        "model.generation_head.proj_out.",
    ],
    [
        "gen_head.vision_head.",
        "model.generation_head.vision_head.",
    ],
    ["aligner.layers.0.", "model.aligner.fc1."],
    ["aligner.layers.2.", "model.aligner.hidden_layers.0."],
    [
        "vision_model.vision_tower.patch_embed.proj.",
        "model.vision_model.embeddings.patch_embedding.",
    ],
    [
        "vision_model.vision_tower.blocks.",
        "model.vision_model.encoder.layers.",
    ],
    [
        "vision_model.vision_tower.norm.",
        "model.vision_model.post_layernorm.",
    ],
    [
        "vision_model.vision_tower.pos_embed",
        "model.vision_model.embeddings.position_embedding.weight",
    ],
    ["gen_vision_model.", "model.vqmodel."],
];

/// Within the tower and the image tokenizer.
const INNER: [[&str; 2]; 9] = [
    [".norm1.", ".layer_norm1."],
    [".norm2.", ".layer_norm2."],
    [".attn.proj.", ".self_attn.projection_layer."],
    ["encoder.conv_blocks.", "encoder.down."],
    ["decoder.conv_blocks.", "decoder.up."],
    [".res.", ".block."],
    [".mid.0.", ".mid.block_1."],
    [".mid.1.", ".mid.attn_1."],
    [".mid.2.", ".mid.block_2."],
];

/// What the transformers library makes of a tensor.
fn renamed(spec: Spec) -> Vec<Spec> {
    let dropped = ["attn_pool.", "codebook_used"];
    if dropped.iter().any(|part| spec.name.contains(part)) {
        return Vec::new();
    }
    let part = PARTS.iter().find(|[from, _]| spec.name.starts_with(from));
    let [from, to] = part.copied().unwrap_or_default();
    // The norms of the tower's blocks have other names, those of the image tokenizer's keep theirs.
    let tower = spec.name.starts_with(TOWER);
    let inner = if tower { &INNER[..3] } else { &INNER[3..] };
    let tail = spec.name[from.len()..].to_owned();
    let tail = inner
        .iter()
        .fold(tail, |name, [from, to]| name.replace(from, to));
    let mut shape = spec.shape;
    if let Some((block, end)) = tail.split_once(".attn.qkv.") {
        shape[0] /= 3;
        let third = |part: &str| Spec {
            name: format!("{to}{block}.self_attn.{part}_proj.{end}"),
            shape: shape.clone(),
            fill: spec.fill,
        };
        return ["q", "k", "v"].map(third).into();
    }
    if tail.is_empty() {
        shape.remove(0);
    }
    Vec::from([Spec {
        name: format!("{to}{tail}"),
        shape,
        fill: spec.fill,
    }])
}
