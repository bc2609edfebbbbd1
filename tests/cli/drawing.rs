//! Searches and evaluations on the bundled models.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::programs::{example, fails, folder, succeeds};

#[test]
fn the_same_seed_gives_the_same_bytes_for_any_number_of_threads() {
    let home = folder("threads");
    let mut pictures = Vec::new();
    for threads in ["1", "2", "2"] {
        let mut command = example("generate");
        command.args([
            "a photo of a red car",
            "-n",
            "3",
            "--images",
            "1",
            "--quiet",
            "--threads",
            threads,
        ]);
        assert_eq!(succeeds(command.arg("--out").arg(&home)), "");
        pictures.push(fs::read(home.join("picture-0.png")).unwrap());
        for file in ["sheet-0.png", "sheet.png", "trace.json"] {
            assert!(home.join(file).exists(), "{file} is missing");
        }
    }
    assert!(pictures.iter().all(|p| *p == pictures[0]));
    let left: Vec<_> = fs::read_dir(&home)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_picture_is_corrected_until_the_judge_is_satisfied() {
    let home = folder("corrected");
    let draw = |more: &[&str]| -> serde_json::Value {
        let mut command = example("generate");
        command.args(["a photo of a red car", "--strategy", "plain", "--images"]);
        command
            .args(["1", "--quiet", "--reflections", "2"])
            .args(more);
        succeeds(command.arg("--out").arg(&home));
        serde_json::from_slice(&fs::read(home.join("trace.json")).unwrap()).unwrap()
    };
    let never = draw(&["--satisfied", "2", "--keep-steps", "12"]);
    assert_eq!(never["cost"]["steps"], 18 + 2 * 6);
    assert_eq!(never["cost"]["outcome"], 3);
    let whole = draw(&[
        "--satisfied",
        "2",
        "--correction",
        "scattered",
        "--keep-steps",
        "0",
    ]);
    assert_eq!(whole["cost"]["steps"], 3 * 18);
    // The bundled generator was not trained to be shown a picture, and its steps are no tail.
    for (how, want) in [("prompted", "a correction"), ("tail", "")] {
        let mut command = example("generate");
        command.args([
            "a photo of a red car",
            "--strategy",
            "plain",
            "--images",
            "1",
        ]);
        command.args([
            "--reflections",
            "1",
            "--satisfied",
            "2",
            "--correction",
            how,
        ]);
        command.args(["--quiet", "--out"]).arg(&home);
        if want.is_empty() {
            succeeds(&mut command);
        } else {
            assert!(fails(&mut command).contains(want));
        }
    }
}

#[test]
fn the_region_at_fault_is_drawn_anew_and_told_with_its_reason() {
    let home = folder("region");
    let page = home.join("page.html");
    let mut command = example("generate");
    command.args([
        "a photo of a red car and a blue book",
        "--strategy",
        "plain",
    ]);
    command.args([
        "--images",
        "1",
        "--quiet",
        "--reflections",
        "2",
        "--satisfied",
        "2",
    ]);
    command.args([
        "--correction",
        "region",
        "--tiles",
        "2",
        "--keep-steps",
        "12",
    ]);
    command.args(["--cover-asks", "parts", "--reasons", "--report"]);
    succeeds(command.arg(&page).arg("--out").arg(&home));
    let trace: Value = serde_json::from_slice(&fs::read(home.join("trace.json")).unwrap()).unwrap();
    assert_eq!(trace["cost"]["steps"], 18 + 2 * 6);
    let events = trace["pictures"][0]["events"].as_array().unwrap();
    let of = |name: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|event| event["event"] == name)
            .collect()
    };
    assert_eq!(of("located").len(), 2);
    for located in of("located") {
        // 64 · cos(π/2 · 12/18)
        assert!([31, 32].contains(&located["places"].as_array().unwrap().len()));
    }
    // Four parts, each of which is asked about before four tiles are covered; only those that are there count.
    let probed: Vec<usize> = of("probed")
        .iter()
        .map(|event| event["p_yes"].as_array().unwrap().len())
        .collect();
    assert!(probed.starts_with(&[1; 4]) && probed[4] == 4, "{probed:?}");
    let asked: usize = probed.iter().sum();
    assert_eq!(trace["cost"]["outcome"], asked + 3);
    assert_eq!(trace["cost"]["explanations"], of("explained").len());
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("\"places\":[") && page.contains("\"reason\":"));
    for setting in [["--tiles", "2"], ["--cover-asks", "whole"]] {
        let mut command = example("generate");
        command.args(["a photo of a red car", "--reflections", "1", "--quiet"]);
        let told = fails(command.args(setting));
        assert!(
            told.contains("is a setting of --correction region"),
            "{told}"
        );
    }
}

