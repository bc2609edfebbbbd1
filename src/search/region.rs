//! Where a picture is at fault: the contract of a locator, and one that covers the picture tile by tile.

use alloc::string::String;
use alloc::vec::Vec;

use super::views::reserved;
use crate::codes::CodeGrid;
use crate::error::{Error, Result, product};
use crate::generator::Needs;
use crate::image::{ImageBatch, ImageSize};
use crate::parts::{PromptParts, Whole, write};
use crate::prompt::Prompt;
use crate::reason::{Fault, faults};
use crate::reward::{Answer, Ask, Verdict};

/// A picture that is to be corrected.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Sight<'a> {
    /// The outcome question about it, its one view with what the locator needs to see.
    pub ask: Ask<'a>,
    /// Its codes' grid.
    pub grid: CodeGrid,
    /// What the judge says is wrong; empty from a judge without words.
    pub reason: &'a str,
}

impl<'a> Sight<'a> {
    /// A picture that the judge has no words for.
    #[must_use]
    pub const fn new(ask: Ask<'a>, grid: CodeGrid) -> Self {
        Self {
            ask,
            grid,
            reason: "",
        }
    }

    /// Adds what the judge says is wrong.
    #[must_use]
    pub const fn with_reason(mut self, reason: &'a str) -> Self {
        self.reason = reason;
        self
    }
}

/// Puts the outcome question about pictures made of the one that is to be corrected.
///
/// The first argument numbers them: the same number must be the same picture, so that a judge may go on from what it
/// computed for it when the next prompt comes. They are asked about in one batch, announced and counted like any question,
/// and their views are forgotten when the locator returns.
pub type Probe<'a> = dyn FnMut(u32, &Prompt<'_>, ImageBatch<'_>, &mut [Verdict]) -> Result<()> + 'a;

/// Finds out which codes of a picture help.
///
/// A trait and not an enum: a detector, a person who marks a region or a judge that points at it know best, and none of
/// them is the crate's. Any `FnMut(&Sight, &mut Probe, &mut [f32]) -> Result<()>` is one that sees pixels.
///
/// ```
/// use maquette::search::{Correction, Flow, Locator, Plain, Probe, Reflect, SearchStrategy, Sight};
/// use maquette::testing::{OracleReward, ScriptedGenerator};
/// use maquette::{Prompt, rng::Stream};
///
/// // Whoever is asked to correct a picture keeps its upper half.
/// fn lower_half(sight: &Sight<'_>, _: &mut Probe<'_>, support: &mut [f32]) -> maquette::Result<()> {
///     let half = sight.grid.len() / 2;
///     support.iter_mut().enumerate().for_each(|(place, support)| *support = f32::from(place < half));
///     Ok(())
/// }
///
/// let (mut generator, mut judge) = (ScriptedGenerator::new(4), OracleReward::new(1));
/// let mut search = Reflect::new(Plain, Correction::Region { from: 2 }).with_locator(lower_half).with_confidence(1.0);
/// let prompt = Prompt::new("a red car");
/// let found = search.search(&mut generator, &mut judge, &prompt, &mut Stream::new(1), &mut |_| Flow::Continue)?;
/// // One picture of four steps, three corrections of two; nothing was asked to find the region.
/// assert_eq!((found.cost.steps, found.cost.outcome), (4 + 3 * 2, 4));
/// # Ok::<(), maquette::Error>(())
/// ```
pub trait Locator {
    /// What it must see.
    fn needs(&self) -> Needs {
        Needs::PIXELS
    }

    /// Writes how much each code of the grid helps, row by row: those with the least are drawn anew, of equals any.
    ///
    /// # Errors
    /// What `probe` reports, a view that is not as it should be, or no memory.
    fn locate(
        &mut self,
        sight: &Sight<'_>,
        probe: &mut Probe<'_>,
        support: &mut [f32],
    ) -> Result<()>;
}

impl<F: FnMut(&Sight<'_>, &mut Probe<'_>, &mut [f32]) -> Result<()>> Locator for F {
    fn locate(
        &mut self,
        sight: &Sight<'_>,
        probe: &mut Probe<'_>,
        support: &mut [f32],
    ) -> Result<()> {
        self(sight, probe, support)
    }
}

