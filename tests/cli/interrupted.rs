//! Evaluations that are killed or run out of disk, and where their pictures lie.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::programs::{example, fails, folder, succeeds};

fn geneval(out: &Path) -> Command {
    let mut command = example("geneval");
    command
        .args([
            "--quiet", "--limit", "12", "--images", "2", "--jobs", "2", "--steps", "6", "--out",
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

/// A disk of 24 KB in a world of its own, which is filled, then grows.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_the_run_goes_on_where_it_was() {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-euc", script, "sh"]);
        command
    };
    let home = folder("full");
    let disk = home.join("disk");
    fs::create_dir(&disk).unwrap();
    let mounts = unshare(r#"mount -t tmpfs -o size=24k tmpfs "$1""#)
        .arg(&disk)
        .status();
    if !mounts.is_ok_and(|status| status.success()) {
        eprintln!("left out: nobody may mount here");
        return;
    }
    let script = r#"disk=$1 told=$2 out=$3; shift 3
mount -t tmpfs -o size=24k tmpfs "$disk"
if "$@" >/dev/null 2>"$told"; then exit 9; fi
mount -o remount,size=8m "$disk"
"$@"
cp "$disk/e.jsonl" "$out""#;
    let (whole, broken) = (home.join("whole.jsonl"), home.join("broken.jsonl"));
    succeeds(&mut geneval(&whole));
    let told = home.join("told");
    let mut run = geneval(&disk.join("e.jsonl"));
    run.arg("--pictures").arg(disk.join("pictures"));
    let mut all = unshare(script);
    all.args([&disk, &told, &broken])
        .arg(run.get_program())
        .args(run.get_args());
    let found = succeeds(&mut all);
    assert!(found.contains("overall"), "{found}");
    let told = fs::read_to_string(told).unwrap();
    assert!(
        told.contains("No space left on device") && told.contains("disk"),
        "{told}"
    );
    assert!(
        fs::read(&whole).unwrap() == fs::read(&broken).unwrap(),
        "other bytes than on a disk with room"
    );
}
