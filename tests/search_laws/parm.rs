//! Laws of PARM.

use maquette::generator::Needs;
use maquette::reward::{Answer, Verdict, ViewKey};
use maquette::search::{Budget, Event, Parm, ParmForm};
use maquette::testing::{OracleReward, ScriptedGenerator, ScriptedReward};
use maquette::{CandidateId, Error, Flow, Judgement};
use proptest::prelude::*;

use crate::laws::{self, go_on, search};
use crate::{STEPS, adversary, counted, scripted};

#[derive(Debug, PartialEq)]
struct Expected {
    winner: u64,
    fallback: bool,
}

/// PARM as its released code runs, one candidate after the other.
fn parm_by_hand(
    mut judge: impl FnMut(Judgement, u64, u32) -> Verdict,
    n: u64,
    steps: u32,
    from: u32,
) -> Expected {
    let mut rejected_best = (f32::INFINITY, 0);
    let mut survivors = Vec::new();
    for c in 0..n {
        let (mut clear, mut potential, mut no_prob) = (false, false, 1.0);
        for k in from..=steps {
            if !clear && judge(Judgement::Clarity, c, k).answer != Answer::No {
                let verdict = judge(Judgement::Potential, c, k);
                potential = verdict.answer == Answer::Yes;
                no_prob = if verdict.answer == Answer::Other {
                    50.0
                } else {
                    verdict.p_no
                };
                clear = true;
            }
        }
        if potential {
            survivors.push(c);
        }
        if no_prob < rejected_best.0 {
            rejected_best = (no_prob, c);
        }
    }
    let mut best = (f32::NEG_INFINITY, 0);
    for &c in &survivors {
        let verdict = judge(Judgement::Outcome, c, steps);
        let score = if verdict.answer == Answer::Other {
            0.0
        } else {
            verdict.p_yes
        };
        if score > best.0 {
            best = (score, c);
        }
    }
    match survivors.is_empty() {
        true => Expected {
            winner: rejected_best.1,
            fallback: true,
        },
        false => Expected {
            winner: best.1,
            fallback: false,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_pruned_parm_is_released_parm(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..9, from in 1..=STEPS, seed: u64,
    ) {
        let parm = Parm::new(n).with_min_clarity_step(from);
        let run = |form| counted(&mut parm.with_form(form), scripted(table.clone(), Needs::CODES), seed);
        let (pruned, released) = (run(ParmForm::Pruned), run(ParmForm::Released));
        prop_assert_eq!(&pruned.codes, &released.codes);
        prop_assert_eq!(pruned.decision.winner, released.decision.winner);
        prop_assert_eq!(pruned.decision.verdict, released.decision.verdict);
        prop_assert_eq!(pruned.decision.cost.judged(), released.decision.cost.judged());
        prop_assert!(pruned.decision.cost.steps <= released.decision.cost.steps);

        let mut script = adversary(table);
        let key = |candidate, step| ViewKey { candidate: CandidateId(candidate), step };
        let want = parm_by_hand(|ask, c, k| script(ask, key(c, k), &[]), u64::from(n), STEPS, from);
        let got = Expected { winner: pruned.decision.winner.0, fallback: pruned.decision.fallback };
        prop_assert_eq!(got, want);
    }

    #[test]
    fn prop_limits_that_nobody_exceeds_change_nothing_and_others_hold(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..9, most in 1_u32..4, seed: u64,
    ) {
        let run = |parm: Parm| counted(&mut { parm }, scripted(table.clone(), Needs::CODES), seed);
        let (free, wide) = (run(Parm::new(n)), run(Parm::new(n).with_survivors(n).with_finalists(n)));
        prop_assert_eq!(free.decision, wide.decision);
        let (few, last) = (run(Parm::new(n).with_survivors(most)), run(Parm::new(n).with_finalists(most)));
        prop_assert!(few.decision.cost.outcome <= u64::from(most));
        prop_assert!(few.decision.cost.steps <= free.decision.cost.steps);
        prop_assert_eq!(few.decision.fallback, free.decision.fallback);
        prop_assert_eq!(last.decision.cost.outcome, free.decision.cost.outcome.min(u64::from(most)));
        prop_assert_eq!(last.decision.cost.steps, free.decision.cost.steps);
    }
}

#[test]
fn pruned_parm_draws_what_released_parm_draws_under_an_oracle() {
    for seed in 0..50 {
        let mut generator = ScriptedGenerator::new(STEPS);
        let mut oracle = OracleReward::new(seed)
            .clear_from(2)
            .hopeful_from(0.4 + seed as f32 / 200.0);
        let (mut pruned, mut released) = (Parm::new(6), Parm::new(6).with_form(ParmForm::Released));
        laws::same_picture(
            &mut pruned,
            &mut released,
            &mut generator,
            &mut oracle,
            seed,
        );
    }
}

#[test]
fn limits_of_nobody_are_an_error() {
    let (mut generator, mut reward) = (ScriptedGenerator::new(STEPS), ScriptedReward::seeded(0));
    for (mut parm, name) in [
        (Parm::new(2).with_survivors(0), "survivors"),
        (Parm::new(2).with_finalists(0), "finalists"),
    ] {
        let error = search(&mut parm, &mut generator, &mut reward, 0, &mut go_on).unwrap_err();
        assert!(matches!(error, Error::Range { arg, min: 1, .. } if arg == name));
    }
}

#[test]
fn parm_costs_what_the_cost_model_says() {
    // N = 20, 18 steps, all clear at step 11, every second candidate survives.
    let script = |judgement, key: ViewKey, _: &[u32]| match judgement {
        Judgement::Clarity if key.step < 11 => Verdict::new(0.0, 1.0),
        Judgement::Potential if key.candidate.0.is_multiple_of(2) => Verdict::new(0.2, 0.8),
        _ => Verdict::new(0.9, 0.1),
    };
    let mut generator = ScriptedGenerator::new(18);
    let mut reward = ScriptedReward::new(script).with_needs(Needs::PIXELS);
    let cost = search(
        &mut Parm::new(20),
        &mut generator,
        &mut reward,
        0,
        &mut go_on,
    )
    .unwrap()
    .decision
    .cost;
    assert_eq!((cost.steps, cost.decodes), (290, 230));
    assert_eq!((cost.clarity, cost.potential, cost.outcome), (220, 20, 10));
    assert_eq!(generator.calls().step_batches, 18);
    assert_eq!(reward.calls(), 11 + 1 + 1);
}

/// One of two paths is clear at the second step and has no potential; the other is hardly ever unclear.
fn hopeless(judgement: Judgement, key: ViewKey, _: &[u32]) -> Verdict {
    match judgement {
        Judgement::Clarity if key.candidate.0 == 1 => Verdict::new(0.45, 0.55),
        Judgement::Clarity if key.step == 2 => Verdict::new(0.9, 0.1),
        Judgement::Clarity => Verdict::new(0.1, 0.9),
        _ => Verdict::new(0.2, 0.8),
    }
}

#[test]
fn a_path_that_came_back_is_the_best_wherever_the_search_ends() {
    let whole = counted(&mut Parm::new(2), ScriptedReward::new(hopeless), 1).decision;
    assert_eq!((whole.winner.0, whole.fallback), (0, true));
    for ends in 2..STEPS {
        for flow in [Flow::Stop, Flow::Choose(CandidateId(0))] {
            let mut generator = ScriptedGenerator::new(STEPS);
            let mut reward = ScriptedReward::new(hopeless);
            let mut back = false;
            let mut listen = |_, event: &Event<'_>| {
                back |= matches!(event, Event::Resumed { .. });
                match *event {
                    Event::Stepped { step, .. } if back && step == ends => return flow,
                    Event::Resumed { .. } if ends == 2 => return flow,
                    _ => {}
                }
                Flow::Continue
            };
            let mut parm = Parm::new(2);
            let found = search(&mut parm, &mut generator, &mut reward, 1, &mut listen);
            let decision = found.unwrap().decision;
            assert_eq!((decision.winner.0, decision.fallback), (0, true), "{ends}");
            assert!(decision.stopped);
        }
    }
}

#[test]
fn a_budget_may_end_while_a_path_comes_back() {
    // Both are clear and without potential at the second step, and the steps after it are dear.
    let mut generator =
        ScriptedGenerator::new(STEPS).with_costs(0, |taken| if taken < 2 { 1 } else { 100 }, 0);
    let mut reward = ScriptedReward::new(|judgement, key, _| match judgement {
        Judgement::Clarity if key.step == 2 => Verdict::new(0.9, 0.1),
        _ => Verdict::new(0.2, 0.8),
    })
    .with_costs(|_, _| 0);
    let mut budget = Budget::new(Parm::new(2)).with_multiply_adds(100);
    let found = search(&mut budget, &mut generator, &mut reward, 1, &mut go_on).unwrap();
    let decision = found.decision;
    assert_eq!((decision.winner.0, decision.cost.steps), (0, 4 + 4));
    assert!(decision.stopped && decision.fallback);
}
