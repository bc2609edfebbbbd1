//! Laws of the latent head: on random weights, and on the bundled generator's hidden rows.

mod drawing;

use std::sync::Arc;

use maquette::align::{AdamWConfig, LatentBatch, LatentTrainer, Schedule, TrainerConfig};
use maquette::combine::Split;
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Views};
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::latent::backward::{LatentLearner, LatentViews};
use maquette::model::latent::{LatentConfig, LatentHead, LatentSession};
use maquette::model::show_o::ShowOOptions;
use maquette::model::weights::{DType, Tensor, WeightSource};
use maquette::ops::{Backend, Backward, Reference};
use maquette::quant::Format;
use maquette::reward::{Ask, ViewKey};
use maquette::rng::{Stream, open_unit, philox};
use maquette::search::{Flow, Halving, Parm, SearchStrategy};
use maquette::testing::ScriptedReward;
use maquette::{CandidateId, Error, Generator, Judgement, Prompt, Result, RewardModel, Verdict};

use crate::bundled::drawing::Drawing;
use crate::bundled::files::{bytes, text};

const PROMPT: Prompt<'static> = Prompt::new("a photo of a red car");
const QUESTIONS: [Judgement; 4] = [
    Judgement::Outcome,
    Judgement::Process,
    Judgement::Clarity,
    Judgement::Potential,
];

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| philox([seed, 5], [u32::try_from(i).unwrap(), 0, 0, 0])[0];
    (0..len).map(|i| open_unit(word(i)) * 2.0 - 1.0).collect()
}

/// Odd sizes everywhere.
fn tiny(codes: bool) -> LatentConfig {
    let mut config = LatentConfig::new(5, 7);
    (config.width, config.mlp_width) = (6, 9);
    (config.pool_heads, config.pool_head_dim) = (3, 2);
    config.codebook_size = if codes { 11 } else { 0 };
    config
}

fn trainer<B: Backward>(b: B, config: LatentConfig, rate: f64) -> LatentTrainer<B> {
    let optimiser = AdamWConfig::default().with_rate(rate);
    let settings = TrainerConfig::new(optimiser, Schedule::Constant).with_clip(1.0);
    LatentTrainer::new(Arc::new(b), config, settings, 3, 12).unwrap()
}

fn loaded<B: Backend>(b: B, config: &LatentConfig, file: &[u8]) -> Result<LatentSession<B>> {
    loaded_source(b, config, &SafetensorsSource::new(file)?)
}

fn loaded_source<B: Backend>(
    b: B,
    config: &LatentConfig,
    source: &dyn WeightSource,
) -> Result<LatentSession<B>> {
    let head = LatentHead::load(Arc::new(b), config.clone(), source, Format::F32)?;
    LatentSession::new(Arc::new(head), 3)
}

