//! The judge learns: its lessons are what its sessions are asked, its adapters have the gradient of their differences, and
//! what it learnt is what a session says.

use std::sync::Arc;

use maquette::align::lora::{Merged, write_adapters};
use maquette::align::{
    AdamWConfig, Engine, Limits, LoraConfig, Schedule, Trained, Trainer, TrainerConfig, supervised,
};
use maquette::cpu::Cpu;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::learner::{Example, Input, Learner, Scope};
use maquette::model::llava::{
    JudgeOptions, Lesson, Llava, LlavaConfig, LlavaLearner, LlavaSession,
};
use maquette::model::transformer::AdapterConfig;
use maquette::ops::{Backward, Reference};
use maquette::quant::Format;
use maquette::reward::{Ask, ViewKey};
use maquette::{
    CandidateId, Error, ImageBatch, ImageSize, Judgement, Prompt, Result, RewardModel, Verdict,
};

use crate::bundled::files::{bytes, text};
use crate::bundled::judging::Judging;
use crate::gradients::check;
use crate::{bits, number, shake};

const SIZE: ImageSize = ImageSize::new(64, 64);
const TARGETS: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

fn lora() -> LoraConfig {
    crate::lora(&TARGETS)
}

fn session<B: Backward>(model: &Arc<Llava<B>>) -> LlavaSession<B> {
    let options = JudgeOptions::default().with_views(2).with_tokens(24);
    Judging(Arc::clone(model)).session(options)
}

/// Pictures of noise in large squares, each of its own.
fn pixels(n: usize) -> Vec<u8> {
    let value = |i: usize| {
        let (picture, y, x, channel) = (i / 12288, i % 12288 / 192, i % 192 / 3, i % 3);
        let square = (picture * 64 + y / 8 * 8 + x / 8) * 3 + channel;
        number(5, square).to_bits().to_le_bytes()[1]
    };
    (0..n * SIZE.len_bytes()).map(value).collect()
}

/// Questions about some pictures, right and wrong ones in turn.
fn lessons<B: Backward>(session: &mut LlavaSession<B>, n: usize) -> Vec<Example> {
    let pixels = pixels(n);
    let pictures = ImageBatch::new(n, SIZE, &pixels).unwrap();
    let rows = session.picture_rows(pictures).unwrap();
    let each = rows.len() / n;
    let judgements = [
        Judgement::Outcome,
        Judgement::Potential,
        Judgement::Process,
        Judgement::Clarity,
    ];
    let lesson = |(i, rows): (usize, &[f32])| {
        let lesson = Lesson {
            judgement: judgements[i % 4],
            prompt: ["a red car", "a blue book", "a pink cup"][i % 3],
            yes: i % 2 == 0,
            reason: (i % 4 == 3).then_some("a photo of two kites"),
        };
        session.lesson(&lesson, rows).unwrap()
    };
    rows.chunks(each).enumerate().map(lesson).collect()
}

fn engine_of<B: Backward>(
    device: B,
    format: Format,
    trained: Trained,
) -> (Engine<B, LlavaLearner<B>>, Vec<Example>) {
    let weights = bytes("judge/model.safetensors");
    let source = SafetensorsSource::new(&weights).unwrap();
    let model = Judging::load(device, format).0;
    let examples = lessons(&mut session(&model), 4);
    let limits = Limits {
        rows: 80,
        labels: 8,
    };
    let whole = !matches!(trained, Trained::Adapters(_));
    let learner = LlavaLearner::new(model, &source);
    let mut engine = Engine::new(learner, trained, limits).unwrap();
    if whole {
        engine.read_weights(&source).unwrap();
    }
    (engine, examples)
}

fn judged<B: Backward>(session: &mut LlavaSession<B>, ask: Judgement, prompt: &str) -> Verdict {
    let pixels = pixels(1);
    let prompt = Prompt::new(prompt);
    let keys = [ViewKey {
        candidate: CandidateId(1),
        step: 1,
    }];
    let mut out = [Verdict::malformed()];
    let ask = Ask::new(ask, &prompt, &keys).with_pixels(ImageBatch::new(1, SIZE, &pixels).unwrap());
    session.judge(&ask, &mut out).unwrap();
    out[0]
}

