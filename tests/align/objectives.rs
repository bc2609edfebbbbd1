//! Laws of the objectives.

use maquette::align::dpo::{self, DpoConfig};
use maquette::align::entropy::{EntropyTerm, EntropyTerms};
use maquette::align::grpo::{self, GrpoConfig, Rollout};
use maquette::align::{reward, supervised};
use maquette::codes::UNKNOWN;
use maquette::model::learner::Example;
use maquette::ops::Reference;
use maquette::quant::Format;

use crate::{
    ShowOEngine, engine, pair, preference_step, reference, scored, shake, show_o, trainer,
};

fn sums(engine: &ShowOEngine<Reference>) -> Vec<f32> {
    engine.gradients().unwrap().concat()
}

/// A picture that became known in three steps.
fn passes(at: usize) -> Vec<Example> {
    let codes = pair(at).chosen;
    let state = |known: usize| -> Vec<u32> {
        let place = |(i, &code): (usize, &u32)| if i % 3 < known { code } else { UNKNOWN };
        codes.iter().enumerate().map(place).collect()
    };
    let states = [state(0), state(1), state(2)];
    show_o().trajectory(&pair(0).text, &states, &codes).unwrap()
}

#[test]
fn a_policy_like_its_reference_pays_ln_2_and_is_pulled_by_half_of_beta() {
    let mut engine = engine(&reference(), Format::F32);
    let pairs = scored(&mut engine, 0, 1);
    let mut kept = [engine.kept().unwrap(), engine.kept().unwrap()];
    let config = DpoConfig::default().with_beta(0.5);
    let report = dpo::batch(&mut engine, &pairs, &config, &mut kept).unwrap();
    assert_eq!(report.loss.to_bits(), std::f64::consts::LN_2.to_bits());
    let got = sums(&engine);
    engine.clear().unwrap();
    for (example, weight) in pairs[0].examples.iter().zip([-0.25, 0.25]) {
        let p = engine.policy(example, Some(&mut kept[0])).unwrap();
        engine
            .backward(example, &kept[0], &vec![weight; p.len()])
            .unwrap();
    }
    assert_eq!(got, sums(&engine));
    assert!(got.iter().any(|g| g.abs() > 1e-4));
}

#[test]
fn the_released_reward_term_changes_the_loss_and_no_gradient() {
    let mut engine = engine(&reference(), Format::F32);
    shake(&mut engine, 0.1);
    let pairs = scored(&mut engine, 0, 2);
    let mut run = |factor: f64| {
        engine.clear().unwrap();
        let mut kept = [engine.kept().unwrap(), engine.kept().unwrap()];
        let report = dpo::batch(&mut engine, &pairs, &DpoConfig::default(), &mut kept).unwrap();
        let term = reward::released_term(&[0.3, 0.9]).unwrap();
        (report.loss + factor * term, sums(&engine))
    };
    let ((with, gradient), (without, plain)) = (run(0.1), run(0.0));
    assert!(with > without && gradient == plain);
}

#[test]
fn the_score_function_form_pulls_towards_rewarded_samples() {
    let mut engine = engine(&reference(), Format::F32);
    shake(&mut engine, 0.1);
    let samples = [passes(0), passes(1)];
    let mut kept = engine.kept().unwrap();
    reward::score_function(&mut engine, &samples, &[1.0, 0.0], 0.1, &mut kept).unwrap();
    let got = sums(&engine);
    engine.clear().unwrap();
    for (sample, weight) in samples.iter().zip([-0.025, 0.025]) {
        for pass in sample {
            let p = engine.policy(pass, Some(&mut kept)).unwrap();
            engine
                .backward(pass, &kept, &vec![weight; p.len()])
                .unwrap();
        }
    }
    assert_eq!(got, sums(&engine));
    engine.clear().unwrap();
    reward::score_function(&mut engine, &samples, &[0.7, 0.7], 0.1, &mut kept).unwrap();
    assert!(sums(&engine).iter().all(|g| g.abs() < 1e-12));
    let empty = reward::score_function(&mut engine, &[], &[], 0.1, &mut kept);
    assert!(empty.is_err());
}

