use support::agreement::{Ended, auc, ranked};

#[test]
fn ranks_of_a_few_scores_worked_by_hand() {
    let scored = [(0.1, false), (0.4, true), (0.4, false), (0.9, true)];
    assert_eq!(auc(&scored), Some(0.875));
    assert_eq!(auc(&scored[1..2]), None);
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
