//! Areas under the curve of two judges over the same pictures.

use support::auc::{self, Ended, Scored, over_all, ranked, within_prompts};

fn one(prompt: usize, right: bool, scores: [f64; 2]) -> Scored {
    Scored {
        prompt,
        right,
        scores,
    }
}

#[test]
fn areas_count_pairs_and_halve_ties() {
    let pictures = [
        one(0, true, [0.9, 0.5]),
        one(0, false, [0.1, 0.5]),
        one(1, true, [0.4, 0.2]),
        one(1, false, [0.6, 0.1]),
    ];
    let all = over_all(&pictures).unwrap();
    // Pairs of the first: 0.9 above both, 0.4 above one of two. Of the second: a tie, above, below, above.
    assert!((all.each[0].mean - 0.75).abs() < 1e-12);
    assert!((all.each[1].mean - 0.625).abs() < 1e-12);
    assert!((all.difference.mean + 0.125).abs() < 1e-12);
    let (within, n) = within_prompts(&pictures).unwrap();
    assert_eq!(n, 2);
    assert!((within.each[0].mean - 0.5).abs() < 1e-12);
    assert!((within.each[1].mean - 0.75).abs() < 1e-12);
    assert!(over_all(&pictures[..1]).is_none() && within_prompts(&pictures[..1]).is_none());
}

#[test]
fn a_better_judge_has_an_interval_above_zero() {
    let pictures: Vec<Scored> = (0..400)
        .map(|i| {
            let right = i % 2 == 0;
            let noise = f64::from(u16::try_from(i * 37 % 100).unwrap()) / 100.0;
            let better = noise + if right { 0.6 } else { 0.0 };
            one(i / 4, right, [noise, better])
        })
        .collect();
    let all = over_all(&pictures).unwrap();
    assert!(
        all.difference.low > 0.1 && all.difference.high < 0.6,
        "{all:?}"
    );
    assert!(all.each[1].low > all.each[0].high);
}

#[test]
fn ranks_of_a_few_scores_worked_by_hand() {
    let scored = [(0.1, false), (0.4, true), (0.4, false), (0.9, true)];
    assert_eq!(auc::of(scored.into_iter()), Some(0.875));
    assert_eq!(auc::of(scored.into_iter().skip(3)), None);
    let of = |prompt, score, end| Ended {
        group: (prompt, 3),
        score,
        end,
    };
    // Pairs of one prompt that are far enough apart: the first is above the second, the third ties with it, the last was
    // not asked.
    let all = [
        of(0, 0.6, 0.9),
        of(0, 0.5, 0.1),
        of(0, 0.5, 0.85),
        of(0, f32::NAN, 0.0),
        of(1, 0.0, 0.5),
    ];
    assert_eq!(ranked(all.into_iter()), (0.75, 2));
}
