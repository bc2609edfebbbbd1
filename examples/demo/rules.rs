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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Request {
        serde_json::from_str(line).unwrap()
    }

    fn at(class: &'static str, x: f32, y: f32, score: f32) -> Detection<'static> {
        Detection {
            class,
            color: "red",
            bbox: [x - 5.0, y - 5.0, x + 5.0, y + 5.0],
            score,
        }
    }

    #[test]
    fn a_score_at_the_threshold_does_not_count() {
        let one =
            request(r#"{"tag":"single_object","include":[{"class":"car","count":1}],"prompt":""}"#);
        let rules = Rules::default();
        assert_eq!(
            rules.decide(&one, &[at("car", 9.0, 9.0, 0.3)]),
            Err("expected car>=1, found 0".into())
        );
        assert_eq!(rules.decide(&one, &[at("car", 9.0, 9.0, 0.31)]), Ok(()));
    }

    #[test]
    fn counting_is_exact_and_has_its_own_threshold() {
        let two = request(
            r#"{"tag":"counting","include":[{"class":"car","count":2}],"exclude":[{"class":"car","count":3}],"prompt":""}"#,
        );
        let rules = Rules::default();
        let cars = |n: usize| vec![at("car", 9.0, 9.0, 0.95); n];
        assert!(rules.decide(&two, &cars(1)).is_err());
        assert_eq!(rules.decide(&two, &cars(2)), Ok(()));
        assert_eq!(
            rules.decide(&two, &cars(3)),
            Err("expected car<3, found 3".into())
        );
        let mut weak = cars(2);
        weak.push(at("car", 9.0, 9.0, 0.9));
        assert_eq!(rules.decide(&two, &weak), Ok(()));
    }

    #[test]
    fn at_most_sixteen_objects_of_a_class_are_kept() {
        let many =
            request(r#"{"tag":"counting","include":[{"class":"car","count":17}],"prompt":""}"#);
        let cars = vec![at("car", 9.0, 9.0, 0.95); 17];
        assert_eq!(
            Rules::default().decide(&many, &cars),
            Err("expected car>=17, found 16".into())
        );
    }

    #[test]
    fn only_the_best_objects_show_their_colour() {
        let red = request(
            r#"{"tag":"colors","include":[{"class":"car","count":1,"color":"red"}],"prompt":""}"#,
        );
        let blue = Detection {
            color: "blue",
            ..at("car", 9.0, 9.0, 0.9)
        };
        let rules = Rules::default();
        assert_eq!(rules.decide(&red, &[at("car", 9.0, 9.0, 0.8)]), Ok(()));
        let reason = rules
            .decide(&red, &[at("car", 9.0, 9.0, 0.8), blue])
            .unwrap_err();
        assert_eq!(reason, "expected red car>=1, found 0 red; and 1 blue");
    }

    #[test]
    fn a_relation_needs_more_than_half_of_the_offset() {
        let rules = Rules {
            position_threshold: 0.0,
            ..Rules::default()
        };
        let boxed = |x: f32, y: f32| at("x", x, y, 1.0).bbox;
        assert_eq!(
            rules.relations(&boxed(0.0, 0.0), &boxed(10.0, 0.0)),
            ["left of"]
        );
        assert_eq!(
            rules.relations(&boxed(10.0, 10.0), &boxed(0.0, 0.0)),
            ["right of", "below"]
        );
        // 3-4-5: 0.6 and 0.8 both exceed one half. A share of exactly one half does not.
        assert_eq!(
            rules.relations(&boxed(3.0, -4.0), &boxed(0.0, 0.0)),
            ["right of", "above"]
        );
        let half = Rules {
            position_threshold: 0.25,
            ..rules
        };
        // Offset 10, sizes 10 + 10: revised offset 5, share exactly 0.5.
        assert!(
            half.relations(&boxed(10.0, 0.0), &boxed(0.0, 0.0))
                .is_empty()
        );
        assert!(
            rules
                .relations(&boxed(1.0, 1.0), &boxed(1.0, 1.0))
                .is_empty()
        );
    }

    #[test]
    fn a_position_needs_its_target() {
        let left = request(
            r#"{"tag":"position","include":[{"class":"cup","count":1},
               {"class":"car","count":1,"position":["left of",0]}],"prompt":""}"#,
        );
        let rules = Rules::default();
        let (cup, car) = (at("cup", 50.0, 20.0, 0.9), at("car", 10.0, 20.0, 0.9));
        assert_eq!(rules.decide(&left, &[cup, car]), Ok(()));
        let swapped = [at("cup", 10.0, 20.0, 0.9), at("car", 50.0, 20.0, 0.9)];
        assert_eq!(
            rules.decide(&left, &swapped),
            Err("expected car left of target, found right of target".into())
        );
        assert_eq!(
            rules.decide(&left, &[car]),
            Err("expected cup>=1, found 0\nno target for car to be left of".into())
        );
    }

    #[test]
    fn colours_are_counted_in_their_order() {
        let two = request(
            r#"{"tag":"colors","include":[{"class":"car","count":3,"color":"red"}],"prompt":""}"#,
        );
        let of = |color: &'static str| Detection {
            color,
            ..at("car", 9.0, 9.0, 0.9)
        };
        let seen = [of("white"), of("red"), of("blue")];
        assert_eq!(
            Rules::default().decide(&two, &seen),
            Err("expected red car>=3, found 1 red; and 1 red, 1 blue, 1 white".into())
        );
        let seen = [of("blue"), of("teal"), of("blue")];
        assert_eq!(
            Rules::default().decide(&two, &seen),
            Err("expected red car>=3, found 0 red; and 2 blue, 1 teal".into())
        );
    }

    #[test]
    fn a_thing_that_is_asked_for_may_come_more_often() {
        let one =
            request(r#"{"tag":"single_object","include":[{"class":"car","count":1}],"prompt":""}"#);
        let two = [at("car", 9.0, 9.0, 0.9), at("car", 30.0, 9.0, 0.8)];
        assert_eq!(Rules::default().decide(&one, &two), Ok(()));
        let both = request(
            r#"{"tag":"two_object","include":[{"class":"car","count":1},{"class":"cup","count":1}],"prompt":""}"#,
        );
        assert_eq!(
            Rules::default().decide(&both, &two),
            Err("expected cup>=1, found 0".into())
        );
    }

    #[test]
    fn overlapping_boxes_are_dropped_only_if_asked_for() {
        let two =
            request(r#"{"tag":"two_object","include":[{"class":"car","count":2}],"prompt":""}"#);
        let boxed = |x: f32, score: f32| Detection {
            bbox: [x, 0.0, x + 9.0, 9.0],
            ..at("car", 0.0, 0.0, score)
        };
        // Ten by ten pixels each, five columns in common: 50 of 150.
        let seen = [boxed(0.0, 0.9), boxed(5.0, 0.8)];
        let rules = |max_overlap| Rules {
            max_overlap,
            ..Rules::default()
        };
        assert_eq!(rules(1.0).decide(&two, &seen), Ok(()));
        assert_eq!(rules(0.34).decide(&two, &seen), Ok(()));
        let dropped = Err("expected car>=2, found 1".into());
        assert_eq!(rules(0.33).decide(&two, &seen), dropped);
        // The third overlaps the second, which is gone: it stays.
        let three = [boxed(0.0, 0.9), boxed(5.0, 0.8), boxed(10.0, 0.7)];
        assert_eq!(rules(0.33).decide(&two, &three), Ok(()));
        // The sixteen best come first, then the overlap.
        let mut many = vec![boxed(0.0, 0.9); 16];
        many.push(boxed(50.0, 0.8));
        assert_eq!(rules(0.5).decide(&two, &many), dropped);
    }

    #[test]
    fn every_pair_of_objects_must_stand_as_asked() {
        let line = |n: u32| {
            request(&format!(
                r#"{{"tag":"position","include":[{{"class":"cup","count":{n}}},
                {{"class":"car","count":{n},"position":["left of",0]}}],"prompt":""}}"#
            ))
        };
        let seen = [
            at("cup", 50.0, 20.0, 0.9),
            at("cup", 5.0, 20.0, 0.8),
            at("car", 20.0, 20.0, 0.9),
            at("car", 30.0, 20.0, 0.8),
        ];
        // The best of each decide, the others do not matter unless they are asked for.
        assert_eq!(Rules::default().decide(&line(1), &seen), Ok(()));
        assert_eq!(
            Rules::default().decide(&line(2), &seen),
            Err("expected car left of target, found right of target".into())
        );
    }

    #[test]
    fn a_wrong_colour_spoils_the_position() {
        let left = request(
            r#"{"tag":"position","include":[{"class":"cup","count":1,"color":"blue"},
               {"class":"car","count":1,"color":"blue","position":["left of",0]}],"prompt":""}"#,
        );
        let seen = [at("cup", 50.0, 20.0, 0.9), at("car", 10.0, 20.0, 0.9)];
        // The car's colour is wrong, so its place is not looked at; the cup is no target either.
        assert_eq!(
            Rules::default().decide(&left, &seen),
            Err("expected blue cup>=1, found 0 blue; and 1 red\nexpected blue car>=1, found 0 blue; and 1 red".into())
        );
    }

    #[test]
    fn an_offset_within_a_tenth_of_the_sizes_is_no_relation() {
        let boxed = |x: f32, y: f32| at("x", x, y, 1.0).bbox;
        let rules = Rules::default();
        // Ten wide each: two pixels do not count. At four, two are left of four: exactly half is not enough.
        assert!(
            rules
                .relations(&boxed(2.0, 0.0), &boxed(0.0, 0.0))
                .is_empty()
        );
        assert!(
            rules
                .relations(&boxed(4.0, 0.0), &boxed(0.0, 0.0))
                .is_empty()
        );
        assert_eq!(
            rules.relations(&boxed(4.1, 0.0), &boxed(0.0, 0.0)),
            ["right of"]
        );
        // The share is of the whole offset: 12 of 14.
        assert_eq!(
            rules.relations(&boxed(0.0, 14.0), &boxed(0.0, 0.0)),
            ["below"]
        );
    }
}