#[test]
fn a_lesson_is_what_a_session_is_asked() {
    let trained = Trained::Adapters(lora());
    let (mut engine, _) = engine_of(Cpu::new(), Format::F32, trained);
    let mut session = session(engine.learner().model());
    let pixels = pixels(1);
    let rows = session
        .picture_rows(ImageBatch::new(1, SIZE, &pixels).unwrap())
        .unwrap();
    for judgement in [
        Judgement::Outcome,
        Judgement::Process,
        Judgement::Clarity,
        Judgement::Potential,
    ] {
        let prompt = "a photo of a red car";
        let verdict = judged(&mut session, judgement, prompt);
        for (yes, p) in [(true, verdict.p_yes), (false, verdict.p_no)] {
            let lesson = Lesson {
                judgement,
                prompt,
                yes,
                reason: None,
            };
            let alone = session.lesson(&lesson, &rows).unwrap();
            let got = engine.policy(&alone, None).unwrap();
            assert!((got[0].exp() - p).abs() < 1e-5, "{judgement:?} {verdict:?}");
            // What is said later changes nothing of the answer.
            let reason = Some("two boats");
            let with = session.lesson(&Lesson { reason, ..lesson }, &rows).unwrap();
            assert_eq!((with.labels.len(), with.rows.len()), (3, 3));
            assert_eq!(with.rows[0], alone.rows[0]);
            let told = engine.policy(&with, None).unwrap();
            assert!((told[0] - got[0]).abs() < 1e-5);
        }
    }
}

#[test]
fn adapters_of_the_judge_have_the_gradient_of_their_differences() {
    for format in [Format::F32, Format::Bf16, Format::Q8_0] {
        let (mut engine, examples) = engine_of(Cpu::new(), format, Trained::Adapters(lora()));
        shake(&mut engine, 0.02);
        check(&mut engine, &examples);
    }
}

#[test]
fn blocks_of_the_judge_have_the_gradient_of_their_differences() {
    let trained = Trained::Blocks(Format::F32);
    // The session that made the lessons is gone: nobody else holds the weights.
    let (mut engine, examples) = engine_of(Cpu::new(), Format::F32, trained);
    check(&mut engine, &examples);
}

#[test]
fn the_judge_s_gradients_have_the_same_bits_on_every_device() {
    fn gradients<B: Backward>(device: B) -> Vec<u32> {
        let trained = Trained::Adapters(lora());
        let (mut engine, examples) = engine_of(device, Format::Q8_0, trained);
        shake(&mut engine, 0.02);
        let mut kept = engine.kept().unwrap();
        supervised::batch(&mut engine, &examples[..1], &mut kept).unwrap();
        let all = engine.gradients().unwrap();
        all.iter().flatten().map(|g| g.to_bits()).collect()
    }
    assert!(gradients(Reference) == gradients(Cpu::with_threads(2).unwrap()));
}

type JudgeTrainer = Trainer<Cpu, LlavaLearner<Cpu>>;

fn trainer() -> (JudgeTrainer, Vec<Example>) {
    let (engine, examples) = engine_of(Cpu::new(), Format::F32, Trained::Adapters(lora()));
    let config = TrainerConfig::new(
        AdamWConfig::default().with_rate(1e-2),
        Schedule::Cosine {
            warm_up: 2,
            steps: 12,
        },
    )
    .with_clip(1.0);
    (Trainer::new(engine, config).unwrap(), examples)
}

fn step(trainer: &mut JudgeTrainer, examples: &[Example]) -> Result<f64> {
    let mut kept = trainer.engine().kept()?;
    let report = trainer.step(|engine| supervised::batch(engine, examples, &mut kept))?;
    Ok(report.loss)
}

