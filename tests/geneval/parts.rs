//! The parts of prompts that a judge is asked about.

use maquette::parts::PromptParts;
use support::parts::Parts;
use support::world::prompts::{Ask, TAGS};

fn parts(prompt: &str) -> Vec<[String; 2]> {
    let mut all = Vec::new();
    Parts
        .each(prompt, &mut |part| {
            all.push([part.text.to_owned(), part.fault.to_string()]);
            Ok(())
        })
        .unwrap();
    all
}

#[test]
fn every_part_is_a_prompt_of_the_world() {
    for task in 0..TAGS.len() {
        for ask in Ask::all(task) {
            let all = parts(&ask.text());
            assert!(!all.is_empty());
            for [text, _] in all {
                assert!(Ask::parse(&text).is_some(), "{text}");
            }
        }
    }
}

#[test]
fn parts_come_with_their_faults() {
    let told = |prompt: &str| -> Vec<String> {
        parts(prompt)
            .into_iter()
            .map(|[text, fault]| format!("{text}: {fault}"))
            .collect()
    };
    assert_eq!(
        told("a photo of a red car and a blue book"),
        [
            "a photo of a car: car is missing",
            "a photo of a book: book is missing",
            "a photo of a red car: car is not red",
            "a photo of a blue book: book is not blue",
            "a photo of a red car and a blue book: colours of car and book are swapped",
        ]
    );
    assert_eq!(
        told("a photo of three apples"),
        [
            "a photo of an apple: apple is missing",
            "a photo of three apples: expected 3 apple",
        ]
    );
    assert_eq!(
        told("a photo of a cup left of a kite"),
        [
            "a photo of a kite: kite is missing",
            "a photo of a cup: cup is missing",
            "a photo of a cup left of a kite: cup is not left of kite",
        ]
    );
    // Another world's.
    assert_eq!(
        told("a watercolour painting of a dog, a tree and the moon"),
        [
            "a watercolour painting of a dog: dog is missing",
            "a watercolour painting of a tree: tree is missing",
            "a watercolour painting of the moon: moon is missing",
        ]
    );
    assert!(told("a photo of the moon").is_empty());
}
