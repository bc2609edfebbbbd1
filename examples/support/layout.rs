//! The folders that the official scorer reads: a folder a prompt, its record and its samples, and a grid for the eye.

use std::error::Error;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::png_file::{Picture, write_whole};

fn folder(home: &Path, prompt: usize) -> PathBuf {
    home.join(format!("{prompt:05}"))
}

fn sample(home: &Path, prompt: usize, image: u32) -> PathBuf {
    let name = format!("samples/{image:04}.png");
    folder(home, prompt).join(name)
}

/// Writes a prompt's record and one of its pictures.
pub fn write(
    home: &Path,
    [prompt, image]: [usize; 2],
    record: &str,
    picture: &Picture<'_>,
) -> Result<(), Box<dyn Error>> {
    let samples = folder(home, prompt).join("samples");
    fs::create_dir_all(&samples).map_err(|e| format!("cannot make {}: {e}", samples.display()))?;
    write_whole(
        &folder(home, prompt).join("metadata.jsonl"),
        record.as_bytes(),
    )?;
    write_whole(
        &sample(home, prompt, u32::try_from(image)?),
        &picture.png()?,
    )
}

/// Whether a prompt's grid is there.
pub fn has_grid(home: &Path, prompt: usize) -> bool {
    folder(home, prompt).join("grid.png").exists()
}

/// Puts a prompt's samples beside each other, as square as they go.
pub fn grid(home: &Path, prompt: usize, images: u32) -> Result<(), Box<dyn Error>> {
    let pictures = (0..images).map(|image| read(&sample(home, prompt, image)));
    let pictures: Vec<_> = pictures.collect::<Result<_, _>>()?;
    let cols = (1..=pictures.len())
        .find(|n| n * n >= pictures.len())
        .unwrap_or(1);
    let Some((width, height)) = pictures.first().map(|p| (p.0, p.1)) else {
        return Ok(());
    };
    let page = [cols * width, pictures.len().div_ceil(cols) * height];
    let mut pixels = vec![255; page[0] * page[1] * 3];
    for (i, (w, h, picture)) in pictures.iter().enumerate() {
        if [*w, *h] != [width, height] {
            return Err(format!("the samples of prompt {prompt} differ in size").into());
        }
        for (y, row) in picture.chunks_exact(width * 3).enumerate() {
            let at = ((i / cols * height + y) * page[0] + i % cols * width) * 3;
            pixels[at..at + row.len()].copy_from_slice(row);
        }
    }
    let page = Picture {
        width: page[0],
        height: page[1],
        pixels: &pixels,
    };
    write_whole(&folder(home, prompt).join("grid.png"), &page.png()?)
}

/// Width, height and RGB pixels of a sample.
fn read(path: &Path) -> Result<(usize, usize, Vec<u8>), Box<dyn Error>> {
    let told = |e: &dyn core::fmt::Display| format!("cannot read {}: {e}", path.display());
    let file = File::open(path).map_err(|e| told(&e))?;
    let mut png = png::Decoder::new(BufReader::new(file))
        .read_info()
        .map_err(|e| told(&e))?;
    let mut pixels = vec![0; png.output_buffer_size().ok_or_else(|| told(&"too large"))?];
    let info = png.next_frame(&mut pixels).map_err(|e| told(&e))?;
    if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(told(&"no RGB picture of 8 bits").into());
    }
    Ok((info.width as usize, info.height as usize, pixels))
}
