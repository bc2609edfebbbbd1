//! The drawn world: twelve kinds of object in eight colours on a plain 64×64 page.
//!
//! A sprite is a list of primitives in the unit square, drawn at six samples a side and box-filtered. All sizes and
//! positions are multiples of four pixels: a tokenizer with eight-pixel cells then sees each sprite at few phases.

pub mod detector;
pub mod prompts;
pub mod scene;

use std::collections::HashMap;

/// Side of a picture in pixels.
pub const SIDE: usize = 64;
/// The two page colours.
pub const PAGES: [[u8; 3]; 2] = [[246, 246, 242], [224, 238, 250]];
/// Names of the kinds; the index is the kind's number everywhere.
pub const KINDS: [&str; 12] = [
    "apple", "banana", "donut", "pizza", "car", "bus", "boat", "umbrella", "cup", "bottle", "book",
    "kite",
];
/// Names of the colours; the index is the colour's number everywhere.
pub const COLOURS: [&str; 8] = [
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "black",
];
const RGB: [[u8; 3]; 8] = [
    [214, 38, 38],
    [245, 140, 24],
    [244, 214, 44],
    [46, 160, 67],
    [44, 92, 222],
    [132, 52, 184],
    [244, 148, 192],
    [38, 38, 44],
];
const SAMPLES: usize = 6;

/// Colours that a kind takes when the prompt names none.
pub fn natural(kind: usize) -> &'static [usize] {
    const NATURAL: [&[usize]; 12] = [
        &[0, 3],
        &[2],
        &[6],
        &[2],
        &[0, 4],
        &[2],
        &[4],
        &[5],
        &[4],
        &[3],
        &[4, 0],
        &[0],
    ];
    NATURAL[kind]
}

/// A SplitMix64 stream: every data set is a function of its seed alone.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed ^ 0x5DEE_CE66_D1CE_4E5B);
        rng.bits();
        rng
    }
    /// 64 even bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }
    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
    pub fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// A whole object: numbers of its kind and colour, side and top-left corner in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    pub kind: usize,
    pub colour: usize,
    pub size: usize,
    pub x: usize,
    pub y: usize,
}

/// Something that must not count as an object.
#[derive(Clone, Copy, Debug)]
pub enum Scrap {
    /// An object that lacks `lost` of its side at edge 0 left, 1 right, 2 top, 3 bottom.
    Cut { of: Object, edge: usize, lost: f32 },
    /// Left or upper half of the first, the rest of the second.
    Fused {
        first: Object,
        second: Object,
        upright: bool,
    },
}

