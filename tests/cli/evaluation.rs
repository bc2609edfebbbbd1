//! Evaluations as somebody at a terminal or on a cluster runs them: detections of others, ranks, their merging.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::programs::{example, fails, folder, succeeds};
use serde_json::{Value, json};

/// A line of a detections file.
fn line(picture: &str, metadata: &Value, details: &Value, colors: &Value) -> String {
    let filename = format!("out/{picture}.png");
    // As the official scorer writes it: records and boxes as text.
    let (metadata, details) = (metadata.to_string(), details.to_string());
    json!({ "filename": filename, "metadata": metadata, "details": details, "colors": colors })
        .to_string()
}

#[test]
fn detections_of_another_detector_come_back_as_the_right_table() {
    let home = folder("detections");
    let path = home.join("detections.jsonl");
    let dog = json!({ "tag": "single_object", "prompt": "a photo of a dog", "include": [{ "class": "dog", "count": 1 }] });
    let clocks = json!({
        "tag": "counting", "prompt": "a photo of two clocks", "include": [{ "class": "clock", "count": 2 }],
        "exclude": [{ "class": "clock", "count": 3 }],
    });
    let tie = json!({
        "tag": "position", "prompt": "a photo of a tie above a sink",
        "include": [{ "class": "sink", "count": 1 }, { "class": "tie", "count": 1, "position": ["above", 0] }],
    });
    let boat = json!({
        "tag": "color_attr", "prompt": "a photo of a white boat and an orange hot dog",
        "include": [{ "class": "boat", "count": 1, "color": "white" }, { "class": "hot dog", "count": 1, "color": "orange" }],
    });
    let none = json!({});
    let at = |x: f64, y: f64, score: f64| json!([x, y, x + 10.0, y + 10.0, score]);
    let three = |last: f64| json!({ "clock": [at(0.0, 0.0, 0.99), at(20.0, 0.0, 0.95), at(40.0, 0.0, last)] });
    let stands = |y: f64| json!({ "sink": [at(0.0, 50.0, 0.9)], "tie": [at(0.0, y, 0.9)] });
    let both =
        json!({ "boat": [at(0.0, 0.0, 0.5), at(0.0, 0.0, 0.8)], "hot dog": [at(50.0, 0.0, 0.9)] });
    let cases = [
        // A score at the threshold is none.
        (
            "00000/samples/0000",
            &dog,
            json!({ "dog": [at(0.0, 0.0, 0.3)] }),
            none.clone(),
            Some("expected dog>=1, found 0"),
        ),
        (
            "00000/samples/0001",
            &dog,
            json!({ "dog": [at(0.0, 0.0, 0.31)], "cat": [at(0.0, 0.0, 0.9)] }),
            none.clone(),
            None,
        ),
        // Counting has its own threshold, and one too many is wrong.
        (
            "00001/samples/0000",
            &clocks,
            three(0.9),
            none.clone(),
            None,
        ),
        (
            "00001/samples/0001",
            &clocks,
            three(0.91),
            none.clone(),
            Some("expected clock<3, found 3"),
        ),
        ("00002/samples/0000", &tie, stands(10.0), none.clone(), None),
        (
            "00002/samples/0001",
            &tie,
            stands(90.0),
            none.clone(),
            Some("expected tie above target, found below target"),
        ),
        // The better of the two boats shows the colour, and it is listed second.
        (
            "00003/samples/0000",
            &boat,
            both.clone(),
            json!({ "boat": ["red", "white"], "hot dog": ["orange"] }),
            None,
        ),
        (
            "00003/samples/0001",
            &boat,
            both.clone(),
            json!({ "boat": ["white", "red"], "hot dog": ["orange"] }),
            Some("expected white boat>=1, found 0 white; and 1 red"),
        ),
    ];
    let text: Vec<String> = cases
        .iter()
        .map(|(picture, metadata, details, colors, _)| line(picture, metadata, details, colors))
        .collect();
    fs::write(&path, text.join("\n")).unwrap();
    let out = home.join("results.jsonl");
    let told = succeeds(
        example("geneval")
            .arg("--score")
            .arg(&path)
            .arg("--out")
            .arg(&out),
    );
    for want in [
        "over 8 pictures",
        "single        0.500",
        "counting      0.500",
        "position      0.500",
        "attribution   0.500",
        "overall       0.500   [ 0.500,  0.500]   4 prompts",
        "of all pictures 0.500 are correct, of all prompts 1.000 in at least one",
    ] {
        assert!(told.contains(want), "{want}\n{told}");
    }
    let results = fs::read_to_string(&out).unwrap();
    for (result, (picture, metadata, _, _, reason)) in results.lines().zip(&cases) {
        let result: Value = serde_json::from_str(result).unwrap();
        assert_eq!(result["filename"], format!("out/{picture}.png"));
        assert_eq!(result["correct"], reason.is_none(), "{result}");
        assert_eq!(result["reason"], reason.unwrap_or_default());
        let record: Value = serde_json::from_str(result["metadata"].as_str().unwrap()).unwrap();
        assert_eq!(&record, *metadata);
    }
    // What is kept are the boxes that count, best first.
    let last: Value = serde_json::from_str(results.lines().last().unwrap()).unwrap();
    let kept: Value = serde_json::from_str(last["details"].as_str().unwrap()).unwrap();
    assert_eq!(kept["boat"][0][4], 0.8);
    let first: Value = serde_json::from_str(results.lines().next().unwrap()).unwrap();
    assert_eq!(first["details"], "{}");
    // The written results are read as the official ones are.
    let again = succeeds(example("geneval").arg("--table").arg(&out));
    assert_eq!(
        again.lines().skip(1).collect::<Vec<_>>(),
        told.lines().skip(1).collect::<Vec<_>>()
    );
    // Other bounds, other marks.
    let lax = ["--threshold", "0.2", "--counting-threshold", "0.92"];
    let told = succeeds(example("geneval").arg("--score").arg(&path).args(lax));
    assert!(
        told.contains("single        1.000") && told.contains("counting      1.000"),
        "{told}"
    );
}

