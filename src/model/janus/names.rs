//! What the two writers of Janus checkpoints call the parts.

use alloc::format;
use alloc::string::String;

use crate::model::weights::WeightSource;

/// Who named the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// The authors of the model.
    Original,
    /// The transformers library.
    Transformers,
}

/// A part: the name it is asked for by, the original one, and that of the transformers library. The understanding
/// path is asked for by the names of [`Llava`](crate::model::llava::Llava), the way of codes by the original ones.
const PARTS: [[&str; 3]; 10] = [
    [TOWER, "vision_model.vision_tower.", "model.vision_model."],
    [
        "model.mm_projector.0.",
        "aligner.layers.0.",
        "model.aligner.fc1.",
    ],
    [
        "model.mm_projector.2.",
        "aligner.layers.2.",
        "model.aligner.hidden_layers.0.",
    ],
    ["lm_head.", "language_model.lm_head.", "lm_head."],
    ["model.", "language_model.model.", "model.language_model."],
    ["gen_embed.", "gen_embed.", "model.generation_embeddings."],
    [
        "gen_aligner.layers.0.",
        "gen_aligner.layers.0.",
        "model.generation_aligner.fc1.",
    ],
    [
        "gen_aligner.layers.2.",
        "gen_aligner.layers.2.",
        "model.generation_aligner.hidden_layers.0.",
    ],
    [
        "gen_head.output_mlp_projector.",
        "gen_head.output_mlp_projector.",
        "model.generation_head.proj_out.",
    ],
    [
        "gen_head.vision_head.",
        "gen_head.vision_head.",
        "model.generation_head.vision_head.",
    ],
];

const TOWER: &str = "model.vision_tower.vision_tower.vision_model.";

/// Within the tower: the name asked for, and the original one.
const TOWER_PARTS: [[&str; 2]; 8] = [
    ["encoder.layers.", "blocks."],
    [".layer_norm1.", ".norm1."],
    [".layer_norm2.", ".norm2."],
    [".self_attn.qkv.", ".attn.qkv."],
    [".self_attn.out_proj.", ".attn.proj."],
    ["embeddings.patch_embedding.", "patch_embed.proj."],
    ["embeddings.position_embedding.weight", "pos_embed"],
    ["post_layernorm.", "norm."],
];

/// Within the image tokenizer: the name asked for, and that of the transformers library. There, too, `up.0` runs first.
const CODE_PARTS: [[&str; 2]; 6] = [
    ["encoder.conv_blocks.", "encoder.down."],
    ["decoder.conv_blocks.", "decoder.up."],
    [".res.", ".block."],
    [".mid.0.", ".mid.block_1."],
    [".mid.1.", ".mid.attn_1."],
    [".mid.2.", ".mid.block_2."],
];

impl Naming {
    pub(super) fn of(source: &dyn WeightSource) -> Self {
        if source
            .tensor("model.generation_embeddings.weight")
            .is_some()
        {
            Self::Transformers
        } else {
            Self::Original
        }
    }

    /// The name under which a checkpoint holds a part.
    pub(super) fn stored(self, name: &str) -> String {
        let Some([asked, original, transformers]) =
            PARTS.iter().find(|[asked, ..]| name.starts_with(asked))
        else {
            return self.of_codes(name);
        };
        let tail = &name[asked.len()..];
        match self {
            Self::Original if *asked == TOWER => {
                let tail = TOWER_PARTS
                    .iter()
                    .fold(String::from(tail), |tail, [asked, original]| {
                        tail.replace(asked, original)
                    });
                format!("{original}{tail}")
            }
            Self::Transformers if *asked == TOWER => {
                let tail = tail.replace(".self_attn.out_proj.", ".self_attn.projection_layer.");
                format!("{transformers}{tail}")
            }
            Self::Original => format!("{original}{tail}"),
            Self::Transformers => format!("{transformers}{tail}"),
        }
    }

    /// A part of the image tokenizer, which is asked for by the names of [`Vq`](crate::model::vq::Vq).
    fn of_codes(self, name: &str) -> String {
        if self == Self::Original {
            return format!("gen_vision_model.{name}");
        }
        let name = CODE_PARTS
            .iter()
            .fold(String::from(name), |name, [asked, transformers]| {
                name.replace(asked, transformers)
            });
        format!("model.vqmodel.{name}")
    }
}

/// Whether a tensor may lie in a checkpoint without being read: the tower's pooling head, and a counter of training.
pub(super) fn unused(name: &str) -> bool {
    name.starts_with("vision_model.vision_tower.attn_pool.")
        || name.ends_with("quantize.codebook_used")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_name_in_both_namings() {
        for (asked, original, transformers) in [
            (
                "model.layers.3.mlp.up_proj.weight",
                "language_model.model.layers.3.mlp.up_proj.weight",
                "model.language_model.layers.3.mlp.up_proj.weight",
            ),
            (
                "model.vision_tower.vision_tower.vision_model.encoder.layers.2.self_attn.out_proj.bias",
                "vision_model.vision_tower.blocks.2.attn.proj.bias",
                "model.vision_model.encoder.layers.2.self_attn.projection_layer.bias",
            ),
            (
                "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight",
                "vision_model.vision_tower.pos_embed",
                "model.vision_model.embeddings.position_embedding.weight",
            ),
            (
                "model.vision_tower.vision_tower.vision_model.post_layernorm.weight",
                "vision_model.vision_tower.norm.weight",
                "model.vision_model.post_layernorm.weight",
            ),
            (
                "gen_embed.weight",
                "gen_embed.weight",
                "model.generation_embeddings.weight",
            ),
            (
                "decoder.conv_blocks.0.res.1.conv1.weight",
                "gen_vision_model.decoder.conv_blocks.0.res.1.conv1.weight",
                "model.vqmodel.decoder.up.0.block.1.conv1.weight",
            ),
            (
                "encoder.mid.1.proj_out.bias",
                "gen_vision_model.encoder.mid.1.proj_out.bias",
                "model.vqmodel.encoder.mid.attn_1.proj_out.bias",
            ),
            (
                "post_quant_conv.weight",
                "gen_vision_model.post_quant_conv.weight",
                "model.vqmodel.post_quant_conv.weight",
            ),
        ] {
            assert_eq!(Naming::Original.stored(asked), original);
            assert_eq!(Naming::Transformers.stored(asked), transformers);
        }
    }
}
