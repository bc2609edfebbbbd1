//! Before and after: pictures of prompts that are not trained on, without and with the adapters.

use maquette::Generator;
use support::rules::Request;
use support::score::{self, Prompts, TASKS};
use support::scorer::Marker;

use crate::Res;
use crate::online::{Group, seed};

/// Share of each prompt's pictures that are right, drawn with plans or without.
pub fn shares<'g>(
    generator: &mut (dyn Generator + 'g),
    marker: &mut Marker<'_>,
    requests: &[Request],
    (images, plan): (u32, bool),
    of: u64,
    tell: &dyn Fn(),
) -> Res<Vec<f64>> {
    let mut out = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        let at = u32::try_from(at)?;
        let seeds: Vec<u64> = (0..images).map(|i| seed(of, [i, at, 1])).collect();
        let group = if plan {
            Group::plan(generator, marker, request, &seeds, 0)?
        } else {
            Group::draw(generator, marker, request, &seeds)?
        };
        let right = group.marks.iter().filter(|mark| mark.correct).count();
        out.push(right as f64 / f64::from(images));
        tell();
    }
    Ok(out)
}

/// The table of both, and of their difference.
pub fn table(requests: &[Request], before: &[f64], after: &[f64]) -> String {
    let mut tags: Vec<String> = TASKS.iter().map(|task| task.0.to_owned()).collect();
    for request in requests {
        if !tags.contains(&request.tag) {
            tags.push(request.tag.clone());
        }
    }
    let place = |request: &Request| tags.iter().position(|tag| *tag == request.tag);
    let gains: Vec<f64> = before.iter().zip(after).map(|(b, a)| a - b).collect();
    let mut text = String::new();
    for (name, values) in [
        ("before", before),
        ("after", after),
        ("after minus before", &gains),
    ] {
        let values = requests.iter().zip(values);
        let means = values.map(|(request, value)| (place(request).unwrap_or(0), *value));
        let prompts = Prompts {
            tags: tags.clone(),
            means: means.collect(),
        };
        text += &format!("{name} (share right, 95 % interval over prompts)\n");
        for line in score::lines(&prompts) {
            text += &line;
            text.push('\n');
        }
    }
    text
}
