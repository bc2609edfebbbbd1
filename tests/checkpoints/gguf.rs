//! GGUF files.

use maquette::model::files::gguf::{GgufSource, Metadata};
use maquette::model::weights::{DType, Loader, WeightSource};
use maquette::ops::gemm::GemmShape;
use maquette::ops::{Backend, Reference};
use maquette::quant::{Block, Format, QuantMatrix};

use crate::build::Gguf;
use crate::{eighths, floats, names, refused, stored};

#[test]
fn tensors_and_metadata_of_another_program_are_read() {
    let bytes = stored("blocks.gguf");
    let source = GgufSource::new(&bytes).unwrap();
    assert_eq!(
        names(&source),
        ["bf16", "f16", "f32", "q4_0", "q5_1", "q8_0"]
    );
    for (name, dtype) in [
        ("f32", DType::F32),
        ("f16", DType::F16),
        ("bf16", DType::BF16),
    ] {
        let tensor = source.tensor(name).unwrap();
        assert_eq!((tensor.dtype, &*tensor.shape), (dtype, &[2, 64][..]));
        assert_eq!(floats(&tensor), eighths(128), "{name}");
    }
    for (name, block) in [
        ("q8_0", Block::Q8_0),
        ("q4_0", Block::Q4_0),
        ("q5_1", Block::Q5_1),
    ] {
        let tensor = source.tensor(name).unwrap();
        assert_eq!(
            (tensor.dtype, &*tensor.shape),
            (DType::Block(block), &[2, 64][..])
        );
        let mut want = vec![0; tensor.bytes.len()];
        block.quantise(&eighths(128), &mut want).unwrap();
        assert_eq!(tensor.bytes, want, "{name}");
    }
    for (key, value) in [
        ("n.u8", Metadata::Unsigned(200)),
        ("n.i8", Metadata::Signed(-3)),
        ("n.u16", Metadata::Unsigned(60_000)),
        ("n.i16", Metadata::Signed(-300)),
        ("n.i32", Metadata::Signed(-70_000)),
        ("n.f32", Metadata::Float(0.5)),
        ("n.bool", Metadata::Bool(true)),
        ("n.text", Metadata::Text("naïve")),
        ("n.u64", Metadata::Unsigned(1 << 40)),
        ("n.i64", Metadata::Signed(-(1 << 40))),
        ("n.f64", Metadata::Float(0.25)),
        ("general.architecture", Metadata::Text("llama")),
    ] {
        assert_eq!(source.metadata(key), Some(value), "{key}");
    }
    let list = |key| match source.metadata(key) {
        Some(Metadata::List(list)) => list,
        other => panic!("{other:?}"),
    };
    let texts: Vec<_> = list("n.texts").iter().collect();
    assert_eq!(texts, ["a", "", "c"].map(Metadata::Text));
    assert_eq!(list("n.list").len(), 3);
    assert!(source.metadata("n.none").is_none());
}

/// Blocks that no quantiser here writes, from the file to a product.
#[test]
fn blocks_of_256_are_multiplied_as_they_are_stored() {
    let mut bytes: Vec<u8> = (0..4 * 144_u32).map(|i| (i * i % 251) as u8).collect();
    for block in bytes.chunks_exact_mut(144) {
        // −½ and ¾: scales of either sign are numbers of the format.
        block[..4].copy_from_slice(&[0x00, 0xb8, 0x00, 0x3a]);
    }
    let file = Gguf::new().tensor("w.weight", &[512, 2], 12, &bytes).end();
    let source = GgufSource::new(&file).unwrap();
    let same = |name: &str| name.to_owned();
    let loader = Loader::new(&Reference, &source, Format::Q4K, &same);
    let loaded = loader.matrix(&[("w.weight", 2)], 512).unwrap();
    let mut values = vec![0.0; 1024];
    Block::Q4K.dequantise(&bytes, &mut values);
    let floats = Reference.pack(&QuantMatrix::f32(2, 512, &values).unwrap());
    // Each row of activations picks one weight.
    let mut x = Reference.zeros(512 * 512).unwrap();
    for i in 0..512 {
        Reference.write(&mut x, i * 513, &[1.0]).unwrap();
    }
    let product = |w| {
        let (mut y, mut out) = (Reference.zeros(1024).unwrap(), vec![0.0; 1024]);
        Reference
            .gemm(GemmShape::new(512, 2, 512), &x, w, None, &mut y)
            .unwrap();
        Reference.read(&y, 0, &mut out).unwrap();
        out.iter().map(|v: &f32| v.to_bits()).collect::<Vec<_>>()
    };
    let (got, want) = (product(&loaded), product(&floats.unwrap()));
    assert_eq!(got, want);
    for (i, y) in got.into_iter().enumerate() {
        let value = values[i % 2 * 512 + i / 2];
        assert!(f32::from_bits(y) == value, "{i}");
    }
}

#[test]
fn a_cut_file_is_refused() {
    let bytes = stored("blocks.gguf");
    for len in (0..bytes.len() - 32).filter(|len| len % 7 == 0 || *len < 600) {
        refused("a cut file", "gguf: ", || {
            GgufSource::new(&bytes[..len]).map(drop)
        });
    }
}

fn alignment(kind: u32, value: &[u8]) -> Gguf {
    Gguf::new().entry("general.alignment", kind, value)
}

