//! Any text as a `config.json`: what is accepted is JSON, and a model's settings from it are sound or an error.

use maquette::model::files::config::JsonConfig;
use maquette::model::janus::JanusConfig;
use maquette::model::llamagen::LlamaGenConfig;
use maquette::model::llava::LlavaConfig;
use maquette::model::magvit::MagvitConfig;
use maquette::model::show_o::ShowOConfig;
use maquette::model::t5::T5Config;
use maquette::model::vq::VqConfig;

/// Any bytes as settings of every model; whether they were a JSON object.
pub fn settings(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(json) = JsonConfig::parse(&text) else {
        return false;
    };
    let plain: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in plain.as_object().unwrap() {
        assert_eq!(json.has(key), !value.is_null(), "{key}");
        assert_eq!(json.child(key).is_some(), value.is_object(), "{key}");
    }
    if let Ok(config) = ShowOConfig::from_json(&json) {
        config.check().unwrap();
    }
    if let Ok(config) = JanusConfig::from_json(&json) {
        config.check().unwrap();
    }
    if let Ok(config) = LlavaConfig::from_json(&json) {
        config.check().unwrap();
    }
    if let Ok(config) = MagvitConfig::from_json(&json) {
        config.check().unwrap();
    }
    if let Ok(config) = LlamaGenConfig::from_json(&json) {
        config.check().unwrap();
    }
    if let Ok(config) = VqConfig::from_json(&json) {
        config.check().unwrap();
    }
    if let Ok(config) = T5Config::from_json(&json) {
        config.check().unwrap();
    }
    true
}
