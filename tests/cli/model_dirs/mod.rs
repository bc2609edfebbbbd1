//! Models of every kind, opened by the programs from folders as they are published.

mod device;
mod published;
pub mod tiny;
mod tokens;
mod unfit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{example, fails, folder, succeeds};
use serde_json::{Value, json};
use tiny::PROMPT;

/// `generate` on two candidates of one picture.
fn generate(prompt: &str, dirs: &[(&str, &PathBuf)], more: &[&str]) -> Command {
    let mut command = example("generate");
    command.args([prompt, "-n", "2", "--images", "1", "--quiet"]);
    for (name, dir) in dirs {
        command.arg(format!("--{name}")).arg(dir);
    }
    command.args(more);
    command
}

/// Its trace and picture.
fn drawn(home: &Path, command: &mut Command) -> (Value, Vec<u8>) {
    let out = home.join("out");
    succeeds(command.arg("--out").arg(&out));
    let trace = serde_json::from_slice(&fs::read(out.join("trace.json")).unwrap()).unwrap();
    (trace, fs::read(out.join("picture-0.png")).unwrap())
}

/// Draws with every strategy, and sees that each spent what it should.
fn every_strategy(home: &Path, prompt: &str, dirs: &[(&str, &PathBuf)], steps: u64) {
    for (strategy, alive) in [("plain", 1), ("best-of-n", 2), ("prm", 2), ("parm", 2)] {
        let mut command = generate(prompt, dirs, &["--strategy", strategy]);
        let (trace, _) = drawn(home, &mut command);
        let count = |key: &str| trace["cost"][key].as_u64().unwrap();
        let told = format!("{dirs:?} {strategy}: {}", trace["cost"]);
        assert_eq!(trace["models"]["steps"], steps, "{told}");
        match strategy {
            "plain" => assert!(
                trace["models"]["judge"].is_null() && count("decodes") == 0,
                "{told}"
            ),
            "best-of-n" => assert_eq!(count("outcome"), 2, "{told}"),
            "prm" => assert_eq!(count("process"), 2 * steps, "{told}"),
            _ => assert!(count("clarity") >= 2, "{told}"),
        }
        if strategy == "parm" {
            assert!(count("steps") <= 2 * steps, "{told}");
        } else {
            assert_eq!(count("steps"), alive * steps, "{told}");
        }
    }
}

#[test]
fn show_o_draws_and_llava_judges() {
    let home = folder("show-o");
    let [model, pixels] = tiny::show_o(&home, 20);
    tiny::vocabulary(&model, 20, &[(0, "a"), (1, "red"), (2, "car")]);
    let judge = home.join("judge");
    tiny::llava(&judge, "model.safetensors");
    let dirs = [
        ("model-dir", &model),
        ("tokenizer-dir", &pixels),
        ("judge-dir", &judge),
    ];
    every_strategy(&home, PROMPT, &dirs, 18);
    let few = ["--steps", "3", "--strategy", "best-of-n"];
    let (trace, _) = drawn(&home, &mut generate(PROMPT, &dirs, &few));
    assert_eq!(trace["cost"]["steps"], 6);
    assert_eq!(trace["models"]["guidance_scale"], 2.75);
}

#[test]
fn llamagen_draws_text_and_classes() {
    let home = folder("llamagen");
    let judge = home.join("judge");
    tiny::llava(&judge, "model.safetensors");
    let [model, pixels, text] = tiny::llamagen_text(&home);
    let dirs = [
        ("model-dir", &model),
        ("tokenizer-dir", &pixels),
        ("text-dir", &text),
        ("judge-dir", &judge),
    ];
    every_strategy(&home, PROMPT, &dirs, 4);
    let [model, pixels] = tiny::llamagen_class(&home);
    let dirs = [
        ("model-dir", &model),
        ("tokenizer-dir", &pixels),
        ("judge-dir", &judge),
    ];
    every_strategy(&home, "7", &dirs, 5);
    // A label is a name of its class.
    let seventh = drawn(&home, &mut generate("7", &dirs, &["--strategy", "plain"]));
    tiny::vocabulary(&model, 10, &[(7, "red car")]);
    let named = drawn(
        &home,
        &mut generate("red car", &dirs, &["--strategy", "plain"]),
    );
    assert!(seventh.1 == named.1);
    let told = fails(generate("blue car", &dirs, &[]).arg("--out").arg(&home));
    assert!(told.contains("\"blue car\""), "{told}");
}

