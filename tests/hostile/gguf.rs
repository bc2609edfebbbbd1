//! GGUF files.

use maquette::Result;
use maquette::model::files::gguf::{GgufSource, Metadata};
use maquette::model::weights::WeightSource;

use crate::build::Gguf;
use crate::{refused, taken};

fn count(value: Metadata<'_>) -> usize {
    match value {
        Metadata::List(list) => 1 + list.iter().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// Every tensor and every value, lists walked through.
fn read(bytes: &[u8]) -> Result<[usize; 2]> {
    let source = GgufSource::new(bytes)?;
    let mut all = [0; 2];
    source.names(&mut |name| all[0] += usize::from(source.tensor(name).is_some()));
    source.keys(&mut |key| all[1] += source.metadata(key).map_or(0, count));
    Ok(all)
}

fn list(kind: u32, len: u64, rest: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), rest].concat()
}

#[test]
fn long_tables_cost_little() {
    let n = 1 << 20;
    for (name, kind, part) in [
        ("texts", 8, &[0; 8][..]),
        ("flags", 7, &[1]),
        ("lists", 9, &list(0, 0, &[])),
        (
            "lists of lists",
            9,
            &list(9, 1, &list(9, 1, &list(8, 0, &[]))),
        ),
    ] {
        let value = list(kind, n as u64, &part.repeat(n));
        let bytes = Gguf::new().entry("k", 9, &value).end();
        taken(name, || read(&bytes));
    }
    let value = list(7, 80 << 20, &vec![1; 80 << 20]);
    let bytes = Gguf::new().entry("k", 9, &value).end();
    refused("a table of 80 MiB", "more than 64 MiB", || read(&bytes));

    let entries = (0..1 << 16).fold(Gguf::new(), |g, i| {
        g.entry(&i.to_string(), 9, &list(9, 1, &list(8, 1, &[0; 8])))
    });
    assert_eq!(taken("entries", || read(&entries.end())), [0, 3 << 16]);
    let tensors = |name: &dyn Fn(usize) -> String| {
        (0..1 << 17)
            .fold(Gguf::new(), |g, i| g.line(&name(i), &[0, 1, 1, 1], 0, 0))
            .end()
    };
    let bytes = tensors(&|i| i.to_string());
    assert_eq!(taken("tensors", || read(&bytes)), [1 << 17, 0]);
    let bytes = tensors(&|i| format!("{}{i:06x}", "n".repeat(200)));
    assert_eq!(
        taken("names that begin alike", || read(&bytes)),
        [1 << 17, 0]
    );
    let bytes = tensors(&|_| String::new());
    refused("names alike", "stands twice", || read(&bytes));
}

#[test]
fn every_version_and_count_is_met() {
    for version in [0, 1, 4, 0xffff, u32::MAX, 1 << 24, 2 << 24, 3 << 24] {
        let mut file = Gguf::new().tensor("a", &[8], 0, &[0; 32]);
        file.version = version;
        refused(&version.to_string(), "gguf: ", || read(&file.end()));
    }
    for count in [1 << 32, 1 << 60, 1 << 62, 1 << 63, u64::MAX] {
        for counts in [[count, 0], [0, count], [count, count], [1, count]] {
            let file = Gguf::new().tensor("a", &[8], 0, &[0; 32]);
            refused(&format!("{counts:?}"), "has more than", || {
                read(&file.end_with(counts))
            });
        }
        let mut bytes = Gguf::new().entry("k", 4, &[0; 4]).end();
        bytes[24..32].copy_from_slice(&count.to_le_bytes());
        refused("length of a key", "ends inside", || read(&bytes));
        for kind in 0..14 {
            let bytes = Gguf::new()
                .entry("k", 9, &list(kind, count, &[0; 64]))
                .end();
            refused(&format!("{count} of kind {kind}"), "gguf: ", || {
                read(&bytes)
            });
        }
    }
}

#[test]
fn every_alignment_is_met() {
    for (bits, what) in [
        (0_u64, "no power of two"),
        (3, "no power of two"),
        (48, "no power of two"),
        (u64::MAX, "no power of two"),
        (1 << 31, "ends before the first tensor"),
        (1 << 63, "ends before the first tensor"),
    ] {
        let bytes = Gguf::new()
            .entry("general.alignment", 10, &bits.to_le_bytes())
            .tensor("a", &[8], 0, &[0; 32])
            .end();
        refused(&bits.to_string(), what, || read(&bytes));
    }
    for (kind, value) in [(6, &1_f32.to_le_bytes()[..]), (7, &[1]), (8, &[0; 8])] {
        let bytes = Gguf::new().entry("general.alignment", kind, value).end();
        refused("kind", "no number without a sign", || read(&bytes));
    }
    for bits in [1_u32, 2, 64, 4096] {
        let mut file = Gguf::new().entry("general.alignment", 4, &bits.to_le_bytes());
        file.alignment = bits as usize;
        let bytes = file
            .tensor("a", &[3], 0, &[0; 12])
            .tensor("b", &[1], 0, &[0; 4])
            .end();
        assert_eq!(taken(&bits.to_string(), || read(&bytes)), [2, 1]);
    }
}

#[test]
fn every_type_and_size_is_met() {
    for kind in (0..64).chain([255, 1 << 16, 1 << 31, u32::MAX]) {
        for sizes in [
            &[][..],
            &[0],
            &[1],
            &[255],
            &[256],
            &[256, 0],
            &[0, u64::MAX],
            &[u64::MAX],
            &[u64::MAX - 255],
            &[256, u64::MAX],
            &[1 << 31, 1 << 31],
            &[1 << 16; 4],
            &[1; 5],
        ] {
            for at in [0, 31, 32, 1 << 62, u64::MAX - 31, u64::MAX] {
                let bytes = Gguf::new().line("a", sizes, kind, at).bytes(2048).end();
                // An error, or the bytes that its size says.
                let _ = crate::ran("a line", || read(&bytes));
            }
        }
    }
}
