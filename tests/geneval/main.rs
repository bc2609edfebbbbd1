//! The parts of the evaluation: GenEval's rules, the score table, and the detector on drawn scenes.

mod auc;
mod chart;
mod files;
mod memory;
mod parts;
mod rules;
mod scene;
mod score;
mod shard;

use std::fs;
use std::path::{Path, PathBuf};

use maquette::cpu::Cpu;
use serde::Deserialize;

use support::rules::{Request, Rules};
use support::world::detector::Detector;
use support::world::prompts::{Ask, TAGS};
use support::world::scene::Scene;
use support::world::{COLOURS, KINDS, Object, Painter, Rng, SIDE};

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

/// A generated picture and what a person said of it.
#[derive(Deserialize)]
struct Labelled {
    #[serde(flatten)]
    request: Request,
    right: bool,
}

/// Pictures of a sheet, row by row.
fn sheet(path: &Path) -> Vec<Vec<u8>> {
    let mut png = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()))
        .read_info()
        .unwrap();
    let mut page = vec![0; png.output_buffer_size().unwrap()];
    let info = png.next_frame(&mut page).unwrap();
    assert_eq!(
        (info.color_type, info.bit_depth),
        (png::ColorType::Rgb, png::BitDepth::Eight)
    );
    let (rows, cols) = (info.height as usize / SIDE, info.width as usize / SIDE);
    (0..rows * cols)
        .map(|i| {
            let lines = (0..SIDE).flat_map(|y| {
                let at = ((i / cols * SIDE + y) * cols + i % cols) * SIDE * 3;
                page[at..at + SIDE * 3].iter().copied()
            });
            lines.collect()
        })
        .collect()
}

#[test]
fn the_evaluating_detector_agrees_with_a_person() {
    // A floor under the measured 0.825, no goal: 0.92 was wanted and is not reached. Malformed objects are where detector
    // and person differ. A person counts an object whose kind shows at a glance and whose outline is right but for a fifth.
    const BOUND: f64 = 0.8;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/labelled");
    let text = fs::read_to_string(folder.join("labels.jsonl")).unwrap();
    let labels: Vec<Labelled> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let pictures = sheet(&folder.join("pictures.png"));
    assert_eq!((labels.len(), pictures.len()), (200, 200));
    let eye = Detector::load(Cpu::new(), &weights(), "eval").unwrap();
    let agrees = |label: &Labelled, picture: &[u8]| {
        let seen = eye.detect(picture).unwrap();
        Rules::bundled().decide(&label.request, &seen).is_ok() == label.right
    };
    let n = labels
        .iter()
        .zip(&pictures)
        .filter(|(label, picture)| agrees(label, picture))
        .count();
    let share = n as f64 / labels.len() as f64;
    println!("agreement: {share:.3}");
    assert!(share >= BOUND, "{share}");
}
