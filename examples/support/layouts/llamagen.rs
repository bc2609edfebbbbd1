//! LlamaGen, its image tokenizers and its text encoder.

use serde_json::{Value, json};

use super::{Fill, Layout, List, set};

/// Rows of text features, and their width.
const CAPTION: [usize; 2] = [120, 2048];
/// Classes of ImageNet.
const CLASSES: usize = 1000;

/// What pictures are drawn from.
#[derive(Clone, Copy)]
pub enum Condition {
    /// Rows of text features, and their width.
    Text([usize; 2]),
    /// So many classes.
    Class(usize),
}

/// Dimensions of LlamaGen.
pub struct LlamaGen {
    pub file: &'static str,
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub mlp: usize,
    pub codebook: usize,
    pub side: usize,
    pub condition: Condition,
}

impl LlamaGen {
    /// The published text-conditional model for a grid of `side` × `side`.
    pub fn text(side: usize) -> Self {
        let file = if side == 16 {
            "t2i_XL_stage1_256"
        } else {
            "t2i_XL_stage2_512"
        };
        Self {
            file,
            condition: Condition::Text(CAPTION),
            ..Self::class("XL", side)
        }
    }

    /// A published class-conditional model.
    pub fn class(size: &str, side: usize) -> Self {
        let (layers, heads, width, mlp, file) = match (size, side) {
            ("B", 16) => (12, 12, 768, 2048, "c2i_B_256"),
            ("B", _) => (12, 12, 768, 2048, "c2i_B_384"),
            ("L", 16) => (24, 16, 1024, 2816, "c2i_L_256"),
            ("L", _) => (24, 16, 1024, 2816, "c2i_L_384"),
            ("XL", _) => (36, 20, 1280, 3584, "c2i_XL_384"),
            ("XXL", _) => (48, 24, 1536, 4096, "c2i_XXL_384"),
            _ => (24, 32, 3200, 8704, "c2i_3B_384"),
        };
        Self {
            file,
            layers,
            heads,
            width,
            mlp,
            codebook: 16_384,
            side,
            condition: Condition::Class(CLASSES),
        }
    }

    pub fn layout(&self, layers: usize) -> Layout {
        let (d, layers) = (self.width, self.layers.min(layers));
        let mut list = List::default();
        // The published folder has no configuration: these are the keys that the crate asks for.
        let mut config = json!({ "model": "llamagen" });
        set(
            &mut config,
            [
                ("dim", d),
                ("n_layer", layers),
                ("n_head", self.heads),
                ("ffn_hidden", self.mlp),
                ("vocab_size", self.codebook),
                ("grid", self.side),
            ],
        );
        match self.condition {
            Condition::Text([rows, width]) => {
                list.weight("cls_embedding.cap_proj.fc1", &[d, width]);
                list.weight("cls_embedding.cap_proj.fc2", &[d, d]);
                let null = "cls_embedding.uncond_embedding".to_owned();
                list.add(null, &[rows, width], Fill::Weight(1));
                set(
                    &mut config,
                    [("cls_token_num", rows), ("caption_dim", width)],
                );
            }
            Condition::Class(classes) => {
                list.weight("cls_embedding.embedding_table", &[classes + 1, d]);
                set(&mut config, [("num_classes", classes)]);
            }
        }
        list.weight("tok_embeddings", &[self.codebook, d]);
        for layer in 0..layers {
            let at = |part: &str| format!("layers.{layer}.{part}");
            list.weight(&at("attention.wqkv"), &[3 * d, d]);
            list.weight(&at("attention.wo"), &[d, d]);
            list.weight(&at("feed_forward.w1"), &[self.mlp, d]);
            list.weight(&at("feed_forward.w3"), &[self.mlp, d]);
            list.weight(&at("feed_forward.w2"), &[d, self.mlp]);
            list.gain(&at("attention_norm"), d);
            list.gain(&at("ffn_norm"), d);
        }
        list.gain("norm", d);
        list.weight("output", &[self.codebook, d]);
        Layout {
            config,
            file: self.file,
            dtype: "F32",
            shard: None,
            tensors: list.0,
        }
    }
}

/// Dimensions of a VQ tokenizer; the first level has the full resolution.
#[derive(Clone)]
pub struct VqDims {
    pub file: &'static str,
    pub base: usize,
    pub groups: usize,
    pub levels: &'static [usize],
    pub codebook: usize,
    pub entry: usize,
    pub latent: usize,
    /// Pixels along one side.
    pub pixels: usize,
}

const MIDDLE: [&str; 3] = ["mid.0", "mid.1", "mid.2"];

impl VqDims {
    pub fn vq_16() -> Self {
        Self {
            file: "vq_ds16_t2i",
            base: 128,
            groups: 32,
            levels: &[1, 1, 2, 2, 4],
            codebook: 16_384,
            entry: 8,
            latent: 256,
            pixels: 256,
        }
    }

    pub fn vq_8() -> Self {
        Self {
            file: "vq_ds8_c2i",
            levels: &[1, 2, 2, 4],
            ..Self::vq_16()
        }
    }

