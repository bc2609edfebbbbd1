//! Input that cannot be trained on is an error, and leaves everything as it was.

use maquette::Error;
use maquette::align::dpo::{self, DpoConfig};
use maquette::align::grpo::{self, EqualRewards, GrpoConfig, Rollout};
use maquette::align::lora::write_adapters;
use maquette::align::masked::{PairConfig, Preference};
use maquette::align::{Engine, Limits, LoraConfig, Trained};
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::learner::{Example, Input};
use maquette::quant::Format;

use crate::{
    ALL, Base, bits, engine, engine_of, file, learner, limits, lora, pair, preference_step,
    reference, scored, show_o, trainer,
};

#[test]
fn a_loss_that_is_no_number_stops_with_step_and_cause_and_keeps_the_last_state() {
    let mut run = trainer(engine(&reference(), Format::F32));
    preference_step(&mut run).unwrap();
    preference_step(&mut run).unwrap();
    let before = run.checkpoint().unwrap();
    let error = run.step(|_| Ok(f64::NAN)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "training: the loss is NaN or infinite at step 2"
    );
    // A gradient that overflows, although the loss does not.
    let pairs = scored(run.engine_mut(), 0, 1);
    let mut kept = run.engine().kept().unwrap();
    let error = run.step(|engine| {
        let example = &pairs[0].examples[0];
        let p = engine.policy(example, Some(&mut kept))?;
        engine.backward(example, &kept, &vec![f32::INFINITY; p.len()])?;
        Ok(1.0)
    });
    assert!(matches!(
        error,
        Err(Error::Diverged {
            step: 2,
            what: "the gradient"
        })
    ));
    let error = run.step(|_| Err(Error::foreign("the data ended")));
    assert!(error.is_err());
    // Adapters that are no numbers any more.
    let own = run.engine().parameters()[1].clone();
    let broken = vec![f32::NAN; own.values.len()];
    run.engine_mut().set(&[(&own.name, &broken)]).unwrap();
    let error = preference_step(&mut run).unwrap_err();
    let told = "training: the score of a pair is NaN or infinite at step 2";
    assert_eq!(error.to_string(), told);
    run.engine_mut().set(&[(&own.name, &own.values)]).unwrap();
    assert!(run.checkpoint().unwrap() == before);
    preference_step(&mut run).unwrap();
    assert_eq!(run.steps(), 3);
}

#[test]
fn pairs_and_groups_that_teach_nothing_are_named() {
    let c = show_o();
    let same = Preference {
        rejected: pair(0).chosen,
        ..pair(0)
    };
    let error = c.preference(&PairConfig::default(), 4, &same).unwrap_err();
    assert!(error.to_string().contains("example 4"), "{error}");
    let mut engine = engine(&reference(), Format::F32);
    let mut kept = [engine.kept().unwrap(), engine.kept().unwrap()];
    let error = dpo::batch(&mut engine, &[], &DpoConfig::default(), &mut kept);
    assert!(matches!(error, Err(Error::Example { .. })));
    let mut pairs = scored(&mut engine, 0, 1);
    pairs[0].reference[0] = f64::NAN;
    let error = dpo::batch(&mut engine, &pairs, &DpoConfig::default(), &mut kept);
    assert!(matches!(
        error,
        Err(Error::NotFinite {
            op: "dpo",
            row: 0,
            ..
        })
    ));
    let config = GrpoConfig::default().with_equal_rewards(EqualRewards::Reject);
    let [kept, _] = &mut kept;
    let error = grpo::group(&mut engine, &[], &[], &config, 1.0, kept);
    assert!(matches!(error, Err(Error::Example { .. })));
    let passes = vec![pairs[0].examples[0].clone()];
    let rollout = Rollout::new(&mut engine, passes).unwrap();
    let group = [rollout.clone(), rollout];
    let error = grpo::group(&mut engine, &group, &[0.5, 0.5], &config, 1.0, kept);
    assert!(matches!(error, Err(Error::Example { .. })));
    let error = grpo::group(&mut engine, &group, &[0.5], &config, 1.0, kept);
    assert!(matches!(error, Err(Error::Length { arg: "rewards", .. })));
    for (arg, count) in [("reference", 1), ("old", 1), ("reference", -1), ("old", -1)] {
        let mut odd = group.clone();
        odd[1].old = Some(odd[1].reference.clone());
        let values = match arg {
            "old" => odd[1].old.as_mut().unwrap(),
            _ => &mut odd[1].reference,
        };
        values.resize(values.len().checked_add_signed(count).unwrap(), -1.0);
        let error = grpo::group(&mut engine, &odd, &[0.0, 1.0], &config, 1.0, kept);
        assert!(
            matches!(error, Err(Error::Length { arg: wrong, .. }) if wrong == arg),
            "{arg} {count}"
        );
    }
    let empty = Rollout {
        passes: Vec::new(),
        reference: Vec::new(),
        old: None,
    };
    let group = [empty.clone(), empty];
    assert!(grpo::group(&mut engine, &group, &[0.0, 1.0], &config, 1.0, kept).is_err());
    assert!(
        engine
            .gradients()
            .unwrap()
            .concat()
            .iter()
            .all(|g| *g == 0.0)
    );
}

