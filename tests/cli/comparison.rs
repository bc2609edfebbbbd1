//! Tables of all strategies as somebody at a terminal or on a cluster makes them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::evaluation::lines;
use crate::programs::{example, fails, folder, succeeds};
use serde_json::Value;

/// A comparison of two prompts, one picture each, in few steps, so many of them timed.
fn compare(out: &Path, timed: &str) -> Command {
    let mut command = example("compare");
    command
        .args(["--quiet", "--limit", "2", "--images", "1", "--jobs", "1"])
        .args(["--steps", "2", "--only", "plain,two,parm-2,again"])
        .args(["--entry", "two=--strategy best-of-n -n 2"])
        .args(["--entry", "parm-2=--strategy parm -n 2"])
        .args(["--aligned", SAME])
        .args(["--most", "2", "--timed", timed, "--out"])
        .arg(out)
        .stdout(Stdio::null());
    command
}

/// The weights that are bundled, as if they were others.
const SAME: &str = concat!(
    "again=",
    env!("CARGO_MANIFEST_DIR"),
    "/examples/demo/weights/show-o"
);

/// The files of a folder, without those that single ranks wrote.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .filter(|(name, _)| !name.contains(".rank-"))
        .collect();
    files.sort();
    files
}

fn parsed(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_comparison_goes_on_after_a_kill_and_ranks_make_one() {
    let home = folder("compare");
    let [whole, killed, ranks] = ["whole", "killed", "ranks"].map(|name| home.join(name));
    succeeds(&mut compare(&whole, "0"));
    let want = files(&whole);
    let names: Vec<&str> = want.iter().map(|file| file.0.as_str()).collect();
    assert_eq!(
        names,
        [
            "again.jsonl",
            "parm-2.jsonl",
            "plain.jsonl",
            "plot.png",
            "report.html",
            "scaling-best-of-1.jsonl",
            "scaling-best-of-2.jsonl",
            "scaling-parm-1.jsonl",
            "scaling-parm-2.jsonl",
            "table.json",
            "table.md",
            "two.jsonl",
        ]
    );
    let mut child = compare(&killed, "0").spawn().unwrap();
    let started = Instant::now();
    while lines(&killed.join("two.jsonl")) < 2 && started.elapsed() < Duration::from_secs(300) {
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("table.md").exists());
    succeeds(&mut compare(&killed, "0"));
    assert!(files(&killed) == want);
    for rank in ["0", "1"] {
        succeeds(compare(&ranks, "0").args(["--rank", rank, "--world", "2"]));
    }
    // Merging draws nothing, whatever is to be timed.
    for timed in ["8", "0"] {
        succeeds(compare(&ranks, timed).arg("--merge"));
        assert!(files(&ranks) == want);
    }

    // Curves are read off candidates that are the same in any company.
    let told = parsed(&whole.join("table.json"));
    let row = |label: &str| {
        let mut rows = told["rows"].as_array().unwrap().iter();
        rows.find(|row| row["label"] == label).unwrap().clone()
    };
    for (curve, rows) in [(0, ["plain", "two"]), (1, ["plain", "parm-2"])] {
        let points = &told["scaling"][curve]["points"];
        for (n, label) in rows.iter().enumerate() {
            assert_eq!(points[n]["candidates"], 1 << n);
            for part in ["mean", "low", "high"] {
                assert_eq!(points[n][part], row(label)["overall"][part], "{label}");
            }
        }
    }
    // Drawn alone, and the same: two candidates take twice the steps, share what they share, and are looked at.
    assert_eq!(told["rows"][0]["cost"], Value::Null);
    succeeds(&mut compare(&whole, "1"));
    let told = parsed(&whole.join("table.json"));
    let row = |label: &str| {
        let mut rows = told["rows"].as_array().unwrap().iter();
        rows.find(|row| row["label"] == label).unwrap().clone()
    };
    let cost = row("two")["cost"].as_f64().unwrap();
    assert!((1.5..2.5).contains(&cost), "{cost}");
    assert_eq!(row("plain")["cost"], 1.0);
    assert_eq!(row("plain")["multiply_adds"]["judge"], 0.0);
    for part in ["overall", "gain", "multiply_adds", "cost", "steps"] {
        assert_eq!(row("again")[part], row("plain")[part], "{part}");
    }
    // The page holds the same and asks for nothing.
    let page = fs::read_to_string(whole.join("report.html")).unwrap();
    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let len = page[start..].find('<').unwrap();
    let data: Value = serde_json::from_str(&page[start..start + len]).unwrap();
    assert_eq!(data, told);
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    for link in ["http", "src=", "href=", "@import"] {
        assert!(!outside.contains(link), "the page asks for {link}");
    }
    // A picture that is another one alone is not passed over.
    fs::remove_file(whole.join("timing.jsonl")).unwrap();
    let two = whole.join("two.jsonl");
    let text = fs::read_to_string(&two).unwrap();
    fs::write(&two, text.replace("\"steps\":4", "\"steps\":5")).unwrap();
    let told = fails(&mut compare(&whole, "1"));
    assert!(told.contains("steps 4 alone, 5 beside others"), "{told}");
}

#[test]
fn a_comparison_says_what_it_cannot_draw() {
    let home = folder("compare-wrong");
    for (args, want) in [
        (
            ["--only", "no-such-row"],
            "no row no-such-row: there are plain, ",
        ),
        (["--entry", "strategy"], "no NAME="),
        (["--entry", "../x=--strategy plain"], "no NAME="),
        (["--entry", "plain=--strategy plain"], "two rows plain"),
        (["--entry", "x=--strategy best"], "invalid value 'best'"),
        (["--entry", "x=--max-multiply-adds 1e9"], "use geneval"),
        (["--aligned", "x"], "no NAME="),
        (["--aligned", "two=x"], "two rows two"),
    ] {
        let mut command = compare(&home, "0");
        let told = fails(command.args(args));
        assert!(told.contains(want), "{args:?}: {told}");
    }
}
