//! Laws of the strategies over any generator and judge: they run on the fakes here and on real models elsewhere.

use maquette::rng::Stream;
use maquette::search::MultiplyAdds;
use maquette::search::{Event, SearchStrategy};
use maquette::{
    CandidateId, Code, Cost, Decision, Flow, Generator, Judgement, Prompt, RewardModel,
};

/// What a search did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub codes: Vec<Code>,
    pub decision: Decision,
    /// Cost as the events tell it, and multiply-adds as generator and judge do.
    pub told: Cost,
    pub events: usize,
}

pub type Dyn<'a> = dyn SearchStrategy<dyn Generator + 'a, dyn RewardModel + 'a> + 'a;

/// Searches, prunes the winner, and returns what was found.
pub fn search<'a>(
    strategy: &mut Dyn<'a>,
    generator: &mut (dyn Generator + 'a),
    reward: &mut (dyn RewardModel + 'a),
    seed: u64,
    listener: &mut dyn FnMut(usize, &Event<'_>) -> Flow,
) -> maquette::Result<Outcome> {
    let (mut told, mut events) = (Cost::default(), 0);
    let before = MultiplyAdds::of(generator, reward);
    let mut rng = Stream::new(seed);
    let decision = strategy.search(
        generator,
        reward,
        &Prompt::new("a red car"),
        &mut rng,
        &mut |event| {
            match event {
                Event::Started { ids, .. } => told.candidates += ids.len() as u64,
                Event::Stepped { ids, .. } => told.steps += ids.len() as u64,
                Event::Observed { pixels, .. } => {
                    told.decodes += pixels.map_or(0, |pixels| pixels.len() as u64)
                }
                Event::Judged { judgement, .. } => told.ask(judgement, 1),
                Event::Probed { verdicts, .. } => {
                    told.ask(Judgement::Outcome, verdicts.len() as u64);
                }
                Event::Explained { .. } => told.explanations += 1,
                _ => {}
            }
            events += 1;
            listener(events - 1, &event)
        },
    )?;
    told.multiply_adds = MultiplyAdds::of(generator, reward).since(&before);
    let mut codes = vec![0; generator.grid().len()];
    generator.save(decision.winner, &mut codes)?;
    generator.prune(&[decision.winner])?;
    Ok(Outcome {
        codes,
        decision,
        told,
        events,
    })
}

pub fn go_on(_: usize, _: &Event<'_>) -> Flow {
    Flow::Continue
}

/// A choice among one is plain generation.
pub fn one_candidate_is_plain<'a>(
    strategy: &mut Dyn<'a>,
    plain: &mut Dyn<'a>,
    generator: &mut (dyn Generator + 'a),
    reward: &mut (dyn RewardModel + 'a),
    seed: u64,
) {
    let one = search(strategy, generator, reward, seed, &mut go_on).unwrap();
    let plain = search(plain, generator, reward, seed, &mut go_on).unwrap();
    assert_eq!(one.codes, plain.codes);
    assert_eq!(one.decision.cost, plain.decision.cost);
}

/// Two strategies find the same picture.
pub fn same_picture<'a>(
    a: &mut Dyn<'a>,
    b: &mut Dyn<'a>,
    generator: &mut (dyn Generator + 'a),
    reward: &mut (dyn RewardModel + 'a),
    seed: u64,
) {
    let a = search(a, generator, reward, seed, &mut go_on).unwrap();
    let b = search(b, generator, reward, seed, &mut go_on).unwrap();
    assert_eq!(a.codes, b.codes);
    assert_eq!(a.decision.fallback, b.decision.fallback);
    assert_eq!(a.decision.verdict, b.decision.verdict);
}

/// What a search reports to have spent is what its events told.
pub fn cost_is_what_was_told<'a>(
    strategy: &mut Dyn<'a>,
    generator: &mut (dyn Generator + 'a),
    reward: &mut (dyn RewardModel + 'a),
    seed: u64,
) -> Outcome {
    let found = search(strategy, generator, reward, seed, &mut go_on).unwrap();
    assert_eq!(found.decision.cost, found.told);
    assert!(!found.decision.stopped);
    found
}

/// Wherever the listener ends a search, it returns a living candidate; one that was chosen is finished.
pub fn can_end_anywhere<'a>(
    strategy: &mut Dyn<'a>,
    generator: &mut (dyn Generator + 'a),
    reward: &mut (dyn RewardModel + 'a),
    seed: u64,
) {
    let all = search(strategy, generator, reward, seed, &mut go_on)
        .unwrap()
        .events;
    for at in 0..all - 1 {
        let mut stop = |i, _: &Event<'_>| if i == at { Flow::Stop } else { Flow::Continue };
        let found = search(strategy, generator, reward, seed, &mut stop).unwrap();
        assert!(found.decision.stopped);

        // Chooses the last candidate that was heard of and not pruned.
        let mut alive: Vec<CandidateId> = Vec::new();
        let mut chosen = None;
        let mut choose = |i, event: &Event<'_>| {
            match *event {
                Event::Started { ids, .. } => alive.extend(ids),
                Event::Rejected { id, parked: false } => alive.retain(|&other| other != id),
                _ => {}
            }
            // While a batch is rejected one by one, some of the ids listed here are gone already: wait.
            let pruning = matches!(event, Event::Rejected { parked: false, .. });
            if i >= at && !pruning && chosen.is_none() {
                chosen = alive.last().copied();
                return chosen.map_or(Flow::Continue, Flow::Choose);
            }
            Flow::Continue
        };
        let found = search(strategy, generator, reward, seed, &mut choose).unwrap();
        if let Some(id) = chosen {
            assert_eq!(found.decision.winner, id);
            assert!(
                found
                    .codes
                    .iter()
                    .all(|&code| code != maquette::codes::UNKNOWN)
            );
        }
    }
}
