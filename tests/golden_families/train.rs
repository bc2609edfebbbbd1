//! Training of a Show-o: scores, losses, gradients of adapters and of whole blocks, steps of the optimiser.

use std::sync::Arc;

use maquette::Result;
use maquette::align::dpo::{self, DpoConfig, ScoredPair};
use maquette::align::grpo::{self, Deviation, EqualRewards, GrpoConfig, Rollout, Token};
use maquette::align::{
    AdamW, AdamWConfig, Engine, Limits, LoraConfig, Parameter, Schedule, Trained, Trainer,
    TrainerConfig,
};
use maquette::codes::UNKNOWN;
use maquette::model::learner::{Example, Input, Scope};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOLearner};
use maquette::model::weights::{Tensor, WeightSource};
use maquette::ops::Backward;
use maquette::quant::Format;

use crate::Case;
use crate::case::Source;

type ShowOEngine<B> = Engine<B, ShowOLearner<B>>;

/// A checkpoint that also holds another layer 0, under `policy.`: with or without it.
struct Weights<'a> {
    source: Source<'a>,
    policy: bool,
}

impl WeightSource for Weights<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let other = self
            .policy
            .then(|| self.source.tensor(&format!("policy.{name}")));
        other.flatten().or_else(|| self.source.tensor(name))
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.source.names(&mut |name| {
            if !name.starts_with("policy.") {
                visit(name);
            }
        });
    }
}

pub fn run<B: Backward>(case: &Case, device: &Arc<B>) -> Result<()> {
    if case.has_input("in.labels") {
        preferences(case, device)
    } else {
        groups(case, device)
    }
}

fn setting(case: &Case, key: &str) -> f64 {
    case.json[key].as_f64().unwrap()
}

fn engine<B: Backward>(
    case: &Case,
    device: &Arc<B>,
    policy: bool,
    trained: Trained,
) -> Result<ShowOEngine<B>> {
    let weights = Weights {
        source: case.source(),
        policy,
    };
    let config = ShowOConfig::from_json(&case.config)?;
    let limits = Limits {
        rows: config.text_rows() + config.image_rows(),
        labels: config.image_rows(),
    };
    let model = Arc::new(ShowO::load(
        Arc::clone(device),
        config,
        &weights,
        case.format,
    )?);
    let learner = ShowOLearner::load(model, &weights, case.format)?;
    Engine::new(learner, trained, limits)
}

fn lora(case: &Case) -> LoraConfig {
    let targets = case.json["lora_targets"].as_array().unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "a small setting")]
    LoraConfig::new(
        case.config.size("lora_r").unwrap(),
        setting(case, "lora_alpha") as f32,
        targets.iter().map(|t| t.as_str().unwrap()),
    )
    .with_seed(1)
}

/// The fixture's name of a matrix of a pair.
fn matrix_name(parameter: &Parameter) -> String {
    parameter
        .name
        .replace(".lora_A.weight", ".A")
        .replace(".lora_B.weight", ".B")
}

/// Gives all pairs their matrices of the fixture; second ones only if asked.
fn feed<B: Backward>(case: &Case, engine: &mut ShowOEngine<B>, second: bool) -> Result<()> {
    let values: Vec<(String, Vec<f32>)> = engine
        .parameters()
        .iter()
        .filter(|p| second || p.name.ends_with(".lora_A.weight"))
        .map(|p| {
            let (shape, values) = case.input(&format!("in.lora.{}", matrix_name(p)));
            assert_eq!(shape, p.shape);
            (p.name.clone(), values)
        })
        .collect();
    let values: Vec<_> = values
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_slice()))
        .collect();
    engine.set(&values)
}

/// Compares all gradients that the fixture has under a prefix.
fn gradients<B: Backward>(case: &Case, engine: &ShowOEngine<B>, prefix: &str) -> Result<()> {
    for (parameter, gradient) in engine.parameters().iter().zip(engine.gradients()?) {
        let name = format!("{prefix}.{}", matrix_name(parameter));
        if case.wants(&name) {
            case.compare(&name, &gradient);
        }
    }
    Ok(())
}

fn rows(case: &Case, name: &str) -> Vec<Vec<i64>> {
    let (shape, all) = case.whole(name);
    all.chunks(*shape.last().unwrap())
        .map(<[i64]>::to_vec)
        .collect()
}

fn word(id: i64) -> u32 {
    u32::try_from(id).unwrap()
}

/// A row of the fixture without its pads: scores take the labels from the start of the picture on.
fn example(c: &ShowOConfig, ids: &[i64], labels: &[i64]) -> Example {
    let pads = ids.iter().filter(|&&id| id == i64::from(c.pad())).count();
    let wanted = labels.iter().enumerate().skip(c.text_rows());
    let wanted: Vec<_> = wanted.filter(|(_, label)| **label >= 0).collect();
    Example {
        input: Input::Tokens(ids[pads..].iter().map(|&id| word(id)).collect()),
        positions: (u32::try_from(pads).unwrap()..)
            .take(ids.len() - pads)
            .collect(),
        causal: c.text_rows() - pads,
        rows: wanted
            .iter()
            .map(|(i, _)| u32::try_from(i - pads).unwrap())
            .collect(),
        labels: wanted.iter().map(|(_, label)| word(**label)).collect(),
        scope: Scope::Vocabulary,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "compared in F32")]
