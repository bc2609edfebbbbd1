//! A typed view of a checkpoint's `config.json`.

use alloc::vec::Vec;

use serde_json::Value;

use super::json::Scanner;
use crate::error::{Error, Foreign, Result};

/// Longest text.
const MAX_TEXT: usize = 1 << 20;
/// Most values. A small object takes hundreds of bytes, however short its text.
const MAX_VALUES: usize = 1 << 15;

/// One object of a `config.json`. Every number is checked when it is asked for; a `null` counts as missing.
///
/// ```
/// use maquette::model::files::config::JsonConfig;
/// let config = JsonConfig::parse(r#"{"text": {"hidden_size": 96}, "rope_theta": 1e4}"#)?;
/// let text = config.child("text").expect("it is there");
/// assert_eq!(text.size("hidden_size")?, 96);
/// assert_eq!(text.size_or("num_hidden_layers", 2)?, 2);
/// assert!(text.size("vocab_size").is_err());
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct JsonConfig {
    object: Value,
}

impl JsonConfig {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`Error::Format`] or [`Error::FormatEntry`] for text that is no JSON, nests deeper than 127 levels, has a key
    /// twice in one object, or is no object.
    pub fn parse(text: &str) -> Result<Self> {
        // Of two equal keys the other reader takes the last in silence.
        let mut scanner = Scanner::new("config.json", text);
        if text.len() > MAX_TEXT {
            return Err(scanner.wrong("has more than 1 MiB"));
        }
        scanner.skip()?;
        scanner.end()?;
        if scanner.passed() > MAX_VALUES {
            return Err(scanner.wrong("has more than 32768 values"));
        }
        let object = serde_json::from_str::<Value>(text).map_err(|source| Error::Format {
            format: "config.json",
            problem: "is no valid JSON",
            source: Some(Foreign::new(source)),
        })?;
        if !object.is_object() {
            return Err(Error::Format {
                format: "config.json",
                problem: "is no object",
                source: None,
            });
        }
        Ok(Self { object })
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether it has no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.object
            .as_object()
            .is_none_or(|object| object.is_empty())
    }

    /// Whether the key is there and not `null`.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The object under a key, if it is there and an object.
    #[must_use]
    pub fn child(&self, key: &str) -> Option<Self> {
        self.value(key)
            .filter(|value| value.is_object())
            .map(|object| Self {
                object: object.clone(),
            })
    }

    /// A whole number from 0 to 2³² − 1.
    ///
    /// # Errors
    /// [`Error::Config`] for a missing key, another kind of value, or a number outside the range.
    pub fn size(&self, key: &'static str) -> Result<usize> {
        self.value(key)
            .ok_or(missing(key))
            .and_then(|value| whole(key, value))
    }

    /// As [`size`](Self::size), or `default` where the key is missing.
    ///
    /// # Errors
    /// As [`size`](Self::size), but for a missing key.
    pub fn size_or(&self, key: &'static str, default: usize) -> Result<usize> {
        self.value(key)
            .map_or(Ok(default), |value| whole(key, value))
    }

    /// A number as [`size`](Self::size) that may be missing.
    ///
    /// # Errors
    /// As [`size`](Self::size), but for a missing key.
    pub fn optional_size(&self, key: &'static str) -> Result<Option<usize>> {
        self.value(key).map(|value| whole(key, value)).transpose()
    }

    /// A finite number.
    ///
    /// # Errors
    /// [`Error::Config`] for a missing key, another kind of value, or a number beyond single precision.
    pub fn float(&self, key: &'static str) -> Result<f32> {
        self.value(key)
            .ok_or(missing(key))
            .and_then(|value| number(key, value))
    }

    /// As [`float`](Self::float), or `default` where the key is missing.
    ///
    /// # Errors
    /// As [`float`](Self::float), but for a missing key.
    pub fn float_or(&self, key: &'static str, default: f32) -> Result<f32> {
        self.value(key)
            .map_or(Ok(default), |value| number(key, value))
    }

    /// True or false, or `default` where the key is missing.
    ///
    /// # Errors
    /// [`Error::Config`] for another kind of value.
    pub fn flag_or(&self, key: &'static str, default: bool) -> Result<bool> {
        self.value(key).map_or(Ok(default), |value| {
            value.as_bool().ok_or(Error::Config {
                key,
                problem: "is neither true nor false",
            })
        })
    }

    /// A text, if the key is there and one.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.as_str()
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// [`Error::Config`] for a missing key, no list, or an entry that is no [`size`](Self::size).
    pub fn sizes(&self, key: &'static str) -> Result<Vec<usize>> {
        self.optional_sizes(key)?.ok_or(missing(key))
    }

    /// As [`sizes`](Self::sizes), for a key that may be missing.
    ///
    /// # Errors
    /// As [`sizes`](Self::sizes), but for a missing key.
    pub fn optional_sizes(&self, key: &'static str) -> Result<Option<Vec<usize>>> {
        self.value(key)
            .map(|value| list(key, value, whole))
            .transpose()
    }

    /// A list of pairs of whole numbers; empty where the key is missing.
    ///
    /// # Errors
    /// [`Error::Config`] for no list, or an entry that is no pair of [`size`](Self::size)s.
    pub fn pairs(&self, key: &'static str) -> Result<Vec<[usize; 2]>> {
        let pair = |key, value: &Value| match value.as_array().map(Vec::as_slice) {
            Some([a, b]) => Ok([whole(key, a)?, whole(key, b)?]),
            _ => Err(Error::Config {
                key,
                problem: "has an entry that is no pair",
            }),
        };
        self.value(key)
            .map_or(Ok(Vec::new()), |value| list(key, value, pair))
    }
}

