//! A run of a generator: what its steps learn from, drawn as they go, and their objective.

use std::path::Path;

use maquette::align::dpo::{self, DpoConfig, ScoredPair};
use maquette::align::entropy::{AdaptiveConfig, AdaptiveEntropy};
use maquette::align::grpo::{self, GrpoConfig, Rollout};
use maquette::align::masked::{Masks, PairConfig};
use maquette::align::{Engine, Kept, LoraConfig, Trainer};
use maquette::align::{reward, supervised};
use maquette::generator::Partial;
use maquette::model::learner::{Example, Learner};
use maquette::ops::Backward;
use maquette::{Code, Generator, Prompt};
use serde_json::{Map, Value, json};
use support::rules::Request;
use support::scorer::{Eye, Marker};
use support::{requests, scorer};

use crate::data::{self, Order};
use crate::family::{Family, Pair, Picture};
use crate::online::{Group, Plan, seed};
use crate::options::{Args, Guide, MaskKind, Objective};
use crate::training::{Training, bar};
use crate::{Res, check};

/// The examples of a step beside the pairs.
#[derive(Debug, Default)]
struct Drawn {
    pairs: Vec<[Example; 2]>,
    groups: Vec<(Vec<Vec<Example>>, Vec<f64>)>,
    /// Mean reward of all pictures.
    reward: f64,
    /// Groups whose rewards differ.
    lively: usize,
    /// Words of all plans.
    words: usize,
}

/// What does not change from step to step.
struct Run<'a, F: Family> {
    args: &'a Args,
    family: F,
    pairs: Vec<Pair>,
    pictures: Vec<Picture>,
    order: Order,
    requests: Vec<Request>,
    /// In which order the requests are drawn.
    asked: Order,
    lora: LoraConfig,
    draws: PairConfig,
    /// Of words and codes, where their entropies are held.
    entropy: Option<[AdaptiveEntropy; 2]>,
    /// Pictures that edits begin with.
    begin: Vec<Picture>,
}

/// Names of the entropies in the curves.
const ENTROPY: [&str; 2] = ["entropy_words", "entropy_codes"];

/// Trains a generator as the arguments say.
pub fn train<F: Family>(args: &Args, mut family: F) -> Res<()> {
    let mut pairs = match &*args.pairs {
        [] => Vec::new(),
        paths => data::pairs(paths, &mut family)?,
    };
    let mut pictures = Vec::new();
    if args.objective == Objective::Supervised {
        pictures = data::pictures(&pairs, &args.items, &mut family)?;
        pairs.clear();
    }
    let requests = match &args.prompts {
        Some(path) => prompts(path, &args.evaluation)?,
        None => Vec::new(),
    };
    let once = match args.objective {
        Objective::Grpo => 100,
        _ => (pairs.len().max(pictures.len()) / args.batch).max(1) as u64,
    };
    let steps = args.steps.unwrap_or(once);
    let learner = family.learner()?;
    let mut training = Training::open(args, learner, family.limits(), family.targets(), steps)?;
    let mut begin = Vec::new();
    if !args.edit.is_empty() {
        begin = data::pictures(&[], &args.edit, &mut family)?;
    }
    let mut run = Run {
        args,
        begin,
        entropy: entropy(args, &training)?,
        family,
        order: if args.even {
            Order::even(pairs.iter().map(|p| &*p.tag), args.seed)
        } else {
            Order::new(
                pairs.len().max(pictures.len()),
                args.shuffle.then_some(args.seed),
            )
        },
        asked: if args.even {
            Order::even(requests.iter().map(|r| &*r.tag), args.seed)
        } else {
            Order::new(requests.len(), None)
        },
        pairs,
        pictures,
        requests,
        lora: training.lora.clone(),
        draws: PairConfig::default()
            .with_masks(match args.masks {
                MaskKind::Own => Masks::Own,
                MaskKind::Shared => Masks::Shared,
            })
            .with_p_drop(args.drop)
            .with_seed(args.seed),
    };
    let mut kept = [training.kept()?, training.kept()?];
    let eye = run.eye()?;
    let draws = args.draws();
    let mut marker = draws.then(|| run.marker(eye.as_ref())).transpose()?;
    training.take(&mut |trainer, told| {
        let drawn = match &mut marker {
            Some(marker) => run.draw(trainer, marker)?,
            None => Drawn::default(),
        };
        let first = usize::try_from(trainer.steps())? * args.batch;
        Ok(trainer.step(|engine| run.objective(engine, first, drawn, &mut kept, told)))
    })?;
    training.leave(run.family.home())?;
    if let Some(path) = &args.check {
        training.checked(&run.check(path, &training.trainer)?)?;
    }
    training.close()
}

