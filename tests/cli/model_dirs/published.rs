//! The published GenEval prompts, drawn into the official scorer's folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::tiny;
use crate::programs::{example, fails, folder, succeeds};

const PROMPTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/published/evaluation_metadata.jsonl"
);

/// Names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Width and height in the header of a PNG file.
fn size(path: &Path) -> [u32; 2] {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[12..16], b"IHDR");
    [16, 20].map(|at| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()))
}

#[test]
fn all_published_prompts_go_to_the_official_scorer_and_its_results_come_back() {
    let home = folder("published");
    let text = fs::read_to_string(PROMPTS).unwrap();
    let records: Vec<&str> = text.lines().collect();
    let prompt_of = |record: &str| {
        let record: Value = serde_json::from_str(record).unwrap();
        record["prompt"].as_str().unwrap().to_owned()
    };
    // A Show-o that knows the words of the prompts.
    let prompts: Vec<String> = records.iter().map(|record| prompt_of(record)).collect();
    let mut words: Vec<&str> = prompts.iter().flat_map(|p| p.split(' ')).collect();
    words.sort_unstable();
    words.dedup();
    let [model, pixels] = tiny::show_o(&home, words.len());
    let numbered: Vec<(usize, &str)> = words.iter().copied().enumerate().collect();
    tiny::vocabulary(&model, words.len(), &numbered);

    let pictures = home.join("pictures");
    let geneval = |out: &str, images: &str| {
        let mut command = example("geneval");
        command.args(["--quiet", "--prompts", PROMPTS, "--steps", "1"]);
        command.args(["--images", images, "--out"]);
        command.arg(home.join(out)).arg("--model-dir").arg(&model);
        command.arg("--tokenizer-dir").arg(&pixels);
        command
    };
    let told = fails(&mut geneval("unscored.jsonl", "1"));
    assert!(told.contains("does not know all that"), "{told}");
    let told = succeeds(geneval("all.jsonl", "1").arg("--pictures").arg(&pictures));
    assert!(told.contains("553 pictures, not scored"), "{told}");
    let folders: Vec<String> = (0..553).map(|i| format!("{i:05}")).collect();
    assert_eq!(names(&pictures), folders);
    for (folder, record) in folders.iter().zip(&records) {
        let folder = pictures.join(folder);
        assert_eq!(names(&folder), ["grid.png", "metadata.jsonl", "samples"]);
        assert_eq!(names(&folder.join("samples")), ["0000.png"]);
        let written = fs::read_to_string(folder.join("metadata.jsonl")).unwrap();
        assert_eq!(&written, record);
        assert_eq!(size(&folder.join("samples/0000.png")), [64, 64]);
    }
    // Four of a prompt, and their grid.
    let four = home.join("four");
    let few = ["--limit", "2", "--pictures"];
    succeeds(geneval("four.jsonl", "4").args(few).arg(&four));
    assert_eq!(names(&four), ["00000", "00276"]);
    let samples = ["0000.png", "0001.png", "0002.png", "0003.png"];
    assert_eq!(names(&four.join("00276/samples")), samples);
    assert_eq!(size(&four.join("00276/grid.png")), [128, 128]);

    // The official scorer's file: the first pictures of the first prompts of each task are right, every second is wrong.
    let right = BTreeMap::from([
        ("single_object", 40),
        ("two_object", 33),
        ("counting", 20),
        ("colors", 47),
        ("position", 10),
        ("color_attr", 0),
    ]);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = String::new();
    for (i, record) in records.iter().enumerate() {
        let fields: Value = serde_json::from_str(record).unwrap();
        let tag = fields["tag"].as_str().unwrap();
        let n = seen.entry(tag.to_owned()).or_default();
        let correct = *n < right[tag];
        *n += 1;
        for (image, correct) in [(0, correct), (1, false)] {
            let line = serde_json::json!({
                "filename": format!("pictures/{i:05}/samples/{image:04}.png"), "tag": tag,
                "prompt": fields["prompt"], "correct": correct, "reason": "", "metadata": record, "details": "{}",
            });
            // As its writer escapes it.
            lines.push_str(&line.to_string().replace('/', "\\/"));
            lines.push('\n');
        }
    }
    let official = home.join("results.jsonl");
    fs::write(&official, lines).unwrap();
    let told = succeeds(example("geneval").arg("--table").arg(&official));
    for line in [
        "over 1106 pictures",
        "single        0.250   [",
        "two           0.167   [",
        "counting      0.125   [",
        "colors        0.250   [",
        "position      0.050   [",
        "attribution   0.000   [ 0.000,  0.000]   100 prompts",
        "overall       0.140   [",
        "of all pictures 0.136 are correct, of all prompts 0.271 in at least one",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    // Two of its files are compared as two of ours are.
    let told = succeeds(
        example("geneval")
            .arg("--compare")
            .args([&official, &official]),
    );
    assert!(
        told.contains("overall       0.000   [ 0.000,  0.000]   553 prompts"),
        "{told}"
    );
}
