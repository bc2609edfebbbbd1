//! Laws of corrections.

use std::fmt;
use std::sync::{Arc, Mutex};

use maquette::generator::Needs;
use maquette::reward::{Ask, Verdict, ViewKey};
use maquette::search::{BestOfN, Correction, Event, Plain, Reflect};
use maquette::testing::{OracleReward, ScriptedGenerator, ScriptedReward};
use maquette::{Code, Flow, Judgement, RewardModel};
use proptest::prelude::*;

use crate::STEPS;
use crate::laws::{Dyn, go_on, search};
use crate::region;

const ALL: [Correction; 4] = [
    Correction::Prompted,
    Correction::Region { from: 1 },
    Correction::Scattered { from: 2 },
    Correction::Tail { from: 4 },
];

/// A judge that is never content, and says how often it was asked for its reasons.
struct Grumbler(ScriptedReward, u32);

impl RewardModel for Grumbler {
    fn needs(&self, ask: Judgement) -> Needs {
        self.0.needs(ask)
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> maquette::Result<()> {
        self.0.judge(ask, out)
    }

    fn explain(&mut self, _: &Ask<'_>, out: &mut dyn fmt::Write) -> maquette::Result<()> {
        self.1 += 1;
        write!(out, "reason {}", self.1).unwrap();
        Ok(())
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.0.forget(keys);
    }
}

/// A judge that says no to everything, the less sharply the later, and the codes it saw.
fn seen() -> (ScriptedReward, Arc<Mutex<Vec<Vec<Code>>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let judge = ScriptedReward::new(move |_, _, codes| {
        let mut kept = kept.lock().unwrap();
        kept.push(codes.to_vec());
        let p = kept.len() as f32 / 100.0;
        Verdict::new(p, 1.0 - p)
    });
    (judge.with_needs(Needs::CODES), seen)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_the_judge_never_likes_the_winner_less(n in 1_u32..5, seed: u64, sure in 0.0_f32..1.0) {
        for correction in ALL {
            let mut inner = BestOfN::new(n);
            let found = |strategy: &mut Dyn<'static>| {
                let mut judge = OracleReward::new(3);
                search(strategy, &mut ScriptedGenerator::new(STEPS), &mut judge, seed, &mut go_on).unwrap()
            };
            let before = found(&mut inner);
            let after = found(&mut Reflect::new(inner, correction).with_locator(region::first).with_confidence(sure));
            let p = |outcome: &crate::laws::Outcome| outcome.decision.verdict.map(|v| v.p_yes);
            // Of one candidate nothing is asked without corrections.
            prop_assert!(n == 1 || p(&after) >= p(&before));
            prop_assert!(after.decision.cost.candidates <= u64::from(n) + 3);
            if after.decision.cost.candidates == u64::from(n) {
                prop_assert_eq!(after.codes, before.codes);
            }
        }
    }
}

#[test]
fn a_yes_ends_the_corrections() {
    for (p, corrected) in [(0.9, 0), (0.1, 3)] {
        for correction in ALL {
            let mut judge = ScriptedReward::new(move |_, _, _| Verdict::new(p, 1.0 - p));
            let mut generator = ScriptedGenerator::new(STEPS);
            let mut strategy = Reflect::new(Plain, correction);
            let found = search(&mut strategy, &mut generator, &mut judge, 1, &mut go_on).unwrap();
            let each = match correction {
                Correction::Scattered { from }
                | Correction::Region { from }
                | Correction::Tail { from } => STEPS - from,
                _ => STEPS,
            };
            let cost = found.decision.cost;
            // Sixteen tiles are covered before the first correction, and no other picture is liked better.
            let covered = matches!(correction, Correction::Region { .. }) && corrected > 0;
            assert_eq!(cost.outcome, 1 + corrected + 16 * u64::from(covered));
            assert_eq!(cost.steps, u64::from(STEPS) + corrected * u64::from(each));
            // Equals do not replace what was there first.
            assert_eq!(found.decision.winner.0, 0);
        }
    }
}

#[test]
fn a_tail_keeps_what_was_drawn_first() {
    let (mut judge, seen) = seen();
    let mut generator = ScriptedGenerator::new(STEPS);
    let mut strategy = Reflect::new(Plain, Correction::Tail { from: 4 });
    let found = search(&mut strategy, &mut generator, &mut judge, 5, &mut go_on).unwrap();
    let seen = seen.lock().unwrap();
    let kept = found.codes.len() * 4 / STEPS as usize;
    assert_eq!(seen.len(), 4);
    for pair in seen.windows(2) {
        assert_eq!(pair[0][..kept], pair[1][..kept]);
        assert_ne!(pair[0], pair[1]);
    }
    // Each was liked better than the one before.
    assert_eq!(&found.codes, seen.last().unwrap());
}

#[test]
fn the_generator_is_told_the_reason() {
    let draw = |explains: bool| {
        let (judge, seen) = seen();
        let mut generator = ScriptedGenerator::new(STEPS);
        let mut reasons = Vec::new();
        let mut listen = |_, event: &Event<'_>| {
            if let Event::Explained { reason, key } = event {
                assert_eq!(key.step, STEPS);
                reasons.push((*reason).to_owned());
            }
            Flow::Continue
        };
        let mut strategy = Reflect::new(Plain, Correction::Prompted).with_rounds(2);
        let found = if explains {
            let mut judge = Grumbler(judge, 0);
            search(&mut strategy, &mut generator, &mut judge, 5, &mut listen)
        } else {
            let mut judge = judge;
            search(&mut strategy, &mut generator, &mut judge, 5, &mut listen)
        };
        let found = found.unwrap();
        assert_eq!(found.decision.cost, found.told);
        let pictures = seen.lock().unwrap().clone();
        (reasons, pictures)
    };
    let (reasons, told) = draw(true);
    assert_eq!(reasons, ["reason 1", "reason 2"]);
    // A judge without words corrects too, but the generator hears another prompt.
    let (none, silent) = draw(false);
    assert!(none.is_empty());
    assert_eq!(told[0], silent[0]);
    assert_ne!(told[1], silent[1]);
}