/// The entropies' terms as they are after the steps that were taken.
fn entropy<B: Backward, L: Learner<B>>(
    args: &Args,
    training: &Training<'_, B, L>,
) -> Res<Option<[AdaptiveEntropy; 2]>> {
    let [words, codes] = &*args.entropy else {
        return Ok(None);
    };
    let mut both = [words, codes].map(|target| AdaptiveEntropy::new(AdaptiveConfig::new(*target)));
    for (adaptive, name) in both.iter_mut().zip(ENTROPY) {
        for entropy in training.told(name) {
            // A number with the digits of an f32 survives its text.
            adaptive.observe(f64::from(entropy as f32))?;
        }
    }
    Ok(Some(both))
}

/// Prompts to draw, without those of the evaluation.
fn prompts(path: &Path, evaluation: &Path) -> Res<Vec<Request>> {
    let clean = requests::clean(requests::read(path)?, &requests::read(evaluation)?);
    if clean.kept.is_empty() {
        let (path, leaked, repeated) = (path.display(), clean.leaked, clean.repeated);
        return Err(format!(
            "{path}: no prompt is left; {leaked} are of the evaluation, {repeated} repeated"
        )
        .into());
    }
    Ok(clean.kept.into_iter().map(|(_, request)| request).collect())
}

impl<F: Family> Run<'_, F> {
    /// The labelling detector, if it is asked at all.
    fn eye(&self) -> Res<Option<Eye>> {
        let checks = self.args.check.is_some();
        if !self.args.scorer.has_rules() || !(self.args.draws() || checks) {
            return Ok(None);
        }
        let size = self.family.session(None, 1)?.image_size();
        let asked: Vec<&Request> = self.requests.iter().collect();
        scorer::eye(size, &asked).map(Some)
    }

    /// Who marks, with the labelling detector if it is asked.
    fn marker<'m>(&self, eye: Option<&'m Eye>) -> Res<Marker<'m>> {
        let views = self.args.group.max(self.args.check_images).clamp(1, 64);
        let dir = self.args.judge_dir.as_deref();
        let judge = self.args.scorer.has_judge();
        let judge = judge.then(|| self.family.judge(dir, views as usize));
        Ok(Marker::of(eye, judge.transpose()?).ok_or("nobody marks")?)
    }

    /// A session that draws as the policy does now.
    fn policy(&self, trainer: &Trainer<F::Device, F::Learner>, n: u32) -> Res<Box<dyn Generator>> {
        let adapters = (trainer.engine().parameters(), &self.lora);
        self.family.session(Some(adapters), n as usize)
    }

    /// Draws the pictures of the next step. They depend on the step and the policy alone.
    fn draw(
        &mut self,
        trainer: &Trainer<F::Device, F::Learner>,
        marker: &mut Marker<'_>,
    ) -> Res<Drawn> {
        let (args, step) = (self.args, trainer.steps());
        let mut generator = self.policy(trainer, args.group.max(2 * args.stages))?;
        let (mut out, mut pictures) = (Drawn::default(), 0);
        let now = u32::try_from(step)?;
        for at in 0..args.groups {
            let mut last = None;
            for one in 0..args.tries {
                let place = (step * u64::from(args.groups) + u64::from(at)) * u64::from(args.tries);
                let place = usize::try_from(place + u64::from(one))?;
                let request = &self.requests[self.asked.place(place)];
                let seeds: Vec<u64> = (0..args.group)
                    .map(|i| seed(args.seed, [now, at * args.tries + one, i]))
                    .collect();
                let group = self.group(&mut *generator, marker, request, &seeds)?;
                pictures += group.marks.len();
                out.reward += group.marks.iter().map(|mark| mark.reward).sum::<f64>();
                out.words += group.plans.iter().map(Plan::len).sum::<usize>();
                let equal = group.is_equal();
                last = Some(group);
                if !equal {
                    out.lively += 1;
                    break;
                }
            }
            if let Some(group) = last {
                self.learn(&mut out, &group, [now, at])?;
            }
        }
        out.reward /= pictures.max(1) as f64;
        out.words /= pictures.max(1);
        Ok(out)
    }

    /// Draws a group as the recipe says.
    fn group<'g>(
        &self,
        generator: &mut (dyn Generator + 'g),
        marker: &mut Marker<'_>,
        request: &Request,
        seeds: &[u64],
    ) -> Res<Group> {
        let args = self.args;
        if args.plan {
            let mut group = Group::plan(generator, marker, request, seeds, args.stages)?;
            if let Some(most) = args.plan_length {
                let words: Vec<usize> = group.plans.iter().map(Plan::len).collect();
                let shaped = |r: &[f64]| reward::shortened(r, &words, most, args.length_factor);
                group.rewards = shaped(&group.rewards)?;
            }
            return Ok(group);
        }
        let Some(begin) = like(&self.begin, &request.prompt, seeds[0]) else {
            return Group::draw(generator, marker, request, seeds);
        };
        let steps = generator.steps();
        let codes = self
            .family
            .begun(&begin.codes, [steps / 2, steps], seeds[0])?;
        let begun = Partial::new(steps / 2, &codes);
        Group::edit(generator, marker, request, &begun, seeds)
    }

    /// What a group gives to be learnt from.
    fn learn(&mut self, out: &mut Drawn, group: &Group, place: [u32; 2]) -> Res<()> {
        let rewards = group.rewards.clone();
        if self.args.objective == Objective::Guided && self.args.guide == Guide::Pairs {
            if group.is_equal() {
                return Ok(());
            }
            let [best, worst] = reward::best_and_worst(&rewards)?;
            let codes = |at: usize| -> Vec<Code> { group.drawn[at].codes().into() };
            let pair = Pair {
                prompt: group.prompt.clone(),
                tag: String::new(),
                chosen: codes(best),
                rejected: codes(worst),
            };
            if pair.chosen != pair.rejected {
                // Beyond the numbers of all other pairs.
                let [step, at] = place;
                let at = usize::MAX / 2 + step as usize * self.args.groups as usize + at as usize;
                out.pairs.push(self.family.pair(&self.draws, at, &pair)?);
            }
            return Ok(());
        }
        let (mut samples, mut written) = (Vec::new(), Vec::new());
        for (i, drawn) in group.drawn.iter().enumerate() {
            let mut prompt = Prompt::new(&group.prompt);
            if let Some(plan) = group.plans.get(i) {
                prompt = prompt.with_plan(&plan.text);
                written.push(match plan.len() {
                    0 => Vec::new(),
                    _ => vec![self.family.plan(&group.prompt, &plan.text)?],
                });
            }
            let passes = self.family.passes(&prompt, drawn)?;
            let [step, at] = place;
            let of = seed(self.args.seed ^ 0x7061_7373, [step, at, u32::try_from(i)?]);
            samples.push(some(passes, self.args.passes, of));
        }
        if self.args.stages > 0 && written.iter().all(|plan| !plan.is_empty()) {
            let worth = group.plans.iter().map(|plan| plan.reward).collect();
            out.groups.push((written, worth));
        } else {
            for (sample, mut plan) in samples.iter_mut().zip(written) {
                plan.append(sample);
                *sample = plan;
            }
        }
        out.groups.push((samples, rewards));
        Ok(())
    }

    /// Adds the gradients of a step, and tells its numbers.
    fn objective(
        &mut self,
        engine: &mut Engine<F::Device, F::Learner>,
        first: usize,
        drawn: Drawn,
        kept: &mut [Kept<F::Device>; 2],
        told: &mut Map<String, Value>,
    ) -> maquette::Result<f64> {
        let args = self.args;
        let mut loss = 0.0;
        if args.objective == Objective::Grpo {
            let mut config = GrpoConfig::default().with_beta(args.beta());
            if let Some([words, codes]) = &self.entropy {
                (config.entropy.words, config.entropy.codes) = (words.term(), codes.term());
            }
            let mut entropies = [Vec::new(), Vec::new()];
            let share = 1.0 / f64::from(args.groups);
            let mut k3 = 0.0;
            for (samples, rewards) in drawn.groups {
                let rollouts = samples
                    .into_iter()
                    .map(|passes| Rollout::new(engine, passes))
                    .collect::<maquette::Result<Vec<_>>>()?;
                let report =
                    grpo::group(engine, &rollouts, &rewards, &config, share, &mut kept[0])?;
                loss += share * report.loss;
                k3 += share * report.k3;
                for (all, entropy) in entropies.iter_mut().zip(report.entropy) {
                    all.extend(entropy);
                }
            }
            told.insert("k3".into(), json!(k3));
            let mut adaptive = self.entropy.as_mut().map(|both| both.iter_mut());
            for (all, name) in entropies.iter().zip(ENTROPY) {
                let held = adaptive.as_mut().and_then(Iterator::next);
                if all.is_empty() {
                    continue;
                }
                let mean = (all.iter().sum::<f64>() / all.len() as f64) as f32;
                told.insert(name.into(), json!(f64::from(mean)));
                if let Some(held) = held {
                    held.observe(f64::from(mean))?;
                }
            }
            if args.plan {
                told.insert("plan_words".into(), json!(drawn.words));
            }
        } else if args.objective == Objective::Supervised {
            let mut batch = Vec::new();
            for at in first..first + args.batch {
                let picture = &self.pictures[self.order.place(at)];
                batch.push(self.family.picture(&self.draws, at, picture)?);
            }
            loss = supervised::batch(engine, &batch, &mut kept[0])?;
        } else {
            let mut batch = Vec::new();
            for at in first..first + args.batch {
                let pair = &self.pairs[self.order.place(at)];
                batch.push(self.family.pair(&self.draws, at, pair)?);
            }
            batch.extend(drawn.pairs);
            let batch = batch
                .into_iter()
                .map(|examples| ScoredPair::new(engine, examples))
                .collect::<maquette::Result<Vec<_>>>()?;
            let config = DpoConfig::default()
                .with_beta(args.beta())
                .with_supervised(args.supervised);
            let report = dpo::batch(engine, &batch, &config, kept)?;
            told.insert("margin".into(), json!(report.margin));
            told.insert("p_right".into(), json!(report.p_right));
            loss = report.loss;
            let factor = args.guide_factor / f64::from(args.groups);
            for (samples, rewards) in &drawn.groups {
                loss += match args.guide {
                    Guide::Released => factor * reward::released_term(rewards)?,
                    _ => reward::score_function(engine, samples, rewards, factor, &mut kept[0])?,
                };
            }
        }
        if args.draws() {
            told.insert("reward".into(), json!(drawn.reward));
            told.insert("groups".into(), json!(drawn.lively));
        }
        Ok(loss)
    }

    /// Draws the prompts of a file before and after.
    fn check(&self, path: &Path, trainer: &Trainer<F::Device, F::Learner>) -> Res<String> {
        let args = self.args;
        let requests = requests::read(path)?;
        let mut before = self.family.session(None, args.check_images as usize)?;
        let mut after = self.policy(trainer, args.check_images)?;
        let asked: Vec<&Request> = requests.iter().collect();
        let eye = args.scorer.has_rules();
        let eye = eye.then(|| scorer::eye(before.image_size(), &asked));
        let eye = eye.transpose()?;
        let mut marker = self.marker(eye.as_ref())?;
        let bar = bar(args.quiet, 2 * requests.len() as u64, "prompts")?;
        let mut sides = Vec::new();
        for generator in [&mut *before, &mut *after] {
            sides.push(check::shares(
                generator,
                &mut marker,
                &requests,
                (args.check_images, args.plan),
                args.seed,
                &|| bar.inc(1),
            )?);
        }
        bar.abandon();
        Ok(check::table(&requests, &sides[0], &sides[1]))
    }
}

/// The picture whose prompt has the most words in common with another prompt; of equals, one that is drawn.
fn like<'p>(pictures: &'p [Picture], prompt: &str, of: u64) -> Option<&'p Picture> {
    let shared = |picture: &Picture| {
        let words = picture.prompt.split_whitespace();
        words
            .filter(|word| prompt.split_whitespace().any(|w| w == *word))
            .count()
    };
    let others = (0..).zip(pictures).filter(|(_, p)| p.prompt != prompt);
    let best = others.max_by_key(|(at, picture)| (shared(picture), seed(of, [*at, 1, 0])));
    best.map(|(_, picture)| picture)
}

/// `n` of some passes, drawn without order; 0 for all.
fn some(passes: Vec<Example>, n: usize, of: u64) -> Vec<Example> {
    if n == 0 || n >= passes.len() {
        return passes;
    }
    let mut keyed: Vec<(u64, Example)> = (0..).map(|i| seed(of, [i, 0, 0])).zip(passes).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.truncate(n);
    keyed.into_iter().map(|(_, pass)| pass).collect()
}
