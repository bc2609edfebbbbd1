//! The parts of the evaluation: GenEval's rules, the score table, and the detector on drawn scenes.

mod auc;
mod chart;
mod files;
mod labelled;
mod locator;
mod memory;
mod parts;
mod rules;
mod scene;
mod score;
mod shard;

use std::path::{Path, PathBuf};

use maquette::cpu::Cpu;

use support::rules::{Request, Rules};
use support::world::detector::Detector;
use support::world::prompts::{Ask, TAGS};
use support::world::scene::Scene;
use support::world::{COLOURS, KINDS, Object, Painter, Rng};

fn scene() -> [Object; 2] {
    let car = Object {
        kind: 4,
        colour: 0,
        size: 24,
        x: 4,
        y: 8,
    };
    let book = Object {
        kind: 10,
        colour: 4,
        size: 24,
        x: 36,
        y: 36,
    };
    [car, book]
}

fn weights() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/detectors")
}

#[test]
fn both_detectors_see_what_was_drawn() {
    let picture = Painter::new().draw(0, &scene(), &[]);
    for which in ["eval", "label"] {
        let eye = Detector::load(Cpu::new(), &weights(), which).unwrap();
        let mut seen = eye.detect(&picture).unwrap();
        seen.sort_by(|a, b| a.bbox[0].total_cmp(&b.bbox[0]));
        assert_eq!(seen.len(), 2, "{which}: {seen:?}");
        for (object, seen) in scene().iter().zip(&seen) {
            assert_eq!(
                (seen.class, seen.color),
                (KINDS[object.kind], COLOURS[object.colour])
            );
            let want = [object.x, object.y].map(|v| v as f32);
            assert!((seen.bbox[0] - want[0]).abs() < 4.0 && (seen.bbox[1] - want[1]).abs() < 4.0);
        }
        assert!(eye.detect(&picture[1..]).is_err());
    }
}

#[test]
fn a_drawn_scene_is_marked_by_the_rules() {
    let picture = Painter::new().draw(1, &scene(), &[]);
    let eye = Detector::load(Cpu::new(), &weights(), "eval").unwrap();
    let seen = eye.detect(&picture).unwrap();
    let marked = |line: &str| {
        let request: Request = serde_json::from_str(line).unwrap();
        assert_eq!(request.prompt, "");
        Rules::bundled().decide(&request, &seen)
    };
    let both = r#"{"tag":"color_attr","prompt":"","include":[{"class":"car","count":1,"color":"red"},
        {"class":"book","count":1,"color":"blue"}]}"#;
    assert_eq!(marked(both), Ok(()));
    let right = r#"{"tag":"position","prompt":"","include":[{"class":"car","count":1},
        {"class":"book","count":1,"position":["right of",0]}]}"#;
    assert_eq!(marked(right), Ok(()));
    assert!(marked(&right.replace("right of", "left of")).is_err());
    assert!(marked(&both.replace("red", "green")).is_err());
}

#[test]
fn the_evaluating_detector_reads_held_out_drawings() {
    const EACH: usize = 80;
    const BOUND: f64 = 0.98;
    let eye = Detector::load(Cpu::new(), &weights(), "eval").unwrap();
    let (mut rng, mut painter) = (Rng::new(20_000), Painter::new());
    let mut exact = 0;
    for task in 0..TAGS.len() {
        let mut asks = Ask::all(task);
        // Single objects are too few to hold any back.
        asks.retain(|ask| task == 0 || ask.is_held_out());
        for _ in 0..EACH {
            let ask = *rng.pick(&asks);
            let scene = Scene::answering(&ask, &mut rng);
            let seen = eye
                .detect(&painter.draw(scene.page, &scene.objects, &[]))
                .unwrap();
            let mut left: Vec<&Object> = scene.objects.iter().collect();
            let found = seen.iter().filter(|d| {
                let centre = |at: usize| (d.bbox[at] + d.bbox[at + 2]) / 2.0;
                let fits = |o: &&Object| {
                    let half = o.size as f32 / 2.0;
                    let (dx, dy) = (centre(0) - o.x as f32 - half, centre(1) - o.y as f32 - half);
                    (d.class, d.color) == (KINDS[o.kind], COLOURS[o.colour])
                        && dx.abs() < 6.0
                        && dy.abs() < 6.0
                };
                left.iter()
                    .position(fits)
                    .map(|at| left.remove(at))
                    .is_some()
            });
            exact += usize::from(found.count() == seen.len() && left.is_empty());
        }
    }
    let share = exact as f64 / (EACH * TAGS.len()) as f64;
    println!("exact scenes: {share:.3}");
    assert!(share >= BOUND, "{share}");
}
