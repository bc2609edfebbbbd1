//! Scenes that answer a request, GenEval's verdict on what is seen, and questions with known answers.

use crate::world::prompts::{Ask, NUMBERS, plural, with_article};
use crate::world::{COLOURS, KINDS, Object, Rng, SIDE, Scrap, natural};

/// What a detector reports: a square box by centre and side, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub kind: usize,
    pub colour: usize,
    pub x: f32,
    pub y: f32,
    pub size: f32,
}

impl From<Object> for Seen {
    fn from(o: Object) -> Self {
        let half = o.size as f32 / 2.0;
        Self {
            kind: o.kind,
            colour: o.colour,
            x: o.x as f32 + half,
            y: o.y as f32 + half,
            size: o.size as f32,
        }
    }
}

/// A picture before it is drawn.
#[derive(Clone, Debug)]
pub struct Scene {
    pub page: usize,
    pub objects: Vec<Object>,
    pub scraps: Vec<Scrap>,
}

/// `n` boxes (size, x, y) on the four-pixel grid that do not touch.
fn places(n: usize, rng: &mut Rng) -> Vec<(usize, usize, usize)> {
    let sizes: &[usize] = [&[24, 28][..], &[20, 24, 28], &[20, 24], &[20]][n.max(1) - 1];
    loop {
        let mut out: Vec<(usize, usize, usize)> = Vec::new();
        for _ in 0..n * 20 {
            let s = *rng.pick(sizes);
            let (x, y) = (
                4 * rng.below((SIDE - s) / 4 + 1),
                4 * rng.below((SIDE - s) / 4 + 1),
            );
            if out.iter().all(|&(t, a, b)| {
                x + s + 2 <= a || a + t + 2 <= x || y + s + 2 <= b || b + t + 2 <= y
            }) {
                out.push((s, x, y));
            }
            if out.len() == n {
                return out;
            }
        }
    }
}

/// Relations of `a` to `b` by GenEval's rule, as a bit set over `RELATIONS`.
fn relations(a: &Seen, b: &Seen) -> u8 {
    let (dx, dy) = (a.x - b.x, a.y - b.y);
    let slack = 0.1 * (a.size + b.size);
    let revised = |d: f32| d.signum() * (d.abs() - slack).max(0.0);
    let (vx, vy) = (revised(dx), revised(dy));
    if vx.abs() < 1e-3 && vy.abs() < 1e-3 {
        return 0;
    }
    let norm = dx.hypot(dy);
    let (ux, uy) = (vx / norm, vy / norm);
    u8::from(ux < -0.5)
        | u8::from(ux > 0.5) << 1
        | u8::from(uy < -0.5) << 2
        | u8::from(uy > 0.5) << 3
}

/// Whether what is seen (best first) satisfies the request, as GenEval's evaluator decides.
pub fn satisfies(ask: &Ask, seen: &[Seen]) -> bool {
    let first = |i: usize| seen.iter().find(|s| s.kind == ask.kinds[i]);
    let coloured = |i: usize| first(i).is_some_and(|s| s.colour == ask.colours[i]);
    match ask.task {
        0 => first(0).is_some(),
        1 => first(0).is_some() && first(1).is_some(),
        2 => seen.iter().filter(|s| s.kind == ask.kinds[0]).count() == ask.extra,
        3 => coloured(0),
        4 => {
            matches!((first(0), first(1)), (Some(a), Some(b)) if relations(a, b) >> ask.extra & 1 == 1)
        }
        _ => coloured(0) && coloured(1),
    }
}

impl Scene {
    /// A scene that shows what the request names and nothing else.
    pub fn answering(ask: &Ask, rng: &mut Rng) -> Self {
        let n = match ask.task {
            0 | 3 => 1,
            2 => ask.extra,
            _ => 2,
        };
        let named = [3, 5].contains(&ask.task);
        loop {
            let same = *rng.pick(natural(ask.kinds[0]));
            let objects: Vec<Object> = places(n, rng)
                .into_iter()
                .enumerate()
                .map(|(i, (size, x, y))| {
                    let which = if ask.task == 2 { 0 } else { i };
                    let kind = ask.kinds[which];
                    let colour = match (named, ask.task) {
                        (true, _) => ask.colours[which],
                        (_, 2) => same,
                        _ => *rng.pick(natural(kind)),
                    };
                    Object {
                        kind,
                        colour,
                        size,
                        x,
                        y,
                    }
                })
                .collect();
            if ask.task == 4 {
                let [a, b] = [Seen::from(objects[0]), Seen::from(objects[1])];
                let (dx, dy) = ((a.x - b.x).abs(), (a.y - b.y).abs());
                let along = if ask.extra < 2 {
                    dx > 1.3 * dy
                } else {
                    dy > 1.3 * dx
                };
                // Only layouts where one axis clearly dominates teach the relation.
                if !along || relations(&a, &b) >> ask.extra & 1 == 0 {
                    continue;
                }
            }
            return Self {
                page: rng.below(2),
                objects,
                scraps: Vec::new(),
            };
        }
    }

