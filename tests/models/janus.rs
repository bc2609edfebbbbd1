//! One set of random weights that draws and judges: laws of both, on the published layout in small.

use std::sync::Arc;

use crate::tiny_janus::{config, load, load_as, words};
use maquette::cpu::Cpu;
use maquette::model::janus::{Janus, JanusConfig};
use maquette::model::llava::{JudgeOptions, LlavaSession, Reader};
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;
use maquette::reward::{Answer, Ask, Judgement, RewardModel, Verdict, ViewKey};
use maquette::{CandidateId, Error, ImageBatch, ImageSize, Prompt};

const ALL: [Judgement; 4] = [
    Judgement::Outcome,
    Judgement::Process,
    Judgement::Clarity,
    Judgement::Potential,
];
/// Neither square nor of the tower's size.
const SIZE: ImageSize = ImageSize::new(20, 31);

fn judge<B: Backend>(model: &Janus<B>) -> LlavaSession<B> {
    let options = JudgeOptions::default().with_views(2).with_tokens(32);
    model.judge(Arc::new(words()), options).unwrap()
}

fn pictures(n: usize) -> Vec<u8> {
    let byte = |i: usize| u8::try_from((i * 7 + i / 31 * 13 + i / SIZE.len_bytes() * 101) % 256);
    (0..n * SIZE.len_bytes())
        .map(|i| byte(i).unwrap())
        .collect()
}

fn ask<B: Backend>(
    judge: &mut LlavaSession<B>,
    judgement: Judgement,
    views: core::ops::Range<u64>,
) -> Vec<(u32, u32, Answer)> {
    let prompt = Prompt::new("a red car");
    let keys: Vec<_> = views
        .clone()
        .map(|i| ViewKey {
            candidate: CandidateId(i),
            step: 3,
        })
        .collect();
    let all = pictures(usize::try_from(views.end).unwrap());
    let pixels = &all[usize::try_from(views.start).unwrap() * SIZE.len_bytes()..];
    let mut out = vec![Verdict::malformed(); keys.len()];
    let ask = Ask::new(judgement, &prompt, &keys)
        .with_pixels(ImageBatch::new(keys.len(), SIZE, pixels).unwrap());
    judge.judge(&ask, &mut out).unwrap();
    out.iter()
        .map(|v| (v.p_yes.to_bits(), v.p_no.to_bits(), v.answer))
        .collect()
}

#[test]
fn shared_rows_and_batches_give_the_bits_of_one_question_to_a_fresh_judge() {
    let model = load(Cpu::new(), config());
    let want = ALL.map(|judgement| {
        (0..3)
            .flat_map(|i| ask(&mut judge(&model), judgement, i..i + 1))
            .collect::<Vec<_>>()
    });
    assert_ne!(want[0][0], want[0][1], "other pictures are other verdicts");
    assert_ne!(want[0][0], want[2][0], "other questions are other verdicts");
    let mut judge = judge(&model);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 2, 3]] {
        for i in order {
            assert_eq!(ask(&mut judge, ALL[i], 0..3), want[i], "{:?}", ALL[i]);
        }
    }
}

#[test]
fn the_reference_judges_with_the_bits_of_the_cpu() {
    let (a, b) = (load(Reference, config()), load(Cpu::new(), config()));
    let verdicts = ask(&mut judge(&a), Judgement::Potential, 0..1);
    assert_eq!(verdicts, ask(&mut judge(&b), Judgement::Potential, 0..1));
}

#[test]
fn every_token_that_reads_as_an_answer_counts() {
    let probabilities = |answers: &[[u32; 2]], reader| {
        let mut config = config();
        config.answers = answers.into();
        let model = load(Cpu::new(), config);
        let options = JudgeOptions::default().with_views(1).with_tokens(32);
        let mut judge = model
            .judge(Arc::new(words()), options.with_reader(reader))
            .unwrap();
        let (yes, no, _) = ask(&mut judge, Judgement::Outcome, 0..1)[0];
        [yes, no].map(f32::from_bits)
    };
    let (first, second) = ([123, 7], [20, 30]);
    let apart = [first, second].map(|pair| probabilities(&[pair], Reader::Exact));
    let both = probabilities(&[first, second], Reader::Exact);
    for (i, both) in both.into_iter().enumerate() {
        let sum = apart[0][i] + apart[1][i];
        assert!(
            apart[1][i] > 0.0 && (both - sum).abs() < 1e-6,
            "{both} {sum}"
        );
    }
    let two = probabilities(&[first, second], Reader::TwoRows);
    assert!((two[0] + two[1] - 1.0).abs() < 1e-6);
    assert!((two[0] - apart[0][0] / (apart[0][0] + apart[0][1])).abs() < 1e-5);
}

#[test]
fn a_model_without_answers_only_draws() {
    let mut config = config();
    config.answers.clear();
    let model = load(Cpu::new(), config);
    let judge = model.judge(Arc::new(words()), JudgeOptions::default());
    assert!(matches!(
        judge.map(|_| ()),
        Err(Error::Config { key: "answers", .. })
    ));
}

#[test]
fn a_checkpoint_of_other_sizes_is_refused() {
    let spoil: [fn(&mut JanusConfig); 4] = [
        |c| c.vq.codebook_size += 1,
        |c| c.head_width = 32,
        |c| c.code_dim = 4,
        |c| c.vision.layers = 1,
    ];
    for (i, spoil) in spoil.iter().enumerate() {
        let mut config = config();
        spoil(&mut config);
        assert!(load_as(Cpu::new(), config, Format::F32).is_err(), "{i}");
    }
}
