//! How well scores tell right pictures from wrong ones: areas under the curve, of two judges over the same pictures; and how
//! well those of unfinished pictures rank what becomes of them.

use std::collections::BTreeMap;

use maquette::rng::Stream;
use rand_core::Rng;

use crate::score::Estimate;

const RESAMPLES: usize = 2000;

/// A picture with what two judges say of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub prompt: usize,
    pub right: bool,
    pub scores: [f64; 2],
}

/// The chance that a right picture scores above a wrong one, equal scores half: each judge's, and the second's minus the
/// first's, with 95 % bootstrap intervals over prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Areas {
    pub each: [Estimate; 2],
    pub difference: Estimate,
}

/// Sums that an area is made of, with right and wrong ones counted as often as their prompts were drawn.
fn area(order: &[(f64, usize, bool)], drawn: &[f64]) -> f64 {
    let (mut above, mut right, mut wrong) = (0.0, 0.0, 0.0);
    for equal in order.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let count = |side: bool| -> f64 {
            let of = equal.iter().filter(|one| one.2 == side);
            of.map(|one| drawn[one.1]).sum()
        };
        let (now_right, now_wrong) = (count(true), count(false));
        above += now_right * (wrong + now_wrong / 2.0);
        right += now_right;
        wrong += now_wrong;
    }
    above / (right * wrong)
}

/// The area of one judge's scores; nothing if all pictures are right or all are wrong.
pub fn of(scored: impl Iterator<Item = (f64, bool)>) -> Option<f64> {
    let mut order: Vec<_> = scored.map(|(score, right)| (score, 0, right)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(area(&order, &[1.0])).filter(|area| area.is_finite())
}

/// The areas over all pictures at once; nothing if all are right or all are wrong.
pub fn over_all(pictures: &[Scored]) -> Option<Areas> {
    let prompts = pictures.iter().map(|p| p.prompt + 1).max()?;
    let sides = [true, false].map(|side| pictures.iter().any(|p| p.right == side));
    if sides != [true; 2] {
        return None;
    }
    let orders = [0, 1].map(|judge| {
        let all = pictures
            .iter()
            .map(|p| (p.scores[judge], p.prompt, p.right));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    });
    // Prompts without pictures would be drawn for nothing.
    let mut there: Vec<usize> = pictures.iter().map(|p| p.prompt).collect();
    there.sort_unstable();
    there.dedup();
    let once = vec![1.0; prompts];
    let whole = [0, 1].map(|judge| area(&orders[judge], &once));
    Some(estimated(whole, there.len(), &mut |places| {
        let mut drawn = vec![0.0; prompts];
        for place in places {
            drawn[there[*place]] += 1.0;
        }
        [0, 1].map(|judge| area(&orders[judge], &drawn))
    }))
}

/// The mean over prompts of the areas among their own pictures, and how many prompts have right and wrong ones.
pub fn within_prompts(pictures: &[Scored]) -> Option<(Areas, usize)> {
    let mut sorted = pictures.to_vec();
    sorted.sort_by_key(|p| p.prompt);
    let mut each = Vec::new();
    for own in sorted.chunk_by(|a, b| a.prompt == b.prompt) {
        let own: Vec<Scored> = own.iter().map(|p| Scored { prompt: 0, ..*p }).collect();
        let areas = [0, 1].map(|judge| {
            let all = own.iter().map(|p| (p.scores[judge], 0, p.right));
            let mut all: Vec<_> = all.collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            area(&all, &[1.0])
        });
        if areas[0].is_finite() {
            each.push(areas);
        }
    }
    let n = each.len();
    let mean = |places: &[usize]| {
        [0, 1].map(|judge| {
            let sum: f64 = places.iter().map(|&place| each[place][judge]).sum();
            sum / places.len() as f64
        })
    };
    let all: Vec<usize> = (0..n).collect();
    let areas = (n > 0).then(|| estimated(mean(&all), n, &mut |places| mean(places)));
    areas.map(|areas| (areas, n))
}

/// Intervals from drawing `n` things again.
fn estimated(whole: [f64; 2], n: usize, again: &mut dyn FnMut(&[usize]) -> [f64; 2]) -> Areas {
    let mut stream = Stream::new(0x6175_6361);
    let mut samples = [const { Vec::new() }; 3];
    let mut places = vec![0; n];
    for _ in 0..RESAMPLES {
        for place in &mut places {
            *place = usize::try_from(stream.next_u64() % n as u64).unwrap_or_default();
        }
        let [a, b] = again(&places);
        // A draw in which all are right says nothing.
        if a.is_finite() && b.is_finite() {
            for (samples, value) in samples.iter_mut().zip([a, b, b - a]) {
                samples.push(value);
            }
        }
    }
    let [a, b] = whole;
    let mut samples = samples.into_iter();
    let mut estimate = |mean: f64| {
        let mut samples = samples.next().unwrap_or_default();
        samples.sort_by(f64::total_cmp);
        let at = samples.len() / 40;
        let end = samples.len().saturating_sub(1 + at);
        let get = |at: usize| samples.get(at).copied().unwrap_or(mean);
        Estimate {
            mean,
            low: get(at),
            high: get(end),
        }
    };
    Areas {
        each: [estimate(a), estimate(b)],
        difference: estimate(b - a),
    }
}

/// Lines for the terminal.
pub fn lines(pictures: &[Scored]) -> Option<Vec<String>> {
    let right = pictures.iter().filter(|p| p.right).count();
    let mut out = vec![format!(
        "{} pictures, {right} right by the evaluating detector; AUC, 95 % intervals over prompts",
        pictures.len()
    )];
    let told = |e: &Estimate| format!("{:6.3} [{:6.3}, {:6.3}]", e.mean, e.low, e.high);
    let mut line = |name: &str, areas: &Areas, of: String| {
        let [before, after] = areas.each.each_ref().map(told);
        let difference = told(&areas.difference);
        out.push(format!(
            "  {name:<12} before {before}   after {after}   after minus before {difference}   {of}"
        ));
    };
    line("all", &over_all(pictures)?, String::new());
    if let Some((areas, n)) = within_prompts(pictures) {
        line("within", &areas, format!("{n} prompts with both"));
    }
    Some(out)
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
