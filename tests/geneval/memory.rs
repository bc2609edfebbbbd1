//! Searches that share what they draw find what each finds alone.

use maquette::codes::{Code, CodeGrid};
use maquette::generator::{Generator, Needs};
use maquette::rng::Stream;
use maquette::search::{BestOfN, Correction, Halving, Parm, Plain, Prm, Reflect, SearchStrategy};
use maquette::testing::{OracleReward, ScriptedGenerator, ScriptedReward, conformance};
use maquette::{Decision, Flow, Judgement, Prompt, RewardModel, Verdict};
use support::memory::{Memory, Remembering, RememberingJudge};

const STEPS: u32 = 6;

fn prompt() -> Prompt<'static> {
    Prompt::new("a photo of a red car")
}

fn generator(memory: &Memory) -> Remembering {
    Remembering::new(Box::new(ScriptedGenerator::new(STEPS)), memory)
}

fn judge(memory: &Memory) -> RememberingJudge {
    RememberingJudge::new(Box::new(OracleReward::new(3).clear_from(2)), memory, 0)
}

/// Fails if it is asked.
fn silent() -> ScriptedReward {
    let judge = ScriptedReward::new(|_, _, _| Verdict::malformed());
    judge.with_needs(Needs::CODES).failing_at(0)
}

type Search = Box<dyn SearchStrategy<dyn Generator, dyn RewardModel>>;

fn searches() -> Vec<Search> {
    vec![
        Box::new(Parm::new(6)),
        Box::new(BestOfN::new(6)),
        Box::new(Halving::new(6, [2, 4])),
        Box::new(Plain),
        Box::new(Prm::new(4).with_width(2)),
        Box::new(Reflect::new(BestOfN::new(2), Correction::Scattered { from: 3 }).with_rounds(3)),
        Box::new(Parm::new(9)),
    ]
}

/// What a search finds, and the winner's codes.
fn found(
    search: &mut Search,
    generator: &mut (dyn Generator + 'static),
    reward: &mut (dyn RewardModel + 'static),
) -> (Decision, Vec<Code>) {
    let mut rng = Stream::new(5);
    let mut hear = |_: maquette::Event<'_>| Flow::Continue;
    let decision = search
        .search(generator, reward, &prompt(), &mut rng, &mut hear)
        .unwrap();
    let mut codes = vec![0; generator.grid().len()];
    generator.save(decision.winner, &mut codes).unwrap();
    generator.prune(&[decision.winner]).unwrap();
    (decision, codes)
}

#[test]
fn both_keep_the_laws_and_know_them_the_second_time() {
    let memory = Memory::default();
    for _ in 0..2 {
        conformance::generator(&mut generator(&memory), &prompt()).unwrap();
        for ask in [
            Judgement::Outcome,
            Judgement::Process,
            Judgement::Clarity,
            Judgement::Potential,
        ] {
            let (mut generator, mut judge) = (generator(&memory), judge(&memory));
            conformance::reward(&mut judge, &mut generator, &prompt(), ask).unwrap();
        }
    }
}

#[test]
fn searches_that_share_find_what_each_finds_alone() {
    let memory = Memory::default();
    for round in 0..2 {
        for (at, mut search) in searches().into_iter().enumerate() {
            let alone = found(
                &mut search,
                &mut ScriptedGenerator::new(STEPS),
                &mut OracleReward::new(3).clear_from(2),
            );
            let shared = found(&mut search, &mut generator(&memory), &mut judge(&memory));
            assert_eq!(shared.1, alone.1, "search {at}, round {round}");
            let told = |d: &Decision| (d.verdict, d.fallback, d.cost.steps, d.cost.judged());
            assert_eq!(
                told(&shared.0),
                told(&alone.0),
                "search {at}, round {round}"
            );
        }
    }
}

#[test]
fn what_is_known_is_neither_drawn_nor_asked_again() {
    let memory = Memory::default();
    let mut search: Search = Box::new(BestOfN::new(6));
    let first = found(&mut search, &mut generator(&memory), &mut judge(&memory));
    // A generator that draws something else, and a judge that has nothing to say: nobody asks them.
    let mut other = Remembering::new(
        Box::new(ScriptedGenerator::new(STEPS).with_grid(CodeGrid::new(4, 4, 3))),
        &memory,
    );
    let mut quiet = RememberingJudge::new(Box::new(silent()), &memory, 0);
    let again = found(&mut search, &mut other, &mut quiet);
    assert_eq!(again.1, first.1);
    assert_eq!(again.0.verdict, first.0.verdict);
    // Under another name it is another judge.
    let mut stranger = RememberingJudge::new(Box::new(silent()), &memory, 1);
    let mut hear = |_: maquette::Event<'_>| Flow::Continue;
    let mut rng = Stream::new(5);
    let result = search.search(&mut other, &mut stranger, &prompt(), &mut rng, &mut hear);
    assert!(result.is_err());
}