#[test]
fn corrections_go_around_what_the_detector_finds_right() {
    let home = folder("objects");
    let mut command = example("generate");
    command.args(["a photo of a red car and a blue book", "--quiet"]);
    command.args(["--strategy", "plain", "--images", "1", "--reflections", "2"]);
    command.args(["--satisfied", "2", "--correction", "objects", "--out"]);
    succeeds(command.arg(&home));
    let trace: Value = serde_json::from_slice(&fs::read(home.join("trace.json")).unwrap()).unwrap();
    assert_eq!(trace["cost"]["steps"], 18 + 2 * 9);
    // Nothing but the pictures themselves is asked about.
    assert_eq!(trace["cost"]["outcome"], 3);
    let events = trace["pictures"][0]["events"].as_array().unwrap();
    let located = events.iter().filter(|event| event["event"] == "located");
    // 64 · cos(π/4)
    let places = located.map(|event| event["places"].as_array().unwrap().len());
    assert_eq!(places.collect::<Vec<_>>(), [45, 45]);
}

#[test]
fn a_person_judges_at_a_terminal() {
    let home = folder("person");
    let judged = |answers: &str| {
        let mut command = example("generate");
        command.args(["a photo of a red car", "--strategy", "halving", "-n", "3"]);
        command.args([
            "--rungs", "2", "--steps", "4", "--images", "1", "--quiet", "--person",
        ]);
        command.arg("--out").arg(&home);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may have ended before it reads everything.
        let _ = child.stdin.take().unwrap().write_all(answers.as_bytes());
        let out = child.wait_with_output().unwrap();
        (out.status.success(), String::from_utf8(out.stderr).unwrap())
    };
    // What is no number of a view is asked again; then the second and third go on, and the third wins.
    let (fine, told) = judged("4\ncar\n2, 3\n2\n");
    assert!(
        fine && told.matches("Numbers from 1 to 3").count() == 3,
        "{told}"
    );
    let trace: serde_json::Value =
        serde_json::from_slice(&fs::read(home.join("trace.json")).unwrap()).unwrap();
    assert_eq!(trace["pictures"][0]["winner"], 2);
    assert_eq!(trace["models"]["judge"], serde_json::Value::Null);
    let (fine, told) = judged("1\n");
    assert!(!fine && told.contains("nobody answers"), "{told}");
}

#[test]
fn multiply_adds_bound_a_search() {
    let home = folder("bounded");
    let spent = |limit: Option<&str>| {
        let mut command = example("generate");
        command.args(["a photo of a red car", "--strategy", "plain", "-n", "6"]);
        command.args(["--round", "1", "--sure", "2", "--steps", "4"]);
        command.args(["--images", "1", "--quiet"]);
        if let Some(limit) = limit {
            command.args(["--max-multiply-adds", limit]);
        }
        succeeds(command.arg("--out").arg(&home));
        let trace: Value =
            serde_json::from_slice(&fs::read(home.join("trace.json")).unwrap()).unwrap();
        let work = &trace["cost"]["multiply_adds"];
        let parts = ["generator", "decoder", "judge"].map(|part| work[part].as_u64().unwrap());
        (trace["cost"]["steps"].as_u64().unwrap(), parts.iter().sum())
    };
    let (steps, all): (u64, u64) = spent(None);
    assert_eq!(steps, 6 * 4);
    // As numbers are written with an exponent.
    let half = format!("{}e3", all / 2000);
    let (fewer, less) = spent(Some(&half));
    assert!(
        less <= all / 2 && less >= all / 3,
        "{less} of {all} within {half}"
    );
    assert!((8..=12).contains(&fewer), "{fewer} steps within {half}");
    // Nothing fits in: a picture takes what it takes.
    assert_eq!(spent(Some("0")).0, 4);
    for wrong in ["0.5", "-1e9", "1e20", "NaN", "many"] {
        let mut command = example("generate");
        let setting = format!("--max-multiply-adds={wrong}");
        let out = command.args(["a photo of a red car", &setting]).output();
        let out = out.unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{wrong}: {told}");
        assert!(told.contains("it is a whole number"), "{wrong}: {told}");
    }
}