#[test]
fn adapters_that_do_not_fit_are_errors() {
    let device = reference();
    let new = |config: LoraConfig| engine_of(&device, Format::F32, Trained::Adapters(config));
    let none = new(lora(&["o_proj", "roj"]));
    assert!(matches!(
        none,
        Err(Error::Config {
            key: "target_modules",
            ..
        })
    ));
    for rank in [0, 65, usize::MAX] {
        let error = new(LoraConfig::new(rank, 8.0, ALL));
        assert!(matches!(error, Err(Error::TensorShape { .. })), "{rank}");
    }
    let error = new(LoraConfig::new(4, f32::NAN, ALL));
    assert!(matches!(
        error,
        Err(Error::Config {
            key: "lora_alpha",
            ..
        })
    ));

    let mut engine = new(lora(&ALL)).unwrap();
    let before = bits(&engine);
    let narrow = new(LoraConfig::new(2, 8.0, ALL)).unwrap();
    let bytes = write_adapters(narrow.parameters()).unwrap();
    let error = engine.read_adapters(&SafetensorsSource::new(&bytes).unwrap());
    assert!(matches!(error, Err(Error::TensorShape { .. })));
    let fewer = new(lora(&["q_proj"])).unwrap();
    let bytes = write_adapters(fewer.parameters()).unwrap();
    let error = engine.read_adapters(&SafetensorsSource::new(&bytes).unwrap());
    assert!(matches!(error, Err(Error::MissingTensor { .. })));
    let mut fewer = fewer;
    let bytes = write_adapters(engine.parameters()).unwrap();
    let error = fewer.read_adapters(&SafetensorsSource::new(&bytes).unwrap());
    assert!(matches!(error, Err(Error::UnknownTensor { .. })));
    let mut broken = engine.parameters().to_vec();
    broken[3].values[1] = f32::NAN;
    let bytes = write_adapters(&broken).unwrap();
    let error = engine.read_adapters(&SafetensorsSource::new(&bytes).unwrap());
    assert!(matches!(error, Err(Error::NotFinite { .. })));
    let own = engine.parameters()[0].name.clone();
    assert!(engine.set(&[(&own, &[1.0])]).is_err());
    let values = vec![1.0; engine.parameters()[0].values.len()];
    assert!(
        engine
            .set(&[(&own, &values), ("lm_head.lora_A.weight", &[1.0])])
            .is_err()
    );
    assert!(bits(&engine) == before);
}

