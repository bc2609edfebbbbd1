//! What a correction keeps of a drawn scene, by the labelling detector.

use maquette::codes::CodeGrid;
use maquette::reward::{Ask, ViewKey};
use maquette::search::{Locator, Sight};
use maquette::{CandidateId, ImageBatch, ImageSize, Judgement, Prompt};
use support::locator::Objects;
use support::world::{Painter, SIDE};

use super::scene;

/// The support of the 8×8 codes of a red car, top left, and a blue book, bottom right.
fn support(prompt: &str) -> maquette::Result<Vec<f32>> {
    let pixels = Painter::new().draw(0, &scene(), &[]);
    let (prompt, size) = (
        Prompt::new(prompt),
        ImageSize::new(SIDE as u32, SIDE as u32),
    );
    let keys = [ViewKey {
        candidate: CandidateId(0),
        step: 18,
    }];
    let shown = ImageBatch::new(1, size, &pixels)?;
    let ask = Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(shown);
    let grid = CodeGrid::new(8, 8, 1024);
    let mut support = vec![-1.0; grid.len()];
    let mut never = |_, _: &Prompt<'_>, _: ImageBatch<'_>, _: &mut [maquette::Verdict]| {
        panic!("nothing is asked")
    };
    Objects::load()
        .unwrap()
        .locate(&Sight::new(ask, grid), &mut never, &mut support)?;
    Ok(support)
}

/// Places in the middle of the car, of the book, and where nothing is.
const CAR: usize = 2 * 8 + 1;
const BOOK: usize = 5 * 8 + 5;
const NOTHING: usize = 8 + 6;

#[test]
fn objects_that_are_wanted_stay_and_others_go() {
    let both = support("a photo of a red car and a blue book").unwrap();
    assert!(both[CAR] > 0.5 && both[BOOK] > 0.5, "{both:?}");
    assert!((0.0..0.5).contains(&both[NOTHING]), "{both:?}");
    // A book of another colour is not what was asked for, and what shows nothing stays before it.
    let car = support("a photo of a red car and a green book").unwrap();
    assert!(car[CAR] > 0.5 && car[BOOK] < car[NOTHING], "{car:?}");
    let neither = support("a photo of two cups").unwrap();
    assert!(neither[CAR] < 0.1 && neither[BOOK] < 0.1, "{neither:?}");
    // All is there and does not stand as it should: one of them has to move.
    let apart = support("a photo of a car below a book").unwrap();
    assert!((apart[CAR] > 0.5) != (apart[BOOK] > 0.5), "{apart:?}");
    let kept = support("a photo of a car above a book").unwrap();
    assert!(kept[CAR] > 0.5 && kept[BOOK] > 0.5, "{kept:?}");
    let told = support("a photograph").unwrap_err().to_string();
    assert!(
        told.contains("does not know what \"a photograph\""),
        "{told}"
    );
}