/// Covers the picture tile by tile and asks a judge that can say no more than yes and no: what it likes less when a tile
/// is covered stood in that tile, and where nothing changes, or it likes the picture better, there is nothing to lose.
///
/// With the parts of prompts it asks about each part that the picture shows, since covering changes little where the
/// whole is far from right. An object whose colour or place is wrong, as the judge's reason says or the answers about
/// its parts, counts the other way round: where it stands is drawn anew. A part that is the whole prompt, a relation say,
/// is not asked about again: only a reason names it. A prompt without parts, or of which no part is there, is asked
/// about as a whole.
///
/// A tile takes the median colour of the picture, which in most is that of its background. All tiles are one question:
/// `side²` views for each part that counts, and one for each part before that.
///
/// # Errors
/// [`Error::Unsupported`] from the first question if the judge reads codes or hidden rows, which cannot be covered.
///
/// # Source
/// Our own use of occlusion maps: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (arXiv
/// 1311.2901), section 4.2, cover a picture with a grey square and watch the classifier; here the answer decides what a
/// masked generator draws again.
///
/// ```
/// use maquette::search::{Correction, Flow, Occlusion, Plain, Reflect, SearchStrategy};
/// use maquette::generator::Needs;
/// use maquette::testing::{ScriptedGenerator, ScriptedReward};
/// use maquette::{Prompt, rng::Stream};
///
/// let mut generator = ScriptedGenerator::new(4);
/// let mut reward = ScriptedReward::seeded(1).with_needs(Needs::PIXELS);
/// let mut search = Reflect::new(Plain, Correction::Region { from: 2 })
///     .with_locator(Occlusion::new().with_side(3))
///     .with_rounds(1)
///     .with_confidence(2.0);
/// let prompt = Prompt::new("a red car");
/// let found = search.search(&mut generator, &mut reward, &prompt, &mut Stream::new(1), &mut |_| Flow::Continue)?;
/// // The picture, nine covered ones, the correction.
/// assert_eq!((found.cost.steps, found.cost.outcome), (4 + 2, 1 + 9 + 1));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occlusion<P = Whole> {
    /// Tiles along each side, no more of them than codes.
    pub side: u32,
    /// Knows the parts of prompts.
    pub parts: P,
}

impl Occlusion {
    /// Four tiles along each side, prompts as wholes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            side: 4,
            parts: Whole,
        }
    }
}

impl Default for Occlusion {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> Occlusion<P> {
    /// So many tiles along each side.
    #[must_use]
    pub const fn with_side(mut self, side: u32) -> Self {
        self.side = side;
        self
    }

