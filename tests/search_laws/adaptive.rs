//! Strategies that spend where it helps: laws of their own, and judges that mean harm.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use maquette::generator::Needs;
use maquette::human::HumanReward;
use maquette::reward::{Answer, Verdict, ViewKey};
use maquette::search::{
    Adaptive, BestOfN, Budget, Correction, Halving, Parm, ParmForm, Plain, Prm, Reflect,
};
use maquette::testing::{OracleReward, ScriptedGenerator, ScriptedReward};
use maquette::{Error, Event, Flow, Judgement};
use proptest::prelude::*;

use crate::laws::{self, Dyn, Outcome, go_on, search};
use crate::{STEPS, adversary, counted, region, scripted, strategies};

/// Wrapped in rounds, in budgets, and in both.
pub fn wrapped(n: u32) -> Vec<Box<Dyn<'static>>> {
    let half = n.div_ceil(2);
    vec![
        Box::new(Adaptive::new(Plain, n)),
        Box::new(Adaptive::new(BestOfN::new(half), 3).with_confidence(0.95)),
        Box::new(Adaptive::new(Parm::new(half), 2)),
        Box::new(Adaptive::new(Adaptive::new(Prm::new(half), 2), 2)),
        Box::new(Budget::new(Parm::new(n)).with_steps(40)),
        Box::new(Budget::new(Adaptive::new(Halving::new(half, [2, 3]), 4)).with_steps(50)),
        Box::new(Adaptive::new(
            Budget::new(BestOfN::new(half)).with_questions(2),
            3,
        )),
        Box::new(Budget::new(Adaptive::new(Plain, n)).with_multiply_adds(20)),
        Box::new(Reflect::new(Plain, Correction::Prompted)),
        Box::new(Reflect::new(Parm::new(half), Correction::Tail { from: 2 })),
        Box::new(
            Reflect::new(BestOfN::new(half), Correction::Scattered { from: 3 })
                .with_confidence(0.95),
        ),
        Box::new(
            Reflect::new(BestOfN::new(half), Correction::Region { from: 2 })
                .with_locator(region::first)
                .with_confidence(0.95),
        ),
        Box::new(
            Budget::new(Reflect::new(Plain, Correction::Tail { from: 0 }).with_confidence(2.0))
                .with_steps(40),
        ),
    ]
}

/// The same search once more, on fresh fakes.
fn again(strategy: &mut Dyn<'static>, table: &[u8], seed: u64) -> Outcome {
    counted(strategy, scripted(table.to_vec(), Needs::CODES), seed)
}

