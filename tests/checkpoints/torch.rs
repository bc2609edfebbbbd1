//! Files of `torch.save`.

use maquette::model::files::torch::TorchSource;
use maquette::model::weights::{DType, WeightSource};

use crate::build::{Pickle, Zip};
use crate::{eighths, floats, names, refused, stored};

#[test]
fn a_flat_dictionary_is_read_in_both_protocols() {
    for file in ["flat.bin", "protocol4.bin"] {
        let bytes = stored(file);
        let source = TorchSource::new(&bytes).unwrap();
        assert_eq!(
            names(&source),
            ["a.bias", "a.weight", "b.weight", "steps"],
            "{file}"
        );
        let weight = source.tensor("a.weight").unwrap();
        assert_eq!((weight.dtype, &*weight.shape), (DType::F32, &[3, 4][..]));
        assert_eq!(floats(&weight), eighths(12));
        let bias = source.tensor("a.bias").unwrap();
        assert_eq!((bias.dtype, floats(&bias)), (DType::F16, eighths(3)));
        let other = source.tensor("b.weight").unwrap();
        assert_eq!((other.dtype, floats(&other)), (DType::BF16, eighths(4)));
        assert_eq!(source.tensor("steps").unwrap().dtype, DType::Other("I64"));
        assert!(source.tensor("step").is_none());
    }
}

#[test]
fn the_weights_of_a_training_state_are_found() {
    let bytes = stored("model.pt");
    let source = TorchSource::new(&bytes).unwrap();
    assert_eq!(names(&source), ["inner.bias", "inner.weight"]);
    assert_eq!(floats(&source.tensor("inner.weight").unwrap()), eighths(12));
    let bytes = stored("parameters.pt");
    let source = TorchSource::new(&bytes).unwrap();
    assert_eq!(names(&source), ["p", "q", "w"]);
    for (name, len) in [("p", 6), ("q", 2), ("w", 4)] {
        assert_eq!(floats(&source.tensor(name).unwrap()), eighths(len));
    }
}

#[test]
fn views_of_a_storage_are_read_in_row_major_order() {
    let bytes = stored("views.pth");
    let source = TorchSource::new(&bytes).unwrap();
    let read = |name| {
        let tensor = source.tensor(name).unwrap();
        (tensor.shape.clone(), floats(&tensor))
    };
    assert_eq!(read("tied"), read("again"));
    let turned: Vec<_> = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
        .map(|i| eighths(12)[i])
        .into();
    assert_eq!(read("turned"), (vec![3, 4], turned));
    assert_eq!(read("fused_q"), (vec![2, 2], eighths(8)[..4].to_vec()));
    assert_eq!(read("fused_k"), (vec![2, 2], eighths(8)[4..].to_vec()));
    assert_eq!(read("scalar"), (vec![], vec![2.5]));
    assert_eq!(read("none"), (vec![0, 3], vec![]));
}

#[test]
fn files_that_need_code_or_another_reader_are_refused() {
    for (file, what) in [
        (
            "whole_module.pt",
            "\"__main__.M\" is imported by the pickle",
        ),
        ("expanded.pt", "\"expanded\" has strides that lay"),
        ("legacy.pth", "before PyTorch 1.6"),
    ] {
        refused(file, what, || TorchSource::new(&stored(file)).map(drop));
    }
    let bytes = stored("flat.bin");
    for len in 0..bytes.len() {
        refused("a cut file", "torch: ", || {
            TorchSource::new(&bytes[..len]).map(drop)
        });
    }
}

fn dict(tensors: Pickle) -> Pickle {
    tensors.code(b"s")
}

fn key(name: &str) -> Pickle {
    Pickle::new().code(b"}").text(name)
}