#[test]
fn a_search_that_time_bounds_says_so_in_its_trace() {
    let home = folder("in-time");
    let draw = |more: &[&str]| {
        let mut command = example("generate");
        command.args(["a photo of a red car", "-n", "2", "--steps", "2"]);
        command
            .args(["--strategy", "best-of-n", "--images", "1"])
            .args(more);
        let told = succeeds(command.arg("--out").arg(&home));
        let trace: Value =
            serde_json::from_slice(&fs::read(home.join("trace.json")).unwrap()).unwrap();
        (trace["effort"].clone(), told.contains("as released"))
    };
    assert_eq!(draw(&[]), (Value::Null, true));
    let bounded = draw(&["--max-seconds", "1000"]);
    assert_eq!(bounded, (json!({ "max_seconds": 1000.0 }), false));
}

#[test]
fn settings_of_another_strategy_are_told() {
    let home = folder("strategy-settings");
    for (args, want) in [
        (&["--strategy", "parm", "--width", "2"][..], "--width"),
        (&["--strategy", "prm", "--rungs", "2"], "--rungs"),
        (
            &["--strategy", "best-of-n", "--min-clarity-step", "2"],
            "--min-clarity-step",
        ),
        (
            &["--strategy", "plain", "--clarity-interval", "2"],
            "--clarity-interval",
        ),
        (
            &["--strategy", "halving", "--rungs", "19"],
            "\"rungs\" is 19",
        ),
        (
            &["--strategy", "plain", "--max-steps", "17"],
            "\"budget of steps\" is 17",
        ),
        (&["--strategy", "plain", "--round", "0"], "--round"),
        (
            &["--strategy", "plain", "--max-seconds=-1"],
            "--max-seconds",
        ),
    ] {
        let mut command = example("generate");
        command.args([
            "a photo of a red car",
            "-n",
            "2",
            "--images",
            "1",
            "--quiet",
        ]);
        let told = fails(command.args(args).arg("--out").arg(&home));
        assert!(told.contains(want), "{args:?}: {told}");
    }
}

