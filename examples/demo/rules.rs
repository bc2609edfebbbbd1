//! GenEval's rules: does what a detector saw answer a record?
//!
//! # Source
//! Ghosh et al., "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment" (arXiv 2310.11513),
//! and its `evaluate_images.py`. Boxes are `[x1, y1, x2, y2]`, y grows downwards.

use serde::Deserialize;

/// One object that a prompt asks for or forbids.
#[derive(Debug, Clone, Deserialize)]
pub struct Wanted {
    pub class: String,
    pub count: usize,
    #[serde(default)]
    pub color: Option<String>,
    /// Relation to an earlier object of the list.
    #[serde(default)]
    pub position: Option<(String, usize)>,
}

/// One prompt with what its picture must show: a line of GenEval's `evaluation_metadata.jsonl`.
#[derive(Debug, Clone, Deserialize)]
pub struct Request {
    pub tag: String,
    pub include: Vec<Wanted>,
    #[serde(default)]
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
    /// Part of both boxes' sizes that an offset must exceed.
    pub position_threshold: f32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            threshold: 0.3,
            counting_threshold: 0.9,
            max_objects: 16,
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

    /// Whether the detections answer the request, and if not, why not.
    pub fn decide(&self, request: &Request, seen: &[Detection<'_>]) -> Result<(), String> {
        let bound = if request.tag == "counting" {
            self.counting_threshold
        } else {
            self.threshold
        };
        let of = |class: &str| {
            let mut kept: Vec<_> = seen
                .iter()
                .filter(|d| d.class == class && d.score > bound)
                .collect();
            kept.sort_by(|a, b| b.score.total_cmp(&a.score));
            kept.truncate(self.max_objects);
            kept
        };
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
                        let colours: Vec<&str> = found.iter().map(|d| d.color).collect();
                        reasons.push(format!(
                            "expected {color} {class}>={n}, found {m} {color}; and {}",
                            colours.join(", ")
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
        assert_eq!(reason, "expected red car>=1, found 0 red; and blue");
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
}