#[test]
fn a_table_that_lies_is_refused() {
    let f32s = |n: usize| vec![0; n * 4];
    let one = || Gguf::new().tensor("a", &[8], 0, &f32s(8));
    GgufSource::new(&one().end()).unwrap();
    let mut big = one();
    big.version = 3_u32.swap_bytes();
    let mut old = one();
    old.version = 1;
    let huge = u64::MAX;
    for (name, bytes, what) in [
        ("magic", b"GGML\x03\0\0\0".to_vec(), "no GGUF file"),
        ("version", old.end(), "version other than 2 and 3"),
        ("endian", big.end(), "big-endian"),
        ("count", one().end_with([huge, 0]), "131072 tensors"),
        (
            "count of entries",
            one().end_with([1, huge]),
            "65536 metadata",
        ),
        ("one more", one().end_with([2, 0]), "lies outside the file"),
        (
            "many more",
            one().end_with([1 << 17, 0]),
            "ends inside its table",
        ),
        (
            "entries that are none",
            one().end_with([1, 1 << 16]),
            "ends inside",
        ),
        (
            "zero alignment",
            alignment(4, &[0; 4]).end(),
            "no power of two",
        ),
        (
            "odd alignment",
            alignment(4, &24_u32.to_le_bytes()).end(),
            "no power of two",
        ),
        (
            "signed alignment",
            alignment(5, &[32, 0, 0, 0]).end(),
            "without a sign",
        ),
        (
            "huge alignment",
            alignment(10, &(1_u64 << 63).to_le_bytes())
                .line("a", &[0], 0, 0)
                .end(),
            "ends before the first tensor",
        ),
        (
            "sizes",
            one().line("b", &[1; 5], 0, 32).bytes(64).end(),
            "4 sizes",
        ),
        (
            "product",
            one()
                .line("b", &[1 << 32, 1 << 32, 1 << 32], 0, 32)
                .bytes(64)
                .end(),
            "overflows",
        ),
        (
            "bytes",
            one().line("b", &[1 << 62], 0, 32).bytes(64).end(),
            "overflows",
        ),
        (
            "range",
            one().line("b", &[9], 0, 32).bytes(64).end(),
            "outside the file",
        ),
        (
            "offset",
            one().line("b", &[8], 0, huge - 31).end(),
            "outside the file",
        ),
        (
            "unaligned",
            one().line("b", &[4], 0, 16).end(),
            "multiple of the alignment",
        ),
        (
            "blocks",
            one().line("b", &[48], 8, 32).bytes(96).end(),
            "no whole blocks",
        ),
        (
            "type",
            one().line("b", &[8], 4, 32).bytes(64).end(),
            "unknown element type",
        ),
        (
            "reused",
            one().line("b", &[8], 0, 0).end(),
            "lies over another",
        ),
        (
            "inside",
            one().line("b", &[1], 0, 0).end(),
            "lies over another",
        ),
        (
            "over",
            Gguf::new()
                .line("a", &[16], 0, 0)
                .line("b", &[8], 0, 32)
                .bytes(64)
                .end(),
            "lies over another",
        ),
        (
            "name twice",
            one().tensor("a", &[8], 0, &f32s(8)).end(),
            "stands twice",
        ),
        (
            "key twice",
            Gguf::new().entry("k", 0, &[1]).entry("k", 0, &[1]).end(),
            "\"k\" stands twice",
        ),
        (
            "long name",
            Gguf::new()
                .tensor(&"n".repeat(1025), &[1], 0, &[0; 4])
                .end(),
            "1024",
        ),
    ] {
        refused(name, what, || GgufSource::new(&bytes).map(drop));
    }
}

#[test]
fn metadata_that_lies_is_refused() {
    let le = |n: u64| n.to_le_bytes().to_vec();
    let list = |kind: u32, len: u64, rest: &[u8]| {
        [&kind.to_le_bytes()[..], &len.to_le_bytes(), rest].concat()
    };
    let mut deep = list(0, 0, &[]);
    for _ in 0..4 {
        deep = list(9, 1, &deep);
    }
    let deeper = (0..100_000).fold(Vec::new(), |mut all: Vec<u8>, _| {
        all.extend(list(9, 1, &[]));
        all
    });
    for (name, kind, value, what) in [
        ("kind", 13, vec![], "unknown kind"),
        ("bool", 7, vec![2], "neither true nor false"),
        ("text", 8, le(u64::MAX), "ends inside"),
        ("text past the end", 8, le(1 << 20), "ends inside"),
        ("no UTF-8", 8, [le(1), vec![0xff]].concat(), "no UTF-8"),
        ("list", 9, list(0, u64::MAX, &[]), "ends inside"),
        (
            "list of wide numbers",
            9,
            list(10, u64::MAX / 4, &[]),
            "ends inside",
        ),
        ("list of texts", 9, list(8, u64::MAX, &[]), "ends inside"),
        (
            "list of bools",
            9,
            list(7, 1 << 40, &[0; 64]),
            "ends inside",
        ),
        ("list of nothing", 9, list(99, 1, &[]), "unknown kind"),
        ("depth", 9, deep, "nested too deeply"),
        ("more depth", 9, deeper, "nested too deeply"),
    ] {
        let bytes = Gguf::new().entry("k", kind, &value).end();
        // The padding behind must not be taken for the value.
        let bytes = &bytes[..bytes.len().min(24 + 8 + 1 + 4 + value.len())];
        refused(name, what, || GgufSource::new(bytes).map(drop));
    }
}
