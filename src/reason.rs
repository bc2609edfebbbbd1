//! What is wrong with a picture: a judge's or a person's words, read as something that a program can act upon.

mod read;
mod words;

use core::fmt;
use core::mem::discriminant;

use read::{by_rules, read};

/// One thing that is wrong. Words that were not said are `None`; objects are as they were called, without their article.
///
/// Written out ([`fmt::Display`]), every fault but [`Other`](Self::Other) is read back as itself by [`faults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault<'a> {
    /// Something is not there.
    Missing {
        /// What.
        object: &'a str,
    },
    /// Something is there that should not be.
    Extra {
        /// What.
        object: &'a str,
    },
    /// There are too many or too few.
    Count {
        /// Of what.
        object: &'a str,
        /// How many there should be.
        wanted: Option<u32>,
        /// How many there are.
        found: Option<u32>,
    },
    /// Something has another colour.
    Colour {
        /// What.
        object: &'a str,
        /// The colour it should have.
        wanted: Option<&'a str>,
        /// The colour it has.
        found: Option<&'a str>,
    },
    /// Something is in another place.
    Position {
        /// What.
        object: &'a str,
        /// How it should lie to the other one.
        relation: Option<&'a str>,
        /// The other one.
        other: Option<&'a str>,
    },
    /// Things have each other's colours.
    Attribution {
        /// Which two.
        objects: Option<[&'a str; 2]>,
    },
    /// Words that say nothing of the above.
    Other(&'a str),
}

impl<'a> Fault<'a> {
    /// Whether it is the same fault as another one, and says more or something else about it.
    fn adds_to(&self, other: &Self) -> bool {
        let same = discriminant(self) == discriminant(other) && self.object() == other.object();
        same && self != other
    }

    /// The object that is at fault, if one is named.
    #[must_use]
    pub const fn object(&self) -> Option<&'a str> {
        match *self {
            Self::Missing { object }
            | Self::Extra { object }
            | Self::Count { object, .. }
            | Self::Colour { object, .. }
            | Self::Position { object, .. } => Some(object),
            Self::Attribution { .. } | Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing { object } => write!(f, "{object} is missing"),
            Self::Extra { object } => write!(f, "unexpected {object}"),
            Self::Count {
                object,
                wanted,
                found,
            } => match (wanted, found) {
                (Some(wanted), Some(found)) => write!(f, "{found} {object} instead of {wanted}"),
                (Some(wanted), None) => write!(f, "expected {wanted} {object}"),
                (None, Some(found)) => write!(f, "found {found} {object}"),
                (None, None) => write!(f, "wrong number of {object}"),
            },
            Self::Colour {
                object,
                wanted,
                found,
            } => match (wanted, found) {
                (Some(wanted), Some(found)) => write!(f, "{object} is {found} instead of {wanted}"),
                (Some(wanted), None) => write!(f, "{object} is not {wanted}"),
                (None, Some(found)) => write!(f, "{object} should not be {found}"),
                (None, None) => write!(f, "wrong colour of {object}"),
            },
            Self::Position {
                object,
                relation: Some(relation),
                other,
            } => {
                write!(f, "{object} is not {relation}")?;
                other.map_or(Ok(()), |other| write!(f, " {other}"))
            }
            Self::Position { object, .. } => write!(f, "wrong position of {object}"),
            Self::Attribution { objects: None } => write!(f, "colours are swapped"),
            Self::Attribution {
                objects: Some([a, b]),
            } => write!(f, "colours of {a} and {b} are swapped"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// Reads a reason, fault by fault. No text is an error, and none is lost: what is not understood comes as
/// [`Fault::Other`], clause by clause, before and behind what is. It knows English, GenEval's ten colours, and what
/// GenEval's rules say.
///
/// ```
/// use maquette::reason::{Fault, faults};
///
/// let mut read = faults("The car is blue instead of red, and there is no book. It looks odd.");
/// assert_eq!(read.next(), Some(Fault::Colour { object: "car", wanted: Some("red"), found: Some("blue") }));
/// assert_eq!(read.next(), Some(Fault::Missing { object: "book" }));
/// assert_eq!(read.next(), Some(Fault::Other("It looks odd")));
/// assert_eq!(read.next(), None);
/// ```
#[must_use]
pub const fn faults(text: &str) -> Faults<'_> {
    Faults {
        rest: text,
        clause: "",
        held: None,
    }
}

/// The faults of a text; see [`faults`].
#[derive(Debug, Clone)]
pub struct Faults<'a> {
    rest: &'a str,
    /// What is left of a clause.
    clause: &'a str,
    /// A fault that the words in front of it go before.
    held: Option<Fault<'a>>,
}

impl<'a> Iterator for Faults<'a> {
    type Item = Fault<'a>;

    fn next(&mut self) -> Option<Fault<'a>> {
        loop {
            if let Some(fault) = self.held.take() {
                return Some(fault);
            }
            if self.clause.is_empty() {
                if self.rest.is_empty() {
                    return None;
                }
                (self.clause, self.rest) = cut(self.rest, clause_end);
            }
            let words;
            (words, self.held, self.clause) = first_fault(self.clause);
            if !words.is_empty() {
                return Some(Fault::Other(words));
            }
        }
    }
}

/// Pieces of a clause that are read together at most.
const RUN: usize = 8;

/// The first fault that a piece of a clause names, or that it names together with pieces behind it which name none: what
/// stands before it, and what behind.
fn first_fault(clause: &str) -> (&str, Option<Fault<'_>>, &str) {
    let part = |from, to| clause.get(from..to).unwrap_or("");
    let mut all = pieces(clause);
    let mut words: Option<[usize; 2]> = None;
    while let Some([from, to]) = all.next() {
        let mut found = read(part(from, to)).map(|fault| (fault, to));
        for [start, end] in all.clone().take(RUN - 1) {
            let run = part(from, end);
            // What the rules say is one fault, although its end may be one alone.
            if read(part(start, end)).is_some() && by_rules(run).is_none() {
                break;
            }
            let more = read(run);
            if let Some(more) = more
                && found.is_none_or(|(fault, _)| more.adds_to(&fault))
            {
                found = Some((more, end));
            }
        }
        if let Some((fault, end)) = found {
            let before = words.map_or("", |[from, to]| part(from, to));
            return (before, Some(fault), part(end, clause.len()));
        }
        words = Some([words.map_or(from, |words| words[0]), to]);
    }
    (words.map_or("", |[from, to]| part(from, to)), None, "")
}

/// Where the pieces of a clause begin and end, without those that are empty.
fn pieces(clause: &str) -> impl Iterator<Item = [usize; 2]> + Clone + '_ {
    let mut at = 0;
    core::iter::from_fn(move || {
        loop {
            let rest = clause.get(at..).filter(|rest| !rest.is_empty())?;
            let [end, next] = piece_end(rest).unwrap_or([rest.len(); 2]);
            let piece = rest.get(..end)?;
            let from = at + piece.len() - piece.trim_start().len();
            at += next;
            let len = piece.trim().len();
            if len > 0 {
                return Some([from, from + len]);
            }
        }
    })
}

