//! Tokenizers from files of each kind that the models use: texts, special tokens, and files that lie.

use std::fs;
use std::path::PathBuf;

use maquette::Error;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::tokenizer::Tokenizer;
use maquette::model::show_o::ShowOConfig;
use maquette::prompt::{TokenId, Tokenize};
use serde_json::{Value, json};

const FAMILIES: [&str; 4] = ["show-o", "llamagen", "llava-onevision", "janus-pro"];

fn bytes(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers/data");
    fs::read(folder.join(format!("{name}.json"))).unwrap()
}

fn golden() -> Value {
    serde_json::from_slice(&bytes("golden")).unwrap()
}

fn ids(file: &Tokenizer, text: &str) -> maquette::Result<Vec<TokenId>> {
    let mut out = Vec::new();
    file.encode(text, &mut |id| out.push(id))?;
    Ok(out)
}

#[test]
fn texts_have_the_tokens_of_the_reference() {
    let golden = golden();
    for family in FAMILIES {
        let strict = Tokenizer::from_bytes(&bytes(family)).unwrap();
        let keeping = Tokenizer::from_bytes(&bytes(family))
            .unwrap()
            .keeping_unknown();
        assert_eq!(json!(strict.len()), golden[family]["size"], "{family}");
        let cases = golden[family]["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let want = &case["ids"];
            assert_eq!(
                &json!(ids(&keeping, text).unwrap()),
                want,
                "{family}: {text:?}"
            );
            // The unknown token of the sentencepiece file is 2; the byte-pair files know every byte.
            let lacks = family == "llamagen" && want.as_array().unwrap().contains(&json!(2));
            match ids(&strict, text) {
                Ok(got) => assert!(!lacks && &json!(got) == want, "{family}: {text:?}"),
                Err(e) => assert!(
                    lacks && matches!(e, Error::UnknownWord { .. }),
                    "{family}: {text:?}: {e}"
                ),
            }
        }
    }
}

#[test]
fn text_comes_back_from_its_tokens() {
    for family in FAMILIES {
        let file = Tokenizer::from_bytes(&bytes(family)).unwrap();
        let mut text = String::new();
        let tokens = ids(&file, "a photo of a red car").unwrap();
        file.decode(&tokens, &mut text).unwrap();
        assert_eq!(text.trim(), "a photo of a red car", "{family}");
        let beyond = TokenId::try_from(file.len()).unwrap();
        assert!(matches!(
            file.decode(&[beyond], &mut text),
            Err(Error::Range { .. })
        ));
    }
}

#[test]
fn special_tokens_are_found_by_name_and_refused_in_text() {
    for (family, name) in [
        ("show-o", "<|endoftext|>"),
        ("llamagen", "</s>"),
        ("llava-onevision", "<|im_start|>"),
        ("janus-pro", "<|User|>"),
    ] {
        let file = Tokenizer::from_bytes(&bytes(family)).unwrap();
        assert!(file.token(name).is_some(), "{family}: {name}");
        let text = format!("a photo {name} of");
        assert!(
            matches!(ids(&file, &text), Err(Error::SpecialToken { .. })),
            "{family}: {name}"
        );
    }
}

#[test]
fn a_show_o_prompt_is_framed_as_released() {
    let golden = &golden()["show-o"];
    let file = Tokenizer::from_bytes(&bytes("show-o")).unwrap();
    let vocabulary = golden["size"].as_u64().unwrap();
    let config = json!({
        "llm_vocab_size": vocabulary, "vocab_size": vocabulary + 10 + 8192 + 1, "bos_id": golden["endoftext"],
    });
    let config = ShowOConfig::from_json(&JsonConfig::parse(&config.to_string()).unwrap()).unwrap();
    for layout in golden["layouts"].as_array().unwrap() {
        let words = ids(&file, layout["text"].as_str().unwrap()).unwrap();
        let tokens = config.text_tokens(&words);
        let all = layout["ids"].as_array().unwrap();
        let (pads, rest) = all.split_at(all.len() - tokens.len());
        assert!(pads.iter().all(|id| *id == json!(config.pad())));
        assert_eq!(&json!(tokens), &json!(rest), "{}", layout["text"]);
    }
}

#[test]
fn long_texts_are_refused() {
    let file = Tokenizer::from_bytes(&bytes("show-o")).unwrap();
    let long = "a ".repeat(1 << 16);
    assert!(matches!(ids(&file, &long), Err(Error::Range { .. })));
}

#[test]
fn broken_files_are_errors() {
    for family in FAMILIES {
        let whole = bytes(family);
        for at in (0..whole.len()).step_by(whole.len() / 40 + 1) {
            assert!(
                Tokenizer::from_bytes(&whole[..at]).is_err(),
                "{family} cut at {at}"
            );
            let mut bent = whole.clone();
            bent[at] ^= 0x15;
            // A letter of a word may change into another one: then it is another tokenizer, which must work or fail.
            if let Ok(file) = Tokenizer::from_bytes(&bent) {
                let _ = ids(&file, "a photo of a red car");
            }
        }
    }
    for text in [
        "",
        "{}",
        "[]",
        r#"{"model": {"type": "WordPiece"}}"#,
        r#"{"model": {"type": "BPE", "dropout": 0.1}}"#,
    ] {
        assert!(Tokenizer::from_bytes(text.as_bytes()).is_err(), "{text}");
    }
    let file = || Tokenizer::from_bytes(&bytes("show-o")).unwrap();
    assert!(file().with_config(b"{}").is_ok());
    assert!(file().with_config(b"{").is_err());
    assert!(
        file()
            .with_config(br#"{"added_tokens_decoder": 3}"#)
            .is_err()
    );
    let other = br#"{"added_tokens_decoder": {"7": {"content": "<new>", "special": true, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false}}}"#;
    assert!(file().with_config(other).is_err());
}
