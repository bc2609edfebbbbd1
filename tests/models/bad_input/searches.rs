//! Prompts and judges that cannot be read, and weights that give no numbers.

use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::generator::Needs;
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
use maquette::model::words::Words;
use maquette::quant::Format;
use maquette::reward::Ask;
use maquette::rng::Stream;
use maquette::search::{BestOfN, Parm, Plain, Prm, SearchStrategy};
use maquette::{Error, Flow, Generator, Judgement, Prompt, Result, RewardModel, Verdict};

use super::{Model, joined, parts, text};

type Session = ShowOSession<Cpu, Words>;

fn session() -> (Session, Arc<ShowO<Cpu>>) {
    let cpu = Arc::new(Cpu::with_threads(1).unwrap());
    let (show_o, pixels) = (Model::ShowO.weights(), Model::Magvit.weights());
    let config =
        ShowOConfig::from_json(&JsonConfig::parse(&Model::ShowO.config()).unwrap()).unwrap();
    let source = SafetensorsSource::new(&show_o).unwrap();
    let model = Arc::new(ShowO::load(Arc::clone(&cpu), config, &source, Format::F32).unwrap());
    let config =
        MagvitConfig::from_json(&JsonConfig::parse(&Model::Magvit.config()).unwrap()).unwrap();
    let source = SafetensorsSource::new(&pixels).unwrap();
    let pixels = Arc::new(Magvit::load(cpu, config, &source, Format::F32).unwrap());
    let words = Words::new(&text("show-o/vocab.txt")).unwrap();
    let mut options = ShowOOptions::default();
    options.steps = 2;
    (
        ShowOSession::new(Arc::clone(&model), pixels, words, options).unwrap(),
        model,
    )
}

/// Answers the same to every question.
struct Says(Verdict);

impl RewardModel for Says {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::NOTHING
    }
    fn judge(&mut self, _: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        out.fill(self.0);
        Ok(())
    }
}

fn strategies(n: u32) -> Vec<Box<dyn SearchStrategy<Session, Says>>> {
    vec![
        Box::new(BestOfN::new(n)),
        Box::new(Prm::new(n)),
        Box::new(Parm::new(n)),
    ]
}

#[test]
fn prompts_that_cannot_be_read_leave_the_session_usable() {
    let (mut session, _) = session();
    let mut judge = Says(Verdict::new(0.5, 0.5));
    let long = "red ".repeat(200);
    for prompt in [
        "a photo of a red zeppelin",
        "<|endoftext|>",
        "a photo of <|soi|>",
        "rëd",
        &long,
        "\u{0}",
    ] {
        let got = Plain.search(
            &mut session,
            &mut judge,
            &Prompt::new(prompt),
            &mut Stream::new(1),
            &mut |_| Flow::Continue,
        );
        assert!(got.is_err(), "{prompt:?} was drawn");
    }
    // The empty prompt is the unconditional one.
    for prompt in ["", "a photo of a red car"] {
        let got = Plain.search(
            &mut session,
            &mut judge,
            &Prompt::new(prompt),
            &mut Stream::new(1),
            &mut |_| Flow::Continue,
        );
        session.prune(&[got.unwrap().winner]).unwrap();
    }
}

#[test]
fn no_candidates_are_an_error() {
    let (mut session, _) = session();
    for mut strategy in strategies(0) {
        let got = strategy.search(
            &mut session,
            &mut Says(Verdict::new(0.5, 0.5)),
            &Prompt::new("a red car"),
            &mut Stream::new(1),
            &mut |_| Flow::Continue,
        );
        assert!(matches!(got, Err(Error::Range { .. })), "{got:?}");
    }
}

#[test]
fn a_judge_without_yes_or_no_still_ends_a_search_and_one_without_numbers_is_an_error() {
    let (mut session, _) = session();
    let prompt = Prompt::new("a red car");
    for mut strategy in strategies(3) {
        let mut search = |session: &mut Session, verdict| {
            strategy.search(
                session,
                &mut Says(verdict),
                &prompt,
                &mut Stream::new(1),
                &mut |_| Flow::Continue,
            )
        };
        let found = search(&mut session, Verdict::malformed()).unwrap();
        session.prune(&[found.winner]).unwrap();
        for p in [f32::NAN, f32::INFINITY, -0.5, 1.5] {
            let got = search(&mut session, Verdict::new(p, 0.1));
            let found_out = match got {
                Err(Error::NotFinite { .. }) => !p.is_finite(),
                Err(Error::Probability { got, .. }) => got.to_bits() == p.to_bits(),
                _ => false,
            };
            assert!(found_out, "{p}: {got:?}");
        }
        // Nobody is left behind: the session has room for a full search again.
        let found = search(&mut session, Verdict::new(0.5, 0.5)).unwrap();
        session.prune(&[found.winner]).unwrap();
    }
}