    /// Asks about parts of prompts.
    #[must_use]
    pub fn with_parts<Q: PromptParts>(self, parts: Q) -> Occlusion<Q> {
        Occlusion {
            side: self.side,
            parts,
        }
    }
}

/// A part of a prompt, what was said of the picture, and how it counts.
struct Asked {
    text: String,
    object: String,
    kind: Kind,
    before: Verdict,
    weight: f32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Whether the object is there.
    There,
    /// Whether it has its colour or its place.
    Trait,
    Else,
}

impl<P: PromptParts> Locator for Occlusion<P> {
    fn locate(
        &mut self,
        sight: &Sight<'_>,
        probe: &mut Probe<'_>,
        support: &mut [f32],
    ) -> Result<()> {
        let tiles = Tiles::new(sight.grid, self.side)?;
        let pixels = sight.ask.pixels.filter(|pixels| !pixels.is_empty());
        let Some((batch, picture)) = pixels.and_then(|all| Some((all, all.picture(0)?))) else {
            return Err(Error::Length {
                op: "locate",
                arg: "pixels",
                got: 0,
                want: 1,
            });
        };
        let size = batch.size();
        let whole = ImageBatch::new(1, size, picture)?;
        let mut asked = self.ask_about_parts(sight.ask.prompt.text(), &whole, probe)?;
        weigh(&mut asked, sight.reason);
        if asked.iter().all(|part| part.weight == 0.0) {
            asked.clear();
            asked
                .try_reserve(1)
                .map_err(|_| no_memory(size_of::<Asked>()))?;
            asked.push(Asked {
                text: owned(sight.ask.prompt.text())?,
                object: String::new(),
                kind: Kind::Else,
                // Every tile is measured from the same value, so that any will do.
                before: Verdict::new(0.5, 0.5),
                weight: 1.0,
            });
        }
        let covered = tiles.cover(size, picture)?;
        let covered = ImageBatch::new(tiles.len(), size, &covered)?;
        let (mut answers, mut worth) = (reserved(tiles.len())?, reserved(tiles.len())?);
        worth.resize(tiles.len(), 0.0_f32);
        for part in asked.iter().filter(|part| part.weight != 0.0) {
            answers.clear();
            answers.resize(tiles.len(), Verdict::malformed());
            probe(1, &Prompt::new(&part.text), covered, &mut answers)?;
            for (worth, answer) in worth.iter_mut().zip(&answers) {
                *worth += part.weight * (log_odds(&part.before) - log_odds(answer));
            }
        }
        for (place, support) in support.iter_mut().enumerate() {
            *support = worth.get(tiles.of(place)).copied().unwrap_or(0.0);
        }
        Ok(())
    }
}

impl<P: PromptParts> Occlusion<P> {
    /// Asks about each part whether the picture shows it.
    fn ask_about_parts(
        &mut self,
        prompt: &str,
        picture: &ImageBatch<'_>,
        probe: &mut Probe<'_>,
    ) -> Result<Vec<Asked>> {
        let mut asked = Vec::new();
        self.parts.each(prompt, &mut |part| {
            if part.text == prompt {
                return Ok(());
            }
            let mut before = [Verdict::malformed()];
            probe(0, &Prompt::new(part.text), *picture, &mut before)?;
            asked
                .try_reserve(1)
                .map_err(|_| no_memory(size_of::<Asked>()))?;
            let [before] = before;
            asked.push(Asked {
                text: owned(part.text)?,
                object: owned(part.fault.object().unwrap_or(""))?,
                kind: match part.fault {
                    Fault::Missing { .. } => Kind::There,
                    Fault::Colour { .. } | Fault::Position { .. } => Kind::Trait,
                    _ => Kind::Else,
                },
                before,
                weight: 0.0,
            });
            Ok(())
        })?;
        Ok(asked)
    }
}

/// What the picture shows is kept; where something is that has the wrong colour or place is not.
fn weigh(asked: &mut [Asked], reason: &str) {
    for i in 0..asked.len() {
        let Some(part) = asked.get(i) else { continue };
        let shown = part.before.answer == Answer::Yes;
        let same = |other: &Asked| !part.object.is_empty() && other.object == part.object;
        let fails = |other: &Asked| {
            same(other) && other.kind == Kind::Trait && other.before.answer != Answer::Yes
        };
        let told = |fault: Fault<'_>| {
            matches!(fault, Fault::Colour { .. } | Fault::Position { .. })
                && fault.object() == Some(part.object.as_str())
        };
        let wrong = asked.iter().any(fails) || faults(reason).any(told);
        let weight = match (shown, part.kind, wrong) {
            (true, Kind::There, true) => -1.0,
            (true, _, false) => 1.0,
            _ => 0.0,
        };
        if let Some(part) = asked.get_mut(i) {
            part.weight = weight;
        }
    }
}

fn no_memory(bytes: usize) -> Error {
    Error::OutOfMemory {
        what: "search",
        bytes,
    }
}

fn owned(text: &str) -> Result<String> {
    let mut copy = String::new();
    write(&mut copy, text)?;
    Ok(copy)
}

/// How much a judge believes, as far as four digits say.
fn log_odds(verdict: &Verdict) -> f32 {
    let p = super::run::confidence(verdict).clamp(1e-4, 1.0 - 1e-4);
    libm::logf(p / (1.0 - p))
}

/// A grid of codes in tiles.
#[derive(Clone, Copy)]
struct Tiles {
    grid: CodeGrid,
    rows: usize,
    cols: usize,
}

impl Tiles {
    fn new(grid: CodeGrid, side: u32) -> Result<Self> {
        if side == 0 {
            return Err(Error::Range {
                op: "locate",
                arg: "tiles along a side",
                got: 0,
                min: 1,
                max: u64::from(grid.rows.max(grid.cols)),
            });
        }
        let [rows, cols] = [grid.rows, grid.cols].map(|n| n.min(side) as usize);
        Ok(Self { grid, rows, cols })
    }

