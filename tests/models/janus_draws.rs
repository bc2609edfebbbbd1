//! Laws of Janus as a generator on random weights, and as generator and judge of one search.

use std::sync::Arc;

use crate::tiny_janus::{config, load, load_as, words};
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Views};
use maquette::model::janus::{Janus, JanusConfig, JanusSession};
use maquette::model::llava::JudgeOptions;
use maquette::model::raster::{Given, PrefixPair, RasterOptions};
use maquette::model::weights::Precision;
use maquette::model::words::Words;
use maquette::ops::attention::KvFormat;
use maquette::ops::gemm::Activations;
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;
use maquette::rng::Stream;
use maquette::search::{BestOfN, Parm, ParmForm, Prm, SearchStrategy};
use maquette::testing::{ScriptedReward, conformance};
use maquette::{
    CandidateId, Code, Cost, Error, Event, Flow, Generator, Judgement, Prompt, RewardModel,
};

const PROMPT: Prompt<'static> = Prompt::new(" a photo of a red car\n");
const PLACES: usize = 16;

fn options() -> RasterOptions {
    config().options()
}

fn session<B: Backend>(model: &Arc<Janus<B>>, options: RasterOptions) -> JanusSession<B, Words> {
    model.draw(words(), options).unwrap()
}

fn draw<B: Backend>(s: &mut JanusSession<B, Words>, seeds: &[u64]) -> Vec<Vec<Code>> {
    let mut ids = vec![CandidateId::default(); seeds.len()];
    s.start(&PROMPT, seeds, &mut ids).unwrap();
    for _ in 0..s.steps() {
        s.step(&ids).unwrap();
    }
    let codes = ids.iter().map(|&id| {
        let mut codes = vec![0; PLACES];
        s.save(id, &mut codes).unwrap();
        codes
    });
    let codes = codes.collect();
    s.prune(&ids).unwrap();
    codes
}

#[test]
fn the_contracts_hold_for_one_set_of_weights_that_draws_and_judges() {
    let model = load(Cpu::new(), config());
    let mut guided = session(&model, options());
    conformance::generator(&mut guided, &PROMPT).unwrap();
    let mut plain = options();
    (plain.guidance_scale, plain.tokens_per_step, plain.batch) = (1.0, Some(3), 2);
    conformance::generator(&mut session(&model, plain), &PROMPT).unwrap();
    let judge = JudgeOptions::default().with_views(2).with_tokens(32);
    let mut judge = model.judge(Arc::new(words()), judge).unwrap();
    for ask in [
        Judgement::Outcome,
        Judgement::Process,
        Judgement::Clarity,
        Judgement::Potential,
    ] {
        conformance::reward(&mut judge, &mut guided, &PROMPT, ask).unwrap();
    }
}

#[test]
fn steps_batches_threads_and_devices_change_no_code() {
    for kv in [KvFormat::F32, KvFormat::Q8] {
        let mut options = options();
        options.kv = kv;
        same_at_any_size(options);
    }
}

fn same_at_any_size(options: RasterOptions) {
    let seeds = [3, 4, 5];
    let options = || options;
    let model = load(Cpu::with_threads(1).unwrap(), config());
    let want = draw(&mut session(&model, options()), &seeds);
    assert_ne!(want[0], want[1]);
    for per_step in [1, 3, 16] {
        let mut options = options();
        options.tokens_per_step = Some(per_step);
        let mut s = session(&model, options);
        assert_eq!(s.steps() as usize, PLACES.div_ceil(per_step));
        assert_eq!(draw(&mut s, &seeds), want, "{per_step} codes a step");
    }
    let mut turns = options();
    turns.batch = 1;
    assert_eq!(draw(&mut session(&model, turns), &seeds), want);
    let threads = load(Cpu::with_threads(3).unwrap(), config());
    assert_eq!(draw(&mut session(&threads, options()), &seeds), want);
    let reference = load(Reference, config());
    assert_eq!(draw(&mut session(&reference, options()), &seeds), want);
}