#[test]
fn the_prompts_say_what_is_asked_for_where_detections_do_not() {
    let home = folder("bare-detections");
    let path = home.join("detections.jsonl");
    let prompts = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/published/evaluation_metadata.jsonl"
    );
    let score = |text: &str| {
        fs::write(&path, text).unwrap();
        let mut command = example("geneval");
        command.args(["--prompts", prompts, "--score"]).arg(&path);
        command
    };
    // Line 0 asks for a bench; detections may be JSON as they are.
    let bench = r#"{"filename":"x/00000/samples/0000.png","details":{"bench":[[0,0,9,9,0.5]]}}"#;
    let told = succeeds(&mut score(bench));
    assert!(told.contains("single        1.000"), "{told}");
    // The rules of detections are of no use without any.
    let mut command = example("geneval");
    let out = command.args(["--threshold", "0.5"]).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{told}");
    assert!(told.contains("--score"), "{told}");
    // Line 299 asks for a black dining table: without colours nobody can tell.
    let table =
        r#"{"filename":"x/00299/samples/0000.png","details":{"dining table":[[0,0,9,9,0.5]]}}"#;
    for (text, want) in [
        (
            table.to_owned(),
            "\"dining table\" has 1 boxes and 0 colors",
        ),
        (
            format!("{bench}\n{bench}"),
            "line 2: this picture was there before",
        ),
        (bench.replace("00000", "00553"), "no prompt 553"),
        (
            bench.replace("samples/", ""),
            "no picture PROMPT/samples/IMAGE.png",
        ),
        (bench.replace("0.5", "1e99"), "line 1"),
        ("{}".into(), "line 1"),
        (String::new(), "no detections"),
    ] {
        let told = fails(&mut score(&text));
        assert!(told.contains(want), "{want}\n{told}");
    }
}

/// An evaluation of two pictures a prompt.
fn geneval(out: &Path, prompts: &str, vars: &[(&str, &str)]) -> Command {
    let mut command = example("geneval");
    command
        .args(["--quiet", "--limit", prompts, "--images", "2"])
        .args(["--jobs", "1", "--strategy", "best-of-n", "-n", "2"])
        .args(["--steps", "4", "--out"])
        .arg(out)
        .envs(vars.iter().copied())
        .stdout(Stdio::null());
    command
}

pub fn lines(path: &Path) -> usize {
    fs::read(path).map_or(0, |bytes| bytes.iter().filter(|&&b| b == b'\n').count())
}

