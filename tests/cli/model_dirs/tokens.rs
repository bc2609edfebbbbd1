//! Prompts as text through the tokenizer.json of each model.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::tiny::{self, Copy, PROMPT};
use super::{drawn, generate};
use crate::programs::folder;

fn put(name: &str, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::copy(tiny::tokenizer(name), folder.join("tokenizer.json")).unwrap();
}

#[test]
fn show_o_reads_text_through_a_folder_of_its_own() {
    let home = folder("show-o-text");
    let [model, pixels] = tiny::show_o(&home, 459);
    let text = home.join("phi");
    put("show-o", &text);
    let dirs = [
        ("model-dir", &model),
        ("tokenizer-dir", &pixels),
        ("text-dir", &text),
    ];
    let plain = ["--strategy", "plain"];
    let apart = drawn(&home, &mut generate(PROMPT, &dirs, &plain));
    assert_eq!(apart.0["models"]["text"], text.display().to_string());
    put("show-o", &model);
    let beside = drawn(&home, &mut generate(PROMPT, &dirs[..2], &plain));
    assert!(apart.1 == beside.1);
}

#[test]
fn llamagen_reads_text_through_the_encoders_tokenizer() {
    let home = folder("t5-text");
    let [model, pixels, text] = tiny::llamagen_text(&home);
    let mut t5 = Copy::of("t5-encoder");
    t5.config["vocab_size"] = 152.into();
    t5.rows = &[("shared.weight", 152)];
    t5.write(&text);
    put("llamagen", &text);
    let dirs = [
        ("model-dir", &model),
        ("tokenizer-dir", &pixels),
        ("text-dir", &text),
    ];
    let plain = ["--strategy", "plain"];
    let (_, one) = drawn(&home, &mut generate("a", &dirs, &plain));
    let (_, other) = drawn(&home, &mut generate("red", &dirs, &plain));
    assert!(one != other);
}

/// Janus-Pro as either library writes its configuration.
fn janus_forms() -> [(&'static str, Value); 2] {
    let text = json!({
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 112, "max_position_embeddings": 2048, "vocab_size": 448,
    });
    let tower = json!({
        "image_size": 24, "patch_size": 4, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
        "mlp_ratio": 4.0,
    });
    let mut named = tower.clone();
    named["model_name"] = "siglip_large_patch16_384".into();
    let original = json!({
        "model_type": "multi_modality", "language_config": text,
        "vision_config": { "cls": "CLIPVisionTower", "params": named },
        "gen_vision_config": { "cls": "VQ-16", "params": {
            "image_token_size": 96, "n_embed": 8, "base_channels": 8, "norm_groups": 4, "z_channels": 16,
        } },
        "gen_aligner_config": { "params": { "depth": 2, "input_dim": 8, "n_embed": 64 } },
        "gen_head_config": { "params": { "image_token_embed": 64, "image_token_size": 96, "n_embed": 64 } },
    });
    let transformers = json!({
        "model_type": "janus", "text_config": text, "vision_config": tower,
        "vq_config": {
            "embed_dim": 8, "num_embeddings": 96, "base_channels": 8, "norm_groups": 4, "latent_channels": 16,
            "num_res_blocks": 2, "channel_multiplier": [1, 1, 2, 2, 4],
        },
    });
    [("original", original), ("transformers", transformers)]
}

#[test]
fn janus_is_the_same_in_either_form_and_reads_the_released_layouts() {
    let home = folder("janus-forms");
    let map: Value = serde_json::from_slice(
        &fs::read(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/janus-pro/key_map.json"),
        )
        .unwrap(),
    )
    .unwrap();
    let rows = [
        ("language_model.model.embed_tokens.weight", 448),
        ("language_model.lm_head.weight", 448),
    ];
    let judged = janus_forms().map(|(form, config)| {
        let names = |name: &str| match (form, &map[name]) {
            ("original", _) => vec![name.to_owned()],
            (_, Value::String(name)) => vec![name.clone()],
            // The tower's fused layer has three parts; its pooling head has none.
            (_, Value::Array(names)) => {
                let text = |name: &Value| name.as_str().unwrap().to_owned();
                names.iter().map(text).collect()
            }
            (_, other) => {
                assert!(other.is_null(), "{name}: {other}");
                Vec::new()
            }
        };
        let model = home.join(form);
        let copy = Copy {
            config,
            names: &names,
            rows: &rows,
            ..Copy::of("janus-pro")
        };
        copy.write(&model);
        put("janus-pro", &model);
        let best = ["--strategy", "best-of-n"];
        let (trace, picture) = drawn(
            &home,
            &mut generate(PROMPT, &[("model-dir", &model)], &best),
        );
        assert_eq!(trace["cost"]["outcome"], 2);
        (trace["pictures"][0]["events"].clone(), picture)
    });
    assert_eq!(judged[0], judged[1]);
}
