//! The three forms of a `config.json`.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::{JanusConfig, llama, siglip_large};
use crate::error::{Error, Result};
use crate::model::files::config::JsonConfig;
use crate::model::llava::TextConfig;
use crate::model::vision::VisionConfig;
use crate::model::vq::VqConfig;
use crate::prompt::TokenId;

impl JanusConfig {
    /// Reads a `config.json`: the original form (`language_config` and its neighbours), the transformers form
    /// (`text_config`, `vision_config`, `vq_config`), or the bundled one (`text`, `vision`, `vq`, and
    /// `yes_id`, `no_id`, `templates` where it has them). What a form leaves out is that of the released models,
    /// and of Llama-7B in the language model, as those who write the first two mean it.
    ///
    /// # Errors
    /// A value of another kind, a missing size of the language model, a tower that is not known, or sizes that
    /// contradict each other.
    pub fn from_json(json: &JsonConfig) -> Result<Self> {
        // The original form keeps what it says of a part under `params`.
        let params = |name| {
            let part = json.child(name)?;
            Some(part.child("params").unwrap_or(part))
        };
        let text = ["text", "text_config", "language_config"]
            .into_iter()
            .find_map(|name| json.child(name))
            .ok_or(Error::Config {
                key: "language_config",
                problem: "is missing",
            })?;
        let vision = json.child("vision").or_else(|| params("vision_config"));
        let released = Self::released(text_config(&text)?);
        let vision = vision.map_or(Ok(released.vision), |v| vision_config(&v))?;
        let vq = json.child("vq").or_else(|| json.child("vq_config"));
        let vq = vq.or_else(|| params("gen_vision_config"));
        let side = match &vq {
            Some(vq) => vq.size_or("grid", vision.grid())?,
            None => vision.grid(),
        };
        let vq = vq_config(vq.as_ref(), side, released.vq)?;
        let inner = |part, key, default| {
            params(part).map_or(Ok(default), |part| part.size_or(key, default))
        };
        let mut config = Self {
            min_size: match json.child("vision") {
                Some(vision) => vision.size_or("min_size", released.min_size)?,
                None => released.min_size,
            },
            code_dim: json.size_or(
                "gen_embed_dim",
                inner("gen_aligner_config", "input_dim", vq.codebook_embed_dim)?,
            )?,
            head_width: json.size_or(
                "gen_head_hidden",
                inner("gen_head_config", "image_token_embed", released.head_width)?,
            )?,
            max_prompt_len: json.size_or("max_prompt_len", released.max_prompt_len)?,
            max_plan_len: json.size_or("max_plan_len", released.max_plan_len)?,
            side,
            vq,
            vision,
            ..released
        };
        if json.has("yes_id") {
            let id = |key| {
                TokenId::try_from(json.size(key)?).map_err(|_| Error::Config {
                    key,
                    problem: "is too large",
                })
            };
            config.answers = Vec::from([[id("yes_id")?, id("no_id")?]]);
        }
        if let Some(t) = json.child("templates") {
            let layouts = &mut config.layouts;
            for (key, text) in [
                ("draw", &mut layouts.draw),
                ("plan", &mut layouts.plan),
                ("outcome", &mut layouts.questions.outcome),
                ("process", &mut layouts.questions.process),
                ("clarity", &mut layouts.questions.clarity),
                ("potential", &mut layouts.questions.potential),
            ] {
                let written = t.text(key).or((key == "plan" && !t.has(key)).then_some(""));
                *text = written.map(ToString::to_string).ok_or(Error::Config {
                    key,
                    problem: "is no text",
                })?;
            }
        }
        config.check()?;
        Ok(config)
    }
}

