//! Laws of the masked generator on the bundled weights: a picture is a function of prompt and seed alone.

use std::sync::Arc;

use crate::bundled::drawing::Drawing;
use crate::bundled::files::bytes;
use maquette::codes::UNKNOWN;
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Partial, Spent, Views};
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::show_o::{LongPrompt, ShowO, ShowOOptions, ShowOSession, TemperaturePolicy};
use maquette::model::weights::WeightSource;
use maquette::model::words::Words;
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;
use maquette::{CandidateId, Code, Error, Generator, Prompt};

const PLACES: usize = 64;
const PROMPT: Prompt<'static> = Prompt::new("a photo of a red car");

fn options(steps: u32) -> ShowOOptions {
    let mut options = ShowOOptions::default();
    (options.steps, options.candidates, options.batch) = (steps, 8, 3);
    options
}

fn start<B: Backend>(
    s: &mut ShowOSession<B, Words>,
    prompt: &Prompt<'_>,
    seeds: &[u64],
) -> Vec<CandidateId> {
    let mut ids = vec![CandidateId::default(); seeds.len()];
    s.start(prompt, seeds, &mut ids).unwrap();
    ids
}

fn codes<B: Backend>(s: &mut ShowOSession<B, Words>, id: CandidateId) -> Vec<Code> {
    let mut codes = vec![0; PLACES];
    s.observe(&[id], Needs::CODES, &mut Views::codes(&mut codes))
        .unwrap();
    codes
}

fn finish<B: Backend>(s: &mut ShowOSession<B, Words>, id: CandidateId) -> Vec<Code> {
    while s.taken(id).unwrap() < s.steps() {
        s.step(&[id]).unwrap();
    }
    codes(s, id)
}

fn alone<B: Backend>(s: &mut ShowOSession<B, Words>, prompt: &Prompt<'_>, seed: u64) -> Vec<Code> {
    let id = start(s, prompt, &[seed])[0];
    let codes = finish(s, id);
    s.prune(&[id]).unwrap();
    codes
}

#[test]
fn company_pruning_and_turns_change_nothing() {
    let drawing = Drawing::load(Cpu::new(), Format::F32);
    let mut s = drawing.session(options(8));
    let other = Prompt::new("a photo of two dogs");
    let other = if s.start(&other, &[], &mut []).is_ok() {
        other
    } else {
        Prompt::new("a photo of a blue book")
    };
    let want: Vec<_> = (0..4).map(|seed| alone(&mut s, &PROMPT, seed)).collect();
    let want_other = alone(&mut s, &other, 9);
    let ids = start(&mut s, &PROMPT, &[0, 1, 2, 3]);
    let guest = start(&mut s, &other, &[9])[0];
    // Different steps and prompts in one batch, one candidate parked, one pruned on the way.
    s.step(&ids).unwrap();
    s.step(&[ids[3], guest, ids[0]]).unwrap();
    s.prune(&[ids[1]]).unwrap();
    while s.taken(ids[0]).unwrap() < s.steps() {
        let mut live = vec![ids[0], ids[3]];
        if s.taken(guest).unwrap() < s.steps() {
            live.insert(1, guest);
        }
        s.step(&live).unwrap();
    }
    assert_eq!(codes(&mut s, ids[0]), want[0]);
    assert_eq!(codes(&mut s, ids[3]), want[3]);
    assert_eq!(finish(&mut s, guest), want_other);
    assert_eq!(finish(&mut s, ids[2]), want[2]);
    assert_ne!(want[0], want[1]);
}

#[test]
fn threads_devices_and_sessions_give_the_same_codes() {
    let want = alone(
        &mut Drawing::load(Cpu::with_threads(1).unwrap(), Format::F32).session(options(6)),
        &PROMPT,
        5,
    );
    for threads in [2, 3] {
        let drawing = Drawing::load(Cpu::with_threads(threads).unwrap(), Format::F32);
        assert_eq!(
            alone(&mut drawing.session(options(6)), &PROMPT, 5),
            want,
            "{threads} threads"
        );
    }
    let shared = Drawing::load(Cpu::with_threads(2).unwrap(), Format::F32);
    let draw = |seed| alone(&mut shared.session(options(6)), &PROMPT, seed);
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(|| draw(5)), scope.spawn(|| draw(6)));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert_eq!((a, b), (want, draw(6)));
}