#[test]
fn a_pickle_that_imports_anything_else_is_refused() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "OrderedDict.__init__"),
        ("collections.OrderedDict", ""),
        ("numpy.core.multiarray", "scalar"),
        ("", ""),
    ] {
        let call = key("a").global(module, name).text("id").code(&[0x85, b'R']);
        let what = format!("\"{module}.{name}\" is imported");
        refused(name, &what, || {
            TorchSource::new(&dict(call).file(&[])).map(drop)
        });
        let call = key("a").text(module).text(name).code(&[0x93]);
        refused(name, &what, || {
            TorchSource::new(&dict(call).file(&[])).map(drop)
        });
    }
    let long = "x".repeat(1 << 20);
    refused("a long name", "imported", || {
        TorchSource::new(&key("a").global(&long, "y").file(&[])).map(drop)
    });
}

#[test]
fn a_pickle_that_builds_anything_else_is_refused() {
    let od = |p: Pickle| p.global("collections", "OrderedDict");
    let cases: [(&str, Pickle, &str); 17] = [
        (
            "new object",
            od(key("a")).code(&[b')', 0x81]),
            "instruction",
        ),
        ("instance", key("a").code(b"(ios\nsystem\n"), "instruction"),
        ("object", od(key("a").code(b"(")).code(b"o"), "instruction"),
        ("extension", key("a").code(&[0x82, 1]), "instruction"),
        ("bytes", key("a").code(b"C\x01x"), "instruction"),
        (
            "persistent line",
            key("a").code(b"Pstorage\n"),
            "instruction",
        ),
        ("call of text", key("a").text("os").code(b")R"), "calls"),
        ("call without a tuple", od(key("a")).code(b"]R"), "no tuple"),
        (
            "state of a list",
            key("a").code(b"]}b"),
            "state of an object",
        ),
        (
            "state of a name",
            od(key("a")).code(b"}b"),
            "state of an object",
        ),
        ("recall", key("a").code(b"h\x07"), "never kept"),
        ("memo", key("a").code(b"Nr\xff\xff\xff\xff"), "remembers"),
        ("no mark", key("a").code(b"t"), "mark"),
        ("empty stack", Pickle::new().code(b"0"), "empty stack"),
        (
            "odd entries",
            Pickle::new().code(b"}(Nu"),
            "without a value",
        ),
        (
            "append to a dictionary",
            Pickle::new().code(b"}Na"),
            "no list",
        ),
        ("no dictionary", Pickle::new().code(b"]"), "no dictionary"),
    ];
    for (name, pickle, what) in cases {
        refused(name, what, || TorchSource::new(&pickle.file(&[])).map(drop));
    }
    // A wrapper of a wrapper, and one around no class.
    for class in ["Tensor", "FloatStorage"] {
        let wrapped = key("a")
            .global("torch._tensor", "_rebuild_from_type_v2")
            .code(b"(")
            .global("torch._tensor", "_rebuild_from_type_v2")
            .global("torch", class)
            .code(b")NtR");
        refused("wrapper", "calls", || {
            TorchSource::new(&dict(wrapped).file(&[])).map(drop)
        });
    }
}

#[test]
fn a_pickle_without_end_costs_little() {
    // Lists in lists, lists that hold themselves, and more instructions than are allowed.
    let deep = Pickle::new()
        .code(&b"]".repeat(200_000))
        .code(&b"a".repeat(199_999));
    refused("depth", "no dictionary", || {
        TorchSource::new(&deep.file(&[])).map(drop)
    });
    let marks = Pickle::new().code(&b"(".repeat(450_000)).code(b"}");
    refused("marks", "no tensor", || {
        TorchSource::new(&marks.file(&[])).map(drop)
    });
    let own = key("a")
        .code(b"]q\x00h\x00as")
        .text("model")
        .code(b"}q\x01");
    let own = own.text("b").code(b"h\x01ss");
    refused("cycle", "no tensor", || {
        TorchSource::new(&own.file(&[])).map(drop)
    });
    for fill in [&b"N"[..], b"]", b"(", b"}q\x000", b"N0"] {
        let long = Pickle::new().code(&fill.repeat((24 << 20) / fill.len()));
        refused("length", "524288", || {
            TorchSource::new(&long.file(&[])).map(drop)
        });
    }
    let huge = Pickle(vec![b'N'; 33 << 20]);
    refused("size", "32 MiB", || {
        TorchSource::new(&huge.file(&[])).map(drop)
    });
}

