//! A judge that is trained: kills, a table before and after, what cannot be taught.

use std::fs;
use std::path::Path;
use std::process::Command;

use maquette::rng::philox;
use serde_json::Value;

use super::{prompts, tree};
use crate::programs::{example, fails, folder, succeeds};

/// What is done to a line.
type Change<'a> = &'a dyn Fn(&mut Value);

/// Questions about random pictures of the bundled Show-o.
fn items(path: &Path, n: u32, change: &dyn Fn(u32, &mut Value)) {
    let line = |i: u32| {
        let codes: Vec<u32> = (0..64)
            .map(|at| philox([i / 2, 9], [at, 0, 0, 0])[0] % 1024)
            .collect();
        let question = ["outcome", "potential", "reflection"][i as usize / 2 % 3];
        let prompt = ["a red car", "two blue boats"][i as usize % 2];
        let mut line = serde_json::json!({
            "question": question, "prompt": prompt, "step": 18,
            "codes": codes, "answer": if i.is_multiple_of(2) { "yes" } else { "no" }, "reason": "a photo of two red cars",
        });
        change(i, &mut line);
        format!("{line}\n")
    };
    fs::write(path, (0..n).map(line).collect::<String>()).unwrap();
}

fn train(items: &Path, out: &Path) -> Command {
    let mut command = example("align");
    command.args(["--objective", "judge", "--batch", "2", "--rank", "4"]);
    command.args(["--save-every", "1", "--quiet", "--threads", "1", "--items"]);
    command.arg(items).arg("--out").arg(out);
    command
}

#[test]
fn a_judge_that_is_killed_learns_the_same_and_its_check_compares_both() {
    let home = folder("align-judge");
    let (set, list) = (home.join("items.jsonl"), prompts(&home, 8));
    items(&set, 12, &|_, _| {});
    let start = |out: &Path| {
        let mut command = train(&set, out);
        command.args(["--steps", "8", "--rate", "3e-3", "--reasons", "--merge"]);
        command.args(["--check-images", "1", "--check"]).arg(&list);
        command
    };
    let (whole, killed) = (home.join("whole"), home.join("killed"));
    let told = succeeds(&mut start(&whole));
    assert!(told.contains("after minus before"), "{told}");
    assert_eq!(told, fs::read_to_string(whole.join("check.txt")).unwrap());
    let lines = fs::read_to_string(whole.join("check.jsonl")).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert!(first["before"] != first["after"], "{first}");
    for steps in [2, 5] {
        let mut run = start(&killed).spawn().unwrap();
        let lines = || fs::read_to_string(killed.join("curves.jsonl")).unwrap_or_default();
        while lines().lines().count() < steps && run.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        run.kill().unwrap();
        run.wait().unwrap();
    }
    succeeds(&mut start(&killed));
    assert!(tree(&whole) == tree(&killed));
    // The merged judge is one that can be asked, and trained again.
    let mut again = train(&set, &home.join("again"));
    again.args(["--steps", "1", "--model-dir"]);
    succeeds(again.arg(whole.join("merged")));
    let mut asked = example("generate");
    asked.args(["a photo of a red car", "--strategy", "best-of-n", "-n", "2"]);
    asked.args(["--images", "1", "--steps", "2", "--quiet", "--judge-dir"]);
    let out = home.join("asked");
    succeeds(asked.arg(whole.join("merged")).arg("--out").arg(out));
    // A generator does not take the judge's adapters.
    let mut foreign = example("generate");
    foreign.args(["--quiet", "--out"]).arg(home.join("foreign"));
    let told = fails(foreign.arg("--adapters").arg(&whole));
    assert!(
        told.contains("whole") && told.contains("model.layers"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_taught_is_told_with_its_line() {
    let home = folder("align-judge-bad");
    let (set, out) = (home.join("items.jsonl"), home.join("out"));
    let changes: [(Change<'_>, &str); 6] = [
        (&|v| v["question"] = "beauty".into(), "beauty"),
        (
            &|v| drop(v.as_object_mut().unwrap().remove("answer")),
            "answer",
        ),
        (&|v| v["answer"] = "perhaps".into(), "perhaps"),
        (&|v| v["codes"] = vec![1; 63].into(), "63 codes"),
        (&|v| v["codes"] = vec![1 << 20; 64].into(), "codebook"),
        (&|v| v["prompt"] = "a zebra".into(), "zebra"),
    ];
    for (change, what) in changes {
        items(&set, 8, &|i, line| {
            if i == 2 {
                change(line);
            }
        });
        let told = fails(&mut train(&set, &out));
        assert!(told.contains("line 3") && told.contains(what), "{told}");
    }
    items(&set, 8, &|i, line| {
        if i == 5 {
            line["reason"] = "because of a zebra".into();
        }
    });
    let told = fails(train(&set, &out).arg("--reasons"));
    assert!(told.contains("line 6"), "{told}");
    items(&set, 8, &|_, line| line["answer"] = "no".into());
    let told = fails(&mut train(&set, &out));
    assert!(
        told.contains("outcome") && told.contains("says no"),
        "{told}"
    );
    fs::write(&set, "\n").unwrap();
    assert!(fails(&mut train(&set, &out)).contains("no labels"));
    // A prompt of the evaluation is not trained on.
    items(&set, 2, &|_, line| {
        line["prompt"] = "a photo of an apple".into()
    });
    let told = fails(&mut train(&set, &out));
    assert!(told.contains("2 items are of the evaluation"), "{told}");

    items(&set, 8, &|_, _| {});
    for (args, what) in [
        (&["--share", "0"][..], "--share"),
        (&["--targets", "fc1"], "target_modules"),
        (&["--rank", "1000"], "rank"),
        (&["--pairs", "x"], "--pairs"),
    ] {
        let told = fails(train(&set, &out).args(args));
        assert!(told.contains(what), "{told}");
    }
    let mut other = train(&set, &out);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/show-o");
    assert!(fails(other.arg("--model-dir").arg(model)).contains("no LLaVA"));
    let told = fails(train(&set, &out).args(["--steps", "8", "--rate", "1e30"]));
    assert!(told.contains("is NaN or infinite at step"), "{told}");
    assert!(!out.join("adapter_model.safetensors").exists());
}