#[test]
fn the_reference_device_gives_the_same_codes() {
    let want = alone(
        &mut Drawing::load(Cpu::new(), Format::F32).session(options(3)),
        &PROMPT,
        5,
    );
    assert_eq!(
        alone(
            &mut Drawing::load(Reference, Format::F32).session(options(3)),
            &PROMPT,
            5
        ),
        want
    );
}

#[test]
fn a_fork_with_its_own_seed_has_the_same_future() {
    let mut s = Drawing::load(Cpu::new(), Format::F32).session(options(8));
    let want = alone(&mut s, &PROMPT, 1);
    let parent = start(&mut s, &PROMPT, &[1])[0];
    for _ in 0..3 {
        s.step(&[parent]).unwrap();
    }
    let mut forks = [CandidateId::default(); 2];
    s.fork(parent, &[1, 2], &mut forks).unwrap();
    assert_eq!(finish(&mut s, forks[0]), want);
    assert_ne!(finish(&mut s, forks[1]), want);
    assert_eq!(finish(&mut s, parent), want);
}

#[test]
fn a_resumed_candidate_was_never_interrupted() {
    let drawing = Drawing::load(Cpu::new(), Format::F32);
    let mut s = drawing.session(options(8));
    let want = alone(&mut s, &PROMPT, 3);
    for interrupted in [0, 1, 5, 8] {
        let id = start(&mut s, &PROMPT, &[3])[0];
        for _ in 0..interrupted {
            s.step(&[id]).unwrap();
        }
        let mut state = vec![0; PLACES];
        let partial = s.save(id, &mut state).unwrap();
        assert_eq!(partial.codes.contains(&UNKNOWN), interrupted < 8);
        let mut later = drawing.session(options(8));
        let mut resumed = [CandidateId::default()];
        later.resume(&PROMPT, &partial, &[3], &mut resumed).unwrap();
        // It is seen as far as it is known.
        let (mut seen, mut pixels) = ([0; PLACES], vec![0; later.image_size().len_bytes()]);
        let mut views = Views::codes(&mut seen);
        views.pixels = Some(&mut pixels);
        let shown = later.observe(&resumed, Needs::CODES.or(Needs::PIXELS), &mut views);
        if interrupted == 0 {
            assert!(matches!(shown, Err(Error::Unsupported { .. })));
        } else {
            shown.unwrap();
            assert_eq!(seen, partial.codes);
            assert!(pixels.iter().any(|byte| *byte != pixels[0]));
        }
        assert_eq!(
            finish(&mut later, resumed[0]),
            want,
            "after {interrupted} steps"
        );
        s.prune(&[id]).unwrap();
    }
    let wrong = Partial::new(9, &[0; PLACES]);
    assert!(matches!(
        s.resume(&PROMPT, &wrong, &[3], &mut [CandidateId::default()]),
        Err(Error::Range { .. })
    ));
    let wrong = Partial::new(2, &[5000; PLACES]);
    assert!(matches!(
        s.resume(&PROMPT, &wrong, &[3], &mut [CandidateId::default()]),
        Err(Error::Range { .. })
    ));
}

#[test]
fn the_upstream_policy_anneals_only_the_first_candidate_of_a_new_prompt() {
    let drawing = Drawing::load(Cpu::new(), Format::F32);
    let mut upstream = options(8);
    upstream.temperature_policy = TemperaturePolicy::Upstream;
    let mut cold = options(8);
    cold.temperature = 0.0;
    let (annealed, cold) = (
        alone(&mut drawing.session(options(8)), &PROMPT, 4),
        alone(&mut drawing.session(cold), &PROMPT, 4),
    );
    assert_ne!(annealed, cold);
    let mut s = drawing.session(upstream);
    let ids = start(&mut s, &PROMPT, &[4, 4]);
    assert_eq!(finish(&mut s, ids[0]), annealed);
    assert_eq!(finish(&mut s, ids[1]), cold);
    assert_eq!(alone(&mut s, &PROMPT, 4), cold);
}