    /// What a `config.json` says of it.
    pub fn config(&self) -> Value {
        let mut config = json!({
            "model": "llamagen-vq", "encoder_ch_mult": self.levels, "decoder_ch_mult": self.levels,
        });
        set(
            &mut config,
            [
                ("downsample", 1 << (self.levels.len() - 1)),
                ("base_channels", self.base),
                ("norm_groups", self.groups),
                ("codebook_size", self.codebook),
                ("codebook_embed_dim", self.entry),
                ("z_channels", self.latent),
                ("image_size", self.pixels),
            ],
        );
        config
    }

    pub fn layout(&self) -> Layout {
        let mut list = List::default();
        self.tensors("", &mut list);
        Layout {
            config: self.config(),
            file: self.file,
            dtype: "F32",
            shard: None,
            tensors: list.0,
        }
    }

    /// All tensors, their names behind a prefix.
    pub(super) fn tensors(&self, prefix: &str, list: &mut List) {
        let (last, z) = (self.levels.len() - 1, self.latent);
        let (encoder, decoder) = (format!("{prefix}encoder"), format!("{prefix}decoder"));
        list.linear(&format!("{encoder}.conv_in"), &[self.base, 3, 3, 3]);
        let mut width = self.base;
        for (level, times) in self.levels.iter().enumerate() {
            let name = format!("{encoder}.conv_blocks.{level}");
            self.blocks(&name, [width, times * self.base], (2, level == last), list);
            width = times * self.base;
            if level < last {
                list.linear(&format!("{name}.downsample.conv"), &[width, width, 3, 3]);
            }
        }
        list.middle(&encoder, MIDDLE, width);
        list.norm(&format!("{encoder}.norm_out"), width);
        list.linear(&format!("{encoder}.conv_out"), &[z, width, 3, 3]);
        list.linear(&format!("{prefix}quant_conv"), &[self.entry, z, 1, 1]);

        list.linear(&format!("{prefix}post_quant_conv"), &[z, self.entry, 1, 1]);
        list.linear(&format!("{decoder}.conv_in"), &[width, z, 3, 3]);
        list.middle(&decoder, MIDDLE, width);
        // Numbered as they run: the lowest resolution comes first.
        for (level, times) in self.levels.iter().rev().enumerate() {
            let name = format!("{decoder}.conv_blocks.{level}");
            self.blocks(&name, [width, times * self.base], (3, level == 0), list);
            width = times * self.base;
            if level < last {
                list.linear(&format!("{name}.upsample.conv"), &[width, width, 3, 3]);
            }
        }
        list.norm(&format!("{decoder}.norm_out"), width);
        list.linear(&format!("{decoder}.conv_out"), &[3, width, 3, 3]);
        let table = [self.codebook, self.entry];
        list.weight(&format!("{prefix}quantize.embedding"), &table);
        // A count of training, which nobody reads.
        let used = format!("{prefix}quantize.codebook_used");
        list.add(used, &[65_536], Fill::Bias);
    }

    fn blocks(
        &self,
        name: &str,
        [from, to]: [usize; 2],
        (blocks, attention): (usize, bool),
        list: &mut List,
    ) {
        for block in 0..blocks {
            let from = if block == 0 { from } else { to };
            list.residual(&format!("{name}.res.{block}"), from, to);
            if attention {
                list.attention(&format!("{name}.attn.{block}"), to);
            }
        }
    }
}

/// Dimensions of a T5 encoder.
pub struct T5 {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub head: usize,
    pub mlp: usize,
    pub vocab: usize,
}

impl T5 {
    /// flan-T5-XL without its decoder.
    pub fn xl() -> Self {
        Self {
            width: 2048,
            layers: 24,
            heads: 32,
            head: 64,
            mlp: 5120,
            vocab: 32_128,
        }
    }

    pub fn layout(&self, layers: usize) -> Layout {
        let (d, inner, layers) = (self.width, self.heads * self.head, self.layers.min(layers));
        let mut list = List::default();
        list.weight("shared", &[self.vocab, d]);
        for layer in 0..layers {
            let at = |part: &str| format!("encoder.block.{layer}.layer.{part}");
            // The products of queries and keys are not scaled down: the queries have to be small.
            let q = at("0.SelfAttention.q.weight");
            list.add(q, &[inner, d], Fill::Weight(d * self.head));
            for part in ["k", "v"] {
                list.weight(&at(&format!("0.SelfAttention.{part}")), &[inner, d]);
            }
            list.weight(&at("0.SelfAttention.o"), &[d, inner]);
            if layer == 0 {
                let bias = at("0.SelfAttention.relative_attention_bias");
                list.weight(&bias, &[32, self.heads]);
            }
            list.gain(&at("0.layer_norm"), d);
            for part in ["wi_0", "wi_1"] {
                list.weight(&at(&format!("1.DenseReluDense.{part}")), &[self.mlp, d]);
            }
            list.weight(&at("1.DenseReluDense.wo"), &[d, self.mlp]);
            list.gain(&at("1.layer_norm"), d);
        }
        list.gain("encoder.final_layer_norm", d);
        let mut config = json!({
            "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "feed_forward_proj": "gated-gelu",
            "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 32, "eos_token_id": 1,
        });
        set(
            &mut config,
            [
                ("d_model", d),
                ("num_layers", layers),
                ("num_heads", self.heads),
                ("d_kv", self.head),
                ("d_ff", self.mlp),
                ("vocab_size", self.vocab),
            ],
        );
        Layout {
            config,
            file: "model",
            dtype: "F32",
            shard: None,
            tensors: list.0,
        }
    }
}
