//! Safetensors files, alone and in shards.

use maquette::model::files::safetensors::{Entry, SafetensorsSource, header};
use maquette::model::files::shards::{ShardIndex, ShardedSource};
use maquette::model::files::torch::TorchSource;
use maquette::model::weights::{DType, WeightSource};

use crate::{eighths, floats, names, refused, stored};

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

fn one(name: &str, dtype: &str, shape: &str, ends: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{ends}}}"#)
}

#[test]
fn what_another_writer_wrote_is_read() {
    let bytes = std::fs::read(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/llava-onevision/model.safetensors"),
    )
    .unwrap();
    let (ours, theirs) = (
        SafetensorsSource::new(&bytes).unwrap(),
        safetensors::SafeTensors::deserialize(&bytes).unwrap(),
    );
    let mut want: Vec<_> = theirs
        .names()
        .into_iter()
        .map(ToString::to_string)
        .collect();
    want.sort();
    assert_eq!(names(&ours), want);
    for name in want {
        let (got, want) = (ours.tensor(&name).unwrap(), theirs.tensor(&name).unwrap());
        assert_eq!(
            (got.dtype, &*got.shape, got.bytes),
            (DType::F32, want.shape(), want.data())
        );
    }
}

#[test]
fn what_we_write_is_read_by_another_reader() {
    let entry = |name: &str, dtype, size, shape: &[usize]| Entry {
        name: name.into(),
        dtype,
        size,
        shape: shape.into(),
    };
    let entries = [
        entry("quote\" slash\\ line\n é", "F32", 4, &[2, 3]),
        entry("empty", "BF16", 2, &[0, 5]),
        entry("scalar", "U8", 1, &[]),
    ];
    let mut bytes = header(&entries, &[("who", "\u{1} we")]).unwrap();
    bytes.extend(0..25);
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor(&entries[0].name).unwrap().shape(), [2, 3]);
    assert_eq!(theirs.tensor("scalar").unwrap().data(), [24]);
    let ours = SafetensorsSource::new(&bytes).unwrap();
    assert_eq!(ours.metadata("who"), Some("\u{1} we"));
    assert_eq!(ours.tensor(&entries[0].name).unwrap().bytes.len(), 24);
    let huge = entry("huge", "F32", 4, &[usize::MAX, 2]);
    assert!(header(&[huge], &[]).is_err());
}

#[test]
fn a_header_that_lies_is_refused() {
    let wrap = |entries: &[String]| format!("{{{}}}", entries.join(","));
    let a = one("a", "F32", "[2]", "[0,8]");
    SafetensorsSource::new(&file(&wrap(std::slice::from_ref(&a)), 8)).unwrap();
    let two = |second: String| wrap(&[a.clone(), second]);
    let max = u64::MAX;
    for (name, header, data, what) in [
        (
            "twice",
            two(one("a", "F32", "[2]", "[8,16]")),
            16,
            "\"a\" stands twice",
        ),
        ("the same twice", two(a.clone()), 8, "\"a\" stands twice"),
        (
            "escaped twice",
            two(one("\\u0061", "F32", "[2]", "[8,16]")),
            16,
            "\"a\" stands twice",
        ),
        (
            "field twice",
            wrap(&[a.replace("shape", "dtype")]),
            8,
            "valid JSON",
        ),
        (
            "reused",
            two(one("b", "F32", "[2]", "[0,8]")),
            8,
            "\"b\" does not start",
        ),
        (
            "over",
            two(one("b", "F32", "[2]", "[4,12]")),
            12,
            "\"b\" does not start",
        ),
        (
            "hole",
            two(one("b", "F32", "[2]", "[12,20]")),
            20,
            "\"b\" does not start",
        ),
        (
            "rest",
            wrap(std::slice::from_ref(&a)),
            9,
            "goes on after its last",
        ),
        (
            "short",
            wrap(std::slice::from_ref(&a)),
            7,
            "outside the file",
        ),
        (
            "range",
            two(one("b", "F32", "[2]", &format!("[8,{max}]"))),
            16,
            "outside the file",
        ),
        (
            "beyond",
            two(one("b", "F32", "[2]", &format!("[8,{max}0]"))),
            16,
            "too large",
        ),
        (
            "order",
            two(one("b", "F32", "[2]", "[16,8]")),
            16,
            "in order",
        ),
        (
            "length",
            two(one("b", "F32", "[3]", "[8,16]")),
            16,
            "another length",
        ),
        (
            "product",
            two(one(
                "b",
                "F32",
                "[4294967296,4294967296,0,4294967296]",
                "[8,16]",
            )),
            16,
            "overflows",
        ),
        (
            "sizes",
            two(one("b", "F32", "[1,1,1,1,1,1,1,1,1]", "[8,12]")),
            12,
            "8 sizes",
        ),
        (
            "negative",
            two(one("b", "F32", "[-2]", "[8,16]")),
            16,
            "whole number",
        ),
        (
            "fraction",
            two(one("b", "F32", "[2.0]", "[8,16]")),
            16,
            "valid JSON",
        ),
        (
            "one offset",
            two(one("b", "F32", "[2]", "[8]")),
            16,
            "two data_offsets",
        ),
        (
            "no shape",
            two("\"b\":{\"dtype\":\"F32\"}".into()),
            16,
            "lacks a dtype",
        ),
        ("list", "[]".into(), 0, "valid JSON"),
        ("more", "{}{}".into(), 0, "goes on after its end"),
        (
            "depth",
            format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000)),
            0,
            "valid JSON",
        ),
        (
            "depth elsewhere",
            format!("{{\"a\":{{\"x\":{}", "[".repeat(100_000)),
            0,
            "127 levels",
        ),
    ] {
        refused(name, what, || {
            SafetensorsSource::new(&file(&header, data)).map(drop)
        });
    }
    for len in [1 << 40, u64::MAX, u64::MAX - 7] {
        let bytes = [&len.to_le_bytes()[..], b"{}"].concat();
        refused("length", "longer than the file", || {
            SafetensorsSource::new(&bytes).map(drop)
        });
    }
    refused("no length", "shorter than eight", || {
        SafetensorsSource::new(&[0; 7]).map(drop)
    });
    let mut wide = file("{}", 0);
    wide[8] = 0xff;
    refused("UTF-8", "UTF-8", || SafetensorsSource::new(&wide).map(drop));
    let blank = " ".repeat((16 << 20) + 1);
    refused("size", "16 MiB", || {
        SafetensorsSource::new(&file(&blank, 0)).map(drop)
    });
    let many: Vec<_> = (0..140_000)
        .map(|i| one(&i.to_string(), "F32", "[0]", "[0,0]"))
        .collect();
    refused("count", "131072 tensors", || {
        SafetensorsSource::new(&file(&wrap(&many), 0)).map(drop)
    });
}

