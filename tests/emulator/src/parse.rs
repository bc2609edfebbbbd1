//! PTX text into a module: directives, declarations, and lines for the decoder.

use std::collections::BTreeMap;

use crate::Result;
use crate::decode::Decoder;
use crate::program::{Kernel, Module};

/// Bytes between two arrays of shared memory that no access may touch.
const GAP: usize = 64;
/// Bytes before the first array.
const RESERVED: usize = 1024;

/// Statements with the line they begin on: text up to `;`, a label's `:`, or a brace.
fn statements(ptx: &str) -> Vec<(u32, String)> {
    let (mut out, mut text, mut begin) = (Vec::new(), String::new(), 1);
    for (line, number) in ptx.lines().zip(1_u32..) {
        let line = line.split("//").next().unwrap_or_default().trim();
        // These end without a semicolon.
        if [".version", ".target", ".address_size"]
            .iter()
            .any(|d| line.starts_with(d))
        {
            continue;
        }
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            if text.is_empty() {
                begin = number;
            }
            let opens_vector = c == '{' && !text.trim().is_empty() && !text.contains(".entry");
            let closes_vector = c == '}' && text.contains('{');
            match c {
                ';' => out.push((begin, std::mem::take(&mut text))),
                // Two are part of a name.
                ':' if chars.next_if_eq(&':').is_some() => text.push_str("::"),
                ':' if is_label(&text) => {
                    out.push((begin, std::mem::take(&mut text) + ":"));
                }
                '{' | '}' if !opens_vector && !closes_vector => {
                    if !text.trim().is_empty() {
                        out.push((begin, std::mem::take(&mut text)));
                    }
                    text.clear();
                    out.push((number, c.to_string()));
                }
                _ => text.push(c),
            }
        }
        if !text.trim().is_empty() {
            text.push(' ');
        }
    }
    out.into_iter()
        .map(|(line, text)| (line, text.trim().to_owned()))
        .filter(|(_, text)| !text.is_empty())
        .collect()
}

/// Whether what stands before a colon is one word.
fn is_label(text: &str) -> bool {
    !text.trim().is_empty() && !text.trim().contains(char::is_whitespace)
}

/// The number behind a directive, such as `.align 16`.
fn number(text: &str, directive: &str) -> Option<usize> {
    let rest = text.split(directive).nth(1)?;
    let digits = rest
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>();
    digits.parse().ok()
}

fn type_bytes(text: &str) -> Option<usize> {
    text.split_whitespace().find_map(|word| match word {
        ".b8" | ".u8" | ".s8" => Some(1),
        ".b16" | ".u16" | ".s16" | ".f16" => Some(2),
        ".b32" | ".u32" | ".s32" | ".f32" => Some(4),
        ".b64" | ".u64" | ".s64" | ".f64" => Some(8),
        _ => None,
    })
}

/// A declaration of memory: name and bytes, none for an array without a length.
fn declared(text: &str, line: u32) -> Result<(String, Option<usize>, usize)> {
    let wrong = || format!("line {line}: cannot read the declaration \"{text}\"");
    let each = type_bytes(text).ok_or_else(wrong)?;
    let align = number(text, ".align").unwrap_or(each);
    let name = text.split_whitespace().last().ok_or_else(wrong)?;
    let (name, bytes) = match name.split_once('[') {
        None => (name, Some(each)),
        Some((name, "]")) => (name, None),
        Some((name, len)) => {
            let len: usize = len.trim_end_matches(']').parse().map_err(|_| wrong())?;
            (name, Some(len * each))
        }
    };
    Ok((name.to_owned(), bytes, align))
}