#[test]
fn a_prompt_is_its_layout_and_pads_stand_for_what_is_left_out() {
    let model = load(Cpu::new(), config());
    let mut s = session(&model, options());
    let want = draw(&mut s, &[8]);
    let inner = [138, 6, 0, 1, 2, 0, 3, 4, 139, 6];
    let frame = |inner: &[u32]| [&[132], inner, &[135]].concat();
    let pair = PrefixPair {
        conditional: frame(&inner),
        unconditional: frame(&[134; 10]),
    };
    let mut id = [CandidateId::default()];
    s.start_prefixes(&pair, None, &[8], &mut id).unwrap();
    for _ in 0..s.steps() {
        s.step(&id).unwrap();
    }
    let mut codes = vec![0; PLACES];
    s.save(id[0], &mut codes).unwrap();
    assert_eq!([codes], want[..]);
}

#[test]
fn the_session_draws_what_the_full_pass_says() {
    let model = load(Cpu::new(), config());
    let mut greedy = options();
    greedy.filter.top_k = 1;
    let codes = draw(&mut session(&model, greedy), &[0]).remove(0);
    let tokens = |pad: bool| -> Vec<u32> {
        let inner = [138, 6, 0, 1, 2, 0, 3, 4, 139, 6].map(|id| if pad { 134 } else { id });
        [&[132], &inner[..], &[135]].concat()
    };
    let halves = [false, true].map(|pad| model.forward_full(&tokens(pad), &codes).unwrap().logits);
    let v = model.config().vq.codebook_size;
    for (place, &code) in codes.iter().enumerate() {
        let guided = |i| 5.0 * halves[0][place * v + i] - 4.0 * halves[1][place * v + i];
        let best = (0..v).max_by(|&a, &b| guided(a).total_cmp(&guided(b)));
        assert_eq!(best, Some(code as usize), "place {place}");
    }
}

type Dyn<'a> = dyn SearchStrategy<dyn Generator + 'a, dyn RewardModel + 'a> + 'a;

/// Searches, looks at the winner, and returns its codes, the cost and the number of verdicts.
fn search<'a>(
    model: &Arc<Janus<Cpu>>,
    strategy: &mut Dyn<'a>,
    judge: &mut (dyn RewardModel + 'a),
) -> (Vec<Code>, Cost, u64) {
    let mut generator = session(model, options());
    let mut judged = 0;
    let found = strategy.search(
        &mut generator,
        judge,
        &PROMPT,
        &mut Stream::new(5),
        &mut |event| {
            if let Event::Judged { verdict, .. } = event {
                verdict.check(0).unwrap();
                judged += 1;
            }
            Flow::Continue
        },
    );
    let found = found.unwrap();
    assert_eq!(generator.taken(found.winner).unwrap(), generator.steps());
    let mut codes = vec![0; PLACES];
    generator.save(found.winner, &mut codes).unwrap();
    let mut pixels = vec![0; generator.image_size().len_bytes()];
    let mut views = Views::pixels(&mut pixels);
    generator
        .observe(&[found.winner], Needs::PIXELS, &mut views)
        .unwrap();
    assert!(pixels.iter().any(|&p| p != pixels[0]));
    (codes, found.cost, judged)
}

#[test]
fn parm_draws_and_judges_with_one_model() {
    let model = load(Cpu::new(), config());
    let judge = || {
        let options = JudgeOptions::default().with_views(4).with_tokens(32);
        model.judge(Arc::new(words()), options).unwrap()
    };
    let (codes, cost, judged) = search(&model, &mut Parm::new(4), &mut judge());
    assert_eq!(cost.candidates, 4);
    assert!(judged > 0 && judged == cost.clarity + cost.potential + cost.outcome);
    let mut released = Parm::new(4).with_form(ParmForm::Released);
    assert_eq!(search(&model, &mut released, &mut judge()).0, codes);
    search(&model, &mut Prm::new(2), &mut judge());
    search(&model, &mut BestOfN::new(3), &mut judge());
    // Questions that random answers may never reach.
    let mut scripted = ScriptedReward::seeded(7).with_needs(Needs::PIXELS);
    let (_, cost, _) = search(&model, &mut Parm::new(4), &mut scripted);
    assert!(cost.clarity > 0 && cost.potential > 0);
}