#[test]
fn a_tensor_outside_its_storage_is_refused() {
    let max = i64::MAX;
    for (name, len, at, shape, strides, what) in [
        ("length", 5, 0, &[2, 2][..], &[2, 1][..], "another length"),
        ("huge length", max, 0, &[2, 2], &[2, 1], "another length"),
        ("negative length", -4, 0, &[2, 2], &[2, 1], "below zero"),
        ("offset", 4, 1, &[2, 2], &[2, 1], "outside"),
        ("huge offset", 4, max, &[2, 2], &[2, 1], "outside"),
        ("negative offset", 4, -1, &[2, 2], &[2, 1], "below zero"),
        ("size", 4, 0, &[3, 2], &[2, 1], "outside"),
        (
            "huge sizes",
            4,
            0,
            &[max, max, max],
            &[1, max, max],
            "outside",
        ),
        ("overflow", 4, 0, &[2, 1 << 62], &[1 << 62, 1], "outside"),
        ("negative size", 4, 0, &[-2, -2], &[2, 1], "below zero"),
        ("negative stride", 4, 0, &[2, 2], &[-2, 1], "below zero"),
        ("stride", 4, 0, &[2, 2], &[3, 1], "outside"),
        ("huge stride", 4, 0, &[2, 2], &[max, 1], "outside"),
        (
            "zero stride",
            4,
            0,
            &[1 << 40, 2],
            &[0, 1],
            "over each other",
        ),
        ("folded", 4, 0, &[3, 2], &[1, 1], "over each other"),
        ("strides", 4, 0, &[2, 2], &[1], "number of strides"),
        ("dimensions", 4, 0, &[1; 9], &[1; 9], "8 sizes"),
    ] {
        let pickle = dict(key("w").tensor("0", len, at, shape, strides));
        refused(name, what, || {
            TorchSource::new(&pickle.file(&[("0", 16)])).map(drop)
        });
    }
    let pickle = dict(key("w").tensor("1", 4, 0, &[4], &[1]));
    refused("storage", "\"archive/data/1\" is missing", || {
        TorchSource::new(&pickle.file(&[("0", 16)])).map(drop)
    });
    let zero = dict(key("w").tensor("0", 4, i64::MAX, &[0, i64::MAX], &[1, 1]));
    TorchSource::new(&zero.file(&[("0", 16)])).unwrap();
}

#[test]
fn tensors_share_a_storage_whole_or_not_at_all() {
    let two = |at: i64, len: i64, second: &str| {
        let p = key("a").tensor("0", 4, 0, &[4], &[1]).code(b"s");
        p.text(second)
            .tensor("0", 4, at, &[len], &[1])
            .code(b"s")
            .file(&[("0", 16)])
    };
    TorchSource::new(&two(0, 4, "b")).unwrap();
    refused("part", "\"b\" shares a part", || {
        TorchSource::new(&two(1, 3, "b")).map(drop)
    });
    refused("name", "\"a\" stands twice", || {
        TorchSource::new(&two(0, 4, "a")).map(drop)
    });
    // One storage turned many times would be copied as often.
    let turned = (0..50).fold(Pickle::new().code(b"}"), |p, i| {
        p.text(&i.to_string())
            .tensor("0", 10_000, 0, &[100, 100], &[1, 100])
            .code(b"s")
    });
    refused("copies", "column by column", || {
        TorchSource::new(&turned.file(&[("0", 40_000)])).map(drop)
    });
}