#[test]
fn janus_draws_and_judges_with_one_set_of_weights() {
    let home = folder("janus");
    let [model, copy, judge] = ["janus", "copy", "judge"].map(|name| home.join(name));
    tiny::janus(&model);
    tiny::janus(&copy);
    tiny::llava(&judge, "model.safetensors");
    every_strategy(&home, PROMPT, &[("model-dir", &model)], 4);
    every_strategy(
        &home,
        PROMPT,
        &[("model-dir", &model), ("judge-dir", &judge)],
        4,
    );
    let events = |judge: Option<&PathBuf>| {
        let mut dirs = vec![("model-dir", &model)];
        dirs.extend(judge.map(|judge| ("judge-dir", judge)));
        let (trace, picture) = drawn(&home, &mut generate(PROMPT, &dirs, &[]));
        let dir = trace["models"]["judge"].as_str().unwrap().to_owned();
        (dir, trace["pictures"][0]["events"].clone(), picture)
    };
    // Its own judge, named or not, and the same weights loaded a second time.
    let own = events(None);
    assert_eq!(own.0, model.display().to_string());
    assert_eq!(events(Some(&model)), own);
    let again = events(Some(&copy));
    assert_eq!(again.0, copy.display().to_string());
    assert_eq!((again.1, again.2), (own.1, own.2));
    // A picture that is drawn code by code is corrected by its tail, unless told otherwise.
    let corrected = [
        "--strategy",
        "plain",
        "--reflections",
        "1",
        "--satisfied",
        "2",
    ];
    let dirs: &[_] = &[("model-dir", &model)];
    let (trace, _) = drawn(&home, &mut generate(PROMPT, dirs, &corrected));
    assert_eq!(trace["cost"]["steps"], 4 + 2);
    for how in ["scattered", "region"] {
        let args = [&corrected[..], &["--correction", how]].concat();
        let told = fails(generate(PROMPT, dirs, &args).arg("--out").arg(&home));
        assert!(told.contains("by its tail alone"), "{told}");
    }
    // It judges the drawings of others, too.
    let [other, pixels] = tiny::llamagen_class(&home);
    let words = [(0, "7"), (3, "match"), (8, "?"), (123, "yes"), (7, "no")];
    let special = fs::read_to_string(copy.join("vocab.txt")).unwrap();
    let mut lines: Vec<&str> = special.lines().collect();
    words.iter().for_each(|(id, word)| lines[*id] = word);
    fs::write(copy.join("vocab.txt"), lines.join("\n")).unwrap();
    let dirs = [
        ("model-dir", &other),
        ("tokenizer-dir", &pixels),
        ("judge-dir", &copy),
    ];
    every_strategy(&home, "7", &dirs, 5);
}

#[test]
fn a_judge_is_the_same_in_either_naming() {
    let home = folder("namings");
    let model = home.join("janus");
    tiny::janus(&model);
    let judged = ["model.safetensors", "model.transformers.safetensors"].map(|file| {
        let judge = home.join("judge");
        let _ = fs::remove_dir_all(&judge);
        tiny::llava(&judge, file);
        let dirs = [("model-dir", &model), ("judge-dir", &judge)];
        let (trace, _) = drawn(&home, &mut generate(PROMPT, &dirs, &[]));
        trace["pictures"][0]["events"].clone()
    });
    assert_eq!(judged[0], judged[1]);
}

