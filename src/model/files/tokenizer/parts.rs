//! The few parts of a tokenizer's files that are looked into, and how far its rules let a text grow.

use alloc::string::String;
use core::str;

use serde_json::{Map, Value};

use super::{FORMAT, charsmap, wrong};
use crate::error::{Foreign, Result};
use crate::model::files::json::Scanner;

/// Longest file. Published ones have 10 MiB.
const MAX_FILE: usize = 1 << 25;
/// Most values of a file, and of its parts that are looked into.
const MAX_VALUES: usize = 1 << 21;
const MAX_RULES: usize = 1 << 17;
/// Longest token, in bytes.
const MAX_TOKEN: usize = 1 << 10;
/// How many bytes may stand for one.
const MAX_GROWTH: usize = 1 << 8;

/// What of a file is looked into; its vocabulary is passed over.
pub(super) fn parts(format: &'static str, json: &[u8]) -> Result<Value> {
    if json.len() > MAX_FILE {
        return Err(wrong(format, "has more than 32 MiB", None));
    }
    let text = str::from_utf8(json)
        .map_err(|e| wrong(format, "is no valid UTF-8", Some(Foreign::new(e))))?;
    let (mut file, mut model) = (Map::new(), Map::new());
    let mut scanner = Scanner::new(format, text);
    let keep = |s: &mut Scanner<'_>, key: &str, to: &mut Map<String, Value>| {
        let before = s.passed();
        let part = s.value()?;
        if s.passed() - before > MAX_RULES {
            return Err(s.wrong("has more than 131072 values in one of its rules"));
        }
        let part = serde_json::from_str(part)
            .map_err(|e| wrong(format, "is no valid JSON", Some(Foreign::new(e))))?;
        to.insert(key.into(), part);
        Ok(())
    };
    scanner.object(&mut |s, key| match &**key {
        "normalizer" | "pre_tokenizer" | "post_processor" | "decoder" | "added_tokens_decoder" => {
            keep(s, key, &mut file)
        }
        "model" => {
            s.longest();
            s.object(&mut |s, key| match &**key {
                "type" | "dropout" | "unk_id" | "unk_token" | "byte_fallback" => {
                    keep(s, key, &mut model)
                }
                _ => s.skip(),
            })?;
            if s.longest() > MAX_TOKEN {
                return Err(s.wrong("has a token of more than 1024 bytes"));
            }
            Ok(())
        }
        _ => s.skip(),
    })?;
    scanner.end()?;
    if scanner.passed() > MAX_VALUES {
        return Err(scanner.wrong("has more than 2097152 values"));
    }
    file.insert("model".into(), Value::Object(model));
    Ok(Value::Object(file))
}

/// Fails if rules one after the other make a text more than a few hundred times as long. Each of fifty that double it
/// would look harmless.
pub(super) fn check_growth(file: &Value) -> Result<()> {
    let all = [
        growth(&file["normalizer"], "normalizers"),
        growth(&file["decoder"], "decoders"),
    ];
    if all.into_iter().any(|times| times > MAX_GROWTH) {
        return Err(wrong(
            FORMAT,
            "has rules that let a text grow too far",
            None,
        ));
    }
    Ok(())
}

/// How many times as long a rule and those inside it make a text. The depth of the file is bounded by its reader.
fn growth(rule: &Value, inside: &str) -> usize {
    let len = |text: &Value| text.as_str().map_or(0, str::len);
    // By what a rule has: its name may be left out.
    let own = if rule["content"].is_string() {
        let content = len(&rule["content"]);
        match len(&rule["pattern"]["String"]) {
            // Any other pattern may find nothing between two letters.
            0 => content + 1,
            pattern => content.div_ceil(pattern).max(1),
        }
    } else if rule["precompiled_charsmap"].is_string() {
        charsmap::MAX_TEXT
    } else {
        len(&rule["prepend"]) + 1
    };
    let parts = rule[inside].as_array().into_iter().flatten();
    parts.fold(own, |all, part| all.saturating_mul(growth(part, inside)))
}
