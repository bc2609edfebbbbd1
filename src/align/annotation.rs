//! Training sets out of a generator's own pictures: what was drawn on the way, labels, pairs, balance, and the texts that
//! must not be trained on.
//!
//! # Source
//! Guo et al., "Can We Generate Images with CoT?", arXiv 2501.13926: which steps are clear, rollouts for the labels of
//! steps, one pair of a right and a wrong picture a prompt, no prompt of the evaluation.

mod leakage;
mod trajectory;

use alloc::vec::Vec;

use rand_core::Rng;

use crate::error::{Error, Result, covers};
use crate::rng::Stream;

pub use leakage::Leakage;
pub use trajectory::{Ends, Look, Trajectory, draw, edit, rollouts};

const OP: &str = "annotation";

/// Whether the picture after `step` of `steps` steps is clear enough to be judged: yes after 11 of 18, no before 10 of
/// 18, and between them it is left out. Other numbers of steps have the same shares.
///
/// ```
/// use maquette::align::annotation::clear;
/// assert_eq!([9, 10, 11, 12].map(|step| clear(step, 18)), [Some(false), None, None, Some(true)]);
/// ```
#[must_use]
pub const fn clear(step: u32, steps: u32) -> Option<bool> {
    let (now, all) = (18 * step as u64, steps as u64);
    if now > 11 * all {
        Some(true)
    } else if now < 10 * all {
        Some(false)
    } else {
        None
    }
}

/// Pairs of places, the better one first: the best with the worst, the second best with the second worst, and so on as
/// long as one is better. Of rewards that are all the same nothing is left. Equal ones keep their order.
///
/// ```
/// use maquette::align::annotation::pairs;
/// assert_eq!(pairs(&[0.0, 1.0, 1.0, 0.0, 0.0], 3)?, [[1, 4], [2, 3]]);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// [`Error::Example`] for no rewards, or one that is not finite.
pub fn pairs(rewards: &[f64], most: usize) -> Result<Vec<[usize; 2]>> {
    let order = best_first(rewards)?;
    let ends = order.iter().zip(order.iter().rev());
    let better = |&(&a, &b): &(&usize, &usize)| rewards[a] > rewards[b];
    Ok(ends
        .take(rewards.len() / 2)
        .take_while(better)
        .take(most)
        .map(|(&a, &b)| [a, b])
        .collect())
}

/// Pairs across a bound, the better one first: whoever has that reward or more with whoever has less, the best with the
/// worst and so on inwards. The fewer come again until all of the more numerous have a partner: where one picture in
/// ten is right, nine pairs come of it instead of one. Nothing is left of rewards on one side.
///
/// ```
/// use maquette::align::annotation::pairs_across;
/// assert_eq!(pairs_across(&[0.0, 0.9, 0.2, 0.1], 0.5, 9)?, [[1, 0], [1, 3], [1, 2]]);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// [`Error::Example`] for no rewards, or one that is not finite.
pub fn pairs_across(rewards: &[f64], bound: f64, most: usize) -> Result<Vec<[usize; 2]>> {
    let order = best_first(rewards)?;
    let above = order.iter().take_while(|&&at| rewards[at] >= bound).count();
    let (above, below) = order.split_at(above);
    if above.is_empty() || below.is_empty() {
        return Ok(Vec::new());
    }
    let both = above.iter().cycle().zip(below.iter().rev().cycle());
    Ok(both
        .take(above.len().max(below.len()).min(most))
        .map(|(&a, &b)| [a, b])
        .collect())
}

/// Places of rewards, the largest first; equal ones keep their order.
fn best_first(rewards: &[f64]) -> Result<Vec<usize>> {
    let wrong = |at, problem| Error::Example {
        op: OP,
        at,
        problem,
    };
    if rewards.is_empty() {
        return Err(wrong(0, "is missing: there are no rewards"));
    }
    if let Some(at) = rewards.iter().position(|r| !r.is_finite()) {
        return Err(wrong(at, "has a reward that is NaN or infinite"));
    }
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|&a, &b| rewards[b].total_cmp(&rewards[a]));
    Ok(order)
}

