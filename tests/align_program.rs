//! The training program: killed at any moment and started again, its files have the bytes of an undisturbed run.

mod programs;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use maquette::rng::{Stream, philox};
use programs::{example, fails, folder, succeeds};
use rand_core::Rng;

const FILES: [&str; 3] = [
    "run.bin",
    "adapter_model.safetensors",
    "adapter_config.json",
];

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

fn command(pairs: &Path, out: &Path) -> Command {
    let mut command = example("align");
    command.args([
        "--batch",
        "2",
        "--steps",
        "12",
        "--rank",
        "4",
        "--save-every",
        "2",
    ]);
    command.args(["--quiet", "--threads", "1"]);
    command.arg("--pairs").arg(pairs).arg("--out").arg(out);
    command
}

fn read(home: &Path) -> Vec<Vec<u8>> {
    FILES.map(|name| fs::read(home.join(name)).unwrap()).into()
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_bytes() {
    let home = folder("align");
    let set = home.join("pairs.jsonl");
    pairs(&set, 5);
    let (whole, killed) = (home.join("whole"), home.join("killed"));
    succeeds(&mut command(&set, &whole));
    let mut stream = Stream::new(4);
    let (mut kills, mut most) = (0, 400);
    while !killed.join(FILES[2]).exists() {
        let mut run = command(&set, &killed)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(stream.next_u64() % most));
        kills += u32::from(run.try_wait().unwrap().is_none());
        run.kill().unwrap();
        run.wait().unwrap();
        // A slow machine gets further in the end.
        most += 200;
    }
    assert!(kills > 1, "only {kills} kills");
    assert!(read(&whole) == read(&killed));
    // Done is done.
    succeeds(&mut command(&set, &killed));
    assert!(read(&whole) == read(&killed));
}

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
        let told = fails(&mut command(&set, &out));
        assert!(told.contains("line 3") && told.contains(what), "{told}");
    }
    fs::write(&set, "\n").unwrap();
    assert!(fails(&mut command(&set, &out)).contains("no pairs"));
    fs::write(&set, good).unwrap();
    let told = fails(command(&set, &out).args(["--targets", "o_proj"]));
    assert!(told.contains("target_modules"), "{told}");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("run.bin"), "not a run").unwrap();
    let told = fails(&mut command(&set, &out));
    assert!(told.contains("training checkpoint"), "{told}");
}