#[derive(Clone, Copy)]
enum Shape {
    Ellipse(f32, f32, f32, f32),
    Rect(f32, f32, f32, f32),
    Round(f32, f32, f32, f32, f32),
    Poly(&'static [(f32, f32)]),
    Line(f32, f32, f32, f32, f32),
    /// Upper half of the ellipse in a box.
    Dome(f32, f32, f32, f32),
}

impl Shape {
    fn covers(self, x: f32, y: f32) -> bool {
        match self {
            Self::Ellipse(a, b, c, d) => {
                let (u, v) = ((2.0 * x - a - c) / (c - a), (2.0 * y - b - d) / (d - b));
                u * u + v * v <= 1.0
            }
            Self::Rect(a, b, c, d) => (a..c).contains(&x) && (b..d).contains(&y),
            Self::Round(a, b, c, d, r) => {
                let (u, v) = (x - x.clamp(a + r, c - r), y - y.clamp(b + r, d - r));
                u * u + v * v <= r * r
            }
            Self::Poly(points) => {
                let mut inside = false;
                for (i, &(xa, ya)) in points.iter().enumerate() {
                    let (xb, yb) = points[(i + 1) % points.len()];
                    if (ya > y) != (yb > y) && x < xa + (y - ya) / (yb - ya) * (xb - xa) {
                        inside = !inside;
                    }
                }
                inside
            }
            Self::Line(xa, ya, xb, yb, w) => {
                let (dx, dy) = (xb - xa, yb - ya);
                let t = (((x - xa) * dx + (y - ya) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
                let (u, v) = (x - xa - t * dx, y - ya - t * dy);
                4.0 * (u * u + v * v) <= w * w
            }
            Self::Dome(a, b, c, d) => 2.0 * y < b + d && Self::Ellipse(a, b, c, d).covers(x, y),
        }
    }
}

#[derive(Clone, Copy)]
enum Paint {
    Body,
    Shade,
    Fixed([u8; 3]),
    Hole,
}

const WHITE: Paint = Paint::Fixed([252, 252, 252]);
const GLASS: Paint = Paint::Fixed([206, 230, 246]);
const DARK: Paint = Paint::Fixed([58, 50, 48]);
const WOOD: Paint = Paint::Fixed([124, 80, 40]);
const DOUGH: Paint = Paint::Fixed([224, 176, 108]);
const LEAF: Paint = Paint::Fixed([60, 140, 60]);

fn shapes(kind: usize) -> &'static [(Shape, Paint)] {
    use Paint::{Body, Hole, Shade};
    use Shape::{Dome, Ellipse, Line, Poly, Rect, Round};
    match kind {
        0 => &[
            (Ellipse(0.02, 0.24, 0.60, 0.98), Body),
            (Ellipse(0.40, 0.24, 0.98, 0.98), Body),
            (Rect(0.46, 0.08, 0.54, 0.36), WOOD),
            (Ellipse(0.54, 0.02, 0.86, 0.20), LEAF),
        ],
        1 => &[
            (Ellipse(0.0, -0.38, 1.0, 0.92), Body),
            (Ellipse(0.10, -0.62, 1.06, 0.50), Hole),
            (Rect(0.0, 0.0, 1.0, 0.12), Hole),
            (Round(0.0, 0.08, 0.13, 0.24, 0.04), DARK),
            (Round(0.86, 0.42, 1.0, 0.56, 0.04), DARK),
        ],
        2 => &[
            (Ellipse(0.0, 0.0, 1.0, 1.0), DOUGH),
            (Ellipse(0.07, 0.07, 0.93, 0.93), Body),
            (Ellipse(0.30, 0.30, 0.70, 0.70), DOUGH),
            (Ellipse(0.36, 0.36, 0.64, 0.64), Hole),
        ],
        3 => &[
            (Poly(&[(0.02, 0.16), (0.98, 0.16), (0.5, 1.0)]), Body),
            (Round(0.0, 0.04, 1.0, 0.24, 0.09), WOOD),
            (Ellipse(0.26, 0.32, 0.44, 0.50), DARK),
            (Ellipse(0.56, 0.32, 0.74, 0.50), DARK),
            (Ellipse(0.41, 0.58, 0.59, 0.76), DARK),
        ],
        4 => &[
            (Round(0.0, 0.44, 1.0, 0.82, 0.10), Body),
            (
                Poly(&[(0.16, 0.48), (0.32, 0.16), (0.70, 0.16), (0.86, 0.48)]),
                Body,
            ),
            (
                Poly(&[(0.27, 0.46), (0.37, 0.24), (0.48, 0.24), (0.48, 0.46)]),
                GLASS,
            ),
            (
                Poly(&[(0.55, 0.46), (0.55, 0.24), (0.65, 0.24), (0.75, 0.46)]),
                GLASS,
            ),
            (Ellipse(0.11, 0.66, 0.39, 0.94), DARK),
            (Ellipse(0.61, 0.66, 0.89, 0.94), DARK),
            (Ellipse(0.20, 0.75, 0.30, 0.85), WHITE),
            (Ellipse(0.70, 0.75, 0.80, 0.85), WHITE),
        ],
        5 => &[
            (Round(0.0, 0.08, 1.0, 0.84, 0.08), Body),
            (Rect(0.07, 0.20, 0.32, 0.48), GLASS),
            (Rect(0.38, 0.20, 0.62, 0.48), GLASS),
            (Rect(0.68, 0.20, 0.93, 0.48), GLASS),
            (Ellipse(0.12, 0.70, 0.38, 0.96), DARK),
            (Ellipse(0.62, 0.70, 0.88, 0.96), DARK),
        ],
        6 => &[
            (
                Poly(&[(0.0, 0.66), (1.0, 0.66), (0.80, 0.98), (0.20, 0.98)]),
                Body,
            ),
            (Rect(0.45, 0.02, 0.53, 0.68), WOOD),
            (Poly(&[(0.57, 0.04), (0.57, 0.58), (0.96, 0.58)]), Body),
            (Poly(&[(0.41, 0.14), (0.41, 0.58), (0.08, 0.58)]), Shade),
        ],
        7 => &[
            (Dome(0.0, 0.02, 1.0, 1.06), Body),
            (Poly(&[(0.5, 0.04), (0.32, 0.54), (0.50, 0.54)]), Shade),
            (Poly(&[(0.5, 0.04), (0.68, 0.54), (0.84, 0.54)]), Shade),
            (Line(0.5, 0.50, 0.5, 0.90, 0.08), WOOD),
            (Line(0.5, 0.92, 0.68, 0.92, 0.09), WOOD),
            (Line(0.70, 0.82, 0.70, 0.91, 0.09), WOOD),
        ],
        8 => &[
            (Ellipse(0.56, 0.26, 1.0, 0.76), Shade),
            (Ellipse(0.68, 0.38, 0.88, 0.64), Hole),
            (
                Poly(&[(0.02, 0.14), (0.78, 0.14), (0.70, 0.96), (0.10, 0.96)]),
                Body,
            ),
            (Ellipse(0.02, 0.04, 0.78, 0.26), WHITE),
            (Ellipse(0.09, 0.08, 0.71, 0.22), WOOD),
        ],
        9 => &[
            (Round(0.24, 0.34, 0.76, 1.0, 0.10), Body),
            (Rect(0.40, 0.10, 0.60, 0.42), Body),
            (Rect(0.36, 0.0, 0.64, 0.12), DARK),
            (Rect(0.24, 0.56, 0.76, 0.80), WHITE),
        ],
        10 => &[
            (Round(0.08, 0.0, 0.92, 1.0, 0.05), Body),
            (Rect(0.08, 0.04, 0.24, 0.96), Shade),
            (Rect(0.36, 0.18, 0.80, 0.28), WHITE),
            (Rect(0.36, 0.38, 0.80, 0.48), WHITE),
            (Rect(0.24, 0.86, 0.92, 0.94), WHITE),
        ],
        _ => &[
            (
                Poly(&[(0.5, 0.0), (0.92, 0.34), (0.5, 0.76), (0.08, 0.34)]),
                Body,
            ),
            (Poly(&[(0.5, 0.0), (0.5, 0.76), (0.08, 0.34)]), Shade),
            (Line(0.5, 0.76, 0.64, 0.84, 0.08), DARK),
            (Line(0.64, 0.84, 0.42, 0.90, 0.08), DARK),
            (Line(0.42, 0.90, 0.56, 0.97, 0.08), DARK),
        ],
    }
}

/// Premultiplied RGB and coverage, each in 0..=1, row by row.
type Sprite = Vec<[f32; 4]>;

fn sprite(kind: usize, colour: usize, size: usize) -> Sprite {
    let body = RGB[colour];
    // A darker black would vanish, so black is the one colour whose shade is lighter.
    let shade = if colour == 7 {
        [98, 98, 106]
    } else {
        body.map(|v| (f32::from(v) * 0.68) as u8)
    };
    let cells = (size * SAMPLES) as f32;
    let weight = 1.0 / (SAMPLES * SAMPLES) as f32;
    let mut out = vec![[0.0; 4]; size * size];
    for sy in 0..size * SAMPLES {
        for sx in 0..size * SAMPLES {
            let (x, y) = ((sx as f32 + 0.5) / cells, (sy as f32 + 0.5) / cells);
            let top = shapes(kind)
                .iter()
                .rev()
                .find(|(shape, _)| shape.covers(x, y));
            let rgb = match top {
                None | Some((_, Paint::Hole)) => continue,
                Some((_, Paint::Body)) => body,
                Some((_, Paint::Shade)) => shade,
                Some((_, Paint::Fixed(rgb))) => *rgb,
            };
            let cell = &mut out[sy / SAMPLES * size + sx / SAMPLES];
            for (to, from) in cell.iter_mut().zip(rgb) {
                *to += f32::from(from) / 255.0 * weight;
            }
            cell[3] += weight;
        }
    }
    out
}

/// Draws pictures, keeping every sprite that it has drawn once.
#[derive(Default)]
pub struct Painter {
    sprites: HashMap<(usize, usize, usize), Sprite>,
}

impl Painter {
    pub fn new() -> Self {
        Self::default()
    }

