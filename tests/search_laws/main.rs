//! Laws of search on scripted generators and judges.

mod adaptive;
mod broken;
mod budget;
mod laws;
mod parm;
mod reflect;
mod region;

use laws::{Dyn, Outcome, go_on, search};
use maquette::generator::Needs;
use maquette::reward::{Answer, Verdict};
use maquette::search::{Adaptive, BestOfN, Halving, Parm, ParmForm, Plain, Prm};
use maquette::testing::{OracleReward, ScriptedGenerator, ScriptedReward, conformance};
use maquette::{
    CandidateId, Error, Flow, Judgement, Prompt, RewardModel, SearchStrategy, rng::Stream,
};
use proptest::prelude::*;

const STEPS: u32 = 6;

fn strategies(n: u32) -> Vec<Box<Dyn<'static>>> {
    vec![
        Box::new(Plain),
        Box::new(BestOfN::new(n)),
        Box::new(Prm::new(n)),
        Box::new(Prm::new(n).with_judged_steps([2, 5])),
        Box::new(Prm::new(n).with_width(n.div_ceil(2))),
        Box::new(Prm::new(n).with_judged_steps([1, 3]).with_width(n.min(2))),
        Box::new(Halving::new(n, [2, 4])),
        Box::new(Halving::new(n, [2, 3, STEPS]).with_judgement(Judgement::Potential)),
        Box::new(Parm::new(n)),
        Box::new(Parm::new(n).with_form(ParmForm::Released)),
        Box::new(Parm::new(n).with_min_clarity_step(3)),
        Box::new(
            Parm::new(n)
                .with_min_clarity_step(2)
                .with_clarity_interval(3),
        ),
        Box::new(Parm::new(n).with_survivors(2).with_finalists(1)),
        Box::new(Parm::new(n).with_form(ParmForm::Released).with_survivors(1)),
    ]
}

/// A judge whose verdicts are adversarial: ties, malformed answers, nobody clear, nobody with potential.
fn adversary(
    table: Vec<u8>,
) -> impl FnMut(Judgement, maquette::reward::ViewKey, &[u32]) -> Verdict {
    move |judgement, key, _| {
        let kind = judgement as usize;
        let at = (key.candidate.0 as usize * 31 + key.step as usize * 7 + kind * 13) % table.len();
        match table[at] % 8 {
            0 => Verdict::malformed(),
            1 => Verdict::new(0.5, 0.5),
            2 => Verdict::new(0.9, 0.1),
            3 => Verdict::new(0.0, 1.0),
            4 => Verdict::new(0.0, 0.0),
            5 => Verdict::new(0.9, 0.0).with_answer(Answer::Other),
            6 => Verdict::new(0.2, 0.3).with_answer(Answer::Yes),
            _ => Verdict::new(0.1, 0.9),
        }
    }
}

fn scripted(table: Vec<u8>, needs: Needs) -> ScriptedReward {
    ScriptedReward::new(adversary(table)).with_needs(needs)
}

/// One search on fresh fakes, checked against what they counted.
fn counted(strategy: &mut Dyn<'static>, reward: ScriptedReward, seed: u64) -> Outcome {
    let found = tallied(strategy, reward, seed);
    assert!(!found.decision.stopped);
    found
}

/// The same for a search that a budget may end.
fn tallied(strategy: &mut Dyn<'static>, mut reward: ScriptedReward, seed: u64) -> Outcome {
    let mut generator = ScriptedGenerator::new(STEPS);
    let found = search(strategy, &mut generator, &mut reward, seed, &mut go_on).unwrap();
    let (cost, calls) = (found.decision.cost, generator.calls());
    assert_eq!(cost, found.told);
    // The fakes count one a step, a picture and a question.
    let work = cost.multiply_adds;
    assert_eq!(
        [work.generator, work.decoder, work.judge],
        [cost.steps, cost.decodes, cost.judged()].map(Some)
    );
    assert_eq!(
        (cost.candidates, cost.steps, cost.decodes),
        (calls.candidates, calls.steps, calls.decodes)
    );
    let asked = [
        Judgement::Outcome,
        Judgement::Process,
        Judgement::Clarity,
        Judgement::Potential,
    ];
    assert_eq!(
        [cost.outcome, cost.process, cost.clarity, cost.potential],
        asked.map(|ask| reward.asked(ask))
    );
    assert_eq!((generator.alive(), reward.open()), (0, 0));
    found
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_cost_is_what_the_fakes_counted(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..9, seed: u64, views in 0_usize..5,
    ) {
        let needs = [Needs::NOTHING, Needs::PIXELS, Needs::CODES, Needs::HIDDEN, Needs::PIXELS.or(Needs::CODES)][views];
        for mut strategy in strategies(n).into_iter().chain(adaptive::wrapped(n)) {
            tallied(&mut *strategy, scripted(table.clone(), needs), seed);
            let uneven = scripted(table.clone(), needs)
                .with_needs_for(Judgement::Clarity, Needs::CODES)
                .with_needs_for(Judgement::Potential, Needs::PIXELS.or(Needs::CODES));
            tallied(&mut *strategy, uneven, seed);
        }
    }

    #[test]
    fn prop_any_end_returns_a_living_candidate(
        table in prop::collection::vec(any::<u8>(), 1..50), n in 1_u32..5, seed: u64,
    ) {
        for mut strategy in strategies(n).into_iter().chain(adaptive::wrapped(n)) {
            let mut generator = ScriptedGenerator::new(STEPS);
            // By codes and not by id: the ids differ from search to search.
            let mut script = adversary(table.clone());
            let mut reward = ScriptedReward::new(move |ask, mut key, codes| {
                key.candidate = CandidateId(codes.iter().map(|&code| u64::from(code)).sum());
                script(ask, key, &[])
            })
            .with_needs(Needs::CODES);
            laws::can_end_anywhere(&mut *strategy, &mut generator, &mut reward, seed);
            prop_assert_eq!((generator.alive(), reward.open()), (0, 0));
        }
    }
}

