//! Configurations of every model: whatever stands under a key that it reads, an error or a shape that agrees with itself.

use maquette::Result;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::folder::ModelType;
use maquette::model::janus::JanusConfig;
use maquette::model::llamagen::{Condition, LlamaGenConfig};
use maquette::model::llava::LlavaConfig;
use maquette::model::magvit::MagvitConfig;
use maquette::model::show_o::ShowOConfig;
use maquette::model::t5::T5Config;
use maquette::model::vq::VqConfig;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::ran;

/// Reads a configuration as every model's; which took it.
fn read(config: &Value) -> Result<[bool; 7]> {
    let json = JsonConfig::parse(&config.to_string())?;
    let _ = ModelType::of(&json);
    Ok([
        ShowOConfig::from_json(&json).is_ok(),
        LlavaConfig::from_json(&json).is_ok(),
        JanusConfig::from_json(&json).is_ok(),
        LlamaGenConfig::from_json(&json).is_ok(),
        VqConfig::from_json(&json).is_ok(),
        MagvitConfig::from_json(&json).is_ok(),
        T5Config::from_json(&json).is_ok(),
    ])
}

/// A configuration of each model, small and sound.
fn sound() -> [Value; 8] {
    let text = json!({"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 128, "rope_theta": 1e4, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1024, "rope_parameters": {"rope_theta": 1e4}});
    let vision = json!({"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_attention_heads": 2,
        "intermediate_size": 64, "num_hidden_layers": 2, "layer_norm_eps": 1e-6, "mlp_ratio": 2.0, "min_size": 8});
    let questions = json!({"outcome": "<image> a", "process": "<image> b", "clarity": "<image> c",
        "potential": "<image> d", "draw": "{prompt}", "plan": ""});
    [
        json!({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
            "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "rope_theta": 1e4, "vocab_size": 64 + 10 + 16 + 1,
            "llm_vocab_size": 64, "codebook_size": 16, "num_vq_tokens": 16, "max_text_len": 8, "bos_id": 3}),
        json!({"text": text, "vision": vision, "yes_id": 1, "no_id": 2, "templates": questions,
            "image_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": [[32, 64], [64, 32]]}),
        json!({"text": text, "vision": vision, "vq": {"base_channels": 8, "norm_groups": 4, "codebook_size": 32,
            "codebook_embed_dim": 4, "z_channels": 8, "encoder_res_blocks": 1, "decoder_res_blocks": 1,
            "ch_mult": [1, 2], "grid": 4}, "gen_embed_dim": 4, "gen_head_hidden": 16, "max_prompt_len": 16,
            "max_plan_len": 4, "yes_id": 1, "no_id": 2, "templates": questions}),
        json!({"text_config": text, "vision_config": {"params": vision}, "gen_vision_config": {"params":
            {"image_token_size": 32, "n_embed": 4}}, "gen_aligner_config": {"params": {"input_dim": 4}},
            "gen_head_config": {"params": {"image_token_embed": 16}}}),
        json!({"dim": 64, "n_layer": 2, "n_head": 4, "n_kv_head": 4, "grid": 4, "multiple_of": 16, "ffn_hidden": 96,
            "norm_eps": 1e-5, "rope_base": 1e4, "vocab_size": 32, "cls_token_num": 8, "caption_dim": 24,
            "head_dim": 16, "block_size": 16}),
        json!({"base_channels": 8, "norm_groups": 4, "norm_eps": 1e-6, "codebook_size": 32, "codebook_embed_dim": 4,
            "codebook_l2_norm": true, "z_channels": 8, "encoder_ch_mult": [1, 2], "decoder_ch_mult": [1, 2],
            "encoder_res_blocks": 1, "decoder_res_blocks": 1, "image_size": 16, "downsample": 2}),
        json!({"base_channels": 8, "norm_groups": 4, "norm_eps": 1e-6, "codebook_bits": 5, "codebook_size": 32,
            "z_channels": 5, "encoder_ch_mult": [1, 2], "decoder_ch_mult": [1, 2], "encoder_res_blocks": [1, 1],
            "decoder_res_blocks": [1, 1], "image_size": 16, "grid": 8}),
        json!({"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 48, "vocab_size": 64,
            "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
            "eos_token_id": 1, "feed_forward_proj": "gated-gelu"}),
    ]
}

/// The models that take the sound configurations.
const TAKEN: [usize; 8] = [0, 1, 2, 2, 3, 4, 5, 6];

/// What no key means.
fn odd() -> Vec<Value> {
    let mut odd: Vec<Value> = [
        0,
        1,
        2,
        3,
        7,
        0x1_0000,
        0xff_ffff,
        1 << 24,
        1 << 31,
        u64::from(u32::MAX),
        1 << 32,
        1 << 62,
        u64::MAX,
    ]
    .map(Value::from)
    .into();
    odd.extend([
        json!(-1),
        json!(i64::MIN),
        json!(0.5),
        json!(-0.0),
        json!(1e-45),
        json!(1e38),
        json!(1e300),
    ]);
    odd.extend([
        json!(null),
        json!(true),
        json!("1"),
        json!("NaN"),
        json!([]),
        json!([0]),
        json!([[1]]),
    ]);
    odd.extend([
        json!([1, 2, 3, 4, 5, 6, 7, 8, 9]),
        json!([u64::MAX]),
        json!(vec![1; 20_000]),
        json!({}),
    ]);
    odd.extend([
        json!({"params": 3}),
        json!([[0, 0]]),
        json!([[32, u64::MAX]]),
        json!("anyres_max_0"),
    ]);
    odd.extend([
        json!("anyres_max_99999999999999999999"),
        json!("<|".repeat(100_000)),
    ]);
    odd
}

/// Every place of an object, at any depth, as the keys that lead there.
fn places(value: &Value, above: &[String], out: &mut Vec<Vec<String>>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = [above, std::slice::from_ref(key)].concat();
        places(value, &path, out);
        out.push(path);
    }
}

fn put(config: &mut Value, path: &[String], value: Value) {
    let mut at = config;
    for key in path {
        at = &mut at[key];
    }
    *at = value;
}

#[test]
fn sound_configurations_are_taken() {
    for (config, taken) in sound().iter().zip(TAKEN) {
        assert!(read(config).unwrap()[taken], "{config}");
    }
}

#[test]
fn a_wrong_value_under_any_key_is_an_error_or_a_shape() {
    for config in sound() {
        let mut all = Vec::new();
        places(&config, &[], &mut all);
        for path in all {
            for value in odd() {
                let mut bad = config.clone();
                put(&mut bad, &path, value);
                let _ = ran("a configuration", || read(&bad));
            }
            let mut less = config.clone();
            let (last, above) = path.split_last().unwrap();
            let mut at = &mut less;
            for key in above {
                at = &mut at[key];
            }
            at.as_object_mut().unwrap().remove(last);
            let _ = ran("a configuration", || read(&less));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Several wrong values at once, among them those that agree with each other.
    #[test]
    fn prop_wrong_values_together_are_an_error_or_a_shape(
        which in 0..8_usize,
        changes in prop::collection::vec((any::<usize>(), any::<usize>()), 1..6),
    ) {
        let (mut config, odd) = (sound()[which].clone(), odd());
        let mut all = Vec::new();
        places(&config, &[], &mut all);
        for (place, value) in changes {
            let path = &all[place % all.len()];
            // A parent may be gone by now.
            let there = path[..path.len() - 1].iter().try_fold(&config, |at, key| at.get(key));
            if there.is_some_and(Value::is_object) {
                put(&mut config, path, odd[value % odd.len()].clone());
            }
        }
        let _ = ran("a configuration", || read(&config));
    }

    /// Any names and numbers.
    #[test]
    fn prop_any_object_is_an_error_or_a_shape(entries in prop::collection::vec((0..40_usize, any::<u64>()), 0..40)) {
        let keys: Vec<String> = sound().iter().filter_map(Value::as_object).flatten().map(|(k, _)| k.clone()).collect();
        let mut config = Map::new();
        for (key, n) in entries {
            // Small numbers are the ones that get far.
            let value = if n % 3 == 0 { n } else { n % 256 };
            config.insert(keys[key % keys.len()].clone(), value.into());
        }
        let _ = ran("a configuration", || read(&Value::Object(config)));
    }
}

/// Callers may fill in a shape themselves.
#[test]
fn shapes_that_overflow_are_refused() {
    type Sizes<'a, T> = &'a [fn(&mut T) -> &mut usize];
    fn all<T: Clone>(good: &T, sizes: Sizes<'_, T>, check: fn(&T) -> Result<()>) {
        check(good).unwrap();
        for (i, size) in sizes.iter().enumerate() {
            for value in [0, 1 << 24, usize::MAX / 2, usize::MAX] {
                let mut bad = good.clone();
                *size(&mut bad) = value;
                let got = ran("a shape", || check(&bad));
                assert!(got.is_err() || value == 1 << 24, "size {i} of {value}");
            }
        }
    }
    all::<ShowOConfig>(
        &ShowOConfig::released(),
        &[
            |c| &mut c.hidden_size,
            |c| &mut c.num_hidden_layers,
            |c| &mut c.num_attention_heads,
            |c| &mut c.intermediate_size,
            |c| &mut c.vocab_size,
            |c| &mut c.llm_vocab_size,
            |c| &mut c.codebook_size,
            |c| &mut c.num_vq_tokens,
            |c| &mut c.max_text_len,
        ],
        ShowOConfig::check,
    );
    all::<T5Config>(
        &T5Config::flan_t5_xl(),
        &[
            |c| &mut c.d_model,
            |c| &mut c.num_layers,
            |c| &mut c.num_heads,
            |c| &mut c.d_kv,
            |c| &mut c.d_ff,
            |c| &mut c.vocab_size,
            |c| &mut c.relative_attention_num_buckets,
            |c| &mut c.relative_attention_max_distance,
        ],
        T5Config::check,
    );
    all::<LlamaGenConfig>(
        &LlamaGenConfig::released_text(16),
        &[
            |c| &mut c.dim,
            |c| &mut c.n_layer,
            |c| &mut c.n_head,
            |c| &mut c.n_kv_head,
            |c| &mut c.ffn_hidden,
            |c| &mut c.vocab_size,
            |c| &mut c.grid,
            |c| match &mut c.condition {
                Condition::Text { tokens, .. } => tokens,
                _ => unreachable!(),
            },
            |c| match &mut c.condition {
                Condition::Text { width, .. } => width,
                _ => unreachable!(),
            },
        ],
        LlamaGenConfig::check,
    );
    all::<VqConfig>(
        &VqConfig::vq_16(),
        &[
            |c| &mut c.base_channels,
            |c| &mut c.norm_groups,
            |c| &mut c.codebook_size,
            |c| &mut c.codebook_embed_dim,
            |c| &mut c.z_channels,
            |c| &mut c.encoder_ch_mult[1],
            |c| &mut c.decoder_ch_mult[1],
            |c| &mut c.encoder_res_blocks,
            |c| &mut c.decoder_res_blocks,
            |c| &mut c.image_size,
        ],
        VqConfig::check,
    );
    all::<MagvitConfig>(
        &MagvitConfig::published(),
        &[
            |c| &mut c.base_channels,
            |c| &mut c.norm_groups,
            |c| &mut c.codebook_bits,
            |c| &mut c.codebook_size,
            |c| &mut c.z_channels,
            |c| &mut c.encoder_res_blocks[0],
            |c| &mut c.decoder_res_blocks[0],
            |c| &mut c.image_size,
        ],
        MagvitConfig::check,
    );
    all::<LlavaConfig>(
        &LlavaConfig::default(),
        &[
            |c| &mut c.text.width,
            |c| &mut c.text.layers,
            |c| &mut c.text.n_heads,
            |c| &mut c.text.n_kv_heads,
            |c| &mut c.text.head_dim,
            |c| &mut c.text.mlp_width,
            |c| &mut c.text.vocab,
            |c| &mut c.vision.image_size,
            |c| &mut c.vision.patch_size,
            |c| &mut c.vision.width,
            |c| &mut c.vision.n_heads,
            |c| &mut c.vision.mlp_width,
            |c| &mut c.vision.layers,
        ],
        LlavaConfig::check,
    );
    all::<JanusConfig>(
        &JanusConfig::janus_pro_1b(),
        &[
            |c| &mut c.text.positions,
            |c| &mut c.min_size,
            |c| &mut c.code_dim,
            |c| &mut c.head_width,
            |c| &mut c.side,
            |c| &mut c.max_prompt_len,
            |c| &mut c.max_plan_len,
            |c| &mut c.vq.image_size,
        ],
        JanusConfig::check,
    );
}
