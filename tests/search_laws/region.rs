//! Laws of drawing the region at fault anew.

use std::fmt;

use maquette::codes::UNKNOWN;
use maquette::generator::Needs;
use maquette::parts::{Inspector, Part, Tell};
use maquette::reason::Fault;
use maquette::reward::{Ask, Verdict, ViewKey};
use maquette::search::{
    BestOfN, Budget, Correction, Event, Occlusion, Plain, Probe, Reflect, Sight,
};
use maquette::testing::{ScriptedGenerator, ScriptedReward};
use maquette::{CandidateId, Code, Error, Flow, ImageBatch, Judgement, Prompt, RewardModel};
use proptest::prelude::*;

use crate::adaptive::harmful;
use crate::laws::{Dyn, go_on, search};
use crate::{STEPS, tallied};

/// A locator of its own: it asks about two copies where the judge can be shown any, and likes what it sees first least.
pub fn first(
    sight: &Sight<'_>,
    probe: &mut Probe<'_>,
    support: &mut [f32],
) -> maquette::Result<()> {
    let all = sight.ask.pixels.unwrap();
    assert_eq!((all.len(), sight.ask.keys.len()), (1, 1));
    let twice = all.pixels().repeat(2);
    let copies = ImageBatch::new(2, all.size(), &twice)?;
    match probe(7, sight.ask.prompt, copies, &mut [Verdict::malformed(); 2]) {
        Ok(()) | Err(Error::Unsupported { .. }) => {}
        Err(error) => return Err(error),
    }
    for (place, support) in support.iter_mut().enumerate() {
        *support = place as f32;
    }
    Ok(())
}

/// A cup and a red cup.
fn parts(_: &str, tell: &mut Tell<'_>) -> maquette::Result<()> {
    let object = "cup";
    tell(Part::new("a cup", Fault::Missing { object }))?;
    let (wanted, found) = (Some("red"), None);
    tell(Part::new(
        "a red cup",
        Fault::Colour {
            object,
            wanted,
            found,
        },
    ))
}

const REGION: Correction = Correction::Region { from: 4 };

/// Whatever covers tiles, for judges of pixels.
fn covering(n: u32) -> Vec<Box<Dyn<'static>>> {
    let wide = Occlusion::new().with_side(2);
    vec![
        Box::new(Reflect::new(Plain, REGION)),
        Box::new(Reflect::new(BestOfN::new(n), REGION).with_confidence(2.0)),
        Box::new(Reflect::new(BestOfN::new(n), REGION).with_locator(wide.with_parts(parts))),
        Box::new(
            Budget::new(
                Reflect::new(Plain, REGION)
                    .with_locator(wide.with_parts(parts))
                    .with_confidence(2.0),
            )
            .with_questions(20),
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_covered_pictures_are_counted_and_harmful_judges_leave_nobody(
        n in 1_u32..5, seed: u64, kind in 0_usize..7, questions in 0_u64..40,
    ) {
        for mut strategy in covering(n) {
            let judge = || harmful(kind, seed).with_needs(Needs::PIXELS);
            let mut generator = ScriptedGenerator::new(STEPS);
            let mut hurt = judge();
            match search(&mut *strategy, &mut generator, &mut hurt, seed, &mut go_on) {
                Ok(_) => { prop_assert!(kind < 6); tallied(&mut *strategy, judge(), seed); }
                Err(error) => {
                    let found_out = matches!(error, Error::NotFinite { op: "judge", .. });
                    prop_assert!(kind == 6 && found_out);
                }
            }
            prop_assert_eq!((generator.alive(), hurt.open()), (0, 0));
            let mut budget = Budget::new(strategy).with_questions(questions);
            if kind < 6 {
                let spent = tallied(&mut budget, judge(), seed).decision.cost;
                prop_assert!(spent.judged() <= questions, "{:?}", spent);
            }
        }
    }
}

#[test]
fn what_helps_least_is_drawn_anew_and_the_rest_is_kept() {
    let mut generator = ScriptedGenerator::new(STEPS);
    let mut judge = ScriptedReward::new(|_, key, _| {
        let p = key.candidate.0 as f32 / 8.0;
        Verdict::new(p, 1.0 - p)
    });
    let mut regions = Vec::new();
    let mut listen = |_, event: &Event<'_>| {
        if let Event::Located { key, codes } = event {
            assert_eq!(key.step, STEPS);
            regions.push(codes.to_vec());
        }
        Flow::Continue
    };
    let mut strategy = Reflect::new(Plain, REGION)
        .with_locator(first)
        .with_rounds(1);
    let found = search(&mut strategy, &mut generator, &mut judge, 5, &mut listen).unwrap();
    // 16 · cos(π/2 · 4/6), a little less than eight in floats.
    let [region] = <[Vec<Code>; 1]>::try_from(regions).unwrap();
    assert!(region[..7].iter().all(|&code| code == UNKNOWN));
    assert!(region[7..].iter().all(|&code| code != UNKNOWN));
    // This generator draws the rest of its steps' codes again in any case.
    assert_eq!(
        (found.decision.winner.0, &found.codes[7..10]),
        (1, &region[7..10])
    );
    let cost = found.decision.cost;
    assert_eq!((cost.steps, cost.outcome), (u64::from(STEPS) + 2, 2 + 2));
}