#[test]
fn one_candidate_is_plain_generation() {
    for mut strategy in [
        Box::new(BestOfN::new(1)) as Box<Dyn<'_>>,
        Box::new(Prm::new(1)),
        Box::new(Halving::new(1, [2])),
        Box::new(Adaptive::new(Plain, 1)),
    ] {
        for seed in 0..50 {
            let (mut generator, mut reward) =
                (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(seed));
            laws::one_candidate_is_plain(
                &mut *strategy,
                &mut Plain,
                &mut generator,
                &mut reward,
                seed,
            );
            assert_eq!(reward.calls(), 0);
        }
    }
}

#[test]
fn no_candidates_is_an_error() {
    let (mut generator, mut reward) = (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(0));
    for mut strategy in [
        Box::new(BestOfN::new(0)) as Box<Dyn<'_>>,
        Box::new(Prm::new(0)),
        Box::new(Parm::new(0)),
    ] {
        let error = search(&mut *strategy, &mut generator, &mut reward, 0, &mut go_on).unwrap_err();
        assert!(matches!(
            error,
            Error::Range {
                arg: "candidates",
                got: 0,
                ..
            }
        ));
    }
    assert_eq!(generator.calls().calls, 0);
}

#[test]
fn steps_outside_the_generator_are_an_error() {
    let (mut generator, mut reward) = (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(0));
    for step in [0, STEPS + 1] {
        let wrong: [Box<Dyn<'_>>; 2] = [
            Box::new(Prm::new(2).with_judged_steps([step])),
            Box::new(Parm::new(2).with_min_clarity_step(step)),
        ];
        for mut strategy in wrong {
            let error =
                search(&mut *strategy, &mut generator, &mut reward, 0, &mut go_on).unwrap_err();
            assert!(matches!(error, Error::Range { min: 1, .. }));
        }
    }
}

#[test]
fn a_generator_that_fails_anywhere_leaves_nobody_alive() {
    for mut strategy in strategies(4).into_iter().chain(adaptive::wrapped(4)) {
        let mut calls = 0;
        loop {
            let mut generator = ScriptedGenerator::new(STEPS).failing_at(calls);
            let mut reward = scripted(vec![7, 3, 2, 6, 7, 0], Needs::PIXELS);
            let found = search(&mut *strategy, &mut generator, &mut reward, 3, &mut go_on);
            let reached = generator.calls().calls > calls;
            // The last call is the pruning of the winner by the test itself.
            let last = generator.calls().calls == calls + 1 && generator.alive() == 1;
            if !reached || last {
                break;
            }
            assert!(matches!(found, Err(Error::Foreign(_))));
            assert_eq!(
                (generator.alive(), reward.open()),
                (0, 0),
                "failed at call {calls}"
            );
            calls += 1;
        }
        assert!(calls >= u64::from(STEPS));
    }
}

#[test]
fn a_judge_that_fails_or_answers_nan_anywhere_leaves_nobody_alive() {
    for mut strategy in strategies(4)
        .into_iter()
        .chain(adaptive::wrapped(4))
        .skip(1)
    {
        for call in 0.. {
            let mut generator = ScriptedGenerator::new(STEPS);
            let mut reward = scripted(vec![7, 3, 2, 6, 7, 0], Needs::CODES).failing_at(call);
            let found = search(&mut *strategy, &mut generator, &mut reward, 3, &mut go_on);
            assert_eq!((generator.alive(), reward.open()), (0, 0));
            if reward.calls() <= call {
                assert!(found.is_ok() && call > 0);
                break;
            }
            assert!(matches!(found, Err(Error::Foreign(_))));
        }
        for bad in [f32::NAN, f32::INFINITY, -0.5, 1.5] {
            let mut generator = ScriptedGenerator::new(STEPS);
            let mut reward = ScriptedReward::new(move |_, key, _| {
                Verdict::new(if key.step > 1 { bad } else { 0.1 }, 0.2)
            });
            let found = search(&mut *strategy, &mut generator, &mut reward, 3, &mut go_on);
            let found_out = match found {
                Err(Error::NotFinite { op: "judge", .. }) => !bad.is_finite(),
                Err(Error::Probability {
                    op: "judge", got, ..
                }) => got.to_bits() == bad.to_bits(),
                _ => false,
            };
            assert!(found_out, "{bad}");
            assert_eq!((generator.alive(), reward.open()), (0, 0));
        }
    }
}