/// What stands before an end, trimmed, and what stands behind it.
fn cut(text: &str, end: fn(&str) -> Option<[usize; 2]>) -> (&str, &str) {
    let [from, to] = end(text).unwrap_or([text.len(); 2]);
    let (before, after) = (text.get(..from), text.get(to..));
    (before.unwrap_or(text).trim(), after.unwrap_or(""))
}

/// Where a clause ends and the next begins. A full stop ends one if no letter or digit follows.
fn clause_end(text: &str) -> Option<[usize; 2]> {
    let mut next = text.chars();
    text.char_indices().find_map(|(at, c)| {
        next.next();
        let ends = match c {
            ';' | '\n' | '!' | '?' | ':' => true,
            '.' => next.clone().next().is_none_or(|c| !c.is_alphanumeric()),
            _ => false,
        };
        ends.then_some([at, at + c.len_utf8()])
    })
}

fn piece_end(text: &str) -> Option<[usize; 2]> {
    text.char_indices().find_map(|(at, c)| {
        let marks: &[&str] = match c {
            ',' => &[", and ", ","],
            ' ' => &[" and "],
            _ => return None,
        };
        let rest = text.get(at..)?;
        let mark = marks.iter().find(|mark| rest.starts_with(**mark))?;
        Some([at, at + mark.len()])
    })
}

#[cfg(test)]
mod tests;
