//! Charts for pictures: points with intervals over an axis of factors, and the axes' numbers.

use crate::canvas::{Canvas, LETTER, Rgb};

const PAPER: Rgb = [252, 252, 250];
const INK: Rgb = [40, 40, 44];
const SOFT: Rgb = [110, 112, 118];
const FAINT: Rgb = [226, 226, 222];
/// Colours that are told apart, and by whom they are used in turn.
const COLOURS: [Rgb; 10] = [
    [31, 119, 180],
    [214, 39, 40],
    [44, 160, 44],
    [148, 103, 189],
    [255, 127, 14],
    [23, 160, 175],
    [140, 86, 75],
    [200, 60, 150],
    [120, 120, 20],
    [60, 60, 60],
];
/// Letters of every text are so many times eight pixels wide.
const SCALE: usize = 2;
const LINE: usize = 12 * SCALE;
/// More series than these are listed below the points.
const LONG: usize = 8;

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub low: f64,
    pub high: f64,
}

/// Points that belong together, joined by lines if there are several.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub label: String,
    pub points: Vec<Point>,
}

/// Points over a logarithmic axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub title: String,
    pub x: String,
    pub y: String,
    /// Numbers along the axis; none for round ones.
    pub marks: Vec<f64>,
    pub series: Vec<Series>,
}

/// Numbers for a logarithmic axis: 1, 2 and 5 of every power of ten that lie within.
#[must_use]
pub fn factors(low: f64, high: f64) -> Vec<f64> {
    let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (from..=to)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)))
        .filter(|x| (low * 0.999..=high * 1.001).contains(x))
        .collect()
}

