//! How far a head agrees with its teacher.

use support::auc::{self, Ended, ranked};
use support::say;

use crate::looks::{ANSWERS, QUESTIONS};

/// What a head and its judge said of one view.
#[derive(Debug, Clone)]
pub struct Said {
    pub prompt: usize,
    pub step: u32,
    /// P(yes) of the head to each question.
    pub head: Vec<f32>,
    /// P(yes) of the judge to each question about the view, then of the outcome of the finished picture.
    pub judge: [f32; ANSWERS],
}

/// A score of a view beside the outcome of its picture.
fn end(said: &Said, score: f32) -> Ended {
    Ended {
        group: (said.prompt, said.step),
        score,
        end: said.judge[ANSWERS - 1],
    }
}

/// Prints agreement question by question, and how well the ends are foreseen.
pub fn table(said: &[Said]) {
    let steps = said.iter().map(|one| one.step).max().unwrap_or(0);
    say!("  question    views  judge's yes  accuracy   AUC");
    for (place, question) in QUESTIONS.iter().enumerate() {
        let asked = said.iter().filter(|one| !one.judge[place].is_nan());
        let scored: Vec<(f32, bool)> = asked
            .map(|one| (one.head[place], one.judge[place] > 0.5))
            .collect();
        let share = |f: &dyn Fn(&(f32, bool)) -> bool| {
            scored.iter().filter(|s| f(s)).count() as f64 / scored.len().max(1) as f64
        };
        let yes = share(&|s| s.1);
        let right = share(&|s| (s.0 > 0.5) == s.1);
        let area = auc::of(scored.iter().map(|&(p, yes)| (f64::from(p), yes)))
            .map_or("-".into(), |a| format!("{a:.3}"));
        let name = format!("{question:?}").to_lowercase();
        say!(
            "  {name:<10} {:>6} {yes:>12.3} {right:>9.3} {area:>5}",
            scored.len()
        );
    }
    say!("  pictures of one prompt whose outcomes the judge tells apart, ranked right by");
    say!("  after steps     potential  (pairs)  the judge's own potential  (pairs)");
    for part in 0..6 {
        let (from, to) = (part * steps / 6 + 1, (part + 1) * steps / 6);
        let within = || {
            let unfinished = said.iter().filter(|one| one.step < steps);
            unfinished.filter(|one| (from..=to).contains(&one.step))
        };
        let (ours, pairs) = ranked(within().map(|one| end(one, one.head[3])));
        let (own, own_pairs) = ranked(within().map(|one| end(one, one.judge[3])));
        let own = if own_pairs == 0 {
            "-".into()
        } else {
            format!("{own:.3}")
        };
        say!("  {from:>2} to {to:>2} {ours:>16.3} {pairs:>9} {own:>19} {own_pairs:>15}");
    }
    let last = || said.iter().filter(|one| one.step == steps);
    let (ours, pairs) = ranked(last().map(|one| end(one, one.head[0])));
    say!("  finished {ours:>15.3} {pairs:>9}  by the outcome");
}
