//! Planted faults: PTX with one line changed, to see whether the tests notice.

use std::collections::BTreeMap;
use std::fmt;

use crate::decode::text::{immediate, kind, split};

/// One changed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// The kernel that it is in.
    pub kernel: String,
    /// The line's place behind the kernel's `.entry`, so that other kernels of the file do not move it.
    pub place: usize,
    /// What kind of fault it is.
    pub kind: &'static str,
    /// The line as it is shipped.
    pub from: String,
    /// What it becomes; nothing where the instruction is dropped.
    pub to: String,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kernel, self.place, self.to)
    }
}

/// Operations that are taken for each other.
const OTHERS: [(&str, &str); 39] = [
    ("add.s32", "sub.s32"),
    ("sub.s32", "add.s32"),
    ("add.s64", "sub.s64"),
    ("sub.s64", "add.s64"),
    ("add.rn.f32", "sub.rn.f32"),
    ("sub.rn.f32", "add.rn.f32"),
    ("mul.rn.f32", "add.rn.f32"),
    ("div.rn.f32", "mul.rn.f32"),
    ("rcp.rn.f32", "sqrt.rn.f32"),
    ("sqrt.rn.f32", "rcp.rn.f32"),
    ("max.f32", "min.f32"),
    ("min.f32", "max.f32"),
    ("max.u32", "min.u32"),
    ("min.u32", "max.u32"),
    ("max.s32", "min.s32"),
    ("min.s32", "max.s32"),
    ("max.u64", "min.u64"),
    ("min.u64", "max.u64"),
    ("and.b32", "or.b32"),
    ("or.b32", "and.b32"),
    ("xor.b32", "or.b32"),
    ("and.b64", "or.b64"),
    ("or.b64", "and.b64"),
    ("and.pred", "or.pred"),
    ("or.pred", "and.pred"),
    ("shl.b32", "shr.u32"),
    ("shr.u32", "shl.b32"),
    ("shr.s32", "shr.u32"),
    ("shl.b64", "shr.u64"),
    ("shr.u64", "shl.b64"),
    ("mul.lo.s32", "add.s32"),
    ("mul.lo.s64", "add.s64"),
    ("mul.hi.u32", "mul.lo.s32"),
    ("div.u32", "rem.u32"),
    ("rem.u32", "div.u32"),
    ("div.u64", "rem.u64"),
    ("rem.u64", "div.u64"),
    ("neg.f32", "abs.f32"),
    ("neg.s32", "not.b32"),
];

/// Comparisons, their opposites, and what they are when the border is on the other side.
const COMPARISONS: [(&str, &str, &str); 14] = [
    ("eq", "ne", ""),
    ("ne", "eq", ""),
    ("lt", "ge", "le"),
    ("le", "gt", "lt"),
    ("gt", "le", "ge"),
    ("ge", "lt", "gt"),
    ("equ", "ne", ""),
    ("neu", "eq", ""),
    ("ltu", "ge", "leu"),
    ("leu", "gt", "ltu"),
    ("gtu", "le", "geu"),
    ("geu", "lt", "gtu"),
    ("num", "nan", ""),
    ("nan", "num", ""),
];

/// A module with one line changed: the one that stands `place` lines behind a kernel's entry. Nothing if the module has
/// no such kernel.
#[must_use]
pub fn changed(ptx: &str, kernel: &str, place: usize, to: &str) -> Option<String> {
    let entry = format!(".entry {kernel}(");
    let at = ptx.lines().position(|line| line.ends_with(&entry))? + place;
    let lines = ptx.lines().enumerate();
    let lines = lines.map(|(n, line)| if n == at { to } else { line });
    Some(lines.flat_map(|line| [line, "\n"]).collect())
}

/// Every fault that can be planted in some PTX by changing one line, by kernel.
#[must_use]
pub fn mutants(ptx: &str) -> BTreeMap<String, Vec<Mutant>> {
    let mut all: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    let mut inside: Option<(&str, usize)> = None;
    for (n, line) in ptx.lines().enumerate() {
        if let Some(name) = line.strip_prefix(".visible .entry ") {
            inside = Some((name.trim_end_matches('('), n));
        }
        let (Some((kernel, entry)), Some(text)) = (inside, line.trim().strip_suffix(';')) else {
            continue;
        };
        if text.starts_with(['.', '$', '{', '/']) {
            continue;
        }
        let found = edits(text).into_iter().map(|(kind, to)| Mutant {
            kernel: kernel.to_owned(),
            place: n - entry,
            kind,
            from: format!("{text};").replace('\t', " "),
            to,
        });
        all.entry(kernel.to_owned()).or_default().extend(found);
    }
    all
}

