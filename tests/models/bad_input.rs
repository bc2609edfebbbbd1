//! Broken files, broken prompts, broken judges: an error that says what is wrong, never a panic.

mod searches;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::llava::{Llava, LlavaConfig};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig};
use maquette::quant::Format;
use maquette::{Error, Result};
use serde_json::Value;

fn bundled(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples/demo/weights")
            .join(name),
    )
    .unwrap()
}

fn text(name: &str) -> String {
    String::from_utf8(bundled(name)).unwrap()
}

/// The three models by file, each tried with bytes and configuration of one's own.
#[derive(Debug, Clone, Copy)]
enum Model {
    ShowO,
    Magvit,
    Llava,
}

const MODELS: [Model; 3] = [Model::ShowO, Model::Magvit, Model::Llava];

impl Model {
    fn weights(self) -> Vec<u8> {
        bundled(match self {
            Self::ShowO => "show-o/pytorch_model.safetensors",
            Self::Magvit => "magvitv2/pytorch_model.safetensors",
            Self::Llava => "judge/model.safetensors",
        })
    }

    fn config(self) -> String {
        text(match self {
            Self::ShowO => "show-o/config.json",
            Self::Magvit => "magvitv2/config.json",
            Self::Llava => "judge/config.json",
        })
    }

    fn load(self, bytes: &[u8], config: &str) -> Result<()> {
        let json = JsonConfig::parse(config)?;
        let source = SafetensorsSource::new(bytes)?;
        let cpu = Arc::new(Cpu::with_threads(1)?);
        match self {
            Self::ShowO => {
                ShowO::load(cpu, ShowOConfig::from_json(&json)?, &source, Format::F32).map(drop)
            }
            Self::Magvit => {
                Magvit::load(cpu, MagvitConfig::from_json(&json)?, &source, Format::F32).map(drop)
            }
            Self::Llava => {
                Llava::load(cpu, LlavaConfig::from_json(&json)?, &source, Format::F32).map(drop)
            }
        }
    }
}

/// The file's header, and the bytes after it.
fn parts(bytes: &[u8]) -> (Value, &[u8]) {
    let (len, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*len)).unwrap());
    (serde_json::from_slice(header).unwrap(), data)
}

fn joined(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

fn first_tensor(header: &Value) -> String {
    header
        .as_object()
        .unwrap()
        .keys()
        .find(|k| *k != "__metadata__")
        .unwrap()
        .clone()
}

#[test]
fn the_bundled_files_are_read() {
    for model in MODELS {
        model.load(&model.weights(), &model.config()).unwrap();
    }
}

#[test]
fn a_truncated_file_is_refused() {
    for model in MODELS {
        let (bytes, config) = (model.weights(), model.config());
        for len in [0, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
            let got = model.load(&bytes[..len], &config);
            assert!(
                matches!(got, Err(Error::Format { .. } | Error::FormatEntry { .. })),
                "{model:?} cut to {len}: {got:?}"
            );
        }
    }
}

#[test]
fn a_flipped_bit_of_the_header_is_an_error_or_another_name() {
    let (bytes, config) = (Model::ShowO.weights(), Model::ShowO.config());
    for at in (0..600).step_by(7) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        // Most flips are errors. A flip inside the metadata is none; nothing may panic.
        let _ = Model::ShowO.load(&bytes, &config);
    }
    let mut bytes = bytes;
    bytes[0] ^= 1;
    assert!(Model::ShowO.load(&bytes, &config).is_err());
}

#[test]
fn a_hostile_header_is_refused() {
    let config = Model::ShowO.config();
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let offsets = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}"#;
    let shape =
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let with = |header: &str| {
        [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &[0; 4],
        ]
        .concat()
    };
    for bytes in [
        huge,
        with(offsets),
        with(shape),
        with(&deep),
        with("{"),
        with("\u{0}"),
        with("{\"a\":5}"),
    ] {
        assert!(matches!(
            Model::ShowO.load(&bytes, &config),
            Err(Error::Format { .. } | Error::FormatEntry { .. })
        ));
    }
}

#[test]
fn missing_unknown_and_misshapen_tensors_are_named() {
    for model in MODELS {
        let (bytes, config) = (model.weights(), model.config());
        let (header, data) = parts(&bytes);
        let name = first_tensor(&header);

        let mut renamed = header.clone();
        let entry = renamed.as_object_mut().unwrap().remove(&name).unwrap();
        renamed["nobody.asked.for.this"] = entry;
        let got = model.load(&joined(&renamed, data), &config).unwrap_err();
        assert!(got.to_string().contains(&name), "{model:?}: {got}");

        let mut more = header.clone();
        let end = data.len();
        more["nobody.asked.for.this"] =
            serde_json::json!({ "dtype": "F16", "shape": [1], "data_offsets": [end, end + 2] });
        let got = model
            .load(&joined(&more, &[data, &[0; 2]].concat()), &config)
            .unwrap_err();
        assert!(
            got.to_string().contains("nobody.asked.for.this"),
            "{model:?}: {got}"
        );

        let mut flat = header.clone();
        let size: u64 = header[&name]["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d.as_u64().unwrap())
            .product();
        flat[&name]["shape"] = serde_json::json!([2, size / 2]);
        let got = model.load(&joined(&flat, data), &config);
        assert!(
            matches!(got, Err(Error::TensorShape { .. })),
            "{model:?} {name}: {got:?}"
        );
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    for model in MODELS {
        let bytes = model.weights();
        let (header, data) = parts(&bytes);
        let mut data = data.to_vec();
        let name = first_tensor(&header);
        let at = usize::try_from(header[&name]["data_offsets"][0].as_u64().unwrap()).unwrap();
        data[at + 6..at + 8].copy_from_slice(&0x7E00_u16.to_le_bytes());
        let got = model.load(&joined(&header, &data), &model.config());
        let told = format!("tensor \"{name}\" has a number in element 3 that");
        assert!(
            matches!(&got, Err(e) if e.to_string().contains(&told)),
            "{model:?}: {got:?}"
        );
    }
}

#[test]
fn a_config_that_contradicts_the_weights_is_refused() {
    for (model, changes) in [
        (
            Model::ShowO,
            &[
                ("hidden_size", "64"),
                ("num_hidden_layers", "7"),
                ("num_hidden_layers", "5"),
                ("num_attention_heads", "0"),
                ("hidden_size", "\"wide\""),
                ("vocab_size", "18446744073709551615"),
                ("codebook_size", "0"),
                ("intermediate_size", "100"),
            ][..],
        ),
        (
            Model::Magvit,
            &[
                ("base_channels", "16"),
                ("codebook_bits", "9"),
                ("norm_groups", "3"),
                ("base_channels", "0"),
                ("decoder_ch_mult", "[1, 2]"),
                ("image_size", "-4"),
            ],
        ),
        (
            Model::Llava,
            &[
                ("yes_id", "5000000"),
                ("templates", "{\"outcome\": 5}"),
                ("vision", "{}"),
                ("text", "7"),
            ],
        ),
    ] {
        let weights = model.weights();
        for (key, value) in changes {
            let mut config: Value = serde_json::from_str(&model.config()).unwrap();
            config[*key] = serde_json::from_str(value).unwrap();
            let got = model.load(&weights, &config.to_string());
            assert!(got.is_err(), "{model:?} with {key} = {value} was read");
        }
        for broken in ["", "{", "[]", "null", "{\"model\": }"] {
            assert!(
                model.load(&weights, broken).is_err(),
                "{model:?} with {broken:?} was read"
            );
        }
    }
}
