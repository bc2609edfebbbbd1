use alloc::string::String;
use alloc::vec;

use super::*;
use crate::generator::CandidateId;

/// A judge that says no, and perhaps why.
struct Says(Option<&'static str>);

impl RewardModel for Says {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::NOTHING
    }

    fn judge(&mut self, _: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        out.fill(Verdict::new(0.0, 1.0));
        Ok(())
    }

    fn explain(&mut self, _: &Ask<'_>, out: &mut dyn fmt::Write) -> Result<()> {
        let words = self.0.ok_or(Error::Unsupported { what: "words" })?;
        out.write_str(words)
            .map_err(|_| Error::foreign("no room for words"))
    }
}

fn reason(judge: &mut dyn RewardModel) -> Result<String> {
    let prompt = Prompt::new("a cup");
    let keys = [ViewKey {
        candidate: CandidateId(0),
        step: 1,
    }];
    let mut words = String::new();
    judge.explain(&Ask::new(Judgement::Outcome, &prompt, &keys), &mut words)?;
    Ok(words)
}

#[test]
fn a_memory_drops_the_oldest_whatever_was_forgotten_before() {
    let key = |n| ViewKey {
        candidate: CandidateId(n),
        step: 1,
    };
    let (prompt, mut out) = (Prompt::new("a cup"), [Verdict::malformed()]);
    for forgotten in [99, 2] {
        let mut cached = Cached::new(Says(None), 3).unwrap();
        for n in 0..4 {
            let keys = [key(n)];
            let ask = Ask::new(Judgement::Outcome, &prompt, &keys);
            cached.judge(&ask, &mut out).unwrap();
        }
        // 1, 2 and 3 are known, in another order.
        cached.forget(&[key(forgotten)]);
        for n in 4..6 {
            let keys = [key(n)];
            let ask = Ask::new(Judgement::Outcome, &prompt, &keys);
            cached.judge(&ask, &mut out).unwrap();
        }
        let mut known: Vec<u64> = cached
            .known
            .iter()
            .map(|known| known.0.candidate.0)
            .collect();
        known.sort_unstable();
        assert_eq!(known, [3, 4, 5], "{forgotten} was forgotten");
    }
}

#[test]
fn verdicts_of_another_number_than_views_are_an_error_in_every_judge() {
    let (prompt, keys) = (Prompt::new("a cup"), []);
    let ask = Ask::new(Judgement::Outcome, &prompt, &keys);
    let mut judges: [&mut dyn RewardModel; 3] = [
        &mut Mean::new(vec![Says(None)]),
        &mut Cascade::new(Says(None), Says(None), 2.0),
        &mut Cached::new(Says(None), 2).unwrap(),
    ];
    for judge in &mut judges {
        let error = judge.judge(&ask, &mut [Verdict::malformed()]);
        assert!(matches!(
            error,
            Err(Error::Length {
                got: 1,
                want: 0,
                ..
            })
        ));
    }
}

#[test]
fn the_judge_that_has_words_explains() {
    let mean = |all: [Option<&'static str>; 2]| {
        reason(&mut Mean::new(all.map(Says).into_iter().collect()))
    };
    assert_eq!(mean([None, Some("no cup")]).unwrap(), "no cup");
    assert_eq!(mean([Some("a mug"), Some("no cup")]).unwrap(), "a mug");
    assert!(matches!(mean([None; 2]), Err(Error::Unsupported { .. })));
    let cascade = |all: [Option<&'static str>; 2]| {
        let [first, second] = all.map(Says);
        reason(&mut Cascade::new(first, second, 0.5))
    };
    assert_eq!(cascade([Some("a mug"), None]).unwrap(), "a mug");
    assert_eq!(cascade([Some("a mug"), Some("no cup")]).unwrap(), "no cup");
    assert!(matches!(cascade([None; 2]), Err(Error::Unsupported { .. })));
    let mut split = Split::new(Says(None), Says(Some("no cup")), vec![Judgement::Clarity]);
    assert_eq!(reason(&mut split).unwrap(), "no cup");
}
