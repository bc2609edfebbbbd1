//! The report of kernels' times, on the stand-in driver: its rows are all there, without times.

use crate::programs::{example, has_driver, succeeds, with_gpu};

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
