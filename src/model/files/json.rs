//! JSON, front to back: every key once, nested at most so deep, nothing built that is not asked for.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

use super::table::push;
use crate::error::{Error, Name, Result};

/// Most objects and lists inside each other.
const MAX_DEPTH: u32 = 127;
/// Most keys of all objects that are open at a time. They are kept until their object ends, to find one that stands
/// twice.
const MAX_KEYS: usize = 1 << 18;

/// A place in a text. Blanks are passed over before every value.
pub(super) struct Scanner<'a> {
    format: &'static str,
    text: &'a str,
    at: usize,
    depth: u32,
    /// Keys that are kept.
    keys: usize,
    /// Values that were passed over.
    passed: usize,
    /// Bytes of the longest text that was read.
    longest: usize,
}

impl<'a> Scanner<'a> {
    pub(super) const fn new(format: &'static str, text: &'a str) -> Self {
        Self {
            format,
            text,
            at: 0,
            depth: 0,
            keys: 0,
            passed: 0,
            longest: 0,
        }
    }

    /// Values that [`skip`](Self::skip) has passed over, those inside others among them.
    pub(super) const fn passed(&self) -> usize {
        self.passed
    }

    pub(super) const fn wrong(&self, problem: &'static str) -> Error {
        Error::Format {
            format: self.format,
            problem,
            source: None,
        }
    }

