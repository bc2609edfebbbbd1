//! `measure` on tiny models.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use super::{fresh, tiny};
use crate::programs::{example, with_gpu};
use support::layouts::Layout;
use support::random_file;

fn measure(args: &[&str]) -> Output {
    let mut command = example("measure");
    command
        .args(["--threads", "1", "--format", "f32"])
        .args(args);
    with_gpu(&mut command).output().unwrap()
}

/// What the last line says.
fn measured(args: &[&str]) -> Value {
    let out = measure(args);
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {told}");
    let text = String::from_utf8(out.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn written(name: &str, layout: &Layout) -> PathBuf {
    let folder = fresh(&format!("measured-{name}"));
    random_file::write(layout, None, 3, &folder).unwrap();
    folder
}

/// A tiny model of [`tiny::all`].
fn of_all(test: &str, name: &str) -> PathBuf {
    let all = tiny::all();
    let (_, layout) = all.iter().find(|(n, _)| *n == name).unwrap();
    written(&format!("{test}-{name}"), layout)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn both_scripts_lead_the_search_where_they_say() {
    let generator = written("generator", &tiny::generator());
    let judge = written("judge", &tiny::judge());
    let pixels = of_all("search", "magvit");
    let search = |script, more: &[&str]| {
        let dirs = [text(&generator), text(&pixels), text(&judge)];
        let [model, tokenizer, judge] = dirs;
        let args = [
            "--model-dir",
            model,
            "--tokenizer-dir",
            tokenizer,
            "--judge-dir",
            judge,
            "--candidates",
            "4",
            "--parm",
            "--script",
            script,
        ];
        let found = measured(&[&args, more].concat());
        assert!(found["extrapolated"]["seconds_as_decided"].is_f64());
        let search = &found["search"];
        let asked = ["clarity", "potential", "outcome"]
            .map(|question| search[format!("{question}_asked")].as_u64().unwrap());
        let count = |key: &str| search[key].as_u64().unwrap();
        let went = [count("candidate_steps"), count("decoded"), count("resumed")];
        (asked, went, search["fallback"].as_bool().unwrap())
    };
    // Two are clear after the first step and two after the second; one of either has potential.
    assert_eq!(search("survive", &[]), ([6, 4, 2], [7, 8, 0], false));
    // A search before it leaves nothing behind.
    assert_eq!(
        search("survive", &["--warm"]),
        ([6, 4, 2], [7, 8, 0], false)
    );
    // All are clear at once and nobody has potential: one goes on alone.
    assert_eq!(search("fallback", &[]), ([4, 4, 0], [5, 4, 1], true));
}

#[test]
fn every_generator_is_stepped_and_looked_at() {
    let vq = of_all("steps", "vq-16");
    let encoder = of_all("steps", "encoder");
    for (name, more) in [
        ("text", &["--tokenizer-dir", text(&vq)][..]),
        (
            "text",
            &[
                "--tokenizer-dir",
                text(&vq),
                "--text-dir",
                text(&encoder),
                "--prompt",
                "a red car",
            ],
        ),
        ("class", &["--prompt", "3"]),
        ("class", &["--prompt", "3", "--device", "cuda"]),
        ("janus", &["--candidates", "3"]),
        ("janus-hf", &["--tokens-per-step", "1"]),
    ] {
        let model = of_all("steps", name);
        let mut args = vec!["--model-dir", text(&model), "--steps", "3"];
        args.extend_from_slice(more);
        let found = measured(&args);
        let steps = found["generator"]["step_seconds"].as_array().unwrap();
        assert_eq!(steps.len(), 3, "{name}: {found}");
        let decoded = found["generator"]["decode_seconds_each"].is_f64();
        assert_eq!(decoded, name != "class", "{name}: {found}");
        // Janus judges what it draws.
        let judged = found["judgements"]["potential_seconds_each"].is_f64();
        assert_eq!(judged, name.starts_with("janus"), "{name}: {found}");
    }
}

#[test]
fn a_judge_alone_looks_at_noise_and_other_models_are_loaded() {
    let judge = written("alone", &tiny::judge());
    let found = measured(&["--model-dir", text(&judge), "--candidates", "3"]);
    assert_eq!(found["judgements"]["views"], 3);
    let found = measured(&["--model-dir", text(&of_all("alone", "encoder"))]);
    assert!(found["model"]["load_seconds"].is_f64(), "{found}");
}

#[test]
fn what_cannot_be_measured_is_told() {
    let encoder = of_all("told", "encoder");
    for (args, want) in [
        (&["--model-dir", "/nowhere"][..], "/nowhere"),
        (&["--model-dir", text(&encoder), "--parm"], "a search needs"),
    ] {
        let out = measure(args);
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{told}");
        assert!(told.contains(want), "{told}");
    }
}
