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
