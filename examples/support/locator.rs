//! Which codes of a picture a correction keeps, by the labelling detector.

use std::sync::Arc;

use maquette::search::{Locator, Probe, Sight};
use maquette::{Error, ImageSize};

use crate::open::Res;
use crate::rules::{Detection, Request, Rules};
use crate::scorer::{self, Eye};
use crate::world::SIDE;

/// Support of codes that show nothing: less than that of an object, more than that of what is no object.
const PLAIN: f32 = 0.1;
/// Brightest minus darkest of a channel, up to which codes show nothing.
const FLAT: u8 = 40;

/// Keeps the objects that are as the prompt wants them, the surest first, then what shows nothing: objects that are not
/// wanted and what is no object at all are drawn anew. Its looks are not among a search's multiply-adds.
#[derive(Clone)]
pub struct Objects {
    eye: Arc<Eye>,
}

impl Objects {
    /// With the labelling detector.
    pub fn load() -> Res<Self> {
        let side = SIDE as u32;
        let eye = scorer::eye(ImageSize::new(side, side), &[])?;
        Ok(Self { eye: Arc::new(eye) })
    }
}

/// The detections that are as the request wants them.
fn wanted<'d, 's>(request: &Request, seen: &'d [Detection<'s>]) -> Vec<&'d Detection<'s>> {
    let rules = Rules::bundled();
    let mut right: Vec<&Detection<'_>> = Vec::new();
    for want in &request.include {
        let kept = rules.kept(request, &want.class, seen).into_iter();
        let colour = want.color.as_deref();
        let kept = kept.filter(|d| colour.is_none_or(|colour| d.color == colour));
        right.extend(kept.take(want.count));
    }
    // Where all is there and does not stand as it should, one of them has to move.
    let all: usize = request.include.iter().map(|want| want.count).sum();
    if right.len() == all && all > 1 && rules.decide(request, seen).is_err() {
        right.sort_by(|a, b| b.score.total_cmp(&a.score));
        right.pop();
    }
    right
}

impl Locator for Objects {
    fn locate(
        &mut self,
        sight: &Sight<'_>,
        _: &mut Probe<'_>,
        support: &mut [f32],
    ) -> maquette::Result<()> {
        let request = scorer::request(sight.ask.prompt.text())?;
        let pixels = sight.ask.pixels.and_then(|pixels| pixels.picture(0));
        let pixels = pixels.ok_or_else(|| Error::foreign("a picture that is not shown"))?;
        let seen = scorer::seen(&self.eye, pixels)?;
        let right = wanted(&request, &seen);
        let [rows, cols] = [sight.grid.rows, sight.grid.cols].map(|n| n as usize);
        let (height, width) = (SIDE / rows.max(1), SIDE / cols.max(1));
        for (place, support) in support.iter_mut().enumerate() {
            let (top, left) = (place / cols.max(1) * height, place % cols.max(1) * width);
            let inside = |d: &&&Detection<'_>| {
                let [x1, y1, x2, y2] = d.bbox;
                let (x, y) = ((left + width / 2) as f32, (top + height / 2) as f32);
                (x1..=x2).contains(&x) && (y1..=y2).contains(&y)
            };
            let lines = (top..top + height)
                .flat_map(|y| pixels.get((y * SIDE + left) * 3..(y * SIDE + left + width) * 3));
            let flat = (0..3).all(|channel| {
                let values = || {
                    lines
                        .clone()
                        .flat_map(|line| line.iter().skip(channel).step_by(3))
                };
                let (least, most) = (values().min(), values().max());
                most.zip(least)
                    .is_none_or(|(most, least)| most - least <= FLAT)
            });
            *support = match right
                .iter()
                .filter(inside)
                .map(|d| d.score)
                .reduce(f32::max)
            {
                Some(score) => score,
                None if flat => PLAIN,
                None => 0.0,
            };
        }
        Ok(())
    }
}