#[test]
fn a_report_holds_every_look_and_needs_nothing_beside_itself() {
    let home = folder("report");
    let file = home.join("page.html");
    succeeds(
        example("generate")
            .args([
                "a photo of a red car",
                "-n",
                "4",
                "--images",
                "2",
                "--quiet",
            ])
            .arg("--out")
            .arg(&home)
            .arg("--report")
            .arg(&file),
    );
    let page = fs::read_to_string(&file).unwrap();
    for outside in ["http://", "https://", "src=", "href=", "@import"] {
        let allowed = page.matches("http://www.w3.org/2000/svg").count();
        let found = page.matches(outside).count();
        let want = if outside == "http://" { allowed } else { 0 };
        assert_eq!(found, want, "the page asks for {outside}");
    }
    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let len = page[start..].find('<').unwrap();
    let data: serde_json::Value = serde_json::from_str(&page[start..start + len]).unwrap();
    let trace: serde_json::Value =
        serde_json::from_slice(&fs::read(home.join("trace.json")).unwrap()).unwrap();
    let pictures = data["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), 2);
    for (told, traced) in pictures.iter().zip(trace["pictures"].as_array().unwrap()) {
        let lives = told["lives"].as_array().unwrap();
        assert_eq!(lives.len(), 4);
        let sights = |life: &serde_json::Value| life["sights"].as_array().unwrap().clone();
        let verdicts: usize = lives
            .iter()
            .flat_map(sights)
            .map(|sight| sight["verdicts"].as_array().unwrap().len())
            .sum();
        let events = traced["events"].as_array().unwrap();
        let judged = events.iter().filter(|e| e["event"] == "judged").count();
        assert_eq!(verdicts, judged);
        let winners: Vec<_> = lives.iter().filter(|l| l["winner"] == true).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(winners[0]["id"], traced["winner"]);
        assert_eq!(told["cost"]["steps"], traced["cost"]["steps"]);
    }
    let told = fails(
        example("generate")
            .args([
                "a photo of a red car",
                "--report",
                "/proc/none/page.html",
                "--out",
            ])
            .arg(&home),
    );
    assert!(told.contains("is not writable"), "{told}");
}

#[test]
fn an_output_folder_that_is_not_writable_is_told_before_any_work() {
    let home = folder("unwritable");
    fs::write(home.join("file"), "").unwrap();
    // There is no such model either, which nobody has looked for.
    let told = fails(
        example("generate")
            .arg("--model-dir")
            .arg(home.join("none"))
            .arg("--out")
            .arg(home.join("file/out")),
    );
    assert!(told.contains("is not writable"), "{told}");
    let told = fails(
        example("geneval")
            .args(["--quiet", "--limit", "1", "--out"])
            .arg(home.join("file/x.jsonl")),
    );
    assert!(told.contains("is not writable"), "{told}");
}

#[test]
fn bad_prompts_and_settings_are_told() {
    let home = folder("settings");
    for (args, want) in [
        (&["a photo of a red zeppelin"][..], "zeppelin"),
        (&["a photo of a <|endoftext|>"], "special"),
        (&["a photo of a red car", "-n", "0"], ""),
        (&["a photo of a red car", "--steps", "0"], "steps"),
        (&["a photo of a red car", "--threads", "0"], "threads"),
        (
            &["a photo of a red car", "--judge-dir", "/nowhere"],
            "/nowhere",
        ),
    ] {
        let told = fails(
            example("generate")
                .args(args)
                .args(["--quiet", "--images", "1", "--out"])
                .arg(&home),
        );
        assert!(told.contains(want), "{args:?}: {told}");
    }
}

#[test]
fn a_latent_head_looks_where_nothing_is_decoded() {
    let home = folder("latent");
    let trace = |more: &[&str]| -> Value {
        let mut command = example("generate");
        command.args([
            "a photo of a red car",
            "-n",
            "4",
            "--images",
            "1",
            "--quiet",
        ]);
        command
            .args(["--strategy", "halving", "--rungs", "9,13"])
            .args(more);
        succeeds(command.arg("--out").arg(&home));
        serde_json::from_slice(&fs::read(home.join("trace.json")).unwrap()).unwrap()
    };
    let judged = trace(&["--rung-asks", "potential"]);
    let latent = trace(&["--rung-asks", "potential", "--latent"]);
    // Four and two looks on the way; what is left is decoded for the judge in both.
    let decodes = |trace: &Value| trace["cost"]["decodes"].as_u64().unwrap();
    assert_eq!(decodes(&judged), decodes(&latent) + 6);
    assert_eq!(judged["cost"]["potential"], latent["cost"]["potential"]);
    assert!(judged["models"]["latent"].is_null() && latent["models"]["latent"].is_object());
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/weights/latent");
    let named = trace(&["--rung-asks", "potential", &format!("--latent={bundled}")]);
    assert_eq!(
        named["pictures"][0]["codes"],
        latent["pictures"][0]["codes"]
    );
    let told = fails(example("generate").args(["a red car", "--latent=nowhere"]));
    assert!(told.contains("nowhere/config.json"), "{told}");
}

#[test]
fn pages_are_a_setting_of_models_that_draw_code_by_code() {
    let home = folder("pages");
    let janus = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/weights/janus");
    let draw = |more: &[&str]| {
        let mut command = example("generate");
        command.args(["a photo of a red car", "--strategy", "prm", "-n", "6"]);
        command
            .args(["--images", "1", "--quiet", "--out"])
            .arg(&home);
        command.args(more);
        command
    };
    let of_janus = |pages| draw(&["--model-dir", janus, "--pages", pages]);
    succeeds(&mut draw(&["--model-dir", janus]));
    let picture = fs::read(home.join("picture-0.png")).unwrap();
    // Rows 31 to 38 are drawn in one step: each path then needs a page of its own for the first of them, and one behind it.
    succeeds(&mut of_janus("24"));
    assert!(fs::read(home.join("picture-0.png")).unwrap() == picture);
    for (mut command, want) in [
        (
            of_janus("23"),
            "pages of a session: all 23 places are taken",
        ),
        (of_janus("3"), "\"pages\" is 3, allowed is 4 to "),
        (draw(&["--pages", "9"]), "--pages is no setting of a Show-o"),
    ] {
        let told = fails(&mut command);
        assert!(told.contains(want), "{told}");
    }
}