#[test]
fn whole_weights_that_were_not_read_are_not_trained() {
    let bytes = file("train-dpo", "model.safetensors");
    let source = Base(SafetensorsSource::new(&bytes).unwrap());
    for trained in [Trained::Blocks(Format::F32), Trained::All(Format::F32)] {
        let learner = learner(&reference(), &source, Format::F32).unwrap();
        let mut run = trainer(Engine::new(learner, trained.clone(), limits()).unwrap());
        let mask = [true; 16];
        let example = show_o().masked_example(&pair(0).text, &pair(0).chosen, &mask);
        let example = example.unwrap();
        let before = run.engine_mut().policy(&example, None).unwrap();
        let error = run.step(|_| Ok(0.0)).unwrap_err();
        let told = "config: \"weights\" that are trained whole were not read";
        assert_eq!(error.to_string(), told);
        assert!(matches!(run.checkpoint(), Err(Error::Config { .. })));
        let own = run.engine().parameters()[0].clone();
        let error = run.engine_mut().set(&[(&own.name, &own.values)]);
        assert!(matches!(error, Err(Error::MissingTensor { .. })));
        let error = run.engine_mut().set(&[("no such name", &[1.0])]);
        assert!(matches!(error, Err(Error::MissingTensor { .. })));
        // All names, one of them with too few values.
        let mut all = run.engine().parameters().to_vec();
        all[1].values.pop();
        let values: Vec<_> = all.iter().map(|p| (&*p.name, &*p.values)).collect();
        assert!(run.engine_mut().set(&values).is_err());
        // The model has kept its weights all along.
        assert_eq!(run.engine_mut().policy(&example, None).unwrap(), before);

        let read = trainer(engine_of(&reference(), Format::F32, trained).unwrap());
        let stored = read.checkpoint().unwrap();
        run.resume(&stored).unwrap();
        assert_eq!(run.engine_mut().policy(&example, None).unwrap(), before);
        run.step(|_| Ok(0.0)).unwrap();
        run.engine_mut().set(&[(&own.name, &own.values)]).unwrap();
    }
}

#[test]
fn weights_in_blocks_are_not_trained_whole() {
    for format in [Format::Q8_0, Format::Q4_0] {
        for trained in [Trained::Blocks(format), Trained::All(format)] {
            let error = engine_of(&reference(), format, trained);
            assert!(matches!(error, Err(Error::Unsupported { .. })));
        }
    }
    // What is stated must be what the model is kept in.
    assert!(engine_of(&reference(), Format::Q8_0, Trained::Blocks(Format::F32)).is_err());
}

#[test]
fn examples_that_contradict_themselves_are_errors() {
    let mut engine = engine(&reference(), Format::F32);
    let good = scored(&mut engine, 0, 1).remove(0).examples[0].clone();
    let kept = engine.kept().unwrap();
    let mut bad: Vec<Example> = Vec::new();
    let mut add = |change: &dyn Fn(&mut Example)| {
        let mut example = good.clone();
        change(&mut example);
        bad.push(example);
    };
    add(&|e| e.positions.truncate(5));
    add(&|e| e.positions.clear());
    add(&|e| e.labels.truncate(1));
    add(&|e| e.rows.truncate(1));
    add(&|e| (e.rows, e.labels) = (Vec::new(), Vec::new()));
    add(&|e| e.rows[0] = 1000);
    add(&|e| e.labels[0] = u32::MAX);
    add(&|e| e.causal = 1000);
    add(&|e| e.input = Input::Tokens(vec![1; 3]));
    add(&|e| e.input = Input::Rows(vec![1.0; 3]));
    for example in &bad {
        assert!(engine.policy(example, None).is_err());
        let weights = vec![1.0; example.labels.len()];
        assert!(engine.backward(example, &kept, &weights).is_err());
    }
    assert!(engine.backward(&good, &kept, &[1.0]).is_err());
    // Tokens and positions outside the model are rows of zeros and no rotation: no error, and no crash.
    let mut far = good.clone();
    far.positions.fill(u32::MAX);
    far.input = Input::Tokens(vec![u32::MAX; good.positions.len()]);
    assert!(
        engine
            .policy(&far, None)
            .unwrap()
            .iter()
            .all(|p| p.is_finite())
    );
    for limits in [
        Limits { rows: 0, labels: 4 },
        Limits {
            rows: 4,
            labels: usize::MAX,
        },
    ] {
        let bytes = crate::file("train-dpo", "model.safetensors");
        let source = crate::Base(SafetensorsSource::new(&bytes).unwrap());
        let learner = crate::learner(&reference(), &source, Format::F32).unwrap();
        assert!(Engine::new(learner, Trained::Adapters(lora(&ALL)), limits).is_err());
    }
}
