//! Laws of budgets, of multiply-adds above all.

use maquette::generator::Needs;
use maquette::human::HumanReward;
use maquette::reward::{Verdict, ViewKey};
use maquette::search::{
    Adaptive, BestOfN, Budget, Correction, Halving, MultiplyAdds, Plain, Reflect,
};
use maquette::testing::{OracleReward, ScriptedGenerator, ScriptedReward};
use maquette::{
    Decision, Error, Event, Flow, Generator, Judgement, Prompt, RewardModel, SearchStrategy,
};
use proptest::prelude::*;

use crate::adaptive::{harmful, wrapped};
use crate::laws::{Dyn, go_on, search};
use crate::{STEPS, scripted, strategies, tallied};

/// What a step costs, by how many were taken before it.
const STEP_COSTS: [fn(u32) -> u64; 6] = [
    |_| 1,
    |_| 10,
    |taken| 3 + 2 * u64::from(taken),
    |taken| 30 - 4 * u64::from(taken),
    |taken| if taken == 2 { 50 } else { 1 },
    |_| 0,
];

/// What a question costs.
const QUESTION_COSTS: [fn(Judgement, ViewKey) -> u64; 4] = [
    |_, _| 1,
    |judgement, _| 3 * judgement as u64,
    |_, key| (key.candidate.0 * 7 + u64::from(key.step) * 5) % 11,
    |_, _| 0,
];

/// What a search announces, and how far its work is dearer than the dearest before it.
#[derive(Default)]
struct Watch {
    /// Told by the first announcement.
    begun: Option<u64>,
    spent: u64,
    /// How many candidates or views, and whether they step.
    under_way: Option<(u64, bool)>,
    step: u64,
    question: u64,
    /// The most that one of these was dearer than it looked, with what that makes of a picture's other steps.
    surprise: u64,
}

impl Watch {
    fn hear(&mut self, event: &Event<'_>) {
        let (next, spent) = match *event {
            Event::Stepping { ids, spent } => ((ids.len() as u64, true), spent),
            Event::Asking { keys, spent, .. } => ((keys.len() as u64, false), spent),
            _ => return,
        };
        self.book(spent.total().unwrap());
        self.under_way = Some(next);
    }