/// A statement's faults.
fn edits(text: &str) -> Vec<(&'static str, String)> {
    let (guard, rest) = match text.split_once(char::is_whitespace) {
        Some((guard, rest)) if guard.starts_with('@') => (guard, rest.trim()),
        _ => ("", text),
    };
    let (opcode, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let parts: Vec<&str> = opcode.split('.').collect();
    let args = split(tail);
    let line = |guard: &str, opcode: &str, args: &[String]| {
        let gap = if guard.is_empty() { "" } else { " " };
        format!("{guard}{gap}{opcode} {};", args.join(", "))
    };
    let mut out = Vec::new();
    if let Some(predicate) = guard.strip_prefix('@') {
        out.push(("dropped guard", line("", opcode, &args)));
        let negated = match predicate.strip_prefix('!') {
            Some(plain) => format!("@{plain}"),
            None => format!("@!{predicate}"),
        };
        out.push(("negated guard", line(&negated, opcode, &args)));
        if parts[0] == "bra" {
            out.push(("dropped jump", String::new()));
        }
    }
    match parts[0] {
        "bar" | "barrier" => out.push(("dropped barrier", String::new())),
        "st" | "red" => out.push(("dropped store", String::new())),
        "cp" => out.push(("dropped copy", String::new())),
        "mbarrier" | "fence" | "wgmma" => out.extend(unordered(&parts, opcode, &args)),
        _ => {}
    }
    if parts[0] == "setp"
        && let Some((_, not, border)) = COMPARISONS.iter().find(|(c, ..)| *c == parts[1])
    {
        let other = |cmp: &str| line(guard, &opcode.replacen(parts[1], cmp, 1), &args);
        out.push(("flipped compare", other(not)));
        if !border.is_empty() {
            out.push(("moved border", other(border)));
        }
    }
    let twisted = match parts[0] {
        "sub" | "div" | "rem" | "selp" => Some((1, 2)),
        "mma" => Some((1, 3)),
        _ => None,
    };
    if let Some((a, b)) = twisted
        && args.len() > b
        && args[a] != args[b]
    {
        let mut args = args.clone();
        args.swap(a, b);
        out.push(("swapped operands", line(guard, opcode, &args)));
    }
    if let Some((_, other)) = OTHERS.iter().find(|(op, _)| *op == opcode) {
        out.push(("another operation", line(guard, other, &args)));
    }
    for (from, to) in [
        (".dp4a.s32.s32", ".dp4a.u32.u32"),
        (".s8.", ".u8."),
        (".min.u32", ".max.u32"),
        (".rzi.", ".rni."),
        (".rni.", ".rzi."),
        (".bfly.", ".down."),
    ] {
        let named = format!(".{opcode}.");
        if named.contains(from) && ["dp4a", "red", "atom", "cvt", "shfl"].contains(&parts[0]) {
            let other = named.replacen(from, to, 1);
            let kind = if parts[0] == "cvt" {
                "another rounding"
            } else {
                "another operation"
            };
            out.push((kind, line(guard, other.trim_matches('.'), &args)));
        }
    }
    if ["ld", "st", "red", "atom", "ldmatrix", "cp", "mbarrier"].contains(&parts[0])
        && parts[1] != "param"
    {
        let count = ["v2", "v4"].iter().position(|v| parts.contains(v));
        let count = count.map_or(1, |at| 2 << at);
        let bytes = parts.last().and_then(|last| kind(last).ok());
        let step = bytes.map_or(16, |kind| kind.bytes()) * count;
        for (i, arg) in args.iter().enumerate() {
            let Some(inner) = arg.strip_prefix('[').and_then(|a| a.strip_suffix(']')) else {
                continue;
            };
            let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
            let offset: i64 = offset.trim().parse().unwrap_or(0);
            let step = i64::try_from(step).unwrap_or(1);
            for moved in [offset + step, offset - step] {
                let mut args = args.clone();
                args[i] = format!("[{base}+{moved}]");
                out.push(("moved offset", line(guard, opcode, &args)));
            }
        }
    }
    let constants = match parts[0] {
        "bar" | "barrier" | "bra" | "ret" | "ld" | "st" | "wgmma" => 0..0,
        "shfl" => 2..3,
        _ => 1..args.len(),
    };
    for i in constants {
        let Some(to) = args.get(i).and_then(|arg| another(arg)) else {
            continue;
        };
        let mut args = args.clone();
        args[i] = to;
        let kind = match parts[0] {
            "shl" | "shr" => "changed shift",
            "shfl" => "another lane",
            _ => "changed constant",
        };
        out.push((kind, line(guard, opcode, &args)));
    }
    out
}

/// What may go wrong with the order of things that happen beside the instructions.
fn unordered(parts: &[&str], opcode: &str, args: &[String]) -> Vec<(&'static str, String)> {
    match (parts[1], args) {
        // Nobody asks: the phase counts as over.
        ("try_wait", [to, ..]) => vec![("dropped wait", format!("mov.pred {to}, 1;"))],
        ("arrive", [to, at, _]) => vec![
            ("dropped arrival", String::new()),
            (
                "dropped bytes",
                format!("mbarrier.arrive.shared::cta.b64 {to}, {at};"),
            ),
        ],
        ("arrive", _) => vec![("dropped arrival", String::new())],
        ("init", _) => vec![("dropped barrier", String::new())],
        ("fence" | "mbarrier_init", _) => vec![("dropped fence", String::new())],
        ("commit_group", _) => vec![("dropped commit", String::new())],
        ("wait_group", [rest]) => {
            let more = another(rest).map(|rest| ("late wait", format!("{opcode} {rest};")));
            let mut all = vec![("dropped wait", String::new())];
            all.extend(more);
            all
        }
        ("mma_async", [sums, words, more @ ..]) => {
            let inner = words.trim_start_matches('{').trim_end_matches('}');
            let mut names: Vec<&str> = inner.split(',').collect();
            names.swap(0, 1);
            let swapped = format!("{{{}}}", names.join(","));
            let more = more.join(", ");
            vec![
                ("dropped product", String::new()),
                (
                    "swapped operands",
                    format!("{opcode} {sums}, {swapped}, {more};"),
                ),
            ]
        }
        _ => Vec::new(),
    }
}

/// A constant near to another.
fn another(text: &str) -> Option<String> {
    let value = immediate(text)?;
    if text.starts_with("0f") || text.starts_with("0F") {
        // The first bit of the mantissa; of zero, one.
        let bits = if value == 0 {
            0x3f80_0000
        } else {
            value ^ 0x40_0000
        };
        return Some(format!("0f{bits:08X}"));
    }
    if text.starts_with("0d") {
        return None;
    }
    match text.strip_prefix('-') {
        Some(digits) => digits.parse::<u64>().ok().map(|n| format!("-{}", n + 1)),
        None => Some((value + 1).to_string()),
    }
}