/// Places to keep so that every group has `parts[0]` yeses for `parts[1]` noes, as many as there are; which ones are kept
/// is drawn. The places are in order.
///
/// ```
/// use maquette::align::annotation::balanced;
/// let labels = [true, false, false, false, true];
/// assert_eq!(balanced(&[0, 0, 0, 0, 1], &labels, [1, 1], 7)?.len(), 2);
/// # Ok::<(), maquette::Error>(())
/// ```
///
/// # Errors
/// Another number of groups than of labels, or a part of zero.
pub fn balanced(
    groups: &[u32],
    labels: &[bool],
    parts: [usize; 2],
    seed: u64,
) -> Result<Vec<usize>> {
    covers(OP, "groups", groups.len(), labels.len())?;
    covers(OP, "labels", labels.len(), groups.len())?;
    if let Some(&part) = parts.iter().find(|&&part| part == 0) {
        return Err(Error::Range {
            op: OP,
            arg: "parts",
            got: part as u64,
            min: 1,
            max: u64::MAX,
        });
    }
    let mut names: Vec<u32> = groups.into();
    names.sort_unstable();
    names.dedup();
    let (mut kept, mut stream) = (Vec::new(), Stream::new(seed));
    for name in names {
        let mut sides = [Vec::new(), Vec::new()];
        for (at, (&group, &yes)) in groups.iter().zip(labels).enumerate() {
            if group == name {
                sides[usize::from(!yes)].push((stream.next_u64(), at));
            }
        }
        let times = (sides[0].len() / parts[0]).min(sides[1].len() / parts[1]);
        for (mut side, part) in sides.into_iter().zip(parts) {
            side.sort_unstable();
            kept.extend(side.iter().take(times * part).map(|&(_, at)| at));
        }
    }
    kept.sort_unstable();
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_go_from_the_ends_inwards_and_need_a_difference() {
        assert_eq!(
            pairs(&[0.1, 0.9, 0.5, 0.5], 9).unwrap(),
            [[1, 0]],
            "two equal ones in the middle"
        );
        assert_eq!(pairs(&[0.3, 0.2, 0.1, 0.0], 1).unwrap(), [[0, 3]]);
        assert!(pairs(&[1.0; 4], 2).unwrap().is_empty());
        assert!(pairs(&[], 1).is_err() && pairs(&[1.0, f64::NAN], 1).is_err());
    }

    #[test]
    fn pairs_across_a_bound_use_everything_and_repeat_the_fewer() {
        let rewards = [0.5, 0.4, 0.9, 0.4, 0.0];
        let all = pairs_across(&rewards, 0.5, 9).unwrap();
        assert_eq!(all, [[2, 4], [0, 3], [2, 1]]);
        assert_eq!(pairs_across(&rewards, 0.5, 1).unwrap(), [[2, 4]]);
        let all = pairs_across(&rewards, 0.1, 9).unwrap();
        assert_eq!(all, [[2, 4], [0, 4], [1, 4], [3, 4]]);
        for one_sided in [0.0, 1.0] {
            assert!(pairs_across(&rewards, one_sided, 9).unwrap().is_empty());
        }
        assert!(pairs_across(&[], 0.5, 1).is_err());
        assert!(pairs_across(&[f64::INFINITY], 0.5, 1).is_err());
    }

    #[test]
    fn every_group_is_balanced_by_itself_and_always_alike() {
        let groups: Vec<u32> = (0..300).map(|i| i % 3).collect();
        let labels: Vec<bool> = (0..300).map(|i| i % 7 == 0 || i % 3 == 2).collect();
        let kept = balanced(&groups, &labels, [1, 2], 5).unwrap();
        assert_eq!(kept, balanced(&groups, &labels, [1, 2], 5).unwrap());
        assert_ne!(kept, balanced(&groups, &labels, [1, 2], 6).unwrap());
        for group in 0..2 {
            let of = |yes| {
                kept.iter()
                    .filter(|&&i| groups[i] == group && labels[i] == yes)
                    .count()
            };
            assert!(of(true) > 0 && of(false) == 2 * of(true), "{group}");
        }
        // The third group has one label alone.
        assert!(kept.iter().all(|&i| groups[i] < 2));
        assert!(balanced(&groups, &labels[1..], [1, 1], 0).is_err());
        assert!(balanced(&groups, &labels, [1, 0], 0).is_err());
    }

    #[test]
    fn clear_steps_scale_with_the_number_of_steps() {
        assert_eq!(
            [4, 5, 7].map(|step| clear(step, 9)),
            [Some(false), None, Some(true)]
        );
        assert_eq!(clear(0, 0), None);
    }
}