fn text_config(json: &JsonConfig) -> Result<TextConfig> {
    let d = llama();
    let width = json.size_or("hidden_size", d.width)?;
    let n_heads = json.size_or("num_attention_heads", d.n_heads)?;
    let theta = json
        .child("rope_parameters")
        .filter(|t| t.has("rope_theta"))
        .unwrap_or_else(|| json.clone());
    Ok(TextConfig {
        width,
        layers: json.size("num_hidden_layers")?,
        n_heads,
        n_kv_heads: json.size_or("num_key_value_heads", n_heads)?,
        head_dim: json.size_or("head_dim", width / n_heads.max(1))?,
        mlp_width: json.size_or("intermediate_size", d.mlp_width)?,
        vocab: json.size("vocab_size")?,
        theta: theta.float_or("rope_theta", d.theta)?,
        eps: json.float_or("rms_norm_eps", d.eps)?,
        positions: json
            .size_or("max_position_embeddings", d.positions)?
            .min(d.positions),
        qkv_bias: false,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a product that is out of range saturates, and check refuses it"
)]
fn vision_config(json: &JsonConfig) -> Result<VisionConfig> {
    let d = siglip_large();
    if json
        .text("model_name")
        .is_some_and(|name| name != "siglip_large_patch16_384")
    {
        return Err(Error::Config {
            key: "model_name",
            problem: "is not siglip_large_patch16_384",
        });
    }
    let width = json.size_or("hidden_size", d.width)?;
    let times = json.float_or("mlp_ratio", 4.0)?;
    Ok(VisionConfig {
        image_size: json.size_or("image_size", d.image_size)?,
        patch_size: json.size_or("patch_size", d.patch_size)?,
        width,
        n_heads: json.size_or("num_attention_heads", d.n_heads)?,
        mlp_width: json.size_or("intermediate_size", (width as f32 * times) as usize)?,
        layers: json.size_or("num_hidden_layers", d.layers)?,
        eps: json.float_or("layer_norm_eps", d.eps)?,
        ..d
    })
}

/// The image tokenizer: what the three forms say of it under three sets of keys.
fn vq_config(json: Option<&JsonConfig>, side: usize, released: VqConfig) -> Result<VqConfig> {
    let Some(json) = json else {
        return Ok(released);
    };
    let size = |keys: &[&'static str], default| {
        let key = keys.iter().copied().find(|key| json.has(key));
        key.map_or(Ok(default), |key| json.size(key))
    };
    let levels = ["ch_mult", "channel_multiplier"];
    let levels = levels.into_iter().find(|key| json.has(key));
    let levels = levels.map_or(Ok(released.decoder_ch_mult), |key| json.sizes(key))?;
    let blocks = size(
        &["encoder_res_blocks", "num_res_blocks"],
        released.encoder_res_blocks,
    )?;
    let mut vq = VqConfig {
        base_channels: json.size_or("base_channels", released.base_channels)?,
        norm_groups: json.size_or("norm_groups", released.norm_groups)?,
        codebook_size: size(
            &["codebook_size", "num_embeddings", "image_token_size"],
            released.codebook_size,
        )?,
        codebook_embed_dim: size(
            &["codebook_embed_dim", "embed_dim", "n_embed"],
            released.codebook_embed_dim,
        )?,
        z_channels: size(&["z_channels", "latent_channels"], released.z_channels)?,
        encoder_res_blocks: blocks,
        decoder_res_blocks: json.size_or("decoder_res_blocks", blocks.saturating_add(1))?,
        encoder_ch_mult: levels.clone(),
        decoder_ch_mult: levels,
        ..released
    };
    vq.image_size = side.saturating_mul(vq.scale());
    Ok(vq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<JanusConfig> {
        JanusConfig::from_json(&JsonConfig::parse(text).unwrap())
    }

    #[test]
    fn the_original_form_gives_the_released_shapes() {
        let parts = r#""vision_config": {"cls": "CLIPVisionTower", "params": {"image_size": 384, "model_name": "siglip_large_patch16_384", "select_feature": "same", "select_layer": -1}},
            "gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": 16384, "n_embed": 8}}"#;
        let small = read(&alloc::format!(
            r#"{{"model_type": "multi_modality", {parts},
            "gen_aligner_config": {{"params": {{"depth": 2, "input_dim": 8, "n_embed": 2048}}}},
            "gen_head_config": {{"params": {{"image_token_embed": 2048, "image_token_size": 16384, "n_embed": 2048}}}},
            "language_config": {{"hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 16384,
            "num_attention_heads": 16, "num_hidden_layers": 24, "vocab_size": 102400}}}}"#
        ));
        assert_eq!(small.unwrap(), JanusConfig::janus_pro_1b());
        let large = read(&alloc::format!(
            r#"{{"model_type": "multi_modality", {parts},
            "gen_aligner_config": {{"params": {{"depth": 2, "input_dim": 8, "n_embed": 4096}}}},
            "gen_head_config": {{"params": {{"image_token_embed": 4096, "image_token_size": 16384, "n_embed": 4096}}}},
            "language_config": {{"max_position_embeddings": 16384, "num_hidden_layers": 30, "vocab_size": 102400}}}}"#
        ));
        assert_eq!(large.unwrap(), JanusConfig::janus_pro_7b());
    }

    #[test]
    fn the_transformers_form_gives_the_released_shape() {
        let got = read(
            r#"{"model_type": "janus", "image_token_id": 100581,
            "text_config": {"hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 16384, "model_type": "llama",
            "num_attention_heads": 16, "num_hidden_layers": 24, "num_key_value_heads": 16, "vocab_size": 102400, "rope_parameters": {"rope_theta": 10000.0}},
            "vision_config": {"hidden_size": 1024, "image_size": 384, "patch_size": 16, "mlp_ratio": 4.0, "num_hidden_layers": 24, "num_attention_heads": 16},
            "vq_config": {"embed_dim": 8, "num_embeddings": 16384, "num_patches": 24}}"#,
        );
        assert_eq!(got.unwrap(), JanusConfig::janus_pro_1b());
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        for (text, key) in [
            ("{}", "language_config"),
            (r#"{"text": {"vocab_size": 9}}"#, "num_hidden_layers"),
            (
                r#"{"text": {"vocab_size": 9, "num_hidden_layers": 1}, "vision_config": {"params": {"model_name": "other"}}}"#,
                "model_name",
            ),
            (
                r#"{"text": {"vocab_size": 9, "num_hidden_layers": 1}, "templates": {"draw": 3}}"#,
                "draw",
            ),
            (
                r#"{"text": {"vocab_size": 9, "num_hidden_layers": 1}, "yes_id": 3, "no_id": 3}"#,
                "yes_id",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                matches!(error, Error::Config { key: k, .. } if k == key),
                "{text}: {error}"
            );
        }
    }
}