#[test]
fn a_picture_is_covered_once_however_often_it_is_corrected() {
    for (better, covered) in [(false, 1), (true, 3)] {
        let mut judge = ScriptedReward::new(move |_, key, _| {
            let p = if better {
                key.candidate.0 as f32 / 8.0
            } else {
                0.0
            };
            Verdict::new(p, 1.0 - p)
        });
        let mut generator = ScriptedGenerator::new(STEPS);
        let mut strategy = Reflect::new(Plain, REGION).with_locator(Occlusion::new().with_side(3));
        let found = search(&mut strategy, &mut generator, &mut judge, 3, &mut go_on).unwrap();
        assert_eq!(found.decision.cost.outcome, 1 + covered * 9 + 3);
    }
}

#[test]
fn codes_cannot_be_covered_nor_can_nothing_be_located() {
    let mut judge = ScriptedReward::seeded(1).with_needs(Needs::CODES);
    let mut generator = ScriptedGenerator::new(STEPS);
    let region = Reflect::new(Plain, REGION).with_confidence(2.0);
    for (strategy, unsupported) in [
        (&mut { region } as &mut Dyn<'static>, true),
        (&mut region.with_locator(nowhere), false),
    ] {
        let error = search(strategy, &mut generator, &mut judge, 1, &mut go_on).unwrap_err();
        assert_eq!(
            matches!(error, Error::Unsupported { .. }),
            unsupported,
            "{error}"
        );
        let nan = matches!(
            error,
            Error::NotFinite {
                op: "locate",
                row: 2,
                ..
            }
        );
        assert_ne!(nan, unsupported, "{error}");
        assert_eq!((generator.alive(), judge.open()), (0, 0));
    }
}

fn nowhere(_: &Sight<'_>, _: &mut Probe<'_>, support: &mut [f32]) -> maquette::Result<()> {
    support[2] = f32::NAN;
    Ok(())
}

/// A judge of pixels that misses what is covered: likes the picture as far as its corner is as it was drawn.
struct Corner {
    seen: Option<Vec<u8>>,
    asked: Vec<String>,
}

impl RewardModel for Corner {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::PIXELS
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> maquette::Result<()> {
        let all = ask.pixels.unwrap();
        self.asked.push(ask.prompt.text().to_owned());
        for (i, (out, key)) in out.iter_mut().zip(ask.keys).enumerate() {
            let picture = all.picture(i).unwrap();
            if key.step == STEPS {
                self.seen = Some(picture.to_vec());
            }
            let corner = |picture: &[u8]| [picture[..6].to_vec(), picture[12..18].to_vec()];
            let whole = self
                .seen
                .as_deref()
                .is_some_and(|seen| corner(seen) == corner(picture));
            let red = ask.prompt.text() == "a red cup";
            let p = if whole && !red { 0.7 } else { 0.2 };
            *out = Verdict::new(p, 1.0 - p);
        }
        Ok(())
    }
}

/// The same with words.
struct Worded(Corner);

impl RewardModel for Worded {
    fn needs(&self, ask: Judgement) -> Needs {
        self.0.needs(ask)
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> maquette::Result<()> {
        self.0.judge(ask, out)
    }

    fn explain(&mut self, _: &Ask<'_>, out: &mut dyn fmt::Write) -> maquette::Result<()> {
        out.write_str("The cup is blue instead of red.").unwrap();
        Ok(())
    }
}

/// Whether the corner is drawn anew.
fn corner_of(strategy: &mut Dyn<'static>, judge: &mut (dyn RewardModel + 'static)) -> [bool; 4] {
    let mut regions = Vec::new();
    let mut listen = |_, event: &Event<'_>| {
        if let Event::Located { codes, .. } = event {
            regions.push(codes.to_vec());
        }
        Flow::Continue
    };
    let mut generator = ScriptedGenerator::new(STEPS);
    search(strategy, &mut generator, judge, 8, &mut listen).unwrap();
    [0, 1, 4, 5].map(|place| regions[0][place] == UNKNOWN)
}