const fn missing(key: &'static str) -> Error {
    Error::Config {
        key,
        problem: "is missing",
    }
}

fn whole(key: &'static str, value: &Value) -> Result<usize> {
    let n = value.as_u64().ok_or(Error::Config {
        key,
        problem: "is not a whole number of zero or more",
    })?;
    let n = u32::try_from(n).map_err(|_| Error::Config {
        key,
        problem: "is too large",
    })?;
    Ok(n as usize)
}

fn number(key: &'static str, value: &Value) -> Result<f32> {
    let n = value.as_f64().ok_or(Error::Config {
        key,
        problem: "is not a number",
    })?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "settings are single precision; infinity is refused below"
    )]
    let n = n as f32;
    if n.is_finite() {
        Ok(n)
    } else {
        Err(Error::Config {
            key,
            problem: "is too large",
        })
    }
}

fn list<T>(
    key: &'static str,
    value: &Value,
    entry: impl Fn(&'static str, &Value) -> Result<T>,
) -> Result<Vec<T>> {
    let entries = value.as_array().ok_or(Error::Config {
        key,
        problem: "is not a list",
    })?;
    entries.iter().map(|value| entry(key, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn values_are_read_by_type() {
        let config = JsonConfig::parse(
            r#"{"a": 3, "eps": 1e-6, "on": true, "name": "gelu", "mult": [1, 2], "pairs": [[1, 2], [3, 4]], "none": null}"#,
        )
        .unwrap();
        assert_eq!(config.size("a").unwrap(), 3);
        assert_eq!(config.optional_size("none").unwrap(), None);
        assert!((config.float("eps").unwrap() - 1e-6).abs() < 1e-12);
        assert!((config.float("a").unwrap() - 3.0).abs() < 1e-12);
        assert!(config.flag_or("on", false).unwrap());
        assert_eq!(config.text("name"), Some("gelu"));
        assert_eq!(config.sizes("mult").unwrap(), [1, 2]);
        assert_eq!(config.pairs("pairs").unwrap(), [[1, 2], [3, 4]]);
        assert_eq!(config.size_or("none", 7).unwrap(), 7);
        assert!(!config.has("none") && config.child("a").is_none());
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let config = JsonConfig::parse(
            r#"{"neg": -1, "frac": 1.5, "huge": 18446744073709551615, "big": 1e300, "text": "3", "mix": [1, "a"], "odd": [[1]]}"#,
        )
        .unwrap();
        assert_eq!(
            config.size("gone").unwrap_err().to_string(),
            "config: \"gone\" is missing"
        );
        for key in ["neg", "frac", "huge", "big", "text", "mix"] {
            assert!(matches!(config.size(key), Err(Error::Config { key: k, .. }) if k == key));
            assert!(matches!(config.size_or(key, 1), Err(Error::Config { .. })));
            assert!(matches!(
                config.flag_or(key, true),
                Err(Error::Config { .. })
            ));
            assert!(matches!(config.sizes(key), Err(Error::Config { .. })));
        }
        assert!(config.float("big").is_err() && config.float("text").is_err());
        assert!(config.pairs("odd").is_err() && config.pairs("mix").is_err());
    }

    #[test]
    fn text_that_is_no_object_is_refused() {
        let deep = "[".repeat(100_000);
        let deep_objects = r#"{"a":"#.repeat(100_000);
        for text in [
            "",
            "{",
            "[]",
            "3",
            "{\"a\": 1e999}",
            "\u{0}",
            &deep,
            &deep_objects,
        ] {
            assert!(matches!(
                JsonConfig::parse(text),
                Err(Error::Format {
                    format: "config.json",
                    ..
                })
            ));
        }
    }
}