#[test]
fn what_was_learnt_is_resumed_to_the_bit_merged_and_said() {
    let (mut run, examples) = trainer();
    let mut losses = Vec::new();
    let mut bytes_of_six = Vec::new();
    for taken in 0..12 {
        if taken == 6 {
            bytes_of_six = run.checkpoint().unwrap();
        }
        losses.push(step(&mut run, &examples[..3]).unwrap());
    }
    assert!(losses[11] < losses[0] - 0.1, "{losses:?}");
    let (mut again, examples) = trainer();
    again.resume(&bytes_of_six).unwrap();
    for _ in 0..6 {
        step(&mut again, &examples[..3]).unwrap();
    }
    assert!(bits(run.engine()) == bits(again.engine()));

    let weights = bytes("judge/model.safetensors");
    let source = SafetensorsSource::new(&weights).unwrap();
    let parameters = run.engine().parameters();
    assert!(
        parameters[0]
            .name
            .starts_with("model.layers.0.self_attn.q_proj.lora_A")
    );
    let stored = write_adapters(parameters).unwrap();
    let merged = Merged::new(&source, parameters, &lora()).unwrap();
    let config = JsonConfig::parse(&text("judge/config.json")).unwrap();
    let config = LlavaConfig::from_json(&config).unwrap();
    let device = Arc::clone(run.engine().learner().backend());
    let merged = Arc::new(Llava::load(device, config, &merged, Format::F32).unwrap());
    // The first lesson: the outcome of the first picture, yes.
    let verdict = judged(&mut session(&merged), Judgement::Outcome, "a red car");
    let mut engine = engine_of(Cpu::new(), Format::F32, Trained::Adapters(lora())).0;
    let before = engine.policy(&examples[0], None).unwrap()[0].exp();
    engine
        .read_adapters(&SafetensorsSource::new(&stored).unwrap())
        .unwrap();
    let said = engine.policy(&examples[0], None).unwrap()[0].exp();
    assert!((verdict.p_yes - said).abs() < 1e-4, "{verdict:?} {said}");
    assert!((said - before).abs() > 1e-2, "{said} {before}");
    // Unmerged, over weights of 8 bits too: what the engine says that trains them.
    let settings = AdapterConfig::new(lora().rank, lora().alpha).unwrap();
    let stored = SafetensorsSource::new(&stored).unwrap();
    for format in [Format::F32, Format::Q8_0] {
        let (mut engine, examples) = engine_of(Cpu::new(), format, Trained::Adapters(lora()));
        engine.read_adapters(&stored).unwrap();
        let said = engine.policy(&examples[0], None).unwrap()[0].exp();
        let model = Arc::into_inner(Judging::load(Cpu::new(), format).0).unwrap();
        let beside = model.with_adapters(&settings, &stored).unwrap();
        let mut session = session(&Arc::new(beside));
        let verdict = judged(&mut session, Judgement::Outcome, "a red car");
        assert!((verdict.p_yes - said).abs() < 1e-5, "{verdict:?} {said}");
    }
}

#[test]
fn lessons_that_cannot_be_given_are_errors() {
    let (mut engine, examples) = engine_of(Cpu::new(), Format::F32, Trained::Adapters(lora()));
    let mut session = session(engine.learner().model());
    let pixels = pixels(1);
    let rows = session
        .picture_rows(ImageBatch::new(1, SIZE, &pixels).unwrap())
        .unwrap();
    let good = Lesson {
        judgement: Judgement::Outcome,
        prompt: "a red car",
        yes: false,
        reason: None,
    };
    for prompt in ["a zebra", "a <image> car", &"a ".repeat(40)] {
        assert!(session.lesson(&Lesson { prompt, ..good }, &rows).is_err());
    }
    for reason in ["because", &"a ".repeat(24)] {
        let reason = Some(reason);
        assert!(session.lesson(&Lesson { reason, ..good }, &rows).is_err());
    }
    let long = [&rows[..], &rows].concat();
    for picture in [&[][..], &rows[1..], &long] {
        let error = session.lesson(&good, picture);
        assert!(matches!(error, Err(Error::Range { .. })), "{error:?}");
    }
    let other = Example {
        input: Input::Tokens(vec![1; examples[0].positions.len()]),
        ..examples[0].clone()
    };
    assert!(matches!(
        engine.policy(&other, None),
        Err(Error::Unsupported { .. })
    ));
    let codes = Example {
        scope: Scope::Codes,
        ..examples[0].clone()
    };
    assert!(matches!(
        engine.policy(&codes, None),
        Err(Error::Unsupported { .. })
    ));
    let mut kept = engine.kept().unwrap();
    assert!(supervised::batch(&mut engine, &[], &mut kept).is_err());
}
