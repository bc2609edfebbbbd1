//! The bundled judge: shared rows change no bit, whatever is asked in which order.

use crate::bundled::judging::{Judging, words};

use maquette::cpu::Cpu;
use maquette::model::llava::{JudgeOptions, Reader};
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;
use maquette::reward::{Answer, Ask, Judgement, RewardModel, Verdict, ViewKey};
use maquette::{CandidateId, Error, ImageBatch, ImageSize, Prompt};

const SIZE: ImageSize = ImageSize::new(64, 64);
const PROMPT: &str = "a photo of a red car";
const ALL: [Judgement; 4] = [
    Judgement::Outcome,
    Judgement::Process,
    Judgement::Clarity,
    Judgement::Potential,
];

fn model<B: Backend>(backend: B) -> Judging<B> {
    Judging::load(backend, Format::F32)
}

fn small() -> JudgeOptions {
    JudgeOptions::default().with_views(4).with_tokens(32)
}

const fn key(candidate: u64, step: u32) -> ViewKey {
    ViewKey {
        candidate: CandidateId(candidate),
        step,
    }
}

/// Pictures with something in them: two colours and a slant that differ from one to the next.
fn pictures(n: usize) -> Vec<u8> {
    let pixel = |i: usize| {
        let (picture, r, c) = (i / 4096, i % 4096 / 64, i % 64);
        if (r + picture * c) % 64 < 24 {
            [220, 30, 20]
        } else {
            [u8::try_from(40 * picture % 256).unwrap(), 120, 160]
        }
    };
    (0..n * 4096).flat_map(pixel).collect()
}

fn ask<R: RewardModel>(
    judge: &mut R,
    judgement: Judgement,
    keys: &[ViewKey],
    pixels: &[u8],
    prompt: &str,
) -> Vec<Verdict> {
    let prompt = Prompt::new(prompt);
    let mut out = vec![Verdict::malformed(); keys.len()];
    let ask = Ask::new(judgement, &prompt, keys)
        .with_pixels(ImageBatch::new(keys.len(), SIZE, pixels).unwrap());
    judge.judge(&ask, &mut out).unwrap();
    out
}

fn bits(verdicts: &[Verdict]) -> Vec<(u32, u32, Answer)> {
    verdicts
        .iter()
        .map(|v| (v.p_yes.to_bits(), v.p_no.to_bits(), v.answer))
        .collect()
}

#[test]
fn a_verdict_is_two_probabilities_that_nearly_sum_to_one() {
    let mut judge = model(Cpu::new()).session(small());
    let red = [200, 20, 20].repeat(4096);
    for judgement in ALL {
        let verdict = ask(&mut judge, judgement, &[key(0, 1)], &red, PROMPT)[0];
        verdict.check(0).unwrap();
        assert!(
            (verdict.p_yes + verdict.p_no - 1.0).abs() < 0.05,
            "{judgement:?} {verdict:?}"
        );
    }
}

#[test]
fn shared_rows_give_the_bits_of_a_fresh_session() {
    let model = model(Cpu::new());
    let pixels = pictures(3);
    let keys = [key(0, 5), key(1, 5), key(2, 5)];
    let fresh = |judgement| {
        ask(
            &mut model.session(small()),
            judgement,
            &keys,
            &pixels,
            PROMPT,
        )
    };
    let want: Vec<_> = ALL.iter().map(|&j| bits(&fresh(j))).collect();
    let mut judge = model.session(small());
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 2, 3], [0, 0, 3, 1]] {
        for i in order {
            let got = ask(&mut judge, ALL[i], &keys, &pixels, PROMPT);
            assert_eq!(bits(&got), want[i], "{:?}", ALL[i]);
        }
        // Another prompt between two orders leaves nothing behind.
        ask(
            &mut judge,
            Judgement::Clarity,
            &keys,
            &pixels,
            "a photo of a blue banana",
        );
        judge.forget(&keys[1..2]);
    }
}

#[test]
fn a_batch_gives_the_bits_of_one_view_at_a_time() {
    let model = model(Cpu::new());
    let pixels = pictures(7);
    let keys: Vec<_> = (0..7).map(|i| key(i, 2)).collect();
    for judgement in ALL {
        // Seven views through room for four, with one of them asked before and one key twice.
        let mut judge = model.session(small());
        ask(
            &mut judge,
            Judgement::Clarity,
            &keys[2..3],
            &pixels[2 * SIZE.len_bytes()..],
            PROMPT,
        );
        let together = ask(&mut judge, judgement, &keys, &pixels, PROMPT);
        for (i, want) in together.iter().enumerate() {
            let mut alone = model.session(small().with_views(1));
            let got = ask(
                &mut alone,
                judgement,
                &keys[i..=i],
                &pixels[i * SIZE.len_bytes()..],
                PROMPT,
            );
            assert_eq!(bits(&got), bits(&[*want]), "{judgement:?} {i}");
        }
    }
}