#[test]
fn equal_rewards_leave_the_distance_from_the_reference_alone() {
    let mut engine = engine(&reference(), Format::F32);
    let mut rollouts: Vec<Rollout> = (0..3)
        .map(|at| Rollout::new(&mut engine, passes(at)).unwrap())
        .collect();
    let mut kept = engine.kept().unwrap();
    let config = GrpoConfig::default();
    let mut run =
        |engine: &mut ShowOEngine<Reference>, rollouts: &[Rollout], rewards: &[f64], beta| {
            engine.clear().unwrap();
            let config = config.with_beta(beta);
            let report = grpo::group(engine, rollouts, rewards, &config, 1.0, &mut kept).unwrap();
            (report, sums(engine))
        };
    // The policy is the reference: nothing is left at all.
    let (report, gradient) = run(&mut engine, &rollouts, &[0.5; 3], 0.04);
    assert!(report.loss.abs() < 1e-12 && gradient.iter().all(|g| g.abs() < 1e-12));
    shake(&mut engine, 0.1);
    let (report, gradient) = run(&mut engine, &rollouts, &[0.5; 3], 0.04);
    assert!((report.loss - 0.04 * report.k3).abs() < 1e-9 && report.k3 > 0.0);
    assert!(gradient.iter().any(|g| g.abs() > 1e-6));
    let (_, gradient) = run(&mut engine, &rollouts, &[0.5; 3], 0.0);
    assert!(gradient.iter().all(|g| *g == 0.0));
    // On the policy that drew them, the ratio is 1 and the loss the mean advantage: 0.
    let (report, gradient) = run(&mut engine, &rollouts, &[0.0, 0.5, 1.0], 0.0);
    assert!(report.loss.abs() < 1e-9 && gradient.iter().any(|g| g.abs() > 1e-6));
    rollouts[1].reference.pop();
    assert!(grpo::group(&mut engine, &rollouts, &[0.0; 3], &config, 1.0, &mut kept).is_err());
}

/// Every code as the label of one row, and the log-probability of each.
fn all_codes(engine: &mut ShowOEngine<Reference>) -> (Vec<Example>, Vec<f64>) {
    let pass = passes(0).swap_remove(1);
    let codes = u32::try_from(show_o().codebook_size).unwrap();
    let with = |label| Example {
        rows: vec![pass.rows[0]],
        labels: vec![label],
        ..pass.clone()
    };
    let examples: Vec<_> = (0..codes).map(with).collect();
    let p = |example| f64::from(engine.policy(example, None).unwrap()[0]);
    let log_probs = examples.iter().map(p).collect();
    (examples, log_probs)
}

#[test]
fn drawn_tokens_have_the_gradient_of_the_entropy_on_average() {
    let mut engine = engine(&reference(), Format::F32);
    shake(&mut engine, 0.3);
    let entropy = |engine: &mut ShowOEngine<Reference>| -> f64 {
        let (_, log_probs) = all_codes(engine);
        -log_probs.iter().map(|l| l.exp() * l).sum::<f64>()
    };
    let (examples, log_probs) = all_codes(&mut engine);
    let mut kept = engine.kept().unwrap();
    // Whatever is expected: it makes noise, but no other mean.
    for expected in [0.0, 3.0] {
        let term = EntropyTerm {
            factor: 2.0,
            expected,
        };
        engine.clear().unwrap();
        for (example, l) in examples.iter().zip(&log_probs) {
            engine.policy(example, Some(&mut kept)).unwrap();
            #[expect(clippy::cast_possible_truncation, reason = "a gradient in F32")]
            let weight = (l.exp() * term.slope(*l)) as f32;
            engine.backward(example, &kept, &[weight]).unwrap();
        }
        let gradients = engine.gradients().unwrap();
        let length = gradients.concat().iter().map(|g| g * g).sum::<f32>().sqrt();
        let start = engine.parameters().to_vec();
        let mut at = |step: f32| {
            let moved: Vec<Vec<f32>> = start
                .iter()
                .zip(&gradients)
                .map(|(p, g)| {
                    let pairs = p.values.iter().zip(g);
                    pairs.map(|(v, g)| v + step * g / length).collect()
                })
                .collect();
            let all = start.iter().zip(&moved).map(|(p, v)| (&*p.name, &**v));
            engine.set(&all.collect::<Vec<_>>()).unwrap();
            2.0 * entropy(&mut engine)
        };
        let got = (at(2e-3) - at(-2e-3)) / 4e-3;
        at(0.0);
        let want = f64::from(length);
        assert!(
            want > 1e-3 && (got - want).abs() < 1e-2 * want,
            "{got} for {want}"
        );
    }
}