    fn stamp(&mut self, page: &mut [[f32; 3]], o: Object, keep: impl Fn(f32, f32) -> bool) {
        let sprite = self
            .sprites
            .entry((o.kind, o.colour, o.size))
            .or_insert_with(|| sprite(o.kind, o.colour, o.size));
        for (i, cell) in sprite.iter().enumerate() {
            let (dx, dy) = (i % o.size, i / o.size);
            if keep(
                (dx as f32 + 0.5) / o.size as f32,
                (dy as f32 + 0.5) / o.size as f32,
            ) {
                for (to, from) in page[(o.y + dy) * SIDE + o.x + dx].iter_mut().zip(cell) {
                    *to = *to * (1.0 - cell[3]) + from;
                }
            }
        }
    }

    /// One picture, RGB rows.
    pub fn draw(&mut self, page: usize, objects: &[Object], scraps: &[Scrap]) -> Vec<u8> {
        let mut canvas = vec![PAGES[page].map(|v| f32::from(v) / 255.0); SIDE * SIDE];
        for &o in objects {
            self.stamp(&mut canvas, o, |_, _| true);
        }
        for &scrap in scraps {
            match scrap {
                Scrap::Cut { of, edge, lost } => self.stamp(&mut canvas, of, |x, y| match edge {
                    0 => x >= lost,
                    1 => x < 1.0 - lost,
                    2 => y >= lost,
                    _ => y < 1.0 - lost,
                }),
                Scrap::Fused {
                    first,
                    second,
                    upright,
                } => {
                    self.stamp(
                        &mut canvas,
                        first,
                        |x, y| if upright { y < 0.5 } else { x < 0.5 },
                    );
                    self.stamp(&mut canvas, second, |x, y| {
                        if upright { y >= 0.5 } else { x >= 0.5 }
                    });
                }
            }
        }
        canvas
            .iter()
            .flatten()
            .map(|v| (v * 255.0 + 0.5) as u8)
            .collect()
    }
}
