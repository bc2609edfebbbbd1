//! Runs that stop and go on, adapters that are written, read and merged.

use std::sync::Arc;

use maquette::align::Trained;
use maquette::align::lora::{Merged, adapter_config, write_adapters};
use maquette::cpu::Cpu;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::quant::Format;

use crate::{
    ALL, Base, bits, engine, engine_of, file, learner, limits, lora, pair, preference_step, shake,
    show_o, trainer,
};

#[test]
fn a_resumed_run_has_the_bits_of_one_that_never_stopped() {
    let device = Arc::new(Cpu::new());
    let kinds = [
        (Format::Q4_0, Trained::Adapters(lora(&ALL))),
        (Format::F32, Trained::Blocks(Format::F32)),
        (Format::F32, Trained::All(Format::F32)),
        (Format::Bf16, Trained::Blocks(Format::Bf16)),
    ];
    for (format, trained) in kinds {
        let new = || trainer(engine_of(&device, format, trained.clone()).unwrap());
        let mut straight = new();
        let mut bytes = Vec::new();
        for step in 0..6 {
            if step == 3 {
                bytes = straight.checkpoint().unwrap();
            }
            preference_step(&mut straight).unwrap();
        }
        let mut resumed = new();
        resumed.resume(&bytes).unwrap();
        assert_eq!(resumed.steps(), 3);
        for _ in 0..3 {
            preference_step(&mut resumed).unwrap();
        }
        assert!(bits(straight.engine()) == bits(resumed.engine()));
        assert!(straight.checkpoint().unwrap() == resumed.checkpoint().unwrap());
    }
}

#[test]
fn checkpoints_on_disk_are_whole_or_not_there() {
    let device = Arc::new(Cpu::new());
    let folder = std::env::temp_dir().join(format!("maquette-align-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("run.bin");
    let mut run = trainer(engine(&device, Format::F32));
    assert!(!run.resume_file(&path).unwrap());
    preference_step(&mut run).unwrap();
    run.save(&path).unwrap();
    let stepped = bits(run.engine());
    let mut other = trainer(engine(&device, Format::F32));
    assert!(other.resume_file(&path).unwrap());
    assert!(bits(other.engine()) == stepped && other.steps() == 1);
    // A part that a killed process left behind changes nothing.
    std::fs::write(folder.join("run.bin.part"), b"half").unwrap();
    assert!(other.resume_file(&path).unwrap());
    std::fs::write(&path, b"half").unwrap();
    assert!(other.resume_file(&path).is_err());
    assert!(bits(other.engine()) == stepped);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn broken_checkpoints_change_nothing() {
    let device = Arc::new(Cpu::new());
    let mut run = trainer(engine(&device, Format::F32));
    preference_step(&mut run).unwrap();
    let bytes = run.checkpoint().unwrap();
    let fresh = trainer(engine(&device, Format::F32));
    let (mut target, before) = (fresh, bits(&engine(&device, Format::F32)));
    for len in [0, 7, 15, 16, 40, bytes.len() / 2, bytes.len() - 1] {
        assert!(target.resume(&bytes[..len]).is_err());
    }
    for at in [0, 20, 60, bytes.len() / 2, bytes.len() - 1] {
        let mut broken = bytes.clone();
        broken[at] ^= 4;
        assert!(target.resume(&broken).is_err());
    }
    let long = [&bytes[..], &[0]].concat();
    assert!(target.resume(&long).is_err());
    assert!(bits(target.engine()) == before && target.steps() == 0);
    // Of other parameters.
    let fewer = engine_of(&device, Format::F32, Trained::Adapters(lora(&["q_proj"])));
    assert!(trainer(fewer.unwrap()).resume(&bytes).is_err());
    target.resume(&bytes).unwrap();
}

#[test]
fn adapters_come_back_from_a_file_and_fit_into_the_weights() {
    let device = Arc::new(Cpu::new());
    let mut first = engine(&device, Format::F32);
    shake(&mut first, 0.1);
    let file_bytes = write_adapters(first.parameters()).unwrap();
    let stored = SafetensorsSource::new(&file_bytes).unwrap();
    let mut second = engine(&device, Format::F32);
    second.read_adapters(&stored).unwrap();
    assert!(bits(&first) == bits(&second));
    let config = adapter_config(&lora(&ALL));
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["r"], 4);
    assert_eq!(config["target_modules"][0], "q_proj");

    let mask = [true; 16];
    let example = show_o()
        .masked_example(&pair(0).text, &pair(0).chosen, &mask)
        .unwrap();
    let want = first.policy(&example, None).unwrap();
    let base = file("train-dpo", "model.safetensors");
    let base = Base(SafetensorsSource::new(&base).unwrap());
    let merged = Merged::new(&base, first.parameters(), &lora(&ALL)).unwrap();
    let learner = learner(&device, &merged, Format::F32).unwrap();
    let trained = Trained::Adapters(lora(&ALL));
    let mut whole = maquette::align::Engine::new(learner, trained, limits()).unwrap();
    let got = whole.reference(&example).unwrap();
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4));
    let plain = first.reference(&example).unwrap();
    assert!(plain.iter().zip(&want).any(|(a, b)| (a - b).abs() > 1e-2));
}
