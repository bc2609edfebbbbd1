//! The programs that make training sets and train on them: killed at any moment and started again, their files have the
//! bytes of an undisturbed run.

mod annotate;
mod bad;
mod device;
mod judge;
mod runs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::programs::{example, folder, succeeds};
use maquette::rng::{Stream, philox};
use rand_core::Rng;

/// Moments at which a program is killed.
const KILLS: usize = 50;

/// Pairs of random pictures.
fn pairs(path: &Path, n: u32) {
    let picture = |seed: u32| -> Vec<u32> {
        (0..64)
            .map(|i| philox([seed, 1], [i, 0, 0, 0])[0] % 1024)
            .collect()
    };
    let line = |at| {
        let (chosen, rejected) = (picture(2 * at), picture(2 * at + 1));
        format!(
            "{{\"prompt\": \"a red car\", \"chosen\": {chosen:?}, \"rejected\": {rejected:?}}}\n"
        )
    };
    fs::write(path, (0..n).map(line).collect::<String>()).unwrap();
}

/// Prompts of the bundled world to train on.
fn prompts(home: &Path, n: u32) -> PathBuf {
    let path = home.join("prompts.jsonl");
    let mut command = example("demo");
    command.args(["prompts", "--seed", "5", "--count", &n.to_string()]);
    succeeds(command.arg("--out").arg(&path));
    path
}

/// A training run of two pairs a step.
fn align(pairs: Option<&Path>, out: &Path) -> Command {
    let mut command = example("align");
    command.args(["--batch", "2", "--rank", "4", "--save-every", "2"]);
    command.args(["--quiet", "--threads", "1"]);
    if let Some(pairs) = pairs {
        command.arg("--pairs").arg(pairs);
    }
    command.arg("--out").arg(out);
    command
}

/// All files of a folder and below, those of other runs and halves left out.
fn tree(home: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut files, mut left) = (Vec::new(), vec![home.to_owned()]);
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_none_or(|e| e != "part") {
                let bytes = fs::read(&path).unwrap();
                files.push((path.strip_prefix(home).unwrap().into(), bytes));
            }
        }
    }
    files.sort();
    files
}

/// Starts a program in a folder again and again, and kills it at random moments; a run that ends is compared with the
/// undisturbed one, and the next begins anew.
fn killed_again_and_again(name: &str, start: &dyn Fn(&Path) -> Command) {
    let home = folder(name);
    let whole = home.join("whole");
    fs::create_dir_all(&whole).unwrap();
    let begun = Instant::now();
    succeeds(&mut start(&whole));
    // A life is at most a third of what the run takes alone, the machine's other work included.
    let most = begun.elapsed().as_micros() as u64 / 3;
    let want = tree(&whole);
    assert!(want.len() > 1, "{want:?}");
    let (mut stream, mut kills, mut ends) = (Stream::new(4), 0, 0);
    loop {
        let out = home.join(format!("killed-{ends}"));
        fs::create_dir_all(&out).unwrap();
        let mut done = false;
        while !done && kills < KILLS {
            let mut run = start(&out).stdout(Stdio::null()).spawn().unwrap();
            sleep(Duration::from_micros(stream.next_u64() % most));
            done = run.try_wait().unwrap().is_some();
            kills += usize::from(!done);
            run.kill().unwrap();
            run.wait().unwrap();
        }
        // Done is done, and what is not done is gone on with.
        succeeds(&mut start(&out));
        let got = tree(&out);
        let names = |tree: &[(PathBuf, Vec<u8>)]| -> Vec<PathBuf> {
            tree.iter().map(|file| file.0.clone()).collect()
        };
        assert_eq!(names(&got), names(&want));
        for (got, want) in got.iter().zip(&want) {
            assert!(
                got == want,
                "{} differs after {kills} kills",
                got.0.display()
            );
        }
        ends += 1;
        if kills == KILLS {
            return;
        }
    }
}