fn entry(text: &str, line: u32) -> Result<(Kernel, BTreeMap<String, usize>)> {
    let wrong = || format!("line {line}: cannot read the entry \"{text}\"");
    let (head, rest) = text.split_once('(').ok_or_else(wrong)?;
    let (list, tail) = rest.split_once(')').ok_or_else(wrong)?;
    let mut kernel = Kernel {
        name: head.split_whitespace().last().ok_or_else(wrong)?.to_owned(),
        max_threads: 1024,
        ..Kernel::default()
    };
    if let Some(most) = number(tail, ".maxntid") {
        kernel.max_threads = u32::try_from(most).map_err(|_| wrong())?;
    }
    let mut names = BTreeMap::new();
    for param in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (name, bytes, align) = declared(param, line)?;
        let bytes = bytes.ok_or_else(wrong)?;
        let at = kernel.param_bytes.next_multiple_of(align);
        names.insert(name, at);
        kernel.params.push((at, bytes));
        kernel.param_bytes = at + bytes;
    }
    Ok((kernel, names))
}

/// Places an array in shared memory behind a gap. The first begins not at zero, so that its address counts, and is aligned
/// as it asks and no better.
fn place(kernel: &mut Kernel, bytes: usize, align: usize) -> usize {
    let end = kernel.shared_bytes.next_multiple_of(4);
    let at = if end == 0 {
        RESERVED + align % RESERVED
    } else {
        (end + GAP).next_multiple_of(align.max(16))
    };
    kernel.gaps.push((end, at));
    kernel.shared_bytes = at + bytes;
    kernel.static_bytes = kernel.static_bytes.next_multiple_of(align) + bytes;
    at
}

pub(crate) fn module(ptx: &str) -> Result<Module> {
    let mut module = Module::default();
    // Arrays of dynamic shared memory are declared for the whole file; all begin behind the static ones.
    let mut dynamic = Vec::new();
    let mut file_shared = Vec::new();
    let mut faults = Vec::new();
    let mut lines = statements(ptx).into_iter();
    while let Some((line, text)) = lines.next() {
        if text.contains(".entry") {
            let (mut kernel, params) = entry(&text, line)?;
            let mut body = Vec::new();
            let mut depth = 0;
            for (line, text) in lines.by_ref() {
                match text.as_str() {
                    "{" => {
                        depth += 1;
                        if depth > 1 {
                            body.push((line, text));
                        }
                    }
                    "}" => {
                        depth -= 1;
                        if depth == 0 {
                            break;
                        }
                        body.push((line, text));
                    }
                    _ => body.push((line, text)),
                }
            }
            let mut symbols = BTreeMap::new();
            let mut local = Vec::new();
            for (line, text) in &body {
                if text.starts_with(".shared") {
                    local.push(declared(text, *line)?);
                }
            }
            let used = |name: &str| body.iter().any(|(_, text)| text.contains(name));
            let shared = file_shared.iter().filter(|(name, ..): &&Array| used(name));
            for (name, bytes, align) in shared.chain(&local) {
                let bytes = bytes.ok_or_else(|| format!("{name} has no length"))?;
                let at = place(&mut kernel, bytes, *align);
                symbols.insert(name.clone(), at);
            }
            let mut begin = None;
            for (name, align) in dynamic.iter().filter(|(name, _): &&(String, _)| used(name)) {
                let at = *begin.get_or_insert_with(|| place(&mut kernel, 0, *align));
                symbols.insert(name.clone(), at);
            }
            let mut decoder = Decoder::new(kernel, params, symbols);
            for (line, text) in &body {
                if let Err(error) = decoder.statement(*line, text) {
                    faults.push(error);
                }
            }
            let kernel = decoder.finish()?;
            module.kernels.insert(kernel.name.clone(), kernel);
        } else if text.contains(".shared") {
            let (name, bytes, align) = declared(&text, line)?;
            if text.contains(".extern") || bytes.is_none() {
                dynamic.push((name, align));
            } else {
                file_shared.push((name, bytes, align));
            }
        } else if !text.starts_with("//") && text != "{" && text != "}" {
            return Err(format!("line {line}: \"{text}\" is not known here"));
        }
    }
    if faults.is_empty() {
        Ok(module)
    } else {
        Err(faults.join("\n"))
    }
}

type Array = (String, Option<usize>, usize);
