//! Training on a GPU: the stand-in driver, which interprets the kernels, unless the machine has its own.

use std::fs;

use maquette::rng::philox;

use super::{align, tree};
use crate::model_dirs::tiny::{self, PROMPT};
use crate::programs::{fails, folder, succeeds, with_gpu};

#[test]
fn a_gpu_learns_the_same() {
    let home = folder("align-device");
    let [show_o, pixels] = tiny::show_o(&home, 20);
    tiny::vocabulary(&show_o, 20, &[(0, "a"), (1, "red"), (2, "car")]);
    let janus = home.join("janus");
    tiny::janus(&janus);
    for (name, model) in [("show-o", &show_o), ("janus", &janus)] {
        let set = home.join(format!("{name}.jsonl"));
        let picture = |seed: u32| -> Vec<u32> {
            (0..16)
                .map(|i| philox([seed, 1], [i, 0, 0, 0])[0] % 16)
                .collect()
        };
        let (chosen, rejected) = (picture(0), picture(1));
        let line = format!(
            "{{\"prompt\": \"{PROMPT}\", \"chosen\": {chosen:?}, \"rejected\": {rejected:?}}}\n"
        );
        fs::write(&set, line).unwrap();
        let run = |device: &str| {
            let out = home.join(name).join(device);
            let mut command = align(Some(&set), &out);
            command.args([
                "--batch", "1", "--steps", "2", "--merge", "--device", device,
            ]);
            command
                .arg("--model-dir")
                .arg(model)
                .arg("--tokenizer-dir")
                .arg(&pixels);
            succeeds(with_gpu(&mut command));
            tree(&out)
        };
        assert!(run("cpu") == run("cuda"), "{name}");
    }
    let mut command = align(Some(&home.join("show-o.jsonl")), &home.join("out"));
    assert!(fails(command.args(["--device", "cublaslt"])).contains("is for drawing"));
}
