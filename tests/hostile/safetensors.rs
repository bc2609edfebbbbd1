//! Safetensors files.

use maquette::Result;
use maquette::model::files::maquette::write;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::weights::WeightSource;
use maquette::quant::Format;

use crate::{refused, taken};

fn file(header: &[u8], data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.resize(out.len() + data, 0);
    out
}

/// A line of the header.
pub fn line(name: &str, dtype: &str, shape: &str, ends: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{ends}}}"#)
}

fn read(bytes: &[u8]) -> Result<usize> {
    let source = SafetensorsSource::new(bytes)?;
    let mut n = 0;
    source.names(&mut |name| n += usize::from(source.tensor(name).is_some()));
    Ok(n)
}

/// The longest header that is read.
const LONGEST: usize = 16 << 20;

/// `part` again and again, as long as a header may be.
fn filled(start: &str, part: &str, end: &str) -> Vec<u8> {
    let n = (LONGEST - start.len() - end.len()) / part.len();
    file(format!("{start}{}{end}", part.repeat(n)).as_bytes(), 0)
}

#[test]
fn long_headers_of_nothing_cost_little() {
    let deep = |open: &str| open.repeat(LONGEST / open.len());
    for (name, header) in [
        ("lists", deep("[")),
        ("objects", deep("{\"\":")),
        (
            "lists of a tensor",
            format!("{{\"a\":{{\"x\":{}", deep("[")),
        ),
        (
            "lists of objects",
            format!("{{\"a\":{{\"x\":{}", deep("[{\"\":")),
        ),
        ("quotes", deep("\"")),
        ("blanks", deep(" ")),
        ("zeros", deep("\0")),
    ] {
        let header = &header.as_bytes()[..LONGEST.min(header.len())];
        refused(name, "safetensors: ", || read(&file(header, 0)));
    }
    for (name, bytes, what) in [
        (
            "keys of the metadata",
            filled("{\"__metadata__\":{\"\":\"\"", ",\"\":\"\"", "}}"),
            "262144 keys",
        ),
        (
            "keys of a tensor",
            filled("{\"a\":{\"\":0", ",\"\":0", "}}"),
            "262144 keys",
        ),
        (
            "keys of another value",
            filled("{\"a\":{\"x\":{\"\":[]", ",\"\":[]", "}}}"),
            "262144 keys",
        ),
        (
            "objects in a list",
            filled("{\"a\":{\"x\":[{\"\":0}", ",{\"\":0}", "]}}"),
            "lacks a dtype",
        ),
        (
            "sizes",
            filled("{\"a\":{\"shape\":[1", ",1", "]}}"),
            "8 sizes",
        ),
        (
            "offsets",
            filled("{\"a\":{\"data_offsets\":[1", ",1", "]}}"),
            "two data_offsets",
        ),
        (
            "a name",
            filled(
                "{\"",
                "n",
                &line("", "U8", "[0]", "[0,0]")[1..].replace("}", "}}"),
            ),
            "1024 bytes",
        ),
        (
            "a name of escapes",
            filled(
                "{\"",
                "\\u00e9",
                &line("", "U8", "[0]", "[0,0]")[1..].replace("}", "}}"),
            ),
            "1024 bytes",
        ),
        (
            "a type",
            filled("{\"a\":{\"dtype\":\"", "F", "\"}}"),
            "lacks a dtype",
        ),
        (
            "a number",
            filled("{\"a\":{\"shape\":[", "9", "]}}"),
            "too large",
        ),
        (
            "a number elsewhere",
            filled("{\"a\":{\"x\":", "9", "}}"),
            "lacks a dtype",
        ),
    ] {
        refused(name, what, || read(&bytes));
    }
    let long = file(&vec![b' '; 100_000_000], 0);
    refused("100 MB", "16 MiB", || read(&long));
}