#[test]
fn the_same_key_with_another_picture_is_another_view() {
    let model = model(Cpu::new());
    let pixels = pictures(2);
    let other = &pixels[SIZE.len_bytes()..];
    let want = ask(
        &mut model.session(small()),
        Judgement::Outcome,
        &[key(0, 1)],
        other,
        PROMPT,
    );
    let mut judge = model.session(small());
    ask(
        &mut judge,
        Judgement::Outcome,
        &[key(0, 1)],
        &pixels,
        PROMPT,
    );
    assert_eq!(
        bits(&ask(
            &mut judge,
            Judgement::Outcome,
            &[key(0, 1)],
            other,
            PROMPT
        )),
        bits(&want)
    );
    let twice = ask(
        &mut judge,
        Judgement::Outcome,
        &[key(0, 1), key(0, 1)],
        &pixels,
        PROMPT,
    );
    assert_eq!(bits(&twice[1..]), bits(&want));
}

#[test]
fn two_threads_give_the_bits_of_one() {
    let model = model(Cpu::new());
    let pixels = pictures(4);
    let keys: Vec<_> = (0..4).map(|i| key(i, 0)).collect();
    let run = |judgement| {
        bits(&ask(
            &mut model.session(small()),
            judgement,
            &keys,
            &pixels,
            PROMPT,
        ))
    };
    let one = [run(Judgement::Clarity), run(Judgement::Outcome)];
    let two = std::thread::scope(|s| {
        let threads = [Judgement::Clarity, Judgement::Outcome].map(|j| s.spawn(move || run(j)));
        threads.map(|t| t.join().unwrap())
    });
    assert_eq!(one, two);
}

#[test]
fn the_reference_gives_the_bits_of_the_cpu() {
    let pixels = pictures(1);
    let want = ask(
        &mut model(Reference).session(small()),
        Judgement::Potential,
        &[key(0, 1)],
        &pixels,
        PROMPT,
    );
    let got = ask(
        &mut model(Cpu::new()).session(small()),
        Judgement::Potential,
        &[key(0, 1)],
        &pixels,
        PROMPT,
    );
    assert_eq!(bits(&got), bits(&want));
}

#[test]
fn readers_agree_on_what_the_answers_share() {
    let model = model(Cpu::new());
    let pixels = pictures(2);
    let keys = [key(0, 1), key(1, 1)];
    let read = |reader| {
        ask(
            &mut model.session(small().with_reader(reader)),
            Judgement::Outcome,
            &keys,
            &pixels,
            PROMPT,
        )
    };
    let exact = read(Reader::Exact);
    for (two, exact) in read(Reader::TwoRows).iter().zip(&exact) {
        assert!((two.p_yes + two.p_no - 1.0).abs() < 1e-6);
        assert!((two.p_yes - exact.p_yes / (exact.p_yes + exact.p_no)).abs() < 1e-5);
        assert_eq!(two.answer, exact.answer);
    }
    let upstream = read(Reader::Upstream { seed: 7 });
    assert_eq!(bits(&upstream), bits(&read(Reader::Upstream { seed: 7 })));
    for (sampled, exact) in upstream.iter().zip(&exact) {
        if exact.p_yes > 0.81 {
            assert_eq!((sampled.p_yes, sampled.answer), (1.0, Answer::Yes));
        }
        if exact.p_no > 0.81 {
            assert_eq!((sampled.p_yes, sampled.answer), (0.0, Answer::No));
        }
    }
}

