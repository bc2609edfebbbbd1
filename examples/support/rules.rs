//! GenEval's rules: does what a detector saw answer a record?
//!
//! # Source
//! Ghosh et al., "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment" (arXiv 2310.11513),
//! and its `evaluate_images.py`. Boxes are `[x1, y1, x2, y2]`, y grows downwards.

use serde::{Deserialize, Serialize};

/// The colours that the published prompts know, in the evaluator's order.
pub const COLOURS: [&str; 10] = [
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
];

/// One object that a prompt asks for or forbids.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wanted {
    pub class: String,
    pub count: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    /// Relation to an earlier object of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(String, usize)>,
}

/// One prompt with what its picture must show: a line of GenEval's `evaluation_metadata.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub tag: String,
    /// Nothing in prompts of other domains, whose pictures these rules cannot mark.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<Wanted>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Wanted>,
    pub prompt: String,
}

/// One detected object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection<'a> {
    pub class: &'a str,
    pub color: &'a str,
    pub bbox: [f32; 4],
    pub score: f32,
}

/// The evaluator's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Detections must score above this…
    pub threshold: f32,
    /// … or above this in counting tasks.
    pub counting_threshold: f32,
    /// Detections kept for each class.
    pub max_objects: usize,
    /// Overlap with a better detection of the class from which on one is dropped; 1 keeps all.
    pub max_overlap: f32,
    /// Part of both boxes' sizes that an offset must exceed.
    pub position_threshold: f32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            threshold: 0.3,
            counting_threshold: 0.9,
            max_objects: 16,
            max_overlap: 1.0,
            position_threshold: 0.1,
        }
    }
}

impl Rules {
    /// The bundled detector decides by itself what an object is: its own bound of 0.5 stands for both thresholds.
    pub fn bundled() -> Self {
        Self {
            threshold: 0.5,
            counting_threshold: 0.5,
            ..Self::default()
        }
    }

    /// The detections of a class that count for a request, best first.
    pub fn kept<'d, 's>(
        &self,
        request: &Request,
        class: &str,
        seen: &'d [Detection<'s>],
    ) -> Vec<&'d Detection<'s>> {
        let bound = if request.tag == "counting" {
            self.counting_threshold
        } else {
            self.threshold
        };
        let counts = |d: &&Detection<'_>| d.class == class && d.score > bound;
        let mut kept: Vec<_> = seen.iter().filter(counts).collect();
        kept.sort_by(|a, b| b.score.total_cmp(&a.score));
        kept.truncate(self.max_objects);
        if self.max_overlap >= 1.0 {
            return kept;
        }
        let mut apart: Vec<&Detection<'_>> = Vec::new();
        for one in kept {
            if apart
                .iter()
                .all(|d| overlap(&d.bbox, &one.bbox) < self.max_overlap)
            {
                apart.push(one);
            }
        }
        apart
    }

    /// Whether the detections answer the request, and if not, why not.
    pub fn decide(&self, request: &Request, seen: &[Detection<'_>]) -> Result<(), String> {
        let of = |class: &str| self.kept(request, class, seen);
        let mut reasons = Vec::new();
        let mut groups: Vec<Option<Vec<&Detection<'_>>>> = Vec::new();
        for want in &request.include {
            let (class, n) = (&want.class, want.count);
            let all = of(class);
            let found: Vec<_> = all.iter().copied().take(n).collect();
            let mut matched = true;
            if found.len() < n {
                reasons.push(format!("expected {class}>={n}, found {}", found.len()));
                matched = false;
            } else {
                if let Some(color) = &want.color {
                    let m = found.iter().filter(|d| d.color == color).count();
                    if m < n {
                        reasons.push(format!(
                            "expected {color} {class}>={n}, found {m} {color}; and {}",
                            colours(&found)
                        ));
                        matched = false;
                    }
                }
                if let (Some((relation, target)), true) = (&want.position, matched) {
                    match groups.get(*target).and_then(Option::as_ref) {
                        None => {
                            reasons.push(format!("no target for {class} to be {relation}"));
                            matched = false;
                        }
                        Some(targets) => {
                            let wrong = found
                                .iter()
                                .flat_map(|a| {
                                    targets.iter().map(|b| self.relations(&a.bbox, &b.bbox))
                                })
                                .find(|held| !held.contains(&relation.as_str()));
                            if let Some(held) = wrong {
                                let held = held.join(" and ");
                                reasons.push(format!(
                                    "expected {class} {relation} target, found {held} target"
                                ));
                                matched = false;
                            }
                        }
                    }
                }
            }
            groups.push(matched.then_some(found));
        }
        for ban in &request.exclude {
            let k = of(&ban.class).len();
            if k >= ban.count {
                reasons.push(format!("expected {}<{}, found {k}", ban.class, ban.count));
            }
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons.join("\n"))
        }
    }

    /// Relations of `a` to `b` that hold; two can.
    pub fn relations(&self, a: &[f32; 4], b: &[f32; 4]) -> Vec<&'static str> {
        let along = |axis: usize| {
            let offset = (a[axis] + a[axis + 2] - b[axis] - b[axis + 2]) / 2.0;
            let sizes = (a[axis + 2] - a[axis]).abs() + (b[axis + 2] - b[axis]).abs();
            (
                offset,
                offset.signum() * (offset.abs() - self.position_threshold * sizes).max(0.0),
            )
        };
        let ((ox, vx), (oy, vy)) = (along(0), along(1));
        if vx.abs() < 1e-3 && vy.abs() < 1e-3 {
            return Vec::new();
        }
        let (ux, uy) = (vx / ox.hypot(oy), vy / ox.hypot(oy));
        [
            (ux < -0.5, "left of"),
            (ux > 0.5, "right of"),
            (uy < -0.5, "above"),
            (uy > 0.5, "below"),
        ]
        .into_iter()
        .filter_map(|(holds, name)| holds.then_some(name))
        .collect()
    }
}

/// How many of each colour there are, in the evaluator's order.
fn colours(found: &[&Detection<'_>]) -> String {
    let mut names = COLOURS.to_vec();
    for d in found {
        if !names.contains(&d.color) {
            names.push(d.color);
        }
    }
    let count = |name: &str| found.iter().filter(|d| d.color == name).count();
    let told: Vec<String> = names
        .into_iter()
        .map(|name| (count(name), name))
        .filter(|(n, _)| *n > 0)
        .map(|(n, name)| format!("{n} {name}"))
        .collect();
    told.join(", ")
}

/// Intersection over union of two boxes whose last pixels belong to them.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area =
        |x1: f32, y1: f32, x2: f32, y2: f32| (x2 - x1 + 1.0).max(0.0) * (y2 - y1 + 1.0).max(0.0);
    let both = area(
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    );
    let all = area(a[0], a[1], a[2], a[3]) + area(b[0], b[1], b[2], b[3]) - both;
    if all > 0.0 { both / all } else { 0.0 }
}