fn narrow(x: f64) -> f32 {
    x as f32
}

fn adamw(case: &Case) -> AdamWConfig {
    let a = &case.json["adamw"];
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    AdamWConfig::default()
        .with_rate(number(&a["lr"]))
        .with_betas([number(&a["betas"][0]), number(&a["betas"][1])])
        .with_eps(number(&a["eps"]))
        .with_weight_decay(number(&a["weight_decay"]))
}

fn preferences<B: Backward>(case: &Case, device: &Arc<B>) -> Result<()> {
    let c = ShowOConfig::from_json(&case.config)?;
    let (ids, labels) = (rows(case, "in.input_ids"), rows(case, "in.labels"));
    let examples: Vec<_> = ids
        .iter()
        .zip(&labels)
        .map(|(i, l)| example(&c, i, l))
        .collect();
    let config = DpoConfig::default().with_beta(setting(case, "beta"));
    let mut adapted = engine(case, device, false, Trained::Adapters(lora(case)))?;
    feed(case, &mut adapted, false)?;
    let half = examples.len() / 2;
    let pairs = (0..half)
        .map(|i| [examples[i].clone(), examples[half + i].clone()])
        .map(|pair| ScoredPair::new(&mut adapted, pair))
        .collect::<Result<Vec<_>>>()?;
    let reference = |i: usize| narrow(pairs[i % half].reference[i / half]);
    case.compare(
        "out.ref_logps",
        &(0..2 * half).map(reference).collect::<Vec<_>>(),
    );
    let mut kept = [adapted.kept()?, adapted.kept()?];
    let scores = |engine: &mut ShowOEngine<B>| {
        let score = |e| Ok(narrow(dpo::score(&engine.policy(e, None)?)));
        examples.iter().map(score).collect::<Result<Vec<_>>>()
    };

    case.compare("out.lora_init.policy_logps", &scores(&mut adapted)?);
    let report = dpo::batch(&mut adapted, &pairs, &config, &mut kept)?;
    assert_eq!(report.loss.to_bits(), std::f64::consts::LN_2.to_bits());
    case.compare("out.lora_init.loss", &[narrow(report.loss)]);
    gradients(case, &adapted, "out.lora_init.grad")?;

    feed(case, &mut adapted, true)?;
    case.compare("out.lora.policy_logps", &scores(&mut adapted)?);
    let mut trainer = Trainer::new(adapted, TrainerConfig::new(adamw(case), Schedule::Constant))?;
    let report = trainer.step(|engine| {
        let report = dpo::batch(engine, &pairs, &config, &mut kept)?;
        gradients(case, engine, "out.lora.grad")?;
        Ok(report.loss)
    })?;
    case.compare("out.lora.loss", &[narrow(report.loss)]);
    let after = dpo::batch(trainer.engine_mut(), &pairs, &config, &mut kept)?;
    case.compare("out.lora.loss_after_one_step", &[narrow(after.loss)]);

    let mut whole = engine(case, device, false, Trained::Blocks(Format::F32))?;
    let policy = Weights {
        source: case.source(),
        policy: true,
    };
    whole.read_weights(&policy)?;
    case.compare("out.full.policy_logps", &scores(&mut whole)?);
    let report = dpo::batch(&mut whole, &pairs, &config, &mut kept)?;
    case.compare("out.full.loss", &[narrow(report.loss)]);
    case.compare("out.full.sft_loss", &[narrow(report.supervised)]);
    gradients(case, &whole, "out.full.grad")?;

    let mut parameters = whole.parameters().to_vec();
    parameters.retain(|p| case.has_input(&format!("in.adamw.grad.{}", p.name)));
    let mut optimiser = AdamW::new(&parameters)?;
    let factors = case.json["adamw"]["grad_factors"]
        .as_array()
        .unwrap()
        .clone();
    for (step, factor) in factors.iter().enumerate() {
        let factor = narrow(factor.as_f64().unwrap());
        let gradient = |p: &Parameter| {
            let (_, gradient) = case.input(&format!("in.adamw.grad.{}", p.name));
            gradient.iter().map(|g| g * factor).collect()
        };
        let gradients: Vec<Vec<f32>> = parameters.iter().map(gradient).collect();
        let config = adamw(case);
        optimiser.step(&config, config.rate, &mut parameters, &gradients)?;
        for p in &parameters {
            case.compare(&format!("out.adamw.step{}.{}", step + 1, p.name), &p.values);
        }
    }
    Ok(())
}

