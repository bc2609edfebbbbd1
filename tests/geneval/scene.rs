//! Requests of the bundled world, and scenes that answer them.

use support::world::prompts::*;
use support::world::scene::*;
use support::world::*;

#[test]
fn every_request_reads_back_and_its_scene_satisfies_it() {
    let mut rng = Rng::new(3);
    for ask in (0..6).flat_map(Ask::all) {
        assert_eq!(
            Ask::parse(&ask.text()).map(|back| back.record()),
            Some(ask.record())
        );
        let seen: Vec<Seen> = Scene::answering(&ask, &mut rng)
            .objects
            .iter()
            .map(|&o| o.into())
            .collect();
        assert!(satisfies(&ask, &seen), "{}", ask.text());
    }
}

#[test]
fn no_question_has_a_held_out_text() {
    let mut rng = Rng::new(4);
    for _ in 0..2000 {
        let ask = Ask::random(&mut rng);
        let seen: Vec<Seen> = Scene::anything(&mut rng)
            .objects
            .iter()
            .map(|&o| o.into())
            .collect();
        for (text, yes) in questions(&ask, &seen, 8, &mut rng) {
            let asked = Ask::parse(&text).expect("a text of this world");
            assert!(!asked.is_held_out());
            assert_eq!(yes, satisfies(&asked, &seen));
        }
    }
}
