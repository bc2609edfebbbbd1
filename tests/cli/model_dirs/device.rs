//! The same picture on a GPU, and what is said where there is none. The GPU is the stand-in driver, which interprets the
//! kernels, unless the machine has its own.

use std::fs;

use serde_json::{Value, json};

use super::tiny::{self, PROMPT};
use super::{drawn, generate};
use crate::programs::{example, fails, folder, has_driver, succeeds, with_gpu};

#[test]
fn a_gpu_draws_and_judges_the_same() {
    let home = folder("device");
    let model = home.join("janus");
    tiny::janus(&model);
    let few = ["--steps", "2", "--strategy", "best-of-n"];
    let on = |name: &str, device: &str| {
        let mut command = generate(PROMPT, &[("model-dir", &model)], &few);
        command.args(["--device", device]);
        drawn(&home.join(name), with_gpu(&mut command))
    };
    let (_, want) = on("cpu", "cpu");
    for device in ["cuda:0", "auto"] {
        let (trace, got) = on("gpu", device);
        assert_eq!(trace["device"]["backend"], "cuda", "{device}");
        assert_eq!(got, want, "{device}");
    }
}

#[test]
fn an_evaluation_on_a_gpu_has_one_job_unless_told_otherwise() {
    let home = folder("device-jobs");
    let model = home.join("janus");
    tiny::janus(&model);
    let prompts = home.join("prompts.jsonl");
    let line = json!({ "tag": "single_object", "prompt": PROMPT, "include": [{ "class": "car", "count": 1 }] });
    fs::write(&prompts, line.to_string()).unwrap();
    let jobs = |name: &str, more: &[&str]| {
        let mut command = example("geneval");
        command.args(["--images", "1", "--steps", "2", "--device", "cuda:0"]);
        command.arg("--model-dir").arg(&model);
        command.arg("--prompts").arg(&prompts);
        command.arg("--out").arg(home.join(name)).args(more);
        let told = succeeds(with_gpu(&mut command));
        let line = told.lines().find(|line| line.contains(" jobs, "));
        line.unwrap().trim().split(' ').next().map(str::to_owned)
    };
    assert_eq!(jobs("own.jsonl", &[]).as_deref(), Some("1"));
    let told = jobs("told.jsonl", &["--jobs", "2"]);
    assert_eq!(told.as_deref(), Some("2"));
}

#[test]
fn without_a_gpu_it_says_so_or_takes_the_cpu() {
    if has_driver() {
        return;
    }
    let home = folder("no-device");
    let [model, pixels] = tiny::show_o(&home, 20);
    tiny::vocabulary(&model, 20, &[(0, "a"), (1, "red"), (2, "car")]);
    let dirs = [("model-dir", &model), ("tokenizer-dir", &pixels)];
    let few = ["--steps", "2", "--strategy", "plain", "--device"];
    let on = |device: &str| {
        let mut command = generate(PROMPT, &dirs, &few);
        command.arg(device);
        command
    };
    let told = fails(&mut on("cuda"));
    assert!(told.contains("no NVIDIA driver is installed"), "{told}");
    assert!(told.contains("--device cpu"), "{told}");
    let (trace, _) = drawn(&home, &mut on("auto"));
    assert_eq!(trace["device"]["backend"], Value::from("cpu"));
    // Words that are no device are refused with what would be one.
    let out = on("gpu").output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("cublaslt:N or auto"));
}
