//! Published models as lists of tensors. A further model is one function here and one line in [`models`].

use serde_json::{Value, json};

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Even around zero, so wide that a sum over so many inputs keeps its size.
    Weight(usize),
    /// Even around one.
    Gain,
    /// Even and near zero.
    Bias,
    /// Row `i` holds the bits of `i` as ±1, the most significant first.
    Signs,
    /// Powers of two, from the largest down to one, as whole numbers.
    Powers,
}

/// A tensor.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub shape: Vec<usize>,
    pub fill: Fill,
}

/// A model in its published layout.
#[derive(Debug)]
pub struct Layout {
    /// `config.json`.
    pub config: Value,
    /// Name of the file of weights; of several, the part before the number.
    pub file: &'static str,
    /// Element type.
    pub dtype: &'static str,
    /// Largest shard in bytes, if the model is published in several.
    pub shard: Option<usize>,
    pub tensors: Vec<Spec>,
}

/// A published model: its name on the command line, and its layout cut to at most so many layers.
pub type Model = (&'static str, fn(layers: usize) -> Layout);

/// The models that can be written.
pub fn models() -> Vec<Model> {
    vec![
        ("show-o-256", |layers| {
            show_o(&ShowO::published(256), layers)
        }),
        ("show-o-512", |layers| {
            show_o(&ShowO::published(1024), layers)
        }),
        ("magvit-v2", |_| magvit(128, 13)),
        ("llava-onevision-0.5b", |layers| {
            llava(&Llava::half(), layers)
        }),
        ("llava-onevision-7b", |layers| {
            llava(&Llava::seven(), layers)
        }),
    ]
}

/// Collects tensors.
#[derive(Default)]
struct List(Vec<Spec>);

impl List {
    fn add(&mut self, name: String, shape: &[usize], fill: Fill) {
        let shape = shape.to_vec();
        self.0.push(Spec { name, shape, fill });
    }

    fn weight(&mut self, name: &str, shape: &[usize]) {
        let inputs = shape[1..].iter().product();
        self.add(format!("{name}.weight"), shape, Fill::Weight(inputs));
    }

    fn linear(&mut self, name: &str, shape: &[usize]) {
        self.weight(name, shape);
        self.add(format!("{name}.bias"), &shape[..1], Fill::Bias);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), &[width], Fill::Gain);
        self.add(format!("{name}.bias"), &[width], Fill::Bias);
    }
}

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
    fn published(codes: usize) -> Self {
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
        own.into_iter().for_each(|(key, n)| config[key] = n.into());
    }
    Layout {
        config,
        file: "pytorch_model",
        dtype: "F32",
        shard: None,
        tensors: list.0,
    }
}

/// A residual block of MAGVIT-v2.
fn residual(list: &mut List, name: &str, from: usize, to: usize) {
    list.norm(&format!("{name}.norm1"), from);
    list.linear(&format!("{name}.conv1"), &[to, from, 3, 3]);
    list.norm(&format!("{name}.norm2"), to);
    list.linear(&format!("{name}.conv2"), &[to, to, 3, 3]);
    if from != to {
        list.linear(&format!("{name}.nin_shortcut"), &[to, from, 1, 1]);
    }
}

fn middle(list: &mut List, half: &str, width: usize) {
    for block in ["block_1", "block_2"] {
        residual(list, &format!("{half}.mid.{block}"), width, width);
    }
    list.norm(&format!("{half}.mid.attn_1.norm"), width);
    for part in ["q", "k", "v", "proj_out"] {
        list.linear(&format!("{half}.mid.attn_1.{part}"), &[width, width, 1, 1]);
    }
}

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
            residual(&mut list, &name, width, mult * base);
            width = mult * base;
        }
        if level < 4 {
            let name = format!("encoder.down.{level}.downsample.conv");
            list.linear(&name, &[width, width, 3, 3]);
        }
    }
    middle(&mut list, "encoder", width);
    list.norm("encoder.norm_out", width);
    list.linear("encoder.conv_out", &[bits, width, 3, 3]);
    list.linear("encoder.quant_conv", &[bits, bits, 1, 1]);

    list.linear("decoder.post_quant_conv", &[bits, bits, 1, 1]);
    list.linear("decoder.conv_in", &[width, bits, 3, 3]);
    middle(&mut list, "decoder", width);
    for (level, (mult, blocks)) in UP.into_iter().enumerate().rev() {
        for block in 0..blocks {
            let name = format!("decoder.up.{level}.block.{block}");
            residual(&mut list, &name, width, mult * base);
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
        own.into_iter().for_each(|(key, n)| config[key] = n.into());
    }
    Layout {
        config,
        file: "pytorch_model",
        dtype: "F32",
        shard: None,
        tensors: list.0,
    }
}

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

impl Llava {
    fn seven() -> Self {
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

    fn half() -> Self {
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
}

pub fn llava(d: &Llava, layers: usize) -> Layout {
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
    let own = json!({
        "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava", "hidden_size": w,
        "num_hidden_layers": layers, "num_attention_heads": d.heads, "num_key_value_heads": d.kv_heads,
        "intermediate_size": d.mlp, "vocab_size": d.vocab, "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": d.tied, "max_position_embeddings": 32_768,
        "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_projector_type": "mlp2x_gelu",
    });
    Layout {
        config: own,
        file: "model",
        dtype: "BF16",
        shard: Some(4_900_000_000),
        tensors: list.0,
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
