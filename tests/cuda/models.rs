//! Models: the codes of the CPU, whatever else is drawn beside them.

use maquette::cpu::Cpu;
use maquette::generator::{Needs, Spent, Views};
use maquette::model::llava::JudgeOptions;
use maquette::model::show_o::ShowOOptions;
use maquette::model::weights::Precision;
use maquette::ops::Backend;
use maquette::ops::attention::KvFormat;
use maquette::ops::gemm::Activations;
use maquette::quant::Format;
use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
use maquette::{CandidateId, Code, Generator, ImageBatch, ImageSize, Prompt};

use super::bundled::{self, drawing::Drawing, judging::Judging};
use super::{gpu, tiny_janus};

/// Codes of some candidates.
fn codes_of(session: &mut dyn Generator, ids: &[CandidateId]) -> Vec<Code> {
    let mut codes = vec![0; ids.len() * session.grid().len()];
    let mut views = Views::codes(&mut codes);
    session.observe(ids, Needs::CODES, &mut views).unwrap();
    codes
}

/// What some seeds of the bundled Show-o draw, and what was counted.
fn drawn<B: Backend>(
    backend: B,
    format: Format,
    kv: KvFormat,
    seeds: &[u64],
) -> (Vec<Code>, Option<Spent>) {
    let drawing = Drawing::load(backend, format);
    let mut options = ShowOOptions::default();
    (options.steps, options.kv) = (2, kv);
    (options.candidates, options.batch) = (seeds.len(), seeds.len());
    let mut session = drawing.session(options);
    let mut ids = vec![CandidateId::default(); seeds.len()];
    let prompt = Prompt::new("a photo of a red car");
    session.start(&prompt, seeds, &mut ids).unwrap();
    session.step(&ids).unwrap();
    session.step(&ids).unwrap();
    (codes_of(&mut session, &ids), session.multiply_adds())
}

#[test]
fn a_picture_has_the_codes_of_the_cpu_and_counts_as_much() {
    for (format, seeds) in [(Format::F32, &[3, 4][..]), (Format::Q8_0, &[3])] {
        let kv = KvFormat::F32;
        let want = drawn(Cpu::new(), format, kv, seeds);
        assert_eq!(drawn(gpu::device(), format, kv, seeds), want, "{format:?}");
    }
}

/// What the judge makes of a slanted picture: P(yes), and what was counted.
fn judged<B: Backend>(backend: B, kv: KvFormat) -> (f32, Option<u64>) {
    let options = JudgeOptions::default().with_views(1).with_tokens(32);
    let mut judge = Judging::load(backend, Format::F32).session(options.with_kv(kv));
    let pixels: Vec<u8> = (0..64 * 64_u32)
        .flat_map(|i| [i % 64 * 3, i / 64 * 2, 90].map(|v| v.to_le_bytes()[0]))
        .collect();
    let keys = [ViewKey {
        candidate: CandidateId(1),
        step: 1,
    }];
    let size = ImageSize::new(64, 64);
    let (prompt, mut out) = (Prompt::new("a photo of a red car"), [Verdict::malformed()]);
    let ask = Ask::new(Judgement::Outcome, &prompt, &keys)
        .with_pixels(ImageBatch::new(1, size, &pixels).unwrap());
    judge.judge(&ask, &mut out).unwrap();
    (out[0].p_yes, judge.multiply_adds())
}

#[test]
fn a_judgement_waits_for_the_device_as_often_whatever_its_views() {
    let options = JudgeOptions::default().with_views(2).with_tokens(32);
    let mut judge = Judging::load(gpu::device(), Format::F32).session(options);
    let (prompt, size) = (Prompt::new("a photo of a red car"), ImageSize::new(64, 64));
    let pixels = [vec![90; size.len_bytes()], vec![120; size.len_bytes()]].concat();
    let keys = [1, 2].map(|id| ViewKey {
        candidate: CandidateId(id),
        step: 1,
    });
    let mut waited = |question, n: usize| {
        let shown = ImageBatch::new(n, size, &pixels[..n * size.len_bytes()]).unwrap();
        let ask = Ask::new(question, &prompt, &keys[..n]).with_pixels(shown);
        let before = gpu::waits();
        judge
            .judge(&ask, &mut [Verdict::malformed(); 2][..n])
            .unwrap();
        gpu::waits().zip(before).map(|(now, before)| now - before)
    };
    // The pictures are looked at by the first question.
    waited(Judgement::Outcome, 2);
    let [both, one] = [2, 1].map(|n| waited(Judgement::Clarity, n));
    assert_eq!(both, one);
}

#[test]
fn keys_and_values_in_halves_move_little() {
    let (floats, counted) = judged(Cpu::new(), KvFormat::F32);
    let (halves, _) = judged(Cpu::new(), KvFormat::Bf16);
    let (on_gpu, as_much) = judged(gpu::device(), KvFormat::Bf16);
    assert!(as_much.is_some_and(|n| n > 1_000_000) && as_much == counted);
    // Rounding moves a weight by 1/256 at most: logits by some hundredths, a probability by a quarter of that.
    for (a, b) in [(floats, halves), (halves, on_gpu)] {
        assert!((a - b).abs() < 0.01, "{floats} {halves} {on_gpu}");
    }
    // A draw between two codes that are about as likely may turn.
    let (want, counted) = drawn(Cpu::new(), Format::F32, KvFormat::Bf16, &[3]);
    let (got, as_much) = drawn(gpu::device(), Format::F32, KvFormat::Bf16, &[3]);
    assert_eq!(as_much, counted);
    let other = want.iter().zip(&got).filter(|(a, b)| a != b).count();
    assert!(8 * other <= want.len(), "{other} of {} codes", want.len());
}