#[test]
fn eight_bit_weights_draw_nearly_the_same() {
    let options = options(1);
    let full = alone(
        &mut Drawing::load(Cpu::new(), Format::F32).session(options),
        &PROMPT,
        2,
    );
    let eight = alone(
        &mut Drawing::load(Cpu::new(), Format::Q8_0).session(options),
        &PROMPT,
        2,
    );
    let same = full.iter().zip(&eight).filter(|(a, b)| a == b).count();
    assert!(same >= PLACES * 3 / 4, "{same} of {PLACES} codes agree");
}

#[test]
fn bad_prompts_and_wrong_calls_are_errors() {
    let drawing = Drawing::load(Cpu::new(), Format::F32);
    let mut s = drawing.session(options(2));
    let mut out = [CandidateId::default()];
    let mut fails = |text: &str| s.start(&Prompt::new(text), &[0], &mut out).unwrap_err();
    assert!(matches!(
        fails("a photo of a unicorn"),
        Error::UnknownWord { at: 13, .. }
    ));
    assert!(matches!(
        fails("a photo <|soi|> of a car"),
        Error::SpecialToken { at: 8, .. }
    ));
    assert!(matches!(
        fails(&"a ".repeat(11)),
        Error::PromptTooLong { got: 11, max: 10 }
    ));
    let mut cut = options(2);
    cut.long_prompts = LongPrompt::Truncate;
    assert_eq!(
        alone(&mut drawing.session(cut), &Prompt::new(&"a ".repeat(11)), 0).len(),
        PLACES
    );
    assert_eq!(alone(&mut s, &Prompt::new(""), 0).len(), PLACES);
    let id = start(&mut s, &PROMPT, &[0])[0];
    assert!(matches!(
        s.step(&[id, id]),
        Err(Error::RepeatedCandidate { .. })
    ));
    assert!(matches!(
        s.step(&[CandidateId(99)]),
        Err(Error::UnknownCandidate { id: 99, .. })
    ));
    let mut pixels = [0; 64 * 64 * 3];
    assert!(
        s.observe(&[id], Needs::PIXELS, &mut Views::pixels(&mut pixels))
            .is_err()
    );
    s.step(&[id]).unwrap();
    assert!(matches!(
        s.observe(&[id], Needs::PIXELS, &mut Views::pixels(&mut pixels[1..])),
        Err(Error::Length { arg: "pixels", .. })
    ));
    finish(&mut s, id);
    assert!(matches!(s.step(&[id]), Err(Error::Finished { .. })));
    s.prune(&[id]).unwrap();
    assert!(matches!(
        s.prune(&[id]),
        Err(Error::UnknownCandidate { .. })
    ));
    let seeds = [0; 9];
    assert!(matches!(
        s.start(&PROMPT, &seeds, &mut [CandidateId::default(); 9]),
        Err(Error::Full { limit: 8, .. })
    ));
}

#[test]
fn settings_out_of_range_are_named() {
    let drawing = Drawing::load(Cpu::new(), Format::F32);
    let told = |model: &Arc<ShowO<Cpu>>, options| {
        let words = Words::new("a\ncar").unwrap();
        let session = ShowOSession::new(Arc::clone(model), None, words, options);
        session.unwrap_err().to_string()
    };
    for (v, what) in [
        (-0.5, "config: \"temperature\" is below zero"),
        (
            f32::NAN,
            "session: \"temperature\" has a NaN or an infinity in row 0",
        ),
    ] {
        assert_eq!(told(&drawing.model, options(2).with_temperature(v)), what);
    }
    assert_eq!(
        told(
            &drawing.model,
            options(2).with_guidance_scale(f32::INFINITY)
        ),
        "session: \"guidance_scale\" has a NaN or an infinity in row 0"
    );
    // A longer text than any of the cache's words can count, prompt for prompt.
    let weights = bytes("show-o/pytorch_model.safetensors");
    let source = SafetensorsSource::new(&weights).unwrap();
    let mut config = drawing.model.config().clone();
    config.max_text_len = 1 << 16;
    let model = ShowO::load(Arc::new(Cpu::new()), config, &source, Format::F32).unwrap();
    assert_eq!(
        told(&Arc::new(model), options(2).with_prompts(1 << 16)),
        "session: the product of its sizes overflows"
    );
}

