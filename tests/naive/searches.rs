//! Strategies under any verdicts, failures and interruptions: they end, free everything, and count what they did.

use maquette::generator::Needs;
use maquette::reward::{Answer, Verdict};
use maquette::rng::Stream;
use maquette::search::{Adaptive, BestOfN, Budget, Event, Halving, Parm, ParmForm, Plain, Prm};
use maquette::testing::{ScriptedGenerator, ScriptedReward};
use maquette::{Cost, Flow, Generator, Judgement, Prompt, RewardModel, SearchStrategy};

use crate::bytes::Bytes;

type Dyn = dyn SearchStrategy<dyn Generator, dyn RewardModel>;

fn strategy(bytes: &mut Bytes<'_>) -> Box<Dyn> {
    let n = u32::try_from(bytes.below(9)).unwrap();
    let inner: Box<Dyn> = match bytes.below(8) {
        0 => Box::new(Plain),
        1 => Box::new(BestOfN::new(n)),
        2 => Box::new(Prm::new(n)),
        3 => Box::new(Prm::new(n).with_judged_steps([1 + u32::from(bytes.byte()) % 7])),
        4 => Box::new(Parm::new(n).with_form(ParmForm::Released)),
        5 => Box::new(Prm::new(n).with_width(u32::from(bytes.byte()) % 9)),
        6 => Box::new(Halving::new(n, [1 + u32::from(bytes.byte()) % 7])),
        _ => Box::new(Parm::new(n).with_min_clarity_step(u32::from(bytes.byte()) % 9)),
    };
    let rounds = u32::from(bytes.byte()) % 5;
    let confidence = f32::from(bytes.byte()) / 200.0;
    let limit = u64::from(bytes.byte());
    match bytes.below(5) {
        0 => Box::new(Adaptive::new(inner, rounds).with_confidence(confidence)),
        1 => Box::new(
            Budget::new(inner)
                .with_steps(limit)
                .with_questions(limit / 4),
        ),
        2 => Box::new(Budget::new(Adaptive::new(inner, rounds)).with_steps(limit)),
        3 => Box::new(Budget::new(Adaptive::new(inner, rounds)).with_multiply_adds(limit)),
        _ => inner,
    }
}

fn verdict(kind: u8) -> Verdict {
    match kind % 10 {
        0 => Verdict::malformed(),
        1 => Verdict::new(0.5, 0.5),
        2 => Verdict::new(0.0, 0.0),
        3 => Verdict::new(0.9, 0.0).with_answer(Answer::Other),
        4 => Verdict::new(0.2, 0.3).with_answer(Answer::Yes),
        5 if kind > 200 => Verdict::new(f32::NAN, 0.1),
        6 if kind > 200 => Verdict::new(0.3, 1.5),
        _ => Verdict::new(f32::from(kind) / 255.0, 1.0 - f32::from(kind) / 255.0),
    }
}

/// One search that a script decides.
pub fn searches(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let mut strategy = strategy(&mut bytes);
    let steps = u32::from(bytes.byte()) % 7;
    let seed = u64::from(bytes.word());
    let (fails, stops) = (bytes.byte(), bytes.byte());
    let room = 1 + bytes.below(12);
    let needs = [Needs::NOTHING, Needs::CODES, Needs::PIXELS][bytes.below(3)];
    let mut table = vec![bytes.byte()];
    while !bytes.is_empty() {
        table.push(bytes.byte());
    }
    let mut generator = ScriptedGenerator::new(steps).with_capacity(room);
    if fails % 2 == 0 {
        generator = generator.failing_at(u64::from(fails / 2));
    }
    let mut reward = ScriptedReward::new(move |judgement, key, _| {
        let place = key.candidate.0 as usize * 31 + key.step as usize * 7 + judgement as usize;
        verdict(table[place % table.len()])
    })
    .with_needs(needs);

    let (mut told, mut heard, mut last) = (Cost::default(), 0_u32, None);
    let found = strategy.search(
        &mut generator as &mut dyn Generator,
        &mut reward as &mut dyn RewardModel,
        &Prompt::new("a red car"),
        &mut Stream::new(seed),
        &mut |event| {
            match event {
                Event::Started { ids, .. } => {
                    told.candidates += ids.len() as u64;
                    last = ids.last().copied();
                }
                Event::Stepped { ids, .. } => told.steps += ids.len() as u64,
                Event::Observed { pixels, .. } => {
                    told.decodes += pixels.map_or(0, |pixels| pixels.len() as u64);
                }
                Event::Judged { judgement, .. } => told.ask(judgement, 1),
                _ => {}
            }
            heard += 1;
            assert!(heard < 1 << 16, "a search without an end");
            match (stops % 4, last) {
                (0, _) if heard == u32::from(stops / 4) => Flow::Stop,
                (1, Some(id)) if heard == u32::from(stops / 4) => Flow::Choose(id),
                _ => Flow::Continue,
            }
        },
    );
    if let Ok(decision) = &found {
        let calls = generator.calls();
        let cost = decision.cost;
        assert_eq!(
            (cost.candidates, cost.steps, cost.decodes),
            (calls.candidates, calls.steps, calls.decodes)
        );
        let asked = [
            (Judgement::Outcome, cost.outcome),
            (Judgement::Process, cost.process),
            (Judgement::Clarity, cost.clarity),
            (Judgement::Potential, cost.potential),
        ];
        for (judgement, n) in asked {
            assert_eq!(n, reward.asked(judgement), "{judgement:?}");
        }
        // The fakes count one for each step, each decode and each question.
        let made = cost.multiply_adds;
        assert_eq!(
            [made.generator, made.decoder, made.judge],
            [calls.steps, calls.decodes, cost.judged()].map(Some)
        );
        if !decision.stopped {
            told.multiply_adds = made;
            assert_eq!(cost, told);
            assert_eq!(generator.taken(decision.winner).unwrap(), steps);
        }
        // The one call that is told to fail may be this one.
        if generator.prune(&[decision.winner]).is_err() {
            generator.prune(&[decision.winner]).unwrap();
        }
    }
    assert_eq!((generator.alive(), reward.open()), (0, 0), "{found:?}");
}
