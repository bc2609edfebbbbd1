//! The report of kernels' times, on the stand-in driver: its rows are all there, without times.
#![cfg(feature = "cuda")]
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;
use std::process::Command;

/// A folder in which the loader finds the stand-in driver under the driver's name.
fn folder() -> PathBuf {
    let library = std::env::current_exe()
        .unwrap()
        .with_file_name("libmaquette_emulator.so");
    let folder = std::env::temp_dir().join(format!("maquette-driver-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(&library, folder.join(name)).unwrap();
    }
    folder
}

#[test]
fn every_row_runs_without_a_gpu() {
    let (folder, deps) = (folder(), std::env::current_exe().unwrap());
    let program = deps
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/kernel_report");
    let run = |op: &str, shape: &str| {
        let out = Command::new(&program)
            .args([
                "--device", "cuda", "--cold", "0", "--op", op, "--shape", shape,
            ])
            .env("LD_LIBRARY_PATH", &folder)
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{op}: {text}{errors}");
        assert!(text.starts_with(
            "cuda, PTX interpreter, compute capability 8.0\nstand-in driver, no time\n"
        ));
        text.lines().filter(|line| line.contains("no time")).count() - 1
    };
    // Formats and arithmetics; formats of keys and values.
    for (op, shape, rows) in [
        ("gemm", "2,33,256", 10),
        ("conv2d", "4,32,32", 3),
        ("attention", "2,1,3,2,8", 2),
        ("rms_norm", "3,40", 1),
        ("group_norm", "5,32", 1),
        ("sample", "2,1500", 1),
    ] {
        assert_eq!(run(op, shape), rows, "{op}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
