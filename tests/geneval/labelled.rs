//! What a person said of 200 pictures of the bundled generator, and what detectors and judge say of them.

use std::fs;
use std::path::Path;

use clap::Parser;
use maquette::cpu::Cpu;
use maquette::reward::{Ask, ViewKey};
use maquette::{CandidateId, ImageBatch, ImageSize, Judgement, Prompt, Verdict};
use serde::Deserialize;
use support::auc;
use support::open::{Models, Settings};
use support::rules::{Request, Rules};
use support::world::SIDE;
use support::world::detector::Detector;

use super::weights;

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

/// The labels and the pictures.
fn labelled() -> (Vec<Labelled>, Vec<Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/labelled");
    let text = fs::read_to_string(folder.join("labels.jsonl")).unwrap();
    let labels = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let (labels, pictures) = (
        labels.collect::<Vec<_>>(),
        sheet(&folder.join("pictures.png")),
    );
    assert_eq!((labels.len(), pictures.len()), (200, 200));
    (labels, pictures)
}

#[test]
fn the_evaluating_detector_agrees_with_a_person() {
    // A floor under the measured 0.825, no goal: 0.92 was wanted and is not reached. Malformed objects are where detector
    // and person differ. A person counts an object whose kind shows at a glance and whose outline is right but for a fifth.
    const BOUND: f64 = 0.8;
    let (labels, pictures) = labelled();
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

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

/// How well a judge's outcomes tell a person's right pictures from the wrong ones, and how often it agrees.
fn against_a_person(who: &str) -> [f64; 2] {
    let (labels, pictures) = labelled();
    let cli = Cli::parse_from(["", "--outcomes-by", who, "--threads", "1"]);
    let models = Models::load(&cli.settings, true).unwrap();
    let mut judge = models.judge(1).unwrap();
    let mut scored = Vec::new();
    for (label, picture) in labels.iter().zip(&pictures) {
        let prompt = Prompt::new(&label.request.prompt);
        let keys = [ViewKey {
            candidate: CandidateId(scored.len() as u64),
            step: 18,
        }];
        let size = ImageSize::new(SIDE as u32, SIDE as u32);
        let shown = ImageBatch::new(1, size, picture).unwrap();
        let ask = Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(shown);
        let mut said = [Verdict::malformed()];
        judge.judge(&ask, &mut said).unwrap();
        judge.forget(&keys);
        scored.push((f64::from(said[0].p_yes), label.right));
    }
    let agrees = scored.iter().filter(|(p, right)| (*p > 0.5) == *right);
    let share = agrees.count() as f64 / scored.len() as f64;
    [auc::of(scored.into_iter()).unwrap(), share]
}

#[test]
fn judge_and_labelling_detector_together_agree_with_a_person_more_than_either() {
    let [judge, rules, both] = ["judge", "rules", "both"].map(against_a_person);
    println!("areas and agreement: judge {judge:.3?}, rules {rules:.3?}, both {both:.3?}");
    for i in 0..2 {
        assert!(
            both[i] > judge[i].max(rules[i]),
            "{judge:?} {rules:?} {both:?}"
        );
    }
}