/// Multiply-adds of a stack's blocks: products of `rows` rows, and attention over `pairs` of a row and one it sees.
const fn blocks(rows: u64, pairs: u64) -> u64 {
    let (layers, d, mlp) = (6, 128, 512);
    layers * (rows * (4 * d * d + 2 * d * mlp) + 2 * d * pairs)
}

/// A forward of one candidate behind nine rows of its text and three of the empty one: 64 places and their frame, twice,
/// and a head of 1024 codes at the places that are open.
const fn forward(open: u64) -> u64 {
    blocks(2 * 66, 66 * (9 + 66) + 66 * (3 + 66)) + 2 * open * 128 * 1024
}

/// Multiply-adds of decoding one picture, by the shapes of the weights and the size at which each of them works.
fn decoding() -> u64 {
    let weights = bytes("magvitv2/pytorch_model.safetensors");
    let source = SafetensorsSource::new(&weights).unwrap();
    // In the middle every one of 8 × 8 places, 64 wide, meets every other one.
    let mut sum = 2 * 64 * 64 * 64;
    source.names(&mut |name| {
        let tensor = source.tensor(name).unwrap();
        if tensor.shape.len() < 2 || !name.contains("decoder.") && !name.contains("post_quant") {
            return;
        }
        let part = |prefix: &str| name.split_once(prefix).map(|(_, rest)| rest);
        let side = match (part("decoder.up."), part("decoder.conv_out")) {
            // Levels count from the finest, 64 pixels, to the coarsest; what ends one works at the next one's size.
            (Some(level), _) => {
                let size = 64 >> level[..1].parse::<u64>().unwrap();
                size << u64::from(level.contains("upsample"))
            }
            (_, Some(_)) => 64,
            _ => 8,
        };
        let elements: usize = tensor.shape.iter().product();
        sum += elements as u64 * side * side;
    });
    sum
}

#[test]
fn multiply_adds_are_counted_where_they_are_made() {
    let drawing = Drawing::load(Cpu::with_threads(2).unwrap(), Format::F32);
    let mut s = drawing.session(options(6));
    let mut told = Spent::default();
    let mut since = |s: &ShowOSession<Cpu, Words>| {
        let now = s.multiply_adds().unwrap();
        let since = (now.drawing - told.drawing, now.decoding - told.decoding);
        told = now;
        since
    };
    // The empty prompt's three rows, each of which sees those before it.
    assert_eq!(since(&s), (blocks(3, 6), 0));
    // Text rows once for all candidates: task token, six words and what frames them.
    let ids = start(&mut s, &PROMPT, &[1, 2, 3, 4]);
    assert_eq!(since(&s), (blocks(9, 45), 0));
    // So is the first step, whose logits they share.
    s.step(&ids[..2]).unwrap();
    assert_eq!(since(&s), (forward(64), 0));
    s.step(&ids[2..]).unwrap();
    assert_eq!(since(&s), (0, 0));
    // Whoever is stepped pays for the places that are open, alone or in company.
    let open = |s: &ShowOSession<Cpu, Words>, id| {
        let mut codes = vec![0; PLACES];
        s.save(id, &mut codes).unwrap();
        codes.iter().filter(|&&code| code == UNKNOWN).count() as u64
    };
    let due: Vec<u64> = ids.iter().map(|&id| forward(open(&s, id))).collect();
    assert!(due.iter().all(|&one| forward(0) < one && one < forward(64)));
    s.step(&ids[..1]).unwrap();
    assert_eq!(since(&s), (due[0], 0));
    s.step(&ids[1..]).unwrap();
    assert_eq!(since(&s), (due[1] + due[2] + due[3], 0));
    // Decoding, and codes for nothing.
    let mut pixels = vec![0; 4 * s.image_size().len_bytes()];
    s.observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))
        .unwrap();
    assert_eq!(since(&s), (0, 4 * decoding()));
    codes(&mut s, ids[0]);
    s.prune(&ids).unwrap();
    assert_eq!(since(&s), (0, 0));
    // A prompt that is remembered, and its first step.
    let again = start(&mut s, &PROMPT, &[5]);
    s.step(&again).unwrap();
    assert_eq!(since(&s), (0, 0));
}