#[test]
fn settings_are_the_models_own_unless_given() {
    let home = folder("own-settings");
    let janus = home.join("janus");
    tiny::janus(&janus);
    let [text, text_vq, t5] = tiny::llamagen_text(&home);
    let [class, class_vq] = tiny::llamagen_class(&home);
    let models = |prompt, dirs: &[(&str, &PathBuf)], more: &[&str]| {
        let plain = [&["--strategy", "plain"], more].concat();
        let (trace, _) = drawn(&home, &mut generate(prompt, dirs, &plain));
        trace["models"].clone()
    };
    let text: &[_] = &[
        ("model-dir", &text),
        ("tokenizer-dir", &text_vq),
        ("text-dir", &t5),
    ];
    let class: &[_] = &[("model-dir", &class), ("tokenizer-dir", &class_vq)];
    let janus: &[_] = &[("model-dir", &janus)];
    for (prompt, dirs, guidance, top_k) in [
        (PROMPT, text, 7.5, 1000),
        ("7", class, 4.0, 2000),
        (PROMPT, janus, 5.0, 0),
    ] {
        let own = models(prompt, dirs, &[]);
        assert_eq!(own["guidance_scale"], guidance, "{own}");
        assert_eq!(
            (&own["top_k"], &own["top_p"]),
            (&json!(top_k), &json!(1.0)),
            "{own}"
        );
        assert_eq!(
            (&own["temperature"], &own["preview"]),
            (&json!(1.0), &json!("repeat-row"))
        );
    }
    let given = "--guidance 2 --top-k 9 --top-p 0.5 --temperature 0.25 --preview grey --steps 2 --format q8_0";
    let given = models(PROMPT, janus, &given.split(' ').collect::<Vec<_>>());
    for (key, want) in [
        ("guidance_scale", json!(2.0)),
        ("top_k", json!(9)),
        ("top_p", json!(0.5)),
        ("temperature", json!(0.25)),
        ("preview", json!("grey")),
        ("steps", json!(2)),
        ("format", json!("Q8_0")),
    ] {
        assert_eq!(given[key], want, "{key}");
    }
}

#[test]
fn an_evaluation_takes_other_models_for_the_official_scorer() {
    let home = folder("scorer");
    let model = home.join("janus");
    tiny::janus(&model);
    let prompts = home.join("prompts.jsonl");
    let line = json!({ "tag": "single_object", "prompt": PROMPT, "include": [{ "class": "car", "count": 1 }] });
    fs::write(&prompts, line.to_string()).unwrap();
    // Twice the rows: no picture of the bundled world's size.
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["vq"]["grid"] = 8.into();
    fs::write(&path, config.to_string()).unwrap();
    let out = home.join("out.jsonl");
    let geneval = |more: &[&str]| {
        let mut command = example("geneval");
        command.args([
            "--quiet",
            "--images",
            "2",
            "--strategy",
            "best-of-n",
            "-n",
            "2",
        ]);
        command
            .arg("--model-dir")
            .arg(&model)
            .arg("--prompts")
            .arg(&prompts);
        command.arg("--out").arg(&out).args(more);
        command
    };
    let told = fails(&mut geneval(&[]));
    assert!(
        told.contains("128x128") && told.contains("--pictures"),
        "{told}"
    );
    let pictures = home.join("pictures");
    let told = succeeds(geneval(&[]).arg("--pictures").arg(&pictures));
    assert!(told.contains("2 pictures, not scored"), "{told}");
    assert!(pictures.join("00000/samples/0001.png").exists());
    // The settings of a model are part of what is gone on with.
    let told = fails(
        geneval(&["--guidance", "2"])
            .arg("--pictures")
            .arg(&pictures),
    );
    assert!(told.contains("other settings"), "{told}");
    let told = fails(example("geneval").arg("--compare").args([&out, &out]));
    assert!(told.contains("not scored"), "{told}");
    // A page is of pictures that are scored: said before they are drawn.
    let others = home.join("others");
    let mut command = geneval(&["--report", "page.html"]);
    let told = fails(command.arg("--pictures").arg(&others));
    assert!(told.contains("--report"), "{told}");
    assert!(!others.exists());
    // Prompts of another file of that name are another set.
    fs::write(&prompts, line.to_string().replace("car", "cup")).unwrap();
    let told = fails(geneval(&[]).arg("--pictures").arg(&pictures));
    assert!(told.contains("other settings"), "{told}");
}