fn many(n: usize, name: impl Fn(usize) -> String) -> Vec<u8> {
    let lines: Vec<_> = (0..n)
        .map(|i| line(&name(i), "U8", "[0]", "[0,0]"))
        .collect();
    file(format!("{{{}}}", lines.join(",")).as_bytes(), 0)
}

#[test]
fn many_tensors_cost_little() {
    let most = 1 << 17;
    let bytes = many(most, |i| i.to_string());
    assert_eq!(taken("empty tensors", || read(&bytes)), most);
    let bytes = many(most, |i| format!("{}{i:06x}", "n".repeat(60)));
    assert_eq!(taken("names that begin alike", || read(&bytes)), most);
    let bytes = many(most, |i| (i / 2).to_string());
    refused("names twice", "stands twice", || read(&bytes));
    let bytes = many(most + 1, |i| i.to_string());
    refused("one more", "131072 tensors", || read(&bytes));
    let lines: Vec<_> = (0..100_000)
        .rev()
        .map(|i| line(&i.to_string(), "U8", "[1]", &format!("[{i},{}]", i + 1)))
        .collect();
    let bytes = file(format!("{{{}}}", lines.join(",")).as_bytes(), 100_000);
    assert_eq!(taken("backwards", || read(&bytes)), 100_000);
}

#[test]
fn odd_texts_are_refused() {
    let a = line("a", "F32", "[1]", "[0,4]");
    let bom = format!("\u{feff}{{{a}}}");
    let wide: Vec<u8> = format!("{{{a}}}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let meta = |m: &str| format!("{{\"__metadata__\":{m},{a}}}").into_bytes();
    for (name, header, what) in [
        ("byte order mark", bom.into_bytes(), "valid JSON"),
        ("two bytes a letter", wide, "valid JSON"),
        ("half a letter", b"{\"\xc3\":0}".to_vec(), "UTF-8"),
        (
            "metadata twice",
            meta("{},\"__metadata__\":{}"),
            "\"__metadata__\" stands twice",
        ),
        (
            "metadata with a key twice",
            meta("{\"x\":\"1\",\"x\":\"2\"}"),
            "\"x\" stands twice",
        ),
        (
            "metadata by escapes",
            meta("{},\"\\u005f_metadata__\":{}"),
            "stands twice",
        ),
        ("metadata of numbers", meta("{\"x\":1}"), "valid JSON"),
        ("metadata of nothing", meta("null"), "valid JSON"),
        ("metadata that is a list", meta("[]"), "valid JSON"),
        (
            "sizes with a sign",
            line("a", "F32", "[+1]", "[0,4]").into_bytes(),
            "valid JSON",
        ),
    ] {
        refused(name, what, || read(&file(&header, 4)));
    }
    for shape in [
        "[-0]",
        "[01]",
        "[1e0]",
        "[1.0]",
        "[NaN]",
        "[Infinity]",
        "[\"1\"]",
        "[[1]]",
        "[null]",
        "[1,]",
        "{}",
    ] {
        let header = format!("{{{}}}", line("a", "F32", shape, "[0,4]"));
        refused(shape, "safetensors: ", || read(&file(header.as_bytes(), 4)));
    }
    // Blanks behind the header are what its writers align with.
    let padded = format!("{{{a}}}     ");
    assert_eq!(taken("blanks", || read(&file(padded.as_bytes(), 4))), 1);
}

/// A tensor of no elements may have any other sizes: no conversion may multiply them.
#[test]
fn sizes_beside_a_zero_overflow_nothing() {
    for huge in [1_u64 << 62, 1 << 63, u64::MAX] {
        for shape in [format!("[0,{huge}]"), format!("[{huge},0]")] {
            let header = format!("{{{}}}", line("a.weight", "F32", &shape, "[0,0]"));
            let bytes = file(header.as_bytes(), 0);
            taken(&shape, || {
                let source = SafetensorsSource::new(&bytes)?;
                for &format in Format::ALL {
                    write(&source, format, &[], &mut |_| Ok(()))?;
                }
                Ok(())
            });
        }
    }
}
