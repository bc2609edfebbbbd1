//! Teaching a latent head: what is gone on with, and what is not.

use std::fs;
use std::path::Path;
use std::process::Command;

use support::world::{COLOURS, KINDS};

use crate::programs::{example, fails, folder, succeeds};

fn prompts(path: &Path, texts: &[&str]) {
    let line = |text: &&str| format!("{{\"tag\": \"x\", \"prompt\": \"{text}\"}}\n");
    fs::write(path, texts.iter().map(line).collect::<String>()).unwrap();
}

fn draw(home: &Path, list: &str, looks: &str) -> Command {
    let mut command = example("distil");
    command.args([
        "draw", "--quiet", "--images", "1", "--steps", "2", "--jobs", "2",
    ]);
    command.arg("--prompts").arg(home.join(list));
    command.arg("--looks").arg(home.join(looks));
    command
}

/// The files of what was seen.
fn seen(looks: &Path) -> usize {
    let files = fs::read_dir(looks)
        .unwrap()
        .map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    files.count()
}

#[test]
fn looks_and_heads_are_gone_on_with_by_their_own_settings_alone() {
    let home = folder("distil");
    let texts = ["a red car", "a blue book", "a yellow cup"];
    prompts(&home.join("list.jsonl"), &texts);
    succeeds(&mut draw(&home, "list.jsonl", "looks"));
    let looks = home.join("looks");
    assert_eq!(seen(&looks), texts.len());
    fs::remove_file(looks.join("00001.safetensors")).unwrap();
    for args in [&["--seed", "2"][..], &["--every", "1"], &["--held-out"]] {
        let told = fails(draw(&home, "list.jsonl", "looks").args(args));
        assert!(told.contains("other settings"), "{args:?}: {told}");
    }
    prompts(&home.join("other.jsonl"), &["a red car", "a kite"]);
    let told = fails(&mut draw(&home, "other.jsonl", "looks"));
    assert!(told.contains("other settings"), "{told}");
    assert_eq!(seen(&looks), texts.len() - 1);
    succeeds(&mut draw(&home, "list.jsonl", "looks"));
    assert_eq!(seen(&looks), texts.len());

    let train = |[held, seed, rate]: [&str; 3]| {
        let mut command = example("distil");
        command.args(["train", "--quiet", "--threads", "1", "--epochs", "2"]);
        command.args([
            "--batch", "2", "--held", held, "--seed", seed, "--rate", rate,
        ]);
        command.arg("--looks").arg(&looks);
        command.arg("--out").arg(home.join("head"));
        command
    };
    let own = ["3", "1", "0.002"];
    let told = succeeds(&mut train(own));
    assert!(told.contains("kept apart"), "{told}");
    let head = || fs::read(home.join("head/model.safetensors")).unwrap();
    let whole = head();
    assert_eq!(succeeds(&mut train(own)), told);
    assert!(head() == whole);
    for other in [["2", "1", "0.002"], ["3", "2", "0.002"], ["3", "1", "0.1"]] {
        let told = fails(&mut train(other));
        assert!(told.contains("other settings"), "{other:?}: {told}");
    }
    assert!(head() == whole);
    fs::remove_file(home.join("head/run.json")).unwrap();
    let told = fails(&mut train(own));
    assert!(told.contains("nobody knows"), "{told}");
    let told = fails(&mut train(["1", "1", "0.002"]));
    assert!(told.contains("--held 1 keeps every prompt apart"), "{told}");
}

#[test]
fn a_prompt_that_fails_ends_all_jobs() {
    let home = folder("distil-fails");
    let mut texts = vec!["a zebra".to_owned()];
    for colour in COLOURS {
        texts.extend(KINDS.iter().map(|kind| format!("a {colour} {kind}")));
    }
    let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
    prompts(&home.join("list.jsonl"), &texts);
    let told = fails(&mut draw(&home, "list.jsonl", "looks"));
    assert!(told.contains("zebra"), "{told}");
    assert!(seen(&home.join("looks")) < texts.len() - 1);
}