#[test]
fn choosing_a_stranger_is_an_error() {
    for mut strategy in strategies(3).into_iter().chain(adaptive::wrapped(3)) {
        let (mut generator, mut reward) =
            (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(1));
        let mut stranger = |_: usize, _: &maquette::Event<'_>| Flow::Choose(CandidateId(999));
        let error = search(
            &mut *strategy,
            &mut generator,
            &mut reward,
            0,
            &mut stranger,
        )
        .unwrap_err();
        assert!(matches!(
            error,
            Error::UnknownCandidate {
                op: "search",
                id: 999
            }
        ));
        assert_eq!(generator.alive(), 0);
    }
}

#[test]
fn dyn_and_generic_find_the_same() {
    fn both<S>(mut strategy: S)
    where
        S: SearchStrategy<ScriptedGenerator, ScriptedReward> + Clone + 'static,
        S: for<'a> SearchStrategy<dyn maquette::Generator + 'a, dyn RewardModel + 'a>,
    {
        let (mut generator, mut reward) =
            (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(5));
        let prompt = Prompt::new("a red car");
        let decision = strategy
            .search(
                &mut generator,
                &mut reward,
                &prompt,
                &mut Stream::new(9),
                &mut |_| Flow::Continue,
            )
            .unwrap();
        let codes = generator.codes(decision.winner).unwrap().to_vec();
        let (mut generator, mut reward) =
            (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(5));
        let found = search(&mut strategy, &mut generator, &mut reward, 9, &mut go_on).unwrap();
        assert_eq!((found.decision, found.codes), (decision, codes));
    }
    both(Plain);
    both(BestOfN::new(5));
    both(Prm::new(5));
    both(Parm::new(5));
    both(Halving::new(5, [2]));
    both(Adaptive::new(BestOfN::new(2), 3));
}

#[test]
fn every_search_beats_plain_generation_under_an_oracle() {
    let oracle = OracleReward::new(3).clear_from(3);
    let mean = |strategy: &mut Dyn<'static>| {
        let quality = |seed| {
            let (mut generator, mut reward) = (ScriptedGenerator::new(STEPS), oracle);
            oracle.quality(
                &search(strategy, &mut generator, &mut reward, seed, &mut go_on)
                    .unwrap()
                    .codes,
            )
        };
        (0..100).map(quality).sum::<f32>() / 100.0
    };
    let all: Vec<f32> = strategies(8)
        .iter_mut()
        .map(|strategy| mean(&mut **strategy))
        .collect();
    assert!(
        all[1..].iter().all(|&quality| quality > all[0] + 0.03),
        "{all:?}"
    );
}

#[test]
fn a_fake_hears_every_part_of_a_prompt() {
    let draw = |prompt: Prompt<'_>| {
        let mut generator = ScriptedGenerator::new(STEPS);
        let found = Plain.search(
            &mut generator,
            &mut ScriptedReward::seeded(1),
            &prompt,
            &mut Stream::new(3),
            &mut |_| Flow::Continue,
        );
        generator.codes(found.unwrap().winner).unwrap().to_vec()
    };
    let text = Prompt::new("a red car");
    let prompts = [
        text,
        text.with_plan("first the car"),
        text.with_plan(""),
        text.correcting(&[], "first the car"),
        text.correcting(&[7], "first the car"),
    ];
    let drawn = prompts.map(draw);
    for (i, one) in drawn.iter().enumerate() {
        assert!(!drawn[..i].contains(one), "prompt {i}");
    }
}

#[test]
fn the_fakes_conform() {
    let prompt = Prompt::new("a red car");
    for steps in [2, 5, 18] {
        conformance::generator(&mut ScriptedGenerator::new(steps), &prompt).unwrap();
    }
    let mut generator = ScriptedGenerator::new(4);
    let all = Needs::PIXELS.or(Needs::CODES).or(Needs::HIDDEN);
    for ask in [
        Judgement::Outcome,
        Judgement::Process,
        Judgement::Clarity,
        Judgement::Potential,
    ] {
        conformance::reward(&mut OracleReward::new(1), &mut generator, &prompt, ask).unwrap();
        let mut seeded = ScriptedReward::seeded(2).with_needs(all);
        conformance::reward(&mut seeded, &mut generator, &prompt, ask).unwrap();
    }
    assert_eq!(generator.alive(), 0);
}
