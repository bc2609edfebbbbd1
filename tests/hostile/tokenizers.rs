//! Tokenizer files.

use std::fs;
use std::path::Path;

use maquette::Result;
use maquette::model::files::tokenizer::Tokenizer;
use maquette::prompt::Tokenize;
use serde_json::{Value, json};

use crate::{ran, refused, taken};

fn sound(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers/data");
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

fn read(file: &[u8]) -> Result<usize> {
    let file = Tokenizer::from_bytes(file)?;
    let mut n = 0;
    file.encode("a photo of a red car", &mut |_| n += 1)?;
    Ok(n)
}

fn changed(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut file = sound("show-o.json");
    change(&mut file);
    file.to_string().into_bytes()
}

#[test]
fn files_that_lie_are_refused() {
    taken("as it should be", || read(&changed(|_| {})));
    let text = sound("show-o.json").to_string();
    for (key, value) in [
        ("model", "{}"),
        ("vocab", "{}"),
        ("merges", "[]"),
        ("type", "0"),
    ] {
        let twice = format!("\"{key}\":{value},\"{key}\":");
        let text = text.replacen(&format!("\"{key}\":"), &twice, 1);
        refused(key, "stands twice", || read(text.as_bytes()));
    }
    let long = "n".repeat(1025);
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let doubled = replace(json!({"String": "a"}), "aa");
    let rules =
        |rule: Value, n: usize, inside: &str| json!({"type": "Sequence", inside: vec![rule; n]});
    for (name, file, what) in [
        (
            "a long token",
            changed(|f| f["model"]["vocab"][&long] = json!(0)),
            "1024 bytes",
        ),
        (
            "a long piece",
            changed(|f| f["model"]["merges"][0] = json!(long)),
            "1024 bytes",
        ),
        (
            "twice as much fifty times",
            changed(|f| f["normalizer"] = rules(doubled.clone(), 50, "normalizers")),
            "grow too far",
        ),
        (
            "the same without names",
            changed(|f| {
                let mut rules = rules(doubled.clone(), 50, "normalizers");
                rules.as_object_mut().unwrap().remove("type");
                f["normalizer"] = rules;
            }),
            "grow too far",
        ),
        (
            "the same at the end",
            changed(|f| f["decoder"] = rules(doubled.clone(), 50, "decoders")),
            "grow too far",
        ),
        (
            "something for nothing",
            changed(|f| f["normalizer"] = replace(json!({"Regex": ""}), &long)),
            "grow too far",
        ),
        (
            "much before it",
            changed(|f| f["normalizer"] = json!({"type": "Prepend", "prepend": long})),
            "grow too far",
        ),
        (
            "sequences in sequences",
            changed(|f| {
                f["normalizer"] = (0..50).fold(
                    doubled.clone(),
                    |inner, _| json!({"type": "Sequence", "normalizers": [doubled, inner]}),
                );
            }),
            "grow too far",
        ),
        (
            "many rules",
            changed(|f| f["normalizer"] = rules(json!({"type": "NFC"}), 1 << 17, "normalizers")),
            "131072 values",
        ),
        ("length", vec![b' '; (32 << 20) + 1], "32 MiB"),
        ("depth", b"{\"x\":".repeat(1 << 20), "127 levels"),
        (
            "depth of a model",
            [b"{\"model\":{\"x\":", &b"[".repeat(1 << 20)[..]].concat(),
            "127 levels",
        ),
        ("no UTF-8", b"{\"\xff\":0}".to_vec(), "UTF-8"),
        (
            "values",
            format!("{{\"x\":[0{}]}}", ",0".repeat(3 << 20)).into_bytes(),
            "2097152 values",
        ),
        (
            "keys",
            format!("{{\"x\":{{\"\":0{}}}}}", ",\"\":0".repeat(1 << 20)).into_bytes(),
            "262144 keys",
        ),
    ] {
        refused(name, what, || read(&file));
    }
    let config = |text: &str| {
        Tokenizer::from_bytes(&changed(|_| {}))
            .unwrap()
            .with_config(text.as_bytes())
    };
    refused("a configuration with a key twice", "stands twice", || {
        config("{\"a\":1,\"a\":2}")
    });
}

#[test]
fn any_value_in_any_place_is_an_error_or_a_tokenizer() {
    let odd = [
        json!(null),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\u{0}"),
        json!([]),
        json!({}),
        json!(["a b", "b"]),
        json!(true),
    ];
    for name in [
        "show-o.json",
        "llamagen.json",
        "llava-onevision.json",
        "janus-pro.json",
    ] {
        let good = sound(name);
        let mut all = Vec::new();
        places(&good, &mut String::new(), &mut all);
        // Entries of the vocabulary are much alike.
        for (i, place) in all.iter().enumerate() {
            if i % (1 + all.len() / 75) == 0 {
                for odd in &odd {
                    let mut bad = good.clone();
                    *bad.pointer_mut(place).unwrap() = odd.clone();
                    let _ = ran(place, || read(bad.to_string().as_bytes()));
                }
            }
        }
    }
}

/// Every place of a value, as pointers.
fn places(value: &Value, above: &mut String, out: &mut Vec<String>) {
    let parts: Vec<_> = match value {
        Value::Object(entries) => entries
            .iter()
            .map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, v)| (i.to_string(), v))
            .collect(),
        _ => Vec::new(),
    };
    for (key, value) in parts {
        let len = above.len();
        above.push('/');
        above.push_str(&key);
        out.push(above.clone());
        places(value, above, out);
        above.truncate(len);
    }
}
