//! What formats and arithmetics change in a model whose rows are whole blocks of every format.

use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::model::files::map::ModelFolder;
use maquette::model::janus::{Janus as Drawer, JanusConfig};
use maquette::model::weights::Precision;
use maquette::ops::gemm::Activations;
use maquette::quant::Format;

use super::{fresh, tiny};
use support::layouts::janus::Janus;
use support::random_file;

/// `--nocapture` shows the figures.
#[test]
fn fewer_bits_move_the_logits_little() {
    let dims = Janus {
        width: 256,
        layers: 4,
        heads: 4,
        mlp: 512,
        ..tiny::janus()
    };
    let folder = fresh("drift");
    random_file::write(&dims.original(4), None, 11, &folder).unwrap();
    let folder = ModelFolder::open(&folder).unwrap();
    let logits = |precision: Precision| {
        let (config, cpu) = (JanusConfig::from_json(&folder.config), Arc::new(Cpu::new()));
        let load = |source: &dyn maquette::model::weights::WeightSource| {
            Drawer::load(cpu, config?, source, precision)
        };
        let model = folder.weights.read(load).unwrap();
        let (tokens, codes) = ([3, 50, 6, 0, 99, 4, 70, 6, 12], [5, 60, 95, 0, 7, 33]);
        model.forward_full(&tokens, &codes).unwrap().logits
    };
    let full = logits(Format::F32.into());
    let square = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>().sqrt();
    let spread = square(&mut full.iter().copied());
    let off = |format: Format, activations: Activations| {
        let got = logits(Precision::from(format).with_activations(activations));
        let share = square(&mut full.iter().zip(&got).map(|(a, b)| a - b)) / spread;
        println!(
            "{}, {}: {share:.5} of the logits' root mean square",
            format.name(),
            activations.name()
        );
        share
    };
    for (format, most) in [
        (Format::Q8_0, 0.05),
        (Format::Q4K, 0.3),
        (Format::Q4_0, 0.3),
        (Format::Q4G128, 0.3),
    ] {
        let shares = [Activations::F32, Activations::A8].map(|a| off(format, a));
        assert!(
            shares.iter().all(|s| *s > 0.0 && *s < most),
            "{format:?} {shares:?}"
        );
    }
}