    const fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// The tile of a place in the grid.
    fn of(&self, place: usize) -> usize {
        let [rows, cols] = [self.grid.rows, self.grid.cols].map(|n| n.max(1) as usize);
        let (row, col) = (place / cols, place % cols);
        // The largest tile that begins at or before it, as `edge` has it.
        let tile = |at: usize, n: usize, of: usize| (at * n + n - 1) / of;
        tile(row, self.rows, rows) * self.cols + tile(col, self.cols, cols)
    }

    /// The first of `of` pixels that belongs to a tile: tiles begin where codes do.
    fn edge(tile: usize, tiles: usize, codes: usize, pixels: usize) -> usize {
        (tile * codes / tiles.max(1)) * pixels / codes.max(1)
    }

    /// The picture once for each tile, that tile covered.
    fn cover(&self, size: ImageSize, picture: &[u8]) -> Result<Vec<u8>> {
        let mut all = reserved(product("locate", &[self.len(), picture.len()])?)?;
        let colour = median(picture);
        let [height, width] = [size.height, size.width].map(|n| n as usize);
        let [rows, cols] = [self.grid.rows, self.grid.cols].map(|n| n as usize);
        for tile in 0..self.len() {
            let (r, c) = (tile / self.cols, tile % self.cols);
            let from = all.len();
            all.extend_from_slice(picture);
            let [top, bottom] = [r, r + 1].map(|r| Self::edge(r, self.rows, rows, height));
            let [left, right] = [c, c + 1].map(|c| Self::edge(c, self.cols, cols, width));
            let lines = all
                .get_mut(from..)
                .unwrap_or(&mut [])
                .chunks_exact_mut((width * 3).max(1));
            for line in lines.take(bottom).skip(top) {
                let part = line.get_mut(left * 3..right * 3).unwrap_or(&mut []);
                part.as_chunks_mut().0.fill(colour);
            }
        }
        Ok(all)
    }
}

/// The median of each channel; of two in the middle the lower.
fn median(picture: &[u8]) -> [u8; 3] {
    let pixels = picture.len() / 3;
    [0, 1, 2].map(|channel| {
        let mut counts = [0_usize; 256];
        for &value in picture.iter().skip(channel).step_by(3) {
            counts[usize::from(value)] += 1;
        }
        let mut below = 0;
        let half = pixels.div_ceil(2).max(1);
        let reached = (0..=u8::MAX).find(|&value| {
            below += counts[usize::from(value)];
            below >= half
        });
        reached.unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_code_and_every_pixel_once() {
        for (rows, cols, side) in [(4, 4, 4), (8, 8, 3), (5, 7, 4), (2, 9, 5), (1, 1, 4)] {
            let grid = CodeGrid::new(rows, cols, 16);
            let tiles = Tiles::new(grid, side).unwrap();
            let size = ImageSize::new(rows * 2, cols * 2);
            let picture: Vec<u8> = (0..=u8::MAX).cycle().take(size.len_bytes()).collect();
            let covered = tiles.cover(size, &picture).unwrap();
            let colour = median(&picture);
            for (pixel, place) in (0..size.len_bytes() / 3).map(|pixel| {
                let (y, x) = (pixel / size.width as usize, pixel % size.width as usize);
                (pixel, y / 2 * cols as usize + x / 2)
            }) {
                for tile in 0..tiles.len() {
                    let at = tile * picture.len() + pixel * 3;
                    let open = &picture[pixel * 3..pixel * 3 + 3];
                    let want = if tile == tiles.of(place) {
                        &colour
                    } else {
                        open
                    };
                    assert_eq!(
                        &covered[at..at + 3],
                        want,
                        "{rows}x{cols} in {side}: pixel {pixel}, tile {tile}"
                    );
                }
            }
        }
        assert!(matches!(
            Tiles::new(CodeGrid::new(4, 4, 16), 0),
            Err(Error::Range { got: 0, .. })
        ));
    }

    #[test]
    fn the_median_of_a_drawing_is_its_background() {
        let mut picture = alloc::vec![200_u8; 10 * 3];
        picture[..12].fill(3);
        assert_eq!(median(&picture), [200; 3]);
        assert_eq!(median(&[]), [0; 3]);
    }
}
