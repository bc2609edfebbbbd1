//! The score table on cases worked by hand.

use support::score::*;

#[test]
fn overall_is_the_unweighted_mean_of_the_tasks() {
    let prompts = vec![(0, 1.0), (0, 1.0), (0, 1.0), (1, 0.0)];
    let (rows, overall) = table(&prompts);
    assert_eq!(rows.len(), 2);
    assert!((overall.mean - 0.5).abs() < 1e-12);
    assert!((overall.low - 0.5).abs() < 1e-12 && (overall.high - 0.5).abs() < 1e-12);
}

#[test]
fn the_interval_holds_the_mean() {
    let prompts: Vec<_> = (0..100).map(|i| (0, f64::from(i % 2))).collect();
    let (_, e) = table(&prompts);
    assert!(
        e.low < 0.5 && 0.5 < e.high && e.high - e.low < 0.25,
        "{e:?}"
    );
}