const INDEX: &str = r#"{"metadata": {"total_size": 1.5e3}, "weight_map": {
    "inner.weight": "b.pt", "inner.bias": "b.pt", "p": "a.pt", "q": "a.pt", "w": "a.pt"}}"#;

#[test]
fn shards_of_any_format_are_one_checkpoint() {
    let (a, b) = (stored("parameters.pt"), stored("model.pt"));
    let index = ShardIndex::parse(INDEX).unwrap();
    assert_eq!(index.files(), ["a.pt", "b.pt"]);
    let open = |bytes| -> Box<dyn WeightSource> { Box::new(TorchSource::new(bytes).unwrap()) };
    let source = ShardedSource::new(&index, vec![open(&a), open(&b)]).unwrap();
    assert_eq!(
        names(&source),
        ["inner.bias", "inner.weight", "p", "q", "w"]
    );
    assert_eq!(floats(&source.tensor("p").unwrap()), eighths(6));
    assert_eq!(floats(&source.tensor("inner.weight").unwrap()), eighths(12));
    assert!(source.tensor("inner").is_none());

    let refuse = |name: &str, what: &str, index: &str, shards: Vec<Box<dyn WeightSource + '_>>| {
        let index = ShardIndex::parse(index).unwrap();
        refused(name, what, || ShardedSource::new(&index, shards).map(drop));
    };
    refuse(
        "missing",
        "\"b.pt\" is named by the index",
        INDEX,
        vec![open(&a)],
    );
    refuse("none", "\"a.pt\" is named by the index", INDEX, vec![]);
    refuse(
        "swapped",
        "is not in the file",
        INDEX,
        vec![open(&b), open(&a)],
    );
    let more = vec![open(&a), open(&b), open(&b)];
    refuse("more", "fewer files", INDEX, more);
    let less = INDEX.replace(", \"w\": \"a.pt\"", "");
    refuse(
        "unlisted",
        "does not list it",
        &less,
        vec![open(&a), open(&b)],
    );
}

#[test]
fn an_index_that_lies_is_refused() {
    let map = |file: &str| format!(r#"{{"weight_map": {{"a": "{file}"}}}}"#);
    for file in [
        "../a.bin",
        "/etc/passwd",
        "a/b",
        "a\\\\b",
        "",
        "..",
        ".hidden",
        "c:a",
        "a\\u0000",
    ] {
        refused(file, "no plain file name", || {
            ShardIndex::parse(&map(file)).map(drop)
        });
    }
    for (text, what) in [
        ("", "valid JSON"),
        ("[]", "valid JSON"),
        ("{}", "no weight_map"),
        (r#"{"weight_map": {}}"#, "no weight_map"),
        (r#"{"weight_map": {"a": 3}}"#, "valid JSON"),
        (
            r#"{"weight_map": {"a": "x", "a": "y"}}"#,
            "\"a\" stands twice",
        ),
        (
            r#"{"weight_map": {"a": "x"}, "weight_map": {"b": "x"}}"#,
            "stands twice",
        ),
        (r#"{"weight_map": {"a": "x"}} x"#, "goes on"),
    ] {
        refused(text, what, || ShardIndex::parse(text).map(drop));
    }
    let deep = format!("{{\"metadata\": {}", "[".repeat(1 << 20));
    refused("depth", "127 levels", || ShardIndex::parse(&deep).map(drop));
    let long = " ".repeat((4 << 20) + 1);
    refused("length", "4 MiB", || ShardIndex::parse(&long).map(drop));
}
