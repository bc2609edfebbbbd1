//! The table of a `Precompiled` normaliser, checked before the `tokenizers` crate walks it without bounds.
//!
//! Base64 of: bytes of a double array (u32), the array (u32 units), and texts that end with a zero byte. A unit holds
//! its label, the offset of its children and whether they begin with a leaf; a leaf holds the place of a text.

use alloc::vec::Vec;

use serde_json::Value;

use super::{FORMAT, wrong};
use crate::error::{Error, Result};

/// Longest text that stands for a piece of another one: twice that of any letter's compatible form.
pub(super) const MAX_TEXT: usize = 64;

/// Checks every table under the file's normaliser. The depth of the file is bounded by its reader.
pub(super) fn check(file: &Value) -> Result<()> {
    fn walk(rules: &Value) -> Result<()> {
        match &rules["precompiled_charsmap"] {
            Value::Null if rules["type"] != "Precompiled" => {}
            Value::String(table) => {
                check_table(&decode(table).ok_or_else(broken)?).ok_or_else(broken)?;
            }
            _ => return Err(broken()),
        }
        let parts = rules["normalizers"].as_array();
        parts.into_iter().flatten().try_for_each(walk)
    }
    walk(&file["normalizer"])
}

fn broken() -> Error {
    wrong(FORMAT, "has a table of characters that is damaged", None)
}

fn check_table(bytes: &[u8]) -> Option<()> {
    let (size, rest) = bytes.split_first_chunk()?;
    let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
    let (units, texts) = rest.split_at_checked(size - size % 4)?;
    let texts = core::str::from_utf8(texts).ok()?;
    if texts.split('\0').any(|text| text.len() > MAX_TEXT) {
        return None;
    }
    let units: Vec<u32> = units
        .chunks_exact(4)
        .map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]]))
        .collect();
    // Children lie at a place whose low byte is exchanged for each byte of a text: whole blocks hold them all.
    if units.is_empty() || !units.len().is_multiple_of(256) {
        return None;
    }
    for (place, &unit) in units.iter().enumerate() {
        // Leaves have the top bit, and no byte is such a label.
        if unit >> 31 == 1 {
            continue;
        }
        let shift = (unit & (1 << 9)) >> 6;
        let children = place ^ ((unit as usize >> 10) << shift);
        let leaf = *units.get(children)?;
        if unit & (1 << 8) != 0 {
            let text = usize::try_from(leaf & (u32::MAX >> 1)).ok()?;
            texts.get(text..)?;
        }
    }
    Some(())
}

/// Standard base64 with its padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text
        .iter()
        .rev()
        .take(2)
        .take_while(|&&c| c == b'=')
        .count();
    let mut out = Vec::new();
    out.try_reserve(text.len() / 4 * 3).ok()?;
    for (i, four) in text.chunks_exact(4).enumerate() {
        let mut bits = 0;
        for (j, &c) in four.iter().enumerate() {
            let value = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' if 4 * i + j >= text.len() - padding => 0,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        out.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    out.truncate(out.len() - padding);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base64 without padding.
    fn encode(bytes: &[u8]) -> alloc::string::String {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let four = |b: &[u8]| {
            let bits = u32::from_be_bytes([0, b[0], b[1], b[2]]);
            [18, 12, 6, 0].map(|shift| char::from(letters[(bits >> shift) as usize & 63]))
        };
        bytes.chunks_exact(3).flat_map(four).collect()
    }

    /// A table of one block with a unit at the root, a leaf at place 1, and one text.
    fn table(size: u32, root: u32, leaf: u32, text: &[u8]) -> Vec<u8> {
        let mut bytes = size.to_le_bytes().to_vec();
        let mut units = [0_u32; 256];
        (units[0], units[1]) = (root, leaf);
        bytes.extend(units.iter().flat_map(|u| u.to_le_bytes()));
        bytes.extend_from_slice(text);
        bytes
    }

    #[test]
    fn base64_is_read_as_written() {
        assert_eq!(decode("TWFu").as_deref(), Some(&b"Man"[..]));
        assert_eq!(decode("TWE=").as_deref(), Some(&b"Ma"[..]));
        assert_eq!(decode("TQ==").as_deref(), Some(&b"M"[..]));
        for bad in ["TWF", "T===", "TW=u", "TW?u", "=WFu"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode(&encode(b"abcxyz")).unwrap(), b"abcxyz");
    }

    #[test]
    fn a_table_that_leads_outside_is_refused() {
        let (children, leaf) = (1 << 10 | 1 << 8, 1 << 31);
        assert!(check_table(&table(1024, children, leaf, b"ab\0")).is_some());
        for (bad, why) in [
            (table(4096, children, leaf, b"ab\0"), "size"),
            (table(1020, children, leaf, b"ab\0"), "block"),
            (table(1024, 300 << 10, leaf, b"ab\0"), "children"),
            (table(1024, children, leaf | 9, b"ab\0"), "text"),
            (table(1024, children, leaf | 1, "é\0".as_bytes()), "letter"),
            (table(1024, children, leaf, b"\xff\0"), "bytes"),
        ] {
            assert!(check_table(&bad).is_none(), "{why}");
        }
        assert!(check_table(&[]).is_none());
        let file = serde_json::json!({"normalizer": {"normalizers": [
            {"precompiled_charsmap": encode(&[0; 6])},
        ]}});
        assert!(check(&file).is_err());
    }
}