    /// Bytes of the longest text since the last call.
    #[cfg(feature = "tokenizers")]
    pub(super) const fn longest(&mut self) -> usize {
        core::mem::replace(&mut self.longest, 0)
    }

    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let blanks = rest.iter().take_while(|b| b" \t\n\r".contains(b)).count();
        self.at += blanks;
        rest.get(blanks).copied()
    }

    fn pass(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.pass(byte) {
            return Ok(());
        }
        Err(self.wrong("is no valid JSON, or not of the kind that is needed"))
    }

    fn inside(&mut self, open: u8) -> Result<()> {
        self.expect(open)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong("nests deeper than 127 levels"));
        }
        Ok(())
    }

    /// Reads an object; `entry` reads each value. A key that stands twice is an error.
    pub(super) fn object(
        &mut self,
        entry: &mut dyn FnMut(&mut Self, &Cow<'a, str>) -> Result<()>,
    ) -> Result<()> {
        self.inside(b'{')?;
        let mut keys = Vec::new();
        if !self.pass(b'}') {
            loop {
                self.peek();
                let key = self.string()?;
                self.expect(b':')?;
                entry(self, &key)?;
                push(self.format, &mut keys, key)?;
                self.keys += 1;
                if self.keys > MAX_KEYS {
                    return Err(self.wrong("has more than 262144 keys"));
                }
                if self.pass(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.depth -= 1;
        self.keys -= keys.len();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => Err(Error::FormatEntry {
                format: self.format,
                entry: Name::owned(&pair[0]),
                problem: "stands twice",
            }),
        }
    }

    /// Reads a list; `element` reads each element.
    pub(super) fn list(&mut self, element: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.inside(b'[')?;
        if !self.pass(b']') {
            loop {
                element(self)?;
                if self.pass(b']') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// A text, borrowed where it has no escapes.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>> {
        self.expect(b'"')?;
        let mut owned = String::new();
        let mut from = self.at;
        loop {
            let byte = self.text.as_bytes().get(self.at).copied();
            match byte {
                None => return Err(self.wrong("has a text without an end")),
                Some(0..0x20) => return Err(self.wrong("has a control character in a text")),
                Some(b'"') => {
                    let part = self.text.get(from..self.at).unwrap_or_default();
                    self.at += 1;
                    self.longest = self.longest.max(owned.len() + part.len());
                    if owned.is_empty() {
                        return Ok(Cow::Borrowed(part));
                    }
                    owned.push_str(part);
                    return Ok(Cow::Owned(owned));
                }
                Some(b'\\') => {
                    owned.push_str(self.text.get(from..self.at).unwrap_or_default());
                    self.at += 1;
                    owned.push(self.escape()?);
                    from = self.at;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += 1;
        Ok(match byte {
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.unit()?;
                let pair = (0xd800..0xdc00).contains(&unit)
                    && self.text.get(self.at..self.at + 2) == Some("\\u");
                let mut units = [unit, 0];
                if pair {
                    self.at += 2;
                    units[1] = self.unit()?;
                }
                let units = units.into_iter().take(1 + usize::from(pair));
                match char::decode_utf16(units).next() {
                    Some(Ok(c)) => c,
                    _ => return Err(self.wrong("has half a character in a text")),
                }
            }
            _ => return Err(self.wrong("has an unknown escape in a text")),
        })
    }

    fn unit(&mut self) -> Result<u16> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|d| u16::from_str_radix(d, 16).ok());
        self.at += 4;
        unit.ok_or(self.wrong("has an unknown escape in a text"))
    }

    /// A whole number of zero or more.
    pub(super) fn whole(&mut self) -> Result<usize> {
        self.peek();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let digits = rest.get(..len).unwrap_or_default();
        let plain = digits == "0" || !digits.starts_with('0');
        let n = digits.parse().ok().filter(|_| plain);
        self.at += len;
        n.ok_or(self.wrong("has no whole number, or one that is too large, where a size stands"))
    }

    /// Passes over any value.
    pub(super) fn skip(&mut self) -> Result<()> {
        self.passed += 1;
        match self.peek() {
            Some(b'{') => self.object(&mut |s, _| s.skip()),
            Some(b'[') => self.list(&mut Self::skip),
            Some(b'"') => self.string().map(drop),
            _ => {
                let rest = self.text.get(self.at..).unwrap_or_default();
                let part = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
                let len = rest.as_bytes().iter().take_while(|b| part(b)).count();
                let word = rest.get(..len).unwrap_or_default();
                self.at += len;
                if matches!(word, "true" | "false" | "null") || is_number(word) {
                    return Ok(());
                }
                Err(self.wrong("is no valid JSON"))
            }
        }
    }

    /// Passes over any value, and gives its text.
    #[cfg(feature = "tokenizers")]
    pub(super) fn value(&mut self) -> Result<&'a str> {
        self.peek();
        let from = self.at;
        self.skip()?;
        Ok(self.text.get(from..self.at).unwrap_or_default())
    }

    /// Fails if anything but blanks is left.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("goes on after its end")),
        }
    }
}

/// Whether a word is a number as JSON writes it.
fn is_number(word: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let word = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match word.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['+', '-']).unwrap_or(e))),
        None => (word, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((w, f)) => (w, Some(f)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(text: &str) -> Result<()> {
        let mut s = Scanner::new("x", text);
        s.skip()?;
        s.end()
    }

    #[test]
    fn values_are_told_from_nonsense() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        for good in [
            "0",
            " -1.5e+7 ",
            "null",
            r#""a\"\u00e9\ud83d\ude00""#,
            r#"{"a": [1, {}, []], "b": {"a": 2}}"#,
            &deep(127),
        ] {
            skipped(good).unwrap();
        }
        for bad in [
            "",
            "01",
            "1.",
            "-",
            "nul",
            "1 2",
            "[1,]",
            "[,]",
            "{\"a\"}",
            "{\"a\": 1,}",
            "{\"a\": 1, \"a\": 2}",
            "[{\"\\u0061\": 1, \"a\": 2}]",
            "\"\n\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\u+123\"",
            "\"a",
            "\"\\",
            "\"\\u12",
            &deep(128),
            &"[".repeat(100_000),
        ] {
            assert!(skipped(bad).is_err(), "{bad:.50}");
        }
    }

    #[test]
    fn a_text_is_read_with_its_escapes() {
        let mut s = Scanner::new("x", r#" "a\n\u00e9\ud83d\ude00z" 12"#);
        assert!(s.whole().is_err());
        assert_eq!(s.string().unwrap(), "a\né😀z");
        assert_eq!(s.whole().unwrap(), 12);
        s.end().unwrap();
    }
}