#[test]
fn drawing_and_judging_on_two_threads_give_the_bits_of_one() {
    let model = load(Cpu::with_threads(2).unwrap(), config());
    let want = [6, 7].map(|seed| draw(&mut session(&model, options()), &[seed]));
    let got = std::thread::scope(|scope| {
        let model = &model;
        let draws =
            [6, 7].map(|seed| scope.spawn(move || draw(&mut session(model, options()), &[seed])));
        draws.map(|thread| thread.join().unwrap())
    });
    assert_eq!(got, want);
}

/// What formats and arithmetics change on random weights; `--nocapture` shows the figures.
#[test]
fn fewer_bits_move_the_logits_little() {
    let tokens = [132, 138, 6, 0, 3, 4, 139, 6, 135];
    let codes = [5, 60, 95, 0];
    let logits = |precision: Precision| {
        let model = load_as(Cpu::new(), config(), precision).unwrap();
        model.forward_full(&tokens, &codes).unwrap().logits
    };
    let full = logits(Format::F32.into());
    let mean = |sum: f32| sum / full.len() as f32;
    let spread = mean(full.iter().map(|v| v * v).sum()).sqrt();
    let off = |precision: Precision| {
        let got = logits(precision);
        let off = full.iter().zip(&got).map(|(a, b)| (a - b).powi(2));
        let share = mean(off.sum()).sqrt() / spread;
        let (format, activations) = (precision.format.name(), precision.activations.name());
        println!("{format}, {activations}: {share:.5} of the logits' root mean square");
        share
    };
    let mut before = 0.0;
    for (format, most) in [
        (Format::Bf16, 0.02),
        (Format::Q8_0, 0.05),
        (Format::Q4_0, 0.6),
    ] {
        let share = off(format.into());
        assert!(share > before && share < most, "{}: {share}", format.name());
        before = share;
    }
    for (format, most) in [(Format::Q8_0, 0.05), (Format::Q4_0, 0.6)] {
        let share = off(Precision::from(format).with_activations(Activations::A8));
        assert!(share > 0.0 && share < most, "{}: {share}", format.name());
    }
}

/// What 8-bit keys and values change on random weights; `--nocapture` shows the figures.
#[test]
fn eight_bit_keys_and_values_move_the_logits_little() {
    let model = load(Cpu::new(), config());
    let draws: Vec<Given<'_>> = (0..PLACES as u32)
        .map(|i| Given::Code(7 * i % 64))
        .collect();
    let given = |kv| {
        let mut options = options();
        (options.kv, options.tokens_per_step) = (kv, Some(PLACES));
        let mut s = session(&model, options);
        let mut id = [CandidateId::default()];
        s.start(&PROMPT, &[8], &mut id).unwrap();
        s.step_given(id[0], &draws).unwrap()
    };
    let (full, rounded) = (given(KvFormat::F32), given(KvFormat::Q8));
    let (mut square, mut off, mut same) = (0.0_f32, 0.0_f32, 0);
    let best = |p: &[f32]| (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b]));
    for (full, rounded) in full.iter().zip(&rounded) {
        for (a, b) in full.conditional.iter().zip(&rounded.conditional) {
            square += a * a;
            off += (a - b) * (a - b);
        }
        same += usize::from(best(&full.guided) == best(&rounded.guided));
    }
    let share = (off / square).sqrt();
    println!(
        "K/V in Q8: {share:.5} of the logits' root mean square, {same} of {PLACES} likeliest codes the same"
    );
    assert!(share > 0.0 && share < 0.05, "{share}");
    assert!(same >= PLACES - 3, "{same}");
}