#[test]
fn a_group_adds_its_entropies_to_its_loss_and_its_gradient() {
    let mut engine = engine(&reference(), Format::F32);
    shake(&mut engine, 0.1);
    let rollouts: Vec<Rollout> = (0..2)
        .map(|at| Rollout::new(&mut engine, passes(at)).unwrap())
        .collect();
    let mut kept = engine.kept().unwrap();
    let term = EntropyTerm {
        factor: -0.3,
        expected: 1.0,
    };
    let config = GrpoConfig::default()
        .with_beta(0.0)
        .with_entropy(EntropyTerms {
            codes: term,
            ..EntropyTerms::default()
        });
    engine.clear().unwrap();
    let report = grpo::group(&mut engine, &rollouts, &[0.5; 2], &config, 0.5, &mut kept).unwrap();
    let got = sums(&engine);
    engine.clear().unwrap();
    let count: usize = rollouts
        .iter()
        .flat_map(|r| &r.passes)
        .map(|p| p.labels.len())
        .sum();
    let mut entropy = 0.0;
    for pass in rollouts.iter().flat_map(|r| &r.passes) {
        let now = engine.policy(pass, Some(&mut kept)).unwrap();
        entropy -= now.iter().map(|&l| f64::from(l)).sum::<f64>() / count as f64;
        #[expect(clippy::cast_possible_truncation, reason = "a gradient in F32")]
        let weight = |&l: &f32| (0.5 * term.slope(f64::from(l)) / count as f64) as f32;
        let weights: Vec<f32> = now.iter().map(weight).collect();
        engine.backward(pass, &kept, &weights).unwrap();
    }
    assert_eq!(got, sums(&engine));
    assert!(got.iter().any(|g| g.abs() > 1e-6));
    assert_eq!(report.entropy[0], None);
    assert!((report.entropy[1].unwrap() - entropy).abs() < 1e-9 && entropy > 0.5);
    assert!((report.loss + 0.3 * entropy).abs() < 1e-9);
}

#[test]
fn preference_steps_pull_the_pairs_apart() {
    let mut trainer = trainer(engine(&reference(), Format::Q8_0));
    let first = preference_step(&mut trainer).unwrap();
    let mut last = first;
    for _ in 0..15 {
        last = preference_step(&mut trainer).unwrap();
    }
    assert!(last.loss < first.loss - 0.05, "{first:?} {last:?}");
    assert!(last.margin > 0.0 && last.p_right > 0.9);
}

#[test]
fn supervised_steps_lower_the_cross_entropy() {
    let mut trainer = trainer(engine(&reference(), Format::F32));
    let mut kept = trainer.engine().kept().unwrap();
    let examples: Vec<_> = (0..2).flat_map(passes).collect();
    let mut losses = Vec::new();
    for _ in 0..10 {
        let report = trainer.step(|engine| supervised::batch(engine, &examples, &mut kept));
        losses.push(report.unwrap().loss);
    }
    assert!(losses[9] < losses[0] - 0.1, "{losses:?}");
    assert!(supervised::batch(trainer.engine_mut(), &[], &mut kept).is_err());
}