/// What some of the tiny Janus' candidates draw, who start beside others that leave after the first step, and what was
/// counted.
fn in_company<B: Backend>(
    backend: B,
    precision: Precision,
    seeds: &[u64],
    stay: &[usize],
) -> (Vec<Code>, Option<Spent>) {
    let model = tiny_janus::load_as(backend, tiny_janus::config(), precision).unwrap();
    let mut options = model.config().options();
    (options.candidates, options.batch) = (seeds.len(), seeds.len());
    let mut session = model.draw(tiny_janus::words(), options).unwrap();
    let mut ids = vec![CandidateId::default(); seeds.len()];
    let prompt = Prompt::new("a red car");
    session.start(&prompt, seeds, &mut ids).unwrap();
    session.step(&ids).unwrap();
    let stay: Vec<CandidateId> = stay.iter().map(|&at| ids[at]).collect();
    let leave: Vec<CandidateId> = ids.into_iter().filter(|id| !stay.contains(id)).collect();
    session.prune(&leave).unwrap();
    for _ in 1..session.steps() {
        session.step(&stay).unwrap();
    }
    (codes_of(&mut session, &stay), session.multiply_adds())
}

#[test]
fn a_candidate_draws_the_same_alone_in_company_and_after_others_left() {
    let rounded = Precision::from(Format::Q8_0).with_activations(Activations::A8);
    let seeds: Vec<u64> = (0..20).collect();
    for precision in [Format::F32.into(), rounded] {
        let both = in_company(gpu::device(), precision, &seeds, &[3, 11]);
        let [third, eleventh] =
            [3, 11].map(|seed| in_company(gpu::device(), precision, &[seed], &[0]).0);
        assert_eq!(both.0, [third, eleventh].concat(), "{precision:?}");
        let want = in_company(Cpu::new(), precision, &seeds, &[3, 11]);
        assert_eq!(both, want, "{precision:?}");
    }
}

#[test]
fn a_step_waits_for_the_device_once() {
    let prompt = Prompt::new("a photo of a red car");
    let model = bundled::janus::load(gpu::device());
    let mut options = model.config().options();
    (options.guidance_scale, options.candidates, options.batch) = (2.0, 2, 2);
    options.filter.top_k = 40;
    let mut janus = model.draw(bundled::janus::words(), options).unwrap();
    let mut options = ShowOOptions::default();
    (options.steps, options.candidates, options.batch) = (3, 2, 2);
    let mut show_o = Drawing::load(gpu::device(), Format::F32).session(options);
    let sessions: [&mut dyn Generator; 2] = [&mut janus, &mut show_o];
    for session in sessions {
        let mut ids = [CandidateId::default(); 2];
        session.start(&prompt, &[3, 4], &mut ids).unwrap();
        for _ in 0..2 {
            let before = gpu::waits();
            session.step(&ids).unwrap();
            let waited = gpu::waits().zip(before).map(|(now, before)| now - before);
            assert_eq!(waited.unwrap_or(1), 1);
        }
    }
}

#[test]
fn passes_are_recorded_once_and_repeated() {
    let model = tiny_janus::load(gpu::device(), tiny_janus::config());
    let mut options = model.config().options();
    (options.candidates, options.batch) = (3, 3);
    let mut session = model.draw(tiny_janus::words(), options).unwrap();
    let cols = u64::from(session.grid().cols);
    let mut ids = [CandidateId::default(); 3];
    let prompt = Prompt::new("a red car");
    session.start(&prompt, &[3, 4, 5], &mut ids).unwrap();
    let mut repeated = |ids: &[CandidateId]| {
        let before = gpu::repeated();
        session.step(ids).unwrap();
        gpu::repeated()
            .zip(before)
            .map(|(now, before)| now - before)
    };
    // The first code is the prefix's; one pass runs as it is, the next is recorded and launched.
    let expected = [(3, cols - 2), (3, cols), (2, cols - 1), (3, cols)];
    for (alive, times) in expected {
        assert_eq!(repeated(&ids[..alive]).unwrap_or(times), times);
    }
}

#[test]
fn a_fork_with_the_parents_seed_has_its_future() {
    // A grid whose rows take two pages, of which the first is everybody's; the second is the parent's and each child's own.
    let mut config = tiny_janus::config();
    (config.side, config.vq.image_size) = (7, 7 * config.vq.scale());
    for kv in [KvFormat::F32, KvFormat::Bf16, KvFormat::Q8] {
        let model = tiny_janus::load(gpu::device(), config.clone());
        let mut options = model.config().options();
        (options.candidates, options.batch, options.kv) = (3, 3, kv);
        (options.tokens_per_step, options.pages) = (Some(34), Some(2 + 3 * 2));
        let mut session = model.draw(tiny_janus::words(), options).unwrap();
        let prompt = Prompt::new("a red car");
        let mut ids = [CandidateId::default(); 3];
        session.start(&prompt, &[3], &mut ids[..1]).unwrap();
        session.step(&ids[..1]).unwrap();
        let parent = ids[0];
        session.fork(parent, &[3, 9], &mut ids[1..]).unwrap();
        // The parent goes first, and alone: its children's rows are their own.
        session.step(&ids[..1]).unwrap();
        for _ in 2..session.steps() {
            session.step(&ids).unwrap();
        }
        session.step(&ids[1..]).unwrap();
        let codes = codes_of(&mut session, &ids);
        let n = codes.len() / 3;
        assert_eq!(codes[..n], codes[n..2 * n], "{kv:?}");
        assert_ne!(codes[..n], codes[2 * n..], "{kv:?}");
    }
}
