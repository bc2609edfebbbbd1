//! A page of RGB pixels: blocks, frames, crosses, pictures and text.

use std::error::Error;
use std::path::Path;

use font8x8::UnicodeFonts;

use crate::png_file::{Picture, write_whole};

/// Side of a letter in pixels.
pub const LETTER: usize = 8;
/// An RGB colour.
pub type Rgb = [u8; 3];

/// A page that is drawn on.
#[derive(Debug)]
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

impl Canvas {
    /// An empty page.
    pub fn new(width: usize, height: usize, paper: Rgb) -> Self {
        Self {
            width,
            height,
            pixels: paper.repeat(width * height),
        }
    }

    fn dot(&mut self, x: usize, y: usize, ink: Rgb) {
        if x < self.width && y < self.height {
            self.pixels[(y * self.width + x) * 3..][..3].copy_from_slice(&ink);
        }
    }

    /// A filled block.
    pub fn fill(&mut self, [x, y]: [usize; 2], [w, h]: [usize; 2], ink: Rgb) {
        for row in y..y + h {
            for col in x..x + w {
                self.dot(col, row, ink);
            }
        }
    }

    /// A frame of some thickness around a block.
    pub fn frame(&mut self, [x, y]: [usize; 2], [w, h]: [usize; 2], thick: usize, ink: Rgb) {
        let (x, y) = (x.saturating_sub(thick), y.saturating_sub(thick));
        let (w, h) = (w + 2 * thick, h + 2 * thick);
        self.fill([x, y], [w, thick], ink);
        self.fill([x, y + h - thick], [w, thick], ink);
        self.fill([x, y], [thick, h], ink);
        self.fill([x + w - thick, y], [thick, h], ink);
    }

    /// Both diagonals of a square.
    pub fn cross(&mut self, [x, y]: [usize; 2], side: usize, ink: Rgb) {
        for i in 0..side {
            for thick in 0..2 {
                self.dot(x + i, y + i + thick, ink);
                self.dot(x + side - 1 - i, y + i + thick, ink);
            }
        }
    }

    /// A square picture, brought to `side` pixels by its nearest ones; `dim` mixes it with the paper.
    pub fn picture(
        &mut self,
        [x, y]: [usize; 2],
        side: usize,
        picture: Picture<'_>,
        dim: Option<Rgb>,
    ) {
        for row in 0..side {
            for col in 0..side {
                let from = row * picture.height / side * picture.width + col * picture.width / side;
                let Some(ink) = picture.pixels.get(from * 3..from * 3 + 3) else {
                    continue;
                };
                let mixed = |i: usize| {
                    dim.map_or(ink[i], |paper| {
                        paper[i] - (paper[i] - ink[i].min(paper[i])) / 3
                    })
                };
                self.dot(x + col, y + row, [mixed(0), mixed(1), mixed(2)]);
            }
        }
    }

    /// One line of text, each letter `scale` times eight pixels wide.
    pub fn text(&mut self, [x, y]: [usize; 2], scale: usize, ink: Rgb, text: &str) {
        for (i, letter) in text.chars().enumerate() {
            let Some(rows) = font8x8::BASIC_FONTS.get(letter) else {
                continue;
            };
            for (r, bits) in rows.iter().enumerate() {
                for c in (0..LETTER).filter(|c| bits >> c & 1 == 1) {
                    self.fill(
                        [x + (i * LETTER + c) * scale, y + r * scale],
                        [scale; 2],
                        ink,
                    );
                }
            }
        }
    }

    /// Writes the page as a PNG file.
    pub fn save(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let page = Picture {
            width: self.width,
            height: self.height,
            pixels: &self.pixels,
        };
        write_whole(path, &page.png()?)
    }
}
