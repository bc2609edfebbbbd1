//! The report of kernels' times, on the stand-in driver: its rows are all there, without times. And what a program does that
//! cannot tell them.

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use crate::programs::{example, fails, folder, has_driver, succeeds, with_gpu};

#[test]
fn every_row_runs_without_a_gpu() {
    let run = |op: &str, shape: &str| {
        let mut command = example("kernel_report");
        command.args([
            "--device", "cuda", "--cold", "0", "--op", op, "--shape", shape,
        ]);
        let text = succeeds(with_gpu(&mut command));
        assert!(text.starts_with("cuda, "), "{text}");
        if !has_driver() {
            assert!(text.contains("\nstand-in driver, no time\n"), "{text}");
        }
        // What device, what it copies, and what the columns are.
        text.lines().count() - 3
    };
    // Formats and arithmetics; formats of keys and values.
    for (op, shape, rows) in [
        ("gemm", "2,33,256", 10),
        ("conv2d", "4,32,32", 3),
        ("attention", "2,1,3,2,8", 3),
        ("rms_norm", "3,40", 1),
        ("layer_norm", "3,40", 1),
        ("gate", "3,40", 1),
        ("rotary_append", "3,2,32", 2),
        ("group_norm", "5,32", 1),
        ("sample", "2,1500", 3),
        ("masked_step", "3,40", 1),
        ("nearest", "3,8,40", 1),
    ] {
        assert_eq!(run(op, shape), rows, "{op}");
    }
}

#[test]
fn sizes_and_times_that_make_no_row_are_told() {
    let report = |args: &[&str]| {
        let mut command = example("kernel_report");
        command.args(["--threads", "1", "--cold", "0"]).args(args);
        command
    };
    for (op, shape) in [
        ("gemm", "20,4096"),
        ("gemm", "20,0,4096"),
        ("conv2d", "4,32,0"),
        ("attention", "2,1,3,2"),
        ("attention", "2,1,3,0,8"),
        ("rms_norm", "3,40,5"),
    ] {
        let told = fails(&mut report(&["--op", op, "--shape", shape]));
        assert!(told.contains("no operation has these sizes"), "{op} {told}");
    }
    // More numbers than any machine has room for.
    for (op, shape) in [
        ("gemm", "20,4294967296,4294967296"),
        ("conv2d", "4294967296,32,32"),
        ("attention", "4294967296,4294967296,3,2,8"),
        (
            "attention",
            "1,1,1,4294967296,4294967296,4294967296,4294967296",
        ),
        ("nearest", "3,4294967296,4294967296"),
        ("gate", "4294967296,18446744073709551615"),
        ("sample", "1048576,16777216"),
    ] {
        let told = fails(&mut report(&["--op", op, "--shape", shape]));
        let wanted = "numbers of this shape: ";
        assert!(
            told.contains(wanted) && told.contains("bytes could not be reserved"),
            "{op} {told}"
        );
    }
    for wrong in ["-1", "NaN", "1e40", "soon"] {
        let seconds = format!("--seconds={wrong}");
        let out = report(&[&seconds, "--op", "gate"]).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{wrong}: {told}");
    }
}

/// The world's files, on a disk that is full.
#[test]
fn files_that_cannot_be_written_end_a_program_in_words() {
    let home = folder("full-disk");
    let full = |name: &str| {
        let path = home.join(name);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        path
    };
    let readings = home.join("readings.jsonl");
    let reading = r#"{"prompt":"a photo of a red car","seen":[[4,0,8.0,8.0,24.0]]}"#;
    fs::write(&readings, reading).unwrap();
    let (list, set) = (full("list.jsonl"), full("set.npy"));
    let demo = |args: &[&str]| {
        let mut command = example("demo");
        command.args(args);
        command
    };
    let mut questions = demo(&["questions", "--readings"]);
    questions.arg(&readings);
    for (mut command, out) in [
        (demo(&["prompts", "--count", "1"]), &list),
        (questions, &list),
        (demo(&["draw", "train", "--count", "0"]), &set),
    ] {
        let told = fails(command.arg("--out").arg(out));
        assert_eq!(told, "error: No space left on device (os error 28)\n");
    }
}

#[test]
fn output_that_cannot_be_written_ends_a_program_in_words() {
    fn report() -> Command {
        let mut command = example("kernel_report");
        command.args(["--op", "rms_norm", "--shape", "3,40", "--seconds", "0.001"]);
        command.stderr(Stdio::piped());
        command
    }
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = report().stdout(full).output().unwrap();
    assert_eq!(
        (out.status.code(), String::from_utf8_lossy(&out.stderr)),
        (
            Some(1),
            "error: standard output: No space left on device (os error 28)\n".into()
        )
    );
    // Nobody reads any more: nothing is wrong, and nothing is told.
    let mut program = report().stdout(Stdio::piped()).spawn().unwrap();
    drop(program.stdout.take());
    let out = program.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr), (Some(1), Vec::new()));
}
