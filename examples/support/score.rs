//! Scores of many pictures: a column a task, the overall mean of the tasks, and 95 % intervals over prompts.

use maquette::rng::Stream;
use rand_core::Rng;

/// GenEval's tasks in the paper's order, with the paper's headings.
pub const TASKS: [(&str, &str); 6] = [
    ("single_object", "single"),
    ("two_object", "two"),
    ("counting", "counting"),
    ("colors", "colors"),
    ("position", "position"),
    ("color_attr", "attribution"),
];
const RESAMPLES: usize = 2000;

/// Means of one number over each prompt's pictures.
#[derive(Debug, Clone, Default)]
pub struct Prompts {
    /// GenEval's tags in its order, then others that occur.
    pub tags: Vec<String>,
    /// `(place in tags, mean)`, one a prompt.
    pub means: Vec<(usize, f64)>,
}

/// A mean with its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// One estimate a task that occurs, and the unweighted mean of the tasks. Prompts are drawn again within their task.
pub fn table(prompts: &[(usize, f64)]) -> (Vec<(usize, Estimate)>, Estimate) {
    let mut tasks: Vec<(usize, Vec<f64>)> = Vec::new();
    for &(task, value) in prompts {
        match tasks.iter_mut().find(|t| t.0 == task) {
            Some(t) => t.1.push(value),
            None => tasks.push((task, vec![value])),
        }
    }
    tasks.sort_by_key(|t| t.0);
    let mut stream = Stream::new(0x6765_6E65);
    let mut samples: Vec<Vec<f64>> = vec![Vec::with_capacity(RESAMPLES); tasks.len() + 1];
    for _ in 0..RESAMPLES {
        let mut overall = 0.0;
        for (i, (_, values)) in tasks.iter().enumerate() {
            let n = values.len() as u64;
            let sum: f64 = (0..n)
                .map(|_| values[usize::try_from(stream.next_u64() % n).unwrap_or_default()])
                .sum();
            samples[i].push(sum / n as f64);
            overall += sum / n as f64;
        }
        samples[tasks.len()].push(overall / tasks.len().max(1) as f64);
    }
    let mut ends = samples.into_iter().map(|mut s| {
        s.sort_by(f64::total_cmp);
        (s[RESAMPLES / 40], s[RESAMPLES - 1 - RESAMPLES / 40])
    });
    let mut rows = Vec::new();
    let mut total = 0.0;
    for (task, values) in &tasks {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        total += mean;
        let (low, high) = ends.next().unwrap_or((mean, mean));
        rows.push((*task, Estimate { mean, low, high }));
    }
    let mean = total / tasks.len().max(1) as f64;
    let (low, high) = ends.next().unwrap_or((mean, mean));
    (rows, Estimate { mean, low, high })
}

/// Lines of a table for the terminal.
pub fn lines(prompts: &Prompts) -> Vec<String> {
    let (rows, overall) = table(&prompts.means);
    let line = |name: &str, n: usize, e: &Estimate| {
        format!(
            "  {name:<12} {:6.3}   [{:6.3}, {:6.3}]   {n} prompts",
            e.mean, e.low, e.high
        )
    };
    let count = |tag: usize| prompts.means.iter().filter(|p| p.0 == tag).count();
    let heading = |tag: usize| {
        let tag = prompts.tags.get(tag).map_or("", String::as_str);
        let known = TASKS.iter().find(|task| task.0 == tag);
        known.map_or(tag, |task| task.1)
    };
    let mut out: Vec<String> = rows
        .iter()
        .map(|(tag, e)| line(heading(*tag), count(*tag), e))
        .collect();
    out.push(line("overall", prompts.means.len(), &overall));
    out
}
