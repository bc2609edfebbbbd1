//! Files of `torch.save`.

mod random;

use maquette::Result;
use maquette::model::files::torch::TorchSource;
use maquette::model::weights::WeightSource;

use crate::build::{Pickle, Zip};
use crate::{refused, taken};

fn read(bytes: &[u8]) -> Result<usize> {
    let source = TorchSource::new(bytes)?;
    let mut n = 0;
    source.names(&mut |name| n += usize::from(source.tensor(name).is_some()));
    Ok(n)
}

fn dict() -> Pickle {
    Pickle::new().code(b"}")
}

/// A dictionary of the weights, built `n` times from what a memo keeps.
fn repeated(start: Pickle, part: &[u8], n: usize) -> Vec<u8> {
    start.code(&part.repeat(n)).file(&[("0", 16)])
}

#[test]
fn bombs_of_instructions_cost_little() {
    let most = (1 << 19) - 200;
    // Keeps a tensor's maker as 1 and its arguments, of eight sizes, as 2.
    let maker = || {
        Pickle::new()
            .global("torch._utils", "_rebuild_tensor_v2")
            .code(b"q\x01((")
            .text("storage")
            .global("torch", "FloatStorage")
            .text("0")
            .text("cpu")
            .int(4)
            .code(b"tQ")
            .int(0)
            .ints(&[1; 8])
            .ints(&[1; 8])
            .code(&[0x89])
            .global("collections", "OrderedDict")
            .code(b")Rtq\x02}q\x03")
    };
    for (name, bytes, what) in [
        (
            "tensors",
            repeated(maker(), b"h\x01h\x02R", most / 3),
            "torch: ",
        ),
        (
            "storages",
            {
                let start = Pickle::new()
                    .code(b"(")
                    .text("storage")
                    .global("torch", "FloatStorage")
                    .text("0")
                    .text("cpu")
                    .int(4)
                    .code(b"tq\x01");
                repeated(start, b"h\x01Q", most / 2)
            },
            "torch: ",
        ),
        ("lists", repeated(Pickle::new(), b"]", most), "torch: "),
        (
            "dictionaries",
            repeated(Pickle::new(), b"}", most),
            "torch: ",
        ),
        (
            "tuples of three",
            repeated(Pickle::new().code(b"NN"), b"NN\x87", most / 3),
            "torch: ",
        ),
        (
            "tuples in tuples",
            repeated(Pickle::new().code(b"N"), b"\x85", most),
            "torch: ",
        ),
        (
            "pairs in pairs",
            repeated(Pickle::new().code(b"N"), b"2\x86", most / 2),
            "torch: ",
        ),
        (
            "lists in lists",
            repeated(Pickle::new().code(b"]"), b"](h\x00", most / 3),
            "torch: ",
        ),
        (
            "a list of itself",
            repeated(Pickle::new().code(b"]q\x00"), b"h\x00a", most / 2),
            "torch: ",
        ),
        (
            "a long list",
            repeated(Pickle::new().code(b"]("), b"N", most),
            "torch: ",
        ),
        (
            "twice as many each time",
            repeated(
                Pickle::new().code(b"]q\x00N"),
                b"0]q\x01(h\x00h\x00eq\x00",
                most / 8,
            ),
            "torch: ",
        ),
        (
            "entries",
            repeated(dict().code(b"("), b"NN", most / 2),
            "torch: ",
        ),
        (
            "memo",
            {
                let memo = (0..most / 2).fold(dict(), |p, i| {
                    p.code(b"r")
                        .code(&u32::try_from(i).unwrap().to_le_bytes())
                        .code(b"2")
                });
                memo.file(&[])
            },
            "torch: ",
        ),
        ("keeping", repeated(dict(), &[0x94], most), "torch: "),
        ("marks", repeated(dict(), b"(1", most / 2), "torch: "),
        (
            "texts",
            repeated(dict().code(b"("), b"X\0\0\0\0", most / 2 * 2),
            "torch: ",
        ),
    ] {
        refused(name, what, || read(&bytes));
    }
    // One long text that is kept names everything, or every tensor's storage.
    let text = "n".repeat(1 << 20);
    let named = maker().code(b"h\x01h\x02Rq\x04h\x03").text(&text);
    let bytes = repeated(named.code(b"q\x05h\x04s"), b"h\x05h\x04s", 10_000);
    refused("one long name", "more than 1024 bytes", || read(&bytes));
    let stored = dict().text("a").tensor(&text, 4, 0, &[4], &[1]).code(b"s");
    refused("a long key", "more than 1024 bytes", || {
        read(&stored.file(&[("0", 16)]))
    });
    // The same tensor under many names is one that is tied.
    let tied = (0..80_000).fold(maker().code(b"h\x01h\x02Rq\x04h\x03("), |p, i| {
        p.text(&i.to_string()).code(b"h\x04")
    });
    let bytes = tied.code(b"u").file(&[("0", 16)]);
    assert_eq!(taken("tied", || read(&bytes)), 80_000);
}