/// A head of zeros, but that code 1 overflows its answers and no score.
struct Loud(Vec<(&'static str, Vec<usize>, Vec<u8>)>);

impl Loud {
    fn new(config: &LatentConfig) -> Self {
        let filled = |(name, shape): (&'static str, Vec<usize>)| {
            let mut values = vec![0.0_f32; shape.iter().product()];
            match name {
                "codes.weight" => values[config.width] = 1.0,
                "pool.weight" => values[config.pool_heads * config.width] = 1.0,
                "mlp.weight" => values[0] = 1e10,
                "answers.weight" => values.fill(1e30),
                _ => {}
            }
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, shape, bytes)
        };
        Self(config.tensors().into_iter().map(filled).collect())
    }
}

impl WeightSource for Loud {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let (_, shape, bytes) = self.0.iter().find(|(own, ..)| *own == name)?;
        Some(Tensor {
            dtype: DType::F32,
            shape: shape.clone(),
            bytes,
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.0.iter().for_each(|(name, ..)| visit(name));
    }
}

struct Seen {
    keys: Vec<ViewKey>,
    hidden: Vec<f32>,
    codes: Vec<u32>,
}

fn seen(config: &LatentConfig, n: usize) -> Seen {
    let rows = n * config.places;
    let key = |at: u64| ViewKey {
        candidate: CandidateId(at),
        step: 1,
    };
    Seen {
        keys: (0..n as u64).map(key).collect(),
        hidden: numbers(rows * config.hidden_size, 1),
        // One of them is no code.
        codes: (0..u32::try_from(rows).unwrap())
            .map(|i| i * 7 % 12)
            .collect(),
    }
}

impl Seen {
    fn part(&self, from: usize, to: usize) -> Self {
        let n = self.keys.len();
        let of = |len: usize| from * (len / n)..to * (len / n);
        Self {
            keys: self.keys[from..to].into(),
            hidden: self.hidden[of(self.hidden.len())].into(),
            codes: self.codes[of(self.codes.len())].into(),
        }
    }

    fn judged(&self, judge: &mut dyn RewardModel, question: Judgement) -> Result<Vec<Verdict>> {
        let ask = Ask::new(question, &PROMPT, &self.keys)
            .with_hidden(&self.hidden)
            .with_codes(&self.codes);
        let mut out = vec![Verdict::malformed(); self.keys.len()];
        judge.judge(&ask, &mut out).map(|()| out)
    }
}

#[test]
fn a_batch_says_what_each_view_says_alone_on_every_device() {
    for codes in [false, true] {
        let config = tiny(codes);
        let file = trainer(Reference, config.clone(), 0.1)
            .write(false)
            .unwrap();
        let mut reference = loaded(Reference, &config, &file).unwrap();
        let mut cpu = loaded(Cpu::new(), &config, &file).unwrap();
        let needs = if codes {
            Needs::HIDDEN.or(Needs::CODES)
        } else {
            Needs::HIDDEN
        };
        // More than a session looks at in one batch.
        let views = seen(&config, 7);
        let mut before = Vec::new();
        for question in QUESTIONS {
            assert_eq!(cpu.needs(question), needs);
            let all = views.judged(&mut reference, question).unwrap();
            assert_eq!(views.judged(&mut cpu, question).unwrap(), all);
            for (i, one) in all.iter().enumerate() {
                assert!((one.p_yes + one.p_no - 1.0).abs() < 1e-6);
                let alone = views.part(i, i + 1);
                assert_eq!(alone.judged(&mut cpu, question).unwrap(), [*one]);
            }
            assert!(!before.contains(&all), "each question has its own answers");
            before.push(all);
        }
        assert!(
            views
                .part(0, 0)
                .judged(&mut cpu, QUESTIONS[0])
                .unwrap()
                .is_empty()
        );
    }
}

#[test]
fn views_that_do_not_fit_and_numbers_that_are_none_are_named() {
    let config = tiny(true);
    let file = trainer(Reference, config.clone(), 0.1).write(true).unwrap();
    let mut judge = loaded(Cpu::new(), &config, &file).unwrap();
    let good = seen(&config, 4);
    let mut refused = |change: fn(&mut Seen)| {
        let mut views = good.part(0, 4);
        change(&mut views);
        views.judged(&mut judge, Judgement::Clarity).unwrap_err()
    };
    let length = |error: Error| match error {
        Error::Length { op, arg, .. } => (op, arg),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        length(refused(|v| v.hidden.truncate(3))),
        ("judge", "hidden")
    );
    assert_eq!(length(refused(|v| v.hidden.push(0.0))), ("judge", "hidden"));
    assert_eq!(length(refused(|v| v.codes.clear())), ("judge", "codes"));
    for wrong in [f32::NAN, f32::INFINITY] {
        let mut views = good.part(0, 4);
        views.hidden[2 * 35 + 8] = wrong;
        let error = views.judged(&mut judge, Judgement::Clarity).unwrap_err();
        assert!(matches!(
            error,
            Error::NotFinite {
                op: "judge",
                row: 2,
                ..
            }
        ));
    }
    // Numbers that grow too large inside are told with their view, not with its place in the batch of three.
    let mut views = seen(&config, 5);
    let width = config.places * config.hidden_size;
    views.hidden[4 * width..].fill(f32::MAX);
    let told = |error| match error {
        Error::NotFinite { op, row, .. } => (op, row),
        other => panic!("{other:?}"),
    };
    let question = Judgement::Clarity;
    let error = views.judged(&mut judge, question).unwrap_err();
    assert_eq!(told(error), ("judge", 4));
    let mut judge = loaded_source(Cpu::new(), &config, &Loud::new(&config)).unwrap();
    for (at, code) in views.codes.iter_mut().enumerate() {
        *code = u32::from(at / config.places == 4);
    }
    views.hidden.fill(0.0);
    let error = views.judged(&mut judge, question).unwrap_err();
    assert_eq!(told(error), ("judge", 4));
    assert_eq!(
        views.part(0, 4).judged(&mut judge, question).unwrap(),
        [Verdict::new(0.5, 0.5); 4]
    );
    let mut config_of_one = config.clone();
    config_of_one.questions = vec![Judgement::Potential];
    let mut judge = loaded(
        Cpu::new(),
        &config_of_one,
        &trainer(Reference, config_of_one.clone(), 0.1)
            .write(false)
            .unwrap(),
    )
    .unwrap();
    assert!(good.judged(&mut judge, Judgement::Potential).is_ok());
    let error = good.judged(&mut judge, Judgement::Outcome).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
}

#[test]
fn files_that_are_cut_off_or_of_another_head_are_errors() {
    let config = tiny(true);
    let file = trainer(Reference, config.clone(), 0.1)
        .write(false)
        .unwrap();
    assert!(loaded(Reference, &config, &file).is_ok());
    for len in [0, 7, 8, 100, file.len() - 1] {
        assert!(loaded(Reference, &config, &file[..len]).is_err(), "{len}");
    }
    let other = |change: fn(&mut LatentConfig)| {
        let mut config = config.clone();
        change(&mut config);
        loaded(Reference, &config, &file).unwrap_err()
    };
    for error in [
        other(|c| c.hidden_size += 1),
        other(|c| c.places -= 1),
        other(|c| c.pool_heads += 1),
        other(|c| c.codebook_size = 12),
    ] {
        assert!(matches!(error, Error::TensorShape { .. }), "{error:?}");
    }
    // A table of codes that nobody would read.
    assert!(matches!(
        other(|c| c.codebook_size = 0),
        Error::UnknownTensor { .. }
    ));
    let mut wrong = file;
    let last = wrong.len() - 2;
    wrong[last..].copy_from_slice(&[0xc0, 0x7f]);
    assert!(matches!(
        loaded(Reference, &config, &wrong).unwrap_err(),
        Error::TensorNumber { .. }
    ));
}

#[test]
fn gradients_are_those_of_the_cross_entropy() {
    let config = tiny(true);
    let views = seen(&config, 3);
    let mut values: Vec<Vec<f32>> = trainer(Reference, config.clone(), 0.1)
        .parameters()
        .iter()
        .enumerate()
        .map(|(i, p)| numbers(p.values.len(), 20 + u32::try_from(i).unwrap()))
        .collect();
    let slices = |values: &[Vec<f32>]| -> Vec<Vec<f32>> { values.to_vec() };
    let weights = numbers(24, 9);
    let mut learner = {
        let all: Vec<&[f32]> = values.iter().map(|v| &**v).collect();
        LatentLearner::new(Arc::new(Reference), config, &all, 3).unwrap()
    };
    let mut logits = vec![0.0; 24];
    let shown = LatentViews::new(&views.hidden, &views.codes);
    // Twice, so that what is taken is begun anew.
    let mut gradients = slices(&values);
    for _ in 0..2 {
        learner.forward(shown, &mut logits).unwrap();
        learner.backward(&weights).unwrap();
        learner.take(&mut gradients).unwrap();
    }
    let mut at = |values: &[Vec<f32>]| -> f64 {
        let all: Vec<&[f32]> = values.iter().map(|v| &**v).collect();
        learner.replace(&all).unwrap();
        learner.forward(shown, &mut logits).unwrap();
        let products = logits.iter().zip(&weights);
        products.map(|(l, w)| f64::from(*l) * f64::from(*w)).sum()
    };
    let step = 2e-2;
    for (i, gradient) in gradients.iter().enumerate() {
        for j in (0..gradient.len()).step_by(gradient.len().div_ceil(7)) {
            let value = values[i][j];
            values[i][j] = value + step;
            let above = at(&values);
            values[i][j] = value - step;
            let below = at(&values);
            values[i][j] = value;
            let want = (above - below) / (2.0 * f64::from(step));
            let got = f64::from(gradient[j]);
            assert!(
                (got - want).abs() < 2e-2 + 2e-2 * want.abs(),
                "{i}, {j}: {got} {want}"
            );
        }
    }
}

#[test]
fn a_head_learns_resumes_exactly_and_refuses_what_is_no_answer() {
    let config = tiny(true);
    let views = seen(&config, 12);
    // What is asked about every other view alone, of what the mean of its rows says.
    let of = |view: &[f32]| {
        if view.iter().sum::<f32>() > 0.0 {
            0.9
        } else {
            0.2
        }
    };
    let p_yes: Vec<f32> = views
        .hidden
        .chunks(35)
        .enumerate()
        .flat_map(|(i, view)| [of(view), 1.0 - of(view), f32::NAN, [f32::NAN, 0.4][i % 2]])
        .collect();
    let batch = LatentBatch {
        views: LatentViews::new(&views.hidden, &views.codes),
        p_yes: &p_yes,
    };
    let mut whole = trainer(Cpu::new(), config.clone(), 0.02);
    let mut losses = Vec::new();
    let mut middle = Vec::new();
    for step in 0..60 {
        if step == 20 {
            middle = whole.checkpoint().unwrap();
        }
        losses.push(whole.step(&batch).unwrap().loss);
    }
    // The entropy of the answers is what is left.
    assert!(losses[0] > 0.6 && losses[59] < 0.5, "{losses:?}");
    let mut again = trainer(Reference, config.clone(), 0.02);
    again.resume(&middle).unwrap();
    assert_eq!(again.steps(), 20);
    for _ in 20..60 {
        again.step(&batch).unwrap();
    }
    assert!(again.checkpoint().unwrap() == whole.checkpoint().unwrap());
    let before = whole.checkpoint().unwrap();
    let wrong = |p: f32| {
        let mut p_yes = p_yes.clone();
        p_yes[5] = p;
        p_yes
    };
    for p_yes in [wrong(1.5), wrong(f32::INFINITY), vec![f32::NAN; 48]] {
        let error = whole.step(&LatentBatch {
            p_yes: &p_yes,
            ..batch
        });
        assert!(matches!(error, Err(Error::Example { .. })));
    }
    let hidden = vec![f32::NAN; views.hidden.len()];
    let wrong = LatentViews::new(&hidden, &views.codes);
    let error = whole.step(&LatentBatch {
        views: wrong,
        ..batch
    });
    assert!(
        matches!(error, Err(Error::Diverged { step: 60, .. })),
        "{error:?}"
    );
    assert!(whole.checkpoint().unwrap() == before);
    assert!(whole.resume(&before[..before.len() - 1]).is_err());
    assert!(
        trainer(Reference, tiny(false), 0.1)
            .resume(&before)
            .is_err()
    );
}
