//! Indices, configurations, vocabularies, and folders.

use std::fs;
use std::path::{Path, PathBuf};

use maquette::model::files::config::JsonConfig;
use maquette::model::files::map::{MappedFile, MappedWeights, ModelFolder};
use maquette::model::files::shards::ShardIndex;
use maquette::model::words::Words;

use crate::{refused, taken};

/// `part` again and again, up to so many bytes.
fn filled(start: &str, part: &str, end: &str, len: usize) -> String {
    let n = (len - start.len() - end.len()) / part.len();
    format!("{start}{}{end}", part.repeat(n))
}

#[test]
fn long_indices_cost_little() {
    let len = 4 << 20;
    let index = |start: &str, part: &str, end: &str| filled(start, part, end, len);
    for (name, text, what) in [
        (
            "keys",
            index("{\"weight_map\":{\"\":\"\"", ",\"\":\"\"", "}}"),
            "262144 keys",
        ),
        (
            "other keys",
            index("{\"x\":{\"\":0", ",\"\":0", "}}"),
            "262144 keys",
        ),
        (
            "maps",
            index("{\"weight_map\":{}", ",\"weight_map\":{}", "}"),
            "stands twice",
        ),
        ("lists", index("{\"x\":", "[", ""), "127 levels"),
        (
            "a file",
            index("{\"weight_map\":{\"a\":\"", "../", "\"}}"),
            "no plain file name",
        ),
    ] {
        refused(name, what, || ShardIndex::parse(&text).map(drop));
    }
    let files: Vec<_> = (0..150_000)
        .map(|i| format!("\"{i:06}\":\"f{i:06}\""))
        .collect();
    let text = format!("{{\"weight_map\":{{{}}}}}", files.join(","));
    let index = taken("as many files", || ShardIndex::parse(&text));
    assert_eq!(index.files().len(), 150_000);
    let million: Vec<_> = (0..1_000_000).map(|i| format!("\"{i}\":\"f\"")).collect();
    let text = format!("{{\"weight_map\":{{{}}}}}", million.join(","));
    refused("a million tensors", "4 MiB", || {
        ShardIndex::parse(&text).map(drop)
    });
}

#[test]
fn long_configurations_cost_little() {
    let len = 1 << 20;
    let config = |start: &str, part: &str, end: &str| filled(start, part, end, len);
    for (name, text, what) in [
        (
            "objects",
            config("{\"a\":[{\"\":0}", ",{\"\":0}", "]}"),
            "32768 values",
        ),
        ("numbers", config("{\"a\":[0", ",0", "]}"), "32768 values"),
        ("lists", config("{\"a\":[[]", ",[]", "]}"), "32768 values"),
        ("depth", config("{\"a\":", "{\"a\":", ""), "127 levels"),
        ("keys", config("{\"\":0", ",\"\":0", "}"), "stands twice"),
        ("number", config("{\"a\":", "9", "}"), "valid JSON"),
        ("longer", " ".repeat(len + 1), "1 MiB"),
    ] {
        refused(name, what, || JsonConfig::parse(&text).map(drop));
    }
    let text = config("{\"a\":\"", "x", "\"}");
    taken("a text", || {
        JsonConfig::parse(&text)?
            .child("a")
            .map_or(Ok(()), |_| unreachable!())
    });
}

#[test]
fn long_vocabularies_cost_little() {
    let lines = |n: u32| (0..n).map(|i| format!("{i:x}\n")).collect::<String>();
    let (most, more) = (lines(1 << 19), lines((1 << 19) + 1));
    assert_eq!(taken("words", || Words::new(&most)).len(), 1 << 19);
    refused("more words", "524288 words", || Words::new(&more));
    let same = "a\n".repeat(4 << 20);
    refused("words alike", "twice", || Words::new(&same));
    let one = "a".repeat(4 << 20);
    assert_eq!(taken("a word", || Words::new(&one)).len(), 1);
    for text in ["a\n\nb", "a\r\n b", "\u{feff}\n\n", " a", "a\u{a0}"] {
        refused(text, "vocabulary", || Words::new(text));
    }
}

/// A folder of one test.
fn fresh(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn what_is_no_file_is_not_opened() {
    let folder = fresh("hostile-folder");
    let open = || ModelFolder::open(&folder).map(drop);
    fs::create_dir(folder.join("config.json")).unwrap();
    refused("a folder for a configuration", "no regular file", open);
    fs::remove_dir(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), "{\"model_type\":\"t5\"}").unwrap();
    refused("no weights", "holds no weights", open);
    fs::create_dir(folder.join("model.safetensors")).unwrap();
    refused("a folder for weights", "no regular file", open);
    fs::write(
        folder.join("model.safetensors.index.json"),
        r#"{"weight_map": {"a": "model.safetensors"}}"#,
    )
    .unwrap();
    refused("a folder for a shard", "no regular file", open);
    fs::write(
        folder.join("model.safetensors.index.json"),
        r#"{"weight_map": {"a": "config.json"}}"#,
    )
    .unwrap();
    let weights = MappedWeights::folder(&folder).unwrap();
    refused(
        "a configuration for a shard",
        "file of weights of this name",
        || weights.read(|_| Ok(())),
    );
    fs::write(folder.join("config.json"), vec![b' '; (16 << 20) + 1]).unwrap();
    refused("a long configuration", "16 MiB", open);
    fs::write(folder.join("config.json"), b"\xff{}").unwrap();
    refused("no UTF-8", "config.json", open);
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_opened() {
    let folder = fresh("hostile-devices");
    for name in ["config.json", "model.safetensors"] {
        std::os::unix::fs::symlink("/dev/zero", folder.join(name)).unwrap();
    }
    refused("a device for a configuration", "no regular file", || {
        ModelFolder::open(&folder).map(drop)
    });
    refused("a device for weights", "no regular file", || {
        MappedFile::open(folder.join("model.safetensors")).map(drop)
    });
    let pipe = folder.join("pipe.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if made.is_ok_and(|status| status.success()) {
        refused("a pipe", "no regular file", || {
            MappedFile::open(&pipe).map(drop)
        });
    }
}