#[test]
fn weights_that_make_logits_overflow_are_an_error_and_lose_no_candidate() {
    let bytes = Model::ShowO.weights();
    let (header, data) = parts(&bytes);
    let mut data = data.to_vec();
    // The largest half-precision numbers everywhere: every one finite, their products in the end not.
    for (name, tensor) in header.as_object().unwrap() {
        if name.contains("mlp") || name.contains("dense") || name.contains("fc") {
            let ends = [0, 1]
                .map(|i| usize::try_from(tensor["data_offsets"][i].as_u64().unwrap()).unwrap());
            for half in data[ends[0]..ends[1]].chunks_exact_mut(2) {
                half.copy_from_slice(&0x7BFF_u16.to_le_bytes());
            }
        }
    }
    let cpu = Arc::new(Cpu::with_threads(1).unwrap());
    let config =
        ShowOConfig::from_json(&JsonConfig::parse(&Model::ShowO.config()).unwrap()).unwrap();
    let bytes = joined(&header, &data);
    let source = SafetensorsSource::new(&bytes).unwrap();
    let model = Arc::new(ShowO::load(Arc::clone(&cpu), config, &source, Format::F32).unwrap());
    let config =
        MagvitConfig::from_json(&JsonConfig::parse(&Model::Magvit.config()).unwrap()).unwrap();
    let pixels = Model::Magvit.weights();
    let source = SafetensorsSource::new(&pixels).unwrap();
    let pixels = Arc::new(Magvit::load(cpu, config, &source, Format::F32).unwrap());
    let words = Words::new(&text("show-o/vocab.txt")).unwrap();
    let mut options = ShowOOptions::default();
    options.guidance_scale = f32::MAX;
    let mut session = ShowOSession::new(model, pixels, words, options).unwrap();
    let mut ids = [maquette::CandidateId::default(); 2];
    session
        .start(&Prompt::new("a red car"), &[1, 2], &mut ids)
        .unwrap();
    assert!(matches!(session.step(&ids), Err(Error::NotFinite { .. })));
    assert_eq!(session.taken(ids[0]).unwrap(), 0);
    session.prune(&ids).unwrap();
}

#[test]
fn a_judge_refuses_what_it_cannot_read() {
    let weights = Model::Llava.weights();
    let config =
        LlavaConfig::from_json(&JsonConfig::parse(&Model::Llava.config()).unwrap()).unwrap();
    let source = SafetensorsSource::new(&weights).unwrap();
    let model = Llava::load(
        Arc::new(Cpu::with_threads(1).unwrap()),
        config,
        &source,
        Format::F32,
    )
    .unwrap();
    let words = Words::new(&text("judge/vocab.txt")).unwrap();
    let mut judge =
        LlavaSession::new(Arc::new(model), Arc::new(words), JudgeOptions::default()).unwrap();
    let keys = [maquette::reward::ViewKey {
        candidate: maquette::CandidateId(0),
        step: 1,
    }];
    let mut out = [Verdict::malformed()];
    let prompt = Prompt::new("a red car");
    // No picture.
    assert!(
        judge
            .judge(&Ask::new(Judgement::Outcome, &prompt, &keys), &mut out)
            .is_err()
    );
    let pixels = vec![0; 64 * 64 * 3];
    let shown = maquette::ImageBatch::new(1, maquette::ImageSize::new(64, 64), &pixels).unwrap();
    let unknown = Prompt::new("a red zeppelin");
    assert!(
        judge
            .judge(
                &Ask::new(Judgement::Outcome, &unknown, &keys).with_pixels(shown),
                &mut out
            )
            .is_err()
    );
    assert!(
        judge
            .judge(
                &Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(shown),
                &mut []
            )
            .is_err()
    );
    judge
        .judge(
            &Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(shown),
            &mut out,
        )
        .unwrap();
    out[0].check(0).unwrap();
}