    fn book(&mut self, spent: u64) {
        self.begun.get_or_insert(spent);
        if let Some((n, steps)) = self.under_way {
            let cost = spent - self.spent;
            let dearest = if steps {
                &mut self.step
            } else {
                &mut self.question
            };
            let (before, each) = (*dearest, cost.div_ceil(n));
            *dearest = before.max(each);
            let grown = if steps { *dearest - before } else { 0 };
            let surprise = cost.saturating_sub(n * before) + grown * u64::from(STEPS);
            self.surprise = self.surprise.max(surprise);
        }
        self.spent = spent;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_multiply_adds_are_passed_only_by_what_was_dearer_than_before(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..8, seed: u64, kind in 0_usize..7,
        step in 0..STEP_COSTS.len(), question in 0..QUESTION_COSTS.len(), start in 0_u64..20, decode in 0_u64..20,
        limit in 0_u64..1500, sees: bool,
    ) {
        let needs = if sees { Needs::PIXELS } else { Needs::CODES };
        for strategy in strategies(n).into_iter().chain(wrapped(n)) {
            let mut generator = ScriptedGenerator::new(STEPS).with_costs(start, STEP_COSTS[step], decode);
            let judge = if kind == 6 { scripted(table.clone(), needs) } else { harmful(kind, seed).with_needs(needs) };
            let mut judge = judge.with_costs(QUESTION_COSTS[question]);
            let mut watch = Watch::default();
            let mut budget = Budget::new(strategy).with_multiply_adds(limit);
            let found = search(&mut budget, &mut generator, &mut judge, seed, &mut |_, event| {
                watch.hear(event);
                Flow::Continue
            }).unwrap();
            let decision = found.decision;
            let spent = decision.cost.multiply_adds.total().unwrap();
            prop_assert_eq!(decision.cost, found.told);
            if !decision.stopped {
                watch.book(spent);
            }
            // The steps that finish a picture may be dearer, too.
            let steps = (0..STEPS).map(STEP_COSTS[step]);
            let dearer: u64 = steps.clone().map(|cost| cost.saturating_sub(watch.step)).sum();
            let single = watch.begun.unwrap_or(0) + steps.sum::<u64>();
            let most = (limit + watch.surprise + dearer).max(single);
            prop_assert!(spent <= most, "{} of {}, at most {}: {:?}", spent, limit, most, decision);
            prop_assert!(found.codes.iter().all(|&code| code != maquette::codes::UNKNOWN));
            prop_assert_eq!((generator.alive(), judge.open()), (0, 0));
        }
    }

    #[test]
    fn prop_where_only_steps_cost_it_is_a_budget_of_steps(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..8, seed: u64, more in 0_u64..150,
        each in 1_u64..4,
    ) {
        // What the first step of all candidates costs is not known before: they and one finished picture fit in.
        let limit = u64::from(n + STEPS) - 1 + more;
        let costs = [|_| 1, |_| 2, |_| 3][each as usize - 1];
        let pairs = |n| strategies(n).into_iter().chain(wrapped(n));
        for (strategy, again) in pairs(n).zip(pairs(n)) {
            let run = |budget: &mut Dyn<'static>| {
                let mut generator = ScriptedGenerator::new(STEPS).with_costs(0, costs, 0);
                let mut judge = scripted(table.clone(), Needs::CODES).with_costs(|_, _| 0);
                search(budget, &mut generator, &mut judge, seed, &mut go_on).unwrap()
            };
            let want = run(&mut Budget::new(strategy).with_steps(limit));
            let got = run(&mut Budget::new(again).with_multiply_adds(limit * each + each - 1));
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn prop_where_only_questions_cost_it_is_a_budget_of_questions(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..8, seed: u64, more in 0_u64..60,
    ) {
        // The first question is about `n` views at most, or two copies.
        let limit = u64::from(n.max(2)) + more;
        let pairs = |n| strategies(n).into_iter().chain(wrapped(n));
        for (strategy, again) in pairs(n).zip(pairs(n)) {
            let run = |budget: &mut Dyn<'static>| {
                let mut generator = ScriptedGenerator::new(STEPS).with_costs(0, |_| 0, 0);
                let mut judge = scripted(table.clone(), Needs::CODES);
                search(budget, &mut generator, &mut judge, seed, &mut go_on).unwrap()
            };
            let want = run(&mut Budget::new(strategy).with_questions(limit));
            let got = run(&mut Budget::new(again).with_multiply_adds(limit));
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn prop_multiply_adds_enough_for_all_change_nothing(
        table in prop::collection::vec(any::<u8>(), 1..200), n in 1_u32..6, seed: u64,
    ) {
        for (mut inner, again) in strategies(n).into_iter().zip(strategies(n)) {
            let judge = || scripted(table.clone(), Needs::PIXELS);
            let mut budget = Budget::new(again).with_multiply_adds(u64::MAX);
            prop_assert_eq!(tallied(&mut budget, judge(), seed), tallied(&mut *inner, judge(), seed));
        }
    }
}

#[test]
fn a_round_begins_only_where_its_steps_still_fit_in() {
    // Two at a time: starts of 5, six steps of 10, pictures of 2 and questions of 3 make 140 a round.
    let spent = |limit| {
        let mut generator = ScriptedGenerator::new(STEPS).with_costs(5, |_| 10, 2);
        let mut judge = ScriptedReward::new(|_, _, _| Verdict::new(0.5, 0.5))
            .with_needs(Needs::PIXELS)
            .with_costs(|_, _| 3);
        let rounds = Adaptive::new(BestOfN::new(2), 50);
        let mut budget = Budget::new(rounds).with_multiply_adds(limit);
        let found = search(&mut budget, &mut generator, &mut judge, 1, &mut go_on).unwrap();
        let cost = found.decision.cost;
        assert!(found.decision.stopped);
        (cost.steps, cost.outcome, cost.multiply_adds.total())
    };
    // Of the first question nobody knows that it costs 5 a view, and the next round's start 10.
    assert_eq!(spent(130), (12, 2, Some(150)));
    assert_eq!(spent(129), (11, 0, Some(120)));
    assert_eq!(spent(1000), (84, 14, Some(990)));
    // A picture takes what it takes, after the first step of both.
    assert_eq!(spent(0), (6, 0, Some(70)));
    assert_eq!(spent(10), (7, 0, Some(80)));
}

/// Tells what it does, but not what that costs.
struct Mute<S>(S);

impl<G: Generator + ?Sized, R: RewardModel + ?Sized, S: SearchStrategy<G, R>> SearchStrategy<G, R>
    for Mute<S>
{
    fn search(
        &mut self,
        generator: &mut G,
        reward: &mut R,
        prompt: &Prompt<'_>,
        rng: &mut dyn rand_core::Rng,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> maquette::Result<Decision> {
        let mut tell = |event: Event<'_>| {
            on_event(match event {
                Event::Stepping { ids, .. } => Event::Stepping {
                    ids,
                    spent: MultiplyAdds::default(),
                },
                other => other,
            })
        };
        self.0.search(generator, reward, prompt, rng, &mut tell)
    }
}

#[test]
fn where_nobody_counts_there_is_no_such_budget() {
    let limited = || Budget::new(BestOfN::new(3)).with_multiply_adds(1000);
    fn unsupported(
        strategy: &mut Dyn<'static>,
        generator: &mut ScriptedGenerator,
        judge: &mut (dyn RewardModel + 'static),
    ) {
        let error = search(strategy, generator, judge, 1, &mut go_on).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert_eq!(generator.alive(), 0);
    }
    let mut generator = ScriptedGenerator::new(STEPS);
    let mut silent = ScriptedGenerator::new(STEPS).uncounted();
    unsupported(&mut limited(), &mut generator, &mut OracleReward::new(1));
    let mut judge = ScriptedReward::seeded(1).uncounted();
    unsupported(&mut limited(), &mut generator, &mut judge);
    unsupported(&mut limited(), &mut silent, &mut ScriptedReward::seeded(1));
    assert_eq!((generator.calls().calls, silent.calls().calls), (0, 0));
    // A strategy that does not tell is found out before its first step.
    let mut mute = Budget::new(Mute(BestOfN::new(3))).with_multiply_adds(1000);
    unsupported(&mut mute, &mut generator, &mut ScriptedReward::seeded(1));
    assert_eq!(generator.calls().steps, 0);
    // Without such a budget nobody needs to count.
    let mut plain = Budget::new(Mute(Plain)).with_steps(10);
    search(&mut plain, &mut silent, &mut judge, 1, &mut go_on).unwrap();
}

#[test]
fn a_person_computes_nothing() {
    let mut person = HumanReward::new(|_, marks| marks.yes(0));
    let mut generator = ScriptedGenerator::new(STEPS);
    let mut budget = Budget::new(BestOfN::new(3)).with_multiply_adds(21);
    let found = search(&mut budget, &mut generator, &mut person, 1, &mut go_on).unwrap();
    let work = found.decision.cost.multiply_adds;
    assert_eq!(
        (work.generator, work.decoder, work.judge),
        (Some(18), Some(3), Some(0))
    );
}

#[test]
fn a_budget_spends_all_but_what_a_round_needs() {
    // Rounds of two over six steps: 12 steps a round, so eight rounds fit into 100, and of the ninth two steps.
    let judge = ScriptedReward::new(|_, _, _| Verdict::new(0.5, 0.5));
    let mut strategy = Budget::new(Adaptive::new(BestOfN::new(2), 50)).with_steps(100);
    let found = tallied(&mut strategy, judge, 1);
    assert_eq!(
        (found.decision.cost.steps, found.decision.cost.outcome),
        (100, 16)
    );
    assert!(found.decision.stopped && found.decision.winner.0 == 0);
}

#[test]
fn a_budget_finishes_the_likeliest_unfinished_path() {
    // Process verdicts favour candidate 3; the budget ends after the second step of four candidates.
    let judge = ScriptedReward::new(|_, key, _| {
        Verdict::new(if key.candidate.0 == 3 { 0.7 } else { 0.6 }, 0.1)
    });
    let mut strategy =
        Budget::new(Halving::new(4, [1]).with_judgement(Judgement::Potential)).with_steps(10);
    let found = tallied(&mut strategy, judge, 1);
    // Four, two, and four alone.
    assert_eq!(
        (found.decision.cost.steps, found.decision.winner.0),
        (10, 3)
    );
}

#[test]
fn a_budget_within_a_search_tells_that_it_ended_something() {
    let judge = || ScriptedReward::new(|_, _, _| Verdict::new(0.5, 0.5));
    let inner = |questions| Budget::new(BestOfN::new(2)).with_questions(questions);
    for (questions, stopped) in [(0, true), (2, false)] {
        let mut strategies: [Box<Dyn<'static>>; 3] = [
            Box::new(Reflect::new(inner(questions), Correction::Prompted)),
            Box::new(Adaptive::new(inner(questions), 1)),
            Box::new(Adaptive::new(inner(questions), 3)),
        ];
        for strategy in &mut strategies {
            let decision = tallied(&mut **strategy, judge(), 1).decision;
            assert_eq!(decision.stopped, stopped);
        }
    }
}

#[test]
fn a_budget_knows_how_far_corrections_are() {
    // Every picture of six steps, every correction of three: the second round's is the best, and all are finished.
    let judge = ScriptedReward::new(|_, key, _| {
        let p = [0.5, 0.3, 0.3, 0.3, 0.4, 0.85][key.candidate.0 as usize];
        Verdict::new(p, 1.0 - p)
    });
    let corrected = |rounds| {
        Reflect::new(Plain, Correction::Tail { from: 3 })
            .with_rounds(rounds)
            .with_confidence(2.0)
    };
    let steps = 6 + 3 * 3 + 6 + 3;
    let mut budget = Budget::new(Adaptive::new(corrected(3), 10)).with_steps(steps);
    let decision = tallied(&mut budget, judge, 1).decision;
    assert_eq!((decision.winner.0, decision.cost.steps), (5, steps));
    assert!(decision.stopped);

    // Each correction is better than the picture before it, and the one that was kept needs no more steps.
    let judge =
        ScriptedReward::new(|_, key, _| Verdict::new(0.1 * (key.candidate.0 as f32 + 1.0), 0.1));
    let mut budget = Budget::new(corrected(2)).with_steps(6 + 3 + 3);
    let decision = tallied(&mut budget, judge, 1).decision;
    assert_eq!((decision.winner.0, decision.cost.outcome), (2, 3));
    assert!(!decision.stopped);
}