#[test]
fn bad_prompts_and_vocabularies_are_errors() {
    let model = load(Cpu::new(), config());
    let mut s = session(&model, options());
    let mut out = [CandidateId::default()];
    let mut fails = |text: &str| s.start(&Prompt::new(text), &[0], &mut out).unwrap_err();
    assert!(matches!(
        fails("  a unicorn"),
        Error::UnknownWord { at: 4, .. }
    ));
    assert!(matches!(
        fails("a <begin_of_image>"),
        Error::SpecialToken { at: 2, .. }
    ));
    let limit = config().max_prompt_len;
    assert!(matches!(
        fails(&"a ".repeat(limit)),
        Error::PromptTooLong { max, .. } if max == limit
    ));
    assert!(s.start(&Prompt::new(""), &[0], &mut out).is_ok());
    let foreign = PrefixPair {
        conditional: vec![132, 140],
        unconditional: vec![132, 135],
    };
    assert!(matches!(
        s.start_prefixes(&foreign, None, &[0], &mut out),
        Err(Error::Config { .. })
    ));
    let short = model.draw(Words::new("a\nb").unwrap(), options());
    assert!(matches!(short.map(|_| ()), Err(Error::Config { .. })));
    let mut long: Vec<String> = (0..200).map(|i| format!("w{i}")).collect();
    for (id, special) in [
        (132, "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>"),
        (134, "<\u{ff5c}\u{2581}pad\u{2581}\u{ff5c}>"),
        (135, "<begin_of_image>"),
        (138, "<|User|>"),
        (139, "<|Assistant|>"),
        (0, ":"),
    ] {
        long[id] = special.to_owned();
    }
    let long = Words::new(&long.join("\n")).unwrap();
    let mut s = model.draw(long, options()).unwrap();
    assert!(matches!(
        s.start(&Prompt::new("w150"), &[0], &mut out),
        Err(Error::Config {
            key: "vocab_size",
            ..
        })
    ));
}

#[test]
fn a_plan_follows_its_seed_and_changes_the_picture() {
    let mut config = config();
    config.max_plan_len = 6;
    let write = |config: &JanusConfig, seed| {
        let model = load(Cpu::new(), config.clone());
        let mut text = String::new();
        session(&model, options())
            .plan(&PROMPT, seed, &mut text)
            .unwrap();
        text
    };
    let greedy = write(&config, 1);
    assert_eq!(greedy, write(&config, 2));
    assert!((1..=6).contains(&greedy.split(' ').count()), "{greedy}");
    config.plan_filter.top_k = 0;
    let sampled = [1, 2].map(|seed| write(&config, seed));
    assert_ne!(sampled[0], sampled[1]);
    assert_eq!(sampled[0], write(&config, 1));
    // A longest plan of fewer tokens is the beginning of the same plan.
    config.max_plan_len = 2;
    assert!(sampled[0].starts_with(&write(&config, 1)));

    config.layouts.plan.clear();
    let model = load(Cpu::new(), config);
    let mut s = session(&model, options());
    let none = s.plan(&PROMPT, 1, &mut String::new());
    assert!(matches!(none, Err(Error::Unsupported { .. })));
    let plain = draw(&mut s, &[1]);
    let mut id = [CandidateId::default()];
    s.start(&PROMPT.with_plan("step potential"), &[1], &mut id)
        .unwrap();
    for _ in 0..s.steps() {
        s.step(&id).unwrap();
    }
    let mut codes = vec![0; PLACES];
    s.save(id[0], &mut codes).unwrap();
    assert_ne!(codes, plain[0]);
    let correction = PROMPT.correcting(&codes, "no car");
    assert!(matches!(
        s.start(&correction, &[1], &mut id),
        Err(Error::Unsupported { .. })
    ));
}