#[test]
fn an_archive_that_lies_is_refused() {
    let pickle = dict(key("w").tensor("0", 4, 0, &[4], &[1])).code(b".").0;
    let zip = || Zip::default().entry("x/data.pkl", &pickle);
    let (data, len) = ([0; 16], u32::try_from(pickle.len()).unwrap());
    TorchSource::new(&zip().entry("x/data/0", &data).end()).unwrap();
    for (name, bytes, what) in [
        ("nothing", vec![], "no zip archive"),
        ("no pickle", Zip::default().end(), "no data.pkl"),
        (
            "bomb",
            zip()
                .raw("x/data/0", "x/data/0", 8, [16, u32::MAX - 1], &data, None)
                .end(),
            "is compressed",
        ),
        (
            "stored bomb",
            zip()
                .raw("x/data/0", "x/data/0", 0, [16, 1 << 30], &data, None)
                .end(),
            "is compressed",
        ),
        (
            "range",
            zip()
                .raw("x/data/0", "x/data/0", 0, [1 << 30; 2], &data, None)
                .end(),
            "outside the file",
        ),
        (
            "64-bit sizes that are not there",
            zip()
                .raw("x/data/0", "x/data/0", 0, [u32::MAX; 2], &data, None)
                .end(),
            "cut short or damaged",
        ),
        (
            "another name",
            zip()
                .raw("x/data/1", "x/data/0", 0, [16; 2], &data, None)
                .end(),
            "no header of its own",
        ),
        (
            "header outside",
            zip()
                .raw("x/data/0", "x/data/0", 0, [16; 2], &data, Some(1 << 30))
                .end(),
            "no header of its own",
        ),
        (
            "one entry inside another",
            Zip::default()
                .entry("x/data.pkl", &zip().entry("x/data/0", &data).end())
                .raw("x/data/0", "x/data.pkl", 0, [len; 2], &data, Some(40))
                .end(),
            "lies over another",
        ),
        (
            "twice",
            zip()
                .entry("x/data/0", &data)
                .entry("x/data/0", &data)
                .end(),
            "stands twice",
        ),
        (
            "two pickles",
            zip().entry("y/data.pkl", &pickle).end(),
            "no data.pkl, or several",
        ),
        (
            "big-endian",
            zip()
                .entry("x/data/0", &data)
                .entry("x/byteorder", b"big")
                .end(),
            "not little-endian",
        ),
    ] {
        refused(name, what, || TorchSource::new(&bytes).map(drop));
    }
}

#[test]
fn a_directory_of_absurd_length_is_refused() {
    let good = Zip::default().entry("x/data.pkl", b".").end();
    let end = good.len() - 22;
    for (at, value) in [
        (8, 0xfffe_u32),
        (12, 0x7fff_ffff),
        (16, 0x7fff_ffff),
        (12, 3),
    ] {
        let mut bytes = good.clone();
        let width = if at == 8 { 2 } else { 4 };
        bytes[end + at..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
        bytes[end + 10..][..2].copy_from_slice(&good[end + 10..][..2]);
        if at == 8 {
            bytes[end + 10..][..2].copy_from_slice(&value.to_le_bytes()[..2]);
        }
        refused("directory", "the archive", || {
            TorchSource::new(&bytes).map(drop)
        });
    }
    // The 64-bit form: a count that no file could hold.
    let mut bytes = good[..end].to_vec();
    let at = bytes.len() as u64;
    bytes.extend(0x0606_4b50_u32.to_le_bytes());
    bytes.extend([0; 28]);
    for n in [u64::MAX >> 1, 1 << 40, 0] {
        bytes.extend(n.to_le_bytes());
    }
    bytes.extend(0x0706_4b50_u32.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(at.to_le_bytes());
    bytes.extend([0; 4]);
    let mut near = good[end..].to_vec();
    refused("two directories", "no zip archive", || {
        TorchSource::new(&[&bytes[..], &near].concat()).map(drop)
    });
    near[8..20].fill(0xff);
    bytes.extend(near);
    refused("count", "131072 entries", || {
        TorchSource::new(&bytes).map(drop)
    });
}
