//! What cannot be trained on, and runs that fail on their way.

use std::fs;

use super::{align, pairs, prompts};
use crate::programs::{example, fails, folder, succeeds};

#[test]
fn pairs_that_cannot_be_used_are_named_with_their_line() {
    let home = folder("align-bad");
    let (set, out) = (home.join("pairs.jsonl"), home.join("out"));
    pairs(&set, 2);
    let good = fs::read_to_string(&set).unwrap();
    let same = "{\"prompt\": \"a red car\", \"chosen\": [1], \"rejected\": [1]}\n";
    for (line, what) in [
        (same, "none is preferred"),
        (
            "{\"prompt\": \"a red car\", \"chosen\": [1], \"rejected\": [2]}\n",
            "codes",
        ),
        (
            "{\"prompt\": \"a zebra\", \"chosen\": [1], \"rejected\": [2]}\n",
            "zebra",
        ),
        ("{\"prompt\"\n", "line 3"),
    ] {
        fs::write(&set, format!("{good}{line}")).unwrap();
        let told = fails(&mut align(Some(&set), &out));
        assert!(told.contains("line 3") && told.contains(what), "{told}");
    }
    fs::write(&set, "\n").unwrap();
    assert!(fails(&mut align(Some(&set), &out)).contains("no pairs"));
    fs::write(&set, good).unwrap();
    let told = fails(align(Some(&set), &out).args(["--targets", "o_proj"]));
    assert!(told.contains("target_modules"), "{told}");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("run.bin"), "not a run").unwrap();
    let told = fails(&mut align(Some(&set), &out));
    assert!(told.contains("training checkpoint"), "{told}");
}

#[test]
fn arguments_that_contradict_each_other_are_told() {
    let home = folder("align-arguments");
    let (set, list) = (home.join("pairs.jsonl"), prompts(&home, 3));
    pairs(&set, 2);
    let guided = |args: &[&str]| {
        let mut command = align(Some(&set), &home.join("out"));
        command.args(["--objective", "guided"]).args(args);
        command.arg("--prompts").arg(&list);
        fails(&mut command)
    };
    assert!(guided(&["--group", "1"]).contains("--group begins at 2"));
    assert!(guided(&["--groups", "0"]).contains("--groups"));
    assert!(guided(&["--batch", "0"]).contains("--batch"));
    let told = fails(&mut align(None, &home.join("out")));
    assert!(told.contains("--pairs is needed"), "{told}");
    let told = fails(align(Some(&set), &home.join("out")).args(["--objective", "grpo"]));
    assert!(told.contains("--pairs is needed"), "{told}");
    let told = fails(align(Some(&set), &home.join("out")).args(["--objective", "guided"]));
    assert!(told.contains("--prompts is needed"), "{told}");
    let told = fails(align(None, &home.join("out")).args(["--objective", "supervised"]));
    assert!(told.contains("--pairs or --items"), "{told}");
    let told = fails(align(Some(&set), &home.join("out")).args(["--plan"]));
    assert!(told.contains("for grpo alone"), "{told}");
    let grpo = |args: &[&str]| {
        let mut command = align(None, &home.join("out"));
        command
            .args(["--objective", "grpo", "--steps", "1"])
            .args(args);
        fails(command.arg("--prompts").arg(&list))
    };
    assert!(grpo(&["--plan"]).contains("writing a plan"));
    assert!(grpo(&["--stages", "2"]).contains("--plan"));
    let mut command = example("annotate");
    command.args(["--scorer", "judge", "--sets", "reflection", "--prompts"]);
    let told = fails(command.arg(&list));
    assert!(told.contains("only the rules"), "{told}");
}

#[test]
fn a_step_that_is_no_number_stops_the_run_and_leaves_the_last_good_state() {
    let home = folder("align-nan");
    let (set, out) = (home.join("pairs.jsonl"), home.join("out"));
    pairs(&set, 3);
    let run = || {
        let mut command = align(Some(&set), &out);
        command.args(["--steps", "8", "--rate", "1e30", "--save-every", "100"]);
        fails(&mut command)
    };
    let told = run();
    assert!(told.contains("is NaN or infinite at step 1"), "{told}");
    let state = || ["run.bin", "curves.jsonl"].map(|name| fs::read(out.join(name)).unwrap());
    let kept = state();
    assert_eq!(kept[1].iter().filter(|&&b| b == b'\n').count(), 1);
    // It was not taken, and it fails again in the same way.
    assert_eq!(run(), told);
    assert!(kept == state());
    assert!(!out.join("adapter_model.safetensors").exists());
}

#[test]
fn a_run_goes_on_with_its_own_settings_alone() {
    let home = folder("align-settings");
    let (set, out) = (home.join("pairs.jsonl"), home.join("out"));
    pairs(&set, 3);
    succeeds(align(Some(&set), &out).args(["--steps", "1"]));
    for args in [["--rank", "2"], ["--steps", "2"], ["--rate", "0.5"]] {
        let mut command = example("align");
        command.args(["--quiet", "--threads", "1", "--batch", "2"]);
        if args[0] != "--rank" {
            command.args(["--rank", "4"]);
        }
        command
            .args(args)
            .arg("--pairs")
            .arg(&set)
            .arg("--out")
            .arg(&out);
        let told = fails(&mut command);
        assert!(told.contains("other settings"), "{told}");
    }
}

/// A prompt that no picture answers.
const HOPELESS: &str =
    r#"{"tag":"counting","include":[{"class":"car","count":30}],"prompt":"a photo of four cars"}"#;

#[test]
fn equal_rewards_give_no_pair_and_change_nothing() {
    let home = folder("align-equal");
    let (set, list) = (home.join("pairs.jsonl"), home.join("hopeless.jsonl"));
    pairs(&set, 3);
    fs::write(&list, HOPELESS).unwrap();
    let none = home.join("none.jsonl");
    fs::write(&none, "").unwrap();
    let mut command = example("annotate");
    command.args(["--quiet", "--images", "3", "--steps", "2", "--evaluation"]);
    command.arg(&none).arg("--prompts").arg(&list);
    let drawn = home.join("x.jsonl");
    succeeds(command.arg("--out").arg(&drawn));
    let empty = home.join("x.pairs.jsonl");
    assert_eq!(fs::read_to_string(&empty).unwrap(), "");
    let told = fails(&mut align(Some(&empty), &home.join("out")));
    assert!(told.contains("no pairs"), "{told}");

    let run = |name: &str, guided: bool| {
        let out = home.join(name);
        let mut command = align(Some(&set), &out);
        command.args(["--steps", "2"]);
        if guided {
            command.args(["--objective", "guided", "--scorer", "rules", "--tries", "1"]);
            command.args(["--group", "2", "--groups", "1"]);
            command.arg("--evaluation").arg(&none);
            command.arg("--prompts").arg(&list);
        }
        succeeds(&mut command);
        fs::read(out.join("adapter_model.safetensors")).unwrap()
    };
    assert!(run("pairs", false) == run("guided", true));
}