#[test]
fn every_instruction_is_met() {
    let known = b"\x80\x95.(012N\x88\x89KMJ\x8aG\x8cX\x8d]})ltd\x85\x86\x87aesuqr\x94hjc\x93QRb";
    for code in 0..=u8::MAX {
        for start in [
            dict(),
            dict().code(b"N"),
            dict().code(b"NN"),
            dict().code(b"(N"),
            dict().code(b")"),
        ] {
            let bytes = start.code(&[code]).code(&[0xff; 16]).file(&[]);
            let what = if known.contains(&code) {
                "torch: "
            } else {
                "has an instruction"
            };
            refused(&format!("{code:#x}"), what, || read(&bytes));
        }
    }
    let long = |code: &[u8]| dict().code(code).file(&[]);
    for (name, bytes, what) in [
        (
            "a number of 2 GiB",
            long(b"\x8b\xff\xff\xff\x7f"),
            "an instruction",
        ),
        (
            "a number of 255 bytes",
            long(&[&[0x8a, 255][..], &[1; 255]].concat()),
            "no dictionary",
        ),
        (
            "a frame past the end",
            long(&[&[0x95][..], &u64::MAX.to_le_bytes()].concat()),
            "ends inside",
        ),
        (
            "a longer frame",
            long(&[&[0x95][..], &100_u64.to_le_bytes()].concat()),
            "ends inside",
        ),
        (
            "a text past the end",
            long(b"X\xff\xff\xff\xff"),
            "ends inside",
        ),
        (
            "a longer text",
            long(&[&[0x8d][..], &u64::MAX.to_le_bytes()].concat()),
            "ends inside",
        ),
        ("no UTF-8", long(b"X\x01\0\0\0\xff"), "no UTF-8"),
        ("bytes", long(b"B\xff\xff\xff\xff"), "an instruction"),
        (
            "more bytes",
            long(&[&[0x8e][..], &u64::MAX.to_le_bytes()].concat()),
            "an instruction",
        ),
        (
            "a byte array",
            long(&[&[0x96][..], &u64::MAX.to_le_bytes()].concat()),
            "an instruction",
        ),
        ("a set", long(b"\x8f"), "an instruction"),
        ("a buffer from outside", long(b"\x97"), "an instruction"),
        (
            "nothing",
            Zip::default().entry("x/data.pkl", b"").end(),
            "ends inside",
        ),
    ] {
        refused(name, what, || read(&bytes));
    }
}

#[test]
fn makers_with_odd_arguments_are_refused() {
    let storage = |p: Pickle, class: &str, key: &str, len: i64| {
        p.code(b"(")
            .text("storage")
            .global("torch", class)
            .text(key)
            .text("cpu")
            .int(len)
            .code(b"tQ")
    };
    let tensor = |p: Pickle, class: &str, key: &str, len: i64| {
        storage(
            p.global("torch._utils", "_rebuild_tensor_v2").code(b"("),
            class,
            key,
            len,
        )
        .int(0)
        .ints(&[len])
        .ints(&[1])
        .code(&[0x89, b'N', b't', b'R'])
    };
    let end = |p: Pickle| p.code(b"s").file(&[("0", 16)]);
    let a = || dict().text("a");
    taken("as it should be", || {
        read(&end(tensor(a(), "FloatStorage", "0", 4)))
    });
    let two = |p: Pickle, class: &str, len: i64| tensor(p.code(b"s").text("b"), class, "0", len);
    let first = || tensor(a(), "FloatStorage", "0", 4);
    let make = |name: &str| a().global("torch._utils", name).code(b"(");
    for (name, bytes, what) in [
        (
            "two types",
            end(two(first(), "HalfStorage", 8)),
            "two element types",
        ),
        (
            "two types of one size",
            end(two(first(), "IntStorage", 4)),
            "two element types",
        ),
        (
            "two lengths",
            end(two(first(), "FloatStorage", 3)),
            "another length",
        ),
        (
            "a class that is none",
            end(tensor(a(), "Tensor", "0", 4)),
            "no storage",
        ),
        (
            "a key with a path",
            end(tensor(a(), "FloatStorage", "../data.pkl", 4)),
            "is missing",
        ),
        (
            "a key of another entry",
            end(tensor(a(), "FloatStorage", "", 4)),
            "is missing",
        ),
        (
            "no arguments",
            end(make("_rebuild_tensor_v2").code(b"tR")),
            "calls what makes",
        ),
        (
            "too few",
            end(storage(make("_rebuild_tensor_v2"), "FloatStorage", "0", 4).code(b"tR")),
            "calls what makes",
        ),
        (
            "a parameter of nothing",
            end(make("_rebuild_parameter").code(b"tR")),
            "calls what makes",
        ),
        (
            "sizes that are texts",
            end(storage(make("_rebuild_tensor_v2"), "FloatStorage", "0", 4)
                .int(0)
                .code(b"(")
                .text("4")
                .code(b"t")
                .ints(&[1])
                .code(&[0x89, b'N', b't', b'R'])),
            "below zero",
        ),
        (
            "sizes in a list",
            end(storage(make("_rebuild_tensor_v2"), "FloatStorage", "0", 4)
                .int(0)
                .code(b"]")
                .ints(&[1])
                .code(&[0x89, b'N', b't', b'R'])),
            "calls what makes",
        ),
        (
            "a storage in place of a tensor",
            end(storage(a(), "FloatStorage", "0", 4)),
            "no tensor",
        ),
        (
            "a tensor in place of a storage",
            end({
                let p = first()
                    .code(b"q\x05s")
                    .text("b")
                    .global("torch._utils", "_rebuild_tensor_v2");
                p.code(b"(h\x05")
                    .int(0)
                    .ints(&[4])
                    .ints(&[1])
                    .code(&[0x89, b'N', b't', b'R'])
            }),
            "calls what makes",
        ),
        (
            "sizes as a callee",
            end(a().global("torch", "Size").code(b")R")),
            "calls what makes",
        ),
        (
            "a class called",
            end(a().global("torch", "Tensor").code(b")R")),
            "calls what makes",
        ),
        (
            "a storage's class called",
            end(a().global("torch", "FloatStorage").code(b")R")),
            "calls what makes",
        ),
        (
            "state of a tensor",
            end(first().code(b"}b")),
            "state of an object",
        ),
    ] {
        refused(name, what, || read(&bytes));
    }
    // A parameter that wraps no tensor holds no weights; the tensor beside it is read.
    let p = tensor(a(), "FloatStorage", "0", 4).code(b"s").text("b");
    let p = p
        .global("torch._utils", "_rebuild_parameter")
        .code(b"(N\x89NtR");
    assert_eq!(taken("a parameter without a tensor", || read(&end(p))), 1);
}

