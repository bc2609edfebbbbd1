//! Training: kills, objectives beside each other, the next round.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{align, killed_again_and_again, pairs, prompts, tree};
use crate::programs::{example, fails, folder, succeeds};

#[test]
fn training_on_pairs_survives_fifty_kills() {
    let home = folder("align-pairs");
    let set = home.join("pairs.jsonl");
    pairs(&set, 5);
    killed_again_and_again("align-kills", &|out| {
        let mut command = align(Some(&set), out);
        command.args([
            "--steps",
            "6",
            "--batch",
            "1",
            "--save-every",
            "1",
            "--merge",
        ]);
        command
    });
}

#[test]
fn training_on_drawn_pictures_survives_kills_as_well() {
    let home = folder("align-online");
    let (set, list) = (home.join("pairs.jsonl"), prompts(&home, 6));
    pairs(&set, 3);
    let start = |out: &Path| {
        let mut command = align(Some(&set), out);
        command.args([
            "--objective",
            "guided",
            "--scorer",
            "rules",
            "--guide",
            "pairs",
        ]);
        command.args([
            "--group",
            "3",
            "--groups",
            "1",
            "--steps",
            "3",
            "--tries",
            "1",
            "--save-every",
            "1",
        ]);
        command.arg("--prompts").arg(&list);
        command
    };
    let (whole, killed) = (home.join("whole"), home.join("killed"));
    succeeds(&mut start(&whole));
    for steps in 1..3 {
        // A checkpoint of every step, as a kill leaves it.
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
}

fn adapters(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter_model.safetensors")).unwrap()
}

fn curve(out: &Path, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(out.join("curves.jsonl")).unwrap();
    let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()[name].as_f64();
    text.lines().map(|line| value(line).unwrap()).collect()
}

#[test]
fn the_released_reward_teaches_nothing_and_the_two_others_do() {
    let home = folder("align-guides");
    let (set, list) = (home.join("pairs.jsonl"), prompts(&home, 8));
    pairs(&set, 4);
    let run = |name: &str, args: &[&str]| {
        let out = home.join(name);
        let mut command = align(Some(&set), &out);
        command
            .args(["--steps", "2", "--masks", "shared"])
            .args(args);
        if !args.is_empty() {
            command.args(["--objective", "guided", "--group", "3", "--groups", "1"]);
            command.arg("--prompts").arg(&list);
        }
        succeeds(&mut command);
        out
    };
    let plain = run("plain", &[]);
    let released = run("released", &["--guide", "released"]);
    assert!(adapters(&plain) == adapters(&released));
    let losses = curve(&plain, "loss")
        .into_iter()
        .zip(curve(&released, "loss"));
    assert!(losses.into_iter().all(|(plain, released)| released > plain));
    let score = ["--guide", "score", "--passes", "2"];
    for (name, args) in [("pairs", &["--guide", "pairs"][..]), ("score", &score)] {
        assert!(adapters(&plain) != adapters(&run(name, args)), "{name}");
    }
    // The bundled model draws with its own guidance under its name as well.
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/weights/show-o");
    let named = run("named", &[&score[..], &["--model-dir", bundled]].concat());
    assert!(adapters(&home.join("score")) == adapters(&named));
}

#[test]
fn a_merged_model_draws_as_the_policy_and_begins_the_next_round() {
    let home = folder("align-rounds");
    let (set, list) = (home.join("pairs.jsonl"), prompts(&home, 4));
    pairs(&set, 2);
    let first = home.join("first");
    let mut command = align(Some(&set), &first);
    command.args([
        "--steps", "3", "--rate", "1e-3", "--merge", "--scorer", "rules",
    ]);
    command.args(["--check-images", "2", "--check"]).arg(&list);
    let told = succeeds(&mut command);
    assert!(told.contains("after minus before"), "{told}");
    assert_eq!(told, fs::read_to_string(first.join("check.txt")).unwrap());
    let second = home.join("second");
    let merged = first.join("merged");
    let mut command = align(Some(&set), &second);
    command.args(["--steps", "1", "--model-dir"]).arg(&merged);
    succeeds(&mut command);
    // The first step begins at the reference, which is the model of the round before.
    assert!((curve(&second, "loss")[0] - 2.0_f64.ln()).abs() < 1e-9);
    let drawn = |name: &str, args: &[&Path]| {
        let out = home.join(name);
        let mut command = example("annotate");
        command.args([
            "--quiet",
            "--images",
            "1",
            "--limit",
            "1",
            "--guidance",
            "3",
        ]);
        command.args(["--prompts".as_ref(), list.as_os_str()]);
        if let [model, pixels] = args {
            command.arg("--model-dir").arg(model);
            command.arg("--tokenizer-dir").arg(pixels);
        }
        succeeds(command.arg("--out").arg(&out));
        let text = fs::read_to_string(out).unwrap();
        let line: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        line["codes"].clone()
    };
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/magvitv2");
    let before = drawn("before.jsonl", &[]);
    assert_ne!(before, drawn("after.jsonl", &[&merged, &bundled]));
}

#[test]
fn a_janus_learns_from_pairs_and_from_its_own_rewards() {
    let home = folder("align-janus");
    let (set, list) = (home.join("pairs.jsonl"), prompts(&home, 6));
    pairs(&set, 2);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/janus");
    for (name, objective) in [("dpo", "dpo"), ("grpo", "grpo")] {
        let out = home.join(name);
        let mut command = align((objective == "dpo").then_some(&*set), &out);
        command.args(["--objective", objective, "--steps", "2", "--merge"]);
        command.arg("--model-dir").arg(&model);
        if objective == "grpo" {
            command.args(["--group", "2", "--groups", "1", "--guidance", "2", "--even"]);
            command.arg("--prompts").arg(&list);
        }
        succeeds(&mut command);
        assert_eq!(curve(&out, "loss").len(), 2);
        let mut again = align(Some(&set), &home.join(format!("{name}-again")));
        again
            .args(["--steps", "1", "--model-dir"])
            .arg(out.join("merged"));
        succeeds(&mut again);
    }
}

#[test]
fn tasks_of_pairs_take_turns() {
    let home = folder("align-even");
    let set = home.join("pairs.jsonl");
    pairs(&set, 3);
    let text = fs::read_to_string(&set).unwrap();
    let lines: Vec<String> = text
        .lines()
        .zip(["often", "often", "rare"])
        .map(|(line, tag)| line.replace('{', &format!("{{\"tag\": \"{tag}\", ")) + "\n")
        .collect();
    let gradient = |name: &str, places: &[usize], args: &[&str]| {
        let (file, out) = (home.join(format!("{name}.jsonl")), home.join(name));
        let text: String = places.iter().map(|&at| &*lines[at]).collect();
        fs::write(&file, text).unwrap();
        succeeds(align(Some(&file), &out).args(["--steps", "1"]).args(args));
        curve(&out, "gradient")[0].to_bits()
    };
    // The first of a step is one of the frequent task, whichever; the second the only one of the other.
    let even = gradient("even", &[0, 1, 2], &["--even"]);
    let [first, second] =
        [("first", [0, 2]), ("second", [1, 2])].map(|(name, at)| gradient(name, &at, &[]));
    assert!(first != second && [first, second].contains(&even));
}

#[test]
fn recipes_write_plans_hold_entropies_and_go_on_after_a_kill() {
    let home = folder("align-recipes");
    let list = prompts(&home, 6);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/janus");
    let start = |out: &Path| {
        let mut command = align(None, out);
        command.args(["--objective", "grpo", "--scorer", "judge", "--group", "2"]);
        command.args([
            "--groups",
            "1",
            "--tries",
            "1",
            "--steps",
            "2",
            "--save-every",
            "1",
        ]);
        command.args(["--guidance", "2", "--plan", "--entropy", "2", "6"]);
        command.args(["--plan-length", "3", "--stages", "2", "--model-dir"]);
        command.arg(&model).arg("--prompts").arg(&list);
        command
    };
    let (whole, killed) = (home.join("whole"), home.join("killed"));
    succeeds(&mut start(&whole));
    let entropies = curve(&whole, "entropy_words");
    assert!(entropies.iter().all(|h| (0.0..5.0).contains(h)));
    assert!(
        curve(&whole, "entropy_codes")
            .iter()
            .all(|h| (0.5..7.0).contains(h))
    );
    assert!(curve(&whole, "plan_words").iter().all(|n| *n >= 1.0));
    let mut run = start(&killed).spawn().unwrap();
    let lines = || fs::read_to_string(killed.join("curves.jsonl")).unwrap_or_default();
    while lines().is_empty() && run.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    succeeds(&mut start(&killed));
    assert!(tree(&whole) == tree(&killed));
}

#[test]
fn a_show_o_learns_from_right_pictures_and_from_edits_of_them() {
    let home = folder("align-pictures");
    let (set, items, list) = (
        home.join("pairs.jsonl"),
        home.join("items.jsonl"),
        prompts(&home, 6),
    );
    pairs(&set, 3);
    let item = |answer: &str, code: u32| {
        let codes: Vec<u32> = (0..64).map(|i| (17 * i + code) % 1024).collect();
        format!(
            "{{\"question\": \"outcome\", \"prompt\": \"a red car\", \"codes\": {codes:?}, \"answer\": \"{answer}\"}}\n"
        )
    };
    fs::write(&items, item("yes", 1) + &item("no", 2) + &item("yes", 3)).unwrap();
    let supervised = |name: &str, from: &[(&str, &Path)]| {
        let out = home.join(name);
        let mut command = align(None, &out);
        command.args([
            "--objective",
            "supervised",
            "--shuffle",
            "--drop",
            "0",
            "--steps",
            "3",
        ]);
        for (flag, path) in from {
            command.arg(flag).arg(path);
        }
        succeeds(&mut command);
        curve(&out, "loss")
    };
    let all = supervised("all", &[("--pairs", &set), ("--items", &items)]);
    let right = supervised("right", &[("--items", &items)]);
    // Five pictures and two: the batches differ.
    assert!(all != right && all.iter().chain(&right).all(|loss| *loss > 0.5));
    let out = home.join("edit");
    let mut command = align(None, &out);
    command.args([
        "--objective",
        "grpo",
        "--scorer",
        "judge",
        "--group",
        "2",
        "--groups",
        "1",
    ]);
    command.args(["--tries", "1", "--passes", "2", "--steps", "1", "--prompts"]);
    succeeds(command.arg(&list).arg("--edit").arg(&items));
    assert_eq!(curve(&out, "loss").len(), 1);
    assert!(curve(&out, "entropy_codes")[0] > 0.5);
}

#[test]
fn adapters_draw_unmerged_what_they_draw_in_the_weights() {
    let home = folder("align-unmerged");
    let set = home.join("pairs.jsonl");
    pairs(&set, 2);
    let out = home.join("run");
    let mut command = align(Some(&set), &out);
    succeeds(command.args(["--steps", "4", "--rate", "1e-2", "--merge"]));
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/magvitv2");
    let drawn = |name: &str, args: &[&Path]| {
        let mut command = example("generate");
        command.args(["a photo of a red car", "--strategy", "plain", "--images"]);
        command.args(["1", "--steps", "6", "--guidance", "3", "--quiet"]);
        command.args(args).arg("--out").arg(home.join(name));
        succeeds(&mut command);
        fs::read(home.join(name).join("picture-0.png")).unwrap()
    };
    let plain = drawn("plain", &[]);
    let beside = drawn("beside", &[Path::new("--adapters"), &out]);
    let merged = out.join("merged");
    let args = [
        Path::new("--model-dir"),
        &merged,
        Path::new("--tokenizer-dir"),
        &bundled,
    ];
    assert!(beside == drawn("merged", &args));
    assert!(beside != plain);
    // Half a pair, another rank, no settings.
    fs::write(
        out.join("adapter_config.json"),
        "{\"r\": 2, \"lora_alpha\": 4}",
    )
    .unwrap();
    let told = |home: &Path| {
        let mut command = example("generate");
        command.args(["--quiet", "--out"]).arg(home.join("none"));
        fails(command.arg("--adapters").arg(home.join("run")))
    };
    assert!(told(&home).contains("lora_A.weight"));
    fs::remove_file(out.join("adapter_config.json")).unwrap();
    assert!(told(&home).contains("adapter_config.json"));
}