fn groups<B: Backward>(case: &Case, device: &Arc<B>) -> Result<()> {
    let c = ShowOConfig::from_json(&case.config)?;
    let mut engine = engine(case, device, false, Trained::Adapters(lora(case)))?;
    feed(case, &mut engine, true)?;
    let codes: Vec<Vec<u32>> = rows(case, "in.codes")
        .iter()
        .map(|row| row.iter().map(|&code| word(code)).collect())
        .collect();
    let (samples, n) = (codes.len(), c.num_vq_tokens);
    let (ids, fixed) = (rows(case, "in.step_input_ids"), case.bytes("in.fixed").1);
    let offset = u32::try_from(c.image_offset()).unwrap();
    let mut rollouts = Vec::new();
    let mut places: Vec<Vec<usize>> = Vec::new();
    for (g, codes) in codes.iter().enumerate() {
        let steps: Vec<_> = ids.iter().skip(g).step_by(samples).collect();
        let text: Vec<u32> = steps[0][..c.text_rows()]
            .iter()
            .map(|&id| word(id))
            .filter(|&id| id != c.pad())
            .collect();
        let state = |row: &&Vec<i64>| {
            let picture = row[c.text_rows() + 1..][..n].iter();
            picture
                .map(|&id| word(id))
                .map(|id| if id == c.mask() { UNKNOWN } else { id - offset })
                .collect::<Vec<_>>()
        };
        let states: Vec<_> = steps.iter().map(state).collect();
        let passes = c.trajectory(&text, &states, codes)?;
        let place = |row: &u32| *row as usize - text.len() - 1;
        for (step, pass) in passes.iter().enumerate() {
            let own = &fixed[(step * samples + g) * n..][..n];
            let own: Vec<_> = (0..n).filter(|&i| own[i] == 1).collect();
            assert_eq!(pass.rows.iter().map(place).collect::<Vec<_>>(), own);
        }
        places.push(
            passes
                .iter()
                .flat_map(|p| p.rows.iter().map(place))
                .collect(),
        );
        rollouts.push(Rollout::new(&mut engine, passes)?);
    }
    // The fixture goes by place, a rollout by step.
    let by_place = |values: &[Vec<f32>]| {
        let mut out = vec![0.0; samples * n];
        for (g, values) in values.iter().enumerate() {
            for (place, v) in places[g].iter().zip(values) {
                out[g * n + place] = *v;
            }
        }
        out
    };
    let reference: Vec<_> = rollouts.iter().map(|r| r.reference.clone()).collect();
    case.compare("out.ref_logps", &by_place(&reference));
    let mut now = Vec::new();
    for rollout in &rollouts {
        let mut own = Vec::new();
        for pass in &rollout.passes {
            own.extend(engine.policy(pass, None)?);
        }
        now.push(own);
    }
    case.compare("out.logps", &by_place(&now));
    let config = GrpoConfig::default()
        .with_eps(setting(case, "eps"))
        .with_deviation(match case.json["std"].as_str() {
            Some("unbiased") => Deviation::Unbiased,
            _ => Deviation::Population,
        })
        .with_clip(setting(case, "clip"))
        .with_beta(setting(case, "kl_beta"))
        .with_equal_rewards(EqualRewards::Keep);
    let rewards = |name: &str| {
        case.input(name)
            .1
            .iter()
            .map(|&r| f64::from(r))
            .collect::<Vec<_>>()
    };
    let (_, old) = case.input("in.old_logps");
    let given: Vec<Rollout> = rollouts
        .iter()
        .enumerate()
        .map(|(g, rollout)| Rollout {
            old: Some(places[g].iter().map(|place| old[g * n + place]).collect()),
            ..rollout.clone()
        })
        .collect();
    let mut kept = engine.kept()?;
    for (name, rollouts, rewards) in [
        ("clip", &given, rewards("in.rewards")),
        ("onpolicy", &rollouts, rewards("in.rewards")),
        ("equal", &rollouts, rewards("in.equal_rewards")),
    ] {
        engine.clear()?;
        let report = grpo::group(&mut engine, rollouts, &rewards, &config, 1.0, &mut kept)?;
        case.compare(&format!("out.{name}.loss"), &[narrow(report.loss)]);
        gradients(case, &engine, &format!("out.{name}.grad"))?;
        if name == "clip" {
            let of = |f: fn(&Token) -> f64| -> Vec<Vec<f32>> {
                let sample = |tokens: &Vec<Token>| tokens.iter().map(|t| narrow(f(t))).collect();
                report.tokens.iter().map(sample).collect()
            };
            case.compare("out.clip.ratio", &by_place(&of(|t| t.ratio)));
            case.compare("out.k3", &by_place(&of(|t| t.k3)));
            let advantages: Vec<_> = report.advantages.iter().map(|&a| narrow(a)).collect();
            case.compare("out.advantages", &advantages);
        }
    }
    Ok(())
}
