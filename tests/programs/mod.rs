//! Built examples, run as somebody at a terminal runs them.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of one test alone, empty.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("programs")
        .join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// A built example; `cargo test` builds them before it runs any test.
pub fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        program.exists(),
        "{} is missing: build the examples first",
        program.display()
    );
    let mut command = Command::new(program);
    // The tests are no rank of whatever started them.
    for name in [
        "RANK",
        "JOB_COMPLETION_INDEX",
        "PARALLEL_SEQ",
        "OMPI_COMM_WORLD_RANK",
        "PMI_RANK",
        "SLURM_PROCID",
    ] {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// What it prints.
pub fn succeeds(command: &mut Command) -> String {
    let out = run(command);
    assert!(
        out.status.success(),
        "{command:?}\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What it says is wrong.
pub fn fails(command: &mut Command) -> String {
    let out = run(command);
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{command:?}\n{told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

/// Whether programs run on a driver of this machine's own: as `tests/gpu` decides it for tests.
pub fn has_driver() -> bool {
    let want = std::env::var("GPU_TESTS").unwrap_or_default();
    #[expect(unsafe_code, reason = "loads a driver")]
    // SAFETY: loading the driver runs its initialisers, which is what every program that uses it does.
    let real = want != "emulate" && unsafe { libloading::Library::new("libcuda.so.1") }.is_ok();
    assert!(real || want != "require", "no NVIDIA driver here");
    real
}

/// Lets a program find the stand-in driver under the driver's name.
pub fn with_gpu(command: &mut Command) -> &mut Command {
    let stand_in = std::env::current_exe()
        .unwrap()
        .with_file_name("libmaquette_emulator.so");
    assert!(stand_in.exists(), "{}", stand_in.display());
    if !has_driver() {
        command.env("LD_PRELOAD", stand_in);
    }
    command
}
