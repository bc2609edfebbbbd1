//! Texts that are kept for the evaluation.

use alloc::collections::BTreeSet;
use alloc::string::String;

/// Texts that must not be trained on. Two texts are the same if they have the same words in the same order: case,
/// punctuation, spaces and articles do not count.
///
/// ```
/// use maquette::align::annotation::Leakage;
/// let mut held_out = Leakage::default();
/// assert!(held_out.insert("a photo of a red car"));
/// assert!(held_out.contains("Photo of the  RED car."));
/// assert!(!held_out.contains("a photo of a blue car"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Leakage {
    texts: BTreeSet<String>,
}

/// The words that count.
fn words(text: &str) -> String {
    let mut out = String::new();
    let pieces = text.split(|c: char| !c.is_alphanumeric());
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let word: String = piece.chars().flat_map(char::to_lowercase).collect();
        if !matches!(&*word, "a" | "an" | "the") {
            out.push(' ');
            out.push_str(&word);
        }
    }
    out
}

impl Leakage {
    /// Keeps a text; whether it is new.
    pub fn insert(&mut self, text: &str) -> bool {
        self.texts.insert(words(text))
    }

    /// Whether a text is kept.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        self.texts.contains(&words(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_counts_and_dress_does_not() {
        let mut kept = Leakage::default();
        assert!(!kept.contains(""));
        assert!(kept.insert("a photo of an apple left of a banana"));
        assert!(!kept.insert("A photo, of apple   left of banana!"));
        assert!(!kept.contains("a photo of a banana left of an apple"));
        assert!(!kept.contains("a photo of an apple left of a bananaa"));
    }
}
