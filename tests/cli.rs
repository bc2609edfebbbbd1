//! The programs, as somebody at a terminal meets them.

mod programs;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use programs::{example, fails, folder, succeeds};

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
fn an_output_folder_that_is_not_writable_is_told_before_any_work() {
    let home = folder("unwritable");
    fs::write(home.join("file"), "").unwrap();
    let started = Instant::now();
    let told = fails(example("generate").arg("--out").arg(home.join("file/out")));
    assert!(told.contains("is not writable"), "{told}");
    assert!(started.elapsed() < Duration::from_secs(5));
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

fn geneval(out: &Path) -> Command {
    let mut command = example("geneval");
    command
        .args([
            "--quiet", "--limit", "12", "--images", "2", "--jobs", "2", "--out",
        ])
        .arg(out);
    command
}

#[test]
fn a_killed_evaluation_goes_on_and_ends_with_the_same_file() {
    let home = folder("kill");
    let (whole, broken) = (home.join("whole.jsonl"), home.join("broken.jsonl"));
    succeeds(&mut geneval(&whole));
    let mut child = geneval(&broken).stdout(Stdio::null()).spawn().unwrap();
    let lines =
        |path: &Path| fs::read(path).map_or(0, |b| b.iter().filter(|&&c| c == b'\n').count());
    let started = Instant::now();
    while lines(&broken) < 5 && started.elapsed() < Duration::from_secs(100) {
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = lines(&broken);
    assert!(kept >= 5, "only {kept} lines before the kill");
    // What a kill in the middle of a write leaves behind.
    let mut torn = fs::read(&broken).unwrap();
    torn.extend(b"{\"correct\":tr");
    fs::write(&broken, torn).unwrap();
    succeeds(&mut geneval(&broken));
    assert!(
        fs::read(&whole).unwrap() == fs::read(&broken).unwrap(),
        "{} and {} differ",
        whole.display(),
        broken.display()
    );

    let told = fails(geneval(&broken).args(["--seed", "5"]));
    assert!(told.contains("other settings"), "{told}");
    let told = succeeds(example("geneval").arg("--compare").args([&whole, &broken]));
    assert!(
        told.contains("overall       0.000   [ 0.000,  0.000]"),
        "{told}"
    );
}

#[test]
fn pictures_lie_as_the_official_scorer_reads_them() {
    let home = folder("layout");
    let mut command = example("geneval");
    command
        .args(["--quiet", "--limit", "1", "--images", "2", "--out"])
        .arg(home.join("x.jsonl"));
    succeeds(command.arg("--pictures").arg(home.join("pictures")));
    for file in ["metadata.jsonl", "samples/0000.png", "samples/0001.png"] {
        assert!(
            home.join("pictures/00000").join(file).exists(),
            "{file} is missing"
        );
    }
}