#[test]
fn large_archives_cost_little() {
    let most = (1 << 16) - 3;
    let zip = (0..most).fold(Zip::default(), |z, i| z.entry(&format!("x/{i}"), b""));
    let bytes = zip.entry("x/data.pkl", b"}.").end();
    refused("entries", "no tensor", || read(&bytes));
    let zip = (0..most).fold(Zip::default(), |z, i| {
        z.entry(&format!("{i}/data.pkl"), b"")
    });
    refused("pickles", "no data.pkl, or several", || read(&zip.end()));
    let name = "n".repeat(60_000);
    let zip = (0..200).fold(Zip::default(), |z, _| z.entry(&name, b""));
    refused("long names", "torch: ", || read(&zip.end()));
    // All entries are one entry.
    let data = vec![0; 1 << 20];
    let zip = Zip::default().entry("x/data/0", &data);
    let zip = (1..1000).fold(zip, |z, i| {
        z.raw("", &format!("x/data/{i}"), 0, [1 << 20; 2], b"", Some(0))
    });
    refused("one inside all", "header of its own", || read(&zip.end()));
    // An end record wherever one is looked for.
    let mut bytes = Zip::default().entry("x/data.pkl", b"}.").end();
    let end = bytes.split_off(bytes.len() - 22);
    bytes.extend(end.repeat(3000));
    refused("ends", "torch: ", || read(&bytes));
    let zeros = vec![0; 64 << 20];
    refused("zeros", "no zip archive", || read(&zeros));
    refused("tar", "no zip archive", || {
        let mut tar = vec![0; 10240];
        tar[..7].copy_from_slice(b"storage");
        tar[257..262].copy_from_slice(b"ustar");
        read(&tar)
    });
}

/// The file of one tensor with a part of the entry's own header, or of the directory, overwritten.
#[test]
fn the_two_headers_of_an_entry_agree() {
    let pickle = dict().text("w").tensor("0", 4, 0, &[4], &[1]).code(b"s.").0;
    let zip = Zip::default()
        .entry("x/data/0", &[0; 16])
        .entry("x/data.pkl", &pickle);
    let good = zip.end();
    assert_eq!(taken("as it should be", || read(&good)), 1);
    let central = good
        .windows(4)
        .position(|w| w == 0x0201_4b50_u32.to_le_bytes())
        .unwrap();
    for (name, at, value, what) in [
        ("encrypted here", 6, 1, "header of its own"),
        ("encrypted there", central + 8, 1, "encrypted"),
        ("compressed here", 8, 8, "header of its own"),
        ("compressed there", central + 10, 8, "compressed"),
        ("packed here", 18, 15, "header of its own"),
        ("length here", 22, 17, "header of its own"),
        ("no length here", 22, 0, "header of its own"),
        ("length there", central + 24, 15, "compressed"),
        ("longer name here", 26, 9, "header of its own"),
        ("longer field here", 28, 9, "lies over"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        refused(name, what, || read(&bytes));
    }
}
