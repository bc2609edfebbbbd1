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
        faults("no cup and the book is missing; strange light\nextra car, too few boats").collect();
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