#[test]
fn what_a_judge_misses_is_kept_and_what_has_the_wrong_colour_is_not() {
    let corner = || Corner {
        seen: None,
        asked: Vec::new(),
    };
    let wide = Occlusion::new().with_side(2);
    // 11 of 16 codes are drawn anew, then 4. As a whole the corner is kept; as a cup that is not red it goes first.
    let mut region = Reflect::new(Plain, Correction::Region { from: 3 })
        .with_confidence(2.0)
        .with_rounds(1);
    let mut judge = corner();
    assert_eq!(
        corner_of(&mut region.with_locator(wide), &mut judge),
        [false; 4]
    );
    assert_eq!(judge.asked.len(), 3);
    region.correction = Correction::Region { from: 5 };
    let mut judge = corner();
    let anew = corner_of(&mut region.with_locator(wide.with_parts(parts)), &mut judge);
    assert_eq!(anew, [true; 4]);
    assert_eq!(
        judge.asked,
        ["a red car", "a cup", "a red cup", "a cup", "a red car"]
    );
    // A cup alone is kept, unless the judge says that its colour is wrong.
    let there =
        |_: &str, tell: &mut Tell<'_>| tell(Part::new("a cup", Fault::Missing { object: "cup" }));
    let mut cups = region.with_locator(wide.with_parts(there));
    assert_eq!(corner_of(&mut cups, &mut corner()), [false; 4]);
    assert_eq!(corner_of(&mut cups, &mut Worded(corner())), [true; 4]);
}

/// Says yes to these prompts.
struct Says(&'static [&'static str]);

impl RewardModel for Says {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::NOTHING
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> maquette::Result<()> {
        let p = f32::from(u8::from(self.0.contains(&ask.prompt.text())));
        out.fill(Verdict::new(p, 1.0 - p));
        Ok(())
    }
}

#[test]
fn a_judge_without_words_names_the_first_fault_of_each_object() {
    let told = |yes: &'static [&'static str]| {
        let all = |prompt: &str, tell: &mut Tell<'_>| {
            tell(Part::new("a book", Fault::Missing { object: "book" }))?;
            parts(prompt, tell)?;
            tell(Part::new(prompt, Fault::Attribution { objects: None }))
        };
        let (prompt, mut reason) = (Prompt::new("a red cup and a book"), String::new());
        let keys = [ViewKey {
            candidate: CandidateId(3),
            step: STEPS,
        }];
        let ask = Ask::new(Judgement::Outcome, &prompt, &keys);
        Inspector::new(Says(yes), all)
            .explain(&ask, &mut reason)
            .unwrap();
        reason
    };
    assert_eq!(told(&[]), "book is missing; cup is missing");
    assert_eq!(told(&["a cup"]), "book is missing; cup is not red");
    assert_eq!(told(&["a book", "a red cup"]), "cup is missing");
    assert_eq!(
        told(&["a book", "a cup", "a red cup"]),
        "colours are swapped"
    );
    assert_eq!(
        told(&["a book", "a cup", "a red cup", "a red cup and a book"]),
        ""
    );
}

#[test]
fn copies_have_names_of_their_own() {
    let mut keys: Vec<Vec<ViewKey>> = Vec::new();
    let mut listen = |_, event: &Event<'_>| {
        if let Event::Asking { keys: asked, .. } = event {
            keys.push(asked.to_vec());
        }
        Flow::Continue
    };
    let mut judge = ScriptedReward::seeded(2);
    let mut strategy = Reflect::new(Plain, REGION)
        .with_locator(Occlusion::new().with_side(2).with_parts(parts))
        .with_confidence(2.0)
        .with_rounds(1);
    search(
        &mut strategy,
        &mut ScriptedGenerator::new(STEPS),
        &mut judge,
        1,
        &mut listen,
    )
    .unwrap();
    for asked in keys {
        assert!(
            asked
                .iter()
                .enumerate()
                .all(|(i, key)| !asked[..i].contains(key))
        );
        let own = asked.iter().all(|key| key.step == STEPS);
        assert!(own || asked.iter().all(|key| key.step > STEPS));
    }
}