/// Numbers for an even axis: a few round ones that lie within.
#[must_use]
pub fn steps(low: f64, high: f64) -> Vec<f64> {
    let rough = ((high - low) / 6.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    let step = step.into_iter().find(|&s| s >= rough).unwrap_or(rough);
    let (from, to) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (from..=to).map(|i| i as f64 * step).collect()
}

/// A number as short as its axis lets it be.
#[must_use]
pub fn short(x: f64) -> String {
    let text = format!("{x:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values
        .filter(|v| v.is_finite())
        .fold(None, |ends, v| match ends {
            None => Some([v, v]),
            Some([low, high]) => Some([low.min(v), high.max(v)]),
        })
}

impl Chart {
    /// Draws the chart, `width` pixels wide: the points carry numbers, and a list beside them says whose they are; a long
    /// list stands below them in columns.
    #[must_use]
    pub fn draw(&self, width: usize) -> Canvas {
        let longest = self.series.iter().map(|s| s.label.chars().count()).max();
        let entry = (longest.unwrap_or(0) + 5) * LETTER * SCALE;
        let (left, top) = (7 * LETTER * SCALE, 4 * LINE);
        let long = self.series.len() > LONG;
        let columns = if long { (width / entry).max(1) } else { 1 };
        let lines = self.series.len().div_ceil(columns);
        let list = if long { 2 * LETTER * SCALE } else { entry };
        let bottom = (4 + if long { lines } else { 0 }) * LINE;
        let inner = width.saturating_sub(left + list).max(200);
        let height = (inner * 5 / 8).max(if long { 0 } else { lines * LINE });
        let mut page = Canvas::new(left + inner + list, top + height + bottom, PAPER);
        page.text([left, LINE], SCALE, INK, &self.title);
        let all = || self.series.iter().flat_map(|s| &s.points);
        let xs = bounds(all().map(|p| p.x).filter(|&x| x > 0.0));
        let ys = bounds(all().flat_map(|p| [p.y, p.low, p.high]));
        let (Some([x0, x1]), Some([y0, y1])) = (xs, ys) else {
            return page;
        };
        // Room around the outermost points.
        let (x0, x1) = (x0 / 1.25, x1 * 1.25);
        let pad = ((y1 - y0) * 0.06).max(1e-6);
        let (y0, y1) = (y0 - pad, y1 + pad);
        let along =
            |share: f64, n: usize| (share.clamp(0.0, 1.0) * (n - 1) as f64).round() as usize;
        let column = |x: f64| left + along((x / x0).ln() / (x1 / x0).ln(), inner);
        let row = |y: f64| top + along((y1 - y) / (y1 - y0), height);
        let centred = |page: &mut Canvas, x: usize, y: usize, ink: Rgb, text: &str| {
            let half = text.chars().count() * LETTER * SCALE / 2;
            page.text([x.saturating_sub(half), y], SCALE, ink, text);
        };
        let marks = match self.marks.as_slice() {
            [] => factors(x0, x1),
            given => given.to_vec(),
        };
        for x in marks {
            page.fill([column(x), top], [1, height], FAINT);
            centred(
                &mut page,
                column(x),
                top + height + SCALE * 5,
                SOFT,
                &short(x),
            );
        }
        for y in steps(y0, y1) {
            page.fill([left, row(y)], [inner, 1], FAINT);
            let text = short(y);
            let wide = (text.chars().count() + 1) * LETTER * SCALE;
            let at = [
                left.saturating_sub(wide),
                row(y).saturating_sub(LETTER * SCALE / 2),
            ];
            page.text(at, SCALE, SOFT, &text);
        }
        page.frame([left, top], [inner, height], 1, SOFT);
        centred(
            &mut page,
            left + inner / 2,
            top + height + 5 * LINE / 2,
            INK,
            &self.x,
        );
        page.text([SCALE * 4, top - LINE - LINE / 4], SCALE, INK, &self.y);
        let mut taken: Vec<[usize; 2]> = Vec::new();
        for (i, series) in self.series.iter().enumerate() {
            let ink = COLOURS[i % COLOURS.len()];
            let name = (i + 1).to_string();
            let mut before: Option<[usize; 2]> = None;
            for point in series
                .points
                .iter()
                .filter(|p| p.x > 0.0 && p.y.is_finite())
            {
                let [x, y] = [column(point.x), row(point.y)];
                if let Some(from) = before {
                    stroke(&mut page, from, [x, y], ink);
                }
                before = Some([x, y]);
                let (high, low) = (row(point.high), row(point.low));
                page.fill([x, high], [2, low - high + 1], ink);
                for end in [high, low] {
                    page.fill([x.saturating_sub(4), end], [10, 2], ink);
                }
                page.fill([x.saturating_sub(4), y.saturating_sub(4)], [10, 10], ink);
            }
            if let Some([x, y]) = before {
                let wide = name.len() * LETTER * SCALE;
                let at = free_place([x + 10, y.saturating_sub(LETTER * SCALE + 3)], wide, &taken);
                taken.push(at);
                page.text(at, SCALE, ink, &name);
            }
            let at = if long {
                let column = LETTER * SCALE + i / lines * entry;
                [column, top + height + (4 + i % lines) * LINE]
            } else {
                [left + inner + LETTER * SCALE, top + i * LINE]
            };
            page.text(at, SCALE, ink, &format!("{name:>2} {}", series.label));
        }
        page
    }
}

/// A place for a name that covers no other: down from where it is wanted, then up.
fn free_place([x, y]: [usize; 2], wide: usize, taken: &[[usize; 2]]) -> [usize; 2] {
    let high = LETTER * SCALE + 2;
    let free = |y: usize| {
        taken
            .iter()
            .all(|t| t[1].abs_diff(y) >= high || t[0].abs_diff(x) >= wide.max(2 * LETTER * SCALE))
    };
    let tries = (0..40).flat_map(|i| [y + i * high, y.saturating_sub(i * high)]);
    [x, tries.into_iter().find(|&y| free(y)).unwrap_or(y)]
}

/// A straight line, two pixels thick.
fn stroke(page: &mut Canvas, [x0, y0]: [usize; 2], [x1, y1]: [usize; 2], ink: Rgb) {
    let n = x0.abs_diff(x1).max(y0.abs_diff(y1)).max(1);
    let at = |a: usize, b: usize, i: usize| (a * (n - i) + b * i) / n;
    for i in 0..=n {
        page.fill([at(x0, x1, i), at(y0, y1, i)], [2, 2], ink);
    }
}

/// Pages one below the other.
#[must_use]
pub fn stacked(pages: &[Canvas]) -> Canvas {
    let width = pages.iter().map(|p| p.width).max().unwrap_or(0);
    let mut all = Canvas::new(width, pages.iter().map(|p| p.height).sum(), PAPER);
    let mut top = 0;
    for page in pages {
        for row in 0..page.height {
            let from = row * page.width * 3;
            let to = (top + row) * width * 3;
            all.pixels[to..to + page.width * 3]
                .copy_from_slice(&page.pixels[from..from + page.width * 3]);
        }
        top += page.height;
    }
    all
}