fn wait(mut child: Child) {
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_rank_that_is_killed_goes_on_and_all_become_what_one_process_draws() {
    let home = folder("ranks");
    let (whole, shared) = (home.join("whole.jsonl"), home.join("shared.jsonl"));
    let pictures = |name: &str| home.join(name);
    succeeds(
        geneval(&whole, "8", &[])
            .arg("--pictures")
            .arg(pictures("one")),
    );
    // Four ranks, each told so by another launcher.
    let ranks = [
        [("RANK", "0"), ("WORLD_SIZE", "4")],
        [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4")],
        [("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "4")],
        [("JOB_COMPLETION_INDEX", "3"), ("WORLD_SIZE", "4")],
    ];
    let start = |vars: &[(&str, &str)]| {
        let mut command = geneval(&shared, "8", vars);
        command.arg("--pictures").arg(pictures("four"));
        command
    };
    let file = |rank: usize| home.join(format!("shared.rank-{rank}-of-4.jsonl"));
    let merge = || {
        let mut command = example("geneval");
        command.args(["--merge", "--out"]).arg(&shared);
        command
    };
    let others: Vec<Child> = [0, 1].map(|i| start(&ranks[i]).spawn().unwrap()).into();
    // A rank that had written all before this test was woken begins anew.
    let kill_at_two_lines = || {
        let mut killed = start(&ranks[2]).spawn().unwrap();
        let started = Instant::now();
        while lines(&file(2)) < 2 && started.elapsed() < Duration::from_secs(300) {
            sleep(Duration::from_millis(2));
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        let kept = lines(&file(2));
        assert!(kept >= 2, "{kept} lines before the kill");
        if kept == 5 {
            fs::remove_file(file(2)).unwrap();
        }
        kept < 5
    };
    assert!((0..5).any(|_| kill_at_two_lines()), "never before the end");
    others.into_iter().for_each(wait);
    let told = fails(&mut merge());
    assert!(told.contains("rank 3 of 4 is missing"), "{told}");
    wait(start(&ranks[3]).spawn().unwrap());
    let told = fails(&mut merge());
    assert!(told.contains("of 16 pictures are there"), "{told}");
    wait(start(&ranks[2]).spawn().unwrap());
    let told = succeeds(&mut merge());
    assert!(told.contains("over 16 pictures"), "{told}");
    assert!(fs::read(&whole).unwrap() == fs::read(&shared).unwrap());
    // So are the pictures.
    let tree = |name: &str| {
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        let mut left = vec![pictures(name)];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    files.push((path.strip_prefix(pictures(name)).unwrap().into(), bytes));
                }
            }
        }
        files.sort();
        files
    };
    let (one, four) = (tree("one"), tree("four"));
    assert_eq!(one.len(), 8 * 4);
    assert!(one == four);
}

#[test]
fn ranks_that_do_not_fit_are_told() {
    let home = folder("misfits");
    let out = home.join("x.jsonl");
    // Most of so many ranks have nothing to do for two prompts.
    let third = || geneval(&out, "2", &[("RANK", "3"), ("WORLD_SIZE", "12")]);
    let merge = || {
        let mut command = example("geneval");
        command.args(["--merge", "--out"]).arg(&out);
        command
    };
    let told = fails(&mut geneval(&out, "2", &[("RANK", "0")]));
    assert!(told.contains("WORLD_SIZE does not say"), "{told}");
    let told = fails(&mut merge());
    assert!(told.contains("no files x.rank-"), "{told}");
    succeeds(&mut third());
    // The command line outdoes the environment.
    succeeds(third().args(["--rank", "1", "--world", "2"]));
    let told = fails(&mut merge());
    assert!(told.contains("files of 2 and of 12 processes"), "{told}");
    // Another seed is another run.
    let told = fails(third().args(["--seed", "5"]));
    assert!(told.contains("other settings"), "{told}");
    // Twice at once is once too often.
    let path = home.join("x.rank-3-of-12.jsonl");
    let held = fs::File::options().append(true).open(path).unwrap();
    held.lock().unwrap();
    let told = fails(&mut third());
    assert!(told.contains("another process"), "{told}");
}

/// A program that says `answer` of a picture that is there; `$line` is the prompt's record.
#[cfg(unix)]
fn checker(home: &Path, name: &str, answer: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = home.join(name);
    let text = format!("#!/bin/sh\nread -r line\ntest -s \"$1\" || exit 1\n{answer}\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn prompts_of_another_domain_are_marked_by_a_program() {
    let home = folder("domain");
    let set = home.join("prompts");
    fs::create_dir(&set).unwrap();
    fs::write(
        set.join("color_val.txt"),
        "a photo of a red car\n\na photo of a blue book\n",
    )
    .unwrap();
    fs::write(set.join("shape_val.txt"), "a photo of a kite\n").unwrap();
    fs::write(set.join("README"), "not prompts").unwrap();
    let run = |out: &str, prompts: &Path, program: Option<&Path>| {
        let mut command = example("geneval");
        command.args(["--quiet", "--steps", "2", "--images", "2"]);
        command.arg("--prompts").arg(prompts);
        command.arg("--out").arg(home.join(out));
        if let Some(program) = program {
            command.arg("--checker").arg(program);
        }
        command
    };
    let by_tag = checker(
        &home,
        "by-tag",
        r#"case "$line" in *color*) echo '{"score": 0.75}';; *) echo '{"score": 0.25, "reason": "edges"}';; esac"#,
    );
    let told = succeeds(&mut run("x.jsonl", &set, Some(&by_tag)));
    for line in [
        "over 6 pictures (mean score",
        "color         0.750   [ 0.750,  0.750]   2 prompts",
        "shape         0.250   [ 0.250,  0.250]   1 prompts",
        "overall       0.500",
        "of all pictures 0.667 are correct",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    // Another one's marks go to another file.
    let other = checker(&home, "other", r#"echo '{"score": 0.25, "correct": true}'"#);
    let told = fails(&mut run("x.jsonl", &set, Some(&other)));
    assert!(told.contains("other settings"), "{told}");
    succeeds(&mut run("y.jsonl", &set, Some(&other)));
    let files = ["x.jsonl", "y.jsonl"].map(|name| home.join(name));
    let told = succeeds(example("geneval").arg("--compare").args(files));
    assert!(told.contains("color        -0.500"), "{told}");
    // Records of one's own need no more than a tag and a prompt.
    let own = home.join("own.jsonl");
    let record = r#"{"tag": "cars", "prompt": "a photo of a red car", "doors": 4}"#;
    fs::write(&own, record).unwrap();
    let doors = checker(
        &home,
        "doors",
        r#"case "$line" in *'"doors": 4'*) echo '{"score": 1}';; esac"#,
    );
    let told = succeeds(&mut run("own-x.jsonl", &own, Some(&doors)));
    assert!(told.contains("cars          1.000"), "{told}");

    for (name, answer, want) in [
        ("words", "echo good", "said \"good\": "),
        ("silent", "true", "said \"\": "),
        ("much", r#"echo '{"score": 2}'"#, "a score lies in [0, 1]"),
        ("broken", "exit 3", "ended with exit status: 3"),
    ] {
        let program = checker(&home, name, answer);
        let told = fails(&mut run(&format!("{name}.jsonl"), &set, Some(&program)));
        assert!(
            told.contains(want) && told.contains("a photo of a"),
            "{want}\n{told}"
        );
    }
    let told = fails(&mut run("bad.jsonl", &set, Some(&home.join("nobody"))));
    assert!(told.contains("cannot run"), "{told}");
    let told = fails(&mut run("bad.jsonl", &set, None));
    assert!(told.contains("--checker"), "{told}");
    let told = fails(&mut run("bad.jsonl", &home.join("nowhere"), None));
    assert!(told.contains("cannot read"), "{told}");
    fs::remove_dir_all(&set).unwrap();
    fs::create_dir(&set).unwrap();
    let told = fails(&mut run("bad.jsonl", &set, None));
    assert!(told.contains("holds no .txt file"), "{told}");
}

#[test]
fn outcomes_are_told_by_the_rules_or_by_both() {
    let home = folder("outcomes-by");
    let drawn = |who: &str| {
        let out = home.join(format!("{who}.jsonl"));
        let mut command = example("geneval");
        command.args(["--quiet", "--limit", "8", "--images", "3", "--jobs", "1"]);
        // One candidate that is corrected unless the answer is yes.
        command.args(["--reflections", "1", "--satisfied", "0", "--steps", "6"]);
        command.args(["--outcomes-by", who, "--out"]).arg(&out);
        succeeds(&mut command);
        let text = fs::read_to_string(&out).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<Value>>()
    };
    let [judge, rules, both] = ["judge", "rules", "both"].map(drawn);
    assert!(judge[0]["models"].get("outcomes").is_none());
    assert_eq!(rules[0]["models"]["outcomes"], "rules");
    let mut first = 0;
    for ((judge, rules), both) in judge.iter().zip(&rules).zip(&both).skip(1) {
        let lines = [judge, rules, both];
        let [a, b, mean] = lines.map(|line| line["p_yes"].as_f64().unwrap());
        // It is content at so many of five bounds.
        assert!((5.0 * b - (5.0 * b).round()).abs() < 1e-5, "{b}");
        // The first picture, of which all say yes, is the same whoever is asked.
        if lines.iter().all(|line| line["questions"] == 1) {
            assert!((mean - (a + b) / 2.0).abs() < 1e-6, "{a} {b} {mean}");
            let [a, b, all] = lines.map(|line| line["multiply_adds"]["judge"].as_u64().unwrap());
            assert_eq!(a + b, all);
            first += 1;
        }
    }
    assert!(first > 3);
    let mut command = example("generate");
    command.args(["--outcomes-by", "both", "-n", "2", "--steps", "4", "--out"]);
    command.arg(home.join("out")).arg("red and blue");
    let told = fails(&mut command);
    assert!(
        told.contains("does not know what \"red and blue\""),
        "{told}"
    );
}
