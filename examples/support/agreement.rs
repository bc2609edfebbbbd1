//! How far one judge agrees with another.

use std::collections::BTreeMap;

/// The share of pairs of a yes and a no that a score ranks right, ties half; nothing without such a pair.
pub fn auc(scored: &[(f32, bool)]) -> Option<f64> {
    let mut order: Vec<&(f32, bool)> = scored.iter().collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut right, mut yes) = (0.0, 0.0, 0.0);
    for equal in order.chunk_by(|a, b| a.0 == b.0) {
        let now = equal.iter().filter(|(_, yes)| *yes).count() as f64;
        let no = equal.len() as f64 - now;
        right += now * (below + 0.5 * no);
        (below, yes) = (below + no, yes + now);
    }
    let pairs = yes * below;
    (pairs > 0.0).then(|| right / pairs)
}

/// A score of an unfinished picture, and what was said of it when it was finished.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Prompt and step: only pictures of the same ones are compared.
    pub group: (usize, u32),
    pub score: f32,
    pub end: f32,
}

/// Ends that are nearer to each other than this are not told apart.
const APART: f32 = 0.2;

/// The share of pairs of one group whose ends are apart that the scores rank right, ties half; and the number of pairs.
pub fn ranked(all: impl Iterator<Item = Ended>) -> (f64, u32) {
    let mut groups: BTreeMap<(usize, u32), Vec<Ended>> = BTreeMap::new();
    for one in all.filter(|one| !one.score.is_nan()) {
        groups.entry(one.group).or_default().push(one);
    }
    let (mut right, mut pairs) = (0.0, 0);
    for group in groups.values() {
        for (i, a) in group.iter().enumerate() {
            for b in &group[..i] {
                let apart = a.end - b.end;
                if apart.abs() >= APART {
                    let along = (a.score - b.score) * apart;
                    pairs += 1;
                    right += if along > 0.0 {
                        1.0
                    } else if along == 0.0 {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
        }
    }
    (right / f64::from(pairs), pairs)
}
