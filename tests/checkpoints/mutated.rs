//! Valid files with some bytes changed: an error, or what the naive readers read.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use crate::{naive, stored};

/// A change of some bytes: where, how, with what.
type Change = (usize, u8, u64);

/// Lengths and counts that tempt a reader.
const TEMPTING: [u64; 8] = [0, 1, 0x7f, 0xff, 0xffff, 0xffff_ffff, 1 << 62, u64::MAX];

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for &(place, kind, value) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = place % bytes.len();
        let tempting = TEMPTING[usize::try_from(value % 8).unwrap()].to_le_bytes();
        let far = usize::try_from(value).unwrap_or(0) % bytes.len();
        let (from, to) = (at.min(far), at.max(far).min(at.min(far) + 64));
        match kind % 7 {
            0 => bytes[at] ^= 1 << (value % 8),
            1 => bytes[at] = value.to_le_bytes()[0],
            2 => {
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&tempting[..end - at]);
            }
            3 => {
                let end = bytes.len().min(at + 4);
                bytes[at..end].copy_from_slice(&tempting[..end - at]);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(from..to)),
            _ => {
                let copy = bytes[from..to].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((any::<usize>(), any::<u8>(), any::<u64>()), 0..4)
}

const TORCH: [&str; 5] = [
    "flat.bin",
    "protocol4.bin",
    "model.pt",
    "views.pth",
    "parameters.pt",
];

/// A file of a header and some bytes.
fn headed(header: &str, data: u8) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(0..data);
    bytes
}

fn safetensors() -> Vec<u8> {
    let header = r#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"v":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]}}"#;
    headed(header, 28)
}

#[test]
fn unchanged_files_are_read_as_the_naive_readers_read_them() {
    for file in TORCH {
        assert!(naive::torch(&stored(file)), "{file}");
    }
    assert!(naive::gguf(&stored("blocks.gguf")));
    assert!(naive::safetensors(&safetensors()));
}

/// What the fuzzers begin with, and what they found.
#[test]
fn seeds_of_the_fuzz_targets_are_errors_or_read_right() {
    for target in ["weights_safetensors", "weights_torch", "weights_gguf"] {
        let read = match target {
            "weights_safetensors" => naive::safetensors,
            "weights_torch" => naive::torch,
            _ => naive::gguf,
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/seeds")
            .join(target);
        let mut accepted = 0;
        for seed in fs::read_dir(folder).unwrap() {
            accepted += u32::from(read(&fs::read(seed.unwrap().path()).unwrap()));
        }
        assert!(accepted > 0, "{target}");
    }
}

/// The fuzzer found a number that no float holds where nobody reads it: valid JSON, and so no reason to refuse a file.
#[test]
fn what_else_a_header_says_is_passed_over() {
    let header = |note: &str| {
        format!(r#"{{"w":{{"dtype":"F32","note":{note},"shape":[1],"data_offsets":[0,4]}}}}"#)
    };
    for note in ["2E3434", "-0.5e-99999", "[{\"a\":null}]"] {
        assert!(naive::safetensors(&headed(&header(note), 4)), "{note}");
    }
    for note in ["2E", "01", "[}", "nul"] {
        assert!(!naive::safetensors(&headed(&header(note), 4)), "{note}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_changed_torch_files_are_errors_or_read_right(file in 0..TORCH.len(), changes in changes()) {
        naive::torch(&changed(stored(TORCH[file]), &changes));
    }

    #[test]
    fn prop_changed_gguf_files_are_errors_or_read_right(changes in changes()) {
        naive::gguf(&changed(stored("blocks.gguf"), &changes));
    }

    #[test]
    fn prop_changed_safetensors_are_errors_or_read_right(changes in changes()) {
        naive::safetensors(&changed(safetensors(), &changes));
    }

    #[test]
    fn prop_any_bytes_are_numbers_and_blocks(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        naive::quant(&bytes);
    }

    #[test]
    fn prop_a_changed_header_alone(place in 0..180_usize, value in any::<u8>()) {
        let mut bytes = safetensors();
        let at = place % bytes.len();
        bytes[at] = value;
        naive::safetensors(&bytes);
    }
}
