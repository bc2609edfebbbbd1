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
mod tests {
    use alloc::string::ToString;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::words::{COLOURS, GRAMMAR};
    use super::*;

    fn one(text: &str) -> Fault<'_> {
        let mut all = faults(text);
        let first = all.next().unwrap();
        assert_eq!(all.next(), None, "{text}");
        first
    }

    #[test]
    fn reasons_are_read_whoever_wrote_them() {
        let missing = |object| Fault::Missing { object };
        let extra = |object| Fault::Extra { object };
        let count = |object, wanted, found| Fault::Count {
            object,
            wanted,
            found,
        };
        let colour = |object, wanted, found| Fault::Colour {
            object,
            wanted,
            found,
        };
        let position = |object, relation, other| Fault::Position {
            object,
            relation,
            other,
        };
        for (text, want) in [
            (
                "There is no traffic light in the image.",
                missing("traffic light"),
            ),
            ("no cup", missing("cup")),
            ("The book is missing", missing("book")),
            ("missing a red book", missing("red book")),
            ("the kite isn't visible", missing("kite")),
            ("The picture lacks a boat.", missing("boat")),
            ("expected cup>=1, found 0", missing("cup")),
            ("There is an unexpected dog", extra("dog")),
            ("the dog should not be there", extra("dog")),
            ("expected dog<1, found 2", extra("dog")),
            ("wrong number of apples", count("apples", None, None)),
            (
                "too many apples in the picture",
                count("apples", None, None),
            ),
            (
                "2 apples instead of three",
                count("apples", Some(3), Some(2)),
            ),
            (
                "Expected 3 apples, found only 2.",
                count("apples", Some(3), Some(2)),
            ),
            ("There are only two apples", count("apples", None, Some(2))),
            (
                "expected apple>=3, found 2",
                count("apple", Some(3), Some(2)),
            ),
            (
                "expected apple<5, found 5",
                count("apple", Some(4), Some(5)),
            ),
            (
                "the car is blue instead of red",
                colour("car", Some("red"), Some("blue")),
            ),
            (
                "The car is not red but BLUE!",
                colour("car", Some("red"), Some("blue")),
            ),
            (
                "the car is blue, not red",
                colour("car", Some("red"), Some("blue")),
            ),
            ("the car should be red", colour("car", Some("red"), None)),
            ("the car has the wrong color", colour("car", None, None)),
            (
                "expected red car>=1, found 0 red",
                colour("car", Some("red"), None),
            ),
            (
                "the cup should be left of the book",
                position("cup", Some("left of"), Some("book")),
            ),
            (
                "The cup is to the right of the book instead of to the left of it",
                position("cup", Some("left of"), Some("book")),
            ),
            ("the cup is in the wrong place", position("cup", None, None)),
            (
                "no target for cup to be above",
                position("cup", Some("above"), None),
            ),
            (
                "expected cup left of target, found right of target",
                position("cup", Some("left of"), None),
            ),
            (
                "The colours of the cup and the book are swapped",
                Fault::Attribution {
                    objects: Some(["cup", "book"]),
                },
            ),
            (
                "attributes are mixed up",
                Fault::Attribution { objects: None },
            ),
            (
                "It looks like 3.5 cups",
                Fault::Other("It looks like 3.5 cups"),
            ),
            ("\u{20ac} n\u{e4}", Fault::Other("\u{20ac} n\u{e4}")),
        ] {
            assert_eq!(one(text), want, "{text}");
        }
    }

    #[test]
    fn clauses_and_their_pieces_are_faults_of_their_own() {
        let all: Vec<_> =
            faults("no cup and the book is missing; strange light\nextra car, too few boats")
                .collect();
        assert_eq!(
            all,
            [
                Fault::Missing { object: "cup" },
                Fault::Missing { object: "book" },
                Fault::Other("strange light"),
                Fault::Extra { object: "car" },
                Fault::Count {
                    object: "boats",
                    wanted: None,
                    found: None
                },
            ]
        );
        assert_eq!(faults(" .;\n").next(), None);
    }

    #[test]
    fn what_stands_beside_a_fault_is_not_lost() {
        let missing = |object| Fault::Missing { object };
        let all = |text| faults(text).collect::<Vec<_>>();
        for (text, want) in [
            (
                "The cup is missing and the light is strange",
                [missing("cup"), Fault::Other("the light is strange")],
            ),
            (
                "The light is strange and the cup is missing",
                [Fault::Other("The light is strange"), missing("cup")],
            ),
            (
                "the cup is missing, and the plate",
                [missing("cup"), Fault::Other("the plate")],
            ),
            (
                "The picture lacks a cup and a plate",
                [missing("cup"), Fault::Other("a plate")],
            ),
            (
                "the car is not red but blue, oddly",
                [
                    Fault::Colour {
                        object: "car",
                        wanted: Some("red"),
                        found: Some("blue"),
                    },
                    Fault::Other("oddly"),
                ],
            ),
        ] {
            assert_eq!(all(text), want, "{text}");
        }
        // Pieces that belong together say more than each alone, whatever stands beside them.
        let colour = Fault::Colour {
            object: "car",
            wanted: Some("red"),
            found: Some("blue"),
        };
        assert_eq!(all("the car should be red, not blue"), [colour]);
        let odd = Fault::Other("it looks odd, and old");
        for text in [
            "it looks odd, and old, and the car is blue, not red, and no cup",
            "it looks odd, and old, and the car should be red, not blue and no cup",
        ] {
            assert_eq!(all(text), [odd, colour, missing("cup")], "{text}");
        }
        assert_eq!(all("it looks odd, and old"), [odd]);
    }

    /// Texts out of the grammar's own words, so that much of it is read.
    fn sayings() -> impl Strategy<Value = alloc::string::String> {
        let mut words: Vec<&str> = GRAMMAR.to_vec();
        words.extend(COLOURS);
        words.extend([
            "3",
            "two",
            "left",
            "of",
            "above",
            "cup",
            "the",
            "red car",
            ",",
            ";",
            ". ",
            ">=",
            "<",
            "in the picture",
        ]);
        prop::collection::vec(prop::sample::select(words), 0..12).prop_map(|words| words.join(" "))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn prop_any_text_is_read_and_what_was_read_is_read_again(text in prop_oneof![any::<alloc::string::String>(), sayings()]) {
            for fault in faults(&text) {
                let again = fault.to_string();
                if let Fault::Other(words) = fault {
                    prop_assert!(!words.is_empty() && text.contains(words));
                } else {
                    prop_assert_eq!(faults(&again).next(), Some(fault), "{:?}", again);
                }
            }
        }

        #[test]
        fn prop_unknown_words_are_kept(text in "[b-d ]{0,40}([.;] [b-d ]{0,20})?") {
            let words = |text: &str| text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(ToString::to_string).collect::<Vec<_>>();
            let kept: Vec<_> = faults(&text).flat_map(|fault| match fault {
                Fault::Other(part) => words(part),
                fault => panic!("{fault:?}"),
            }).collect();
            prop_assert_eq!(kept, words(&text));
        }
    }
}
