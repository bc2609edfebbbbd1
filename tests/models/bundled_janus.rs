//! The bundled Janus: one set of trained weights draws, plans, judges itself and searches.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bundled::janus::{load, words};
use maquette::codes::Code;
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Views};
use maquette::model::janus::{Janus, JanusSession};
use maquette::model::llava::{JudgeOptions, LlavaSession};
use maquette::model::words::Words;
use maquette::prompt::Tokenize;
use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
use maquette::rng::Stream;
use maquette::search::{Parm, SearchStrategy};
use maquette::{CandidateId, Flow, Generator, ImageBatch, Prompt};

/// What the whole folder may weigh.
const MOST_BYTES: u64 = 4_000_000;
const PROMPTS: [&str; 3] = [
    "a photo of a red car",
    "a photo of two cups",
    "a photo of a boat left of a kite",
];

fn draws(model: &Arc<Janus<Cpu>>, batch: usize) -> JanusSession<Cpu, Words> {
    let mut options = model.config().options();
    options.guidance_scale = 2.0;
    (options.candidates, options.batch, options.pictures) = (12, batch, batch);
    model.draw(words(), options).unwrap()
}

fn judges(model: &Janus<Cpu>) -> LlavaSession<Cpu> {
    let options = JudgeOptions::default().with_views(8).with_tokens(32);
    model.judge(Arc::new(words()), options).unwrap()
}

/// Two finished candidates of each prompt, stepped together.
fn finished(session: &mut JanusSession<Cpu, Words>) -> Vec<CandidateId> {
    let mut ids = vec![CandidateId(0); 2 * PROMPTS.len()];
    for (i, (prompt, ids)) in PROMPTS.iter().zip(ids.chunks_mut(2)).enumerate() {
        let seeds = [5, 6].map(|seed| seed + 10 * i as u64);
        session.start(&Prompt::new(prompt), &seeds, ids).unwrap();
    }
    for _ in 0..session.steps() {
        session.step(&ids).unwrap();
    }
    ids
}

fn codes(session: &mut JanusSession<Cpu, Words>, ids: &[CandidateId]) -> Vec<Code> {
    let mut codes = vec![0; ids.len() * session.grid().len()];
    session
        .observe(ids, Needs::CODES, &mut Views::codes(&mut codes))
        .unwrap();
    codes
}

#[test]
fn the_folder_is_as_small_as_promised() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights/janus");
    let bytes: u64 = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= MOST_BYTES, "{bytes}");
}

#[test]
fn a_seed_draws_the_same_codes_in_every_batch() {
    let model = load(Cpu::new());
    let [mut one, mut all] = [1, 6].map(|batch| draws(&model, batch));
    let [a, b] = [&mut one, &mut all].map(|session| {
        let ids = finished(session);
        codes(session, &ids)
    });
    assert_eq!(a, b);
    let cells = one.grid().len();
    assert_ne!(
        a[..cells],
        a[cells..2 * cells],
        "other seeds draw otherwise"
    );
}

#[test]
fn a_plan_names_what_is_asked_for_and_can_be_drawn_from() {
    let model = load(Cpu::new());
    let mut session = draws(&model, 6);
    for (prompt, names) in PROMPTS.iter().zip([
        &["red", "car"][..],
        &["two", "cups"],
        &["boat", "left", "kite"],
    ]) {
        let mut plan = String::new();
        session.plan(&Prompt::new(prompt), 1, &mut plan).unwrap();
        for name in names {
            assert!(
                plan.split(' ').any(|word| word == *name),
                "{prompt}: {plan}"
            );
        }
        words().encode(&plan, &mut |_| {}).unwrap();
        let planned = Prompt::new(prompt).with_plan(&plan);
        session
            .start(&planned, &[3], &mut [CandidateId(0)])
            .unwrap();
    }
}

#[test]
fn it_prefers_what_it_drew_for_a_prompt_to_what_it_drew_for_others() {
    let model = load(Cpu::new());
    let (mut session, mut judge) = (draws(&model, 6), judges(&model));
    let ids = finished(&mut session);
    let size = session.image_size();
    let mut pixels = vec![0; ids.len() * size.len_bytes()];
    session
        .observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))
        .unwrap();
    let keys: Vec<ViewKey> = ids
        .iter()
        .map(|&candidate| ViewKey { candidate, step: 8 })
        .collect();
    let batch = ImageBatch::new(ids.len(), size, &pixels).unwrap();
    // Sums over own and over foreign pictures, of which there are twice as many.
    let (mut own, mut foreign) = (0.0, 0.0);
    for (i, prompt) in PROMPTS.iter().enumerate() {
        let prompt = Prompt::new(prompt);
        let mut out = vec![Verdict::malformed(); ids.len()];
        let ask = Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(batch);
        judge.judge(&ask, &mut out).unwrap();
        for (k, verdict) in out.iter().enumerate() {
            *(if k / 2 == i { &mut own } else { &mut foreign }) += verdict.p_yes;
        }
    }
    assert!(own > foreign / 2.0, "{own} {foreign}");
}

#[test]
fn parm_searches_with_one_set_of_weights() {
    let model = load(Cpu::new());
    let (mut session, mut judge) = (draws(&model, 6), judges(&model));
    let found = Parm::new(4)
        .search(
            &mut session,
            &mut judge,
            &Prompt::new(PROMPTS[0]),
            &mut Stream::new(9),
            &mut |_| Flow::Continue,
        )
        .unwrap();
    assert_eq!(session.taken(found.winner).unwrap(), session.steps());
    assert!(found.cost.clarity >= 4 && found.cost.potential <= 4);
    let codes = codes(&mut session, &[found.winner]);
    assert!(codes.iter().all(|&code| code < session.grid().codebook));
}
