//! A clause by its words.

/// Words of a clause that are read at most; a longer one says something else.
const MOST: usize = 24;

pub(super) const COLOURS: [&str; 12] = [
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
    "gray", "grey",
];

const NUMBERS: [&str; 11] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
];

/// How things lie to each other; the longer of two that begin alike stands first.
pub(super) const RELATIONS: [&str; 10] = [
    "left of",
    "right of",
    "on top of",
    "in front of",
    "next to",
    "above",
    "below",
    "under",
    "beside",
    "behind",
];

/// Words that are no part of an object's name.
pub(super) const GRAMMAR: [&str; 62] = [
    "is",
    "are",
    "was",
    "were",
    "isn't",
    "aren't",
    "be",
    "been",
    "has",
    "have",
    "had",
    "not",
    "no",
    "never",
    "instead",
    "rather",
    "than",
    "should",
    "expected",
    "found",
    "only",
    "missing",
    "absent",
    "extra",
    "unexpected",
    "unwanted",
    "additional",
    "wrong",
    "incorrect",
    "number",
    "count",
    "colour",
    "color",
    "colours",
    "colors",
    "position",
    "place",
    "and",
    "or",
    "but",
    "too",
    "many",
    "few",
    "enough",
    "without",
    "lacks",
    "there",
    "visible",
    "present",
    "shown",
    "swapped",
    "exchanged",
    "mixed",
    "switched",
    "see",
    "cannot",
    "it",
    "looks",
    "does",
    "that",
    "which",
    "target",
];

/// A clause by its words.
pub(super) struct Words<'a> {
    text: &'a str,
    /// First byte of each word and the byte behind it, without the punctuation around it.
    spans: [[usize; 2]; MOST],
    pub(super) len: usize,
}

impl<'a> Words<'a> {
    pub(super) fn new(text: &'a str) -> Option<Self> {
        let mut words = Self {
            text,
            spans: [[0; 2]; MOST],
            len: 0,
        };
        for word in text.split_whitespace() {
            let word = word.trim_matches(|c: char| !c.is_alphanumeric());
            if word.is_empty() {
                continue;
            }
            let from = (word.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
            *words.spans.get_mut(words.len)? = [from, from + word.len()];
            words.len += 1;
        }
        Some(words)
    }

    fn word(&self, at: usize) -> &'a str {
        let span = self.spans.get(at).filter(|_| at < self.len);
        span.and_then(|&[from, to]| self.text.get(from..to))
            .unwrap_or("")
    }

    pub(super) fn is(&self, at: usize, any: &[&str]) -> bool {
        any.iter()
            .any(|known| self.word(at).eq_ignore_ascii_case(known))
    }

    /// Place of the first of these words in a range.
    pub(super) fn find(&self, from: usize, to: usize, any: &[&str]) -> Option<usize> {
        (from..to.min(self.len)).find(|&at| self.is(at, any))
    }

    /// Whether a phrase begins here, and how many words it has.
    fn phrase(&self, at: usize, phrase: &str) -> Option<usize> {
        let n = phrase.split(' ').count();
        let same = phrase
            .split(' ')
            .enumerate()
            .all(|(i, word)| self.is(at + i, &[word]));
        same.then_some(n)
    }

    pub(super) fn colour(&self, from: usize, to: usize) -> Option<(usize, &'static str)> {
        (from..to.min(self.len)).find_map(|at| {
            let known = COLOURS.into_iter().find(|colour| self.is(at, &[colour]));
            known.map(|colour| (at, colour))
        })
    }

    pub(super) fn number(&self, from: usize, to: usize) -> Option<(usize, u32)> {
        (from..to.min(self.len)).find_map(|at| number(self.word(at)).map(|n| (at, n)))
    }

    /// The first relation in a range: where it begins, where it ends, its name.
    pub(super) fn relation(&self, from: usize, to: usize) -> Option<(usize, usize, &'static str)> {
        (from..to.min(self.len)).find_map(|at| {
            let here = |known: &'static str| {
                let end = at + self.phrase(at, known)?;
                (end <= to).then_some((at, end, known))
            };
            RELATIONS.into_iter().find_map(here)
        })
    }

    /// The object that these words name: no grammar in it, articles before it, ties to a relation and a phrase about the
    /// picture behind it left out.
    pub(super) fn object(&self, mut from: usize, mut to: usize) -> Option<&'a str> {
        to = to.min(self.len);
        let picture = |at| self.is(at, &["image", "picture", "photo", "scene"]);
        let phrase =
            (from..to).find(|&at| self.is(at, &["in"]) && (picture(at + 1) || picture(at + 2)));
        to = phrase.unwrap_or(to);
        while from < to && self.is(from, &["a", "an", "the", "any", "this", "these", "some"]) {
            from += 1;
        }
        while from < to && self.is(to - 1, &["the", "to", "on", "at", "of"]) {
            to -= 1;
        }
        if from >= to || self.find(from, to, &GRAMMAR).is_some() {
            return None;
        }
        let ([first, _], [_, last]) = (self.spans.get(from)?, self.spans.get(to - 1)?);
        // What stands on both sides of a comma is no one name.
        let name = self.text.get(*first..*last);
        name.filter(|name| !name.contains(','))
    }

    pub(super) fn object_from(&self, from: usize) -> Option<&'a str> {
        self.object(from, self.len)
    }
}

pub(super) fn number(word: &str) -> Option<u32> {
    let named = NUMBERS
        .iter()
        .position(|name| word.eq_ignore_ascii_case(name));
    match named {
        Some(n) => u32::try_from(n).ok(),
        // A sign is no number's part.
        None if word.bytes().all(|b| b.is_ascii_digit()) => word.parse().ok(),
        None => None,
    }
}
