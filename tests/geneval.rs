//! The parts of the evaluation: GenEval's rules, the score table, and the detector on drawn scenes.

#[path = "../examples/demo/detector.rs"]
mod detector;
#[path = "../examples/demo/rules.rs"]
mod rules;
#[expect(dead_code, reason = "the program prints more than the tests look at")]
#[path = "../examples/support/score.rs"]
mod score;
#[expect(dead_code, reason = "the tests draw only whole objects")]
#[path = "../examples/demo/world.rs"]
mod world;

use std::path::Path;

use maquette::cpu::Cpu;

use detector::Detector;
use rules::{Request, Rules};
use world::{COLOURS, KINDS, Object, Painter};

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

fn weights() -> std::path::PathBuf {
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