/// Judges that mean harm, by what they answer.
pub fn harmful(kind: usize, seed: u64) -> ScriptedReward {
    let says = |p_yes, p_no, answer| {
        move |_: Judgement, _: ViewKey, _: &[u32]| Verdict::new(p_yes, p_no).with_answer(answer)
    };
    match kind {
        0 => ScriptedReward::new(says(1.0, 0.0, Answer::Yes)),
        1 => ScriptedReward::new(says(0.0, 1.0, Answer::No)),
        2 => ScriptedReward::seeded(seed),
        // It says what it does not believe, and believes two things at once.
        3 => ScriptedReward::new(says(1.0, 1.0, Answer::No)),
        4 => ScriptedReward::new(says(0.0, 1.0, Answer::Yes)),
        // It takes back what it said at the step before.
        5 => ScriptedReward::new(|_, key, _| {
            let p = f32::from(u8::from(key.step.is_multiple_of(2)));
            Verdict::new(p, 1.0 - p)
        }),
        _ => ScriptedReward::new(says(f32::NAN, f32::NAN, Answer::Yes)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_rounds_that_are_never_sure_are_one_best_of_n(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..5, rounds in 1_u32..5, seed: u64,
    ) {
        let mut all = BestOfN::new(n * rounds);
        let want = again(&mut all, &table, seed);
        let got = again(&mut Adaptive::new(BestOfN::new(n), rounds).with_confidence(2.0), &table, seed);
        prop_assert_eq!(&got.codes, &want.codes);
        prop_assert_eq!(got.decision.verdict, want.decision.verdict);
        prop_assert_eq!(got.decision.cost, want.decision.cost);
    }

    #[test]
    fn prop_one_round_is_the_inner_strategy(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..6, seed: u64,
    ) {
        for (mut inner, again_inner) in strategies(n).into_iter().zip(strategies(n)) {
            let want = again(&mut *inner, &table, seed);
            let got = again(&mut Adaptive::new(again_inner, 1), &table, seed);
            prop_assert_eq!(&got.codes, &want.codes);
            prop_assert_eq!(got.decision.cost, want.decision.cost);
            prop_assert_eq!(got.decision.fallback, want.decision.fallback);
        }
    }

    #[test]
    fn prop_a_budget_without_limits_changes_nothing(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..6, seed: u64,
    ) {
        for (mut inner, other) in strategies(n).into_iter().zip(strategies(n)) {
            prop_assert_eq!(again(&mut Budget::new(other), &table, seed), again(&mut *inner, &table, seed));
        }
    }

    #[test]
    fn prop_steps_and_questions_are_never_passed_and_the_winner_is_finished(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..8, seed: u64, kind in 0_usize..7,
        steps in u64::from(STEPS)..150, questions in 0_u64..60,
    ) {
        for strategy in strategies(n).into_iter().chain(wrapped(n)) {
            let mut generator = ScriptedGenerator::new(STEPS);
            let mut judge = if kind == 6 { scripted(table.clone(), Needs::CODES) } else { harmful(kind, seed) };
            let mut budget = Budget::new(strategy).with_steps(steps).with_questions(questions);
            let found = search(&mut budget, &mut generator, &mut judge, seed, &mut go_on).unwrap();
            let cost = found.decision.cost;
            prop_assert_eq!(cost, found.told);
            prop_assert!(cost.steps <= steps && cost.judged() <= questions, "{:?}", cost);
            prop_assert!(found.codes.iter().all(|&code| code != maquette::codes::UNKNOWN));
            prop_assert_eq!((generator.alive(), judge.open()), (0, 0));
        }
    }

    #[test]
    fn prop_time_is_kept_by_a_steady_clock(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..8, seed: u64, limit in 0_u64..200,
    ) {
        // A step of any batch takes 3 ms, a question 2; what was announced and then not done took no time.
        for strategy in strategies(n).into_iter().chain(wrapped(n)) {
            let time = Arc::new(AtomicU64::new(500));
            let clock = { let time = Arc::clone(&time); move || Duration::from_millis(time.load(Relaxed)) };
            let mut generator = ScriptedGenerator::new(STEPS);
            let mut judge = scripted(table.clone(), Needs::CODES);
            let mut announced = 0;
            let mut tick = |_: usize, event: &Event<'_>| {
                let done = match event {
                    Event::Stepped { .. } => announced != 2,
                    Event::Observed { .. } | Event::Judged { .. } | Event::Probed { .. } => announced == 2,
                    _ => false,
                };
                if !done {
                    time.fetch_sub(announced, Relaxed);
                }
                if matches!(event, Event::Stepped { .. }) && announced != 3 {
                    time.fetch_add(3, Relaxed);
                }
                announced = match event {
                    Event::Stepping { .. } => 3,
                    Event::Asking { .. } => 2,
                    _ => 0,
                };
                time.fetch_add(announced, Relaxed);
                Flow::Continue
            };
            let mut budget = Budget::new(strategy).with_time(Duration::from_millis(limit), clock);
            let found = search(&mut budget, &mut generator, &mut judge, seed, &mut tick).unwrap();
            // A single picture takes what it takes, and how long a question takes is known after the first.
            let (spent, single) = (time.load(Relaxed) - 500, u64::from(STEPS) * 3);
            prop_assert!(spent <= limit.max(single) + 2, "{} of {}: {:?}", spent, limit, found.decision);
            prop_assert!(found.codes.iter().all(|&code| code != maquette::codes::UNKNOWN));
        }
    }

    #[test]
    fn prop_harmful_judges_end_every_search_and_leave_nobody(
        n in 1_u32..8, seed: u64, kind in 0_usize..7,
    ) {
        for mut strategy in strategies(n).into_iter().chain(wrapped(n)) {
            let mut generator = ScriptedGenerator::new(STEPS);
            let mut judge = harmful(kind, seed);
            let found = search(&mut *strategy, &mut generator, &mut judge, seed, &mut go_on);
            prop_assert_eq!((generator.alive(), judge.open()), (0, 0));
            match found {
                Ok(found) => {
                    prop_assert_eq!(found.decision.cost, found.told);
                    prop_assert!(kind < 6 || judge.calls() == 0);
                }
                Err(error) => {
                    let found_out = matches!(error, Error::NotFinite { op: "judge", .. });
                    prop_assert!(kind == 6 && found_out);
                }
            }
        }
    }

    #[test]
    fn prop_halving_without_rungs_is_best_of_n(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..9, seed: u64,
    ) {
        let (mut halving, mut best) = (Halving::new(n, []), BestOfN::new(n));
        prop_assert_eq!(again(&mut halving, &table, seed), again(&mut best, &table, seed));
    }

    #[test]
    fn prop_halving_keeps_the_better_half_at_each_rung(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..9, seed: u64, first in 1..STEPS,
    ) {
        let rungs = [first, STEPS];
        let found = again(&mut Halving::new(n, rungs), &table, seed);
        // By hand: sort by score and number, keep half, sort back.
        let mut judge = adversary(table);
        let mut score = |ask, id: u64, step| {
            let key = ViewKey { candidate: maquette::CandidateId(id), step };
            let verdict = judge(ask, key, &[]);
            if verdict.answer == Answer::Other { 0.0 } else { verdict.p_yes }
        };
        let mut alive: Vec<u64> = (0..u64::from(n)).collect();
        for rung in rungs {
            let mut scored: Vec<(f32, u64)> =
                alive.iter().map(|&id| (score(Judgement::Process, id, rung), id)).collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            scored.truncate(alive.len().div_ceil(2));
            alive = scored.iter().map(|s| s.1).collect();
            alive.sort_unstable();
        }
        let mut best = (f32::NEG_INFINITY, 0);
        for &id in &alive {
            let score = score(Judgement::Outcome, id, STEPS);
            if score > best.0 {
                best = (score, id);
            }
        }
        prop_assert_eq!(found.decision.winner.0, best.1);
    }

    #[test]
    fn prop_a_rare_clarity_question_finds_the_same_once_clear_stays_clear(
        n in 1_u32..8, seed: u64, clear in 1..=STEPS, every in 1..=STEPS, from in 1..=STEPS,
    ) {
        // Clear from a step on, with a potential that does not change: late questions get the early answers.
        let judge = || {
            let mut random = ScriptedReward::seeded(seed);
            ScriptedReward::new(move |ask, key, _| match ask {
                Judgement::Clarity if key.step < clear => Verdict::new(0.0, 1.0),
                Judgement::Clarity => Verdict::new(1.0, 0.0),
                _ => {
                    let prompt = maquette::Prompt::new("");
                    let keys = [ViewKey { step: 0, ..key }];
                    let mut out = [Verdict::malformed()];
                    maquette::RewardModel::judge(&mut random, &maquette::reward::Ask::new(ask, &prompt, &keys), &mut out)
                        .unwrap();
                    out[0]
                }
            })
        };
        let rare = Parm::new(n).with_min_clarity_step(from).with_clarity_interval(every);
        for form in [ParmForm::Pruned, ParmForm::Released] {
            let often = counted(&mut Parm::new(n).with_form(form), judge(), seed);
            let rare = counted(&mut rare.with_form(form), judge(), seed);
            prop_assert_eq!(rare.codes, often.codes);
            prop_assert!(rare.decision.cost.clarity <= often.decision.cost.clarity);
        }
    }

    #[test]
    fn prop_a_beam_keeps_the_best_paths(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..8, width in 1_u32..8, seed: u64,
    ) {
        let width = width.min(n);
        let found = again(&mut Prm::new(n).with_width(width), &table, seed);
        let cost = found.decision.cost;
        if n == 1 {
            prop_assert_eq!(cost.judged(), 0);
        } else {
            let (n, width, steps) = (u64::from(n), u64::from(width), u64::from(STEPS));
            prop_assert_eq!((cost.steps, cost.process), (n * steps, n * steps));
            prop_assert_eq!(cost.candidates, n + (n - width) * (steps - 1));
        }
    }
}

#[test]
fn a_search_in_rounds_ends_once_it_is_sure() {
    // The third candidate is the first to convince.
    let judge = || {
        ScriptedReward::new(|_, key, _| {
            Verdict::new(if key.candidate.0 < 2 { 0.4 } else { 0.9 }, 0.1)
        })
    };
    let found = counted(&mut Adaptive::new(Plain, 8), judge(), 1);
    let cost = found.decision.cost;
    assert_eq!(
        (cost.candidates, cost.outcome, found.decision.winner.0),
        (3, 3, 2)
    );
    let unsure = counted(
        &mut Adaptive::new(Plain, 8).with_confidence(0.95),
        judge(),
        1,
    );
    assert_eq!(
        (unsure.decision.cost.candidates, unsure.decision.winner.0),
        (8, 2)
    );
}

#[test]
fn a_fallback_of_one_round_gives_way_to_a_better_outcome_of_another() {
    // In the first round nobody has potential, and the outcome of the one that runs to its end is asked here.
    let judge = |late: f32| {
        ScriptedReward::new(move |ask, key, _| match ask {
            Judgement::Potential if key.candidate.0 < 2 => Verdict::new(0.1, 0.8),
            Judgement::Outcome => Verdict::new(if key.candidate.0 < 2 { 0.5 } else { late }, 0.1),
            _ => Verdict::new(0.9, 0.1),
        })
    };
    let mut strategy = Adaptive::new(Parm::new(2), 2);
    let better = counted(&mut strategy, judge(0.6), 1).decision;
    assert_eq!((better.winner.0, better.fallback), (2, false));
    let worse = counted(&mut strategy, judge(0.4), 1).decision;
    assert_eq!((worse.winner.0, worse.fallback), (0, true));
    assert_eq!(worse.verdict.unwrap().p_yes, 0.5);
}

#[test]
fn settings_without_a_meaning_are_errors() {
    let (mut generator, mut reward) = (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(0));
    let wrong: [(&str, Box<Dyn<'static>>); 11] = [
        (
            "steps kept by a correction",
            Box::new(Reflect::new(Plain, Correction::Scattered { from: STEPS })),
        ),
        ("rounds", Box::new(Adaptive::new(Plain, 0))),
        ("candidates", Box::new(Adaptive::new(BestOfN::new(0), 2))),
        ("candidates", Box::new(Halving::new(0, [1]))),
        ("rungs", Box::new(Halving::new(4, [0]))),
        ("rungs", Box::new(Halving::new(4, [2, STEPS + 1]))),
        ("width", Box::new(Prm::new(4).with_width(0))),
        ("width", Box::new(Prm::new(4).with_width(5))),
        (
            "clarity_interval",
            Box::new(Parm::new(4).with_clarity_interval(0)),
        ),
        (
            "clarity_interval",
            Box::new(Parm::new(4).with_clarity_interval(STEPS + 1)),
        ),
        (
            "budget of steps",
            Box::new(Budget::new(Plain).with_steps(u64::from(STEPS) - 1)),
        ),
    ];
    for (name, mut strategy) in wrong {
        let error = search(&mut *strategy, &mut generator, &mut reward, 0, &mut go_on).unwrap_err();
        assert!(
            matches!(error, Error::Range { arg, .. } if arg == name),
            "{name}: {error}"
        );
    }
    let unsure: [Box<Dyn<'static>>; 2] = [
        Box::new(Adaptive::new(Plain, 2).with_confidence(f32::NAN)),
        Box::new(Reflect::new(Plain, Correction::Prompted).with_confidence(f32::NAN)),
    ];
    for mut unsure in unsure {
        let error = search(&mut *unsure, &mut generator, &mut reward, 0, &mut go_on).unwrap_err();
        assert!(matches!(
            error,
            Error::NotFinite {
                arg: "confidence",
                ..
            }
        ));
    }
    let mut outcome = Halving::new(2, [1]).with_judgement(Judgement::Outcome);
    let error = search(&mut outcome, &mut generator, &mut reward, 0, &mut go_on).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
    assert_eq!(generator.calls().calls, 0);
}

#[test]
fn a_listener_that_insists_cannot_hold_a_search_up() {
    // It answers every event with the same wish, announced steps included.
    for mut strategy in strategies(3).into_iter().chain(wrapped(3)) {
        let (mut generator, mut reward) =
            (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(1));
        let mut first = None;
        let mut insist = |_: usize, event: &Event<'_>| {
            if let (None, Event::Started { ids, .. }) = (first, event) {
                first = ids.first().copied();
            }
            first.map_or(Flow::Continue, Flow::Choose)
        };
        let found = search(&mut *strategy, &mut generator, &mut reward, 0, &mut insist).unwrap();
        assert_eq!(Some(found.decision.winner), first);
        assert_eq!(found.decision.cost.steps, u64::from(STEPS));
    }
}

#[test]
fn rounds_and_rungs_beat_plain_generation_under_an_oracle_for_less() {
    let oracle = OracleReward::new(3).clear_from(3);
    let mean = |strategy: &mut Dyn<'static>| {
        let (mut quality, mut steps) = (0.0, 0);
        for seed in 0..100 {
            let (mut generator, mut reward) = (ScriptedGenerator::new(STEPS), oracle);
            let found = search(strategy, &mut generator, &mut reward, seed, &mut go_on).unwrap();
            quality += oracle.quality(&found.codes) / 100.0;
            steps += found.decision.cost.steps;
        }
        (quality, steps)
    };
    let plain = mean(&mut Plain);
    let best = mean(&mut BestOfN::new(8));
    let thrifty: [Box<Dyn<'static>>; 4] = [
        Box::new(Adaptive::new(BestOfN::new(2), 4).with_confidence(0.6)),
        Box::new(Halving::new(8, [3])),
        Box::new(Budget::new(Adaptive::new(Plain, 8)).with_steps(30)),
        Box::new(Adaptive::new(Prm::new(4).with_width(2), 2).with_confidence(0.5)),
    ];
    for (i, mut strategy) in thrifty.into_iter().enumerate() {
        let (quality, steps) = mean(&mut *strategy);
        assert!(
            quality > plain.0 + 0.03 && steps < best.1,
            "{i}: {quality} for {steps}, plain {plain:?}, best {best:?}"
        );
    }
}