#[test]
fn what_cannot_be_asked_is_an_error_and_leaves_the_session_usable() {
    let mut judge = model(Cpu::new()).session(small());
    let pixels = pictures(1);
    let want = ask(
        &mut judge,
        Judgement::Outcome,
        &[key(0, 1)],
        &pixels,
        PROMPT,
    );
    let mut out = [Verdict::malformed()];
    let image = ImageBatch::new(1, SIZE, &pixels).unwrap();
    let long = "red ".repeat(40);
    type Expected = fn(&Error) -> bool;
    let cases: [(&str, Expected); 4] = [
        ("a photo of a unicorn", |e| {
            matches!(e, Error::UnknownWord { at: 13, .. })
        }),
        ("a <|endoftext|>", |e| {
            matches!(e, Error::SpecialToken { at: 2, .. })
        }),
        ("a <image>", |e| {
            matches!(e, Error::SpecialToken { at: 2, .. })
        }),
        (&long, |e| matches!(e, Error::PromptTooLong { max: 32, .. })),
    ];
    for (text, expected) in cases {
        let prompt = Prompt::new(text);
        let error = judge
            .judge(
                &Ask::new(Judgement::Outcome, &prompt, &[key(0, 1)]).with_pixels(image),
                &mut out,
            )
            .unwrap_err();
        assert!(expected(&error), "{text}: {error}");
    }
    let prompt = Prompt::new(PROMPT);
    assert!(
        judge
            .judge(
                &Ask::new(Judgement::Outcome, &prompt, &[key(0, 1)]),
                &mut out
            )
            .is_err()
    );
    assert!(
        judge
            .judge(&Ask::new(Judgement::Outcome, &prompt, &[]), &mut [])
            .is_ok()
    );
    assert_eq!(
        bits(&ask(
            &mut judge,
            Judgement::Outcome,
            &[key(0, 1)],
            &pixels,
            PROMPT
        )),
        bits(&want)
    );
    ask(&mut judge, Judgement::Outcome, &[key(0, 1)], &pixels, "")[0]
        .check(0)
        .unwrap();
}

#[test]
fn the_trace_of_a_question_gives_its_bits() {
    let model = model(Cpu::new());
    let pixels = pictures(1);
    let mut judge = model.session(small());
    let want = ask(
        &mut judge,
        Judgement::Potential,
        &[key(0, 1)],
        &pixels,
        PROMPT,
    );
    let mut ids = vec![-200];
    words()
        .encode(&format!("{PROMPT} clear ? yes potential ?"), &mut |id| {
            ids.push(id.into())
        })
        .unwrap();
    let got = judge
        .trace(
            &ids,
            ImageBatch::new(1, SIZE, &pixels).unwrap(),
            &mut |_, _| Ok(()),
        )
        .unwrap();
    assert_eq!(bits(&[got]), bits(&want));
}

#[test]
fn multiply_adds_are_those_of_the_rows_that_are_new() {
    // The image tower: 64 patches of 192 numbers, 4 blocks of width 96, a projector to 128.
    let block = 64 * (4 * 96 * 96 + 2 * 96 * 384) + 2 * 96 * 64 * 64;
    let tower = 64 * 192 * 96 + 4 * block + 64 * (96 * 128 + 128 * 128);
    // The language model: 4 blocks of width 128 with half as wide keys and values, and a head of 51 words.
    let text = |rows: u64, pairs: u64| {
        4 * (rows * (128 * (128 + 2 * 64) + 128 * 128 + 3 * 128 * 336) + 2 * 128 * pairs) + 51 * 128
    };
    // New rows behind `start` others.
    let behind = |start: u64, new: u64| text(new, (start + 1..=start + new).sum());
    for threads in [1, 2] {
        let mut judge = model(Cpu::with_threads(threads).unwrap()).session(small());
        let keys = [key(0, 3), key(1, 3), key(2, 3)];
        let pixels = pictures(3);
        let mut before = 0;
        // 64 patches and the row that ends them, six words, two of the question's own; "yes potential ?" goes on behind clarity's.
        for (judgement, due) in [
            (Judgement::Clarity, tower + behind(0, 65 + 8)),
            (Judgement::Potential, behind(65 + 8, 3)),
            (Judgement::Outcome, behind(65 + 6, 2)),
            // The last row is what the answer is read from.
            (Judgement::Outcome, behind(65 + 7, 1)),
        ] {
            ask(&mut judge, judgement, &keys, &pixels, PROMPT);
            let now = judge.multiply_adds().unwrap();
            assert_eq!(now - before, 3 * due, "{judgement:?}");
            before = now;
        }
        judge.forget(&keys);
        ask(
            &mut judge,
            Judgement::Outcome,
            &keys[..1],
            &pixels[..4096 * 3],
            PROMPT,
        );
        let now = judge.multiply_adds().unwrap();
        assert_eq!(now - before, tower + behind(0, 65 + 8));
    }
}