    /// The scene in words: what it shows, how many, in which colour, and in which corner of the page.
    pub fn plan(&self, ask: &Ask) -> String {
        let corner = |o: &Object| {
            let middle = |at: usize| 2 * at + o.size < SIDE;
            let across = if middle(o.x) { "left" } else { "right" };
            format!("{across} {}", if middle(o.y) { "above" } else { "below" })
        };
        let parts: Vec<String> = self
            .objects
            .iter()
            .map(|o| {
                let what = with_article(&format!("{} {}", COLOURS[o.colour], KINDS[o.kind]));
                format!("{what} {}", corner(o))
            })
            .collect();
        match self.objects.split_first() {
            Some((first, _)) if ask.task == 2 => {
                let kind = plural(KINDS[first.kind]);
                let mut corners: Vec<String> = self.objects.iter().map(corner).collect();
                corners.sort();
                let number = NUMBERS[self.objects.len().min(NUMBERS.len() - 1)];
                let colour = COLOURS[first.colour];
                format!("{number} {colour} {kind} {}", corners.join(" "))
            }
            _ => parts.join(" and "),
        }
    }

    /// Any objects in any colours, some beside cut or fused ones.
    pub fn anything(rng: &mut Rng) -> Self {
        let whole = [0, 1, 1, 2, 2, 3, 4][rng.below(7)];
        let spoiled = if whole < 4 && rng.chance(0.5) {
            1 + rng.below((4 - whole).min(2))
        } else {
            0
        };
        if whole + spoiled == 0 {
            return Self {
                page: rng.below(2),
                objects: Vec::new(),
                scraps: Vec::new(),
            };
        }
        let alike = rng.chance(0.3).then(|| rng.below(KINDS.len()));
        let mut boxes = places(whole + spoiled, rng)
            .into_iter()
            .map(|(size, x, y)| Object {
                kind: alike.unwrap_or_else(|| rng.below(KINDS.len())),
                colour: rng.below(COLOURS.len()),
                size,
                x,
                y,
            })
            .collect::<Vec<_>>();
        let scraps = boxes
            .split_off(whole)
            .into_iter()
            .map(|o| spoil(o, rng))
            .collect();
        Self {
            page: rng.below(2),
            objects: boxes,
            scraps,
        }
    }

    /// One object lost, cut, fused, swapped for another kind or repainted.
    pub fn damage(&mut self, rng: &mut Rng) {
        let i = rng.below(self.objects.len());
        match rng.below(10) {
            0..2 => drop(self.objects.remove(i)),
            2..5 => {
                let o = self.objects.remove(i);
                self.scraps.push(spoil(o, rng));
            }
            5..8 => self.objects[i].kind = rng.below(KINDS.len()),
            _ => self.objects[i].colour = rng.below(COLOURS.len()),
        }
    }
}

fn spoil(of: Object, rng: &mut Rng) -> Scrap {
    if rng.chance(0.6) {
        return Scrap::Cut {
            of,
            edge: rng.below(4),
            lost: 0.4 + 0.25 * rng.unit(),
        };
    }
    let mut second = of;
    second.kind = (of.kind + 1 + rng.below(KINDS.len() - 1)) % KINDS.len();
    if rng.chance(0.3) {
        second.colour = rng.below(COLOURS.len());
    }
    Scrap::Fused {
        first: of,
        second,
        upright: rng.chance(0.5),
    }
}

/// Training-split questions about a picture made for `own`: its own first, then half yes and half no where possible.
pub fn questions(own: &Ask, seen: &[Seen], n: usize, rng: &mut Rng) -> Vec<(String, bool)> {
    let mut out = Vec::new();
    if !own.is_held_out() {
        out.push((own.text(), satisfies(own, seen)));
    }
    while out.len() < n {
        let want = out.iter().filter(|q| q.1).count() * 2 < n;
        let mut ask = own.near_miss(rng);
        for _ in 0..12 {
            ask = match rng.below(10) {
                // A fresh description of what is there, or a near miss of one.
                0..5 if !seen.is_empty() => {
                    let described = describe(seen, rng);
                    if want {
                        described
                    } else {
                        described.near_miss(rng)
                    }
                }
                0..9 => own.near_miss(rng),
                _ => Ask::random_for_training(rng),
            };
            let usable = !ask.is_held_out() && out.iter().all(|q| q.0 != ask.text());
            if usable && satisfies(&ask, seen) == want {
                break;
            }
        }
        if ask.is_held_out() {
            ask = Ask::random_for_training(rng);
        }
        out.push((ask.text(), satisfies(&ask, seen)));
    }
    out
}

fn describe(seen: &[Seen], rng: &mut Rng) -> Ask {
    let a = rng.pick(seen);
    let b = rng.pick(seen);
    let mut ask = Ask::random_for_training(rng);
    ask.kinds[0] = a.kind;
    ask.colours[0] = a.colour;
    if ask.task == 2 {
        ask.extra = seen.iter().filter(|s| s.kind == a.kind).count().clamp(2, 4);
    }
    if [1, 4, 5].contains(&ask.task) {
        if a.kind == b.kind || (ask.task == 5 && a.colour == b.colour) {
            ask.task = if ask.task == 5 { 3 } else { 0 };
        } else {
            ask.kinds[1] = b.kind;
            ask.colours[1] = b.colour;
        }
    }
    ask
}