#[test]
fn a_person_decides_what_is_kept() {
    let mut asked = Vec::new();
    let mut person = HumanReward::new(|ask, marks| {
        asked.push((ask.judgement, ask.keys.len()));
        // The last view of every sheet.
        marks.yes(ask.keys.len() - 1)
    });
    let mut generator = ScriptedGenerator::new(STEPS);
    let mut strategy = Halving::new(4, [2]);
    let found = laws::cost_is_what_was_told(&mut strategy, &mut generator, &mut person, 5);
    assert_eq!(found.decision.winner.0, 3);
    assert_eq!(asked, [(Judgement::Process, 4), (Judgement::Outcome, 2)]);

    let mut clumsy = HumanReward::new(|ask, marks| marks.yes(ask.keys.len()));
    let error = search(&mut strategy, &mut generator, &mut clumsy, 5, &mut go_on).unwrap_err();
    assert!(matches!(
        error,
        Error::Range {
            arg: "mark",
            got: 4,
            max: 3,
            ..
        }
    ));
    let mut gone = HumanReward::new(|_, _| Err(Error::foreign("the window was closed")));
    let error = search(&mut strategy, &mut generator, &mut gone, 5, &mut go_on).unwrap_err();
    assert!(matches!(error, Error::Foreign(_)));
    assert_eq!(generator.alive(), 0);
}
