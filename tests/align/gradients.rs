//! The way back through whole models, against differences of the way forward.

use std::sync::Arc;

use maquette::align::{Engine, Kept, Trained};
use maquette::codes::UNKNOWN;
use maquette::cpu::Cpu;
use maquette::model::learner::{Example, Learner};
use maquette::ops::Backward;
use maquette::quant::Format;

use crate::{ALL, engine, engine_of, lora, number, pair, reference, shake, show_o};

/// Differences of sums of F32 numbers, over a step that is small enough to be straight: a few in a thousand.
const TOLERANCE: f64 = 1e-2;
const STEP: f32 = 2e-3;

/// Compares the gradient of a weighted sum of log-probabilities with its difference along random directions.
pub fn check<B: Backward, L: Learner<B>>(engine: &mut Engine<B, L>, examples: &[Example]) {
    let weight = |i: usize| number(77, i);
    let loss = |engine: &mut Engine<B, L>| -> f64 {
        let mut sum = 0.0;
        for example in examples {
            let p = engine.policy(example, None).unwrap();
            let terms = p.iter().enumerate();
            sum += terms
                .map(|(i, p)| f64::from(weight(i)) * f64::from(*p))
                .sum::<f64>();
        }
        sum
    };
    let back = |engine: &mut Engine<B, L>, mut kept: Kept<B>| {
        engine.clear().unwrap();
        for example in examples {
            let p = engine.policy(example, Some(&mut kept)).unwrap();
            let weights: Vec<f32> = (0..p.len()).map(weight).collect();
            engine.backward(example, &kept, &weights).unwrap();
        }
        engine.gradients().unwrap()
    };
    let kept = engine.kept().unwrap();
    let gradients = back(engine, kept);
    let kept = engine.kept_whole().unwrap();
    let bits =
        |all: &[Vec<f32>]| -> Vec<u32> { all.iter().flatten().map(|g| g.to_bits()).collect() };
    assert!(
        bits(&gradients) == bits(&back(engine, kept)),
        "blocks that are not computed again have another gradient"
    );
    let start = engine.parameters().to_vec();
    // Along the gradient itself in each half of the parameters, so that a wrong one cannot hide in the others' noise.
    for part in 0..4 {
        let direction: Vec<Vec<f32>> = gradients
            .iter()
            .enumerate()
            .map(|(at, g)| {
                let factor = if at % 4 == part { 1.0 } else { 0.0 };
                g.iter().map(|g| g * factor).collect()
            })
            .collect();
        let length = direction
            .iter()
            .flatten()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(
            length > 1e-4,
            "nothing depends on a quarter of the parameters"
        );
        let mut at = |sign: f32| {
            #[expect(clippy::cast_possible_truncation, reason = "a step in F32")]
            let step = sign * STEP / length as f32;
            let moved: Vec<Vec<f32>> = start
                .iter()
                .zip(&direction)
                .map(|(p, d)| p.values.iter().zip(d).map(|(v, d)| v + step * d).collect())
                .collect();
            let all: Vec<_> = start
                .iter()
                .zip(&moved)
                .map(|(p, v)| (&*p.name, &**v))
                .collect();
            engine.set(&all).unwrap();
            loss(engine)
        };
        let got = (at(1.0) - at(-1.0)) / (2.0 * f64::from(STEP));
        assert!(
            (got - length).abs() < TOLERANCE * length,
            "{part}: {got} for {length}"
        );
    }
}

fn examples() -> Vec<Example> {
    let mask: Vec<bool> = (0..16).map(|i| i % 3 != 1).collect();
    (0..2)
        .map(|at| {
            show_o()
                .masked_example(&pair(at).text, &pair(at).chosen, &mask)
                .unwrap()
        })
        .collect()
}

#[test]
fn adapters_over_every_format_have_the_gradient_of_their_differences() {
    for &format in Format::ALL {
        let mut engine = engine(&Arc::new(Cpu::new()), format);
        shake(&mut engine, 0.1);
        check(&mut engine, &examples());
    }
}

#[test]
fn whole_weights_have_the_gradient_of_their_differences() {
    let codes = &pair(0).chosen;
    let steps = [vec![UNKNOWN; codes.len()]];
    let mut all = examples();
    // A pass whose labels are codes, beside those whose labels are tokens.
    all.extend(show_o().trajectory(&pair(0).text, &steps, codes).unwrap());
    for trained in [Trained::Blocks(Format::F32), Trained::All(Format::F32)] {
        let mut engine = engine_of(&reference(), Format::F32, trained).unwrap();
        check(&mut engine, &all);
    }
}

#[test]
fn gradients_have_the_same_bits_on_every_device_and_for_any_threads() {
    fn gradients<B: Backward>(device: B, format: Format) -> Vec<u32> {
        let mut engine = engine(&Arc::new(device), format);
        shake(&mut engine, 0.1);
        let mut kept = engine.kept().unwrap();
        for example in examples() {
            let p = engine.policy(&example, Some(&mut kept)).unwrap();
            engine
                .backward(&example, &kept, &vec![0.5; p.len()])
                .unwrap();
        }
        let all = engine.gradients().unwrap();
        all.iter().flatten().map(|g| g.to_bits()).collect()
    }
    for format in [Format::F32, Format::Q8_0] {
        let want = gradients(maquette::ops::Reference, format);
        for threads in 1..4 {
            assert!(gradients(Cpu::with_threads(threads).unwrap(), format) == want);
        }
    }
}

#[test]
fn adapters_beside_some_layers_change_what_they_stand_beside() {
    for target in ALL {
        let trained = Trained::Adapters(lora(&[target]));
        let mut engine = engine_of(&reference(), Format::F32, trained).unwrap();
        let before = engine.policy(&examples()[0], None).unwrap();
        assert_eq!(before, engine.reference(&examples()[0]).unwrap());
        shake(&mut engine, 0.1);
        assert_ne!(before, engine.policy(&examples()[0], None).unwrap());
        assert_eq!(before, engine.reference(&examples()[0]).unwrap());
    }
}
